//! Opening what a recipe names: the teacher with its tokenizer, or a model from nothing.

use crate::error::TrainError;
use crate::objectives::Objective;
use crate::objectives::masked_diffusion::Source as Noisy;
use crate::recipe::{Embedded, Recipe, Scratch, ToDiffusion};
use burn::tensor::Device;
use recast_models::convert::{WithMaskRow, mask_row, student, student_config, trained_at};
use recast_models::source::{FromCheckpoint, FromParams, Missing, Source};
use recast_models::weights::{self, Checkpoint};
use recast_models::{Diffusion, Model, ModelConfig, families, tokenizer};
use recast_text::{Content, Corpus, CorpusOptions, Tokenizer};
use std::io::Write;
use std::path::Path;

/// A teacher: its files, its model, its tokenizer.
pub struct Teacher {
    /// The opened files.
    pub checkpoint: Box<dyn Checkpoint>,
    /// The model.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl Teacher {
    /// Opens a Hugging Face folder or a GGUF file.
    ///
    /// # Errors
    /// When model or tokenizer cannot be used, or do not belong together.
    pub fn open(path: &Path, device: &Device) -> Result<Self, TrainError> {
        let checkpoint = weights::open(path)?;
        let config = families::read(checkpoint.as_ref())?;
        let tokenizer = tokenizer(checkpoint.as_ref(), config.vocabulary)?;
        let model = Model::build(config, &FromCheckpoint(checkpoint.as_ref()), Missing::Refuse, device)?;
        Ok(Self { checkpoint, model, tokenizer })
    }

    /// The student of a recipe, started from this teacher.
    ///
    /// # Errors
    /// When the recipe's mixers do not fit.
    pub fn student(&self, recipe: &Recipe, device: &Device) -> Result<Model, TrainError> {
        let own = &self.model.config;
        // A student that differs by its objective alone keeps the teacher's mixers, windows and all.
        let mixers = match recipe.student.mixer.is_none() && recipe.student.mixers.is_empty() {
            true => own.mixers.clone(),
            false => recipe.mixers(&own.mixers)?,
        };
        let mut config = student_config(own, mixers, recipe.student.tied)?;
        let source = FromCheckpoint(self.checkpoint.as_ref());
        let build = |mut config: ModelConfig, source: &dyn Source| -> Result<Model, TrainError> {
            note_noise(&mut config, recipe);
            note_context(&mut config, recipe);
            Ok(student(config, source, recipe.seed, device)?)
        };
        let Some(wanted) = &recipe.student.diffusion else {
            return build(config, &source);
        };
        let used = self.tokenizer.vocab_size();
        let wanted = filled_in(wanted, own.diffusion.as_ref());
        check_mask(wanted.mask_token, own.diffusion.as_ref(), &self.tokenizer)?;
        let diffusion = to_diffusion(&mut config, &wanted, used)?;
        // It has learnt what its mask token means.
        if own.diffusion.as_ref().is_some_and(|known| known.mask_token == diffusion.mask_token) {
            return build(config, &source);
        }
        let source = WithMaskRow::new(&source, &config, used, &diffusion);
        build(config.clone(), &source)
    }
}

/// Writes down which noise the recipe trains on: that of its last stage of masked diffusion. Without such a stage the
/// teacher's stays.
fn note_noise(config: &mut ModelConfig, recipe: &Recipe) {
    let last = recipe.stages.iter().rfind(|stage| stage.objective == Objective::MaskedDiffusion);
    if let (Some(diffusion), Some(stage)) = (&mut config.diffusion, last) {
        diffusion.uniform = stage.diffusion.as_ref().is_some_and(|noise| noise.source == Noisy::Uniform);
    }
}

/// Writes down the longest context that the recipe trains at, where that is more than is said already. Rows of pairs are as
/// long as their texts, so that nothing is known of them here.
fn note_context(config: &mut ModelConfig, recipe: &Recipe) {
    if let Some(longest) = recipe.longest_context() {
        trained_at(config, longest);
    }
}

/// What is left out stays as a teacher that denoises has it.
fn filled_in(wanted: &ToDiffusion, known: Option<&Diffusion>) -> ToDiffusion {
    ToDiffusion {
        mask_token: wanted.mask_token.or(known.map(|known| known.mask_token)),
        block: wanted.block.or(known.and_then(|known| known.block)),
        shift: wanted.shift.or(known.map(|known| known.shift)),
    }
}

/// Refuses a mask token that stands for text: a prompt that holds it could not be told from what is hidden. One that a
/// teacher which denoises has already is what it has learnt, whatever it is.
fn check_mask(wanted: Option<u32>, known: Option<&Diffusion>, tokenizer: &Tokenizer) -> Result<(), TrainError> {
    let Some(id) = wanted.filter(|id| known.is_none_or(|known| known.mask_token != *id)) else { return Ok(()) };
    let Some(spelling) = tokenizer.id_to_token(id) else { return Ok(()) };
    let decoded = tokenizer.decode(&[id], false);
    // Not every added token is a special one: `<|fim_pad|>` of Qwen is none.
    let inside = |open, close| spelling.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    let is_name = |name: &str| {
        let name = name.to_lowercase();
        (name.len() > 2 && name.starts_with('|') && name.ends_with('|'))
            || ["mask", "unused", "reserved", "pad"].iter().any(|word| name.contains(word))
    };
    let named = decoded == spelling && inside('<', '>').or(inside('[', ']')).is_some_and(is_name);
    let mut ends = tokenizer.eos_ids().iter().copied().chain(tokenizer.bos()).chain(tokenizer.pad());
    if named || tokenizer.is_special(id) || ends.any(|end| end == id) {
        return Ok(());
    }
    // Half a character has no text of its own.
    let shown = if decoded.is_empty() || decoded.contains('\u{fffd}') { spelling } else { decoded };
    Err(TrainError::Recipe(format!(
        "student.diffusion.mask_token: expected an id that no text uses, found {id}, which is {shown:?} of the tokenizer; leave \
         it out for a row that the tokenizer does not use"
    )))
}

/// Makes a model's config that of a diffusion model, with a row for the mask token.
fn to_diffusion(config: &mut ModelConfig, wanted: &ToDiffusion, used: usize) -> Result<Diffusion, TrainError> {
    let (mask_token, rows) = mask_row(config.vocabulary, used, wanted.mask_token)?;
    let uniform = config.diffusion.as_ref().is_some_and(|known| known.uniform);
    let (block, shift) = (wanted.block.filter(|&block| block > 0), wanted.shift.unwrap_or(false));
    let diffusion = Diffusion { mask_token, block, shift, uniform };
    config.vocabulary = rows;
    config.raw.insert("vocab_size".into(), rows.into());
    if config.raw.contains_key("embedding_size") {
        config.raw.insert("embedding_size".into(), rows.into());
    }
    config.diffusion = Some(diffusion.clone());
    config.family = "recast".into();
    config.check()?;
    Ok(diffusion)
}

/// Text that a tokenizer is trained on.
const TOKENIZER_BYTES: usize = 20_000_000;

/// Refuses a key of `[scratch.config]` that nothing reads. This is for what begins: a run goes on with the keys that its
/// checkpoints were built on, whatever the version that began it made of them.
///
/// # Errors
/// With the key.
pub fn check_config(scratch: &Scratch) -> Result<(), TrainError> {
    families::unread(&scratch.config, "scratch.config").map_or(Ok(()), |what| Err(TrainError::Recipe(what)))
}

/// A model that starts from nothing, with its tokenizer.
///
/// # Errors
/// When the config is not complete, or the text cannot be read or is none.
pub fn from_scratch(
    scratch: &Scratch,
    recipe: &Recipe,
    embedded: &Embedded,
    device: &Device,
) -> Result<(Model, Tokenizer), TrainError> {
    let tokenizer = match (&scratch.tokenizer, scratch.vocabulary) {
        (Some(folder), _) => Tokenizer::from_dir(folder)?,
        (None, Some(size)) => {
            let end = "<|endoftext|>";
            // Cut at it as the text that is trained on: it is a token already, and its letters say nothing of the text.
            let options = CorpusOptions { split_text_at: Some(end.into()), ..recipe.text.corpus() };
            let documents = recast_text::open(&embedded.text(&recipe.text).0, options)?;
            let texts = beginning(documents, TOKENIZER_BYTES)?;
            if texts.iter().all(String::is_empty) {
                let what = "scratch.vocabulary: text.train has no text to make a vocabulary from";
                return Err(TrainError::Recipe(format!("{what}; name files of text, or scratch.tokenizer")));
            }
            let tokenizer = Tokenizer::train_bpe(texts.into_iter(), size, &[end])?;
            if tokenizer.vocab_size() < size {
                let made = tokenizer.vocab_size();
                let _ = writeln!(
                    std::io::stderr(),
                    "scratch.vocabulary = {size}: the text is too poor for it and made {made} tokens"
                );
            }
            let id = tokenizer.token_to_id(end);
            tokenizer.with_special_tokens(None, id.into_iter().collect())?
        }
        (None, None) => return Err(TrainError::Recipe("scratch: expected `vocabulary` or `tokenizer`".into())),
    };
    let mut config = scratch.config.clone();
    config.insert("vocab_size".into(), tokenizer.vocab_size().into());
    if let Some(&eos) = tokenizer.eos_ids().first() {
        config.insert("eos_token_id".into(), eos.into());
    }
    let mut config = families::parse(&serde_json::Value::Object(config))?;
    if recipe.student.mixer.is_some() || !recipe.student.mixers.is_empty() {
        config.mixers = recipe.mixers(&config.mixers)?;
        config.family = "recast".into();
    }
    if let Some(wanted) = &recipe.student.diffusion {
        check_mask(wanted.mask_token, None, &tokenizer)?;
        to_diffusion(&mut config, wanted, tokenizer.vocab_size())?;
    }
    note_noise(&mut config, recipe);
    note_context(&mut config, recipe);
    let model = Model::build(config, &FromParams::default(), Missing::Initialise { seed: recipe.seed }, device)?;
    Ok((model, tokenizer))
}

/// The texts at the beginning of a corpus, at most `most` bytes together, the last one cut to fit.
fn beginning(documents: Corpus, most: usize) -> Result<Vec<String>, TrainError> {
    let (mut texts, mut left) = (Vec::new(), most);
    for document in documents {
        if let Content::Text(mut text) = document?.content {
            let end = text.floor_char_boundary(left);
            let cut = end < text.len();
            text.truncate(end);
            texts.push(text);
            left -= end;
            if cut {
                break;
            }
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::load_text;
    use recast_text::BinidxWriter;
    use std::path::PathBuf;

    #[test]
    fn what_is_left_out_of_a_denoiser_stays_and_the_rest_is_as_asked() {
        let config = serde_json::json!({"model_type": "llama", "vocab_size": 9, "hidden_size": 8, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 2});
        let known = Diffusion { mask_token: 7, block: Some(4), shift: true, uniform: false };
        for (known, block, shift, wanted) in [
            (Some(&known), None, None, (7, Some(4), true)),
            (Some(&known), Some(0), None, (7, None, true)),
            (Some(&known), Some(2), Some(false), (7, Some(2), false)),
            (None, None, None, (8, None, false)),
            (None, Some(0), Some(true), (8, None, true)),
        ] {
            let mut config = families::parse(&config).expect("config");
            let asked = filled_in(&ToDiffusion { mask_token: None, block, shift }, known);
            let found = to_diffusion(&mut config, &asked, 8).expect("a diffusion model");
            assert_eq!((found.mask_token, found.block, found.shift), wanted);
        }
    }

    #[test]
    fn a_mask_token_that_stands_for_text_is_refused() {
        let tokenizer = Tokenizer::from_dir(&tiny()).expect("a tokenizer");
        let known = Diffusion { mask_token: 14, block: None, shift: false, uniform: false };
        let refused = |id, known| match check_mask(id, known, &tokenizer) {
            Err(TrainError::Recipe(message)) => Some(message),
            other => other.map(|()| None).expect("a recipe's error"),
        };
        let stop = refused(Some(14), None).expect("refused");
        let words = "student.diffusion.mask_token: expected an id that no text uses, found 14, which is \".\" of the tokenizer";
        assert!(stop.starts_with(words) && stop.contains("leave it out"), "{stop}");
        // Another one than it knows.
        assert!(refused(Some(15), Some(&known)).is_some());
        // Half a character, by its spelling.
        assert!(refused(Some(95), None).is_some_and(|message| message.contains("which is \"\u{a1}\" of")));
        // Its own, one that is special, a row behind the tokenizer's, and none.
        for (id, known) in [(Some(14), Some(&known)), (Some(0), None), (Some(2048), None), (None, None)] {
            assert_eq!(refused(id, known), None, "{id:?}");
        }
    }

    /// The model inside the program, whose config says 1024 tokens.
    fn tiny() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny/model")
    }

    #[test]
    fn a_student_says_the_longest_context_that_it_is_trained_at() {
        let recipe = r#"
            name = "t"
            teacher.path = "embedded"
            student.mixer = "rwkv7"
            text.train = ["embedded"]
            [[stages]]
            name = "align"
            objective = "output-alignment"
            tokens = 1000
            context = 64
            batch = 2
            learning_rate = 1e-3
            [[stages]]
            name = "extend"
            objective = "next-token"
            tokens = 9000
            context = 4096
            batch = 1
            learning_rate = 1e-3
        "#;
        let device = Device::flex();
        let teacher = Teacher::open(&tiny(), &device).expect("the teacher");
        let pairs = "student.diffusion={} stages.extend.objective=masked-diffusion stages.extend.pairs=a.jsonl";
        for (sets, longest) in [("", 4096), ("stages.extend.context=256", 512), (pairs, 512)] {
            let sets: Vec<String> = sets.split_whitespace().map(String::from).collect();
            let recipe = load_text(recipe, &sets).expect("loads");
            let config = teacher.student(&recipe, &device).expect("a student").config;
            let written = &config.raw["max_position_embeddings"];
            assert_eq!((config.max_positions, written), (longest, &serde_json::json!(longest)), "{sets:?}");
        }
    }

    #[test]
    fn a_config_from_nothing_says_what_it_is_trained_at_and_nothing_that_is_not_read() {
        let recipe = r#"
            name = "t"
            scratch.tokenizer = "tiny"
            scratch.config = { model_type = "llama", architectures = ["LlamaForCausalLM"], hidden_size = 8, intermediate_size = 8, num_hidden_layers = 1, num_attention_heads = 2, max_position_embeddings = 16 }
            text.train = ["t.txt"]
            [[stages]]
            name = "pretrain"
            objective = "next-token"
            tokens = 1000
            context = 24
            batch = 3
            learning_rate = 1e-3
        "#;
        let opened = |sets: &[String]| {
            let recipe = load_text(recipe, sets).expect("loads");
            let mut scratch = recipe.scratch.clone().expect("from nothing");
            scratch.tokenizer = Some(tiny());
            (scratch, recipe)
        };
        let made = |(scratch, recipe): &(Scratch, Recipe)| {
            let model = from_scratch(scratch, recipe, &Embedded::default(), &Device::flex()).expect("a model").0;
            (model.config.max_positions, model.config.raw["max_position_embeddings"].clone())
        };
        let known = opened(&[]);
        check_config(&known.0).expect("all of it is read");
        assert_eq!(made(&known), (24, serde_json::json!(24)));
        let unknown = opened(&["scratch.config.num_hiden_layers=2".into()]);
        assert_eq!(made(&unknown), made(&known), "a run that has begun goes on with it");
        let refused = check_config(&unknown.0).expect_err("refused");
        assert!(matches!(refused, TrainError::Recipe(_)), "asked wrongly");
        let message = refused.to_string();
        assert!(
            message.contains("unknown key `scratch.config.num_hiden_layers`; did you mean `num_hidden_layers`?"),
            "{message}"
        );
    }

    #[test]
    fn a_vocabulary_is_made_from_the_beginning_of_a_large_document() {
        let folder = tempfile::tempdir().expect("folder");
        let files = [("a.txt", "ab\u{e9}cd"), ("b.txt", "later"), ("c.txt", "never")].map(|(name, text)| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("text");
            path
        });
        let read = |most| {
            let documents = recast_text::open(&files, CorpusOptions::default()).expect("opens");
            beginning(documents, most).expect("reads")
        };
        assert_eq!(read(2), ["ab"]);
        // A character is not cut, and what is left is not filled from behind.
        assert_eq!(read(3), ["ab"]);
        assert_eq!(read(4), ["ab\u{e9}"]);
        assert_eq!(read(8), ["ab\u{e9}cd", "la"]);
        assert_eq!(read(100), ["ab\u{e9}cd", "later", "never"]);
    }

    #[test]
    fn the_end_of_text_is_no_part_of_the_vocabularys_text() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("t.txt");
        std::fs::write(&path, "lorem ipsum<|endoftext|>".repeat(40)).expect("text");
        let recipe = r#"
            name = "t"
            scratch.vocabulary = 300
            scratch.config = { model_type = "llama", hidden_size = 8, intermediate_size = 8, num_hidden_layers = 1, num_attention_heads = 2 }
            text.train = ["t.txt"]
            [[stages]]
            name = "pretrain"
            objective = "next-token"
            tokens = 1000
            context = 10
            batch = 3
            learning_rate = 1e-3
        "#;
        let mut recipe = load_text(recipe, &[]).expect("loads");
        recipe.text.train = vec![path];
        let scratch = recipe.scratch.clone().expect("from nothing");
        let (_, tokenizer) = from_scratch(&scratch, &recipe, &Embedded::default(), &Device::flex()).expect("a vocabulary");
        assert!(tokenizer.token_to_id("lorem").is_some() && tokenizer.token_to_id("<|endoftext|>").is_some());
        assert_eq!(tokenizer.token_to_id("endoftext"), None);
    }

    #[test]
    fn a_vocabulary_from_no_text_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("t.bin");
        let mut writer = BinidxWriter::create(&path, 300).expect("a pair");
        writer.push(&[5, 6]).expect("tokens");
        writer.finish().expect("a pair");
        let recipe = r#"
            name = "t"
            scratch.vocabulary = 300
            scratch.config = { model_type = "llama" }
            text.train = ["t.bin"]
            [[stages]]
            name = "pretrain"
            objective = "next-token"
            tokens = 1000
            context = 10
            batch = 3
            learning_rate = 1e-3
        "#;
        let mut recipe = load_text(recipe, &[]).expect("loads");
        recipe.text.train = vec![path];
        let scratch = recipe.scratch.clone().expect("from nothing");
        let refused = from_scratch(&scratch, &recipe, &Embedded::default(), &Device::flex()).err();
        let message = refused.expect("refused").to_string();
        assert!(
            message.contains("scratch.vocabulary") && message.contains("no text") && !message.contains("at most"),
            "{message}"
        );
    }
}

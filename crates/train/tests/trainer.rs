//! A run's folder: what a new run finds in it, and what one that goes on may find changed.

use burn::tensor::Device;
use recast_train::metrics;
use recast_train::objectives::masked_diffusion::{Noise, Source};
use recast_train::recipe::{self, Embedded};
use recast_train::{Event, Observer, Recipe, TrainError, Trainer};
use std::path::PathBuf;

/// A tiny model from nothing that learns to answer, and then to go on.
const RECIPE: &str = r#"
name = "small"
[scratch]
vocabulary = 270
[scratch.config]
model_type = "llama"
hidden_size = 8
intermediate_size = 8
num_hidden_layers = 1
num_attention_heads = 2
[text]
train = ["text.txt"]
[student.diffusion]
block = 4
shift = true
[validation]
tokens = 32
context = 16
samples = 2
[[stages]]
name = "answer"
objective = "masked-diffusion"
pairs = ["pairs.jsonl"]
tokens = 96
context = 16
batch = 2
learning_rate = 1e-3
[[stages]]
name = "read"
objective = "next-token"
tokens = 96
context = 16
batch = 2
learning_rate = 1e-3
"#;

const PAIRS: &str = "{\"prompt\": \"a cat\", \"response\": \" sat\"}\n{\"prompt\": \"ab\", \"response\": \"c\"}\n";

/// Stops after the first step of a stage, and keeps what it is told.
struct StopIn(&'static str, bool, String);

impl Observer for StopIn {
    fn event(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        if let Event::Step { stage, .. } = event {
            self.1 = stage.name == self.0;
        }
        Ok(())
    }

    fn tell(&mut self, line: &str) {
        self.2 += line;
    }

    fn stop(&self) -> bool {
        self.1
    }
}

fn stop_in(stage: &'static str) -> StopIn {
    StopIn(stage, false, String::new())
}

fn nobody() -> StopIn {
    stop_in("")
}

struct Run {
    place: tempfile::TempDir,
    recipe: Recipe,
}

impl Run {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("folder");
        std::fs::write(place.path().join("text.txt"), "the cat saw a bird by the river<|endoftext|>".repeat(60)).expect("text");
        std::fs::write(place.path().join("pairs.jsonl"), PAIRS).expect("pairs");
        let mut recipe = recipe::load_text(RECIPE, &[]).expect("a recipe");
        for path in recipe.text.train.iter_mut().chain(recipe.stages.iter_mut().flat_map(|stage| &mut stage.pairs)) {
            *path = place.path().join(&*path);
        }
        Self { place, recipe }
    }

    fn folder(&self) -> PathBuf {
        self.place.path().join("run")
    }

    fn create(&self) -> Result<Trainer, TrainError> {
        Trainer::create(self.recipe.clone(), &Embedded::default(), &self.folder(), &Device::flex(), &mut nobody())
    }

    fn resume(&self, changes: &[&str]) -> Result<Trainer, TrainError> {
        self.resume_told(changes, &mut nobody())
    }

    fn resume_told(&self, changes: &[&str], observer: &mut StopIn) -> Result<Trainer, TrainError> {
        let changes: Vec<String> = changes.iter().map(|change| change.to_string()).collect();
        Trainer::resume(&self.folder(), &changes, &Embedded::default(), &Device::flex(), observer)
    }

    /// Starts the run and stops it after the first step of a stage.
    fn stopped_in(&self, stage: &'static str) {
        let mut trainer = self.create().expect("begins");
        let stopped = trainer.run(&mut stop_in(stage));
        assert!(matches!(stopped, Err(TrainError::Stopped { step: 1, .. })), "{stopped:?}");
    }
}

fn refusal(trainer: Result<Trainer, TrainError>) -> String {
    trainer.err().expect("refused").to_string()
}

#[test]
fn a_new_run_does_not_begin_among_old_checkpoints() {
    let run = Run::new();
    let old = run.folder().join("checkpoints/02-00000000");
    std::fs::create_dir_all(&old).expect("folder");
    std::fs::write(old.join("state.json"), "{}").expect("state");
    let message = refusal(run.create());
    assert!(message.contains("02-00000000") && message.contains("--out"), "{message}");
    assert!(old.join("state.json").exists() && !run.folder().join("recipe.toml").exists());
    std::fs::remove_dir_all(run.folder().join("checkpoints")).expect("removes them");
    run.create().expect("begins");
}

#[test]
fn pairs_may_move_and_those_of_a_finished_stage_may_go() {
    let run = Run::new();
    run.stopped_in("answer");
    let (pairs, moved) = (run.place.path().join("pairs.jsonl"), run.place.path().join("moved.jsonl"));
    std::fs::rename(&pairs, &moved).expect("moves");
    let message = refusal(run.resume(&[]));
    assert!(message.contains("stage `answer`") && message.contains("pairs.jsonl"), "{message}");
    let change = format!("stages.answer.pairs={}", moved.display());
    std::fs::write(&moved, PAIRS.replace("sat", "ran")).expect("pairs");
    let message = refusal(run.resume(&[change.as_str()]));
    assert!(message.contains("its pairs were changed"), "{message}");
    std::fs::write(&moved, PAIRS).expect("pairs");
    let mut trainer = run.resume(&[change.as_str()]).expect("goes on");
    let stopped = trainer.run(&mut stop_in("read"));
    assert!(matches!(stopped, Err(TrainError::Stopped { step: 1, .. })), "{stopped:?}");
    drop(trainer);
    std::fs::remove_file(&moved).expect("removes them");
    let mut trainer = run.resume(&[]).expect("goes on without what is done");
    assert!(trainer.position.stage == 1 && !trainer.position.sources.pairs[0].is_empty());
    trainer.run(&mut nobody()).expect("ends");
    assert_eq!(trainer.position.stage, 2);
}

/// Rows of pairs are as long as the longest of them, however long the context is.
#[test]
fn tokens_of_pairs_are_those_that_are_read() {
    let run = Run::new();
    let mut trainer = run.create().expect("begins");
    let length = |text: &str| trainer.tokenizer.encode(text, false).expect("tokens").len();
    // Either row ends with the end-of-text.
    let longest = (length("a cat") + length(" sat")).max(length("ab") + length("c")) + 1;
    assert!(longest < 16);
    let stopped = trainer.run(&mut stop_in("answer"));
    assert!(matches!(stopped, Err(TrainError::Stopped { .. })), "{stopped:?}");
    assert_eq!(trainer.position.tokens, 2 * longest as u64);
    let line = metrics::read(&run.folder()).expect("metrics").pop().expect("a step");
    assert_eq!((line.step, line.tokens), (1, 2 * longest as u64));
}

/// The model says which noise it was trained on, and is measured by it.
#[test]
fn uniform_noise_is_written_down() {
    let mut run = Run::new();
    let noise = Noise { source: Source::Uniform, ..Noise::default() };
    run.recipe.stages[0].diffusion = Some(noise);
    let mut trainer = run.create().expect("begins");
    assert!(trainer.student.config.diffusion.as_ref().is_some_and(|diffusion| diffusion.uniform));
    trainer.run(&mut nobody()).expect("ends");
    assert!(trainer.position.held_out.iter().all(|(_, loss)| loss.bound.is_some_and(|bound| bound.uniform)));
    drop(trainer);
    std::fs::remove_dir_all(run.folder()).expect("removes it");
    // One kind of noise to a model.
    run.recipe.stages[1].objective = recast_train::objectives::Objective::MaskedDiffusion;
    let message = refusal(run.create());
    assert!(message.contains("stage `answer`") && message.contains("source is uniform"), "{message}");
}

#[test]
fn a_vocabulary_may_change_until_something_was_built_on_it() {
    let run = Run::new();
    let size = |trainer: Result<Trainer, TrainError>| trainer.expect("opens").tokenizer.vocab_size();
    assert_eq!(size(run.create()), 270);
    assert_eq!(size(run.resume(&["scratch.vocabulary=265"])), 265);
    let mut trainer = run.resume(&[]).expect("goes on");
    assert_eq!(trainer.tokenizer.vocab_size(), 265);
    let stopped = trainer.run(&mut stop_in("answer"));
    assert!(matches!(stopped, Err(TrainError::Stopped { .. })), "{stopped:?}");
    drop(trainer);
    let message = refusal(run.resume(&["scratch.vocabulary=270"]));
    assert!(message.contains("--set changes what the checkpoint was built on: scratch.vocabulary was 265"), "{message}");
    assert!(message.contains("and would be 270") && !message.contains("recipe.toml"), "{message}");
    assert_eq!(size(run.resume(&[])), 265);
}

/// A version that had no use for a key may have begun a run with it, which cannot be taken out again.
#[test]
fn a_key_that_nothing_reads_is_refused_where_a_run_begins_and_not_where_it_goes_on() {
    let mut run = Run::new();
    let known = run.recipe.clone();
    run.recipe.scratch.as_mut().expect("from nothing").config.insert("wibble".into(), 1.into());
    let message = refusal(run.create());
    assert!(message.contains("unknown key `scratch.config.wibble`"), "{message}");
    assert!(!run.folder().exists(), "something was written");

    let unknown = std::mem::replace(&mut run.recipe, known);
    let mut trainer = run.create().expect("begins");
    // As if it had begun so.
    trainer.recipe.scratch = unknown.scratch;
    let written = trainer.recipe.to_toml().expect("TOML");
    std::fs::write(run.folder().join("recipe.toml"), written).expect("writes");
    let stopped = trainer.run(&mut stop_in("answer"));
    assert!(matches!(stopped, Err(TrainError::Stopped { step: 1, .. })), "{stopped:?}");
    drop(trainer);
    run.resume(&[]).expect("goes on").run(&mut nobody()).expect("ends");
}

#[test]
fn what_is_held_out_is_written_down() {
    let run = Run::new();
    let trainer = run.create().expect("begins");
    let tokens = trainer.recipe.text.held_out_tokens.expect("resolved");
    assert!((10..200).contains(&tokens), "{tokens}");
    let written = recipe::load(&run.folder().join("recipe.toml"), &[]).expect("reads back");
    assert_eq!(written.text.held_out_tokens, Some(tokens));
    assert_eq!(written.hash(), trainer.recipe.hash());
}

#[test]
fn a_text_that_another_program_would_divide_otherwise_is_told() {
    let run = Run::new();
    run.stopped_in("answer");
    let state = run.folder().join("checkpoints/00-00000001/state.json");
    let change = |key: &str, value: serde_json::Value| {
        let bytes = std::fs::read(&state).expect("state");
        let mut position: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        position["sources"][key] = value;
        std::fs::write(&state, position.to_string()).expect("state");
    };
    change("text", "another".into());
    assert!(refusal(run.resume(&[])).contains("the text was changed since"));
    change("layout", 0.into());
    assert!(refusal(run.resume(&[])).contains("another version of the program"));
    change("text", "".into());
    assert!(run.resume(&[]).is_ok(), "a checkpoint that knows of no text is gone on with, and it is said");
}

#[test]
fn what_was_changed_in_the_file_is_not_blamed_on_the_command() {
    let run = Run::new();
    run.stopped_in("answer");
    let path = run.folder().join("recipe.toml");
    let text = std::fs::read_to_string(&path).expect("a recipe");
    std::fs::write(&path, text.replace("seed = 1337", "seed = 7")).expect("writes");
    for changes in [&[][..], &["stages.answer.clip=0.5"]] {
        let message = refusal(run.resume(changes));
        assert!(message.contains("recipe.toml: differs") && !message.contains("--set"), "{message}");
    }
}

/// A model, a teacher, a folder in the place of a file: nothing of it is lost, and it is told before the first step.
#[test]
fn what_is_not_of_the_run_is_not_replaced() {
    let mut run = Run::new();
    let model = run.folder().join("model");
    std::fs::create_dir_all(&model).expect("folder");
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/train/teacher");
    let put = |name: &str| std::fs::copy(golden.join(name), model.join(name)).expect("copies");
    put("config.json");
    let message = refusal(run.create());
    assert!(message.contains("model: is there already") && message.contains("--out"), "{message}");
    assert!(model.join("config.json").exists() && !run.folder().join(".lock").exists());

    let scratch = run.recipe.scratch.take();
    run.recipe.teacher = Some(recipe::Teacher { path: run.folder().join("teacher") });
    std::fs::rename(&model, run.folder().join("teacher")).expect("moves");
    let message = refusal(run.create());
    assert!(message.contains("teacher.path is inside"), "{message}");
    (run.recipe.teacher, run.recipe.scratch) = (None, scratch);
    std::fs::remove_dir_all(run.folder().join("teacher")).expect("removes it");

    let report = run.folder().join("report.html");
    std::fs::create_dir(&report).expect("folder");
    let message = refusal(run.create());
    assert!(message.contains("report.html: a file is to be written there") && message.contains("--out"), "{message}");
    std::fs::remove_dir(&report).expect("removes it");

    // An empty folder is nothing to lose; what is put there later is.
    std::fs::create_dir(&model).expect("folder");
    run.stopped_in("answer");
    put("config.json");
    let message = refusal(run.resume(&[]));
    assert!(message.contains("this run did not write it") && message.contains("--resume"), "{message}");
    let own = |stages: &str| std::fs::write(model.join("config.json"), format!("{{\"recast\": {{\"stages\": {stages}}}}}"));
    own("[\"align\"]").expect("writes");
    assert!(refusal(run.resume(&[])).contains("this run did not write it"));
    own("[\"answer\", \"read\"]").expect("writes");
    let mut trainer = run.resume(&[]).expect("its own");
    std::fs::write(model.join("notes.txt"), "precious").expect("writes");
    let message = trainer.run(&mut nobody()).expect_err("refused").to_string();
    assert!(message.contains("\"notes.txt\"") && message.contains("--resume"), "{message}");
    assert_eq!(trainer.position.stage, 2, "every step is done and saved");
    drop(trainer);
    assert!(refusal(run.resume(&[])).contains("\"notes.txt\""));
    std::fs::remove_file(model.join("notes.txt")).expect("removes it");
    run.resume(&[]).expect("goes on").run(&mut nobody()).expect("ends");
}

#[test]
fn a_damaged_checkpoint_is_told_and_the_one_before_it_offered() {
    let run = Run::new();
    run.stopped_in("answer");
    let mut trainer = run.resume(&[]).expect("goes on");
    let stopped = trainer.run(&mut stop_in("read"));
    assert!(matches!(stopped, Err(TrainError::Stopped { .. })), "{stopped:?}");
    drop(trainer);
    let [before, newest] = ["01-00000000", "01-00000001"].map(|name| run.folder().join("checkpoints").join(name));
    let told = |words: &str| {
        let message = refusal(run.resume(&[]));
        let advice = format!("delete the folder {} to go on from {}", newest.display(), before.display());
        assert!(message.contains(words) && message.contains(&advice) && !message.contains("fetch"), "{words}: {message}");
    };
    for file in ["model.safetensors", "moments.safetensors"] {
        let path = newest.join(file);
        let whole = std::fs::read(&path).expect("tensors");
        let mut altered = whole.clone();
        let at = altered.len() - 100;
        altered[at] ^= 0x40;
        std::fs::write(&path, altered).expect("writes");
        told(&format!("{file}: other bytes than were written"));
        std::fs::write(&path, &whole[..whole.len() - 100]).expect("writes");
        told(&format!("{file}: other bytes than were written"));
        std::fs::remove_file(&path).expect("removes it");
        told(&format!("{file}: cannot be read"));
        std::fs::write(&path, whole).expect("writes");
    }
    // As earlier versions wrote it: without digests.
    let state = newest.join("state.json");
    let mut position: serde_json::Value = serde_json::from_slice(&std::fs::read(&state).expect("state")).expect("JSON");
    assert_eq!(position["digests"].as_object().map(serde_json::Map::len), Some(2));
    position["digests"] = serde_json::json!({});
    std::fs::write(&state, position.to_string()).expect("writes");
    run.resume(&[]).expect("older checkpoints are read");
    for file in ["model.safetensors", "moments.safetensors"] {
        let path = newest.join(file);
        let whole = std::fs::read(&path).expect("tensors");
        std::fs::write(&path, &whole[..whole.len() - 100]).expect("writes");
        told(&format!("{file}: truncated"));
        std::fs::write(&path, whole).expect("writes");
    }
    std::fs::remove_dir_all(&newest).expect("removes it");
    std::fs::remove_file(before.join("model.safetensors")).expect("removes it");
    let message = refusal(run.resume(&[]));
    assert!(message.contains("delete the folder") && message.contains("start over: there is none before it"), "{message}");
}

#[test]
fn a_run_goes_on_without_its_history_and_without_checkpoints_and_says_so() {
    let run = Run::new();
    run.stopped_in("read");
    let metrics_file = run.folder().join("metrics.jsonl");
    let told = |bytes: Option<&[u8]>| {
        match bytes {
            Some(bytes) => std::fs::write(&metrics_file, bytes).expect("writes"),
            None => std::fs::remove_file(&metrics_file).expect("removes it"),
        }
        let mut observer = stop_in("read");
        let ended = run.resume(&[]).expect("goes on").run(&mut observer);
        assert!(matches!(ended, Ok(()) | Err(TrainError::Stopped { .. })), "{ended:?}");
        observer.2
    };
    // Those of both stages so far, and the measurement between them.
    let whole = std::fs::read(&metrics_file).expect("metrics");
    let lines = whole.iter().filter(|&&byte| byte == b'\n').count();
    assert_eq!(lines, 5);
    let said = told(None);
    assert!(said.contains("metrics.jsonl: 5 of the 5 lines") && said.contains("curves lack those steps"), "{said}");
    assert!(told(Some(b"\xff\xfe\n")).contains("1 of the 1 lines"));

    std::fs::remove_dir_all(run.folder().join("checkpoints")).expect("removes them");
    let mut observer = nobody();
    let trainer = run.resume_told(&[], &mut observer).expect("starts over");
    assert_eq!((trainer.position.stage, trainer.position.step), (0, 0));
    assert!(observer.2.contains("no checkpoint to go on from: the run starts over"), "{}", observer.2);
}

#[test]
fn a_stage_that_diverges_is_told() {
    let mut run = Run::new();
    let mut observer = nobody();
    run.create().expect("begins").run(&mut observer).expect("ends");
    assert_eq!(observer.2, "");
    std::fs::remove_dir_all(run.folder()).expect("removes it");
    run.recipe.stages[1].learning_rate = 10.0;
    run.create().expect("begins").run(&mut observer).expect("ends");
    let said = observer.2;
    assert!(said.contains("stage `read` ends worse than it began") && said.contains("stages.read.learning_rate"), "{said}");
    let from = run.folder().join("checkpoints/01-00000000");
    assert!(from.exists() && said.contains(&format!("delete the checkpoints after {}", from.display())), "{said}");
}

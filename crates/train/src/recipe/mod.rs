//! Recipes: a teacher, a student, a list of stages, in TOML.
//!
//! `load.rs` reads a file with what it extends and what `--set` changes, `fit.rs` refuses unknown
//! keys with the nearest known one, `check.rs` what types cannot say, `written.rs` writes it down and says what a run has
//! built on of it; this file says what there is to set. `recast schema` prints the JSON Schema for editors.

mod check;
mod fit;
mod load;
mod patterns;
mod written;

pub use load::{load, load_text};
pub use patterns::Patterns;

use crate::error::TrainError;
use crate::objectives::Objective;
use crate::objectives::masked_diffusion::Noise;
use crate::schedule::Shape;
use recast_models::MixerSpec;
use recast_models::convert::TiedEmbeddings;
use recast_text::{CorpusOptions, Shuffle};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::PathBuf;

/// Path that stands for the model or the text inside the binary.
pub const EMBEDDED: &str = "embedded";

/// Where the model and the text inside the binary were written out to; recipes keep the name
/// [`EMBEDDED`], so that a run can be resumed from anywhere and its hash names no folder.
#[derive(Clone, Debug, Default)]
pub struct Embedded {
    /// Folder of the model.
    pub model: PathBuf,
    /// Training text.
    pub text: PathBuf,
    /// Held-out text.
    pub held_out: PathBuf,
}

impl Embedded {
    fn is(path: &std::path::Path) -> bool {
        path == std::path::Path::new(EMBEDDED)
    }

    /// The file that a recipe's teacher path means.
    pub fn teacher(&self, path: &std::path::Path) -> PathBuf {
        if Self::is(path) { self.model.clone() } else { path.to_owned() }
    }

    /// The recipe's training and held-out files.
    pub fn text(&self, text: &Text) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let replace = |paths: &[PathBuf], by: &PathBuf| -> Vec<PathBuf> {
            paths.iter().map(|p| if Self::is(p) { by.clone() } else { p.clone() }).collect()
        };
        let embedded = text.train.iter().any(|p| Self::is(p));
        let held_out = if embedded && text.held_out.is_empty() {
            vec![self.held_out.clone()]
        } else {
            replace(&text.held_out, &self.held_out)
        };
        (replace(&text.train, &self.text), held_out)
    }
}

/// Everything one run does.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run, and of its folder in `runs`: letters, digits, - and _ and ., and no . at the beginning.
    pub name: String,
    /// One sentence for the report.
    #[serde(default)]
    pub about: String,
    /// Decides initial values and the order of samples.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The model to learn from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<Teacher>,
    /// What it becomes.
    #[serde(default)]
    pub student: Student,
    /// A model that starts from nothing, instead of a teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<Scratch>,
    /// What is read.
    pub text: Text,
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// Held-out measurements.
    #[serde(default)]
    pub validation: Validation,
    /// When training state is saved.
    #[serde(default)]
    pub checkpoints: Checkpoints,
    /// The finished model.
    #[serde(default)]
    pub export: Export,
    /// Text written by each model for the report.
    #[serde(default)]
    pub samples: Samples,
    /// Speed of generation, for the report.
    #[serde(default)]
    pub speed: Speed,
}

fn default_seed() -> u64 {
    1337
}

/// The teacher.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Teacher {
    /// Hugging Face folder, GGUF file, or `embedded`.
    pub path: PathBuf,
}

/// The student.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Student {
    /// The mixer of every layer that is not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixer: Option<MixerSpec>,
    /// The mixer of each layer, instead of `mixer`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mixers: Vec<MixerSpec>,
    /// Layers that stay softmax, by index.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep_softmax: Vec<usize>,
    /// What happens to a tied head.
    pub tied: TiedEmbeddings,
    /// Makes it a masked diffusion model; an empty table: of the whole sequence, with a mask token of
    /// its own, or as the teacher is, if that is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diffusion: Option<ToDiffusion>,
}

/// How a student denoises.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ToDiffusion {
    /// Id of the mask token; default the first row of the vocabulary that the tokenizer does not use,
    /// or a new one. A row that the tokenizer does not use starts as the mean of those that it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_token: Option<u32>,
    /// Tokens that are denoised together, behind the clean ones before them; 0: the whole sequence, which sees itself.
    /// Default as the teacher has it, and the whole sequence where that does not denoise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<usize>,
    /// Let the logits at a position speak of the next one, as those of a next-token model do. A block's
    /// first token is then predicted by the last one before it. Default as a teacher that denoises has it, else false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift: Option<bool>,
}

/// A model without a teacher.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scratch {
    /// config.json of the model, as a table of keys that its family reads; `vocab_size` is taken from the tokenizer.
    pub config: Map<String, Value>,
    /// Size of a byte-level BPE vocabulary to train on the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<usize>,
    /// Folder with a tokenizer, instead of training one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
}

/// What is read.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Files or folders (.txt, .jsonl, each also .zst or .gz, binidx; .parquet where the program was
    /// built with that feature), or `embedded`.
    pub train: Vec<PathBuf>,
    /// Field of JSON lines, or column of Parquet, that holds the text; default `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Files to measure on; without them some documents of `train` are kept out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_out: Vec<PathBuf>,
    /// Tokens to keep out of `train` when there are no held-out files; default 50000, but no more than a tenth of
    /// them all. The `embedded` text brings held-out files of its own, with which this has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_tokens: Option<u64>,
    /// Reads no more than this many tokens of `train`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// Order of samples: `feistel`, `cubic` (RADLADS) or `none`.
    #[serde(default = "default_shuffle")]
    pub shuffle: String,
    /// Folder for tokenised text; default beside the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
}

fn default_shuffle() -> String {
    "feistel".into()
}

impl Text {
    /// Tokens that are kept out of the training text at most, where no held-out files are.
    pub fn kept_out(&self) -> Option<u64> {
        let apart = !self.held_out.is_empty() || self.train.iter().any(|path| Embedded::is(path));
        (!apart).then(|| self.held_out_tokens.unwrap_or(crate::text::HELD_OUT))
    }

    /// How its files are read.
    pub fn corpus(&self) -> CorpusOptions {
        let own = CorpusOptions::default();
        CorpusOptions { text_field: self.field.clone().unwrap_or(own.text_field), ..own }
    }

    /// The order of samples.
    ///
    /// # Errors
    /// When the name is unknown.
    pub fn shuffle(&self) -> Result<Shuffle, TrainError> {
        self.shuffle
            .parse()
            .map_err(|_| TrainError::Recipe(format!("text.shuffle is `{}`, expected feistel, cubic or none", self.shuffle)))
    }
}

/// One phase of training.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Its name in the run folder.
    pub name: String,
    /// What the loss asks.
    pub objective: Objective,
    /// Parameters that train: patterns, `*` matches anything, `!` excludes.
    #[serde(default = "everything")]
    pub train: Vec<String>,
    /// Tokens of training, which decide the number of steps: tokens over context times batch, rounded up. Rows of
    /// `pairs` are as long as the longest of their micro-batch, so that fewer are read.
    pub tokens: u64,
    /// Tokens a sample.
    pub context: usize,
    /// Samples a step.
    pub batch: usize,
    /// Samples at a time (gradients are summed); default all of the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Learning rate after warm-up.
    pub learning_rate: f64,
    /// Learning rate at the end; default the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_learning_rate: Option<f64>,
    /// How it gets there, where `final_learning_rate` is set.
    #[serde(default)]
    pub schedule: Shape,
    /// Steps of warm-up.
    #[serde(default)]
    pub warmup: u64,
    /// Share of the progress before the rate moves.
    #[serde(default)]
    pub wait: f64,
    /// Share of the progress after which it stands still.
    #[serde(default = "one")]
    pub end: f64,
    /// Parameters with rates of their own; the first match counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// AdamW's first decay.
    #[serde(default = "default_beta1")]
    pub beta1: f64,
    /// AdamW's second decay.
    #[serde(default = "default_beta2")]
    pub beta2: f64,
    /// AdamW's epsilon.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// Decoupled weight decay.
    #[serde(default)]
    pub weight_decay: f64,
    /// Largest global norm of the gradient; 0 does not clip.
    #[serde(default = "one")]
    pub clip: f64,
    /// Stop state, attention and loss at document boundaries.
    #[serde(default)]
    pub reset_documents: bool,
    /// Run each block again for its backward pass: memory for one block's graph instead of all of
    /// them, for one more forward pass.
    #[serde(default, skip_serializing_if = "is_false")]
    pub recompute: bool,
    /// Steps between measurements on held-out text; 0 measures at the end only.
    #[serde(default)]
    pub validate_every: u64,
    /// Fine-tuning of masked diffusion: files of JSON lines with `messages`, of which one answer at a time has the loss
    /// and what stands before it is never noised, or with a `prompt` and a `response`; instead of the recipe's text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<PathBuf>,
    /// The variant of masked diffusion, for that objective.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diffusion: Option<Noise>,
}

/// Parameters with learning rates of their own.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Which parameters.
    pub pattern: String,
    /// Learning rate after warm-up.
    pub learning_rate: f64,
    /// Learning rate at the end; default the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_learning_rate: Option<f64>,
    /// How it gets there, where `final_learning_rate` is set.
    #[serde(default)]
    pub schedule: Shape,
    /// Share of the progress before the rate moves.
    #[serde(default)]
    pub wait: f64,
    /// Share of the progress after which it stands still.
    #[serde(default = "one")]
    pub end: f64,
}

fn is_false(x: &bool) -> bool {
    !x
}
fn everything() -> Vec<String> {
    vec!["*".into()]
}
fn one() -> f64 {
    1.0
}
fn default_beta1() -> f64 {
    0.9
}
fn default_beta2() -> f64 {
    0.95
}
fn default_epsilon() -> f64 {
    1e-8
}

impl Stage {
    /// Steps, rounding up so that no fewer tokens are seen than asked, where rows are as long as the context.
    pub fn steps(&self) -> u64 {
        self.tokens.div_ceil((self.context * self.batch).max(1) as u64)
    }
}

/// Held-out measurements.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Validation {
    /// Tokens measured each time, in whole windows and at least a batch of four.
    pub tokens: u64,
    /// Tokens a window; no more than `tokens`. Where a stage reads longer ones, a finished student is measured in
    /// windows of the longest as well, by position.
    pub context: usize,
    /// Masks drawn for each window, for the bound of a diffusion model.
    #[serde(skip_serializing_if = "is_four")]
    pub samples: usize,
}

fn is_four(x: &usize) -> bool {
    *x == 4
}

impl Default for Validation {
    fn default() -> Self {
        Self { tokens: 20_000, context: 512, samples: 4 }
    }
}

/// When training state is saved.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoints {
    /// Seconds between checkpoints.
    pub every_seconds: u64,
    /// Steps between checkpoints, beside that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_steps: Option<u64>,
    /// How many are kept.
    pub keep: usize,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every_seconds: 300, every_steps: None, keep: 2 }
    }
}

/// The finished model.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Export {
    /// `f32` (default), `bf16` or `f16`: type of trained tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
}

/// Text written by each model for the report.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Samples {
    /// Beginnings to continue.
    pub prompts: Vec<String>,
    /// Tokens to write.
    pub tokens: usize,
}

impl Default for Samples {
    fn default() -> Self {
        Self { prompts: Vec::new(), tokens: 60 }
    }
}

/// Speed of generation, for the report.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Speed {
    /// Contexts (tokens, rising) at which teacher and student are timed; each is read first.
    pub contexts: Vec<usize>,
}

impl Recipe {
    /// Whether some stage trains the student to say the next token under a causal mask.
    pub fn says_next(&self) -> bool {
        let beside = |stage: &Stage| stage.diffusion.as_ref().is_some_and(|noise| noise.next_token > 0.0);
        self.stages.iter().any(|stage| stage.objective != Objective::MaskedDiffusion || beside(stage))
    }

    /// The longest context of the stages that read text. Rows of pairs are as long as what they hold, whatever their
    /// context.
    pub fn longest_context(&self) -> Option<usize> {
        self.stages.iter().filter(|stage| stage.pairs.is_empty()).map(|stage| stage.context).max()
    }

    /// Tokens of the windows that the finished student is measured in beside the shorter ones of `validation.context`:
    /// [`Recipe::longest_context`]. None where that is no longer.
    pub fn long_context(&self) -> Option<usize> {
        self.longest_context().filter(|&context| context > self.validation.context)
    }

    /// The mixer of every layer of a student whose teacher has these.
    ///
    /// # Errors
    /// When the lists do not fit the model, or a layer to be kept as softmax attention is none.
    pub fn mixers(&self, own: &[MixerSpec]) -> Result<Vec<MixerSpec>, TrainError> {
        let layers = own.len();
        let mut mixers = if self.student.mixers.is_empty() {
            let mixer = self.student.mixer.clone().unwrap_or_else(|| MixerSpec::new("softmax"));
            vec![mixer; layers]
        } else {
            self.student.mixers.clone()
        };
        if mixers.len() != layers {
            return Err(TrainError::Recipe(format!("student.mixers has {} entries, the teacher {layers} layers", mixers.len())));
        }
        for &l in &self.student.keep_softmax {
            match (mixers.get_mut(l), own.get(l)) {
                // As it is: with its window, and without positions where it has none.
                (Some(mixer), Some(kept)) if kept.kind == "softmax" => *mixer = kept.clone(),
                (Some(_), Some(kept)) => {
                    let kind = &kept.kind;
                    return Err(TrainError::Recipe(format!(
                        "student.keep_softmax names layer {l}, which is {kind} in the teacher"
                    )));
                }
                _ => return Err(TrainError::Recipe(format!("student.keep_softmax names layer {l} of {layers}"))),
            }
        }
        Ok(mixers)
    }

    /// JSON Schema of recipes.
    pub fn schema() -> Value {
        let mut schema = schemars::schema_for!(Recipe).to_value();
        // Taken out before the rest is read.
        schema["properties"]["extends"] = serde_json::json!({
            "type": ["string", "array"],
            "items": {"type": "string"},
            "description": "A recipe to start from, or several, by paths relative to this file: tables are merged key by key, \
                everything else, lists such as `stages` included, is replaced. All other paths are relative to where the \
                program is run.",
        });
        schema
    }
}

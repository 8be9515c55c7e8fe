//! What a report says, as data: this struct is `report.json`, and all that the page shows.
//!
//! Every list may be empty; the page then leaves its section out and says so at the end.

use serde::{Deserialize, Deserializer, Serialize};

use super::positions::PositionTable;
use crate::metrics::Estimate;
use crate::results::Comparison;

/// Version of the format; raised when a field changes its meaning.
pub const FORMAT: u32 = 1;

/// A conversion run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Title of the run.
    pub title: String,
    /// A sentence or two under it; may be empty.
    pub summary: String,
    /// Where the model comes from.
    pub provenance: Provenance,
    /// The stages, in order.
    pub plan: Vec<StagePlan>,
    /// What was logged in each stage.
    pub curves: Vec<StageCurves>,
    /// Held-out perplexity of the teacher and of the student from stage to stage.
    pub perplexity: PerplexityTable,
    /// What a student that denoises is judged by, which the page shows in place of perplexity.
    pub bound: BoundTable,
    /// Held-out loss of student and teacher by position in long windows.
    pub positions: PositionTable,
    /// Tasks, teacher and student on the same items.
    pub tasks: Vec<Comparison>,
    /// The same prompt continued by each model.
    pub samples: Vec<Sample>,
    /// Memory that one sequence carries, against its length.
    pub memory: Vec<MemoryCurve>,
    /// Speed of generation.
    pub speed: Vec<Speed>,
    /// Anything else a reader should know, one paragraph each.
    pub notes: Vec<String>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            format: FORMAT,
            title: String::new(),
            summary: String::new(),
            provenance: Provenance::default(),
            plan: Vec::new(),
            curves: Vec::new(),
            perplexity: PerplexityTable::default(),
            bound: BoundTable::default(),
            positions: PositionTable::default(),
            tasks: Vec::new(),
            samples: Vec::new(),
            memory: Vec::new(),
            speed: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// Whose number it is; decides how it is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The model converted from.
    Teacher,
    /// The model made.
    Student,
    /// Any other.
    #[default]
    Other,
}

/// A label and its value.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fact {
    /// Label.
    pub label: String,
    /// Value.
    pub value: String,
}

/// Where the model comes from. Empty fields are left out of the page.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// The teacher's name and where it was found.
    pub teacher: String,
    /// Hash of the teacher's weights.
    pub teacher_hash: String,
    /// What the student is.
    pub student: String,
    /// Name of the recipe.
    pub recipe: String,
    /// Hash of the resolved recipe.
    pub recipe_hash: String,
    /// The command line.
    pub command: String,
    /// Programs and their versions.
    pub versions: Vec<Fact>,
    /// Processor, memory, accelerator, threads.
    pub machine: String,
    /// When the run began.
    pub started: String,
    /// When it ended.
    pub finished: String,
    /// Anything else.
    pub more: Vec<Fact>,
}

/// One stage as planned.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StagePlan {
    /// Its name.
    pub name: String,
    /// Its objective.
    pub objective: String,
    /// Which parameters it trains, in words or patterns.
    pub trains: String,
    /// How many these are.
    pub trainable_parameters: u64,
    /// Parameters of the whole model.
    pub total_parameters: u64,
    /// Tokens read.
    pub tokens: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Tokens of a sequence.
    pub sequence_length: u64,
    /// Learning rate and schedule, in words ("1e-3 to 1e-5, cosine").
    pub learning_rate: String,
}

/// What was logged in one stage.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StageCurves {
    /// The stage's name.
    pub stage: String,
    /// What the loss is ("mean squared error of mixer outputs").
    pub quantity: String,
    /// Training loss.
    pub training: Vec<Point>,
    /// The same on held-out text.
    pub held_out: Vec<Point>,
    /// The training loss layer by layer.
    pub layers: Vec<LayerCurve>,
}

/// The loss of one layer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerCurve {
    /// Index of the layer.
    pub layer: usize,
    /// Its loss.
    pub points: Vec<Point>,
}

/// A value logged after so many tokens of its stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Tokens of the stage read so far.
    pub tokens: u64,
    /// The value; not finite is written as `null` and breaks the line.
    #[serde(deserialize_with = "null_is_nan")]
    pub value: f64,
}

/// Held-out perplexity.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PerplexityTable {
    /// Names of the texts, one a column.
    pub sets: Vec<String>,
    /// Teacher, student before, student after each stage.
    pub rows: Vec<PerplexityRow>,
    /// How it was measured (windows, subset).
    pub conditions: String,
}

/// One model, or one state of the student.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PerplexityRow {
    /// "teacher", "after align".
    pub label: String,
    /// Whose.
    pub role: Role,
    /// Tokens the student had read.
    pub tokens: Option<u64>,
    /// One for each set; absent where not measured.
    pub values: Vec<Option<Estimate>>,
    /// Whether they are of a diffusion bound, which is no perplexity of the next token and not compared with one.
    pub bound: bool,
}

/// Held-out text as a model that denoises is judged by it: by its own negative log-likelihood, or an upper bound of it.
/// Empty where the student does not denoise.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BoundTable {
    /// Teacher, student before, student after each stage.
    pub rows: Vec<BoundRow>,
    /// The student's, in nats a token, after so many tokens of the whole run.
    pub curve: Vec<Point>,
    /// Its next-token loss at the same places, in nats a token; empty where it says none.
    pub next_token: Vec<Point>,
    /// How it was measured (windows, masks).
    pub conditions: String,
}

/// One model, or one state of the student.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BoundRow {
    /// "teacher", "student, after denoise".
    pub label: String,
    /// Whose.
    pub role: Role,
    /// Tokens the student had read.
    pub tokens: Option<u64>,
    /// Nats a token, its standard error over masks; absent of a next-token model, which has none.
    pub nats: Option<Estimate>,
    /// What that is.
    pub kind: BoundKind,
    /// Nats a masked token where up to a quarter of its sequence or block was masked, a half, three quarters, all.
    pub by_share: [Option<f64>; 4],
    /// Loss of the next token under a causal mask, in nats a token, where the model says one.
    pub next_token: Option<Estimate>,
}

/// What a model that denoises is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoundKind {
    /// A bound over masks.
    #[default]
    Masked,
    /// The generalised KL divergence of uniform noise, a bound too.
    UniformNoise,
    /// The likelihood itself: blocks of one token.
    Exact,
}

/// One prompt continued by several models.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// What each model wrote.
    pub texts: Vec<SampleText>,
}

/// What one model wrote.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SampleText {
    /// The model.
    pub model: String,
    /// Whose.
    pub role: Role,
    /// Its text.
    pub text: String,
}

/// Bytes that one sequence carries from token to token.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryCurve {
    /// "KV cache, f16", "state, f32".
    pub label: String,
    /// Whose.
    pub role: Role,
    /// (context tokens, bytes).
    pub points: Vec<(u64, u64)>,
}

/// Speed of generation.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Speed {
    /// The model.
    pub label: String,
    /// Whose.
    pub role: Role,
    /// Tokens already in the context.
    pub context: u64,
    /// Tokens written a second.
    #[serde(deserialize_with = "null_is_nan")]
    pub tokens_per_second: f64,
}

/// JSON has no NaN: it is written as `null`.
pub(crate) fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

//! Runs that stop in every stage and go on end with the bits of undisturbed ones, whatever the recipe sets. (Kills at any
//! moment: `tests/resume.rs` at the root.)

use burn::tensor::Device;
use recast_ops::linear::{Precision, set_precision};
use recast_train::recipe::{self, Embedded};
use recast_train::{Event, Observer, TrainError, Trainer, metrics};
use std::path::Path;

/// What every recipe begins with.
const HEAD: &str = r#"
name = "resumed"
[text]
train = ["text.txt"]
[validation]
tokens = 32
context = 16
samples = 2
"#;

const SCRATCH: &str = r#"
[scratch]
vocabulary = 270
[scratch.config]
model_type = "llama"
hidden_size = 16
intermediate_size = 16
num_hidden_layers = 2
num_attention_heads = 2
"#;

const TEACHER: &str = "[teacher]\npath = \"embedded\"\n";

/// Pairs, then text: noise by step, a block size that grows, a next-token loss beside it, rows cut at random.
const DENOISE: &str = r#"
[student.diffusion]
block = 4
shift = true
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
objective = "masked-diffusion"
tokens = 128
context = 16
batch = 2
micro_batch = 1
learning_rate = 1e-3
final_learning_rate = 1e-4
[stages.diffusion]
blocks = [1, 4]
next_token = 0.5
random_length = 0.5
"#;

/// A row for the mask token behind those of the teacher.
const MASK_ROW: &str = r#"
[student.diffusion]
[[stages]]
name = "denoise"
objective = "masked-diffusion"
tokens = 96
context = 16
batch = 2
learning_rate = 1e-3
"#;

/// Rates of their own, weight decay, and blocks that run again.
const GROUPS: &str = r#"
[[stages]]
name = "read"
objective = "next-token"
tokens = 128
context = 16
batch = 2
learning_rate = 1e-3
warmup = 2
weight_decay = 0.1
recompute = true
[[stages.groups]]
pattern = ".self_attn."
learning_rate = 1e-2
final_learning_rate = 1e-3
wait = 0.25
"#;

/// A head that trains beside the embedding, in the stage that is interrupted too.
const UNTIED: &str = r#"
[student]
mixer = "rwkv6"
keep_softmax = [1]
tied = "TIED"
[[stages]]
name = "align"
objective = "output-alignment"
train = ["self_attn"]
tokens = 64
context = 16
batch = 2
learning_rate = 1e-3
[[stages]]
name = "distil"
objective = "logit-kl"
tokens = 96
context = 16
batch = 2
learning_rate = 1e-3
recompute = true
"#;

/// Stops, if it is to, after the first step of every stage.
struct Watch {
    stops: bool,
    first: bool,
}

impl Observer for Watch {
    fn event(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        if let Event::Step { step, .. } = event {
            self.first = *step == 1;
        }
        Ok(())
    }

    fn stop(&self) -> bool {
        self.stops && self.first
    }
}

/// What a run ends with: its parameters, and its history but for the clock.
type Outcome = (Vec<(String, Vec<f32>)>, Vec<String>);

/// Runs a recipe to its end in a folder of this name, and says how often it was stopped.
fn run(place: &Path, text: &str, name: &str, stops: bool) -> (Outcome, usize) {
    let mut recipe = recipe::load_text(text, &[]).expect("a recipe");
    for path in recipe.text.train.iter_mut().chain(recipe.stages.iter_mut().flat_map(|stage| &mut stage.pairs)) {
        *path = place.join(&*path);
    }
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny/model");
    let embedded = Embedded { model, ..Default::default() };
    let folder = place.join(name);
    let mut watch = Watch { stops, first: false };
    let mut trainer = Trainer::create(recipe, &embedded, &folder, &Device::flex(), &mut watch).expect("begins");
    let mut stopped = 0;
    while let Err(error) = trainer.run(&mut watch) {
        assert!(matches!(error, TrainError::Stopped { step: 1, .. }), "{error}");
        stopped += 1;
        // A folder belongs to one at a time.
        drop(trainer);
        trainer = Trainer::resume(&folder, &[], &embedded, &Device::flex(), &mut watch).expect("goes on");
    }
    let params = trainer.student.parameters().into_iter().map(|(name, param)| (name, param.read())).collect();
    let history = metrics::read(&folder).expect("metrics").into_iter().map(|mut line| {
        line.tokens_per_second = None;
        serde_json::to_string(&line).expect("JSON")
    });
    ((params, history.collect()), stopped)
}

/// One test, because the precision is the process's.
#[test]
fn runs_that_stop_in_every_stage_end_with_the_same_bits() {
    let place = tempfile::tempdir().expect("folder");
    std::fs::write(place.path().join("text.txt"), "the cat saw a bird by the river<|endoftext|>".repeat(60)).expect("text");
    let pairs = "{\"prompt\": \"a cat\", \"response\": \" sat\"}\n{\"prompt\": \"ab\", \"response\": \"c\"}\n";
    std::fs::write(place.path().join("pairs.jsonl"), pairs).expect("pairs");
    let untied = |how: &str| UNTIED.replace("TIED", how);
    for (name, precision, recipe, stages) in [
        ("denoise", Precision::F32, [HEAD, SCRATCH, DENOISE].concat(), 2),
        ("mask-row", Precision::F32, [HEAD, TEACHER, MASK_ROW].concat(), 1),
        ("groups", Precision::F32, [HEAD, SCRATCH, GROUPS].concat(), 1),
        ("groups-bf16", Precision::Bf16, [HEAD, SCRATCH, GROUPS].concat(), 1),
        ("untie-keep", Precision::F32, [HEAD, TEACHER, untied("untie-keep").as_str()].concat(), 2),
        ("untie-discard", Precision::Bf16, [HEAD, TEACHER, untied("untie-discard").as_str()].concat(), 2),
    ] {
        set_precision(precision);
        let (whole, never) = run(place.path(), &recipe, name, false);
        let (parts, stopped) = run(place.path(), &recipe, &format!("{name}-stopped"), true);
        assert_eq!((never, stopped), (0, stages), "{name}: stops");
        assert_eq!(parts.1, whole.1, "{name}: metrics go on where they were");
        for ((param, found), (_, expected)) in parts.0.iter().zip(&whole.0) {
            assert!(found == expected, "{name}: {param} is not what it is without a stop");
        }
        assert_eq!(parts.0.len(), whole.0.len(), "{name}: parameters");
        let head = whole.0.iter().any(|(name, _)| name == "lm_head.weight");
        assert!(!name.starts_with("untie") || head == (name == "untie-keep"), "{name}: the head");
    }
}

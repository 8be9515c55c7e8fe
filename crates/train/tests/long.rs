//! The measurement in long windows that ends a run: there where a stage reads longer ones than the run is judged in, the
//! same however often the run was stopped, and absent otherwise.

use burn::tensor::Device;
use recast_train::metrics::{self, Line};
use recast_train::recipe::{self, Embedded, Validation};
use recast_train::text::RunText;
use recast_train::validate::{HeldOut, Positions};
use recast_train::{Event, Observer, TrainError, Trainer};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// A student that is judged in windows of 16 tokens, and reads 80 at a time in the end.
const RECIPE: &str = r#"
name = "long"
teacher.path = "embedded"
student.mixer = "rwkv6"
[text]
train = ["text.txt"]
held_out_tokens = 500
[validation]
tokens = 320
context = 16
[[stages]]
name = "distil"
objective = "logit-kl"
tokens = 64
context = 16
batch = 2
learning_rate = 1e-3
[[stages]]
name = "extend"
objective = "next-token"
tokens = 160
context = 80
batch = 1
learning_rate = 1e-3
"#;

/// A model from nothing that fills in masked tokens, and says no next one.
const DENOISE: &str = r#"
name = "denoise"
[scratch]
vocabulary = 270
[scratch.config]
model_type = "llama"
hidden_size = 8
intermediate_size = 8
num_hidden_layers = 1
num_attention_heads = 2
[student.diffusion]
[text]
train = ["text.txt"]
held_out_tokens = 500
[validation]
tokens = 160
context = 16
samples = 2
[[stages]]
name = "denoise"
objective = "masked-diffusion"
tokens = 160
context = 80
batch = 1
learning_rate = 1e-3
"#;

/// Keeps what it is told, counts measurements, and stops, if it is to, after the first step of every stage.
#[derive(Default)]
struct Watch {
    stops: bool,
    first: bool,
    measured: usize,
    said: String,
}

impl Observer for Watch {
    fn event(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::Step { step, .. } => self.first = *step == 1,
            Event::Measuring(_) => self.measured += 1,
            _ => {}
        }
        Ok(())
    }

    fn tell(&mut self, line: &str) {
        self.said += line;
    }

    fn stop(&self) -> bool {
        self.stops && self.first
    }
}

fn embedded() -> Embedded {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny/model");
    Embedded { model, ..Default::default() }
}

struct Run {
    place: tempfile::TempDir,
}

impl Run {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("folder");
        let text = "the cat saw a bird by the river and went home<|endoftext|>".repeat(600);
        std::fs::write(place.path().join("text.txt"), text).expect("text");
        Self { place }
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn resume(&self, name: &str, watch: &mut Watch) -> Trainer {
        Trainer::resume(&self.folder(name), &[], &embedded(), &Device::flex(), watch).expect("goes on")
    }

    /// Runs a recipe to its end in a folder of this name, however often it is stopped.
    fn end(&self, text: &str, changes: &[&str], name: &str, watch: &mut Watch) -> Trainer {
        let changes: Vec<String> = changes.iter().map(|change| change.to_string()).collect();
        let mut recipe = recipe::load_text(text, &changes).expect("a recipe");
        recipe.text.train = vec![self.place.path().join("text.txt")];
        let mut trainer = Trainer::create(recipe, &embedded(), &self.folder(name), &Device::flex(), watch).expect("begins");
        while let Err(error) = trainer.run(watch) {
            assert!(matches!(error, TrainError::Stopped { step: 1, .. }), "{error}");
            // A folder belongs to one at a time.
            drop(trainer);
            trainer = self.resume(name, watch);
        }
        trainer
    }

    /// The history of a run but for the clock.
    fn history(&self, name: &str) -> Vec<Line> {
        let lines = metrics::read(&self.folder(name)).expect("metrics").into_iter();
        lines.map(|line| Line { tokens_per_second: None, ..line }).collect()
    }
}

fn json(lines: &[Line]) -> Vec<String> {
    lines.iter().map(|line| serde_json::to_string(line).expect("JSON")).collect()
}

#[test]
fn the_longest_stage_is_measured_as_it_reads() {
    let run = Run::new();
    for (name, reset) in [("packed", false), ("apart", true)] {
        let reset_key = format!("stages.extend.reset_documents={reset}");
        let trainer = run.end(RECIPE, &[reset_key.as_str()], name, &mut Watch::default());
        let long = trainer.long.as_ref().unwrap_or_else(|| panic!("{name}: none"));
        // A batch of four windows: those that a validation in such windows would read.
        let cache = run.folder(".text");
        let text = RunText::open(&trainer.recipe, &embedded(), &trainer.tokenizer, &cache, &mut |_| ControlFlow::Continue(()));
        let options = Validation { context: 80, ..trainer.recipe.validation.clone() };
        let plain = HeldOut::new(&text.expect("text").held_out, &options, true, reset).expect("windows");
        let teacher = &trainer.teacher.as_ref().expect("a teacher").model;
        let [student, teacher] =
            [(&trainer.student, true), (teacher, false)].map(|(model, trained)| plain.loss(model, None, trained).expect("loss"));
        let close = |found: f64, wanted: f64| (found - wanted).abs() < 1e-4 * wanted;
        assert_eq!((long.context, long.tokens, long.reset), (80, student.tokens, reset), "{name}");
        assert!(close(long.student, student.loss), "{name}: {long:?} against {student:?}");
        assert!(long.teacher.is_some_and(|found| close(found, teacher.loss)), "{name}: {long:?} against {teacher:?}");
        let sum = |of: &dyn Fn(&Positions) -> f64| long.by_position.iter().map(|at| of(at) * at.tokens as f64).sum::<f64>();
        let tokens = long.tokens as f64;
        assert!(close(sum(&|at: &Positions| at.student) / tokens, long.student), "{name}: {long:?}");
        let by_teacher = sum(&|at: &Positions| at.teacher.unwrap_or(f64::NAN)) / tokens;
        assert!(long.teacher.is_some_and(|found| close(by_teacher, found)), "{name}: {long:?}");
        // Its documents are shorter than 64 tokens.
        let groups: Vec<(usize, usize)> = long.by_position.iter().map(|at| (at.first, at.last)).collect();
        assert_eq!(groups, if reset { vec![(0, 63)] } else { vec![(0, 63), (64, 79)] }, "{name}");
    }
}

#[test]
fn it_is_the_same_however_often_a_run_goes_on_and_is_not_measured_again() {
    let run = Run::new();
    let whole = run.end(RECIPE, &[], "whole", &mut Watch::default()).long;
    let history = run.history("whole");
    assert!(whole.is_some() && history.iter().filter(|line| line.held_out_long.is_some()).count() == 1);
    assert_eq!(history.last().and_then(|line| line.held_out_long.clone()), whole);
    let stopped = run.end(RECIPE, &[], "stopped", &mut Watch { stops: true, ..Watch::default() }).long;
    assert_eq!((stopped, json(&run.history("stopped"))), (whole.clone(), json(&history)));

    // Of a run that has ended it is known; killed before it was written, the run measures it again.
    let metrics_file = run.folder("whole").join(metrics::FILE);
    let lines = std::fs::read_to_string(&metrics_file).expect("metrics");
    let before = lines.trim_end().rsplit_once('\n').expect("lines").0;
    for (text, measured) in [(lines.clone(), 0), (format!("{before}\n"), 1)] {
        std::fs::write(&metrics_file, text).expect("writes");
        let mut watch = Watch::default();
        let mut trainer = run.resume("whole", &mut watch);
        trainer.run(&mut watch).expect("ends");
        assert_eq!((trainer.long, watch.measured), (whole.clone(), measured));
        assert_eq!(json(&run.history("whole")), json(&history));
    }
}

#[test]
fn it_is_absent_where_nothing_is_longer_or_fits_or_says_a_next_token() {
    let run = Run::new();
    let few = "nothing is measured in windows of 80 tokens";
    for (name, recipe, changes, said) in [
        ("short", RECIPE, &["stages.extend.context=16"][..], ""),
        ("judged", RECIPE, &["validation.context=80"], ""),
        ("few", RECIPE, &["validation.tokens=79"], few),
        ("denoise", DENOISE, &[], ""),
    ] {
        let mut watch = Watch::default();
        let trainer = run.end(recipe, changes, name, &mut watch);
        assert_eq!((&trainer.long, watch.said.contains(said), watch.said.is_empty()), (&None, true, said.is_empty()), "{name}");
        // The last token of a text is no input.
        let counted = format!("the {} held-out tokens that another one follows and the 79 of", trainer.text_tokens()[1] - 1);
        assert_eq!(watch.said.contains(&counted), said == few, "{name}: {}", watch.said);
        assert!(run.history(name).iter().all(|line| line.held_out_long.is_none()), "{name}");
    }
}

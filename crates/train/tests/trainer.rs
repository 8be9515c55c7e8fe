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

/// Stops after the first step of a stage.
struct StopIn(&'static str, bool);

impl Observer for StopIn {
    fn event(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        if let Event::Step { stage, .. } = event {
            self.1 = stage.name == self.0;
        }
        Ok(())
    }

    fn stop(&self) -> bool {
        self.1
    }
}

fn nobody() -> StopIn {
    StopIn("", false)
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
        let changes: Vec<String> = changes.iter().map(|change| change.to_string()).collect();
        Trainer::resume(&self.folder(), &changes, &Embedded::default(), &Device::flex(), &mut nobody())
    }

    /// Starts the run and stops it after the first step of a stage.
    fn stopped_in(&self, stage: &'static str) {
        let mut trainer = self.create().expect("begins");
        let stopped = trainer.run(&mut StopIn(stage, false));
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
    let stopped = trainer.run(&mut StopIn("read", false));
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
    let stopped = trainer.run(&mut StopIn("answer", false));
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
    let stopped = trainer.run(&mut StopIn("answer", false));
    assert!(matches!(stopped, Err(TrainError::Stopped { .. })), "{stopped:?}");
    drop(trainer);
    let message = refusal(run.resume(&["scratch.vocabulary=270"]));
    assert!(message.contains("built on"), "{message}");
    assert_eq!(size(run.resume(&[])), 265);
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

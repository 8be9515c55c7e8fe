//! The screen of a run: bars on a terminal, plain lines elsewhere.

use super::samples::{self, Written};
use super::summary::label;
use crate::Global;
use indicatif::{ProgressBar, ProgressStyle};
use recast_train::trainer::{BEFORE, TEACHER};
use recast_train::{Event, Observer, TrainError, Trainer};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Set by SIGINT and SIGTERM: finish the step, save, stop.
static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    // A second signal ends the program at once.
    if STOP.swap(true, Ordering::Relaxed) {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(130) }
    }
}

/// Seconds between plain lines.
const LINE_SECONDS: u64 = 10;

/// Watches a run.
pub struct Screen {
    folder: PathBuf,
    bars: bool,
    bar: Option<ProgressBar>,
    line_at: Instant,
    stage_at: Instant,
    stage_tokens: u64,
    prompts: Vec<String>,
    sample_tokens: usize,
    tokenizer: Option<recast_text::Tokenizer>,
    /// Variants of the stages' objectives, by the stage's name.
    variants: Vec<(String, String)>,
    /// Texts written by each snapshot.
    pub samples: Vec<Written>,
}

impl Screen {
    /// For a run in `folder`.
    pub fn new(folder: &Path, global: &Global) -> Self {
        // SAFETY: the handler only touches an atomic and _exit.
        unsafe {
            libc::signal(libc::SIGINT, on_signal as *const () as libc::sighandler_t);
            libc::signal(libc::SIGTERM, on_signal as *const () as libc::sighandler_t);
        }
        Self {
            folder: folder.to_owned(),
            bars: !global.no_progress && std::io::stderr().is_terminal(),
            bar: None,
            line_at: Instant::now(),
            stage_at: Instant::now(),
            stage_tokens: 0,
            prompts: Vec::new(),
            sample_tokens: 0,
            tokenizer: None,
            variants: Vec::new(),
            samples: samples::read(folder),
        }
    }

    /// Shows the plan.
    pub fn begin(&mut self, trainer: &Trainer) {
        self.prompts = trainer.recipe.samples.prompts.clone();
        self.sample_tokens = trainer.recipe.samples.tokens;
        self.tokenizer = Some(trainer.tokenizer.clone());
        let stages = trainer.plan.stages.iter();
        self.variants = stages.filter_map(|s| Some((s.name.clone(), s.variant.clone()?))).collect();
        eprintln!("{}", crate::commands::plan::table(&trainer.recipe, &trainer.plan));
        if trainer.position.stage > 0 || trainer.position.step > 0 {
            let name = trainer.recipe.stages.get(trainer.position.stage).map_or("the end", |s| &s.name);
            eprintln!("going on at stage {name}, step {}\n", trainer.position.step);
        }
    }

    /// Ends the bar.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

impl Observer for Screen {
    fn event(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::Reading(progress) => {
                self.say(&format!("reading text: {} documents, {} tokens", progress.documents, progress.tokens));
            }
            Event::StageStarted { stage, trainable, done, .. } => {
                self.finish();
                self.stage_at = Instant::now();
                self.line_at = Instant::now();
                self.stage_tokens = 0;
                if let Some((name, variant)) = self.variants.iter().find(|(name, _)| *name == stage.name) {
                    self.say(&format!("{name}: {variant}"));
                }
                if self.bars {
                    let bar = ProgressBar::new(stage.steps() * (stage.batch * stage.context) as u64);
                    let style = "{prefix:>7} {wide_bar} {percent:>3}%  {msg}  {eta} left";
                    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
                    bar.set_prefix(stage.name.clone());
                    bar.set_position(done * (stage.batch * stage.context) as u64);
                    bar.reset_eta();
                    self.bar = Some(bar);
                } else {
                    self.say(&format!("{}: {} steps, {trainable} parameters train", stage.name, stage.steps()));
                }
            }
            Event::Step { stage, step, loss, rate, tokens } => {
                self.stage_tokens += tokens;
                let speed = self.stage_tokens as f64 / self.stage_at.elapsed().as_secs_f64();
                let left = ((stage.steps() - step) * tokens) as f64 / speed;
                if let Some(bar) = &self.bar {
                    bar.set_position(step * tokens);
                    bar.set_message(format!("loss {loss:.4}  {speed:.0} tokens/s"));
                } else if self.line_at.elapsed().as_secs() >= LINE_SECONDS {
                    self.line_at = Instant::now();
                    self.say(&format!(
                        "{}: step {step}/{}  loss {loss:.4}  lr {rate:.1e}  {speed:.0} tokens/s  {} left",
                        stage.name,
                        stage.steps(),
                        duration(left)
                    ));
                }
            }
            Event::Measuring(name) => match &self.bar {
                Some(bar) => bar.set_message("measuring on held-out text"),
                None if self.bars => {
                    let bar = ProgressBar::new_spinner();
                    bar.set_message(format!("measuring on held-out text: {}", label(name)));
                    bar.enable_steady_tick(Duration::from_millis(100));
                    self.bar = Some(bar);
                }
                None => {}
            },
            Event::HeldOut { stage, step, loss } => {
                let kl = loss.kl.map_or_else(String::new, |kl| format!(", KL from the teacher {kl:.4}"));
                let bound = loss.bound_text();
                self.say(&format!("{}: step {step}: held-out perplexity {:.3}{kl}{bound}", stage.name, loss.perplexity()));
            }
            Event::Snapshot { name, model, loss } => {
                if matches!(*name, TEACHER | BEFORE) {
                    self.finish();
                    let who = if *name == TEACHER { "teacher" } else { "student before training" };
                    self.say(&format!("{who}: held-out perplexity {:.3}{}", loss.perplexity(), loss.bound_text()));
                }
                if let Some(tokenizer) = &self.tokenizer {
                    let written = samples::write(name, model, tokenizer, &self.prompts, self.sample_tokens)?;
                    self.samples.retain(|w| w.name != written.name);
                    self.samples.push(written);
                    samples::store(&self.folder, &self.samples)?;
                }
            }
            Event::Saved(_) => {}
        }
        Ok(())
    }

    fn stop(&self) -> bool {
        STOP.load(Ordering::Relaxed)
    }
}

/// `1:02:03` or `2:03`.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    if s >= 3600 { format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60) } else { format!("{}:{:02}", s / 60, s % 60) }
}

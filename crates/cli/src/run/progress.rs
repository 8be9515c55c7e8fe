//! The screen of a run: bars on a terminal, plain lines elsewhere.

use super::samples::{self, Written};
use super::summary::held_out::{many, measured};
use super::summary::label;
use crate::Global;
use crate::output::{redraws, tell};
use indicatif::{ProgressBar, ProgressStyle};
use recast_train::trainer::{BEFORE, TEACHER};
use recast_train::{Event, Observer, TrainError, Trainer};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// The signal that asked the run to stop, 0 where none did: finish the step, save, stop.
static STOP: AtomicI32 = AtomicI32::new(0);

/// The [`Phase`] under way.
static PHASE: AtomicU8 = AtomicU8::new(Phase::Opening as u8);

/// Whether a bar may stand on the line where a signal's words begin.
static BARS: AtomicBool = AtomicBool::new(false);

/// Seconds that a run which is being opened has to end by itself, and to clean up behind it.
#[cfg(unix)]
const GRACE_SECONDS: u32 = 2;

/// What a run is about when a signal comes: how much there is to lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// Its teacher and text are read: there is no run yet.
    Opening,
    /// It is begun, and no step is taken that is in no checkpoint.
    Safe,
    /// A step is computed.
    Stepping,
    /// Steps that are in no checkpoint yet wait for a measurement.
    Measuring,
    /// Every step is done.
    Trained,
}

impl Phase {
    fn now() -> Self {
        let at = PHASE.load(Ordering::Relaxed);
        let is = |phase: &Self| *phase as u8 == at;
        [Self::Opening, Self::Safe, Self::Stepping, Self::Measuring].into_iter().find(is).unwrap_or(Self::Trained)
    }

    fn begins(self) {
        PHASE.store(self as u8, Ordering::Relaxed);
    }

    /// What a first signal is answered with.
    fn words(self, bars: bool) -> &'static [u8] {
        let words: &[u8] = match self {
            Self::Opening => b"\nending before the run begins\n",
            Self::Safe => b"\nending at once: no step is lost; --resume goes on\n",
            Self::Stepping => b"\nstopping after this step; once more ends at once\n",
            Self::Measuring => {
                b"\nstopping when held-out text is measured and the step saved; once more ends at once, back to the last checkpoint\n"
            }
            Self::Trained => {
                b"\nevery step is done: the model and its report are being written, without timings; once more ends at once\n"
            }
        };
        if bars { words } else { &words[1..] }
    }
}

/// The exit code of a program that a signal ends, as shells have it.
fn code(signal: libc::c_int) -> libc::c_int {
    128 + signal
}

/// The exit code of a run that a signal ended before there was anything to go on with.
pub fn ended() -> u8 {
    code(STOP.load(Ordering::Relaxed)) as u8
}

extern "C" fn on_signal(signal: libc::c_int) {
    let phase = Phase::now();
    // A second signal ends the program at once.
    if STOP.swap(signal, Ordering::Relaxed) != 0 {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(code(signal)) }
    }
    let words = phase.words(BARS.load(Ordering::Relaxed));
    // SAFETY: write, alarm and _exit are async-signal-safe, and the bytes live as long as the program. Where nobody
    // reads them, writing fails, and nothing is lost.
    unsafe {
        libc::write(2, words.as_ptr().cast(), words.len() as _);
        match phase {
            // A reader ends when its few megabytes are tokenised; a model that is loaded, or a disk that hangs, does not.
            #[cfg(unix)]
            Phase::Opening => {
                libc::alarm(GRACE_SECONDS);
            }
            #[cfg(not(unix))]
            Phase::Opening => libc::_exit(code(signal)),
            Phase::Safe => libc::_exit(code(signal)),
            Phase::Stepping | Phase::Measuring | Phase::Trained => {}
        }
    }
}

/// Ends a run that is still being opened.
#[cfg(unix)]
extern "C" fn on_alarm(_: libc::c_int) {
    if Phase::now() == Phase::Opening {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(code(STOP.load(Ordering::Relaxed))) }
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
    /// When a line about the text that is read was said last.
    read_at: Option<Instant>,
    /// Whether the run can be gone on with.
    begun: bool,
    /// The stage under way and the steps done in it ...
    stage: String,
    step: u64,
    /// ... and whether some of them are in no checkpoint yet.
    unsaved: bool,
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
        let bars = !global.no_progress && redraws();
        BARS.store(bars, Ordering::Relaxed);
        // SAFETY: the handlers only touch atomics, write, alarm and _exit.
        unsafe {
            #[cfg(unix)]
            libc::signal(libc::SIGALRM, on_alarm as *const () as libc::sighandler_t);
            libc::signal(libc::SIGINT, on_signal as *const () as libc::sighandler_t);
            libc::signal(libc::SIGTERM, on_signal as *const () as libc::sighandler_t);
        }
        Self::with(folder, bars)
    }

    fn with(folder: &Path, bars: bool) -> Self {
        Self {
            folder: folder.to_owned(),
            bars,
            bar: None,
            line_at: Instant::now(),
            read_at: None,
            begun: false,
            stage: String::new(),
            step: 0,
            unsaved: false,
            stage_at: Instant::now(),
            stage_tokens: 0,
            prompts: Vec::new(),
            sample_tokens: 0,
            tokenizer: None,
            variants: Vec::new(),
            samples: samples::read(folder),
        }
    }

    /// Shows the plan, and how much text there is.
    pub fn begin(&mut self, trainer: &Trainer) {
        self.finish();
        self.begun = true;
        Phase::Safe.begins();
        let stage = trainer.recipe.stages.get(trainer.position.stage);
        self.stage = stage.map_or_else(|| "the end".into(), |stage| stage.name.clone());
        self.step = trainer.position.step;
        self.prompts = trainer.recipe.samples.prompts.clone();
        self.sample_tokens = trainer.recipe.samples.tokens;
        self.tokenizer = Some(trainer.tokenizer.clone());
        let stages = trainer.plan.stages.iter();
        self.variants = stages.filter_map(|s| Some((s.name.clone(), s.variant.clone()?))).collect();
        let [train, held_out] = trainer.text_tokens();
        tell(crate::commands::plan::table(&trainer.recipe, &trainer.plan));
        tell(format_args!("text: {train} tokens to train on, {held_out} held out"));
        tell(format_args!("run: {}", self.folder.display()));
        if trainer.position.stage > 0 || trainer.position.step > 0 {
            tell(going_on(stage.map(|stage| stage.name.as_str()), self.step));
        }
    }

    /// Ends the bar.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Told when the last stage is over: what is left can be cut short, not stopped and gone on with.
    pub fn trained(&mut self) {
        self.finish();
        BARS.store(false, Ordering::Relaxed);
        Phase::Trained.begins();
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tell(line)),
            None => tell(line),
        }
    }

    /// Ends a run that was asked to stop, where no step is lost by it. The trainer itself asks once a step, which
    /// leaves out what comes before the stages and between them; steps that are in no checkpoint yet are worth the
    /// measurement that the next one waits for.
    fn end_if_asked(&self) -> Result<(), TrainError> {
        if !self.stop() || self.unsaved {
            return Ok(());
        }
        let path = self.folder.clone();
        if !self.begun {
            let words = "ended before the first step; the same command starts again";
            return Err(TrainError::Io { path, source: std::io::Error::new(std::io::ErrorKind::Interrupted, words) });
        }
        Err(TrainError::Stopped { stage: self.stage.clone(), step: self.step, path })
    }

    fn spin(&mut self, words: String) {
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        bar.set_message(words);
    }
}

impl Observer for Screen {
    fn event(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::StageStarted { stage, done, .. } => {
                (self.stage, self.step) = (stage.name.clone(), *done);
                Phase::Stepping.begins();
            }
            Event::Step { step, .. } => (self.step, self.unsaved) = (*step, true),
            Event::Saved(_) => self.unsaved = false,
            Event::Measuring(_) if self.unsaved => Phase::Measuring.begins(),
            Event::Measuring(_) => Phase::Safe.begins(),
            Event::HeldOut { stage, step, .. } if *step < stage.steps() => Phase::Stepping.begins(),
            _ => {}
        }
        if !matches!(event, Event::Step { .. } | Event::HeldOut { .. }) {
            self.end_if_asked()?;
        }
        match event {
            Event::Reading(progress) => {
                let words = format!("reading text: {}, {}", many(progress.documents, "document"), many(progress.tokens, "token"));
                if self.bars {
                    self.spin(words);
                } else if self.read_at.is_none_or(|at| at.elapsed().as_secs() >= LINE_SECONDS) {
                    self.read_at = Some(Instant::now());
                    self.say(&words);
                }
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
                    self.say(&format!("{}: {}, {trainable} parameters train", stage.name, many(stage.steps(), "step")));
                }
            }
            Event::Step { stage, step, loss, rate, tokens } => {
                self.stage_tokens += tokens;
                let speed = self.stage_tokens as f64 / self.stage_at.elapsed().as_secs_f64();
                let left = ((stage.steps() - step) * tokens) as f64 / speed;
                if let Some(bar) = &self.bar {
                    bar.set_position(step * (stage.batch * stage.context) as u64);
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
                None if self.bars => self.spin(format!("measuring on held-out text: {}", label(name))),
                None => {}
            },
            Event::HeldOut { stage, step, loss } => {
                self.say(&format!("{}: step {step}: {}", stage.name, measured(loss)));
            }
            Event::Snapshot { name, model, loss } => {
                if matches!(*name, TEACHER | BEFORE) {
                    self.finish();
                    let who = if *name == TEACHER { "teacher" } else { "student before training" };
                    self.say(&format!("{who}: {}", measured(loss)));
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

    fn tell(&mut self, line: &str) {
        self.say(line);
    }

    fn stop(&self) -> bool {
        STOP.load(Ordering::Relaxed) != 0
    }
}

/// Where a run goes on: at a step of a stage, or behind the last one.
fn going_on(stage: Option<&str>, step: u64) -> String {
    match stage {
        Some(stage) => format!("going on at stage {stage}, step {step}"),
        None => "every stage is finished: what is left is to write the model and its report".into(),
    }
}

/// `1:02:03` or `2:03`.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    if s >= 3600 { format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60) } else { format!("{}:{:02}", s / 60, s % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_answered_by_what_it_does() {
        let said = |phase: Phase, bars| String::from_utf8(phase.words(bars).to_vec()).expect("UTF-8");
        for (phase, begins) in [
            (Phase::Opening, "ending before the run begins"),
            (Phase::Safe, "ending at once"),
            (Phase::Stepping, "stopping after this step"),
            (Phase::Measuring, "stopping when held-out text is measured"),
            (Phase::Trained, "every step is done"),
        ] {
            let plain = said(phase, false);
            assert!(plain.starts_with(begins), "{plain}");
            assert_eq!(said(phase, true), format!("\n{plain}"));
        }
    }

    #[test]
    fn a_run_behind_its_last_stage_is_told_to_be_finished() {
        assert_eq!(going_on(Some("align"), 3), "going on at stage align, step 3");
        assert!(going_on(None, 0).starts_with("every stage is finished"));
    }

    #[test]
    fn a_signal_ends_a_run_where_no_step_is_lost() {
        let stage = serde_json::json!({"name": "align", "objective": "next-token", "tokens": 64, "context": 8, "batch": 1,
            "learning_rate": 1e-3});
        let stage: recast_train::recipe::Stage = serde_json::from_value(stage).expect("a stage");
        let mut screen = Screen::with(Path::new("none"), false);
        let reading = recast_text::Progress { documents: 1, tokens: 2, text_bytes: 3 };
        screen.event(&Event::Reading(reading)).expect("nobody asked");
        STOP.store(libc::SIGTERM, Ordering::Relaxed);
        for event in [Event::Reading(reading), Event::Measuring(TEACHER)] {
            let error = screen.event(&event).expect_err("asked to stop").to_string();
            assert!(error.contains("before the first step") && !error.contains("--resume"), "{error}");
        }
        assert_eq!(ended(), 143);
        screen.begun = true;
        let started = Event::StageStarted { stage: &stage, index: 0, trainable: 1, done: 3 };
        let stopped = screen.event(&started);
        assert!(matches!(&stopped, Err(TrainError::Stopped { stage, step: 3, .. }) if stage == "align"), "{stopped:?}");
        STOP.store(0, Ordering::Relaxed);
        screen.event(&started).expect("tells it");
        STOP.store(libc::SIGINT, Ordering::Relaxed);
        screen.event(&Event::Step { stage: &stage, step: 4, loss: 1.0, rate: 0.1, tokens: 8 }).expect("tells it");
        assert_eq!(Phase::now(), Phase::Stepping);
        screen.event(&Event::Measuring("align")).expect("the step is in no checkpoint yet");
        assert_eq!(Phase::now(), Phase::Measuring);
        let saved = screen.event(&Event::Saved(Path::new("none")));
        assert!(matches!(&saved, Err(TrainError::Stopped { stage, step: 4, .. }) if stage == "align"), "{saved:?}");
        STOP.store(0, Ordering::Relaxed);
        screen.event(&Event::Saved(Path::new("none"))).expect("nobody asks any more");
        screen.event(&Event::Measuring("align")).expect("nobody asks any more");
        assert_eq!(Phase::now(), Phase::Safe);
    }
}

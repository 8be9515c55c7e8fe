//! `recast eval`: scores a model on tasks, beside its teacher if given.

use crate::Global;
use crate::diffusion_scorer::DiffusionScorer;
use crate::output::{tell, wrong};
use crate::scorer::{ModelScorer, card, weights_hash};
use burn::tensor::Device;
use indicatif::{ProgressBar, ProgressStyle};
use recast_eval::report;
use recast_eval::results::{GIVE_WAY, comparison_table, results_table};
use recast_eval::table::Table;
use recast_eval::tasks::Prompt;
use recast_eval::{
    Comparison, Cost, EvalError, Journal, LoadOptions, Loaded, Progress, RunOptions, Scorer, Task, TaskResult, check, estimate,
    run as run_task,
};
use recast_models::{ModelError, likelihood};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Requests handed over at once: enough for passes of like lengths ...
const BATCH: usize = 96;
/// ... but not many more tokens than this: progress is shown, and a kill loses work, by batches.
const BATCH_TOKENS: u64 = 8192;
/// Masks drawn for each text, where nothing is said.
const SAMPLES: usize = 128;
/// Time between two lines of progress where there is no terminal.
const QUIET: Duration = Duration::from_secs(15);

/// Arguments of `recast eval`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Hugging Face folder or GGUF file.
    model: PathBuf,
    /// Its teacher: scored on the same items and set beside it.
    #[arg(long, value_name = "TEACHER")]
    against: Option<PathBuf>,
    /// Tasks by name, or TOML files of your own.
    #[arg(long, required = true, value_delimiter = ',', value_name = "NAME,NAME,...")]
    tasks: Vec<String>,
    /// Folder with the tasks' data files.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Score only so many items of each task, drawn by the seed.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Solved examples in each prompt, in place of the task's own number.
    #[arg(long, value_name = "N")]
    shots: Option<usize>,
    /// Tokens of the windows that perplexity is measured in, in place of the task's own number; they
    /// overlap by half. For models that read less.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    context: Option<u64>,
    /// Seed of the subset.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Masks drawn for each text that a masked diffusion model scores [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=likelihood::SAMPLES as u64))]
    samples: Option<u64>,
    /// Answers are kept in this file, and taken from it when asked again: a killed evaluation goes
    /// on where it was.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Show the groups of a task (sources, subjects) too.
    #[arg(long)]
    groups: bool,
    /// Folder of the run that made the model: the comparison goes into its report.html too.
    #[arg(long, value_name = "RUN", requires = "against")]
    report: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    results: Vec<TaskResult>,
    teacher: Option<Vec<TaskResult>>,
    comparisons: Option<Vec<Comparison>>,
    seconds: f64,
}

/// Runs the verb.
///
/// # Errors
/// When a task, its data or a model cannot be used, or the journal cannot be written.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let options = LoadOptions {
        limit: args.limit.map(|n| n as usize),
        seed: args.seed,
        shots: args.shots,
        window: args.context.map(|context| (context as usize, (context as usize / 2).max(1))),
    };
    // Whatever is wrong with a task shows before a model is read.
    let tasks =
        args.tasks.iter().map(|name| Ok(task(name)?.load(&args.data, &options)?)).collect::<anyhow::Result<Vec<Loaded>>>()?;
    if let Some(run) = &args.report {
        report::read(&run.join("report.json"))?;
        crate::output::check_folder("--report", run)?;
        check_model(&args.model, run)?;
    }
    // And with a model, before the first is scored.
    let mut room = usize::MAX;
    for path in std::iter::once(&args.model).chain(&args.against) {
        let checkpoint = recast_models::weights::open(&crate::embedded::resolve(path)?)?;
        let config = recast_models::families::read(checkpoint.as_ref())?;
        let tokenizer = recast_models::tokenizer(checkpoint.as_ref(), config.vocabulary)?;
        let writes = |task: &Loaded| matches!(task.task.prompt, Prompt::Generate { .. });
        let scored: Vec<&str> = tasks.iter().filter(|task| !writes(task)).map(|task| task.task.name.as_str()).collect();
        if config.diffusion.as_ref().is_some_and(|diffusion| diffusion.uniform) && !scored.is_empty() {
            return Err(EvalError::Setting(format!(
                "{}, or leave out what scores texts ({}): tasks that write (those with generated answers) run",
                ModelError::UniformNoise.of(path),
                scored.join(", ")
            ))
            .into());
        }
        let card = card(&config, &tokenizer, &path.display().to_string());
        tasks.iter().try_for_each(|task| check(task, &card))?;
        // A prompt that is cut for one and whole for the other is not the same question: both have the room of the smaller
        // one, into which fits what fits into each.
        room = room.min(card.max_context);
    }
    let mut journal = args.journal.as_deref().map(Journal::open).transpose()?;
    let device = global.device()?;
    let started = Instant::now();
    let samples = args.samples.map(|n| n as usize);
    let mut score = |path: &Path| score(path, &tasks, room, samples, journal.as_mut(), global, &device);
    let results = score(&args.model)?;
    // Neither a teacher that fails nor a full disk nor a reader that has seen enough takes along what is there: written,
    // told, and only then failed.
    let mut ended: anyhow::Result<()> = Ok(());
    let mut teacher = None;
    if let Some(path) = &args.against {
        match score(path) {
            Ok(found) => teacher = Some(found),
            Err(error) => ended = Err(error.context(path.display().to_string())),
        }
    }
    let mut comparisons = None;
    if let Some(teacher) = &teacher {
        match teacher.iter().zip(&results).map(|(t, s)| Comparison::new(t, s)).collect::<Result<Vec<_>, _>>() {
            Ok(rows) => comparisons = Some(rows),
            Err(error) => ended = Err(error.into()),
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let scored = Report { results, teacher, comparisons, seconds };
    if let (Some(run), Some(rows), Some(teacher)) = (&args.report, &scored.comparisons, &args.against) {
        match report::add(run, &named(rows, &args.model, teacher)) {
            Ok(_) => tell(format_args!("report  {}", run.join("report.html").display())),
            Err(error) => ended = Err(error.into()),
        }
    }
    let told = if global.json { serde_json::to_string_pretty(&scored)? } else { text(&scored, args) };
    crate::output::print_what_there_is(told.trim_end_matches('\n'), ended)
}

/// Refuses a model that is not the run's: its scores would stand in the report as those of the run's student.
fn check_model(model: &Path, run: &Path) -> anyhow::Result<()> {
    let (place, of_run) = (crate::embedded::resolve(model)?, run.join("model"));
    let is_of_run = match (place.canonicalize(), of_run.canonicalize()) {
        (Ok(place), Ok(of_run)) => place == of_run || weights_hash(&place)? == weights_hash(&of_run)?,
        // That a model is not there is said where it is opened.
        (Err(_), _) => true,
        (Ok(_), Err(_)) => false,
    };
    if is_of_run {
        return Ok(());
    }
    let expected = format!("the run that made the model, so {} or a copy as MODEL", of_run.display());
    Err(wrong("--report", expected, format!("{} for {}", run.display(), model.display())).into())
}

/// The comparisons for a report, which say what was compared.
fn named(rows: &[Comparison], model: &Path, teacher: &Path) -> Vec<Comparison> {
    let conditions = |row: &Comparison| format!("{}; {} against {}", row.conditions, model.display(), teacher.display());
    rows.iter().map(|row| Comparison { conditions: conditions(row), ..row.clone() }).collect()
}

/// The results as tables.
fn text(scored: &Report, args: &Args) -> String {
    // A file takes lines of any length.
    let width = console::Term::stdout().size_checked().map_or(usize::MAX, |(_, columns)| columns.into());
    let shown = |table: &Table| table.within(width, &GIVE_WAY).render(console::colors_enabled());
    let mut out = shown(&results_table(&scored.results, args.groups));
    if let (Some(path), Some(teacher)) = (&args.against, &scored.teacher) {
        let of_teacher = shown(&results_table(teacher, args.groups));
        out = format!("{}\n{out}\n{}\n{of_teacher}", args.model.display(), path.display());
    }
    if let Some(rows) = &scored.comparisons {
        out += &format!("\nagainst the teacher\n{}", shown(&comparison_table(rows)));
    }
    out
}

/// A task by name, or from a file.
fn task(name: &str) -> anyhow::Result<Task> {
    if !name.ends_with(".toml") {
        return Ok(Task::builtin(name)?);
    }
    let unread = |source| EvalError::Io { action: "cannot read the task", path: name.into(), source };
    let text = std::fs::read_to_string(name).map_err(unread)?;
    Ok(Task::from_toml(&text, name)?)
}

/// Scores a model that reads at most `room` tokens at a time.
fn score(
    path: &Path,
    tasks: &[Loaded],
    room: usize,
    samples: Option<usize>,
    mut journal: Option<&mut Journal>,
    global: &Global,
    device: &Device,
) -> anyhow::Result<Vec<TaskResult>> {
    let place = crate::embedded::resolve(path)?;
    let loaded = recast_infer::open(&place, device)?;
    let name = path.display().to_string();
    let hash = weights_hash(&place)?;
    let mut scorer: Box<dyn Scorer> = match loaded.model.config.diffusion {
        Some(_) => {
            let samples = samples.unwrap_or(SAMPLES);
            Box::new(DiffusionScorer::new(&loaded.model, &loaded.tokenizer, &name, &hash, samples).with_room(room))
        }
        None => {
            if samples.is_some() {
                tell(format_args!(
                    "note: --samples is for models that denoise; {name} is a next-token model, and nothing is drawn for it"
                ));
            }
            Box::new(ModelScorer::new(&loaded.model, &loaded.tokenizer, &name, &hash).with_room(room))
        }
    };
    let costs = tasks.iter().map(|t| estimate(scorer.as_ref(), t, journal.as_deref())).collect::<Result<Vec<Cost>, _>>()?;
    for cost in &costs {
        let answered = match cost.answered {
            0 => String::new(),
            some => format!(" ({some} answered)"),
        };
        tell(format_args!(
            "{name}: {} {} items{answered}, {} requests, {} tokens",
            cost.task, cost.items, cost.requests, cost.tokens
        ));
    }
    let mut talk = Talk::new(costs.iter().map(|c| c.tokens).sum(), global);
    let mut results = Vec::with_capacity(tasks.len());
    for (task, cost) in tasks.iter().zip(&costs) {
        let mut progress = |p: Progress| talk.step(&cost.task, p);
        let length = (cost.tokens / cost.requests.max(1) as u64).max(1);
        let options = RunOptions { batch: ((BATCH_TOKENS / length) as usize).clamp(1, BATCH) };
        results.push(run_task(scorer.as_mut(), task, options, journal.as_deref_mut(), &mut progress)?);
        talk.task_done(cost.tokens);
    }
    talk.done(&name);
    Ok(results)
}

/// Progress over all tasks of a model, counted in tokens.
struct Talk {
    bar: ProgressBar,
    lines: bool,
    /// Tokens of the tasks already done.
    before: u64,
    all: u64,
    started: Instant,
    said: Instant,
}

impl Talk {
    fn new(all: u64, global: &Global) -> Self {
        let terminal = crate::output::redraws();
        let bar = if terminal && !global.no_progress { ProgressBar::new(all) } else { ProgressBar::hidden() };
        let style = "{msg} [{wide_bar}] {human_pos}/{human_len} tokens, {per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self { bar, lines: !terminal && !global.no_progress, before: 0, all, started: now, said: now }
    }

    fn step(&mut self, task: &str, progress: Progress) {
        let tokens = self.before + progress.tokens;
        self.bar.set_message(format!("{task} {}/{}", progress.items, progress.of));
        self.bar.set_position(tokens);
        if self.lines && self.said.elapsed() >= QUIET {
            self.said = Instant::now();
            let speed = tokens as f64 / self.started.elapsed().as_secs_f64();
            let left = self.all.saturating_sub(tokens) as f64 / speed.max(1e-9);
            tell(format_args!(
                "{task}: {} of {} items; {tokens} of {} tokens, {speed:.0} tokens/s, {left:.0} s left",
                progress.items, progress.of, self.all
            ));
        }
    }

    fn task_done(&mut self, tokens: u64) {
        self.before += tokens;
    }

    fn done(&self, model: &str) {
        self.bar.finish_and_clear();
        let seconds = self.started.elapsed().as_secs_f64();
        let speed = self.before as f64 / seconds.max(1e-9);
        tell(format_args!("{model}: {} tokens in {seconds:.1} s, {speed:.0} tokens/s", self.before));
    }
}

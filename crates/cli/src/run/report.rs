//! A run as the data of a report page.

use super::conditions::Conditions;
use super::summary::{Summary, label};
use recast_eval::Comparison;
use recast_eval::metrics::Estimate;
use recast_eval::report::{
    Fact, LayerCurve, MemoryCurve, PerplexityRow, PerplexityTable, Point, Provenance, Report, Role, Sample, SampleText, Speed,
    StageCurves, StagePlan,
};
use recast_train::Trainer;
use recast_train::metrics::{self, Line};
use recast_train::objectives::Objective;
use recast_train::recipe::Stage;
use recast_train::trainer::TEACHER;
use std::path::Path;

/// Most points of a curve; more would not be seen.
const POINTS: usize = 400;

/// Writes `report.html` and `report.json` into the run's folder.
pub fn write(trainer: &Trainer, summary: &Summary, folder: &Path, conditions: &Conditions) -> anyhow::Result<()> {
    let lines = metrics::read(folder)?;
    let recipe = &trainer.recipe;
    let kinds = kinds(trainer);
    let computed = crate::computed_at(trainer.student.device());
    let precision = if computed == conditions.precision {
        computed.to_string()
    } else {
        format!("{computed} ({} was asked for: no instructions for it)", conditions.precision)
    };
    let teacher = recipe.teacher.as_ref().map_or_else(String::new, |t| t.path.display().to_string());
    let mut report = Report {
        title: recipe.name.clone(),
        summary: recipe.about.clone(),
        provenance: Provenance {
            teacher,
            student: format!("{} parameters, mixers: {kinds}", trainer.plan.parameters),
            recipe: recipe.name.clone(),
            recipe_hash: recipe.hash(),
            command: conditions.command.clone(),
            versions: vec![Fact { label: "recast".into(), value: env!("CARGO_PKG_VERSION").into() }],
            machine: format!("{} threads, {}", recast_ops::cpu::threads(), processor()),
            more: vec![
                Fact { label: "precision".into(), value: precision },
                Fact { label: "training time".into(), value: super::progress::duration(summary.seconds) },
                Fact { label: "tokens".into(), value: summary.tokens.to_string() },
            ],
            ..Default::default()
        },
        plan: plan(trainer),
        curves: recipe.stages.iter().map(|stage| curves(stage, &lines)).collect(),
        perplexity: perplexity(trainer, summary),
        tasks: compared(summary, folder),
        samples: samples(summary),
        memory: memory(summary),
        speed: speed(summary),
        ..Default::default()
    };
    if trainer.teacher.is_none() {
        report.provenance.teacher = "none (trained from nothing)".into();
    }
    recast_eval::report::write(folder, &report)?;
    Ok(())
}

/// The comparisons that `recast eval --report` put into the report that is written anew, where nothing was trained since:
/// only the model's last files and the page are made again then, and time goes on with every step.
fn compared(summary: &Summary, folder: &Path) -> Vec<Comparison> {
    let same = |old: Summary| old.tokens == summary.tokens && (old.seconds - summary.seconds).abs() < 1e-6;
    if !Summary::read(folder).is_some_and(same) {
        return Vec::new();
    }
    // One that cannot be read has nothing to keep, and is made anew.
    recast_eval::report::read(&folder.join("report.json")).map(|report| report.tasks).unwrap_or_default()
}

fn kinds(trainer: &Trainer) -> String {
    let mut kinds: Vec<&str> = trainer.student.config.mixers.iter().map(|m| m.kind.as_str()).collect();
    kinds.dedup();
    kinds.join(", ")
}

/// The processor's name, where the system tells.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name")).and_then(|l| l.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().to_string())
}

fn plan(trainer: &Trainer) -> Vec<StagePlan> {
    let stages = trainer.recipe.stages.iter().zip(&trainer.plan.stages);
    stages
        .map(|(stage, plan)| StagePlan {
            name: stage.name.clone(),
            objective: objective(stage.objective).into(),
            trains: stage.train.join(", "),
            trainable_parameters: plan.trainable as u64,
            total_parameters: trainer.plan.parameters as u64,
            tokens: plan.tokens,
            steps: plan.steps,
            sequence_length: stage.context as u64,
            learning_rate: match stage.final_learning_rate {
                Some(last) if last != stage.learning_rate => format!("{:e} to {last:e}", stage.learning_rate),
                _ => format!("{:e}", stage.learning_rate),
            },
        })
        .collect()
}

fn objective(objective: Objective) -> &'static str {
    match objective {
        Objective::OutputAlignment => "output alignment",
        Objective::LogitKl => "KL from the teacher's distribution",
        Objective::NextToken => "next token",
        Objective::MaskedDiffusion => "masked diffusion",
    }
}

fn curves(stage: &Stage, lines: &[Line]) -> StageCurves {
    let lines: Vec<&Line> = lines.iter().filter(|l| l.stage == stage.name).collect();
    let per_step = (stage.batch * stage.context) as u64;
    let point = |line: &Line, value: f64| Point { tokens: line.step * per_step, value };
    let training: Vec<Point> = lines.iter().filter_map(|l| l.loss.map(|x| point(l, x))).collect();
    let layers = lines.iter().map(|l| l.layers.len()).max().unwrap_or(0);
    let layers = (0..layers)
        .map(|layer| LayerCurve {
            layer,
            points: thin(lines.iter().filter_map(|l| l.layers.get(layer).map(|&x| point(l, x))).collect()),
        })
        .collect();
    // Held-out loss has the stage's own quantity only where that is a loss over the vocabulary.
    let held_out = lines
        .iter()
        .filter_map(|l| match stage.objective {
            Objective::OutputAlignment => None,
            Objective::LogitKl => l.held_out_kl.map(|x| point(l, x)),
            Objective::NextToken => l.held_out_loss.map(|x| point(l, x)),
            Objective::MaskedDiffusion => l.held_out_bound.map(|x| point(l, x)),
        })
        .collect();
    let quantity = match stage.objective {
        Objective::OutputAlignment => "norm of the error of a mixer's output, over the square root of the width",
        Objective::LogitKl => "KL from the teacher's distribution, nats a token",
        Objective::NextToken => "negative log-likelihood, nats a token",
        Objective::MaskedDiffusion => "masked diffusion loss (held out: bound of the negative log-likelihood), nats a token",
    };
    StageCurves { stage: stage.name.clone(), quantity: quantity.into(), training: thin(training), held_out, layers }
}

/// Means over equal runs of points, so that a long curve stays a small picture.
fn thin(points: Vec<Point>) -> Vec<Point> {
    let size = points.len().div_ceil(POINTS).max(1);
    let mean = |chunk: &[Point]| Point {
        tokens: chunk[chunk.len() - 1].tokens,
        value: chunk.iter().map(|p| p.value).sum::<f64>() / chunk.len() as f64,
    };
    points.chunks(size).map(mean).collect()
}

fn role(name: &str) -> Role {
    if name == TEACHER { Role::Teacher } else { Role::Student }
}

fn perplexity(trainer: &Trainer, summary: &Summary) -> PerplexityTable {
    let mut seen = 0;
    let rows = summary
        .held_out
        .iter()
        .map(|(name, loss)| {
            let stage = trainer.plan.stages.iter().find(|s| &s.name == name);
            seen += stage.map_or(0, |s| s.tokens);
            PerplexityRow {
                label: label(name),
                role: role(name),
                tokens: (role(name) == Role::Student).then_some(seen),
                values: vec![Some(Estimate { value: loss.perplexity(), std_error: None })],
                bound: loss.bound.is_some_and(|bound| bound.alone),
            }
        })
        .collect();
    let validation = &trainer.recipe.validation;
    let width = validation.context.min(validation.tokens as usize);
    let windows = format!("windows of {width} tokens, {} tokens in all", validation.tokens);
    let bounds = summary.held_out.iter().filter(|(_, loss)| loss.bound.is_some());
    let bounds = bounds.map(|(name, loss)| format!("; {}{}", label(name), loss.bound_text()));
    PerplexityTable { sets: vec!["held-out text".into()], rows, conditions: std::iter::once(windows).chain(bounds).collect() }
}

fn samples(summary: &Summary) -> Vec<Sample> {
    let prompts = summary.samples.first().map(|w| w.texts.iter().map(|(p, _)| p.clone()).collect::<Vec<_>>());
    let texts = |i: usize| {
        summary
            .samples
            .iter()
            .filter_map(|w| {
                let (_, text) = w.texts.get(i)?;
                Some(SampleText { model: label(&w.name), role: role(&w.name), text: text.clone() })
            })
            .collect()
    };
    prompts.unwrap_or_default().into_iter().enumerate().map(|(i, prompt)| Sample { prompt, texts: texts(i) }).collect()
}

fn memory(summary: &Summary) -> Vec<MemoryCurve> {
    let student = summary.memory.iter().map(|m| (m.context as u64, m.student as u64)).collect();
    let teacher: Vec<(u64, u64)> = summary.memory.iter().filter_map(|m| Some((m.context as u64, m.teacher? as u64))).collect();
    let mut out = vec![MemoryCurve { label: "student's state".into(), role: Role::Student, points: student }];
    if !teacher.is_empty() {
        out.push(MemoryCurve { label: "teacher's KV cache".into(), role: Role::Teacher, points: teacher });
    }
    out
}

fn speed(summary: &Summary) -> Vec<Speed> {
    let one = |label: &str, role, context: usize, tokens_per_second| Speed {
        label: label.into(),
        role,
        context: context as u64,
        tokens_per_second,
    };
    summary
        .speed
        .iter()
        .flat_map(|s| {
            let student = Some(one("student", Role::Student, s.context, s.student));
            let teacher = s.teacher.map(|t| one("teacher", Role::Teacher, s.context, t));
            [teacher, student].into_iter().flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::summary::tests::summary;

    #[test]
    fn comparisons_stay_where_nothing_was_trained_since() {
        let folder = tempfile::tempdir().expect("a folder");
        let run = folder.path();
        let now = summary(12.3456789, Vec::new());
        assert!(compared(&now, run).is_empty(), "a first report");
        let score = Estimate { value: 0.5, std_error: None };
        let row = Comparison {
            task: "piqa".into(),
            title: "PIQA".into(),
            metric: recast_eval::metrics::MetricKind::Acc,
            conditions: String::new(),
            chance: Some(0.5),
            teacher: score,
            student: score,
            relative: None,
        };
        recast_eval::report::write(run, &Report { tasks: vec![row.clone()], ..Report::default() }).expect("writes");
        now.write(run).expect("writes");
        assert_eq!(compared(&now, run), [row]);
        assert!(compared(&summary(13.5, Vec::new()), run).is_empty(), "of another student");
        std::fs::write(run.join("report.json"), "torn").expect("writes");
        assert!(compared(&now, run).is_empty());
    }
}

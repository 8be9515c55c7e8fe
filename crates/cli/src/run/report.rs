//! A run as the data of a report page.

use super::conditions::Conditions;
use super::summary::held_out::{form, judged, many, next_token};
use super::summary::{Summary, label};
use recast_eval::Comparison;
use recast_eval::metrics::Estimate;
use recast_eval::report::{
    BoundKind, BoundRow, BoundTable, Fact, LayerCurve, MemoryCurve, PerplexityRow, PerplexityTable, Point, PositionRow,
    PositionTable, Provenance, Report, Role, Sample, SampleText, Speed, StageCurves, StagePlan,
};
use recast_eval::table::fixed;
use recast_train::Trainer;
use recast_train::metrics::{self, Line};
use recast_train::objectives::Objective;
use recast_train::recipe::Stage;
use recast_train::trainer::{BEFORE, TEACHER};
use recast_train::validate::{Bound, HeldOutLoss, LongLoss};
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
    let perplexity = perplexity(trainer, summary);
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
            machine: format!("{}, {}", many(recast_ops::cpu::threads() as u64, "thread"), processor()),
            more: vec![
                Fact { label: "precision".into(), value: precision },
                Fact { label: "training time".into(), value: super::progress::duration(summary.seconds) },
                Fact { label: "tokens".into(), value: summary.tokens.to_string() },
            ],
            ..Default::default()
        },
        plan: plan(trainer),
        curves: recipe.stages.iter().map(|stage| curves(stage, &lines)).collect(),
        bound: bound(&summary.held_out, &perplexity, &lines),
        perplexity,
        positions: summary.held_out_long.as_ref().map(positions).unwrap_or_default(),
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
    let conditions = windows(trainer.held_out_context(), &summary.held_out);
    PerplexityTable { sets: vec!["held-out text".into()], rows, conditions }
}

/// The windows that were measured; batches are measured whole, which may be more than was asked for.
fn windows(width: usize, held_out: &[(String, HeldOutLoss)]) -> String {
    let measured = || held_out.iter().map(|(_, loss)| loss.tokens);
    let (least, most) = (measured().min().unwrap_or_default(), measured().max().unwrap_or_default());
    // A bound counts tokens that no next-token loss does, and the other way round.
    let tokens = if least == most { most.to_string() } else { format!("{least} to {most}") };
    format!("windows of {width} tokens, {tokens} tokens measured")
}

/// What a student that denoises is judged by; empty where it does not.
fn bound(held_out: &[(String, HeldOutLoss)], table: &PerplexityTable, lines: &[Line]) -> BoundTable {
    let Some(bound) = held_out.last().and_then(|(_, loss)| loss.bound) else { return BoundTable::default() };
    let rows = held_out.iter().zip(&table.rows).map(|((_, loss), row)| BoundRow {
        label: row.label.clone(),
        role: row.role,
        tokens: row.tokens,
        nats: judged(loss),
        kind: loss.bound.as_ref().map(kind).unwrap_or_default(),
        by_share: loss.bound.map(|bound| bound.by_share).unwrap_or_default(),
        next_token: next_token(loss).map(|value| Estimate { value, std_error: None }),
    });
    // The history begins with the first step.
    let before = held_out.iter().filter(|(name, _)| name == BEFORE);
    let before = before.map(|(_, loss)| (0, loss.bound.map(|bound| bound.loss), Some(loss.loss)));
    let after = lines.iter().map(|line| (line.tokens, line.held_out_bound, line.held_out_loss));
    let (mut curve, mut next) = (Vec::new(), Vec::new());
    for (tokens, nats, loss) in before.chain(after) {
        let Some(value) = nats else { continue };
        curve.push(Point { tokens, value });
        next.extend(loss.filter(|_| !bound.alone).map(|value| Point { tokens, value }));
    }
    let conditions = format!("{}; {}", table.conditions, form(&bound));
    BoundTable { rows: rows.collect(), curve, next_token: next, conditions }
}

fn kind(bound: &Bound) -> BoundKind {
    match bound {
        Bound { exact: true, .. } => BoundKind::Exact,
        Bound { uniform: true, .. } => BoundKind::UniformNoise,
        _ => BoundKind::Masked,
    }
}

fn positions(long: &LongLoss) -> PositionTable {
    let rows = long.by_position.iter().map(|at| PositionRow {
        first: at.first as u64,
        last: at.last as u64,
        tokens: at.tokens,
        student: at.student,
        teacher: at.teacher,
    });
    PositionTable { rows: rows.collect(), conditions: long.conditions() }
}

/// The measurement in long windows as a line of the terminal's summary.
pub fn long_line(long: &LongLoss) -> String {
    let teacher = long.teacher.map_or_else(String::new, |loss| format!(" / teacher {}", fixed(loss.exp(), 3)));
    let student = fixed(long.student.exp(), 3);
    format!(
        "held-out in windows of {} tokens: next-token perplexity student {student}{teacher}{}",
        long.context,
        long.beyond_text()
    )
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
    use recast_train::validate::Positions;

    #[test]
    fn long_windows_are_told_in_a_line_and_by_position() {
        let at = Positions { first: 64, last: 127, tokens: 640, student: 2.0, teacher: Some(1.5) };
        let long = LongLoss { context: 2048, student: 2.0, teacher: Some(1.5), by_position: vec![at], ..LongLoss::default() };
        let line = "held-out in windows of 2048 tokens: next-token perplexity student 7.389 / teacher 4.482";
        assert_eq!(long_line(&long), line);
        let beyond = LongLoss { teacher_trained: Some(1024), ..long.clone() };
        assert!(long_line(&beyond).starts_with(line) && long_line(&beyond).contains("beyond the 1024 tokens"));
        assert_eq!(long_line(&LongLoss { teacher: None, ..long.clone() }), &line[..line.len() - 16]);
        let row = PositionRow { first: 64, last: 127, tokens: 640, student: 2.0, teacher: Some(1.5) };
        assert_eq!(positions(&long), PositionTable { rows: vec![row], conditions: long.conditions() });
    }

    #[test]
    fn what_a_student_that_denoises_is_judged_by_is_in_the_report() {
        let of = |name: &str, loss, bound| (name.to_owned(), HeldOutLoss { loss, bound, tokens: 32, ..HeldOutLoss::default() });
        let bound_of = |loss, alone| Some(Bound { loss, error: 0.25, samples: 8, alone, ..Bound::default() });
        let run = |alone| [of(TEACHER, 1.5, None), of(BEFORE, 2.0, bound_of(6.0, alone)), of("a", 1.75, bound_of(2.5, alone))];
        let row = |role, tokens| PerplexityRow { label: "m".into(), role, tokens, ..PerplexityRow::default() };
        let rows = vec![row(Role::Teacher, None), row(Role::Student, Some(0)), row(Role::Student, Some(64))];
        let table = PerplexityTable { rows, conditions: "windows".into(), ..PerplexityTable::default() };
        let line = |tokens, loss, held_out_bound| Line { tokens, held_out_loss: loss, held_out_bound, ..Line::default() };
        let lines = [line(32, None, None), line(64, Some(1.75), Some(2.5))];
        let found = bound(&run(false), &table, &lines);
        assert_eq!(found.conditions, "windows; exact-count form, 8 masks a window");
        let nats: Vec<_> = found.rows.iter().map(|row| row.nats).collect();
        assert_eq!(nats, [None, Some(6.0), Some(2.5)].map(|nats| nats.map(|value| Estimate { value, std_error: Some(0.25) })));
        assert_eq!((found.rows[2].tokens, found.rows[2].next_token.map(|next| next.value)), (Some(64), Some(1.75)));
        let point = |tokens, value| Point { tokens, value };
        assert_eq!((found.curve, found.next_token), (vec![point(0, 6.0), point(64, 2.5)], vec![point(0, 2.0), point(64, 1.75)]));
        // One that says no next token, and one that does nothing else.
        let alone = bound(&run(true), &table, &lines);
        assert!(alone.next_token.is_empty() && alone.rows[2].next_token.is_none() && alone.rows[0].next_token.is_some());
        assert_eq!(bound(&[of("a", 1.0, None)], &table, &lines), BoundTable::default());
        assert_eq!(kind(&Bound { uniform: true, ..Bound::default() }), BoundKind::UniformNoise);
        assert_eq!(kind(&Bound { exact: true, ..Bound::default() }), BoundKind::Exact);
    }

    #[test]
    fn conditions_tell_the_tokens_that_were_measured() {
        let of = |tokens| (String::new(), HeldOutLoss { tokens, ..HeldOutLoss::default() });
        assert_eq!(windows(512, &[of(3584), of(3584)]), "windows of 512 tokens, 3584 tokens measured");
        assert_eq!(windows(300, &[of(290), of(300)]), "windows of 300 tokens, 290 to 300 tokens measured");
    }

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

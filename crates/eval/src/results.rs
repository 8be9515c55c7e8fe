//! Results of evaluations: one task on one model, and two models side by side.

use serde::{Deserialize, Serialize};

use crate::error::{EvalError, Result};
use crate::metrics::{Estimate, MetricKind, NO_RELATIVE, relative};
use crate::scorer::ModelCard;
use crate::table::{Align, Table, fixed, with_error};
use crate::tasks::Subset;

/// One metric of a result.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Which.
    pub kind: MetricKind,
    /// Its value.
    pub value: f64,
    /// Its standard error over items.
    pub std_error: Option<f64>,
}

/// A task's result on the items of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupResult {
    /// Subject, source, paradigm.
    pub name: String,
    /// Items in it.
    pub items: usize,
    /// The task's metrics on them.
    pub metrics: Vec<Metric>,
}

/// One task on one model, with all that makes the number comparable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// Task name.
    pub task: String,
    /// Task version.
    pub version: u32,
    /// Title for people.
    pub title: String,
    /// Kind of task.
    pub kind: String,
    /// The model.
    pub model: ModelCard,
    /// Items scored.
    pub items: usize,
    /// Set where they are a subset.
    pub subset: Option<Subset>,
    /// Solved examples in each prompt.
    pub shots: usize,
    /// Context and stride of a perplexity task's windows.
    pub window: Option<(usize, usize)>,
    /// Items whose context was cut to fit the model.
    pub truncated: usize,
    /// The metric comparisons use.
    pub primary: MetricKind,
    /// What guessing reaches.
    pub chance: Option<f64>,
    /// All metrics.
    pub metrics: Vec<Metric>,
    /// The same by group, where the task has groups.
    pub groups: Vec<GroupResult>,
    /// What a reader of the number should know.
    pub note: String,
}

impl TaskResult {
    /// One of its metrics.
    #[must_use]
    pub fn metric(&self, kind: MetricKind) -> Option<Estimate> {
        let metric = self.metrics.iter().find(|m| m.kind == kind)?;
        Some(Estimate { value: metric.value, std_error: metric.std_error })
    }

    /// `0-shot, 200 of 1220 items (seed 1)`: the conditions in words.
    #[must_use]
    pub fn conditions(&self) -> String {
        let mut parts = Vec::new();
        match self.window {
            Some((context, stride)) => parts.push(format!("windows of {context}, stride {stride}")),
            None => parts.push(format!("{}-shot", self.shots)),
        }
        parts.push(match self.subset {
            Some(s) => format!("{} of {} items (seed {})", s.chosen, s.of, s.seed),
            None => format!("{} items", self.items),
        });
        if self.truncated > 0 {
            parts.push(format!("{} cut to fit {} tokens", self.truncated, self.model.max_context));
        }
        parts.extend(self.model.estimate.clone());
        parts.join(", ")
    }
}

/// A teacher's and a student's result on the same items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Task name.
    pub task: String,
    /// Title for people.
    pub title: String,
    /// The task's primary metric.
    pub metric: MetricKind,
    /// The conditions in words.
    pub conditions: String,
    /// What guessing reaches.
    pub chance: Option<f64>,
    /// The teacher's score.
    pub teacher: Estimate,
    /// The student's score.
    pub student: Estimate,
    /// `(student - chance) / (teacher - chance)`, where the teacher is clearly above chance.
    pub relative: Option<Estimate>,
}

impl Comparison {
    /// Sets two results side by side.
    ///
    /// # Errors
    /// They are not results of the same task under the same conditions.
    pub fn new(teacher: &TaskResult, student: &TaskResult) -> Result<Self> {
        let same = |what: &str, a: String, b: String| {
            if a == b {
                return Ok(());
            }
            Err(EvalError::Setting(format!(
                "results of `{}` and `{}` cannot be compared: {what} is {a} for one and {b} for the other; evaluate both alike",
                teacher.model.name, student.model.name
            )))
        };
        let name = |r: &TaskResult| format!("{} version {}", r.task, r.version);
        same("the task", name(teacher), name(student))?;
        let setting = |r: &TaskResult| {
            let count = r.items;
            format!("{count} items, {:?}, {} shots, {:?}", r.subset, r.shots, r.window)
        };
        same("the setting", setting(teacher), setting(student))?;
        let primary = |r: &TaskResult| {
            r.metric(r.primary).ok_or_else(|| {
                EvalError::Setting(format!("the result of `{}` on `{}` lacks its metric {}", r.model.name, r.task, r.primary))
            })
        };
        let (of_teacher, of_student) = (primary(teacher)?, primary(student)?);
        Ok(Self {
            task: teacher.task.clone(),
            title: teacher.title.clone(),
            metric: teacher.primary,
            conditions: match (teacher.conditions(), student.conditions()) {
                (teacher, student) if teacher == student => teacher,
                (teacher, student) => format!("{teacher}; student: {student}"),
            },
            chance: teacher.chance,
            teacher: of_teacher,
            student: of_student,
            relative: teacher.chance.and_then(|chance| relative(of_student, of_teacher, chance)),
        })
    }
}

/// Columns of these tables whose cells stand below them in a terminal that is too narrow, the first one first.
pub const GIVE_WAY: [&str; 3] = ["chance", "metric", "relative"];

fn digits(kind: MetricKind) -> usize {
    match kind {
        MetricKind::BitsPerByte | MetricKind::Acc | MetricKind::AccNorm => 4,
        MetricKind::F1 | MetricKind::ExactMatch => 4,
        MetricKind::Perplexity | MetricKind::WordPerplexity => 3,
    }
}

/// A table of results, one line a metric; with `groups`, the groups under each task.
#[must_use]
pub fn results_table(results: &[TaskResult], groups: bool) -> Table {
    let mut table = Table::new(&[
        ("task", Align::Left),
        ("metric", Align::Left),
        ("value", Align::Right),
        ("± s.e.", Align::Right),
        ("chance", Align::Right),
        ("conditions", Align::Left),
    ]);
    for result in results {
        for (index, metric) in result.metrics.iter().enumerate() {
            let first = |text: String| if index == 0 { text } else { String::new() };
            let of_primary = metric.kind == result.primary;
            let digits = digits(metric.kind);
            table.row([
                first(result.title.clone()),
                metric.kind.to_string(),
                fixed(metric.value, digits),
                metric.std_error.map(|e| fixed(e, digits)).unwrap_or_default(),
                result.chance.filter(|_| of_primary).map(|c| fixed(c, 4)).unwrap_or_default(),
                first(result.conditions()),
            ]);
        }
        for group in result.groups.iter().filter(|_| groups) {
            for metric in group.metrics.iter().filter(|m| m.kind == result.primary) {
                let digits = digits(metric.kind);
                table.row([
                    format!("  {}", group.name),
                    metric.kind.to_string(),
                    fixed(metric.value, digits),
                    metric.std_error.map(|e| fixed(e, digits)).unwrap_or_default(),
                    String::new(),
                    format!("{} items", group.items),
                ]);
            }
        }
    }
    table
}

/// A table of comparisons.
#[must_use]
pub fn comparison_table(rows: &[Comparison]) -> Table {
    let mut table = Table::new(&[
        ("task", Align::Left),
        ("metric", Align::Left),
        ("chance", Align::Right),
        ("teacher", Align::Right),
        ("student", Align::Right),
        ("relative", Align::Right),
        ("conditions", Align::Left),
    ]);
    for row in rows {
        let digits = digits(row.metric);
        let relative = match (row.relative, row.chance) {
            (Some(r), _) => with_error(r.value, r.std_error, 2),
            (None, Some(_)) => NO_RELATIVE.into(),
            (None, None) => String::new(),
        };
        table.row([
            row.title.clone(),
            row.metric.to_string(),
            row.chance.map(|c| fixed(c, 4)).unwrap_or_default(),
            with_error(row.teacher.value, row.teacher.std_error, digits),
            with_error(row.student.value, row.student.std_error, digits),
            relative,
            row.conditions.clone(),
        ]);
    }
    table
}

#[cfg(test)]
pub(crate) fn sample(name: &str, value: f64) -> TaskResult {
    TaskResult {
        task: "piqa".into(),
        version: 1,
        title: "PIQA".into(),
        kind: "multiple_choice".into(),
        model: ModelCard {
            name: name.into(),
            hash: name.into(),
            prefix_token: 0,
            add_bos: false,
            max_context: 8,
            end_tokens: Vec::new(),
            estimate: None,
        },
        items: 200,
        subset: Some(Subset { chosen: 200, of: 906, seed: 1 }),
        shots: 0,
        window: None,
        truncated: 0,
        primary: MetricKind::AccNorm,
        chance: Some(0.5),
        metrics: vec![
            Metric { kind: MetricKind::Acc, value, std_error: Some(0.0333) },
            Metric { kind: MetricKind::AccNorm, value: value + 0.01, std_error: Some(0.0332) },
        ],
        groups: vec![GroupResult {
            name: "home".into(),
            items: 12,
            metrics: vec![Metric { kind: MetricKind::AccNorm, value: 1.0, std_error: None }],
        }],
        note: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_survive_json() {
        let results = [sample("a", 0.61)];
        let text = serde_json::to_string(&results).unwrap();
        let back: Vec<TaskResult> = serde_json::from_str(&text).unwrap();
        assert_eq!(back, results);
        assert!(text.contains("\"acc_norm\""));
    }

    #[test]
    fn tables_show_conditions_groups_and_relative_scores() {
        let (teacher, student) = (sample("teacher", 0.69), sample("student", 0.59));
        let shown = results_table(std::slice::from_ref(&teacher), true).plain();
        assert_eq!(
            shown,
            "task    metric     value  ± s.e.  chance  conditions\n\
             ──────  ────────  ──────  ──────  ──────  ─────────────────────────────────\n\
             PIQA    acc       0.6900  0.0333          0-shot, 200 of 906 items (seed 1)\n        \
             acc_norm  0.7000  0.0332  0.5000\n  \
             home  acc_norm  1.0000                  12 items\n"
        );
        let row = Comparison::new(&teacher, &student).unwrap();
        assert!((row.relative.unwrap().value - 0.5).abs() < 1e-12);
        let shown = comparison_table(&[row]).plain();
        assert!(shown.contains("0.50 ± 0.19"), "{shown}");
        // 0.54, above chance by little more than its standard error of 0.0332.
        let row = Comparison::new(&sample("teacher", 0.53), &student).unwrap();
        let shown = comparison_table(std::slice::from_ref(&row)).plain();
        assert!(shown.contains("teacher near chance") && !shown.contains("at chance"), "{shown}");
        // A terminal of the usual width breaks no line of the table, and nothing is lost.
        for title in ["ARC, challenge", "TruthfulQA, one right answer"] {
            let long = Comparison { title: title.into(), conditions: "0-shot, 906 items ".repeat(9), ..row.clone() };
            let table = comparison_table(&[long]).within(80, &GIVE_WAY);
            let shown = table.plain();
            assert!(table.width() <= 80 && shown.contains("\n1  0-shot, 906 items 0-shot"), "{shown}");
            assert!(shown.contains(", chance 0.5000, metric acc_norm") && shown.contains("teacher near chance"), "{shown}");
        }
    }

    #[test]
    fn conditions_say_what_was_cut_and_to_how_much() {
        let mut result = sample("a", 0.61);
        assert!(!result.conditions().contains("cut"), "{}", result.conditions());
        result.truncated = 3;
        assert!(result.conditions().ends_with(", 3 cut to fit 8 tokens"), "{}", result.conditions());
    }

    #[test]
    fn unlike_results_are_not_compared() {
        let teacher = sample("teacher", 0.6);
        let mut student = sample("student", 0.6);
        student.shots = 5;
        let error = Comparison::new(&teacher, &student).unwrap_err().to_string();
        assert!(error.contains("5 shots"), "{error}");
        student = sample("student", 0.6);
        student.version = 2;
        assert!(Comparison::new(&teacher, &student).is_err());
        // A bound beside a likelihood is compared, and says so.
        student = sample("student", 0.6);
        student.model.estimate = Some("likelihood bound".into());
        let row = Comparison::new(&teacher, &student).expect("the same task");
        assert!(row.conditions.contains("; student: ") && row.conditions.contains("likelihood bound"), "{}", row.conditions);
    }
}

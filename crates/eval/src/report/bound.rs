//! Held-out text of a run whose student denoises. Such a model is judged by its own negative log-likelihood or a bound of
//! it: that is the number that says most, the curve and the table's main column. The next token, where the student
//! says it, stands beside it under its own name.

use super::chart::{Lines, Series, Style, legend};
use super::data::{BoundKind, BoundRow, BoundTable, PerplexityRow, Report, Role};
use super::html::{Cell, html, number, table, text};
use super::number::{Scale, count, grouped, short};
use super::page::{estimate, figure, row_class};
use super::training::pairs;
use crate::metrics::Estimate;

/// Digits of nats a token after the point: standard errors are some hundredths.
const DIGITS: usize = 3;

impl BoundKind {
    /// In a word or two, for a curve.
    fn name(self) -> &'static str {
        match self {
            Self::Masked | Self::UniformNoise => "diffusion bound",
            Self::Exact => "negative log-likelihood",
        }
    }

    /// Under the number that says most.
    fn label(self) -> &'static str {
        match self {
            Self::Masked => "nats a token of held-out text: diffusion bound",
            Self::UniformNoise => "nats a token of held-out text: diffusion bound, generalised KL of uniform noise",
            Self::Exact => "nats a token of held-out text, in the model's own order",
        }
    }

    /// As a sentence begins.
    fn sentence(self) -> &'static str {
        match self {
            Self::Masked | Self::UniformNoise => "Upper bound of the negative log-likelihood of held-out text",
            Self::Exact => "Negative log-likelihood of held-out text in the model's own order",
        }
    }

    /// Heads of its two columns: nats a token, and their exponential.
    fn heads(self) -> [&'static str; 2] {
        match self {
            Self::Masked | Self::UniformNoise => ["#diffusion bound, nats a token", "#perplexity of the bound"],
            Self::Exact => ["#negative log-likelihood, nats a token", "#perplexity"],
        }
    }
}

/// What there is to show. Reports written before there was such a table have the perplexity of each bound among those of
/// the next token.
fn data(report: &Report) -> BoundTable {
    let old = &report.perplexity;
    if !report.bound.rows.is_empty() || !old.rows.iter().any(|row| row.bound && row.role == Role::Student) {
        return report.bound.clone();
    }
    let row = |row: &PerplexityRow| {
        let nats = row.values.first().copied().flatten().map(|e| Estimate { value: e.value.ln(), std_error: None });
        BoundRow {
            label: row.label.clone(),
            role: row.role,
            tokens: row.tokens,
            nats: nats.filter(|_| row.bound),
            next_token: nats.filter(|_| !row.bound),
            ..BoundRow::default()
        }
    };
    BoundTable { rows: old.rows.iter().map(row).collect(), conditions: old.conditions.clone(), ..BoundTable::default() }
}

fn teacher(rows: &[BoundRow]) -> Option<&BoundRow> {
    rows.iter().find(|row| row.role == Role::Teacher)
}

/// What the teacher is judged by, where that is of the same noise as the student's.
fn compared(teacher: Option<&BoundRow>, kind: BoundKind) -> Option<Estimate> {
    let uniform = |kind| kind == BoundKind::UniformNoise;
    teacher.filter(|teacher| uniform(teacher.kind) == uniform(kind))?.nats
}

/// The finished student and what it is judged by; none where it does not denoise.
fn finished(rows: &[BoundRow]) -> Option<(&BoundRow, Estimate)> {
    let student = rows.iter().rfind(|row| row.role == Role::Student)?;
    Some((student, student.nats?))
}

fn perplexity(nats: Estimate) -> String {
    grouped(nats.value.exp(), 2)
}

/// The number that says most, its label, and what it is read with; none where the student does not denoise.
pub(super) fn headline(report: &Report) -> Option<(String, &'static str, String)> {
    let data = data(report);
    let (student, nats) = finished(&data.rows)?;
    let mut detail: Vec<String> = nats.std_error.iter().map(|error| format!("± {}", grouped(*error, DIGITS))).collect();
    // Of the same unit as the number above, so it stands before what is not.
    let first = data.rows.iter().find(|row| row.role == Role::Student).filter(|first| !std::ptr::eq(*first, student));
    detail.extend(first.and_then(|first| first.nats).map(|nats| format!("{} at first", grouped(nats.value, DIGITS))));
    detail.push(match student.kind {
        BoundKind::Exact => format!("perplexity {}", perplexity(nats)),
        _ => format!("perplexity at most {}", perplexity(nats)),
    });
    let teacher = teacher(&data.rows);
    detail.extend(compared(teacher, student.kind).map(|nats| format!("teacher {}", grouped(nats.value, DIGITS))));
    if let Some(next) = student.next_token {
        // Of the next token the two are comparable.
        let teacher = teacher.and_then(|t| t.next_token).map(|next| format!(" (teacher {})", perplexity(next)));
        detail.push(format!("next-token perplexity {}{}", perplexity(next), teacher.unwrap_or_default()));
    }
    Some((grouped(nats.value, DIGITS), student.kind.label(), detail.join("; ")))
}

/// The table, the curve, and what masked tokens cost; empty where the student does not denoise.
pub(super) fn section(report: &Report) -> String {
    let data = data(report);
    let Some((student, _)) = finished(&data.rows) else { return String::new() };
    let kind = student.kind;
    let teacher = teacher(&data.rows);
    let compared = compared(teacher, kind);
    let says_next = data.rows.iter().any(|row| row.next_token.is_some());
    let mut heads = vec!["model", "#tokens read"];
    heads.extend(kind.heads());
    heads.extend(compared.map(|_| "#× teacher"));
    heads.extend(says_next.then_some("#next-token perplexity"));
    let rows: Vec<_> = data
        .rows
        .iter()
        .map(|row| {
            let nats = match row.nats {
                None => html("<span class=\"soft\">none</span>".into(), "num"),
                nats => estimate(nats, DIGITS),
            };
            let read = row.tokens.map(|tokens| count(tokens as f64));
            let mut cells = vec![
                text(&row.label),
                number(&read.unwrap_or_default()),
                nats,
                number(&row.nats.map(perplexity).unwrap_or_default()),
            ];
            if let Some(teacher) = compared {
                let ratio = row.nats.filter(|_| row.role != Role::Teacher).map(|nats| (nats.value - teacher.value).exp());
                cells.push(number(&ratio.map(|ratio| grouped(ratio, 2)).unwrap_or_default()));
            }
            if says_next {
                cells.push(number(&row.next_token.map(perplexity).unwrap_or_default()));
            }
            (row_class(row.role), cells)
        })
        .collect();
    let caption = match data.conditions.as_str() {
        "" => format!("{}; less is better.", kind.sentence()),
        conditions => format!("{} ({conditions}); less is better.", kind.sentence()),
    };
    format!(
        "{}{}<div class=\"pair below\">{}<div>{}</div></div>\n",
        table(&caption, &heads, &rows),
        note(teacher, student),
        curve(&data, kind),
        shares(&data.rows)
    )
}

/// What the columns must not be taken for.
fn note(teacher: Option<&BoundRow>, student: &BoundRow) -> String {
    let mut words = Vec::new();
    if student.kind != BoundKind::Exact && teacher.is_some_and(|teacher| teacher.nats.is_none()) {
        words.push("The teacher says the next token and has no bound: its perplexity is no comparison with one.");
    }
    if student.next_token.is_some() {
        words.push("The student says the next token as well; its next-token perplexity is of that alone.");
    }
    if words.is_empty() { String::new() } else { format!("<p class=\"note\">{}</p>\n", words.join(" ")) }
}

fn curve(data: &BoundTable, kind: BoundKind) -> String {
    let next = if kind == BoundKind::Exact { "next-token loss" } else { "next-token loss, which is no bound" };
    let all = [(kind.name(), Style::Marked, &data.curve), (next, Style::Reference, &data.next_token)];
    let some = all.into_iter().filter(|(_, _, points)| !points.is_empty());
    let series: Vec<Series> =
        some.map(|(name, style, points)| Series { name: name.into(), style, points: pairs(points) }).collect();
    let described = series.iter().filter_map(|one| {
        let (first, last) = (one.points.first()?, one.points.last()?);
        Some(format!("{}: from {} to {} at {} tokens.", one.name, short(first.1), short(last.1), count(last.0)))
    });
    let description = described.collect::<Vec<_>>().join(" ");
    let title = format!("Held-out text over the run: {}", kind.name());
    let chart = |id: &str, y_scale| {
        Lines {
            id,
            title: &title,
            description: &description,
            x_label: "tokens of the run",
            y_label: "nats a token",
            x_format: count,
            y_format: short,
            x_scale: Scale::Linear,
            y_scale,
            series: &series,
        }
        .svg()
        .unwrap_or_default()
    };
    let (linear, log) = (chart("bound-linear", Scale::Linear), chart("bound-log", Scale::Log10));
    if linear.is_empty() && log.is_empty() {
        return String::new();
    }
    figure("bound", &title, &legend(&series), &linear, &log, false)
}

/// What a masked token costs, the more of the text is masked; empty where that was not measured.
fn shares(rows: &[BoundRow]) -> String {
    let measured = rows.iter().filter(|row| row.kind != BoundKind::Exact && row.by_share.iter().any(Option::is_some));
    let rows: Vec<_> = measured
        .map(|row| {
            let nats = row.by_share.iter().map(|nats| number(&nats.map(|nats| grouped(nats, 2)).unwrap_or_default()));
            (row_class(row.role), std::iter::once(text(&row.label)).chain(nats).collect::<Vec<Cell>>())
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    table(
        "Nats a masked token, by how much of its sequence or block was masked.",
        &["model", "#to a quarter", "#a half", "#three quarters", "#all"],
        &rows,
    )
}

//! The page: what came out first (of a student that denoises by `bound.rs`), what it costs (`serving.rs`) and how it was
//! made (`training.rs`) after.

use super::bound;
use super::data::{Report, Role};
use super::html::{Cell, escape, facts, html, number, table, text};
use super::number::{bytes, count, grouped, short};
use super::positions::positions;
use super::serving::{context, memory, speed};
use super::training::{layers, plan, training};
use crate::metrics::{Estimate, MetricKind, NO_RELATIVE};
use crate::results::Comparison;

const STYLE: &str = include_str!("style.css");

/// The report as one HTML page: no script, no outside resource.
#[must_use]
pub fn render(report: &Report) -> String {
    let held_out = match bound::section(report) {
        none if none.is_empty() => ("perplexity", "Perplexity", perplexity(report)),
        judged => ("held-out", "Held-out text", judged),
    };
    let sections = [
        held_out,
        ("positions", "Loss by position", positions(report)),
        ("tasks", "Tasks", tasks(report)),
        ("samples", "Samples", samples(report)),
        ("memory", "Memory", memory(report)),
        ("speed", "Speed", speed(report)),
        ("plan", "Plan", plan(report)),
        ("training", "Training", training(report)),
        ("layers", "Layer by layer", layers(report)),
        ("notes", "Notes", notes(report)),
        ("provenance", "Provenance", provenance(report)),
    ];
    let mut nav = String::new();
    let mut body = String::new();
    let mut absent = Vec::new();
    for (id, name, content) in sections {
        if content.is_empty() {
            if !matches!(id, "notes" | "positions") {
                absent.push(name.to_lowercase());
            }
            continue;
        }
        nav.push_str(&format!("<li><a href=\"#{id}\">{name}</a></li>"));
        body.push_str(&format!(
            "<section id=\"{id}\" aria-labelledby=\"h-{id}\">\n<h2 id=\"h-{id}\">{name}</h2>\n{content}</section>\n"
        ));
    }
    let absent = match absent.as_slice() {
        [] => String::new(),
        names => format!("<p>Not in this report: {}.</p>\n", names.join(", ")),
    };
    let title = if report.title.is_empty() { "Untitled run" } else { &report.title };
    let title = escape(title);
    let summary = match report.summary.as_str() {
        "" => String::new(),
        summary => format!("<p class=\"lead\" dir=\"auto\">{}</p>\n", escape(summary)),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<p class=\"kicker\">Conversion report</p>\n<h1 dir=\"auto\">{title}</h1>\n{summary}{figures}</header>\n\
         <nav aria-label=\"Sections\"><ul>{nav}</ul></nav>\n<main>\n{body}</main>\n\
         <footer>\n{absent}<p>± is one standard error. The same numbers are in <code>report.json</code>.</p>\n</footer>\n\
         </body>\n</html>\n",
        figures = figures(report)
    )
}

/// The few numbers that say most.
fn figures(report: &Report) -> String {
    let mut out: Vec<(String, &str, String)> = Vec::new();
    let rows = &report.perplexity.rows;
    let first = |row: &super::PerplexityRow| row.values.first().copied().flatten();
    let of = |row: &super::PerplexityRow| Some((first(row)?, row.bound));
    let teacher = rows.iter().find(|r| r.role == Role::Teacher).and_then(of);
    let student = rows.iter().rfind(|r| r.role == Role::Student).and_then(of);
    if let Some(judged) = bound::headline(report) {
        out.push(judged);
    } else if let (Some((teacher, alike)), Some((student, bound))) = (teacher, student)
        && alike == bound
    {
        out.push((grouped(student.value, 2), "held-out perplexity", format!("teacher {}", grouped(teacher.value, 2))));
    }
    let kept: Vec<f64> = report.tasks.iter().filter_map(|t| Some(t.relative?.value)).collect();
    if !kept.is_empty() {
        out.push((
            percent(kept.iter().sum::<f64>() / kept.len() as f64),
            "of the teacher's score above chance",
            if kept.len() < report.tasks.len() {
                format!("mean over {} of {} tasks: those where the teacher is clearly above it", kept.len(), report.tasks.len())
            } else {
                format!("mean over all {} tasks", kept.len())
            },
        ));
    }
    let longest = |role| {
        let curves = report.memory.iter().filter(move |m| m.role == role);
        curves.filter_map(|m| m.points.iter().max()).max().copied()
    };
    if let (Some((at, cache)), Some((student_at, state))) = (longest(Role::Teacher), longest(Role::Student))
        && at == student_at
    {
        out.push((
            bytes(state as f64),
            "state of one sequence",
            format!("KV cache at {} tokens: {}", context(at), bytes(cache as f64)),
        ));
    }
    let fastest = |role| {
        let at = report.speed.iter().filter(|s| s.role == role);
        at.max_by_key(|s| s.context)
    };
    if let (Some(teacher), Some(student)) = (fastest(Role::Teacher), fastest(Role::Student))
        && teacher.context == student.context
    {
        out.push((
            short(student.tokens_per_second),
            "tokens a second",
            format!("teacher {}, both after {} tokens", short(teacher.tokens_per_second), context(student.context)),
        ));
    }
    if out.is_empty() {
        return String::new();
    }
    let mut list = String::from("<dl class=\"figures\">\n");
    for (value, label, detail) in out {
        list.push_str(&format!(
            "<div><dt>{}</dt><dd class=\"big\">{}</dd><dd>{}</dd></div>\n",
            escape(label),
            escape(&value),
            escape(&detail)
        ));
    }
    list + "</dl>\n"
}

fn perplexity(report: &Report) -> String {
    let data = &report.perplexity;
    if data.rows.is_empty() {
        return String::new();
    }
    let teacher = data.rows.iter().find(|r| r.role == Role::Teacher);
    let mut heads = vec!["model".to_string(), "#tokens read".to_string()];
    heads.extend(data.sets.iter().map(|set| format!("#{set}")));
    heads.push("#× teacher".into());
    let rows: Vec<_> = data
        .rows
        .iter()
        .map(|row| {
            let mut cells = vec![text(&row.label), number(&row.tokens.map(|t| count(t as f64)).unwrap_or_default())];
            for index in 0..data.sets.len() {
                cells.push(estimate(row.values.get(index).copied().flatten(), 2));
            }
            // The geometric mean of the ratios over the sets that both have.
            let logs: Vec<f64> = teacher
                .into_iter()
                .filter(|t| t.bound == row.bound)
                .flat_map(|t| t.values.iter().zip(&row.values))
                .filter_map(|(t, s)| Some((s.as_ref()?.value / t.as_ref()?.value).ln()))
                .collect();
            let ratio = (logs.iter().sum::<f64>() / logs.len() as f64).exp();
            let shown = match row.role {
                Role::Teacher => String::new(),
                _ if logs.is_empty() => String::new(),
                _ => grouped(ratio, 2),
            };
            cells.push(number(&shown));
            (row_class(row.role), cells)
        })
        .collect();
    let caption = match data.conditions.as_str() {
        "" => "Perplexity a token on held-out text; less is better.".to_string(),
        conditions => {
            format!("Perplexity a token on held-out text ({conditions}); less is better.")
        }
    };
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    table(&caption, &heads, &rows)
}

fn tasks(report: &Report) -> String {
    if report.tasks.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = report
        .tasks
        .iter()
        .map(|task| {
            let digits = if is_share(task.metric) { 1 } else { 2 };
            let scale = if is_share(task.metric) { 100.0 } else { 1.0 };
            let of = |e: Estimate| {
                let scaled = Estimate { value: e.value * scale, std_error: e.std_error.map(|s| s * scale) };
                estimate(Some(scaled), digits)
            };
            let cells = vec![
                html(format!("{}<small>{}</small>", escape(&task.title), escape(&task.conditions)), "two"),
                text(&task.metric.to_string()),
                number(&task.chance.map(|c| grouped(c * scale, digits)).unwrap_or_default()),
                of(task.teacher),
                of(task.student),
                kept(task),
            ];
            ("", cells)
        })
        .collect();
    table(
        "Accuracies in percent. Kept: (student − chance) / (teacher − chance), where the teacher is clearly above chance.",
        &["task", "metric", "#chance", "#teacher", "#student", "#kept"],
        &rows,
    )
}

fn is_share(metric: MetricKind) -> bool {
    matches!(metric, MetricKind::Acc | MetricKind::AccNorm | MetricKind::ExactMatch | MetricKind::F1)
}

/// The share kept as a bar and a number.
fn kept(task: &Comparison) -> Cell {
    let Some(relative) = task.relative.filter(|r| r.value.is_finite()) else {
        let why = if task.chance.is_some() { NO_RELATIVE } else { "" };
        return html(escape(why), "num soft");
    };
    let width = relative.value.clamp(0.0, 1.2) / 1.2 * 84.0;
    let error = relative
        .std_error
        .map(|e| format!(" <span class=\"soft error\">± {}</span>", escape(&grouped(e * 100.0, 0))))
        .unwrap_or_default();
    html(
        format!(
            "<svg class=\"kept\" viewBox=\"0 0 84 10\" width=\"84\" height=\"10\" aria-hidden=\"true\">\
             <rect class=\"track\" width=\"70\" height=\"10\" rx=\"2\"/><rect class=\"bar accent\" width=\"{width:.1}\" height=\"10\" rx=\"2\"/></svg>\
             <span class=\"of\">{}</span>{error}",
            escape(&percent(relative.value))
        ),
        "num",
    )
}

fn percent(share: f64) -> String {
    format!("{} %", grouped(share * 100.0, 0))
}

/// A cell of a measurement, with its standard error where there is one.
pub(super) fn estimate(value: Option<Estimate>, digits: usize) -> Cell {
    let Some(value) = value else {
        return html("<span class=\"soft\">not measured</span>".into(), "num");
    };
    let error = match value.std_error {
        Some(error) => format!("<span class=\"pm\">± {}</span>", escape(&grouped(error, digits))),
        None => String::new(),
    };
    html(format!("{}{error}", escape(&grouped(value.value, digits))), "num")
}

/// The class of a model's row.
pub(super) fn row_class(role: Role) -> &'static str {
    match role {
        Role::Teacher => "teacher",
        _ => "",
    }
}

fn samples(report: &Report) -> String {
    let mut out = String::new();
    for sample in &report.samples {
        out.push_str(&format!(
            "<article class=\"sample\">\n<h3>Prompt</h3>\n<pre class=\"prompt\" dir=\"auto\">{}</pre>\n<div class=\"side\">\n",
            escape(&sample.prompt)
        ));
        for written in &sample.texts {
            let class = match written.role {
                Role::Student => "text student",
                _ => "text",
            };
            out.push_str(&format!(
                "<div class=\"{class}\"><h4 dir=\"auto\">{}</h4><pre dir=\"auto\">{}</pre></div>\n",
                escape(&written.model),
                escape(written.text.trim_start())
            ));
        }
        out.push_str("</div>\n</article>\n");
    }
    out
}

/// A figure; with two drawings, one on linear and one on logarithmic axes, and a choice of them.
pub(super) fn figure(id: &str, title: &str, legend: &str, linear: &str, log: &str, log_first: bool) -> String {
    let title = escape(title);
    if linear.is_empty() || log.is_empty() {
        return format!("<figure><figcaption>{title}</figcaption>{legend}<div class=\"scroll\">{linear}{log}</div></figure>\n");
    }
    let checked = |on: bool| if on { " checked" } else { "" };
    format!(
        "<figure class=\"choice\"><figcaption>{title}</figcaption>\n\
         <input type=\"radio\" class=\"to-linear\" name=\"axis-{id}\" id=\"{id}-as-linear\"{}><label for=\"{id}-as-linear\">linear</label>\n\
         <input type=\"radio\" class=\"to-log\" name=\"axis-{id}\" id=\"{id}-as-log\"{}><label for=\"{id}-as-log\">log</label>\n\
         {legend}\n<div class=\"scroll linear\">{linear}</div>\n<div class=\"scroll log\">{log}</div></figure>\n",
        checked(!log_first),
        checked(log_first)
    )
}

fn notes(report: &Report) -> String {
    let paragraph = |note: &String| format!("<p dir=\"auto\">{}</p>\n", escape(note));
    report.notes.iter().map(paragraph).collect()
}

fn provenance(report: &Report) -> String {
    let p = &report.provenance;
    let fixed = [
        ("Teacher", p.teacher.as_str()),
        ("Teacher's hash", &p.teacher_hash),
        ("Student", &p.student),
        ("Recipe", &p.recipe),
        ("Recipe's hash", &p.recipe_hash),
        ("Command", &p.command),
        ("Machine", &p.machine),
        ("Started", &p.started),
        ("Finished", &p.finished),
    ];
    let more = p.versions.iter().chain(&p.more);
    let all: Vec<(&str, &str)> = fixed
        .into_iter()
        .chain(more.map(|f| (f.label.as_str(), f.value.as_str())))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    if all.is_empty() {
        return String::new();
    }
    facts(all)
}

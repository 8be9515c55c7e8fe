//! The page, section by section: what came out first, how it was made after.

use super::chart::{Bar, Lines, Row, Series, Style, bars, heat_map, legend, thin};
use super::data::{Point, Report, Role, StageCurves};
use super::html::{Cell, escape, facts, html, number, table, text};
use super::number::{Scale, bytes, count, grouped, short};
use crate::metrics::{Estimate, MetricKind};
use crate::results::Comparison;

const STYLE: &str = include_str!("style.css");

/// The report as one HTML page: no script, no outside resource.
#[must_use]
pub fn render(report: &Report) -> String {
    let sections = [
        ("perplexity", "Perplexity", perplexity(report)),
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
            if id != "notes" {
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
    let title = if report.title.is_empty() {
        "Untitled run"
    } else {
        &report.title
    };
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
    let teacher = rows
        .iter()
        .find(|r| r.role == Role::Teacher)
        .and_then(first);
    let student = rows
        .iter()
        .rfind(|r| r.role == Role::Student)
        .and_then(first);
    if let (Some(teacher), Some(student)) = (teacher, student) {
        out.push((
            grouped(student.value, 2),
            "held-out perplexity",
            format!("teacher {}", grouped(teacher.value, 2)),
        ));
    }
    let kept: Vec<f64> = report
        .tasks
        .iter()
        .filter_map(|t| Some(t.relative?.value))
        .collect();
    if !kept.is_empty() {
        out.push((
            percent(kept.iter().sum::<f64>() / kept.len() as f64),
            "of the teacher's score above chance",
            if kept.len() < report.tasks.len() {
                format!(
                    "mean over {} of {} tasks: those where the teacher is clearly above it",
                    kept.len(),
                    report.tasks.len()
                )
            } else {
                format!("mean over all {} tasks", kept.len())
            },
        ));
    }
    let longest = |role| {
        let curves = report.memory.iter().filter(move |m| m.role == role);
        curves.filter_map(|m| m.points.iter().max()).max().copied()
    };
    if let (Some((at, cache)), Some((student_at, state))) =
        (longest(Role::Teacher), longest(Role::Student))
        && at == student_at
    {
        out.push((
            bytes(state as f64),
            "state of one sequence",
            format!(
                "KV cache at {} tokens: {}",
                context(at),
                bytes(cache as f64)
            ),
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
            format!(
                "teacher {}, both after {} tokens",
                short(teacher.tokens_per_second),
                context(student.context)
            ),
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
            let mut cells = vec![
                text(&row.label),
                number(&row.tokens.map(|t| count(t as f64)).unwrap_or_default()),
            ];
            for index in 0..data.sets.len() {
                cells.push(estimate(row.values.get(index).copied().flatten(), 2));
            }
            // The geometric mean of the ratios over the sets that both have.
            let logs: Vec<f64> = teacher
                .into_iter()
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
                let scaled = Estimate {
                    value: e.value * scale,
                    std_error: e.std_error.map(|s| s * scale),
                };
                estimate(Some(scaled), digits)
            };
            let cells = vec![
                html(
                    format!(
                        "{}<small>{}</small>",
                        escape(&task.title),
                        escape(&task.conditions)
                    ),
                    "two",
                ),
                text(&task.metric.to_string()),
                number(
                    &task
                        .chance
                        .map(|c| grouped(c * scale, digits))
                        .unwrap_or_default(),
                ),
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
    matches!(
        metric,
        MetricKind::Acc | MetricKind::AccNorm | MetricKind::ExactMatch | MetricKind::F1
    )
}

/// The share kept as a bar and a number.
fn kept(task: &Comparison) -> Cell {
    let Some(relative) = task.relative.filter(|r| r.value.is_finite()) else {
        let why = if task.chance.is_some() {
            "teacher at chance"
        } else {
            ""
        };
        return html(escape(why), "num soft");
    };
    let width = relative.value.clamp(0.0, 1.2) / 1.2 * 84.0;
    let error = relative
        .std_error
        .map(|e| {
            format!(
                " <span class=\"soft error\">± {}</span>",
                escape(&grouped(e * 100.0, 0))
            )
        })
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

fn estimate(value: Option<Estimate>, digits: usize) -> Cell {
    let Some(value) = value else {
        return html("<span class=\"soft\">not measured</span>".into(), "num");
    };
    let error = match value.std_error {
        Some(error) => format!(
            "<span class=\"pm\">± {}</span>",
            escape(&grouped(error, digits))
        ),
        None => String::new(),
    };
    html(
        format!("{}{error}", escape(&grouped(value.value, digits))),
        "num",
    )
}

fn row_class(role: Role) -> &'static str {
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

fn memory(report: &Report) -> String {
    let series: Vec<Series> = report
        .memory
        .iter()
        .map(|curve| Series {
            name: curve.label.clone(),
            style: match curve.role {
                Role::Student => Style::Strong,
                Role::Teacher => Style::Reference,
                Role::Other => Style::Faint,
            },
            points: curve
                .points
                .iter()
                .map(|(tokens, bytes)| (*tokens as f64, *bytes as f64))
                .collect(),
        })
        .collect();
    let description = series
        .iter()
        .filter_map(|s| {
            let (first, last) = (s.points.first()?, s.points.last()?);
            Some(format!(
                "{}: {} at {} tokens, {} at {} tokens.",
                s.name,
                bytes(first.1),
                context(first.0 as u64),
                bytes(last.1),
                context(last.0 as u64)
            ))
        })
        .collect::<Vec<_>>()
        .join(" ");
    let chart = |id: &str, scale| {
        Lines {
            id,
            title: "Bytes that one sequence carries, against its length",
            description: &description,
            x_label: "tokens in the context",
            y_label: "bytes",
            x_format: |v| context(v as u64),
            y_format: bytes,
            x_scale: scale,
            y_scale: scale,
            series: &series,
        }
        .svg()
    };
    let Some(log) = chart("memory-log", Scale::Log2) else {
        return String::new();
    };
    let linear = chart("memory-linear", Scale::Linear).unwrap_or_default();
    let mut lengths: Vec<u64> = report
        .memory
        .iter()
        .flat_map(|m| m.points.iter().map(|p| p.0))
        .collect();
    lengths.sort_unstable();
    lengths.dedup();
    let mut heads = vec!["context".to_string()];
    heads.extend(report.memory.iter().map(|m| format!("#{}", m.label)));
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let rows: Vec<_> = lengths
        .iter()
        .map(|length| {
            let mut cells = vec![text(&context(*length))];
            cells.extend(report.memory.iter().map(|m| {
                let at = m.points.iter().find(|p| p.0 == *length);
                number(&at.map(|p| bytes(p.1 as f64)).unwrap_or_default())
            }));
            ("", cells)
        })
        .collect();
    let table = table(
        "Bytes that one sequence carries from token to token.",
        &heads,
        &rows,
    );
    format!(
        "<div class=\"pair\">{}<div>{table}</div></div>\n",
        figure(
            "memory",
            "Memory of one sequence",
            &legend(&series),
            &linear,
            &log,
            true
        )
    )
}

/// A figure; with two drawings, one on linear and one on logarithmic axes, and a choice of them.
fn figure(id: &str, title: &str, legend: &str, linear: &str, log: &str, log_first: bool) -> String {
    let title = escape(title);
    if linear.is_empty() || log.is_empty() {
        return format!(
            "<figure><figcaption>{title}</figcaption>{legend}<div class=\"scroll\">{linear}{log}</div></figure>\n"
        );
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

/// `32 k` for 32,768: lengths are powers of two.
fn context(tokens: u64) -> String {
    if tokens >= 1024 && tokens.is_multiple_of(1024) {
        format!("{} k", grouped((tokens / 1024) as f64, 0))
    } else {
        grouped(tokens as f64, 0)
    }
}

fn speed(report: &Report) -> String {
    let items: Vec<Bar> = report
        .speed
        .iter()
        .map(|s| Bar {
            label: format!("{}, {} tokens", s.label, context(s.context)),
            value: s.tokens_per_second,
            shown: format!("{} tok/s", short(s.tokens_per_second)),
            accent: s.role == Role::Student,
        })
        .collect();
    let description = items
        .iter()
        .map(|b| format!("{}: {}.", b.label, b.shown))
        .collect::<Vec<_>>()
        .join(" ");
    let title = "Tokens written a second, by context already read";
    match bars("speed-bars", title, &description, &items) {
        None => String::new(),
        Some(svg) => {
            let rows: Vec<_> = report
                .speed
                .iter()
                .map(|s| {
                    let cells = vec![
                        text(&s.label),
                        number(&context(s.context)),
                        number(&grouped(s.tokens_per_second, 1)),
                    ];
                    (row_class(s.role), cells)
                })
                .collect();
            let table = table(
                "Generation, one sequence.",
                &["model", "#context", "#tokens a second"],
                &rows,
            );
            format!(
                "<div class=\"pair\"><figure><figcaption>{title}</figcaption><div class=\"scroll\">{svg}</div></figure><div>{table}</div></div>\n"
            )
        }
    }
}

fn plan(report: &Report) -> String {
    if report.plan.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = report
        .plan
        .iter()
        .map(|stage| {
            let share = match stage.total_parameters {
                0 => String::new(),
                total => format!(
                    "<span class=\"pm\">of {}</span>",
                    escape(&count(total as f64))
                ),
            };
            let cells = vec![
                text(&stage.name),
                text(&stage.objective),
                text(&stage.trains),
                html(
                    format!(
                        "{}{share}",
                        escape(&count(stage.trainable_parameters as f64))
                    ),
                    "num",
                ),
                number(&count(stage.tokens as f64)),
                number(&grouped(stage.steps as f64, 0)),
                number(&grouped(stage.sequence_length as f64, 0)),
                text(&stage.learning_rate),
            ];
            ("", cells)
        })
        .collect();
    table(
        "The stages, in order.",
        &[
            "stage",
            "objective",
            "trains",
            "#parameters",
            "#tokens",
            "#steps",
            "#length",
            "learning rate",
        ],
        &rows,
    )
}

fn pairs(points: &[Point]) -> Vec<(f64, f64)> {
    points.iter().map(|p| (p.tokens as f64, p.value)).collect()
}

fn training(report: &Report) -> String {
    let mut out = String::new();
    for (index, stage) in report.curves.iter().enumerate() {
        let mut series = Vec::new();
        if !stage.training.is_empty() {
            series.push(Series {
                name: "training".into(),
                style: if stage.held_out.is_empty() {
                    Style::Strong
                } else {
                    Style::Faint
                },
                points: pairs(&stage.training),
            });
        }
        if !stage.held_out.is_empty() {
            series.push(Series {
                name: "held out".into(),
                style: Style::Marked,
                points: pairs(&stage.held_out),
            });
        }
        let description = describe(stage);
        let title = match stage.quantity.as_str() {
            "" => stage.stage.clone(),
            quantity => format!("{}: {quantity}", stage.stage),
        };
        let chart = |id: &str, y_scale| {
            Lines {
                id,
                title: &title,
                description: &description,
                x_label: "tokens",
                y_label: "loss",
                x_format: count,
                y_format: short,
                x_scale: Scale::Linear,
                y_scale,
                series: &series,
            }
            .svg()
            .unwrap_or_default()
        };
        let id = format!("loss-{index}");
        let linear = chart(&format!("{id}-linear"), Scale::Linear);
        let log = chart(&format!("{id}-log"), Scale::Log10);
        if linear.is_empty() && log.is_empty() {
            continue;
        }
        out.push_str("<div class=\"stage\">\n");
        out.push_str(&figure(
            &id,
            &title,
            &legend(&series),
            &linear,
            &log,
            steep(&series),
        ));
        out.push_str(&curve_table(stage));
        out.push_str("</div>\n");
    }
    if out.is_empty() {
        return out;
    }
    format!("<div class=\"grid\">\n{out}</div>\n")
}

/// Whether the values span so much that a linear axis would show only the first of them.
fn steep(series: &[Series]) -> bool {
    let values = || {
        series
            .iter()
            .flat_map(|s| s.points.iter().map(|p| p.1))
            .filter(|v| v.is_finite() && *v > 0.0)
    };
    values().fold(0.0, f64::max) > 8.0 * values().fold(f64::INFINITY, f64::min)
}

fn describe(stage: &StageCurves) -> String {
    let one = |name: &str, points: &[Point]| {
        let (first, last) = (points.first()?, points.last()?);
        Some(format!(
            "{name} loss from {} to {} over {} tokens.",
            short(first.value),
            short(last.value),
            count(last.tokens as f64)
        ))
    };
    [
        one("Training", &stage.training),
        one("Held-out", &stage.held_out),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join(" ")
}

/// The curve in at most a dozen numbers, for those who cannot or would not look at it.
fn curve_table(stage: &StageCurves) -> String {
    let mut rows = Vec::new();
    for (name, points) in [("training", &stage.training), ("held out", &stage.held_out)] {
        for (tokens, value) in thin(&pairs(points), 6) {
            let cells = vec![text(name), number(&count(tokens)), number(&short(value))];
            rows.push(("", cells));
        }
    }
    format!(
        "<details><summary>Numbers</summary>{}</details>\n",
        table(
            "Means over equal stretches.",
            &["curve", "#tokens", "#loss"],
            &rows
        )
    )
}

fn layers(report: &Report) -> String {
    let mut out = String::new();
    for (index, stage) in report.curves.iter().enumerate() {
        let rows: Vec<Row> = stage
            .layers
            .iter()
            .map(|layer| Row {
                label: layer.layer.to_string(),
                points: pairs(&layer.points),
            })
            .collect();
        let last = |row: &Row| row.points.last().map(|p| p.1).filter(|v| v.is_finite());
        let worst = rows
            .iter()
            .filter_map(|r| Some((last(r)?, &r.label)))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let description = match worst {
            Some((value, label)) => format!(
                "Loss of each of {} layers over the stage; at its end the largest is that of layer {label}, {}.",
                rows.len(),
                short(value)
            ),
            None => String::new(),
        };
        let title = format!("{}: loss of each layer, stronger is larger", stage.stage);
        if let Some(svg) = heat_map(&format!("heat-{index}"), &title, &description, count, &rows) {
            out.push_str(&format!(
                "<figure><figcaption>{}</figcaption><div class=\"scroll\">{svg}</div></figure>\n",
                escape(&title)
            ));
        }
    }
    out
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

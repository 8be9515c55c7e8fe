//! How the student was made: the stages, their curves, the loss of each layer.

use super::chart::{Lines, Row, Series, Style, heat_map, legend, thin};
use super::data::{Point, Report, StageCurves};
use super::html::{escape, html, number, table, text};
use super::number::{Scale, count, grouped, short};
use super::page::figure;

pub(super) fn plan(report: &Report) -> String {
    if report.plan.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = report
        .plan
        .iter()
        .map(|stage| {
            let share = match stage.total_parameters {
                0 => String::new(),
                total => format!("<span class=\"pm\">of {}</span>", escape(&count(total as f64))),
            };
            let cells = vec![
                text(&stage.name),
                text(&stage.objective),
                text(&stage.trains),
                html(format!("{}{share}", escape(&count(stage.trainable_parameters as f64))), "num"),
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
        &["stage", "objective", "trains", "#parameters", "#tokens", "#steps", "#length", "learning rate"],
        &rows,
    )
}

/// Points as a chart takes them.
pub(super) fn pairs(points: &[Point]) -> Vec<(f64, f64)> {
    points.iter().map(|p| (p.tokens as f64, p.value)).collect()
}

pub(super) fn training(report: &Report) -> String {
    let mut out = String::new();
    for (index, stage) in report.curves.iter().enumerate() {
        let mut series = Vec::new();
        if !stage.training.is_empty() {
            series.push(Series {
                name: "training".into(),
                style: if stage.held_out.is_empty() { Style::Strong } else { Style::Faint },
                points: pairs(&stage.training),
            });
        }
        if !stage.held_out.is_empty() {
            series.push(Series { name: "held out".into(), style: Style::Marked, points: pairs(&stage.held_out) });
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
        out.push_str(&figure(&id, &title, &legend(&series), &linear, &log, steep(&series)));
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
    let values = || series.iter().flat_map(|s| s.points.iter().map(|p| p.1)).filter(|v| v.is_finite() && *v > 0.0);
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
    [one("Training", &stage.training), one("Held-out", &stage.held_out)].into_iter().flatten().collect::<Vec<_>>().join(" ")
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
        table("Means over equal stretches.", &["curve", "#tokens", "#loss"], &rows)
    )
}

pub(super) fn layers(report: &Report) -> String {
    let mut out = String::new();
    for (index, stage) in report.curves.iter().enumerate() {
        let rows: Vec<Row> =
            stage.layers.iter().map(|layer| Row { label: layer.layer.to_string(), points: pairs(&layer.points) }).collect();
        let last = |row: &Row| row.points.last().map(|p| p.1).filter(|v| v.is_finite());
        let worst = rows.iter().filter_map(|r| Some((last(r)?, &r.label))).max_by(|a, b| a.0.total_cmp(&b.0));
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

//! What the student costs to run: memory against length, speed of generation.

use super::chart::{Bar, Lines, Series, Style, bars, legend};
use super::data::{Report, Role};
use super::html::{number, table, text};
use super::number::{Scale, bytes, grouped, short};
use super::page::{figure, row_class};

pub(super) fn memory(report: &Report) -> String {
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
            points: curve.points.iter().map(|(tokens, bytes)| (*tokens as f64, *bytes as f64)).collect(),
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
    let mut lengths: Vec<u64> = report.memory.iter().flat_map(|m| m.points.iter().map(|p| p.0)).collect();
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
    let table = table("Bytes that one sequence carries from token to token.", &heads, &rows);
    format!(
        "<div class=\"pair\">{}<div>{table}</div></div>\n",
        figure("memory", "Memory of one sequence", &legend(&series), &linear, &log, true)
    )
}

pub(super) fn speed(report: &Report) -> String {
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
    let description = items.iter().map(|b| format!("{}: {}.", b.label, b.shown)).collect::<Vec<_>>().join(" ");
    let title = "Tokens written a second, by context already read";
    match bars("speed-bars", title, &description, &items) {
        None => String::new(),
        Some(svg) => {
            let rows: Vec<_> = report
                .speed
                .iter()
                .map(|s| {
                    let cells = vec![text(&s.label), number(&context(s.context)), number(&grouped(s.tokens_per_second, 1))];
                    (row_class(s.role), cells)
                })
                .collect();
            let table = table("Generation, one sequence.", &["model", "#context", "#tokens a second"], &rows);
            format!(
                "<div class=\"pair\"><figure><figcaption>{title}</figcaption><div class=\"scroll\">{svg}</div></figure><div>{table}</div></div>\n"
            )
        }
    }
}

/// `32 k` for 32,768: lengths are powers of two.
pub(super) fn context(tokens: u64) -> String {
    if tokens >= 1024 && tokens.is_multiple_of(1024) {
        format!("{} k", grouped((tokens / 1024) as f64, 0))
    } else {
        grouped(tokens as f64, 0)
    }
}

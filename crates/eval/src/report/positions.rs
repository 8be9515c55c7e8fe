//! Whether the student uses what stands far before as its teacher does: loss of the next token by position in windows as
//! long as those of the longest stage.

use super::chart::{Lines, Series, Style, legend};
use super::data::{Report, null_is_nan};
use super::html::{number, table, text};
use super::number::{Scale, grouped, short};
use super::page::figure;
use super::serving::context;
use serde::{Deserialize, Serialize};

/// Loss of the next token by position; without rows where no stage reads longer windows than the run is judged in.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PositionTable {
    /// From the beginning of a window to its end.
    pub rows: Vec<PositionRow>,
    /// How it was measured (windows, tokens, what the teacher was trained on).
    pub conditions: String,
}

/// The loss at some positions.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PositionRow {
    /// The first of them, counted from 0.
    pub first: u64,
    /// The last of them.
    pub last: u64,
    /// Tokens measured there.
    pub tokens: u64,
    /// The student's, in nats a token.
    #[serde(deserialize_with = "null_is_nan")]
    pub student: f64,
    /// The teacher's, in nats a token; absent where it was not measured.
    pub teacher: Option<f64>,
}

pub(super) fn positions(report: &Report) -> String {
    let data = &report.positions;
    if data.rows.is_empty() {
        return String::new();
    }
    let taught = data.rows.iter().any(|row| row.teacher.is_some());
    let mut series = vec![line("student", Style::Marked, &data.rows, |row| Some(row.student))];
    if taught {
        series.insert(0, line("teacher", Style::Reference, &data.rows, |row| row.teacher));
    }
    let drawing = drawing(&series).map(|svg| figure("positions", TITLE, &legend(&series), &svg, "", false));
    let mut heads = vec!["positions", "#tokens", "#student"];
    if taught {
        heads.extend(["#teacher", "#above teacher"]);
    }
    let rows: Vec<_> = data
        .rows
        .iter()
        .map(|row| {
            let mut cells = vec![
                text(&format!("{}–{}", grouped(row.first as f64, 0), grouped(row.last as f64, 0))),
                number(&grouped(row.tokens as f64, 0)),
                number(&grouped(row.student, 3)),
            ];
            if taught {
                let nats = |value: Option<f64>| number(&value.map(|nats| grouped(nats, 3)).unwrap_or_default());
                cells.extend([nats(row.teacher), nats(row.teacher.map(|teacher| row.student - teacher))]);
            }
            ("", cells)
        })
        .collect();
    let caption = format!(
        "Loss of the next token on held-out text, nats a token, by position ({}); less is better. Where it goes on falling, \
         what stands further back is of use.",
        data.conditions
    );
    let table = table(&caption, &heads, &rows);
    match drawing {
        Some(drawing) => format!("<div class=\"pair\">{drawing}<div>{table}</div></div>\n"),
        None => table,
    }
}

const TITLE: &str = "Loss of the next token by position";

/// Every row at its end: so much may have been seen there.
fn line(name: &str, style: Style, rows: &[PositionRow], value: fn(&PositionRow) -> Option<f64>) -> Series {
    let points = rows.iter().filter_map(|row| Some((row.last as f64 + 1.0, value(row)?))).collect();
    Series { name: name.into(), style, points }
}

fn drawing(series: &[Series]) -> Option<String> {
    let describe = |one: &Series| {
        let (first, last) = (one.points.first()?, one.points.last()?);
        let at = |(end, nats): (f64, f64)| format!("{} nats up to position {}", short(nats), context(end as u64));
        Some(format!("{}: {}, {}.", one.name, at(*first), at(*last)))
    };
    let description = series.iter().filter_map(describe).collect::<Vec<_>>().join(" ");
    let lines = Lines {
        id: "positions-lines",
        title: TITLE,
        description: &description,
        x_label: "up to position",
        y_label: "nats a token",
        x_format: |end| context(end as u64),
        y_format: short,
        x_scale: Scale::Log2,
        y_scale: Scale::Linear,
        series,
    };
    lines.svg()
}

#[cfg(test)]
mod tests {
    use super::super::render;
    use super::*;

    fn report(teacher: Option<f64>) -> Report {
        let row = |first, last, student| PositionRow { first, last, tokens: 6400, student, teacher };
        let rows = vec![row(0, 63, 2.5), row(64, 127, 2.25), row(128, 2047, 2.125)];
        Report { positions: PositionTable { rows, conditions: "windows of <2048> tokens".into() }, ..Report::default() }
    }

    #[test]
    fn student_and_teacher_stand_beside_each_other() {
        let page = render(&report(Some(2.0)));
        for shown in ["<section id=\"positions\"", "128–2,047", "0.125", "class=\"reference\"", "&lt;2048&gt;"] {
            assert!(page.contains(shown), "{shown}");
        }
        let alone = positions(&report(None));
        assert!(alone.contains("2.125") && !alone.contains("teacher") && !alone.contains("reference"), "{alone}");
        assert!(positions(&report(Some(f64::NAN))).contains("not finite"));
    }

    #[test]
    fn a_run_without_longer_stages_has_no_section_and_no_word_of_it() {
        let page = render(&Report::default());
        assert!(!page.contains("by position") && !page.contains("id=\"positions\""), "{page}");
    }
}

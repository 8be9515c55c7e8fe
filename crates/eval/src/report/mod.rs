//! The report of a conversion run: one HTML page without any outside resource, and the same
//! numbers as JSON.
//!
//! [`Report`] is the data (`data.rs`, which is also `report.json`); `page.rs`,
//! `bound.rs`, `positions.rs`, `serving.rs` and `training.rs` lay it out, one function a section; `chart.rs` draws;
//! `number.rs` words numbers and finds round ticks; `style.css` holds light, dark and print. To
//! add a section, add its data to [`Report`], a function, and its line to `render`. The tests at the end hold the page to: no
//! outside resource, all text escaped, every drawing with title and description, any part of the
//! data missing.

mod bound;
mod chart;
mod data;
mod html;
mod number;
mod page;
mod positions;
mod serving;
mod training;

use std::path::Path;

pub(crate) use data::null_is_nan;
pub use data::{
    BoundKind, BoundRow, BoundTable, FORMAT, Fact, LayerCurve, MemoryCurve, PerplexityRow, PerplexityTable, Point, Provenance,
    Report, Role, Sample, SampleText, Speed, StageCurves, StagePlan,
};
pub use number::bytes;
pub use page::render;
pub use positions::{PositionRow, PositionTable};

use crate::error::{EvalError, Result};
use crate::results::Comparison;

/// Writes `report.html` and `report.json` into a folder, each beside its place and renamed into
/// it.
///
/// # Errors
/// A file cannot be written.
pub fn write(folder: &Path, report: &Report) -> Result<()> {
    let json =
        serde_json::to_string(report).map_err(|error| EvalError::Setting(format!("cannot write the report as JSON: {error}")))?;
    for (name, text) in [("report.json", json), ("report.html", render(report))] {
        let path = folder.join(name);
        recast_text::files::replace(&path, text.as_bytes()).map_err(EvalError::io("cannot write", &path))?;
    }
    Ok(())
}

/// Puts comparisons into the report of a run, in place of those of the same tasks, and leaves the rest of it as it is
/// now: whoever evaluates for hours is not the only one who writes there.
///
/// # Errors
/// The report cannot be read or written.
pub fn add(folder: &Path, rows: &[Comparison]) -> Result<()> {
    let mut report = read(&folder.join("report.json"))?;
    report.tasks.retain(|old| rows.iter().all(|new| new.task != old.task));
    report.tasks.extend(rows.iter().cloned());
    write(folder, &report)
}

/// Reads a `report.json`.
///
/// # Errors
/// The file cannot be read or is not a report of this format.
pub fn read(path: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).map_err(EvalError::io("cannot read", path))?;
    let report: Report = serde_json::from_str(&text)
        .map_err(|error| EvalError::Setting(format!("{}: expected a report, found {error}", path.display())))?;
    if report.format != FORMAT {
        return Err(EvalError::Setting(format!(
            "{}: expected report format {FORMAT}, found {}; read it with the version that wrote it",
            path.display(),
            report.format
        )));
    }
    Ok(report)
}

#[cfg(test)]
mod tests;

//! A quantised weight in memory.

use super::lanes::ROWS;
use super::{Format, product, quantise};
use rayon::prelude::*;
use std::sync::Arc;

/// A weight `[rows, columns]` (`[out, in]`) whose rows are blocks of few bits. Clones share it.
#[derive(Clone, Debug)]
pub struct QuantMatrix(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    format: Format,
    rows: usize,
    columns: usize,
    /// Panels of sixteen rows, the last one filled up with zeros.
    panels: Vec<Line>,
}

/// A cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Why a matrix cannot be quantised.
#[derive(Debug, thiserror::Error)]
pub enum QuantError {
    /// Rows are not whole blocks.
    #[error("rows of {columns} elements do not divide into {format} blocks of {block}")]
    Width {
        /// The format.
        format: Format,
        /// Elements of a row.
        columns: usize,
        /// Elements of a block.
        block: usize,
    },
    /// Too few or too many bytes or values.
    #[error("expected {expected} {what} for {rows} rows of {columns} elements in {format}, found {found}")]
    Length {
        /// `bytes` or `values`.
        what: &'static str,
        /// The format.
        format: Format,
        /// Rows.
        rows: usize,
        /// Elements of a row.
        columns: usize,
        /// As many as fit.
        expected: usize,
        /// As many as came.
        found: usize,
    },
    /// This format is only read.
    #[error("{0} is read from files, but not made here; expected q8_0, q4_0 or q4_1")]
    NotMade(Format),
    /// NaN or infinity among the values.
    #[error("row {row} holds a value that is not finite")]
    NotFinite {
        /// Which row.
        row: usize,
    },
}

impl QuantMatrix {
    /// From the blocks of a file, row by row.
    ///
    /// # Errors
    /// When rows are not whole blocks, or there are not as many bytes.
    pub fn from_blocks(format: Format, rows: usize, columns: usize, bytes: &[u8]) -> Result<Self, QuantError> {
        let code = format.code();
        let (elements, stored) = code.stored;
        if columns == 0 || !columns.is_multiple_of(elements) {
            return Err(QuantError::Width { format, columns, block: elements });
        }
        let blocks = columns / elements;
        let expected = rows.checked_mul(blocks).and_then(|n| n.checked_mul(stored)).unwrap_or(usize::MAX);
        if bytes.len() != expected {
            return Err(QuantError::Length { what: "bytes", format, rows, columns, expected, found: bytes.len() });
        }
        let panel = blocks * code.woven;
        let mut panels = vec![Line([0; 64]); (rows.div_ceil(ROWS) * panel).div_ceil(64)];
        let memory = bytes_of(&mut panels);
        memory.par_chunks_mut(panel).take(rows.div_ceil(ROWS)).enumerate().for_each(|(index, panel)| {
            for row in 0..ROWS.min(rows - index * ROWS) {
                let start = (index * ROWS + row) * blocks * stored;
                let from = bytes[start..start + blocks * stored].chunks_exact(stored);
                for (from, to) in from.zip(panel.chunks_exact_mut(code.woven)) {
                    (code.weave)(from, row, to);
                }
            }
        });
        Ok(Self(Arc::new(Inner { format, rows, columns, panels })))
    }

    /// Rounds `values`, row by row.
    ///
    /// # Errors
    /// When rows are not whole blocks, values are missing or not finite, or the format is only read.
    pub fn quantise(format: Format, rows: usize, columns: usize, values: &[f32]) -> Result<Self, QuantError> {
        let bytes = quantise::blocks(format, rows, columns, values)?;
        Self::from_blocks(format, rows, columns, &bytes)
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.0.format
    }

    /// Rows: outputs.
    pub fn rows(&self) -> usize {
        self.0.rows
    }

    /// Elements of a row: inputs.
    pub fn columns(&self) -> usize {
        self.0.columns
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.0.panels.len() * 64
    }

    /// Writes the values of one row.
    ///
    /// # Panics
    /// When there is no such row, or `out` is not as wide.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        product::row(self, row, out);
    }

    /// All values, row by row.
    pub fn values(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows() * self.columns()];
        out.par_chunks_mut(self.columns()).enumerate().for_each(|(row, out)| self.row(row, out));
        out
    }

    pub(super) fn panels(&self) -> &[u8] {
        let lines = &self.0.panels;
        // SAFETY: lines are bytes, 64 of them.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 64) }
    }
}

fn bytes_of(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: lines are bytes, 64 of them.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 64) }
}

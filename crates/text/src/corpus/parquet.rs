//! Parquet: a column of text, a row a document.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::{Content, Document, Documents};
use crate::error::{Result, TextError};

/// Rows decoded at a time; documents are large, so few.
const BATCH_ROWS: usize = 256;

struct Rows {
    source: Arc<Path>,
    reader: ParquetRecordBatchReader,
    batch: Option<RecordBatch>,
    row: usize,
    record: u64,
}

pub(super) fn documents(path: &Path, column: &str) -> Result<Documents> {
    let file = File::open(path).map_err(TextError::io("open", path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)
        .map_err(|error| TextError::file(path, format!("expected a Parquet file, but {error}")))?;
    let names: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    if !names.iter().any(|name| name == column) {
        return Err(TextError::file(path, format!("expected a column {column:?}, found {names:?}")));
    }
    let mask = ProjectionMask::columns(builder.parquet_schema(), [column]);
    let reader = builder
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(|error| TextError::file(path, error.to_string()))?;
    Ok(Box::new(Rows { source: path.into(), reader, batch: None, row: 0, record: 0 }))
}

/// The text of one row; `None` where the row has none.
fn text(batch: &RecordBatch, row: usize) -> Result<Option<String>, String> {
    let column = batch.column(0);
    if column.is_null(row) {
        return Ok(None);
    }
    if let Some(texts) = column.as_string_opt::<i32>() {
        Ok(Some(texts.value(row).to_owned()))
    } else if let Some(texts) = column.as_string_opt::<i64>() {
        Ok(Some(texts.value(row).to_owned()))
    } else if let Some(texts) = column.as_string_view_opt() {
        Ok(Some(texts.value(row).to_owned()))
    } else {
        Err(format!("the column holds {}; expected text", column.data_type()))
    }
}

impl Iterator for Rows {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rows = self.batch.as_ref().map_or(0, RecordBatch::num_rows);
            let Some(batch) = self.batch.as_ref().filter(|_| self.row < rows) else {
                let wrong = |error: String| TextError::record(&self.source, self.record + 1, error);
                match self.reader.next()? {
                    Ok(batch) => (self.batch, self.row) = (Some(batch), 0),
                    Err(error) => return Some(Err(wrong(error.to_string()))),
                }
                continue;
            };
            let text = text(batch, self.row);
            self.row += 1;
            self.record += 1;
            let (source, record) = (Arc::clone(&self.source), self.record);
            match text {
                Ok(None) => {}
                Ok(Some(text)) => {
                    return Some(Ok(Document { content: Content::Text(text), source, record }));
                }
                Err(problem) => return Some(Err(TextError::record(&source, record, problem))),
            }
        }
    }
}

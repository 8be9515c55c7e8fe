//! Text from Parquet files, written here and read back, whole and broken.

#![cfg(feature = "parquet")]
#![allow(clippy::unwrap_used)]

use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use recast_text::{Content, CorpusOptions, Result, open};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

fn write(path: &Path, name: &str, column: ArrayRef) {
    let number: ArrayRef = Arc::new(Int32Array::from(vec![7; column.len()]));
    let batch = RecordBatch::try_from_iter([("n", number), (name, column)]).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn texts(path: &Path, field: &str) -> Result<Vec<String>> {
    let options = CorpusOptions { text_field: field.into(), ..CorpusOptions::default() };
    open(&[path.to_path_buf()], options)?
        .map(|document| match document?.content {
            Content::Text(text) => Ok(text),
            Content::Tokens { .. } => panic!("expected text"),
        })
        .collect()
}

#[test]
fn rows_are_documents() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write(&path, "text", Arc::new(StringArray::from(vec![Some("one"), None, Some("three")])));
    assert_eq!(texts(&path, "text").unwrap(), ["one", "three"]);
    assert!(texts(&path, "body").unwrap_err().to_string().contains("\"text\""));
    assert!(texts(&path, "n").unwrap_err().to_string().contains("Int32"));
    let bytes = std::fs::read(&path).unwrap();
    for cut in [0, 4, bytes.len() / 2, bytes.len() - 1] {
        let cut_off = folder.path().join("b.parquet");
        std::fs::write(&cut_off, &bytes[..cut]).unwrap();
        assert!(texts(&cut_off, "text").is_err());
    }
}

//! Plain text: a file is one document, or several with a separator between.

use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use super::{BYTE_ORDER_MARK, Content, CorpusOptions, Document, Documents, MAX_RECORD_BYTES};
use crate::error::{Result, TextError};

pub(super) fn documents(path: &Path, reader: Box<dyn BufRead + Send>, options: &CorpusOptions) -> Result<Documents> {
    let mut bytes = Vec::new();
    reader.take(MAX_RECORD_BYTES + 1).read_to_end(&mut bytes).map_err(TextError::io("read", path))?;
    if bytes.len() as u64 > MAX_RECORD_BYTES {
        return Err(TextError::file(path, "larger than 1 GiB as text; split it, or convert it to .jsonl"));
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        TextError::file(path, format!("expected UTF-8 text, found other bytes at offset {at}"))
    })?;
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len());
    }
    let parts: Vec<String> = match &options.split_text_at {
        None => vec![text],
        Some(separator) => text.split(separator.as_str()).map(str::to_owned).collect(),
    };
    let source: Arc<Path> = path.into();
    // A separator at the end of a file, or two in a row, makes no document.
    let numbered = (1u64..).zip(parts).filter(|(_, text)| !text.trim().is_empty());
    Ok(Box::new(
        numbered.map(move |(record, text)| Ok(Document { content: Content::Text(text), source: Arc::clone(&source), record })),
    ))
}

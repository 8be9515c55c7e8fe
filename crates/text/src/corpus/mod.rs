//! Text files of many kinds as one stream of documents.
//!
//! One file a kind: plain text (`plain.rs`), JSON lines (`json_lines.rs`), Parquet (`parquet.rs`,
//! behind the feature of that name) and Megatron's token files (`binidx.rs`); `size.rs` tells how
//! much a file of any kind holds. To add one, write an iterator of `Result<Document>` and add its
//! extension to `open_file`. The tests here hold each kind to naming file and record in its errors,
//! and hostile bytes to errors instead of panics.

mod binidx;
mod json_lines;
#[cfg(feature = "parquet")]
mod parquet;
mod plain;
mod size;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use binidx::{Binidx, BinidxWriter};
pub use size::{FileSize, file_size};

use crate::chat_template::ChatTemplate;
use crate::error::{Result, TextError};

/// The largest single record; anything longer is not a document but a mistake, or an attack that
/// expands a small compressed file.
const MAX_RECORD_BYTES: u64 = 1 << 30;

/// What a document holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Text, chats already rendered.
    Text(String),
    /// Tokens, from a source that is tokenized already.
    Tokens {
        /// Token ids.
        ids: Vec<u32>,
        /// Whether this goes on with the document before it. Very long documents come in pieces.
        continues: bool,
    },
}

/// One document and where it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The document itself.
    pub content: Content,
    /// The file.
    pub source: Arc<Path>,
    /// Line, row or number of the document in the file, from 1.
    pub record: u64,
}

/// How documents are read.
#[derive(Debug, Clone)]
pub struct CorpusOptions {
    /// Splits plain text files into documents at this string; without it a file is one document.
    pub split_text_at: Option<String>,
    /// The field (JSON) or column (Parquet) that holds the text.
    pub text_field: String,
    /// Renders records that have `messages`; without it (a tokenizer that has none) they are an error.
    pub chat_template: Option<ChatTemplate>,
}

impl Default for CorpusOptions {
    fn default() -> Self {
        Self { split_text_at: None, text_field: "text".to_owned(), chat_template: None }
    }
}

/// The stream of documents of [`open`].
pub struct Corpus {
    files: std::vec::IntoIter<PathBuf>,
    options: Arc<CorpusOptions>,
    current: Option<Documents>,
}

type Documents = Box<dyn Iterator<Item = Result<Document>> + Send>;

impl std::fmt::Debug for Corpus {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Corpus").field("files_left", &self.files.as_slice()).finish_non_exhaustive()
    }
}

/// The files that a list of paths means: files as they are, folders as the corpus files directly
/// in them, by name, without those whose name begins with a dot (macOS leaves `._a.jsonl` beside `a.jsonl`).
///
/// # Errors
/// When a path does not exist or is a pipe or a device, or a folder has no corpus file.
pub fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        let metadata = std::fs::metadata(path).map_err(TextError::io("open", path))?;
        if metadata.is_file() {
            files.push(path.clone());
            continue;
        }
        // Text is read more than once: to know it again, and to tokenize it.
        if !metadata.is_dir() {
            return Err(TextError::file(path, "a pipe or a device, which can be read once only; write its text to a file"));
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).map_err(TextError::io("list", path))? {
            let entry = entry.map_err(TextError::io("list", path))?.path();
            let hidden = entry.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            // The .idx half of a pair comes with its .bin.
            if !hidden && kind_of(&entry).is_some_and(|(kind, _)| kind != "idx") && entry.is_file() {
                found.push(entry);
            }
        }
        if found.is_empty() {
            return Err(TextError::file(path, format!("a folder without corpus files; expected {KINDS}")));
        }
        found.sort();
        files.append(&mut found);
    }
    if files.is_empty() {
        return Err(TextError::Request("no corpus file was named; expected at least one".into()));
    }
    Ok(files)
}

/// The mark that some programs begin UTF-8 text with; it is no part of the text.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Opens files (or folders of them) as one stream of documents, in the order given. The kind of a
/// file is known by its name: `.txt`, `.jsonl`, each also with `.zst` or `.gz` after it;
/// `.parquet`; `.bin` with its `.idx`. The stream ends after its first error.
///
/// # Errors
/// When a path does not exist; what is wrong inside a file is an item of the stream.
pub fn open(paths: &[PathBuf], options: CorpusOptions) -> Result<Corpus> {
    if options.split_text_at.as_deref() == Some("") {
        return Err(TextError::Request("split_text_at is empty; expected a separator such as <|endoftext|>".into()));
    }
    Ok(Corpus { files: expand(paths)?.into_iter(), options: Arc::new(options), current: None })
}

impl Iterator for Corpus {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.current.as_mut().and_then(Iterator::next) {
                if item.is_err() {
                    self.files = Vec::new().into_iter();
                    self.current = None;
                }
                return Some(item);
            }
            let path = self.files.next()?;
            match open_file(&path, &self.options) {
                Ok(documents) => self.current = Some(documents),
                Err(error) => {
                    self.files = Vec::new().into_iter();
                    self.current = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

const KINDS: &str = ".txt or .jsonl (also .zst, .gz), .parquet, or .bin with .idx";

#[derive(Clone, Copy, PartialEq)]
enum Packed {
    No,
    Zstd,
    Gzip,
}

/// The kind of a file by its name, and how it is compressed.
fn kind_of(path: &Path) -> Option<(&'static str, Packed)> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let (name, packed) = match (name.strip_suffix(".zst"), name.strip_suffix(".gz")) {
        (Some(inner), _) => (inner, Packed::Zstd),
        (_, Some(inner)) => (inner, Packed::Gzip),
        _ => (name.as_str(), Packed::No),
    };
    let kind = match name.rsplit_once('.')?.1 {
        "txt" | "text" => "txt",
        "jsonl" | "ndjson" => "jsonl",
        "parquet" if packed == Packed::No => "parquet",
        "bin" if packed == Packed::No => "bin",
        "idx" if packed == Packed::No => "idx",
        _ => return None,
    };
    Some((kind, packed))
}

fn open_file(path: &Path, options: &Arc<CorpusOptions>) -> Result<Documents> {
    let Some((kind, packed)) = kind_of(path) else {
        return Err(TextError::file(path, format!("unknown kind of corpus file; expected {KINDS}")));
    };
    Ok(match kind {
        "txt" => plain::documents(path, reader(path, packed)?, options)?,
        "jsonl" => json_lines::documents(path, reader(path, packed)?, options),
        "parquet" => parquet_documents(path, options)?,
        _ => Box::new(Binidx::open(path)?.into_documents()),
    })
}

#[cfg(feature = "parquet")]
fn parquet_documents(path: &Path, options: &CorpusOptions) -> Result<Documents> {
    parquet::documents(path, &options.text_field)
}

#[cfg(not(feature = "parquet"))]
fn parquet_documents(path: &Path, _: &CorpusOptions) -> Result<Documents> {
    Err(TextError::file(
        path,
        "this build cannot read Parquet; build with the feature \"parquet\", or convert the file to .jsonl",
    ))
}

fn reader(path: &Path, packed: Packed) -> Result<Box<dyn BufRead + Send>> {
    let file = File::open(path).map_err(TextError::io("open", path))?;
    Ok(match packed {
        Packed::No => Box::new(BufReader::with_capacity(1 << 16, file)),
        Packed::Gzip => Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(BufReader::new(file)))),
        Packed::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(file).map_err(TextError::io("read", path))?;
            // Files made with --long need a window above the default limit; 31 is the format's
            // largest. Memory is taken as a file fills it.
            decoder.window_log_max(31).map_err(TextError::io("read", path))?;
            Box::new(BufReader::with_capacity(1 << 16, decoder))
        }
    })
}

#[cfg(test)]
mod tests;

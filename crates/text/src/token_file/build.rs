//! From text to a token file, or to the one made earlier.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use super::{TokenFile, format};
use crate::corpus::{self, Content, CorpusOptions, Document};
use crate::error::{Result, TextError};
use crate::files::{hex, read_limited};
use crate::pieces::{PIECE_BYTES, pieces};
use crate::tokenizer::Tokenizer;

/// Files up to this size are known by their content; larger ones by size and time of change.
const HASHED_BYTES: u64 = 1 << 20;
/// Text tokenized at a time, on all threads.
const BATCH_BYTES: usize = 8 << 20;
const BATCH_DOCUMENTS: usize = 4096;

/// How a corpus becomes tokens.
#[derive(Debug, Clone, Default)]
pub struct TokenFileOptions {
    /// How documents are read.
    pub corpus: CorpusOptions,
    /// The token put after each document that does not end with it, usually
    /// [`Tokenizer::document_separator`].
    pub separator: Option<u32>,
    /// Stops after this many tokens.
    pub max_tokens: Option<u64>,
}

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Documents done.
    pub documents: u64,
    /// Tokens written.
    pub tokens: u64,
    /// Bytes of text tokenized.
    pub text_bytes: u64,
}

/// Told how far a build is; may end it.
type Watch<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

impl TokenFile {
    /// Tokenizes files (or folders of them) into one file in `cache_dir`, or opens the one made
    /// there earlier from the same sources, tokenizer and options. A cached file that is damaged
    /// is made again. A document above a mebibyte is tokenized in pieces, as one document still.
    /// `progress` is called after every few megabytes, and not for a cached file.
    ///
    /// # Errors
    /// What is wrong in a source, with its record; sources without any token; a full disk.
    pub fn build(
        sources: &[PathBuf],
        tokenizer: &Tokenizer,
        options: &TokenFileOptions,
        cache_dir: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let progress: Watch<'_> = &mut |now| {
            progress(now);
            ControlFlow::Continue(())
        };
        Self::build_while(sources, tokenizer, options, cache_dir, progress)
    }

    /// [`Self::build`], until `progress` breaks it off: then there is an error and no file.
    ///
    /// # Errors
    /// As [`Self::build`], and then.
    pub fn build_while(
        sources: &[PathBuf],
        tokenizer: &Tokenizer,
        options: &TokenFileOptions,
        cache_dir: &Path,
        progress: Watch<'_>,
    ) -> Result<Self> {
        let vocab_size = tokenizer.vocab_size();
        if let Some(id) = options.separator.filter(|id| *id as usize >= vocab_size) {
            return Err(TextError::Request(format!("the separator is token {id}, but the vocabulary has {vocab_size} tokens")));
        }
        let files = corpus::expand(sources)?;
        let key = key(&files, tokenizer, options)?;
        let path = cache_dir.join(format!("{}.tokens", &hex(&key)[..32]));
        if let Ok(cached) = Self::open(&path)
            && cached.key == hex(&key)
        {
            return Ok(cached);
        }
        let mut builder = Builder {
            writer: format::Writer::create(&path, vocab_size)?,
            tokenizer,
            options,
            path: &path,
            begin: tokenizer.begins_with(),
            text_bytes: 0,
            last: None,
        };
        builder.run(corpus::open(&files, options.corpus.clone())?, progress)?;
        if builder.writer.count() == 0 {
            return Err(TextError::Request(format!(
                "no tokens in {}; expected at least one document with text",
                files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
            )));
        }
        builder.writer.finish(&key, &path)?;
        Self::open(&path)
    }
}

fn key(files: &[PathBuf], tokenizer: &Tokenizer, options: &TokenFileOptions) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    // Lengths go before strings so that no two lists of strings look alike.
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(&format::VERSION.to_le_bytes());
    // Where large texts are cut decides their tokens, and any file may expand to one: a small one
    // can be compressed, or have a template put text around it.
    add(&(PIECE_BYTES as u64).to_le_bytes());
    // Raised when the same file is read as other text.
    add(b"reading 2");
    add(tokenizer.fingerprint().as_bytes());
    if let Some(begin) = tokenizer.begins_with() {
        add(&begin.to_le_bytes());
    }
    for file in files {
        // The .idx of a pair decides as much as its .bin.
        let half = (file.extension().is_some_and(|kind| kind == "bin")).then(|| file.with_extension("idx"));
        for file in std::iter::once(file.clone()).chain(half) {
            let metadata = std::fs::metadata(&file).map_err(TextError::io("open", &file))?;
            if metadata.len() <= HASHED_BYTES {
                add(b"content");
                // The name says how the content is read.
                add(file.file_name().unwrap_or_default().as_encoded_bytes());
                add(&Sha256::digest(read_limited(&file, HASHED_BYTES)?));
            } else {
                let path = file.canonicalize().map_err(TextError::io("open", &file))?;
                let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                add(b"path");
                add(path.as_os_str().as_encoded_bytes());
                add(&metadata.len().to_le_bytes());
                add(&changed.unwrap_or_default().as_nanos().to_le_bytes());
            }
        }
    }
    let chosen = &options.corpus;
    add(format!("{:?} {:?}", options.separator, options.max_tokens).as_bytes());
    add(format!("{:?} {:?}", chosen.split_text_at, chosen.text_field).as_bytes());
    add(format!("{:?}", chosen.chat_template).as_bytes());
    Ok(hash.finalize().into())
}

struct Builder<'a> {
    writer: format::Writer,
    tokenizer: &'a Tokenizer,
    options: &'a TokenFileOptions,
    path: &'a Path,
    /// What a text begins with, as in every other use of the model.
    begin: Option<u32>,
    text_bytes: u64,
    /// The last token of the document that is open.
    last: Option<u32>,
}

/// Documents, and pieces that continue one (true), to be encoded together.
#[derive(Default)]
struct Batch {
    parts: Vec<(Document, bool)>,
    bytes: usize,
}

impl Builder<'_> {
    fn run(&mut self, documents: impl Iterator<Item = Result<Document>>, progress: Watch<'_>) -> Result<()> {
        let mut batch = Batch::default();
        for document in documents {
            let document = document?;
            match &document.content {
                // In pieces, beside other documents and pieces: memory does not grow with the text, and no thread waits.
                Content::Text(text) if text.len() > PIECE_BYTES => {
                    let mut continues = false;
                    for piece in pieces(text, PIECE_BYTES) {
                        let (content, source) = (Content::Text(piece.to_owned()), Arc::clone(&document.source));
                        self.add(&mut batch, Document { content, source, record: document.record }, continues, progress)?;
                        continues = true;
                        if self.room() == 0 {
                            return Ok(());
                        }
                    }
                }
                _ => self.add(&mut batch, document, false, progress)?,
            }
            if self.room() == 0 {
                return Ok(());
            }
        }
        self.flush(&mut batch, progress)?;
        self.end_document()
    }

    /// Puts a document, or a piece that continues one, to those that are encoded together.
    fn add(&mut self, batch: &mut Batch, document: Document, continues: bool, progress: Watch<'_>) -> Result<()> {
        batch.bytes += match &document.content {
            Content::Text(text) => text.len(),
            Content::Tokens { ids, .. } => 4 * ids.len(),
        };
        batch.parts.push((document, continues));
        if batch.bytes >= BATCH_BYTES || batch.parts.len() >= BATCH_DOCUMENTS {
            self.flush(batch, progress)?;
        }
        Ok(())
    }

    /// Tokens that may still be written.
    fn room(&self) -> u64 {
        self.options.max_tokens.map_or(u64::MAX, |most| most.saturating_sub(self.writer.count()))
    }

    fn flush(&mut self, batch: &mut Batch, progress: Watch<'_>) -> Result<()> {
        let Batch { parts, .. } = std::mem::take(batch);
        let texts: Vec<&str> = parts
            .iter()
            .filter_map(|(document, _)| match &document.content {
                Content::Text(text) => Some(text.as_str()),
                Content::Tokens { .. } => None,
            })
            .collect();
        let mut encoded = self.tokenizer.encode_batch(&texts, false)?.into_iter();
        for (document, continues) in parts {
            let ids = match document.content {
                Content::Text(text) => {
                    if continues {
                        self.report(progress)?;
                    } else {
                        self.end_document()?;
                    }
                    self.text_bytes += text.len() as u64;
                    let ids = encoded.next().expect("one list of tokens a text");
                    // Chats that a template wrote have it already.
                    if let Some(begin) = self.begin
                        && !continues
                        && ids.first().is_some_and(|first| *first != begin)
                    {
                        self.push(&[begin])?;
                    }
                    ids
                }
                Content::Tokens { ids, continues } => {
                    if !continues {
                        self.end_document()?;
                    }
                    self.check(&ids, &document.source, document.record)?;
                    ids
                }
            };
            self.push(&ids)?;
        }
        self.report(progress)
    }

    fn report(&self, progress: Watch<'_>) -> Result<()> {
        let Self { writer, text_bytes, .. } = self;
        match progress(Progress { documents: writer.documents(), tokens: writer.count(), text_bytes: *text_bytes }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(TextError::Request("reading the text was broken off".into())),
        }
    }

    fn check(&self, ids: &[u32], source: &Path, record: u64) -> Result<()> {
        let size = self.tokenizer.vocab_size();
        match ids.iter().find(|id| **id as usize >= size) {
            None => Ok(()),
            Some(id) => Err(TextError::record(
                source,
                record,
                format!("token {id} is not below the tokenizer's {size}; the file was made with another tokenizer"),
            )),
        }
    }

    fn push(&mut self, ids: &[u32]) -> Result<()> {
        let take = usize::try_from(self.room()).unwrap_or(usize::MAX).min(ids.len());
        let ids = &ids[..take];
        if let Some(last) = ids.last() {
            self.last = Some(*last);
            self.writer.push(ids, self.path)?;
        }
        Ok(())
    }

    /// Puts the separator after the open document, if it has tokens and not that one last, and
    /// begins the next.
    fn end_document(&mut self) -> Result<()> {
        if let (Some(last), Some(separator)) = (self.last, self.options.separator)
            && last != separator
        {
            self.push(&[separator])?;
        }
        self.last = None;
        self.writer.begin_document();
        Ok(())
    }
}

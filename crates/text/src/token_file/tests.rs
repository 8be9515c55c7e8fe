//! Building, caching, and files that lie.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::corpus::BinidxWriter;
use crate::tokenizer::{Tokenizer, tests::bytes_vocab};

fn tokenizer() -> Tokenizer {
    Tokenizer::from_gguf(bytes_vocab()).unwrap()
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Builds, and says whether anything was tokenized.
fn build(sources: &[PathBuf], options: &TokenFileOptions, cache: &Path) -> (Result<TokenFile>, bool) {
    let mut worked = false;
    let file = TokenFile::build(sources, &tokenizer(), options, cache, &mut |_| worked = true);
    (file, worked)
}

fn separated() -> TokenFileOptions {
    TokenFileOptions { separator: Some(0), ..TokenFileOptions::default() }
}

#[test]
fn documents_are_tokens_with_separators_between() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "{\"text\": \"ab\"}\n{\"text\": \"\"}\n{\"text\": \"c<|endoftext|>\"}\n{\"text\": \"d\"}\n";
    let source = write(folder.path(), "a.jsonl", lines);
    let ids = |text: &str| tokenizer().encode(text, false).unwrap();
    let (file, worked) = build(std::slice::from_ref(&source), &separated(), folder.path());
    let file = file.unwrap();
    assert!(worked);
    assert_eq!(file.tokens(0..file.len()), ids("ab<|endoftext|>c<|endoftext|>d<|endoftext|>"));
    assert_eq!(file.document_starts(), [0, 3, 5]);
    assert_eq!((file.document(1), file.document(2)), (3..5, 5..7));
    assert_eq!(file.vocab_size(), 259);
    let (plain, _) = build(std::slice::from_ref(&source), &TokenFileOptions::default(), folder.path());
    assert_eq!(plain.unwrap().tokens(0..5), ids("abc<|endoftext|>d"));
    let short = TokenFileOptions { max_tokens: Some(4), ..separated() };
    let (short, _) = build(&[source], &short, folder.path());
    let short = short.unwrap();
    assert_eq!((short.len(), short.document_starts()), (4, &[0, 3][..]));
}

#[test]
fn documents_begin_as_the_tokenizer_begins_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "{\"text\": \"ab\"}\n{\"text\": \"\"}\n{\"text\": \"<|im_start|>c\"}\n";
    let source = write(folder.path(), "a.jsonl", lines);
    let beginning = Tokenizer::from_gguf(crate::tokenizer::GgufVocab { add_bos: Some(true), ..bytes_vocab() }).unwrap();
    assert_eq!((beginning.begins_with(), tokenizer().begins_with()), (Some(1), None));
    let file = TokenFile::build(&[source], &beginning, &separated(), folder.path(), &mut |_| {}).unwrap();
    let expected = tokenizer().encode("<|im_start|>ab<|endoftext|><|im_start|>c<|endoftext|>", false).unwrap();
    assert_eq!((file.tokens(0..file.len()), file.document_starts()), (expected, &[0, 4][..]));
}

#[test]
fn the_cache_is_used_until_something_changes() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let source = write(folder.path(), "a.txt", "some text");
    let sources = [source.clone()];
    let (first, worked) = build(&sources, &separated(), &cache);
    assert!(worked);
    let (again, worked) = build(&sources, &separated(), &cache);
    assert!(!worked);
    assert_eq!(first.unwrap().key(), again.unwrap().key());
    let (_, worked) = build(&sources, &TokenFileOptions::default(), &cache);
    assert!(worked, "other options");
    write(folder.path(), "a.txt", "some more");
    let (file, worked) = build(&sources, &separated(), &cache);
    assert!(worked, "other content of the same length");
    drop(source);

    let path = file.unwrap().path().unwrap().to_path_buf();
    let good = std::fs::read(&path).unwrap();
    for broken in [&good[..good.len() / 2], b"", b"something else entirely"] {
        std::fs::write(&path, broken).unwrap();
        let (file, worked) = build(&sources, &separated(), &cache);
        assert!(worked && file.is_ok());
        assert_eq!(std::fs::read(&path).unwrap(), good);
    }
    let left: Vec<_> = std::fs::read_dir(&cache).unwrap().collect();
    assert_eq!(left.len(), 3, "no temporary file stays behind");
}

#[test]
fn token_sources_are_taken_as_they_are_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.bin");
    let mut writer = BinidxWriter::create(&path, 300).unwrap();
    writer.push(&[5, 6, 0]).unwrap();
    writer.push(&[7]).unwrap();
    writer.finish().unwrap();
    let (file, _) = build(std::slice::from_ref(&path), &separated(), folder.path());
    let file = file.unwrap();
    assert_eq!((file.tokens(0..5), file.document_starts()), (vec![5, 6, 0, 7, 0], &[0, 3][..]));

    let mut writer = BinidxWriter::create(&path, 300).unwrap();
    writer.push(&[5]).unwrap();
    writer.push(&[280]).unwrap();
    writer.finish().unwrap();
    let message = build(&[path], &separated(), folder.path()).0.unwrap_err().to_string();
    assert!(message.contains("record 2") && message.contains("280"), "{message}");
}

#[test]
fn long_token_documents_stay_one_document() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.bin");
    let mut writer = BinidxWriter::create(&path, 259).unwrap();
    let long: Vec<u32> = (0..2_500_000).map(|number| 3 + number % 200).collect();
    writer.push(&long).unwrap();
    writer.push(&[3]).unwrap();
    writer.finish().unwrap();
    let file = build(&[path], &separated(), folder.path()).0.unwrap();
    assert_eq!(file.document_starts(), [0, 2_500_001]);
    assert_eq!(file.tokens(0..2_500_000), long);
}

#[test]
fn a_large_text_is_one_document_with_progress_inside() {
    let folder = tempfile::tempdir().unwrap();
    let (line, lines) = ("a line of some forty bytes, and no more.\n", 27_000);
    let large = line.repeat(lines);
    assert!(large.len() > crate::pieces::PIECE_BYTES);
    let sources =
        [("a.txt", "before"), ("b.txt", large.as_str()), ("c.txt", "after")].map(|(name, text)| write(folder.path(), name, text));
    let ids = |text: &str| tokenizer().encode(text, false).unwrap();
    let expected = [ids("before"), vec![0], ids(line).repeat(lines), vec![0], ids("after"), vec![0]].concat();

    let mut seen = Vec::new();
    let file = TokenFile::build(&sources, &tokenizer(), &separated(), folder.path(), &mut |now| seen.push(now)).unwrap();
    assert!(file.tokens(0..file.len()) == expected);
    assert_eq!(file.document_starts(), [0, 7, 8 + large.len() as u64]);
    let inside = 7..6 + large.len() as u64;
    assert!(seen.iter().any(|now| now.documents == 2 && inside.contains(&now.text_bytes)), "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0].text_bytes <= pair[1].text_bytes), "{seen:?}");
    let last = seen.last().unwrap();
    assert_eq!((last.documents, last.text_bytes), (3, 11 + large.len() as u64));

    let short = TokenFileOptions { max_tokens: Some(20), ..separated() };
    let short = build(&sources, &short, folder.path()).0.unwrap();
    assert_eq!((short.tokens(0..20), short.document_starts()), (expected[..20].to_vec(), &[0, 7][..]));
    assert_eq!(short.len(), 20);
}

#[test]
fn a_build_that_is_broken_off_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let source = write(folder.path(), "a.txt", "some text");
    let cache = folder.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    let mut stop = |_| std::ops::ControlFlow::Break(());
    let broken = TokenFile::build_while(&[source], &tokenizer(), &separated(), &cache, &mut stop);
    assert!(broken.unwrap_err().to_string().contains("broken off"));
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0);
}

#[test]
fn empty_sources_and_wrong_separators_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = write(folder.path(), "a.txt", "\n");
    assert!(build(std::slice::from_ref(&source), &separated(), folder.path()).0.is_err());
    let options = TokenFileOptions { separator: Some(9999), ..TokenFileOptions::default() };
    assert!(build(&[source], &options, folder.path()).0.is_err());
}

#[test]
fn wide_vocabularies_take_four_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for vocab_size in [1 << 16, (1 << 16) + 1] {
        let path = folder.path().join("t.tokens");
        let mut writer = format::Writer::create(&path, vocab_size).unwrap();
        writer.begin_document();
        writer.push(&[1, 65_535, vocab_size as u32 - 1], &path).unwrap();
        writer.finish(&[9; 32], &path).unwrap();
        let file = TokenFile::open(&path).unwrap();
        assert_eq!(file.tokens(0..3), [1, 65_535, vocab_size as u32 - 1]);
        assert_eq!((file.vocab_size(), file.key()), (vocab_size, "09".repeat(32).as_str()));
    }
}

#[test]
fn tokens_in_memory_are_checked() {
    let make = |tokens: &[u32], starts: &[u64]| TokenFile::from_tokens(tokens.to_vec(), starts.to_vec(), 10);
    assert!(make(&[1, 2, 9], &[0, 2]).is_ok());
    assert!(make(&[], &[]).is_err());
    assert!(make(&[1, 10], &[0]).is_err());
    for starts in [&[][..], &[1], &[0, 0], &[0, 2, 1], &[0, 3]] {
        assert!(make(&[1, 2, 9], starts).is_err(), "{starts:?}");
    }
}

/// A good file's bytes, made once.
fn good() -> Arc<Vec<u8>> {
    static GOOD: std::sync::OnceLock<Arc<Vec<u8>>> = std::sync::OnceLock::new();
    let make = || {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.tokens");
        let mut writer = format::Writer::create(&path, 500).unwrap();
        for document in [&[1u32, 2, 3][..], &[499, 4]] {
            writer.begin_document();
            writer.push(document, &path).unwrap();
        }
        writer.finish(&[7; 32], &path).unwrap();
        Arc::new(std::fs::read(&path).unwrap())
    };
    Arc::clone(GOOD.get_or_init(make))
}

#[test]
fn a_header_that_lies_with_a_right_checksum_is_refused() {
    use sha2::{Digest, Sha256};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.tokens");
    let lies: [(usize, u64); 8] =
        [(8, 2), (12, 4), (16, 400), (16, u64::MAX), (24, u64::MAX), (24, 4), (32, u64::MAX / 4), (32, 1)];
    for (at, value) in lies {
        let mut bytes = good().as_ref().clone();
        let width = if at < 16 { 4 } else { 8 };
        bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        let sum = Sha256::digest(&bytes[..104]);
        bytes[104..128].copy_from_slice(&sum[..24]);
        std::fs::write(&path, &bytes).unwrap();
        assert!(TokenFile::open(&path).is_err(), "byte {at} = {value}");
    }
    std::fs::write(&path, good().as_ref()).unwrap();
    assert!(TokenFile::open(&path).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_change_is_noticed(at in any::<prop::sample::Index>(), bits in 1u8.., cut in prop::option::of(any::<prop::sample::Index>())) {
        let mut bytes = good().as_ref().clone();
        let at = at.index(bytes.len());
        bytes[at] ^= bits;
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        prop_assert!(TokenFile::open(file.path()).is_err());
    }
}

//! Every kind of file, written here and read back, whole and broken.

use std::io::Write;

use proptest::prelude::*;

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn texts(path: &Path, options: CorpusOptions) -> Result<Vec<String>> {
    open(&[path.to_path_buf()], options)?
        .map(|document| match document?.content {
            Content::Text(text) => Ok(text),
            Content::Tokens { .. } => panic!("expected text"),
        })
        .collect()
}

fn zstd_long(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.long_distance_matching(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn text_files_are_one_document_or_split() {
    let folder = Folder::new();
    let path = folder.file("a.txt", b"one\n\ntwo<|endoftext|>three<|endoftext|>\n");
    assert_eq!(texts(&path, CorpusOptions::default()).unwrap().len(), 1);
    let split = CorpusOptions { split_text_at: Some("<|endoftext|>".into()), ..CorpusOptions::default() };
    assert_eq!(texts(&path, split).unwrap(), ["one\n\ntwo", "three"]);
    let empty = CorpusOptions { split_text_at: Some(String::new()), ..CorpusOptions::default() };
    assert!(texts(&path, empty).is_err());
    assert!(texts(&folder.file("b.txt", b"ok \xff"), CorpusOptions::default()).unwrap_err().to_string().contains("offset 3"));
    assert_eq!(texts(&folder.file("c.txt", b"\xef\xbb\xbfone"), CorpusOptions::default()).unwrap(), ["one"]);
}

#[test]
fn json_lines_plain_and_compressed_are_the_same() {
    let lines = b"\xef\xbb\xbf{\"text\": \"a\", \"source\": 1}\n\n{\"text\": \"b\\n\"}".as_slice();
    let folder = Folder::new();
    for (name, bytes) in [("a.jsonl", lines.to_vec()), ("a.jsonl.zst", zstd_long(lines)), ("a.jsonl.gz", gzip(lines))] {
        assert_eq!(texts(&folder.file(name, &bytes), CorpusOptions::default()).unwrap(), ["a", "b\n"], "{name}");
    }
}

#[test]
fn messages_go_through_the_template() {
    let folder = Folder::new();
    let line = br#"{"messages": [{"role": "user", "content": "hi"}]}"#;
    let path = folder.file("chat.jsonl", line);
    let message = texts(&path, CorpusOptions::default()).unwrap_err().to_string();
    assert!(message.contains("chat template") && message.contains("record 1"), "{message}");
    assert!(message.contains("its tokenizer has none") && message.contains("\"text\""), "{message}");
    let template = ChatTemplate::new("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}".into(), "", "");
    let options = CorpusOptions { chat_template: Some(template.unwrap()), ..CorpusOptions::default() };
    assert_eq!(texts(&path, options).unwrap(), ["<user>hi"]);
}

#[test]
fn errors_name_the_line_and_end_the_stream() {
    let folder = Folder::new();
    for (bad, hint) in [
        ("{\"text\": 5}", "a number"),
        ("{\"body\": \"x\"}", "body"),
        ("[1]", "JSON object"),
        ("{\"text\": ", "JSON object"),
        ("{\"messages\": 3}", "template"),
    ] {
        let path = folder.file("bad.jsonl", format!("{{\"text\": \"ok\"}}\n{bad}\n{{\"text\": \"late\"}}\n").as_bytes());
        let items: Vec<_> = open(&[path], CorpusOptions::default()).unwrap().collect();
        assert_eq!(items.len(), 2, "{bad}");
        let message = items[1].as_ref().unwrap_err().to_string();
        assert!(message.contains("bad.jsonl, record 2") && message.contains(hint), "{message}");
        assert!(!message.contains("line 1"), "{message}");
    }
}

#[test]
fn folders_are_read_by_name_and_unknown_files_refused() {
    let folder = Folder::new();
    assert!(open(&[folder.0.path().to_path_buf()], CorpusOptions::default()).is_err());
    folder.file("b.txt", b"second");
    folder.file("a.jsonl", b"{\"text\": \"first\"}");
    folder.file("README.md", b"not a corpus");
    folder.file("._a.jsonl", b"\x00\x05\x16\x07");
    folder.file(".hidden.jsonl", b"{\"text\": \"hidden\"}");
    assert_eq!(texts(folder.0.path(), CorpusOptions::default()).unwrap(), ["first", "second"]);
    assert!(texts(&folder.0.path().join("README.md"), CorpusOptions::default()).is_err());
    assert!(open(&[folder.0.path().join("absent.txt")], CorpusOptions::default()).is_err());
    assert!(open(&[], CorpusOptions::default()).is_err());
    #[cfg(unix)]
    assert!(expand(&["/dev/null".into()]).unwrap_err().to_string().contains("a pipe or a device"));
}

#[test]
fn truncated_compression_is_an_error() {
    let folder = Folder::new();
    let lines = "{\"text\": \"some words\"}\n".repeat(500);
    for (name, bytes) in [("a.jsonl.zst", zstd_long(lines.as_bytes())), ("a.jsonl.gz", gzip(lines.as_bytes()))] {
        let path = folder.file(name, &bytes[..bytes.len() / 2]);
        assert!(texts(&path, CorpusOptions::default()).is_err(), "{name}");
    }
}

fn token_documents(path: &Path) -> Result<Vec<Vec<u32>>> {
    let mut all: Vec<Vec<u32>> = Vec::new();
    for document in Binidx::open(path)?.into_documents() {
        match document?.content {
            Content::Tokens { ids, continues: false } => all.push(ids),
            Content::Tokens { ids, continues: true } => all.last_mut().unwrap().extend(ids),
            Content::Text(_) => panic!("expected tokens"),
        }
    }
    Ok(all)
}

#[test]
fn binidx_written_is_read_in_both_widths() {
    let folder = Folder::new();
    let long: Vec<u32> = (0..2_500_000).map(|number| number % 60_000).collect();
    let documents = [vec![1, 2, 3], vec![], vec![65_535], long];
    for vocab_size in [65_536, 65_537] {
        let path = folder.0.path().join(format!("data{vocab_size}.bin"));
        let mut writer = BinidxWriter::create(&path, vocab_size).unwrap();
        for document in &documents {
            writer.push(document).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(token_documents(&path).unwrap(), documents);
        assert_eq!(token_documents(&path.with_extension("idx")).unwrap(), documents);
    }
    assert!(BinidxWriter::create(&folder.0.path().join("x.bin"), 100).unwrap().push(&[70_000]).is_err());
}

/// An index by hand: three sequences of i32, the first two one document.
fn by_hand() -> (Vec<u8>, Vec<u8>) {
    let tokens: Vec<u8> = [5i32, 6, 7, 8].iter().flat_map(|token| token.to_le_bytes()).collect();
    let mut index = b"MMIDIDX\0\0".to_vec();
    index.extend(1u64.to_le_bytes());
    index.push(4);
    index.extend(3u64.to_le_bytes());
    index.extend(3u64.to_le_bytes());
    index.extend([1i32, 1, 2].iter().flat_map(|length| length.to_le_bytes()));
    index.extend([0i64, 4, 8].iter().flat_map(|offset| offset.to_le_bytes()));
    index.extend([0i64, 2, 3].iter().flat_map(|boundary| boundary.to_le_bytes()));
    (index, tokens)
}

fn pair(folder: &Folder, index: &[u8], tokens: &[u8]) -> PathBuf {
    folder.file("t.idx", index);
    folder.file("t.bin", tokens)
}

#[test]
fn binidx_documents_are_runs_of_sequences() {
    let (index, tokens) = by_hand();
    let folder = Folder::new();
    assert_eq!(token_documents(&pair(&folder, &index, &tokens)).unwrap(), [vec![5, 6], vec![7, 8]]);
    let mut modes = index.clone();
    modes.extend([0, 0, 0]);
    assert!(token_documents(&pair(&folder, &modes, &tokens)).is_ok());
}

#[test]
fn lying_binidx_files_are_refused() {
    let (index, tokens) = by_hand();
    let folder = Folder::new();
    let with = |at: usize, bytes: &[u8]| {
        let mut index = index.clone();
        index[at..at + bytes.len()].copy_from_slice(bytes);
        index
    };
    let cases = [
        (with(0, b"X"), "magic"),
        (with(9, &[2]), "version"),
        (with(17, &[6]), "float tokens"),
        (with(18, &u64::MAX.to_le_bytes()), "sequence count"),
        (with(26, &(u64::MAX / 8).to_le_bytes()), "boundary count"),
        (with(34, &(-1i32).to_le_bytes()), "negative length"),
        (with(34, &i32::MAX.to_le_bytes()), "long length"),
        (with(46, &u64::MAX.to_le_bytes()), "offset"),
        (with(70, &1u64.to_le_bytes()), "first boundary"),
        (with(78, &9u64.to_le_bytes()), "middle boundary"),
        (with(86, &2u64.to_le_bytes()), "last boundary"),
        (index[..index.len() - 1].to_vec(), "cut index"),
        (vec![], "empty index"),
    ];
    for (index, what) in cases {
        assert!(token_documents(&pair(&folder, &index, &tokens)).is_err(), "{what}");
    }
    assert!(token_documents(&pair(&folder, &index, &tokens[..15])).is_err(), "cut tokens");
    assert!(token_documents(&pair(&folder, &index, &[])).is_err(), "no tokens");
    let negative: Vec<u8> = [5i32, -6, 7, 8].iter().flat_map(|token| token.to_le_bytes()).collect();
    assert!(token_documents(&pair(&folder, &index, &negative)).is_err(), "negative token");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_index_panics(flips in prop::collection::vec((0usize..94, any::<u8>()), 1..6), cut in 0usize..95) {
        let (mut index, tokens) = by_hand();
        for (at, byte) in flips {
            index[at] = byte;
        }
        index.truncate(cut.max(60));
        let folder = Folder::new();
        let _ = token_documents(&pair(&folder, &index, &tokens));
    }

    #[test]
    fn no_line_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[{}\\[\\]\",:a-z0-9\\n]{0,80}") {
        let folder = Folder::new();
        for (name, bytes) in [("a.jsonl", bytes.as_slice()), ("b.jsonl", text.as_bytes()), ("c.jsonl.zst", &bytes), ("d.jsonl.gz", &bytes), ("e.txt", &bytes)] {
            let _ = texts(&folder.file(name, bytes), CorpusOptions::default());
        }
    }
}

//! Builds safetensors and GGUF files byte by byte, independently of the code under test.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::PathBuf;

use tempfile::TempDir;

/// One entry of a safetensors file: name, kind, shape, bytes.
pub type Entry<'a> = (&'a str, &'a str, &'a [usize], Vec<u8>);

/// A safetensors file. The header is not padded, so data may start at any address.
pub fn safetensors(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut at = 0;
    let mut header = String::from("{\"__metadata__\":{\"format\":\"pt\"}");
    let mut data = Vec::new();
    for (name, kind, shape, bytes) in entries {
        let end = at + bytes.len();
        header.push_str(&format!(",\"{name}\":{{\"dtype\":\"{kind}\",\"shape\":{shape:?},\"data_offsets\":[{at},{end}]}}"));
        data.extend_from_slice(bytes);
        at = end;
    }
    header.push('}');
    with_header(&header, &data)
}

/// A safetensors file of a header given as text.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

/// Little-endian bytes of f32.
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Writes `bytes` as `name` into a new temporary folder.
pub fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("writes");
    (folder, path)
}

/// Values for `n` elements, all different.
pub fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32 * 0.25 - 3.0).collect()
}

/// Name, axes in the file's order, kind's number, bytes, and an offset that replaces the right one.
pub type GgufTensor = (String, Vec<u64>, u32, Vec<u8>, Option<u64>);

/// A GGUF file in the making.
#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    pub alignment: usize,
    entries: Vec<Vec<u8>>,
    pub tensors: Vec<GgufTensor>,
}

fn text(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(text.as_bytes());
    out
}

impl Gguf {
    pub fn new(architecture: &str) -> Self {
        let mut this = Self { version: 3, alignment: 32, entries: Vec::new(), tensors: Vec::new() };
        this.string("general.architecture", architecture);
        this
    }

    /// The sizes of a tiny model: 2 query heads of 4, 1 key head, hidden 8, feed-forward 12.
    pub fn tiny(architecture: &str) -> Self {
        let mut this = Self::new(architecture);
        for (key, value) in [
            ("block_count", 1),
            ("context_length", 64),
            ("embedding_length", 8),
            ("feed_forward_length", 12),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ] {
            this.u32(&format!("{architecture}.{key}"), value);
        }
        this.f32(&format!("{architecture}.attention.layer_norm_rms_epsilon"), 1e-6);
        this.f32(&format!("{architecture}.rope.freq_base"), 500_000.0);
        this.tensor("token_embd.weight", &[8, 5], &ramp(40));
        this.tensor("blk.0.attn_q.weight", &[8, 8], &ramp(64));
        this.tensor("blk.0.attn_k.weight", &[8, 4], &ramp(32));
        this.tensor("blk.0.attn_v.weight", &[8, 4], &ramp(32));
        this.tensor("output_norm.weight", &[8], &ramp(8));
        this
    }

    pub fn entry(&mut self, key: &str, kind: u32, value: &[u8]) {
        let mut out = text(key);
        out.extend(kind.to_le_bytes());
        out.extend_from_slice(value);
        self.entries.push(out);
    }

    pub fn u32(&mut self, key: &str, value: u32) {
        self.entry(key, 4, &value.to_le_bytes());
    }

    pub fn f32(&mut self, key: &str, value: f32) {
        self.entry(key, 6, &value.to_le_bytes());
    }

    pub fn string(&mut self, key: &str, value: &str) {
        self.entry(key, 8, &text(value));
    }

    pub fn array(&mut self, key: &str, kind: u32, count: u64, bytes: &[u8]) {
        let mut out = kind.to_le_bytes().to_vec();
        out.extend(count.to_le_bytes());
        out.extend_from_slice(bytes);
        self.entry(key, 9, &out);
    }

    pub fn strings(&mut self, key: &str, values: &[&str]) {
        let bytes: Vec<u8> = values.iter().flat_map(|v| text(v)).collect();
        self.array(key, 8, values.len() as u64, &bytes);
    }

    /// An f32 tensor; `axes` fastest first, as the file has them.
    pub fn tensor(&mut self, name: &str, axes: &[u64], values: &[f32]) {
        self.tensors.push((name.into(), axes.to_vec(), 0, f32_bytes(values), None));
    }

    /// A small vocabulary of five tokens.
    pub fn vocab(&mut self) {
        self.string("tokenizer.ggml.model", "gpt2");
        self.string("tokenizer.ggml.pre", "smollm");
        self.strings("tokenizer.ggml.tokens", &["<|end|>", "a", "b", "ab", "\u{120}a"]);
        self.strings("tokenizer.ggml.merges", &["a b"]);
        self.array("tokenizer.ggml.token_type", 5, 5, &[3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
        self.array("tokenizer.ggml.scores", 6, 5, &f32_bytes(&[0.0, -1.0, -2.0, -3.0, -4.0]));
        self.u32("tokenizer.ggml.bos_token_id", 0);
        self.u32("tokenizer.ggml.eos_token_id", 0);
        self.entry("tokenizer.ggml.add_bos_token", 7, &[1]);
        self.string("tokenizer.chat_template", "{{ messages }}");
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.entries.len() as u64).to_le_bytes());
        out.extend(self.entries.concat());
        let mut at = 0;
        for (name, axes, kind, bytes, offset) in &self.tensors {
            out.extend(text(name));
            out.extend((axes.len() as u32).to_le_bytes());
            out.extend(axes.iter().flat_map(|a| a.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.unwrap_or(at as u64).to_le_bytes());
            at += bytes.len().next_multiple_of(self.alignment);
        }
        for (.., bytes, _) in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend_from_slice(bytes);
        }
        out
    }
}

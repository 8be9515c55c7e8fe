//! A Hugging Face folder: finds its weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::gguf::GgufCheckpoint;
use super::safetensors::SafetensorsCheckpoint;
use super::{Checkpoint, WeightsError};

/// Largest index accepted, in bytes: as for a safetensors header.
const MAX_INDEX: u64 = 100_000_000;

/// Name of the single file.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Name of the shards' index.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The part of the index that is used: tensor name to file name.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens a folder. A single file goes before an index, as in transformers.
pub(crate) fn open(folder: &Path) -> Result<Box<dyn Checkpoint>, WeightsError> {
    let single = folder.join(SINGLE);
    if single.exists() {
        return Ok(Box::new(SafetensorsCheckpoint::open_files(folder, folder, &[single])?));
    }
    let index = folder.join(INDEX);
    if index.exists() {
        return Ok(Box::new(open_shards(folder, &index)?));
    }
    let mut gguf = Vec::new();
    let mut pickle = false;
    let entries = std::fs::read_dir(folder).map_err(WeightsError::io(folder, "list it"))?;
    for entry in entries {
        let path = entry.map_err(WeightsError::io(folder, "list it"))?.path();
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        match extension.as_deref() {
            Some("gguf") => gguf.push(path),
            Some("bin" | "pt" | "pth") => pickle = true,
            _ => {}
        }
    }
    if let [one] = gguf.as_slice() {
        return Ok(Box::new(GgufCheckpoint::open(one)?));
    }
    let reason = if gguf.len() > 1 {
        format!("{} .gguf files are in the folder; name one of them", gguf.len())
    } else if pickle {
        format!("expected {SINGLE} or {INDEX}, found PyTorch pickles; convert them to safetensors")
    } else if folder.join("model").join(SINGLE).exists() {
        format!("this is a run; its model is {}", folder.join("model").display())
    } else {
        format!("expected {SINGLE} or {INDEX} in the folder")
    };
    Err(WeightsError::NotACheckpoint { path: folder.to_owned(), reason })
}

fn open_shards(folder: &Path, index: &Path) -> Result<SafetensorsCheckpoint, WeightsError> {
    let malformed = |what: String| WeightsError::Malformed { path: index.to_owned(), what };
    let metadata = std::fs::metadata(index).map_err(WeightsError::io(index, "open it"))?;
    if !metadata.is_file() {
        return Err(malformed("expected a regular file".into()));
    }
    if metadata.len() > MAX_INDEX {
        return Err(WeightsError::Limit {
            path: index.to_owned(),
            what: "the file's size in bytes",
            found: metadata.len(),
            limit: MAX_INDEX,
        });
    }
    let text = std::fs::read(index).map_err(WeightsError::io(index, "read it"))?;
    let parsed: Index = serde_json::from_slice(&text).map_err(|e| malformed(e.to_string()))?;
    if parsed.weight_map.is_empty() {
        return Err(malformed("weight_map names no tensor".into()));
    }

    let mut shards: BTreeMap<&str, usize> = BTreeMap::new();
    for shard in parsed.weight_map.values() {
        *shards.entry(shard).or_default() += 1;
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for (&shard, &tensors) in &shards {
        // A shard is a neighbour of its index: a path could lead out of the folder.
        if shard.is_empty() || shard == ".." || shard == "." || shard.contains(['/', '\\', '\0']) {
            return Err(malformed(format!("weight_map names \"{shard}\"; expected a file name without a path")));
        }
        let file = folder.join(shard);
        if !file.exists() {
            return Err(WeightsError::MissingShard { index: index.to_owned(), shard: shard.to_owned(), tensors });
        }
        files.push(file);
    }
    let checkpoint = SafetensorsCheckpoint::open_files(folder, folder, &files)?;
    for (name, shard) in &parsed.weight_map {
        if !checkpoint.holds(name, &folder.join(shard)) {
            return Err(malformed(format!(
                "tensor \"{name}\" should be in \"{shard}\" and is not; index and shards must belong together"
            )));
        }
    }
    Ok(checkpoint)
}

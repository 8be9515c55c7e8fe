//! A file seen as bytes.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::WeightsError;

/// A memory-mapped, read-only file and its path.
#[derive(Debug)]
pub(crate) struct MappedFile {
    pub(crate) path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps `path`, which must be a regular file: opening a pipe would wait for ever.
    pub(crate) fn open(path: &Path) -> Result<Self, WeightsError> {
        let metadata = std::fs::metadata(path).map_err(WeightsError::io(path, "open it"))?;
        if !metadata.is_file() {
            return Err(WeightsError::NotACheckpoint { path: path.to_owned(), reason: "expected a regular file".into() });
        }
        let file = File::open(path).map_err(WeightsError::io(path, "open it"))?;
        // SAFETY: the map is read-only and private to this value. Another process that truncates
        // the file would raise SIGBUS; `open` documents that files must not be changed in place,
        // and this program only ever replaces them by a rename.
        let map = unsafe { Mmap::map(&file) }.map_err(WeightsError::io(path, "map it into memory"))?;
        Ok(Self { path: path.to_owned(), map })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(crate) fn malformed(&self, what: impl Into<String>) -> WeightsError {
        WeightsError::Malformed { path: self.path.clone(), what: what.into() }
    }
}

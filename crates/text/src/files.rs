//! Small file helpers: reading with a ceiling, and writing beside a place and renaming into it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::error::{Result, TextError};

/// Reads a whole file, refusing one larger than `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(TextError::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(TextError::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(TextError::file(path, format!("larger than the {limit} bytes expected here")));
    }
    Ok(bytes)
}

/// Like [`read_limited`], but a file that does not exist is `None`.
pub(crate) fn read_optional(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    match path.try_exists() {
        Ok(false) => Ok(None),
        _ => read_limited(path, limit).map(Some),
    }
}

/// A temporary file in the folder of `path`, so that a later rename stays on one file system.
pub(crate) fn temporary_beside(path: &Path) -> Result<NamedTempFile> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(TextError::io("create folder", folder))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".recast-");
    #[cfg(unix)]
    {
        // Temporary files are private by default; these become ordinary files of a model folder
        // or cache, which others may read if the umask lets them.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder).map_err(TextError::io("create a file in", folder))
}

/// Renames a finished temporary file into its place.
pub(crate) fn persist(file: NamedTempFile, path: &Path) -> Result<()> {
    file.as_file().sync_all().map_err(TextError::io("write", path))?;
    file.persist(path).map_err(|error| TextError::io("rename into", path)(error.error))?;
    Ok(())
}

/// Writes `bytes` to `path` in one step: readers see the old file or the new one, never a part.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = temporary_beside(path)?;
    file.write_all(bytes).map_err(TextError::io("write", path))?;
    persist(file, path)
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

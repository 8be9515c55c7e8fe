//! Small file helpers: reading with a ceiling, and writing beside a place and renaming into it.

use std::fs::File;
use std::io::{self, Read, Write};
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

/// The folder that `path` is in: `.` for a plain name.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A new file beside `path`, for [`put`] to rename into it, with the permissions of an ordinary file: temporary ones are
/// private by default.
///
/// # Errors
/// The folder is not there or takes no file.
pub fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".recast-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder_of(path))
}

/// Renames a finished file into its place, and waits until both are on the disk: whoever reads `path`, after a power cut
/// too, finds the old bytes or the new ones, never a part.
///
/// # Errors
/// The disk is full, or something that is not a file stands at `path`.
pub fn put(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path)?;
    // Only Unix lets a folder be opened for that, and not all of its file systems; the file is whole in any case.
    #[cfg(unix)]
    let _ = File::open(folder_of(path)).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Writes `bytes` [`beside`] `path` and [`put`]s them there.
///
/// # Errors
/// As those two.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = beside(path)?;
    file.write_all(bytes)?;
    put(file, path)
}

/// [`beside`], in a folder that is made if it is not there.
pub(crate) fn temporary_beside(path: &Path) -> Result<NamedTempFile> {
    let folder = folder_of(path);
    std::fs::create_dir_all(folder).map_err(TextError::io("create folder", folder))?;
    beside(path).map_err(TextError::io("create a file in", folder))
}

/// [`put`], with an error of this crate.
pub(crate) fn persist(file: NamedTempFile, path: &Path) -> Result<()> {
    put(file, path).map_err(TextError::io("write", path))
}

/// [`replace`], in a folder that is made if it is not there.
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
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        replace(&path, b"old and longer").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        // Nothing replaces a folder.
        let taken = folder.path().join("b");
        std::fs::create_dir(&taken).unwrap();
        assert!(replace(&taken, b"new").is_err());
        assert!(replace(&folder.path().join("c/a.toml"), b"new").is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let ordinary = folder.path().join("d");
            File::create(&ordinary).unwrap();
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&path), mode(&ordinary));
        }
    }
}

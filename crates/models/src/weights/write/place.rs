//! Putting files and folders into their places, whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

use recast_text::files::folder_of;

use crate::weights::WeightsError;
use crate::weights::folder::INDEX;

/// An operating-system error as one of ours; a full disk has its own.
pub(super) fn io_or_full(path: &Path, action: &'static str, needed: u64, source: io::Error) -> WeightsError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => WeightsError::StorageFull { path: path.to_owned(), needed },
        _ => WeightsError::Io { path: path.to_owned(), action, source },
    }
}

/// Follows links, so that what they lead to is replaced and not the link. A path that does not
/// exist yet stays as it is, and its parent is made.
fn resolve(path: &Path) -> Result<PathBuf, WeightsError> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if path.file_name().is_none() || fs::symlink_metadata(path).is_ok() {
                return Err(WeightsError::WillNotReplace {
                    path: path.to_owned(),
                    reason: "it is a link that leads nowhere, or not a name".into(),
                });
            }
            fs::create_dir_all(folder_of(path)).map_err(WeightsError::io(folder_of(path), "create it"))?;
            Ok(path.to_owned())
        }
        Err(e) => Err(WeightsError::Io { path: path.to_owned(), action: "resolve it", source: e }),
    }
}

/// Where a file is to stand.
pub(super) fn resolve_file(path: &Path) -> Result<PathBuf, WeightsError> {
    let path = resolve(path)?;
    if path.exists() && !path.is_file() {
        return Err(WeightsError::WillNotReplace { path, reason: "expected a file there, or nothing".into() });
    }
    Ok(path)
}

/// Where a folder is to stand.
pub(super) fn resolve_folder(path: &Path) -> Result<PathBuf, WeightsError> {
    let path = resolve(path)?;
    // A new folder named "a/b/" or "a/.." has no plain last part to put a sibling beside.
    match path.file_name() {
        Some(_) => Ok(path),
        None => Err(WeightsError::WillNotReplace { path, reason: "it has no name".into() }),
    }
}

/// Refuses a target that holds something other than a model: replacing it would delete that. `new` are the files that
/// the model to come has beside its weights, where they are known: any other one there would be lost.
pub(super) fn check_replaceable(target: &Path, new: Option<&[String]>) -> Result<(), WeightsError> {
    let refuse = |reason: String| Err(WeightsError::WillNotReplace { path: target.to_owned(), reason });
    if !target.exists() {
        return Ok(());
    }
    if !target.is_dir() {
        return refuse("expected a folder there, or nothing".into());
    }
    let (mut any, mut config, mut lost) = (false, false, None);
    for entry in fs::read_dir(target).map_err(WeightsError::io(target, "list it"))? {
        let entry = entry.map_err(WeightsError::io(target, "list it"))?;
        any = true;
        config |= entry.file_name() == "config.json";
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().map_err(WeightsError::io(entry.path(), "look at it"))?.is_dir() {
            return refuse(format!("it has a folder \"{name}\" inside, so it is more than a model"));
        }
        if !is_of_weights(&name) && new.is_some_and(|new| !new.contains(&name)) {
            lost = Some(name);
        }
    }
    if any && !config {
        return refuse("it is not empty and has no config.json, so it is not a model".into());
    }
    match lost {
        Some(name) => refuse(format!("\"{name}\" in it is no part of the model that is to be written, and would be lost")),
        None => Ok(()),
    }
}

/// Whether a file has the name of a model's weights or of their index.
pub(super) fn is_of_weights(name: &str) -> bool {
    name == INDEX || (name.starts_with("model") && name.ends_with(".safetensors"))
}

/// The start of a temporary sibling's name.
fn prefix(path: &Path) -> String {
    format!(".{}.", path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default())
}

/// A builder of siblings with the permissions of an ordinary new file or folder: `tempfile` would
/// make them private, and so would the model be.
fn builder<'a, 'b>(prefix: &'a str, mode: u32) -> tempfile::Builder<'a, 'b> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

pub(super) fn temporary_file(path: &Path) -> Result<NamedTempFile, WeightsError> {
    let prefix = prefix(path);
    let made = builder(&prefix, 0o666).tempfile_in(folder_of(path));
    made.map_err(WeightsError::io(folder_of(path), "create a file in it"))
}

pub(super) fn temporary_folder(path: &Path) -> Result<TempDir, WeightsError> {
    let prefix = prefix(path);
    let made = builder(&prefix, 0o777).tempdir_in(folder_of(path));
    made.map_err(WeightsError::io(folder_of(path), "create a folder in it"))
}

/// Waits until a file is on the disk. Some file systems only find out here that they are full.
pub(super) fn sync(file: &File, path: &Path, needed: u64) -> Result<(), WeightsError> {
    file.sync_all().map_err(|e| io_or_full(path, "write it to the disk", needed, e))
}

/// Writes a small file to the disk.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

/// Renames a finished file into its place.
pub(super) fn persist_file(temporary: NamedTempFile, path: &Path) -> Result<(), WeightsError> {
    temporary.persist(path).map_err(|e| WeightsError::Io {
        path: path.to_owned(),
        action: "put the finished file there",
        source: e.error,
    })?;
    sync_folder(folder_of(path))
}

/// Puts a finished folder into its place, and removes the one that was there.
pub(super) fn persist_folder(temporary: TempDir, target: &Path) -> Result<(), WeightsError> {
    sync_folder(temporary.path())?;
    let failed = |source| WeightsError::Io { path: target.to_owned(), action: "put the finished folder there", source };
    if !target.exists() {
        fs::rename(temporary.path(), target).map_err(failed)?;
        // Not there any more, so nothing may be removed when it is dropped.
        let _ = temporary.keep();
        return sync_folder(folder_of(target));
    }
    if exchange(temporary.path(), target) {
        sync_folder(folder_of(target))?;
        // What is now at the temporary path is the old model. The new one stands whether or not
        // the old one can be removed.
        let _ = temporary.close();
        return Ok(());
    }
    replace_in_two_steps(temporary, target)
}

/// For systems without an exchange: there is a moment without a model at the target, but never a
/// half one, and a failure puts the old one back.
fn replace_in_two_steps(temporary: TempDir, target: &Path) -> Result<(), WeightsError> {
    let failed = |source| WeightsError::Io { path: target.to_owned(), action: "put the finished folder there", source };
    let aside = temporary_folder(target)?;
    let old = aside.path().join("old");
    fs::rename(target, &old).map_err(failed)?;
    if let Err(error) = fs::rename(temporary.path(), target) {
        if fs::rename(&old, target).is_err() {
            // Better a stray folder than a lost model.
            let _ = aside.keep();
        }
        return Err(failed(error));
    }
    let _ = temporary.keep();
    sync_folder(folder_of(target))?;
    let _ = aside.close();
    Ok(())
}

/// Swaps two folders in one step, where the system can.
#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> bool {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    let (Ok(a), Ok(b)) = (CString::new(a.as_os_str().as_bytes()), CString::new(b.as_os_str().as_bytes())) else {
        return false;
    };
    // SAFETY: both paths are strings that end in NUL and live until the call returns. The call is
    // made by number because not every C library has a function for it.
    let result = unsafe {
        libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), libc::RENAME_EXCHANGE)
    };
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn exchange(_a: &Path, _b: &Path) -> bool {
    false
}

/// Makes a folder's entries durable. Only Unix lets a folder be opened for that.
fn sync_folder(folder: &Path) -> Result<(), WeightsError> {
    #[cfg(unix)]
    File::open(folder).and_then(|f| f.sync_all()).map_err(WeightsError::io(folder, "write its entries to the disk"))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_steps_replace_a_folder_or_put_the_old_one_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = folder.path().join("m");
        let names = || fs::read_dir(folder.path()).expect("lists").count();
        fs::create_dir(&target).expect("creates");
        fs::write(target.join("config.json"), "old").expect("writes");
        let content = || fs::read_to_string(target.join("config.json")).expect("reads");

        let lost = temporary_folder(&target).expect("creates");
        fs::remove_dir(lost.path()).expect("removes");
        assert!(replace_in_two_steps(lost, &target).is_err());
        assert_eq!((content().as_str(), names()), ("old", 1));

        let new = temporary_folder(&target).expect("creates");
        fs::write(new.path().join("config.json"), "new").expect("writes");
        replace_in_two_steps(new, &target).expect("replaces");
        assert_eq!((content().as_str(), names()), ("new", 1));
    }
}

//! The file system calls behind a directory store, each with an error that names the path.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::belonging::make_directory;
use crate::error::{Error, Kind, Result};

/// An error of `operation` on `path`.
pub fn failed(operation: &str, path: &Path, error: &io::Error) -> Error {
    let kind = if error.kind() == ErrorKind::NotFound { Kind::NotFound } else { Kind::Store };
    let made = Error::io(kind, format!("{operation} {}", path.display()), error);
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => made.with_hint("make room on the file system of the store"),
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            made.with_hint("the store's directory must be writable by the user that runs litestream")
        }
        _ => made,
    }
}

/// Makes `dir` and what is missing above it, each of them durable and of the owner of the one it is in.
pub fn make_dir(dir: &Path) -> Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|d| !d.as_os_str().is_empty() && !d.is_dir()).collect();
    for dir in missing.into_iter().rev() {
        make_directory(dir, parent(dir)).map_err(|e| failed("create", dir, &e))?;
        sync_dir(parent(dir))?;
    }
    Ok(())
}

/// The directory that `path` is in.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes the names in `dir` durable.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| failed("sync", dir, &e))
}

/// The same, unless it went away together with its last file.
pub fn sync_dir_if_there(dir: &Path) -> Result<()> {
    match sync_dir(dir) {
        Err(e) if e.kind() == Kind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes a file and the directories below `root` that this leaves empty; `touched` gets what must be synced.
pub fn remove(root: &Path, path: &Path, touched: &mut Vec<PathBuf>) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        Err(e) => return Err(failed("delete", path, &e)),
        Ok(()) => {}
    }
    let mut dir = parent(path);
    while dir != root && dir.starts_with(root) && fs::remove_dir(dir).is_ok() {
        dir = parent(dir);
    }
    if !touched.iter().any(|known| known == dir) {
        touched.push(dir.to_path_buf());
    }
    Ok(())
}

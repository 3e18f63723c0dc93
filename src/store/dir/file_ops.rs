//! The file system calls behind a directory store, each with an error that names the path.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::directory::{self, Directory};
use crate::error::{Error, Kind, Result};

/// An error of `operation` on `path`.
pub fn io_error(operation: &str, path: &Path, error: &io::Error) -> Error {
    let kind = if error.kind() == ErrorKind::NotFound { Kind::NotFound } else { Kind::StoreRefused };
    let made = Error::io(kind, format!("{operation} {}", path.display()), error);
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => made.with_hint("free space on the file system of the store"),
        Some(libc::EACCES | libc::EPERM) => {
            made.with_hint("the store's directory must be writable by the user that runs litestream")
        }
        _ => made,
    }
}

/// Opens the directory of a store, and makes it and what is missing above it, each of them durable and of the owner of the
/// one it is in. It may be a link: the operator has named it.
pub fn make_root(root: &Path) -> Result<Directory> {
    let missing = root.ancestors().take_while(|d| !d.as_os_str().is_empty() && !d.is_dir()).last();
    let Some(first) = missing else { return Directory::open(root).map_err(|e| io_error("open", root, &e)) };
    let above = directory::parent(first);
    let make = || -> io::Result<Directory> {
        // Below a link that leads nowhere nothing is made.
        let relative = root.strip_prefix(above).unwrap_or(root);
        Directory::open(above)?.resolve_parent(relative, true)
    };
    make().map_err(|e| io_error("create", root, &e))
}

/// Makes the names in `dir` durable, unless it went away together with its last file.
pub fn sync_dir_if_exists(dir: &Path) -> Result<()> {
    match Directory::open(dir).and_then(|dir| dir.sync()) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(|e| io_error("sync", dir, &e)),
    }
}

/// The directory below `root` that `path` is in, no part of it a link, and the name there. It is made if so wanted.
pub fn object_dir<'a>(root: &Directory, path: &'a Path, make: bool) -> io::Result<(Directory, &'a OsStr)> {
    let relative = path.strip_prefix(root.path()).map_err(|_| ErrorKind::InvalidInput)?;
    let name = relative.file_name().ok_or(ErrorKind::InvalidInput)?;
    let below = root.resolve_parent(relative.parent().unwrap_or(Path::new("")), make)?;
    Ok((below, name))
}

/// Removes a file and the directories below `root` that this leaves empty; `touched` gets what must be synced.
pub fn remove(root: &Path, path: &Path, touched: &mut Vec<PathBuf>) -> Result<()> {
    let removed =
        Directory::open(root).and_then(|root| object_dir(&root, path, false)).and_then(|(at, name)| at.remove(name));
    match removed {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        Err(e) => return Err(io_error("delete", path, &e)),
        Ok(()) => {}
    }
    let mut dir = directory::parent(path);
    while dir != root && dir.starts_with(root) && fs::remove_dir(dir).is_ok() {
        dir = directory::parent(dir);
    }
    if !touched.iter().any(|known| known == dir) {
        touched.push(dir.to_path_buf());
    }
    Ok(())
}

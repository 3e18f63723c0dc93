//! The files below a directory. What cannot be read there is told, and keeps nothing else from being found.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind};
use crate::format::sidecar::is_sidecar;
use crate::log;

/// What is below a directory, by paths relative to it.
#[derive(Default)]
pub struct FilesBelow {
    /// Ordinary files. What belongs to SQLite or to us is passed over.
    pub files: Vec<PathBuf>,
    /// Those that were looked into, with their whole paths.
    pub directories: Vec<PathBuf>,
    /// Directories and files that cannot be looked at, and why; the directory itself has an empty path.
    pub unreadable: Vec<(PathBuf, Error)>,
}

/// Looks into `root`, and into the directories below it if `recursive` says so.
pub fn walk_files(root: &Path, recursive: bool) -> FilesBelow {
    let mut found = FilesBelow::default();
    walk(root, Path::new(""), recursive, &mut found);
    found.files.sort();
    found
}

fn walk(root: &Path, relative: &Path, recursive: bool, found: &mut FilesBelow) {
    let directory = root.join(relative);
    found.directories.push(directory.clone());
    let failed = |e: &std::io::Error| Error::io(Kind::Database, format!("read directory {}", directory.display()), e);
    let entries = match std::fs::read_dir(&directory) {
        // It was deleted since its name was read.
        Err(e) if e.kind() == ErrorKind::NotFound && relative != Path::new("") => return,
        entries => entries,
    };
    let entries = match entries {
        Ok(entries) => entries,
        Err(e) => return found.unreadable.push((relative.to_path_buf(), failed(&e))),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) => return found.unreadable.push((relative.to_path_buf(), failed(&e))),
        };
        let (path, name) = (relative.join(entry.file_name()), entry.file_name());
        let name = name.to_string_lossy();
        match entry.file_type() {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => {
                let what = format!("look at {}", root.join(&path).display());
                found.unreadable.push((path, Error::io(Kind::Database, what, &e)));
            }
            Ok(kind) if kind.is_dir() && recursive && !name.starts_with('.') => walk(root, &path, recursive, found),
            // A tenant who may write there could name a database of another tenant.
            Ok(kind) if kind.is_symlink() => {
                log::debug("symbolic link ignored").field("path", root.join(&path).display()).emit();
            }
            Ok(kind) if kind.is_file() && !is_sidecar(&name) => found.files.push(path),
            Ok(_) => {}
        }
    }
}

//! Listing a directory store: a walk that does a bounded part of its work in each poll.

use std::fs::{self, DirEntry, ReadDir};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{OperationGuard, TEMP_PREFIX, file_ops};
use crate::error::{Kind, Result};
use crate::fault;
use crate::store::{Entry, List, name};

/// Directory entries that one poll looks at.
const ENTRIES_PER_POLL: usize = 1024;

pub struct DirList {
    prefix: String,
    /// Directories still to be read, each with the name it has below the root (with a slash behind it).
    open: Vec<(PathBuf, String)>,
    current: Option<(ReadDir, String)>,
    found: Vec<Entry>,
    ticket: Option<OperationGuard>,
}

impl DirList {
    pub(super) fn new(root: &Path, prefix: &str, ticket: OperationGuard) -> DirList {
        let open = vec![(root.to_path_buf(), String::new())];
        DirList { prefix: prefix.to_string(), open, current: None, found: Vec::new(), ticket: Some(ticket) }
    }

    fn step(&mut self) -> Result<Option<Vec<Entry>>> {
        for _ in 0..ENTRIES_PER_POLL {
            match self.next_entry()? {
                Some((entry, above)) => self.visit(&entry, &above)?,
                None if self.open.is_empty() => return Ok(Some(self.sorted())),
                None => {}
            }
        }
        Ok(None)
    }

    fn sorted(&mut self) -> Vec<Entry> {
        let mut found = std::mem::take(&mut self.found);
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// The next entry of the directory that is read; none at its end.
    fn next_entry(&mut self) -> Result<Option<(DirEntry, String)>> {
        if self.current.is_none()
            && let Some((dir, below)) = self.open.pop()
        {
            fault::point("dir.list")?;
            self.current = match fs::read_dir(&dir) {
                Ok(entries) => Some((entries, below)),
                // Deleted since it was seen, or the store was never written to.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
                Err(e) => return Err(file_ops::io_error("list", &dir, &e)),
            };
        }
        let Some((entries, below)) = &mut self.current else { return Ok(None) };
        match entries.next() {
            Some(entry) => {
                let entry = entry.map_err(|e| file_ops::io_error("list", Path::new(below), &e))?;
                Ok(Some((entry, below.clone())))
            }
            None => {
                self.current = None;
                Ok(None)
            }
        }
    }

    fn visit(&mut self, entry: &DirEntry, above: &str) -> Result<()> {
        let Ok(part) = entry.file_name().into_string() else { return Ok(()) };
        let path = entry.path();
        let name = format!("{above}{part}");
        if part.starts_with(TEMP_PREFIX) || name::validate(&name).is_err() {
            return Ok(());
        }
        let kind = entry.file_type().map_err(|e| file_ops::io_error("list", &path, &e))?;
        if kind.is_dir() {
            self.push_dir(path, name + "/");
            return Ok(());
        }
        if name.starts_with(&self.prefix) {
            self.add_object(&path, name)?;
        }
        Ok(())
    }

    fn push_dir(&mut self, path: PathBuf, below: String) {
        if below.starts_with(&self.prefix) || self.prefix.starts_with(&below) {
            self.open.push((path, below));
        }
    }

    fn add_object(&mut self, path: &Path, name: String) -> Result<()> {
        match fs::symlink_metadata(path).map_err(|e| file_ops::io_error("list", path, &e)) {
            Ok(found) if found.is_file() => self.found.push(Entry { name, size: found.len() }),
            Err(e) if e.kind() != Kind::NotFound => return Err(e),
            _ => {}
        }
        Ok(())
    }
}

impl List for DirList {
    fn poll(&mut self, _now: Instant) -> Result<Option<Vec<Entry>>> {
        let step = self.step();
        if !matches!(step, Ok(None)) {
            self.ticket = None;
        }
        step
    }
}

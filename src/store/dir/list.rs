//! Listing a directory store: a walk that does a bounded part of its work in each poll.

use std::fs::{self, DirEntry, ReadDir};
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::Instant;

use super::{OperationGuard, TEMP_PREFIX, file_ops};
use crate::error::{Kind, Result};
use crate::fault;
use crate::store::{Entry, List, Scan, ScanEvent, ScannedObject, name};

/// Directory entries that one poll looks at.
const ENTRIES_PER_POLL: usize = 1024;

/// The files below a directory, one after another.
pub struct Walk {
    prefix: String,
    /// Directories still to be read, each with the name it has below the root (with a slash after it).
    open: Vec<(PathBuf, String)>,
    current: Option<(ReadDir, String)>,
    /// None once it has come to its end.
    ticket: Option<OperationGuard>,
}

/// What comes next of the files.
enum WalkEvent {
    Found(Entry),
    /// Nothing yet.
    Looked,
    End,
}

impl Walk {
    pub(super) fn new(root: &Path, prefix: &str, ticket: OperationGuard) -> Walk {
        let open = vec![(root.to_path_buf(), String::new())];
        Walk { prefix: prefix.to_string(), open, current: None, ticket: Some(ticket) }
    }

    fn next(&mut self) -> Result<WalkEvent> {
        let step = self.step();
        if matches!(step, Err(_) | Ok(WalkEvent::End)) {
            self.ticket = None;
        }
        step
    }

    fn step(&mut self) -> Result<WalkEvent> {
        match self.next_entry()? {
            Some((entry, above)) => Ok(self.visit(&entry, &above)?.map_or(WalkEvent::Looked, WalkEvent::Found)),
            None if self.open.is_empty() => Ok(WalkEvent::End),
            None => Ok(WalkEvent::Looked),
        }
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

    fn visit(&mut self, entry: &DirEntry, above: &str) -> Result<Option<Entry>> {
        let Ok(part) = entry.file_name().into_string() else { return Ok(None) };
        let path = entry.path();
        let name = format!("{above}{part}");
        if part.starts_with(TEMP_PREFIX) || name::validate(&name).is_err() {
            return Ok(None);
        }
        let kind = entry.file_type().map_err(|e| file_ops::io_error("list", &path, &e))?;
        if kind.is_dir() {
            self.push_dir(path, name + "/");
            return Ok(None);
        }
        if name.starts_with(&self.prefix) { object(&path, name) } else { Ok(None) }
    }

    fn push_dir(&mut self, path: PathBuf, below: String) {
        if below.starts_with(&self.prefix) || self.prefix.starts_with(&below) {
            self.open.push((path, below));
        }
    }
}

fn object(path: &Path, name: String) -> Result<Option<Entry>> {
    match fs::symlink_metadata(path).map_err(|e| file_ops::io_error("list", path, &e)) {
        Ok(found) => Ok(found.is_file().then_some(Entry { name, size: found.len(), whole: true })),
        Err(e) if e.kind() == Kind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl Scan for Walk {
    fn poll(&mut self, _now: Instant) -> Result<ScanEvent> {
        for _ in 0..ENTRIES_PER_POLL {
            match self.next()? {
                WalkEvent::Found(entry) => return Ok(ScanEvent::Object(ScannedObject { entry, description: None })),
                WalkEvent::Looked => {}
                WalkEvent::End => return Ok(ScanEvent::End),
            }
        }
        Ok(ScanEvent::Pending)
    }
}

pub struct DirList {
    walk: Walk,
    found: Vec<Entry>,
}

impl DirList {
    pub(super) fn new(walk: Walk) -> DirList {
        DirList { walk, found: Vec::new() }
    }

    fn sorted(&mut self) -> Vec<Entry> {
        let mut found = std::mem::take(&mut self.found);
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        found
    }
}

impl List for DirList {
    fn poll(&mut self, _now: Instant) -> Result<Poll<Vec<Entry>>> {
        for _ in 0..ENTRIES_PER_POLL {
            match self.walk.next()? {
                WalkEvent::Found(entry) => self.found.push(entry),
                WalkEvent::Looked => {}
                WalkEvent::End => return Ok(Poll::Ready(self.sorted())),
            }
        }
        Ok(Poll::Pending)
    }
}

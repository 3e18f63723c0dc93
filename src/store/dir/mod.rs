//! A directory as a store: one file an object, its path the name.
//!
//! Invariants:
//! * A name refers to a whole, durable file or to none: bytes go to `.tmp-…` at the root, which is synced, renamed,
//!   and whose new directory is synced before the commit is done.
//! * `.tmp-…` is never listed; one that a crash left is removed when it is an hour old.

mod file_ops;
mod list;
mod put;
mod writer_lease;

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::{
    Chunk, Delete, FindWriters, Get, LeaseHolder, List, OrphanCleanup, Presence, Put, Scan, Store, WriterLease, name,
};
use crate::directory::Directory;
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::time::Timestamp;

/// What the temporary names begin with.
const TEMP_PREFIX: &str = ".tmp-";
/// Bytes of one chunk of a get, as in the NATS store.
const CHUNK_BYTES: usize = 128 * 1024;
/// Files that one poll of a delete removes, so that a large one does not hold up the loop.
const DELETES_PER_POLL: usize = 64;

/// A directory that holds objects.
pub struct DirStore {
    root: PathBuf,
    url: String,
    pending: PendingOperations,
}

/// Counts the operations that a poll would bring further; [`Store::wait`] sleeps only while there are none.
#[derive(Clone, Default)]
struct PendingOperations(Rc<Cell<usize>>);

/// One such operation.
struct OperationGuard(PendingOperations);

impl PendingOperations {
    fn start(&self) -> OperationGuard {
        self.0.set(self.0.get() + 1);
        OperationGuard(self.clone())
    }
}

impl Drop for OperationGuard {
    fn drop(&mut self) {
        let count = &self.0.0;
        count.set(count.get().saturating_sub(1));
    }
}

impl DirStore {
    pub fn new(root: &Path) -> DirStore {
        DirStore {
            root: root.to_path_buf(),
            url: format!("file://{}", root.display()),
            pending: PendingOperations::default(),
        }
    }
}

impl Store for DirStore {
    fn url(&self) -> &str {
        &self.url
    }

    fn connect(&self, _now: Instant) -> Result<bool> {
        match std::fs::metadata(&self.root) {
            Ok(found) if !found.is_dir() => Err(Error::new(
                Kind::StoreRefused,
                format!("store {}: expected a directory, found a file", self.root.display()),
            )),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(file_ops::io_error("open", &self.root, &e)),
            _ => Ok(true),
        }
    }

    fn put(&self, name: &str) -> Box<dyn Put> {
        Box::new(put::DirPut::new(&self.root, name, self.pending.clone()))
    }

    fn get(&self, name: &str) -> Box<dyn Get> {
        Box::new(DirGet {
            root: self.root.clone(),
            path: path_of(&self.root, name),
            open: None,
            ticket: Some(self.pending.start()),
        })
    }

    fn list(&self, prefix: &str) -> Box<dyn List> {
        Box::new(list::DirList::new(list::Walk::new(&self.root, prefix, self.pending.start())))
    }

    fn scan(&self) -> Box<dyn Scan> {
        Box::new(list::Walk::new(&self.root, "", self.pending.start()))
    }

    fn delete(&self, names: Vec<String>) -> Box<dyn Delete> {
        let names = names.into_iter();
        Box::new(DirDelete { root: self.root.clone(), names, ticket: Some(self.pending.start()) })
    }

    fn presence(&self, names: Vec<String>) -> Box<dyn Presence> {
        Box::new(DirPresence { root: self.root.clone(), names })
    }

    fn acquire_lease(&self, _holder: &LeaseHolder) -> Box<dyn WriterLease> {
        Box::new(writer_lease::DirLease::new(&self.root))
    }

    fn find_writers(&self) -> Box<dyn FindWriters> {
        Box::new(writer_lease::LockedDirectories::new(&self.root))
    }

    /// A put removes what others have left.
    fn clean_orphans(&self, _wall: Timestamp, _young: Duration) -> Option<Box<dyn OrphanCleanup>> {
        None
    }

    fn wait(&self, timeout: Duration) {
        if self.pending.0.get() == 0 {
            std::thread::sleep(timeout);
        }
    }
}

/// Where the object `name` is kept.
fn path_of(root: &Path, name: &str) -> Result<PathBuf> {
    name::validate(name)?;
    if name.split('/').any(|part| part.starts_with(TEMP_PREFIX)) {
        return Err(Error::new(
            Kind::StoreRefused,
            format!("object name {name:?}: {TEMP_PREFIX} is for temporary files"),
        ));
    }
    Ok(root.join(name))
}

struct DirGet {
    root: PathBuf,
    path: Result<PathBuf>,
    /// The file, and how many bytes must still come.
    open: Option<(File, u64)>,
    ticket: Option<OperationGuard>,
}

impl DirGet {
    fn path(&mut self) -> Result<PathBuf> {
        std::mem::replace(&mut self.path, Err(Error::new(Kind::StoreRefused, "the get has ended")))
    }

    fn open(root: &Path, path: &Path) -> Result<(File, u64)> {
        let open = || file_ops::object_dir(&Directory::open(root)?, path, false).and_then(|(at, name)| at.read(name));
        let file = open().map_err(|e| file_ops::io_error("open", path, &e))?;
        let found = file.metadata().map_err(|e| file_ops::io_error("open", path, &e))?;
        if !found.is_file() {
            return Err(Error::new(Kind::NotFound, format!("open {}: not a file", path.display())));
        }
        Ok((file, found.len()))
    }

    fn step(&mut self) -> Result<Chunk> {
        let path = self.path()?;
        fault::point("dir.read")?;
        let (file, left) = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(DirGet::open(&self.root, &path)?),
        };
        let mut bytes = vec![0; CHUNK_BYTES];
        let n = file.read(&mut bytes).map_err(|e| file_ops::io_error("read", &path, &e))?;
        let got = u64::try_from(n).unwrap_or(u64::MAX);
        match left.checked_sub(got) {
            Some(rest) if n > 0 || rest == 0 => *left = rest,
            _ => return Err(changed(&path)),
        }
        self.path = Ok(path);
        bytes.truncate(n);
        Ok(if n == 0 { Chunk::End } else { Chunk::Bytes(bytes) })
    }
}

fn changed(path: &Path) -> Error {
    Error::new(Kind::Corrupt, format!("read {}: the file changed its size while it was read", path.display()))
}

impl Get for DirGet {
    fn poll(&mut self, _now: Instant) -> Result<Chunk> {
        let step = self.step();
        if matches!(step, Err(_) | Ok(Chunk::End)) {
            self.ticket = None;
        }
        step
    }
}

struct DirPresence {
    root: PathBuf,
    names: Vec<String>,
}

impl Presence for DirPresence {
    fn poll(&mut self, _now: Instant) -> Result<Poll<Vec<String>>> {
        let mut missing = Vec::new();
        for name in &self.names {
            let path = path_of(&self.root, name)?;
            match path.symlink_metadata() {
                Ok(found) if found.is_file() && found.len() > 0 => {}
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(file_ops::io_error("look at", &path, &e));
                }
                _ => missing.push(name.clone()),
            }
        }
        Ok(Poll::Ready(missing))
    }
}

struct DirDelete {
    root: PathBuf,
    names: std::vec::IntoIter<String>,
    ticket: Option<OperationGuard>,
}

impl DirDelete {
    fn step(&mut self) -> Result<Poll<()>> {
        let mut touched = Vec::new();
        for name in self.names.by_ref().take(DELETES_PER_POLL) {
            fault::point("dir.delete")?;
            file_ops::remove(&self.root, &path_of(&self.root, &name)?, &mut touched)?;
        }
        for dir in touched {
            file_ops::sync_dir_if_exists(&dir)?;
        }
        Ok(if self.names.len() == 0 { Poll::Ready(()) } else { Poll::Pending })
    }
}

impl Delete for DirDelete {
    fn poll(&mut self, _now: Instant) -> Result<Poll<()>> {
        let step = self.step();
        if !matches!(step, Ok(Poll::Pending)) {
            self.ticket = None;
        }
        step
    }
}

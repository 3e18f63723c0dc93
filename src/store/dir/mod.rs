//! A directory as a store: one file an object, its path the name.
//!
//! Invariants:
//! * A name refers to a whole, durable file or to none: bytes go to `.tmp-…` at the root, which is synced, renamed,
//!   and whose new directory is synced before the commit is done.
//! * `.tmp-…` is never listed; one that a crash left is removed when it is an hour old.

mod claim;
mod files;
mod list;
mod put;

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Chunk, Claim, Delete, Get, Holder, List, Presence, Put, Store, Sweep, name};
use crate::directory::Directory;
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::time::Timestamp;

/// What the temporary names begin with.
const TEMPORARY: &str = ".tmp-";
/// Bytes of one chunk of a get, as in the NATS store.
const CHUNK: usize = 128 * 1024;
/// Files that one poll of a delete removes, so that a large one does not hold up the loop.
const DELETES_A_POLL: usize = 64;

/// A directory that holds objects.
pub struct DirStore {
    root: PathBuf,
    url: String,
    busy: Busy,
}

/// Counts the operations that a poll would bring further; [`Store::wait`] sleeps only while there are none.
#[derive(Clone, Default)]
struct Busy(Rc<Cell<usize>>);

/// One such operation.
struct Ticket(Busy);

impl Busy {
    fn ticket(&self) -> Ticket {
        self.0.set(self.0.get() + 1);
        Ticket(self.clone())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let count = &self.0.0;
        count.set(count.get().saturating_sub(1));
    }
}

impl DirStore {
    pub fn new(root: &Path) -> DirStore {
        DirStore { root: root.to_path_buf(), url: format!("file://{}", root.display()), busy: Busy::default() }
    }
}

impl Store for DirStore {
    fn url(&self) -> &str {
        &self.url
    }

    fn connect(&self, _now: Instant) -> Result<bool> {
        match std::fs::metadata(&self.root) {
            Ok(found) if !found.is_dir() => Err(Error::new(
                Kind::Store,
                format!("store {}: expected a directory, found a file", self.root.display()),
            )),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(files::failed("open", &self.root, &e)),
            _ => Ok(true),
        }
    }

    fn put(&self, name: &str) -> Box<dyn Put> {
        Box::new(put::DirPut::new(&self.root, name, self.busy.clone()))
    }

    fn get(&self, name: &str) -> Box<dyn Get> {
        Box::new(DirGet {
            root: self.root.clone(),
            path: path_of(&self.root, name),
            open: None,
            ticket: Some(self.busy.ticket()),
        })
    }

    fn list(&self, prefix: &str) -> Box<dyn List> {
        Box::new(list::DirList::new(&self.root, prefix, self.busy.ticket()))
    }

    fn delete(&self, names: Vec<String>) -> Box<dyn Delete> {
        let names = names.into_iter();
        Box::new(DirDelete { root: self.root.clone(), names, ticket: Some(self.busy.ticket()) })
    }

    fn presence(&self, names: Vec<String>) -> Box<dyn Presence> {
        Box::new(DirPresence { root: self.root.clone(), names })
    }

    fn claim(&self, _holder: &Holder) -> Box<dyn Claim> {
        Box::new(claim::DirClaim::new(&self.root))
    }

    /// A put removes what others have left.
    fn sweep(&self, _wall: Timestamp, _young: Duration) -> Option<Box<dyn Sweep>> {
        None
    }

    fn wait(&self, timeout: Duration) {
        if self.busy.0.get() == 0 {
            std::thread::sleep(timeout);
        }
    }
}

/// Where the object `name` is kept.
fn path_of(root: &Path, name: &str) -> Result<PathBuf> {
    name::check(name)?;
    if name.split('/').any(|part| part.starts_with(TEMPORARY)) {
        return Err(Error::new(Kind::Store, format!("object name {name:?}: {TEMPORARY} is for temporary files")));
    }
    Ok(root.join(name))
}

struct DirGet {
    root: PathBuf,
    path: Result<PathBuf>,
    /// The file, and how many bytes must still come.
    open: Option<(File, u64)>,
    ticket: Option<Ticket>,
}

impl DirGet {
    fn path(&mut self) -> Result<PathBuf> {
        std::mem::replace(&mut self.path, Err(Error::new(Kind::Store, "the get has ended")))
    }

    fn open(root: &Path, path: &Path) -> Result<(File, u64)> {
        let open = || files::place(&Directory::open(root)?, path, false).and_then(|(at, name)| at.read(name));
        let file = open().map_err(|e| files::failed("open", path, &e))?;
        let found = file.metadata().map_err(|e| files::failed("open", path, &e))?;
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
        let mut bytes = vec![0; CHUNK];
        let n = file.read(&mut bytes).map_err(|e| files::failed("read", &path, &e))?;
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
    fn poll(&mut self, _now: Instant) -> Result<Option<Vec<String>>> {
        let mut missing = Vec::new();
        for name in &self.names {
            let path = path_of(&self.root, name)?;
            match path.symlink_metadata() {
                Ok(found) if found.is_file() && found.len() > 0 => {}
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(files::failed("look at", &path, &e)),
                _ => missing.push(name.clone()),
            }
        }
        Ok(Some(missing))
    }
}

struct DirDelete {
    root: PathBuf,
    names: std::vec::IntoIter<String>,
    ticket: Option<Ticket>,
}

impl DirDelete {
    fn step(&mut self) -> Result<bool> {
        let mut touched = Vec::new();
        for name in self.names.by_ref().take(DELETES_A_POLL) {
            fault::point("dir.delete")?;
            files::remove(&self.root, &path_of(&self.root, &name)?, &mut touched)?;
        }
        for dir in touched {
            files::sync_dir_if_there(&dir)?;
        }
        Ok(self.names.len() == 0)
    }
}

impl Delete for DirDelete {
    fn poll(&mut self, _now: Instant) -> Result<bool> {
        let step = self.step();
        if !matches!(step, Ok(false)) {
            self.ticket = None;
        }
        step
    }
}

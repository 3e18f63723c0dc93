//! Writing an object into a directory store.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{OperationGuard, PendingOperations, TEMP_PREFIX, file_ops, path_of};
use crate::directory::{Directory, inherit_owner};
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::store::{Put, PutState};

/// A temporary file this old belongs to a run that is gone: a put that makes no progress for an hour has long failed.
const STALE_AFTER: Duration = Duration::from_secs(3600);

/// A file that has no name of an object yet.
struct StagedFile {
    file: File,
    name: OsString,
    root: Directory,
}

pub struct DirPut {
    root: PathBuf,
    path: Result<PathBuf>,
    file: Option<StagedFile>,
    finished: bool,
    commit: bool,
    state: PutState,
    pending: PendingOperations,
    guard: Option<OperationGuard>,
}

impl DirPut {
    pub(super) fn new(root: &Path, name: &str, busy: PendingOperations) -> DirPut {
        DirPut {
            root: root.to_path_buf(),
            path: path_of(root, name),
            file: None,
            finished: false,
            commit: false,
            state: PutState::Sending,
            pending: busy,
            guard: None,
        }
    }

    /// Where the object will be; the error about its name is given away once.
    fn final_path(&mut self) -> Result<PathBuf> {
        match &self.path {
            Ok(path) => Ok(path.clone()),
            Err(_) => std::mem::replace(&mut self.path, Err(Error::new(Kind::StoreRefused, "the put has ended"))),
        }
    }

    fn temp_file(&mut self) -> Result<&mut StagedFile> {
        if self.file.is_none() {
            self.final_path()?;
            fault::point("dir.create")?;
            let root = file_ops::make_root(&self.root)?;
            remove_stale(&root);
            // Not the temporary name, which is another one each time.
            self.file = Some(create(root).map_err(|e| file_ops::io_error("create a file in", &self.root, &e))?);
        }
        self.file.as_mut().ok_or_else(|| Error::new(Kind::StoreRefused, "the put has ended"))
    }

    fn sync_file(&mut self) -> Result<()> {
        let target = self.final_path()?;
        let temporary = self.temp_file()?;
        fault::point("dir.sync")?;
        temporary.file.sync_all().map_err(|e| file_ops::io_error("sync", &target, &e))?;
        self.state = PutState::Staged;
        Ok(())
    }

    fn publish(&mut self) -> Result<()> {
        let target = self.final_path()?;
        let temporary = self.temp_file()?;
        fault::point("dir.rename")?;
        let place = rename(temporary, &target).map_err(|e| file_ops::io_error("rename to", &target, &e))?;
        self.file = None;
        fault::point("dir.publish")?;
        place.sync().map_err(|e| file_ops::io_error("sync", place.path(), &e))?;
        self.state = PutState::Done;
        Ok(())
    }

    fn step(&mut self) -> Result<PutState> {
        if self.state == PutState::Sending && self.finished {
            self.sync_file()?;
        }
        if self.state == PutState::Staged && self.commit {
            self.publish()?;
        }
        Ok(self.state)
    }
}

/// A new file that nobody else has, of the owner of the directory.
fn create(root: Directory) -> io::Result<StagedFile> {
    let (name, file) = root.create_temporary(OsStr::new(TEMP_PREFIX))?;
    inherit_owner(&file, &root.metadata()?);
    Ok(StagedFile { file, name, root })
}

/// The directory in which it has its name now. A delete that empties one may remove it between our making it and the
/// rename: then once more.
fn rename(temporary: &StagedFile, target: &Path) -> io::Result<Directory> {
    let attempt = || {
        let (place, name) = file_ops::object_dir(&temporary.root, target, true)?;
        temporary.root.rename(&temporary.name, &place, name).map(|()| place)
    };
    for _ in 0..3 {
        match attempt() {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => return other,
        }
    }
    attempt()
}

/// Removes what crashed runs left. Best effort: the put itself does not depend on it.
fn remove_stale(root: &Directory) {
    let Ok(entries) = fs::read_dir(root.path()) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMP_PREFIX));
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        if ours && age().is_some_and(|age| age > STALE_AFTER) {
            let _ = root.remove(&entry.file_name());
        }
    }
}

impl Put for DirPut {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let file = &mut self.temp_file()?.file;
        fault::point("dir.write")?;
        // Not the temporary name, which is another one each time.
        let written = file.write_all(bytes);
        written.map_err(|e| file_ops::io_error("write into", &self.root, &e))?;
        Ok(bytes.len())
    }

    fn finish(&mut self) {
        self.finished = true;
        self.guard = Some(self.pending.start());
    }

    fn commit(&mut self) {
        self.commit = true;
        self.guard = Some(self.pending.start());
    }

    fn poll(&mut self, _now: Instant) -> Result<PutState> {
        self.guard = None;
        self.step()
    }
}

impl Drop for DirPut {
    fn drop(&mut self) {
        if let Some(StagedFile { root, name, .. }) = &self.file {
            let _ = root.remove(name);
        }
    }
}

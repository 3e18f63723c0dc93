//! Writing an object into a directory store.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Busy, TEMPORARY, Ticket, files, path_of};
use crate::belonging::hand_over;
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::store::{Put, PutState, random};

/// A temporary file this old belongs to a run that is gone: a put that makes no progress for an hour has long failed.
const STALE_AFTER: Duration = Duration::from_secs(3600);

pub struct DirPut {
    root: PathBuf,
    path: Result<PathBuf>,
    file: Option<(File, PathBuf)>,
    finished: bool,
    commit: bool,
    state: PutState,
    busy: Busy,
    ticket: Option<Ticket>,
}

impl DirPut {
    pub(super) fn new(root: &Path, name: &str, busy: Busy) -> DirPut {
        DirPut {
            root: root.to_path_buf(),
            path: path_of(root, name),
            file: None,
            finished: false,
            commit: false,
            state: PutState::Sending,
            busy,
            ticket: None,
        }
    }

    /// Where the object will be; the error about its name is given away once.
    fn target(&mut self) -> Result<PathBuf> {
        match &self.path {
            Ok(path) => Ok(path.clone()),
            Err(_) => std::mem::replace(&mut self.path, Err(Error::new(Kind::Store, "the put has ended"))),
        }
    }

    fn temporary(&mut self) -> Result<&mut (File, PathBuf)> {
        if self.file.is_none() {
            self.target()?;
            fault::point("dir.create")?;
            files::make_dir(&self.root)?;
            remove_stale(&self.root);
            self.file = Some(create(&self.root)?);
        }
        self.file.as_mut().ok_or_else(|| Error::new(Kind::Store, "the put has ended"))
    }

    fn stage(&mut self) -> Result<()> {
        let (file, path) = self.temporary()?;
        fault::point("dir.sync")?;
        file.sync_all().map_err(|e| files::failed("sync", path, &e))?;
        self.state = PutState::Staged;
        Ok(())
    }

    fn publish(&mut self) -> Result<()> {
        let target = self.target()?;
        let (_, temporary) = self.temporary()?;
        fault::point("dir.rename")?;
        rename(temporary, &target)?;
        self.file = None;
        fault::point("dir.publish")?;
        files::sync_dir(files::parent(&target))?;
        self.state = PutState::Done;
        Ok(())
    }

    fn step(&mut self) -> Result<PutState> {
        if self.state == PutState::Sending && self.finished {
            self.stage()?;
        }
        if self.state == PutState::Staged && self.commit {
            self.publish()?;
        }
        Ok(self.state)
    }
}

/// A new file that nobody else has, of the owner of the directory.
fn create(root: &Path) -> Result<(File, PathBuf)> {
    let path = root.join(format!("{TEMPORARY}{}", random::token()));
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    // Not the temporary name, which is another one each time.
    let file = file.map_err(|e| files::failed("create a file in", root, &e))?;
    hand_over(&file, root);
    Ok((file, path))
}

/// A delete that empties the directory may remove it between our making it and the rename: then once more.
fn rename(temporary: &Path, target: &Path) -> Result<()> {
    for _ in 0..3 {
        files::make_dir(files::parent(target))?;
        match fs::rename(temporary, target) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => return other.map_err(|e| files::failed("rename to", target, &e)),
        }
    }
    fs::rename(temporary, target).map_err(|e| files::failed("rename to", target, &e))
}

/// Removes what crashed runs left. Best effort: the put itself does not depend on it.
fn remove_stale(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY));
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        if ours && age().is_some_and(|age| age > STALE_AFTER) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Put for DirPut {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let (file, _) = self.temporary()?;
        fault::point("dir.write")?;
        // Not the temporary name, which is another one each time.
        let written = file.write_all(bytes);
        written.map_err(|e| files::failed("write into", &self.root, &e))?;
        Ok(bytes.len())
    }

    fn finish(&mut self) {
        self.finished = true;
        self.ticket = Some(self.busy.ticket());
    }

    fn commit(&mut self) {
        self.commit = true;
        self.ticket = Some(self.busy.ticket());
    }

    fn poll(&mut self, _now: Instant) -> Result<PutState> {
        self.ticket = None;
        self.step()
    }
}

impl Drop for DirPut {
    fn drop(&mut self) {
        if let Some((_, path)) = &self.file {
            let _ = fs::remove_file(path);
        }
    }
}

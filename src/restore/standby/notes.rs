//! The file beside a copy in which its positions are noted, and the lock that lets one process follow with it.
//!
//! What is noted is not synced: after a power failure the notes may lack what the copy has, or have what it lacks. The copy
//! itself tells where it is, by its checksum; the notes only say what that position is.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::directory::{Directory, parent};
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::sidecar::with_suffix;
use crate::format::time::Timestamp;
use crate::restore::standby::record::{CopyIdentity, CopyRecord, decode, encode, encode_record};

/// Behind the name of the copy, as SQLite calls what is its own.
pub const SUFFIX: &str = "-standby";
/// So many records at most: where a reader keeps the WAL from being emptied for hours, the oldest go.
const MAX_RECORDS: usize = 10_000;

/// The notes of a copy, locked.
pub struct Notes {
    directory: Directory,
    name: OsString,
    file: File,
    identity: CopyIdentity,
    records: Vec<CopyRecord>,
}

impl Notes {
    /// Those that an earlier run has left, if they can be believed.
    ///
    /// Errors: of kind `Locked`, if another process follows with this copy.
    pub fn find(output: &Path) -> Result<Option<Notes>> {
        let path = with_suffix(output, SUFFIX);
        let failed = |e: io::Error| Error::io(Kind::Database, format!("open {}", path.display()), &e);
        let directory = Directory::open(parent(output)).map_err(failed)?;
        let name = path.file_name().unwrap_or_default().to_os_string();
        let mut file = match directory.open_own(&name) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        lock(&file, &directory, &name, output)?;
        let mut text = String::new();
        let read = file.read_to_string(&mut text);
        let decoded = read.ok().and_then(|_| decode(&text));
        Ok(decoded.map(|(identity, records)| Notes { directory, name, file, identity, records }))
    }

    /// Restarts them for a file that has the output's name, or is about to get it.
    ///
    /// Errors: of kind `Locked`, if another process follows with this copy.
    pub fn create(output: &Path, identity: CopyIdentity, record: CopyRecord) -> Result<Notes> {
        // Nobody else's are replaced.
        drop(Notes::find(output)?);
        let path = with_suffix(output, SUFFIX);
        let failed = |e: io::Error| Error::io(Kind::Database, format!("create {}", path.display()), &e);
        let directory = Directory::open(parent(output)).map_err(failed)?;
        let name = path.file_name().unwrap_or_default().to_os_string();
        let records = vec![record];
        let file = replace(&directory, &name, &encode(&identity, &records)).map_err(failed)?;
        Ok(Notes { directory, name, file, identity, records })
    }

    pub fn identity(&self) -> &CopyIdentity {
        &self.identity
    }

    pub fn records(&self) -> &[CopyRecord] {
        &self.records
    }

    /// The copy may be at `record` from now on, too.
    pub fn add(&mut self, record: CopyRecord) -> Result<()> {
        fault::point("standby.note")?;
        if self.records.len() >= MAX_RECORDS {
            self.records.drain(..MAX_RECORDS / 2);
            self.rewrite()?;
        }
        let failed = |e: io::Error| Error::io(Kind::Database, "note the position of the copy", &e);
        self.file.seek(SeekFrom::End(0)).map_err(failed)?;
        self.file.write_all(encode_record(&record).as_bytes()).map_err(failed)?;
        self.records.push(record);
        Ok(())
    }

    /// Another process sees this time in the notes as that of the last contact. Nothing but the time of the file changes.
    pub fn touch(&self, time: Timestamp) {
        let _ = self.file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(time.millis()));
    }

    /// The copy is at `record`, durably.
    pub fn keep_only(&mut self, record: CopyRecord) -> Result<()> {
        self.records = vec![record];
        self.rewrite()
    }

    /// The copy is, or is about to be, the file of `identity`, which is at `record`.
    pub fn begin(&mut self, identity: CopyIdentity, record: CopyRecord) -> Result<()> {
        self.identity = identity;
        self.keep_only(record)
    }

    fn rewrite(&mut self) -> Result<()> {
        fault::point("standby.notes")?;
        let text = encode(&self.identity, &self.records);
        let failed = |e: io::Error| Error::io(Kind::Database, "note the position of the copy", &e);
        // The old file stays locked until the new one is there, locked.
        self.file = replace(&self.directory, &self.name, &text).map_err(failed)?;
        Ok(())
    }

    /// Ends them: the file is no copy any more.
    pub fn remove(self) -> Result<()> {
        fault::point("standby.remove")?;
        let failed = |e: io::Error| Error::io(Kind::Database, "remove the notes of the copy", &e);
        self.directory.remove_if_exists(&self.name).and_then(|()| self.directory.sync()).map_err(failed)
    }
}

/// The notes of a copy, as another process sees them.
pub struct FoundNotes {
    pub records: Vec<CopyRecord>,
    /// A process follows with the copy.
    pub locked: bool,
    pub written: Timestamp,
}

/// Reads the notes of a copy without following with it; none if it has none, or they are of another file.
pub fn read(output: &Path) -> Result<Option<FoundNotes>> {
    let path = with_suffix(output, SUFFIX);
    let failed = |e: io::Error| Error::io(Kind::Database, format!("read {}", path.display()), &e);
    let directory = Directory::open(parent(output)).map_err(failed)?;
    let mut file = match directory.read(path.file_name().unwrap_or_default()) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let mut text = String::new();
    let read = file.read_to_string(&mut text);
    let Some((identity, records)) = read.ok().and_then(|_| decode(&text)) else { return Ok(None) };
    let copy = output.symlink_metadata().ok();
    if !copy.is_some_and(|copy| identity.is(copy.ino(), &identity.source)) {
        return Ok(None);
    }
    // Let go of at once. A follower that begins just now tries again.
    let locked = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    let modified = file.metadata().and_then(|found| found.modified()).map_err(failed)?;
    let written = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let written = Timestamp::from_millis(u64::try_from(written.as_millis()).unwrap_or_default());
    Ok(Some(FoundNotes { records, locked, written }))
}

/// Writes a file beside, locks it, and gives it the name.
fn replace(directory: &Directory, name: &OsStr, text: &str) -> io::Result<File> {
    // This process has the lock of the old notes, or makes the copy: what has this name was left by one that died.
    let mut temporary = name.to_os_string();
    temporary.push(".new");
    directory.remove_if_exists(&temporary)?;
    let mut file = directory.create(&temporary)?;
    let mut write = || {
        file.try_lock()?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        directory.rename(&temporary, directory, name)?;
        directory.sync()
    };
    if let Err(error) = write() {
        let _ = directory.remove(&temporary);
        return Err(error);
    }
    Ok(file)
}

/// One that was replaced in the instant before is not the one to lock.
fn lock(file: &File, directory: &Directory, name: &OsStr, output: &Path) -> Result<()> {
    match file.try_lock() {
        Ok(()) if directory.is_linked_at(file, name) => Ok(()),
        Ok(()) | Err(TryLockError::WouldBlock) => {
            Err(Error::new(Kind::Locked, format!("copy {}: another process follows with it", output.display()))
                .with_hint("stop that one first"))
        }
        Err(TryLockError::Error(e)) => {
            Err(Error::io(Kind::Database, format!("lock the notes of {}", output.display()), &e))
        }
    }
}

//! The file that a restore makes. It gets its name only when it is complete, and replaces a file only if that was asked
//! for.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::directory::{Directory, effective_user, inherit_owner, parent, set_mode};
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::sidecar::{SUFFIXES, with_suffix};
use crate::restore::lock_holders::refuse_open;

/// Those of them that hold what a database has and its file has not.
const RECOVERY_FILES: [&str; 2] = ["-wal", "-journal"];

/// Of a file that takes nobody's place.
const PRIVATE_MODE: u32 = 0o600;

/// What a restore may take the place of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overwrite {
    Never,
    /// No database, but what is beside a missing one and holds nothing: an empty WAL is what a clean end leaves.
    EmptyWal,
    /// What nobody has open.
    IfUnused,
    Always,
}

/// Nothing that exists is overwritten if that was not asked for, nor anything that would change what is restored.
///
/// Errors: of kind `Database`, for what is there and may not be replaced.
pub fn refuse_existing(output: &Path, replaced: Overwrite) -> Result<()> {
    let mut names = vec![output.to_path_buf()];
    match replaced {
        Overwrite::Never => names.extend(SUFFIXES.iter().map(|suffix| with_suffix(output, suffix))),
        Overwrite::EmptyWal => names
            .extend(RECOVERY_FILES.iter().map(|suffix| with_suffix(output, suffix)).filter(|log| is_not_empty(log))),
        Overwrite::IfUnused => {
            refuse_special(output)?;
            return refuse_open(output);
        }
        Overwrite::Always => return refuse_special(output),
    }
    match names.iter().find(|name| name.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(name) => Err(already_exists(name)),
    }
}

/// Only a regular file is replaced: never a device, a FIFO or a socket, nor a link, which another user may have put there.
fn refuse_special(output: &Path) -> Result<()> {
    match output.symlink_metadata() {
        Ok(found) if found.is_symlink() => {
            Err(Error::new(Kind::Database, format!("output {}: it is a symbolic link", output.display()))
                .with_hint("pass the path of its target with -o"))
        }
        Ok(found) if !found.is_file() => {
            let what = format!("output {}: expected a regular file, found something else", output.display());
            Err(Error::new(Kind::Database, what).with_hint("-force replaces regular files only"))
        }
        _ => Ok(()),
    }
}

fn already_exists(name: &Path) -> Error {
    Error::new(Kind::Database, format!("output {}: already exists", name.display()))
        .with_hint("restore to another path with -o, or replace it with -force")
}

fn is_not_empty(log: &Path) -> bool {
    log.metadata().is_ok_and(|data| data.len() > 0)
}

/// A file that is removed unless it becomes the output.
pub struct TemporaryFile {
    pub path: PathBuf,
    pub file: File,
    directory: Directory,
    name: OsString,
    published: bool,
    /// The permissions that it gets where it replaces nothing.
    mode: u32,
    /// The permissions that it may have in the end.
    mask: u32,
}

impl TemporaryFile {
    pub fn create(output: &Path, what: &str) -> Result<TemporaryFile> {
        fault::point("restore.create")?;
        let name = output
            .file_name()
            .ok_or_else(|| Error::new(Kind::Usage, format!("output {}: not a file name", output.display())))?;
        let mut prefix = OsString::from(".");
        prefix.push(name);
        prefix.push(format!(".{what}-"));
        let failed =
            |e: std::io::Error| Error::io(Kind::Database, format!("create a file beside {}", output.display()), &e);
        let directory = Directory::open(parent(output)).map_err(failed)?;
        let (name, file) = directory.create_temporary(&prefix).map_err(failed)?;
        let path = output.with_file_name(&name);
        let temporary =
            TemporaryFile { path, file, directory, name, published: false, mode: PRIVATE_MODE, mask: 0o777 };
        temporary.file.try_lock().map_err(|e| failed(e.into()))?;
        temporary.remove_abandoned(&prefix, output)?;
        Ok(temporary)
    }

    /// Removes what killed restores of the same output have left: files of ours that nobody has locked.
    ///
    /// Errors: of kind `Locked`, if another restore is under way. Of two that begin at once, one goes on.
    fn remove_abandoned(&self, prefix: &OsStr, output: &Path) -> Result<()> {
        let Ok(entries) = fs::read_dir(self.directory.path()) else { return Ok(()) };
        for name in entries.flatten().map(|entry| entry.file_name()) {
            if name == self.name || !name.as_bytes().starts_with(prefix.as_bytes()) {
                continue;
            }
            let Ok(file) = self.directory.open_own(&name) else { continue };
            let ours = file.metadata().is_ok_and(|found| found.uid() == effective_user());
            match file.try_lock() {
                Ok(()) if ours => drop(self.directory.remove(&name)),
                Err(TryLockError::WouldBlock) if ours && name < self.name => {
                    let what = format!("output {}: another restore is writing it", output.display());
                    return Err(Error::new(Kind::Locked, what));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The permissions of the live database, where that recorded them. A stored number never makes a file executable, nor
    /// keeps its owner out.
    pub fn prefer_mode(&mut self, recorded: u32) {
        self.mode = recorded & 0o666 | PRIVATE_MODE;
    }

    /// It is to be read and not written: of the permissions that it will have, those to write are left out.
    pub fn read_only(&mut self) {
        self.mask = 0o444;
    }

    pub fn sync(&self) -> Result<()> {
        fault::point("restore.sync")?;
        self.file.sync_all().map_err(|e| Error::io(Kind::Database, format!("sync {}", self.path.display()), &e))
    }

    /// Gives the file its name, and to the owner of what was there. What is beside it goes first: a stale WAL must never
    /// meet the new file.
    ///
    /// Errors: of kind `Database`; then what had the name has it still, unless only the directory could not be synced.
    pub fn publish(mut self, output: &Path, replaced: Overwrite) -> Result<()> {
        self.take_over(output);
        self.sync()?;
        match replaced {
            Overwrite::IfUnused => refuse_open(output).and_then(|()| self.publish_over(output)),
            Overwrite::Always => self.publish_over(output),
            Overwrite::Never | Overwrite::EmptyWal => self.publish_new(output, replaced),
        }?;
        self.published = true;
        fault::point("restore.publish")?;
        sync_directory(output)
    }

    fn publish_over(&self, output: &Path) -> Result<()> {
        refuse_special(output)?;
        remove_sidecars(output)?;
        sync_directory(output)?;
        fault::point("restore.rename")?;
        let name = output.file_name().unwrap_or_default();
        self.directory.rename(&self.name, &self.directory, name).map_err(|e| rename_error(output, &e))
    }

    /// Owner and permissions of what is replaced; else the file is the owner's of its directory, and has the permissions
    /// that the live database had, or is private if they are not known.
    fn take_over(&self, output: &Path) {
        match self.directory.entry_metadata(output.file_name().unwrap_or_default()) {
            Ok(Some(found)) => {
                inherit_owner(&self.file, &found);
                let _ = set_mode(&self.file, found.mode() & self.mask);
            }
            _ => {
                let _ = self.directory.metadata().map(|place| inherit_owner(&self.file, &place));
                let _ = set_mode(&self.file, self.mode & self.mask);
            }
        }
    }

    /// Nothing that takes time stands between the look at what is there and the name: its application may be about to
    /// make the database.
    fn publish_new(&self, output: &Path, replaced: Overwrite) -> Result<()> {
        refuse_existing(output, replaced)?;
        remove_sidecars(output)?;
        fault::point("restore.rename")?;
        let name = output.file_name().unwrap_or_default();
        self.directory.rename_noreplace(&self.name, name).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => already_exists(output),
            _ => rename_error(output, &e),
        })
    }
}

fn remove_sidecars(output: &Path) -> Result<()> {
    for sidecar in SUFFIXES.iter().map(|suffix| with_suffix(output, suffix)) {
        fault::point("restore.sidecar")?;
        match fs::remove_file(&sidecar) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(Error::io(Kind::Database, format!("remove {}", sidecar.display()), &e));
            }
            _ => {}
        }
    }
    Ok(())
}

fn rename_error(output: &Path, error: &std::io::Error) -> Error {
    Error::io(Kind::Database, format!("rename to {}", output.display()), error)
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = self.directory.remove(&self.name);
        }
    }
}

fn sync_directory(output: &Path) -> Result<()> {
    let directory = match output.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let sync = || File::open(directory)?.sync_all();
    sync().map_err(|e| Error::io(Kind::Database, format!("sync directory {}", directory.display()), &e))
}

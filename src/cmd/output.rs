//! The file that a restore makes. It has its name only when it is whole, and takes nobody's place unasked.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::belonging::hand_over;
use crate::cmd::users::refuse_open;
use crate::error::{Error, Kind, Result};
use crate::fault;

/// SQLite would replay these into a database that appears under the same name.
const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Those of them that hold what a database has and its file has not.
const LOGS: [&str; 2] = ["-wal", "-journal"];

/// What a restore may take the place of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replaced {
    Nothing,
    /// No database, but what is beside a missing one and holds nothing: an empty WAL is what a clean end leaves.
    EmptyLog,
    /// What nobody has open.
    Unused,
    Anything,
}

/// Nothing that exists is overwritten unasked, nor anything that would change what is restored.
///
/// Errors: of kind `Database`, for what is there and may not be replaced.
pub fn refuse_existing(output: &Path, replaced: Replaced) -> Result<()> {
    let mut names = vec![output.to_path_buf()];
    match replaced {
        Replaced::Nothing => names.extend(SIDECARS.iter().map(|suffix| beside(output, suffix))),
        Replaced::EmptyLog => names.extend(LOGS.iter().map(|suffix| beside(output, suffix)).filter(|log| holds(log))),
        Replaced::Unused => return refuse_open(output),
        Replaced::Anything => return Ok(()),
    }
    match names.iter().find(|name| name.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(name) => Err(exists(name)),
    }
}

fn exists(name: &Path) -> Error {
    Error::new(Kind::Database, format!("output {}: it exists", name.display()))
        .with_hint("restore to another path with -o, or replace it with -force")
}

fn holds(log: &Path) -> bool {
    log.metadata().is_ok_and(|data| data.len() > 0)
}

pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A file that is removed unless it becomes the output.
pub struct Temporary {
    pub path: PathBuf,
    pub file: File,
    published: bool,
}

impl Temporary {
    pub fn create(output: &Path, what: &str) -> Result<Temporary> {
        fault::point("restore.create")?;
        let name = output.file_name().ok_or_else(|| {
            Error::new(Kind::Usage, format!("output {}: it is not the name of a file", output.display()))
        })?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{what}"));
        let path = output.with_file_name(temporary);
        let failed = |e: std::io::Error| Error::io(Kind::Database, format!("create {}", path.display()), &e);
        loop {
            // One name, so that what a killed restore has left is used again rather than left for good.
            let file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
            if file.try_lock().is_err() {
                let what = format!("output {}: being restored by another", output.display());
                return Err(Error::new(Kind::Locked, what));
            }
            // The other restore may have given the file its name between our opening and locking it: then it is done,
            // and must not be touched.
            if is_named(&file, &path) {
                let temporary = Temporary { path: path.clone(), file, published: false };
                temporary.file.set_len(0).map_err(failed)?;
                return Ok(temporary);
            }
        }
    }

    pub fn sync(&self) -> Result<()> {
        fault::point("restore.sync")?;
        self.file.sync_all().map_err(|e| Error::io(Kind::Database, format!("sync {}", self.path.display()), &e))
    }

    /// Gives the file its name, and to the owner of what was there. What is beside it goes first: a stale WAL must never
    /// meet the new file.
    ///
    /// Errors: of kind `Database`; then what had the name has it still, unless only the directory could not be synced.
    pub fn publish(mut self, output: &Path, replaced: Replaced) -> Result<()> {
        match replaced {
            Replaced::Unused => refuse_open(output).and_then(|()| self.replace(output)),
            Replaced::Anything => self.replace(output),
            Replaced::Nothing | Replaced::EmptyLog => self.appear(output, replaced),
        }?;
        self.published = true;
        fault::point("restore.publish")?;
        sync_directory(output)
    }

    fn replace(&self, output: &Path) -> Result<()> {
        remove_sidecars(output)?;
        sync_directory(output)?;
        if output.exists() {
            hand_over(&self.file, output);
        }
        fault::point("restore.rename")?;
        fs::rename(&self.path, output).map_err(|e| not_named(output, &e))
    }

    /// Nothing that takes time stands between the look at what is there and the name: its application may be about to
    /// make the database.
    fn appear(&self, output: &Path, replaced: Replaced) -> Result<()> {
        refuse_existing(output, replaced)?;
        remove_sidecars(output)?;
        fault::point("restore.rename")?;
        rename_to_new(&self.path, output).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => exists(output),
            _ => not_named(output, &e),
        })
    }
}

fn remove_sidecars(output: &Path) -> Result<()> {
    for sidecar in SIDECARS.iter().map(|suffix| beside(output, suffix)) {
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

fn not_named(output: &Path, error: &std::io::Error) -> Error {
    Error::io(Kind::Database, format!("rename to {}", output.display()), error)
}

/// Renames a file and replaces none: `AlreadyExists` if the name is taken, by renameat2(2). Where the file system or the
/// kernel has no such thing, one that is made at the same instant is replaced.
fn rename_to_new(from: &Path, to: &Path) -> std::io::Result<()> {
    let (old, new) = (CString::new(from.as_os_str().as_bytes())?, CString::new(to.as_os_str().as_bytes())?);
    // SAFETY: both names end with a zero byte, and the call keeps neither. Its wrapper is not in every C library.
    let result = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            old.as_ptr(),
            libc::AT_FDCWD,
            new.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOSYS) if to.symlink_metadata().is_err() => fs::rename(from, to),
        Some(libc::EINVAL | libc::ENOSYS) => Err(ErrorKind::AlreadyExists.into()),
        _ => Err(error),
    }
}

/// Whether `file` is what `path` means.
fn is_named(file: &File, path: &Path) -> bool {
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if same(&a, &b))
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.path);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_meanwhile_stays_with_whoever_took_it() {
        let directory = std::env::temp_dir().join(format!("litestream-output-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let [made, free, taken] = ["made", "free", "taken"].map(|name| directory.join(name));
        fs::write(&made, "restored").unwrap();
        fs::write(&taken, "an application's").unwrap();
        assert_eq!(rename_to_new(&made, &taken).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&taken).unwrap(), b"an application's");
        rename_to_new(&made, &free).unwrap();
        assert_eq!(fs::read(&free).unwrap(), b"restored");
        assert!(!made.exists());
        fs::remove_dir_all(&directory).unwrap();
    }
}

//! One instance a database: a lock file of our own, never a lock on the database.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::belonging::{hand_over, make_directory};
use crate::error::{Error, Kind, Result};
use crate::fault;

/// For how long a process wants to have a database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stay {
    /// Until somebody stops it: `replicate`.
    UntilStopped,
    /// It ends by itself: `snapshot`, `replicate -once`.
    UntilDone,
}

/// What stands behind the process id of a holder that ends by itself.
const UNTIL_DONE: &str = "until-done";

/// Held until dropped. The kernel lets go of it when the process dies, however that happens.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The directory for what must be kept beside a database: the lock, and the spool while the store is away.
pub fn default_meta_path(database: &Path) -> PathBuf {
    let name = database.file_name().unwrap_or_default().to_string_lossy();
    database.with_file_name(format!(".{name}-litestream"))
}

impl Lock {
    /// Takes the lock in `directory`, which is made if it is missing, and then belongs to the owner of `database`.
    ///
    /// Errors: [`Kind::Locked`], naming the holder, if another process has it; [`Kind::DatabaseNotReady`] if that one ends
    /// by itself and we would stay, so that it can be waited for.
    pub fn take(directory: &Path, database: &Path, stay: Stay) -> Result<Lock> {
        fault::point("lock.take")?;
        let path = directory.join("lock");
        let failed = |operation: &str, e: &std::io::Error| {
            Error::io(Kind::Database, format!("{operation} {}", path.display()), e)
                .with_hint("meta-path names another directory for it")
        };
        make_directories(directory, database).map_err(|e| failed("make the directory of", &e))?;
        let mut file = open(&path, database).map_err(|e| failed("open", &e))?;
        if !try_lock(&file).map_err(|e| failed("lock", &e))? {
            return Err(held(&mut file, database, stay));
        }
        let sign = || -> std::io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            match stay {
                Stay::UntilStopped => writeln!(file, "{}", std::process::id()),
                Stay::UntilDone => writeln!(file, "{} {UNTIL_DONE}", std::process::id()),
            }
        };
        let mut sign = sign;
        sign().map_err(|e| failed("write", &e))?;
        Ok(Lock { _file: file })
    }
}

/// Makes the directory and what is missing above it.
fn make_directories(directory: &Path, database: &Path) -> std::io::Result<()> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.is_dir();
    let missing: Vec<&Path> = directory.ancestors().take_while(missing).collect();
    missing.into_iter().rev().try_for_each(|path| make_directory(path, database).map(|_| ()))
}

/// The lock file, new or as another run has left it. Not through a link: another user than ours may own the directory.
fn open(path: &Path, database: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            hand_over(&file, database);
            Ok(file)
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => options.open(path),
        Err(e) => Err(e),
    }
}

/// Locks a file of ours until it is closed, by the process's death at the latest. False if another has it open and locked.
pub fn try_lock(file: &File) -> std::io::Result<bool> {
    // SAFETY: flock(2) on a descriptor that is open for the duration of the call.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    match std::io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EWOULDBLOCK) => Ok(false),
        error => Err(error),
    }
}

fn held(file: &mut File, database: &Path, stay: Stay) -> Error {
    let mut text = String::new();
    let _ = file.take(64).read_to_string(&mut text);
    let mut words = text.split_whitespace();
    let (pid, ends) = (words.next(), words.next() == Some(UNTIL_DONE));
    let holder = pid.map_or("another process".to_string(), |pid| format!("process {pid}"));
    // One that has not signed yet began in this instant: what it is will be known at the next attempt.
    if stay == Stay::UntilStopped && (ends || pid.is_none()) {
        let what = format!("{}: {holder} stores a snapshot of it; waiting until that has ended", database.display());
        return Error::new(Kind::DatabaseNotReady, what);
    }
    Error::new(Kind::Locked, format!("{}: already replicated by {holder}", database.display()))
        .with_hint("stop that instance first; `snapshot`, `restore` and `status` may run beside it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_with_the_pid_of_the_first() {
        let directory = std::env::temp_dir().join(format!("litestream-lock-{}", std::process::id()));
        let take = |stay| Lock::take(&directory, Path::new("/x.db"), stay);
        let first = take(Stay::UntilStopped).unwrap();
        for stay in [Stay::UntilStopped, Stay::UntilDone] {
            let error = take(stay).unwrap_err();
            assert_eq!(error.kind(), Kind::Locked);
            assert!(error.message().contains(&std::process::id().to_string()), "{error}");
        }
        drop(first);
        take(Stay::UntilStopped).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_holder_that_ends_by_itself_is_waited_for_by_one_that_stays() {
        let directory = std::env::temp_dir().join(format!("litestream-lock-done-{}", std::process::id()));
        let take = |stay| Lock::take(&directory, Path::new("/x.db"), stay);
        let _first = take(Stay::UntilDone).unwrap();
        assert_eq!(take(Stay::UntilDone).unwrap_err().kind(), Kind::Locked);
        let error = take(Stay::UntilStopped).unwrap_err();
        assert_eq!(error.kind(), Kind::DatabaseNotReady);
        assert!(error.message().contains(&std::process::id().to_string()), "{error}");
        // It was killed, or has not come further, between taking the lock and signing it.
        std::fs::write(directory.join("lock"), "").unwrap();
        assert_eq!(take(Stay::UntilStopped).unwrap_err().kind(), Kind::DatabaseNotReady);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

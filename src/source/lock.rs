//! One instance a database: a lock file of our own, never a lock on the database.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::directory::{Directory, effective_user, inherit_owner, set_mode};
use crate::error::{Error, Kind, Result};
use crate::fault;

const LOCK_FILE: &str = "lock";
/// A lock that others could open they could also hold.
const LOCK_FILE_MODE: u32 = 0o600;
pub(super) const META_PATH_HINT: &str = "set meta-path to use another directory";
const ROOT_UID: u32 = 0;
/// Others may write, and the group may.
const BY_OTHERS: u32 = 0o002;
const BY_GROUP: u32 = 0o020;

/// For how long a process wants to have a database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockWait {
    /// Until it is stopped: `replicate`.
    UntilStopped,
    /// It ends by itself: `snapshot`, `replicate -once`.
    UntilDone,
}

/// What stands after the process id of a holder that ends by itself.
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
    /// by itself and we would stay, so that it can be waited for. Of kind `Database`, if the directory or the file is one
    /// that another user may have put there.
    pub fn take(directory: &Path, database: &Path, stay: LockWait) -> Result<Lock> {
        fault::point("lock.take")?;
        let path = directory.join(LOCK_FILE);
        let failed = |operation: &str, e: &io::Error| {
            Error::io(Kind::Database, format!("{operation} {}", path.display()), e).with_hint(META_PATH_HINT)
        };
        let owner = fs::metadata(database).ok();
        let meta = meta_directory(directory, owner.as_ref())?;
        let mut file = open(&meta, owner.as_ref()).map_err(|e| failed("open", &e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked_by(&mut file, database, stay)),
            Err(TryLockError::Error(e)) => return Err(failed("lock", &e)),
        }
        write_pid(&mut file, stay).map_err(|e| failed("write", &e))?;
        Ok(Lock { _file: file })
    }
}

fn write_pid(file: &mut File, stay: LockWait) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    match stay {
        LockWait::UntilStopped => writeln!(file, "{}", std::process::id()),
        LockWait::UntilDone => writeln!(file, "{} {UNTIL_DONE}", std::process::id()),
    }
}

/// Makes the directory if it is missing, and looks whose it is: root follows databases of users that it does not trust.
fn meta_directory(path: &Path, owner: Option<&Metadata>) -> Result<Directory> {
    let failed = |e: &io::Error| {
        Error::io(Kind::Database, format!("open metadata directory {}", path.display()), e).with_hint(META_PATH_HINT)
    };
    let directory = Directory::open_or_create(path, owner).map_err(|e| failed(&e))?;
    let found = directory.metadata().map_err(|e| failed(&e))?;
    match distrust_reason(&found, owner) {
        None => Ok(directory),
        Some(why) => Err(Error::new(Kind::Database, format!("metadata directory {}: {why}", path.display()))
            .with_hint(
                "only the owner of the database may write there: chown and chmod the directory, or set meta-path to another one",
            )),
    }
}

/// Why what lies in a directory is not to be relied on.
fn distrust_reason(found: &Metadata, database: Option<&Metadata>) -> Option<String> {
    let (us, owner) = (effective_user(), database.map(MetadataExt::uid));
    if ![Some(ROOT_UID), Some(us), owner].contains(&Some(found.uid())) {
        let expected = owner.unwrap_or(us);
        return Some(format!("expected user {us} or {expected} as its owner, found user {}", found.uid()));
    }
    let group = database.is_some_and(|database| database.gid() == found.gid());
    let open = found.mode() & BY_OTHERS != 0 || (found.mode() & BY_GROUP != 0 && !group);
    open.then(|| format!("other users may write there (mode {:04o})", found.mode() & 0o7777))
}

/// The lock file, new or as another run has left it.
fn open(directory: &Directory, owner: Option<&Metadata>) -> io::Result<File> {
    let name = OsStr::new(LOCK_FILE);
    match directory.create(name) {
        Ok(file) => {
            if let Some(owner) = owner {
                inherit_owner(&file, owner);
            }
            Ok(file)
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let file = directory.open_own(name)?;
            // Not ours to change where root has made it for us.
            let _ = set_mode(&file, LOCK_FILE_MODE);
            Ok(file)
        }
        Err(e) => Err(e),
    }
}

/// Names the holder only where the kernel says that it is one: what is written in the file may be of a process that died.
fn locked_by(file: &mut File, database: &Path, stay: LockWait) -> Error {
    let mut text = String::new();
    let _ = file.take(64).read_to_string(&mut text);
    let mut words = text.split_whitespace();
    let (pid, ends) = (words.next(), words.next() == Some(UNTIL_DONE));
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let holder = file.metadata().ok().and_then(|found| holder_in(&locks, found.ino(), pid.unwrap_or_default()));
    let holder = holder.map_or("another process (pid unknown)".to_string(), |pid| format!("process {pid}"));
    // One that has not signed yet began in this instant: what it is will be known at the next attempt.
    if stay == LockWait::UntilStopped && (ends || pid.is_none()) {
        let what = format!("{}: {holder} takes a snapshot of it; waiting until it has finished", database.display());
        return Error::new(Kind::DatabaseNotReady, what);
    }
    Error::new(Kind::Locked, format!("{}: already replicated by {holder}", database.display()))
        .with_hint("stop that instance first; `snapshot`, `restore` and `status` may run at the same time")
}

/// Who holds an flock(2) on the file with this inode number, by the text of /proc/locks (proc_locks(5)). Numbers repeat on
/// other devices, whose numbers are not those of stat(2) everywhere: of several, the one who has signed the file.
fn holder_in(locks: &str, inode: u64, signed: &str) -> Option<String> {
    let mut pids = locks.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[_, "FLOCK", _, _, pid, file, ..] = words.as_slice() else { return None };
        let same = file.rsplit(':').next()?.parse() == Ok(inode);
        (same && pid.parse::<u32>().is_ok_and(|pid| pid > 0)).then_some(pid)
    });
    let first = pids.next()?;
    let mut others = pids.peekable();
    match first == signed || others.peek().is_none() {
        true => Some(first.to_string()),
        false => others.find(|pid| *pid == signed).map(str::to_string),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_with_the_pid_of_the_first() {
        let directory = std::env::temp_dir().join(format!("litestream-lock-{}", std::process::id()));
        let take = |stay| Lock::take(&directory, Path::new("/x.db"), stay);
        let first = take(LockWait::UntilStopped).unwrap();
        for stay in [LockWait::UntilStopped, LockWait::UntilDone] {
            let error = take(stay).unwrap_err();
            assert_eq!(error.kind(), Kind::Locked);
            assert!(error.message().contains(&std::process::id().to_string()), "{error}");
        }
        drop(first);
        take(LockWait::UntilStopped).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_holder_that_ends_by_itself_is_waited_for_by_one_that_stays() {
        let directory = std::env::temp_dir().join(format!("litestream-lock-done-{}", std::process::id()));
        let take = |stay| Lock::take(&directory, Path::new("/x.db"), stay);
        let _first = take(LockWait::UntilDone).unwrap();
        assert_eq!(take(LockWait::UntilDone).unwrap_err().kind(), Kind::Locked);
        let error = take(LockWait::UntilStopped).unwrap_err();
        assert_eq!(error.kind(), Kind::DatabaseNotReady);
        assert!(error.message().contains(&std::process::id().to_string()), "{error}");
        // It was killed, or has not come further, between taking the lock and signing it.
        std::fs::write(directory.join("lock"), "").unwrap();
        assert_eq!(take(LockWait::UntilStopped).unwrap_err().kind(), Kind::DatabaseNotReady);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_holder_is_whom_the_kernel_names() {
        let locks = "1: FLOCK  ADVISORY  WRITE 41 08:01:7 0 EOF\n2: POSIX  ADVISORY  WRITE 42 08:01:7 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 43 08:01:7 0 EOF\n3: FLOCK  ADVISORY  WRITE 44 08:02:8 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 45 08:03:8 0 EOF\n5: FLOCK  ADVISORY  WRITE 0 08:03:9 0 EOF\n";
        for (inode, signed, holder) in [
            (7, "41", Some("41")),
            (7, "999", Some("41")),
            (8, "45", Some("45")),
            (8, "44", Some("44")),
            (8, "999", None),
            (9, "999", None),
            (10, "41", None),
        ] {
            assert_eq!(holder_in(locks, inode, signed).as_deref(), holder, "{inode} {signed}");
        }
    }
}

//! Closing a database whose file is gone, or another one, so that the next one of its name is opened from nothing.
//!
//! As long as we are connected, the -wal and -shm files stay, and they would be taken for those of the new file. SQLite
//! removes them where it closes a database as the last one, but not where the file has lost its name
//! (databaseIsUnmoved, sqlite3.c). So it is done here, by the same rule: under a lock that keeps everybody out, and only
//! files that are the very ones that were open, and hold nothing that the database has not.
//!
//! No descriptor outside of SQLite's is closed before the last connection is: that would drop its locks.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::format::sidecar::with_suffix;
use crate::log;
use crate::source::Source;
use crate::source::connection::{CheckpointMode, checkpoint};
use crate::source::identity::{FileIdentity, Inode};
use crate::source::lock_bytes::{DATABASE_LOCKS, INDEX_LOCKS};

impl Source {
    /// Closes everything. What is left beside a file that is gone, or was overwritten, goes too, if nobody else uses it
    /// and nothing is lost with it.
    pub fn close(mut self) {
        let dead = self.is_wal_dead();
        let (path, identity) = (self.files.path.clone(), self.files.identity);
        let held = duplicate_handles(&identity);
        drop(self);
        match held {
            Some(held) if dead => remove_files(&path, &identity, &held),
            _ => log::debug("files next to the database not removed").field("db", path.display()).emit(),
        }
    }

    /// Whether the WAL holds nothing that is needed.
    fn is_wal_dead(&mut self) -> bool {
        let Ok(header) = self.header() else { return false };
        if FileIdentity::of(&self.files.path).is_ok_and(|now| now.database == self.files.identity.database) {
            let now = self.file_state().ok().flatten();
            let dead = match (&self.file_watch.base, now) {
                (Some(base), Some(now)) => base.makes_wal_obsolete(&now),
                _ => false,
            };
            return dead && self.is_copied(&header);
        }
        // The file is still there under another name, or nobody can ever open it again. It gets what it lacks.
        self.pins.end();
        let complete = || checkpoint(self.pins.idle_connection(), CheckpointMode::Passive);
        complete().is_ok() && self.header().is_ok_and(|header| header.is_backfilled())
    }
}

/// Descriptors of our own on the database and its -shm file, made from SQLite's: they may have no name any more.
fn duplicate_handles(identity: &FileIdentity) -> Option<[File; 2]> {
    let find = |wanted: Inode| {
        fs::read_dir("/proc/self/fd")
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == wanted))
    };
    let reopen = |path: PathBuf| OpenOptions::new().read(true).write(true).open(path).ok();
    Some([reopen(find(identity.database)?)?, reopen(find(identity.index?)?)?])
}

fn remove_files(path: &Path, identity: &FileIdentity, held: &[File; 2]) {
    let locked = lock_exclusively(&held[0], DATABASE_LOCKS) && lock_exclusively(&held[1], INDEX_LOCKS);
    if !locked {
        log::warn("another process still uses the replaced database file").field("db", path.display()).emit();
        return;
    }
    for (suffix, ours) in [("-wal", identity.wal), ("-shm", identity.index)] {
        let name = with_suffix(path, suffix);
        let found = fs::symlink_metadata(&name).map(|found| (found.dev(), found.ino())).ok();
        if found.is_some() && found == ours && fs::remove_file(&name).is_ok() {
            log::info("removed a file of the replaced database").field("file", name.display()).emit();
        }
    }
}

/// Keeps everybody else out until the file is closed. False if another process is in.
fn lock_exclusively(file: &File, (start, length): (i64, i64)) -> bool {
    // SAFETY: all zeros is a valid flock.
    let mut wanted: libc::flock = unsafe { std::mem::zeroed() };
    wanted.l_type = libc::F_WRLCK as libc::c_short;
    wanted.l_whence = libc::SEEK_SET as libc::c_short;
    (wanted.l_start, wanted.l_len) = (start, length);
    // SAFETY: fcntl(2) on a descriptor that is open, with a flock that lives through the call.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const wanted) == 0 }
}

//! Whether a checkpoint of another process waits for readers, our pin perhaps, and keeps all writers waiting meanwhile.
//!
//! FULL, RESTART and TRUNCATE hold CKPT and WRITE while they wait (sqlite3WalCheckpoint), so one process that has both runs
//! such a one. The wal-index does not tell: nothing is committed.
//!
//! It may even wait for a pin that is not in its way. It waits for the slot of a reader whose mark it has read before
//! (walCheckpoint: `y`). Where that reader has ended, and another one took the slot with a newer mark before the
//! checkpoint tried again, it goes on waiting for that one; and as nothing is committed, no pin of ours ever leaves the slot.
//! So a first pin, which takes whatever slot is free, is not kept while such a checkpoint waits.
//!
//! SQLite's own descriptor of the -shm file is asked, so that nothing is opened or closed. The kernel tells of the locks of
//! other processes only, which is what is wanted.

use std::ffi::{c_int, c_short};
use std::fs;
use std::os::fd::RawFd;
use std::time::Duration;

use crate::source::identity::Inode;

/// How long a first pin is given up again and again while a checkpoint of the application waits.
pub const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(2);
/// Between two such attempts: longer than SQLite's busy handler sleeps between two of its own (100 ms).
pub const CHECKPOINT_PAUSE: Duration = Duration::from_millis(120);

/// Lock bytes in the -shm file (sqlite.org/walformat.html#wal_locks).
const WRITE: libc::off_t = 120;
const CHECKPOINT: libc::off_t = 121;

/// The descriptor to ask with, once it was looked for.
#[derive(Default)]
pub(super) struct ForeignLocks {
    descriptor: Option<RawFd>,
    looked_for: bool,
}

impl ForeignLocks {
    /// Whether another process holds both locks on the -shm file of this inode. False where that cannot be known.
    pub(super) fn has_waiting_checkpoint(&mut self, index: Option<Inode>) -> bool {
        let Some(descriptor) = self.descriptor(index) else { return false };
        let checkpoint = holder(descriptor, CHECKPOINT);
        checkpoint.is_some() && checkpoint == holder(descriptor, WRITE)
    }

    /// Whether another process holds the lock of writers: it has it from before the first frame of a transaction until that is
    /// published. False where that cannot be known.
    pub(super) fn has_writer(&mut self, index: Option<Inode>) -> bool {
        self.descriptor(index).is_some_and(|descriptor| holder(descriptor, WRITE).is_some())
    }

    fn descriptor(&mut self, index: Option<Inode>) -> Option<RawFd> {
        if !std::mem::replace(&mut self.looked_for, true) {
            self.descriptor = index.and_then(descriptor_of);
        }
        self.descriptor
    }
}

/// SQLite's descriptor of a file, which lives as long as the database is open. It was opened last, so it is looked for from
/// the highest number down.
fn descriptor_of(file: Inode) -> Option<RawFd> {
    let names = fs::read_dir("/proc/self/fd").ok()?.flatten();
    let mut numbers: Vec<RawFd> =
        names.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok())).collect();
    numbers.sort_unstable();
    numbers.into_iter().rev().find(|number| inode_of(*number) == Some(file))
}

fn inode_of(descriptor: RawFd) -> Option<Inode> {
    // SAFETY: all zeros is a valid stat.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: fstat(2) into a stat that lives through the call; a number that is not open is refused.
    let done = unsafe { libc::fstat(descriptor, &raw mut found) };
    #[allow(clippy::useless_conversion, reason = "the fields have 32 bits on some targets")]
    (done == 0).then_some((u64::from(found.st_dev), u64::from(found.st_ino)))
}

/// The process that keeps others from locking a byte, if there is one; 0 for one that cannot be seen from here.
fn holder(descriptor: RawFd, byte: libc::off_t) -> Option<libc::pid_t> {
    // SAFETY: all zeros is a valid flock.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as c_short;
    lock.l_whence = libc::SEEK_SET as c_short;
    (lock.l_start, lock.l_len) = (byte, 1);
    // SAFETY: fcntl(2) with a flock that lives through the call. It only asks; a number that is not open is refused.
    let done = unsafe { libc::fcntl(descriptor, libc::F_GETLK, &raw mut lock) };
    (done == 0 && c_int::from(lock.l_type) != c_int::from(libc::F_UNLCK as c_short)).then_some(lock.l_pid)
}

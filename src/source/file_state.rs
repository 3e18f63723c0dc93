//! Whether the database file was written to by anything but a checkpoint.
//!
//! In WAL mode nothing but a checkpoint writes to it. A checkpoint stores how far it will get (nBackfillAttempted) before
//! its first write, and how far it got (nBackfill) after its last one (walCheckpoint, sqlite3.c). So a time of the last
//! change that is another one, while neither of the two nor the salts moved, is a write that no checkpoint did: a program
//! copied another file over this one. Such a file keeps its inode, and the wal-index goes on as if nothing had happened.
//!
//! What this cannot see: a copy in the same second as a checkpoint of another process, where page size and file format are
//! the same. A look costs one stat(2) and one read of 100 bytes.

use std::fs::Metadata;
use std::time::Instant;

use rusqlite::Connection;

use crate::error::Result;
use crate::settled::{DirectoryStamp, Settled};
use crate::source::connection;
use crate::source::file_stamp::FileStamp;
use crate::source::resume::GenerationEnd;
use crate::source::wal_index::{CheckpointProgress, IndexHeader, WalIndex};

/// The header of the database (sqlite.org/fileformat2.html#the_database_header).
const HEADER_BYTES: usize = 100;
pub(super) type DatabaseHeader = [u8; HEADER_BYTES];
/// Page size, and the two version numbers that say whether it is in WAL mode: no checkpoint changes them.
const UNCHANGED_BYTES: std::ops::Range<usize> = 16..20;

/// The file as it was found at one look, and how far checkpoints were just before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileState {
    stamp: FileStamp,
    header: DatabaseHeader,
    before: IndexState,
}

/// The wal-index before a look at the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct IndexState {
    progress: CheckpointProgress,
    /// None while the wal-index was torn.
    header: Option<IndexHeader>,
}

impl IndexState {
    pub(super) fn read(index: &WalIndex) -> Result<IndexState> {
        Ok(IndexState { progress: index.progress(), header: index.read()? })
    }
}

/// What two looks say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// None, or a checkpoint's.
    Explained,
    /// No checkpoint did this, or one of an SQLite before 3.11, which does not announce it.
    Suspect,
    /// No checkpoint can have done this.
    Foreign,
}

impl FileState {
    /// `before` was read before `found` was.
    pub(super) fn read(before: IndexState, found: &Metadata, connection: &Connection) -> Result<FileState> {
        let mut header = [0; HEADER_BYTES];
        connection::read_file(connection, 0, &mut header)?;
        Ok(FileState::new(before, found, header))
    }

    /// The same with a header that is known.
    pub(super) fn new(before: IndexState, found: &Metadata, header: DatabaseHeader) -> FileState {
        FileState { stamp: FileStamp::new(found), header, before }
    }

    pub(super) fn stamp(&self) -> FileStamp {
        self.stamp
    }

    /// What became of the file between `self` and `now`; `behind` is how far checkpoints are behind the later look.
    /// `times` says whether the file system can be trusted with the time of a change.
    pub(super) fn compare(&self, now: &FileState, behind: CheckpointProgress, times: bool) -> Change {
        if self.header[UNCHANGED_BYTES] != now.header[UNCHANGED_BYTES] {
            return Change::Foreign;
        }
        let same = self.stamp.modified == now.stamp.modified && self.stamp.size == now.stamp.size;
        let before = self.before.progress;
        if same || !times || before != behind || before.is_open() || behind.is_open() {
            return Change::Explained;
        }
        Change::Suspect
    }

    /// Whether the content is another one beyond doubt: a change of the times alone may be a touch(1).
    fn is_certain(&self, now: &FileState) -> bool {
        self.stamp.size != now.stamp.size || self.header[UNCHANGED_BYTES.start..] != now.header[UNCHANGED_BYTES.start..]
    }

    /// Whether the WAL has nothing for the file that is there now: it was all in the file that was there before, or the
    /// file is another one. Not so if something was committed since.
    pub(super) fn makes_wal_obsolete(&self, now: &FileState) -> bool {
        match (&self.before.header, &now.before.header) {
            (Some(before), Some(index)) if before.same_commit(index) => before.is_backfilled() || self.is_certain(now),
            _ => false,
        }
    }
}

/// What is remembered between two looks.
#[derive(Default)]
pub(super) struct FileWatcher {
    pub(super) base: Option<FileState>,
    suspect: bool,
    /// An SQLite before 3.11 runs checkpoints here: the times say nothing.
    unannounced: bool,
    /// The directory, in so far as its names mean the files that they meant.
    pub(super) names: Settled<DirectoryStamp>,
    content: Settled<FileStamp>,
}

impl FileWatcher {
    /// The header of the file with this stamp, if it was read since that stamp has settled.
    pub(super) fn known_header(&mut self, stamp: FileStamp, now: Instant) -> Option<DatabaseHeader> {
        let must_read = self.content.must_read(Some(stamp), now);
        self.base.as_ref().filter(|base| !must_read && base.stamp == stamp).map(|base| base.header)
    }

    /// Takes in a look. `sure`: there is no time for a second one.
    pub(super) fn check(
        &mut self,
        now: FileState,
        behind: CheckpointProgress,
        times: bool,
        sure: bool,
    ) -> Option<GenerationEnd> {
        let Some(base) = &self.base else {
            self.base = Some(now);
            return None;
        };
        self.unannounced |= behind.is_unannounced();
        let times = times && !self.unannounced;
        match base.compare(&now, behind, times) {
            Change::Explained if self.suspect && times => Some(GenerationEnd::Overwritten),
            Change::Explained => {
                (self.base, self.suspect) = (Some(now), false);
                None
            }
            Change::Suspect if sure || self.suspect => Some(GenerationEnd::Overwritten),
            Change::Suspect => {
                self.suspect = true;
                None
            }
            Change::Foreign => Some(GenerationEnd::Overwritten),
        }
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// A checkpoint of our own has ended, before which there was nothing to suspect.
    pub(super) fn rebase(&mut self, now: Option<FileState>) {
        if !self.suspect {
            self.base = now.or(self.base);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::wal::Salt;

    fn progress(salt: u32, backfilled: u32, attempted: u32) -> CheckpointProgress {
        CheckpointProgress { salt: Salt(salt, 0), backfilled, attempted }
    }

    fn state(modified: i64, size: u64, progress: CheckpointProgress) -> FileState {
        let stamp = FileStamp { inode: 1, size, modified: (modified, 0), changed: (modified, 0) };
        FileState { stamp, header: [7; HEADER_BYTES], before: IndexState { progress, header: None } }
    }

    #[test]
    fn only_a_change_without_a_checkpoint_is_suspect() {
        let quiet = progress(1, 5, 5);
        let table = [
            (quiet, 1, quiet, Change::Explained),
            (quiet, 2, quiet, Change::Suspect),
            (quiet, 2, progress(1, 9, 9), Change::Explained),
            (quiet, 2, progress(1, 5, 9), Change::Explained),
            (quiet, 2, progress(2, 0, 0), Change::Explained),
            (progress(1, 5, 9), 2, progress(1, 5, 9), Change::Explained),
        ];
        for (before, modified, behind, expected) in table {
            let found = state(1, 4096, before).compare(&state(modified, 4096, behind), behind, true);
            assert_eq!(found, expected, "{before:?} {behind:?}");
        }
        assert_eq!(state(1, 4096, quiet).compare(&state(1, 8192, quiet), quiet, true), Change::Suspect);
        assert_eq!(state(1, 4096, quiet).compare(&state(2, 8192, quiet), quiet, false), Change::Explained);
    }

    #[test]
    fn another_format_is_foreign_whatever_checkpoints_did() {
        let mut now = state(2, 4096, progress(2, 3, 3));
        now.header[19] = 1;
        assert_eq!(state(1, 4096, progress(1, 1, 1)).compare(&now, progress(2, 3, 3), false), Change::Foreign);
    }

    #[test]
    fn suspicion_lasts_until_the_next_check_despite_a_checkpoint() {
        let quiet = progress(1, 5, 5);
        let mut watched = FileWatcher::default();
        assert_eq!(watched.check(state(1, 4096, quiet), quiet, true, false), None);
        assert_eq!(watched.check(state(2, 4096, quiet), quiet, true, false), None);
        let later = progress(1, 9, 9);
        assert_eq!(watched.check(state(3, 4096, later), later, true, false), Some(GenerationEnd::Overwritten));
    }

    #[test]
    fn a_checkpoint_of_an_old_sqlite_is_no_reason() {
        let quiet = progress(1, 5, 5);
        let mut watched = FileWatcher::default();
        assert_eq!(watched.check(state(1, 4096, quiet), quiet, true, false), None);
        assert_eq!(watched.check(state(2, 4096, quiet), quiet, true, false), None);
        let ended = progress(1, 9, 5);
        assert_eq!(watched.check(state(2, 4096, ended), ended, true, false), None);
        assert_eq!(watched.check(state(3, 4096, ended), ended, true, false), None);
    }
}

//! A database file that is recognised before anything of its WAL is read.

use crate::backup::stored_end::{DatabaseFingerprint, StoredEnd};
use crate::format::position::Position;
use crate::source::{Source, WalMark};

/// The file before all that the WAL holds, and what is known to be stored of it.
pub(super) struct KnownFile {
    pub(super) mark: WalMark,
    pub(super) known: Option<DatabaseFingerprint>,
    /// The positions that the note has of the file.
    pub(super) positions: Vec<Position>,
}

impl KnownFile {
    pub(super) fn is_of(&self, end: &StoredEnd, source: &Source) -> bool {
        let known = self.known.is_some() && self.known == end.database;
        source.start() == self.mark && (known || self.positions.contains(&end.position()))
    }
}

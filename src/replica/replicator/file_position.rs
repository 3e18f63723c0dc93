//! A place before all that the WAL holds, where a database is recognised by its file: what else is known to be there.

use crate::backup::stored_end::{Known, StoredEnd};
use crate::format::position::Position;
use crate::source::{Source, WalMark};

pub(super) struct FilePosition {
    pub(super) mark: WalMark,
    pub(super) known: Option<Known>,
    /// The positions that the note has of the file.
    pub(super) positions: Vec<Position>,
}

impl FilePosition {
    pub(super) fn is_of(&self, end: &StoredEnd, source: &Source) -> bool {
        let known = self.known.is_some() && self.known == end.database;
        source.start() == self.mark && (known || self.positions.contains(&end.position()))
    }
}

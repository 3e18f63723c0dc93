//! A note beside the lock: to whom the newest full snapshot of a replica was encrypted. A restore begins with that snapshot, so
//! whoever cannot read it can restore nothing that follows.
//!
//! An age file does not tell who its recipients are. So the writer notes a digest of them, with the position of the snapshot.
//!
//! What must hold: a note that is missing, of another generation or of a snapshot that is not there proves nothing. A snapshot
//! of the same generation after the noted one is of `compact`, which has recipients of its own configuration.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;

use crate::directory::Directory;
use crate::error::{Error, Kind, Result};
use crate::format::key::SnapshotKey;
use crate::format::position::Position;

const NAME: &str = "recipients";
/// Bytes that a note may have.
const MAX_NOTE: u64 = 256;

/// To whom a snapshot was encrypted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecipientsNote {
    pub position: Position,
    /// Of the recipients.
    pub digest: String,
}

impl RecipientsNote {
    /// What was left in the directory of the replica. One that cannot be read is none.
    pub fn read(directory: &Path) -> Option<RecipientsNote> {
        let text = Directory::open(directory).and_then(|own| own.read_text(OsStr::new(NAME), MAX_NOTE));
        RecipientsNote::parse(&text.ok()?)
    }

    /// Leaves it there, durably.
    ///
    /// Errors: the directory cannot be written to.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let write = || -> io::Result<()> {
            let place = crate::directory::parent(directory).metadata().ok();
            let into = Directory::open_or_create(directory, place.as_ref())?;
            into.replace(OsStr::new(NAME), |file| file.write_all(self.text().as_bytes()).map(|()| true))?;
            into.sync()
        };
        write().map_err(|e| Error::io(Kind::Database, format!("write {}/{NAME}", directory.display()), &e))
    }

    /// Whether those of `digest` can read `base`, the snapshot that a restore begins with, as far as the note tells.
    pub fn proves(&self, base: &SnapshotKey, digest: &str) -> bool {
        self.digest == digest
            && self.position.generation == base.generation
            && self.position.wal_position <= base.position
    }

    fn text(&self) -> String {
        format!("{} {}\n", self.position, self.digest)
    }

    fn parse(text: &str) -> Option<RecipientsNote> {
        let (position, digest) = text.strip_suffix('\n')?.split_once(' ')?;
        Some(RecipientsNote { position: position.parse().ok()?, digest: digest.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{millis, point};
    use crate::format::position::Generation;

    fn base(generation: u64, at: u64) -> SnapshotKey {
        SnapshotKey { generation: Generation::new(generation), position: point(0, at), time: millis(1) }
    }

    #[test]
    fn only_the_same_recipients_of_a_stored_snapshot_are_proven() {
        let position = Position { generation: Generation::new(7), wal_position: point(0, 5) };
        let note = RecipientsNote { position, digest: "d1".to_string() };
        let table = [
            (base(7, 5), "d1", true),
            (base(7, 5), "d2", false),
            // Of `compact`.
            (base(7, 6), "d1", true),
            // The noted one is gone.
            (base(7, 4), "d1", false),
            // Of another writer.
            (base(8, 5), "d1", false),
            (base(6, 5), "d1", false),
        ];
        for (base, digest, expected) in table {
            assert_eq!(note.proves(&base, digest), expected, "{base:?} {digest}");
        }
    }

    #[test]
    fn a_note_is_read_as_it_was_written_and_never_in_part() {
        let position = Position { generation: Generation::new(7), wal_position: point(3, 5) };
        let note = RecipientsNote { position, digest: "0123".to_string() };
        let text = note.text();
        assert_eq!(RecipientsNote::parse(&text), Some(note));
        for end in 0..text.len() {
            assert_eq!(RecipientsNote::parse(&text[..end]), None, "{:?}", &text[..end]);
        }
    }
}

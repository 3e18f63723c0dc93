//! When a database needs no looking at until the kernel tells of a write.
//!
//! Every commit writes frames to the WAL before it is published in the wal-index, and every checkpoint that could wait
//! for our pin writes pages to the database file first: word of either comes no later than what must be seen. (What a
//! RESTART or TRUNCATE waits for besides is a pin on READ1 to READ4 while nothing is left to write back; a database whose
//! file has everything rests only after the pin has moved to READ0, which neither of them waits for.)

use crate::error::Result;
use crate::log;
use crate::source::watch::{Watch, Wire};
use crate::source::{SETTLE, Source, wal_file};

/// So often may a commit have come without word before the file system is not asked any more. Once can happen: its
/// frames were written before the watch began, and published long after (a slow disk).
const UNTOLD: u8 = 2;

/// The watches on one database.
#[derive(Default)]
pub(super) struct Wires {
    armed: Option<[Wire; 2]>,
    untold: u8,
}

impl Source {
    /// Asks for word of the next write. False if it cannot be had, or if there is something to do now.
    pub fn arm(&mut self, watch: &mut Watch) -> Result<bool> {
        self.wires.armed = None;
        if self.wires.untold >= UNTOLD || !self.is_at_rest()? {
            return Ok(false);
        }
        if let (Some(database), Some(wal)) = (watch.arm(&self.path), watch.arm(&wal_file::path_of(&self.path))) {
            self.wires.armed = Some([database, wal]);
        }
        Ok(self.wires.armed.is_some())
    }

    /// Whether there was word of a write since [`Source::arm`].
    pub fn is_touched(&self) -> bool {
        self.wires.armed.as_ref().is_none_or(|wires| wires.iter().any(Wire::is_touched))
    }

    /// A commit has come and there was no word of it.
    pub fn was_not_told(&mut self) {
        self.wires.untold = self.wires.untold.saturating_add(1);
        if self.wires.untold == UNTOLD {
            log::debug("no word of writes here, so it is looked at each tick").field("db", self.path.display()).emit();
        }
    }

    /// Everything is given out, and the pin is where it makes nobody wait.
    fn is_at_rest(&mut self) -> Result<bool> {
        let header = self.header()?;
        let given_out = header == self.last && self.is_given_out(&header) && !self.checkpoints.is_sealing();
        Ok(given_out && (!header.is_backfilled() || self.settled >= SETTLE))
    }
}

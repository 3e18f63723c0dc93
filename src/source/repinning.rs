//! Moving the pin: the next one begins before the last one ends.

use std::time::Instant;

use crate::error::Result;
use crate::fault;
use crate::source::wal_index::IndexHeader;
use crate::source::{Source, checkpoint};

/// READ0 is held exclusively for an instant while a checkpoint stores its result; a pin that begins in it lands on
/// READ1 to READ4 and makes an application's RESTART wait. So a quiet database is pinned again a few times.
pub(super) const IDLE_REPINS: u8 = 3;

impl Source {
    /// Nothing is going on, and the database file has everything.
    pub(super) fn repin_when_idle(&mut self, header: &IndexHeader, now: Instant) -> Result<()> {
        if self.pin.idle_repins < IDLE_REPINS {
            self.pin.idle_repins += 1;
            self.copied.all_copied = true;
            return self.repin();
        }
        checkpoint::truncate_if_large(self, header, now)
    }

    /// Moves the pin for one who copies nothing, but reads a snapshot and keeps nobody waiting meanwhile.
    pub fn move_pin(&mut self) -> Result<()> {
        let header = self.header()?;
        if header != self.pin.header {
            self.pin.idle_repins = 0;
        }
        if self.pin.idle_repins < IDLE_REPINS && self.active_snapshots.preserve(&header) {
            self.pin.idle_repins += 1;
            self.repin()?;
        }
        Ok(())
    }

    /// Moves to a new pin. What the wal-index says before it is remembered, so that any later change is seen as one.
    pub(super) fn repin(&mut self) -> Result<()> {
        fault::point("source.rotate")?;
        let before = self.header()?;
        if !self.pins.begin_next()? {
            return Ok(());
        }
        if self.is_overtaken()? || !self.active_snapshots.hand_over_to_pin(&before, &self.files.index) {
            self.pins.abandon_next();
            return Ok(());
        }
        self.pin.overtaken = 0;
        self.pins.promote_next();
        self.pin.header = before;
        self.copied.all_copied = false;
        Ok(())
    }
}

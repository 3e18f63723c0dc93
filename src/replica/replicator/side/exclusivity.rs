//! Whether the store is there, and ours alone to write.

use std::time::Instant;

use crate::clock::Clock;
use crate::error::{Kind, Result};
use crate::format::position::{Offset, Position, WalPosition};
use crate::replica::exclusive_writer::{Exclusivity, OwnWrites};
use crate::replica::replicator::side::{Side, SideStage};
use crate::replica::replicator::{CHECK_INTERVAL, RETRY_DELAY};
use crate::source::GenerationEnd;

impl Side {
    /// Whether the store is still ours alone to write. Another's word that it is not ends the program.
    pub(super) fn check_exclusive(&mut self, clock: &dyn Clock) -> Result<()> {
        let now = clock.now();
        if !self.store_reached {
            self.exclusive = self.writer.acquire(now, clock.utc_now())?;
            return Ok(());
        }
        self.check_store(clock)?;
        let lag = self.lag(clock).filter(|_| self.exclusive);
        self.writer.set_lag(lag);
        let (stored, snapshot) = (self.stored_of_written(), self.has_snapshot());
        let outbox = &self.uploads;
        let connection = self.writer.connection();
        match self.writer.poll(now, &OwnWrites { stored, snapshot, in_flight: &|key| outbox.contains(key) }) {
            Ok(Exclusivity::HistoryGone) => {
                self.exclusive = true;
                self.end_generation(GenerationEnd::StoredHistoryIsGone, now)?;
            }
            Ok(seen) => {
                self.exclusive = seen == Exclusivity::Confirmed;
                if self.writer.connection() != connection {
                    self.audit.require_listing();
                    self.retry_now(now);
                }
            }
            Err(error) if matches!(error.kind(), Kind::Locked | Kind::TakenOver) => return Err(error),
            Err(error) => {
                self.exclusive = false;
                self.report(&error, clock);
            }
        }
        self.hear_standby(now);
        if self.exclusive && self.target.compaction {
            self.cleanup.poll(now, clock.utc_now());
        }
        Ok(())
    }

    /// What is stored of the generation that is written, also where nothing of it has been acknowledged yet.
    pub(super) fn stored_of_written(&self) -> Option<Position> {
        let none = WalPosition { index: 0, offset: Offset::ZERO };
        let (generation, wal_position) = match &self.stage {
            SideStage::Writing(writing) => (writing.builder.end().chain_end.generation, none),
            SideStage::Ready(Ok(end)) => (end.chain_end.generation, end.wal_position()),
            _ => return None,
        };
        let acknowledged = self.stored.filter(|stored| stored.generation == generation);
        Some(acknowledged.unwrap_or(Position { generation, wal_position }))
    }

    /// The store is back: nothing waits out the pause of an attempt that failed before.
    fn retry_now(&mut self, now: Instant) {
        self.uploads.retry_now();
        if let Some(writing) = self.writing_mut() {
            (writing.snapshot_not_before, writing.snapshot_backoff) = (now, RETRY_DELAY);
        }
    }

    /// An outage is told also while there is nothing to store.
    fn check_store(&mut self, clock: &dyn Clock) -> Result<()> {
        let now = clock.now();
        if now < self.next_store_check {
            return Ok(());
        }
        self.next_store_check = now + CHECK_INTERVAL;
        match self.store.connect(now) {
            Err(error) if matches!(error.kind(), Kind::ReconnectsExhausted | Kind::Locked) => return Err(error),
            Err(error) => {
                self.store_down = true;
                self.report(&error, clock);
            }
            Ok(true) if std::mem::take(&mut self.store_down) && self.uploads.is_empty() => {
                self.problems.clear(now, &self.name);
            }
            Ok(_) => {}
        }
        Ok(())
    }
}

//! Whether the store is there, and ours alone to write.

use std::time::Instant;

use crate::clock::Clock;
use crate::error::{Kind, Result};
use crate::format::position::{Offset, Position, WalPosition};
use crate::replica::exclusive_writer::{ExclusiveWriter, Exclusivity, OwnWrites};
use crate::replica::replicator::side::setup::ReplicaSetup;
use crate::replica::replicator::side::{Side, SideStage};
use crate::replica::replicator::{CHECK_INTERVAL, RETRY_DELAY};
use crate::source::GenerationEnd;

/// Whether the store can be reached, and whether it is ours.
pub(super) struct StoreAccess {
    pub(super) writer: ExclusiveWriter,
    /// Nobody else has written to the store, as far as is known; nothing is written otherwise.
    pub(super) exclusive: bool,
    /// The store has answered once, so that an outage from now on is waited out.
    pub(super) reached: bool,
    /// The store was away when it was last looked at.
    pub(super) down: bool,
    next_check: Instant,
    /// A standby listens for what is stored; until then, if it says nothing more.
    pub(super) standby_until: Option<Instant>,
}

impl StoreAccess {
    pub(super) fn new(replica: &ReplicaSetup, now: Instant) -> StoreAccess {
        StoreAccess {
            writer: replica.writer(replica.settings.takeover),
            exclusive: false,
            reached: false,
            down: false,
            next_check: now,
            standby_until: None,
        }
    }
}

impl Side {
    /// Whether the store is still ours alone to write. Another's word that it is not ends the program.
    pub(super) fn check_exclusive(&mut self, clock: &dyn Clock) -> Result<()> {
        let now = clock.now();
        if !self.access.reached {
            self.access.exclusive = self.access.writer.acquire(now, clock.utc_now())?;
            return Ok(());
        }
        self.check_store(clock)?;
        let lag = self.lag(clock).filter(|_| self.access.exclusive);
        self.access.writer.set_lag(lag);
        let (stored, snapshot) = (self.stored_of_written(), self.has_snapshot());
        let uploads = &self.uploads;
        let connection = self.access.writer.connection();
        match self.access.writer.poll(now, &OwnWrites { stored, snapshot, in_flight: &|key| uploads.contains(key) }) {
            Ok(Exclusivity::HistoryGone) => {
                self.access.exclusive = true;
                self.end_generation(GenerationEnd::StoredHistoryIsGone, now)?;
            }
            Ok(seen) => {
                self.access.exclusive = seen == Exclusivity::Confirmed;
                if self.access.writer.connection() != connection {
                    self.audit.require_listing();
                    self.retry_now(now);
                }
            }
            Err(error) if matches!(error.kind(), Kind::Locked | Kind::TakenOver) => return Err(error),
            Err(error) => {
                self.access.exclusive = false;
                self.report(&error, clock);
            }
        }
        self.hear_standby(now);
        if self.access.exclusive && self.replica.target.compaction {
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
        let acknowledged = self.acknowledged.position.filter(|stored| stored.generation == generation);
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
        if now < self.access.next_check {
            return Ok(());
        }
        self.access.next_check = now + CHECK_INTERVAL;
        match self.replica.store.connect(now) {
            Err(error) if matches!(error.kind(), Kind::ReconnectsExhausted | Kind::Locked) => return Err(error),
            Err(error) => {
                self.access.down = true;
                self.report(&error, clock);
            }
            Ok(true) if std::mem::take(&mut self.access.down) && self.uploads.is_empty() => {
                self.health.problems.clear(now, &self.replica.name);
            }
            Ok(_) => {}
        }
        Ok(())
    }
}

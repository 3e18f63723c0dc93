//! What follows from an audit: a loss ends what was written so far, and what is still at hand is stored again.

use crate::backup::find_end::FindEnd;
use crate::clock::Clock;
use crate::format::position::Position;
use crate::replica::audit::AuditResult;
use crate::replica::replicator::settings::WakeOn;
use crate::replica::replicator::{Replicator, Stage, spool};
use crate::replica::upload_queue::UploadQueue;

impl Replicator {
    /// Whether the generation that is written has a snapshot, as far as was acknowledged.
    pub(super) fn has_snapshot(&self) -> bool {
        matches!(&self.stage, Stage::Active(following) if following.snapshot_at.is_some())
    }

    pub(super) fn poll_audit(&mut self, clock: &dyn Clock) -> WakeOn {
        let Some(stored) = self.stored.filter(|stored| self.exclusive && self.writes(stored)) else {
            return WakeOn::NextTick;
        };
        let prove = self.closing && self.is_acknowledged();
        let snapshot = self.store_summary.snapshot.filter(|key| key.generation == stored.generation);
        let newest = snapshot.map(|key| key.to_string()).into_iter().chain(self.newest_object.clone()).collect();
        match self.audit.poll(clock.now(), stored, newest, prove) {
            Ok(AuditResult::Nothing) => WakeOn::NextTick,
            Ok(AuditResult::Waiting) => WakeOn::StoreEvent,
            Ok(AuditResult::Lost(error)) => {
                self.report(&error, clock);
                self.restart_from_store(clock);
                WakeOn::Immediately
            }
            Err(error) => {
                self.report(&error, clock);
                WakeOn::NextTick
            }
        }
    }

    /// Whether a restore could end at this position by now: it is in the generation that is written, which has a snapshot.
    fn writes(&self, stored: &Position) -> bool {
        match &self.stage {
            Stage::Active(following) => {
                following.snapshot_at.is_some() && following.writer.end().chain_end.generation == stored.generation
            }
            _ => false,
        }
    }

    /// As at a start: it goes on where the stored history ends, if the WAL still holds what follows, or begins a new
    /// generation with a snapshot.
    fn restart_from_store(&mut self, clock: &dyn Clock) {
        let now = clock.now();
        if let Stage::Active(following) = &self.stage {
            self.store_summary.newest.moment = self.store_summary.newest.moment.max(following.writer.end().time);
        }
        self.stage = Stage::Starting(FindEnd::new(self.store.clone()));
        self.uploads = UploadQueue::new(self.store.clone(), spool(&self.settings));
        (self.stored, self.newest_object) = (None, None);
        self.audit.reset(now);
        if let Err(error) = self.uploads.adopt_spool(None, now) {
            self.report(&error, clock);
        }
    }
}

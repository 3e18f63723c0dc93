//! The part of one replica in a sync on request.

use std::time::Instant;

use crate::replica::replicator::side::Side;
use crate::replica::replicator::side::closing::reaches;

impl Side {
    /// What was copied so far is to be stored without waiting for the sync interval, and [`Side::has_synced`] tells when it is.
    pub(in crate::replica::replicator) fn begin_sync(&mut self, now: Instant) {
        self.sync_target = self.writing().map(|writing| writing.builder.end().position());
        self.finish_segment(now);
    }

    /// Whether the store has everything up to where the last sync began. A generation that began later begins with a
    /// snapshot of all that.
    pub(in crate::replica::replicator) fn has_synced(&self) -> bool {
        let (Some(target), Some(writing)) = (self.sync_target, self.writing()) else { return false };
        let same = writing.builder.end().chain_end.generation == target.generation;
        let stored = !same || reaches(self.acknowledged.position, target);
        stored
            && self.has_snapshot()
            && self.access.exclusive
            && self.audit.is_trusted()
            && self.health.failure.is_none()
    }
}

//! A store that cannot be written to, beside others that can: the others go on.

use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::{Error, Kind};
use crate::log;
use crate::replica::replicator::side::health::{Health, StoreFailure};
use crate::replica::replicator::side::{Side, SideStage};

/// From a failure to the next attempt.
const FAILURE_RETRY_DELAY: Duration = Duration::from_secs(60);

impl Side {
    /// Gives up this store for now. One that another replicator has taken over is not taken back by itself, and a run that
    /// is to end does not wait for another attempt.
    pub(in crate::replica::replicator) fn fail(&mut self, error: Error, clock: &dyn Clock) {
        let taken_over = error.kind() == Kind::TakenOver || (self.generations.begun && error.kind() == Kind::Locked);
        let again = self.replica.settings.wait_for_database && !taken_over;
        let line = match again {
            true => log::error("not stored in this replica, retrying in 1m"),
            false => log::error("not stored in this replica"),
        };
        self.replica.name.tag(line).error(&error).emit();
        self.health.counters.error(error.kind());
        self.health.problems.set(clock.now(), &error);
        self.stage = SideStage::starting(&self.replica.store);
        self.access.exclusive = false;
        // What is in the spool stays there for the next attempt.
        self.uploads = self.replica.upload_queue();
        self.access.writer = self.replica.writer(false);
        self.health.failure = Some(StoreFailure { error, retry_at: again.then(|| clock.now() + FAILURE_RETRY_DELAY) });
    }

    /// Why nothing is written to this store for now.
    pub(in crate::replica::replicator) fn failure(&self) -> Option<&Error> {
        self.health.failure.as_ref().map(|failure| &failure.error)
    }

    /// The same, for a run that ends with it.
    pub(in crate::replica::replicator) fn take_failure(&mut self) -> Option<Error> {
        self.health.failure.take().map(|failure| failure.error)
    }

    /// Starts again if it is time. True if this store is given up for now.
    pub(super) fn is_given_up(&mut self, now: Instant) -> bool {
        let Some(failure) = &self.health.failure else { return false };
        if self.end_of_run.asked || failure.retry_at.is_none_or(|at| now < at) {
            return true;
        }
        let fresh = Side::new(self.replica.settings.clone(), self.replica.target.clone(), now);
        let before = std::mem::replace(self, fresh);
        self.acknowledged = before.acknowledged.totals();
        let Health { problems, counters, .. } = before.health;
        self.health = Health { problems, counters, ..Health::default() };
        false
    }
}

//! A store that cannot be written to, beside others that can: the others go on.

use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::{Error, Kind};
use crate::log;
use crate::replica::exclusive_writer::ExclusiveWriter;
use crate::replica::replicator::side::{Side, SideStage, spool};
use crate::replica::upload_queue::UploadQueue;

/// From a failure to the next attempt.
const FAILURE_RETRY_DELAY: Duration = Duration::from_secs(60);

pub(super) struct Failure {
    error: Error,
    /// None: the operator decides.
    retry_at: Option<Instant>,
}

impl Side {
    /// Gives up this store for now. One that another replicator has taken over is not taken back by itself, and a run that
    /// is to end does not wait for another attempt.
    pub(in crate::replica::replicator) fn fail(&mut self, error: Error, clock: &dyn Clock) {
        let taken_over = error.kind() == Kind::TakenOver || (self.begun && error.kind() == Kind::Locked);
        let again = self.settings.wait_for_database && !taken_over;
        let line = match again {
            true => log::error("not stored in this replica, retrying in 1m"),
            false => log::error("not stored in this replica"),
        };
        self.name.tag(line).error(&error).emit();
        self.counters.error(error.kind());
        self.problems.set(clock.now(), &error);
        self.stage = SideStage::starting(&self.store);
        self.exclusive = false;
        // What is in the spool stays there for the next attempt.
        self.uploads = UploadQueue::new(self.store.clone(), spool(&self.settings, &self.target));
        self.writer = ExclusiveWriter::new(self.store.clone(), self.name.database(), false);
        self.failure = Some(Failure { error, retry_at: again.then(|| clock.now() + FAILURE_RETRY_DELAY) });
    }

    /// Why nothing is written to this store for now.
    pub(in crate::replica::replicator) fn failure(&self) -> Option<&Error> {
        self.failure.as_ref().map(|failure| &failure.error)
    }

    /// The same, for whoever ends with it.
    pub(in crate::replica::replicator) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take().map(|failure| failure.error)
    }

    /// Begins anew if it is time. True if this store is given up for now.
    pub(super) fn is_given_up(&mut self, now: Instant) -> bool {
        let Some(failure) = &self.failure else { return false };
        if self.closing || failure.retry_at.is_none_or(|at| now < at) {
            return true;
        }
        let fresh = Side::new(self.settings.clone(), self.target.clone(), now);
        let before = std::mem::replace(self, fresh);
        (self.counters, self.objects, self.bytes) = (before.counters, before.objects, before.bytes);
        (self.problems, self.all_stored_at) = (before.problems, before.all_stored_at);
        false
    }
}

//! The end of a run beside an application that goes on committing: if each new commit had to be stored too, it would never
//! come. Then it is enough that everything is stored which was committed when the end was asked for.

use std::time::{Duration, Instant};

use crate::format::position::Position;
use crate::replica::replicator::side::Side;

/// For so long the end waits for what is committed meanwhile, too: an application may be stopping beside us.
const GRACE_PERIOD: Duration = Duration::from_secs(2);

/// How far the end of a run has come.
#[derive(Default)]
pub(super) struct EndOfRun {
    pub(super) asked: bool,
    since: Option<Instant>,
    /// Behind everything that was committed when the end was asked for.
    target: Option<Position>,
    /// A listing has shown that a restore reaches it, and nobody waits for more.
    reached: bool,
}

impl Side {
    /// Whether the run may end though more has been committed meanwhile.
    pub(in crate::replica::replicator) fn has_reached_end(&self) -> bool {
        self.end_of_run.reached
    }

    pub(super) fn poll_end_of_run(&mut self, caught_up: bool, now: Instant) {
        if !self.end_of_run.asked {
            return;
        }
        let since = *self.end_of_run.since.get_or_insert(now);
        let Some(writing) = self.writing() else { return };
        let end = writing.builder.end().position();
        let known = self.end_of_run.target.is_some_and(|target| target.generation == end.generation);
        if !known && caught_up && !writing.behind {
            self.end_of_run.target = Some(end);
        }
        let proven = self.end_of_run.target.is_some_and(|target| reaches(self.audit.proven(), target));
        self.end_of_run.reached =
            proven && self.access.exclusive && !self.has_work_before_end() && now.duration_since(since) >= GRACE_PERIOD;
    }

    /// Whether a listing has to show that a restore reaches what must be stored.
    pub(super) fn wants_proof_of_end(&self) -> bool {
        self.end_of_run.asked
            && self.end_of_run.target.is_some_and(|target| {
                reaches(self.acknowledged.position, target) && !reaches(self.audit.proven(), target)
            })
    }

    /// What the end of a run waits for beside segments.
    pub(super) fn has_work_before_end(&self) -> bool {
        let snapshot =
            self.writing().is_some_and(|writing| writing.snapshot.is_some() || writing.snapshot_at.is_none());
        let retention = self.replica.settings.enforce_retention && !self.retention.is_done();
        snapshot || self.requests.force_snapshot || retention
    }
}

pub(super) fn reaches(position: Option<Position>, target: Position) -> bool {
    position.is_some_and(|at| at.generation == target.generation && at.wal_position >= target.wal_position)
}

//! What follows from an audit: a loss ends what was written so far, and what is still at hand is stored again.

use crate::clock::Clock;
use crate::format::position::Position;
use crate::replica::audit::Audited;
use crate::replica::follow::settings::Next;
use crate::replica::follow::{Follower, Stage, spool};
use crate::replica::outbox::Outbox;
use crate::replica::start::Start;

impl Follower {
    /// Whether the generation that is written has a snapshot, as far as was acknowledged.
    pub(super) fn has_snapshot(&self) -> bool {
        matches!(&self.stage, Stage::Following(following) if following.snapshot_at.is_some())
    }

    pub(super) fn poll_audit(&mut self, clock: &dyn Clock) -> Next {
        let Some(stored) = self.stored.filter(|stored| self.ours && self.writes(stored)) else { return Next::Tick };
        let prove = self.closing && self.is_acknowledged();
        let snapshot = self.known.snapshot.filter(|key| key.generation == stored.generation);
        let newest = snapshot.map(|key| key.to_string()).into_iter().chain(self.newest.clone()).collect();
        match self.audit.poll(clock.now(), stored, newest, prove) {
            Ok(Audited::Nothing) => Next::Tick,
            Ok(Audited::Waiting) => Next::Store,
            Ok(Audited::Lost(error)) => {
                self.report(&error, clock);
                self.start_anew(clock);
                Next::Now
            }
            Err(error) => {
                self.report(&error, clock);
                Next::Tick
            }
        }
    }

    /// Whether a restore could end at this position by now: it is in the generation that is written, which has a snapshot.
    fn writes(&self, stored: &Position) -> bool {
        match &self.stage {
            Stage::Following(following) => {
                following.snapshot_at.is_some() && following.writer.end().tail.generation == stored.generation
            }
            _ => false,
        }
    }

    /// As at a start: it goes on where the stored history ends, if the WAL still holds what follows, or begins a new
    /// generation with a snapshot.
    fn start_anew(&mut self, clock: &dyn Clock) {
        let now = clock.now();
        if let Stage::Following(following) = &self.stage {
            self.known.newest.moment = self.known.newest.moment.max(following.writer.end().time);
        }
        self.stage = Stage::Starting(Start::new(self.store.clone()));
        self.outbox = Outbox::new(self.store.clone(), spool(&self.settings));
        (self.stored, self.newest) = (None, None);
        self.audit.start_anew(now);
        if let Err(error) = self.outbox.take_up(None, now) {
            self.report(&error, clock);
        }
    }
}

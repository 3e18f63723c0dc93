//! What follows from an audit: a loss ends what was written so far, and what is still at hand is stored again.

use crate::clock::Clock;
use crate::format::position::Position;
use crate::replica::audit::AuditResult;
use crate::replica::replicator::settings::WakeOn;
use crate::replica::replicator::side::Side;

impl Side {
    pub(super) fn poll_audit(&mut self, caught_up: bool, clock: &dyn Clock) -> WakeOn {
        let Some(stored) = self.stored.filter(|stored| self.exclusive && self.writes(stored)) else {
            return WakeOn::NextTick;
        };
        let prove = self.closing && (self.is_acknowledged(caught_up) || self.wants_proof_of_end());
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
        self.writing().is_some_and(|writing| {
            writing.snapshot_at.is_some() && writing.builder.end().chain_end.generation == stored.generation
        })
    }
}

//! What follows from an audit: what another replicator has written ends the program; a loss ends what was written so far, and
//! what is still at hand is stored again, or a new generation begins.

use crate::clock::Clock;
use crate::error::Result;
use crate::format::listing::Listing;
use crate::format::position::Position;
use crate::replica::audit::AuditResult;
use crate::replica::exclusive_writer::OwnWrites;
use crate::replica::replicator::settings::WakeOn;
use crate::replica::replicator::side::Side;
use crate::source::GenerationEnd;

impl Side {
    /// Errors: of kind `TakenOver`.
    pub(super) fn poll_audit(&mut self, caught_up: bool, clock: &dyn Clock) -> Result<WakeOn> {
        let Some(stored) = self.acknowledged.position.filter(|stored| self.access.exclusive && self.writes(stored))
        else {
            return Ok(WakeOn::NextTick);
        };
        let prove = self.end_of_run.asked && (self.is_acknowledged(caught_up) || self.wants_proof_of_end());
        let snapshot = self.store_summary.snapshot.filter(|key| key.generation == stored.generation);
        let object = &self.acknowledged.newest_object;
        let newest = || snapshot.map(|key| key.to_string()).into_iter().chain(object.clone()).collect();
        match self.audit.poll(clock.now(), stored, newest, prove) {
            Ok(AuditResult::Nothing) => Ok(WakeOn::NextTick),
            Ok(AuditResult::Waiting) => Ok(WakeOn::StoreEvent),
            Ok(AuditResult::Lost(listing, error)) => {
                self.check_listing(&listing)?;
                self.report(&error, clock);
                self.restart_from_store(clock);
                Ok(WakeOn::Immediately)
            }
            Ok(AuditResult::Incomplete(listing, error)) => {
                self.check_listing(&listing)?;
                self.report(&error, clock);
                self.audit.reset(clock.now());
                self.end_generation(GenerationEnd::StoredHistoryIsGone, clock.now())?;
                Ok(WakeOn::Immediately)
            }
            Err(error) => {
                self.report(&error, clock);
                Ok(WakeOn::NextTick)
            }
        }
    }

    /// Errors: another program has written what is listed.
    fn check_listing(&self, listing: &Listing) -> Result<()> {
        let (stored, snapshot) = (self.stored_of_written(), self.has_snapshot());
        self.access
            .writer
            .check_listing(listing, &OwnWrites { stored, snapshot, in_flight: &|key| self.uploads.contains(key) })
    }

    /// Whether a restore could end at this position by now: it is in the generation that is written, which has a snapshot.
    fn writes(&self, stored: &Position) -> bool {
        self.writing().is_some_and(|writing| {
            writing.snapshot_at.is_some() && writing.builder.end().chain_end.generation == stored.generation
        })
    }
}

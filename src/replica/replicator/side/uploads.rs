//! What is on its way to the store, and what is merged and deleted there.

use crate::clock::Clock;
use crate::error::Result;
use crate::log;
use crate::replica::maintenance::PassProgress;
use crate::replica::replicator::settings::{SharedBuffers, WakeOn};
use crate::replica::replicator::side::Side;
use crate::replica::upload_queue::StoredSegment;

impl Side {
    /// Makes progress with all that is on its way but snapshots. `caught_up`: all that is committed was given to this side.
    ///
    /// Errors: of retention, only where that was asked for; of kind `TakenOver`.
    pub(in crate::replica::replicator) fn poll_stored(
        &mut self,
        caught_up: bool,
        tools: &mut SharedBuffers,
        clock: &dyn Clock,
    ) -> Result<WakeOn> {
        if self.health.failure.is_some() {
            return Ok(WakeOn::NextTick);
        }
        let next = self.poll_uploads(tools, clock).min(self.poll_audit(caught_up, clock)?);
        self.poll_end_of_run(caught_up, clock.now());
        self.poll_retention(tools, clock).map(|kept| kept.min(next))
    }

    fn poll_uploads(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> WakeOn {
        let now = clock.now();
        self.uploads.spool_if_full(now);
        if !self.access.exclusive {
            return WakeOn::StoreEvent;
        }
        let polled = self.uploads.poll(now);
        let stored_some = !polled.stored.is_empty();
        for StoredSegment { key, bytes } in polled.stored {
            self.acknowledged.on_segment(&key, bytes.len() as u64);
            self.store_summary.recipients = self.replica.store.recipients();
            self.replica.name.tag(log::debug("segment stored")).field("name", key).emit();
            self.retention.stored(key, bytes, &mut tools.sent_segments);
        }
        if stored_some {
            self.check_recipients();
        }
        if let Some(error) = polled.error {
            self.report(&error, clock);
        } else if stored_some && self.audit.is_trusted() && self.has_snapshot() {
            self.health.problems.clear(now, &self.replica.name);
        }
        if stored_some && self.writing().is_some_and(|writing| writing.snapshot.is_some()) {
            // It may have waited for them.
            return WakeOn::Immediately;
        }
        if self.uploads.is_busy() || self.cleanup.is_busy() { WakeOn::StoreEvent } else { WakeOn::NextTick }
    }

    /// Merges and deletes, once what is stored can be restored; at the end only if that was asked for.
    ///
    /// Errors: only where it was asked for: else it is put off, and said.
    fn poll_retention(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        if !self.access.exclusive
            || !self.has_snapshot()
            || (self.end_of_run.asked && !self.replica.settings.enforce_retention)
        {
            return Ok(WakeOn::NextTick);
        }
        match self.retention.poll(&mut tools.sent_segments, clock) {
            Ok(PassProgress::Working) => Ok(WakeOn::Immediately),
            Ok(PassProgress::Waiting) => Ok(WakeOn::StoreEvent),
            Ok(PassProgress::Nothing) => {
                self.reply_retention(None, clock);
                Ok(WakeOn::NextTick)
            }
            Err(error) => {
                self.reply_retention(Some(&error), clock);
                if self.replica.settings.enforce_retention { Err(error) } else { Ok(WakeOn::NextTick) }
            }
        }
    }
}

//! What goes on in the store: segments and snapshots on their way, retention, and whether it is ours alone to write.

use std::time::Instant;

use crate::clock::Clock;
use crate::control::RequestInbox;
use crate::error::{Kind, Result};
use crate::format::position::{Offset, Position, WalPosition};
use crate::log;
use crate::replica::exclusive_writer::{Exclusivity, OwnWrites};
use crate::replica::maintenance::PassProgress;
use crate::replica::replicator::settings::{SharedBuffers, WakeOn};
use crate::replica::replicator::{CHECK_INTERVAL, MAX_SNAPSHOT_BACKOFF, RETRY_DELAY, Replicator, Stage};
use crate::replica::snapshot_upload::UploadProgress;
use crate::replica::upload_queue::StoredSegment;
use crate::source::GenerationEnd;

impl Replicator {
    /// Merges and deletes, once what is stored can be restored; at the end only if that was asked for.
    ///
    /// Errors: only where it was asked for: else it is put off, and said.
    pub(super) fn poll_retention(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        let restorable = matches!(&self.stage, Stage::Active(following) if following.snapshot_at.is_some());
        if !self.exclusive || !restorable || (self.closing && !self.settings.enforce_retention) {
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
                if self.settings.enforce_retention { Err(error) } else { Ok(WakeOn::NextTick) }
            }
        }
    }

    /// Whether the store is still ours alone to write. Another's word that it is not ends the program.
    pub(super) fn check_exclusive(&mut self, clock: &dyn Clock) -> Result<()> {
        let now = clock.now();
        if !self.store_reached {
            self.exclusive = self.writer.acquire(now, clock.utc_now())?;
            return Ok(());
        }
        self.check_store(clock)?;
        let lag = self.lag(clock).filter(|_| self.exclusive);
        self.writer.set_lag(lag);
        let none = WalPosition { index: 0, offset: Offset::ZERO };
        // The generation that is written, and what is stored of it where nothing has been acknowledged yet.
        let writing = match &self.stage {
            Stage::Active(following) => Some((following.writer.end().chain_end.generation, none)),
            Stage::Opening(Ok(end)) => Some((end.chain_end.generation, end.wal_position())),
            _ => None,
        };
        let stored = writing.map(|(generation, point)| match self.stored {
            Some(stored) if stored.generation == generation => stored,
            _ => Position { generation, wal_position: point },
        });
        let snapshot = matches!(&self.stage, Stage::Active(following) if following.snapshot_at.is_some());
        let outbox = &self.uploads;
        let connection = self.writer.connection();
        match self.writer.poll(now, &OwnWrites { stored, snapshot, in_flight: &|key| outbox.contains(key) }) {
            Ok(Exclusivity::HistoryGone) => {
                self.exclusive = true;
                self.end_generation(GenerationEnd::StoredHistoryIsGone, now)?;
            }
            Ok(seen) => {
                self.exclusive = seen == Exclusivity::Confirmed;
                if self.writer.connection() != connection {
                    self.audit.require_listing();
                    self.retry_now(now);
                }
            }
            Err(error) if error.kind() == Kind::Locked => return Err(error),
            Err(error) => {
                self.exclusive = false;
                self.report(&error, clock);
            }
        }
        if self.exclusive && self.settings.compaction {
            self.cleanup.poll(now, clock.utc_now());
        }
        Ok(())
    }

    /// The store is back: nothing waits out the pause of an attempt that failed before.
    fn retry_now(&mut self, now: Instant) {
        self.uploads.retry_now();
        if let Stage::Active(following) = &mut self.stage {
            (following.snapshot_not_before, following.snapshot_backoff) = (now, RETRY_DELAY);
        }
    }

    /// An outage is told also while there is nothing to store.
    pub(super) fn check_store(&mut self, clock: &dyn Clock) -> Result<()> {
        let now = clock.now();
        if now < self.next_store_check {
            return Ok(());
        }
        self.next_store_check = now + CHECK_INTERVAL;
        match self.store.connect(now) {
            Err(error) if matches!(error.kind(), Kind::ReconnectsExhausted | Kind::Locked) => return Err(error),
            Err(error) => {
                self.store_down = true;
                self.report(&error, clock);
            }
            Ok(true) if std::mem::take(&mut self.store_down) && self.uploads.is_empty() => {
                self.problems.clear(now, &self.name);
            }
            Ok(_) => {}
        }
        Ok(())
    }

    pub(super) fn poll_snapshot(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        let Stage::Active(following) = &mut self.stage else { return Ok(WakeOn::NextTick) };
        if !self.exclusive {
            return Ok(WakeOn::StoreEvent);
        }
        let now = clock.now();
        if self.settings.snapshot_interval.is_some() && self.retention.wants_snapshot() && following.snapshot.is_none()
        {
            following.snapshot_due = following.snapshot_due.map(|due| due.min(now));
        }
        let asked = self.requests.as_ref().is_some_and(RequestInbox::wants_snapshot);
        if following.snapshot.is_none() && following.wants_snapshot(now, self.force_snapshot || asked) {
            following.start_snapshot(&*self.store, &self.settings.meta(), clock)?;
            if following.snapshot.is_none() {
                return Ok(WakeOn::NextTick);
            }
            self.requests.iter_mut().for_each(RequestInbox::snapshot_started);
        }
        let may_commit = following.may_commit_snapshot(&self.uploads);
        let Some(upload) = &mut following.snapshot else { return Ok(WakeOn::NextTick) };
        let polled = upload.poll(&mut tools.snapshot_buffers, may_commit, now);
        if upload.header().database.is_some_and(|sum| !following.source.agrees_with_snapshot(upload.handle(), sum)) {
            return self.end_generation(GenerationEnd::DatabaseDiffers, now);
        }
        if let (Some(sum), None) = (upload.header().database, following.snapshot_at) {
            // No restore of this generation can begin with an earlier one.
            following.source.trust_snapshot(upload.handle(), sum);
        }
        match polled {
            Ok(UploadProgress::Working) => Ok(WakeOn::Immediately),
            Ok(UploadProgress::Waiting) => Ok(WakeOn::StoreEvent),
            Ok(UploadProgress::Done) => {
                self.on_snapshot_stored(now);
                self.reply_snapshot(clock);
                Ok(WakeOn::NextTick)
            }
            Err(error) => {
                following.snapshot_unanswered |= upload.is_committed();
                following.snapshot = None;
                self.requests.iter_mut().for_each(RequestInbox::snapshot_failed);
                // Each attempt reads the whole database.
                following.snapshot_due = Some(now);
                following.snapshot_not_before = now + following.snapshot_backoff;
                following.snapshot_backoff = (following.snapshot_backoff * 2).min(MAX_SNAPSHOT_BACKOFF);
                match error.kind() {
                    Kind::StoreRefused | Kind::StoreUnreachable | Kind::NotFound => self.report(&error, clock),
                    _ => return Err(error),
                }
                Ok(WakeOn::NextTick)
            }
        }
    }

    pub(super) fn on_snapshot_stored(&mut self, now: Instant) {
        let Stage::Active(following) = &mut self.stage else { return };
        let Some(upload) = following.snapshot.take() else { return };
        let header = upload.header();
        let position = Position { generation: header.generation, wal_position: header.position };
        log::info("snapshot stored")
            .field("db", &self.name)
            .field("position", position)
            .field("bytes", upload.read())
            .field("stored", upload.stored())
            .emit();
        if let Some(sum) = header.database {
            following.source.trust_snapshot(upload.handle(), sum);
        }
        following.snapshot_at = Some(position);
        following.snapshot_backoff = RETRY_DELAY;
        self.last_snapshot = Some(position);
        self.newest_object = Some(header.key().to_string());
        self.store_summary.snapshot = Some(header.key());
        following.snapshot_due = self.settings.snapshot_interval.map(|interval| now + interval);
        self.force_snapshot = false;
        self.store_summary.last_snapshot = Some(header.time);
        self.retention.snapshot_stored(upload.stored());
        self.objects += 1;
        self.bytes += upload.stored();
        let newer = self.stored.is_none_or(|stored| {
            stored.generation != position.generation || stored.wal_position < position.wal_position
        });
        if newer {
            self.stored = Some(position);
        }
        self.problems.clear(now, &self.name);
    }

    pub(super) fn poll_uploads(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> WakeOn {
        let now = clock.now();
        self.uploads.spool_if_full(now);
        if !self.exclusive {
            return WakeOn::StoreEvent;
        }
        let polled = self.uploads.poll(now);
        let stored_some = !polled.stored.is_empty();
        for StoredSegment { key, bytes } in polled.stored {
            self.objects += 1;
            self.bytes += bytes.len() as u64;
            self.stored = Some(Position { generation: key.generation, wal_position: key.end });
            self.newest_object = Some(key.to_string());
            log::debug("segment stored").field("db", &self.name).field("name", key).emit();
            self.retention.stored(key, bytes, &mut tools.sent_segments);
        }
        if let Some(error) = polled.error {
            self.report(&error, clock);
        } else if stored_some && self.audit.is_trusted() && self.has_snapshot() {
            self.problems.clear(now, &self.name);
        }
        if stored_some && matches!(&self.stage, Stage::Active(following) if following.snapshot.is_some()) {
            // It may have waited for them.
            return WakeOn::Immediately;
        }
        if self.uploads.is_busy() || self.cleanup.is_busy() { WakeOn::StoreEvent } else { WakeOn::NextTick }
    }
}

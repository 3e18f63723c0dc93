//! Snapshots: when one is due, and how it comes into the store.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::control::RequestInbox;
use crate::error::{Kind, Result};
use crate::format::position::{Position, WalPosition};
use crate::log;
use crate::replica::replicator::RETRY_DELAY;
use crate::replica::replicator::open_database::OpenDatabase;
use crate::replica::replicator::settings::{SharedBuffers, WakeOn};
use crate::replica::replicator::side::{Side, SideStage, Writing};
use crate::replica::snapshot_upload::{SnapshotUpload, UploadProgress};
use crate::replica::upload_queue::UploadQueue;
use crate::source::Source;
use crate::store::Store;

/// The longest pause between two attempts at a snapshot.
const MAX_SNAPSHOT_BACKOFF: Duration = Duration::from_secs(30);

/// What one step of a snapshot has brought.
pub(in crate::replica::replicator) enum SnapshotStep {
    Wake(WakeOn),
    /// The database is not what was copied leads to.
    DatabaseDiffers,
}

impl Writing {
    /// Whether the snapshot under way may become visible. A start goes on after the newest snapshot. So if there is an
    /// earlier one, all between the two must be stored before: a process that is killed would leave a gap there.
    fn may_commit_snapshot(&self, uploads: &UploadQueue) -> bool {
        let Some(upload) = &self.snapshot else { return false };
        let position = upload.header().position;
        let copied = self.builder.end().wal_position() >= position && !self.has_open_segment_before(position);
        let is_first = self.snapshot_at.is_none() && !self.snapshot_unanswered;
        is_first || (copied && !uploads.has_segment_before(position))
    }

    pub(super) fn snapshot_waits_for_open_segment(&self) -> bool {
        let position = self.snapshot.as_ref().map(|upload| upload.header().position);
        position.is_some_and(|position| self.has_open_segment_before(position))
    }

    fn has_open_segment_before(&self, position: WalPosition) -> bool {
        self.builder.open_start().is_some_and(|start| start < position)
    }

    fn wants_snapshot(&self, now: Instant, forced: bool) -> bool {
        let here = self.builder.end().position();
        if now < self.snapshot_not_before {
            return false;
        }
        match self.snapshot_at {
            None => self.snapshot_due.is_none_or(|due| now >= due),
            Some(_) if forced => true,
            Some(at) => at != here && self.snapshot_due.is_some_and(|due| now >= due),
        }
    }

    fn start_snapshot(
        &mut self,
        database: &mut OpenDatabase,
        store: &dyn Store,
        meta: &Path,
        clock: &dyn Clock,
    ) -> Result<()> {
        if !database.caught_up || self.behind {
            return Ok(());
        }
        let Some(snapshot) = database.source.snapshot(meta)? else { return Ok(()) };
        let end = *self.builder.end();
        // A WAL of which nothing was copied yet is not the one that the end is in.
        let mark = snapshot.mark();
        let place = database.source.start();
        let here = (mark.salt, mark.frame) == (place.salt, place.frame);
        let mark = if here { end.wal_mark().unwrap_or(mark) } else { mark };
        let Some(at) = end.position_in_wal(&mark) else { return Ok(()) };
        let time = clock.utc_now().max(end.time);
        database.comparison.postpone(clock.now());
        self.snapshot = Some(SnapshotUpload::new(store, snapshot, mark, end.chain_end.generation, at, time));
        self.snapshot_recipients = store.recipients_digest();
        Ok(())
    }
}

impl Side {
    /// Makes progress with a snapshot that is under way or due.
    ///
    /// Errors: those of the database.
    pub(in crate::replica::replicator) fn poll_snapshot(
        &mut self,
        database: &mut OpenDatabase,
        tools: &mut SharedBuffers,
        clock: &dyn Clock,
    ) -> Result<SnapshotStep> {
        let SideStage::Writing(writing) = &mut self.stage else { return Ok(SnapshotStep::Wake(WakeOn::NextTick)) };
        if !self.access.exclusive {
            return Ok(SnapshotStep::Wake(WakeOn::StoreEvent));
        }
        let now = clock.now();
        // With `keep`, only a restore that would have to read too much asks for one.
        let as_needed = self.replica.settings.snapshot_interval.is_some() || self.replica.settings.keep.is_some();
        let unproven =
            database.source.keeps_checksum() && writing.is_unproven_for_long(database.source.checksum(), now);
        if as_needed && (unproven || self.retention.wants_snapshot()) && writing.snapshot.is_none() {
            writing.snapshot_due = Some(writing.snapshot_due.map_or(now, |due| due.min(now)));
        }
        if writing.snapshot.is_none() && writing.wants_snapshot(now, self.requests.want_snapshot()) {
            writing.start_snapshot(database, &*self.replica.store, &self.replica.settings.meta(), clock)?;
            let level = self.replica.target.compression_level;
            writing.snapshot = writing.snapshot.take().map(|upload| upload.compressed(level));
            if writing.snapshot.is_none() {
                return Ok(SnapshotStep::Wake(WakeOn::NextTick));
            }
            self.requests.inbox.iter_mut().for_each(RequestInbox::snapshot_started);
        }
        self.advance_snapshot(&mut database.source, tools, clock)
    }

    fn advance_snapshot(
        &mut self,
        source: &mut Source,
        tools: &mut SharedBuffers,
        clock: &dyn Clock,
    ) -> Result<SnapshotStep> {
        let now = clock.now();
        let SideStage::Writing(writing) = &mut self.stage else { return Ok(SnapshotStep::Wake(WakeOn::NextTick)) };
        let may_commit = writing.may_commit_snapshot(&self.uploads);
        let Some(upload) = &mut writing.snapshot else { return Ok(SnapshotStep::Wake(WakeOn::NextTick)) };
        let polled = upload.poll(&mut tools.snapshot_buffers, may_commit, now);
        let committed = upload.is_committed();
        if upload.header().database.is_some_and(|sum| !source.agrees_with_snapshot(upload.handle(), sum)) {
            return Ok(SnapshotStep::DatabaseDiffers);
        }
        if let (Some(sum), None) = (upload.header().database, writing.snapshot_at) {
            // No restore of this generation can begin with an earlier one.
            let snapshot = upload.handle().clone();
            source.trust_snapshot(&snapshot, sum);
            self.await_snapshot(&snapshot, source);
        }
        let next = match polled {
            Ok(UploadProgress::Working) => WakeOn::Immediately,
            Ok(UploadProgress::Waiting) => WakeOn::StoreEvent,
            Ok(UploadProgress::Done) => {
                self.on_snapshot_stored(source, now);
                self.reply_snapshot(clock);
                WakeOn::NextTick
            }
            Err(error) => {
                let Some(writing) = self.writing_mut() else { return Err(error) };
                writing.snapshot_unanswered |= committed;
                writing.snapshot = None;
                // Each attempt reads the whole database.
                writing.snapshot_due = Some(now);
                writing.snapshot_not_before = now + writing.snapshot_backoff;
                writing.snapshot_backoff = (writing.snapshot_backoff * 2).min(MAX_SNAPSHOT_BACKOFF);
                self.requests.inbox.iter_mut().for_each(RequestInbox::snapshot_failed);
                match error.kind() {
                    Kind::StoreRefused | Kind::StoreUnreachable | Kind::NotFound => self.report(&error, clock),
                    _ => return Err(error),
                }
                WakeOn::NextTick
            }
        };
        Ok(SnapshotStep::Wake(next))
    }

    fn on_snapshot_stored(&mut self, source: &mut Source, now: Instant) {
        let SideStage::Writing(writing) = &mut self.stage else { return };
        let Some(upload) = writing.snapshot.take() else { return };
        let recipients = writing.snapshot_recipients.take();
        let header = upload.header();
        let position = Position { generation: header.generation, wal_position: header.position };
        self.replica
            .name
            .tag(log::info("snapshot stored"))
            .field("position", position)
            .field("bytes", upload.read())
            .field("stored", upload.stored())
            .emit();
        writing.snapshot_at = Some(position);
        writing.snapshot_backoff = RETRY_DELAY;
        self.acknowledged.on_snapshot(&header.key(), upload.stored());
        self.store_summary.recipients = self.replica.store.recipients();
        self.store_summary.snapshot = Some(header.key());
        writing.snapshot_due = self.replica.settings.snapshot_interval.map(|interval| now + interval);
        self.requests.force_snapshot = false;
        self.note_recipients(position, recipients);
        self.store_summary.last_snapshot = Some(header.time);
        self.retention.snapshot_stored(upload.stored());
        if let Some(sum) = header.database {
            source.trust_snapshot(upload.handle(), sum);
            self.await_snapshot(upload.handle(), source);
        }
        self.health.problems.clear(now, &self.replica.name);
    }
}

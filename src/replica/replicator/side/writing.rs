//! A generation that is being written.

use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::format::compression_level::SegmentLevels;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::differences::Composer;
use crate::format::position::Position;
use crate::format::segment::SegmentEncoder;
use crate::format::time::Timestamp;
use crate::replica::replicator::RETRY_DELAY;
use crate::replica::replicator::side::{Side, SideStage};
use crate::replica::segment_builder::SegmentBuilder;
use crate::replica::snapshot_upload::SnapshotUpload;
use crate::source::{Batch, GenerationEnd, SnapshotHandle, Source};

/// A copy that could not be compared with what is stored goes on for so long before it is made sure of by a snapshot. One
/// follows each start after which it is so: a program that is killed again and again does not store the whole each time.
const MAX_UNPROVEN: Duration = Duration::from_secs(3600);

pub(in crate::replica::replicator) struct Writing {
    pub(in crate::replica::replicator) builder: SegmentBuilder,
    pub(super) snapshot: Option<SnapshotUpload>,
    /// A digest of those to whom it is encrypted.
    pub(super) snapshot_recipients: Option<String>,
    pub(super) last_close: Option<Instant>,
    pub(super) snapshot_due: Option<Instant>,
    /// After an attempt that failed: not sooner than this, and how long the next pause is.
    pub(super) snapshot_not_before: Instant,
    pub(super) snapshot_backoff: Duration,
    /// The point of the last snapshot that was stored: an idle database needs no second one.
    pub(super) snapshot_at: Option<Position>,
    /// The answer to a snapshot of this generation was lost: the store may have it.
    pub(super) snapshot_unanswered: bool,
    /// What was read before it joined is still to be given to it.
    pub(super) behind: bool,
    /// The snapshot after which changes can be stored as differences.
    awaited: Option<SnapshotHandle>,
    /// Since when commits are stored without a checksum of the database.
    unproven_since: Option<Instant>,
}

/// What a batch is made a part of a segment with.
pub(in crate::replica::replicator) struct Packing<'a> {
    pub(in crate::replica::replicator) encoder: &'a mut SegmentEncoder,
    pub(in crate::replica::replicator) composer: &'a Composer,
    pub(in crate::replica::replicator) levels: &'a mut SegmentLevels,
    pub(in crate::replica::replicator) writers_wait: bool,
}

impl Writing {
    pub(super) fn new(builder: SegmentBuilder, now: Instant, snapshot_due: Option<Instant>) -> Writing {
        Writing {
            builder,
            snapshot: None,
            snapshot_recipients: None,
            last_close: None,
            snapshot_due,
            snapshot_not_before: now,
            snapshot_backoff: RETRY_DELAY,
            snapshot_at: None,
            snapshot_unanswered: false,
            behind: false,
            awaited: None,
            unproven_since: None,
        }
    }

    /// Whether commits have been stored without a checksum of the database for so long that a snapshot is due, which makes
    /// it known again: nothing else tells that a restore gives the database. `here` is the checksum at the reader's place.
    pub(super) fn is_unproven_for_long(&mut self, here: Option<DatabaseChecksum>, now: Instant) -> bool {
        let proven = here.is_some() && self.builder.writes_differences();
        self.unproven_since = self.unproven_since.or(Some(now)).filter(|_| !proven);
        self.unproven_since.is_some_and(|since| now.duration_since(since) >= MAX_UNPROVEN)
    }
}

impl Side {
    /// Whether it takes no more for now, so that what is committed had better wait in the WAL.
    pub(in crate::replica::replicator) fn is_full(&self) -> bool {
        self.uploads.is_full()
    }

    /// Takes a batch that was seen at `seen`.
    pub(in crate::replica::replicator) fn take(
        &mut self,
        packing: &mut Packing,
        batch: &Batch,
        seen: Timestamp,
        clock: &dyn Clock,
    ) {
        let asked = self.replica.target.compression_level;
        let Side { stage: SideStage::Writing(writing), uploads, .. } = self else { return };
        let Packing { encoder, composer, levels, writers_wait } = packing;
        let bytes = batch.checksum.map_or(batch.frames.len(), |_| composer.payload_len());
        let begin = clock.now();
        let level = levels.next(asked, bytes, u64::from(batch.left) + u64::from(*writers_wait), begin);
        encoder.set_level(level);
        let closed = writing.builder.add((encoder, composer), batch, seen);
        let end = clock.now();
        levels.spent(level, bytes, end.saturating_duration_since(begin));
        closed.into_iter().for_each(|segment| uploads.push(segment, end));
    }

    /// A snapshot of this side is to be relied on: after it, differences lead to what a restore must give.
    pub(super) fn await_snapshot(&mut self, snapshot: &SnapshotHandle, source: &mut Source) {
        let Some(writing) = self.writing_mut() else { return };
        writing.awaited = Some(snapshot.clone());
        self.follow_checksum(source);
    }

    /// Differences say what follows only where this side is known to hold what they are taken from.
    pub(in crate::replica::replicator) fn follow_checksum(&mut self, source: &mut Source) {
        let Some(writing) = self.writing_mut() else { return };
        if writing.awaited.as_ref().is_some_and(|snapshot| source.is_behind_snapshot(snapshot)) {
            writing.awaited = None;
            writing.builder.set_differences(true);
        } else if source.checksum().is_none() {
            writing.builder.set_differences(false);
        }
    }

    /// Whether it takes what the reader reads next.
    pub(in crate::replica::replicator) fn is_following(&self) -> bool {
        self.writing().is_some_and(|writing| !writing.behind)
    }

    /// Whether what was read before it joined is still to be given to it.
    pub(in crate::replica::replicator) fn is_behind(&self) -> bool {
        self.writing().is_some_and(|writing| writing.behind)
    }

    /// The position of the reader's place, if it has what the reader has.
    pub(in crate::replica::replicator) fn place_of_reader(&self) -> Option<Position> {
        self.writing().filter(|writing| !writing.behind).map(|writing| writing.builder.end().position())
    }

    /// Whether what it holds is known to be what the reader has at the same place.
    pub(in crate::replica::replicator) fn trust_differences(&mut self, known: bool) {
        if let Some(writing) = self.writing_mut() {
            writing.builder.set_differences(known);
        }
    }

    /// It has what the reader has.
    pub(in crate::replica::replicator) fn stop_catching_up(&mut self) {
        if let Some(writing) = self.writing_mut() {
            writing.behind = false;
        }
    }

    /// Relieves memory at once, because others wait for that.
    pub(in crate::replica::replicator) fn make_room(&mut self, now: Instant) {
        self.uploads.spool_now(now);
    }

    /// A change after a quiet spell is stored at once; under steady writes, one segment each interval.
    pub(in crate::replica::replicator) fn close_segment(&mut self, now: Instant) {
        let (interval, closing) = (self.replica.target.sync_interval, self.end_of_run.asked);
        let Some(writing) = self.writing() else { return };
        let waited = writing.last_close.is_none_or(|last| now.duration_since(last) >= interval);
        if waited || closing || writing.snapshot_waits_for_open_segment() {
            self.finish_segment(now);
        }
    }

    /// Sends what was taken so far on its way.
    pub(super) fn finish_segment(&mut self, now: Instant) {
        let Side { stage: SideStage::Writing(writing), uploads, .. } = self else { return };
        if let Some(segment) = writing.builder.finish() {
            uploads.push(segment, now);
            writing.last_close = Some(now);
        }
    }

    /// Why the store, or what waits for it, does not let the generation go on.
    pub(in crate::replica::replicator) fn end_reason(&self, wal_bytes: u64, now: Instant) -> Option<GenerationEnd> {
        if self.uploads.lost_segment() {
            return Some(GenerationEnd::SpoolLost);
        }
        let overrun = self.uploads.must_end_generation(now) || wal_bytes > self.replica.settings.max_backlog;
        (overrun && self.uploads.is_full()).then_some(GenerationEnd::Backlog)
    }
}

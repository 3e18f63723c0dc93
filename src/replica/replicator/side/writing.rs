//! A generation that is being written.

use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::format::compression_level::SegmentLevels;
use crate::format::differences::Composer;
use crate::format::position::Position;
use crate::format::segment::Encoder;
use crate::format::time::Timestamp;
use crate::replica::replicator::RETRY_DELAY;
use crate::replica::replicator::side::{Side, SideStage};
use crate::replica::segment_builder::SegmentBuilder;
use crate::replica::snapshot_upload::SnapshotUpload;
use crate::source::{Batch, GenerationEnd};

pub(in crate::replica::replicator) struct Writing {
    pub(in crate::replica::replicator) builder: SegmentBuilder,
    pub(super) snapshot: Option<SnapshotUpload>,
    pub(super) last_close: Option<Instant>,
    pub(super) snapshot_due: Option<Instant>,
    /// After an attempt that failed: not sooner than this, and how long the next pause is.
    pub(super) snapshot_not_before: Instant,
    pub(super) snapshot_backoff: Duration,
    /// The point of the last snapshot that was stored: an idle database needs no second one.
    pub(super) snapshot_at: Option<Position>,
    /// The answer to a snapshot of this generation was lost: the store may have it.
    pub(super) snapshot_unanswered: bool,
}

/// What a batch is made a part of a segment with.
pub(in crate::replica::replicator) struct Packing<'a> {
    pub(in crate::replica::replicator) encoder: &'a mut Encoder,
    pub(in crate::replica::replicator) composer: &'a Composer,
    pub(in crate::replica::replicator) levels: &'a mut SegmentLevels,
    pub(in crate::replica::replicator) writers_wait: bool,
}

impl Writing {
    pub(super) fn new(builder: SegmentBuilder, now: Instant, snapshot_due: Option<Instant>) -> Writing {
        Writing {
            builder,
            snapshot: None,
            last_close: None,
            snapshot_due,
            snapshot_not_before: now,
            snapshot_backoff: RETRY_DELAY,
            snapshot_at: None,
            snapshot_unanswered: false,
        }
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
        let asked = self.settings.compression_level;
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

    /// A change after a quiet spell is stored at once; under steady writes, one segment each interval.
    pub(in crate::replica::replicator) fn close_segment(&mut self, now: Instant) {
        let (interval, closing) = (self.settings.sync_interval, self.closing);
        let Side { stage: SideStage::Writing(writing), uploads, .. } = self else { return };
        let waited = writing.last_close.is_none_or(|last| now.duration_since(last) >= interval);
        if !waited && !closing && !writing.snapshot_waits_for_open_segment() {
            return;
        }
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
        let overrun = self.uploads.must_end_generation(now) || wal_bytes > self.settings.max_backlog;
        (overrun && self.uploads.is_full()).then_some(GenerationEnd::Backlog)
    }
}

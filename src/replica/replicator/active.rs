//! A database that is open: copied round by round, and read whole for a snapshot.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::Result;
use crate::format::compression_level::CompressionLevel;
use crate::format::position::{Position, WalPosition};
use crate::replica::replicator::settings::SharedBuffers;
use crate::replica::replicator::{CHECK_INTERVAL, MAX_ROUNDS, RETRY_DELAY};
use crate::replica::segment_builder::SegmentBuilder;
use crate::replica::snapshot_upload::SnapshotUpload;
use crate::replica::upload_queue::UploadQueue;
use crate::source::{GenerationEnd, ReadResult, Source};
use crate::store::Store;

/// Between two looks for a commit whose frames are being written.
const HOT_POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Between two looks for a checkpoint of the application that waits for the pin, where there was one a moment ago. It sleeps
/// for a millisecond at first. All writers wait for it, and SQLite gives none of them a turn in order: one that keeps
/// missing the instants between two checkpoints ends with "database is locked".
const CONTENDED_POLL_INTERVAL: Duration = Duration::from_micros(500);
const CONTENDED_TIME: Duration = Duration::from_millis(200);
/// A copy of much goes on after other databases have had their turn.
pub(super) const TIME_SLICE: Duration = Duration::from_millis(20);
/// A commit whose frames were written before there was word of writes is published within this time.
const WATCH_SETTLE_TIME: Duration = Duration::from_secs(2);

pub(super) struct ActiveDatabase {
    // Dropped in this order: the snapshot's connection, then the source's.
    pub(super) snapshot: Option<SnapshotUpload>,
    pub(super) source: Source,
    pub(super) writer: SegmentBuilder,
    compression_level: CompressionLevel,
    pub(super) next_tick: Instant,
    pub(super) next_file_check: Instant,
    pub(super) last_close: Option<Instant>,
    pub(super) snapshot_due: Option<Instant>,
    /// After an attempt that failed: not sooner than this, and how long the next pause is.
    pub(super) snapshot_not_before: Instant,
    pub(super) snapshot_backoff: Duration,
    /// The point of the last snapshot that was begun: an idle database needs no second one.
    pub(super) snapshot_at: Option<Position>,
    /// The answer to a snapshot of this generation was lost: the store may have it.
    pub(super) snapshot_unanswered: bool,
    /// Nothing committed is left uncopied, as far as the last round saw.
    pub(super) caught_up: bool,
    pub(super) idle_state: IdleState,
    /// There was word of a write and no commit yet: until then it is looked for more often.
    pub(super) hot_until: Option<Instant>,
    /// A checkpoint of the application has waited for the pin: until then, the next one is looked for much more often.
    pub(super) contended_until: Option<Instant>,
}

/// Whether it is enough to wait for word of the next write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IdleState {
    Polling,
    /// Word will come. Looked at each tick all the same until then: a commit may be on its way that was written before.
    WatchArmed(Instant),
    Idle,
}

/// How far a copy came.
enum CopyResult {
    Ended,
    /// Others have their turn now.
    More,
    Lost(GenerationEnd),
}

/// How a round ended.
pub(super) enum SyncResult {
    Done,
    Again,
    Lost(GenerationEnd),
}

impl ActiveDatabase {
    pub(super) fn new(
        source: Source,
        writer: SegmentBuilder,
        compression_level: CompressionLevel,
        now: Instant,
        snapshot_due: Option<Instant>,
    ) -> ActiveDatabase {
        ActiveDatabase {
            snapshot: None,
            source,
            writer,
            compression_level,
            next_tick: now,
            next_file_check: now + CHECK_INTERVAL,
            last_close: None,
            snapshot_due,
            snapshot_not_before: now,
            snapshot_backoff: RETRY_DELAY,
            snapshot_at: None,
            snapshot_unanswered: false,
            caught_up: false,
            idle_state: IdleState::Polling,
            hot_until: None,
            contended_until: None,
        }
    }

    /// Copies what is committed, and moves the pin behind it.
    pub(super) fn sync(
        &mut self,
        tools: &mut SharedBuffers,
        clock: &dyn Clock,
        outbox: &mut UploadQueue,
    ) -> Result<SyncResult> {
        self.sync_rounds(tools, clock, outbox).inspect_err(|_| self.source.release_writers())
    }

    fn sync_rounds(
        &mut self,
        tools: &mut SharedBuffers,
        clock: &dyn Clock,
        outbox: &mut UploadQueue,
    ) -> Result<SyncResult> {
        let mut rounds = 0;
        // Whoever holds writers off goes on, however long it took already.
        while rounds < MAX_ROUNDS || self.source.blocks_writers() {
            rounds += 1;
            if !self.source.has_work(clock.now())? && self.caught_up {
                return Ok(SyncResult::Done);
            }
            self.caught_up = false;
            self.hot_until = None;
            match self.copy_until_current(tools, clock, outbox)? {
                CopyResult::Ended => {}
                CopyResult::More => return Ok(SyncResult::Again),
                CopyResult::Lost(reason) => return Ok(SyncResult::Lost(reason)),
            }
            if !self.source.finish_round(clock.now())? {
                return Ok(SyncResult::Done);
            }
        }
        Ok(SyncResult::Again)
    }

    /// Copies until nothing is left or the outbox is full, but not for longer than a turn: unless writers are held off,
    /// other databases matter as much.
    fn copy_until_current(
        &mut self,
        tools: &mut SharedBuffers,
        clock: &dyn Clock,
        outbox: &mut UploadQueue,
    ) -> Result<CopyResult> {
        let end = clock.now() + TIME_SLICE;
        while !outbox.is_full() {
            match self.source.read(&mut tools.buffer, &mut tools.composer)? {
                ReadResult::CaughtUp => {
                    self.caught_up = true;
                    return Ok(CopyResult::Ended);
                }
                ReadResult::Broken(reason) => return Ok(CopyResult::Lost(reason)),
                ReadResult::Batch(batch) => {
                    if self.idle_state == IdleState::Idle {
                        tools.inotify.read_events();
                        if !self.source.was_written() {
                            self.source.record_missed_event();
                        }
                    }
                    self.idle_state = IdleState::Polling;
                    // The wall clock is read behind the wal-index, so that no commit is stamped before it happened.
                    let seen = clock.utc_now();
                    let bytes = batch.checksum.map_or(batch.frames.len(), |_| tools.composer.payload_len());
                    let left = u64::from(batch.left) + u64::from(self.source.blocks_writers());
                    let begin = clock.now();
                    let level = tools.levels.next(self.compression_level, bytes, left, begin);
                    tools.encoder.set_level(level);
                    let closed = self.writer.add((&mut tools.encoder, &tools.composer), &batch, seen);
                    let end = clock.now();
                    tools.levels.spent(level, bytes, end.saturating_duration_since(begin));
                    closed.into_iter().for_each(|segment| outbox.push(segment, end));
                }
            }
            if clock.now() >= end && !self.source.blocks_writers() {
                return Ok(CopyResult::More);
            }
        }
        Ok(CopyResult::Ended)
    }

    /// Hears whether there was word of a write. True if there is nothing to look at.
    pub(super) fn skip_idle(&mut self, tools: &SharedBuffers, now: Instant, tick: Duration) -> bool {
        if self.idle_state == IdleState::Polling {
            return false;
        }
        if !self.source.was_written() {
            return self.idle_state == IdleState::Idle && !tools.check_idle;
        }
        self.idle_state = IdleState::Polling;
        (self.next_tick, self.hot_until) = (now, Some(now + tick));
        // It may be word of a name that is gone, too.
        self.next_file_check = now;
        false
    }

    /// Whether a checkpoint of the application waits, so that the pin had better move now.
    pub(super) fn checkpoint_waits(&mut self, now: Instant) -> bool {
        self.contended_until = self.contended_until.filter(|until| now < *until);
        let waits = (now >= self.next_tick || self.contended_until.is_some()) && self.source.has_waiting_checkpoint();
        if waits {
            self.contended_until = Some(now + CONTENDED_TIME);
        }
        waits
    }

    /// How soon to look again, if sooner than at the next tick.
    pub(super) fn urgent_interval(&self) -> Option<Duration> {
        let contended = self.contended_until.map(|_| CONTENDED_POLL_INTERVAL);
        contended.or(self.hot_until.map(|_| HOT_POLL_INTERVAL))
    }

    /// The time to the next look.
    pub(super) fn poll_interval(&mut self, now: Instant, tick: Duration) -> Duration {
        self.hot_until = self.hot_until.filter(|until| now < *until);
        if self.hot_until.is_some() { HOT_POLL_INTERVAL.min(tick) } else { tick }
    }

    /// Goes to rest where `calm` says that nothing else is to be done. Stays where it is if it cannot.
    pub(super) fn update_idle(&mut self, calm: bool, tools: &mut SharedBuffers, now: Instant) -> Result<bool> {
        self.idle_state = match self.idle_state {
            IdleState::Polling if calm && self.source.watch_for_writes(&mut tools.inotify)? => {
                IdleState::WatchArmed(now + WATCH_SETTLE_TIME)
            }
            IdleState::WatchArmed(until) if calm && now >= until => IdleState::Idle,
            rest if calm => rest,
            _ => IdleState::Polling,
        };
        Ok(self.idle_state == IdleState::Idle)
    }

    /// A change after a quiet spell is stored at once; under steady writes, one segment each interval.
    pub(super) fn close_segment(&mut self, now: Instant, interval: Duration, closing: bool, outbox: &mut UploadQueue) {
        let waited = self.last_close.is_none_or(|last| now.duration_since(last) >= interval);
        if !waited && !closing && !self.snapshot_waits_for_open_segment() {
            return;
        }
        if let Some(segment) = self.writer.finish() {
            outbox.push(segment, now);
            self.last_close = Some(now);
        }
    }

    /// Whether the snapshot under way may become visible. A start goes on behind the newest snapshot. So if there is an
    /// earlier one, all between the two must be stored before: a process that is killed would leave a gap there.
    pub(super) fn may_commit_snapshot(&self, outbox: &UploadQueue) -> bool {
        let Some(upload) = &self.snapshot else { return false };
        let position = upload.header().position;
        let copied = self.writer.end().wal_position() >= position && !self.has_open_segment_before(position);
        let is_first = self.snapshot_at.is_none() && !self.snapshot_unanswered;
        is_first || (copied && !outbox.has_segment_before(position))
    }

    fn snapshot_waits_for_open_segment(&self) -> bool {
        let position = self.snapshot.as_ref().map(|upload| upload.header().position);
        position.is_some_and(|position| self.has_open_segment_before(position))
    }

    fn has_open_segment_before(&self, position: WalPosition) -> bool {
        self.writer.open_start().is_some_and(|start| start < position)
    }

    pub(super) fn wants_snapshot(&self, now: Instant, forced: bool) -> bool {
        let end = self.writer.end();
        let here = Position { generation: end.chain_end.generation, wal_position: end.wal_position() };
        if now < self.snapshot_not_before {
            return false;
        }
        match self.snapshot_at {
            None => self.snapshot_due.is_none_or(|due| now >= due),
            Some(_) if forced => true,
            Some(at) => at != here && self.snapshot_due.is_some_and(|due| now >= due),
        }
    }

    pub(super) fn start_snapshot(&mut self, store: &dyn Store, meta: &Path, clock: &dyn Clock) -> Result<()> {
        if !self.caught_up {
            return Ok(());
        }
        let Some(snapshot) = self.source.snapshot(meta)? else { return Ok(()) };
        let end = *self.writer.end();
        // A WAL of which nothing was copied yet is not the one that the end is in.
        let mark = snapshot.mark();
        let place = self.source.start();
        let here = (mark.salt, mark.frame) == (place.salt, place.frame);
        let mark = if here { end.wal_mark().unwrap_or(mark) } else { mark };
        let Some(at) = end.position_in_wal(&mark) else { return Ok(()) };
        let time = clock.utc_now().max(end.time);
        let upload = SnapshotUpload::new(store, snapshot, mark, end.chain_end.generation, at, time);
        self.snapshot = Some(upload.compressed(self.compression_level));
        Ok(())
    }
}

/// Bytes of the WAL.
pub(super) fn wal_bytes(following: &ActiveDatabase) -> u64 {
    let frames = following.source.wal_frames().map_or(0, |(frames, _)| frames);
    u64::from(frames) * following.source.page_size().frame() as u64
}

//! Segments on their way to the store: several under way at once, made visible strictly in order.

mod queued_segment;

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::backup::end_note;
use crate::backup::stored_end::StoredEnd;
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::key::SegmentKey;
use crate::format::position::WalPosition;
use crate::format::time::Timestamp;
use crate::log;
use crate::replica::segment_builder::Segment;
use crate::replica::spool::Spool;
use crate::store::Store;

use queued_segment::{QueuedSegment, SegmentBytes, Upload, read_verified};

/// Segments that are sent at the same time.
const MAX_UPLOADS: usize = 4;
/// Bytes of segments that may wait in memory for the store.
pub const MAX_MEMORY_BYTES: usize = 8 << 20;
/// Memory that is full for so long is relieved by the spool, also before the store is known to be away: while no more is
/// copied our pin stays, and an application's own checkpoint, which makes its writers wait, waits for it.
const FULL_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two attempts at a spool whose disk refused the last one.
const SPOOL_RETRY_DELAY: Duration = Duration::from_secs(1);
/// A disk that has refused the spool for so long counts as full. Until then what is committed waits in the WAL, under our
/// pin: for longer than that no application's own checkpoint may be kept waiting.
const SPOOL_ERROR_TIMEOUT: Duration = Duration::from_secs(5);
/// After so many attempts a segment that cannot be read back from the spool is taken for lost.
const MAX_FAILED_READS: u8 = 3;
/// The first and the longest pause after an error.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// The queue of one database.
pub struct UploadQueue {
    store: Rc<dyn Store>,
    spool: Spool,
    queue: VecDeque<QueuedSegment>,
    /// Bytes of the segments in memory.
    bytes: usize,
    /// Since then there has been no room in memory.
    full_since: Option<Instant>,
    retry_at: Option<Instant>,
    pause: Duration,
    /// The last attempt failed, and none has succeeded since.
    store_down: bool,
    /// Memory was not enough since the store went away.
    spooling: bool,
    /// As much is in the spool as may be.
    spool_full: bool,
    /// The spool's disk refuses what is put there.
    spool_error: Option<SpoolError>,
    /// So often in a row a segment could not be read back from the spool.
    failed_reads: u8,
}

#[derive(Clone, Copy)]
struct SpoolError {
    since: Instant,
    retry_at: Instant,
}

/// What one poll of the queue has brought.
#[derive(Debug, Default)]
pub struct PollResult {
    /// Segments that are visible and durable now, oldest first.
    pub stored: Vec<StoredSegment>,
    /// What went wrong; it is tried again by itself.
    pub error: Option<Error>,
}

/// A segment that the store has.
#[derive(Debug)]
pub struct StoredSegment {
    pub key: SegmentKey,
    pub bytes: Vec<u8>,
}

impl UploadQueue {
    pub fn new(store: Rc<dyn Store>, spool: Spool) -> UploadQueue {
        UploadQueue {
            store,
            spool,
            queue: VecDeque::new(),
            bytes: 0,
            full_since: None,
            retry_at: None,
            pause: RETRY_DELAYS.0,
            store_down: false,
            spooling: false,
            spool_full: false,
            spool_error: None,
            failed_reads: 0,
        }
    }

    /// Adds a segment that follows the last one. It waits in memory, or in the spool if the store is away and memory is
    /// not enough: then all that waits goes there, so that what is on disk continues what is stored.
    pub fn push(&mut self, segment: Segment, now: Instant) {
        self.bytes += segment.bytes.len();
        self.queue.push_back(QueuedSegment::in_memory(segment));
        self.spooling |= self.store_down && self.bytes >= MAX_MEMORY_BYTES;
        if self.spooling {
            self.spool_all(now);
        }
    }

    /// Makes room in memory if there has been none for too long, and tries a spool again that was refused. To be called at
    /// each tick, whatever the store does.
    pub fn spool_if_full(&mut self, now: Instant) {
        if self.bytes < MAX_MEMORY_BYTES {
            self.full_since = None;
        } else {
            let since = *self.full_since.get_or_insert(now);
            self.spooling |= now.duration_since(since) >= FULL_TIMEOUT;
        }
        if self.spooling {
            self.spool_all(now);
        }
    }

    /// Makes room in memory, whatever the store does: others wait for that.
    pub fn spool_now(&mut self, now: Instant) {
        self.spooling = true;
        self.spool_all(now);
    }

    /// Moves all that waits in memory to the spool, oldest first, unless that is of no use for now.
    fn spool_all(&mut self, now: Instant) {
        if self.spool_full || self.spool_error.is_some_and(|refusal| now < refusal.retry_at) {
            return;
        }
        for item in &mut self.queue {
            let SegmentBytes::Memory(bytes) = &item.body else { continue };
            let size = bytes.len() as u64;
            if !self.spool.has_room(size) {
                let error = Error::new(Kind::Database, "spool: spool-limit is reached");
                log::error("cannot spool, segments wait in memory").error(&error).emit();
                self.spool_full = true;
                return;
            }
            if let Err(error) = self.spool.write(&item.key, bytes, now) {
                if self.spool_error.is_none() {
                    log::error("cannot spool, segments wait in memory").error(&error).emit();
                }
                let since = self.spool_error.map_or(now, |refusal| refusal.since);
                self.spool_error = Some(SpoolError { since, retry_at: now + SPOOL_RETRY_DELAY });
                return;
            }
            self.bytes -= bytes.len();
            let bytes = item.body.take();
            item.body = if item.upload.is_some() { SegmentBytes::Loaded(bytes) } else { SegmentBytes::Spooled(size) };
        }
        if self.spool_error.take().is_some() {
            log::info("spooling again").emit();
        }
    }

    /// Takes up what a process before this one has left in the spool, as far as it continues `end`, and moves `end`
    /// after it. Everything else in there is removed.
    pub fn adopt_spool(&mut self, mut end: Option<&mut StoredEnd>, now: Instant) -> Result<()> {
        for (key, size) in self.spool.leftover_segments(now)? {
            let follows =
                |end: &StoredEnd| key.generation == end.chain_end.generation && key.start == end.wal_position();
            let Some(end) = end.as_deref_mut().filter(|end| follows(end)) else {
                self.spool.remove(&key, size, now);
                continue;
            };
            match read_verified(&self.spool, &key, now) {
                Ok((_, behind)) => *end = behind,
                Err(error) => {
                    log::error("spooled segment damaged").field("name", key).error(&error).emit();
                    self.spool.remove(&key, size, now);
                    continue;
                }
            }
            log::info("segment recovered from the spool").field("name", key).emit();
            self.queue.push_back(QueuedSegment::spooled(key, size, *end));
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Segments that are not stored yet.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether a segment waits here that begins before this place.
    pub fn has_segment_before(&self, position: WalPosition) -> bool {
        self.queue.front().is_some_and(|item| item.key.start < position)
    }

    /// Whether this segment waits here, or is on its way.
    pub fn contains(&self, key: &SegmentKey) -> bool {
        self.queue.iter().any(|item| item.key == *key)
    }

    /// Whether no more should be added for now: the WAL itself is the better place to wait.
    pub fn is_full(&self) -> bool {
        self.bytes >= MAX_MEMORY_BYTES && (!self.store_down || self.spool_full || self.spool_error.is_some())
    }

    /// Whether the store is away, and what may wait for it does.
    pub fn must_end_generation(&self, now: Instant) -> bool {
        let broken = self.spool_error.is_some_and(|refusal| now.duration_since(refusal.since) >= SPOOL_ERROR_TIMEOUT);
        self.is_full() && self.store_down && (self.spool_full || broken)
    }

    /// Whether a segment is gone from the spool, or is not what was put there: what follows it continues nothing.
    pub fn lost_segment(&self) -> bool {
        self.failed_reads >= MAX_FAILED_READS
    }

    /// Whether something is under way, so that a poll may soon help.
    pub fn is_busy(&self) -> bool {
        self.queue.iter().any(|item| item.upload.is_some())
    }

    /// When the oldest commit in here was seen.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.queue.front().map(|item| item.oldest)
    }

    /// The store has been reached again: what waits for the end of a pause goes now.
    pub fn retry_now(&mut self) {
        (self.retry_at, self.pause) = (None, RETRY_DELAYS.0);
    }

    /// Makes progress.
    pub fn poll(&mut self, now: Instant) -> PollResult {
        let mut polled = PollResult::default();
        if self.retry_at.is_some_and(|at| now < at) {
            return polled;
        }
        self.retry_at = None;
        if let Err(error) = self.advance(now) {
            self.on_error(now);
            polled.error = Some(error);
        }
        while self.queue.front().is_some_and(QueuedSegment::is_done) {
            let Some(mut item) = self.queue.pop_front() else { break };
            let size = item.body.size();
            match item.body {
                SegmentBytes::Memory(_) => self.bytes -= size as usize,
                SegmentBytes::Spooled(_) | SegmentBytes::Loaded(_) => self.spool.remove(&item.key, size, now),
            }
            (self.pause, self.store_down, self.spooling, self.spool_full) = (RETRY_DELAYS.0, false, false, false);
            self.spool_error = None;
            polled.stored.push(StoredSegment { key: item.key, bytes: item.body.take() });
        }
        polled
    }

    fn advance(&mut self, now: Instant) -> Result<()> {
        let mut before_done = true;
        for item in self.queue.iter_mut().take(MAX_UPLOADS) {
            if item.upload.is_none() {
                fault::point("segment.put")?;
                self.failed_reads = self.failed_reads.saturating_add(1);
                item.load(&self.spool, now)?;
                self.failed_reads = 0;
                let mut put = self.store.put(&item.key.to_string());
                put.note(&end_note::encode(&item.end));
                item.upload = Some(Upload::new(put));
            }
            let Some(upload) = &mut item.upload else { continue };
            upload.advance(item.body.bytes(), before_done, now)?;
            before_done = upload.done;
        }
        Ok(())
    }

    /// Whatever was under way starts again, after a pause that doubles each time. What was committed without an answer is
    /// put again under the same name with the same bytes.
    fn on_error(&mut self, now: Instant) {
        for item in &mut self.queue {
            if !item.is_done() {
                item.upload = None;
                item.release_bytes();
            }
        }
        self.store_down = true;
        self.retry_at = Some(now + self.pause);
        self.pause = (self.pause * 2).min(RETRY_DELAYS.1);
    }
}

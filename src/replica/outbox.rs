//! Segments on their way to the store: several under way at once, made visible strictly in order.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::fault;
use crate::format::key::SegmentKey;
use crate::format::time::Timestamp;
use crate::replica::writer::Segment;
use crate::store::{Put, PutState, Store};

/// Segments that are sent at the same time.
const IN_FLIGHT: usize = 4;
/// Bytes of segments that may wait in memory for the store.
pub const MEMORY_BYTES: usize = 8 << 20;
/// The first and the longest pause after an error.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// The queue of one database.
pub struct Outbox {
    store: Rc<dyn Store>,
    queue: VecDeque<Item>,
    bytes: usize,
    retry_at: Option<Instant>,
    pause: Duration,
}

struct Item {
    segment: Segment,
    upload: Option<Upload>,
}

struct Upload {
    put: Box<dyn Put>,
    sent: usize,
    committed: bool,
    done: bool,
}

/// What one look at the outbox brought.
#[derive(Debug, Default)]
pub struct Polled {
    /// Segments that are visible and durable now, oldest first.
    pub stored: Vec<Stored>,
    /// What went wrong; it is tried again by itself.
    pub error: Option<Error>,
}

/// A segment that the store has.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    pub key: SegmentKey,
    /// In bytes.
    pub size: u64,
}

impl Outbox {
    pub fn new(store: Rc<dyn Store>) -> Outbox {
        Outbox { store, queue: VecDeque::new(), bytes: 0, retry_at: None, pause: RETRY.0 }
    }

    /// Adds a segment that follows the last one.
    pub fn push(&mut self, segment: Segment) {
        self.bytes += segment.bytes.len();
        self.queue.push_back(Item { segment, upload: None });
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether this segment waits here, or is on its way.
    pub fn holds(&self, key: &SegmentKey) -> bool {
        self.queue.iter().any(|item| item.segment.key == *key)
    }

    /// Whether no more should be added for now.
    pub fn is_full(&self) -> bool {
        self.bytes >= MEMORY_BYTES
    }

    /// Whether something is under way, so that a poll may soon help.
    pub fn is_busy(&self) -> bool {
        self.queue.iter().any(|item| item.upload.is_some())
    }

    /// When the oldest commit in here was seen.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.queue.front().map(|item| item.segment.oldest)
    }

    /// Makes progress.
    pub fn poll(&mut self, now: Instant) -> Polled {
        let mut polled = Polled::default();
        if self.retry_at.is_some_and(|at| now < at) {
            return polled;
        }
        self.retry_at = None;
        if let Err(error) = self.advance(now) {
            self.give_up(now);
            polled.error = Some(error);
        }
        while self.queue.front().is_some_and(Item::is_done) {
            if let Some(item) = self.queue.pop_front() {
                self.bytes -= item.segment.bytes.len();
                self.pause = RETRY.0;
                polled.stored.push(Stored { key: item.segment.key, size: item.segment.bytes.len() as u64 });
            }
        }
        polled
    }

    fn advance(&mut self, now: Instant) -> Result<()> {
        let mut before_done = true;
        for item in self.queue.iter_mut().take(IN_FLIGHT) {
            if item.upload.is_none() {
                fault::point("segment.put")?;
                item.upload = Some(Upload::new(self.store.put(&item.segment.key.to_string())));
            }
            let Some(upload) = &mut item.upload else { continue };
            upload.advance(&item.segment.bytes, before_done, now)?;
            before_done = upload.done;
        }
        Ok(())
    }

    /// Whatever was under way begins anew, after a pause that doubles each time. What was committed without an answer is
    /// put again under the same name with the same bytes.
    fn give_up(&mut self, now: Instant) {
        for item in &mut self.queue {
            if !item.is_done() {
                item.upload = None;
            }
        }
        self.retry_at = Some(now + self.pause);
        self.pause = (self.pause * 2).min(RETRY.1);
    }
}

impl Item {
    fn is_done(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.done)
    }
}

impl Upload {
    fn new(put: Box<dyn Put>) -> Upload {
        Upload { put, sent: 0, committed: false, done: false }
    }

    fn advance(&mut self, bytes: &[u8], may_commit: bool, now: Instant) -> Result<()> {
        if self.done {
            return Ok(());
        }
        while let Some(rest) = bytes.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let taken = self.put.write(rest)?;
            self.sent += taken;
            if taken == 0 {
                break;
            }
            if self.sent == bytes.len() {
                self.put.finish();
            }
        }
        if may_commit && !self.committed {
            fault::point("segment.commit")?;
            self.put.commit();
            self.committed = true;
        }
        self.done = self.put.poll(now)? == PutState::Done;
        Ok(())
    }
}

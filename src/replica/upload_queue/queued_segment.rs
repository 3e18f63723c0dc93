//! A segment that waits for the store, in memory or in the spool, and its upload.

use std::time::Instant;

use crate::backup::stored_end::StoredEnd;
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::key::SegmentKey;
use crate::format::segment::last_member;
use crate::format::time::Timestamp;
use crate::replica::segment_builder::Segment;
use crate::replica::spool::Spool;
use crate::store::{Put, PutState};

/// A segment that is not stored yet.
pub struct QueuedSegment {
    pub key: SegmentKey,
    /// When the oldest commit in it was seen.
    pub oldest: Timestamp,
    /// After its last batch.
    pub end: StoredEnd,
    pub body: SegmentBytes,
    pub upload: Option<Upload>,
}

impl QueuedSegment {
    /// One that waits in memory.
    pub fn in_memory(segment: Segment) -> QueuedSegment {
        let Segment { key, bytes, oldest, end } = segment;
        QueuedSegment { key, oldest, end, body: SegmentBytes::Memory(bytes), upload: None }
    }

    /// One that a process before this one has left in the spool, with so many bytes.
    pub fn spooled(key: SegmentKey, size: u64, end: StoredEnd) -> QueuedSegment {
        QueuedSegment { key, oldest: key.first_moment(), end, body: SegmentBytes::Spooled(size), upload: None }
    }

    pub fn load(&mut self, spool: &Spool, now: Instant) -> Result<()> {
        if let SegmentBytes::Spooled(_) = self.body {
            self.body = SegmentBytes::Loaded(read_verified(spool, &self.key, now)?.0);
        }
        Ok(())
    }

    /// Only what is being sent is in memory twice.
    pub fn release_bytes(&mut self) {
        if let SegmentBytes::Loaded(bytes) = &self.body {
            self.body = SegmentBytes::Spooled(bytes.len() as u64);
        }
    }

    pub fn is_done(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.done)
    }
}

/// Where a waiting segment is.
pub enum SegmentBytes {
    Memory(Vec<u8>),
    /// In the spool, with so many bytes.
    Spooled(u64),
    /// In the spool, and read back to be sent.
    Loaded(Vec<u8>),
}

impl SegmentBytes {
    /// In bytes.
    pub fn size(&self) -> u64 {
        match self {
            SegmentBytes::Memory(bytes) | SegmentBytes::Loaded(bytes) => bytes.len() as u64,
            SegmentBytes::Spooled(size) => *size,
        }
    }

    /// Moves out the bytes that are in memory.
    pub fn take(&mut self) -> Vec<u8> {
        match self {
            SegmentBytes::Memory(bytes) | SegmentBytes::Loaded(bytes) => std::mem::take(bytes),
            SegmentBytes::Spooled(_) => Vec::new(),
        }
    }

    /// The bytes that are in memory.
    pub fn bytes(&self) -> &[u8] {
        match self {
            SegmentBytes::Memory(bytes) | SegmentBytes::Loaded(bytes) => bytes,
            SegmentBytes::Spooled(_) => &[],
        }
    }
}

/// A segment on its way into the store.
pub struct Upload {
    put: Box<dyn Put>,
    sent: usize,
    committed: bool,
    pub done: bool,
}

impl Upload {
    pub fn new(put: Box<dyn Put>) -> Upload {
        Upload { put, sent: 0, committed: false, done: false }
    }

    pub fn advance(&mut self, bytes: &[u8], may_commit: bool, now: Instant) -> Result<()> {
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

/// A segment from the spool, proven to be whole, and the end of the chain after it.
pub fn read_verified(spool: &Spool, key: &SegmentKey, now: Instant) -> Result<(Vec<u8>, StoredEnd)> {
    let bytes = spool.read(key, now)?;
    let (last, crc) = last_member(key, &bytes).map_err(|e| e.context(format!("spooled segment {key}")))?;
    if last.end_point() != key.end {
        return Err(Error::new(Kind::Corrupt, format!("spooled segment {key}: it ends at another position")));
    }
    let end = StoredEnd::after_member(&last, crc);
    Ok((bytes, end))
}

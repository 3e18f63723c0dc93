//! From batches of frames to segments, ready to be stored.

use crate::format::differences::Composer;
use crate::format::key::SegmentKey;
use crate::format::position::Offset;
use crate::format::segment::{Differences, Encoder, LEVEL, MemberHeader, key_of};
use crate::format::time::Timestamp;
use crate::replica::tail::End;
use crate::source::Batch;

/// A segment of this many bytes is closed, however little time has passed.
pub const SEGMENT_BYTES: usize = 2 << 20;

/// A segment, whole and named.
#[derive(Debug)]
pub struct Segment {
    pub key: SegmentKey,
    pub bytes: Vec<u8>,
    /// When its oldest commit was seen.
    pub oldest: Timestamp,
}

/// Turns the batches of one generation into segments.
pub struct Writer {
    end: End,
    open: Option<Open>,
}

/// A segment that still grows.
struct Open {
    first: MemberHeader,
    last: MemberHeader,
    bytes: Vec<u8>,
}

impl Writer {
    /// Continues behind `end`.
    pub fn new(end: End) -> Writer {
        Writer { end, open: None }
    }

    /// Behind the last batch that was taken.
    pub fn end(&self) -> &End {
        &self.end
    }

    /// When the oldest commit in the open segment was seen.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.open.as_ref().map(|open| open.first.seen)
    }

    /// Bytes of the open segment.
    pub fn len(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.bytes.len())
    }

    /// Whether nothing waits to be closed.
    pub fn is_empty(&self) -> bool {
        self.open.is_none()
    }

    /// Takes a batch that was seen at `seen`. Gives back the open segment if the batch must not join it, and does so
    /// again after it has grown large.
    ///
    /// `composer` has what the pages of the batch differ in, if it says so.
    pub fn push(&mut self, tools: (&mut Encoder, &Composer), batch: &Batch, seen: Timestamp) -> Vec<Segment> {
        let (encoder, composer) = tools;
        let mut closed = Vec::new();
        if batch.part && self.open.as_ref().is_some_and(|open| !open.last.part) {
            // A transaction in parts stands in segments of its own, so that what is before it can be restored without it.
            closed.extend(self.close());
        }
        let header = MemberHeader { differences: self.differences(batch), ..self.header(batch, seen) };
        let mut open = self.open.take().unwrap_or_else(|| Open { first: header, last: header, bytes: Vec::new() });
        let wal_header = batch.header.as_ref().map(|header| header.as_slice()).unwrap_or_default();
        let crc = match header.differences {
            Some(_) => encoder.differences(&header, composer, &mut open.bytes),
            None => encoder.member(&header, &[wal_header, batch.frames], &mut open.bytes),
        };
        open.last = header;
        self.end = End::behind(&header, crc);
        self.open = Some(open);
        if self.len() >= SEGMENT_BYTES {
            closed.extend(self.close());
        }
        closed
    }

    /// Closes the open segment, if there is one.
    pub fn close(&mut self) -> Option<Segment> {
        self.open.take().map(|open| Segment {
            key: key_of(&open.first, &open.last),
            oldest: open.first.seen,
            bytes: open.bytes,
        })
    }

    fn header(&self, batch: &Batch, seen: Timestamp) -> MemberHeader {
        // Time never runs backwards, whatever the clock does.
        let seen = seen.max(self.end.time);
        let index = self.index_of(batch);
        let begins = batch.before.frame == 0;
        MemberHeader {
            generation: self.end.tail.generation,
            start: self.end.point(),
            index,
            from: if begins { Offset::ZERO } else { batch.before.offset() },
            end: batch.behind.offset(),
            page_size: batch.before.page_size,
            order: batch.behind.order,
            part: batch.part,
            unsealed: batch.unsealed,
            salt: batch.behind.salt,
            checksum_before: batch.before.checksum.unwrap_or_default(),
            checksum_after: batch.behind.checksum.unwrap_or_default(),
            pages: batch.pages.unwrap_or(0),
            since: self.end.time,
            seen,
            previous_crc: self.end.tail.crc.unwrap_or(0),
            differences: None,
        }
    }

    /// Set where the batch is stored as what its pages differ in.
    fn differences(&self, batch: &Batch) -> Option<Differences> {
        let begins = batch.before.frame == 0;
        let checkpoint = batch.header.as_ref().and_then(|header| header.get(12..16)?.first_chunk());
        // What is at the start without a header cannot be told in the shorter one.
        let whole = !begins || checkpoint.is_some();
        let checkpoint = checkpoint.map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let tells_wal = begins || self.open.is_none();
        batch.checksum.filter(|_| whole).map(|checksum| Differences { checksum, checkpoint, tells_wal })
    }

    /// New salts, next index. A WAL of which nothing is stored yet keeps the index of its snapshot.
    fn index_of(&self, batch: &Batch) -> u32 {
        let index = self.end.point().index;
        let begins = batch.before.frame == 0;
        if begins && !self.end.is_at_start() { index.saturating_add(1) } else { index }
    }
}

/// An encoder for all the segments of a process.
pub fn encoder() -> Encoder {
    Encoder::new(LEVEL)
}

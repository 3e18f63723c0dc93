//! From batches of frames to segments, ready to be stored.

use crate::backup::stored_end::StoredEnd;
use crate::format::differences::Composer;
use crate::format::key::SegmentKey;
use crate::format::position::{Offset, WalPosition};
use crate::format::segment::{Differences, LEVEL, MemberHeader, SegmentEncoder, key_of};
use crate::format::time::Timestamp;
use crate::source::Batch;

/// A segment of this many bytes is closed, however little time has passed.
pub const MAX_SEGMENT_BYTES: usize = 2 << 20;

/// A segment, whole and named.
#[derive(Debug)]
pub struct Segment {
    pub key: SegmentKey,
    pub bytes: Vec<u8>,
    /// When its oldest commit was seen.
    pub oldest: Timestamp,
    /// After its last batch.
    pub end: StoredEnd,
}

/// Turns the batches of one generation into segments.
pub struct SegmentBuilder {
    end: StoredEnd,
    open: Option<OpenSegment>,
    /// Whether a batch may be stored as what its pages differ in.
    differences: bool,
}

/// A segment that still grows.
struct OpenSegment {
    first: MemberHeader,
    last: MemberHeader,
    bytes: Vec<u8>,
}

impl SegmentBuilder {
    /// Continues after `end`.
    pub fn new(end: StoredEnd) -> SegmentBuilder {
        SegmentBuilder { end, open: None, differences: true }
    }

    /// Whether a batch may be stored as what its pages differ in from now on: only where what is stored is known to lead to
    /// those pages.
    pub fn set_differences(&mut self, on: bool) {
        self.differences = on;
    }

    pub fn writes_differences(&self) -> bool {
        self.differences
    }

    /// After the last batch that was taken.
    pub fn end(&self) -> &StoredEnd {
        &self.end
    }

    /// Where the open segment begins, if there is one.
    pub fn open_start(&self) -> Option<WalPosition> {
        self.open.as_ref().map(|open| open.first.start)
    }

    /// When the oldest commit in the open segment was seen.
    pub fn oldest_commit(&self) -> Option<Timestamp> {
        self.open.as_ref().map(|open| open.first.visible_by)
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
    pub fn add(&mut self, tools: (&mut SegmentEncoder, &Composer), batch: &Batch, seen: Timestamp) -> Vec<Segment> {
        let (encoder, composer) = tools;
        let mut closed = Vec::new();
        if batch.part && self.open.as_ref().is_some_and(|open| !open.last.part) {
            // A transaction in parts stands in segments of its own, so that what is before it can be restored without it.
            closed.extend(self.finish());
        }
        let header = MemberHeader { differences: self.differences(batch), ..self.header(batch, seen) };
        let mut open =
            self.open.take().unwrap_or_else(|| OpenSegment { first: header, last: header, bytes: Vec::new() });
        let wal_header = batch.header.as_ref().map(|header| header.as_slice()).unwrap_or_default();
        let crc = match header.differences {
            Some(_) => encoder.differences(&header, composer, &mut open.bytes),
            None => encoder.member(&header, &[wal_header, batch.frames], &mut open.bytes),
        };
        open.last = header;
        self.end = StoredEnd::after_member(&header, crc);
        self.open = Some(open);
        if self.len() >= MAX_SEGMENT_BYTES {
            closed.extend(self.finish());
        }
        closed
    }

    /// Closes the open segment, if there is one.
    pub fn finish(&mut self) -> Option<Segment> {
        let end = self.end;
        self.open.take().map(|open| Segment {
            end,
            key: key_of(&open.first, &open.last),
            oldest: open.first.visible_by,
            bytes: open.bytes,
        })
    }

    fn header(&self, batch: &Batch, seen: Timestamp) -> MemberHeader {
        // Time never runs backwards, whatever the clock does.
        let seen = seen.max(self.end.time);
        let index = self.index_for(batch);
        let begins = batch.start.frame == 0;
        MemberHeader {
            generation: self.end.chain_end.generation,
            start: self.end.wal_position(),
            index,
            payload_offset: if begins { Offset::ZERO } else { batch.start.offset() },
            end: batch.end.offset(),
            page_size: batch.start.page_size,
            order: batch.end.order,
            part: batch.part,
            unchecksummed: batch.unchecksummed,
            salt: batch.end.salt,
            checksum_before: batch.start.checksum.unwrap_or_default(),
            checksum_after: batch.end.checksum.unwrap_or_default(),
            pages: batch.pages.unwrap_or(0),
            visible_after: self.end.time,
            visible_by: seen,
            previous_crc: self.end.chain_end.crc.unwrap_or(0),
            differences: None,
            rollup: None,
        }
    }

    /// Set where the batch is stored as what its pages differ in.
    fn differences(&self, batch: &Batch) -> Option<Differences> {
        let begins = batch.start.frame == 0;
        let checkpoint = batch.header.as_ref().and_then(|header| header.get(12..16)?.first_chunk());
        // What is at the start without a header cannot be told in the shorter one.
        let whole = !begins || checkpoint.is_some();
        let checkpoint = checkpoint.map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let tells_wal = begins || self.open.is_none();
        batch.checksum.filter(|_| whole && self.differences).map(|checksum| Differences {
            checksum,
            checkpoint,
            tells_wal,
        })
    }

    /// New salts, next index. A WAL of which nothing is stored yet keeps the index of its snapshot.
    fn index_for(&self, batch: &Batch) -> u32 {
        let index = self.end.wal_position().index;
        let begins = batch.start.frame == 0;
        if begins && !self.end.nothing_stored_of_wal() { index.saturating_add(1) } else { index }
    }
}

/// An encoder for all the segments of a process.
pub fn new_encoder() -> SegmentEncoder {
    SegmentEncoder::new(LEVEL)
}

//! Segments: gzip members one after another, each of which is one batch of frames and says all about itself.
//!
//! What holds for every segment, and what a reader here insists on:
//!
//! * The payload of a member is raw WAL bytes: whole frames, with the WAL header before them if it begins at offset 0.
//! * A member begins where the one before it ended (`start`), in position, in checksum chain, and by `previous_crc`.
//! * A transaction was seen when the batch that ends it was; a part is merged only with what completes it.

use std::io::Read;

use crate::error::{Result, ResultExt};
use crate::format::brief_header::{self, MemberContext};
use crate::format::differences::{self, Composer};
use crate::format::gzip::{MemberReader, MemberWriter};
use crate::format::key::SegmentKey;
use crate::format::member_header::{MemberKind, ROLLUP, WITH_DIFFERENCES, corrupt};
use crate::format::rollup;

pub use crate::format::chain_end::{ChainEnd, check_continues};
pub use crate::format::segment_header::{Differences, FIELDS, FIELDS_LEN, MemberHeader, Rollup, key_of};

/// gzip's level for callers that do not choose one: it keeps up with any writer. [`crate::format::compression_level`] decides.
pub const LEVEL: u32 = 1;

/// Makes members. Keep one: its memory (about 256 KiB) is used again for every member.
pub struct SegmentEncoder(MemberWriter);

impl SegmentEncoder {
    /// `level` is gzip's, 0 to 9; [`LEVEL`] by default.
    pub fn new(level: u32) -> SegmentEncoder {
        SegmentEncoder(MemberWriter::new(level))
    }

    /// Sets the level of the members that follow.
    pub fn set_level(&mut self, level: u32) {
        self.0.set_level(level);
    }

    /// Appends one whole gzip member to `out`; the crc32 of its payload.
    ///
    /// The payload, given in pieces, is `header.payload_len()` bytes.
    pub fn member(&mut self, header: &MemberHeader, payload: &[&[u8]], out: &mut Vec<u8>) -> u32 {
        self.0.begin(&header.encode(), header.visible_by.millis(), out);
        for piece in payload {
            self.0.write(piece, out);
        }
        debug_assert_eq!(self.0.size(), header.payload_len());
        self.0.finish(out)
    }

    /// The same for a member of format 2, whose frames `frames` holds.
    pub fn differences(&mut self, header: &MemberHeader, frames: &Composer, out: &mut Vec<u8>) -> u32 {
        match header.differences.is_some_and(|differences| differences.tells_wal) {
            true => self.0.begin(&brief_header::encode_long(header), header.visible_by.millis(), out),
            false => self.0.begin(&brief_header::encode_short(header), header.visible_by.millis(), out),
        }
        frames.payload().iter().for_each(|piece| self.0.write(piece, out));
        self.0.finish(out)
    }
}

/// Reads a segment member by member, in fixed memory whatever it claims to be.
///
/// Errors of every method: [`crate::error::Kind::Corrupt`] for anything that [`SegmentEncoder`] does not write; and the
/// stream's own, of which an [`crate::error::Error`] inside an [`std::io::Error`] comes out as it was.
pub struct SegmentReader<R> {
    inflater: MemberReader<R>,
    /// What the next member need not say.
    before: Option<MemberContext>,
}

impl<R: Read> SegmentReader<R> {
    /// Reads an object whose name is not known: that will do where its first member is raw.
    pub fn new(input: R) -> SegmentReader<R> {
        SegmentReader { inflater: MemberReader::new(input), before: None }
    }

    /// Reads the object of this name.
    pub fn named(key: &SegmentKey, input: R) -> SegmentReader<R> {
        SegmentReader { inflater: MemberReader::new(input), before: Some(MemberContext::first(key)) }
    }

    /// The header of the next member; none at the clean end of the segment.
    ///
    /// What was not read of the current member is passed over, and verified all the same.
    pub fn next_member(&mut self) -> Result<Option<MemberHeader>> {
        let header = match self.inflater.outline()? {
            Some((WITH_DIFFERENCES, kind, length)) if kind == MemberKind::Batch as u8 => self.next_brief(length)?,
            Some((ROLLUP, kind, _)) if kind == MemberKind::Batch as u8 => self.next_rollup()?,
            _ => self.next_raw()?,
        };
        if let Some(header) = &header {
            self.before = Some(MemberContext::next(header));
        }
        Ok(header)
    }

    fn next_raw(&mut self) -> Result<Option<MemberHeader>> {
        let Some(fields) = self.inflater.next::<FIELDS_LEN>(MemberKind::Batch)? else { return Ok(None) };
        let header = MemberHeader::decode(&fields).with_context(|| "segment header")?;
        self.inflater.expect_len(header.payload_len());
        Ok(Some(header))
    }

    fn next_brief(&mut self, length: usize) -> Result<Option<MemberHeader>> {
        let inflater = &mut self.inflater;
        let found = match length {
            brief_header::LONG_LEN => {
                inflater.next_version(MemberKind::Batch, WITH_DIFFERENCES)?.map(brief_header::Brief::Long)
            }
            _ => inflater.next_version(MemberKind::Batch, WITH_DIFFERENCES)?.map(brief_header::Brief::Short),
        };
        let Some(found) = found else { return Ok(None) };
        let before =
            self.before.as_ref().ok_or_else(|| corrupt("expected the name of the segment, which says the rest"));
        let header = before.and_then(|before| found.decode(before)).with_context(|| "segment header")?;
        self.inflater.expect_at_most(differences::most_bytes(&header));
        Ok(Some(header))
    }

    fn next_rollup(&mut self) -> Result<Option<MemberHeader>> {
        let fields = self.inflater.next_version::<{ rollup::FIELDS_LEN }>(MemberKind::Batch, ROLLUP)?;
        let Some(fields) = fields else { return Ok(None) };
        let before = self.before.ok_or_else(|| corrupt("expected the name of the segment, which says the rest"));
        let header = before.and_then(|before| rollup::decode(&fields, before.generation, before.start));
        let header = header.with_context(|| "segment header")?;
        self.inflater.expect_at_most(rollup::most_bytes(&header));
        Ok(Some(header))
    }

    /// Payload bytes of the current member. 0: it has ended, and its crc32 and size were right (or `buf` is empty).
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.inflater.read(buf)
    }

    /// Fills `buf` with payload of the current member.
    pub(super) fn read_exact(&mut self, buf: &mut [u8]) -> Result<()> {
        let mut rest = buf;
        while !rest.is_empty() {
            let count = self.read(rest)?;
            if count == 0 {
                return Err(corrupt(format!("payload: ends {} bytes too early", rest.len())));
            }
            rest = rest.split_at_mut(count).1;
        }
        Ok(())
    }

    /// The crc32 of the payload of the last member that was read to its end.
    pub fn crc(&self) -> u32 {
        self.inflater.crc()
    }
}

/// The last member of a whole segment in memory, and the crc32 of its payload. Everything before it is verified too.
pub fn last_member(key: &SegmentKey, bytes: &[u8]) -> Result<(MemberHeader, u32)> {
    let mut reader = SegmentReader::named(key, bytes);
    let mut last = None;
    while let Some(header) = reader.next_member()? {
        last = Some(header);
    }
    last.map(|header| (header, reader.crc())).ok_or_else(|| corrupt("segment: expected a gzip member, found 0 bytes"))
}

#[cfg(test)]
mod tests;

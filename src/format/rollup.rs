//! Rollups: the net change of a stretch of history, as a member of a segment (format 3).
//!
//! A rollup leads from one commit to a later one and knows none in between. It has each page that is another one then, once and
//! in order, as a difference from the page before; and the smallest size that the database had on the way, to which the
//! database is cut before the pages are applied. It is applied as a whole, or not at all: its name says so, see
//! [`crate::format::key::SegmentKey::is_rollup`]. Frames are not known any more, so only the database checksum proves it.

use crate::error::Result;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::gzip::{MemberWriter, gzip_time};
use crate::format::key::SegmentKey;
use crate::format::member_header::{
    FLAG_BIG_ENDIAN, FLAGS, Field, HeaderFields, KIND, MemberKind, ROLLUP, VERSION, corrupt,
};
use crate::format::page_delta::PageDelta;
use crate::format::position::{Generation, Offset, PageSize, WalPosition};
use crate::format::segment_header::{Differences, MemberHeader, Rollup};
use crate::format::time::Timestamp;
use crate::format::varint;
use crate::format::wal::{ByteOrder, Checksum, Salt};

const INDEX: Field = FLAGS.then(4, "index");
const END: Field = INDEX.then(8, "end");
const AFTER_1: Field = END.then(4, "checksum 1 after");
const AFTER_2: Field = AFTER_1.then(4, "checksum 2 after");
const LEAST: Field = AFTER_2.then(4, "least");
const PAGES: Field = LEAST.then(4, "pages");
const SEEN: Field = PAGES.then(6, "seen");
const DATABASE: Field = SEEN.then(8, "database checksum");
const PAGE_SIZE: Field = DATABASE.then(4, "page size");
const SALT_1: Field = PAGE_SIZE.then(4, "salt 1");
const SALT_2: Field = SALT_1.then(4, "salt 2");
const HEADER_CRC: Field = SALT_2.then(4, "header crc32");

/// Every field, in order and without a hole.
pub const FIELDS: [Field; 15] = [
    VERSION, KIND, FLAGS, INDEX, END, AFTER_1, AFTER_2, LEAST, PAGES, SEEN, DATABASE, PAGE_SIZE, SALT_1, SALT_2,
    HEADER_CRC,
];

/// Bytes of the fields.
pub const FIELDS_LEN: usize = HEADER_CRC.at + HEADER_CRC.size;

/// A block is as long as deflate looks back: steps and literals each resemble themselves.
const BLOCK_BYTES: usize = 24 << 10;

/// The header of a rollup that leads from `start` to where `last` leads, which is the last one of what it is made of.
/// `least` is the smallest size of the database on the way. `known` is the database checksum there, which a member of format 1
/// does not tell. None where neither does.
pub fn header_from(
    start: WalPosition,
    last: &MemberHeader,
    least: u32,
    known: Option<DatabaseChecksum>,
) -> Option<MemberHeader> {
    let told = last.differences.map(|differences| differences.checksum);
    let checksum = told.or(known).filter(|_| !last.part)?;
    Some(MemberHeader {
        start,
        payload_offset: Offset::ZERO,
        part: false,
        unchecksummed: false,
        checksum_before: Checksum::default(),
        visible_after: Timestamp::default(),
        previous_crc: 0,
        differences: Some(Differences { checksum, checkpoint: 0, tells_wal: true }),
        rollup: Some(Rollup { least }),
        ..*last
    })
}

/// The name of a rollup.
pub fn key_of(header: &MemberHeader) -> SegmentKey {
    SegmentKey {
        generation: header.generation,
        start: header.start,
        end: header.end_point(),
        first_seen: SegmentKey::ROLLUP,
        last_seen: header.visible_by,
        part: false,
    }
}

fn encode(header: &MemberHeader) -> HeaderFields<FIELDS_LEN> {
    let mut fields = HeaderFields::new(MemberKind::Batch);
    fields.set(VERSION, ROLLUP.into());
    fields.set_flag(FLAG_BIG_ENDIAN, header.order == ByteOrder::Big);
    for (field, value) in [
        (INDEX, header.index.into()),
        (END, header.end.get()),
        (AFTER_1, header.checksum_after.0.into()),
        (AFTER_2, header.checksum_after.1.into()),
        (LEAST, header.rollup.map_or(0, |rollup| rollup.least.into())),
        (PAGES, header.pages.into()),
        (SEEN, header.visible_by.millis()),
        (DATABASE, header.differences.map_or(0, |differences| differences.checksum.get())),
        (PAGE_SIZE, header.page_size.get().into()),
        (SALT_1, header.salt.0.into()),
        (SALT_2, header.salt.1.into()),
    ] {
        fields.set(field, value);
    }
    fields
}

/// Errors: [`crate::error::Kind::Corrupt`] for what cannot be true of a rollup that begins at `start`.
pub(super) fn decode(
    fields: &HeaderFields<FIELDS_LEN>,
    generation: Generation,
    start: WalPosition,
) -> Result<MemberHeader> {
    let header = MemberHeader {
        generation,
        start,
        index: fields.get_u32(INDEX),
        payload_offset: Offset::ZERO,
        end: Offset::new(fields.get(END))?,
        page_size: PageSize::new(fields.get_u32(PAGE_SIZE))?,
        order: if fields.flag(FLAG_BIG_ENDIAN) { ByteOrder::Big } else { ByteOrder::Little },
        part: false,
        unchecksummed: false,
        salt: Salt(fields.get_u32(SALT_1), fields.get_u32(SALT_2)),
        checksum_before: Checksum::default(),
        checksum_after: Checksum(fields.get_u32(AFTER_1), fields.get_u32(AFTER_2)),
        pages: fields.get_u32(PAGES),
        visible_after: Timestamp::default(),
        visible_by: Timestamp::from_millis(fields.get(SEEN)),
        previous_crc: 0,
        differences: Some(Differences {
            checksum: DatabaseChecksum::new(fields.get(DATABASE)),
            checkpoint: 0,
            tells_wal: true,
        }),
        rollup: Some(Rollup { least: fields.get_u32(LEAST) }),
    };
    let sizes = header.pages > 0 && fields.get_u32(LEAST) <= header.pages;
    if header.end_point() <= start || header.end.frame(header.page_size).is_none() || !sizes {
        let (end, pages, least) = (header.end_point(), header.pages, fields.get_u32(LEAST));
        let what =
            format!("a rollup from {start} cannot lead to {end} and {pages} pages, of which {least} were always there");
        return Err(corrupt(what));
    }
    Ok(header)
}

/// The most bytes that the payload can have.
pub(super) fn most_bytes(header: &MemberHeader) -> u64 {
    u64::from(header.pages) * (4 * u64::from(header.page_size.get()) + 32) + 32
}

/// The header alone, for what [`RollupEncoder::without_header`] makes.
pub fn header_bytes(header: &MemberHeader) -> Vec<u8> {
    let mut out = Vec::new();
    encode(header).write(gzip_time(header.visible_by.millis()), &mut out);
    out
}

/// Makes one rollup, of pages that are given in order.
pub struct RollupEncoder {
    writer: MemberWriter,
    steps: Vec<u8>,
    literals: Vec<u8>,
    page: u32,
}

impl RollupEncoder {
    /// Appends the header to `out`. `level` is gzip's, 0 to 9.
    pub fn new(header: &MemberHeader, level: u32, out: &mut Vec<u8>) -> RollupEncoder {
        let mut writer = MemberWriter::new(level);
        writer.begin(&encode(header), header.visible_by.millis(), out);
        RollupEncoder { writer, steps: Vec::new(), literals: Vec::new(), page: 0 }
    }

    /// Of one whose header is not known yet: what it leads to is known after the last page.
    pub fn without_header(level: u32) -> RollupEncoder {
        let mut writer = MemberWriter::new(level);
        writer.begin(&HeaderFields::<FIELDS_LEN>::new(MemberKind::Batch), 0, &mut Vec::new());
        RollupEncoder { writer, steps: Vec::new(), literals: Vec::new(), page: 0 }
    }

    /// Adds a page, and appends what deflate has ready to `out`.
    pub fn page(&mut self, number: u32, delta: &PageDelta, out: &mut Vec<u8>) {
        varint::write(varint::zigzag(number.wrapping_sub(self.page) as i32), &mut self.steps);
        self.page = number;
        self.steps.push(delta.form() as u8);
        delta.write(&mut self.steps, &mut self.literals);
        if self.steps.len().max(self.literals.len()) >= BLOCK_BYTES {
            self.end_block(out);
        }
    }

    /// Appends the end to `out`.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        self.end_block(out);
        self.writer.finish(out);
    }

    fn end_block(&mut self, out: &mut Vec<u8>) {
        if self.steps.is_empty() {
            return;
        }
        let mut length = Vec::new();
        varint::write(u32::try_from(self.steps.len()).unwrap_or(u32::MAX), &mut length);
        for piece in [&length, &self.steps, &self.literals] {
            self.writer.write(piece, out);
        }
        self.steps.clear();
        self.literals.clear();
    }
}

#[cfg(test)]
mod tests;

//! The header of a member of format 2: only what neither the name of its object nor the member before it says.
//!
//! The first member of an object starts where the name says, and was seen when the name says. Each other one starts where the
//! one before it ended. Page size, byte order and salts stand in the longer of two forms: in the first member of an object as
//! it is written, and wherever a WAL begins. So members of any kinds can be put one after another.

use crate::error::Result;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::key::SegmentKey;
use crate::format::member_header::{
    FLAG_BEGINS, FLAG_BIG_ENDIAN, FLAG_PART, FLAGS, Field, HeaderFields, KIND, MemberKind, VERSION, WITH_DIFFERENCES,
    corrupt,
};
use crate::format::position::{Generation, Offset, PageSize, WalPosition};
use crate::format::segment_header::{Differences, MemberHeader};
use crate::format::time::Timestamp;
use crate::format::wal::{ByteOrder, Checksum, Salt, WalHeader};

const FRAMES: Field = FLAGS.then(4, "frames");
const AFTER_1: Field = FRAMES.then(4, "checksum 1 after");
const AFTER_2: Field = AFTER_1.then(4, "checksum 2 after");
const PAGES: Field = AFTER_2.then(4, "pages");
const SEEN: Field = PAGES.then(6, "seen");
const DATABASE: Field = SEEN.then(8, "database checksum");
const SHORT_CRC: Field = DATABASE.then(4, "header crc32");
const PAGE_SIZE: Field = DATABASE.then(4, "page size");
const SALT_1: Field = PAGE_SIZE.then(4, "salt 1");
const SALT_2: Field = SALT_1.then(4, "salt 2");
const CHECKPOINT: Field = SALT_2.then(4, "checkpoint");
const LONG_CRC: Field = CHECKPOINT.then(4, "header crc32");

/// Every field of the longer form, in order and without a hole. The shorter one has those up to the database checksum, and
/// then the header crc32.
pub const FIELDS: [Field; 14] = [
    VERSION, KIND, FLAGS, FRAMES, AFTER_1, AFTER_2, PAGES, SEEN, DATABASE, PAGE_SIZE, SALT_1, SALT_2, CHECKPOINT,
    LONG_CRC,
];

/// Bytes of the fields in the shorter form.
pub const SHORT_LEN: usize = SHORT_CRC.at + SHORT_CRC.size;
/// Bytes of the fields in the longer form.
pub const LONG_LEN: usize = LONG_CRC.at + LONG_CRC.size;

/// What is known before a member is read.
#[derive(Clone, Copy, Debug)]
pub struct MemberContext {
    pub(super) generation: Generation,
    pub(super) start: WalPosition,
    seen: Timestamp,
    /// Of the WAL at that point; none where only a name is known.
    wal: Option<Wal>,
}

#[derive(Clone, Copy, Debug)]
struct Wal {
    page_size: PageSize,
    order: ByteOrder,
    salt: Salt,
    /// The chain of frame checksums; zero where it is not known.
    checksum: Checksum,
}

impl MemberContext {
    /// Before the first member of the object of this name.
    pub(super) fn first(key: &SegmentKey) -> MemberContext {
        MemberContext { generation: key.generation, start: key.start, seen: key.first_seen, wal: None }
    }

    /// After this member.
    pub(super) fn next(header: &MemberHeader) -> MemberContext {
        let MemberHeader { page_size, order, salt, checksum_after: checksum, .. } = *header;
        let wal = Some(Wal { page_size, order, salt, checksum });
        MemberContext { generation: header.generation, start: header.end_point(), seen: header.visible_by, wal }
    }
}

pub(super) fn encode_short(header: &MemberHeader) -> HeaderFields<SHORT_LEN> {
    encode(header)
}

pub(super) fn encode_long(header: &MemberHeader) -> HeaderFields<LONG_LEN> {
    let mut fields = encode(header);
    fields.set_flag(FLAG_BIG_ENDIAN, header.order == ByteOrder::Big);
    fields.set(PAGE_SIZE, header.page_size.get().into());
    fields.set(SALT_1, header.salt.0.into());
    fields.set(SALT_2, header.salt.1.into());
    fields.set(CHECKPOINT, header.differences.map_or(0, |differences| differences.checkpoint.into()));
    fields
}

fn encode<const N: usize>(header: &MemberHeader) -> HeaderFields<N> {
    let mut fields = HeaderFields::new(MemberKind::Batch);
    fields.set(VERSION, WITH_DIFFERENCES.into());
    fields.set_flag(FLAG_PART, header.part);
    fields.set_flag(FLAG_BEGINS, header.payload_offset == Offset::ZERO);
    fields.set(FRAMES, header.frames().into());
    fields.set(AFTER_1, header.checksum_after.0.into());
    fields.set(AFTER_2, header.checksum_after.1.into());
    fields.set(PAGES, header.pages.into());
    fields.set(SEEN, header.visible_by.millis());
    fields.set(DATABASE, header.differences.map_or(0, |differences| differences.checksum.get()));
    fields
}

/// A header that was read.
pub(super) enum Brief {
    Short(HeaderFields<SHORT_LEN>),
    Long(HeaderFields<LONG_LEN>),
}

impl Brief {
    /// Errors: [`crate::error::Kind::Corrupt`] for what cannot be true after `before`.
    pub(super) fn decode(&self, before: &MemberContext) -> Result<MemberHeader> {
        match self {
            Brief::Long(fields) => decode(fields, before, named_wal(fields)?, true),
            Brief::Short(fields) if fields.flag(FLAG_BEGINS) => {
                Err(corrupt("expected the salts of the WAL that begins"))
            }
            Brief::Short(fields) => {
                let wal = before.wal.ok_or_else(|| corrupt("expected the salts of its WAL in the first member"))?;
                decode(fields, before, (wal, 0), false)
            }
        }
    }
}

/// The WAL that a header names, and its checkpoint counter.
fn named_wal(fields: &HeaderFields<LONG_LEN>) -> Result<(Wal, u32)> {
    let page_size = PageSize::new(fields.get_u32(PAGE_SIZE))?;
    let order = if fields.flag(FLAG_BIG_ENDIAN) { ByteOrder::Big } else { ByteOrder::Little };
    let salt = Salt(fields.get_u32(SALT_1), fields.get_u32(SALT_2));
    Ok((Wal { page_size, order, salt, checksum: Checksum::default() }, fields.get_u32(CHECKPOINT)))
}

fn decode<const N: usize>(
    fields: &HeaderFields<N>,
    before: &MemberContext,
    (wal, checkpoint): (Wal, u32),
    tells_wal: bool,
) -> Result<MemberHeader> {
    let begins = fields.flag(FLAG_BEGINS);
    let (index, from) = place(before.start, begins)?;
    let first = from.frame(wal.page_size).ok_or_else(|| corrupt(format!("expected the end of a frame at {from}")))?;
    let last = first.checked_add(fields.get_u32(FRAMES)).ok_or_else(|| corrupt("more frames than a WAL can have"))?;
    let Wal { page_size, order, salt, checksum } = wal;
    let begun = WalHeader { order, page_size, checkpoint, salt, checksum };
    let known = before.wal.map_or(checksum, |wal| wal.checksum);
    let header = MemberHeader {
        generation: before.generation,
        start: before.start,
        index,
        payload_offset: from,
        end: Offset::new(Offset::end_of_frame(last, wal.page_size).get())?,
        page_size: wal.page_size,
        order: wal.order,
        part: fields.flag(FLAG_PART),
        unchecksummed: false,
        salt: wal.salt,
        checksum_before: if begins { WalHeader::parse(&begun.encode())?.checksum } else { known },
        checksum_after: Checksum(fields.get_u32(AFTER_1), fields.get_u32(AFTER_2)),
        pages: fields.get_u32(PAGES),
        visible_after: before.seen.min(Timestamp::from_millis(fields.get(SEEN))),
        visible_by: Timestamp::from_millis(fields.get(SEEN)),
        previous_crc: 0,
        differences: Some(Differences { checksum: DatabaseChecksum::new(fields.get(DATABASE)), checkpoint, tells_wal }),
        rollup: None,
    };
    header.check()?;
    Ok(header)
}

/// The WAL in which the frames are, and where in it the first one begins.
fn place(start: WalPosition, begins: bool) -> Result<(u32, Offset)> {
    match (begins, start.offset == Offset::ZERO) {
        (false, false) => Ok((start.index, start.offset)),
        (true, true) => Ok((start.index, Offset::ZERO)),
        (true, false) => {
            let next = start.index.checked_add(1).ok_or_else(|| corrupt("more WALs than can be counted"))?;
            Ok((next, Offset::ZERO))
        }
        (false, true) => Err(corrupt(format!("a batch that starts at {start} must be the first one of its WAL"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::format::fixtures::{Wal, millis, point, size, wal};
    use crate::format::segment_header::key_of;

    fn with_differences(header: MemberHeader, tells_wal: bool) -> MemberHeader {
        let differences = Some(Differences { checksum: DatabaseChecksum::new(u64::MAX - 3), checkpoint: 0, tells_wal });
        MemberHeader { differences, ..header }
    }

    fn read(header: &MemberHeader, before: &MemberContext) -> Result<MemberHeader> {
        match header.differences.unwrap().tells_wal {
            true => Brief::Long(encode_long(header)).decode(before),
            false => Brief::Short(encode_short(header)).decode(before),
        }
    }

    #[test]
    fn the_fields_tile_the_header() {
        for fields in [&FIELDS[..], &[&FIELDS[..9], &[SHORT_CRC][..]].concat()] {
            let ends = fields.iter().scan(0, |end, field| Some(std::mem::replace(end, field.at + field.size)));
            assert!(fields.iter().map(|field| field.at).eq(ends), "{fields:?}");
        }
        assert_eq!((SHORT_LEN, LONG_LEN), (38, 54));
    }

    #[test]
    fn what_is_not_told_is_known_from_the_name_or_the_member_before() {
        let wal = wal();
        let (one, two) =
            (with_differences(wal.batch(3, 0, 2, 100), true), with_differences(wal.batch(3, 2, 3, 200), false));
        let first = MemberContext::first(&key_of(&one, &two));
        let found = read(&one, &first).unwrap();
        assert_eq!(found, MemberHeader { visible_after: millis(100), start: found.start, ..one });
        assert_eq!(
            read(&two, &MemberContext::next(&found)).unwrap(),
            MemberHeader { visible_after: millis(100), ..two }
        );
        // The checksum before the first member of an object is known to anyone who has read the object before it.
        let alone = with_differences(wal.batch(3, 2, 3, 200), true);
        let found = read(&alone, &MemberContext::first(&key_of(&alone, &alone))).unwrap();
        assert_eq!(found, MemberHeader { visible_after: millis(200), checksum_before: Checksum::default(), ..alone });
    }

    #[test]
    fn a_wal_that_begins_is_the_next_one_or_the_first() {
        let mut big = Wal::new(ByteOrder::Big, 65_536, Salt(u32::MAX, 1));
        let next = with_differences(big.frame(1, 1).batch(4, 0, 1, 300), true);
        let next = MemberHeader { start: point(3, 32 + 2 * (65_536 + 24)), ..next };
        assert_eq!(
            read(&next, &MemberContext::first(&key_of(&next, &next))).unwrap(),
            MemberHeader { visible_after: millis(300), ..next }
        );
        let first = with_differences(big.batch(4, 0, 1, 300), true);
        assert_eq!(read(&first, &MemberContext::first(&key_of(&first, &first))).unwrap().index, 4);
    }

    #[test]
    fn a_header_that_cannot_be_true_is_refused() {
        let wal = wal();
        let good = with_differences(wal.batch(3, 2, 3, 200), true);
        let before = MemberContext::first(&key_of(&good, &good));
        let late = MemberContext { start: point(3, 33), ..before };
        let none = MemberContext { start: point(3, 0), ..before };
        let last = MemberContext { start: point(u32::MAX, 568), ..before };
        let begins = MemberHeader { payload_offset: Offset::ZERO, ..good };
        let short = with_differences(begins, false);
        let no_frames = MemberHeader { end: good.payload_offset, ..good };
        let wide = MemberHeader {
            end: Offset::end_of_frame(u32::MAX, size(512)),
            payload_offset: Offset::end_of_frame(0, size(512)),
            ..good
        };
        let table = [
            (good, late, "expected the end of a frame at 000000000021"),
            (good, none, "a batch that starts at 00000003:000000000000 must be the first one of its WAL"),
            (begins, last, "more WALs than can be counted"),
            (short, before, "expected the salts of the WAL that begins"),
            (with_differences(good, false), before, "expected the salts of its WAL in the first member"),
            (no_frames, before, "expected whole frames from 000000000450 to 000000000450"),
            (MemberHeader { pages: 0, ..good }, before, "expected a commit and its time, found neither"),
        ];
        for (header, before, text) in table {
            let error = read(&header, &before).unwrap_err();
            assert_eq!((error.kind(), error.message()), (Kind::Corrupt, text));
        }
        let mut fields = encode_long(&wide);
        fields.set(FLAGS, 0);
        let error = Brief::Long(fields).decode(&before).unwrap_err();
        assert_eq!(error.message(), "more frames than a WAL can have");
    }
}

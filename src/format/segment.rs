//! Segments: gzip members one behind the other, each of which is one batch of frames and says all about itself.
//!
//! What holds for every segment, and what a reader here insists on:
//!
//! * The payload of a member is raw WAL bytes: whole frames, with the WAL header before them if it begins at offset 0.
//! * A member begins where the one before it ended (`start`), in position, in checksum chain, and by `previous_crc`.
//! * A transaction was seen when the batch that ends it was; a part is merged only with what completes it.

use std::io::Read;

use crate::error::{Result, ResultExt};
use crate::format::brief_header::{self, Before};
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::differences::{self, Composer};
use crate::format::gzip::{MemberReader, MemberWriter};
use crate::format::key::SegmentKey;
use crate::format::member_header::{
    FLAG_BIG_ENDIAN, FLAG_PART, FLAG_UNCHECKSUMMED, FLAGS, Field, GENERATION, HeaderFields, KIND, MemberKind, VERSION,
    WITH_DIFFERENCES, corrupt,
};
use crate::format::position::{Generation, Offset, PageSize, WalPosition};
use crate::format::time::Timestamp;
use crate::format::wal::{ByteOrder, Checksum, Salt};

pub use crate::format::chain_end::{ChainEnd, check_continues};
pub use crate::format::frames::MemberFrames;

/// gzip's level for whoever does not decide: it keeps up with any writer. [`crate::format::compression_level`] decides.
pub const LEVEL: u32 = 1;

const START_INDEX: Field = GENERATION.then(4, "start index");
const START_OFFSET: Field = START_INDEX.then(8, "start offset");
const INDEX: Field = START_OFFSET.then(4, "index");
const PAYLOAD_OFFSET: Field = INDEX.then(8, "from");
const END: Field = PAYLOAD_OFFSET.then(8, "end");
const PAGE_SIZE: Field = END.then(4, "page size");
const SALT_1: Field = PAGE_SIZE.then(4, "salt 1");
const SALT_2: Field = SALT_1.then(4, "salt 2");
const BEFORE_1: Field = SALT_2.then(4, "checksum 1 before");
const BEFORE_2: Field = BEFORE_1.then(4, "checksum 2 before");
const AFTER_1: Field = BEFORE_2.then(4, "checksum 1 after");
const AFTER_2: Field = AFTER_1.then(4, "checksum 2 after");
const PAGES: Field = AFTER_2.then(4, "pages");
const VISIBLE_AFTER: Field = PAGES.then(8, "since");
const VISIBLE_BY: Field = VISIBLE_AFTER.then(8, "seen");
const PREVIOUS_CRC: Field = VISIBLE_BY.then(4, "previous crc32");
const HEADER_CRC: Field = PREVIOUS_CRC.then(4, "header crc32");

/// Every field in the header of a member, in order and without a hole.
pub const FIELDS: [Field; 21] = [
    VERSION,
    KIND,
    FLAGS,
    GENERATION,
    START_INDEX,
    START_OFFSET,
    INDEX,
    PAYLOAD_OFFSET,
    END,
    PAGE_SIZE,
    SALT_1,
    SALT_2,
    BEFORE_1,
    BEFORE_2,
    AFTER_1,
    AFTER_2,
    PAGES,
    VISIBLE_AFTER,
    VISIBLE_BY,
    PREVIOUS_CRC,
    HEADER_CRC,
];

/// Bytes of the fields.
pub const FIELDS_LEN: usize = HEADER_CRC.at + HEADER_CRC.size;

/// What a member says about itself, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemberHeader {
    pub generation: Generation,
    /// Where the batch before this one ended, or the point of the snapshot.
    pub start: WalPosition,
    /// The WAL that the frames are from: that of `start`, or the next one, of which this is then the beginning.
    pub index: u32,
    /// Where the payload begins in that WAL.
    pub payload_offset: Offset,
    /// Behind the last frame.
    pub end: Offset,
    pub page_size: PageSize,
    /// How the checksums read the WAL.
    pub order: ByteOrder,
    /// The last frame is inside a transaction that a later member ends.
    pub part: bool,
    /// The checksum chain is broken in here, or at either edge, by frames that SQLite left unsealed.
    pub unchecksummed: bool,
    pub salt: Salt,
    /// The chain before the first frame: that of the WAL header if `payload_offset` is 0. Zero if the chain is broken there.
    pub checksum_before: Checksum,
    /// The chain behind the last frame. Zero if the chain is broken there.
    pub checksum_after: Checksum,
    /// The database's size behind the last commit in here; 0 in a part that holds no commit.
    pub pages: u32,
    /// The commits in here became visible later than this,
    pub visible_after: Timestamp,
    /// and not later than this.
    pub visible_by: Timestamp,
    /// crc32 of the payload of the member before this one; 0 in the first one of a generation, and where it is not told.
    pub previous_crc: u32,
    /// What a member of format 2 has more, and a raw one does not have.
    pub differences: Option<Differences>,
}

/// What a member says whose frames are stored as differences of pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Differences {
    /// The database behind the last frame.
    pub checksum: DatabaseChecksum,
    /// The checkpoint counter in the header of the WAL, if the frames are the first ones of it; else 0.
    pub checkpoint: u32,
    /// Page size, byte order and salts stand in the header. If not, they are those of the member before.
    pub tells_wal: bool,
}

impl MemberHeader {
    /// Where this batch ends, and the next one starts.
    pub fn end_point(&self) -> WalPosition {
        WalPosition { index: self.index, offset: self.end }
    }

    /// Bytes of WAL that it stands for: the payload of a raw member.
    pub fn payload_len(&self) -> u64 {
        self.end.get().saturating_sub(self.payload_offset.get())
    }

    /// How many frames it has.
    pub fn frames(&self) -> u32 {
        let number = |offset: Offset| offset.frame(self.page_size).unwrap_or(0);
        number(self.end).saturating_sub(number(self.payload_offset))
    }

    fn encode(&self) -> HeaderFields<FIELDS_LEN> {
        let mut fields = HeaderFields::new(MemberKind::Batch);
        fields.set_flag(FLAG_BIG_ENDIAN, self.order == ByteOrder::Big);
        fields.set_flag(FLAG_PART, self.part);
        fields.set_flag(FLAG_UNCHECKSUMMED, self.unchecksummed);
        for (field, value) in self.numbers() {
            fields.set(field, value);
        }
        fields
    }

    fn numbers(&self) -> [(Field, u64); 17] {
        [
            (GENERATION, self.generation.get()),
            (START_INDEX, self.start.index.into()),
            (START_OFFSET, self.start.offset.get()),
            (INDEX, self.index.into()),
            (PAYLOAD_OFFSET, self.payload_offset.get()),
            (END, self.end.get()),
            (PAGE_SIZE, self.page_size.get().into()),
            (SALT_1, self.salt.0.into()),
            (SALT_2, self.salt.1.into()),
            (BEFORE_1, self.checksum_before.0.into()),
            (BEFORE_2, self.checksum_before.1.into()),
            (AFTER_1, self.checksum_after.0.into()),
            (AFTER_2, self.checksum_after.1.into()),
            (PAGES, self.pages.into()),
            (VISIBLE_AFTER, self.visible_after.millis()),
            (VISIBLE_BY, self.visible_by.millis()),
            (PREVIOUS_CRC, self.previous_crc.into()),
        ]
    }

    fn decode(fields: &HeaderFields<FIELDS_LEN>) -> Result<MemberHeader> {
        let header = MemberHeader {
            generation: Generation::new(fields.get(GENERATION)),
            start: WalPosition { index: fields.get_u32(START_INDEX), offset: Offset::new(fields.get(START_OFFSET))? },
            index: fields.get_u32(INDEX),
            payload_offset: Offset::new(fields.get(PAYLOAD_OFFSET))?,
            end: Offset::new(fields.get(END))?,
            page_size: PageSize::new(fields.get_u32(PAGE_SIZE))?,
            order: if fields.flag(FLAG_BIG_ENDIAN) { ByteOrder::Big } else { ByteOrder::Little },
            part: fields.flag(FLAG_PART),
            unchecksummed: fields.flag(FLAG_UNCHECKSUMMED),
            salt: Salt(fields.get_u32(SALT_1), fields.get_u32(SALT_2)),
            checksum_before: Checksum(fields.get_u32(BEFORE_1), fields.get_u32(BEFORE_2)),
            checksum_after: Checksum(fields.get_u32(AFTER_1), fields.get_u32(AFTER_2)),
            pages: fields.get_u32(PAGES),
            visible_after: Timestamp::from_millis(fields.get(VISIBLE_AFTER)),
            visible_by: Timestamp::from_millis(fields.get(VISIBLE_BY)),
            previous_crc: fields.get_u32(PREVIOUS_CRC),
            differences: None,
        };
        header.check()?;
        Ok(header)
    }

    /// What cannot be true of any batch, whoever wrote it.
    pub(super) fn check(&self) -> Result<()> {
        let whole = |offset: Offset| offset.frame(self.page_size).is_some();
        if self.end <= self.payload_offset || !whole(self.payload_offset) || !whole(self.end) {
            return Err(corrupt(format!("expected whole frames from {} to {}", self.payload_offset, self.end)));
        }
        let same = self.index == self.start.index && self.payload_offset == self.start.offset;
        let next = self.start.index.checked_add(1) == Some(self.index) && self.payload_offset == Offset::ZERO;
        if !same && !next {
            let from = WalPosition { index: self.index, offset: self.payload_offset };
            return Err(corrupt(format!("a batch that starts at {} cannot continue at {from}", self.start)));
        }
        if self.visible_after > self.visible_by || (self.pages == 0 && !self.part) {
            return Err(corrupt("expected a commit and its time, found neither"));
        }
        Ok(())
    }
}

/// The name of the object that holds the members from `first` to `last`.
pub fn key_of(first: &MemberHeader, last: &MemberHeader) -> SegmentKey {
    SegmentKey {
        generation: first.generation,
        start: first.start,
        end: last.end_point(),
        first_seen: first.visible_by,
        last_seen: last.visible_by,
        part: last.part,
    }
}

/// Makes members. Keep one: its memory (about 512 KiB) is used again for every member.
pub struct Encoder(MemberWriter);

impl Encoder {
    /// `level` is gzip's, 0 to 9; [`LEVEL`] by default.
    pub fn new(level: u32) -> Encoder {
        Encoder(MemberWriter::new(level))
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
/// Errors of every method: [`crate::error::Kind::Corrupt`] for anything that [`Encoder`] does not write; and the
/// stream's own, of which an [`crate::error::Error`] inside an [`std::io::Error`] comes out as it was.
pub struct Reader<R> {
    inflater: MemberReader<R>,
    /// What the next member need not say.
    before: Option<Before>,
}

impl<R: Read> Reader<R> {
    /// Reads an object whose name is not known: that will do where its first member is raw.
    pub fn new(input: R) -> Reader<R> {
        Reader { inflater: MemberReader::new(input), before: None }
    }

    /// Reads the object of this name.
    pub fn named(key: &SegmentKey, input: R) -> Reader<R> {
        Reader { inflater: MemberReader::new(input), before: Some(Before::first(key)) }
    }

    /// The header of the next member; none at the clean end of the segment.
    ///
    /// What was not read of the current member is passed over, and verified all the same.
    pub fn next_member(&mut self) -> Result<Option<MemberHeader>> {
        let header = match self.inflater.outline()? {
            Some((WITH_DIFFERENCES, kind, length)) if kind == MemberKind::Batch as u8 => self.next_brief(length)?,
            _ => self.next_raw()?,
        };
        if let Some(header) = &header {
            self.before = Some(Before::next(header));
        }
        Ok(header)
    }

    fn next_raw(&mut self) -> Result<Option<MemberHeader>> {
        let Some(fields) = self.inflater.next::<FIELDS_LEN>(MemberKind::Batch)? else { return Ok(None) };
        let header = MemberHeader::decode(&fields).context(|| "segment header")?;
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
        let header = before.and_then(|before| found.decode(before)).context(|| "segment header")?;
        self.inflater.expect_at_most(differences::most_bytes(&header));
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
    let mut reader = Reader::named(key, bytes);
    let mut last = None;
    while let Some(header) = reader.next_member()? {
        last = Some(header);
    }
    last.map(|header| (header, reader.crc())).ok_or_else(|| corrupt("segment: expected a gzip member, found 0 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};
    use crate::format::fixtures::{ChunkedReader, FailingReader, GENERATION as ID, Wal, millis, point, wal};

    /// The three transactions of the sample as three members.
    fn three() -> (Wal, Vec<MemberHeader>, Vec<u8>) {
        let wal = wal();
        let mut headers = vec![wal.batch(0, 0, 2, 100), wal.batch(0, 2, 3, 200), wal.batch(0, 3, 6, 300)];
        let (mut encoder, mut out, mut crc) = (Encoder::new(LEVEL), Vec::new(), 0);
        for header in &mut headers {
            header.previous_crc = crc;
            crc = encoder.member(header, &[wal.payload(header)], &mut out);
        }
        (wal, headers, out)
    }

    fn key(headers: &[MemberHeader]) -> SegmentKey {
        key_of(&headers[0], &headers[headers.len() - 1])
    }

    fn drain(input: impl Read) -> Result<(Vec<MemberHeader>, Vec<u8>)> {
        let mut reader = Reader::new(input);
        let (mut headers, mut payload, mut buf) = (Vec::new(), Vec::new(), [0; 100]);
        while let Some(header) = reader.next_member()? {
            headers.push(header);
            loop {
                match reader.read(&mut buf)? {
                    0 => break,
                    count => payload.extend_from_slice(&buf[..count]),
                }
            }
        }
        Ok((headers, payload))
    }

    #[test]
    fn the_fields_tile_the_header() {
        let mut end = 0;
        for field in FIELDS {
            assert_eq!(field.at, end, "{}", field.name);
            end += field.size;
        }
        assert_eq!(end, FIELDS_LEN);
    }

    #[test]
    fn members_read_back_and_concatenate_to_the_wal() {
        let (wal, headers, stored) = three();
        for step in [1, 7, 1000, usize::MAX] {
            let (found, payload) = drain(ChunkedReader(&stored, step)).unwrap();
            assert_eq!(found, headers);
            assert_eq!(payload, wal.bytes);
        }
    }

    #[test]
    fn any_gunzip_reads_a_segment() {
        let (wal, _, stored) = three();
        let mut payload = Vec::new();
        flate2::read::MultiGzDecoder::new(stored.as_slice()).read_to_end(&mut payload).unwrap();
        assert_eq!(payload, wal.bytes);
    }

    #[test]
    fn a_payload_in_pieces_makes_the_same_member() {
        let wal = wal();
        let header = wal.batch(0, 0, 6, 1);
        let (mut whole, mut pieces) = (Vec::new(), Vec::new());
        let mut encoder = Encoder::new(LEVEL);
        let crc = encoder.member(&header, &[wal.payload(&header)], &mut whole);
        let (head, tail) = wal.payload(&header).split_at(700);
        assert_eq!(encoder.member(&header, &[head, &[], tail], &mut pieces), crc);
        assert_eq!(whole, pieces);
    }

    #[test]
    fn every_number_of_a_header_reads_back() {
        let mut header = wal().batch(0, 0, 2, 100);
        header.start = point(u32::MAX - 1, Offset::MAX);
        (header.index, header.order, header.part, header.unchecksummed) = (u32::MAX, ByteOrder::Big, true, true);
        (header.checksum_before, header.checksum_after) = (Checksum(1, u32::MAX), Checksum(u32::MAX, 2));
        (header.pages, header.previous_crc) = (u32::MAX, u32::MAX);
        (header.visible_after, header.visible_by) = (millis(1), Timestamp::MAX);
        assert_eq!(MemberHeader::decode(&header.encode()).unwrap(), header);
    }

    #[test]
    fn a_header_that_cannot_be_true_is_refused() {
        let table: [(Field, u64, &str); 10] = [
            (PAGE_SIZE, 500, "page size 500"),
            (END, 1 << 48, "WAL offset 281474976710656"),
            (END, 0, "expected whole frames from 000000000000 to 000000000000"),
            (END, 33, "expected whole frames from 000000000000 to 000000000021"),
            (PAYLOAD_OFFSET, 32, "expected whole frames from 000000000020"),
            (INDEX, 2, "a batch that starts at 00000000:000000000000 cannot continue at 00000002:000000000000"),
            (START_INDEX, 9, "a batch that starts at 00000009:000000000000 cannot continue at 00000000:000000000000"),
            (START_OFFSET, 568, "a batch that starts at 00000000:000000000238 cannot continue"),
            (VISIBLE_AFTER, 101, "expected a commit and its time, found neither"),
            (PAGES, 0, "expected a commit and its time, found neither"),
        ];
        for (field, value, text) in table {
            let mut fields = wal().batch(0, 0, 2, 100).encode();
            fields.set(field, value);
            let error = MemberHeader::decode(&fields).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.message().starts_with(text), "{error}");
        }
    }

    #[test]
    fn a_flipped_bit_is_an_error_or_changes_nothing() {
        let (_, _, stored) = three();
        let good = drain(stored.as_slice()).unwrap();
        let mut harmless = 0;
        for bit in 0..stored.len() * 8 {
            let mut bad = stored.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            match drain(bad.as_slice()) {
                Err(error) => assert_eq!(error.kind(), Kind::Corrupt, "bit {bit}"),
                Ok(found) => {
                    assert!(found == good, "bit {bit}");
                    harmless += 1;
                }
            }
        }
        // Deflate can spell the same bytes in other ways, and has spare bits behind its end.
        assert!(harmless * 100 < stored.len() * 8, "{harmless}");
    }

    #[test]
    fn a_segment_that_is_cut_is_an_error_except_between_members() {
        let (wal, headers, stored) = three();
        let ends: Vec<_> = headers
            .iter()
            .scan(0, |end, header| {
                *end += wal.member(header).len();
                Some(*end)
            })
            .collect();
        for length in 0..=stored.len() {
            let whole = length == 0 || ends.contains(&length);
            assert_eq!(drain(&stored[..length]).is_ok(), whole, "{length} of {}", stored.len());
        }
    }

    #[test]
    fn what_is_behind_a_member_must_be_a_member() {
        let (_, _, stored) = three();
        for garbage in [&b"\0"[..], b"x", b"\x1f\x8b\x08\x00abcdefghijklmnop", &stored[..20]] {
            let bad = [&stored, garbage].concat();
            assert_eq!(drain(bad.as_slice()).unwrap_err().kind(), Kind::Corrupt, "{garbage:?}");
        }
    }

    #[test]
    fn payload_of_another_length_than_the_header_is_an_error() {
        let wal = wal();
        let header = wal.batch(0, 2, 3, 1);
        let payload = wal.payload(&header);
        let longer = [payload, b"x"].concat();
        let table: [(&[u8], &str); 3] = [
            (&longer, "payload: expected 536 bytes, found more"),
            (&payload[1..], "payload: expected 536 bytes, found 535"),
            (&[], "payload: expected 536 bytes, found 0"),
        ];
        for (payload, text) in table {
            let (mut deflater, mut out) = (MemberWriter::new(LEVEL), Vec::new());
            deflater.begin(&header.encode(), 0, &mut out);
            deflater.write(payload, &mut out);
            deflater.finish(&mut out);
            assert_eq!(drain(out.as_slice()).unwrap_err().message(), text);
        }
    }

    #[test]
    fn a_member_that_is_passed_over_is_verified() {
        let (_, headers, stored) = three();
        let mut reader = Reader::new(stored.as_slice());
        for header in &headers {
            assert_eq!(reader.next_member().unwrap().as_ref(), Some(header));
        }
        let mut bad = stored;
        let end_of_first = wal().member(&headers[0]).len();
        bad[end_of_first - 5] ^= 1;
        let mut reader = Reader::new(bad.as_slice());
        reader.next_member().unwrap();
        assert!(reader.next_member().unwrap_err().message().starts_with("payload: expected crc32"));
    }

    #[test]
    fn the_last_member_is_found_with_its_crc() {
        let (wal, headers, stored) = three();
        let (last, crc) = last_member(&key(&headers), &stored).unwrap();
        assert_eq!((last, crc), (headers[2], crc32fast::hash(wal.payload(&headers[2]))));
        assert_eq!(
            last_member(&key(&headers), &[]).unwrap_err().message(),
            "segment: expected a gzip member, found 0 bytes"
        );
    }

    #[test]
    fn a_snapshot_is_no_segment() {
        let fields = HeaderFields::<60>::new(MemberKind::Snapshot);
        let mut out = Vec::new();
        fields.write(0, &mut out);
        assert_eq!(last_member(&key(&three().1), &out).unwrap_err().message(), "expected a segment, found a snapshot");
    }

    #[test]
    fn the_error_of_the_stream_comes_out_as_it_was() {
        let (_, _, stored) = three();
        for length in [0, 10, 200, stored.len() - 1] {
            let ours = Error::new(Kind::StoreUnreachable, "store is away").with_hint("wait");
            let error = drain(FailingReader(&stored[..length], Some(std::io::Error::other(ours)))).unwrap_err();
            assert_eq!((error.kind(), error.message()), (Kind::StoreUnreachable, "store is away"));
            assert_eq!(error.hint(), Some("wait"));
        }
        let foreign = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let error = drain(FailingReader(&[], Some(foreign))).unwrap_err();
        assert_eq!((error.kind(), error.message()), (Kind::StoreRefused, "read: broken pipe"));
        let again = std::io::Error::from(std::io::ErrorKind::Interrupted);
        assert!(drain(FailingReader(&[], Some(again))).unwrap().0.is_empty());
    }

    #[test]
    fn an_object_is_named_after_its_first_and_last_member() {
        let wal = wal();
        let (first, last) = (wal.batch(4, 0, 2, 100), wal.batch(4, 2, 4, 200));
        let expected = SegmentKey {
            generation: Generation::new(ID),
            start: point(4, 0),
            end: point(4, 32 + 4 * 536),
            first_seen: millis(100),
            last_seen: millis(200),
            part: true,
        };
        assert_eq!(key_of(&first, &last), expected);
    }
}

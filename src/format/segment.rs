//! Segments: gzip members one behind the other, each of which is one batch of frames and says all about itself.
//!
//! What holds for every segment, and what a reader here insists on:
//!
//! * The payload of a member is raw WAL bytes: whole frames, with the WAL header before them if it begins at offset 0.
//! * A member begins where the one before it ended (`start`), in position, in checksum chain, and by `previous_crc`.
//! * The parts of one large transaction carry the same two times, and a part is merged only with what completes it.

use std::io::Read;

use crate::error::{Context, Result};
use crate::format::extra::{
    FLAG_BIG_ENDIAN, FLAG_PART, FLAG_UNSEALED, FLAGS, Field, Fields, GENERATION, KIND, Member, VERSION, corrupt,
};
use crate::format::gzip::{Deflater, Inflater};
use crate::format::key::SegmentKey;
use crate::format::position::{Generation, Offset, PageSize, Point};
use crate::format::time::Timestamp;
use crate::format::wal::{ByteOrder, Checksum, Salt};

pub use crate::format::frames::MemberFrames;
pub use crate::format::tail::{Tail, follows};

/// gzip's level for segments: 1 keeps up with any writer (110 to 190 MB/s a core); 6 is a third as fast and saves
/// about a tenth of the bytes.
pub const LEVEL: u32 = 1;

const START_INDEX: Field = GENERATION.then(4, "start index");
const START_OFFSET: Field = START_INDEX.then(8, "start offset");
const INDEX: Field = START_OFFSET.then(4, "index");
const FROM: Field = INDEX.then(8, "from");
const END: Field = FROM.then(8, "end");
const PAGE_SIZE: Field = END.then(4, "page size");
const SALT_1: Field = PAGE_SIZE.then(4, "salt 1");
const SALT_2: Field = SALT_1.then(4, "salt 2");
const BEFORE_1: Field = SALT_2.then(4, "checksum 1 before");
const BEFORE_2: Field = BEFORE_1.then(4, "checksum 2 before");
const AFTER_1: Field = BEFORE_2.then(4, "checksum 1 after");
const AFTER_2: Field = AFTER_1.then(4, "checksum 2 after");
const PAGES: Field = AFTER_2.then(4, "pages");
const SINCE: Field = PAGES.then(8, "since");
const SEEN: Field = SINCE.then(8, "seen");
const PREVIOUS_CRC: Field = SEEN.then(4, "previous crc32");
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
    FROM,
    END,
    PAGE_SIZE,
    SALT_1,
    SALT_2,
    BEFORE_1,
    BEFORE_2,
    AFTER_1,
    AFTER_2,
    PAGES,
    SINCE,
    SEEN,
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
    pub start: Point,
    /// The WAL that the frames are from: that of `start`, or the next one, of which this is then the beginning.
    pub index: u32,
    /// Where the payload begins in that WAL.
    pub from: Offset,
    /// Behind the last frame.
    pub end: Offset,
    pub page_size: PageSize,
    /// How the checksums read the WAL.
    pub order: ByteOrder,
    /// The last frame is inside a transaction that a later member ends.
    pub part: bool,
    /// The checksum chain is broken in here, or at either edge, by frames that SQLite left unsealed.
    pub unsealed: bool,
    pub salt: Salt,
    /// The chain before the first frame: that of the WAL header if `from` is 0. Zero if the chain is broken there.
    pub checksum_before: Checksum,
    /// The chain behind the last frame. Zero if the chain is broken there.
    pub checksum_after: Checksum,
    /// The database's size behind the last commit in here; 0 in a part that holds no commit.
    pub pages: u32,
    /// The commits in here became visible later than this,
    pub since: Timestamp,
    /// and not later than this.
    pub seen: Timestamp,
    /// crc32 of the payload of the member before this one; 0 in the first one of a generation.
    pub previous_crc: u32,
}

impl MemberHeader {
    /// Where this batch ends, and the next one starts.
    pub fn end_point(&self) -> Point {
        Point { index: self.index, offset: self.end }
    }

    /// Bytes of the payload.
    pub fn payload_len(&self) -> u64 {
        self.end.get().saturating_sub(self.from.get())
    }

    fn encode(&self) -> Fields<FIELDS_LEN> {
        let mut fields = Fields::new(Member::Batch);
        fields.raise(FLAG_BIG_ENDIAN, self.order == ByteOrder::Big);
        fields.raise(FLAG_PART, self.part);
        fields.raise(FLAG_UNSEALED, self.unsealed);
        for (field, value) in self.numbers() {
            fields.put(field, value);
        }
        fields
    }

    fn numbers(&self) -> [(Field, u64); 17] {
        [
            (GENERATION, self.generation.get()),
            (START_INDEX, self.start.index.into()),
            (START_OFFSET, self.start.offset.get()),
            (INDEX, self.index.into()),
            (FROM, self.from.get()),
            (END, self.end.get()),
            (PAGE_SIZE, self.page_size.get().into()),
            (SALT_1, self.salt.0.into()),
            (SALT_2, self.salt.1.into()),
            (BEFORE_1, self.checksum_before.0.into()),
            (BEFORE_2, self.checksum_before.1.into()),
            (AFTER_1, self.checksum_after.0.into()),
            (AFTER_2, self.checksum_after.1.into()),
            (PAGES, self.pages.into()),
            (SINCE, self.since.millis()),
            (SEEN, self.seen.millis()),
            (PREVIOUS_CRC, self.previous_crc.into()),
        ]
    }

    fn decode(fields: &Fields<FIELDS_LEN>) -> Result<MemberHeader> {
        let header = MemberHeader {
            generation: Generation::new(fields.get(GENERATION)),
            start: Point { index: fields.get32(START_INDEX), offset: Offset::new(fields.get(START_OFFSET))? },
            index: fields.get32(INDEX),
            from: Offset::new(fields.get(FROM))?,
            end: Offset::new(fields.get(END))?,
            page_size: PageSize::new(fields.get32(PAGE_SIZE))?,
            order: if fields.flag(FLAG_BIG_ENDIAN) { ByteOrder::Big } else { ByteOrder::Little },
            part: fields.flag(FLAG_PART),
            unsealed: fields.flag(FLAG_UNSEALED),
            salt: Salt(fields.get32(SALT_1), fields.get32(SALT_2)),
            checksum_before: Checksum(fields.get32(BEFORE_1), fields.get32(BEFORE_2)),
            checksum_after: Checksum(fields.get32(AFTER_1), fields.get32(AFTER_2)),
            pages: fields.get32(PAGES),
            since: Timestamp::from_millis(fields.get(SINCE)),
            seen: Timestamp::from_millis(fields.get(SEEN)),
            previous_crc: fields.get32(PREVIOUS_CRC),
        };
        header.check()?;
        Ok(header)
    }

    /// What cannot be true of any batch, whoever wrote it.
    fn check(&self) -> Result<()> {
        let whole = |offset: Offset| offset.frame(self.page_size).is_some();
        if self.end <= self.from || !whole(self.from) || !whole(self.end) {
            return Err(corrupt(format!("expected whole frames from {} to {}", self.from, self.end)));
        }
        let same = self.index == self.start.index && self.from == self.start.offset;
        let next = self.start.index.checked_add(1) == Some(self.index) && self.from == Offset::ZERO;
        if !same && !next {
            let from = Point { index: self.index, offset: self.from };
            return Err(corrupt(format!("a batch that starts at {} cannot continue at {from}", self.start)));
        }
        if self.since > self.seen || (self.pages == 0 && !self.part) {
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
        first: first.seen,
        last: last.seen,
        part: last.part,
    }
}

/// Makes members. Keep one: its memory (about 256 KiB) is used again for every member.
pub struct Encoder(Deflater);

impl Encoder {
    /// `level` is gzip's, 0 to 9; [`LEVEL`] by default.
    pub fn new(level: u32) -> Encoder {
        Encoder(Deflater::new(level))
    }

    /// Appends one whole gzip member to `out`; the crc32 of its payload.
    ///
    /// The payload, given in pieces, is `header.payload_len()` bytes.
    pub fn member(&mut self, header: &MemberHeader, payload: &[&[u8]], out: &mut Vec<u8>) -> u32 {
        self.0.begin(&header.encode(), header.seen.millis(), out);
        for piece in payload {
            self.0.write(piece, out);
        }
        debug_assert_eq!(self.0.size(), header.payload_len());
        self.0.finish(out)
    }
}

/// Reads a segment member by member, in fixed memory whatever it claims to be.
///
/// Errors of every method: [`crate::error::Kind::Corrupt`] for anything that [`Encoder`] does not write; and the
/// stream's own, of which an [`crate::error::Error`] inside an [`std::io::Error`] comes out as it was.
pub struct Reader<R>(Inflater<R>);

impl<R: Read> Reader<R> {
    pub fn new(input: R) -> Reader<R> {
        Reader(Inflater::new(input))
    }

    /// The header of the next member; none at the clean end of the segment.
    ///
    /// What was not read of the current member is passed over, and verified all the same.
    pub fn next_member(&mut self) -> Result<Option<MemberHeader>> {
        let Some(fields) = self.0.next::<FIELDS_LEN>(Member::Batch)? else { return Ok(None) };
        let header = MemberHeader::decode(&fields).context(|| "segment header")?;
        self.0.expect(header.payload_len());
        Ok(Some(header))
    }

    /// Payload bytes of the current member. 0: it has ended, and its crc32 and size were right (or `buf` is empty).
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.0.read(buf)
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
        self.0.crc()
    }
}

/// The last member of a whole segment in memory, and the crc32 of its payload. Everything before it is verified too.
pub fn last_member(bytes: &[u8]) -> Result<(MemberHeader, u32)> {
    let mut reader = Reader::new(bytes);
    let mut last = None;
    while let Some(header) = reader.next_member()? {
        last = Some(header);
    }
    last.map(|header| (header, reader.crc())).ok_or_else(|| corrupt("segment: expected a gzip member, found 0 bytes"))
}

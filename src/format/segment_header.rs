//! What a member of a segment says about itself.

use crate::error::Result;
use crate::format::database_checksum::{DatabaseChecksum, DatabaseFingerprint};
use crate::format::key::SegmentKey;
use crate::format::member_header::{
    FLAG_BIG_ENDIAN, FLAG_PART, FLAG_UNCHECKSUMMED, FLAGS, Field, GENERATION, HeaderFields, KIND, MemberKind, VERSION,
    corrupt,
};
use crate::format::position::{Generation, Offset, PageSize, WalPosition};
use crate::format::time::Timestamp;
use crate::format::wal::{ByteOrder, Checksum, Salt};

pub(super) const START_INDEX: Field = GENERATION.then(4, "start index");
pub(super) const START_OFFSET: Field = START_INDEX.then(8, "start offset");
pub(super) const INDEX: Field = START_OFFSET.then(4, "index");
pub(super) const PAYLOAD_OFFSET: Field = INDEX.then(8, "from");
pub(super) const END: Field = PAYLOAD_OFFSET.then(8, "end");
pub(super) const PAGE_SIZE: Field = END.then(4, "page size");
pub(super) const SALT_1: Field = PAGE_SIZE.then(4, "salt 1");
pub(super) const SALT_2: Field = SALT_1.then(4, "salt 2");
pub(super) const BEFORE_1: Field = SALT_2.then(4, "checksum 1 before");
pub(super) const BEFORE_2: Field = BEFORE_1.then(4, "checksum 2 before");
pub(super) const AFTER_1: Field = BEFORE_2.then(4, "checksum 1 after");
pub(super) const AFTER_2: Field = AFTER_1.then(4, "checksum 2 after");
pub(super) const PAGES: Field = AFTER_2.then(4, "pages");
pub(super) const VISIBLE_AFTER: Field = PAGES.then(8, "since");
pub(super) const VISIBLE_BY: Field = VISIBLE_AFTER.then(8, "seen");
pub(super) const PREVIOUS_CRC: Field = VISIBLE_BY.then(4, "previous crc32");
pub(super) const HEADER_CRC: Field = PREVIOUS_CRC.then(4, "header crc32");

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
    /// After the last frame.
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
    /// The chain after the last frame. Zero if the chain is broken there.
    pub checksum_after: Checksum,
    /// The database's size after the last commit in here; 0 in a part that holds no commit.
    pub pages: u32,
    /// The commits in here became visible later than this,
    pub visible_after: Timestamp,
    /// and not later than this.
    pub visible_by: Timestamp,
    /// crc32 of the payload of the member before this one; 0 in the first one of a generation, and where it is not told.
    pub previous_crc: u32,
    /// What a member of format 2 has more, and a raw one does not have.
    pub differences: Option<Differences>,
    /// What a rollup has more. Its frames are not known: payload offset and checksum before are zero.
    pub rollup: Option<Rollup>,
}

/// What a rollup says, besides where it leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rollup {
    /// The smallest size of the database on the way, in pages: what follows it holds zeros, then what is in the rollup.
    pub least: u32,
}

/// What a member says whose frames are stored as differences of pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Differences {
    /// The database after the last frame.
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

    /// The database at its end, if that is a commit whose checksum is stored.
    pub fn fingerprint(&self) -> Option<DatabaseFingerprint> {
        let checksum = self.differences.filter(|_| !self.part)?.checksum;
        Some(DatabaseFingerprint { pages: self.pages, checksum })
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

    pub(super) fn encode(&self) -> HeaderFields<FIELDS_LEN> {
        let mut fields = HeaderFields::new(MemberKind::Batch);
        fields.set_flag(FLAG_BIG_ENDIAN, self.order == ByteOrder::Big);
        fields.set_flag(FLAG_PART, self.part);
        fields.set_flag(FLAG_UNCHECKSUMMED, self.unchecksummed);
        for (field, value) in self.numbers() {
            fields.set(field, value);
        }
        fields
    }

    pub(super) fn numbers(&self) -> [(Field, u64); 17] {
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

    pub(super) fn decode(fields: &HeaderFields<FIELDS_LEN>) -> Result<MemberHeader> {
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
            rollup: None,
        };
        header.check()?;
        Ok(header)
    }

    /// What cannot be true of any batch, no matter who wrote it.
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

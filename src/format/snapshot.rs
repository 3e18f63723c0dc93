//! Snapshots: one gzip member whose payload is the database file as it was at one point.

use std::io::Read;

use crate::error::{Result, ResultExt};
use crate::format::database_checksum::{self, DatabaseChecksum, DatabaseFingerprint};
use crate::format::deflate_blocks::{Block, FINAL_BLOCK};
use crate::format::gzip::MemberReader;
use crate::format::key::SnapshotKey;
use crate::format::member_header::{
    FLAG_BIG_ENDIAN, FLAG_DATABASE_CHECKSUM, FLAG_WAL_UNKNOWN, FLAGS, Field, GENERATION, HeaderFields, KIND,
    MemberKind, VERSION, WITH_SUBFIELDS, corrupt, subfield,
};
use crate::format::origin::{self, DatabaseOrigin};
use crate::format::position::{Generation, Offset, PageSize, WalPosition};
use crate::format::segment::ChainEnd;
use crate::format::time::Timestamp;
use crate::format::wal::{ByteOrder, Checksum, Salt};

/// gzip's level for callers that do not choose one: deflate is what bounds a snapshot.
/// [`crate::format::compression_level`] decides.
pub const LEVEL: u32 = 1;

const AT_INDEX: Field = GENERATION.then(4, "index");
const AT_OFFSET: Field = AT_INDEX.then(8, "offset");
const PAGE_SIZE: Field = AT_OFFSET.then(4, "page size");
const SALT_1: Field = PAGE_SIZE.then(4, "salt 1");
const SALT_2: Field = SALT_1.then(4, "salt 2");
const CHECKSUM_1: Field = SALT_2.then(4, "checksum 1");
const CHECKSUM_2: Field = CHECKSUM_1.then(4, "checksum 2");
const PAGES: Field = CHECKSUM_2.then(4, "pages");
const TIME: Field = PAGES.then(8, "time");
const HEADER_CRC: Field = TIME.then(4, "header crc32");

/// Every field in the header of a snapshot, in order and without a hole.
pub const FIELDS: [Field; 14] = [
    VERSION, KIND, FLAGS, GENERATION, AT_INDEX, AT_OFFSET, PAGE_SIZE, SALT_1, SALT_2, CHECKSUM_1, CHECKSUM_2, PAGES,
    TIME, HEADER_CRC,
];

/// Bytes of the fields.
pub const FIELDS_LEN: usize = HEADER_CRC.at + HEADER_CRC.size;

/// What a snapshot says about itself, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotHeader {
    pub generation: Generation,
    /// The database holds exactly the commits up to here.
    pub position: WalPosition,
    pub page_size: PageSize,
    /// How the checksums read the WAL.
    pub order: ByteOrder,
    /// Salt and checksum are those of a WAL. If not, `position` is offset 0: the next batch begins with the WAL header.
    pub wal_known: bool,
    pub salt: Salt,
    /// The chain at `position`; zero if it is broken there by an unsealed frame. If the WAL is not known, there is no chain:
    /// the first half is then the crc32 of the payload, or zero.
    pub checksum: Checksum,
    /// The size of the database.
    pub pages: u32,
    /// When the database was so.
    pub time: Timestamp,
    /// Of all its pages; none in a snapshot of an older program.
    pub database: Option<DatabaseChecksum>,
}

impl SnapshotHeader {
    /// The name of its object.
    pub fn key(&self) -> SnapshotKey {
        SnapshotKey { generation: self.generation, position: self.position, time: self.time }
    }

    /// What the first batch after it must continue.
    pub fn chain_end(&self) -> ChainEnd {
        ChainEnd {
            generation: self.generation,
            end: self.position,
            page_size: self.page_size,
            order: self.order,
            salt: self.salt,
            checksum: (self.wal_known && self.checksum != Checksum::default()).then_some(self.checksum),
            crc: None,
        }
    }

    /// The database that it holds, if its checksum is stored.
    pub fn fingerprint(&self) -> Option<DatabaseFingerprint> {
        self.database.map(|checksum| DatabaseFingerprint { pages: self.pages, checksum })
    }

    /// The crc32 of the whole database, where the WAL is not known: the only way to see whether it is still the same.
    pub fn file_crc(&self) -> Option<u32> {
        (!self.wal_known && self.checksum.0 != 0).then_some(self.checksum.0)
    }

    /// Bytes of the database.
    pub fn payload_len(&self) -> u64 {
        u64::from(self.pages) * u64::from(self.page_size.get())
    }

    fn encode(&self) -> HeaderFields<FIELDS_LEN> {
        let mut fields = HeaderFields::new(MemberKind::Snapshot);
        fields.set_flag(FLAG_BIG_ENDIAN, self.order == ByteOrder::Big);
        fields.set_flag(FLAG_WAL_UNKNOWN, !self.wal_known);
        fields.set_flag(FLAG_DATABASE_CHECKSUM, self.database.is_some());
        for (field, value) in self.numbers() {
            fields.set(field, value);
        }
        fields
    }

    fn numbers(&self) -> [(Field, u64); 10] {
        [
            (GENERATION, self.generation.get()),
            (AT_INDEX, self.position.index.into()),
            (AT_OFFSET, self.position.offset.get()),
            (PAGE_SIZE, self.page_size.get().into()),
            (SALT_1, self.salt.0.into()),
            (SALT_2, self.salt.1.into()),
            (CHECKSUM_1, self.checksum.0.into()),
            (CHECKSUM_2, self.checksum.1.into()),
            (PAGES, self.pages.into()),
            (TIME, self.time.millis()),
        ]
    }

    /// `database` is the subfield with the database checksum.
    fn decode(fields: &HeaderFields<FIELDS_LEN>, database: Option<&[u8]>) -> Result<SnapshotHeader> {
        let header = SnapshotHeader {
            generation: Generation::new(fields.get(GENERATION)),
            position: WalPosition { index: fields.get_u32(AT_INDEX), offset: Offset::new(fields.get(AT_OFFSET))? },
            page_size: PageSize::new(fields.get_u32(PAGE_SIZE))?,
            order: if fields.flag(FLAG_BIG_ENDIAN) { ByteOrder::Big } else { ByteOrder::Little },
            wal_known: !fields.flag(FLAG_WAL_UNKNOWN),
            salt: Salt(fields.get_u32(SALT_1), fields.get_u32(SALT_2)),
            checksum: Checksum(fields.get_u32(CHECKSUM_1), fields.get_u32(CHECKSUM_2)),
            pages: fields.get_u32(PAGES),
            time: Timestamp::from_millis(fields.get(TIME)),
            database: database_in(fields, database)?,
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<()> {
        if self.position.offset.frame(self.page_size).is_none() {
            return Err(corrupt(format!("expected the end of a frame at {}", self.position)));
        }
        if !self.wal_known && self.position.offset != Offset::ZERO {
            return Err(corrupt(format!("expected a known WAL at {}", self.position)));
        }
        Ok(())
    }
}

/// Reads the header from the first bytes of an object; none if more bytes are needed.
///
/// Errors: [`crate::error::Kind::Corrupt`] if it is no snapshot of ours.
pub fn header_of(prefix: &[u8]) -> Result<Option<SnapshotHeader>> {
    let fields = HeaderFields::read(MemberKind::Snapshot, prefix)?;
    let database = subfield::<FIELDS_LEN>(prefix, database_checksum::SUBFIELD);
    fields.map(|fields| SnapshotHeader::decode(&fields, database).with_context(|| "snapshot header")).transpose()
}

/// A flag tells whether the subfield must be there.
fn database_in(fields: &HeaderFields<FIELDS_LEN>, field: Option<&[u8]>) -> Result<Option<DatabaseChecksum>> {
    match (fields.flag(FLAG_DATABASE_CHECKSUM), field) {
        (false, _) => Ok(None),
        (true, Some(field)) => DatabaseChecksum::decode(field).map(Some),
        (true, None) => Err(corrupt("expected the subfield LC, found none")),
    }
}

/// Reads from the first bytes of an object of which database it is; none if it does not say so.
///
/// Errors: as [`header_of`], also where bytes of the header are missing.
pub fn origin_of(prefix: &[u8]) -> Result<Option<DatabaseOrigin>> {
    let fields =
        HeaderFields::read(MemberKind::Snapshot, prefix)?.ok_or_else(|| corrupt("snapshot header: cut short"))?;
    origin_in(&fields, subfield::<FIELDS_LEN>(prefix, origin::SUBFIELD))
}

/// Version 1 does not have the subfield, and version 2 always does, but for a snapshot with nothing but its checksum.
fn origin_in(fields: &HeaderFields<FIELDS_LEN>, field: Option<&[u8]>) -> Result<Option<DatabaseOrigin>> {
    let missing = || corrupt("expected the subfield LI in format version 2, found none");
    let decoded = match field {
        None if fields.flag(FLAG_DATABASE_CHECKSUM) => Ok(None),
        None if fields.get(VERSION) == u64::from(WITH_SUBFIELDS) => Err(missing()),
        field => field.map(DatabaseOrigin::decode).transpose(),
    };
    decoded.with_context(|| "snapshot header")
}

/// Makes one snapshot of pieces that were compressed by anyone.
pub struct SnapshotEncoder {
    header: SnapshotHeader,
    /// The subfield that says of which database it is; empty if that is not said.
    origin: Vec<u8>,
    crc: crc32fast::Hasher,
    size: u64,
    started: bool,
}

impl SnapshotEncoder {
    pub fn new(header: &SnapshotHeader, origin: Option<&DatabaseOrigin>) -> SnapshotEncoder {
        let origin = origin.map(DatabaseOrigin::encode).unwrap_or_default();
        SnapshotEncoder { header: *header, origin, crc: crc32fast::Hasher::new(), size: 0, started: false }
    }

    /// The same with another header, before anything was added.
    pub fn set_header(&mut self, header: &SnapshotHeader) {
        self.header = *header;
    }

    /// Takes the next piece of the database, and appends what it is in the object to `out`.
    pub fn add(&mut self, piece: &Block, out: &mut Vec<u8>) {
        self.start(out);
        self.crc.combine(&piece.crc);
        self.size += piece.size;
        out.extend_from_slice(&piece.bytes);
    }

    /// Appends the end of the object to `out`.
    ///
    /// Errors: [`crate::error::Kind::Corrupt`] if the database was not as long as the header says: the object must
    /// not be stored.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<()> {
        self.start(out);
        let (expected, found) = (self.header.payload_len(), self.size);
        if expected != found {
            return Err(corrupt(format!("snapshot: expected {expected} bytes of database, found {found}")));
        }
        out.extend_from_slice(&FINAL_BLOCK);
        out.extend_from_slice(&self.crc.clone().finalize().to_le_bytes());
        out.extend_from_slice(&(found as u32).to_le_bytes());
        Ok(())
    }

    fn start(&mut self, out: &mut Vec<u8>) {
        if !self.started {
            self.write_header(out);
            self.started = true;
        }
    }

    /// Appends what stands before the database: [`header_of`] and [`origin_of`] read it also without what follows.
    pub fn write_header(&self, out: &mut Vec<u8>) {
        let mut fields = self.header.encode();
        let mut subfields = self.origin.clone();
        self.header.database.iter().for_each(|checksum| subfields.extend_from_slice(&checksum.encode()));
        if !subfields.is_empty() {
            fields.set(VERSION, WITH_SUBFIELDS.into());
        }
        // The field holds seconds until 2106 and is for show: later moments are shown as not known.
        let seconds = u32::try_from(self.header.time.millis() / 1000).unwrap_or(0);
        fields.write_before(seconds, &subfields, out);
    }
}

/// Reads a snapshot, in fixed memory whatever it claims to be.
///
/// Errors of every method: as those of [`crate::format::segment::SegmentReader`].
pub struct SnapshotReader<R> {
    inflater: MemberReader<R>,
    header: SnapshotHeader,
    origin: Option<DatabaseOrigin>,
}

impl<R: Read> SnapshotReader<R> {
    /// Reads the header.
    pub fn open(input: R) -> Result<SnapshotReader<R>> {
        let mut inflater = MemberReader::new(input);
        let fields = inflater.next::<FIELDS_LEN>(MemberKind::Snapshot)?;
        let fields = fields.ok_or_else(|| corrupt("snapshot: expected a gzip member, found 0 bytes"))?;
        let database = inflater.subfield::<FIELDS_LEN>(database_checksum::SUBFIELD);
        let header = SnapshotHeader::decode(&fields, database).with_context(|| "snapshot header")?;
        inflater.expect_len(header.payload_len());
        let origin = origin_in(&fields, inflater.subfield::<FIELDS_LEN>(origin::SUBFIELD))?;
        Ok(SnapshotReader { inflater, header, origin })
    }

    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// Of which database it is; none if it does not say so.
    pub fn origin(&self) -> Option<&DatabaseOrigin> {
        self.origin.as_ref()
    }

    /// Bytes of the database. 0: it has ended, its crc32 and size were right, and nothing follows.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let count = self.inflater.read(buf)?;
        if count == 0 && !buf.is_empty() {
            self.inflater.expect_end()?;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests;

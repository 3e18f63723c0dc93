//! Snapshots: one gzip member whose payload is the database file as it was at one point.

use std::io::Read;

use crate::error::{Context, Result};
use crate::format::extra::{
    FLAG_BIG_ENDIAN, FLAG_WAL_UNKNOWN, FLAGS, Field, Fields, GENERATION, KIND, Member, VERSION, corrupt,
};
use crate::format::gzip::{Deflater, Inflater};
use crate::format::key::SnapshotKey;
use crate::format::position::{Generation, Offset, PageSize, Point};
use crate::format::segment::Tail;
use crate::format::time::Timestamp;
use crate::format::wal::{ByteOrder, Checksum, Salt};

/// gzip's level for snapshots: 1, since a snapshot is bounded by this one core (110 to 190 MB/s; level 6 is a third
/// as fast and saves about a tenth of the bytes).
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
pub struct Header {
    pub generation: Generation,
    /// The database holds exactly the commits up to here.
    pub at: Point,
    pub page_size: PageSize,
    /// How the checksums read the WAL.
    pub order: ByteOrder,
    /// Salt and checksum are those of a WAL. If not, `at` is offset 0: the next batch begins with the WAL header.
    pub wal_known: bool,
    pub salt: Salt,
    /// The chain at `at`; zero if it is broken there by an unsealed frame.
    pub checksum: Checksum,
    /// The size of the database.
    pub pages: u32,
    /// When the database was so.
    pub time: Timestamp,
}

impl Header {
    /// The name of its object.
    pub fn key(&self) -> SnapshotKey {
        SnapshotKey { generation: self.generation, at: self.at, time: self.time }
    }

    /// What the first batch behind it must continue.
    pub fn tail(&self) -> Tail {
        Tail {
            generation: self.generation,
            end: self.at,
            page_size: self.page_size,
            order: self.order,
            salt: self.salt,
            checksum: (self.wal_known && self.checksum != Checksum::default()).then_some(self.checksum),
            crc: None,
        }
    }

    /// Bytes of the database.
    pub fn payload_len(&self) -> u64 {
        u64::from(self.pages) * u64::from(self.page_size.get())
    }

    fn encode(&self) -> Fields<FIELDS_LEN> {
        let mut fields = Fields::new(Member::Snapshot);
        fields.raise(FLAG_BIG_ENDIAN, self.order == ByteOrder::Big);
        fields.raise(FLAG_WAL_UNKNOWN, !self.wal_known);
        for (field, value) in self.numbers() {
            fields.put(field, value);
        }
        fields
    }

    fn numbers(&self) -> [(Field, u64); 10] {
        [
            (GENERATION, self.generation.get()),
            (AT_INDEX, self.at.index.into()),
            (AT_OFFSET, self.at.offset.get()),
            (PAGE_SIZE, self.page_size.get().into()),
            (SALT_1, self.salt.0.into()),
            (SALT_2, self.salt.1.into()),
            (CHECKSUM_1, self.checksum.0.into()),
            (CHECKSUM_2, self.checksum.1.into()),
            (PAGES, self.pages.into()),
            (TIME, self.time.millis()),
        ]
    }

    fn decode(fields: &Fields<FIELDS_LEN>) -> Result<Header> {
        let header = Header {
            generation: Generation::new(fields.get(GENERATION)),
            at: Point { index: fields.get32(AT_INDEX), offset: Offset::new(fields.get(AT_OFFSET))? },
            page_size: PageSize::new(fields.get32(PAGE_SIZE))?,
            order: if fields.flag(FLAG_BIG_ENDIAN) { ByteOrder::Big } else { ByteOrder::Little },
            wal_known: !fields.flag(FLAG_WAL_UNKNOWN),
            salt: Salt(fields.get32(SALT_1), fields.get32(SALT_2)),
            checksum: Checksum(fields.get32(CHECKSUM_1), fields.get32(CHECKSUM_2)),
            pages: fields.get32(PAGES),
            time: Timestamp::from_millis(fields.get(TIME)),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<()> {
        if self.at.offset.frame(self.page_size).is_none() {
            return Err(corrupt(format!("expected the end of a frame at {}", self.at)));
        }
        if !self.wal_known && self.at.offset != Offset::ZERO {
            return Err(corrupt(format!("expected a known WAL at {}", self.at)));
        }
        Ok(())
    }
}

/// Reads the header from the first bytes of an object; none if more bytes are needed.
///
/// Errors: [`crate::error::Kind::Corrupt`] if it is no snapshot of ours.
pub fn header_of(prefix: &[u8]) -> Result<Option<Header>> {
    let fields = Fields::read(Member::Snapshot, prefix)?;
    fields.map(|fields| Header::decode(&fields).context(|| "snapshot header")).transpose()
}

/// Makes one snapshot piece by piece.
pub struct Encoder {
    deflater: Deflater,
    header: Header,
    begun: bool,
}

impl Encoder {
    /// `level` is gzip's, 0 to 9; [`LEVEL`] by default.
    pub fn new(header: &Header, level: u32) -> Encoder {
        Encoder { deflater: Deflater::new(level), header: *header, begun: false }
    }

    /// Takes the next bytes of the database, and appends what is ready of the object to `out`.
    pub fn write(&mut self, pages: &[u8], out: &mut Vec<u8>) {
        self.begin(out);
        self.deflater.write(pages, out);
    }

    /// Appends the end of the object to `out`.
    ///
    /// Errors: [`crate::error::Kind::Corrupt`] if the database was not as long as the header says: the object must
    /// not be stored.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<()> {
        self.begin(out);
        self.deflater.finish(out);
        let (expected, found) = (self.header.payload_len(), self.deflater.size());
        if expected != found {
            return Err(corrupt(format!("snapshot: expected {expected} bytes of database, found {found}")));
        }
        Ok(())
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if !self.begun {
            self.deflater.begin(&self.header.encode(), self.header.time.millis(), out);
            self.begun = true;
        }
    }
}

/// Reads a snapshot, in fixed memory whatever it claims to be.
///
/// Errors of every method: as those of [`crate::format::segment::Reader`].
pub struct Reader<R> {
    inflater: Inflater<R>,
    header: Header,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    pub fn open(input: R) -> Result<Reader<R>> {
        let mut inflater = Inflater::new(input);
        let fields = inflater.next::<FIELDS_LEN>(Member::Snapshot)?;
        let fields = fields.ok_or_else(|| corrupt("snapshot: expected a gzip member, found 0 bytes"))?;
        let header = Header::decode(&fields).context(|| "snapshot header")?;
        inflater.expect(header.payload_len());
        Ok(Reader { inflater, header })
    }

    pub fn header(&self) -> &Header {
        &self.header
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

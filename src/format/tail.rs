//! Where a chain of batches stands, and whether a batch continues it.

use std::fmt;

use crate::error::Result;
use crate::format::extra::corrupt;
use crate::format::position::{Generation, Offset, PageSize, Point};
use crate::format::segment::MemberHeader;
use crate::format::wal::{ByteOrder, Checksum, Salt};

/// What the next batch of a generation must continue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tail {
    pub generation: Generation,
    pub end: Point,
    pub page_size: PageSize,
    pub order: ByteOrder,
    pub salt: Salt,
    /// The chain behind the last frame; none if it is not known, or broken there.
    pub checksum: Option<Checksum>,
    /// crc32 of the last payload; none behind a snapshot, which does not know it.
    pub crc: Option<u32>,
}

impl Tail {
    /// Behind a member whose payload has the crc32 `crc`.
    pub fn of_member(header: &MemberHeader, crc: u32) -> Tail {
        let broken = header.unsealed && header.checksum_after == Checksum::default();
        Tail {
            generation: header.generation,
            end: header.end_point(),
            page_size: header.page_size,
            order: header.order,
            salt: header.salt,
            checksum: (!broken).then_some(header.checksum_after),
            crc: Some(crc),
        }
    }
}

/// Whether `header` is the very next batch behind `previous`.
///
/// Errors: [`crate::error::Kind::Corrupt`], naming what differs.
pub fn follows(previous: &Tail, header: &MemberHeader) -> Result<()> {
    expect("generation", previous.generation, header.generation)?;
    expect("start", previous.end, header.start)?;
    expect("page size", previous.page_size, header.page_size)?;
    if header.from != Offset::ZERO {
        follows_in_wal(previous, header)?;
    }
    match previous.crc {
        Some(crc) => expect("crc32 of the batch before", Hex(crc), Hex(header.previous_crc)),
        None => Ok(()),
    }
}

/// The same WAL goes on: salts stay, and the chain of checksums is continued.
///
/// That the position is continued follows from `start`, which [`MemberHeader`] holds `from` to.
fn follows_in_wal(previous: &Tail, header: &MemberHeader) -> Result<()> {
    expect("index", previous.end.index, header.index)?;
    expect("salt", previous.salt, header.salt)?;
    expect("byte order", previous.order, header.order)?;
    match previous.checksum {
        Some(checksum) => expect("checksum", checksum, header.checksum_before),
        None => Ok(()),
    }
}

/// A number that reads better in hex.
#[derive(PartialEq)]
struct Hex(u32);

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

fn expect<T: PartialEq + fmt::Debug>(what: &str, expected: T, found: T) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(corrupt(format!("batch does not follow the one before: expected {what} {expected:x?}, found {found:x?}")))
}

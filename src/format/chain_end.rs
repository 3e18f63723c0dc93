//! Where a chain of batches stands, and whether a batch continues it.

use std::fmt;

use crate::error::{Error, Kind, Result};
use crate::format::key::SegmentKey;
use crate::format::member_header::corrupt;
use crate::format::position::{Generation, Offset, PageSize, WalPosition};
use crate::format::segment_header::MemberHeader;
use crate::format::time::Timestamp;
use crate::format::wal::{ByteOrder, Checksum, Salt};

/// What the next batch of a generation must continue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainEnd {
    pub generation: Generation,
    pub end: WalPosition,
    pub page_size: PageSize,
    pub order: ByteOrder,
    pub salt: Salt,
    /// The chain after the last frame; none if it is not known, or broken there.
    pub checksum: Option<Checksum>,
    /// crc32 of the last payload; none after a snapshot, which does not know it.
    pub crc: Option<u32>,
}

impl ChainEnd {
    /// After a member whose payload has the crc32 `crc`.
    pub fn after_member(header: &MemberHeader, crc: u32) -> ChainEnd {
        let broken = header.unchecksummed && header.checksum_after == Checksum::default();
        ChainEnd {
            generation: header.generation,
            end: header.end_point(),
            page_size: header.page_size,
            order: header.order,
            salt: header.salt,
            checksum: (!broken).then_some(header.checksum_after),
            // A batch of format 1 knows the batch before it, and not the rollup that took its place.
            crc: header.rollup.is_none().then_some(crc),
        }
    }
}

/// Whether `header` is the very next batch after `previous`.
///
/// Errors: [`crate::error::Kind::Corrupt`], naming what differs.
pub fn check_continues(previous: &ChainEnd, header: &MemberHeader) -> Result<()> {
    require_equal("generation", previous.generation, header.generation)?;
    require_equal("start", previous.end, header.start)?;
    require_equal("page size", previous.page_size, header.page_size)?;
    if header.payload_offset != Offset::ZERO {
        check_same_wal(previous, header)?;
    }
    if header.differences.is_some() {
        return Ok(());
    }
    match previous.crc {
        Some(crc) => require_equal("crc32 of the previous batch", Hex32(crc), Hex32(header.previous_crc)),
        None => Ok(()),
    }
}

/// The same WAL goes on: salts stay, and the chain of checksums is continued.
///
/// That the position is continued follows from `start`, which [`MemberHeader`] holds `from` to.
fn check_same_wal(previous: &ChainEnd, header: &MemberHeader) -> Result<()> {
    require_equal("index", previous.end.index, header.index)?;
    require_equal("salt", previous.salt, header.salt)?;
    require_equal("byte order", previous.order, header.order)?;
    match previous.checksum {
        // What a member of format 2 follows is not told in it, but goes into the checksum that it ends with.
        _ if header.differences.is_some() => Ok(()),
        Some(checksum) => require_equal("checksum", checksum, header.checksum_before),
        None => Ok(()),
    }
}

/// A number that reads better in hex.
#[derive(PartialEq)]
struct Hex32(u32);

impl fmt::Debug for Hex32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

fn require_equal<T: PartialEq + fmt::Debug>(what: &str, expected: T, found: T) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(corrupt(format!("batch does not continue the previous one: expected {what} {expected:x?}, found {found:x?}")))
}

/// An object must hold what its name says; a foreign or renamed one is refused.
pub fn check_key(key: &SegmentKey, first: &MemberHeader) -> Result<()> {
    let seen = if first.rollup.is_some() { SegmentKey::ROLLUP } else { first.visible_by };
    let found = (first.generation, first.start, seen);
    let expected = (key.generation, key.start, key.first_seen);
    if found == expected {
        return Ok(());
    }
    let words =
        |(generation, start, time): (Generation, WalPosition, Timestamp)| format!("{generation}/{start} of {time}");
    let (expected, found) = (words(expected), words(found));
    Err(Error::new(Kind::Corrupt, format!("expected {expected} by its name, found {found}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::format::fixtures::{Wal, point, size, wal};

    fn refused(previous: &ChainEnd, header: &MemberHeader) -> String {
        let error = check_continues(previous, header).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        error.message().strip_prefix("batch does not continue the previous one: expected ").unwrap().to_string()
    }

    /// The tail after frame 2 of the sample, and the batch of frame 3.
    fn pair() -> (ChainEnd, MemberHeader) {
        let wal = wal();
        let tail = wal.chain_end(&wal.batch(0, 0, 2, 100));
        let next = MemberHeader { previous_crc: tail.crc.unwrap(), ..wal.batch(0, 2, 3, 200) };
        (tail, next)
    }

    #[test]
    fn the_next_batch_of_the_same_wal_follows() {
        let (tail, next) = pair();
        check_continues(&tail, &next).unwrap();
        check_continues(&ChainEnd { checksum: None, crc: None, ..tail }, &next).unwrap();
    }

    #[test]
    fn the_first_batch_of_the_next_wal_follows_whatever_its_salts() {
        let (tail, _) = pair();
        let next = Wal::new(ByteOrder::Big, 512, Salt(8, 1)).frame(1, 1).batch(1, 0, 1, 300);
        let next = MemberHeader { start: tail.end, previous_crc: tail.crc.unwrap(), ..next };
        check_continues(&tail, &next).unwrap();
        assert!(refused(&tail, &MemberHeader { previous_crc: 0, ..next }).starts_with("crc32 of the previous batch "));
    }

    #[test]
    fn the_first_batch_follows_a_snapshot_that_knows_no_wal() {
        let (tail, _) = pair();
        let fresh = ChainEnd { end: point(0, 0), salt: Salt(0, 0), checksum: None, crc: None, ..tail };
        check_continues(&fresh, &wal().batch(0, 0, 2, 100)).unwrap();
    }

    #[test]
    fn anything_else_is_refused_by_what_differs() {
        let (tail, next) = pair();
        let table = [
            (
                ChainEnd { generation: Generation::new(1), ..tail },
                "generation 0000000000000001, found 019aaf3c5d10a1b2",
            ),
            (ChainEnd { end: point(0, 568), ..tail }, "start 00000000:000000000238, found 00000000:000000000450"),
            (ChainEnd { page_size: size(1024), ..tail }, "page size 1024, found 512"),
            (ChainEnd { salt: Salt(7, 9), ..tail }, "salt 00000007.00000009, found 00000007.00000008"),
            (ChainEnd { order: ByteOrder::Big, ..tail }, "byte order Big, found Little"),
            (ChainEnd { checksum: Some(Checksum(1, 2)), ..tail }, "checksum 00000001.00000002, found 1dc1b574."),
            (ChainEnd { crc: Some(7), ..tail }, "crc32 of the previous batch 00000007, found "),
        ];
        for (tail, text) in table {
            let found = refused(&tail, &next);
            assert!(found.starts_with(text), "{found}");
        }
    }

    #[test]
    fn a_chain_that_ends_broken_has_no_checksum_to_follow() {
        let mut wal = wal();
        wal.unchecksummed_frame(2, 3).frame(1, 3);
        let broken = wal.batch(0, 6, 7, 100);
        let tail = wal.chain_end(&broken);
        assert_eq!(tail.checksum, None);
        let next = MemberHeader { previous_crc: tail.crc.unwrap(), ..wal.batch(0, 7, 8, 200) };
        check_continues(&tail, &next).unwrap();
        assert!(wal.chain_end(&next).checksum.is_some());
    }
}

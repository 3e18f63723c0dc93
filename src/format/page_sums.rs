//! The checksum of each page of a database at one commit: eight bytes a page, from which the pages that changed since are
//! found without the old content.
//!
//! ```text
//! "LSPSUMS2" | page size (4) | pages (4) | inode (8) | database checksum (8) | number of positions (4)
//!   | the positions (generation 8, index 4, offset 8 each) | a checksum of each page (8 each) | crc32 (4)
//! ```
//!
//! All numbers are little-endian; the crc32 is of all before it. The checksum of a page is what it adds to the database
//! checksum, 0 for the lock-byte page. So they are believed only where they sum up to the database checksum that is stored:
//! those of another commit, of another database, or damaged ones do not. There is a position for each replica.

use std::io::{self, Write};

use crate::error::Result;
use crate::format::crc32::Crc32;
use crate::format::database_checksum::{DatabaseChecksum, DatabaseFingerprint, page_checksum};
use crate::format::member_header::corrupt;
use crate::format::position::{Generation, Offset, PageSize, Position, WalPosition};
use crate::format::running_checksum::is_lock_page;

const MAGIC: [u8; 8] = *b"LSPSUMS2";
/// Bytes before the positions.
const HEADER_BYTES: usize = 36;
const POSITION_BYTES: usize = 20;
/// A database has not more replicas.
const MAX_POSITIONS: usize = 256;
/// Bytes before the checksums of the pages, at most.
pub const MAX_HEADER_BYTES: usize = HEADER_BYTES + MAX_POSITIONS * POSITION_BYTES;
const CRC_BYTES: usize = 4;

/// Of which state the checksums are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SummedState {
    pub page_size: PageSize,
    pub pages: u32,
    pub checksum: DatabaseChecksum,
    /// The number of the database file: one that was put in its place is not compared with it.
    pub inode: u64,
}

/// A state whose page checksums are kept, and where it is in each replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SummedCommit {
    pub state: SummedState,
    pub positions: Vec<Position>,
}

/// The checksums of a database's pages, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageSums {
    page_size: PageSize,
    sums: Vec<u64>,
    total: u64,
}

impl PageSums {
    /// Of a database without pages.
    pub fn new(page_size: PageSize) -> PageSums {
        PageSums { page_size, sums: Vec::new(), total: 0 }
    }

    /// Adds the next page. Whether it is another one than `before` has there.
    pub fn push(&mut self, page: &[u8], before: &PageSums) -> bool {
        let at = self.sums.len();
        let sum = self.sum_of(page);
        self.sums.push(sum);
        self.total = self.total.wrapping_add(sum);
        before.sums.get(at) != Some(&sum)
    }

    /// The checksum of the page that comes next.
    fn sum_of(&self, page: &[u8]) -> u64 {
        let number = self.pages().saturating_add(1);
        if is_lock_page(number, self.page_size) { 0 } else { page_checksum(number, page) }
    }

    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    pub fn pages(&self) -> u32 {
        u32::try_from(self.sums.len()).unwrap_or(u32::MAX)
    }

    /// Of the whole database.
    pub fn checksum(&self) -> DatabaseChecksum {
        DatabaseChecksum::new(self.total)
    }

    /// The state that they are of, in the database file of this number.
    pub fn state(&self, inode: u64) -> SummedState {
        SummedState { page_size: self.page_size, pages: self.pages(), checksum: self.checksum(), inode }
    }

    /// Writes them, a piece at a time: those of the database file `inode`, at these positions.
    pub fn encode(&self, inode: u64, positions: &[Position], to: &mut dyn Write) -> io::Result<()> {
        let mut crc = Crc32::default();
        let mut put = |bytes: &[u8]| {
            crc.update(bytes);
            to.write_all(bytes)
        };
        put(&SummedCommit { state: self.state(inode), positions: positions.to_vec() }.encode())?;
        for piece in self.sums.chunks(8192) {
            let bytes: Vec<u8> = piece.iter().flat_map(|sum| sum.to_le_bytes()).collect();
            put(&bytes)?;
        }
        to.write_all(&crc.finish().to_le_bytes())
    }

    /// Reads all of what was written, and of which state that is.
    ///
    /// Errors: of kind `Corrupt` for anything else.
    pub fn decode(bytes: &[u8]) -> Result<(SummedCommit, PageSums)> {
        let unlike = |what: &str| corrupt(format!("page checksums: {what}"));
        let (body, crc) = bytes.split_last_chunk::<CRC_BYTES>().ok_or_else(|| unlike("they are cut short"))?;
        let mut found = Crc32::default();
        found.update(body);
        if found.finish().to_le_bytes() != *crc {
            return Err(unlike("their crc32 is wrong"));
        }
        let kept = SummedCommit::decode(body)?;
        if bytes.len() as u64 != kept.encoded_len() {
            return Err(unlike("they are of another length"));
        }
        let sums = body.get(kept.header_len()..).unwrap_or_default();
        let sums: Vec<u64> = sums.as_chunks::<8>().0.iter().map(|sum| u64::from_le_bytes(*sum)).collect();
        let total = sums.iter().fold(0u64, |total, sum| total.wrapping_add(*sum));
        if total != kept.state.checksum.get() {
            return Err(unlike("they do not sum up to their database checksum"));
        }
        let page_size = kept.state.page_size;
        Ok((kept, PageSums { page_size, sums, total }))
    }
}

impl SummedState {
    pub fn fingerprint(&self) -> DatabaseFingerprint {
        DatabaseFingerprint { pages: self.pages, checksum: self.checksum }
    }
}

impl SummedCommit {
    fn header_len(&self) -> usize {
        HEADER_BYTES + POSITION_BYTES * self.positions.len()
    }

    /// Bytes of the checksums of a database in this state.
    pub fn encoded_len(&self) -> u64 {
        (self.header_len() + CRC_BYTES) as u64 + 8 * u64::from(self.state.pages)
    }

    /// What they begin with.
    pub fn encode(&self) -> Vec<u8> {
        let state = &self.state;
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&state.page_size.get().to_le_bytes());
        header.extend_from_slice(&state.pages.to_le_bytes());
        header.extend_from_slice(&state.inode.to_le_bytes());
        header.extend_from_slice(&state.checksum.get().to_le_bytes());
        header.extend_from_slice(&u32::try_from(self.positions.len()).unwrap_or(u32::MAX).to_le_bytes());
        for Position { generation, wal_position } in &self.positions {
            header.extend_from_slice(&generation.get().to_le_bytes());
            header.extend_from_slice(&wal_position.index.to_le_bytes());
            header.extend_from_slice(&wal_position.offset.get().to_le_bytes());
        }
        header
    }

    /// Reads what they begin with, out of bytes of which there may be more.
    pub fn decode(bytes: &[u8]) -> Result<SummedCommit> {
        let mut rest = bytes;
        if take(&mut rest)? != MAGIC {
            return Err(corrupt("page checksums: they are of another format"));
        }
        let state = SummedState {
            page_size: PageSize::new(u32::from_le_bytes(take(&mut rest)?))?,
            pages: u32::from_le_bytes(take(&mut rest)?),
            inode: u64::from_le_bytes(take(&mut rest)?),
            checksum: DatabaseChecksum::new(u64::from_le_bytes(take(&mut rest)?)),
        };
        let count = u32::from_le_bytes(take(&mut rest)?) as usize;
        if count > MAX_POSITIONS {
            return Err(corrupt(format!("page checksums: expected at most {MAX_POSITIONS} positions, found {count}")));
        }
        let positions = (0..count).map(|_| {
            let generation = Generation::new(u64::from_le_bytes(take(&mut rest)?));
            let index = u32::from_le_bytes(take(&mut rest)?);
            let offset = Offset::new(u64::from_le_bytes(take(&mut rest)?))?;
            Ok(Position { generation, wal_position: WalPosition { index, offset } })
        });
        Ok(SummedCommit { state, positions: positions.collect::<Result<_>>()? })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N]> {
    let (found, after) = rest.split_first_chunk::<N>().ok_or_else(|| corrupt("page checksums: they are cut short"))?;
    *rest = after;
    Ok(*found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{Random, point, size};
    use crate::format::running_checksum::RunningChecksum;

    fn of(pages: &[Vec<u8>]) -> PageSums {
        let (mut sums, none) = (PageSums::new(size(512)), PageSums::new(size(512)));
        pages.iter().for_each(|page| assert!(sums.push(page, &none)));
        sums
    }

    fn pages(random: &mut Random, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| (0..512).map(|_| random.below(256) as u8).collect()).collect()
    }

    fn positions(count: u32) -> Vec<Position> {
        (0..count).map(|index| Position { generation: Generation::new(7), wal_position: point(index, 32) }).collect()
    }

    fn written(sums: &PageSums, positions: &[Position]) -> Vec<u8> {
        let mut bytes = Vec::new();
        sums.encode(5, positions, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn page_checksums_add_up_to_the_database_checksum() {
        let pages = pages(&mut Random(1), 40);
        let mut running = RunningChecksum::new(size(512));
        pages.iter().for_each(|page| running.push(page));
        let sums = of(&pages);
        assert_eq!((sums.checksum(), sums.pages()), (running.sum(), running.extent()));
    }

    /// The lock-byte page is no part of a database: whatever it holds, it has not changed.
    #[test]
    fn lock_byte_page_never_differs() {
        let lock = (1u32 << 30) / 65_536;
        let mut before = PageSums::new(size(65_536));
        before.sums = vec![7; lock as usize];
        let mut sums = before.clone();
        before.sums.push(0);
        assert!(!sums.push(&vec![1; 65_536], &before));
        assert_eq!(sums.sums.last(), Some(&0));
    }

    #[test]
    fn page_checksums_are_read_back_and_no_others() {
        let mut random = Random(2);
        let sums = of(&pages(&mut random, 9));
        for positions in [positions(0), positions(1), positions(3)] {
            let kept = SummedCommit { state: sums.state(5), positions };
            let bytes = written(&sums, &kept.positions);
            assert_eq!(bytes.len() as u64, kept.encoded_len());
            assert_eq!(PageSums::decode(&bytes).unwrap(), (kept.clone(), sums.clone()));
            assert_eq!(SummedCommit::decode(&bytes[..kept.header_len()]).unwrap(), kept);
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(PageSums::decode(&bad).is_err(), "bit {bit}");
            }
            for length in 0..bytes.len() {
                assert!(PageSums::decode(&bytes[..length]).is_err(), "{length} bytes");
            }
        }
    }

    #[test]
    fn positions_beyond_what_a_database_has_are_refused() {
        let kept = SummedCommit { state: of(&[]).state(1), positions: positions(MAX_POSITIONS as u32 + 1) };
        let error = SummedCommit::decode(&kept.encode()).unwrap_err();
        assert_eq!(error.message(), "page checksums: expected at most 256 positions, found 257");
    }

    /// Right by their own crc32, and still not those of the state that they tell.
    #[test]
    fn page_checksums_that_do_not_add_up_are_refused() {
        let mut sums = of(&pages(&mut Random(3), 5));
        sums.sums[2] ^= 4;
        let error = PageSums::decode(&written(&sums, &[])).unwrap_err();
        assert_eq!(error.message(), "page checksums: they do not sum up to their database checksum");
    }
}

//! The checksum of each page of a database at one commit: eight bytes a page, from which the pages that changed since are
//! found without the old content.
//!
//! ```text
//! "LSPSUMS1" | page size (4) | pages (4) | inode (8) | database checksum (8) | a checksum of each page (8 each) | crc32 (4)
//! ```
//!
//! All numbers are little-endian; the crc32 is of all before it. The checksum of a page is what it adds to the database
//! checksum, 0 for the lock-byte page. So they are believed only where they sum up to the database checksum that is stored:
//! those of another commit, of another database, or damaged ones do not.

use std::io::{self, Write};

use crate::error::Result;
use crate::format::crc32::Crc32;
use crate::format::database_checksum::{DatabaseChecksum, page_checksum};
use crate::format::member_header::corrupt;
use crate::format::position::PageSize;
use crate::format::running_checksum::is_lock_page;

const MAGIC: [u8; 8] = *b"LSPSUMS1";
/// Bytes before the checksums of the pages.
pub const HEADER: usize = 32;
const CRC: usize = 4;

/// Of which state the checksums are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SummedState {
    pub page_size: PageSize,
    pub pages: u32,
    pub checksum: DatabaseChecksum,
    /// The number of the database file: one that was put in its place is not compared with it.
    pub inode: u64,
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

    /// Writes them, a piece at a time.
    pub fn encode(&self, inode: u64, to: &mut dyn Write) -> io::Result<()> {
        let mut crc = Crc32::default();
        let mut put = |bytes: &[u8]| {
            crc.update(bytes);
            to.write_all(bytes)
        };
        put(&self.state(inode).encode())?;
        for piece in self.sums.chunks(8192) {
            let bytes: Vec<u8> = piece.iter().flat_map(|sum| sum.to_le_bytes()).collect();
            put(&bytes)?;
        }
        to.write_all(&crc.finish().to_le_bytes())
    }

    /// Reads all of what was written.
    ///
    /// Errors: of kind `Corrupt` for anything else, and where they are not of the state `expected`.
    pub fn decode(bytes: &[u8], expected: &SummedState) -> Result<PageSums> {
        let unlike = |what: &str| Err(corrupt(format!("page checksums: {what}")));
        if bytes.len() as u64 != expected.encoded_len() {
            return unlike("they are of another length");
        }
        let Some((body, crc)) = bytes.split_last_chunk::<CRC>() else { return unlike("they are cut short") };
        let mut found = Crc32::default();
        found.update(body);
        if found.finish().to_le_bytes() != *crc {
            return unlike("their crc32 is wrong");
        }
        let Some((header, sums)) = body.split_at_checked(HEADER) else { return unlike("they are cut short") };
        if header != expected.encode() {
            return unlike("they are of another state or file");
        }
        let sums: Vec<u64> = sums.as_chunks::<8>().0.iter().map(|sum| u64::from_le_bytes(*sum)).collect();
        let total = sums.iter().fold(0u64, |total, sum| total.wrapping_add(*sum));
        if total != expected.checksum.get() {
            return unlike("they do not sum up to the stored database checksum");
        }
        Ok(PageSums { page_size: expected.page_size, sums, total })
    }
}

impl SummedState {
    /// Bytes of the checksums of a database in this state.
    pub fn encoded_len(&self) -> u64 {
        (HEADER + CRC) as u64 + 8 * u64::from(self.pages)
    }

    /// What they begin with.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        let numbers = [
            &MAGIC[..],
            &self.page_size.get().to_le_bytes(),
            &self.pages.to_le_bytes(),
            &self.inode.to_le_bytes(),
            &self.checksum.get().to_le_bytes(),
        ];
        let bytes = numbers.iter().flat_map(|number| number.iter());
        header.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{Random, size};
    use crate::format::running_checksum::RunningChecksum;

    fn of(pages: &[Vec<u8>]) -> PageSums {
        let (mut sums, none) = (PageSums::new(size(512)), PageSums::new(size(512)));
        pages.iter().for_each(|page| assert!(sums.push(page, &none)));
        sums
    }

    fn pages(random: &mut Random, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| (0..512).map(|_| random.below(256) as u8).collect()).collect()
    }

    fn written(sums: &PageSums, inode: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        sums.encode(inode, &mut bytes).unwrap();
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
        let (state, bytes) = (sums.state(5), written(&sums, 5));
        assert_eq!(bytes.len() as u64, state.encoded_len());
        assert_eq!(PageSums::decode(&bytes, &state).unwrap(), sums);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(PageSums::decode(&bad, &state).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(PageSums::decode(&bytes[..length], &state).is_err(), "{length} bytes");
        }
        let others = [
            SummedState { inode: 6, ..state },
            SummedState { pages: 8, ..state },
            SummedState { page_size: size(1024), ..state },
            SummedState { checksum: DatabaseChecksum::new(state.checksum.get() ^ 1), ..state },
        ];
        for other in others {
            assert!(PageSums::decode(&bytes, &other).is_err(), "{other:?}");
        }
    }

    /// Right by their own crc32, and still not those of the stored state.
    #[test]
    fn page_checksums_that_do_not_add_up_are_refused() {
        let mut sums = of(&pages(&mut Random(3), 5));
        let state = sums.state(1);
        sums.sums[2] ^= 4;
        let error = PageSums::decode(&written(&sums, 1), &state).unwrap_err();
        assert_eq!(error.message(), "page checksums: they do not sum up to the stored database checksum");
    }
}

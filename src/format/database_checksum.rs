//! A checksum of a whole database that follows each change of a page without reading the others.
//!
//! It is the sum, modulo 2^64, over all pages of
//!
//! ```text
//! mix((crc32(page) << 32 | adler32(page)) + number * 0x9e3779b97f4a7c15)
//! ```
//!
//! where `mix` is the finalizer of splitmix64 (Stafford's variant 13), a bijection in which each bit of the result depends on
//! each bit of the argument. So:
//!
//! * A changed page is subtracted and added again.
//! * The same change in two pages does not cancel: the number goes through `mix` together with the content. A sum or XOR
//!   of plain CRCs with the number in them fails this, since a CRC's difference does not depend on what stands before.
//! * A random change of a page is missed when both its CRC and its Adler sum stay: the first is linear over bits, the second
//!   over the integers modulo 65521. Up to four bytes in a row the CRC alone always tells; beyond, both stay in about one
//!   of 2^58 cases or fewer.
//! * zlib has both sums at the speed of C, in Python too; the rest is a few operations a page.
//!
//! It proves that nothing was damaged or confused. It does not stop anyone who makes up pages on purpose.

use crate::error::Result;
use crate::format::member_header::corrupt;

/// The letters of the subfield of a snapshot's gzip header that holds its checksum.
pub const SUBFIELD: [u8; 2] = *b"LC";

/// Odd, and without a short period in any byte: 2^64 divided by the golden ratio.
const NUMBER_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The checksum of the pages that were added and not removed again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DatabaseChecksum(u64);

/// A database that is known by its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatabaseFingerprint {
    pub pages: u32,
    pub checksum: DatabaseChecksum,
}

impl DatabaseChecksum {
    /// As it is stored.
    pub const fn new(value: u64) -> DatabaseChecksum {
        DatabaseChecksum(value)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    /// The subfield of a snapshot's gzip header: letters, length, checksum, and the crc32 of all that.
    pub fn encode(self) -> Vec<u8> {
        let mut field = [&SUBFIELD[..], &12u16.to_le_bytes(), &self.0.to_le_bytes()].concat();
        let crc = crc32fast::hash(&field);
        field.extend_from_slice(&crc.to_le_bytes());
        field
    }

    /// Reads one subfield, of which `field` is all.
    ///
    /// Errors: [`crate::error::Kind::Corrupt`] for anything that [`DatabaseChecksum::encode`] does not write.
    pub fn decode(field: &[u8]) -> Result<DatabaseChecksum> {
        let checksum = field.get(4..12).and_then(|bytes| bytes.first_chunk()).map(|bytes| u64::from_le_bytes(*bytes));
        let checksum = DatabaseChecksum(checksum.unwrap_or_default());
        if checksum.encode() != field {
            let found = field.len();
            return Err(corrupt(format!(
                "database checksum in the gzip header: expected 16 bytes that end with their crc32, found {found} that do not"
            )));
        }
        Ok(checksum)
    }

    /// Page `number` is there now. The first one has number 1, as everywhere in SQLite.
    pub fn add(&mut self, number: u32, page: &[u8]) {
        self.add_content(number, PageContent::of(page));
    }

    /// Page `number`, which had this content, is not there any more.
    pub fn remove(&mut self, number: u32, page: &[u8]) {
        self.remove_content(number, PageContent::of(page));
    }

    pub(super) fn add_content(&mut self, number: u32, content: PageContent) {
        self.0 = self.0.wrapping_add(content.at(number));
    }

    pub(super) fn remove_content(&mut self, number: u32, content: PageContent) {
        self.0 = self.0.wrapping_sub(content.at(number));
    }
}

/// What a page holds, wherever it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PageContent(u64);

impl PageContent {
    pub(super) fn of(page: &[u8]) -> PageContent {
        PageContent(u64::from(crc32fast::hash(page)) << 32 | u64::from(zlib_rs::adler32::adler32(1, page)))
    }

    fn at(self, number: u32) -> u64 {
        mix(self.0.wrapping_add(u64::from(number).wrapping_mul(NUMBER_FACTOR)))
    }
}

/// The part of one page.
pub fn page_checksum(number: u32, page: &[u8]) -> u64 {
    PageContent::of(page).at(number)
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::format::fixtures::Random;

    fn noise(random: &mut Random, len: usize) -> Vec<u8> {
        (0..len).map(|_| random.below(256) as u8).collect()
    }

    fn of(pages: &[Vec<u8>]) -> DatabaseChecksum {
        let mut sum = DatabaseChecksum::default();
        pages.iter().zip(1..).for_each(|(page, number)| sum.add(number, page));
        sum
    }

    #[test]
    fn checksum_follows_pages_that_change_come_and_go() {
        let mut random = Random(7);
        let mut pages: Vec<Vec<u8>> = Vec::new();
        let mut sum = DatabaseChecksum::default();
        for _ in 0..500 {
            let page = noise(&mut random, 512);
            match random.below(3) {
                0 if pages.len() > 1 => {
                    let gone = pages.pop().unwrap();
                    sum.remove(pages.len() as u32 + 1, &gone);
                }
                1 if !pages.is_empty() => {
                    let at = random.below(pages.len() as u64) as usize;
                    sum.remove(at as u32 + 1, &pages[at]);
                    sum.add(at as u32 + 1, &page);
                    pages[at] = page;
                }
                _ => {
                    sum.add(pages.len() as u32 + 1, &page);
                    pages.push(page);
                }
            }
            assert_eq!(sum, of(&pages));
        }
    }

    #[test]
    fn the_same_change_in_two_pages_is_noticed() {
        let mut random = Random(1);
        let page = noise(&mut random, 1024);
        let mut changed = page.clone();
        changed[17] ^= 4;
        let numbers: Vec<u32> = (0..31).flat_map(|bit| [1u32 << bit, (1 << bit) + 1, u32::MAX - (1 << bit)]).collect();
        // One page changes from `page` to `changed`, another one back: the two differences must not cancel.
        let differences: HashSet<u64> = numbers
            .iter()
            .map(|number| page_checksum(*number, &changed).wrapping_sub(page_checksum(*number, &page)))
            .collect();
        let distinct: HashSet<u32> = numbers.iter().copied().collect();
        assert_eq!(differences.len(), distinct.len());
        let negated = differences.iter().filter(|difference| differences.contains(&difference.wrapping_neg()));
        assert_eq!(negated.count(), 0);
    }

    #[test]
    fn pages_that_change_places_are_noticed() {
        let mut random = Random(2);
        let mut pages: Vec<_> = (0..50).map(|_| noise(&mut random, 512)).collect();
        let before = of(&pages);
        for (one, other) in [(0, 1), (0, 49), (7, 23)] {
            pages.swap(one, other);
            assert_ne!(of(&pages), before, "{one} {other}");
            pages.swap(one, other);
        }
    }

    #[test]
    fn small_changes_are_noticed_whatever_they_are() {
        let page = noise(&mut Random(3), 4096);
        let before = page_checksum(9, &page);
        let mut changed = page.clone();
        for at in 0..page.len() {
            for bit in 0..8 {
                changed[at] ^= 1 << bit;
                assert_ne!(page_checksum(9, &changed), before);
                changed[at] ^= 1 << bit;
            }
        }
        let mut random = Random(4);
        for _ in 0..20_000 {
            let mut changed = page.clone();
            for _ in 0..1 + random.below(12) {
                let at = random.below(page.len() as u64) as usize;
                changed[at] = random.below(256) as u8;
            }
            assert!(changed == page || page_checksum(9, &changed) != before);
        }
    }

    #[test]
    fn a_stored_checksum_is_read_back_and_nothing_else() {
        for value in [0, 1, u64::MAX, 0x0102_0304_0506_0708] {
            let stored = DatabaseChecksum::new(value).encode();
            assert_eq!(DatabaseChecksum::decode(&stored).unwrap().get(), value);
            for bit in 0..stored.len() * 8 {
                let mut bad = stored.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let error = DatabaseChecksum::decode(&bad).unwrap_err();
                assert!(
                    error.message().starts_with("database checksum in the gzip header: expected 16 bytes"),
                    "{error}"
                );
            }
            assert!(DatabaseChecksum::decode(&stored[..15]).is_err() && DatabaseChecksum::decode(&[]).is_err());
        }
    }

    /// The values are those of Python's zlib: `z = (crc32(page) << 32 | adler32(page)) + number * 0x9e3779b97f4a7c15`, then
    /// `mix`, modulo 2^64.
    #[test]
    fn page_checksums_equal_those_of_python() {
        let pages: [(Vec<u8>, u32, u64); 9] = [
            (vec![0; 512], 1, 0x9746857b4f735167),
            (vec![0; 512], 2, 0xe2aa58c90f9466b9),
            (vec![0; 512], 4294967295, 0x855d9714864cb4a1),
            (vec![0xff; 65_536], 1, 0xca3444065c5ec186),
            (vec![0xff; 65_536], 2, 0x29bb2235d595df56),
            (vec![0xff; 65_536], 4294967295, 0x0314aa02ac463cc0),
            ((0..=255).cycle().take(4096).collect(), 1, 0x0abcbb624e7a0a47),
            ((0..=255).cycle().take(4096).collect(), 2, 0xe35aebc4c1401b09),
            ((0..=255).cycle().take(4096).collect(), 4294967295, 0x06986a000de27573),
        ];
        for (page, number, expected) in pages {
            assert_eq!(page_checksum(number, &page), expected, "page {number} of {} bytes", page.len());
        }
    }
}

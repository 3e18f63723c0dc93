//! The database checksum of a database to which frames are applied one after the other.
//!
//! Between two commits the database counts with the pages of the transaction that has not ended. A page that nobody wrote
//! holds zeros; a commit that makes the database shorter takes the pages after its end away, and what grows there again
//! holds zeros. The lock-byte page is no part of any state.

use crate::error::Result;
use crate::format::database_checksum::{DatabaseChecksum, PageContent};
use crate::format::position::PageSize;

/// The first byte of the page that SQLite never writes, in databases that are so long (sqlite.org/fileformat2.html#lockbyte).
const LOCK_BYTE: u32 = 1 << 30;

/// Whether this page is no part of any state.
pub fn is_lock_page(number: u32, page_size: PageSize) -> bool {
    number == lock_page(page_size)
}

fn lock_page(page_size: PageSize) -> u32 {
    LOCK_BYTE / page_size.get() + 1
}

/// The checksum of a database, and how long that is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunningChecksum {
    sum: DatabaseChecksum,
    extent: u32,
    lock_page: u32,
    /// Of a page that holds only zeros.
    blank: PageContent,
}

impl RunningChecksum {
    /// Of a database without pages.
    pub fn new(page_size: PageSize) -> RunningChecksum {
        RunningChecksum {
            sum: DatabaseChecksum::default(),
            extent: 0,
            lock_page: lock_page(page_size),
            blank: PageContent::of(&vec![0; page_size.get() as usize]),
        }
    }

    /// Of a database with this checksum and so many pages.
    pub fn known(page_size: PageSize, sum: DatabaseChecksum, pages: u32) -> RunningChecksum {
        RunningChecksum { sum, extent: pages, ..RunningChecksum::new(page_size) }
    }

    pub fn sum(&self) -> DatabaseChecksum {
        self.sum
    }

    /// The same with `more` added to its checksum: what there was before it was begun.
    pub fn moved_by(&self, more: DatabaseChecksum) -> RunningChecksum {
        RunningChecksum { sum: DatabaseChecksum::new(self.sum.get().wrapping_add(more.get())), ..*self }
    }

    /// The number of pages, those of a transaction that has not ended included.
    pub fn extent(&self) -> u32 {
        self.extent
    }

    /// Adds the next page of a database that is read from its first page on.
    pub fn push(&mut self, page: &[u8]) {
        self.extent = self.extent.saturating_add(1);
        self.add(self.extent, PageContent::of(page));
    }

    /// A frame puts `new` in the place of `old`, which is not looked at beyond the extent.
    pub fn frame(&mut self, number: u32, old: &[u8], new: &[u8]) {
        if number > self.extent {
            self.grow(number - 1);
            self.extent = number;
        } else {
            self.remove(number, PageContent::of(old));
        }
        self.add(number, PageContent::of(new));
    }

    /// A transaction ends with so many pages. `read` fills a page that is cut off with what it held.
    pub fn commit(
        &mut self,
        pages: u32,
        read: &mut dyn FnMut(u32, &mut [u8]) -> Result<()>,
        page: &mut [u8],
    ) -> Result<()> {
        for number in pages.saturating_add(1)..=self.extent {
            read(number, page)?;
            self.remove(number, PageContent::of(page));
        }
        self.extent = self.extent.min(pages);
        self.grow(pages);
        Ok(())
    }

    fn grow(&mut self, pages: u32) {
        while self.extent < pages {
            self.extent += 1;
            self.add(self.extent, self.blank);
        }
    }

    fn add(&mut self, number: u32, content: PageContent) {
        if number != self.lock_page {
            self.sum.add_content(number, content);
        }
    }

    fn remove(&mut self, number: u32, content: PageContent) {
        if number != self.lock_page {
            self.sum.remove_content(number, content);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{Random, size};

    fn of(pages: &[Vec<u8>]) -> RunningChecksum {
        let mut running = RunningChecksum::new(size(512));
        pages.iter().for_each(|page| running.push(page));
        running
    }

    #[test]
    fn frames_and_commits_lead_to_the_checksum_of_what_is_there() {
        let mut random = Random(1);
        let (mut pages, mut running): (Vec<Vec<u8>>, _) = (Vec::new(), RunningChecksum::new(size(512)));
        let mut scratch = vec![0; 512];
        for _ in 0..2_000 {
            let number = 1 + random.below(40) as u32;
            let new: Vec<u8> = (0..512).map(|_| random.below(3) as u8).collect();
            let old = pages.get(number as usize - 1).cloned().unwrap_or(vec![9; 512]);
            running.frame(number, &old, &new);
            if pages.len() < number as usize {
                pages.resize(number as usize, vec![0; 512]);
            }
            pages[number as usize - 1] = new;
            if random.below(4) == 0 {
                let count = 1 + random.below(40) as usize;
                let mut read = |number: u32, page: &mut [u8]| {
                    page.copy_from_slice(&pages[number as usize - 1]);
                    Ok(())
                };
                running.commit(count as u32, &mut read, &mut scratch).unwrap();
                pages.resize(count, vec![0; 512]);
            }
            assert_eq!(running, of(&pages));
        }
        assert_eq!(running, RunningChecksum::known(size(512), running.sum(), pages.len() as u32));
    }

    #[test]
    fn the_lock_byte_page_does_not_count() {
        for bytes in [512, 65_536] {
            let lock = (1 << 30) / bytes + 1;
            let (zeros, ones) = (vec![0; bytes as usize], vec![1; bytes as usize]);
            let mut running = RunningChecksum::known(size(bytes), DatabaseChecksum::default(), lock);
            let before = running;
            running.frame(lock, &zeros, &ones);
            assert_eq!(running, before);
            running.frame(lock - 1, &zeros, &ones);
            assert_ne!(running, before);
        }
    }
}

//! A restore that keeps a checksum of each page instead of the page, and what it shows beside the live database.

use std::fs::File;

use crate::error::Result;
use crate::restore::apply::RestoreResult;
use crate::restore::page_output::PageOutput;
use crate::source::page_checksums::{PageChecksums, change_counter_of, page_crc};

/// How many pages that differ are named.
const MAX_PAGES_LISTED: usize = 5;

/// Takes the pages of a database that should become that of an image: four bytes a page in memory, however much is
/// restored. The pages themselves are in a file, since differences are made whole from them.
pub struct PageComparer<'a> {
    expected: &'a PageChecksums,
    file: &'a File,
    size: usize,
    /// Of the pages that the image has. Those beyond never matter: in the end there are none, or the sizes differ.
    crcs: Vec<u32>,
    /// Of a page that holds only zeros, as one that was never written does.
    zero_page_crc: u32,
    /// The beginning of a page whose rest is still to come.
    partial_page: Vec<u8>,
    change_counter: u32,
}

/// How a backup and the live database differ.
#[derive(PartialEq, Eq, Debug)]
pub enum Difference {
    None,
    /// In what, and whether a change without a WAL explains it.
    Some {
        what: String,
        changed_since: bool,
    },
}

impl<'a> PageComparer<'a> {
    /// Nothing has been restored; `file` is empty.
    pub fn new(image: &'a PageChecksums, file: &'a File) -> PageComparer<'a> {
        let size = image.mark.page_size.get() as usize;
        let blank = page_crc(&vec![0; size]);
        PageComparer {
            expected: image,
            file,
            size,
            crcs: vec![blank; image.crcs.len()],
            zero_page_crc: blank,
            partial_page: Vec::new(),
            change_counter: 0,
        }
    }

    fn put(&mut self, page: u64, bytes: &[u8]) {
        if page == 0 {
            self.change_counter = change_counter_of(bytes);
        }
        if let Some(slot) = usize::try_from(page).ok().and_then(|page| self.crcs.get_mut(page)) {
            *slot = page_crc(bytes);
        }
    }

    /// Compares what was restored with the image.
    pub fn compare(&self, restored: &RestoreResult) -> Difference {
        let what = if restored.bytes == self.expected.bytes() {
            self.pages_that_differ()
        } else {
            Some(format!("{} bytes in the backup, {} in the database", restored.bytes, self.expected.bytes()))
        };
        match what {
            None => Difference::None,
            Some(what) => Difference::Some { what, changed_since: self.change_counter != self.expected.change_counter },
        }
    }

    fn pages_that_differ(&self) -> Option<String> {
        let pairs = self.crcs.iter().zip(&self.expected.crcs).zip(1u32..);
        let differ = pairs.filter(|((there, here), _)| there != here).map(|(_, page)| page);
        let pages: Vec<u32> = differ.filter(|page| self.expected.free_pages.binary_search(page).is_err()).collect();
        if pages.is_empty() {
            return None;
        }
        let named: Vec<String> = pages.iter().take(MAX_PAGES_LISTED).map(u32::to_string).collect();
        let more = if pages.len() > MAX_PAGES_LISTED { ", …" } else { "" };
        Some(format!("{} of {} pages: {}{more}", pages.len(), self.crcs.len(), named.join(", ")))
    }
}

impl PageOutput for &mut PageComparer<'_> {
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        PageOutput::write_at(&mut self.file, at, bytes)?;
        let size = self.size as u64;
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let (now, later) = rest.split_at((self.size - self.partial_page.len()).min(rest.len()));
            at += now.len() as u64;
            rest = later;
            if now.len() == self.size {
                self.put(at / size - 1, now);
                continue;
            }
            self.partial_page.extend_from_slice(now);
            if self.partial_page.len() == self.size {
                let page = std::mem::take(&mut self.partial_page);
                self.put(at / size - 1, &page);
            }
        }
        Ok(())
    }

    fn read_at(&mut self, at: u64, page: &mut [u8]) -> Result<()> {
        PageOutput::read_at(&mut self.file, at, page)
    }

    fn set_len(&mut self, bytes: u64) -> Result<()> {
        PageOutput::set_len(&mut self.file, bytes)?;
        let kept = usize::try_from(bytes / self.size as u64).unwrap_or(usize::MAX);
        let blank = self.zero_page_crc;
        self.crcs.iter_mut().skip(kept).for_each(|sum| *sum = blank);
        Ok(())
    }

    fn expect(&mut self, bytes: u64) -> Result<()> {
        PageOutput::expect(&mut self.file, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::database_checksum::DatabaseChecksum;
    use crate::format::position::{Generation, Offset, PageSize, Position, WalPosition};
    use crate::format::time::Timestamp;
    use crate::format::wal::{ByteOrder, Salt};
    use crate::source::WalMark;

    fn image(pages: &[[u8; 512]], unused: &[u32]) -> PageChecksums {
        let page_size = PageSize::new(512).unwrap();
        let mark = WalMark { page_size, order: ByteOrder::Little, salt: Salt::default(), frame: 0, checksum: None };
        let checksum = DatabaseChecksum::default();
        PageChecksums {
            mark,
            crcs: pages.iter().map(|page| page_crc(page)).collect(),
            free_pages: unused.to_vec(),
            change_counter: 0,
            checksum,
        }
    }

    fn nameless() -> File {
        crate::directory::Directory::open(&std::env::temp_dir()).and_then(|place| place.create_unlinked()).unwrap()
    }

    fn restored(pages: u64) -> RestoreResult {
        let position =
            Position { generation: Generation::new(1), wal_position: WalPosition { index: 0, offset: Offset::ZERO } };
        RestoreResult { position, time: Timestamp::default(), bytes: pages * 512, read: 0, recipients: 0 }
    }

    #[test]
    fn pages_are_compared_in_any_order_and_over_old_content() {
        let image = image(&[[0; 512], [2; 512], [3; 512]], &[]);
        let file = nameless();
        let mut pages = PageComparer::new(&image, &file);
        let whole = [vec![9; 512], vec![2; 512], vec![9; 512], vec![9; 512]].concat();
        for (at, piece) in whole.chunks(100).enumerate() {
            (&mut pages).write_at(at as u64 * 100, piece).unwrap();
        }
        assert!(matches!(pages.compare(&restored(3)), Difference::Some { what, .. } if what == "2 of 3 pages: 1, 3"));
        (&mut pages).write_at(0, &[0; 512]).unwrap();
        (&mut pages).set_len(1024).unwrap();
        assert!(
            matches!(pages.compare(&restored(2)), Difference::Some { what, .. } if what.contains("bytes in the backup"))
        );
        (&mut pages).write_at(1024, &[3; 512]).unwrap();
        assert_eq!(pages.compare(&restored(3)), Difference::None);
    }

    #[test]
    fn what_is_cut_off_is_blank_when_the_database_grows_again() {
        let image = image(&[[1; 512], [0; 512]], &[]);
        let file = nameless();
        let mut pages = PageComparer::new(&image, &file);
        (&mut pages).write_at(0, &[1; 512]).unwrap();
        (&mut pages).write_at(512, &[7; 512]).unwrap();
        (&mut pages).set_len(512).unwrap();
        (&mut pages).set_len(1024).unwrap();
        assert_eq!(pages.compare(&restored(2)), Difference::None);
    }

    #[test]
    fn unused_pages_may_hold_anything() {
        let image = image(&[[1; 512], [7; 512]], &[2]);
        let file = nameless();
        let mut pages = PageComparer::new(&image, &file);
        (&mut pages).write_at(0, &[1; 512]).unwrap();
        assert_eq!(pages.compare(&restored(2)), Difference::None);
    }
}

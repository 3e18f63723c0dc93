//! What a database holds at one commit, small enough to keep: a checksum of each page, to compare a backup with.

use crate::error::Result;
use crate::format::crc32::Crc32;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::running_checksum::RunningChecksum;
use crate::source::resume::WalMark;
use crate::source::snapshot::Snapshot;

/// Bytes that are read at once; no page is larger.
const READ_PAGES: usize = 256 << 10;

/// The checksums of a database's pages: four bytes a page, and four more for each that is unused.
pub struct PageChecksums {
    pub mark: WalMark,
    /// crc32 of each page.
    pub crcs: Vec<u32>,
    /// Leaves of the free list, sorted. Their content means nothing (sqlite.org/fileformat2.html#the_freelist), and SQLite
    /// may make the file grow by one without ever writing it to the WAL: then what is stored has zeros there, and the
    /// file whatever the file system has.
    pub free_pages: Vec<u32>,
    /// What every change without a WAL counts up.
    pub change_counter: u32,
    /// Of all pages.
    pub checksum: DatabaseChecksum,
}

impl PageChecksums {
    /// Reads all of `snapshot`; `pass` is called again and again meanwhile.
    pub fn read(snapshot: &mut Snapshot, pass: &mut dyn FnMut() -> Result<()>) -> Result<PageChecksums> {
        let mark = snapshot.mark();
        let size = mark.page_size.get() as usize;
        let mut sums = Vec::with_capacity(snapshot.pages() as usize);
        let mut piece = vec![0; READ_PAGES];
        let mut change_counter = 0;
        let mut running = RunningChecksum::new(mark.page_size);
        loop {
            let count = snapshot.read(&mut piece)?;
            pass()?;
            let pages = piece.get(..count).unwrap_or_default();
            if count == 0 {
                break;
            }
            if sums.is_empty() {
                change_counter = change_counter_of(pages);
            }
            sums.extend(pages.chunks(size).map(page_crc));
            pages.chunks(size).for_each(|page| running.push(page));
        }
        let unused = free_pages(snapshot, size, pass)?;
        Ok(PageChecksums { mark, crcs: sums, free_pages: unused, change_counter, checksum: running.sum() })
    }

    /// Size of the database in bytes.
    pub fn bytes(&self) -> u64 {
        self.crcs.len() as u64 * u64::from(self.mark.page_size.get())
    }
}

/// The crc32 of a page.
pub fn page_crc(page: &[u8]) -> u32 {
    let mut crc = Crc32::default();
    crc.update(page);
    crc.finish()
}

/// The file change counter in a database's first page.
pub fn change_counter_of(page: &[u8]) -> u32 {
    number(page, 24)
}

fn number(page: &[u8], at: usize) -> u32 {
    page.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Follows the trunks of the free list. A list that is damaged ends where it no longer makes sense: what is not known to
/// be unused is compared.
fn free_pages(snapshot: &mut Snapshot, size: usize, pass: &mut dyn FnMut() -> Result<()>) -> Result<Vec<u32>> {
    let mut page = vec![0; size];
    let mut leaves = Vec::new();
    let pages = snapshot.pages();
    snapshot.page(1, &mut page)?;
    let mut trunk = number(&page, 32);
    // No list has more trunks than there are pages: one that does goes round in circles.
    for _ in 0..pages {
        if trunk == 0 || trunk > pages {
            break;
        }
        snapshot.page(trunk, &mut page)?;
        pass()?;
        let most = (size / 4).saturating_sub(2);
        let count = (number(&page, 4) as usize).min(most);
        leaves.extend((0..count).map(|leaf| number(&page, 8 + 4 * leaf)).filter(|leaf| (1..=pages).contains(leaf)));
        if leaves.len() > pages as usize {
            return Ok(Vec::new());
        }
        trunk = number(&page, 0);
    }
    leaves.sort_unstable();
    Ok(leaves)
}

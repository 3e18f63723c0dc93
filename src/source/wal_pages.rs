//! Where the pages of a database are at a commit, by the frames of its WAL alone.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{Ordering, fence};

use rusqlite::Connection;

use crate::error::Result;
use crate::format::position::PageSize;
use crate::format::wal::Salt;
use crate::source::connection;
use crate::source::wal_file::WalFile;
use crate::source::wal_index::WalIndex;

/// Pages that have frames in one WAL, at most: about 4.5 MiB of memory. A longer WAL is stored whole.
const MOST_PAGES: usize = 458_752;
/// Pages that the database grew over without writing them, at most.
const MOST_BLANK: usize = 65_536;

/// The frames of pages, and the pages that hold zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct WalPages {
    /// The last frame of each page that is written and not cut off.
    newest: HashMap<u32, u32>,
    /// Pages that a commit has cut off, or that were never there, and that the database grew over without writing them. An older
    /// frame of such a page may stand in the WAL or in the file: SQLite never reads it, and what is stored has zeros.
    blank: BTreeSet<u32>,
    /// Known from the first commit on.
    extent: Option<u32>,
    highest: u32,
}

impl WalPages {
    /// Before the first frame of a WAL, of a database of so many pages. Those in `blank` hold zeros.
    pub(super) fn before(pages: u32, blank: BTreeSet<u32>) -> WalPages {
        WalPages { newest: HashMap::new(), blank, extent: Some(pages), highest: pages }
    }

    /// The same frames, of a database of so many pages, of which those in `blank` hold zeros.
    pub(super) fn at(self, pages: u32, blank: BTreeSet<u32>) -> WalPages {
        WalPages { newest: self.newest, ..WalPages::before(pages, blank) }
    }

    /// The same pages to which further frames add: what is blank, without the frames so far.
    pub(super) fn without_frames(&self) -> WalPages {
        WalPages { newest: HashMap::new(), blank: self.blank.clone(), ..*self }
    }

    /// Adds the next frame. False if there are too many pages.
    pub(super) fn add(&mut self, frame: u32, page: u32, commit: u32) -> bool {
        self.write(frame, page) && (commit == 0 || self.commit(commit))
    }

    /// Adds the next frame, which may end no transaction before [`WalPages::commit`].
    pub(super) fn write(&mut self, frame: u32, page: u32) -> bool {
        if !self.grow(page.saturating_sub(1)) {
            return false;
        }
        self.extent = self.extent.map(|extent| extent.max(page));
        self.highest = self.highest.max(page);
        self.blank.remove(&page);
        self.newest.insert(page, frame);
        self.newest.len() <= MOST_PAGES
    }

    /// A transaction ends with so many pages. False if there are too many.
    pub(super) fn commit(&mut self, pages: u32) -> bool {
        if !self.grow(pages) {
            return false;
        }
        if pages < self.highest {
            self.newest.retain(|page, _| *page <= pages);
            self.blank.split_off(&pages.saturating_add(1));
        }
        (self.extent, self.highest) = (Some(pages), pages);
        true
    }

    fn grow(&mut self, pages: u32) -> bool {
        let Some(extent) = self.extent else { return true };
        if pages.saturating_sub(extent) as usize + self.blank.len() > MOST_BLANK {
            return false;
        }
        self.blank.extend(extent.saturating_add(1)..=pages);
        self.extent = Some(extent.max(pages));
        true
    }

    /// Another WAL has begun: all frames of the one before are in the file.
    pub(super) fn restart(&mut self) {
        self.newest = HashMap::new();
    }

    /// The last frame of a page; none where it is in no frame.
    pub(super) fn frame(&self, page: u32) -> Option<u32> {
        self.newest.get(&page).copied()
    }

    pub(super) fn is_blank(&self, page: u32) -> bool {
        self.blank.contains(&page)
    }

    /// Whether what the page holds is known without the file.
    pub(super) fn knows(&self, page: u32) -> bool {
        self.newest.contains_key(&page) || self.is_blank(page)
    }

    /// Pages of which the file may hold something else than what is stored.
    pub(super) fn blank(&self) -> &BTreeSet<u32> {
        &self.blank
    }

    /// Makes of `page`, which is what the file has, what the database has. False if the WAL ends before the page's frame.
    fn overlay(&self, wal: &WalFile, size: PageSize, number: u32, page: &mut [u8]) -> Result<bool> {
        match self.frame(number) {
            Some(frame) => return wal.page(frame, size, page),
            None if self.is_blank(number) => page.fill(0),
            None => {}
        }
        Ok(true)
    }
}

/// The files that pages are read from.
pub(super) struct PageFiles<'a> {
    pub(super) wal: &'a WalFile,
    pub(super) index: &'a WalIndex,
    pub(super) connection: &'a Connection,
    pub(super) page_size: PageSize,
    pub(super) salt: Salt,
}

impl PageFiles<'_> {
    /// Reads from `number` on what the database file has. False if frame `before` or a later one may be in there.
    pub(super) fn in_file(&self, before: u32, number: u32, pages: &mut [u8]) -> Result<bool> {
        let at = u64::from(number.saturating_sub(1)) * u64::from(self.page_size.get());
        connection::read_file(self.connection, at, pages)?;
        fence(Ordering::SeqCst);
        let progress = self.index.progress();
        Ok(progress.salt == self.salt && progress.attempted < before && progress.backfilled < before)
    }

    /// Fills `pages` with the pages from `first` on as they are at the commit that `found` is of. False if the WAL ends before
    /// a frame of them.
    pub(super) fn pages(&self, found: &WalPages, first: u32, pages: &mut [u8]) -> Result<bool> {
        let size = self.page_size.get();
        connection::read_file(self.connection, u64::from(first - 1) * u64::from(size), pages)?;
        for (number, page) in (first..).zip(pages.chunks_exact_mut(size as usize)) {
            if !found.overlay(self.wal, self.page_size, number, page)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the frames after frame `after` up to frame `upto` add to `pages`; none if the WAL is not what it should be, or too
    /// long.
    pub(super) fn wal_pages(&self, mut pages: WalPages, after: u32, upto: u32) -> Result<Option<WalPages>> {
        for frame in after.saturating_add(1)..=upto {
            let header = self.wal.frame_header(frame, self.page_size)?;
            let Some(header) = header.filter(|header| header.salt == self.salt || header.is_unchecksummed()) else {
                return Ok(None);
            };
            if !pages.add(frame, header.page, header.commit) {
                return Ok(None);
            }
        }
        Ok(Some(pages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pages at the last commit of these frames, each a page and the size of the database if it commits.
    fn of(pages: WalPages, frames: &[(u32, u32)]) -> (Vec<(u32, u32)>, Vec<u32>) {
        let mut pages = pages;
        for (frame, (page, commit)) in (1..).zip(frames) {
            assert!(pages.add(frame, *page, *commit));
        }
        let mut newest: Vec<(u32, u32)> = pages.newest.into_iter().collect();
        newest.sort_unstable();
        (newest, pages.blank.into_iter().collect())
    }

    #[test]
    fn frame_beyond_a_commit_is_no_old_page_after_regrowth() {
        let wal = |frames: &[(u32, u32)]| of(WalPages::default(), frames);
        assert_eq!(wal(&[(1, 3), (2, 3)]), (vec![(1, 1), (2, 2)], vec![]));
        // A transaction spills page 9, rolls that back and ends with three pages; the next one grows over the place.
        assert_eq!(wal(&[(9, 0), (1, 3), (10, 10)]), (vec![(1, 2), (10, 3)], (4..=9).collect()));
        assert_eq!(wal(&[(1, 3), (9, 0), (1, 3), (10, 10)]), (vec![(1, 3), (10, 4)], (4..=9).collect()));
        // What is written there is there, and a cut takes what is blank away.
        assert_eq!(wal(&[(1, 3), (6, 6), (4, 6)]), (vec![(1, 1), (4, 3), (6, 2)], vec![5]));
        assert_eq!(wal(&[(1, 3), (6, 6), (1, 4)]), (vec![(1, 3)], vec![4]));
        // How long the database was before the first commit is not known; then whatever the file has is as good.
        assert_eq!(wal(&[(8, 8)]), (vec![(8, 1)], vec![]));
        let known = WalPages::before(6, BTreeSet::from([2]));
        assert_eq!(of(known, &[(8, 8)]), (vec![(8, 1)], vec![2, 7]));
    }

    #[test]
    fn pages_without_bound_are_not_kept() {
        assert!(!WalPages::before(1, BTreeSet::new()).add(1, u32::MAX, 0));
    }
}

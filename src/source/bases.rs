//! The pages of a database as they were right before the frames that are copied, and the database checksum that they keep up.
//!
//! Where the base of a frame is, and why it is never a guess:
//!
//! 1. Zeros, where the database was not that long, or grew over the page without writing it.
//! 2. The newest frame of the page in this WAL, among those that were copied. While a pin is held they stay where they are.
//! 3. The database file, if no frame behind the copied ones can have been written there: a checkpoint says how far it will
//!    go before it goes there, so that is asked for *after* the page was read.
//!
//!
//! After a recovery of the WAL no checkpoint has said anything. So a start that reads the whole database to compare it keeps
//! the pages of what it is about to copy: they are what is stored, if the comparison holds, whatever happens to the file.
//!
//! Else the base is not known, and neither is the checksum from then on: frames are stored whole until a snapshot or a
//! comparison makes it known again.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{Ordering, fence};

use rusqlite::Connection;

use crate::error::Result;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::differences::Composer;
use crate::format::position::PageSize;
use crate::format::running_checksum::RunningChecksum;
use crate::format::wal::{FRAME_HEADER, FrameHeader, Salt};
use crate::source::connection;
use crate::source::wal_file::WalFile;
use crate::source::wal_index::WalIndex;

/// Pages that have frames in one WAL, at most: about 4.5 MiB of memory. A longer WAL is stored whole.
const MOST_PAGES: usize = 458_752;
/// Bytes of pages that are kept from a start until they are copied, at most.
const MOST_EARLY: usize = 4 << 20;
/// Pages that the database grew over without writing them, at most.
const MOST_BLANK: usize = 65_536;

/// What is known of the database at the place that was copied to.
#[derive(Debug)]
pub(super) struct Bases {
    running: RunningChecksum,
    /// The sum is that of the database. If not, it lacks what the database had when it was begun.
    known: bool,
    newest: HashMap<u32, u32>,
    /// Pages that nobody has written since the database grew over them. What the file has there may be of an older time.
    blank: BTreeSet<u32>,
    early: EarlyPages,
    page: Vec<u8>,
}

/// Pages that have frames which are not copied yet, as they were when a start read the database.
#[derive(Clone, Debug, Default)]
pub(super) struct EarlyPages {
    /// Those that are not read yet are empty.
    pages: HashMap<u32, Vec<u8>>,
    bytes: usize,
}

/// Where the pages of a database are at a commit, by the frames of its WAL alone.
#[derive(Debug, Default)]
pub(super) struct WalPages {
    /// The last frame of each page that is written and not cut off.
    pub(super) newest: HashMap<u32, u32>,
    /// Pages that a commit has cut off, or that were never there, and that the database grew over without writing them. An older
    /// frame of such a page may stand in the WAL or in the file: SQLite never reads it, and what is stored has zeros.
    pub(super) blank: BTreeSet<u32>,
    /// Known from the first commit on.
    extent: Option<u32>,
    highest: u32,
}

impl WalPages {
    /// Adds the next frame. False if there are too many pages.
    fn add(&mut self, frame: u32, page: u32, commit: u32) -> bool {
        if !self.grow(page.saturating_sub(1)) {
            return false;
        }
        self.extent = self.extent.map(|extent| extent.max(page));
        self.highest = self.highest.max(page);
        self.blank.remove(&page);
        self.newest.insert(page, frame);
        if commit != 0 {
            if !self.grow(commit) {
                return false;
            }
            if commit < self.highest {
                self.newest.retain(|page, _| *page <= commit);
                self.blank.split_off(&commit.saturating_add(1));
            }
            (self.extent, self.highest) = (Some(commit), commit);
        }
        self.newest.len() <= MOST_PAGES
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
}

/// The files that pages are read from.
pub(super) struct Files<'a> {
    pub(super) wal: &'a WalFile,
    pub(super) index: &'a WalIndex,
    pub(super) connection: &'a Connection,
    pub(super) page_size: PageSize,
    pub(super) salt: Salt,
}

impl Bases {
    /// At a commit of a database of so many pages, of which `newest` has the last frame of each page in the WAL. `sum` is its
    /// checksum; none where that will be known later.
    pub(super) fn new(
        page_size: PageSize,
        sum: Option<DatabaseChecksum>,
        pages: u32,
        newest: HashMap<u32, u32>,
        blank: BTreeSet<u32>,
    ) -> Bases {
        Bases {
            running: RunningChecksum::known(page_size, sum.unwrap_or_default(), pages),
            known: sum.is_some(),
            newest,
            blank,
            early: EarlyPages::default(),
            page: vec![0; page_size.get() as usize],
        }
    }

    /// The same with pages that were read before.
    pub(super) fn with(self, early: EarlyPages) -> Bases {
        Bases { early, ..self }
    }

    /// The checksum; none where it is not known.
    pub(super) fn sum(&self) -> Option<DatabaseChecksum> {
        self.known.then_some(self.running.sum())
    }

    /// What was counted since this was begun, where the checksum is not known; the checksum where it is.
    pub(super) fn counted(&self) -> DatabaseChecksum {
        self.running.sum()
    }

    /// The checksum of the database where this was begun has become known.
    pub(super) fn begun_at(&mut self, sum: DatabaseChecksum) {
        if !self.known {
            self.running = self.running.moved_by(sum);
            self.known = true;
        }
    }

    /// Pages of which the file may hold something else than what is stored.
    pub(super) fn blank(&self) -> BTreeSet<u32> {
        self.blank.clone()
    }

    /// What further frames add to: the pages that are blank here.
    pub(super) fn wal_pages(&self) -> WalPages {
        let extent = self.running.extent();
        WalPages { blank: self.blank(), extent: Some(extent), highest: extent, ..WalPages::default() }
    }

    /// Another WAL has begun: all frames of the one before are in the file.
    pub(super) fn restart(&mut self) {
        self.newest = HashMap::new();
    }

    /// Takes frames, of which the first is frame `first`, and adds them to `composer`. False if a base is not known: then
    /// nothing is any more.
    pub(super) fn take(&mut self, files: &Files, first: u32, frames: &[u8], composer: &mut Composer) -> Result<bool> {
        let mut old = std::mem::take(&mut self.page);
        let mut taken = true;
        for (number, frame) in (first..).zip(frames.chunks_exact(files.page_size.frame())) {
            taken = self.frame(files, number, frame, composer, &mut old)?;
            if !taken {
                break;
            }
        }
        self.page = old;
        Ok(taken)
    }

    fn frame(
        &mut self,
        files: &Files,
        number: u32,
        frame: &[u8],
        composer: &mut Composer,
        old: &mut [u8],
    ) -> Result<bool> {
        let (Some(header), Some(new)) = (FrameHeader::first(frame), frame.get(FRAME_HEADER..)) else {
            return Ok(false);
        };
        if header.page == 0 || !self.base(files, number, header.page, old)? {
            return Ok(false);
        }
        if self.known {
            composer.frame(frame, old);
        }
        if !self.grow(header.page - 1) {
            return Ok(false);
        }
        self.running.frame(header.page, old, new);
        self.blank.remove(&header.page);
        self.early.pages.remove(&header.page);
        self.newest.insert(header.page, number);
        let kept = header.commit == 0 || self.commit(files, number, header.commit, old)?;
        Ok(kept && self.newest.len() <= MOST_PAGES)
    }

    /// Pages up to this one are there, whether they are written or not. False if they are too many.
    fn grow(&mut self, pages: u32) -> bool {
        let more = pages.saturating_sub(self.running.extent()) as usize;
        if more + self.blank.len() > MOST_BLANK {
            return false;
        }
        self.blank.extend(self.running.extent().saturating_add(1)..=pages);
        true
    }

    fn commit(&mut self, files: &Files, number: u32, pages: u32, page: &mut [u8]) -> Result<bool> {
        if !self.grow(pages) {
            return Ok(false);
        }
        let (mut running, mut found, cut) = (self.running, true, pages < self.running.extent());
        let mut read = |gone: u32, page: &mut [u8]| {
            found &= self.base(files, number.saturating_add(1), gone, page)?;
            Ok(())
        };
        running.commit(pages, &mut read, page)?;
        self.running = running;
        if cut {
            self.newest.retain(|page, _| *page <= pages);
            self.early.pages.retain(|page, _| *page <= pages);
            self.blank.split_off(&pages.saturating_add(1));
        }
        Ok(found)
    }

    /// Fills `page` with the page of this number as it was before frame `before`. False if that is not known.
    fn base(&self, files: &Files, before: u32, number: u32, page: &mut [u8]) -> Result<bool> {
        if number > self.running.extent() || self.blank.contains(&number) {
            page.fill(0);
            return Ok(true);
        }
        if let Some(frame) = self.newest.get(&number) {
            return files.wal.page(*frame, files.page_size, page);
        }
        match self.early.pages.get(&number).filter(|early| early.len() == page.len()) {
            Some(early) => page.copy_from_slice(early),
            None => return files.in_file(before, number, page),
        }
        Ok(true)
    }
}

impl EarlyPages {
    /// A frame of this page is to be copied.
    fn want(&mut self, page: u32) {
        self.pages.insert(page, Vec::new());
    }

    /// This is what the page holds.
    pub(super) fn keep(&mut self, number: u32, page: &[u8]) {
        let Some(kept) = self.pages.get_mut(&number).filter(|kept| kept.is_empty()) else { return };
        if self.bytes + page.len() <= MOST_EARLY {
            self.bytes += page.len();
            kept.extend_from_slice(page);
        }
    }
}

impl Files<'_> {
    /// Reads from `number` on what the database file has. False if frame `before` or a later one may be in there.
    fn in_file(&self, before: u32, number: u32, pages: &mut [u8]) -> Result<bool> {
        let at = u64::from(number.saturating_sub(1)) * u64::from(self.page_size.get());
        connection::read_file(self.connection, at, pages)?;
        fence(Ordering::SeqCst);
        let progress = self.index.progress();
        Ok(progress.salt == self.salt && progress.attempted < before && progress.backfilled < before)
    }

    /// The pages of the frames behind frame `after` up to frame `upto`, of which nothing is read yet.
    pub(super) fn early(&self, after: u32, upto: u32) -> Result<EarlyPages> {
        let mut early = EarlyPages::default();
        for frame in after.saturating_add(1)..=upto {
            self.wal.frame_header(frame, self.page_size)?.iter().for_each(|header| early.want(header.page));
        }
        Ok(early)
    }

    /// What the frames behind frame `after` up to frame `upto` add to `pages`; none if the WAL is not what it should be, or too
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
    fn a_frame_behind_the_end_of_a_commit_is_of_no_page_when_the_database_grows_again() {
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
        let known = WalPages { extent: Some(6), highest: 6, blank: BTreeSet::from([2]), ..WalPages::default() };
        assert_eq!(of(known, &[(8, 8)]), (vec![(8, 1)], vec![2, 7]));
    }

    #[test]
    fn pages_without_bound_are_not_kept() {
        let mut pages = WalPages { extent: Some(1), ..WalPages::default() };
        assert!(!pages.add(1, u32::MAX, 0));
    }
}

//! The pages of a database as they were right before the frames that are copied, and the database checksum that they keep up.
//!
//! Where the base of a frame is, and why it is never a guess:
//!
//! 1. The newest frame of the page in this WAL, among those that were copied. While a pin is held they stay where they are.
//! 2. Zeros, where the database was not that long, or grew over the page without writing it.
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

    /// The checksum of the database where this was begun has become known.
    pub(super) fn begun_at(&mut self, sum: DatabaseChecksum) {
        if !self.known {
            self.running = self.running.moved_by(sum);
            self.known = true;
        }
    }

    /// What is not lost where counting begins anew.
    pub(super) fn into_blank(self) -> BTreeSet<u32> {
        self.blank
    }

    /// Whether the file may hold something else in a page than what is stored.
    pub(super) fn blank(&self) -> impl Iterator<Item = u32> {
        self.blank.iter().copied()
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
        if let Some(frame) = self.newest.get(&number) {
            return files.wal.page(*frame, files.page_size, page);
        }
        if number > self.running.extent() || self.blank.contains(&number) {
            page.fill(0);
            return Ok(true);
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

    /// The last frame of each page up to frame `upto`; none if the WAL is not what it should be, or too long.
    pub(super) fn newest(&self, upto: u32) -> Result<Option<HashMap<u32, u32>>> {
        let (mut newest, mut pages) = (HashMap::new(), 0);
        for frame in 1..=upto {
            let header = self.wal.frame_header(frame, self.page_size)?;
            let Some(header) = header.filter(|header| header.salt == self.salt || header.is_unchecksummed()) else {
                return Ok(None);
            };
            newest.insert(header.page, frame);
            if header.commit != 0 {
                if header.commit < pages {
                    newest.retain(|page, _| *page <= header.commit);
                }
                pages = header.commit;
            }
            if newest.len() > MOST_PAGES {
                return Ok(None);
            }
        }
        Ok(Some(newest))
    }
}

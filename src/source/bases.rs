//! The pages of a database as they were right before the frames that are copied, and the database checksum that they keep up.
//!
//! Where the base of a frame is, and why it is never a guess:
//!
//! 1. Zeros, where the database was not that long, or grew over the page without writing it.
//! 2. The newest frame of the page in this WAL, among those that were copied. While a pin is held they stay where they are.
//! 3. The database file, if no frame after the copied ones can have been written there: a checkpoint says how far it will
//!    go before it goes there, so that is asked for *after* the page was read.
//!
//! After a recovery of the WAL no checkpoint has said anything. So a start that reads the whole database to compare it keeps
//! the pages of what it is about to copy: they are what is stored, if the comparison holds, whatever happens to the file.
//!
//! Else the base is not known, and neither is the checksum from then on: frames are stored whole until a snapshot or a
//! comparison makes it known again.

use std::collections::HashMap;

use crate::error::Result;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::differences::Composer;
use crate::format::position::PageSize;
use crate::format::running_checksum::RunningChecksum;
use crate::format::wal::{FRAME_HEADER, FrameHeader};
use crate::source::compared_pages::ComparedPages;
use crate::source::wal_pages::{PageFiles, WalPages};

/// Bytes of pages that are kept from a start until they are copied, at most.
const MOST_EARLY: usize = 4 << 20;

/// What is known of the database at the place that was copied to.
#[derive(Debug)]
pub(super) struct Bases {
    running: RunningChecksum,
    /// The sum is that of the database. If not, it lacks what the database had when it was begun.
    known: bool,
    pages: WalPages,
    early: EarlyPages,
    compared: ComparedPages,
}

/// Pages that have frames which are not copied yet, as they were when a start read the database.
#[derive(Clone, Debug, Default)]
pub(super) struct EarlyPages {
    /// Those that are not read yet are empty.
    pages: HashMap<u32, Vec<u8>>,
    bytes: usize,
}

impl Bases {
    /// At a commit of a database of so many pages, which are where `found` says. `sum` is its checksum; none where that will
    /// be known later.
    pub(super) fn new(page_size: PageSize, sum: Option<DatabaseChecksum>, pages: u32, found: WalPages) -> Bases {
        Bases {
            running: RunningChecksum::known(page_size, sum.unwrap_or_default(), pages),
            known: sum.is_some(),
            pages: found,
            early: EarlyPages::default(),
            compared: ComparedPages::new(page_size),
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

    /// The number of pages.
    pub(super) fn extent(&self) -> u32 {
        self.running.extent()
    }

    /// The checksum of the database where this was begun has become known.
    pub(super) fn begun_at(&mut self, sum: DatabaseChecksum) {
        if !self.known {
            self.running = self.running.moved_by(sum);
            self.known = true;
        }
    }

    /// Where the pages are.
    pub(super) fn pages(&self) -> &WalPages {
        &self.pages
    }

    /// How far a comparison has come.
    pub(super) fn compared(&self) -> ComparedPages {
        self.compared
    }

    pub(super) fn set_compared(&mut self, compared: ComparedPages) {
        self.compared = compared;
    }

    /// Another WAL has begun: all frames of the one before are in the file.
    pub(super) fn restart(&mut self) {
        self.pages.restart();
    }

    /// Takes frames, of which the first is frame `first`, and adds them to `composer`. False if a base is not known: then
    /// nothing is any more.
    pub(super) fn take(
        &mut self,
        files: &PageFiles,
        first: u32,
        frames: &[u8],
        composer: &mut Composer,
    ) -> Result<bool> {
        let mut old = vec![0; files.page_size.get() as usize];
        for (number, frame) in (first..).zip(frames.chunks_exact(files.page_size.frame())) {
            if !self.frame(files, number, frame, composer, &mut old)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn frame(
        &mut self,
        files: &PageFiles,
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
        if !self.pages.write(number, header.page) {
            return Ok(false);
        }
        let before = self.running;
        self.running.frame(header.page, old, new);
        self.compared.follow(header.page, &before, &self.running);
        self.early.pages.remove(&header.page);
        Ok(header.commit == 0 || self.commit(files, number, header.commit, old)?)
    }

    fn commit(&mut self, files: &PageFiles, number: u32, pages: u32, page: &mut [u8]) -> Result<bool> {
        let (mut running, mut compared, mut found) = (self.running, self.compared, true);
        let mut read = |gone: u32, page: &mut [u8]| {
            found &= self.base(files, number.saturating_add(1), gone, page)?;
            Ok(())
        };
        compared.cut(pages, &mut read, page)?;
        running.commit(pages, &mut read, page)?;
        if pages < self.running.extent() {
            self.early.pages.retain(|page, _| *page <= pages);
        }
        (self.running, self.compared) = (running, compared);
        Ok(self.pages.commit(pages) && found)
    }

    /// Fills `page` with the page of this number as it was before frame `before`. False if that is not known.
    fn base(&self, files: &PageFiles, before: u32, number: u32, page: &mut [u8]) -> Result<bool> {
        if number > self.running.extent() || self.pages.is_blank(number) {
            page.fill(0);
            return Ok(true);
        }
        if let Some(frame) = self.pages.frame(number) {
            return files.wal.page(frame, files.page_size, page);
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
    fn request_page(&mut self, page: u32) {
        self.pages.insert(page, Vec::new());
    }

    /// Whether a frame is to be copied of a page that `is` true of.
    pub(super) fn has_any(&self, is: impl Fn(u32) -> bool) -> bool {
        self.pages.keys().any(|page| is(*page))
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

impl PageFiles<'_> {
    /// The pages of the frames after frame `after` up to frame `upto`, of which nothing is read yet.
    pub(super) fn early(&self, after: u32, upto: u32) -> Result<EarlyPages> {
        let mut early = EarlyPages::default();
        for frame in after.saturating_add(1)..=upto {
            self.wal.frame_header(frame, self.page_size)?.iter().for_each(|header| early.request_page(header.page));
        }
        Ok(early)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use crate::source::border::tests::{copied, known, run, snapshot_of};
    use crate::source::tests::Live;
    use crate::source::{Comparison, Source};

    fn settle(source: &mut Source) {
        (0..4).for_each(|_| source.finish_round(Instant::now()).map(|_| ()).unwrap());
    }

    /// What one transaction does is seen at once, so that the database shrinks and grows within one member.
    #[test]
    fn checksum_follows_every_page_size_and_auto_vacuum() {
        let fill = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<30)
                    INSERT INTO t SELECT randomblob(1900) FROM n;";
        let kinds = [(512, "NONE", 0), (1024, "FULL", 8), (4096, "INCREMENTAL", 32), (16_384, "NONE", 255)];
        let kinds =
            kinds.into_iter().chain([(32_768, "FULL", 0), (65_536, "INCREMENTAL", 12), (512, "INCREMENTAL", 4)]);
        for (page_size, vacuum, reserved) in kinds {
            let live = Live::of(&format!("kind-{page_size}-{vacuum}"), page_size, vacuum, reserved);
            let spill = "PRAGMA cache_size = 5; PRAGMA synchronous = OFF; PRAGMA busy_timeout = 0;";
            run(&live, spill);
            let mut source = known(&live);
            assert_eq!(source.page_size().get(), page_size);
            let steps = [
                fill.to_string(),
                format!("DELETE FROM t WHERE rowid > 5; PRAGMA incremental_vacuum; {fill}"),
                format!("BEGIN; {fill} ROLLBACK; BEGIN; SAVEPOINT a; {fill} ROLLBACK TO a; {fill} COMMIT;"),
                "PRAGMA wal_checkpoint(PASSIVE);".to_string(),
                format!("DELETE FROM t WHERE rowid % 2; VACUUM; {fill} DELETE FROM t; PRAGMA incremental_vacuum;"),
                "PRAGMA wal_checkpoint(PASSIVE);".to_string(),
                format!("{fill} DELETE FROM t WHERE rowid < 9;"),
            ];
            for (step, sql) in steps.iter().enumerate() {
                run(&live, sql);
                assert_ne!(copied(&mut source), Some(false), "{page_size} {vacuum}, step {step}");
                settle(&mut source);
                let sum = snapshot_of(&mut source).0;
                assert_eq!(source.checksum(), Some(sum), "{page_size} {vacuum} {reserved}, step {step}: {sql}");
                let mut buffer = vec![0; 4 << 20];
                assert_eq!(
                    source.compare(&mut buffer).unwrap(),
                    Comparison::Equal,
                    "{page_size} {vacuum}, step {step}"
                );
            }
        }
    }
}

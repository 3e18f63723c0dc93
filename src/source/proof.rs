//! Whether the database, at the place where a copy goes on, is what is stored: read whole, at a gigabyte a second or so.

use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::running_checksum::RunningChecksum;
use crate::source::Source;
use crate::source::bases::{Bases, EarlyPages};
use crate::source::wal_pages::{PageFiles, WalPages};

/// How far a database has been read.
#[derive(Debug)]
pub struct StateCheck {
    pages: u32,
    expected: DatabaseChecksum,
    running: Option<RunningChecksum>,
    /// What the WAL says up to the place.
    wal: WalPages,
    early: EarlyPages,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// It is what is stored.
    Equal,
    /// Something has written past SQLite, or the disk has failed. Or the database has shrunk and grown again, within one WAL, over
    /// a page that nobody has written since: what is stored has zeros there, and the file what was there before. While a copy
    /// goes on it knows those pages; a start after the next WAL does not. That is rare, and a snapshot has what the file has,
    /// so that it comes once.
    Differs,
    /// A checkpoint may have written what was committed since over pages that are not in the WAL before that.
    Unknown,
}

impl StateCheck {
    /// Of a database of so many pages, which should have this checksum.
    pub fn new(pages: u32, expected: DatabaseChecksum) -> StateCheck {
        StateCheck { pages, expected, running: None, wal: WalPages::default(), early: EarlyPages::default() }
    }
}

impl Source {
    /// Compares the database at the place with what is stored, a buffer at each call; none: there is more to read. If it is
    /// equal, the pages before a frame are known from then on.
    pub fn prove(&mut self, check: &mut StateCheck, buffer: &mut [u8]) -> Result<Option<Proof>> {
        fault::point("source.prove")?;
        let running = match check.running {
            Some(running) => running,
            None => match self.wal_pages()? {
                Some(wal) => {
                    check.wal = wal;
                    check.early = self.early_pages(self.copied.position.frame)?;
                    RunningChecksum::new(self.copied.position.page_size)
                }
                None => return Ok(Some(Proof::Unknown)),
            },
        };
        let Some(running) = self.add_pages(check, running, buffer)? else { return Ok(Some(Proof::Unknown)) };
        check.running = Some(running);
        if running.extent() < check.pages {
            return Ok(None);
        }
        if running.sum() != check.expected {
            return Ok(Some(if self.may_be_further(check) { Proof::Unknown } else { Proof::Differs }));
        }
        let (found, early) = (std::mem::take(&mut check.wal), std::mem::take(&mut check.early));
        let blank = found.blank().clone();
        let (size, sum) = (self.copied.position.page_size, Some(check.expected));
        let bases = Bases::new(size, sum, check.pages, found.at(check.pages, blank)).with(early);
        self.content.bases = Some(bases).filter(|_| self.options.differences);
        Ok(Some(Proof::Equal))
    }

    /// Whether the file may be further than the place: a checkpoint may have gone on, or been under way when the machine stopped,
    /// with a page that is in no frame before. Where the first pin was on READ0, the WAL may have been restarted over the
    /// frames that were read.
    fn may_be_further(&self, check: &StateCheck) -> bool {
        let progress = self.files.index.progress();
        let written = progress.attempted.max(progress.backfilled) > self.copied.position.frame;
        progress.salt != self.copied.position.chain.salt()
            || (written && check.early.has_any(|page| !check.wal.knows(page)))
    }

    /// The pages of what is committed after frame `after` of the WAL, to be read.
    pub(super) fn early_pages(&self, after: u32) -> Result<EarlyPages> {
        let Some(wal) = &self.files.wal else { return Ok(EarlyPages::default()) };
        let (page_size, salt) = (self.copied.position.page_size, self.copied.header_at_open.salt);
        let files =
            PageFiles { wal, index: &self.files.index, connection: self.pins.idle_connection(), page_size, salt };
        files.early(after, self.copied.header_at_open.frames)
    }

    /// What the WAL says up to the place; none where that is not known.
    fn wal_pages(&self) -> Result<Option<WalPages>> {
        match (self.copied.position.frame, self.page_files()) {
            (0, _) => Ok(Some(WalPages::default())),
            (_, None) => Ok(None),
            (frame, Some(files)) => files.wal_pages(WalPages::default(), 0, frame),
        }
    }

    /// Reads on; none if what a page was is not known any more.
    fn add_pages(
        &self,
        check: &mut StateCheck,
        running: RunningChecksum,
        buffer: &mut [u8],
    ) -> Result<Option<RunningChecksum>> {
        let size = self.copied.position.page_size.get() as usize;
        let Some(files) = self.page_files() else { return Ok(None) };
        let mut running = running;
        let first = running.extent() + 1;
        let count = (check.pages - running.extent()).min(u32::try_from(buffer.len() / size).unwrap_or(u32::MAX));
        let bytes = buffer.get_mut(..count as usize * size).unwrap_or_default();
        if !files.pages(&check.wal, first, bytes)? {
            return Ok(None);
        }
        for (number, page) in (first..).zip(bytes.chunks_exact(size)) {
            check.early.keep(number, page);
            running.push(page);
        }
        if count == 0 && running.extent() < check.pages {
            return Err(Error::new(Kind::Database, "compare the database: a buffer smaller than a page"));
        }
        Ok(Some(running))
    }
}

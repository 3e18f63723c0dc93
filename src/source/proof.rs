//! Whether the database, at the place where a copy goes on, is what is stored: read whole, at a gigabyte a second or so.

use std::collections::{BTreeSet, HashMap};

use crate::error::{Error, Kind, Result};
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::running_checksum::RunningChecksum;
use crate::source::Source;
use crate::source::bases::{Bases, EarlyPages, Files};
use crate::source::connection;

/// How far a database has been read.
#[derive(Debug)]
pub struct StateCheck {
    pages: u32,
    expected: DatabaseChecksum,
    running: Option<RunningChecksum>,
    /// The last frame of each page up to the place.
    newest: HashMap<u32, u32>,
    early: EarlyPages,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// It is what is stored.
    Equal,
    Differs,
    /// A checkpoint has written what was committed since over pages that are not in the WAL before that.
    Unknown,
}

impl StateCheck {
    /// Of a database of so many pages, which should have this checksum.
    pub fn new(pages: u32, expected: DatabaseChecksum) -> StateCheck {
        StateCheck { pages, expected, running: None, newest: HashMap::new(), early: EarlyPages::default() }
    }
}

impl Source {
    /// Compares the database at the place with what is stored, a buffer at each call; none: there is more to read. If it is
    /// equal, the pages before a frame are known from then on.
    pub fn prove(&mut self, check: &mut StateCheck, buffer: &mut [u8]) -> Result<Option<Proof>> {
        let running = match check.running {
            Some(running) => running,
            None => match self.newest_frames()? {
                Some(newest) => {
                    check.newest = newest;
                    check.early = self.early_pages(self.position.frame)?;
                    RunningChecksum::new(self.position.page_size)
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
            // A checkpoint may have gone further than the place, or been under way when the machine stopped.
            let progress = self.index.progress();
            let further = self.header_at_open.frames > self.position.frame
                && progress.attempted.max(progress.backfilled) > self.position.frame;
            return Ok(Some(if further { Proof::Unknown } else { Proof::Differs }));
        }
        let (newest, early) = (std::mem::take(&mut check.newest), std::mem::take(&mut check.early));
        let (size, sum) = (self.position.page_size, Some(check.expected));
        self.bases = Some(Bases::new(size, sum, check.pages, newest, BTreeSet::new()).with(early))
            .filter(|_| self.options.differences);
        Ok(Some(Proof::Equal))
    }

    /// The pages of what is committed behind frame `after` of the WAL, to be read.
    pub(super) fn early_pages(&self, after: u32) -> Result<EarlyPages> {
        let Some(wal) = &self.wal else { return Ok(EarlyPages::default()) };
        let (page_size, salt) = (self.position.page_size, self.header_at_open.salt);
        let files = Files { wal, index: &self.index, connection: self.pins.idle_connection(), page_size, salt };
        files.early(after, self.header_at_open.frames)
    }

    fn newest_frames(&self) -> Result<Option<HashMap<u32, u32>>> {
        match (self.position.frame, self.files()) {
            (0, _) => Ok(Some(HashMap::new())),
            (_, None) => Ok(None),
            (frame, Some(files)) => files.newest(frame),
        }
    }

    /// Reads on; none if what a page was is not known any more.
    fn add_pages(
        &self,
        check: &mut StateCheck,
        running: RunningChecksum,
        buffer: &mut [u8],
    ) -> Result<Option<RunningChecksum>> {
        let size = self.position.page_size.get() as usize;
        let Some(files) = self.files() else { return Ok(None) };
        let mut running = running;
        let first = running.extent() + 1;
        let count = (check.pages - running.extent()).min(u32::try_from(buffer.len() / size).unwrap_or(u32::MAX));
        let bytes = buffer.get_mut(..count as usize * size).unwrap_or_default();
        let at = u64::from(first - 1) * size as u64;
        connection::read_file(files.connection, at, bytes)?;
        for (number, page) in (first..).zip(bytes.chunks_exact_mut(size)) {
            let known = match check.newest.get(&number) {
                Some(frame) => files.wal.page(*frame, self.position.page_size, page)?,
                None => true,
            };
            if !known {
                return Ok(None);
            }
            check.early.keep(number, page);
            running.push(page);
        }
        if count == 0 && running.extent() < check.pages {
            return Err(Error::new(Kind::Database, "compare the database: a buffer smaller than a page"));
        }
        Ok(Some(running))
    }
}

//! The end of a run: the checksums of all pages are left for the next start, which may need them to tell what has changed.
//!
//! The database is read whole for that, once all of it is stored, where anything was committed since they were written. It
//! takes no longer than [`END_TIMEOUT`]: what is not written by then would spare a full snapshot, and is no reason to wait.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::backup::page_sums_file;
use crate::clock::Clock;
use crate::error::Result;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::page_sums::{PageSums, SummedState};
use crate::replica::replicator::open_database::TIME_SLICE;
use crate::source::Source;
use crate::source::snapshot::Snapshot;

/// How long the end of a run may take for it.
const END_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct PageSumsKeeper {
    meta: PathBuf,
    since: Option<Instant>,
    reading: Option<(Snapshot, PageSums)>,
    over: bool,
}

impl PageSumsKeeper {
    pub(super) fn new(meta: PathBuf) -> PageSumsKeeper {
        PageSumsKeeper { meta, since: None, reading: None, over: false }
    }

    /// Whether the end of the run may come.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The database is let go.
    pub(super) fn close(&mut self) {
        self.reading = None;
    }

    /// All that `source` has given out is stored, and the run ends.
    ///
    /// Errors: of the database, or of the file. The end of the run is not held up by them.
    pub(super) fn poll(&mut self, source: &mut Source, buffer: &mut [u8], clock: &dyn Clock) -> Result<()> {
        if self.over {
            return Ok(());
        }
        let now = clock.now();
        let since = *self.since.get_or_insert(now);
        let polled = self.advance(source, buffer, clock);
        self.over = !matches!(polled, Ok(false)) || now.saturating_duration_since(since) >= END_TIMEOUT;
        if self.over {
            self.reading = None;
        }
        polled.map(|_| ())
    }

    /// True if there is no more to do.
    fn advance(&mut self, source: &mut Source, buffer: &mut [u8], clock: &dyn Clock) -> Result<bool> {
        let Some(checksum) = source.checksum() else { return Ok(true) };
        let Some((snapshot, sums)) = &mut self.reading else { return self.begin(source, checksum) };
        let turn = clock.now() + TIME_SLICE;
        while clock.now() < turn {
            let count = snapshot.read(buffer)?;
            if count == 0 {
                let here = snapshot.mark() == source.start() && sums.checksum() == checksum;
                if here {
                    page_sums_file::write(&self.meta, sums, source.stamp()?.inode())?;
                }
                self.reading = None;
                return Ok(here);
            }
            let none = PageSums::new(sums.page_size());
            for page in buffer.get(..count).unwrap_or_default().chunks_exact(sums.page_size().get() as usize) {
                sums.push(page, &none);
            }
        }
        Ok(false)
    }

    fn begin(&mut self, source: &mut Source, checksum: DatabaseChecksum) -> Result<bool> {
        let Some(mut snapshot) = source.snapshot(&self.meta)? else { return Ok(false) };
        let (page_size, pages) = (source.page_size(), snapshot.pages());
        let state = SummedState { page_size, pages, checksum, inode: source.stamp()?.inode() };
        if page_sums_file::are_of(&self.meta, &state) {
            return Ok(true);
        }
        snapshot.read_once();
        self.reading = Some((snapshot, PageSums::new(page_size)));
        Ok(false)
    }
}

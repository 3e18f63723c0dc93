//! The checksums of all pages are left for the next start, which may need them to tell what has changed: at the end of a run,
//! and now and then before, since a run may be killed.
//!
//! The database is read whole for that, where anything was committed since they were written. The end of a run takes no longer
//! for it than [`END_TIMEOUT`]: what is not written by then would spare a full snapshot, and is no reason to wait. Of all
//! databases of a process, one is read at a time while it runs.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::backup::page_sums_file;
use crate::clock::Clock;
use crate::error::Result;
use crate::fault;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::page_sums::{PageSums, SummedCommit, SummedState};
use crate::format::position::Position;
use crate::replica::replicator::open_database::TIME_SLICE;
use crate::source::Source;
use crate::source::snapshot::Snapshot;

/// How long the end of a run may take for it.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// From the start of a run to the first time: one that ends soon has little to keep.
const FIRST: Duration = Duration::from_secs(300);
/// From one time to the next. What was stored since the last one is fetched by a start that needs it.
const INTERVAL: Duration = Duration::from_secs(86_400);
/// Until it is tried again, where something was committed at that moment or another database has its turn.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct PageSumsKeeper {
    meta: PathBuf,
    /// While the run goes on: not before this.
    due: Instant,
    /// Since when the run has been ending.
    ending: Option<Instant>,
    reading: Option<SumsRead>,
    over: bool,
}

/// The pages of one commit, which is at `positions`.
struct SumsRead {
    snapshot: Snapshot,
    sums: PageSums,
    expected: DatabaseChecksum,
    positions: Vec<Position>,
    _turn: Option<Rc<()>>,
}

impl PageSumsKeeper {
    pub(super) fn new(meta: PathBuf, now: Instant) -> PageSumsKeeper {
        PageSumsKeeper { meta, due: now + FIRST, ending: None, reading: None, over: false }
    }

    /// Whether the end of the run may come.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether the database is being read.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// The database is let go.
    pub(super) fn close(&mut self) {
        self.reading = None;
    }

    /// The run goes on. With `positions` all that `source` has given out is stored, up to there.
    ///
    /// Errors: of the database, or of the file. It is tried again at the next time.
    pub(super) fn poll(
        &mut self,
        source: &mut Source,
        positions: Option<&[Position]>,
        (buffer, turn): (&mut [u8], &Rc<()>),
        clock: &dyn Clock,
    ) -> Result<()> {
        let now = clock.now();
        if self.reading.is_none() {
            let Some(positions) = positions.filter(|_| now >= self.due) else { return Ok(()) };
            self.due = now + RETRY;
            if Rc::strong_count(turn) > 1 {
                return Ok(());
            }
            let done = self.begin(source, positions, Some(turn.clone()));
            if !matches!(done, Ok(false)) {
                self.due = now + INTERVAL;
            }
            return done.map(|_| ());
        }
        let done = self.advance(source, buffer, clock);
        if !matches!(done, Ok(None)) {
            (self.reading, self.due) = (None, now + INTERVAL);
        }
        done.map(|_| ())
    }

    /// All that `source` has given out is stored, up to `positions`, and the run ends.
    ///
    /// Errors: of the database, or of the file. The end of the run is not held up by them.
    pub(super) fn poll_end(
        &mut self,
        source: &mut Source,
        positions: &[Position],
        buffer: &mut [u8],
        clock: &dyn Clock,
    ) -> Result<()> {
        if self.over {
            return Ok(());
        }
        let now = clock.now();
        let since = *self.ending.get_or_insert(now);
        let polled = self.advance_to_end(source, positions, buffer, clock);
        self.over = !matches!(polled, Ok(false)) || now.saturating_duration_since(since) >= END_TIMEOUT;
        if self.over {
            self.reading = None;
        }
        polled.map(|_| ())
    }

    /// True if there is no more to do.
    fn advance_to_end(
        &mut self,
        source: &mut Source,
        positions: &[Position],
        buffer: &mut [u8],
        clock: &dyn Clock,
    ) -> Result<bool> {
        let Some(checksum) = source.checksum() else { return Ok(true) };
        // Those of an earlier commit are of no use any more.
        self.reading = self.reading.take().filter(|reading| reading.expected == checksum);
        if self.reading.is_none() {
            return self.begin(source, positions, None);
        }
        let written = self.advance(source, buffer, clock)?;
        if written == Some(false) {
            self.reading = None;
        }
        Ok(written == Some(true))
    }

    /// Reads on. None: there is more. Else whether they were what they must be, and are written.
    fn advance(&mut self, source: &Source, buffer: &mut [u8], clock: &dyn Clock) -> Result<Option<bool>> {
        let Some(SumsRead { snapshot, sums, expected, positions, .. }) = &mut self.reading else {
            return Ok(Some(false));
        };
        let turn = clock.now() + TIME_SLICE;
        let none = PageSums::new(sums.page_size());
        while clock.now() < turn {
            let count = snapshot.read(buffer)?;
            if count == 0 {
                let right = sums.checksum() == *expected;
                if right {
                    fault::point("sums.write")?;
                    page_sums_file::write(&self.meta, sums, source.stamp()?.inode(), positions)?;
                }
                return Ok(Some(right));
            }
            for page in buffer.get(..count).unwrap_or_default().chunks_exact(sums.page_size().get() as usize) {
                sums.push(page, &none);
            }
        }
        Ok(None)
    }

    /// True if there is nothing to do: what is kept is of this commit, or its checksum is not known.
    fn begin(&mut self, source: &mut Source, positions: &[Position], turn: Option<Rc<()>>) -> Result<bool> {
        let Some(expected) = source.checksum() else { return Ok(true) };
        let Some(mut snapshot) = source.snapshot(&self.meta)? else { return Ok(false) };
        if snapshot.mark() != source.start() {
            return Ok(false);
        }
        let (page_size, pages) = (source.page_size(), snapshot.pages());
        let state = SummedState { page_size, pages, checksum: expected, inode: source.stamp()?.inode() };
        let kept = SummedCommit { state, positions: positions.to_vec() };
        if page_sums_file::read_state(&self.meta).as_ref() == Some(&kept) {
            return Ok(true);
        }
        snapshot.read_once();
        let (sums, positions) = (PageSums::new(page_size), kept.positions);
        self.reading = Some(SumsRead { snapshot, sums, expected, positions, _turn: turn });
        Ok(false)
    }
}

//! One database, kept stored: the steps that the poll loop calls over and over. Nothing in here waits.
//!
//! A [`Reader`] follows the database, and a [`Side`] keeps a store. The reader gives each batch of commits to every side
//! that is writing, and moves its pin only behind what all of them have taken.

mod open_database;
mod reader;
mod settings;
mod side;
mod status;

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::backup::stored_end::StoredEnd;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::source::{self, GenerationEnd, Source};
use crate::store::Store;

pub use settings::{Settings, SharedBuffers, WakeOn};
pub use side::warn_clock;
pub use status::{ReplicatorStatus, SnapshotStatus};

use open_database::{OpenDatabase, SyncResult};
use reader::{Compared, ComparingFile, Reader, ReaderStage};
use side::{Side, SideStage, SnapshotStep, ends_program};

/// One database and its store.
pub struct Replicator {
    settings: Rc<Settings>,
    name: String,
    // Dropped in this order: whoever waits for the lock finds the store free, and the connections of snapshots go before
    // that of the source.
    sides: Vec<Side>,
    reader: Reader,
    closing: bool,
}

/// A file that was replaced under its name is noticed within this time.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// After trouble with the database.
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl Replicator {
    /// Nothing is contacted or opened yet.
    pub fn new(settings: Settings, store: Rc<dyn Store>, now: Instant) -> Replicator {
        let settings = Rc::new(settings);
        Replicator {
            name: settings.path.display().to_string(),
            sides: vec![Side::new(settings.clone(), store, now)],
            reader: Reader::new(settings.clone(), now),
            closing: false,
            settings,
        }
    }

    /// What the operator calls this database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether something is under way in a store.
    pub fn has_store_work(&self) -> bool {
        self.busy_stores().next().is_some()
    }

    /// The stores in which something is under way.
    pub fn busy_stores(&self) -> impl Iterator<Item = &Rc<dyn Store>> {
        self.sides.iter().filter(|side| side.has_store_work()).map(Side::store)
    }

    /// Whether it has followed its database: until then, nothing is stored.
    pub fn has_begun(&self) -> bool {
        self.reader.begun
    }

    /// As [`Reader::check_database`].
    pub fn check_database(&mut self) -> Result<()> {
        self.reader.check_database()?;
        self.on_locked();
        Ok(())
    }

    /// As [`Reader::take_lock`].
    pub fn take_lock(&mut self) -> Result<()> {
        self.reader.take_lock()?;
        self.on_locked();
        Ok(())
    }

    fn on_locked(&mut self) {
        if self.reader.has_lock() {
            self.sides.iter_mut().for_each(Side::on_locked);
        }
    }

    /// From now on, store what is committed and come to an end.
    pub fn close(&mut self) {
        self.sides.iter_mut().for_each(Side::close);
        self.closing = true;
    }

    /// Whether everything that was committed when it was last looked at is stored, snapshot included, and nothing speaks
    /// against a restore that gives it. At the end a listing must have shown that. Behind a reconnect nothing is known
    /// until the store has been listed: it may have lost what it acknowledged.
    pub fn is_drained(&self) -> bool {
        let noting = self.reader.is_open() && self.closing && self.reader.has_lock();
        self.is_all_stored() && (!noting || self.reader.note_is_over())
    }

    fn is_all_stored(&self) -> bool {
        let caught_up = self.reader.is_caught_up();
        self.sides.iter().all(|side| side.is_all_stored(caught_up))
    }

    /// Makes progress.
    ///
    /// Errors: only those that end the program: a refused first contact, a database that can never be followed, a lock
    /// or a prefix that another process holds, reconnects that are used up. Everything else is logged and tried again.
    pub fn poll(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        let now = clock.now();
        if let ReaderStage::Open(database) = &mut self.reader.stage
            && database.skip_idle(tools, now, self.settings.monitor_interval)
            && !self.closing
        {
            return Ok(WakeOn::DatabaseWrite);
        }
        self.sides.iter_mut().for_each(|side| side.check_clock(clock.utc_now()));
        let next = self.poll_parts(tools, clock)?;
        let settled = self.reader.is_open() && self.is_all_stored();
        if settled {
            self.sides.iter_mut().for_each(|side| side.on_all_stored(clock));
            self.keep_note(clock.now());
        }
        let calm = settled && next == WakeOn::NextTick && !self.has_store_work() && !self.closing;
        self.next_wake(calm, next, tools, clock)
    }

    /// Everything is stored.
    fn keep_note(&mut self, now: Instant) {
        let position = self.sides.iter().find_map(Side::writing).map(|writing| writing.builder.end().position());
        if let Some(position) = position {
            self.reader.keep_note(&position, self.closing, now);
        }
    }

    fn next_wake(&mut self, calm: bool, next: WakeOn, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        let Some(database) = self.reader.open_database_mut() else { return Ok(next) };
        match database.update_idle(calm, tools, clock.now()) {
            Ok(true) => Ok(WakeOn::DatabaseWrite),
            Ok(false) => Ok(next),
            Err(error) => self.handle_reader_error(error, clock),
        }
    }

    /// How soon to look again where that is sooner than at the next tick: a commit is on its way, or a checkpoint of the
    /// application waits for the pin again and again.
    pub fn urgent_interval(&self) -> Option<Duration> {
        self.reader.open_database().and_then(OpenDatabase::urgent_interval)
    }

    fn poll_parts(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        if !self.reader.wait_for_lock(clock.now())? {
            return Ok(WakeOn::NextTick);
        }
        self.on_locked();
        let mut next = WakeOn::NextTick;
        for side in &mut self.sides {
            match side.poll_store(clock) {
                Ok(polled) => next = next.min(polled),
                Err(error) => side.handle_error(error, clock)?,
            }
        }
        next = next.min(self.poll_reader(tools, clock).or_else(|error| self.handle_reader_error(error, clock))?);
        next = next.min(self.poll_snapshots(tools, clock).or_else(|error| self.handle_reader_error(error, clock))?);
        let caught_up = self.reader.is_caught_up();
        for side in &mut self.sides {
            match side.poll_stored(caught_up, tools, clock) {
                Ok(polled) => next = next.min(polled),
                Err(error) => side.handle_error(error, clock)?,
            }
        }
        Ok(next)
    }

    fn poll_reader(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        if self.reader.is_open() && !self.sides.iter().any(Side::is_writing) {
            // Nobody wants what follows: no pin is held.
            self.reader.close(None);
        }
        if clock.now() < self.reader.retry_at {
            return Ok(WakeOn::NextTick);
        }
        match &self.reader.stage {
            ReaderStage::Closed => self.open(tools, clock),
            ReaderStage::Comparing(_) => self.continue_compare(tools, clock),
            ReaderStage::Open(_) => self.replicate(tools, clock),
        }
    }

    fn open(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        let now = clock.now();
        if !self.sides.iter().any(|side| side.wants_database(now)) {
            return Ok(WakeOn::NextTick);
        }
        source::check(&self.settings.path, &self.settings.source)?;
        self.take_lock()?;
        for side in &mut self.sides {
            // With the lock in hand, the spool is ours.
            if let Err(error) = side.adopt_spool(clock) {
                side.handle_error(error, clock)?;
            }
        }
        let Some(source) = self.reader.open_source(now)? else { return Ok(WakeOn::NextTick) };
        match self.newest_end(now) {
            Some((side, end)) => self.compare(self.reader.comparing(source, side, end, now), tools, clock),
            None => self.opened(source, None, clock),
        }
    }

    /// The side whose end is the newest, and that end.
    fn newest_end(&self, now: Instant) -> Option<(usize, StoredEnd)> {
        let waiting = self.sides.iter().enumerate().filter(|(_, side)| side.wants_database(now));
        waiting.filter_map(|(at, side)| Some((at, side.resumable_end()?))).max_by_key(|(_, end)| end.time)
    }

    fn continue_compare(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        // After an error it begins anew.
        match std::mem::replace(&mut self.reader.stage, ReaderStage::Closed) {
            ReaderStage::Comparing(comparing) => self.compare(comparing, tools, clock),
            _ => Ok(WakeOn::Immediately),
        }
    }

    fn compare(
        &mut self,
        comparing: Box<ComparingFile>,
        tools: &mut SharedBuffers,
        clock: &dyn Clock,
    ) -> Result<WakeOn> {
        let (side, end) = (comparing.side, comparing.end);
        match self.reader.compare(comparing, &mut tools.buffer, clock)? {
            Compared::More(comparing) => {
                self.reader.stage = ReaderStage::Comparing(comparing);
                Ok(WakeOn::Immediately)
            }
            Compared::Done(source, Ok(())) => self.opened(source, Some((side, end)), clock),
            Compared::Done(source, Err(reason)) => {
                if let Some(side) = self.sides.get_mut(side) {
                    side.refuse_end(reason);
                }
                self.opened(source, None, clock)
            }
        }
    }

    /// The database is open, and one side goes on where it was, if any does.
    fn opened(&mut self, source: Source, resumed: Option<(usize, StoredEnd)>, clock: &dyn Clock) -> Result<WakeOn> {
        let database = OpenDatabase::new(source, clock.now());
        self.reader.stage = ReaderStage::Open(Box::new(database));
        if let Some((at, end)) = resumed
            && let Some(side) = self.sides.get_mut(at).filter(|side| side.resumable_end() == Some(end))
        {
            side.continue_generation(end, clock);
        }
        let placed = self.place_sides(clock);
        self.reader.begun |= self.sides.iter().any(Side::is_writing);
        if !self.sides.iter().any(Side::is_writing) {
            self.reader.close(None);
        }
        placed
    }

    /// Those that cannot go on begin anew where the reader is.
    fn place_sides(&mut self, clock: &dyn Clock) -> Result<WakeOn> {
        let ReaderStage::Open(database) = &mut self.reader.stage else { return Ok(WakeOn::Immediately) };
        let mut next = WakeOn::Immediately;
        for side in &mut self.sides {
            let SideStage::Ready(Err(reason)) = side.stage() else { continue };
            if !side.wants_database(clock.now()) {
                continue;
            }
            let reason = reason.clone();
            if side.must_identify() {
                side.begin_to_identify(database.source.origin()?, reason);
                next = WakeOn::StoreEvent;
            } else if let Err(error) = side.start_generation(&database.source.start(), &reason, clock) {
                side.handle_error(error, clock)?;
            }
        }
        Ok(next)
    }

    fn replicate(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        let ReaderStage::Open(database) = &mut self.reader.stage else { return Ok(WakeOn::Immediately) };
        let now = clock.now();
        let mut next = WakeOn::NextTick;
        if database.checkpoint_waits(now) || now >= database.next_tick || self.closing {
            database.next_tick = now + database.poll_interval(now, self.settings.monitor_interval);
            match database.sync(tools, clock, &mut self.sides)? {
                SyncResult::Lost(reason) => return self.end_generations(&reason, clock),
                SyncResult::Again => {
                    database.next_tick = now;
                    next = WakeOn::Immediately;
                }
                SyncResult::Done => {}
            }
            self.sides.iter_mut().for_each(|side| side.close_segment(now));
        }
        if now >= database.next_file_check || self.closing {
            database.next_file_check = now + CHECK_INTERVAL;
            let wal_bytes = database.wal_bytes();
            for side in self.sides.iter_mut().filter(|side| side.is_writing()) {
                let Some(reason) = side.end_reason(wal_bytes, now) else { continue };
                next = WakeOn::Immediately;
                if let Err(error) = side.end_generation(reason, now) {
                    side.handle_error(error, clock)?;
                }
            }
            if self.sides.iter().any(Side::is_writing)
                && let Some(reason) = database.source.replaced_file(self.closing)?
            {
                return self.end_generations(&reason, clock);
            }
        }
        Ok(next)
    }

    fn poll_snapshots(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        let ReaderStage::Open(database) = &mut self.reader.stage else { return Ok(WakeOn::NextTick) };
        let mut next = WakeOn::NextTick;
        for side in &mut self.sides {
            match side.poll_snapshot(database, tools, clock)? {
                SnapshotStep::Wake(wake) => next = next.min(wake),
                SnapshotStep::DatabaseDiffers => return self.end_generations(&GenerationEnd::DatabaseDiffers, clock),
            }
        }
        Ok(next)
    }

    /// The database is the reason: no generation can go on.
    fn end_generations(&mut self, reason: &GenerationEnd, clock: &dyn Clock) -> Result<WakeOn> {
        for side in self.sides.iter_mut().filter(|side| side.is_writing()) {
            if let Err(error) = side.end_generation(reason.clone(), clock.now()) {
                side.handle_error(error, clock)?;
            }
        }
        self.reader.close(Some(reason));
        Ok(WakeOn::Immediately)
    }

    /// Decides whether an error of the database ends the program.
    fn handle_reader_error(&mut self, error: Error, clock: &dyn Clock) -> Result<WakeOn> {
        if ends_program(&error, !self.reader.begun, &self.settings) {
            return Err(error);
        }
        self.sides.iter_mut().for_each(|side| side.report(&error, clock));
        if let Some(reason) = self.replaced(error.kind()) {
            return self.end_generations(&reason, clock);
        }
        if error.kind() != Kind::DatabaseNotReady {
            // Everything is closed, and the WAL must show that it can be continued.
            self.sides.iter_mut().for_each(|side| side.wait_for_reader(clock.now()));
            self.reader.close(None);
        }
        if !self.reader.is_open() {
            self.reader.retry_at = clock.now() + RETRY_DELAY;
        }
        Ok(WakeOn::NextTick)
    }

    /// Whether the error comes of a file that is another one now.
    fn replaced(&mut self, kind: Kind) -> Option<GenerationEnd> {
        let database = self.reader.open_database_mut()?;
        if !matches!(kind, Kind::Database | Kind::DatabaseNotReady) {
            return None;
        }
        database.source.replaced_file(kind == Kind::Database).ok().flatten()
    }

    pub fn status(&self, clock: &dyn Clock) -> ReplicatorStatus {
        let mut status = self.sides.first().map(|side| side.status(clock)).unwrap_or_default();
        if let Some(database) = self.reader.open_database() {
            status.wal_frames = database.source.wal_frames().map_or(0, |(frames, _)| frames);
            status.wal_bytes = database.wal_bytes();
        }
        status
    }
}

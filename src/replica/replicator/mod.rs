//! One database, kept stored: the steps that the poll loop calls over and over. Nothing in here waits.
//!
//! A [`DatabaseReader`] follows the database, and a [`Side`] keeps a store. The reader gives each batch of commits to every side
//! that is writing, and moves its pin only past what all of them have taken.

mod comparing;
mod comparison_schedule;
mod ending;
mod idle_state;
mod incremental;
mod known_file;
mod missed_commits;
mod open_database;
mod opening;
mod page_sums_keeper;
mod reader;
mod settings;
mod side;
mod status;
mod syncing;

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::format::position::Position;
use crate::source::GenerationEnd;
use crate::store::Store;

pub use comparison_schedule::ComparisonPace;
pub use settings::{ReplicaTarget, Settings, SharedBuffers, WakeOn};
pub use side::warn_clock;
pub use status::{ReplicatorStatus, SnapshotStatus};

use idle_state::OtherWork;
use open_database::{OpenDatabase, SyncResult};
use reader::{DatabaseReader, ReaderStage};
use side::{Side, SnapshotStep};
use syncing::SyncRounds;

/// One database and its stores.
pub struct Replicator {
    settings: Rc<Settings>,
    name: String,
    // Dropped in this order: anyone who waits for the lock finds the store free, and the connections of snapshots go before
    // that of the source.
    sides: Vec<Side>,
    reader: DatabaseReader,
    closing: bool,
    /// Since the first store has answered: others are waited for, for a moment.
    answered_at: Option<Instant>,
    syncs: SyncRounds,
}

/// A file that was replaced under its name is noticed within this time.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// After an error of the database.
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl Replicator {
    /// Nothing is contacted or opened yet.
    pub fn new(settings: Settings, store: Rc<dyn Store>, now: Instant) -> Replicator {
        let only = settings.only_target(store);
        Replicator::with_replicas(settings, vec![only], now)
    }

    /// The same with several replicas, which must not share a prefix or directory.
    pub fn with_replicas(settings: Settings, replicas: Vec<ReplicaTarget>, now: Instant) -> Replicator {
        let settings = Rc::new(settings);
        Replicator {
            name: settings.path.display().to_string(),
            sides: replicas.into_iter().map(|replica| Side::new(settings.clone(), replica, now)).collect(),
            reader: DatabaseReader::new(settings.clone(), now),
            closing: false,
            answered_at: None,
            syncs: SyncRounds::default(),
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

    /// Its stores, in the order of [`Replicator::statuses`].
    pub fn stores(&self) -> impl Iterator<Item = &Rc<dyn Store>> {
        self.sides.iter().map(Side::store)
    }

    /// Whether it has followed its database: until then, nothing is stored.
    pub fn has_begun(&self) -> bool {
        self.reader.begun
    }

    /// As [`DatabaseReader::check_database`].
    pub fn check_database(&mut self) -> Result<()> {
        self.reader.check_database()?;
        self.on_locked();
        Ok(())
    }

    /// As [`DatabaseReader::take_lock`].
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
    /// against a restore that gives it. At the end a listing must have shown that. After a reconnect nothing is known
    /// until the store has been listed: it may have lost what it acknowledged.
    ///
    /// Where an application goes on committing, it is enough that what was committed when the end was asked for is stored.
    pub fn is_drained(&self) -> bool {
        let noting = self.reader.is_open() && self.closing && self.reader.has_lock();
        match self.is_all_stored() {
            true => !noting || self.reader.notes_are_over(),
            false => self.has_reached_end(),
        }
    }

    /// The same, whether or not a note is left for the next start.
    pub fn is_stored(&self) -> bool {
        self.is_all_stored() || self.has_reached_end()
    }

    fn has_reached_end(&self) -> bool {
        self.sides.iter().all(|side| side.failure().is_some() || side.has_reached_end())
    }

    fn is_all_stored(&self) -> bool {
        let caught_up = self.reader.is_caught_up();
        self.sides.iter().all(|side| side.failure().is_some() || side.is_all_stored(caught_up))
    }

    /// Whether there is a store to which nothing is written for now, though it is to others.
    pub fn has_failures(&self) -> bool {
        self.sides.iter().any(|side| side.failure().is_some())
    }

    /// What is wrong with those, at the end of a run.
    pub fn take_failures(&mut self) -> Vec<Error> {
        self.sides.iter_mut().filter_map(Side::take_failure).collect()
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
            && !self.syncs.is_pending()
        {
            return Ok(WakeOn::DatabaseWrite);
        }
        self.sides.iter_mut().for_each(|side| side.check_clock(clock.utc_now()));
        let (next, of_database) = self.poll_parts(tools, clock)?;
        self.finish_sync_round();
        let settled = self.note_what_is_stored(tools, clock);
        let reads = self.reader.is_keeping_page_sums();
        let other = OtherWork {
            calm: settled && next == WakeOn::NextTick && !self.has_store_work() && !self.closing && !reads,
            in_stores: of_database != WakeOn::Immediately && !self.closing && !reads,
            standby: self.sides.iter().any(Side::has_standby),
        };
        self.next_wake(other, next, tools, clock)
    }

    /// Whether all is stored in every store that is written to.
    fn note_what_is_stored(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> bool {
        let caught_up = self.reader.is_caught_up();
        let settled = self.reader.is_open() && self.is_all_stored();
        let mut any = false;
        for side in self.sides.iter_mut().filter(|side| side.is_writing() && side.is_all_stored(caught_up)) {
            side.on_all_stored(clock);
            any = true;
        }
        // At the end the WAL is emptied: not before all that it holds is stored everywhere.
        let positions: Vec<Position> = self.sides.iter().filter_map(Side::place_of_reader).collect();
        if settled || (any && !self.closing) {
            self.reader.keep_note(&positions, self.closing, clock.now());
        }
        self.reader.keep_page_sums(settled.then_some(positions.as_slice()), self.closing, tools, clock);
        settled
    }

    fn next_wake(
        &mut self,
        other: OtherWork,
        next: WakeOn,
        tools: &mut SharedBuffers,
        clock: &dyn Clock,
    ) -> Result<WakeOn> {
        let Some(database) = self.reader.open_database_mut() else { return Ok(next) };
        match database.update_idle(other, tools, (clock.now(), self.settings.monitor_interval)) {
            Ok(true) => Ok(WakeOn::DatabaseWrite),
            Ok(false) => Ok(next),
            Err(error) => self.handle_reader_error(error, clock),
        }
    }

    /// How soon to look again where that is sooner than at the next tick: a commit is on its way, or a checkpoint of the
    /// application waits for the pin again and again.
    pub fn urgent_interval(&self) -> Option<Duration> {
        let owed = self.sides.iter().any(Side::owes_standby);
        let database = self.reader.open_database();
        database.and_then(|database| database.urgent_interval(owed))
    }

    /// Whether there will be word of the next commit, which a standby waits for.
    pub fn listens_for_commits(&self) -> bool {
        self.reader.open_database().is_some_and(OpenDatabase::listens_for_commits)
    }

    /// When to call again, and when for the sake of the database.
    fn poll_parts(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<(WakeOn, WakeOn)> {
        if !self.reader.wait_for_lock(clock.now())? {
            return Ok((WakeOn::NextTick, WakeOn::NextTick));
        }
        self.on_locked();
        let mut next = WakeOn::NextTick;
        for at in 0..self.sides.len() {
            match self.sides.get_mut(at).map(|side| side.poll_store(clock)) {
                Some(Ok(polled)) => next = next.min(polled),
                Some(Err(error)) => self.handle_side_error(at, error, clock)?,
                None => {}
            }
        }
        let read = self.poll_reader(tools, clock).or_else(|error| self.handle_reader_error(error, clock))?;
        let snapshots = self.poll_snapshots(tools, clock).or_else(|error| self.handle_reader_error(error, clock))?;
        let of_database = read.min(snapshots);
        next = next.min(of_database);
        let caught_up = self.reader.is_caught_up();
        for at in 0..self.sides.len() {
            match self.sides.get_mut(at).map(|side| side.poll_stored(caught_up, tools, clock)) {
                Some(Ok(polled)) => next = next.min(polled),
                Some(Err(error)) => self.handle_side_error(at, error, clock)?,
                None => {}
            }
        }
        Ok((next, of_database))
    }

    fn poll_reader(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        self.close_if_unused();
        if clock.now() < self.reader.retry_at {
            return Ok(WakeOn::NextTick);
        }
        match &self.reader.stage {
            ReaderStage::Closed => self.open(tools, clock),
            ReaderStage::Comparing(_) => self.continue_compare(tools, clock),
            ReaderStage::Incremental(_) => self.continue_incremental(tools, clock),
            ReaderStage::Open(_) => Ok(self.place_sides(clock)?.min(self.replicate(tools, clock)?)),
        }
    }

    fn replicate(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        let ReaderStage::Open(database) = &mut self.reader.stage else { return Ok(WakeOn::Immediately) };
        let now = clock.now();
        let mut next = WakeOn::NextTick;
        if database.checkpoint_waits(now) || now >= database.next_tick || self.closing || self.syncs.is_due() {
            database.next_tick = now + database.poll_interval(now, self.settings.monitor_interval);
            match database.sync(tools, clock, &mut self.sides)? {
                SyncResult::Lost(reason) => return self.end_generations(&reason, clock),
                SyncResult::NoRoom => {
                    next = WakeOn::Immediately;
                    self.end_where_full(clock)?;
                }
                SyncResult::Again => {
                    database.next_tick = now;
                    next = WakeOn::Immediately;
                }
                SyncResult::Done => {}
            }
            self.begin_sync_round(now);
            self.sides.iter_mut().for_each(|side| side.close_segment(now));
        }
        self.sides.iter_mut().for_each(|side| side.close_for_standby(now));
        if self.sides.iter().any(Side::is_behind) {
            self.catch_up(tools, clock)?;
            next = WakeOn::Immediately;
        }
        let ReaderStage::Open(database) = &mut self.reader.stage else { return Ok(next) };
        if now >= database.next_file_check || self.closing {
            database.next_file_check = now + CHECK_INTERVAL;
            let wal_bytes = database.wal_bytes();
            if self.end_where(clock, |side| side.end_reason(wal_bytes, now))? {
                next = WakeOn::Immediately;
            }
            let ReaderStage::Open(database) = &mut self.reader.stage else { return Ok(next) };
            if self.sides.iter().any(Side::is_writing)
                && let Some(reason) = database.replaced_file(self.closing, tools, now)?
            {
                return self.end_generations(&reason, clock);
            }
            if !self.closing
                && let Some(reason) = database.compare(&self.name, tools, now)
            {
                return self.end_generations(&reason, clock);
            }
        }
        Ok(next)
    }

    /// Gives those that joined at an earlier position more of what they lack.
    fn catch_up(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<()> {
        let ReaderStage::Open(database) = &mut self.reader.stage else { return Ok(()) };
        let mut lost = Vec::new();
        for (at, side) in self.sides.iter_mut().enumerate().filter(|(_, side)| side.is_behind()) {
            lost.extend(database.catch_up(side, tools, clock)?.map(|reason| (at, reason)));
        }
        for (at, reason) in lost {
            self.end_one(at, reason, clock)?;
        }
        Ok(())
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

    /// Where things stand in each store.
    pub fn statuses(&self, clock: &dyn Clock) -> Vec<ReplicatorStatus> {
        let database = self.reader.open_database();
        let wal_frames = database.and_then(|database| database.source.wal_frames()).map_or(0, |(frames, _)| frames);
        let wal_bytes = database.map_or(0, OpenDatabase::wal_bytes);
        let status = |side: &Side| ReplicatorStatus { wal_frames, wal_bytes, ..side.status(clock) };
        self.sides.iter().map(status).collect()
    }

    /// Where things stand in the first store.
    pub fn status(&self, clock: &dyn Clock) -> ReplicatorStatus {
        self.statuses(clock).into_iter().next().unwrap_or_default()
    }
}

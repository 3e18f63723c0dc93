//! The way to an open database, and each side's to its place there.
//!
//! The side whose stored end is the newest goes on where the reader begins. The others join it: at the same place, or
//! after it, where the WAL still holds what they lack. A side whose end is nowhere to be found begins a new generation
//! where the reader is. One whose store answers later joins later in the same way.

use std::time::{Duration, Instant};

use crate::backup::stored_end::StoredEnd;
use crate::clock::Clock;
use crate::error::Result;
use crate::replica::replicator::Replicator;
use crate::replica::replicator::incremental::IncrementalAt;
use crate::replica::replicator::known_file::KnownFile;
use crate::replica::replicator::open_database::OpenDatabase;
use crate::replica::replicator::reader::{Compared, ComparingFile, ReaderStage};
use crate::replica::replicator::settings::{SharedBuffers, WakeOn};
use crate::replica::replicator::side::{Side, SideStage};
use crate::source::{self, GenerationEnd, MarkRelation, Source};

/// So long the first pin waits for stores that are being asked, where others have answered.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

impl Replicator {
    pub(super) fn open(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        let now = clock.now();
        if !self.sides.iter().any(|side| side.wants_database(now)) {
            return Ok(WakeOn::NextTick);
        }
        if self.waits_for_answers(now) {
            return Ok(WakeOn::StoreEvent);
        }
        source::check(&self.settings.path, &self.settings.source)?;
        self.take_lock()?;
        self.adopt_spools(clock)?;
        if self.waits_for_changes(clock)? {
            return Ok(WakeOn::StoreEvent);
        }
        let Some(source) = self.reader.open_source(now)? else { return Ok(WakeOn::NextTick) };
        match self.newest_end(now) {
            Some((side, end)) => self.compare(self.reader.comparing(source, side, end, now), tools, clock),
            None => match self.missed_end(now) {
                Some(missed) => self.begin_incremental(source, missed, tools, clock),
                None => self.opened(source, None, None, clock),
            },
        }
    }

    /// Whether a moment's patience may spare a side a new generation: its store is being asked.
    fn waits_for_answers(&mut self, now: Instant) -> bool {
        let since = *self.answered_at.get_or_insert(now);
        self.sides.iter().any(Side::is_on_its_way) && now.duration_since(since) < ANSWER_PATIENCE
    }

    /// With the lock in hand, the spools are ours.
    fn adopt_spools(&mut self, clock: &dyn Clock) -> Result<()> {
        for at in 0..self.sides.len() {
            if let Some(Err(error)) = self.sides.get_mut(at).map(|side| side.adopt_spool(clock)) {
                self.handle_side_error(at, error, clock)?;
            }
        }
        Ok(())
    }

    /// The side whose end is the newest, and that end.
    pub(super) fn newest_end(&self, now: Instant) -> Option<(usize, StoredEnd)> {
        let waiting = self.sides.iter().enumerate().filter(|(_, side)| side.wants_database(now));
        waiting.filter_map(|(at, side)| Some((at, side.resumable_end()?))).max_by_key(|(_, end)| end.time)
    }

    pub(super) fn continue_compare(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        // After an error it starts again.
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
        let (at, end) = (comparing.side, comparing.end);
        let positions = comparing.noted_positions();
        match self.reader.compare(comparing, &mut tools.buffer, clock)? {
            Compared::More(comparing) => {
                self.reader.stage = ReaderStage::Comparing(comparing);
                Ok(WakeOn::Immediately)
            }
            Compared::Done(source, Ok(())) => {
                let mark = source.start();
                let file = source.is_before_wal().then_some(KnownFile { mark, known: end.database, positions });
                self.opened(*source, Some((at, end)), file, clock)
            }
            Compared::Done(source, Err(reason)) => {
                if let Some(side) = self.sides.get_mut(at) {
                    side.refuse_end(reason);
                }
                let now = clock.now();
                // Where that one cannot go on, another may, or by what differs.
                match self.newest_end(now).or_else(|| self.missed_end(now)) {
                    Some(_) => Ok(WakeOn::Immediately),
                    None => self.opened(*source, None, None, clock),
                }
            }
        }
    }

    /// The database is open, and one side goes on where it was, if any does.
    pub(super) fn opened(
        &mut self,
        source: Source,
        resumed: Option<(usize, StoredEnd)>,
        known_file: Option<KnownFile>,
        clock: &dyn Clock,
    ) -> Result<WakeOn> {
        let mut database = OpenDatabase::new(source, clock.now(), self.settings.comparison);
        database.known_file = known_file;
        // The end of what is stored may be inside of a transaction.
        database.at_commit = resumed.is_none();
        self.reader.stage = ReaderStage::Open(Box::new(database));
        if let Some((at, end)) = resumed
            && let Some(side) = self.sides.get_mut(at).filter(|side| side.resumable_end() == Some(end))
        {
            let noted = self.reader.open_database().and_then(|database| database.known_file.as_ref());
            side.claim(noted.is_none_or(|file| file.positions.contains(&end.position())));
            side.continue_generation(end, false, clock);
        }
        let placed = self.place_sides(clock);
        self.reader.begun |= self.sides.iter().any(Side::is_writing);
        // The place moves on from here.
        self.reader.incremental = None;
        self.close_if_unused();
        placed
    }

    /// Nobody wants what follows: no pin is held.
    pub(super) fn close_if_unused(&mut self) {
        if self.reader.is_open() && !self.sides.iter().any(Side::is_writing) {
            self.answered_at = None;
            self.reader.close(None);
        }
    }

    /// Those that wait for the database join the reader.
    pub(super) fn place_sides(&mut self, clock: &dyn Clock) -> Result<WakeOn> {
        let mut next = WakeOn::NextTick;
        for at in 0..self.sides.len() {
            let ReaderStage::Open(database) = &mut self.reader.stage else { return Ok(WakeOn::Immediately) };
            let Some(side) = self.sides.get_mut(at).filter(|side| side.wants_database(clock.now())) else { continue };
            // What holds writers off is over in a moment.
            if database.source.blocks_writers() {
                continue;
            }
            let mut placed = side.adopt_spool(clock);
            if placed.is_ok() {
                resume_side(side, database, clock);
                placed = begin_side(side, database, self.reader.incremental.as_ref(), clock)?;
            }
            match placed {
                Ok(()) if side.is_writing() => next = WakeOn::Immediately,
                Ok(()) if side.has_store_work() => next = next.min(WakeOn::StoreEvent),
                Ok(()) => {}
                Err(error) => self.handle_side_error(at, error, clock)?,
            }
        }
        Ok(next)
    }
}

/// Lets a side go on after its end, if what follows that is at hand; or it says why not.
fn resume_side(side: &mut Side, database: &mut OpenDatabase, clock: &dyn Clock) {
    let Some(end) = side.resumable_end() else { return };
    let source = &database.source;
    // Every place without a WAL looks the same: there the file alone tells.
    let known = match (end.database, source.checksum()) {
        (Some(known), Some(here)) => known.checksum == here,
        _ => end.file.is_none(),
    };
    let in_file = database.known_file.as_ref().is_some_and(|file| file.is_of(&end, source));
    let Some(mark) = end.wal_mark() else { return side.refuse_end(GenerationEnd::UnknownStoredPosition) };
    match source.relation_to(&mark) {
        _ if in_file => {}
        MarkRelation::Here if known => {}
        MarkRelation::Here => return side.refuse_end(GenerationEnd::DatabaseChangedWhileNotRunning),
        MarkRelation::Behind => {}
        MarkRelation::Ahead if !database.caught_up => return,
        MarkRelation::Ahead => {
            let found = source.start().frame;
            return side.refuse_end(GenerationEnd::WalBehindStore { stored: mark.frame, found });
        }
        MarkRelation::Forked => return side.refuse_end(GenerationEnd::WalForked { frame: mark.frame }),
        MarkRelation::OtherWal => return side.refuse_end(GenerationEnd::WalRestartedWhileNotRunning),
    }
    let behind = !in_file && source.relation_to(&mark) == MarkRelation::Behind;
    let noted = || database.known_file.as_ref().is_some_and(|file| file.positions.contains(&end.position()));
    side.claim(!in_file || noted());
    side.continue_generation(end, behind, clock);
    side.trust_differences(end.database.is_some());
}

/// Lets a side that cannot go on start again where the reader is, or asks first of which database it is.
///
/// Errors: the outer one of the database, the inner one of the store.
fn begin_side(
    side: &mut Side,
    database: &mut OpenDatabase,
    incremental: Option<&IncrementalAt>,
    clock: &dyn Clock,
) -> Result<Result<()>> {
    let SideStage::Ready(Err(reason)) = side.stage() else { return Ok(Ok(())) };
    let reason = reason.clone();
    if side.must_identify() {
        side.start_identifying(database.source.origin()?, reason);
        return Ok(Ok(()));
    }
    let missed = side.missed_end();
    let found = incremental.filter(|found| missed.is_some_and(|end| found.leads_on_from(&end, &database.source)));
    match (database.at_commit, missed, found) {
        (true, Some(end), Some(found)) => {
            side.continue_by_difference(&end, found, &reason, clock);
            Ok(Ok(()))
        }
        (true, ..) => Ok(side.start_generation(&database.source.start(), &reason, clock)),
        (false, ..) => Ok(Ok(())),
    }
}

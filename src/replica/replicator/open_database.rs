//! A database that is open: copied round by round, and each batch given to all sides.

use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::Result;
use crate::replica::replicator::CHECK_INTERVAL;
use crate::replica::replicator::comparison_schedule::{ComparisonPace, DatabaseComparisonSchedule};
use crate::replica::replicator::idle_state::{IdleState, OtherWork};
use crate::replica::replicator::known_file::KnownFile;
use crate::replica::replicator::settings::SharedBuffers;
use crate::replica::replicator::side::{Packing, Side};
use crate::source::{GenerationEnd, MarkRelation, ReadResult, Source};

/// Rounds without a pause before other databases have their turn.
const MAX_ROUNDS: usize = 16;
/// Between two looks for a commit whose frames are being written.
const HOT_POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Between two looks for a checkpoint of the application that waits for the pin, where there was one a moment ago. It sleeps
/// for a millisecond at first. All writers wait for it, and SQLite gives none of them a turn in order: one that keeps
/// missing the instants between two checkpoints ends with "database is locked".
const CONTENDED_POLL_INTERVAL: Duration = Duration::from_micros(500);
const CONTENDED_TIME: Duration = Duration::from_millis(200);
/// A copy of much goes on after other databases have had their turn.
pub(super) const TIME_SLICE: Duration = Duration::from_millis(20);
/// A commit whose frames were written before there was word of writes is published within this time.
const WATCH_SETTLE_TIME: Duration = Duration::from_secs(2);

pub(super) struct OpenDatabase {
    pub(super) source: Source,
    pub(super) next_tick: Instant,
    pub(super) next_file_check: Instant,
    /// Nothing committed is left uncopied, as far as the last round saw.
    pub(super) caught_up: bool,
    /// The position is not inside of a transaction.
    pub(super) at_commit: bool,
    pub(super) known_file: Option<KnownFile>,
    idle_state: IdleState,
    /// There was word of a write and no commit yet: until then it is looked for more often.
    hot_until: Option<Instant>,
    /// A checkpoint of the application has waited for the pin: until then, the next one is looked for much more often.
    contended_until: Option<Instant>,
    pub(super) comparison: DatabaseComparisonSchedule,
}

/// How far a copy came.
enum CopyResult {
    Ended,
    /// Others have their turn now.
    More,
    Lost(GenerationEnd),
    /// Some sides take no more, and others do.
    NoRoom,
}

/// How a round ended.
pub(super) enum SyncResult {
    Done,
    Again,
    /// Some sides take no more, and others do.
    NoRoom,
    Lost(GenerationEnd),
}

impl OpenDatabase {
    pub(super) fn new(source: Source, now: Instant, comparison: Option<ComparisonPace>) -> OpenDatabase {
        OpenDatabase {
            source,
            next_tick: now,
            next_file_check: now + CHECK_INTERVAL,
            caught_up: false,
            at_commit: false,
            known_file: None,
            idle_state: IdleState::Polling,
            hot_until: None,
            contended_until: None,
            comparison: DatabaseComparisonSchedule::new(comparison, now),
        }
    }

    /// Copies what is committed, and moves the pin past it.
    pub(super) fn sync(
        &mut self,
        tools: &mut SharedBuffers,
        clock: &dyn Clock,
        sides: &mut [Side],
    ) -> Result<SyncResult> {
        self.sync_rounds(tools, clock, sides).inspect_err(|_| self.source.release_writers())
    }

    fn sync_rounds(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock, sides: &mut [Side]) -> Result<SyncResult> {
        let mut rounds = 0;
        // One that holds writers off goes on, however long it took already.
        while rounds < MAX_ROUNDS || self.source.blocks_writers() {
            rounds += 1;
            if !self.source.has_work(clock.now())? && self.caught_up {
                return Ok(SyncResult::Done);
            }
            self.caught_up = false;
            self.hot_until = None;
            match self.copy_until_current(tools, clock, sides)? {
                CopyResult::Ended => {}
                CopyResult::More => match self.locks_to_catch_up(sides, clock.now())? {
                    true => continue,
                    false => return Ok(SyncResult::Again),
                },
                CopyResult::Lost(reason) => return Ok(SyncResult::Lost(reason)),
                CopyResult::NoRoom => {
                    self.source.release_writers();
                    return Ok(SyncResult::NoRoom);
                }
            }
            if sides.iter().any(Side::is_behind) && !self.source.blocks_writers() {
                // Under the next pin the WAL might be restarted over what they lack.
                return Ok(SyncResult::Done);
            }
            if !self.source.finish_round(clock.now())? {
                return Ok(SyncResult::Done);
            }
        }
        Ok(SyncResult::Again)
    }

    /// A long WAL, little of which is not copied. What the sides that joined at an earlier position lack must stay under
    /// the pin.
    fn locks_to_catch_up(&mut self, sides: &[Side], now: Instant) -> Result<bool> {
        Ok(!sides.iter().any(Side::is_behind) && self.source.lock_to_catch_up(now)?)
    }

    /// Copies until nothing is left or no side takes more, but not for longer than a turn: unless writers are held off,
    /// other databases matter as much.
    fn copy_until_current(
        &mut self,
        tools: &mut SharedBuffers,
        clock: &dyn Clock,
        sides: &mut [Side],
    ) -> Result<CopyResult> {
        let end = clock.now() + TIME_SLICE;
        loop {
            match room(sides, clock.now()) {
                Room::Enough => {}
                Room::None => return Ok(CopyResult::Ended),
                Room::SomeOnly => return Ok(CopyResult::NoRoom),
            }
            match self.source.read(&mut tools.buffer, &mut tools.composer)? {
                ReadResult::CaughtUp => {
                    (self.caught_up, self.at_commit) = (true, true);
                    return Ok(CopyResult::Ended);
                }
                ReadResult::Broken(reason) => return Ok(CopyResult::Lost(reason)),
                ReadResult::Batch(batch) => {
                    if self.idle_state.is_at_rest() {
                        tools.inotify.read_events();
                        if !self.source.was_written() {
                            self.source.record_missed_event();
                        }
                    }
                    self.idle_state = IdleState::Polling;
                    // The wall clock is read after the wal-index, so that no commit is stamped before it happened.
                    let seen = clock.utc_now();
                    self.at_commit = !batch.part;
                    let mut packing = Packing {
                        encoder: &mut tools.encoder,
                        composer: &tools.composer,
                        levels: &mut tools.levels,
                        writers_wait: self.source.blocks_writers(),
                    };
                    for side in sides.iter_mut().filter(|side| side.is_following()) {
                        side.take(&mut packing, &batch, seen, clock);
                        side.follow_checksum(&mut self.source);
                    }
                }
            }
            if clock.now() >= end && !self.source.blocks_writers() {
                return Ok(CopyResult::More);
            }
        }
    }

    /// Gives a side that joined at an earlier position more of what it lacks. Why it cannot go on, if it cannot.
    pub(super) fn catch_up(
        &mut self,
        side: &mut Side,
        tools: &mut SharedBuffers,
        clock: &dyn Clock,
    ) -> Result<Option<GenerationEnd>> {
        let end = clock.now() + TIME_SLICE;
        while clock.now() < end {
            if side.is_full() {
                side.make_room(clock.now());
            }
            if side.is_full() {
                // The pin stays until it has what it lacks, and a checkpoint may wait for that.
                return Ok(Some(GenerationEnd::Backlog));
            }
            let Some(mark) = side.writing().and_then(|writing| writing.builder.end().wal_mark()) else {
                return Ok(Some(GenerationEnd::UnknownStoredPosition));
            };
            if self.source.relation_to(&mark) == MarkRelation::Here {
                side.stop_catching_up();
                return Ok(None);
            }
            let Some(batch) = self.source.reread(&mark, &mut tools.buffer)? else {
                return Ok(Some(GenerationEnd::WalRestartedWhileNotRunning));
            };
            let mut packing = Packing {
                encoder: &mut tools.encoder,
                composer: &tools.composer,
                levels: &mut tools.levels,
                writers_wait: false,
            };
            side.take(&mut packing, &batch, clock.utc_now(), clock);
        }
        Ok(None)
    }

    /// Hears whether there was word of a write. True if there is nothing to look at.
    pub(super) fn skip_idle(&mut self, tools: &SharedBuffers, now: Instant, tick: Duration) -> bool {
        if self.idle_state == IdleState::Polling {
            return false;
        }
        if !self.source.was_written() {
            return self.idle_state == IdleState::Idle && !tools.check_idle;
        }
        self.idle_state = IdleState::Polling;
        (self.next_tick, self.hot_until) = (now, Some(now + tick));
        // It may be word of a name that is gone, too.
        self.next_file_check = now;
        false
    }

    /// Whether the database is another one now. `closing`: there is no time for a second look.
    pub(super) fn replaced_file(
        &mut self,
        closing: bool,
        tools: &mut SharedBuffers,
        now: Instant,
    ) -> Result<Option<GenerationEnd>> {
        match closing {
            true => self.source.replaced_file(true),
            false => self.source.changed_file(&mut tools.directories, now),
        }
    }

    /// Whether a checkpoint of the application waits, so that the pin had better move now. At rest none does without word of
    /// its writes ([`crate::source::Source::watch_for_writes`]), and the next look moves the pin in any case.
    pub(super) fn checkpoint_waits(&mut self, now: Instant) -> bool {
        if self.idle_state == IdleState::Idle {
            return false;
        }
        self.contended_until = self.contended_until.filter(|until| now < *until);
        let waits = (now >= self.next_tick || self.contended_until.is_some()) && self.source.has_waiting_checkpoint();
        if waits {
            self.contended_until = Some(now + CONTENDED_TIME);
        }
        waits
    }

    /// How soon to look again, if sooner than at the next tick. `owed`: a standby waits for what was copied.
    pub(super) fn urgent_interval(&self, owed: bool) -> Option<Duration> {
        let contended = self.contended_until.map(|_| CONTENDED_POLL_INTERVAL);
        contended.or((owed || self.hot_until.is_some()).then_some(HOT_POLL_INTERVAL))
    }

    /// Whether there will be word of the next commit, which a standby waits for.
    pub(super) fn listens_for_commits(&self) -> bool {
        self.idle_state == IdleState::Listening
    }

    /// The time to the next look.
    pub(super) fn poll_interval(&mut self, now: Instant, tick: Duration) -> Duration {
        self.hot_until = self.hot_until.filter(|until| now < *until);
        if self.hot_until.is_some() { HOT_POLL_INTERVAL.min(tick) } else { tick }
    }

    /// Goes to rest if nothing else is to be done. Stays where it is if it cannot, and stays at rest while only a store has
    /// something to do. Where it is not calm and a standby waits for the next commit, there will be word of that at least.
    pub(super) fn update_idle(
        &mut self,
        other: OtherWork,
        tools: &mut SharedBuffers,
        (now, tick): (Instant, Duration),
    ) -> Result<bool> {
        self.idle_state = match self.idle_state.rest(other, self.source.was_written(), now) {
            Some(next) => {
                if next == IdleState::Idle && !self.idle_state.is_at_rest() {
                    self.source.release_memory();
                }
                next
            }
            None if other.calm && self.source.watch_for_writes(&mut tools.inotify)? => {
                IdleState::WatchArmed(now + WATCH_SETTLE_TIME)
            }
            None if self.idle_state == IdleState::Listening && other.standby && !self.source.was_written() => {
                IdleState::Listening
            }
            None if other.standby => self.listen(tools, now, tick)?,
            None => IdleState::Polling,
        };
        Ok(self.idle_state == IdleState::Idle)
    }

    /// Asks for word of the next commit. One that is on its way already is looked for.
    fn listen(&mut self, tools: &mut SharedBuffers, now: Instant, tick: Duration) -> Result<IdleState> {
        if !self.source.watch_for_commits(&mut tools.inotify) {
            return Ok(IdleState::Polling);
        }
        if self.source.expects_commit()? {
            (self.next_tick, self.hot_until) = (now, Some(now + tick));
        }
        Ok(IdleState::Listening)
    }

    /// Bytes of frames in the WAL.
    pub(super) fn wal_bytes(&self) -> u64 {
        let frames = self.source.wal_frames().map_or(0, |(frames, _)| frames);
        u64::from(frames) * self.source.page_size().frame() as u64
    }
}

/// Whether the sides that take what is read have room for more.
enum Room {
    Enough,
    /// What is committed waits in the WAL.
    None,
    SomeOnly,
}

/// One that has no room keeps others waiting for no longer than it takes to spool what it has.
fn room(sides: &mut [Side], now: Instant) -> Room {
    let following = sides.iter().filter(|side| side.is_following()).count();
    let mut full = 0;
    for side in sides.iter_mut().filter(|side| side.is_following() && side.is_full()) {
        if following > 1 {
            side.make_room(now);
        }
        full += usize::from(side.is_full());
    }
    match full {
        0 => Room::Enough,
        full if full == following => Room::None,
        _ => Room::SomeOnly,
    }
}

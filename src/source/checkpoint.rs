//! Keeping the WAL short without standing in anybody's way.
//!
//! A passive checkpoint never waits and makes nobody wait. If it leaves no frame uncopied and no commit came meanwhile, the
//! next pin is on READ0 and the next writer restarts the WAL by itself. Under a load that never pauses, the WAL is
//! checkpointed under the WRITE lock now and then: writers are held off while the last frames are copied, to us and by
//! one passive checkpoint. How many may be left then is bounded ([`LOCKED_CHECKPOINT_COPY`],
//! [`LOCKED_CHECKPOINT_BACKFILL`]): the rest goes before, while they write. RESTART is never used: it makes every writer
//! wait for the slowest reader.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::error::{Kind, Result};
use crate::fault;
use crate::format::position::PageSize;
use crate::log;
use crate::source::Source;
use crate::source::connection::{
    CheckpointMode, checkpoint, from_sqlite, open, read_schema, rollback, try_begin_write,
};
use crate::source::snapshot::ActiveSnapshots;
use crate::source::wal_file;
use crate::source::wal_index::IndexHeader;

/// A WAL of this many times the checkpoint threshold is checkpointed under the WRITE lock if passive checkpoints did not
/// get it restarted.
const LOCKED_CHECKPOINT_FACTOR: u32 = 4;
/// How long a locked checkpoint tries to become the writer before it waits for the next tick.
const LOCKED_CHECKPOINT_WAIT: Duration = Duration::from_millis(50);
/// Frames, and their bytes, that may be left to copy while writers are held off: a few milliseconds.
const LOCKED_CHECKPOINT_COPY: (u32, usize) = (256, 1 << 20);
/// Frames, and their bytes, that may be left to write back while writers are held off: some 20 ms, and the two fsyncs of
/// a checkpoint, of files that were synced a moment before.
const LOCKED_CHECKPOINT_BACKFILL: (u32, usize) = (1000, 4 << 20);
/// Times in a row that writers are held off for the pin. Each lets a checkpoint write back what came while the one before it
/// ran, which is less each time where the disk is faster than the writer.
const MAX_PASSES: u8 = 5;
/// Between two checkpoints while a reader or a steady load keeps them from finishing. Each costs an fsync or two.
const MIN_CHECKPOINT_INTERVAL: Duration = Duration::from_millis(250);
/// Between two attempts at making the file shorter.
const MIN_TRUNCATE_INTERVAL: Duration = Duration::from_secs(5);

/// What is remembered between two rounds.
#[derive(Default)]
pub(super) struct CheckpointState {
    writer: Option<Connection>,
    blocking: BlockingCheckpoint,
    last: Option<Instant>,
    last_truncate: Option<Instant>,
    /// Times in a row that writers were held off for the pin.
    passes: u8,
    /// The last one met an error of the disk, and that has been said.
    failed: bool,
    /// The -wal file was found to be short, and nothing was written to it since.
    wal_is_short: bool,
}

/// A locked checkpoint needs several rounds: what was committed before the lock was won is copied under it.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
enum BlockingCheckpoint {
    #[default]
    None,
    /// Trying to become the only writer, since then.
    AcquiringLock(Instant),
    /// We are the only writer, for as long as it takes to copy what is left and to move the pin past it.
    LockedForPin,
    /// We are the only writer, for that and for a checkpoint.
    Locked,
}

impl CheckpointState {
    pub(super) fn is_blocking(&self) -> bool {
        self.blocking != BlockingCheckpoint::None
    }

    pub(super) fn is_locked(&self) -> bool {
        matches!(self.blocking, BlockingCheckpoint::Locked | BlockingCheckpoint::LockedForPin)
    }

    /// The -wal file may have grown.
    pub(super) fn forget_wal_length(&mut self) {
        self.wal_is_short = false;
    }

    fn has_waited(&self, now: Instant, least: Duration) -> bool {
        self.last.is_none_or(|last| now.duration_since(last) >= least)
    }

    pub(super) fn is_due(&self, now: Instant, header: &IndexHeader, source: &Source) -> bool {
        let long = header.frames >= source.options.checkpoint_frames && self.has_waited(now, MIN_CHECKPOINT_INTERVAL);
        let old = source.options.checkpoint_interval.is_some_and(|least| self.has_waited(now, least));
        !header.is_backfilled() && (long || (old && self.last.is_some()))
    }
}

/// The end of a round. True if the next one should follow at once.
pub(super) fn advance(source: &mut Source, now: Instant) -> Result<bool> {
    match source.checkpoints.blocking {
        BlockingCheckpoint::Locked => return checkpoint_under_lock(source),
        BlockingCheckpoint::LockedForPin => {
            let moved = source.repin();
            release_writers(source);
            moved?;
            return passive_then_repin(source, now);
        }
        BlockingCheckpoint::AcquiringLock(since) => {
            source.repin()?;
            return try_lock_writers(source, since, now);
        }
        BlockingCheckpoint::None => source.repin()?,
    }
    let header = source.header()?;
    if source.checkpoints.last.is_none() {
        source.checkpoints.last = Some(now);
    }
    if source.checkpoints.is_due(now, &header, source) {
        return passive_then_repin(source, now);
    }
    Ok(false)
}

/// The end of a turn in which the copy has not caught up. True if writers are held off for the rest.
///
/// A writer that never pauses commits while a frame is copied, so that a round never ends by itself: the pin stays, no
/// checkpoint gets past it, and the WAL grows without bound. Where the WAL is long and little of it is left, that little is
/// copied under the lock.
pub(super) fn lock_to_catch_up(source: &mut Source, now: Instant) -> Result<bool> {
    let header = source.header()?;
    let long = header.frames >= source.options.checkpoint_frames.saturating_mul(LOCKED_CHECKPOINT_FACTOR);
    if !long || source.is_copied(&header) || !little_to_copy(source, &header) {
        return Ok(false);
    }
    // What snapshots need of a long WAL is kept before writers are held off, a slice in each turn.
    if !source.checkpoints.is_locked() && !source.active_snapshots.preserve(&header) {
        return Ok(false);
    }
    let (since, again) = match source.checkpoints.blocking {
        BlockingCheckpoint::Locked | BlockingCheckpoint::LockedForPin => return Ok(true),
        BlockingCheckpoint::AcquiringLock(since) => (since, source.checkpoints.passes < MAX_PASSES),
        BlockingCheckpoint::None => (now, false),
    };
    if little_to_backfill(source, &header) {
        try_lock_writers(source, since, now)?;
        return Ok(source.checkpoints.is_locked());
    }
    if !again && !source.checkpoints.has_waited(now, MIN_CHECKPOINT_INTERVAL) || !acquire_write_lock(source)? {
        return Ok(false);
    }
    source.checkpoints.passes = if again { source.checkpoints.passes + 1 } else { 1 };
    source.checkpoints.blocking = BlockingCheckpoint::LockedForPin;
    source.copied.all_copied = false;
    let header = source.header()?;
    if !little_to_copy(source, &header) {
        release_writers(source);
    }
    Ok(source.checkpoints.is_locked())
}

/// A passive checkpoint; if it got everything, the pin moves to READ0 so that the next writer can restart the WAL.
fn passive_then_repin(source: &mut Source, now: Instant) -> Result<bool> {
    fault::point("source.checkpoint")?;
    source.checkpoints.last = Some(now);
    checkpoint_passive(source);
    let header = source.header()?;
    if header.is_backfilled() && source.is_copied(&header) {
        source.copied.all_copied = true;
        source.repin()?;
        return Ok(false);
    }
    let most = source.options.checkpoint_frames.saturating_mul(LOCKED_CHECKPOINT_FACTOR);
    if header.frames >= most {
        return try_lock_writers(source, now, now);
    }
    Ok(false)
}

/// Tries to become the only writer. Never waits for it: a process that holds it may be waiting for our pin.
fn try_lock_writers(source: &mut Source, since: Instant, now: Instant) -> Result<bool> {
    let patient = now.duration_since(since) < LOCKED_CHECKPOINT_WAIT;
    if worth_locking(source)? && acquire_write_lock(source)? {
        source.checkpoints.blocking = BlockingCheckpoint::Locked;
        // What was committed before the lock was won is not copied yet.
        source.copied.all_copied = false;
        let header = source.header()?;
        if little_left(source, &header) {
            return Ok(true);
        }
        release_writers(source);
    }
    source.checkpoints.blocking =
        if patient { BlockingCheckpoint::AcquiringLock(since) } else { BlockingCheckpoint::None };
    Ok(patient)
}

/// Without waiting.
fn acquire_write_lock(source: &mut Source) -> Result<bool> {
    let checkpoints = &mut source.checkpoints;
    if let Some(writer) = &checkpoints.writer {
        return try_begin_write(writer);
    }
    let writer = open(&source.files.path, Duration::ZERO)?;
    read_schema(&writer)?;
    try_begin_write(checkpoints.writer.insert(writer))
}

/// Whether it is worth while to hold writers off. What can be written back while they write is, before.
fn worth_locking(source: &mut Source) -> Result<bool> {
    let header = source.header()?;
    if little_to_backfill(source, &header) {
        return Ok(true);
    }
    checkpoint_passive(source);
    let header = source.header()?;
    // A reader that holds it back would do so under the lock as well.
    Ok(little_to_backfill(source, &header))
}

fn little_left(source: &Source, header: &IndexHeader) -> bool {
    little_to_copy(source, header) && little_to_backfill(source, header)
}

fn little_to_backfill(source: &Source, header: &IndexHeader) -> bool {
    let left = header.frames.saturating_sub(header.backfilled);
    within_limit(left, source.copied.position.page_size, LOCKED_CHECKPOINT_BACKFILL)
}

fn little_to_copy(source: &Source, header: &IndexHeader) -> bool {
    let left = header.frames.saturating_sub(source.copied.position.frame);
    within_limit(left, source.copied.position.page_size, LOCKED_CHECKPOINT_COPY)
}

fn within_limit(frames: u32, size: PageSize, (most, bytes): (u32, usize)) -> bool {
    frames <= most && frames as usize <= bytes / size.frame()
}

/// Lets writers go if a locked checkpoint holds them: nothing may keep them waiting while the copy does not go on.
pub(super) fn abort(source: &mut Source) {
    if source.checkpoints.is_locked() {
        release_writers(source);
    }
}

fn release_writers(source: &mut Source) {
    if let Some(writer) = &source.checkpoints.writer {
        rollback(writer);
    }
    source.checkpoints.blocking = BlockingCheckpoint::None;
}

/// Everything is copied and nobody can write: the writer's own read lock is the pin while the old one goes and the
/// checkpoint runs, and a new pin begins before writers are let go.
fn checkpoint_under_lock(source: &mut Source) -> Result<bool> {
    fault::point("source.seal")?;
    let header = source.header()?;
    source.active_snapshots.hand_over_all(&header, &source.files.index);
    source.pins.end();
    checkpoint_passive(source);
    let sealed = source.header().and_then(|before| {
        begin_pin(source)?;
        source.active_snapshots.hand_over_all(&before, &source.files.index);
        Ok(before)
    });
    release_writers(source);
    if sealed.is_err() {
        // No pin keeps its commit any more: `Source::changed` sees to the rest.
        source.active_snapshots = ActiveSnapshots::default();
    }
    source.pin.header = sealed?;
    source.copied.all_copied = false;
    Ok(false)
}

/// Copies into the database file what can be. A disk that takes nothing any more is no reason to stop reading from it:
/// that is said once, and the next checkpoint tries again.
///
/// Not into a file that something else has written to: what became of it is told apart first.
fn checkpoint_passive(source: &mut Source) {
    if !source.may_checkpoint() {
        return;
    }
    match checkpoint(source.pins.idle_connection(), CheckpointMode::Passive) {
        Ok(_) => source.checkpoints.failed = false,
        Err(error) => {
            if !std::mem::replace(&mut source.checkpoints.failed, true) {
                log::warn("checkpoint failed, the WAL grows")
                    .field("db", source.files.path.display())
                    .error(&error)
                    .emit();
            }
        }
    }
    source.has_checkpointed();
}

/// Frames, and their bytes, that the end of a run may write back: a fraction of a second on a slow disk.
const END_BACKFILL: (u32, usize) = (4000, 16 << 20);

/// The end of a run, of which everything was given out: empties the WAL, unless that would take long or meets anybody. An
/// empty WAL has nothing that the next one to open the database would recover, and write back once more when it closes.
pub(super) fn at_end(source: &mut Source) -> Result<()> {
    let header = source.header()?;
    let left = header.frames.saturating_sub(header.backfilled);
    if header.frames == 0
        || !source.is_copied(&header)
        || !within_limit(left, source.copied.position.page_size, END_BACKFILL)
    {
        return Ok(());
    }
    checkpoint_passive(source);
    // The pin moves to READ0. A commit that comes meanwhile is safe from the TRUNCATE: it is either before the new pin, which
    // then is on another mark and makes the TRUNCATE give up, or after it, and READ0 keeps it out of the database file
    // (walCheckpoint, sqlite3.c: walBusyLock of WAL_READ_LOCK(0)).
    source.repin()?;
    let header = source.header()?;
    if header.is_backfilled() && source.is_copied(&header) && source.may_checkpoint() {
        truncate(source)?;
    }
    Ok(())
}

/// Nobody writes and no recovery can run, so a pin that is refused is refused for an instant only.
fn begin_pin(source: &Source) -> Result<()> {
    fault::point("source.repin")?;
    let mut result = source.pins.begin();
    for _ in 0..100 {
        match &result {
            Err(error) if error.kind() == Kind::DatabaseNotReady => result = source.pins.begin(),
            _ => break,
        }
    }
    result
}

/// Gives the disk back what a burst has taken. Only when everything is in the database file: our pin is then on READ0 and
/// does not count as a reader of the WAL, and an attempt that meets anybody else gives up at once.
pub(super) fn truncate_if_large(source: &mut Source, header: &IndexHeader, now: Instant) -> Result<()> {
    let Some(most) = source.options.truncate_frames else { return Ok(()) };
    let recent = source.checkpoints.last_truncate.is_some_and(|last| now.duration_since(last) < MIN_TRUNCATE_INTERVAL);
    if recent || source.checkpoints.wal_is_short || !header.is_backfilled() {
        return Ok(());
    }
    let path = wal_file::wal_path(&source.files.path);
    let length = std::fs::metadata(&path).map(|found| found.len()).unwrap_or(0);
    if length <= u64::from(most) * source.copied.position.page_size.frame() as u64 {
        source.checkpoints.wal_is_short = true;
        return Ok(());
    }
    // Where no checksum of the database is stored, its last frame is all that a start and `status` know the place by.
    let recognised_by_frame = source.keeps_checksum() && source.checksum().is_none();
    if recognised_by_frame || !source.may_checkpoint() {
        return Ok(());
    }
    source.checkpoints.last_truncate = Some(now);
    truncate(source)
}

/// Everything is in the database file, and has been given out.
fn truncate(source: &mut Source) -> Result<()> {
    fault::point("source.truncate")?;
    let patience =
        |timeout| source.pins.idle_connection().busy_timeout(timeout).map_err(|e| from_sqlite(&e, "busy_timeout"));
    patience(Duration::ZERO)?;
    let result = checkpoint(source.pins.idle_connection(), CheckpointMode::Truncate);
    patience(source.options.busy_timeout)?;
    if let Err(error) = result {
        // The copy does not depend on it, and the next attempt is seconds away.
        log::warn("cannot truncate the WAL file").field("db", source.files.path.display()).error(&error).emit();
    }
    source.has_checkpointed();
    Ok(())
}

#[cfg(test)]
mod tests;

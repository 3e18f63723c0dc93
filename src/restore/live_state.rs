//! The live database beside what is stored of it: at one commit, which both have.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::backup::checkpoint_note::CheckpointNote;
use crate::backup::find_end::find_end;
use crate::backup::owner::replaced_by;
use crate::backup::stored_end::StoredEnd;
use crate::clock::Clock;
use crate::error::Result;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::position::{Generation, WalPosition};
use crate::source::page_checksums::PageChecksums;
use crate::source::snapshot::open_rollback_snapshot;
use crate::source::{CHECKPOINT_PATIENCE, CHECKPOINT_PAUSE, GenerationEnd, Source, SourceOptions, WalMark};
use crate::store::Store;

/// How long a running `replicate` may take to store what is committed now, beyond two of its intervals.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Bytes that are read at once where the whole database must be compared.
pub(super) const BUFFER_BYTES: usize = 1 << 20;

pub(super) const NOT_STORED: &str = "a commit is not stored yet";

/// A live database at one commit.
pub struct LiveState {
    pub path: PathBuf,
    pub checksums: PageChecksums,
    pub generation: Generation,
    /// Where that commit is stored; none for a database without a WAL, which says nothing of where it stands.
    pub position: Option<WalPosition>,
    /// The checksum that is stored of it; none where that is not known.
    pub stored: Option<DatabaseChecksum>,
}

pub enum LiveMatch {
    /// There is no such file here.
    NoFile,
    /// The live database has more than is stored, or something else.
    NotStored(String),
    At(LiveState),
}

/// A live database that is to be compared with what is stored of it.
pub struct LiveDatabase<'a> {
    pub path: &'a Path,
    /// How it is read. It is not switched to WAL mode for that.
    pub options: SourceOptions,
    /// The directory of its lock; it need not be there.
    pub meta: PathBuf,
    /// The interval in which a running `replicate` stores what is committed.
    pub sync_interval: Duration,
}

impl LiveDatabase<'_> {
    /// Tries again until a running `replicate` has had the time to store what is committed; else why it cannot be done.
    pub(super) fn retry<T>(
        &self,
        clock: &dyn Clock,
        attempt: &mut dyn FnMut(Instant) -> Result<Attempt<T>>,
    ) -> Result<std::result::Result<T, String>> {
        let deadline = clock.now() + 2 * self.sync_interval + SETTLE_TIMEOUT;
        loop {
            match attempt(deadline)? {
                Attempt::Done(done) => return Ok(Ok(done)),
                Attempt::Behind(why) if clock.now() >= deadline => return Ok(Err(why)),
                Attempt::Behind(_) => clock.sleep(POLL_INTERVAL),
            }
        }
    }
}

/// Reads the live database at a commit that is stored, or will be in a moment.
pub fn read_live_state(database: &LiveDatabase, store: &Rc<dyn Store>, clock: &dyn Clock) -> Result<LiveMatch> {
    if !database.path.exists() {
        return Ok(LiveMatch::NoFile);
    }
    let met = database.retry(clock, &mut |deadline| try_once(database, store, clock, deadline))?;
    Ok(met.unwrap_or_else(LiveMatch::NotStored))
}

pub(super) enum Attempt<T> {
    Done(T),
    /// It may catch up in a moment.
    Behind(String),
}

fn try_once(
    database: &LiveDatabase,
    store: &Rc<dyn Store>,
    clock: &dyn Clock,
    deadline: Instant,
) -> Result<Attempt<LiveMatch>> {
    let found = find_end(store, clock)?;
    if let Some(other) = replaced_by(&**store, found.known.owner, (database.path, &database.meta), clock)? {
        return Ok(Attempt::Done(LiveMatch::NotStored(format!("taken over by database {other}"))));
    }
    let end = match found.end {
        Ok(end) => end,
        Err(reason @ GenerationEnd::NothingStored) => return Ok(Attempt::Behind(reason.to_string())),
        // What is damaged does not mend while we wait.
        Err(reason) => return Ok(Attempt::Done(LiveMatch::NotStored(reason.to_string()))),
    };
    let generation = end.chain_end.generation;
    let there = |image, point, stored| {
        Attempt::Done(LiveMatch::At(LiveState {
            path: database.path.to_path_buf(),
            checksums: image,
            generation,
            position: point,
            stored,
        }))
    };
    if let Some(mut snapshot) = open_rollback_snapshot(database.path, &database.options)? {
        let stored = end.database.map(|known| known.checksum);
        return Ok(there(PageChecksums::read(&mut snapshot, &mut || Ok(()))?, None, stored));
    }
    let mut source = open_source(database, clock)?;
    let note = CheckpointNote::read(&database.meta);
    if let Err(reason) = end.resume(&mut source, &note, &mut vec![0; BUFFER_BYTES])? {
        return Ok(Attempt::Behind(reason.to_string()));
    }
    if source.has_unread_restart() {
        return Ok(Attempt::Behind(NOT_STORED.to_string()));
    }
    let Some(mut snapshot) = source.snapshot(&preimage_dir(database))? else {
        return Ok(Attempt::Behind("the database is written to all the time".to_string()));
    };
    let Some((point, end)) = wait_until_stored(store, clock, &end, &snapshot.mark(), deadline, &mut source)? else {
        return Ok(Attempt::Behind(NOT_STORED.to_string()));
    };
    let stored = end.database.filter(|_| end.wal_position() == point).map(|known| known.checksum);
    Ok(there(PageChecksums::read(&mut snapshot, &mut || source.move_pin())?, Some(point), stored))
}

/// A source that no checkpoint of the application waits for, if that can be had soon.
pub(super) fn open_source(database: &LiveDatabase, clock: &dyn Clock) -> Result<Source> {
    let deadline = clock.now() + CHECKPOINT_PATIENCE;
    loop {
        let mut source = Source::open(database.path, &database.options)?;
        if clock.now() >= deadline || !source.has_waiting_checkpoint() {
            return Ok(source);
        }
        drop(source);
        clock.sleep(CHECKPOINT_PAUSE);
    }
}

/// Where pages wait that change while the database is read: nothing need have been made beside it yet.
pub(super) fn preimage_dir(database: &LiveDatabase) -> PathBuf {
    if database.meta.is_dir() { database.meta.clone() } else { std::env::temp_dir() }
}

/// Whether nothing was committed between the start of `source` and this commit.
pub(super) fn is_at_start(mark: &WalMark, source: &Source) -> bool {
    let start = source.start();
    (mark.salt, mark.frame) == (start.salt, start.frame)
}

/// Waits until a commit is stored, and keeps nobody waiting meanwhile: its position, and how far it goes then. `source` starts
/// at `end`.
pub(super) fn wait_until_stored(
    store: &Rc<dyn Store>,
    clock: &dyn Clock,
    end: &StoredEnd,
    mark: &WalMark,
    deadline: Instant,
    source: &mut Source,
) -> Result<Option<(WalPosition, StoredEnd)>> {
    let here = is_at_start(mark, source);
    let point = if here { Some(end.wal_position()) } else { end.position_in_wal(mark) };
    let Some(point) = point else { return Ok(None) };
    let mut stored = *end;
    while stored.wal_position() < point && clock.now() < deadline {
        clock.sleep(POLL_INTERVAL);
        source.move_pin()?;
        match find_end(store, clock)?.end {
            Ok(now) if now.chain_end.generation == end.chain_end.generation => stored = now,
            _ => return Ok(None),
        }
    }
    Ok((stored.wal_position() >= point).then_some((point, stored)))
}

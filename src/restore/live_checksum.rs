//! The live database beside the checksum that is stored of it: nothing of the backup is read but its end.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::backup::checkpoint_note::CheckpointNote;
use crate::backup::find_end::find_end;
use crate::backup::owner::replaced_by;
use crate::backup::stored_end::{DatabaseFingerprint, FileFingerprint, ResumeCheck, StoredEnd};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::format::crc32::Crc32;
use crate::format::running_checksum::RunningChecksum;
use crate::interrupt;
use crate::restore::live_state::{
    Attempt, BUFFER_BYTES, LiveDatabase, NOT_STORED, is_at_start, open_source, preimage_dir, wait_until_stored,
};
use crate::restore::verify::LiveComparison;
use crate::source::page_checksums::PageChecksums;
use crate::source::snapshot::{Snapshot, open_rollback_snapshot};
use crate::source::{GenerationEnd, Proof, Source};
use crate::store::Store;

/// How long an application's checkpoint waits at most while the database is read.
const MAX_CHECKPOINT_WAIT: Duration = Duration::from_secs(1);

const NO_CHECKSUM: &str = "no checksum is stored of its newest commit";
const CHANGED_SINCE: &str = "changed since the snapshot";
const UNUSED_PAGES: &str = "the checksum differs, which unused pages may explain: verify without -live can tell";

/// What was found, at the end of what is stored.
pub struct CheckedLive {
    /// None: nothing is stored, or there is nothing to compare.
    pub end: Option<StoredEnd>,
    /// Of the database, in bytes.
    pub bytes: u64,
    pub live: LiveComparison,
}

impl CheckedLive {
    fn not_compared(why: String) -> CheckedLive {
        CheckedLive { end: None, bytes: 0, live: LiveComparison::NotCompared(why) }
    }
}

/// Compares the live database with the checksum of the newest commit that is stored. A commit that a running `replicate` will
/// have stored in a moment is waited for.
///
/// Errors: of kind `Corrupt`, if it is not the same database.
pub fn check_live(database: &LiveDatabase, store: &Rc<dyn Store>, clock: &dyn Clock) -> Result<CheckedLive> {
    if !database.path.exists() {
        return Ok(CheckedLive { end: None, bytes: 0, live: LiveComparison::Gone });
    }
    let checked = database.retry(clock, &mut |deadline| try_once(database, store, clock, deadline))?;
    Ok(checked.unwrap_or_else(CheckedLive::not_compared))
}

fn try_once(
    database: &LiveDatabase,
    store: &Rc<dyn Store>,
    clock: &dyn Clock,
    deadline: Instant,
) -> Result<Attempt<CheckedLive>> {
    let found = find_end(store, clock)?;
    if let Some(other) = replaced_by(&**store, found.known.owner, (database.path, &database.meta), clock)? {
        return Ok(Attempt::Done(CheckedLive::not_compared(format!("taken over by database {other}"))));
    }
    let end = match found.end {
        Ok(end) => end,
        Err(reason @ GenerationEnd::NothingStored) => return Ok(Attempt::Behind(reason.to_string())),
        Err(reason) => return Ok(Attempt::Done(CheckedLive::not_compared(reason.to_string()))),
    };
    // Of a database without a WAL the crc32 of the file is stored.
    let Some(pages) = end.database.map(|known| known.pages).or(end.file.map(|file| file.pages)) else {
        return Ok(Attempt::Done(CheckedLive { end: Some(end), ..CheckedLive::not_compared(NO_CHECKSUM.to_string()) }));
    };
    let bytes = u64::from(pages) * u64::from(end.chain_end.page_size.get());
    let done = |live| Attempt::Done(CheckedLive { end: Some(end), bytes, live });
    if let Some(mut snapshot) = open_rollback_snapshot(database.path, &database.options)? {
        let equal = is_state(&mut snapshot, &end)?;
        let changed = || LiveComparison::NotCompared(CHANGED_SINCE.to_string());
        return Ok(done(if equal { LiveComparison::Equal } else { changed() }));
    }
    let mut source = open_source(database, clock)?;
    match read_all(&end, &mut source, &CheckpointNote::read(&database.meta), clock)? {
        ChecksumMatch::Behind(why) => return Ok(Attempt::Behind(why)),
        ChecksumMatch::Unknown => return Ok(done(LiveComparison::NotCompared(NO_CHECKSUM.to_string()))),
        ChecksumMatch::Differs => return Ok(done(differs(database, &end, &mut source)?)),
        ChecksumMatch::Equal => {}
    }
    if source.has_unread_restart() {
        return Ok(Attempt::Behind(NOT_STORED.to_string()));
    }
    let Some(snapshot) = source.snapshot(&preimage_dir(database))? else {
        return Ok(Attempt::Behind("the database is written to all the time".to_string()));
    };
    Ok(match wait_until_stored(store, clock, &end, &snapshot.mark(), deadline, &mut source)? {
        Some(_) => done(LiveComparison::Equal),
        None => Attempt::Behind(NOT_STORED.to_string()),
    })
}

/// Whether a database without a WAL is in the state at this end.
fn is_state(snapshot: &mut Snapshot, end: &StoredEnd) -> Result<bool> {
    let (pages, size) = (snapshot.pages(), snapshot.mark().page_size);
    let (mut crc, mut running, mut buffer) = (Crc32::default(), RunningChecksum::new(size), vec![0; BUFFER_BYTES]);
    loop {
        interrupt::check()?;
        let count = snapshot.read(&mut buffer)?;
        let piece = buffer.get(..count).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        crc.update(piece);
        piece.chunks_exact(size.get() as usize).for_each(|page| running.push(page));
    }
    let (crc, checksum) = (crc.finish(), running.sum());
    let of_file = end.file.is_none_or(|file| file == FileFingerprint { pages, crc });
    Ok(of_file && end.database.is_none_or(|known| known == DatabaseFingerprint { pages, checksum }))
}

enum ChecksumMatch {
    Equal,
    Differs,
    /// Nothing tells what the database should be.
    Unknown,
    /// Why it cannot be compared just now.
    Behind(String),
}

/// Reads the database as it was at the end of what is stored.
fn read_all(end: &StoredEnd, source: &mut Source, note: &CheckpointNote, clock: &dyn Clock) -> Result<ChecksumMatch> {
    let (mut check, mut buffer) = (ResumeCheck::Begin, vec![0; BUFFER_BYTES]);
    let begun = clock.now();
    loop {
        interrupt::check()?;
        if clock.now().saturating_duration_since(begun) >= MAX_CHECKPOINT_WAIT && source.has_waiting_checkpoint() {
            return Ok(ChecksumMatch::Behind("an application waits for a checkpoint".to_string()));
        }
        if let ResumeCheck::State(state) = &mut check {
            match source.prove(state, &mut buffer)? {
                None => continue,
                Some(Proof::Equal) => return Ok(ChecksumMatch::Equal),
                Some(Proof::Differs) => return Ok(ChecksumMatch::Differs),
                Some(Proof::Unknown) => return Ok(ChecksumMatch::Behind("a checkpoint went on".to_string())),
            }
        }
        let was_read = matches!(check, ResumeCheck::File(..));
        match end.resume_step(source, note, &mut check, &mut buffer)? {
            None => {}
            Some(Ok(())) => return Ok(if was_read { ChecksumMatch::Equal } else { ChecksumMatch::Unknown }),
            Some(Err(GenerationEnd::DatabaseDiffers)) => return Ok(ChecksumMatch::Differs),
            Some(Err(reason)) => return Ok(ChecksumMatch::Behind(reason.to_string())),
        }
    }
}

/// What follows where the checksum is another one. A file that grew by pages that were never written has in them what the
/// file system had, and what is stored has zeros: the checksum alone cannot tell that from damage. Which pages are unused is
/// known of the newest commit alone.
fn differs(database: &LiveDatabase, end: &StoredEnd, source: &mut Source) -> Result<LiveComparison> {
    let unused = match source.snapshot(&preimage_dir(database))? {
        Some(mut snapshot) if is_at_start(&snapshot.mark(), source) => {
            !PageChecksums::read(&mut snapshot, &mut || source.move_pin())?.free_pages.is_empty()
        }
        _ => true,
    };
    if unused {
        return Ok(LiveComparison::NotCompared(UNUSED_PAGES.to_string()));
    }
    let (at, path) = (end.position(), database.path.display());
    let what = format!("position {at}: the checksum of database {path} is not the one that is stored");
    Err(Error::new(Kind::Corrupt, what).with_hint(
        "something wrote to the database file without SQLite, or it is damaged: check it, then run litestream snapshot",
    ))
}

//! Finding out where the stored history ends, before anything is written. Never blocks.

use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use crate::backup::end_note;
use crate::backup::listing::with_incomplete;
use crate::backup::origin::{Witnesses, witnesses};
use crate::backup::stored_end::{StoredEnd, parse_end};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::format::chain::ChainBytes;
use crate::format::compaction::MAX_MERGED_BYTES;
use crate::format::generation_number::HighWaterMark;
use crate::format::key::{Key, SnapshotKey};
use crate::format::latest_restore::incomplete_object;
use crate::format::listing::{Listing, is_ltx_name};
use crate::format::plan::{ListedEnd, listed_end};
use crate::format::position::Generation;
use crate::format::time::Timestamp;
use crate::log;
use crate::source::GenerationEnd;
use crate::store::blocking::MAX_SLEEP;
use crate::store::{Chunk, Get, List, Store};

/// In bytes: no segment that is merged of others is larger, and none that was merged of nothing comes near it. What calls
/// itself the last segment and is larger is not read into memory.
const MAX_LAST_BYTES: usize = 4 * MAX_MERGED_BYTES as usize;

/// What the store knows of a database.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreSummary {
    /// No new name may be earlier, and no new generation lower.
    pub newest: HighWaterMark,
    /// When the newest snapshot that can be continued was taken.
    pub last_snapshot: Option<Timestamp>,
    /// The newest snapshot of the generation that is continued.
    pub snapshot: Option<SnapshotKey>,
    /// The snapshots that tell of which database it is, newest first.
    pub witnesses: Witnesses,
    /// The number of the newest record of an owner, if there is one.
    pub owner: Option<u32>,
    /// To how many recipients the object at its end is encrypted; 0: it is in clear, or nothing is stored.
    pub recipients: usize,
    /// What a restore of its end reads.
    pub chain: ChainBytes,
}

/// What was found.
#[derive(Debug)]
pub struct StoredHistory {
    pub known: StoreSummary,
    /// Where to continue, or why that is not possible.
    pub end: std::result::Result<StoredEnd, GenerationEnd>,
}

/// The way there, step by step.
pub struct FindEnd {
    store: Rc<dyn Store>,
    step: FindState,
    /// In the last listing.
    generations: Vec<Generation>,
    /// A listed object that was not whole. It may have been replaced meanwhile: another listing tells.
    suspect: Option<Key>,
}

enum FindState {
    Connecting,
    Listing(Box<dyn List>),
    Reading(Box<ReadingLast>),
}

struct ReadingLast {
    store: Rc<dyn Store>,
    known: StoreSummary,
    end: ListedEnd,
    get: Box<dyn Get>,
    bytes: Vec<u8>,
    /// The end that the last segment tells, while the snapshot at the same point is asked for the database there.
    segment: Option<StoredEnd>,
}

/// Finds the end, for a command that has nothing else to do meanwhile.
pub fn find_end(store: &Rc<dyn Store>, clock: &dyn Clock) -> Result<StoredHistory> {
    let mut start = FindEnd::new(store.clone());
    loop {
        if let Poll::Ready(found) = start.poll(clock.now())? {
            return Ok(found);
        }
        store.wait(MAX_SLEEP);
    }
}

impl FindEnd {
    pub fn new(store: Rc<dyn Store>) -> FindEnd {
        FindEnd { store, step: FindState::Connecting, generations: Vec::new(), suspect: None }
    }

    /// The generations that were stored when it looked.
    pub fn generations(&self) -> &[Generation] {
        &self.generations
    }

    /// Makes progress.
    ///
    /// Errors: the store's. Opening then starts again at the next poll.
    pub fn poll(&mut self, now: Instant) -> Result<Poll<StoredHistory>> {
        let polled = self.advance(now);
        if polled.is_err() {
            self.step = FindState::Connecting;
        }
        polled
    }

    fn advance(&mut self, now: Instant) -> Result<Poll<StoredHistory>> {
        if let FindState::Connecting = &self.step {
            if !self.store.connect(now)? {
                return Ok(Poll::Pending);
            }
            self.step = FindState::Listing(self.store.list_whole(""));
        }
        if let FindState::Listing(list) = &mut self.step {
            let Poll::Ready(entries) = list.poll(now)? else { return Ok(Poll::Pending) };
            let (listing, incomplete) = with_incomplete(entries);
            let lacking = incomplete_object(&listing, &incomplete);
            if lacking.is_some() && std::mem::replace(&mut self.suspect, lacking) != lacking {
                self.step = FindState::Connecting;
                return Ok(Poll::Pending);
            }
            match self.after_listing(&listing, lacking) {
                Ok(found) => return Ok(Poll::Ready(found)),
                Err(reading) => self.step = FindState::Reading(reading),
            }
        }
        match &mut self.step {
            FindState::Reading(reading) => reading.poll(now),
            _ => Ok(Poll::Pending),
        }
    }

    /// What the names alone tell, or what must be read. `lacking`: a restore would read this object, which is not whole.
    fn after_listing(
        &mut self,
        listing: &Listing,
        lacking: Option<Key>,
    ) -> std::result::Result<StoredHistory, Box<ReadingLast>> {
        let witnesses = witnesses(listing);
        let known = StoreSummary {
            newest: HighWaterMark::of(listing),
            witnesses,
            owner: listing.owner(),
            ..StoreSummary::default()
        };
        self.generations = listing.generations().map(|(generation, _)| generation).collect();
        // What is said of LTX files is the store's word.
        if let Some(name) = listing.foreign_example().filter(|name| !is_ltx_name(name)) {
            let count = listing.foreign_count();
            log::warn("objects of another program ignored").field("count", count).field("such_as", name).emit();
        }
        let end = match lacking {
            Some(key) => Err(Error::new(Kind::Corrupt, format!("object {key} is listed, but a part of it is missing"))),
            None => listed_end(listing),
        };
        match end {
            Ok(None) => Ok(StoredHistory { known, end: Err(GenerationEnd::NothingStored) }),
            Ok(Some(end)) => {
                let known = StoreSummary {
                    last_snapshot: Some(end.snapshot.time),
                    snapshot: Some(end.snapshot),
                    chain: end.bytes,
                    ..known
                };
                let get = last_object(&*self.store, &end.last);
                let store = self.store.clone();
                Err(Box::new(ReadingLast { store, known, end, get, bytes: Vec::new(), segment: None }))
            }
            Err(error) => {
                log::warn("stored history cannot be continued").error(&error).emit();
                Ok(StoredHistory { known, end: Err(GenerationEnd::StoredHistoryHasGap) })
            }
        }
    }
}

impl ReadingLast {
    fn poll(&mut self, now: Instant) -> Result<Poll<StoredHistory>> {
        loop {
            let polled = self.get.poll(now);
            self.known.recipients = self.known.recipients.max(self.get.recipients());
            let whole = match polled {
                Ok(Chunk::Pending) => return Ok(Poll::Pending),
                Ok(Chunk::Bytes(bytes)) => {
                    self.bytes.extend_from_slice(&bytes);
                    false
                }
                Ok(Chunk::End) => true,
                Err(error) => return self.unreadable(error).map(Poll::Ready),
            };
            if self.bytes.len() > MAX_LAST_BYTES {
                let what = format!("expected at most {MAX_LAST_BYTES} bytes, found more");
                return self.unreadable(Error::new(Kind::Corrupt, what)).map(Poll::Ready);
            }
            if self.known.recipients == 0 && self.store.recipients() > 0 {
                return Ok(Poll::Ready(StoredHistory { known: self.known, end: Err(GenerationEnd::NotEncrypted) }));
            }
            match self.parse(whole) {
                Ok(Some(end)) if self.knows_more_in_snapshot(&end) => self.ask_snapshot(end),
                Ok(Some(end)) => return self.found(end).map(Poll::Ready),
                Ok(None) if whole => {
                    return self.unreadable(Error::new(Kind::Corrupt, "it is cut short")).map(Poll::Ready);
                }
                Ok(None) => {}
                Err(error) => return self.unreadable(error).map(Poll::Ready),
            }
        }
    }

    /// Of an encrypted segment that cannot be read here, its writer has noted the end.
    fn parse(&self, whole: bool) -> Result<Option<StoredEnd>> {
        match &self.end.last {
            Key::Segment(key) if self.known.recipients > 0 && !self.store.can_decrypt() => {
                whole.then(|| end_note::decode(key, &self.bytes)).transpose()
            }
            _ => parse_end(&self.end, &self.bytes, whole),
        }
    }

    /// Whether the checksum of the database is known in a snapshot only: the segment that ends there was stored before that
    /// was known. It recognises the place where the WAL is gone.
    fn knows_more_in_snapshot(&self, end: &StoredEnd) -> bool {
        let segment = matches!(self.end.last, Key::Segment(_)) && end.database.is_none();
        segment && self.end.snapshot.position == self.end.end && end.wal_position() == self.end.end
    }

    fn ask_snapshot(&mut self, segment: StoredEnd) {
        self.segment = Some(segment);
        self.end.last = Key::Snapshot(self.end.snapshot);
        self.get = last_object(&*self.store, &self.end.last);
        self.bytes.clear();
    }

    fn found(&self, end: StoredEnd) -> Result<StoredHistory> {
        let end = self.segment.map_or(end, |segment| StoredEnd { database: end.database, ..segment });
        if end.wal_position() != self.end.end || end.chain_end.generation != self.end.generation {
            let what = format!("it ends at {}/{}", end.chain_end.generation, end.wal_position());
            return self.unreadable(Error::new(Kind::Corrupt, what));
        }
        Ok(StoredHistory { known: self.known, end: Ok(end) })
    }

    /// A damaged end is no reason to stop: a new generation needs nothing of it.
    fn unreadable(&self, error: Error) -> Result<StoredHistory> {
        let kind = error.kind();
        if !matches!(kind, Kind::Corrupt | Kind::NotFound | Kind::NoIdentity) {
            return Err(error);
        }
        let error = error.context(format!("object {}", self.end.last));
        if kind == Kind::NoIdentity {
            log::warn("newest stored object cannot be read here").error(&error).emit();
            // Where nothing is to be encrypted, it was never asked for a note: it is encrypted all the same.
            let known = StoreSummary { recipients: self.known.recipients.max(1), ..self.known };
            return Ok(StoredHistory { known, end: Err(GenerationEnd::Encrypted) });
        }
        log::error("newest stored object damaged").error(&error).emit();
        Ok(StoredHistory { known: self.known, end: Err(GenerationEnd::StoredHistoryHasGap) })
    }
}

/// Begins to read the object at the end, or what its writer has noted of it. A snapshot tells all with its beginning.
fn last_object(store: &dyn Store, last: &Key) -> Box<dyn Get> {
    let name = last.to_string();
    store.read_note(&name, matches!(last, Key::Segment(_))).unwrap_or_else(|| store.get(&name))
}

//! Which pages the stored segments change between an earlier commit, whose page checksums were kept, and the end of what is
//! stored. Never blocks.
//!
//! A process that was killed has left no page checksums of its last commit. Those of an earlier one hold for all pages that were
//! not changed since, and what is stored tells which ones were.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use crate::backup::stored_end::StoredEnd;
use crate::error::{Kind, Result};
use crate::format::chain::continuation;
use crate::format::changed_pages::{ChangeCollector, ChangedPages};
use crate::format::database_checksum::DatabaseFingerprint;
use crate::format::key::{Key, SegmentKey};
use crate::format::listing::{GenerationObjects, Listing};
use crate::format::position::{Position, WalPosition};
use crate::format::snapshot;
use crate::log;
use crate::store::{Chunk, Get, List, Store};

/// The part of a snapshot that is fetched at most to spare one.
const SHARE: u64 = 4;
/// However small a snapshot is, so many bytes may be.
const MIN_BYTES: u64 = 256 << 10;
/// Of a snapshot, what its header may take.
const MAX_HEADER_BYTES: usize = 256 << 10;

/// The way there, stage by stage.
pub struct ChangesSearch {
    store: Rc<dyn Store>,
    from: Position,
    end: StoredEnd,
    collector: Option<ChangeCollector>,
    stage: ChangesSearchStage,
}

enum ChangesSearchStage {
    Listing(Box<dyn List>),
    Reading { left: VecDeque<Key>, get: Option<Box<dyn Get>>, bytes: Vec<u8> },
}

impl ChangesSearch {
    /// `state` is the one whose page checksums were kept, `from` its position. Both are of one generation.
    pub fn new(store: Rc<dyn Store>, from: Position, state: DatabaseFingerprint, end: StoredEnd) -> ChangesSearch {
        let stage = ChangesSearchStage::Listing(store.list(&format!("generations/{}/", from.generation)));
        ChangesSearch { store, from, end, collector: Some(ChangeCollector::new(from.wal_position, state)), stage }
    }

    /// None: it cannot be told, or would be too much to read.
    ///
    /// Errors: the store's. It is worth nothing then.
    pub fn poll(&mut self, now: Instant) -> Result<Poll<Option<ChangedPages>>> {
        match self.advance(now) {
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::NotFound | Kind::NoIdentity) => {
                log::debug("changed pages not read from the store")
                    .field("replica", self.store.url())
                    .error(&error)
                    .emit();
                Ok(Poll::Ready(None))
            }
            polled => polled,
        }
    }

    fn advance(&mut self, now: Instant) -> Result<Poll<Option<ChangedPages>>> {
        if let ChangesSearchStage::Listing(list) = &mut self.stage {
            let Poll::Ready(entries) = list.poll(now)? else { return Ok(Poll::Pending) };
            let listing = Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)));
            let stored = listing.generation(self.from.generation);
            let needed = stored.and_then(|stored| needed(stored, self.from.wal_position, self.end.wal_position()));
            let Some(left) = needed else { return Ok(Poll::Ready(None)) };
            self.stage = ChangesSearchStage::Reading { left, get: None, bytes: Vec::new() };
        }
        loop {
            match self.read_next(now)? {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(true) => {}
                Poll::Ready(false) => break,
            }
        }
        let found = self.collector.take().zip(self.end.database);
        Ok(Poll::Ready(found.and_then(|(collector, known)| collector.finish(self.end.wal_position(), known))))
    }

    /// Reads one object. False if there is none left that matters.
    fn read_next(&mut self, now: Instant) -> Result<Poll<bool>> {
        let ChangesSearchStage::Reading { left, get, bytes } = &mut self.stage else { return Ok(Poll::Ready(false)) };
        let (Some(key), Some(collector)) = (left.front().copied(), &mut self.collector) else {
            return Ok(Poll::Ready(false));
        };
        let reading = get.get_or_insert_with(|| self.store.get(&key.to_string()));
        let whole = match reading.poll(now)? {
            Chunk::Pending => return Ok(Poll::Pending),
            Chunk::Bytes(more) => {
                bytes.extend_from_slice(&more);
                false
            }
            Chunk::End => true,
        };
        let over = match key {
            Key::Segment(key) if whole => Some(collector.add(&key, bytes)?),
            Key::Segment(_) => None,
            Key::Snapshot(_) => match snapshot::header_of(bytes)? {
                None if whole || bytes.len() > MAX_HEADER_BYTES => Some(false),
                None => None,
                Some(header) => {
                    header.fingerprint().into_iter().for_each(|known| collector.told(known));
                    Some(true)
                }
            },
        };
        if over.is_some() {
            (*get, *bytes) = (None, Vec::new());
            left.pop_front();
        }
        Ok(Poll::Ready(over.unwrap_or(true)))
    }
}

/// What has to be read: what tells the state at `from`, and the segments from there to `end`. None if they do not lead there,
/// or are too much.
fn needed(stored: &GenerationObjects, from: WalPosition, end: WalPosition) -> Option<VecDeque<Key>> {
    let way = continuation(stored, from)?;
    let (first, _) = way.first().filter(|_| way.last().is_some_and(|(key, _)| key.end == end))?;
    let before = if first.start < from { None } else { Some(telling(stored, from)?) };
    let size = |keys: &[(SegmentKey, u64)]| keys.iter().map(|(_, size)| size).sum::<u64>();
    let told = before.map_or(0, |(key, size)| if matches!(key, Key::Segment(_)) { size } else { 0 });
    let snapshot = stored.snapshots.last().map_or(0, |(_, size)| *size);
    if told + size(&way) > (snapshot / SHARE).max(MIN_BYTES) {
        return None;
    }
    let before = before.map(|(key, _)| key);
    Some(before.into_iter().chain(way.into_iter().map(|(key, _)| Key::Segment(key))).collect())
}

/// The smallest object that tells the state at a place.
fn telling(stored: &GenerationObjects, at: WalPosition) -> Option<(Key, u64)> {
    let ending = stored.segments.iter().filter(|(key, _)| key.end == at && !key.part);
    let segment = ending.min_by_key(|(_, size)| *size).map(|(key, size)| (Key::Segment(*key), *size));
    let snapshot = || stored.snapshots.iter().find(|(key, _)| key.position == at);
    segment.or_else(|| snapshot().map(|(key, size)| (Key::Snapshot(*key), *size)))
}

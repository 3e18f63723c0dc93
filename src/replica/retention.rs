//! Merging and deleting, beside the following: one operation of the store at a time, begun when nothing hurries.
//!
//! * Which segments to merge is decided from what was stored in this run; the store is listed at the start and each
//!   hour, to learn what earlier runs left and what has grown too old.
//! * A merged segment is committed before anything that it was made of is deleted, and that only after [`GRACE`]: a
//!   restore that has made its plan finds everything it needs for so long.
//! * Nothing here is in the way of storing: an error is logged, and the work is begun anew a minute later.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::key::{Key, SegmentKey};
use crate::format::listing::Listing;
use crate::format::merge;
use crate::format::retention::{Policy, decide, mistrusted, whole_way};
use crate::format::time::Timestamp;
use crate::log;
use crate::replica::jump::Watch;
use crate::replica::merge::Merge;
use crate::replica::snapshot::Progress;
use crate::store::{Delete, Entry, List, Store};

/// What a plan needs stays for so long: time to read several gigabytes over a slow line.
pub const GRACE: Duration = Duration::from_secs(600);
/// Between two listings. The peer lists each second, and its memory and the server's load grow with the history.
const EVERY: Duration = Duration::from_secs(3600);
/// From the start to the first listing: a service that fails over and over does not list each time.
const FIRST: Duration = Duration::from_secs(60);
/// After an error.
const RETRY: Duration = Duration::from_secs(60);
/// Segments of so many times the last snapshot's bytes ask for a new one,
const BEHIND_RATIO: u64 = 4;
/// but not below this, in bytes. So a restore reads at most 5 times the snapshot, or the snapshot and 64 MiB.
const BEHIND_LEAST: u64 = 64 << 20;

/// Keeps what is stored for one database few and young enough.
pub struct Keeper {
    store: Rc<dyn Store>,
    /// What the operator calls the database.
    name: String,
    policy: Policy,
    /// The segments of the newest generation that are known, neighbours all.
    chain: Vec<(SegmentKey, u64)>,
    /// Something was stored since the last look for a merge.
    grown: bool,
    /// What was merged, and when it may go.
    merged: VecDeque<(Instant, Vec<Key>)>,
    work: Work,
    next_list: Instant,
    not_before: Instant,
    watch: Watch,
    /// One pass, and no waiting.
    once: bool,
    listed: bool,
    refused: Option<&'static str>,
    operations: u64,
    snapshot_bytes: Option<u64>,
    behind_snapshot: u64,
}

enum Work {
    None,
    Listing(Box<dyn List>),
    Merging(Box<Merge>),
    Deleting(Box<dyn Delete>, usize),
}

/// Whether there is more to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// At once.
    Working,
    /// As soon as the store has something.
    Waiting,
    Nothing,
}

impl Keeper {
    /// `once` asks for one whole pass at once, which [`Keeper::is_done`] tells the end of.
    pub fn new(store: Rc<dyn Store>, name: &str, retention: Option<Duration>, once: bool, now: Instant) -> Keeper {
        Keeper {
            store,
            name: name.to_string(),
            policy: Policy { retention, grace: GRACE },
            chain: Vec::new(),
            grown: false,
            merged: VecDeque::new(),
            work: Work::None,
            next_list: if once { now } else { now + FIRST },
            not_before: now,
            watch: Watch::default(),
            once,
            listed: false,
            refused: None,
            operations: 0,
            snapshot_bytes: None,
            behind_snapshot: 0,
        }
    }

    /// The newest moment that was stored before this run: if the clock does not fit it, it is doubted.
    pub fn started(&mut self, newest: Timestamp, clock: &dyn Clock) {
        let known = newest != Timestamp::default();
        if let Some(why) = mistrusted(newest, self.policy.retention, clock.wall()).filter(|_| known) {
            self.refuse(why);
            self.watch.doubt(clock.now());
        }
    }

    /// A segment was stored.
    pub fn stored(&mut self, key: SegmentKey, bytes: u64) {
        if self.chain.last().is_some_and(|(last, _)| last.generation != key.generation) {
            self.chain.clear();
            (self.snapshot_bytes, self.behind_snapshot) = (None, 0);
        }
        self.chain.push((key, bytes));
        self.behind_snapshot += bytes;
        self.grown = true;
    }

    /// A snapshot of the newest generation was stored.
    pub fn snapshot_stored(&mut self, bytes: u64) {
        (self.snapshot_bytes, self.behind_snapshot) = (Some(bytes), 0);
    }

    /// Whether a restore would have to read too many segments.
    pub fn wants_snapshot(&self) -> bool {
        let most = |bytes: u64| bytes.saturating_mul(BEHIND_RATIO).max(BEHIND_LEAST);
        self.snapshot_bytes.is_some_and(|bytes| self.behind_snapshot > most(bytes))
    }

    /// Asks for one whole pass at once, which [`Keeper::is_done`] tells the end of.
    pub fn ask(&mut self, now: Instant) {
        (self.once, self.listed) = (true, false);
        (self.next_list, self.not_before) = (now, now);
    }

    pub fn is_busy(&self) -> bool {
        !matches!(self.work, Work::None)
    }

    /// Whether the one pass that was asked for is over.
    pub fn is_done(&self) -> bool {
        self.once && self.listed && !self.is_busy() && !self.grown
    }

    /// Lists, merges and deletes that have ended: a number that changes whenever something moves.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Makes progress.
    ///
    /// Errors: the store's, and a damaged segment. The work is given up and begun anew later.
    pub fn poll(&mut self, clock: &dyn Clock) -> Result<Kept> {
        if self.watch.look(clock) {
            self.refuse("the clock jumped");
        }
        let now = clock.now();
        if now < self.not_before {
            return Ok(Kept::Nothing);
        }
        self.advance(now, clock).inspect_err(|error| self.give_up(error, now))
    }

    fn advance(&mut self, now: Instant, clock: &dyn Clock) -> Result<Kept> {
        match &mut self.work {
            Work::None => self.choose(now),
            Work::Listing(list) => match list.poll(now)? {
                Some(entries) => self.listed(entries, clock),
                None => Ok(Kept::Waiting),
            },
            Work::Merging(merge) => match merge.poll(now)? {
                Progress::Done => Ok(self.merged(now)),
                Progress::Working => Ok(Kept::Working),
                Progress::Waiting => Ok(Kept::Waiting),
            },
            Work::Deleting(delete, count) => match delete.poll(now)? {
                true => {
                    log::debug("objects deleted").field("db", &self.name).field("count", *count).emit();
                    Ok(self.ended())
                }
                false => Ok(Kept::Waiting),
            },
        }
    }

    fn ended(&mut self) -> Kept {
        self.work = Work::None;
        self.operations += 1;
        Kept::Working
    }

    fn choose(&mut self, now: Instant) -> Result<Kept> {
        if now >= self.next_list {
            self.work = Work::Listing(self.store.list(""));
            return Ok(Kept::Waiting);
        }
        if self.merged.front().is_some_and(|(from, _)| now >= *from)
            && let Some((_, keys)) = self.merged.pop_front()
        {
            self.delete(&keys)?;
            return Ok(Kept::Waiting);
        }
        if std::mem::take(&mut self.grown)
            && let Some(places) = merge::next(&self.chain)
        {
            let group = self.chain.get(places).unwrap_or_default().to_vec();
            if let Some(key) = merge::merged(&group) {
                self.work = Work::Merging(Box::new(Merge::new(self.store.clone(), key, group)));
                self.grown = true;
                return Ok(Kept::Working);
            }
        }
        Ok(Kept::Nothing)
    }

    fn delete(&mut self, keys: &[Key]) -> Result<()> {
        fault::point("retention.delete")?;
        let names: Vec<String> = keys.iter().map(Key::to_string).collect();
        self.work = Work::Deleting(self.store.delete(names), keys.len());
        Ok(())
    }

    fn listed(&mut self, entries: Vec<Entry>, clock: &dyn Clock) -> Result<Kept> {
        let kept = self.ended();
        self.listed = true;
        self.next_list = clock.now() + EVERY;
        let listing = Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)));
        self.learn(&listing);
        if self.watch.is_doubted(clock.now()) {
            return Ok(kept);
        }
        let actions = decide(&listing, self.policy, clock.wall());
        match actions.refused {
            Some(why) => self.refuse(why),
            None => self.refused = None,
        }
        let waiting: HashSet<Key> = self.merged.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
        let delete: Vec<Key> = actions.delete.into_iter().filter(|key| !waiting.contains(key)).collect();
        if delete.is_empty() {
            return Ok(kept);
        }
        log::info("retention").field("db", &self.name).field("deleting", delete.len()).emit();
        let gone: HashSet<Key> = delete.iter().copied().collect();
        self.chain.retain(|(key, _)| !gone.contains(&Key::Segment(*key)));
        self.delete(&delete)?;
        Ok(Kept::Waiting)
    }

    /// What the listing tells of the newest generation, and behind it what was stored meanwhile.
    fn learn(&mut self, listing: &Listing) {
        let Some((generation, stored)) = listing.generations().next_back() else { return };
        if self.chain.last().is_some_and(|(key, _)| key.generation > generation) {
            return;
        }
        let Some((snapshot, bytes)) = stored.snapshots.last() else { return };
        let mut chain = whole_way(stored);
        for (key, size) in &self.chain {
            let end = chain.last().map_or(snapshot.at, |(last, _)| last.end);
            if key.generation == generation && key.start == end {
                chain.push((*key, *size));
            }
        }
        self.snapshot_bytes = Some(*bytes);
        self.behind_snapshot = chain.iter().filter(|(key, _)| key.start >= snapshot.at).map(|(_, size)| size).sum();
        self.chain = chain;
        self.grown = true;
    }

    fn merged(&mut self, now: Instant) -> Kept {
        if let Work::Merging(merge) = &self.work {
            let (key, group) = (*merge.key(), merge.group());
            log::debug("segments merged").field("db", &self.name).field("name", key).field("of", group.len()).emit();
            let begin = self.chain.iter().position(|(first, _)| Some(first) == group.first().map(|(first, _)| first));
            if let Some(begin) = begin.filter(|begin| self.chain.get(*begin..begin + group.len()) == Some(group)) {
                self.chain.splice(begin..begin + group.len(), [(key, merge.stored())]);
            }
            let keys = group.iter().map(|(key, _)| Key::Segment(*key)).collect();
            self.merged.push_back((now + GRACE, keys));
        }
        self.ended()
    }

    fn give_up(&mut self, error: &Error, now: Instant) {
        let damaged = matches!(error.kind(), Kind::Corrupt | Kind::NotFound);
        if let (Work::Merging(merge), true) = (&self.work, damaged) {
            // What is behind it can still be merged; the next listing brings it back, and with it the warning.
            let end = merge.key().end;
            self.chain.retain(|(key, _)| key.start >= end);
        }
        self.work = Work::None;
        self.not_before = now + RETRY;
        self.grown = true;
        log::warn("merging and retention put off").field("db", &self.name).cause(error).emit();
    }

    fn refuse(&mut self, why: &'static str) {
        if self.refused != Some(why) {
            log::warn("nothing is deleted").field("db", &self.name).field("reason", why).emit();
        }
        self.refused = Some(why);
    }
}

/// One whole pass over a store, for a command that has nothing else to do meanwhile.
pub fn enforce(store: &Rc<dyn Store>, name: &str, retention: Option<Duration>, clock: &dyn Clock) -> Result<()> {
    /// How long one sleep lasts at most while nothing arrives.
    const NAP: Duration = Duration::from_millis(100);
    let mut keeper = Keeper::new(store.clone(), name, retention, true, clock.now());
    while !keeper.is_done() {
        if keeper.poll(clock)? == Kept::Waiting {
            store.wait(NAP);
        }
    }
    Ok(())
}

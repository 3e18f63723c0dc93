//! Merging and deleting, beside the following: one operation of the store at a time, begun when nothing hurries.
//!
//! * Which segments to merge is decided from what was stored in this run; the store is listed at the start and each
//!   hour, to learn what earlier runs left and what has grown too old.
//! * Beside replication, merging keeps to a [`TransferBudget`]. A pass that somebody asked for does not.
//! * A merged segment is committed before anything that it was made of is deleted, and that only after [`DELETE_GRACE_PERIOD`]: a
//!   restore that has made its plan finds everything it needs for so long.
//! * Nothing here is in the way of storing: an error is logged, and the work is started again a minute later.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::compaction;
use crate::format::keep::Keep;
use crate::format::key::{Key, SegmentKey};
use crate::format::listing::Listing;
use crate::format::position::Generation;
use crate::format::retention::{Policy, clock_distrust, plan_deletions, restore_path};
use crate::format::time::Timestamp;
use crate::interrupt;
use crate::log;
use crate::log::target_name::TargetName;
use crate::replica::clock_jump::ClockJumpDetector;
use crate::replica::compaction::{Compaction, Input};
use crate::replica::sent_segments::SentSegments;
use crate::replica::snapshot_upload::UploadProgress;
use crate::replica::transfer_budget::TransferBudget;
use crate::store::{Delete, Entry, List, Store};

/// What a plan needs stays for so long: time to read several gigabytes over a slow line.
pub const DELETE_GRACE_PERIOD: Duration = Duration::from_secs(600);
/// Between two listings. The peer lists each second, and its memory and the server's load grow with the history.
const LIST_INTERVAL: Duration = Duration::from_secs(3600);
/// From the start to the first listing: a service that fails over and over does not list each time.
const FIRST_LIST_DELAY: Duration = Duration::from_secs(60);
/// After an error.
const RETRY_DELAY: Duration = Duration::from_secs(60);
/// Segments of so many times the last snapshot's bytes ask for a new one,
const SNAPSHOT_RATIO: u64 = 4;
/// but not below this, in bytes. So a restore reads at most 5 times the snapshot, or the snapshot and 64 MiB.
const SNAPSHOT_MIN_BYTES: u64 = 64 << 20;

/// What has been done since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MaintenanceResult {
    /// Segments that were merged, and what they became.
    pub merged: usize,
    pub into: usize,
    pub bytes: u64,
    /// Objects that were deleted.
    pub deleted: usize,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// What is to be done for one database.
#[derive(Clone, Copy, Debug)]
pub struct Maintenance {
    /// How long any moment stays restorable; none: for ever.
    pub retention: Option<Duration>,
    /// What is kept of a longer history, if it is thinned out: then `retention` is the longest of that.
    pub keep: Option<Keep>,
    /// Merge and delete beside replication. False: only in a pass that was asked for.
    pub compaction: bool,
    /// One whole pass at once.
    pub single_pass: bool,
}

/// Keeps what is stored for one database few and young enough.
pub struct RetentionTask {
    store: Rc<dyn Store>,
    name: TargetName,
    /// Tells its segments from those of other databases of the process.
    id: u64,
    policy: Policy,
    compaction: bool,
    budget: TransferBudget,
    /// The newest one that is known.
    generation: Option<Generation>,
    /// The segments of the newest generation that are known, neighbours all.
    chain: Vec<(SegmentKey, u64)>,
    /// Those of older generations, where all of them are merged.
    older_chains: Vec<Vec<(SegmentKey, u64)>>,
    all_generations: bool,
    /// No restore of that generation reads a segment before those.
    from_start: bool,
    /// Something was stored since the last look for a merge.
    new_segments: bool,
    /// What was merged, and when it may go.
    merged: VecDeque<(Instant, Vec<Key>)>,
    work: Operation,
    next_list: Instant,
    not_before: Instant,
    clock_jumps: ClockJumpDetector,
    /// One pass, and no waiting.
    single_pass: bool,
    listed: bool,
    /// The pass has found nothing more to do once.
    pass_over: bool,
    suspended_reason: Option<&'static str>,
    /// What the last failure said, until something has succeeded: each minute brings the same one.
    last_failure: Option<String>,
    operations: u64,
    result: MaintenanceResult,
    unreadable_logged: bool,
    /// A listing that somebody else has made, instead of the first one.
    listing: Option<Vec<Entry>>,
    snapshot_bytes: Option<u64>,
    bytes_since_snapshot: u64,
    /// A listing has told that nobody else has made a snapshot, while so much has come since the last one.
    looked_for_snapshot: bool,
}

enum Operation {
    None,
    Listing(Box<dyn List>),
    Compacting(Box<Compaction>),
    Deleting(Box<dyn Delete>, usize),
}

/// Whether there is more to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PassProgress {
    /// At once.
    Working,
    /// As soon as the store has something.
    Waiting,
    Nothing,
}

impl RetentionTask {
    /// `single_pass` asks for one whole pass at once, which [`RetentionTask::is_done`] tells the end of.
    pub fn new(store: Rc<dyn Store>, name: TargetName, what: Maintenance, now: Instant) -> RetentionTask {
        RetentionTask {
            store,
            name,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            policy: Policy { retention: what.retention, keep: what.keep, grace: DELETE_GRACE_PERIOD },
            compaction: what.compaction,
            budget: TransferBudget::default(),
            generation: None,
            chain: Vec::new(),
            older_chains: Vec::new(),
            all_generations: false,
            from_start: false,
            new_segments: false,
            merged: VecDeque::new(),
            work: Operation::None,
            next_list: if what.single_pass { now } else { now + FIRST_LIST_DELAY },
            not_before: now,
            clock_jumps: ClockJumpDetector::default(),
            single_pass: what.single_pass,
            listed: false,
            pass_over: false,
            suspended_reason: None,
            last_failure: None,
            operations: 0,
            result: MaintenanceResult::default(),
            unreadable_logged: false,
            listing: None,
            snapshot_bytes: None,
            bytes_since_snapshot: 0,
            looked_for_snapshot: false,
        }
    }

    /// The newest moment that was stored before this run: if the clock does not fit it, it is doubted.
    pub fn started(&mut self, newest: Timestamp, clock: &dyn Clock) {
        let known = newest != Timestamp::default();
        let trusted = self.policy.keep.map(|keep| keep.all).or(self.policy.retention);
        if let Some(why) = clock_distrust(newest, trusted, clock.utc_now()).filter(|_| known) {
            self.suspend(why);
            self.clock_jumps.distrust(clock.now());
        }
    }

    /// A segment was stored. Its bytes are kept for merging.
    pub fn stored(&mut self, key: SegmentKey, bytes: Vec<u8>, sent: &mut SentSegments) {
        let size = bytes.len() as u64;
        if self.compaction {
            sent.insert(self.id, key, vec![Rc::from(bytes)]);
        }
        self.budget.stored(size);
        if self.generation.replace(key.generation).is_some_and(|before| before != key.generation) {
            self.chain.clear();
            self.budget.retain(|_| false);
            self.from_start = true;
            (self.snapshot_bytes, self.bytes_since_snapshot) = (None, 0);
        }
        self.bytes_since_snapshot += size;
        // Where nothing is merged, nothing would ever shorten the chain. A pass that is asked for begins with a listing.
        if !self.compaction && !self.is_in_pass() {
            self.chain.clear();
            self.from_start = false;
            return;
        }
        self.chain.push((key, size));
        self.new_segments = true;
    }

    /// A snapshot of the newest generation was stored.
    pub fn snapshot_stored(&mut self, bytes: u64) {
        (self.snapshot_bytes, self.bytes_since_snapshot) = (Some(bytes), 0);
        self.looked_for_snapshot = false;
    }

    /// Whether a restore would have to read too many segments: `compact` has not made a snapshot of them either.
    pub fn wants_snapshot(&self) -> bool {
        self.has_grown() && self.looked_for_snapshot
    }

    /// A whole database is not stored before the store was asked whether that is needed.
    fn must_look_for_snapshot(&self) -> bool {
        self.has_grown() && !self.looked_for_snapshot
    }

    fn has_grown(&self) -> bool {
        let most = |bytes: u64| bytes.saturating_mul(SNAPSHOT_RATIO).max(SNAPSHOT_MIN_BYTES);
        self.snapshot_bytes.is_some_and(|bytes| self.bytes_since_snapshot > most(bytes))
    }

    /// Asks for one whole pass at once, which [`RetentionTask::is_done`] tells the end of.
    pub fn request_pass(&mut self, now: Instant) {
        (self.single_pass, self.listed, self.pass_over) = (true, false, false);
        (self.next_list, self.not_before) = (now, now);
    }

    pub fn is_busy(&self) -> bool {
        !matches!(self.work, Operation::None)
    }

    /// Whether the one pass that was asked for is over.
    pub fn is_done(&self) -> bool {
        self.single_pass && self.listed && !self.is_busy() && !self.new_segments
    }

    pub fn result(&self) -> MaintenanceResult {
        self.result
    }

    /// Lists, merges and deletes that have ended: a number that changes whenever something moves.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Makes progress.
    ///
    /// Errors: the store's, and a damaged segment. The work is given up and started again later.
    pub fn poll(&mut self, sent: &mut SentSegments, clock: &dyn Clock) -> Result<PassProgress> {
        if self.clock_jumps.check(clock) {
            self.suspend("the clock jumped");
        }
        let now = clock.now();
        let idle = !(self.compaction || self.is_in_pass() || self.must_look_for_snapshot() || self.is_busy());
        if now < self.not_before || idle {
            return Ok(PassProgress::Nothing);
        }
        self.advance(now, sent, clock).inspect_err(|error| self.on_error(error, now))
    }

    /// Somebody waits for a whole pass.
    fn is_in_pass(&self) -> bool {
        self.single_pass && !self.pass_over
    }

    fn advance(&mut self, now: Instant, sent: &mut SentSegments, clock: &dyn Clock) -> Result<PassProgress> {
        match &mut self.work {
            Operation::None => self.next_operation(sent, clock),
            Operation::Listing(list) => match list.poll(now)? {
                Some(entries) => self.on_listing(entries, clock),
                None => Ok(PassProgress::Waiting),
            },
            Operation::Compacting(merge) => match merge.poll(now)? {
                UploadProgress::Done => Ok(self.on_merged(now, sent)),
                UploadProgress::Working => Ok(PassProgress::Working),
                UploadProgress::Waiting => Ok(PassProgress::Waiting),
            },
            Operation::Deleting(delete, count) => match delete.poll(now)? {
                true => {
                    self.result.deleted += *count;
                    self.name.tag(log::debug("objects deleted")).field("count", *count).emit();
                    Ok(self.ended())
                }
                false => Ok(PassProgress::Waiting),
            },
        }
    }

    fn ended(&mut self) -> PassProgress {
        self.work = Operation::None;
        self.last_failure = None;
        self.operations += 1;
        PassProgress::Working
    }

    fn next_operation(&mut self, sent: &SentSegments, clock: &dyn Clock) -> Result<PassProgress> {
        let now = clock.now();
        if now >= self.next_list || self.must_look_for_snapshot() {
            if let Some(listing) = self.listing.take() {
                return self.on_listing(listing, clock);
            }
            self.work = Operation::Listing(self.store.list(""));
            return Ok(PassProgress::Waiting);
        }
        if self.merged.front().is_some_and(|(from, _)| now >= *from)
            && let Some((_, keys)) = self.merged.pop_front()
        {
            self.delete(&keys)?;
            return Ok(PassProgress::Waiting);
        }
        if std::mem::take(&mut self.new_segments)
            && let Some(compaction) = self.next_compaction(sent)
        {
            self.work = Operation::Compacting(Box::new(compaction));
            self.new_segments = true;
            return Ok(PassProgress::Working);
        }
        if let Some(chain) = self.older_chains.pop() {
            (self.chain, self.from_start, self.new_segments) = (chain, true, true);
            return Ok(PassProgress::Working);
        }
        self.pass_over |= self.listed;
        Ok(PassProgress::Nothing)
    }

    fn next_compaction(&self, sent: &SentSegments) -> Option<Compaction> {
        let in_memory = |key: &SegmentKey| sent.get(self.id, key).is_some();
        let readable = self.readable(in_memory);
        let from_start = self.from_start && readable.len() == self.chain.len();
        // What is to be thinned out later must not be hidden in one object with what is not.
        let may_merge = |group: &[(SegmentKey, u64)]| match (self.policy.keep, group) {
            (Some(keep), [(first, _), .., (last, _)]) => keep.allows_merge(first.last_seen, last.last_seen),
            _ => true,
        };
        let places = if self.is_in_pass() {
            compaction::next_group_where(readable, from_start, may_merge)?
        } else {
            self.budget.next_group(readable, from_start, in_memory, may_merge)?
        };
        let group = readable.get(places)?;
        let key = compaction::merged_key(group)?;
        let input =
            |(key, size): &(SegmentKey, u64)| Input { key: *key, size: *size, parts: sent.get(self.id, key).cloned() };
        Some(Compaction::new(self.store.clone(), key, group.iter().map(input).collect()))
    }

    /// What may be merged: without an identity no more than what is still in memory.
    fn readable(&self, in_memory: impl Fn(&SegmentKey) -> bool) -> &[(SegmentKey, u64)] {
        if self.store.recipients() == 0 || self.store.can_decrypt() {
            return &self.chain;
        }
        let last_unread = self.chain.iter().rposition(|(key, _)| !in_memory(key));
        self.chain.get(last_unread.map_or(0, |at| at + 1)..).unwrap_or_default()
    }

    /// Says once that not all is merged.
    fn log_unreadable(&mut self) {
        let blind = self.store.recipients() > 0 && !self.store.can_decrypt();
        if blind && self.compaction && !std::mem::replace(&mut self.unreadable_logged, true) {
            self.name.tag(log::info("no age identity here: only segments that this run has stored are merged")).emit();
        }
    }

    fn delete(&mut self, keys: &[Key]) -> Result<()> {
        fault::point("retention.delete")?;
        let names: Vec<String> = keys.iter().map(Key::to_string).collect();
        self.work = Operation::Deleting(self.store.delete(names), keys.len());
        Ok(())
    }

    fn on_listing(&mut self, entries: Vec<Entry>, clock: &dyn Clock) -> Result<PassProgress> {
        let kept = self.ended();
        let listing = Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)));
        if !(self.compaction || self.is_in_pass()) {
            self.learn_sizes(&listing);
            return Ok(kept);
        }
        self.listed = true;
        self.log_unreadable();
        self.next_list = clock.now() + LIST_INTERVAL;
        self.update_from_listing(&listing);
        self.learn_sizes(&listing);
        if self.all_generations {
            let older = listing.generations().rev().skip(1).filter(|(_, stored)| !stored.snapshots.is_empty());
            self.older_chains = older.map(|(_, stored)| restore_path(stored)).collect();
        }
        if self.clock_jumps.is_distrusted(clock.now()) {
            return Ok(kept);
        }
        let actions = plan_deletions(&listing, self.policy, clock.utc_now());
        match actions.skipped_reason {
            Some(why) => self.suspend(why),
            None => self.suspended_reason = None,
        }
        let waiting: HashSet<Key> = self.merged.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
        let delete: Vec<Key> = actions.delete.into_iter().filter(|key| !waiting.contains(key)).collect();
        if delete.is_empty() {
            return Ok(kept);
        }
        self.name.tag(log::info("retention")).field("deleting", delete.len()).emit();
        let gone: HashSet<Key> = delete.iter().copied().collect();
        self.chain.retain(|(key, _)| !gone.contains(&Key::Segment(*key)));
        self.budget.retain(|key| !gone.contains(&Key::Segment(*key)));
        self.delete(&delete)?;
        Ok(PassProgress::Waiting)
    }

    /// What the listing tells of the newest generation, and after it what was stored meanwhile.
    fn update_from_listing(&mut self, listing: &Listing) {
        let Some((generation, stored)) = listing.generations().next_back() else { return };
        if self.chain.last().is_some_and(|(key, _)| key.generation > generation) {
            return;
        }
        let Some((snapshot, _)) = stored.snapshots.last() else { return };
        let mut chain = restore_path(stored);
        for (key, size) in &self.chain {
            let end = chain.last().map_or(snapshot.position, |(last, _)| last.end);
            if key.generation == generation && key.start == end {
                chain.push((*key, *size));
            }
        }
        let known: HashSet<SegmentKey> = chain.iter().map(|(key, _)| *key).collect();
        self.budget.retain(|key| known.contains(key));
        self.generation = Some(generation);
        self.chain = chain;
        self.from_start = true;
        self.new_segments = true;
    }

    /// The newest snapshot, and what has come since, if they are of the generation that is written.
    fn learn_sizes(&mut self, listing: &Listing) {
        let newest = listing
            .generations()
            .next_back()
            .filter(|(generation, _)| self.generation.is_none_or(|at| at == *generation));
        if let Some((_, stored)) = newest
            && let Some((snapshot, bytes)) = stored.snapshots.last()
        {
            let path = restore_path(stored);
            let since = path.iter().filter(|(key, _)| key.start >= snapshot.position).map(|(_, size)| size).sum();
            (self.snapshot_bytes, self.bytes_since_snapshot) = (Some(*bytes), since);
        }
        self.looked_for_snapshot = self.has_grown();
    }

    fn on_merged(&mut self, now: Instant, sent: &mut SentSegments) -> PassProgress {
        if let Operation::Compacting(merge) = &self.work {
            let (key, group) = (*merge.key(), merge.group());
            self.name
                .tag(log::debug("segments merged"))
                .field("name", key)
                .field("of", group.len())
                .field("fetched", merge.fetched())
                .emit();
            let group: Vec<_> = group.iter().map(|input| (input.key, input.size)).collect();
            self.budget.merged(&group, key, merge.stored(), merge.fetched());
            self.result.merged += group.len();
            self.result.into += 1;
            self.result.bytes += merge.stored();
            let begin = self.chain.iter().position(|segment| Some(segment) == group.first());
            if let Some(begin) = begin.filter(|begin| self.chain.get(*begin..begin + group.len()) == Some(&group)) {
                self.chain.splice(begin..begin + group.len(), [(key, merge.stored())]);
            }
            group.iter().for_each(|(part, _)| sent.remove(self.id, part));
            if let Some(parts) = merge.parts() {
                sent.insert(self.id, key, parts);
            }
            let keys = group.iter().map(|(key, _)| Key::Segment(*key)).collect();
            self.merged.push_back((now + DELETE_GRACE_PERIOD, keys));
        }
        self.ended()
    }

    fn on_error(&mut self, error: &Error, now: Instant) {
        let damaged = matches!(error.kind(), Kind::Corrupt | Kind::NotFound);
        if let (Operation::Compacting(merge), true) = (&self.work, damaged) {
            // What is behind it can still be merged; the next listing brings it back, and with it the warning.
            let end = merge.key().end;
            self.chain.retain(|(key, _)| key.start >= end);
            self.from_start = false;
        }
        if error.kind() == Kind::NoIdentity {
            // Nor can any other: the next listing brings them back, and with it the warning.
            self.chain.clear();
            self.older_chains.clear();
        }
        self.work = Operation::None;
        self.not_before = now + RETRY_DELAY;
        self.new_segments = true;
        let again = self.last_failure.as_deref() == Some(error.message());
        let level = if again { log::Level::Debug } else { log::Level::Warn };
        self.name.tag(log::at(level, "compaction and retention postponed")).error(error).emit();
        self.last_failure = Some(error.message().to_string());
    }

    fn suspend(&mut self, why: &'static str) {
        if self.suspended_reason != Some(why) {
            self.name.tag(log::warn("retention suspended")).field("reason", why).emit();
        }
        self.suspended_reason = Some(why);
    }
}

/// What one whole pass is to do.
#[derive(Default)]
pub struct Pass {
    /// As in [`Maintenance`].
    pub retention: Option<Duration>,
    pub keep: Option<Keep>,
    /// One that is at hand.
    pub listing: Option<Vec<Entry>>,
    /// What a larger object has replaced just now: it goes in a later pass.
    pub replaced: Vec<Key>,
}

/// One whole pass over a store, for a command that has nothing else to do meanwhile.
/// `clock_jumps` has watched the clock before, if anything has.
///
/// Errors: the store's; [`Kind::Corrupt`] for a segment that is damaged, once all else is done. One that another program has
/// deleted meanwhile is none.
pub fn run_one_pass(
    store: &Rc<dyn Store>,
    name: &str,
    pass: Pass,
    clock_jumps: &mut ClockJumpDetector,
    clock: &dyn Clock,
) -> Result<MaintenanceResult> {
    let Pass { retention, keep, listing, replaced } = pass;
    let what = Maintenance { retention, keep, compaction: true, single_pass: true };
    let mut task = RetentionTask::new(store.clone(), TargetName::of_database(name), what, clock.now());
    (task.listing, task.all_generations) = (listing, true);
    task.merged.push_back((clock.now() + DELETE_GRACE_PERIOD, replaced));
    task.clock_jumps = std::mem::take(clock_jumps);
    let done = finish_pass(&mut task, store, clock);
    *clock_jumps = task.clock_jumps;
    done.map(|()| task.result)
}

fn finish_pass(task: &mut RetentionTask, store: &Rc<dyn Store>, clock: &dyn Clock) -> Result<()> {
    /// How long one sleep lasts at most while nothing arrives.
    const MAX_SLEEP: Duration = Duration::from_millis(100);
    let mut nothing_sent = SentSegments::default();
    let mut damage = None;
    while !task.is_done() {
        interrupt::check()?;
        let before = task.chain.len();
        match task.poll(&mut nothing_sent, clock) {
            Ok(PassProgress::Waiting) => store.wait(MAX_SLEEP),
            Ok(_) => {}
            // What is behind it can be merged all the same.
            Err(error) if task.chain.len() < before => {
                task.not_before = clock.now();
                damage = damage.or(Some(error).filter(|error| error.kind() == Kind::Corrupt));
            }
            Err(error) => return Err(error),
        }
    }
    damage.map_or(Ok(()), Err)
}

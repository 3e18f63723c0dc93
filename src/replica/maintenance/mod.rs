//! Merging and deleting beside replication: one operation of the store at a time, begun when nothing hurries.
//!
//! * Which segments to merge is decided from what was stored in this run; the store is listed at the start and each
//!   hour, to learn what earlier runs left and what has grown too old.
//! * Beside replication, merging keeps to a [`TransferBudget`](crate::replica::transfer_budget::TransferBudget). A pass on
//!   request does not.
//! * A merged segment is committed before anything that it was made of is deleted, and that only after
//!   [`DELETE_GRACE_PERIOD`]: a restore that has made its plan finds everything it needs for so long.
//! * Nothing here is in the way of storing: an error is logged, and the work is started again a minute later.

mod deletions;
mod merge_planner;
mod pass;
mod restore_cost;
mod schedule;

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::backup::listing::whole_only;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::compaction;
use crate::format::keep::Keep;
use crate::format::key::{Key, SegmentKey};
use crate::format::retention::Policy;
use crate::format::time::Timestamp;
use crate::log;
use crate::log::target_name::TargetName;
use crate::replica::compaction::{Compaction, Input};
use crate::replica::sent_segments::SentSegments;
use crate::replica::snapshot_upload::UploadProgress;
use crate::store::{Delete, Entry, List, Store};

pub use deletions::DELETE_GRACE_PERIOD;
pub use pass::{Pass, run_one_pass};

use deletions::DeletionPlanner;
use merge_planner::{MergeInputs, MergePlanner, SizedSegment};
use restore_cost::RestoreCost;
use schedule::MaintenanceSchedule;

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
    compaction: bool,
    /// A listing that the caller has made, instead of the first one.
    first_listing: Option<Vec<Entry>>,
    all_generations: bool,
    schedule: MaintenanceSchedule,
    merges: MergePlanner,
    deletions: DeletionPlanner,
    restore_cost: RestoreCost,
    work: Operation,
    operations: u64,
    result: MaintenanceResult,
    /// What the last failure said, until something has succeeded: each minute brings the same one.
    last_failure: Option<String>,
    unreadable_logged: bool,
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
        let policy = Policy { retention: what.retention, keep: what.keep, grace: DELETE_GRACE_PERIOD };
        RetentionTask {
            store,
            name: name.clone(),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            compaction: what.compaction,
            first_listing: None,
            all_generations: false,
            schedule: MaintenanceSchedule::new(what.single_pass, now),
            merges: MergePlanner::new(what.keep),
            deletions: DeletionPlanner::new(name, policy),
            restore_cost: RestoreCost::default(),
            work: Operation::None,
            operations: 0,
            result: MaintenanceResult::default(),
            last_failure: None,
            unreadable_logged: false,
        }
    }

    /// The newest moment that was stored before this run: if the clock does not fit it, it is doubted.
    pub fn started(&mut self, newest: Timestamp, clock: &dyn Clock) {
        self.deletions.on_start(newest, clock);
    }

    /// A segment was stored. Its bytes are kept for merging.
    pub fn stored(&mut self, key: SegmentKey, bytes: Vec<u8>, sent: &mut SentSegments) {
        let size = bytes.len() as u64;
        if self.compaction {
            sent.insert(self.id, key, vec![Rc::from(bytes)]);
        }
        if self.merges.on_stored(key, size, self.merges_now()) {
            self.restore_cost = RestoreCost::default();
        }
        self.restore_cost.on_segment(size);
    }

    /// A snapshot of the newest generation was stored.
    pub fn snapshot_stored(&mut self, bytes: u64) {
        self.restore_cost.on_snapshot(bytes);
    }

    /// As [`RestoreCost::wants_snapshot`].
    pub fn wants_snapshot(&self) -> bool {
        self.restore_cost.wants_snapshot()
    }

    /// Asks for one whole pass at once, which [`RetentionTask::is_done`] tells the end of.
    pub fn request_pass(&mut self, now: Instant) {
        self.schedule.request_pass(now);
    }

    pub fn is_busy(&self) -> bool {
        !matches!(self.work, Operation::None)
    }

    /// Whether the one pass that was asked for is over.
    pub fn is_done(&self) -> bool {
        self.schedule.pass_has_listed() && !self.is_busy() && !self.merges.has_changed()
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
        self.deletions.check_clock(clock);
        let now = clock.now();
        let idle = !(self.merges_now() || self.restore_cost.must_look_for_snapshot() || self.is_busy());
        if self.schedule.is_put_off(now) || idle {
            return Ok(PassProgress::Nothing);
        }
        self.advance(now, sent, clock).inspect_err(|error| self.on_error(error, now))
    }

    /// Whether segments are merged and deleted, always or in a pass that was asked for.
    fn merges_now(&self) -> bool {
        self.compaction || self.schedule.is_in_pass()
    }

    fn advance(&mut self, now: Instant, sent: &mut SentSegments, clock: &dyn Clock) -> Result<PassProgress> {
        match &mut self.work {
            Operation::None => self.next_operation(sent, clock),
            Operation::Listing(list) => match list.poll(now)? {
                Poll::Ready(entries) => self.on_listing(entries, clock),
                Poll::Pending => Ok(PassProgress::Waiting),
            },
            Operation::Compacting(merge) => match merge.poll(now)? {
                UploadProgress::Done => Ok(self.on_merged(now, sent)),
                UploadProgress::Working => Ok(PassProgress::Working),
                UploadProgress::Waiting => Ok(PassProgress::Waiting),
            },
            Operation::Deleting(delete, count) => match delete.poll(now)? {
                Poll::Ready(()) => {
                    self.result.deleted += *count;
                    self.name.tag(log::debug("objects deleted")).field("count", *count).emit();
                    Ok(self.ended())
                }
                Poll::Pending => Ok(PassProgress::Waiting),
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
        if self.schedule.is_listing_due(now) || self.restore_cost.must_look_for_snapshot() {
            if let Some(listing) = self.first_listing.take() {
                return self.on_listing(listing, clock);
            }
            self.work = Operation::Listing(self.store.list_whole(""));
            return Ok(PassProgress::Waiting);
        }
        if let Some(keys) = self.deletions.take_due(now) {
            self.delete(&keys)?;
            return Ok(PassProgress::Waiting);
        }
        if self.merges.has_changed() {
            self.merges.set_changed(false);
            if let Some(compaction) = self.next_compaction(sent) {
                self.work = Operation::Compacting(Box::new(compaction));
                self.merges.set_changed(true);
                return Ok(PassProgress::Working);
            }
        }
        if self.merges.take_older_generation() {
            return Ok(PassProgress::Working);
        }
        self.schedule.on_nothing_to_do();
        Ok(PassProgress::Nothing)
    }

    fn next_compaction(&self, sent: &SentSegments) -> Option<Compaction> {
        let group = self.merges.next_group(&MergeInputs {
            in_memory: &|key| sent.get(self.id, key).is_some(),
            can_fetch: self.can_read(),
            whole_pass: self.schedule.is_in_pass(),
        })?;
        let key = compaction::merged_key(group)?;
        let input =
            |(key, size): &SizedSegment| Input { key: *key, size: *size, parts: sent.get(self.id, key).cloned() };
        Some(Compaction::new(self.store.clone(), key, group.iter().map(input).collect()))
    }

    /// Whether stored segments can be read: without an identity, encrypted ones cannot.
    fn can_read(&self) -> bool {
        self.store.recipients() == 0 || self.store.can_decrypt()
    }

    /// Says once that not all is merged.
    fn log_unreadable(&mut self) {
        if !self.can_read() && self.compaction && !std::mem::replace(&mut self.unreadable_logged, true) {
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
        let progress = self.ended();
        let listing = whole_only(entries);
        if !self.merges_now() {
            self.restore_cost.on_listing(&listing, self.merges.generation());
            return Ok(progress);
        }
        self.log_unreadable();
        self.schedule.on_listing(clock.now());
        self.merges.on_listing(&listing);
        self.restore_cost.on_listing(&listing, self.merges.generation());
        if self.all_generations {
            self.merges.add_older_generations(&listing);
        }
        let delete = self.deletions.outdated(&listing, clock);
        if delete.is_empty() {
            return Ok(progress);
        }
        self.name.tag(log::info("retention")).field("deleting", delete.len()).emit();
        self.merges.on_deleted(&delete.iter().copied().collect::<HashSet<Key>>());
        self.delete(&delete)?;
        Ok(PassProgress::Waiting)
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
            self.result.merged += group.len();
            self.result.into += 1;
            self.result.bytes += merge.stored();
            self.merges.on_merged(&group, (key, merge.stored()), merge.fetched());
            group.iter().for_each(|(part, _)| sent.remove(self.id, part));
            if let Some(parts) = merge.parts() {
                sent.insert(self.id, key, parts);
            }
            self.deletions.on_replaced(group.iter().map(|(key, _)| Key::Segment(*key)).collect(), now);
        }
        self.ended()
    }

    fn on_error(&mut self, error: &Error, now: Instant) {
        let damaged = matches!(error.kind(), Kind::Corrupt | Kind::NotFound);
        if let (Operation::Compacting(merge), true) = (&self.work, damaged) {
            self.merges.on_damage(merge.key().end);
        }
        if error.kind() == Kind::NoIdentity {
            self.merges.on_unreadable();
        }
        self.work = Operation::None;
        self.schedule.on_error(now);
        self.merges.set_changed(true);
        let again = self.last_failure.as_deref() == Some(error.message());
        let level = if again { log::Level::Debug } else { log::Level::Warn };
        self.name.tag(log::at(level, "compaction and retention postponed")).error(error).emit();
        self.last_failure = Some(error.message().to_string());
    }
}

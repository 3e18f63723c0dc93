//! One replica of a database: what is stored there, and what is on its way. The reader gives it what is committed.

mod auditing;
mod closing;
mod exclusivity;
mod failure;
mod generation;
mod incremental;
mod requests;
mod snapshots;
mod standby;
mod starting;
mod syncing;
mod takeover;
mod uploads;
mod writing;

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::backup::find_end::{FindEnd, StoreSummary};
use crate::backup::stored_end::StoredEnd;
use crate::clock::Clock;
use crate::control::RequestInbox;
use crate::error::{Error, Kind, Result};
use crate::format::position::Position;
use crate::format::time::Timestamp;
use crate::log::problem_log::ProblemLog;
use crate::log::target_name::TargetName;
use crate::replica::audit::Audit;
use crate::replica::claim::Claim;
use crate::replica::counters::Counters;
use crate::replica::exclusive_writer::ExclusiveWriter;
use crate::replica::maintenance::{Maintenance, RetentionTask};
use crate::replica::orphan_schedule::CleanupSchedule;
use crate::replica::replicator::RETRY_DELAY;
use crate::replica::replicator::settings::{ReplicaTarget, Settings};
use crate::replica::replicator::status::{ReplicatorStatus, SnapshotStatus};
use crate::replica::spool::Spool;
use crate::replica::upload_queue::UploadQueue;
use crate::source::GenerationEnd;
use crate::store::Store;

pub use generation::warn_clock;
pub(super) use snapshots::SnapshotStep;
pub(super) use writing::{Packing, Writing};

use closing::EndOfRun;
use failure::Failure;
use takeover::Identifying;

/// Between two listings while something in the store leaves no room for a new generation.
const BLOCKED_LIST_INTERVAL: Duration = Duration::from_secs(60);

pub(super) struct Side {
    settings: Rc<Settings>,
    target: ReplicaTarget,
    name: TargetName,
    store: Rc<dyn Store>,
    writer: ExclusiveWriter,
    audit: Audit,
    /// The object that was acknowledged last.
    newest_object: Option<String>,
    /// Requests of other processes, for as long as the lock is ours.
    requests: Option<RequestInbox>,
    next_requests: Instant,
    stage: SideStage,
    uploads: UploadQueue,
    retention: RetentionTask,
    /// Nobody else has written to the store, as far as is known; nothing is written otherwise.
    exclusive: bool,
    cleanup: CleanupSchedule,
    next_store_check: Instant,
    /// The store was away when it was last looked at.
    store_down: bool,
    store_summary: StoreSummary,
    /// The clock is behind what is stored, and that was said.
    clock_warned: bool,
    problems: ProblemLog,
    counters: Counters,
    all_stored_at: Option<Timestamp>,
    /// The store has answered once, so that trouble from now on is waited out.
    store_reached: bool,
    closing: bool,
    end_of_run: EndOfRun,
    /// Where the last sync began that somebody asked for.
    sync_target: Option<Position>,
    retry_at: Instant,
    /// A standby listens for what is stored; until then, if it says nothing more.
    standby_until: Option<Instant>,
    stored: Option<Position>,
    last_snapshot: Option<Position>,
    objects: u64,
    bytes: u64,
    generation_started: Option<Instant>,
    force_snapshot: bool,
    /// It has been given what is committed: until then, nothing is stored.
    begun: bool,
    /// What is stored is of this database, or may be replaced though it is not.
    identified: bool,
    /// Nothing is written before this is done.
    claim: Option<Box<Claim>>,
    spool_adopted: bool,
    /// The stored end that the database does not continue, though only commits are missing between.
    missed_end: Option<StoredEnd>,
    /// Why nothing is written to this store for now, though others are.
    failure: Option<Failure>,
}

pub(super) enum SideStage {
    Starting(FindEnd),
    /// The store is known. It goes on behind this end where that is possible.
    Ready(std::result::Result<StoredEnd, GenerationEnd>),
    /// What is stored cannot be continued: the store is asked whether it is of this database.
    Identifying(Box<Identifying>),
    Writing(Box<Writing>),
}

impl SideStage {
    fn starting(store: &Rc<dyn Store>) -> SideStage {
        SideStage::Starting(FindEnd::new(store.clone()))
    }
}

impl Side {
    /// Nothing is contacted yet.
    pub(super) fn new(settings: Rc<Settings>, target: ReplicaTarget, now: Instant) -> Side {
        let database = settings.path.display().to_string();
        let name = TargetName::of_replica(&database, target.name.clone());
        let store = target.store.clone();
        let maintenance = Maintenance { compaction: target.compaction, ..settings.maintenance() };
        Side {
            retention: RetentionTask::new(store.clone(), name.clone(), maintenance, now),
            stage: SideStage::starting(&store),
            uploads: UploadQueue::new(store.clone(), spool(&settings, &target)),
            writer: ExclusiveWriter::new(store.clone(), &database, settings.takeover),
            audit: Audit::new(store.clone(), now),
            newest_object: None,
            requests: None,
            next_requests: now,
            exclusive: false,
            cleanup: CleanupSchedule::new(store.clone(), now),
            next_store_check: now,
            store_down: false,
            store_summary: StoreSummary::default(),
            clock_warned: false,
            problems: ProblemLog::default(),
            counters: Counters::default(),
            all_stored_at: None,
            store_reached: false,
            closing: false,
            end_of_run: EndOfRun::default(),
            sync_target: None,
            retry_at: now,
            standby_until: None,
            stored: None,
            last_snapshot: None,
            objects: 0,
            bytes: 0,
            generation_started: None,
            force_snapshot: settings.force_snapshot,
            begun: false,
            identified: false,
            claim: None,
            spool_adopted: false,
            missed_end: None,
            failure: None,
            name,
            settings,
            target,
            store,
        }
    }

    pub(super) fn store(&self) -> &Rc<dyn Store> {
        &self.store
    }

    /// From now on, store what is committed and come to an end.
    pub(super) fn close(&mut self) {
        if !self.closing {
            self.audit.expire();
        }
        self.closing = true;
    }

    pub(super) fn stage(&self) -> &SideStage {
        &self.stage
    }

    pub(super) fn writing(&self) -> Option<&Writing> {
        match &self.stage {
            SideStage::Writing(writing) => Some(writing),
            _ => None,
        }
    }

    pub(super) fn writing_mut(&mut self) -> Option<&mut Writing> {
        match &mut self.stage {
            SideStage::Writing(writing) => Some(writing),
            _ => None,
        }
    }

    pub(super) fn is_writing(&self) -> bool {
        matches!(self.stage, SideStage::Writing(_))
    }

    /// Whether the generation that is written has a snapshot, as far as was acknowledged.
    fn has_snapshot(&self) -> bool {
        self.writing().is_some_and(|writing| writing.snapshot_at.is_some())
    }

    /// Whether everything that was committed is stored, and nothing speaks against a restore that gives it. `caught_up`:
    /// all of it was given to this side.
    pub(super) fn is_all_stored(&self, caught_up: bool) -> bool {
        let sure = if self.closing { self.audit.has_proven(self.stored) } else { self.audit.is_trusted() };
        self.is_acknowledged(caught_up) && ((sure && self.exclusive) || !self.is_writing())
    }

    /// Whether the store has acknowledged everything that was committed when it was last looked at.
    fn is_acknowledged(&self, caught_up: bool) -> bool {
        match &self.stage {
            SideStage::Writing(writing) => {
                caught_up
                    && !writing.behind
                    && writing.builder.is_empty()
                    && self.uploads.is_empty()
                    && !self.has_work_before_end()
            }
            // A database that is not there when the end is asked for has nothing to store.
            _ => self.closing && self.settings.wait_for_database && !self.settings.path.exists(),
        }
    }

    /// Everything that was committed was seen to be stored.
    pub(super) fn on_all_stored(&mut self, clock: &dyn Clock) {
        self.all_stored_at = Some(clock.utc_now());
        if self.exclusive && !self.store_down {
            self.problems.clear_if_quiet(clock.now(), &self.name);
        }
    }

    /// Whether something is under way in the store.
    pub(super) fn has_store_work(&self) -> bool {
        let waits = match &self.stage {
            _ if self.failure.is_some() => return false,
            SideStage::Starting(_) | SideStage::Identifying(_) => true,
            SideStage::Ready(_) => false,
            SideStage::Writing(writing) => writing.snapshot.is_some(),
        };
        waits
            || !self.exclusive
            || self.uploads.is_busy()
            || self.retention.is_busy()
            || self.cleanup.is_busy()
            || self.audit.is_busy()
    }

    pub(super) fn is_paused(&self, now: Instant) -> bool {
        now < self.retry_at
    }

    /// What is wrong in this store is told, and tried again.
    ///
    /// Errors: those that end the program.
    pub(super) fn handle_error(&mut self, error: Error, clock: &dyn Clock) -> Result<()> {
        let first = match error.kind() {
            Kind::StoreRefused | Kind::StoreUnreachable | Kind::ReconnectsExhausted | Kind::NotFound => {
                !self.store_reached
            }
            _ => !self.begun,
        };
        if ends_program(&error, first, &self.settings) {
            return Err(error);
        }
        self.report(&error, clock);
        if !self.is_writing() {
            let pause = if error.kind() == Kind::Corrupt { BLOCKED_LIST_INTERVAL } else { RETRY_DELAY };
            self.retry_at = clock.now() + pause;
        }
        Ok(())
    }

    pub(super) fn report(&mut self, error: &Error, clock: &dyn Clock) {
        self.counters.error(error.kind());
        let lag = self.lag(clock);
        self.problems.report(clock.now(), &self.name, error, lag);
    }

    /// The age of the oldest commit that is not stored. None: it is not known what is stored.
    fn lag(&self, clock: &dyn Clock) -> Option<Duration> {
        let age = |oldest| clock.utc_now().since(oldest);
        let sent = self.uploads.oldest().map(age);
        let Some(writing) = self.writing() else { return sent };
        let waiting = sent.or(writing.builder.oldest_commit().map(age)).unwrap_or_default();
        let waiting = match writing.behind {
            // What it lacks was committed later than its end.
            true => waiting.max(age(writing.builder.end().time)),
            false => waiting,
        };
        match (writing.snapshot_at, self.generation_started) {
            // Without its first snapshot nothing of the generation is of use: all in it waits at least since it began.
            (None, Some(begun)) => Some(waiting.max(clock.now().saturating_duration_since(begun))),
            _ => Some(waiting),
        }
    }

    pub(super) fn status(&self, clock: &dyn Clock) -> ReplicatorStatus {
        let writing = self.writing();
        ReplicatorStatus {
            replica: self.name.replica().map(str::to_string),
            stored: self.stored,
            copied: writing.map(|writing| writing.builder.end().position()),
            snapshot: writing.and_then(|writing| writing.snapshot.as_ref()).map(|upload| SnapshotStatus {
                read: upload.read(),
                total: upload.header().payload_len(),
                stored: upload.stored(),
            }),
            snapshot_stored: self.last_snapshot,
            lag: self.lag(clock),
            objects: self.objects,
            bytes: self.bytes,
            retention_operations: self.retention.operations(),
            problem: self.problems.text().map(str::to_string),
            counters: self.counters.clone(),
            all_stored_at: self.all_stored_at,
            recipients: self.stored.map(|_| self.store_summary.recipients),
            ..ReplicatorStatus::default()
        }
    }
}

/// Where the segments of a replica wait while its store is away.
fn spool(settings: &Settings, target: &ReplicaTarget) -> Spool {
    let directory = settings.spool_directory(target.directory.as_deref());
    Spool::new(&directory, settings.max_backlog)
}

/// Whether an error ends the program. `first`: what it is about has not been there once.
pub(super) fn ends_program(error: &Error, first: bool, settings: &Settings) -> bool {
    let waits = error.kind().is_transient() && settings.wait_for_database;
    let ends =
        matches!(error.kind(), Kind::Locked | Kind::TakenOver | Kind::AnotherDatabase | Kind::ReconnectsExhausted);
    ends || (first && !waits) || (!settings.wait_for_database && !error.kind().is_transient())
}

//! One replica of a database: what is stored there, and what is on its way. The reader gives it what is committed.

mod acknowledged;
mod auditing;
mod closing;
mod exclusivity;
mod failure;
mod generation;
mod health;
mod incremental;
mod recipients;
mod requests;
mod setup;
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
use crate::backup::recipients_note::RecipientsNote;
use crate::backup::stored_end::StoredEnd;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::format::position::Position;
use crate::replica::audit::Audit;
use crate::replica::maintenance::RetentionTask;
use crate::replica::orphan_schedule::CleanupSchedule;
use crate::replica::replicator::RETRY_DELAY;
use crate::replica::replicator::settings::{ReplicaTarget, Settings};
use crate::replica::replicator::status::{ReplicatorStatus, SnapshotStatus};
use crate::replica::upload_queue::UploadQueue;
use crate::source::GenerationEnd;
use crate::store::Store;

pub use generation::warn_clock;
pub(super) use snapshots::SnapshotStep;
pub(super) use writing::{Packing, Writing};

use acknowledged::Acknowledged;
use closing::EndOfRun;
use exclusivity::StoreAccess;
use generation::GenerationHistory;
use health::Health;
use incremental::StoredChanges;
use requests::SnapshotRequests;
use setup::ReplicaSetup;
use takeover::{Identifying, Ownership};

/// Between two listings while something in the store leaves no room for a new generation.
const BLOCKED_LIST_INTERVAL: Duration = Duration::from_secs(60);

pub(super) struct Side {
    replica: ReplicaSetup,
    access: StoreAccess,
    ownership: Ownership,
    requests: SnapshotRequests,
    stage: SideStage,
    generations: GenerationHistory,
    uploads: UploadQueue,
    retention: RetentionTask,
    cleanup: CleanupSchedule,
    audit: Audit,
    /// What the store had when it was last looked at as a whole, and what has come since.
    store_summary: StoreSummary,
    /// To whom the snapshot is encrypted that a restore begins with, as far as that is known.
    snapshot_recipients: Option<RecipientsNote>,
    acknowledged: Acknowledged,
    /// Where the last sync on request began.
    sync_target: Option<Position>,
    end_of_run: EndOfRun,
    health: Health,
}

pub(super) enum SideStage {
    Starting(FindEnd),
    /// The store is known. It goes on after this end if that is possible.
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
        let replica = ReplicaSetup::new(settings, target);
        let store = &replica.store;
        Side {
            access: StoreAccess::new(&replica, now),
            ownership: Ownership::default(),
            requests: SnapshotRequests::new(replica.settings.force_snapshot, now),
            stage: SideStage::starting(store),
            generations: GenerationHistory::new(now),
            uploads: replica.upload_queue(),
            retention: RetentionTask::new(store.clone(), replica.name.clone(), replica.maintenance(), now),
            cleanup: CleanupSchedule::new(store.clone(), now),
            audit: Audit::new(store.clone(), now),
            store_summary: StoreSummary::default(),
            snapshot_recipients: None,
            acknowledged: Acknowledged::default(),
            sync_target: None,
            end_of_run: EndOfRun::default(),
            health: Health::default(),
            replica,
        }
    }

    pub(super) fn store(&self) -> &Rc<dyn Store> {
        &self.replica.store
    }

    /// From now on, store what is committed and come to an end.
    pub(super) fn close(&mut self) {
        if !self.end_of_run.asked {
            self.audit.expire();
        }
        self.end_of_run.asked = true;
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
        let sure = if self.end_of_run.asked {
            self.audit.has_proven(self.acknowledged.position)
        } else {
            self.audit.is_trusted()
        };
        self.is_acknowledged(caught_up) && ((sure && self.access.exclusive) || !self.is_writing())
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
            _ => {
                self.end_of_run.asked && self.replica.settings.wait_for_database && !self.replica.settings.path.exists()
            }
        }
    }

    /// Everything that was committed was seen to be stored.
    pub(super) fn on_all_stored(&mut self, clock: &dyn Clock) {
        self.acknowledged.all_stored_at = Some(clock.utc_now());
        if self.access.exclusive && !self.access.down {
            self.health.problems.clear_if_quiet(clock.now(), &self.replica.name);
        }
    }

    /// Whether something is under way in the store.
    pub(super) fn has_store_work(&self) -> bool {
        let waits = match &self.stage {
            _ if self.health.failure.is_some() => return false,
            SideStage::Starting(_) | SideStage::Identifying(_) => true,
            SideStage::Ready(_) => matches!(self.generations.changes, StoredChanges::Searching(..)),
            SideStage::Writing(writing) => writing.snapshot.is_some(),
        };
        waits
            || !self.access.exclusive
            || self.uploads.is_busy()
            || self.retention.is_busy()
            || self.cleanup.is_busy()
            || self.audit.is_busy()
    }

    pub(super) fn is_paused(&self, now: Instant) -> bool {
        now < self.generations.retry_at
    }

    /// What is wrong in this store is told, and tried again.
    ///
    /// Errors: those that end the program.
    pub(super) fn handle_error(&mut self, error: Error, clock: &dyn Clock) -> Result<()> {
        let first = match error.kind() {
            Kind::StoreRefused | Kind::StoreUnreachable | Kind::ReconnectsExhausted | Kind::NotFound => {
                !self.access.reached
            }
            _ => !self.generations.begun,
        };
        if ends_program(&error, first, &self.replica.settings) {
            return Err(error);
        }
        self.report(&error, clock);
        if !self.is_writing() {
            let pause = if error.kind() == Kind::Corrupt { BLOCKED_LIST_INTERVAL } else { RETRY_DELAY };
            self.generations.retry_at = clock.now() + pause;
        }
        Ok(())
    }

    pub(super) fn report(&mut self, error: &Error, clock: &dyn Clock) {
        self.health.counters.error(error.kind());
        let lag = self.lag(clock);
        self.health.problems.report(clock.now(), &self.replica.name, error, lag);
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
        match (writing.snapshot_at, self.generations.last_start) {
            // Without its first snapshot nothing of the generation is of use: all in it waits at least since it began.
            (None, Some(begun)) => Some(waiting.max(clock.now().saturating_duration_since(begun))),
            _ => Some(waiting),
        }
    }

    pub(super) fn status(&self, clock: &dyn Clock) -> ReplicatorStatus {
        let writing = self.writing();
        ReplicatorStatus {
            replica: self.replica.name.replica().map(str::to_string),
            stored: self.acknowledged.position,
            copied: writing.map(|writing| writing.builder.end().position()),
            snapshot: writing.and_then(|writing| writing.snapshot.as_ref()).map(|upload| SnapshotStatus {
                read: upload.read(),
                total: upload.header().payload_len(),
                stored: upload.stored(),
            }),
            snapshot_stored: self.acknowledged.snapshot,
            lag: self.lag(clock),
            objects: self.acknowledged.objects,
            bytes: self.acknowledged.bytes,
            retention_operations: self.retention.operations(),
            problem: self.health.problems.text().map(str::to_string),
            counters: self.health.counters.clone(),
            all_stored_at: self.acknowledged.all_stored_at,
            recipients: self.acknowledged.position.map(|_| self.store_summary.recipients),
            ..ReplicatorStatus::default()
        }
    }
}

/// Whether an error ends the program. `first`: what it is about has not been there once.
pub(super) fn ends_program(error: &Error, first: bool, settings: &Settings) -> bool {
    let waits = error.kind().is_transient() && settings.wait_for_database;
    let ends =
        matches!(error.kind(), Kind::Locked | Kind::TakenOver | Kind::AnotherDatabase | Kind::ReconnectsExhausted);
    ends || (first && !waits) || (!settings.wait_for_database && !error.kind().is_transient())
}

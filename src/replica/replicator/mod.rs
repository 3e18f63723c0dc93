//! One database, kept stored: the steps that the poll loop calls over and over. Nothing in here waits.

mod active;
mod auditing;
mod generation;
mod locking;
mod requests;
mod settings;
mod status;
mod store_side;
mod takeover;

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::backup::checkpoint_note::{CheckpointNote, NoteKeeper};
use crate::backup::find_end::{FindEnd, StoreSummary};
use crate::backup::origin::Witnesses;
use crate::backup::stored_end::{ResumeCheck, StoredEnd};
use crate::clock::Clock;
use crate::control::RequestInbox;
use crate::error::{Error, Kind, Result};
use crate::format::position::Position;
use crate::format::time::Timestamp;
use crate::log;
use crate::log::problem_log::ProblemLog;
use crate::replica::audit::Audit;
use crate::replica::counters::Counters;
use crate::replica::exclusive_writer::ExclusiveWriter;
use crate::replica::maintenance::RetentionTask;
use crate::replica::orphan_schedule::CleanupSchedule;
use crate::replica::segment_builder::SegmentBuilder;
use crate::replica::spool::Spool;
use crate::replica::upload_queue::UploadQueue;
use crate::source::{self, CHECKPOINT_PATIENCE, CHECKPOINT_PAUSE, GenerationEnd, Lock, Source};
use crate::store::Store;

pub use generation::warn_clock;
pub use settings::{Settings, SharedBuffers, WakeOn};
pub use status::{ReplicatorStatus, SnapshotStatus};

use takeover::Identifying;

use active::{ActiveDatabase, SyncResult, TIME_SLICE, wal_bytes};

/// One database and its store.
pub struct Replicator {
    settings: Settings,
    name: String,
    store: Rc<dyn Store>,
    // Dropped in this order: whoever waits for the lock finds the store free.
    writer: ExclusiveWriter,
    audit: Audit,
    /// The object that was acknowledged last.
    newest_object: Option<String>,
    lock: Option<Lock>,
    /// Another process has the lock, which ends by itself: nothing is done before that.
    waits_for_lock: bool,
    /// Requests of other processes, for as long as the lock is ours.
    requests: Option<RequestInbox>,
    next_requests: Instant,
    stage: Stage,
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
    retry_at: Instant,
    stored: Option<Position>,
    last_snapshot: Option<Position>,
    objects: u64,
    bytes: u64,
    generation_started: Option<Instant>,
    force_snapshot: bool,
    database_opened: bool,
    /// What is stored is of this database, or may be replaced though it is not.
    identified: bool,
    spool_adopted: bool,
    /// A checkpoint of the application waited for our first pin: until then, that pin is not kept.
    lets_checkpoint_pass_until: Option<Instant>,
    /// None where no note is kept.
    note: Option<NoteKeeper>,
}

enum Stage {
    Starting(FindEnd),
    /// The store is known; the database is to be opened, and continued behind `end` where that is possible.
    Opening(std::result::Result<StoredEnd, GenerationEnd>),
    /// What is stored cannot be continued: the store is asked whether it is of this database.
    Identifying(Box<Identifying>),
    /// The database file is read to tell whether it is the one that is stored.
    Comparing(Box<ComparingFile>),
    Active(Box<ActiveDatabase>),
}

struct ComparingFile {
    source: Source,
    end: StoredEnd,
    note: CheckpointNote,
    check: ResumeCheck,
    begun: Instant,
}

/// A file that was replaced under its name is noticed within this time.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// After trouble with the database.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Between two listings while something in the store leaves no room for a new generation.
const BLOCKED_LIST_INTERVAL: Duration = Duration::from_secs(60);
/// The longest pause between two attempts at a snapshot.
const MAX_SNAPSHOT_BACKOFF: Duration = Duration::from_secs(30);
/// A generation that ends this soon after its start is a sign of trouble: the next one waits.
const MIN_GENERATION_AGE: Duration = Duration::from_secs(10);
/// How long the first pin stays while a database is compared with what is stored, whoever waits for it.
const COMPARE_PATIENCE: Duration = Duration::from_secs(1);
/// Rounds without a pause before other databases have their turn.
const MAX_ROUNDS: usize = 16;

impl Replicator {
    /// Nothing is contacted or opened yet.
    pub fn new(settings: Settings, store: Rc<dyn Store>, now: Instant) -> Replicator {
        let name = settings.path.display().to_string();
        let keeper = RetentionTask::new(store.clone(), &name, settings.maintenance(), now);
        Replicator {
            name,
            retention: keeper,
            stage: Stage::Starting(FindEnd::new(store.clone())),
            uploads: UploadQueue::new(store.clone(), spool(&settings)),
            writer: ExclusiveWriter::new(store.clone(), &settings.path.display().to_string()),
            audit: Audit::new(store.clone(), now),
            newest_object: None,
            exclusive: false,
            cleanup: CleanupSchedule::new(store.clone(), now),
            next_store_check: now,
            store_down: false,
            lock: None,
            waits_for_lock: false,
            requests: None,
            next_requests: now,
            store_summary: StoreSummary::default(),
            clock_warned: false,
            problems: ProblemLog::default(),
            counters: Counters::default(),
            all_stored_at: None,
            store_reached: false,
            closing: false,
            retry_at: now,
            stored: None,
            last_snapshot: None,
            objects: 0,
            bytes: 0,
            generation_started: None,
            identified: settings.allow_other_database,
            spool_adopted: false,
            lets_checkpoint_pass_until: None,
            note: settings.keep_note.then(|| NoteKeeper::new(settings.meta())),
            force_snapshot: settings.force_snapshot,
            database_opened: false,
            settings,
            store,
        }
    }

    /// What the operator calls this database.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn store(&self) -> &Rc<dyn Store> {
        &self.store
    }

    /// Whether it has followed its database: until then, nothing is stored.
    pub fn has_begun(&self) -> bool {
        self.database_opened
    }

    /// From now on, store what is committed and come to an end.
    pub fn close(&mut self) {
        if !self.closing {
            self.audit.expire();
        }
        self.closing = true;
    }

    /// Whether everything that was committed when it was last looked at is stored, snapshot included, and nothing speaks
    /// against a restore that gives it. At the end a listing must have shown that. Behind a reconnect nothing is known
    /// until the store has been listed: it may have lost what it acknowledged.
    pub fn is_drained(&self) -> bool {
        let noting = matches!(self.stage, Stage::Active(_)) && self.closing && self.lock.is_some();
        self.is_all_stored() && (!noting || self.note.as_ref().is_none_or(NoteKeeper::is_over))
    }

    fn is_all_stored(&self) -> bool {
        let following = matches!(self.stage, Stage::Active(_));
        let sure = if self.closing { self.audit.has_proven(self.stored) } else { self.audit.is_trusted() };
        self.is_acknowledged() && ((sure && self.exclusive) || !following)
    }

    /// Whether the store has acknowledged everything that was committed when it was last looked at.
    fn is_acknowledged(&self) -> bool {
        match &self.stage {
            Stage::Active(following) => {
                following.caught_up
                    && following.writer.is_empty()
                    && following.snapshot.is_none()
                    && following.snapshot_at.is_some()
                    && !self.force_snapshot
                    && self.uploads.is_empty()
                    && (!self.settings.enforce_retention || self.retention.is_done())
            }
            // A database that is not there when the end is asked for has nothing to store.
            _ => self.closing && self.settings.wait_for_database && !self.settings.path.exists(),
        }
    }

    /// Whether something is under way in the store.
    pub fn has_store_work(&self) -> bool {
        let waits = match &self.stage {
            Stage::Starting(_) | Stage::Identifying(_) => true,
            Stage::Opening(_) | Stage::Comparing(_) => false,
            Stage::Active(following) => following.snapshot.is_some(),
        };
        waits
            || !self.exclusive
            || self.uploads.is_busy()
            || self.retention.is_busy()
            || self.cleanup.is_busy()
            || self.audit.is_busy()
    }

    /// Makes progress.
    ///
    /// Errors: only those that end the program: a refused first contact, a database that can never be followed, a lock
    /// or a prefix that another process holds, reconnects that are used up. Everything else is logged and tried again.
    pub fn poll(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        let now = clock.now();
        if now < self.retry_at {
            return Ok(WakeOn::NextTick);
        }
        if let Stage::Active(following) = &mut self.stage
            && following.skip_idle(tools, now, self.settings.monitor_interval)
            && !self.closing
        {
            return Ok(WakeOn::DatabaseWrite);
        }
        self.check_clock(clock.utc_now());
        let next = self.poll_stage(tools, clock)?;
        let settled = matches!(self.stage, Stage::Active(_)) && self.is_all_stored();
        if settled {
            self.keep_note(clock);
            self.all_stored_at = Some(clock.utc_now());
            if self.exclusive && !self.store_down {
                self.problems.clear_if_quiet(clock.now(), &self.name);
            }
        }
        let calm = settled && next == WakeOn::NextTick && !self.has_store_work() && !self.closing;
        self.next_wake(calm, next, tools, clock)
    }

    /// Leaves word of the database file for the next start.
    fn keep_note(&mut self, clock: &dyn Clock) {
        let (Some(note), Stage::Active(following)) = (&mut self.note, &mut self.stage) else { return };
        let position = following.writer.end().position();
        if let Err(error) = note.poll(&mut following.source, &position, self.closing, clock.now()) {
            log::debug("no note of the database file").field("db", &self.name).error(&error).emit();
        }
    }

    fn next_wake(&mut self, calm: bool, next: WakeOn, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        let Stage::Active(following) = &mut self.stage else { return Ok(next) };
        match following.update_idle(calm, tools, clock.now()) {
            Ok(true) => Ok(WakeOn::DatabaseWrite),
            Ok(false) => Ok(next),
            Err(error) => self.handle_error(error, clock),
        }
    }

    /// How soon to look again where that is sooner than at the next tick: a commit is on its way, or a checkpoint of the
    /// application waits for the pin again and again.
    pub fn urgent_interval(&self) -> Option<Duration> {
        match &self.stage {
            Stage::Active(following) => following.urgent_interval(),
            _ => None,
        }
    }

    fn poll_stage(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        if !self.wait_for_lock()? {
            self.retry_at = clock.now() + RETRY_DELAY;
            return Ok(WakeOn::NextTick);
        }
        self.poll_requests(clock);
        let next = self.check_exclusive(clock).and_then(|()| match &mut self.stage {
            Stage::Starting(_) => self.poll_start(clock),
            Stage::Opening(_) => self.open(tools, clock),
            Stage::Identifying(_) => self.go_on_identifying(clock),
            Stage::Comparing(_) => self.continue_compare(tools, clock),
            Stage::Active(_) => self.replicate(tools, clock),
        });
        match next {
            Ok(next) => {
                let next = self.poll_uploads(tools, clock).min(next).min(self.poll_audit(clock));
                self.poll_retention(tools, clock)
                    .map(|kept| kept.min(next))
                    .or_else(|error| self.handle_error(error, clock))
            }
            Err(error) => self.handle_error(error, clock),
        }
    }

    fn poll_start(&mut self, clock: &dyn Clock) -> Result<WakeOn> {
        let now = clock.now();
        let Stage::Starting(start) = &mut self.stage else { return Ok(WakeOn::Immediately) };
        if !self.exclusive {
            return Ok(WakeOn::StoreEvent);
        }
        let Some(found) = start.poll(now)? else { return Ok(WakeOn::StoreEvent) };
        if !self.store_reached {
            self.writer.add_generations(start.generations().iter().copied());
        }
        self.store_reached = true;
        self.store_summary = found.known;
        self.identified |= self.store_summary.witnesses == Witnesses::default();
        self.retention.started(self.store_summary.newest.moment, clock);
        self.stage = Stage::Opening(found.end);
        Ok(WakeOn::Immediately)
    }

    fn open(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        if self.uploads.is_full() {
            // What was let go for want of room waits until there is room again.
            return Ok(WakeOn::NextTick);
        }
        source::check(&self.settings.path, &self.settings.source)?;
        self.take_lock()?;
        let Stage::Opening(end) = &mut self.stage else { return Ok(WakeOn::Immediately) };
        if !self.database_opened && !std::mem::replace(&mut self.spool_adopted, true) {
            // With the lock in hand, the spool is ours.
            self.uploads.adopt_spool(end.as_mut().ok(), clock.now())?;
        }
        let mut source = Source::open(&self.settings.path, &self.settings.source)?;
        let end = end.clone();
        if source.has_waiting_checkpoint() && self.lets_checkpoint_pass(clock.now()) {
            return Ok(WakeOn::NextTick);
        }
        self.lets_checkpoint_pass_until = None;
        match end {
            Ok(end) => {
                let note = CheckpointNote::read(&self.settings.meta());
                self.compare(
                    Box::new(ComparingFile { source, end, note, check: ResumeCheck::Begin, begun: clock.now() }),
                    tools,
                    clock,
                )
            }
            Err(reason) => self.activate(source, Err(reason), clock),
        }
    }

    /// Whether to try again in a moment, because a checkpoint of the application waits for our first pin. Not for ever: it may
    /// wait for somebody else.
    fn lets_checkpoint_pass(&mut self, now: Instant) -> bool {
        let until = *self.lets_checkpoint_pass_until.get_or_insert(now + CHECKPOINT_PATIENCE);
        self.retry_at = now + CHECKPOINT_PAUSE;
        now < until
    }

    fn continue_compare(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        let Stage::Comparing(comparing) = &self.stage else { return Ok(WakeOn::Immediately) };
        // After an error it begins anew.
        let anew = Stage::Opening(Ok(comparing.end));
        match std::mem::replace(&mut self.stage, anew) {
            Stage::Comparing(comparing) => self.compare(comparing, tools, clock),
            _ => Ok(WakeOn::Immediately),
        }
    }

    /// Continues at the end of what is stored, if that is possible. A large file is read for longer than a turn: other
    /// databases have theirs in between.
    fn compare(
        &mut self,
        mut comparing: Box<ComparingFile>,
        tools: &mut SharedBuffers,
        clock: &dyn Clock,
    ) -> Result<WakeOn> {
        let turn = clock.now() + TIME_SLICE;
        loop {
            let ComparingFile { source, end, note, check, .. } = &mut *comparing;
            match end.resume_step(source, note, check, &mut tools.buffer)? {
                Some(resumed) => {
                    let end = comparing.end;
                    return self.activate(comparing.source, resumed.map(|()| end), clock);
                }
                None if clock.now() >= turn => {
                    if clock.now() - comparing.begun >= COMPARE_PATIENCE && comparing.source.has_waiting_checkpoint() {
                        return self.give_up_comparing(comparing, clock);
                    }
                    self.stage = Stage::Comparing(comparing);
                    return Ok(WakeOn::Immediately);
                }
                None => {}
            }
        }
    }

    /// The pin does not move before the database is read, and an application's checkpoint waits for it.
    fn give_up_comparing(&mut self, comparing: Box<ComparingFile>, clock: &dyn Clock) -> Result<WakeOn> {
        let ComparingFile { source, end, check, .. } = *comparing;
        log::warn("database not compared with what is stored: a checkpoint of the application waited for that")
            .field("db", &self.name)
            .emit();
        self.activate(source, check.give_up().map(|()| end), clock)
    }

    fn activate(
        &mut self,
        source: Source,
        resumed: std::result::Result<StoredEnd, GenerationEnd>,
        clock: &dyn Clock,
    ) -> Result<WakeOn> {
        let following = match resumed {
            Ok(end) => self.continue_generation(source, end, clock),
            Err(reason) if !self.identified => {
                let live = source.origin()?;
                drop(source);
                self.begin_to_identify(live, reason);
                return Ok(WakeOn::StoreEvent);
            }
            Err(reason) => match self.start_generation(source, &reason, clock) {
                Ok(following) => following,
                Err(error) => {
                    // What is in the way is looked for anew: the operator may have removed it.
                    self.stage = Stage::Starting(FindEnd::new(self.store.clone()));
                    return Err(error);
                }
            },
        };
        self.identified = true;
        self.database_opened = true;
        self.stage = Stage::Active(Box::new(following));
        Ok(WakeOn::Immediately)
    }

    fn continue_generation(&mut self, source: Source, end: StoredEnd, clock: &dyn Clock) -> ActiveDatabase {
        let position = Position { generation: end.chain_end.generation, wal_position: end.wal_position() };
        log::info("continuing").field("db", &self.name).field("position", position).emit();
        self.stored = self.stored.or(Some(position));
        let age = self.store_summary.last_snapshot.map(|last| clock.utc_now().since(last));
        let snapshot_due = match (age, self.settings.snapshot_interval) {
            (Some(age), Some(interval)) => Some(clock.now() + interval.saturating_sub(age)),
            _ => None,
        };
        let (writer, level) = (SegmentBuilder::new(end), self.settings.compression_level);
        let mut following = ActiveDatabase::new(source, writer, level, clock.now(), snapshot_due);
        following.snapshot_at = Some(position);
        following
    }

    fn replicate(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        let Stage::Active(following) = &mut self.stage else { return Ok(WakeOn::Immediately) };
        let now = clock.now();
        let mut next = WakeOn::NextTick;
        if following.checkpoint_waits(now) || now >= following.next_tick || self.closing {
            following.next_tick = now + following.poll_interval(now, self.settings.monitor_interval);
            match following.sync(tools, clock, &mut self.uploads)? {
                SyncResult::Lost(reason) => return self.end_generation(reason, now),
                SyncResult::Again => {
                    following.next_tick = now;
                    next = WakeOn::Immediately;
                }
                SyncResult::Done => {}
            }
            following.close_segment(now, self.settings.sync_interval, self.closing, &mut self.uploads);
        }
        if now >= following.next_file_check || self.closing {
            following.next_file_check = now + CHECK_INTERVAL;
            let overrun = self.uploads.must_end_generation(now) || wal_bytes(following) > self.settings.max_backlog;
            let overrun = overrun && self.uploads.is_full();
            let reason = match (self.uploads.lost_segment(), overrun) {
                (true, _) => Some(GenerationEnd::SpoolLost),
                (_, true) => Some(GenerationEnd::Backlog),
                _ => following.source.replaced_file(self.closing)?,
            };
            if let Some(reason) = reason {
                return self.end_generation(reason, now);
            }
        }
        let snapshot = self.poll_snapshot(tools, clock)?;
        Ok(next.min(snapshot))
    }

    /// The generation ends. What was copied of it is stored all the same; then a new one begins with a snapshot.
    fn end_generation(&mut self, reason: GenerationEnd, now: Instant) -> Result<WakeOn> {
        let stage = std::mem::replace(&mut self.stage, Stage::Opening(Err(reason.clone())));
        if let Stage::Active(mut following) = stage {
            if let Some(segment) = following.writer.finish() {
                self.uploads.push(segment, now);
            }
            self.store_summary.newest.moment = self.store_summary.newest.moment.max(following.writer.end().time);
            let ActiveDatabase { snapshot, source, .. } = *following;
            drop(snapshot);
            match reason {
                GenerationEnd::Replaced(_) | GenerationEnd::Overwritten => source.close(),
                _ => drop(source),
            }
        }
        if matches!(reason, GenerationEnd::StoredHistoryIsGone | GenerationEnd::SpoolLost) {
            self.uploads = UploadQueue::new(self.store.clone(), spool(&self.settings));
        }
        log::warn("generation ended").field("db", &self.name).field("reason", &reason).emit();
        if self.generation_started.is_some_and(|begun| now.duration_since(begun) < MIN_GENERATION_AGE) {
            self.retry_at = now + RETRY_DELAY;
        }
        if self.uploads.is_empty() {
            // Nothing in the spool continues anything any more.
            self.uploads.adopt_spool(None, now)?;
        }
        Ok(WakeOn::Immediately)
    }

    /// Decides whether an error ends the program.
    fn handle_error(&mut self, error: Error, clock: &dyn Clock) -> Result<WakeOn> {
        let first = match error.kind() {
            Kind::StoreRefused | Kind::StoreUnreachable | Kind::ReconnectsExhausted | Kind::NotFound => {
                !self.store_reached
            }
            _ => !self.database_opened,
        };
        let waits = error.kind().is_transient() && self.settings.wait_for_database;
        let ends = matches!(error.kind(), Kind::Locked | Kind::AnotherDatabase | Kind::ReconnectsExhausted);
        if ends || (first && !waits) || (!self.settings.wait_for_database && !error.kind().is_transient()) {
            return Err(error);
        }
        self.report(&error, clock);
        if let Some(reason) = self.replaced(error.kind()) {
            return self.end_generation(reason, clock.now());
        }
        if error.kind() != Kind::DatabaseNotReady {
            self.reopen(clock.now());
        }
        if !matches!(self.stage, Stage::Active(_)) {
            let pause = if error.kind() == Kind::Corrupt { BLOCKED_LIST_INTERVAL } else { RETRY_DELAY };
            self.retry_at = clock.now() + pause;
        }
        Ok(WakeOn::NextTick)
    }

    fn report(&mut self, error: &Error, clock: &dyn Clock) {
        self.counters.error(error.kind());
        let lag = self.lag(clock);
        self.problems.report(clock.now(), &self.name, error, lag);
    }

    /// Whether the error comes of a file that is another one now.
    fn replaced(&mut self, kind: Kind) -> Option<GenerationEnd> {
        match &mut self.stage {
            Stage::Active(following) if matches!(kind, Kind::Database | Kind::DatabaseNotReady) => {
                following.source.replaced_file(kind == Kind::Database).ok().flatten()
            }
            _ => None,
        }
    }

    /// After an error of the database: everything is closed, and the WAL must show that it can be continued.
    fn reopen(&mut self, now: Instant) {
        if let Stage::Active(following) = &mut self.stage {
            if let Some(segment) = following.writer.finish() {
                self.uploads.push(segment, now);
            }
            self.stage = Stage::Opening(Ok(*following.writer.end()));
        }
    }

    /// The age of the oldest commit that is not stored. None: it is not known what is stored.
    fn lag(&self, clock: &dyn Clock) -> Option<Duration> {
        let age = |oldest| clock.utc_now().since(oldest);
        let sent = self.uploads.oldest().map(age);
        let Stage::Active(following) = &self.stage else { return sent };
        let waiting = sent.or(following.writer.oldest_commit().map(age)).unwrap_or_default();
        match (following.snapshot_at, self.generation_started) {
            // Without its first snapshot nothing of the generation is of use: all in it waits at least since it began.
            (None, Some(begun)) => Some(waiting.max(clock.now().saturating_duration_since(begun))),
            _ => Some(waiting),
        }
    }

    pub fn status(&self, clock: &dyn Clock) -> ReplicatorStatus {
        let mut status = ReplicatorStatus {
            stored: self.stored,
            snapshot_stored: self.last_snapshot,
            lag: self.lag(clock),
            objects: self.objects,
            bytes: self.bytes,
            retention_operations: self.retention.operations(),
            problem: self.problems.text().map(str::to_string),
            counters: self.counters.clone(),
            all_stored_at: self.all_stored_at,
            ..ReplicatorStatus::default()
        };
        if let Stage::Active(following) = &self.stage {
            let end = following.writer.end();
            status.copied = Some(Position { generation: end.chain_end.generation, wal_position: end.wal_position() });
            status.wal_frames = following.source.wal_frames().map_or(0, |(frames, _)| frames);
            status.wal_bytes = u64::from(status.wal_frames) * following.source.page_size().frame() as u64;
            status.snapshot = following.snapshot.as_ref().map(|upload| SnapshotStatus {
                read: upload.read(),
                total: upload.header().payload_len(),
                stored: upload.stored(),
            });
        }
        status
    }
}

/// Where the segments of a database wait while the store is away.
fn spool(settings: &Settings) -> Spool {
    let meta = settings.meta_path.clone().unwrap_or_else(|| source::default_meta_path(&settings.path));
    Spool::new(&meta.join("spool"), settings.max_backlog)
}

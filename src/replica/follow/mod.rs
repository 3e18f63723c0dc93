//! One database, kept stored: the steps that the poll loop calls over and over. Nothing in here waits.

mod asked;
mod auditing;
mod generation;
mod live;
mod locking;
mod settings;
mod status;
mod storing;
mod takeover;

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::format::position::Position;
use crate::format::time::Timestamp;
use crate::log;
use crate::replica::audit::Audit;
use crate::replica::checkpoint_note::{CheckpointNote, NoteKeeper};
use crate::replica::origin::Witnesses;
use crate::replica::outbox::Outbox;
use crate::replica::owner::Owner;
use crate::replica::request::Desk;
use crate::replica::retention::Keeper;
use crate::replica::spool::Spool;
use crate::replica::start::{Known, Start};
use crate::replica::sweeping::Sweeping;
use crate::replica::tail::{End, ResumeCheck};
use crate::replica::tally::Tally;
use crate::replica::trouble::Trouble;
use crate::replica::writer::Writer;
use crate::source::{self, Lock, Reason, Source};
use crate::store::Store;

pub use generation::warn_clock;
pub use settings::{Next, Settings, Tools};
pub use status::{SnapshotStatus, Status, lag_text};

use takeover::Identifying;

use live::{Following, Round, TURN, backlog};

/// One database and its store.
pub struct Follower {
    settings: Settings,
    name: String,
    store: Rc<dyn Store>,
    // Dropped in this order: whoever waits for the lock finds the store free.
    owner: Owner,
    audit: Audit,
    /// The object that was acknowledged last.
    newest: Option<String>,
    lock: Option<Lock>,
    /// Another process has the lock, which ends by itself: nothing is done before that.
    waits_for_lock: bool,
    /// Requests of other processes, for as long as the lock is ours.
    desk: Option<Desk>,
    next_requests: Instant,
    stage: Stage,
    outbox: Outbox,
    keeper: Keeper,
    /// Nobody else has written to the store, as far as is known; nothing is written otherwise.
    ours: bool,
    sweeping: Sweeping,
    next_contact: Instant,
    /// The store was away when it was last looked at.
    away: bool,
    known: Known,
    /// The clock is behind what is stored, and that was said.
    clock_refuted: bool,
    trouble: Trouble,
    tally: Tally,
    settled: Option<Timestamp>,
    /// The store has answered once, so that trouble from now on is waited out.
    contacted: bool,
    closing: bool,
    not_before: Instant,
    stored: Option<Position>,
    snapshot_stored: Option<Position>,
    objects: u64,
    bytes: u64,
    generation_begun: Option<Instant>,
    force_snapshot: bool,
    opened: bool,
    /// What is stored is of this database, or may be replaced though it is not.
    identified: bool,
    spool_taken_up: bool,
    /// None where no note is kept.
    note: Option<NoteKeeper>,
}

enum Stage {
    Starting(Start),
    /// The store is known; the database is to be opened, and continued behind `end` where that is possible.
    Opening(std::result::Result<End, Reason>),
    /// What is stored cannot be continued: the store is asked whether it is of this database.
    Identifying(Box<Identifying>),
    /// The database file is read to tell whether it is the one that is stored.
    Comparing(Box<Comparing>),
    Following(Box<Following>),
}

struct Comparing {
    source: Source,
    end: End,
    note: CheckpointNote,
    check: ResumeCheck,
}

/// A file that was replaced under its name is noticed within this time.
const LOOK: Duration = Duration::from_secs(1);
/// After trouble with the database.
const RETRY: Duration = Duration::from_secs(1);
/// Between two listings while something in the store leaves no room for a new generation.
const IN_THE_WAY: Duration = Duration::from_secs(60);
/// The longest pause between two attempts at a snapshot.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(30);
/// A generation that ends this soon after its start is a sign of trouble: the next one waits.
const YOUNG: Duration = Duration::from_secs(10);
/// Rounds without a pause before other databases have their turn.
const ROUNDS: usize = 16;

impl Follower {
    /// Nothing is contacted or opened yet.
    pub fn new(settings: Settings, store: Rc<dyn Store>, now: Instant) -> Follower {
        let name = settings.path.display().to_string();
        let keeper = Keeper::new(store.clone(), &name, settings.retention, settings.enforce_retention, now);
        Follower {
            name,
            keeper,
            stage: Stage::Starting(Start::new(store.clone())),
            outbox: Outbox::new(store.clone(), spool(&settings)),
            owner: Owner::new(store.clone(), &settings.path.display().to_string()),
            audit: Audit::new(store.clone(), now),
            newest: None,
            ours: false,
            sweeping: Sweeping::new(store.clone(), now),
            next_contact: now,
            away: false,
            lock: None,
            waits_for_lock: false,
            desk: None,
            next_requests: now,
            known: Known::default(),
            clock_refuted: false,
            trouble: Trouble::default(),
            tally: Tally::default(),
            settled: None,
            contacted: false,
            closing: false,
            not_before: now,
            stored: None,
            snapshot_stored: None,
            objects: 0,
            bytes: 0,
            generation_begun: None,
            identified: settings.allow_other_database,
            spool_taken_up: false,
            note: settings.keep_note.then(|| NoteKeeper::new(settings.meta())),
            force_snapshot: settings.force_snapshot,
            opened: false,
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
    pub fn is_settled(&self) -> bool {
        let noting = matches!(self.stage, Stage::Following(_)) && self.closing && self.lock.is_some();
        self.is_all_stored() && (!noting || self.note.as_ref().is_none_or(NoteKeeper::is_over))
    }

    fn is_all_stored(&self) -> bool {
        let following = matches!(self.stage, Stage::Following(_));
        let sure = if self.closing { self.audit.has_proven(self.stored) } else { self.audit.is_trusted() };
        self.is_acknowledged() && ((sure && self.ours) || !following)
    }

    /// Whether the store has acknowledged everything that was committed when it was last looked at.
    fn is_acknowledged(&self) -> bool {
        match &self.stage {
            Stage::Following(following) => {
                following.drained
                    && following.writer.is_empty()
                    && following.snapshot.is_none()
                    && following.snapshot_at.is_some()
                    && !self.force_snapshot
                    && self.outbox.is_empty()
                    && (!self.settings.enforce_retention || self.keeper.is_done())
            }
            // A database that is not there when the end is asked for has nothing to store.
            _ => self.closing && self.settings.patient && !self.settings.path.exists(),
        }
    }

    /// Whether something is under way in the store.
    pub fn is_busy(&self) -> bool {
        let waits = match &self.stage {
            Stage::Starting(_) | Stage::Identifying(_) => true,
            Stage::Opening(_) | Stage::Comparing(_) => false,
            Stage::Following(following) => following.snapshot.is_some(),
        };
        waits
            || !self.ours
            || self.outbox.is_busy()
            || self.keeper.is_busy()
            || self.sweeping.is_busy()
            || self.audit.is_busy()
    }

    /// Makes progress.
    ///
    /// Errors: only those that end the program: a refused first contact, a database that can never be followed, a lock
    /// or a prefix that another process holds, reconnects that are used up. Everything else is logged and tried again.
    pub fn poll(&mut self, tools: &mut Tools, clock: &dyn Clock) -> Result<Next> {
        let now = clock.now();
        if now < self.not_before {
            return Ok(Next::Tick);
        }
        if let Stage::Following(following) = &mut self.stage
            && following.sleeps_on(tools, now, self.settings.monitor_interval)
            && !self.closing
        {
            return Ok(Next::Rest);
        }
        self.check_clock(clock.wall());
        let next = self.advance(tools, clock)?;
        let settled = matches!(self.stage, Stage::Following(_)) && self.is_all_stored();
        if settled {
            self.keep_note(clock);
            self.settled = Some(clock.wall());
            if self.ours && !self.away {
                self.trouble.clear_if_quiet(clock.now(), &self.name);
            }
        }
        let calm = settled && next == Next::Tick && !self.is_busy() && !self.closing;
        self.rest(calm, next, tools, clock)
    }

    /// Leaves word of the database file for the next start.
    fn keep_note(&mut self, clock: &dyn Clock) {
        let (Some(note), Stage::Following(following)) = (&mut self.note, &mut self.stage) else { return };
        let position = following.writer.end().position();
        if let Err(error) = note.poll(&mut following.source, &position, self.closing, clock.now()) {
            log::debug("no note of the database file").field("db", &self.name).cause(&error).emit();
        }
    }

    fn rest(&mut self, calm: bool, next: Next, tools: &mut Tools, clock: &dyn Clock) -> Result<Next> {
        let Stage::Following(following) = &mut self.stage else { return Ok(next) };
        match following.settle(calm, tools, clock.now()) {
            Ok(true) => Ok(Next::Rest),
            Ok(false) => Ok(next),
            Err(error) => self.handle(error, clock),
        }
    }

    /// Whether a commit is on its way, and worth a look more often than each tick.
    pub fn is_eager(&self) -> bool {
        matches!(&self.stage, Stage::Following(following) if following.eager_until.is_some())
    }

    fn advance(&mut self, tools: &mut Tools, clock: &dyn Clock) -> Result<Next> {
        if !self.wait_for_lock()? {
            self.not_before = clock.now() + RETRY;
            return Ok(Next::Tick);
        }
        self.look_at_requests(clock);
        let next = self.poll_owner(clock).and_then(|()| match &mut self.stage {
            Stage::Starting(_) => self.poll_start(clock),
            Stage::Opening(_) => self.open(tools, clock),
            Stage::Identifying(_) => self.go_on_identifying(clock),
            Stage::Comparing(_) => self.go_on_comparing(tools, clock),
            Stage::Following(_) => self.follow(tools, clock),
        });
        match next {
            Ok(next) => {
                let next = self.poll_outbox(clock).min(next).min(self.poll_audit(clock));
                self.keep(clock).map(|kept| kept.min(next)).or_else(|error| self.handle(error, clock))
            }
            Err(error) => self.handle(error, clock),
        }
    }

    fn poll_start(&mut self, clock: &dyn Clock) -> Result<Next> {
        let now = clock.now();
        let Stage::Starting(start) = &mut self.stage else { return Ok(Next::Now) };
        if !self.ours {
            return Ok(Next::Store);
        }
        let Some(found) = start.poll(now)? else { return Ok(Next::Store) };
        if !self.contacted {
            self.owner.knows(start.generations().iter().copied());
        }
        self.contacted = true;
        self.known = found.known;
        self.identified |= self.known.witnesses == Witnesses::default();
        self.keeper.started(self.known.newest.moment, clock);
        self.stage = Stage::Opening(found.end);
        Ok(Next::Now)
    }

    fn open(&mut self, tools: &mut Tools, clock: &dyn Clock) -> Result<Next> {
        if self.outbox.is_full() {
            // What was let go for want of room waits until there is room again.
            return Ok(Next::Tick);
        }
        source::check(&self.settings.path, &self.settings.source)?;
        self.take_lock()?;
        let Stage::Opening(end) = &mut self.stage else { return Ok(Next::Now) };
        if !self.opened && !std::mem::replace(&mut self.spool_taken_up, true) {
            // With the lock in hand, the spool is ours.
            self.outbox.take_up(end.as_mut().ok(), clock.now())?;
        }
        let source = Source::open(&self.settings.path, &self.settings.source)?;
        match end.clone() {
            Ok(end) => {
                let note = CheckpointNote::read(&self.settings.meta());
                self.compare(Box::new(Comparing { source, end, note, check: ResumeCheck::Begin }), tools, clock)
            }
            Err(reason) => self.begin_to_follow(source, Err(reason), clock),
        }
    }

    fn go_on_comparing(&mut self, tools: &mut Tools, clock: &dyn Clock) -> Result<Next> {
        let Stage::Comparing(comparing) = &self.stage else { return Ok(Next::Now) };
        // After an error it begins anew.
        let anew = Stage::Opening(Ok(comparing.end));
        match std::mem::replace(&mut self.stage, anew) {
            Stage::Comparing(comparing) => self.compare(comparing, tools, clock),
            _ => Ok(Next::Now),
        }
    }

    /// Continues at the end of what is stored, if that is possible. A large file is read for longer than a turn: other
    /// databases have theirs in between.
    fn compare(&mut self, mut comparing: Box<Comparing>, tools: &mut Tools, clock: &dyn Clock) -> Result<Next> {
        let turn = clock.now() + TURN;
        loop {
            let Comparing { source, end, note, check } = &mut *comparing;
            match end.resume_step(source, note, check, &mut tools.buffer)? {
                Some(resumed) => {
                    let end = comparing.end;
                    return self.begin_to_follow(comparing.source, resumed.map(|()| end), clock);
                }
                None if clock.now() >= turn => {
                    self.stage = Stage::Comparing(comparing);
                    return Ok(Next::Now);
                }
                None => {}
            }
        }
    }

    fn begin_to_follow(
        &mut self,
        source: Source,
        resumed: std::result::Result<End, Reason>,
        clock: &dyn Clock,
    ) -> Result<Next> {
        let following = match resumed {
            Ok(end) => self.continue_generation(source, end, clock),
            Err(reason) if !self.identified => {
                let live = source.origin()?;
                drop(source);
                self.begin_to_identify(live, reason);
                return Ok(Next::Store);
            }
            Err(reason) => match self.begin_generation(source, &reason, clock) {
                Ok(following) => following,
                Err(error) => {
                    // What is in the way is looked for anew: the operator may have removed it.
                    self.stage = Stage::Starting(Start::new(self.store.clone()));
                    return Err(error);
                }
            },
        };
        self.identified = true;
        self.opened = true;
        self.stage = Stage::Following(Box::new(following));
        Ok(Next::Now)
    }

    fn continue_generation(&mut self, source: Source, end: End, clock: &dyn Clock) -> Following {
        let position = Position { generation: end.tail.generation, point: end.point() };
        log::info("continuing").field("db", &self.name).field("position", position).emit();
        self.stored = self.stored.or(Some(position));
        let age = self.known.last_snapshot.map(|last| clock.wall().since(last));
        let snapshot_due = match (age, self.settings.snapshot_interval) {
            (Some(age), Some(interval)) => Some(clock.now() + interval.saturating_sub(age)),
            _ => None,
        };
        let mut following = Following::new(source, Writer::new(end), clock.now(), snapshot_due);
        following.snapshot_at = Some(position);
        following
    }

    fn follow(&mut self, tools: &mut Tools, clock: &dyn Clock) -> Result<Next> {
        let Stage::Following(following) = &mut self.stage else { return Ok(Next::Now) };
        let now = clock.now();
        let mut next = Next::Tick;
        if now >= following.next_tick || self.closing {
            following.next_tick = now + following.pace(now, self.settings.monitor_interval);
            match following.round(tools, clock, &mut self.outbox)? {
                Round::Lost(reason) => return self.lost(reason, now),
                Round::Again => {
                    following.next_tick = now;
                    next = Next::Now;
                }
                Round::Done => {}
            }
            following.close_segment(now, self.settings.sync_interval, self.closing, &mut self.outbox);
        }
        if now >= following.next_look || self.closing {
            following.next_look = now + LOOK;
            let overrun = self.outbox.is_overrun(now) || backlog(following) > self.settings.backlog_bytes;
            let overrun = overrun && self.outbox.is_full();
            let reason = match (self.outbox.has_lost_one(), overrun) {
                (true, _) => Some(Reason::SpoolLost),
                (_, true) => Some(Reason::Backlog),
                _ => following.source.replaced(self.closing)?,
            };
            if let Some(reason) = reason {
                return self.lost(reason, now);
            }
        }
        let snapshot = self.follow_snapshot(tools, clock)?;
        Ok(next.min(snapshot))
    }

    /// The generation ends. What was copied of it is stored all the same; then a new one begins with a snapshot.
    fn lost(&mut self, reason: Reason, now: Instant) -> Result<Next> {
        let stage = std::mem::replace(&mut self.stage, Stage::Opening(Err(reason.clone())));
        if let Stage::Following(mut following) = stage {
            if let Some(segment) = following.writer.close() {
                self.outbox.push(segment, now);
            }
            self.known.newest.moment = self.known.newest.moment.max(following.writer.end().time);
            let Following { snapshot, source, .. } = *following;
            drop(snapshot);
            match reason {
                Reason::Replaced(_) | Reason::Overwritten => source.let_go(),
                _ => drop(source),
            }
        }
        if matches!(reason, Reason::StoredHistoryIsGone | Reason::SpoolLost) {
            self.outbox = Outbox::new(self.store.clone(), spool(&self.settings));
        }
        log::warn("generation ended").field("db", &self.name).field("reason", &reason).emit();
        if self.generation_begun.is_some_and(|begun| now.duration_since(begun) < YOUNG) {
            self.not_before = now + RETRY;
        }
        if self.outbox.is_empty() {
            // Nothing in the spool continues anything any more.
            self.outbox.take_up(None, now)?;
        }
        Ok(Next::Now)
    }

    /// Decides whether an error ends the program.
    fn handle(&mut self, error: Error, clock: &dyn Clock) -> Result<Next> {
        let first = match error.kind() {
            Kind::Store | Kind::Unreachable | Kind::GaveUp | Kind::NotFound => !self.contacted,
            _ => !self.opened,
        };
        let waits = error.kind().may_pass() && self.settings.patient;
        let ends = matches!(error.kind(), Kind::Locked | Kind::AnotherDatabase | Kind::GaveUp);
        if ends || (first && !waits) || (!self.settings.patient && !error.kind().may_pass()) {
            return Err(error);
        }
        self.report(&error, clock);
        if let Some(reason) = self.replaced(error.kind()) {
            return self.lost(reason, clock.now());
        }
        if error.kind() != Kind::DatabaseNotReady {
            self.reopen(clock.now());
        }
        if !matches!(self.stage, Stage::Following(_)) {
            let pause = if error.kind() == Kind::Corrupt { IN_THE_WAY } else { RETRY };
            self.not_before = clock.now() + pause;
        }
        Ok(Next::Tick)
    }

    fn report(&mut self, error: &Error, clock: &dyn Clock) {
        self.tally.error(error.kind());
        let lag = self.lag(clock);
        self.trouble.report(clock.now(), &self.name, error, lag);
    }

    /// Whether the error comes of a file that is another one now.
    fn replaced(&mut self, kind: Kind) -> Option<Reason> {
        match &mut self.stage {
            Stage::Following(following) if matches!(kind, Kind::Database | Kind::DatabaseNotReady) => {
                following.source.replaced(kind == Kind::Database).ok().flatten()
            }
            _ => None,
        }
    }

    /// After an error of the database: everything is closed, and the WAL must show that it can be continued.
    fn reopen(&mut self, now: Instant) {
        if let Stage::Following(following) = &mut self.stage {
            if let Some(segment) = following.writer.close() {
                self.outbox.push(segment, now);
            }
            self.stage = Stage::Opening(Ok(*following.writer.end()));
        }
    }

    /// The age of the oldest commit that is not stored. None: it is not known what is stored.
    fn lag(&self, clock: &dyn Clock) -> Option<Duration> {
        let age = |oldest| clock.wall().since(oldest);
        let sent = self.outbox.oldest().map(age);
        let Stage::Following(following) = &self.stage else { return sent };
        let waiting = sent.or(following.writer.oldest().map(age)).unwrap_or_default();
        match (following.snapshot_at, self.generation_begun) {
            // Without its first snapshot nothing of the generation is of use: all in it waits at least since it began.
            (None, Some(begun)) => Some(waiting.max(clock.now().saturating_duration_since(begun))),
            _ => Some(waiting),
        }
    }

    pub fn status(&self, clock: &dyn Clock) -> Status {
        let mut status = Status {
            stored: self.stored,
            snapshot_stored: self.snapshot_stored,
            lag: self.lag(clock),
            objects: self.objects,
            bytes: self.bytes,
            kept: self.keeper.operations(),
            trouble: self.trouble.text().map(str::to_string),
            tally: self.tally.clone(),
            settled: self.settled,
            ..Status::default()
        };
        if let Stage::Following(following) = &self.stage {
            let end = following.writer.end();
            status.copied = Some(Position { generation: end.tail.generation, point: end.point() });
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
    Spool::new(&meta.join("spool"), settings.backlog_bytes)
}

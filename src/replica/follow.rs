//! One database, kept stored: the steps that the poll loop calls over and over. Nothing in here waits.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::format::position::{Generation, Offset, Point, Position};
use crate::format::segment::Encoder;
use crate::format::time::Timestamp;
use crate::log;
use crate::replica::outbox::Outbox;
use crate::replica::owner::{Mine, Owner, Seen};
use crate::replica::retention::{Keeper, Kept};
use crate::replica::snapshot::{Progress, SnapshotUpload};
use crate::replica::spool::Spool;
use crate::replica::start::{Known, Start};
use crate::replica::sweeping::Sweeping;
use crate::replica::tail::End;
use crate::replica::tally::Tally;
use crate::replica::trouble::Trouble;
use crate::replica::writer::Writer;
use crate::source::{self, Copied, Lock, Reason, Source};
use crate::store::Store;

/// How one database is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    pub path: PathBuf,
    pub source: source::Options,
    /// Where the lock is, and what must be kept while the store is away. None: beside the database.
    pub meta_path: Option<PathBuf>,
    /// How often the database is looked at.
    pub monitor_interval: Duration,
    /// Under steady writes, at most one segment in this time.
    pub sync_interval: Duration,
    /// How old the newest snapshot may grow while there are changes; none: only where a generation begins.
    pub snapshot_interval: Option<Duration>,
    /// How long any moment stays restorable; none: for ever.
    pub retention: Option<Duration>,
    /// Merge and delete what is due, before all is settled.
    pub enforce_retention: bool,
    /// Take a snapshot now, whether one is due or not.
    pub force_snapshot: bool,
    /// Wait for a database or a store that is not there yet, rather than fail.
    pub patient: bool,
    /// Bytes that may wait on disk for the store, in the spool or in the WAL. Past it the WAL is let go and a new
    /// generation must begin: the application's disk matters more than the history of the outage.
    pub backlog_bytes: u64,
}

/// What all databases of a process share: big buffers.
pub struct Tools {
    pub encoder: Encoder,
    pub buffer: Vec<u8>,
}

impl Tools {
    /// Frames that are copied at once, in bytes. At least one frame of the largest page size.
    const BUFFER: usize = 1 << 20;

    #[allow(clippy::new_without_default)]
    pub fn new() -> Tools {
        Tools { encoder: crate::replica::writer::encoder(), buffer: vec![0; Self::BUFFER] }
    }
}

/// When to call again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Next {
    /// At once: there is work that was put off to let others have their turn.
    Now,
    /// As soon as the store has something.
    Store,
    /// At this database's next tick.
    Tick,
}

/// Where things stand.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Everything up to here is stored.
    pub stored: Option<Position>,
    /// Everything up to here has been copied from the WAL.
    pub copied: Option<Position>,
    /// Since the oldest commit that is not stored.
    pub lag: Duration,
    /// Objects and bytes stored since the start.
    pub objects: u64,
    pub bytes: u64,
    /// Listings, merges and deletes since the start.
    pub kept: u64,
    /// Frames in the WAL.
    pub wal_frames: u32,
    pub snapshot: Option<SnapshotStatus>,
    /// The snapshot that was stored last in this run.
    pub snapshot_stored: Option<Position>,
    pub trouble: Option<String>,
    pub tally: Tally,
    /// When everything that was committed was last seen to be stored.
    pub settled: Option<Timestamp>,
    /// Bytes of frames in the WAL.
    pub wal_bytes: u64,
}

/// A snapshot under way.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotStatus {
    /// Bytes of the database read, of how many, and bytes stored.
    pub read: u64,
    pub total: u64,
    pub stored: u64,
}

/// One database and its store.
pub struct Follower {
    settings: Settings,
    name: String,
    store: Rc<dyn Store>,
    lock: Option<Lock>,
    stage: Stage,
    outbox: Outbox,
    keeper: Keeper,
    owner: Owner,
    /// Nobody else has written to the store, as far as is known; nothing is written otherwise.
    ours: bool,
    sweeping: Sweeping,
    next_contact: Instant,
    /// The store was away when it was last looked at.
    away: bool,
    known: Known,
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
}

enum Stage {
    Starting(Start),
    /// The store is known; the database is to be opened, and continued behind `end` where that is possible.
    Opening(std::result::Result<End, Reason>),
    Following(Box<Following>),
}

struct Following {
    // Dropped in this order: the snapshot's connection, then the source's.
    snapshot: Option<SnapshotUpload>,
    source: Source,
    writer: Writer,
    next_tick: Instant,
    next_look: Instant,
    last_close: Option<Instant>,
    snapshot_due: Option<Instant>,
    /// After an attempt that failed.
    snapshot_pause: Duration,
    /// The point of the last snapshot that was begun: an idle database needs no second one.
    snapshot_at: Option<Position>,
    /// Nothing committed is left uncopied, as far as the last round saw.
    drained: bool,
}

/// A file that was replaced under its name is noticed within this time.
const LOOK: Duration = Duration::from_secs(1);
/// After trouble with the database.
const RETRY: Duration = Duration::from_secs(1);
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
            ours: false,
            sweeping: Sweeping::new(store.clone(), now),
            next_contact: now,
            away: false,
            lock: None,
            known: Known { last_moment: Timestamp::default(), last_snapshot: None },
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
            force_snapshot: settings.force_snapshot,
            opened: false,
            settings,
            store,
        }
    }

    /// Takes the lock, if the database can be followed at all; one that never can be is refused before anything else.
    ///
    /// Errors: as [`source::check`], and [`Kind::Locked`].
    pub fn check_database(&mut self) -> Result<()> {
        source::check(&self.settings.path, &self.settings.source)?;
        self.take_lock()
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
        self.closing = true;
    }

    /// Whether everything that was committed when it was last looked at is stored, snapshot included.
    pub fn is_settled(&self) -> bool {
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
            Stage::Starting(_) => true,
            Stage::Opening(_) => false,
            Stage::Following(following) => following.snapshot.is_some(),
        };
        waits || !self.ours || self.outbox.is_busy() || self.keeper.is_busy() || self.sweeping.is_busy()
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
        let next = self.advance(tools, clock);
        if matches!(self.stage, Stage::Following(_)) && self.is_settled() {
            self.settled = Some(clock.wall());
        }
        next
    }

    fn advance(&mut self, tools: &mut Tools, clock: &dyn Clock) -> Result<Next> {
        let next = self.poll_owner(clock).and_then(|()| match &mut self.stage {
            Stage::Starting(_) => self.poll_start(clock),
            Stage::Opening(_) => self.open(tools, clock),
            Stage::Following(_) => self.follow(tools, clock),
        });
        match next {
            Ok(next) => {
                let next = self.poll_outbox(clock).min(next);
                self.keep(clock).map(|kept| kept.min(next)).or_else(|error| self.handle(error, clock))
            }
            Err(error) => self.handle(error, clock),
        }
    }

    /// Merges and deletes, once what is stored can be restored; at the end only if that was asked for.
    ///
    /// Errors: only where it was asked for: else it is put off, and said.
    fn keep(&mut self, clock: &dyn Clock) -> Result<Next> {
        let restorable = matches!(&self.stage, Stage::Following(following) if following.snapshot_at.is_some());
        if !self.ours || !restorable || (self.closing && !self.settings.enforce_retention) {
            return Ok(Next::Tick);
        }
        match self.keeper.poll(clock) {
            Ok(Kept::Working) => Ok(Next::Now),
            Ok(Kept::Waiting) => Ok(Next::Store),
            Ok(Kept::Nothing) => Ok(Next::Tick),
            Err(error) if self.settings.enforce_retention => Err(error),
            Err(_) => Ok(Next::Tick),
        }
    }

    /// Whether the store is still ours alone to write. Another's word that it is not ends the program.
    fn poll_owner(&mut self, clock: &dyn Clock) -> Result<()> {
        let now = clock.now();
        if !self.contacted {
            self.ours = self.owner.begin(now, clock.wall())?;
            return Ok(());
        }
        self.look_at_store(clock)?;
        let writing = match &self.stage {
            Stage::Following(following) => Some(following.writer.end().tail.generation),
            Stage::Opening(Ok(end)) => Some(end.tail.generation),
            _ => None,
        };
        let stored = writing.map(|generation| match self.stored {
            Some(stored) if stored.generation == generation => stored,
            _ => Position { generation, point: Point { index: 0, offset: Offset::ZERO } },
        });
        let snapshot = matches!(&self.stage, Stage::Following(following) if following.snapshot_at.is_some());
        let outbox = &self.outbox;
        match self.owner.poll(now, &Mine { stored, snapshot, on_its_way: &|key| outbox.holds(key) }) {
            Ok(Seen::Emptied) => {
                self.ours = true;
                self.lost(Reason::StoredHistoryIsGone, now)?;
            }
            Ok(seen) => self.ours = seen == Seen::Ours,
            Err(error) if error.kind() == Kind::Locked => return Err(error),
            Err(error) => {
                self.ours = false;
                self.report(&error, clock);
            }
        }
        if self.ours {
            self.sweeping.poll(now, clock.wall());
        }
        Ok(())
    }

    /// An outage is told also while there is nothing to store.
    fn look_at_store(&mut self, clock: &dyn Clock) -> Result<()> {
        let now = clock.now();
        if now < self.next_contact {
            return Ok(());
        }
        self.next_contact = now + LOOK;
        match self.store.connect(now) {
            Err(error) if error.kind() == Kind::GaveUp => return Err(error),
            Err(error) => {
                self.away = true;
                self.report(&error, clock);
            }
            Ok(true) if std::mem::take(&mut self.away) && self.outbox.is_empty() => {
                self.trouble.clear(now, &self.name);
            }
            Ok(_) => {}
        }
        Ok(())
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
        self.keeper.started(self.known.last_moment, clock);
        self.stage = Stage::Opening(found.end);
        Ok(Next::Now)
    }

    fn take_lock(&mut self) -> Result<()> {
        if self.lock.is_none() {
            // The real path, so that two names of one database meet at one lock.
            let path = self.settings.path.canonicalize().unwrap_or_else(|_| self.settings.path.clone());
            let meta = self.settings.meta_path.clone().unwrap_or_else(|| source::default_meta_path(&path));
            self.lock = Some(Lock::take(&meta, &path)?);
        }
        Ok(())
    }

    fn open(&mut self, tools: &mut Tools, clock: &dyn Clock) -> Result<Next> {
        if self.outbox.is_full() {
            // What was let go for want of room waits until there is room again.
            return Ok(Next::Tick);
        }
        self.check_database()?;
        let Stage::Opening(end) = &mut self.stage else { return Ok(Next::Now) };
        if !self.opened {
            // With the lock in hand, the spool is ours.
            self.outbox.take_up(end.as_mut().ok(), clock.now())?;
        }
        let mut source = Source::open(&self.settings.path, &self.settings.source)?;
        let resumed = match end {
            Ok(end) => end.resume(&mut source, &mut tools.buffer)?.map(|()| *end),
            Err(reason) => Err(reason.clone()),
        };
        self.opened = true;
        let following = match resumed {
            Ok(end) => self.continue_generation(source, end, clock),
            Err(reason) => self.begin_generation(source, &reason, clock),
        };
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

    fn begin_generation(&mut self, source: Source, reason: &Reason, clock: &dyn Clock) -> Following {
        let time = clock.wall().max(self.known.last_moment);
        let generation = new_generation(time);
        self.known.last_moment = time;
        self.owner.knows([generation]);
        self.generation_begun = Some(clock.now());
        self.tally.generation(reason);
        log::info("new generation")
            .field("db", &self.name)
            .field("generation", generation)
            .field("reason", reason)
            .emit();
        let end = End::begin(generation, &source.start(), time);
        self.force_snapshot = false;
        Following::new(source, Writer::new(end), clock.now(), Some(clock.now()))
    }

    fn follow(&mut self, tools: &mut Tools, clock: &dyn Clock) -> Result<Next> {
        let Stage::Following(following) = &mut self.stage else { return Ok(Next::Now) };
        let now = clock.now();
        let mut next = Next::Tick;
        if now >= following.next_tick || self.closing {
            following.next_tick = now + self.settings.monitor_interval;
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
        if now >= following.next_look {
            following.next_look = now + LOOK;
            let overrun = self.outbox.is_overrun() || backlog(following) > self.settings.backlog_bytes;
            let overrun = overrun && self.outbox.is_full();
            let reason = if overrun { Some(Reason::Backlog) } else { following.source.replaced()? };
            if let Some(reason) = reason {
                return self.lost(reason, now);
            }
        }
        let snapshot = self.follow_snapshot(clock)?;
        Ok(next.min(snapshot))
    }

    /// The generation ends. What was copied of it is stored all the same; then a new one begins with a snapshot.
    fn lost(&mut self, reason: Reason, now: Instant) -> Result<Next> {
        let stage = std::mem::replace(&mut self.stage, Stage::Opening(Err(reason.clone())));
        if let Stage::Following(mut following) = stage {
            if let Some(segment) = following.writer.close() {
                self.outbox.push(segment, now);
            }
            self.known.last_moment = self.known.last_moment.max(following.writer.end().time);
        }
        if reason == Reason::StoredHistoryIsGone {
            self.outbox = Outbox::new(self.store.clone(), spool(&self.settings));
        }
        log::warn("generation ended").field("db", &self.name).field("reason", reason).emit();
        if self.generation_begun.is_some_and(|begun| now.duration_since(begun) < YOUNG) {
            self.not_before = now + RETRY;
        }
        Ok(Next::Now)
    }

    fn follow_snapshot(&mut self, clock: &dyn Clock) -> Result<Next> {
        let Stage::Following(following) = &mut self.stage else { return Ok(Next::Tick) };
        if !self.ours {
            return Ok(Next::Store);
        }
        let now = clock.now();
        if self.settings.snapshot_interval.is_some() && self.keeper.wants_snapshot() && following.snapshot.is_none() {
            // Not later than due, and not sooner after a failure than that asks for.
            following.snapshot_due = following.snapshot_due.map(|due| due.min(now + RETRY));
        }
        let due = following.snapshot_due.is_none_or(|due| now >= due);
        let forced = self.force_snapshot && (due || following.snapshot_at.is_some());
        if following.snapshot.is_none() && following.wants_snapshot(now, forced) {
            following.begin_snapshot(&*self.store, clock)?;
            if following.snapshot.is_none() {
                return Ok(Next::Tick);
            }
        }
        let Some(upload) = &mut following.snapshot else { return Ok(Next::Tick) };
        match upload.poll(now) {
            Ok(Progress::Working) => Ok(Next::Now),
            Ok(Progress::Waiting) => Ok(Next::Store),
            Ok(Progress::Done) => {
                self.snapshot_done(now);
                Ok(Next::Tick)
            }
            Err(error) => {
                following.snapshot = None;
                // Each attempt reads the whole database.
                following.snapshot_due = Some(now + following.snapshot_pause);
                following.snapshot_pause = (following.snapshot_pause * 2).min(SNAPSHOT_RETRY);
                match error.kind() {
                    Kind::Store | Kind::Unreachable | Kind::NotFound => self.report(&error, clock),
                    _ => return Err(error),
                }
                Ok(Next::Tick)
            }
        }
    }

    fn snapshot_done(&mut self, now: Instant) {
        let Stage::Following(following) = &mut self.stage else { return };
        let Some(upload) = following.snapshot.take() else { return };
        let header = upload.header();
        let position = Position { generation: header.generation, point: header.at };
        log::info("snapshot stored")
            .field("db", &self.name)
            .field("position", position)
            .field("bytes", upload.read())
            .field("stored", upload.stored())
            .emit();
        following.snapshot_at = Some(position);
        following.snapshot_pause = RETRY;
        self.snapshot_stored = Some(position);
        following.snapshot_due = self.settings.snapshot_interval.map(|interval| now + interval);
        self.force_snapshot = false;
        self.known.last_snapshot = Some(header.time);
        self.keeper.snapshot_stored(upload.stored());
        self.objects += 1;
        self.bytes += upload.stored();
        let newer =
            self.stored.is_none_or(|stored| stored.generation != position.generation || stored.point < position.point);
        if newer {
            self.stored = Some(position);
        }
        self.trouble.clear(now, &self.name);
    }

    fn poll_outbox(&mut self, clock: &dyn Clock) -> Next {
        let now = clock.now();
        if !self.ours {
            return Next::Store;
        }
        let polled = self.outbox.poll(now);
        for stored in &polled.stored {
            self.objects += 1;
            self.bytes += stored.size;
            self.keeper.stored(stored.key, stored.size);
            self.stored = Some(Position { generation: stored.key.generation, point: stored.key.end });
            log::debug("segment stored").field("db", &self.name).field("name", stored.key).emit();
        }
        if let Some(error) = polled.error {
            self.report(&error, clock);
        } else if !polled.stored.is_empty() {
            self.trouble.clear(now, &self.name);
        }
        if self.outbox.is_busy() || self.sweeping.is_busy() { Next::Store } else { Next::Tick }
    }

    /// Decides whether an error ends the program.
    fn handle(&mut self, error: Error, clock: &dyn Clock) -> Result<Next> {
        let first = match error.kind() {
            Kind::Store | Kind::Unreachable | Kind::GaveUp | Kind::NotFound => !self.contacted,
            _ => !self.opened,
        };
        let waits = error.kind().may_pass() && self.settings.patient;
        let ends = matches!(error.kind(), Kind::Locked | Kind::GaveUp);
        if ends || (first && !waits) || (!self.settings.patient && !error.kind().may_pass()) {
            return Err(error);
        }
        self.report(&error, clock);
        if error.kind() != Kind::DatabaseNotReady {
            self.reopen(clock.now());
        }
        if !matches!(self.stage, Stage::Following(_)) {
            self.not_before = clock.now() + RETRY;
        }
        Ok(Next::Tick)
    }

    fn report(&mut self, error: &Error, clock: &dyn Clock) {
        self.tally.error(error.kind());
        let lag = self.lag(clock.wall()).as_secs();
        self.trouble.report(clock.now(), &self.name, error, lag);
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

    fn lag(&self, wall: Timestamp) -> Duration {
        let waiting = match &self.stage {
            Stage::Following(following) => following.writer.oldest(),
            _ => None,
        };
        let oldest = self.outbox.oldest().or(waiting);
        oldest.map_or(Duration::ZERO, |oldest| wall.since(oldest))
    }

    pub fn status(&self, clock: &dyn Clock) -> Status {
        let mut status = Status {
            stored: self.stored,
            snapshot_stored: self.snapshot_stored,
            lag: self.lag(clock.wall()),
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

/// How a round ended.
enum Round {
    Done,
    Again,
    Lost(Reason),
}

impl Following {
    fn new(source: Source, writer: Writer, now: Instant, snapshot_due: Option<Instant>) -> Following {
        Following {
            snapshot: None,
            source,
            writer,
            next_tick: now,
            next_look: now + LOOK,
            last_close: None,
            snapshot_due,
            snapshot_pause: RETRY,
            snapshot_at: None,
            drained: false,
        }
    }

    /// Copies what is committed, and moves the pin behind it.
    fn round(&mut self, tools: &mut Tools, clock: &dyn Clock, outbox: &mut Outbox) -> Result<Round> {
        for _ in 0..ROUNDS {
            if !self.source.changed(clock.now())? && self.drained {
                return Ok(Round::Done);
            }
            self.drained = false;
            if let Some(reason) = self.drain(tools, clock, outbox)? {
                return Ok(Round::Lost(reason));
            }
            if !self.source.advance(clock.now())? {
                return Ok(Round::Done);
            }
        }
        Ok(Round::Again)
    }

    fn drain(&mut self, tools: &mut Tools, clock: &dyn Clock, outbox: &mut Outbox) -> Result<Option<Reason>> {
        while !outbox.is_full() {
            match self.source.read(&mut tools.buffer)? {
                Copied::Nothing => {
                    self.drained = true;
                    return Ok(None);
                }
                Copied::Lost(reason) => return Ok(Some(reason)),
                Copied::Batch(batch) => {
                    // The wall clock is read behind the wal-index, so that no commit is stamped before it happened.
                    for segment in self.writer.push(&mut tools.encoder, &batch, clock.wall()) {
                        outbox.push(segment, clock.now());
                    }
                }
            }
        }
        Ok(None)
    }

    /// A change after a quiet spell is stored at once; under steady writes, one segment each interval.
    fn close_segment(&mut self, now: Instant, interval: Duration, closing: bool, outbox: &mut Outbox) {
        let waited = self.last_close.is_none_or(|last| now.duration_since(last) >= interval);
        if !waited && !closing {
            return;
        }
        if let Some(segment) = self.writer.close() {
            outbox.push(segment, now);
            self.last_close = Some(now);
        }
    }

    fn wants_snapshot(&self, now: Instant, forced: bool) -> bool {
        let end = self.writer.end();
        let here = Position { generation: end.tail.generation, point: end.point() };
        match self.snapshot_at {
            None => self.snapshot_due.is_none_or(|due| now >= due),
            Some(_) if forced => true,
            Some(at) => at != here && self.snapshot_due.is_some_and(|due| now >= due),
        }
    }

    fn begin_snapshot(&mut self, store: &dyn Store, clock: &dyn Clock) -> Result<()> {
        if !self.drained {
            return Ok(());
        }
        let Some(snapshot) = self.source.snapshot()? else { return Ok(()) };
        let end = *self.writer.end();
        let Some(at) = end.point_of(&snapshot.mark()) else { return Ok(()) };
        let time = clock.wall().max(end.time);
        self.snapshot = Some(SnapshotUpload::new(store, snapshot, end.tail.generation, at, time));
        Ok(())
    }
}

/// Where the segments of a database wait while the store is away.
fn spool(settings: &Settings) -> Spool {
    let meta = settings.meta_path.clone().unwrap_or_else(|| source::default_meta_path(&settings.path));
    Spool::new(&meta.join("spool"), settings.backlog_bytes)
}

/// Bytes of the WAL.
fn backlog(following: &Following) -> u64 {
    let frames = following.source.wal_frames().map_or(0, |(frames, _)| frames);
    u64::from(frames) * following.source.page_size().frame() as u64
}

/// Generations sort by age; the random part keeps two hosts apart.
pub fn new_generation(time: Timestamp) -> Generation {
    Generation::new(time.millis() << 16 | crate::store::random::below(1 << 16))
}

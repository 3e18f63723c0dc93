//! One thread that holds a whole installation: an application, a replicator, a store and a clock. Time passes when it is
//! told to, so that a schedule of hours takes milliseconds and is the same each time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use litestream::age::identity::Identity;
use litestream::backup::checkpoint_note::CheckpointNote;
use litestream::backup::find_end::find_end;
use litestream::clock::Clock;
use litestream::error::{Error, Kind, Result};
use litestream::format::listing::Listing;
use litestream::format::plan::{PlanTarget, plan};
use litestream::log;
use litestream::replica::replicator::{ComparisonPace, ReplicaTarget, Replicator, Settings, SharedBuffers, WakeOn};
use litestream::restore::apply::restore;
use litestream::restore::page_output::PageOutput;
use litestream::source::{GenerationEnd, Source, SourceOptions};
use litestream::store::Store;
use litestream::store::encrypted::{EncryptedStore, Encryption, NameRoot};

use super::application::{Application, state_of_file};
use super::memory::{Fake, Memory};
use super::random::Random;

/// A database at rest is looked at this often, as the poll loop of the program does.
const BEAT: Duration = Duration::from_secs(1);
/// monitor-interval.
const TICK: Duration = Duration::from_millis(50);
/// How long the last sync of `replicate` may take: shutdown-sync-timeout.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// heartbeat-interval: everything was stored within it.
const HEARTBEAT: Duration = Duration::from_secs(300);

/// A run of `replicate`.
pub struct Run {
    pub follower: Replicator,
    tools: SharedBuffers,
    beat: Instant,
    /// When it last said that all was stored, by the monotonic clock.
    pub settled: Option<Instant>,
}

/// How a run ended.
#[derive(Debug)]
pub enum Exit {
    Success,
    NotAllStored,
    Error(Error),
}

pub struct World {
    pub random: Random,
    pub directory: PathBuf,
    pub clock: Fake,
    pub memory: Rc<Memory>,
    /// The store of a second replica, in some schedules.
    pub second: Option<Rc<Memory>>,
    pub application: Application,
    pub settings: Settings,
    /// What is stored is encrypted to this identity, in some schedules.
    pub encrypted: Option<Identity>,
    pub run: Option<Run>,
    /// What a restore of these names gave.
    restored: Option<(Vec<(String, u64)>, Restored)>,
}

/// The state that a restore gives.
type Restored = std::result::Result<String, Kind>;

/// What `status` says.
#[derive(PartialEq, Eq, Debug)]
pub enum Said {
    Ok,
    Behind(String),
    Unprotected(String),
    Trouble(String),
}

/// A database file in memory, being restored.
struct Image(Vec<u8>);

impl PageOutput for &mut Image {
    fn expect(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn write_at(&mut self, at: u64, page: &[u8]) -> Result<()> {
        let (at, end) = (at as usize, at as usize + page.len());
        if self.0.len() < end {
            self.0.resize(end, 0);
        }
        self.0[at..end].copy_from_slice(page);
        Ok(())
    }

    fn read_at(&mut self, at: u64, page: &mut [u8]) -> Result<()> {
        let stored = self.0.get(at as usize..).unwrap_or_default();
        let count = stored.len().min(page.len());
        page[..count].copy_from_slice(&stored[..count]);
        page[count..].fill(0);
        Ok(())
    }

    fn set_len(&mut self, bytes: u64) -> Result<()> {
        self.0.resize(bytes as usize, 0);
        Ok(())
    }
}

impl World {
    pub fn new(directory: &Path, seed: u64) -> World {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory).expect("make the directory of a schedule");
        let mut random = Random(seed);
        litestream::random::repeat(random.next());
        seed_sqlite(random.next());
        let clock = Fake::default();
        let mut application = Application::new(&directory.join("a.db"), &mut random, 0, clock.now());
        let mut settings = settings(&application.path, &mut random);
        // Not drawn: seeds that were kept before stay what they were.
        settings.source.differences = seed & 1 == 1;
        settings.comparison = pace(seed >> 1);
        settings.keep_page_sums = seed >> 9 & 3 > 0;
        if settings.keep_page_sums {
            application.weigh_down();
        }
        let memory = Rc::new(Memory::default());
        memory.link.seed.set(random.next());
        memory.link.standby.set(standby(seed >> 9));
        World {
            random,
            directory: directory.to_path_buf(),
            clock,
            memory,
            second: None,
            application,
            settings,
            // Not drawn either.
            encrypted: (seed >> 7 & 3 == 3).then(Identity::generate),
            run: None,
            restored: None,
        }
    }

    /// Begins as `replicate` does, `-once` if it is not patient.
    pub fn start(&mut self, patient: bool) -> Result<()> {
        let force_snapshot = self.random.chance(5);
        let settings = Settings { wait_for_database: patient, force_snapshot, ..self.settings.clone() };
        let now = self.clock.now();
        let mut follower = match &self.second {
            None => Replicator::new(settings, self.encrypting(self.memory.clone()), now),
            Some(second) => {
                let stores = [("one", self.memory.clone()), ("two", second.clone())];
                let encrypting = |store| self.encrypting(store);
                let targets =
                    stores.into_iter().map(|(name, store)| target(&settings, name, encrypting(store))).collect();
                Replicator::with_replicas(settings, targets, now)
            }
        };
        match follower.check_database() {
            Err(error) if error.kind() == Kind::DatabaseNotReady && patient => {}
            checked => checked?,
        }
        self.run = Some(Run { follower, tools: SharedBuffers::new(), beat: now, settled: None });
        Ok(())
    }

    /// One turn of the poll loop, and the time that it sleeps after it.
    ///
    /// Errors: those that end the program, which has ended then.
    pub fn turn(&mut self) -> Result<WakeOn> {
        let Some(run) = &mut self.run else {
            self.clock.pass(BEAT);
            return Ok(WakeOn::DatabaseWrite);
        };
        let now = self.clock.now();
        run.tools.check_idle = now >= run.beat;
        if run.tools.check_idle {
            run.beat = now + BEAT;
        }
        run.tools.inotify.read_events();
        match run.follower.poll(&mut run.tools, &self.clock) {
            Ok(next) => {
                let counters = run.follower.status(&self.clock).counters;
                let alarm = counters.generations.keys().find(|reason| reason.contains("commits lead to"));
                assert_eq!(alarm, None, "nothing has written past SQLite");
                if run.follower.is_drained() && !run.follower.has_failures() {
                    run.settled = Some(now);
                }
                self.clock.pass(match next {
                    WakeOn::Immediately => Duration::from_micros(500),
                    WakeOn::StoreEvent => Duration::from_millis(3),
                    WakeOn::NextTick if self.memory.link.standby.get().is_some() => {
                        run.follower.urgent_interval().unwrap_or(TICK)
                    }
                    WakeOn::NextTick => TICK,
                    WakeOn::DatabaseWrite => run.beat.saturating_duration_since(now),
                });
                Ok(next)
            }
            Err(error) => {
                self.run = None;
                Err(error)
            }
        }
    }

    /// The program runs for so long. On a busy machine: its turns come later than it asked for, where that is a long time.
    pub fn pass(&mut self, time: Duration) -> Result<()> {
        let end = self.clock.now() + time;
        while self.clock.now() < end {
            let begun = self.clock.now();
            let next = self.turn()?;
            let least = if next < WakeOn::NextTick { Duration::ZERO } else { time / 50 };
            self.clock.pass(least.saturating_sub(self.clock.now() - begun));
        }
        Ok(())
    }

    /// The end of `replicate`, by a signal or because of `-once`.
    pub fn finish(&mut self) -> Exit {
        self.finish_while(|_| {})
    }

    /// The same, while something goes on before each turn.
    pub fn finish_while(&mut self, mut goes_on: impl FnMut(&mut World)) -> Exit {
        let Some(run) = &mut self.run else { return Exit::Success };
        run.follower.close();
        let end = self.clock.now() + SHUTDOWN;
        let exit = loop {
            goes_on(self);
            if let Err(error) = self.turn() {
                break Exit::Error(error);
            }
            match &self.run {
                Some(run) if run.follower.has_failures() && run.follower.is_drained() => break Exit::NotAllStored,
                Some(run) if run.follower.is_drained() => break Exit::Success,
                _ if self.clock.now() >= end => break Exit::NotAllStored,
                _ => {}
            }
        };
        self.run = None;
        exit
    }

    /// Whether the program says that all is stored, as it does before it sends a heartbeat; since when.
    pub fn says_all_is_stored(&self) -> Option<Instant> {
        let run = self.run.as_ref()?;
        let fresh = |at: &Instant| self.clock.now() - *at < HEARTBEAT;
        run.settled
            .filter(fresh)
            .filter(|_| run.follower.statuses(&self.clock).iter().all(|status| status.problem.is_none()))
    }

    /// What the metric `up` tells once something is stored, and while no question to the store waits for its answer.
    pub fn is_up(&self) -> bool {
        let Some(run) = self.run.as_ref().filter(|run| !run.follower.has_store_work()) else { return false };
        let status = run.follower.status(&self.clock);
        status.stored.is_some() && status.problem.is_none()
    }

    /// Whether a snapshot of the database is stored that can be read.
    pub fn has_a_snapshot(&self) -> bool {
        let (objects, incomplete) = (self.memory.objects.borrow(), self.memory.incomplete.borrow());
        let whole = |name: &str| name.contains("/snapshots/") && !incomplete.contains(name);
        objects.iter().any(|(name, bytes)| whole(name) && bytes.len() > 1)
    }

    /// `replicate -once` of a database that has nothing to do with what is stored.
    pub fn replicate_another_database(&mut self) -> Exit {
        let path = self.directory.join("other.db");
        let other = Application::new(&path, &mut self.random, 1 << 40, self.clock.now());
        let settings = Settings { path, ..self.settings.clone() };
        let first = std::mem::replace(&mut self.settings, settings);
        let exit = match self.start(false) {
            Ok(()) => self.finish(),
            Err(error) => Exit::Error(error),
        };
        self.settings = first;
        drop(other);
        for end in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(self.directory.join(format!("other.db{end}")));
        }
        exit
    }

    /// Restores the newest state; which one that is. The same names hold the same objects.
    pub fn restored(&mut self) -> Restored {
        let names = self.memory.names();
        if let Some((_, known)) = self.restored.as_ref().filter(|(before, _)| *before == names) {
            return known.clone();
        }
        let restored = self.restore(&PlanTarget::Latest);
        self.restored = Some((names, restored.clone()));
        restored
    }

    pub fn forget_restored(&mut self) {
        self.restored = None;
    }

    pub fn restore(&self, target: &PlanTarget) -> Restored {
        self.restore_from(&self.memory, target)
    }

    /// What the second replica gives.
    pub fn restored_from_second(&self) -> Option<Restored> {
        self.second.as_ref().map(|second| self.restore_from(second, &PlanTarget::Latest))
    }

    fn restore_from(&self, memory: &Memory, target: &PlanTarget) -> Restored {
        let image = self.image_of(memory, target).map_err(|error| {
            log::warn("restore").error(&error).emit();
            error.kind()
        })?;
        let path = self.directory.join("restored.db");
        fs::write(&path, &image).expect("write a restored file");
        Ok(state_of_file(&path).unwrap_or_else(|error| panic!("what was restored is no database: {error}")))
    }

    pub fn image(&self, target: &PlanTarget) -> Result<Vec<u8>> {
        self.image_of(&self.memory, target)
    }

    fn image_of(&self, memory: &Memory, target: &PlanTarget) -> Result<Vec<u8>> {
        let listing = Listing::new(memory.names());
        let plan = plan(&listing, None, target)?;
        let mut image = Image(Vec::new());
        let reader = self.decrypting(memory);
        restore(&*reader, &self.clock, &plan, &mut image, &mut |_| ())?;
        Ok(image.0)
    }

    /// What the program stores to: it has no identity.
    fn encrypting(&self, store: Rc<dyn Store>) -> Rc<dyn Store> {
        let Some(identity) = &self.encrypted else { return store };
        let encryption = Encryption {
            recipients: vec![*identity.recipient()].into(),
            identities: Vec::new(),
            note_directory: Some(self.settings.meta()),
        };
        Rc::new(EncryptedStore::new(store, NameRoot::Prefix("model".to_string()), encryption))
    }

    /// What a restore reads from.
    fn decrypting(&self, memory: &Memory) -> Rc<dyn Store> {
        let encryption = Encryption { identities: self.encrypted.iter().cloned().collect(), ..Encryption::default() };
        Rc::new(EncryptedStore::new(Rc::new(memory.reader()), NameRoot::Prefix("model".to_string()), encryption))
    }

    /// What `status` says.
    pub fn status(&self) -> Said {
        let store = self.encrypting(Rc::new(self.memory.reader()));
        let end = match find_end(&store, &self.clock).map(|found| found.end) {
            Ok(Ok(end)) => end,
            Ok(Err(reason)) => return Said::Unprotected(reason.to_string()),
            Err(error) => return Said::Trouble(error.to_string()),
        };
        let options = SourceOptions { enable_wal: false, ..self.settings.source.clone() };
        let look = || -> Result<std::result::Result<u32, GenerationEnd>> {
            let mut source = Source::open(&self.application.path, &options)?;
            let resumed = end.resume(&mut source, &CheckpointNote::default(), &mut vec![0; 1 << 16])?;
            Ok(resumed.map(|()| source.uncopied_frames()))
        };
        match look() {
            Ok(Ok(0)) => Said::Ok,
            Ok(Ok(frames)) => Said::Behind(format!("{frames} frames")),
            Ok(Err(reason)) => Said::Behind(reason.to_string()),
            Err(error) => Said::Trouble(error.to_string()),
        }
    }

    /// Whether a restore gives the live database, page for page, and its checksum is known to the store. After a VACUUM the rows
    /// alone would say so too soon.
    pub fn is_live_image_stored(&self) -> bool {
        let store = self.encrypting(Rc::new(self.memory.reader()));
        let known = find_end(&store, &self.clock).is_ok_and(|found| found.end.is_ok_and(|end| end.database.is_some()));
        if !known {
            return false;
        }
        let options = SourceOptions { enable_wal: false, ..self.settings.source.clone() };
        let mut live = Vec::new();
        let mut read = || -> Result<bool> {
            let mut source = Source::open(&self.application.path, &options)?;
            let Some(mut snapshot) = source.snapshot(&self.directory)? else { return Ok(false) };
            live.resize(snapshot.bytes() as usize, 0);
            let mut at = 0;
            while at < live.len() {
                at += snapshot.read(&mut live[at..])?;
            }
            Ok(true)
        };
        read().is_ok_and(|read| read) && self.image(&PlanTarget::Latest).is_ok_and(|image| image == live)
    }

    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.memory.objects.borrow().clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.run = None;
        self.application.close();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// From one pass after the other to one an hour, page by page or at once; or none.
fn pace(bits: u64) -> Option<ComparisonPace> {
    let interval = Duration::from_secs([5, 60, 600, 3600][bits as usize & 3]);
    let piece = [1, 1500, 1 << 20][(bits >> 2) as usize % 3];
    (bits & 0x70 != 0).then_some(ComparisonPace { interval, piece })
}

/// No standby, one that comes and goes, or one that stays.
pub fn standby(bits: u64) -> Option<Duration> {
    [None, Some(Duration::from_secs(3)), Some(Duration::from_secs(300)), Some(Duration::MAX)][bits as usize & 3]
}

/// The salts of each WAL are SQLite's random numbers.
fn seed_sqlite(seed: u64) {
    let seed = (seed >> 33) as std::ffi::c_int | 1;
    // SAFETY: an int and a null pointer to a connection are what this verb takes (sqlite.org/c3ref/test_control.html).
    unsafe {
        rusqlite::ffi::sqlite3_test_control(
            rusqlite::ffi::SQLITE_TESTCTRL_PRNG_SEED,
            seed,
            std::ptr::null_mut::<rusqlite::ffi::sqlite3>(),
        );
    }
}

fn target(settings: &Settings, name: &str, store: Rc<dyn Store>) -> ReplicaTarget {
    ReplicaTarget {
        store,
        name: Some(name.to_string()),
        directory: Some(format!("replica-{name}")),
        sync_interval: settings.sync_interval,
        serves_standbys: settings.serves_standbys,
        compaction: settings.compaction,
        compression_level: settings.compression_level,
    }
}

fn settings(path: &Path, random: &mut Random) -> Settings {
    let seconds = |random: &mut Random, all: &[u64]| Duration::from_secs(all[random.below(all.len() as u64) as usize]);
    Settings {
        source: SourceOptions {
            busy_timeout: Duration::ZERO,
            enable_wal: true,
            allow_network: true,
            differences: false,
            checkpoint_frames: [3, 20, 1000][random.below(3) as usize],
            checkpoint_interval: random.chance(70).then_some(Duration::from_secs(60)),
            truncate_frames: random.chance(50).then_some(8),
        },
        meta_path: None,
        monitor_interval: TICK,
        sync_interval: seconds(random, &[0, 1, 10]),
        serves_standbys: true,
        comparison: None,
        snapshot_interval: random.chance(70).then(|| seconds(random, &[60, 3600, 86_400])),
        retention: random.chance(70).then(|| seconds(random, &[600, 7200, 86_400])),
        keep: None,
        compaction: true,
        compression_level: Default::default(),
        enforce_retention: false,
        force_snapshot: false,
        snapshot_if_long: false,
        allow_other_database: false,
        allow_unencrypted: false,
        takeover: false,
        keep_note: false,
        keep_page_sums: false,
        wait_for_database: true,
        max_backlog: if random.chance(20) { 40_000 } else { 1 << 30 },
        path: path.to_path_buf(),
    }
}

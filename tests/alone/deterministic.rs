//! Random schedules in one thread: an application on real SQLite, a replicator, a store in memory that misbehaves, and a
//! clock that the schedule sets. After each step a judge looks at what the program says and at what a restore gives. Nothing
//! waits, so that thousands of schedules a minute pass, and a seed decides all of it: a schedule that failed fails again.
//!
//! Other schedules store in two replicas, which misbehave each for itself (`MODEL_SEED_OF_TWO=n`), or lose their machine to
//! others that take over (`MODEL_SEED_OF_TAKEOVERS=n`).
//!
//! `MODEL_SEED=n` runs that schedule alone and shows each step with the program's log; `MODEL_SECONDS=n` goes on for so
//! long; `MODEL_FROM=n` takes the seeds n, n + 1 and so on. tests/data/model-seeds keeps those that once failed, in lines
//! that begin with `memory`.
//!
//! In three of four schedules a standby listens for what is stored, all the time or now and then.
//!
//! What is judged:
//!
//! * A restore is a state that was committed, or an error; it never goes back while the store forgot nothing.
//! * Where the program ended with 0, sent its heartbeat, or `status` says ok, a restore gives the live database; where that
//!   gives it, `status` gives no alarm.
//! * When nothing fails any more, all is stored within a bounded time.
//! * After a takeover one machine's commits go on. The other ones are refused, whatever they have.

mod killed;
mod takeover;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use crate::support::alone::alone;
use crate::support::memory::Memory;
use crate::support::python;
use crate::support::random::Random;
use crate::support::world::{Exit, Said, World, standby};
use litestream::backup::stored_end::StoredEnd;
use litestream::clock::Clock;
use litestream::error::{Error, Kind};
use litestream::format::chain::SegmentChain;
use litestream::format::key::{Key, SegmentKey, SnapshotKey};
use litestream::format::listing::Listing;
use litestream::format::plan::PlanTarget;
use litestream::format::position::{Generation, Offset, PageSize, WalPosition};
use litestream::format::time::Timestamp;
use litestream::format::wal::{ByteOrder, Salt};
use litestream::log;
use litestream::replica::segment_builder::Segment;
use litestream::replica::spool::Spool;
use litestream::replica::upload_queue::UploadQueue;
use litestream::source::WalMark;
use takeover::Takeovers;

/// Steps of a schedule.
const STEPS: u64 = 60;
/// Schedules of which the second reader reads what they store.
const SECOND_READER_SCHEDULES: u64 = 24;
/// How long a plain run of the tests takes.
const SECONDS: Duration = Duration::from_secs(10);
/// A kind of schedules: the word before a seed of it in [`SEEDS`], and the variable that plays one.
struct ScheduleKind {
    word: &'static str,
    variable: &'static str,
}
const OF_ONE: ScheduleKind = ScheduleKind { word: "memory", variable: "MODEL_SEED" };
const OF_TWO: ScheduleKind = ScheduleKind { word: "memory-two", variable: "MODEL_SEED_OF_TWO" };
const OF_TAKEOVERS: ScheduleKind = ScheduleKind { word: "memory-takeovers", variable: "MODEL_SEED_OF_TAKEOVERS" };
const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/model-seeds");
/// A commit is seen within this time, whatever the pace: a database at rest is looked at each second.
const SEEN: Duration = Duration::from_millis(2200);
/// What the store has lost is noticed within this time while the program runs: by the hourly listing at the latest.
const NOTICED: Duration = Duration::from_secs(3700);
/// What an object of somebody else's holds.
const JUNK: &[u8] = b"x";
/// Earlier moments of the store that are remembered.
const PAST: usize = 12;
/// When nothing fails any more, all is stored within this time: the longest pauses of the program, one after another.
const RECOVERY: Duration = Duration::from_secs(180);

#[test]
fn no_schedule_loses_a_commit_or_claims_it_is_stored() {
    let _alone = alone();
    let mut rollups = 0;
    let count = play_schedules(&OF_ONE, SECONDS, &mut |seed, aloud| rollups += run(seed, aloud));
    println!("{rollups} incremental snapshots at their ends");
    assert!(rollups > 0 || count < 200, "no schedule has stored an incremental snapshot");
}

/// The database has two replicas, and each of them is judged.
#[test]
fn no_schedule_of_two_replicas_loses_a_commit_in_one_of_them() {
    let _alone = alone();
    play_schedules(&OF_TWO, SECONDS, &mut run_two);
}

/// Machines are lost, others take over, and the old ones come back.
#[test]
fn after_a_takeover_exactly_one_machine_goes_on() {
    let _alone = alone();
    let (mut taken, mut refused) = (0, 0);
    let count = play_schedules(&OF_TAKEOVERS, takeover::SECONDS, &mut |seed, aloud| {
        let found = takeover::run(seed, aloud);
        (taken, refused) = (taken + found.0, refused + found.1);
    });
    println!("{taken} takeovers, {refused} times the record alone refused one");
    assert!((taken > 0 && refused > 0) || count < 20);
}

/// The last state of the store, and all that was said on the way there, is the same each time.
#[test]
fn a_seed_decides_the_whole_schedule() {
    let _alone = alone();
    log::silence();
    let played = |seed| {
        let mut model = Model::new(seed, false);
        model.play();
        (std::mem::take(&mut model.said), model.world.objects())
    };
    for seed in [1, 2, 3] {
        let (one, other) = (played(seed), played(seed));
        assert_eq!(one.0, other.0, "seed {seed}");
        assert!(one.1 == other.1, "seed {seed}: the same steps, and other objects");
    }
}

/// The reader that was written from the manual alone finds each object as the manual says, replays each position, and comes
/// to the same database as the program.
#[test]
fn second_reader_agrees_with_every_object_of_the_model() {
    let _alone = alone();
    log::silence();
    let first = number("MODEL_FROM").unwrap_or_else(fresh_seed);
    let mut read = String::new();
    for seed in first..first + SECOND_READER_SCHEDULES {
        let mut model = Model::new(seed, false);
        model.world.encrypted = None;
        // Nothing is lost, and nothing is there that is not ours.
        model.rules = vec![Rule::Clock];
        model.play();
        let (store, output) = (directory().with_extension("store"), directory().with_extension("db"));
        for (name, bytes) in model.world.objects() {
            let path = store.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
            fs::write(path, bytes).expect("write an object");
        }
        let ran = python("second_reader.py").arg(&store).arg(&output).output().expect("run python3");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let image = model.world.image(&PlanTarget::Latest).expect("a restore");
        assert!(fs::read(&output).expect("its output") == image, "the second reader has another database");
        read += &String::from_utf8_lossy(&ran.stdout);
        fs::remove_dir_all(&store).and_then(|()| fs::remove_file(&output)).expect("remove the objects");
        model.passed = true;
    }
    let count = |word: &str| -> u64 {
        let words = read.split_whitespace().filter_map(|text| text.strip_prefix(word));
        words.map(|number| number.parse::<u64>().expect("a number")).sum()
    };
    println!("{} members of version 1, {} of version 2", count("v1="), count("v2="));
    assert!(count("v1=") > 0 && count("v2=") > 0, "{read}");
}

/// A server that flaps is back for seconds only: nothing waits out the pause of an attempt that failed before.
#[test]
fn backlog_does_not_wait_out_a_pause_once_the_store_is_back() {
    let _alone = alone();
    let memory = Rc::new(Memory::default());
    let spool = Spool::new(&directory().join("spool"), 0);
    let mut outbox = UploadQueue::new(memory.clone(), spool);
    let (point, now) = (|offset| WalPosition { index: 0, offset }, Instant::now());
    let (time, page_size) = (Timestamp::from_millis(1), PageSize::new(512).expect("a page size"));
    let key = SegmentKey {
        generation: Generation::new(1),
        start: point(Offset::ZERO),
        end: point(Offset::new(32).expect("an offset")),
        first_seen: time,
        last_seen: time,
        part: false,
    };
    let mark = WalMark { page_size, order: ByteOrder::Little, salt: Salt(1, 2), frame: 0, checksum: None };
    let end = StoredEnd::at_snapshot(key.generation, &mark, time);
    outbox.push(Segment { key, bytes: vec![1; 10], oldest: time, end }, now);
    memory.link.failing.set(100);
    let failed = (0..9).filter(|n| outbox.poll(now + Duration::from_secs(60 * n)).error.is_some()).count();
    assert!(failed > 3, "{failed} attempts failed");
    memory.link.failing.set(0);
    let later = now + Duration::from_secs(60 * 8) + Duration::from_millis(1);
    assert!(outbox.poll(later).stored.is_empty() && !outbox.is_busy(), "it is to be the pause of a failed attempt");
    outbox.retry_now();
    let stored = (0..100).any(|_| !outbox.poll(later).stored.is_empty());
    assert!(stored && outbox.is_empty());
}

/// Plays the schedule of the seed in the variable of `kind` with all that it says, if there is one. Else those that are kept, and new ones
/// until the time is over: how many new ones. No other schedule is played meanwhile: SQLite's random numbers, the salts among
/// them, are one sequence for the whole process.
fn play_schedules(kind: &ScheduleKind, time: Duration, play: &mut dyn FnMut(u64, bool)) -> u64 {
    if let Some(seed) = number(kind.variable) {
        log::set_timestamps(false);
        log::set_level(log::Level::Debug);
        play(seed, true);
        return 0;
    }
    log::silence();
    kept_seeds(kind).into_iter().for_each(|seed| play(seed, false));
    let first = number("MODEL_FROM").unwrap_or_else(fresh_seed);
    let (begun, time) = (Instant::now(), number("MODEL_SECONDS").map_or(time, Duration::from_secs));
    let mut count = 0;
    while begun.elapsed() < time {
        play(first.wrapping_add(count), false);
        count += 1;
    }
    println!("{count} schedules from {first} on in {:.1} s", begun.elapsed().as_secs_f64());
    count
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: expected a number")))
}

fn kept_seeds(kind: &ScheduleKind) -> Vec<u64> {
    let text = fs::read_to_string(SEEDS).expect("read tests/data/model-seeds");
    let seed = |line: &str| match line.split('#').next()?.split_whitespace().collect::<Vec<_>>()[..] {
        [word, seed] if word == kind.word => seed.parse().ok(),
        _ => None,
    };
    text.lines().filter_map(seed).collect()
}

fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    u64::from(now.subsec_nanos()) ^ now.as_secs() << 30
}

/// How many incremental snapshots are stored at its end.
fn run(seed: u64, aloud: bool) -> usize {
    let mut model = Model::new(seed, aloud);
    model.play();
    model.passed = true;
    let names = model.world.memory.names();
    let rollup = |name: &str| matches!(Key::parse(name), Some(Key::Segment(key)) if key.is_rollup());
    names.iter().filter(|(name, _)| rollup(name)).count()
}

fn run_two(seed: u64, aloud: bool) {
    let mut model = Model::new(seed, aloud).with_second();
    model.play();
    model.passed = true;
}

/// A second replica, whose store never forgets.
struct Second {
    memory: Rc<Memory>,
    /// Its schedule is drawn apart, so that the first one's stays what it is.
    random: Random,
    newest: Option<usize>,
}

/// One schedule under way.
struct Model {
    seed: u64,
    aloud: bool,
    passed: bool,
    /// What happened, for the one who has to find out why it failed.
    said: Vec<String>,
    world: World,
    /// The commit that was restored last.
    newest: Option<usize>,
    /// What the store held at earlier moments.
    past: VecDeque<BTreeMap<String, Vec<u8>>>,
    /// Since the store lost something, or got something that is not ours: what is restored may be older than before, or
    /// nothing, until the program has noticed.
    spoilt: Option<Instant>,
    /// The store has forgotten something at some time: history has holes.
    forgot: bool,
    /// Somebody has put junk there at some time.
    junk: bool,
    rules: Vec<Rule>,
    /// Which parts of objects are lost is drawn apart, so that the rest of a schedule stays what it is.
    lost_parts: Random,
    begun: Duration,
    second: Option<Second>,
    takeovers: Option<Takeovers>,
}

/// What may happen beyond the ordinary, each with what the program promises about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    /// The clock jumps: a new generation is newer than all others all the same.
    Clock,
    /// The store forgets what it had acknowledged: that is noticed, and stored again.
    Forgets,
    /// A generation that is not ours, with a number far ahead.
    Foreign,
    /// A second database on the same prefix is refused.
    Second,
}

const RULES: [(&str, Rule); 4] =
    [("clock", Rule::Clock), ("forgets", Rule::Forgets), ("foreign", Rule::Foreign), ("second", Rule::Second)];
/// Those that hold.
const HELD: &[Rule] = &[Rule::Clock, Rule::Forgets, Rule::Foreign, Rule::Second];

/// MODEL_RULES=clock,forgets tries others than those that hold.
fn rules() -> Vec<Rule> {
    let named = |name: &str| RULES.iter().find(|(word, _)| *word == name).unwrap_or_else(|| panic!("no rule {name}")).1;
    let more = std::env::var("MODEL_RULES").unwrap_or_default();
    HELD.iter().copied().chain(more.split(',').filter(|name| !name.is_empty()).map(named)).collect()
}

impl Model {
    fn new(seed: u64, aloud: bool) -> Model {
        let world = World::new(&directory(), seed);
        Model {
            seed,
            aloud,
            passed: false,
            said: Vec::new(),
            world,
            forgot: false,
            junk: false,
            newest: None,
            past: VecDeque::new(),
            spoilt: None,
            rules: rules(),
            lost_parts: Random(seed ^ 3),
            begun: Duration::ZERO,
            second: None,
            takeovers: None,
        }
    }

    /// The same with a second replica. What is done to the first store by others is none of its business.
    fn with_second(mut self) -> Model {
        let memory = Rc::new(Memory::default());
        memory.link.seed.set(self.seed ^ 1);
        memory.link.standby.set(standby(self.seed >> 11));
        self.world.second = Some(memory.clone());
        self.second = Some(Second { memory, random: Random(self.seed ^ 2), newest: None });
        self.rules.retain(|rule| matches!(rule, Rule::Clock | Rule::Forgets));
        self
    }

    fn second_store_fails(&mut self) {
        let Some(second) = &mut self.second else { return };
        if !second.random.chance(12) {
            return;
        }
        let link = &second.memory.link;
        match second.random.below(6) {
            0 | 1 if link.is_away() => link.returns(),
            0 | 1 => link.goes(),
            2 => {
                link.goes();
                link.returns();
            }
            3 => link.failing.set([10, 50][second.random.below(2) as usize]),
            4 => link.delay.set([1, 5, 40][second.random.below(3) as usize]),
            _ => {
                link.failing.set(0);
                link.delay.set(0);
            }
        }
        let (away, failing, delay) = (link.is_away(), link.failing.get(), link.delay.get());
        self.say(format!("second store: away {away}, {failing} of 100 fail, answers after {delay} polls"));
    }

    /// What the second replica gives: a commit that was there, not before the last one.
    fn judge_second(&mut self) {
        let Some(restored) = self.world.restored_from_second() else { return };
        let number = match &restored {
            Ok(state) => Some(self.committed(state)),
            Err(Kind::NothingToRestore) => None,
            Err(kind) => panic!("a restore of the second replica fails: {kind:?}"),
        };
        let seen = self.world.says_all_is_stored().and_then(|at| self.world.application.newest_at(at, SEEN));
        let Some(second) = &mut self.second else { return };
        assert!(number >= second.newest, "second replica: commit {number:?} after {:?}", second.newest);
        assert!(number >= seen, "second replica: a heartbeat, commit {seen:?} was seen, {number:?} is restored");
        second.newest = number;
    }

    fn say(&mut self, what: String) {
        let line = format!("{:9.3} {what}", self.world.clock.passed().as_secs_f64());
        if self.aloud {
            eprintln!("{line}");
        }
        self.said.push(line);
    }

    fn play(&mut self) {
        for _ in 0..STEPS {
            self.second_store_fails();
            self.machines_come_and_go();
            self.store_loses_a_part();
            self.step();
            self.judge();
            self.judge_second();
        }
        self.end();
    }

    fn step(&mut self) {
        match self.world.random.below(100) {
            0..22 => self.commit(),
            22..26 => self.transaction(),
            26..32 => self.checkpoint(),
            32..34 => self.vacuum(),
            34..37 => self.read(),
            37..40 => self.application_comes_or_goes(),
            40..58 => self.time_passes(),
            58..66 => self.start_or_kill(),
            66..72 => self.stop(),
            72..76 => self.once(),
            76..84 => self.store_fails(),
            84..88 => self.restore_an_earlier_moment(),
            88..94 => self.out_of_the_ordinary(),
            _ => self.a_few_turns(),
        }
    }

    fn commit(&mut self) {
        let count = 1 + self.world.random.below(3);
        self.say(format!("{count} commits"));
        for _ in 0..count {
            let now = self.world.clock.now();
            self.world.application.commit(&mut self.world.random, now);
        }
    }

    fn transaction(&mut self) {
        if self.world.application.in_transaction || self.world.random.chance(50) {
            self.say("roll back".into());
            self.world.application.roll_back(&mut self.world.random);
        } else {
            self.say("begin to write".into());
            self.world.application.begin(&mut self.world.random);
        }
    }

    fn checkpoint(&mut self) {
        let mode = self.world.random.one_of(&["PASSIVE", "FULL", "RESTART", "TRUNCATE"]);
        let answer = self.world.application.checkpoint(mode);
        self.say(format!("checkpoint {mode}: {answer}"));
    }

    fn vacuum(&mut self) {
        self.say("VACUUM".into());
        self.world.application.vacuum();
    }

    fn read(&mut self) {
        self.world.application.read();
        self.say(format!("a reader: {}", self.world.application.is_read()));
    }

    fn application_comes_or_goes(&mut self) {
        if self.world.application.is_open() {
            self.say("the application closes".into());
            self.world.application.close();
        } else {
            self.say("the application opens".into());
            self.world.application.open();
        }
    }

    fn time_passes(&mut self) {
        let millis = [1, 60, 1000, 2500, 12_000, 70_000, 700_000, 4_000_000][self.world.random.below(8) as usize];
        self.say(format!("{} s pass", millis as f64 / 1000.0));
        // The machine sleeps, or the program runs: long times in a few looks.
        if millis > 70_000 {
            for _ in 0..4 {
                self.world.clock.pass(Duration::from_millis(millis / 4));
                self.turns(12);
            }
        } else {
            let passed = self.world.pass(Duration::from_millis(millis));
            self.look_at_end(passed.err());
        }
    }

    fn a_few_turns(&mut self) {
        let count = 1 + self.world.random.below(6);
        self.say(format!("{count} turns"));
        self.turns(count);
    }

    fn turns(&mut self, count: u64) {
        for _ in 0..count {
            let turned = self.world.turn();
            self.look_at_end(turned.err());
        }
    }

    fn start_or_kill(&mut self) {
        if self.world.run.take().is_some() {
            self.say("the replicator is killed".into());
        } else {
            self.say("replicate".into());
            self.start(true);
        }
    }

    fn start(&mut self, patient: bool) {
        let started = self.world.start(patient);
        self.look_at_end(started.err());
    }

    fn stop(&mut self) {
        if self.world.run.is_some() {
            self.say("SIGTERM".into());
            self.finish();
        }
    }

    fn once(&mut self) {
        if self.world.run.is_none() {
            self.say("replicate -once".into());
            self.start(false);
            self.finish();
        }
    }

    fn finish(&mut self) {
        let exit = self.world.finish();
        self.say(format!("it ended: {exit:?}"));
        match exit {
            Exit::Success => {
                self.equals_the_live_database("it ended with 0");
                self.second_equals_the_live_database("it ended with 0");
            }
            Exit::NotAllStored => {}
            Exit::Error(error) => self.look_at_end(Some(error)),
        }
    }

    /// The program may end by itself only where there is a reason.
    fn look_at_end(&mut self, error: Option<Error>) {
        let Some(error) = error else { return };
        self.say(format!("the replicator ended: {error}"));
        let link = &self.world.memory.link;
        let second = self.second.as_ref().map(|second| &second.memory.link);
        let store = link.is_away() || link.failing.get() > 0 || second.is_some_and(|link| link.failing.get() > 0);
        let expected = store && matches!(error.kind(), Kind::StoreUnreachable);
        // It names what is in its way; the operator sees to that.
        // A program that had listed the store just before may still stumble over what is gone by now.
        let refused = self.remove_foreign() || (self.junk && error.message().contains("no new generation can start"));
        assert!(expected || refused, "the replicator ended: {error}");
    }

    /// An object with a number far ahead is in the way.
    fn has_junk(&self) -> bool {
        self.world.memory.objects.borrow().values().any(|bytes| bytes == JUNK)
    }

    fn remove_foreign(&mut self) -> bool {
        let mut objects = self.world.memory.objects.borrow_mut();
        let before = objects.len();
        objects.retain(|_, bytes| *bytes != JUNK);
        let removed = objects.len() < before;
        drop(objects);
        if removed {
            self.say("the operator removes what is not ours".into());
        }
        removed
    }

    fn store_fails(&mut self) {
        let random = &mut self.world.random;
        let link = &self.world.memory.link;
        let what = match random.below(6) {
            0 | 1 if link.is_away() => {
                link.returns();
                "the store is back".to_string()
            }
            0 | 1 => {
                link.goes();
                "the store is away".to_string()
            }
            2 => {
                link.goes();
                link.returns();
                "the connection is lost".to_string()
            }
            3 => {
                link.failing.set([10, 50][random.below(2) as usize]);
                format!("{} of 100 operations fail", link.failing.get())
            }
            4 => {
                link.delay.set([1, 5, 40][random.below(3) as usize]);
                format!("answers after {} polls", link.delay.get())
            }
            _ => {
                link.failing.set(0);
                link.delay.set(0);
                "the store works".to_string()
            }
        };
        self.say(what);
    }

    fn out_of_the_ordinary(&mut self) {
        if self.rules.is_empty() {
            return;
        }
        let rule = self.rules[self.world.random.below(self.rules.len() as u64) as usize];
        match rule {
            Rule::Clock => self.clock_jumps(),
            Rule::Forgets => self.store_forgets(),
            Rule::Foreign => self.foreign_generation(),
            Rule::Second => self.second_database(),
        }
    }

    fn clock_jumps(&mut self) {
        let random = &mut self.world.random;
        let seconds = [5, 600, 3600, 86_400, 600_000_000][random.below(5) as usize];
        let wrong = if random.chance(50) { seconds } else { -seconds };
        let wrong = if random.chance(25) { 0 } else { wrong };
        self.world.clock.wrong.set(wrong * 1000);
        self.say(format!("the clock is {wrong} s ahead"));
    }

    fn store_forgets(&mut self) {
        let random = &mut self.world.random;
        let mut objects = self.world.memory.objects.borrow_mut();
        let what = match random.below(4) {
            0 => {
                objects.clear();
                "the store is emptied".to_string()
            }
            1 if !objects.is_empty() => {
                let at = random.below(objects.len() as u64) as usize;
                let name = objects.keys().nth(at).expect("there are so many").clone();
                objects.remove(&name);
                format!("the store loses {name}")
            }
            _ => {
                let steps = random.below(self.past.len().max(1) as u64) as usize;
                let Some(earlier) = self.past.get(steps) else { return };
                *objects = earlier.clone();
                format!("the store is as it was {} steps ago", self.past.len() - steps)
            }
        };
        drop(objects);
        // With a server that ends, or without a word.
        let silently = random.chance(50);
        if !silently {
            self.world.memory.link.goes();
            self.world.memory.link.returns();
        }
        self.say(format!("{what}{}", if silently { "" } else { ", and the connection is lost" }));
        self.spoil();
    }

    /// In one schedule of four, now and then: the object is listed, and cannot be read.
    fn store_loses_a_part(&mut self) {
        let random = &mut self.lost_parts;
        if !self.rules.contains(&Rule::Forgets) || !self.seed.is_multiple_of(4) || !random.chance(4) {
            return;
        }
        let names = self.world.memory.names();
        let Some((name, _)) = names.get(random.below(1 + names.len() as u64) as usize) else { return };
        self.world.memory.incomplete.borrow_mut().insert(name.clone());
        self.say(format!("the store loses a part of {name}"));
        self.spoil();
    }

    fn spoil(&mut self) {
        (self.spoilt, self.forgot) = (Some(self.world.clock.now()), true);
        self.newest = None;
        // What a store has forgotten does not come back.
        self.past.clear();
        self.world.forget_restored();
    }

    /// Junk with a number that nothing can be newer than, or nearly so.
    fn foreign_generation(&mut self) {
        if self.has_junk() {
            return;
        }
        let number = [u64::MAX, u64::MAX - 1, 1 << 60][self.world.random.below(3) as usize];
        let point = WalPosition { index: 0, offset: Offset::ZERO };
        let time = self.world.clock.utc_now();
        let key = SnapshotKey { generation: Generation::new(number), position: point, time };
        self.say(format!("somebody puts {key}"));
        self.world.memory.objects.borrow_mut().insert(key.to_string(), JUNK.to_vec());
        self.junk = true;
        self.spoil();
    }

    fn second_database(&mut self) {
        // An empty prefix may be taken by anyone.
        if self.world.run.is_some() || !self.world.has_a_snapshot() {
            return;
        }
        let exit = self.world.replicate_another_database();
        self.say(format!("replicate -once of another database on the same prefix: {exit:?}"));
        assert!(!matches!(exit, Exit::Success), "another database took the prefix over");
    }

    /// Any moment that is stored is a state that was committed.
    fn restore_an_earlier_moment(&mut self) {
        let now = self.world.clock.utc_now().millis();
        let age = self.world.random.below(1 + self.world.clock.passed().as_millis() as u64);
        let moment = Timestamp::from_millis(now.saturating_sub(age));
        match self.world.restore(&PlanTarget::Time(moment)) {
            Ok(state) if self.was_committed_elsewhere(&state) => self.say(format!("{age} ms ago: of another machine")),
            Ok(state) => {
                let number = self.committed(&state);
                self.say(format!("{age} ms ago: commit {number}"));
            }
            Err(kind) => {
                self.say(format!("{age} ms ago: {kind:?}"));
                // A moment may be one of somebody else's junk, or one that the store has forgotten for good.
                let gone = self.has_junk() || self.forgot;
                let gone = kind == Kind::Corrupt && gone;
                assert!(kind == Kind::NothingToRestore || gone || self.spoilt.is_some(), "{age} ms ago: {kind:?}");
            }
        }
    }

    /// A process may be killed at any moment, and the next one goes on after the newest object: so what is stored of a
    /// generation joins at each moment, from its first snapshot to its last object.
    fn judge_the_chains(&self) {
        if self.has_junk() || self.forgot {
            return;
        }
        let listing = Listing::new(self.world.memory.names());
        for (_, stored) in listing.generations() {
            let gap = stored.snapshots.first().and_then(|first| SegmentChain::of(stored, *first).gap);
            assert!(gap.is_none(), "{}", gap.map(|gap| gap.to_string()).unwrap_or_default());
        }
    }

    /// Which commit it is; it must be one.
    fn committed(&self, state: &str) -> usize {
        let number = self.world.application.number(state);
        number.unwrap_or_else(|| panic!("never committed: {state}\nlive: {}", self.world.application.live()))
    }

    fn judge(&mut self) {
        let restored = self.world.restored();
        let number = match &restored {
            Ok(state) => Some(self.committed(state)),
            Err(Kind::NothingToRestore) => None,
            Err(kind) => {
                assert!(self.spoilt.is_some(), "nothing was forgotten, and a restore fails: {kind:?}");
                None
            }
        };
        assert!(number >= self.newest || self.spoilt.is_some(), "restored commit {number:?} after {:?}", self.newest);
        self.newest = number;
        self.judge_the_chains();
        self.judge_the_heartbeat(number);
        self.judge_the_metric_up(number);
        if self.world.random.chance(25) {
            self.judge_status();
        }
        self.past.push_back(self.world.objects());
        if self.past.len() > PAST {
            self.past.pop_front();
        }
    }

    /// What the program has seen, it says that it has stored: then it can be restored.
    fn judge_the_heartbeat(&mut self, restored: Option<usize>) {
        let Some(settled) = self.world.says_all_is_stored() else { return };
        let noticed = self.spoilt.is_none_or(|since| settled >= since + NOTICED);
        if noticed {
            let seen = self.world.application.newest_at(settled, SEEN);
            assert!(restored >= seen, "a heartbeat: commit {seen:?} was seen, and commit {restored:?} is restored");
            self.spoilt = None;
        }
    }

    /// What the store has forgotten is found by the audits: from then on it is up only if there is something to restore.
    fn judge_the_metric_up(&self, restored: Option<usize>) {
        let noticed = self.spoilt.is_some_and(|since| self.world.clock.now() >= since + NOTICED);
        assert!(restored.is_some() || !noticed || !self.world.is_up(), "up, and nothing can be restored");
    }

    fn judge_status(&mut self) {
        let said = self.world.status();
        if said == Said::Ok {
            self.equals_the_live_database("status says ok");
        } else if self.world.settings.source.differences {
            // Without a checksum it is a note beside the lock that tells, by the time of the file's last change. That is a real
            // time, which is not the schedule's: tests/emptied.rs has it.
            assert!(!self.world.is_live_image_stored(), "all is stored, and status says {said:?}");
        }
    }

    fn equals_the_live_database(&mut self, why: &str) {
        let restored = self.world.restored();
        let live = self.world.application.live();
        let number = restored.as_ref().ok().map(|state| self.committed(state));
        let newest = self.world.application.commits.len() - 1;
        let same = restored.as_deref() == Ok(live);
        assert!(same, "{why}, the newest commit is {newest}, and a restore gives {number:?}: {restored:?}");
    }

    fn second_equals_the_live_database(&self, why: &str) {
        let Some(restored) = self.world.restored_from_second() else { return };
        let same = restored.as_deref() == Ok(self.world.application.live());
        assert!(same, "{why}, and a restore of the second replica gives {restored:?}");
    }

    fn store_works(&mut self) {
        let link = &self.world.memory.link;
        link.returns();
        link.failing.set(0);
        link.delay.set(0);
    }

    /// Nothing fails any more: all is stored soon, and the end is a clean one.
    fn end(&mut self) {
        self.say("the end: nothing fails any more".into());
        // The log has named what no new generation can be above.
        self.remove_foreign();
        self.store_works();
        if let Some(Second { memory, .. }) = &self.second {
            memory.link.returns();
            memory.link.failing.set(0);
            memory.link.delay.set(0);
        }
        self.world.application.end_reading();
        if self.world.application.in_transaction {
            self.world.application.roll_back(&mut self.world.random);
        }
        if self.world.run.is_none() {
            self.start(true);
        }
        self.begun = self.world.clock.passed();
        while !self.is_all_stored() {
            let waited = self.world.clock.passed() - self.begun;
            let recovery = if self.spoilt.is_some() { RECOVERY + NOTICED } else { RECOVERY };
            assert!(waited < recovery, "nothing fails, and after {waited:?} not all is stored");
            self.turns(1);
            if self.world.run.is_none() {
                self.start(true);
            }
        }
        self.say("all is stored".into());
        self.judge();
        self.finish();
        self.equals_the_live_database("it was stopped");
        self.second_equals_the_live_database("it was stopped");
    }

    fn is_all_stored(&mut self) -> bool {
        let least = if self.spoilt.is_some() { SEEN + NOTICED } else { SEEN };
        let seen = self.world.clock.passed() - self.begun > least;
        let exits = self.world.run.as_ref().is_some_and(|run| run.follower.is_drained());
        seen && exits && self.world.says_all_is_stored().is_some()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        if !std::thread::panicking() || self.passed {
            return;
        }
        if !self.aloud {
            self.said.iter().for_each(|line| eprintln!("{line}"));
        }
        let ScheduleKind { word, variable } = match (&self.second, &self.takeovers) {
            (None, None) => OF_ONE,
            (Some(_), _) => OF_TWO,
            _ => OF_TAKEOVERS,
        };
        eprintln!("failed: {variable}={} cargo test --test alone deterministic:: -- --nocapture", self.seed);
        if number("MODEL_SECONDS").is_some() && number(variable).is_none() {
            let mut file = fs::OpenOptions::new().append(true).open(SEEDS).expect("open tests/data/model-seeds");
            writeln!(file, "{word} {}", self.seed).expect("keep the seed");
        }
    }
}

/// In memory where the machine has a file system for that. A schedule that failed leaves nothing that its seed cannot make
/// again.
fn directory() -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    let base = if shared.is_dir() { shared } else { std::env::temp_dir() };
    let thread = format!("{:?}", std::thread::current().id()).replace(|c: char| !c.is_ascii_digit(), "");
    base.join(format!("litestream-deterministic-{}-{thread}", std::process::id()))
}

//! Years of backups in seconds: objects stay few, and each moment within retention is restored exactly.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::support::alone::alone;
use crate::support::memory::{Fake, Memory, Third};
use litestream::clock::Clock;
use litestream::error::{Kind, Result};
use litestream::format::compaction;
use litestream::format::keep::Keep;
use litestream::format::key::{Key, SegmentKey, SnapshotKey};
use litestream::format::listing::Listing;
use litestream::format::plan::{PlanTarget, plan};
use litestream::format::position::{Generation, Offset, WalPosition};
use litestream::format::retention::{Policy, plan_deletions};
use litestream::format::time::Timestamp;
use litestream::log::target_name::TargetName;
use litestream::replica::clock_jump::ClockJumpDetector;
use litestream::replica::maintenance::{
    DELETE_GRACE_PERIOD, Maintenance, Pass, PassProgress, RetentionTask, run_one_pass,
};
use litestream::replica::replicator::{Replicator, Settings, SharedBuffers};
use litestream::replica::sent_segments::SentSegments;
use litestream::restore::apply::{RestoreResult, restore};
use litestream::source::SourceOptions;
use litestream::store::Store;
use rusqlite::Connection;

pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(86_400);

/// An application, its backup, and a clock.
pub struct Life {
    pub directory: PathBuf,
    pub application: Connection,
    pub memory: Rc<Memory>,
    pub clock: Fake,
    pub tools: SharedBuffers,
    pub follower: Replicator,
    pub settings: Settings,
    /// When each row was committed.
    pub commits: Vec<Timestamp>,
}

impl Life {
    pub fn begin(name: &str, retention: Duration) -> Life {
        let directory = std::env::temp_dir().join(format!("litestream-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("a.db");
        let application = Connection::open(&path).unwrap();
        let begin = "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; CREATE TABLE t (n INTEGER PRIMARY KEY, x)";
        application.execute_batch(begin).unwrap();
        let settings = settings(path, retention);
        let (memory, clock) = (Rc::new(Memory::default()), Fake::default());
        let follower = Replicator::new(settings.clone(), memory.clone(), clock.now());
        let (tools, commits) = (SharedBuffers::new(), Vec::new());
        Life { directory, application, memory, clock, tools, follower, settings, commits }
    }

    /// Another run of the program.
    pub fn restart(&mut self) {
        self.follower = Replicator::new(self.settings.clone(), self.memory.clone(), self.clock.now());
    }

    fn commit(&mut self) {
        // The next look at the database is due.
        self.clock.pass(MINUTE / 600);
        self.application.execute("INSERT INTO t (x) VALUES (hex(randomblob(20)))", []).unwrap();
        self.commits.push(self.clock.utc_now());
    }

    /// Lets the follower do all that it can do at this moment.
    fn settle(&mut self) -> Result<()> {
        for _ in 0..10_000 {
            self.follower.poll(&mut self.tools, &self.clock)?;
            if self.follower.is_drained() && !self.follower.has_store_work() {
                // What it begins when nothing hurries.
                self.follower.poll(&mut self.tools, &self.clock)?;
                if !self.follower.has_store_work() {
                    return Ok(());
                }
            }
        }
        panic!("it does not settle: {:?}", self.follower.status(&self.clock));
    }

    pub fn pass(&mut self, time: Duration) {
        self.settle().unwrap();
        self.clock.pass(time);
        self.settle().unwrap();
    }

    pub fn listing(&self) -> Listing {
        Listing::new(self.memory.names())
    }

    fn newest_segments(&self) -> Vec<SegmentKey> {
        let listing = self.listing();
        let newest = listing.generations().next_back().map(|(_, stored)| stored);
        newest.map(|stored| stored.segments.iter().map(|(key, _)| *key).collect()).unwrap_or_default()
    }

    fn restore(&self, target: PlanTarget) -> Result<(RestoreResult, u64)> {
        let plan = plan(&self.listing(), None, &target)?;
        let path = self.directory.join("restored.db");
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        let restored = restore(&*self.memory, &self.clock, &plan, &file, &mut |_| ())?;
        Ok((restored, rows_of(&path)))
    }

    /// Asserts that the state of `age` before the last commit is restored to the row.
    fn has(&self, age: Duration) {
        let last = self.commits.last().unwrap().millis();
        let moment = Timestamp::from_millis(last - age.as_millis() as u64);
        let expected = self.commits.iter().filter(|time| **time <= moment).count() as u64;
        let (_, rows) = self.restore(PlanTarget::Time(moment)).unwrap_or_else(|error| panic!("{age:?} ago: {error}"));
        assert_eq!(rows, expected, "{age:?} ago");
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn rows_of(path: &Path) -> u64 {
    let restored = Connection::open(path).unwrap();
    let count: i64 = restored.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    u64::try_from(count).unwrap()
}

fn retain(retention: Duration) -> Pass {
    Pass { retention: Some(retention), ..Pass::default() }
}

fn settings(path: PathBuf, retention: Duration) -> Settings {
    Settings {
        source: SourceOptions {
            busy_timeout: Duration::from_secs(1),
            enable_wal: true,
            allow_network: true,
            differences: false,
            checkpoint_frames: 1000,
            checkpoint_interval: Some(MINUTE),
            truncate_frames: None,
        },
        meta_path: None,
        monitor_interval: Duration::from_millis(50),
        sync_interval: Duration::from_secs(1),
        serves_standbys: false,
        snapshot_interval: Some(DAY),
        comparison: None,
        retention: Some(retention),
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
        max_backlog: 1 << 30,
        path,
    }
}

#[test]
fn year_of_commits_stays_small_and_every_moment_exact() {
    let _alone = alone();
    let mut life = Life::begin("year", 7 * DAY);
    let (mut most, mut half) = (0, 0);
    // A commit each two hours: 84 in retention, as many as one a second has in 84 seconds.
    for step in 0..365 * 12 {
        life.commit();
        life.pass(2 * HOUR);
        most = most.max(life.memory.objects.borrow().len());
        if step == 365 * 6 {
            half = most;
        }
        if step % 400 == 399 {
            [0, 1, 50, 100, 165].into_iter().for_each(|hours| life.has(hours * HOUR));
        }
        if step % 1000 == 999 {
            life.restart();
        }
    }
    assert!(most <= half + 20 && most < 100, "{half} objects at most in the first half, {most} in all");
    // One of retention and one of the audit, each at most once an hour.
    assert!(life.memory.lists.get() < 2 * 365 * 12 + 40, "{} lists", life.memory.lists.get());
    let long_ago = Timestamp::from_millis(life.clock.utc_now().millis() - 20 * DAY.as_millis() as u64);
    assert_eq!(life.restore(PlanTarget::Time(long_ago)).unwrap_err().kind(), Kind::NothingToRestore);
}

#[test]
fn segments_are_merged_and_the_small_ones_deleted_later() {
    let _alone = alone();
    let mut life = Life::begin("merge", DAY);
    for _ in 0..600 {
        life.commit();
        life.pass(Duration::from_secs(2));
    }
    let listed = life.memory.lists.get();
    assert!(listed <= 2, "{listed} lists: one at the start, one an hour");
    let stored = life.memory.objects.borrow().len();
    assert!(stored < 450, "{stored} objects");
    (0..11).for_each(|_| life.pass(MINUTE));
    let stored = life.memory.objects.borrow().len();
    assert!(stored < 80, "{stored} objects");
    for age in (0..1200).step_by(123) {
        life.has(Duration::from_secs(age));
    }
}

#[test]
fn merging_fetches_nothing_that_this_run_has_stored() {
    let _alone = alone();
    let mut life = Life::begin("memory", DAY);
    life.commit();
    life.settle().unwrap();
    let fetched = life.memory.gets.get();
    for _ in 0..600 {
        life.commit();
        life.pass(Duration::from_secs(1));
    }
    let merged = life.newest_segments().iter().filter(|key| key.first_seen != key.last_seen).count();
    assert!(merged >= 30, "{merged} merged segments");
    assert_eq!(life.memory.gets.get() - fetched, 0, "objects were fetched");
    // Another run has none of it in memory. It fetches little, and merges what it stores itself all the same.
    life.restart();
    life.settle().unwrap();
    let fetched = life.memory.gets.get();
    for _ in 0..100 {
        life.commit();
        life.pass(Duration::from_secs(1));
    }
    let again = life.memory.gets.get() - fetched;
    assert!(again <= 60, "{again} objects were fetched");
    [0, 50, 100, 333, 650].into_iter().for_each(|age| life.has(Duration::from_secs(age)));
}

#[test]
fn without_compaction_objects_are_only_added() {
    let _alone = alone();
    let mut life = Life::begin("adding", DAY);
    life.settings.compaction = false;
    life.restart();
    let mut before = HashSet::new();
    for step in 0..100 {
        life.commit();
        life.pass(if step % 10 == 0 { 12 * HOUR } else { Duration::from_secs(1) });
        let now: HashSet<String> = life.memory.objects.borrow().keys().cloned().collect();
        assert!(before.is_subset(&now), "{:?} is gone", before.difference(&now).next());
        before = now;
    }
    assert!(life.newest_segments().iter().all(|key| key.first_seen == key.last_seen));
    // What does compact is asked for it.
    let store: Rc<dyn Store> = life.memory.clone();
    life.clock.pass(HOUR);
    run_one_pass(&store, "a", retain(DAY), &mut ClockJumpDetector::default(), &life.clock).unwrap();
    life.clock.pass(HOUR);
    run_one_pass(&store, "a", retain(DAY), &mut ClockJumpDetector::default(), &life.clock).unwrap();
    assert!(life.memory.objects.borrow().len() < 40, "{} objects", life.memory.objects.borrow().len());
    life.has(Duration::ZERO);
}

/// A device that only adds objects stores its whole database again only if nobody else has done so near the store.
#[test]
fn a_snapshot_of_compact_spares_the_device_one() {
    let _alone = alone();
    for made in [false, true] {
        let (memory, clock) = (Rc::new(Memory::default()), Fake::default());
        let what = Maintenance { retention: Some(DAY), keep: None, compaction: false, single_pass: false };
        let mut task = RetentionTask::new(memory.clone(), TargetName::of_database("a"), what, clock.now());
        let generation = Generation::new(7);
        let put = |key: Key, bytes: usize| drop(memory.objects.borrow_mut().insert(key.to_string(), vec![0; bytes]));
        let at = |end: u64| WalPosition { index: 0, offset: Offset::new(end).unwrap() };
        let snapshot = |end: u64| Key::Snapshot(SnapshotKey { generation, position: at(end), time: clock.utc_now() });
        put(snapshot(0), 1000);
        task.snapshot_stored(1000);
        for end in 1..10 {
            let (seen, bytes) = (clock.utc_now(), 8 << 20);
            let (start, end) = (at(end - 1), at(end));
            let key = SegmentKey { generation, start, end, first_seen: seen, last_seen: seen, part: false };
            put(Key::Segment(key), bytes);
            task.stored(key, vec![0; bytes], &mut SentSegments::default());
        }
        if made {
            put(snapshot(8), 1000);
        }
        assert!(!task.wants_snapshot(), "not before the store was asked");
        let before = memory.names();
        clock.pass(2 * HOUR);
        while task.poll(&mut SentSegments::default(), &clock).unwrap() != PassProgress::Nothing {}
        assert_eq!((task.wants_snapshot(), memory.lists.get(), memory.names()), (!made, 1, before), "{made}");
    }
}

/// With `keep`, the clock alone asks for no snapshot, and a restore that would read too much does.
#[test]
fn with_keep_a_snapshot_is_taken_when_it_is_needed() {
    let _alone = alone();
    let mut life = Life::begin("needed", 30 * DAY);
    let days = |days: u32| Some(days * DAY);
    life.settings.keep = Some(Keep::new([days(1), days(30), None, None, None]).unwrap());
    life.settings.snapshot_interval = None;
    life.restart();
    let snapshots = |life: &Life| life.listing().generations().map(|(_, stored)| stored.snapshots.len()).sum::<usize>();
    for _ in 0..5 {
        life.commit();
        life.pass(DAY);
    }
    assert_eq!(snapshots(&life), 1);
    for _ in 0..9 {
        life.application.execute_batch("UPDATE t SET x = randomblob(8000000) WHERE n = 1").unwrap();
        life.pass(MINUTE);
    }
    life.pass(2 * MINUTE);
    assert_eq!(snapshots(&life), 2);
}

#[test]
fn a_clock_that_leaps_between_two_passes_deletes_nothing() {
    let _alone = alone();
    let mut life = Life::begin("leap", DAY);
    life.settings.compaction = false;
    life.restart();
    for _ in 0..60 {
        life.commit();
        life.pass(HOUR);
    }
    let store: Rc<dyn Store> = life.memory.clone();
    let mut jumps = ClockJumpDetector::default();
    let snapshots = |life: &Life| life.listing().generations().map(|(_, stored)| stored.snapshots.len()).sum::<usize>();
    let mut pass = |life: &Life| {
        run_one_pass(&store, "a", retain(2 * DAY), &mut jumps, &life.clock).unwrap();
    };
    pass(&life);
    let before = snapshots(&life);
    life.clock.wrong.set(10 * DAY.as_millis() as i64);
    pass(&life);
    assert_eq!(snapshots(&life), before);
    life.has(DAY);
    // A program that has not seen the leap can only believe the clock.
    run_one_pass(&store, "a", retain(2 * DAY), &mut ClockJumpDetector::default(), &life.clock).unwrap();
    assert!(snapshots(&life) < before);
}

#[test]
fn a_pass_merges_the_generations_that_have_ended_too() {
    let _alone = alone();
    let mut life = Life::begin("ended", 30 * DAY);
    life.settings.compaction = false;
    for _ in 0..3 {
        life.restart();
        // Nobody sees it: the next start finds another WAL.
        let unseen = "PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t (x) VALUES (1); PRAGMA wal_checkpoint(TRUNCATE)";
        life.application.execute_batch(unseen).unwrap();
        life.commits.push(life.clock.utc_now());
        for _ in 0..100 {
            life.commit();
            life.pass(Duration::from_secs(1));
        }
    }
    assert_eq!(life.listing().generations().count(), 3);
    let store: Rc<dyn Store> = life.memory.clone();
    run_one_pass(&store, "a", Pass::default(), &mut ClockJumpDetector::default(), &life.clock).unwrap();
    for (generation, stored) in life.listing().generations() {
        let merged = stored.segments.iter().filter(|(key, _)| key.first_seen != key.last_seen).count();
        assert!(merged >= 4, "{merged} merged segments in {generation}");
    }
    [0, 40, 90].into_iter().for_each(|age| life.has(Duration::from_secs(age)));
}

#[test]
fn a_pass_goes_on_behind_a_damaged_segment_and_reports_it() {
    let _alone = alone();
    let mut life = Life::begin("damaged", 30 * DAY);
    life.settings.compaction = false;
    life.restart();
    for _ in 0..120 {
        life.commit();
        life.pass(Duration::from_secs(1));
    }
    let damaged = life.newest_segments()[20].to_string();
    life.memory.objects.borrow_mut().get_mut(&damaged).unwrap()[30] ^= 1;
    let store: Rc<dyn Store> = life.memory.clone();
    let mut jumps = ClockJumpDetector::default();
    let error = run_one_pass(&store, "a", Pass::default(), &mut jumps, &life.clock).unwrap_err();
    assert!(error.kind() == Kind::Corrupt && error.message().contains(&damaged), "{error}");
    let merged = life.newest_segments().iter().filter(|key| key.first_seen != key.last_seen).count();
    assert!(merged >= 4, "{merged} merged segments");
    // One that is gone is somebody else's deletion.
    life.memory.objects.borrow_mut().remove(&damaged);
    run_one_pass(&store, "a", Pass::default(), &mut jumps, &life.clock).unwrap();
}

#[test]
fn unmerged_expired_history_is_deleted_not_merged() {
    let _alone = alone();
    let mut life = Life::begin("unmerged", 30 * DAY);
    let mut all = BTreeMap::new();
    for step in 0..80 {
        life.commit();
        life.pass(if step == 40 { DAY + HOUR } else { Duration::from_secs(2) });
        all.extend(life.memory.objects.borrow().clone());
    }
    let is_merged =
        |name: &String| matches!(Key::parse(name), Some(Key::Segment(key)) if key.first_seen != key.last_seen);
    all.retain(|name, _| !is_merged(name));
    let stored = all.len();
    *life.memory.objects.borrow_mut() = all;
    life.clock.pass(2 * DAY);
    let store: Rc<dyn Store> = life.memory.clone();
    run_one_pass(&store, "a", retain(HOUR), &mut ClockJumpDetector::default(), &life.clock).unwrap();
    assert!(life.memory.objects.borrow().len() < stored - 30, "of {stored}");
    assert_eq!(life.restore(PlanTarget::Latest).unwrap().1, life.commits.len() as u64);
}

#[test]
fn wherever_it_is_stopped_the_backup_stays_whole() {
    let _alone = alone();
    let mut life = Life::begin("stopped", 2 * DAY);
    for _ in 0..100 {
        life.commit();
        life.pass(HOUR);
    }
    for left in 0..60 {
        life.memory.left.set(Some(left));
        life.clock.pass(3 * HOUR);
        life.commit();
        for _ in 0..200 {
            let _ = life.follower.poll(&mut life.tools, &life.clock);
        }
        life.memory.left.set(None);
        let newest = life.restore(PlanTarget::Latest).unwrap().1;
        assert!(newest + 1 >= life.commits.len() as u64, "after {left}: {newest} of {}", life.commits.len());
        // What was committed before this turn can be restored all the same.
        [5, 24, 42].into_iter().for_each(|hours| life.has(hours * HOUR));
        life.restart();
        life.settle().unwrap();
    }
}

#[test]
fn a_clock_that_jumps_deletes_nothing() {
    let _alone = alone();
    let mut life = Life::begin("jump", DAY);
    for _ in 0..60 {
        life.commit();
        life.pass(HOUR);
    }
    let snapshots = |life: &Life| life.listing().generations().map(|(_, stored)| stored.snapshots.len()).sum::<usize>();
    let before = snapshots(&life);
    life.clock.wrong.set(10 * DAY.as_millis() as i64);
    life.commit();
    life.pass(HOUR / 2);
    assert!(snapshots(&life) >= before);
    life.clock.wrong.set(0);
    (0..4).for_each(|_| life.pass(HOUR / 2));
    assert!(snapshots(&life) >= before);
    assert_eq!(life.restore(PlanTarget::Latest).unwrap().1, life.commits.len() as u64);
}

/// Commits that were made while the clock was wrong are found after those before them, and never for a moment that is
/// earlier than the clock showed.
#[test]
fn clock_jumps_keep_stored_times_in_order() {
    let _alone = alone();
    for wrong in [-1, 1] {
        let mut life = Life::begin(&format!("order-{wrong}"), 30 * DAY);
        let mut shown = Vec::new();
        let minutes = |life: &mut Life, shown: &mut Vec<Timestamp>, count: u32| {
            for _ in 0..count {
                life.commit();
                shown.push(life.clock.utc_now());
                life.pass(MINUTE);
            }
        };
        minutes(&mut life, &mut shown, 20);
        life.clock.wrong.set(wrong * HOUR.as_millis() as i64);
        minutes(&mut life, &mut shown, 20);
        life.clock.wrong.set(0);
        minutes(&mut life, &mut shown, 90);
        assert_eq!(life.restore(PlanTarget::Latest).unwrap().1, 130);
        let (first, last) = (shown[0].millis(), shown[129].millis());
        let mut before = 0;
        for millis in (first..last).step_by(MINUTE.as_millis() as usize / 2) {
            let moment = Timestamp::from_millis(millis);
            let rows = life.restore(PlanTarget::Time(moment)).unwrap().1;
            let most = shown.iter().filter(|time| **time <= moment).count() as u64;
            assert!(rows >= before, "{moment}: {rows} rows, and {before} for a moment before it");
            assert!(rows <= most, "{moment}: {rows} rows, and {most} were committed until then");
            before = rows;
        }
        // Since the clock has been right again for as long as it was wrong.
        (0..25).for_each(|minutes| life.has(minutes * MINUTE));
        assert_eq!(life.listing().generations().count(), 1);
    }
}

/// A restore that lists, and reads what it has found while segments are merged and deleted.
#[test]
fn a_plan_is_carried_out_while_merging_and_retention_delete() {
    let _alone = alone();
    let mut life = Life::begin("meanwhile", 6 * HOUR);
    let mut plans = VecDeque::new();
    for step in 0..640 {
        life.commit();
        let rows = life.commits.len() as u64 - 1;
        if step % 4 == 1 {
            plans.push_back((life.clock.now(), rows, plan(&life.listing(), None, &PlanTarget::Latest).unwrap()));
        }
        life.pass(3 * MINUTE);
        let old = |(made, ..): &mut (Instant, u64, _)| life.clock.now() - *made >= DELETE_GRACE_PERIOD - 3 * MINUTE;
        while let Some((_, rows, plan)) = plans.pop_front_if(old) {
            let path = life.directory.join("restored.db");
            let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
            restore(&*life.memory, &life.clock, &plan, &file, &mut |_| ()).unwrap();
            assert_eq!(rows_of(&path), rows);
        }
    }
    let stored = life.memory.objects.borrow().len();
    assert!(stored < 400, "{stored} objects: much was deleted meanwhile");
}

/// An object that is refused is put again; one that is stored without an answer is put again under its own name.
#[test]
fn each_third_object_may_be_refused_or_stored_without_an_answer() {
    let _alone = alone();
    for third in [Third::Refused, Third::Unanswered] {
        let mut life = Life::begin(&format!("third-{third:?}"), DAY);
        life.memory.third.set(third);
        for _ in 0..60 {
            life.commit();
            for _ in 0..200 {
                life.follower.poll(&mut life.tools, &life.clock).unwrap();
                life.clock.pass(Duration::from_millis(200));
                if life.follower.is_drained() {
                    break;
                }
            }
            assert_eq!(life.restore(PlanTarget::Latest).unwrap().1, life.commits.len() as u64, "{third:?}");
        }
        life.memory.third.set(Third::Stored);
        life.pass(HOUR);
        let listing = life.listing();
        assert_eq!(listing.generations().count(), 1, "{third:?}");
        (0..10).for_each(|step| life.has(step * MINUTE / 12));
    }
}

#[test]
fn many_bytes_of_segments_bring_a_snapshot_before_its_time() {
    let _alone = alone();
    let mut life = Life::begin("bytes", 30 * DAY);
    life.commit();
    life.pass(MINUTE);
    for _ in 0..36 {
        life.application.execute("UPDATE t SET x = randomblob(2000000) WHERE n = 1", []).unwrap();
        life.pass(MINUTE);
    }
    let listing = life.listing();
    let (_, stored) = listing.generations().next_back().unwrap();
    assert_eq!(stored.snapshots.len(), 2, "one at the start, one behind 64 MiB of segments");
    let (restored, _) = life.restore(PlanTarget::Latest).unwrap();
    assert!(restored.read < 80 << 20, "{} bytes read", restored.read);
}

/// What is stored while a year passes at one commit a second: the rules at work on names alone.
#[test]
#[ignore = "takes a minute; `make plots` runs it"]
fn a_year_of_one_commit_a_second_in_names() {
    let _alone = alone();
    /// Bytes of a segment with one small commit, and of a snapshot.
    const SEGMENT: u64 = 1500;
    const SNAPSHOT: u64 = 20 << 20;
    let generation = Generation::new(1);
    let (mut chain, mut snapshots, mut waiting) = (Vec::new(), Vec::new(), VecDeque::new());
    let mut days = Vec::new();
    let at = |second: u64| WalPosition { index: 0, offset: Offset::new(second).unwrap() };
    let time = |second: u64| Timestamp::from_millis(1_700_000_000_000 + second * 1000);
    for second in 0..365 * 86_400_u64 {
        if second % 86_400 == 0 {
            snapshots.push(SnapshotKey { generation, position: at(second), time: time(second) });
        }
        let (start, end, seen) = (at(second), at(second + 1), time(second + 1));
        chain.push((SegmentKey { generation, start, end, first_seen: seen, last_seen: seen, part: false }, SEGMENT));
        while second % 15 == 0
            && let Some(places) = compaction::next_group(&chain, true)
        {
            let group = chain[places.clone()].to_vec();
            let key = compaction::merged_key(&group).unwrap();
            waiting.push_back((second + DELETE_GRACE_PERIOD.as_secs(), group.len()));
            chain.splice(places, [(key, group.iter().map(|(_, size)| size).sum())]);
        }
        while waiting.front().is_some_and(|(until, _)| *until <= second) {
            waiting.pop_front();
        }
        if second % 3600 == 0 {
            let names = chain.iter().map(|(key, size)| (key.to_string(), *size));
            let listing = Listing::new(names.chain(snapshots.iter().map(|key| (key.to_string(), SNAPSHOT))));
            let policy = Policy { retention: Some(DAY), keep: None, grace: DELETE_GRACE_PERIOD };
            let actions = plan_deletions(&listing, policy, time(second + 1));
            assert_eq!(actions.skipped_reason, None);
            let gone: HashSet<Key> = actions.delete.into_iter().collect();
            chain.retain(|(key, _)| !gone.contains(&Key::Segment(*key)));
            snapshots.retain(|key| !gone.contains(&Key::Snapshot(*key)));
        }
        if second % 86_400 == 86_399 {
            let objects = chain.len() + snapshots.len() + waiting.iter().map(|(_, count)| count).sum::<usize>();
            let bytes = chain.iter().map(|(_, size)| size).sum::<u64>() + snapshots.len() as u64 * SNAPSHOT;
            days.push((objects as f64, bytes as f64 / 1e6));
        }
    }
    let (late, most) = (&days[10..], |days: &[(f64, f64)]| days.iter().map(|day| day.0).fold(0.0, f64::max));
    assert!(most(late) < 1000.0, "{}", most(late));
    println!("objects: {:?}, most {}; MB: {:?}", days.last(), most(&days), days[364].1);
    if let Ok(path) = std::env::var("PLOT") {
        std::fs::write(path, plot(&days)).unwrap();
    }
}

/// Objects and megabytes of each day, as two lines over a year.
fn plot(days: &[(f64, f64)]) -> String {
    let line = |value: fn(&(f64, f64)) -> f64, top: f64, colour: &str| {
        let points = days.iter().enumerate().map(|(day, of)| {
            let (x, y) = (60.0 + day as f64 * 620.0 / 364.0, 200.0 - value(of) * 160.0 / top);
            format!("{x:.1},{y:.1}")
        });
        let points = points.collect::<Vec<_>>().join(" ");
        format!("<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{points}\"/>\n")
    };
    let text = |x: u32, y: u32, anchor: &str, colour: &str, words: &str| {
        format!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>\n")
    };
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 740 240\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"740\" height=\"240\" fill=\"white\"/>\n\
         <path d=\"M60 40V200H680V40\" fill=\"none\" stroke=\"#888\"/>\n",
    );
    svg += &line(|day| day.0, 1000.0, "#0a58ca");
    svg += &line(|day| day.1, 500.0, "#b02a37");
    svg += &text(370, 22, "middle", "#222", "A year at one commit a second, 24 hours of retention: what is stored");
    for step in 0..=4_u32 {
        let y = 204 - step * 40;
        svg += &text(54, y, "end", "#0a58ca", &format!("{}", step * 250));
        svg += &text(686, y, "start", "#b02a37", &format!("{} MB", step * 125));
    }
    for month in 0..=12_u32 {
        svg += &text(60 + month * 620 / 12, 216, "middle", "#222", &month.to_string());
    }
    svg += &text(60, 234, "start", "#0a58ca", "objects (without merging: 86,400 a day)");
    svg += &text(680, 234, "end", "#b02a37", "bytes, one snapshot of 20 MiB a day");
    svg + &text(370, 234, "middle", "#222", "months") + "</svg>\n"
}

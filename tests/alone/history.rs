//! A long history, thinned out near the store: what is stored of it, and what a plan and a restore of any kept state cost.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::retention::{DAY, HOUR, Life, MINUTE};
use crate::support::alone::alone;
use litestream::clock::Clock;
use litestream::format::keep::Keep;
use litestream::format::listing::Listing;
use litestream::format::plan::{Plan, PlanTarget, plan};
use litestream::format::time::Timestamp;
use litestream::replica::clock_jump::ClockJumpDetector;
use litestream::replica::maintenance::{Pass, run_one_pass};
use litestream::restore::apply::restore;
use litestream::store::{Entry, Store};
use litestream::thinning::{Thinned, no_progress, thin};
use rusqlite::Connection;

fn keep() -> Keep {
    let days = |count: u32| Some(count * DAY);
    Keep::new([days(1), days(7), days(90), None, days(3650)]).unwrap()
}

/// A device that adds objects, and a program near the store that thins them out.
struct History {
    life: Life,
    rows: u32,
    jumps: ClockJumpDetector,
    thinned: Thinned,
}

impl History {
    /// Each commit writes over one of so many rows.
    fn begin(name: &str, rows: u32) -> History {
        let mut life = Life::begin(name, keep().longest());
        life.settings.source.differences = true;
        life.settings.keep = Some(keep());
        (life.settings.snapshot_interval, life.settings.compaction) = (None, false);
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) \
                    INSERT INTO t SELECT i, hex(randomblob(80)) FROM n";
        life.application.execute(fill, [rows]).unwrap();
        life.application.execute_batch("CREATE TABLE commits (n); INSERT INTO commits VALUES (0)").unwrap();
        life.restart();
        History { life, rows, jumps: ClockJumpDetector::default(), thinned: Thinned::default() }
    }

    fn commit(&mut self) {
        let row = format!("UPDATE t SET x = hex(randomblob(80)) WHERE n = 1 + abs(random()) % {}", self.rows);
        self.life.clock.pass(Duration::from_millis(100));
        self.life.application.execute_batch(&format!("BEGIN; {row}; UPDATE commits SET n = n + 1; COMMIT")).unwrap();
        self.life.commits.push(self.life.clock.utc_now());
    }

    /// As `compact` does for a database.
    fn compact(&mut self) {
        let store: Rc<dyn Store> = self.life.memory.clone();
        let names = self.life.memory.names();
        let mut entries: Vec<Entry> = names.into_iter().map(|(name, size)| Entry { name, size, whole: true }).collect();
        let mut thinned = Thinned::default();
        thin(&*store, &self.life.clock, &keep(), &mut entries, &mut thinned, &no_progress).unwrap();
        let (retention, replaced) = (Some(keep().longest()), thinned.replaced);
        let pass = Pass { retention, keep: Some(keep()), listing: Some(entries), replaced };
        run_one_pass(&store, "a", pass, &mut self.jumps, &self.life.clock).unwrap();
        self.thinned.rollups += thinned.rollups;
        self.thinned.snapshots += thinned.snapshots;
        self.thinned.new_snapshots += thinned.new_snapshots;
    }

    /// The commits, by number from 1 on, that are older than the policy keeps all, and that it keeps.
    fn kept(&self) -> Vec<usize> {
        let (times, newest) = (&self.life.commits, *self.life.commits.last().unwrap());
        let kept = |at: &usize| {
            let next = times.get(*at).copied().unwrap_or(Timestamp::MAX);
            !keep().keeps_all(newest, times[at - 1]) && keep().keeps(newest, times[at - 1], next)
        };
        (1..times.len()).filter(kept).collect()
    }

    fn plan(&self, listing: &Listing, commit: usize) -> Plan {
        plan(listing, None, &PlanTarget::Time(self.life.commits[commit - 1])).unwrap()
    }

    /// Restores it, which must be the state of this commit; how long that took.
    fn restored(&self, plan: &Plan, commit: usize) -> Duration {
        let path: PathBuf = self.life.directory.join("restored.db");
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        let begun = Instant::now();
        restore(&*self.life.memory, &self.life.clock, plan, &file, &mut |_| ()).unwrap();
        let took = begun.elapsed();
        assert_eq!(number(&path), commit);
        took
    }
}

fn number(path: &Path) -> usize {
    let restored = Connection::open(path).unwrap();
    let number: i64 = restored.query_row("SELECT n FROM commits", [], |row| row.get(0)).unwrap();
    usize::try_from(number).unwrap()
}

/// What is stored in the end.
struct Figures {
    objects: usize,
    /// Beyond the part of which every commit is kept.
    old_objects: usize,
    bytes: u64,
    snapshots: usize,
    /// Of these and earlier ones, what compaction has made.
    made: usize,
    kept: usize,
    plan: Duration,
    /// The most that a restore of a kept state reads and takes, divided by what its snapshot alone does.
    read: f64,
    took: f64,
    restore: Duration,
}

fn history(name: &str, rows: u32, days: u32, every: Duration) -> Figures {
    let mut history = History::begin(name, rows);
    for day in 0..days {
        for _ in 0..(DAY.as_secs() / every.as_secs()) {
            history.commit();
            history.life.pass(every - Duration::from_millis(100));
        }
        if day % 30 == 29 {
            let bytes = history.life.memory.bytes();
            println!("day {}: {} objects, {bytes} bytes", day + 1, history.life.memory.names().len());
        }
        history.compact();
    }
    (0..4).for_each(|_| {
        history.life.clock.pass(HOUR / 4);
        history.compact();
    });
    println!("{:?}", (history.thinned.rollups, history.thinned.new_snapshots, history.thinned.snapshots));
    figures(&history)
}

fn figures(history: &History) -> Figures {
    let (listing, kept) = (history.life.listing(), history.kept());
    let newest = *history.life.commits.last().unwrap();
    let (_, stored) = listing.generations().next().unwrap();
    assert_eq!(listing.generations().count(), 1);
    let old = stored.segments.iter().filter(|(key, _)| !keep().keeps_all(newest, key.last_seen)).count();
    let mut found = Figures {
        objects: history.life.memory.names().len(),
        old_objects: old + stored.snapshots.len(),
        bytes: history.life.memory.bytes() as u64,
        snapshots: stored.snapshots.len(),
        made: history.thinned.new_snapshots,
        kept: kept.len(),
        plan: Duration::ZERO,
        read: 0.0,
        took: 0.0,
        restore: Duration::ZERO,
    };
    for commit in kept {
        let begun = Instant::now();
        let plan = history.plan(&listing, commit);
        found.plan = found.plan.max(begun.elapsed());
        found.read = found.read.max(plan.bytes() as f64 / plan.snapshot_size as f64);
        let least = |plan: &Plan, commit| (0..3).map(|_| history.restored(plan, commit)).min().unwrap();
        let took = least(&plan, commit);
        found.restore = found.restore.max(took);
        let at = history.life.commits.iter().rposition(|time| *time <= plan.snapshot.time).map_or(0, |at| at + 1);
        let bare = Plan { segments: Vec::new(), stop: litestream::format::plan::StopAt::End, ..plan };
        found.took = found.took.max(took.as_secs_f64() / least(&bare, at).as_secs_f64());
    }
    found
}

/// Each state that is kept is restored as it was committed, at the price of one and a half snapshots at most.
#[test]
fn a_thinned_history_is_small_and_each_state_of_it_cheap() {
    let _alone = alone();
    let found = history("thinned", 500, 12, 15 * MINUTE);
    assert!(found.made > 2 && found.snapshots > 2, "{} snapshots made, {} there", found.made, found.snapshots);
    assert!(found.kept > 24 * 6, "{} states", found.kept);
    assert!(found.old_objects <= found.kept + found.snapshots + 3, "{} objects", found.old_objects);
    assert!(found.read <= 1.55, "{} times the bytes of a snapshot", found.read);
}

/// A year at one commit a minute, or so many DAYS at one in so many SECONDS.
#[test]
#[ignore = "takes minutes; its figures are in the README"]
fn a_year_of_one_commit_a_minute() {
    let _alone = alone();
    let number = |name: &str, usual: u32| std::env::var(name).map_or(usual, |number| number.parse().unwrap());
    let (days, seconds) = (number("DAYS", 365), number("SECONDS", 60));
    let found = history("minutes", 5000, days, Duration::from_secs(seconds.into()));
    println!(
        "{days} days, a commit in {seconds} s: {} objects ({} beyond a day, {} snapshots), {:.1} MB, {} kept states beyond a day; plan {:?} at most; \
         restore {:?} at most; of a bare snapshot {:.2} times the bytes, {:.2} times the time",
        found.objects,
        found.old_objects,
        found.snapshots,
        found.bytes as f64 / 1e6,
        found.kept,
        found.plan,
        found.restore,
        found.read,
        found.took,
    );
    assert!(found.old_objects <= 400, "{} objects", found.old_objects);
    assert!(found.read <= 1.55, "{} times the bytes of a snapshot", found.read);
}

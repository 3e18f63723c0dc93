//! A snapshot holds nobody up: the pin moves on while it is read, and what changes meanwhile is kept for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::random::Random;
use crate::support::{Bed, Session};
use litestream::source::snapshot::Snapshot;
use litestream::source::{ReadResult, Source, SourceOptions};

/// Every row, in order.
const STATE: &str = "SELECT count(*), total(id), sum(length(body)), group_concat(substr(body, 1, 9)) FROM (SELECT * FROM t ORDER BY id)";

/// What applications do to a database. `#` is a number.
const WORK: &[&str] = &[
    "INSERT INTO t(body) SELECT printf('%d', #) || hex(randomblob(# % 600)) FROM json_each('[1,2,3,4,5,6,7,8]')",
    "INSERT INTO t(body) VALUES (printf('%d', #) || hex(zeroblob(# * 7)))",
    "UPDATE t SET body = printf('%d', #) || body WHERE id % 11 = # % 11",
    "UPDATE t SET body = substr(body, 3) WHERE id % 5 = # % 5",
    "UPDATE t SET body = printf('%d', #) || substr(body, 9)",
    "DELETE FROM t WHERE id % 7 = # % 7",
    "DELETE FROM t WHERE id > (SELECT max(id) / 2 FROM t)",
    "VACUUM",
];

/// What may be run at any time, by anybody.
const CHECKPOINTS: &[&str] = &["PASSIVE", "FULL", "RESTART", "TRUNCATE"];

struct Schedule {
    bed: Bed,
    database: PathBuf,
    random: Random,
    source: Source,
    application: Session,
    /// Another application; it may be in a read transaction.
    reader: Option<Session>,
    now: Instant,
    /// How often an application could empty the WAL while a snapshot was being read, and the database became smaller.
    emptied: u32,
    vacuumed: u32,
}

impl Schedule {
    fn new(bed: Bed, seed: u64) -> Schedule {
        let mut random = Random(seed);
        let database = bed.path("a.db");
        let mut application = bed.session(&database);
        application.sql(&format!("PRAGMA page_size = {}", 512 << random.below(4)));
        application.sql("PRAGMA journal_mode = WAL");
        application.sql("PRAGMA busy_timeout = 0");
        application.sql(&format!("PRAGMA wal_autocheckpoint = {}", [0, 0, 5, 1000][random.below(4) as usize]));
        application.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)");
        application.sql("INSERT INTO t(body) SELECT 'first' || hex(randomblob(300)) FROM (SELECT 1 FROM json_each('[1,2,3,4,5,6,7,8,9,10]') a, json_each('[1,2,3,4,5,6,7,8,9,10]') b)");
        let options = SourceOptions {
            busy_timeout: Duration::from_secs(5),
            enable_wal: true,
            allow_network: false,
            differences: false,
            checkpoint_frames: 1 + random.below(40) as u32,
            checkpoint_interval: None,
            truncate_frames: random.chance(50).then_some(4),
        };
        let source = Source::open(&database, &options).expect("open the database");
        let now = Instant::now();
        Schedule { bed, database, random, source, application, reader: None, now, emptied: 0, vacuumed: 0 }
    }

    /// What a round of `replicate` does with the source.
    fn round(&mut self) {
        let mut buffer = vec![0; 1 << 20];
        self.now += Duration::from_millis(self.random.below(400));
        for _ in 0..1 + self.random.below(3) {
            if !self.source.has_work(self.now).expect("look for changes") {
                break;
            }
            loop {
                match self
                    .source
                    .read(&mut buffer, &mut litestream::format::differences::Composer::default())
                    .expect("copy")
                {
                    ReadResult::CaughtUp => break,
                    ReadResult::Batch(_) => {}
                    ReadResult::Broken(reason) => panic!("the generation was lost: {reason}"),
                }
            }
            if !self.source.finish_round(self.now).expect("move the pin") && !self.source.blocks_writers() {
                break;
            }
        }
    }

    fn work(&mut self) {
        let statement = self.random.one_of(WORK).replace('#', &self.random.below(10_000).to_string());
        // Another's read transaction may be in the way of some of these.
        if self.application.try_sql(&statement).is_ok() && statement == "VACUUM" {
            self.vacuumed += 1;
        }
    }

    fn checkpoint(&mut self) {
        let mode = self.random.one_of(CHECKPOINTS);
        let answer = self.application.try_sql(&format!("PRAGMA wal_checkpoint({mode})"));
        if mode == "TRUNCATE" && answer.is_ok_and(|answer| answer.starts_with("(0,")) {
            self.emptied += 1;
        }
    }

    fn other_application(&mut self) {
        if let Some(mut reader) = self.reader.take() {
            let _ = reader.try_sql("COMMIT");
            return;
        }
        let mut reader = self.bed.session(&self.database);
        reader.sql("BEGIN");
        reader.sql("SELECT count(*) FROM t");
        self.reader = Some(reader);
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..40 => self.work(),
            40..60 => self.checkpoint(),
            60..66 => self.other_application(),
            _ => self.round(),
        }
    }

    /// Begins a snapshot; with it, what it must hold.
    fn snapshot(&mut self) -> Option<(Snapshot, String)> {
        self.round();
        let meta = self.bed.path("");
        let snapshot = self.source.snapshot(&meta).expect("begin a snapshot")?;
        Some((snapshot, self.application.sql(STATE)))
    }

    /// Reads a snapshot to its end, with all that may happen between two pieces of it.
    fn read(&mut self, mut snapshot: Snapshot, output: &Path) {
        let size = snapshot.mark().page_size.get() as usize;
        let twice = self.random.chance(30);
        if twice {
            self.pieces(&mut snapshot, size);
            snapshot.rewind();
        }
        snapshot.read_once();
        let bytes = self.pieces(&mut snapshot, size);
        assert_eq!(bytes.len() as u64, snapshot.bytes());
        fs::write(output, bytes).expect("write the snapshot");
    }

    fn pieces(&mut self, snapshot: &mut Snapshot, size: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            for _ in 0..self.random.below(4) {
                self.step();
            }
            let mut piece = vec![0; size * (1 + self.random.below(12) as usize)];
            match snapshot.read(&mut piece).expect("read the snapshot") {
                0 => return bytes,
                count => bytes.extend_from_slice(&piece[..count]),
            }
        }
    }
}

/// SNAPSHOT_SEEDS=from..to tries others than those of every run.
fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("SNAPSHOT_SEEDS").ok();
    let range = given.as_deref().and_then(|text| text.split_once(".."));
    range.map_or(0..16, |(from, to)| from.parse().expect("a number")..to.parse().expect("a number"))
}

/// A snapshot that is under way while a page of it changes and the pin moves on, with `meta` for what is to be kept.
fn carried(meta: &Path) -> (Schedule, Snapshot) {
    let mut schedule = Schedule::new(Bed::directory("carried-on"), 7);
    schedule.round();
    let snapshot = schedule.source.snapshot(meta).expect("begin a snapshot").expect("nobody writes");
    schedule.application.sql("UPDATE t SET body = 'new' WHERE id = 1");
    (0..3).for_each(|_| schedule.round());
    (schedule, snapshot)
}

#[test]
fn snapshot_without_preimages_fails_and_copying_continues() {
    let (mut schedule, mut snapshot) = carried(Path::new("/proc/nowhere"));
    let mut page = vec![0; 65_536];
    let error = snapshot.read(&mut page).expect_err("it is not its commit any more");
    assert!(error.message().contains("create a file in /proc/nowhere"), "{error}");
    assert!(snapshot.read(&mut page).expect_err("for ever").message().contains("no longer available"));
    drop(snapshot);
    let (next, expected) = schedule.snapshot().expect("another one");
    let output = schedule.bed.path("next.db");
    schedule.read(next, &output);
    assert_eq!(schedule.bed.sql(&output, &[STATE]).trim_end(), expected);
}

#[test]
fn a_snapshot_whose_database_is_not_followed_any_more_is_none() {
    let bed = Bed::directory("unfollowed");
    let (schedule, mut snapshot) = carried(&bed.path(""));
    let mut page = vec![0; 65_536];
    assert!(snapshot.read(&mut page).expect("read") > 0);
    drop(schedule);
    let error = snapshot.read(&mut page).expect_err("nobody keeps it");
    assert!(error.message().contains("no longer replicated"), "{error}");
}

#[test]
fn whatever_happens_while_it_is_read_a_snapshot_is_its_commit() {
    let (mut emptied, mut vacuumed, mut taken) = (0, 0, 0);
    for seed in seeds() {
        println!("seed {seed}");
        let mut schedule = Schedule::new(Bed::directory(&format!("carried-{seed}")), seed);
        for number in 0..3 {
            for _ in 0..schedule.random.below(12) {
                schedule.step();
            }
            let Some((snapshot, expected)) = schedule.snapshot() else { continue };
            (schedule.emptied, schedule.vacuumed) = (0, 0);
            let output = schedule.bed.path(&format!("snapshot-{number}.db"));
            schedule.read(snapshot, &output);
            let found = schedule.bed.sql(&output, &["PRAGMA integrity_check", STATE]);
            let found: Vec<&str> = found.trim_end().lines().collect();
            assert_eq!(found, ["('ok',)", expected.as_str()], "seed {seed}, snapshot {number}");
            taken += 1;
            emptied += schedule.emptied;
            vacuumed += schedule.vacuumed;
        }
    }
    println!(
        "{taken} snapshots; meanwhile the WAL was emptied {emptied} times, and the database vacuumed {vacuumed} times"
    );
    assert!(taken > 0 && emptied > 0 && vacuumed > 0);
}

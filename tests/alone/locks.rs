//! Our locks are there at every moment from the first copy to the end, and applications get theirs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::alone::{alone, alone_on_a_directory};
use crate::support::{Bed, assert_equal, until};
use litestream::source::{Source, SourceOptions};

alone_on_a_directory! {
    the_database_and_a_read_mark_are_locked_at_every_moment
    no_read_mark_is_let_go_before_another_is_held
    late_checkpoint_loses_nothing_under_a_lasting_pin
    checkpoints_of_the_application_succeed_within_three_ticks
    no_writer_waits_for_long_while_its_wal_is_kept_short
}

/// Where SQLite locks (os.h, wal.c): SHARED in the database, READ0 to READ4 in the -shm file.
const SHARED: u64 = 0x4000_0002;
const READ: std::ops::RangeInclusive<u64> = 123..=127;

const LOOKS_AGAIN: u32 = 4;

/// Whether a process holds both locks, in one look at /proc/locks.
fn holds(pid: u32, database: u64, index: u64) -> (bool, bool) {
    let locks = fs::read_to_string("/proc/locks").expect("read /proc/locks");
    let mut held = (false, false);
    for line in locks.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "POSIX", _, _, owner, file, first, last] = fields[..] else { continue };
        let inode: u64 = file.rsplit(':').next().and_then(|inode| inode.parse().ok()).unwrap_or(0);
        let first: u64 = first.parse().unwrap_or(0);
        let last: u64 = last.parse().unwrap_or(u64::MAX);
        if owner == pid.to_string() {
            held.0 |= inode == database && (first..=last).contains(&SHARED);
            held.1 |= inode == index && READ.clone().any(|mark| (first..=last).contains(&mark));
        }
    }
    held
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

fn the_database_and_a_read_mark_are_locked_at_every_moment(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let shm = bed.path("a.db-shm");
    let (database_inode, shm_inode, pid) = (inode(&database), inode(&shm), replicator.pid());
    if holds(pid, database_inode, shm_inode) == (false, false) && fs::read_to_string("/proc/locks").unwrap().is_empty()
    {
        eprintln!("skipped: /proc/locks shows nothing here");
        return;
    }
    let modes = "truncate,restart,full,passive";
    let mut writers = [
        bed.application(&database, &["--seconds", "4", "--rate", "150", "--checkpoint", modes, "--every", "9"]),
        bed.application(&database, &["--seconds", "4", "--rate", "50", "--churn", "--seed", "2"]),
        bed.application(&database, &["--seconds", "4", "--rate", "20", "--vacuum", "--spill", "--seed", "3"]),
    ];
    let (mut looks, mut last_snapshot) = (0, Instant::now());
    while writers.iter_mut().any(|writer| writer.is_running()) {
        // The kernel gives the list in pieces, and one that changes meanwhile may lack a line: then look again at once.
        let held = (0..LOOKS_AGAIN).any(|_| holds(pid, database_inode, shm_inode) == (true, true));
        assert!(held, "at look {looks}: {:?}", holds(pid, database_inode, shm_inode));
        looks += 1;
        if last_snapshot.elapsed() > Duration::from_millis(1500) {
            bed.run(&["snapshot", &database.to_string_lossy(), &bed.url()]);
            last_snapshot = Instant::now();
        }
        // Looked at thousands of times while they write.
        sleep(Duration::from_micros(300));
    }
    assert!(looks > 1000, "only {looks} looks");
    println!("{looks} looks");
    bed.converges(&database);
    assert_eq!(holds(pid, database_inode, shm_inode), (true, true));
    replicator.stop();
}

/// Each call of fcntl(2) in its order, as strace saw it: what /proc/locks shows now and then, without the gaps.
fn no_read_mark_is_let_go_before_another_is_held(bed: &Bed) {
    let database = bed.database();
    let command = bed.replicate_command(&database, &bed.url());
    let log = bed.path("fcntl");
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-y", "-e", "trace=fcntl", "-o"]).arg(&log).arg(command.get_program());
    if support::meddled(&command, "none:retval=0").is_none() {
        return;
    }
    let replicator = bed.start_command(&mut support::like(&command, traced));
    bed.converges(&database);
    let begun = fs::read_to_string(&log).unwrap().lines().count();
    bed.write(&database, &["--commits", "120", "--checkpoint", "truncate,restart,full,passive", "--every", "3"]);
    bed.write(&database, &["--commits", "60", "--churn", "--rate", "60"]);
    bed.write(&database, &["--seconds", "2", "--autocheckpoint", "0", "--sync", "off"]);
    bed.converges(&database);
    let text = fs::read_to_string(&log).unwrap();
    let (mut held, mut moves) = (BTreeSet::new(), 0);
    for (number, line) in text.lines().enumerate() {
        let field = |name: &str| line.split(name).nth(1)?.split([',', '}']).next()?.parse::<u64>().ok();
        let (Some(first), Some(length)) = (field("l_start="), field("l_len=")) else { continue };
        if !line.contains("a.db-shm>, F_SETLK, ") || !line.ends_with(" = 0") {
            continue;
        }
        for mark in READ.filter(|mark| (first..first + length).contains(mark)) {
            let _ = if line.contains("F_UNLCK") { held.remove(&mark) } else { held.insert(mark) };
        }
        if number > begun {
            moves += 1;
            assert!(!held.is_empty(), "no mark is held behind line {number}: {line}");
        }
    }
    println!("{moves} calls");
    assert!(moves > 100, "only {moves} calls");
    drop(replicator);
    // What strace had traced dies a moment later.
    until("the lock is free", || {
        let ran = bed.run_command(bed.replicate_command(&database, &bed.url()).arg("-once"));
        if ran.status == 0 { Ok(()) } else { Err(ran.stderr) }
    });
    assert_equal(&database, &bed.restored());
}

/// SQLite before 3.51.3 lost commits where a checkpoint that had read the wal-index went on after the WAL had been written
/// back and started again. That takes both, and under one pin there is never both, however long we stand still under it.
fn late_checkpoint_loses_nothing_under_a_lasting_pin(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut application = bed.session(&database);
    application.sql("PRAGMA wal_autocheckpoint = 0");
    application.sql("PRAGMA busy_timeout = 50");
    let insert = "INSERT INTO t(body) VALUES (randomblob(3000))";
    let salts = || fs::read(bed.path("a.db-wal")).unwrap()[16..24].to_vec();
    for written_back in [true, false] {
        application.sql(insert);
        bed.converges(&database);
        if written_back {
            application.sql("PRAGMA wal_checkpoint(PASSIVE)");
        }
        // Part of the schedule: some ticks at rest, in which marks are moved.
        sleep(20 * TICK);
        replicator.signal(libc::SIGSTOP);
        let mut seen = BTreeSet::from([salts()]);
        for round in 0..8 {
            application.sql(insert);
            seen.insert(salts());
            let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][round % 4];
            let answer = application.sql(&format!("PRAGMA wal_checkpoint({mode})"));
            // Busy, frames in the WAL, and how many of them are written back.
            let numbers: Vec<i64> =
                answer.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
            assert!(numbers[2] < numbers[1], "{mode}: all is written back under our pin: {answer}");
            assert!(!written_back || numbers[2] == 0, "{mode}: {answer}");
            bed.sql(&database, &[insert]);
        }
        // From a pin on READ0 the WAL may be started again once.
        assert!(seen.len() <= 1 + usize::from(written_back), "{} times", seen.len());
        replicator.signal(libc::SIGCONT);
        bed.converges(&database);
    }
    replicator.stop();
    assert_eq!(bed.generations().len(), 1);
}

/// A checkpoint waits for the slot of a pin that has ended since: the next one took it, with a newer mark, which the checkpoint
/// does not look at. It holds writers off, so nothing is committed that would move the pin.
#[test]
fn first_pin_yields_to_a_checkpoint_that_waits_for_its_slot() {
    let _alone = alone();
    let bed = Bed::directory("slot");
    let database = bed.path("a.db");
    let mut application = bed.session(&database);
    for statement in ["journal_mode = WAL", "wal_autocheckpoint = 0", "busy_timeout = 30000"] {
        application.sql(&format!("PRAGMA {statement}"));
    }
    application.sql("CREATE TABLE t (x)");
    let options = SourceOptions {
        busy_timeout: Duration::from_secs(5),
        enable_wal: false,
        allow_network: true,
        differences: true,
        checkpoint_frames: 1000,
        checkpoint_interval: None,
        truncate_frames: None,
    };
    let first = Source::open(&database, &options).expect("open the database");
    application.sql("INSERT INTO t VALUES (1)");
    let checkpoint = std::thread::spawn(move || application.sql("PRAGMA wal_checkpoint(FULL)"));
    let index = inode(&bed.path("a.db-shm"));
    until("the checkpoint holds writers off", || {
        let locks = fs::read_to_string("/proc/locks").expect("read /proc/locks");
        let held = locks.lines().any(|line| line.contains(&format!(":{index} 120 121")));
        if held { Ok(()) } else { Err(locks) }
    });
    drop(first);
    // Long before it tries again.
    let mut source = Source::open(&database, &options).expect("open the database");
    assert!(source.has_waiting_checkpoint());
    drop(source);
    let answer = checkpoint.join().expect("the checkpoint");
    assert!(answer.starts_with("(0,"), "it gave up: {answer}");
    assert!(!Source::open(&database, &options).expect("open the database").has_waiting_checkpoint());
}

/// All its commits are checkpointed at once, by one that waits for readers and holds other writers off meanwhile.
#[test]
fn writer_that_always_checkpoints_starves_no_other_writer() {
    let _alone = alone();
    let bed = Bed::directory("turns");
    let database = bed.database();
    let rival = ["--seconds", "6", "--rate", "100", "--sync", "off", "--seed", "2"];
    let mut last = [0.0; 2];
    for (at, beside) in [false, true].into_iter().enumerate() {
        let mut replicator = beside.then(|| bed.replicate(&database));
        let mut writers = ["full", "truncate"].map(|mode| {
            let busy = ["--seconds", "6", "--rate", "400", "--sync", "off", "--rows", "0", "--every", "1"];
            bed.application(&database, &[&busy[..], &["--checkpoint", mode]].concat())
        });
        let mut rival = bed.application(&database, &rival);
        let begin = Instant::now();
        while rival.is_running() {
            // Part of the schedule: another start each half second.
            sleep(10 * TICK);
            // Each start has a first pin, which may take the slot that such a checkpoint waits for.
            if begin.elapsed() < Duration::from_secs(5)
                && let Some(running) = replicator.take()
            {
                running.kill();
                replicator = Some(bed.replicate(&database));
            }
        }
        writers.iter_mut().for_each(|writer| writer.exits(0));
        rival.exits(0);
        println!("beside {beside}: {} {} {}", rival.output(), writers[0].output(), writers[1].output());
        last[at] = told(&rival.output(), "commits=");
    }
    assert!(last[1] > last[0] / 4.0, "{last:?} commits");
}

/// A start reads the whole database under its first pin, which is slow here: half a minute, say. The application does not
/// wait for the end of it.
#[test]
fn checkpoint_does_not_wait_for_the_comparison_at_startup() {
    let _alone = alone();
    let bed = Bed::directory("compared");
    let database = bed.path("a.db");
    let mut application = bed.session(&database);
    for statement in ["journal_mode = WAL", "wal_autocheckpoint = 0", "busy_timeout = 60000"] {
        application.sql(&format!("PRAGMA {statement}"));
    }
    application.sql("CREATE TABLE t (x)");
    application.sql("INSERT INTO t VALUES (zeroblob(120000000))");
    application.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    application.sql("INSERT INTO t VALUES (1)");
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    replicator.kill();
    let command = bed.replicate_command(&database, &bed.url());
    let Some(mut slow) = support::meddled(&command, "pread64:delay_enter=300000:when=60+") else { return };
    let mut replicator = bed.start_command(&mut slow);
    let index = inode(&bed.path("a.db-shm"));
    let mut looks = 0;
    until("the start has a pin that stays", || {
        let locks = fs::read_to_string("/proc/locks").expect("read /proc/locks");
        let pinned = READ.into_iter().any(|mark| locks.contains(&format!(":{index} {mark} {mark}")));
        looks = if pinned { looks + 1 } else { 0 };
        if looks > 9 { Ok(()) } else { Err(locks) }
    });
    application.sql("INSERT INTO t VALUES (2)");
    let begin = Instant::now();
    let answer = application.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    println!("{answer} after {:?}", begin.elapsed());
    assert!(answer.starts_with("(0,"), "it gave up: {answer}");
    replicator.says("database not compared with its backup");
    replicator.says("continuing");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    drop(replicator);
    bed.replicate_once(&database);
    assert_equal(&database, &bed.restored());
}

/// The default monitor-interval.
const TICK: Duration = Duration::from_millis(50);
/// SQLite's busy handler sleeps as long as this between two attempts.
const BUSY_SLEEP: Duration = Duration::from_millis(100);

fn checkpoints_of_the_application_succeed_within_three_ticks(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut application = bed.session(&database);
    for mode in ["FULL", "RESTART", "TRUNCATE"] {
        let mut took: Vec<Duration> = (0..21)
            .map(|_| {
                application.sql("INSERT INTO t(body) VALUES (randomblob(3000))");
                let begin = Instant::now();
                let answer = application.sql(&format!("PRAGMA wal_checkpoint({mode})"));
                assert!(answer.starts_with("(0,"), "{mode} was busy: {answer}");
                begin.elapsed()
            })
            .collect();
        took.sort_unstable();
        println!("{mode}: median {:?}, longest {:?}", took[10], took[20]);
        // The median, since on a busy machine a process may get no turn for much longer than a tick.
        assert!(took[10] <= 3 * TICK + BUSY_SLEEP, "{mode}: {took:?}");
    }
    until("the rows are stored", || {
        let restored = bed.restored();
        support::equal(&database, &restored)
    });
    replicator.stop();
}

/// What the manual states as the longest time that a writer waits for us, with room for a busy machine.
const BOUND_MS: f64 = 1000.0;
/// More than fifteen times what asks for a seal.
const MOST_WAL: u64 = 64 << 20;

/// A number that the application tells at its end.
fn told(output: &str, name: &str) -> f64 {
    let value = output.split_whitespace().find_map(|word| word.strip_prefix(name));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {output}"))
}

/// Nothing but us keeps the WAL short, and the writer never pauses: so it is held off, again and again. In the end a
/// reader lets the WAL grow, and a hundred times as much is to be written back when it is gone.
fn no_writer_waits_for_long_while_its_wal_is_kept_short(bed: &Bed) {
    let options = ["--seconds", "7", "--rate", "3000", "--rows", "1", "--sync", "off", "--autocheckpoint", "0"];
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut writer = bed.application(&database, &options);
    let length = || fs::metadata(bed.path("a.db-wal")).map_or(0, |found| found.len());
    // Part of the schedule: three seconds without a reader, and two with one.
    sleep(Duration::from_secs(3));
    let short = length();
    let mut reader = bed.session(&database);
    reader.sql("BEGIN");
    reader.sql("SELECT count(*) FROM t");
    // The two seconds with a reader.
    sleep(Duration::from_secs(2));
    drop(reader);
    writer.exits(0);
    let beside = writer.output();
    println!("{} wal_mb={} with a reader={}", beside.trim(), short >> 20, length() >> 20);
    assert!(short < MOST_WAL, "a WAL of {short} bytes");
    assert!(told(&beside, "longest_ms=") < BOUND_MS, "{beside}");
    bed.converges(&database);
    assert_eq!(bed.generations().len(), 1);
    replicator.stop();
}

/// The server neither answers nor closes the connection, and memory is full long before that is taken for an outage. A
/// checkpoint that waits for our pin keeps all writers waiting.
#[test]
fn application_checkpoints_succeed_while_the_store_hangs() {
    let _alone = alone();
    let mut bed = Bed::nats("stands-still");
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut application = bed.session(&database);
    application.sql("CREATE TABLE r (x)");
    bed.store_goes(true);
    let mut longest = Duration::ZERO;
    for _ in 0..30 {
        application.sql("INSERT INTO r VALUES (randomblob(1000000))");
        let begin = Instant::now();
        let answer = application.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        assert!(answer.starts_with("(0,"), "it was busy: {answer}");
        longest = longest.max(begin.elapsed());
    }
    println!("longest {longest:?}");
    assert!(longest < Duration::from_secs(4), "{longest:?}");
    bed.store_returns();
    bed.converges(&database);
    replicator.stop();
    assert_equal(&database, &bed.restored());
}

//! A snapshot is the database at one commit, whatever is written and checkpointed while it is read.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support;
use crate::support::Bed;
use litestream::source::snapshot::{Snapshot, open_rollback_snapshot};
use litestream::source::{Source, SourceOptions};

const SUMS: &str = "SELECT sum(length(body)), count(*), max(body) FROM t";

fn options() -> SourceOptions {
    SourceOptions {
        busy_timeout: Duration::from_secs(5),
        enable_wal: true,
        allow_network: false,
        differences: false,
        checkpoint_frames: 1000,
        checkpoint_interval: None,
        truncate_frames: None,
    }
}

/// Reads all of it into a file.
fn write(snapshot: Snapshot, output: &Path) {
    write_behind(&[], snapshot, output);
}

/// Reads what is left of it into a file.
fn write_behind(begun: &[u8], mut snapshot: Snapshot, output: &Path) {
    let (mut bytes, mut piece) = (begun.to_vec(), vec![0; 3 * 65_536]);
    loop {
        match snapshot.read(&mut piece).unwrap() {
            0 => break,
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
    assert_eq!(bytes.len() as u64, snapshot.bytes());
    fs::write(output, bytes).unwrap();
}

/// Each kind of checkpoint that another process may run while the snapshot is being read, and none.
#[test]
fn snapshot_has_the_pages_of_its_commit_despite_checkpoints() {
    let bed = Bed::directory("snapshot");
    let database = bed.path("a.db");
    let mut application = bed.session(&database);
    application.sql("PRAGMA journal_mode=WAL");
    application.sql("PRAGMA wal_autocheckpoint=0");
    application.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)");
    for row in 0..200 {
        application.sql(&format!("INSERT INTO t VALUES ({row}, '{}')", "a".repeat(500)));
    }
    let mut source = Source::open(&database, &options()).unwrap();
    for (round, checkpoint) in ["", "PASSIVE", "PASSIVE", "FULL"].into_iter().enumerate() {
        application.sql(&format!("UPDATE t SET body = 'before {round}' WHERE id % 3 = 0"));
        let mut buffer = vec![0; 1 << 20];
        while !matches!(
            source.read(&mut buffer, &mut litestream::format::differences::Composer::default()).unwrap(),
            litestream::source::ReadResult::CaughtUp
        ) {}
        let snapshot =
            source.snapshot(bed.path("").as_path()).unwrap().expect("nobody writes, so a commit can be pinned");
        let expected = bed.sql(&database, &[SUMS]);
        application.sql(&format!("UPDATE t SET body = 'behind {round}' WHERE id % 7 = 0"));
        if !checkpoint.is_empty() {
            let _ = application.try_sql(&format!("PRAGMA wal_checkpoint({checkpoint})"));
        }
        application.sql(&format!("INSERT INTO t VALUES ({}, 'more')", 1000 + round));
        let output = bed.path(&format!("snapshot-{round}.db"));
        write(snapshot, &output);
        assert!(bed.sql(&output, &["PRAGMA integrity_check"]).contains("ok"));
        assert_eq!(bed.sql(&output, &[SUMS]), expected, "round {round}, {checkpoint}");
        source.finish_round(std::time::Instant::now()).unwrap();
    }
}

/// What SQLite does, and why a snapshot must not take nBackfill for the state of the file: a checkpoint that a reader
/// holds back leaves out each page that has a newer frame after the reader's mark, with all its older frames.
#[test]
fn checkpoint_blocked_by_a_reader_does_not_change_the_snapshot() {
    let bed = Bed::directory("held-back");
    let database = bed.path("a.db");
    let mut application = bed.session(&database);
    application.sql("PRAGMA journal_mode=WAL");
    application.sql("CREATE TABLE t(body TEXT)");
    application.sql("INSERT INTO t VALUES ('first')");
    application.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    application.sql("UPDATE t SET body = 'second'");
    let mut reader = bed.session(&database);
    reader.sql("BEGIN");
    assert!(reader.sql("SELECT body FROM t").contains("second"));
    application.sql("UPDATE t SET body = 'third!'");
    let done = application.sql("PRAGMA wal_checkpoint(PASSIVE)");
    let file = fs::read(&database).unwrap();
    let holds = |word: &str| file.windows(word.len()).any(|window| window == word.as_bytes());
    assert!(done.contains("(0, 2, 1)"), "one frame of two is counted as checkpointed: {done}");
    assert!(holds("first") && !holds("second"), "and yet the file does not have it");
}

/// Beside a replicator and alone, while commits come as fast as they can: each snapshot is a commit, and what follows it
/// joins on.
#[test]
fn snapshot_under_constant_writes_is_a_commit_and_continues() {
    let bed = Bed::directory("full-speed");
    let database = bed.path("a.db");
    bed.write(&database, &["--commits", "200", "--rows", "20", "--size", "800"]);
    let path = database.to_str().unwrap();
    for beside in [true, false] {
        let replicator = beside.then(|| bed.replicate(&database));
        if beside {
            bed.converges(&database);
        }
        let options = ["--seconds", "3", "--sync", "off", "--rows", "1", "--change", "1"];
        let mut writer = bed.application(&database, &options);
        let mut restored = Vec::new();
        while writer.is_running() {
            let done = bed.run(&["snapshot", "-json", path, &bed.url()]).succeeded().stdout;
            let rows: serde_json::Value = serde_json::from_str(&done).unwrap();
            let output = bed.fresh("at.db");
            let mut command = support::restore_command(&bed.url(), &output);
            let position = rows[0]["position"].as_str().unwrap();
            bed.run_command(command.args(["-position", position])).succeeded();
            restored.push(output);
        }
        writer.exits(0);
        println!("{}{} snapshots", writer.output(), restored.len());
        let states = support::all_judged(&restored);
        support::assert_never_back(&states);
        support::all_committed(&states, &database);
        match replicator {
            Some(replicator) => {
                replicator.stop();
                assert_eq!(bed.generations().len(), 1);
            }
            None => drop(bed.replicate_once(&database)),
        }
        support::assert_equal(&database, &bed.restored());
    }
}

/// SQLite never uses the page at byte 2^30, and a database that is large enough has a hole there.
#[test]
fn database_over_1_gib_is_restored_with_its_lock_byte_page() {
    let bed = Bed::directory("large");
    let database = bed.path("a.db");
    let large = "INSERT INTO t VALUES (zeroblob(540000000)), (zeroblob(540000000))";
    bed.sql(&database, &["PRAGMA page_size=65536", "CREATE TABLE t(body)", large, "INSERT INTO t VALUES ('last')"]);
    bed.replicate_once(&database);
    bed.sql(&database, &["INSERT INTO t SELECT randomblob(200) FROM (VALUES (1), (2), (3)), (VALUES (1), (2), (3))"]);
    bed.replicate_once(&database);
    let restored = bed.restored();
    assert!(fs::metadata(&restored).unwrap().len() > 1 << 30);
    assert!(bed.sql(&restored, &["PRAGMA quick_check"]).contains("ok"));
    let rows = ["SELECT count(*), sum(length(body)), max(hex(body)) FROM t WHERE length(body) < 1000"];
    assert_eq!(bed.sql(&restored, &rows), bed.sql(&database, &rows));
}

/// Without a WAL. What is copied aside is the commit, and where it cannot be, the database stays as locked as it was.
#[test]
fn a_snapshot_that_lets_go_of_the_database_is_the_commit_still() {
    let bed = Bed::directory("let-go");
    let database = bed.path("a.db");
    bed.write(&database, &["--commits", "5", "--rows", "50", "--size", "9000", "--journal", "delete"]);
    let expected = fs::read(&database).unwrap();
    let mut application = bed.session(&database);
    application.sql("PRAGMA busy_timeout = 0");
    let mut snapshot = open_rollback_snapshot(&database, &options()).unwrap().expect("it has no WAL");
    snapshot.read_once();
    let mut begun = vec![0; 65_536];
    let count = snapshot.read(&mut begun).unwrap();
    snapshot.detach(&bed.path("no-such-directory")).unwrap_err();
    let change = "UPDATE t SET body = zeroblob(length(body))";
    assert!(application.try_sql(change).unwrap_err().contains("locked"));
    snapshot.detach(&bed.path("")).unwrap();
    application.sql(change);
    application.sql("VACUUM");
    let output = bed.path("output.db");
    write_behind(&begun[..count], snapshot, &output);
    assert_ne!(expected, fs::read(&database).unwrap());
    assert!(expected == fs::read(output).unwrap());
}

/// Text and noise in one database, at levels that keep and that change: all of it is plain gzip to anyone who reads it.
#[test]
fn gunzip_and_python_read_every_compression_level() {
    const PYTHON: &str = "import gzip, sys; sys.stdout.buffer.write(gzip.open(sys.stdin.buffer).read())";
    let bed = Bed::directory("levels");
    let database = bed.path("a.db");
    let mut application = bed.session(&database);
    application.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, body)");
    let rows =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 800) INSERT INTO t (body) SELECT";
    for _ in 0..3 {
        application
            .sql(&format!("{rows} printf('{{\"id\":%d,\"text\":\"bread butter cheese %x\"}}', i, random()) FROM n"));
        application.sql(&format!("{rows} randomblob(3000) FROM n"));
    }
    drop(application);
    let bytes = fs::read(&database).unwrap();
    for level in ["auto", "1", "9"] {
        let (config, target) = (bed.path("levels.yml"), bed.path(&format!("level-{level}")));
        let replica = format!("{{ url: {}, compression-level: {level} }}", target.display());
        fs::write(&config, format!("dbs:\n  - path: {}\n    replica: {replica}\n", database.display())).unwrap();
        bed.run(&["snapshot", "-config", config.to_str().unwrap()]).succeeded();
        let generation = fs::read_dir(target.join("generations")).unwrap().next().unwrap().unwrap().path();
        let stored = fs::read_dir(generation.join("snapshots")).unwrap().next().unwrap().unwrap().path();
        let length = fs::metadata(&stored).unwrap().len();
        assert!(length * 1000 <= bytes.len() as u64 * 1001, "{length} bytes for {} at level {level}", bytes.len());
        for (program, words) in [("gunzip", vec!["-c"]), ("python3", vec!["-c", PYTHON])] {
            let input = fs::File::open(&stored).unwrap();
            let output = Command::new(program).args(words).stdin(input).output().unwrap();
            assert!(output.status.success() && output.stdout == bytes, "{program} at level {level}");
        }
    }
}

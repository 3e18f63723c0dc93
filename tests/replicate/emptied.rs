//! A WAL that was emptied, by us or by the application that closed last, costs no new generation while the database file
//! is what it was; and a file that was written to since is never taken for the one that is stored.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};

use crate::support;
use crate::support::{Bed, assert_equal, on_both_stores};

on_both_stores! {
    status_is_ok_after_our_own_truncate
    start_goes_on_after_the_application_deleted_the_wal
    start_copies_a_wal_that_was_begun_since_from_its_first_frame
    start_does_not_take_a_changed_file_for_the_stored_one
    snapshot_is_taken_though_the_wal_is_empty
}

/// A database that nobody has open, and whose WAL is gone: the last one to close has deleted it.
fn closed_database(bed: &Bed) -> PathBuf {
    let database = bed.path("a.db");
    bed.sql(&database, &["PRAGMA journal_mode=WAL", "CREATE TABLE t(x)", "INSERT INTO t VALUES(zeroblob(100000))"]);
    database
}

fn wal_length(database: &Path) -> u64 {
    fs::metadata(database.with_extension("db-wal")).map_or(0, |found| found.len())
}

/// The exit status of `status`, and of `verify`, which is given no time to hope for better.
fn says(bed: &Bed, command: &str, database: &Path) -> i32 {
    bed.run(&[command, database.to_str().expect("a path"), &bed.url()]).status
}

fn generations(bed: &Bed) -> usize {
    let ran = bed.run(&["generations", "-json", &bed.url()]).succeeded();
    let rows: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    rows.as_array().expect("rows").len()
}

fn status_is_ok_after_our_own_truncate(bed: &Bed) {
    let database = closed_database(bed);
    let config = bed.path("litestream.yml");
    let text = format!(
        "dbs:\n- path: {}\n  truncate-page-n: 20\n  min-checkpoint-page-count: 10\n  create-bucket: true\n  replica:\n    url: {}\n",
        database.display(),
        bed.url()
    );
    fs::write(&config, text.replace("  create-bucket: true\n", "")).expect("write");
    let words = ["-config", config.to_str().expect("a path"), "replicate"];
    let nats = bed.url().starts_with("nats:");
    let replicator = bed.start(&[&words[..], if nats { &["-create-bucket"][..] } else { &[] }].concat());
    bed.converges(&database);
    let mut session = bed.session(&database);
    session.sql("INSERT INTO t SELECT randomblob(1000000) FROM (VALUES(1),(2),(3))");
    support::until("the WAL is emptied", || match wal_length(&database) {
        0 => Ok(()),
        length => Err(format!("{length} bytes")),
    });
    support::until("status is ok", || match says(bed, "status", &database) {
        0 => Ok(()),
        status => Err(format!("status {status}")),
    });
    assert_eq!(says(bed, "verify", &database), 0);
    replicator.stop();
    assert_eq!((says(bed, "status", &database), says(bed, "verify", &database)), (0, 0));
    drop(session);
    bed.replicate_once(&database);
    assert_eq!(generations(bed), 1);
}

fn start_goes_on_after_the_application_deleted_the_wal(bed: &Bed) {
    let database = closed_database(bed);
    for round in 0..3 {
        let mut session = bed.session(&database);
        let replicator = bed.replicate(&database);
        bed.converges(&database);
        session.sql(&format!("INSERT INTO t VALUES({round})"));
        replicator.stop();
        // A machine that goes down ends the replicator first, say, and the application later.
        drop(session);
        bed.sql(&database, &["SELECT count(*) FROM t"]);
        assert_eq!(wal_length(&database), 0, "the WAL is still there");
        assert_eq!(says(bed, "status", &database), 0);
        assert_equal(&database, &bed.restored());
    }
    assert_eq!(generations(bed), 1);
}

fn start_copies_a_wal_that_was_begun_since_from_its_first_frame(bed: &Bed) {
    let database = closed_database(bed);
    bed.replicate_once(&database);
    bed.sql(&database, &["INSERT INTO t VALUES(1)"]);
    bed.replicate_once(&database);
    // Closed by somebody: the WAL is gone. Then commits that stay in a new one.
    bed.sql(&database, &["SELECT 1 FROM t"]);
    let before = generations(bed);
    let mut session = bed.session(&database);
    for round in 0..3 {
        session.sql("PRAGMA wal_autocheckpoint=0");
        session.sql(&format!("INSERT INTO t VALUES({round})"));
    }
    assert_eq!(says(bed, "status", &database), 1);
    bed.replicate_once(&database);
    assert_eq!(generations(bed), before);
    assert_equal(&database, &bed.restored());
    drop(session);
}

/// Whatever is done to the file, a restore gives it: a new generation begins.
fn start_does_not_take_a_changed_file_for_the_stored_one(bed: &Bed) {
    let database = closed_database(bed);
    let written = |database: &Path| {
        bed.sql(database, &["UPDATE t SET x = randomblob(100000)", "PRAGMA wal_checkpoint(TRUNCATE)"]);
    };
    let times = |database: &Path| {
        let found = fs::metadata(database).expect("stat");
        FileTimes::new().set_modified(found.modified().expect("a time"))
    };
    let harms: [&dyn Fn(&Path); 3] = [
        &written,
        &|database| {
            // The time of the last write is put back.
            let times = times(database);
            written(database);
            File::options().write(true).open(database).expect("open").set_times(times).expect("set times");
        },
        &|database| {
            // Another file of the same size, times and name.
            let (times, copy) = (times(database), bed.fresh("copy.db"));
            fs::copy(database, &copy).expect("copy");
            written(&copy);
            File::options().write(true).open(&copy).expect("open").set_times(times).expect("set times");
            fs::rename(&copy, database).expect("rename");
        },
    ];
    for harm in harms {
        bed.replicate_once(&database);
        bed.sql(&database, &["SELECT 1 FROM t"]);
        assert_eq!(says(bed, "status", &database), 0);
        for end in ["-wal", "-shm"] {
            let _ = fs::remove_file(bed.path(&format!("a.db{end}")));
        }
        harm(&database);
        assert_eq!(says(bed, "status", &database), 1);
        bed.replicate_once(&database);
        assert_equal(&database, &bed.restored());
    }
}

/// Nothing stands in the WAL that the snapshot's position could be read from.
fn snapshot_is_taken_though_the_wal_is_empty(bed: &Bed) {
    let database = closed_database(bed);
    bed.replicate_once(&database);
    for _ in 0..2 {
        let mut command = bed.replicate_command(&database, &bed.url());
        bed.run_command(command.args(["-once", "-force-snapshot"])).succeeded();
        bed.run(&["snapshot", database.to_str().expect("a path"), &bed.url()]).succeeded();
        assert_equal(&database, &bed.restored());
    }
    assert_eq!(generations(bed), 1);
    bed.sql(&database, &["INSERT INTO t VALUES(7)"]);
    bed.replicate_once(&database);
    assert_equal(&database, &bed.restored());
}

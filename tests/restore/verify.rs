//! A backup is proven against the live database: it is equal, or behind, or another one, and `verify` says which.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support;
use crate::support::{Bed, CORRUPT, Ran, on_a_directory_only, on_both_stores};

on_both_stores! {
    backup_equals_the_live_database_while_it_is_written
    live_database_equals_its_checksum_and_nothing_is_read
}

on_a_directory_only! {
    a_page_that_was_changed_past_sqlite_is_found
    a_backup_that_is_behind_is_proven_and_said_to_be_behind
    a_database_without_a_wal_is_compared_too
    free_pages_that_are_in_no_frame_are_no_difference
    a_backup_is_proven_where_its_database_is_not
    a_comparison_keeps_no_checkpoint_of_the_application_waiting
    live_database_that_is_no_longer_what_is_stored_is_found
    live_comparison_says_what_it_cannot_tell
}

fn verify(bed: &Bed, database: &Path) -> Ran {
    bed.run(&["verify", database.to_str().unwrap(), &bed.url()])
}

fn verify_live(bed: &Bed, database: &Path) -> Ran {
    bed.run(&["verify", "-live", database.to_str().unwrap(), &bed.url()])
}

fn says(ran: &Ran, status: i32, live: &str) {
    let told = ran.stdout.lines().last().unwrap_or_default();
    assert!(ran.status == status && told.contains(live), "{}: {}{}", ran.status, ran.stdout, ran.stderr);
}

fn backup_equals_the_live_database_while_it_is_written(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    says(&verify(bed, &database), 0, " equal ");
    let mut application = bed.application(&database, &["--seconds", "6", "--rate", "100"]);
    while application.is_running() {
        says(&verify(bed, &database), 0, " equal ");
    }
    application.exits(0);
    says(&verify(bed, &database), 0, " equal ");
    replicator.stop();
    says(&verify(bed, &database), 0, " equal ");
}

fn a_page_that_was_changed_past_sqlite_is_found(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.write(&database, &["--commits", "50"]);
    bed.converges(&database);
    bed.sql(&database, &["PRAGMA wal_checkpoint(PASSIVE)"]);
    says(&verify(bed, &database), 0, " equal ");
    // A replicator that runs notices it by itself: see behind_sqlite. Somebody stays connected, so that no recovery reads the WAL
    // from its beginning.
    let mut application = bed.session(&database);
    application.sql("SELECT count(*) FROM sqlite_schema");
    replicator.kill();
    // The WAL's frames are in the file, and are not looked at any more.
    let file = OpenOptions::new().read(true).write(true).open(&database).unwrap();
    let last = file.metadata().unwrap().len() - 10;
    let mut byte = [0];
    file.read_exact_at(&mut byte, last).unwrap();
    file.write_all_at(&[byte[0] ^ 1], last).unwrap();
    let ran = verify(bed, &database);
    assert_eq!(ran.status, CORRUPT, "{}{}", ran.stdout, ran.stderr);
    for word in ["differs from database ", "hint: "] {
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
    file.write_all_at(&byte, last).unwrap();
    says(&verify(bed, &database), 0, " equal ");
}

fn a_backup_that_is_behind_is_proven_and_said_to_be_behind(bed: &Bed) {
    let database = bed.database();
    bed.write(&database, &["--commits", "5", "--autocheckpoint", "0", "--abandon"]);
    bed.replicate_once(&database);
    bed.write(&database, &["--commits", "5", "--autocheckpoint", "0", "--abandon"]);
    says(&verify(bed, &database), 1, " not compared: a commit is not stored yet ");
}

fn a_database_without_a_wal_is_compared_too(bed: &Bed) {
    let database = bed.path("plain.db");
    bed.sql(&database, &["CREATE TABLE t (x)", "INSERT INTO t VALUES (1)"]);
    bed.run(&["snapshot", database.to_str().unwrap(), &bed.url()]).succeeded();
    says(&verify(bed, &database), 0, " equal ");
    bed.sql(&database, &["INSERT INTO t VALUES (2)"]);
    says(&verify(bed, &database), 1, " not compared: changed since the snapshot ");
}

/// The file was longer once, and grows again by pages that nobody writes: what they hold is of no account.
fn free_pages_that_are_in_no_frame_are_no_difference(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) \
                INSERT INTO f SELECT randomblob(3000) FROM n";
    bed.sql(&database, &["CREATE TABLE f (x)", fill, "DELETE FROM f", "VACUUM"]);
    bed.sql(&database, &["BEGIN", fill, "DELETE FROM f", "COMMIT"]);
    bed.converges(&database);
    says(&verify(bed, &database), 0, " equal ");
    bed.sql(&database, &["PRAGMA wal_checkpoint(PASSIVE)", fill, "DELETE FROM f"]);
    bed.converges(&database);
    says(&verify(bed, &database), 0, " equal ");
    replicator.stop();
    says(&verify(bed, &database), 0, " equal ");
}

fn a_backup_is_proven_where_its_database_is_not(bed: &Bed) {
    let database = bed.database();
    bed.replicate_once(&database);
    says(&verify(bed, &bed.path("elsewhere.db")), 0, " - ");
    says(&bed.run(&["verify", &bed.url()]), 0, " - ");
}

/// What is committed and not stored is waited for some seconds, with the commit kept meanwhile.
fn a_comparison_keeps_no_checkpoint_of_the_application_waiting(bed: &Bed) {
    let database = bed.database();
    bed.write(&database, &["--commits", "20", "--abandon"]);
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    // It leaves the WAL as it is, so that the comparison reads it.
    replicator.kill();
    let mut application = bed.session(&database);
    application.sql("PRAGMA busy_timeout = 2000");
    application.sql("UPDATE t SET body = zeroblob(100) WHERE id = 1");
    let mut verify = bed.start(&["verify", database.to_str().unwrap(), &bed.url()]);
    let wal = format!("{}-wal", database.display());
    support::until("verify reads the database", || {
        let mut open = std::fs::read_dir(format!("/proc/{}/fd", verify.pid())).map_err(|e| e.to_string())?;
        let is_wal =
            |file: std::fs::DirEntry| std::fs::read_link(file.path()).is_ok_and(|path| path == Path::new(&wal));
        open.any(|file| file.is_ok_and(is_wal)).then_some(()).ok_or_else(|| "not yet".to_string())
    });
    // Part of the schedule: the checkpoint comes while the pin is held.
    std::thread::sleep(std::time::Duration::from_millis(300));
    while verify.is_running() {
        let answer = application.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        assert!(answer.starts_with("(0,"), "held up for its whole busy timeout: {answer}");
        application.sql("UPDATE t SET body = zeroblob(length(body) + 1) WHERE id = 1");
        // Part of the schedule: the pace of the writer.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    verify.exits(1);
    assert!(verify.output().contains("not stored yet"), "{}", verify.output());
}

/// With a WAL, while it is written, and after the application that closed last has removed it.
fn live_database_equals_its_checksum_and_nothing_is_read(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut application = bed.application(&database, &["--seconds", "4", "--rate", "100"]);
    while application.is_running() {
        says(&verify_live(bed, &database), 0, " equal ");
    }
    application.exits(0);
    bed.converges(&database);
    replicator.stop();
    bed.sql(&database, &["PRAGMA wal_checkpoint(TRUNCATE)"]);
    let ran = bed.run(&["verify", "-live", "-json", database.to_str().unwrap(), &bed.url()]);
    says(&ran, 0, r#""live":"equal""#);
    assert!(ran.stdout.contains(r#""read":0"#), "{}", ran.stdout);
    bed.run(&["verify", "-live", &bed.url()]).refused(2, &["verify -live: expected the path of a database"]);
}

fn flip_last_page(database: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(database).unwrap();
    flip(&file, file.metadata().unwrap().len() - 10);
}

fn flip(file: &std::fs::File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn live_database_that_is_no_longer_what_is_stored_is_found(bed: &Bed) {
    let database = bed.database();
    bed.write(&database, &["--commits", "50"]);
    // Somebody stays connected, so that the WAL stays: without one, new commits may explain whatever the file has.
    let mut application = bed.session(&database);
    let replicator = bed.replicate(&database);
    application.sql("UPDATE t SET body = 'x' WHERE id = 1");
    bed.converges(&database);
    replicator.kill();
    says(&verify_live(bed, &database), 0, " equal ");
    flip_last_page(&database);
    let ran = verify_live(bed, &database);
    assert_eq!(ran.status, CORRUPT, "{}{}", ran.stdout, ran.stderr);
    for word in ["the checksum of database ", "is not the one that is stored", "hint: "] {
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
    flip_last_page(&database);
    says(&verify_live(bed, &database), 0, " equal ");
    // Where pages are unused, damage is no certainty: it is said what can tell.
    application.sql("CREATE TABLE f AS SELECT zeroblob(20000) AS x");
    application.sql("DROP TABLE f");
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    replicator.kill();
    says(&verify_live(bed, &database), 0, " equal ");
    let file = OpenOptions::new().read(true).write(true).open(&database).unwrap();
    flip(&file, 4096 + 3000);
    says(&verify_live(bed, &database), 1, " not compared: the checksum differs, which unused pages may explain");
}

fn live_comparison_says_what_it_cannot_tell(bed: &Bed) {
    let database = bed.database();
    bed.write(&database, &["--commits", "5", "--autocheckpoint", "0", "--abandon"]);
    bed.replicate_once(&database);
    says(&verify_live(bed, &database), 0, " equal ");
    bed.write(&database, &["--commits", "5", "--autocheckpoint", "0", "--abandon"]);
    says(&verify_live(bed, &database), 1, " not compared: a commit is not stored yet ");
    says(&verify_live(bed, &bed.path("elsewhere.db")), 3, " missing: there is no database file");
    let plain = bed.path("plain.db");
    bed.sql(&plain, &["CREATE TABLE t (x)", "INSERT INTO t VALUES (1)"]);
    let url = format!("{}/plain", bed.url());
    bed.run(&["snapshot", plain.to_str().unwrap(), &url]).succeeded();
    let compared = || bed.run(&["verify", "-live", plain.to_str().unwrap(), &url]);
    says(&compared(), 0, " equal ");
    bed.sql(&plain, &["INSERT INTO t VALUES (2)"]);
    says(&compared(), 1, " not compared: changed since the snapshot ");
}

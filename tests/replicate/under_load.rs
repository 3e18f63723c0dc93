//! While an application writes, checkpoints, shrinks and crashes, and while the replicator is killed: every restore is
//! a state that was committed, none is older than the one before it, and the last one is the live database.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{
    Bed, Process, Session, State, all_committed, assert_equal, assert_never_back, committed, equal, judged,
    on_a_directory_only, on_both_stores, until,
};

on_both_stores! {
    restores_under_load_are_committed_states_in_order
    a_replicator_that_is_killed_again_and_again_loses_nothing
    a_transaction_of_40_mb_comes_back_whole
}

on_a_directory_only! {
    application_checkpoints_are_harmless_and_not_delayed
    a_database_that_shrinks_by_vacuum_is_followed
    database_that_shrinks_and_grows_in_one_wal_is_replicated
    a_database_that_is_opened_for_each_transaction_is_followed
    what_was_rolled_back_is_never_restored
    a_long_reader_delays_nothing_for_good
    behind_a_long_reader_the_wal_is_begun_again
    an_application_that_is_killed_again_and_again_is_followed
    a_database_replaced_while_running_is_noticed
    a_database_that_is_deleted_and_made_again_is_taken_up
}

/// Restores again and again until the application has ended; returns the states in their order.
fn restores_while(bed: &Bed, application: &mut Process) -> Vec<State> {
    let mut states = Vec::new();
    while application.is_running() {
        let Some(restored) = bed.restored_if_any() else { continue };
        states.push(judged(&restored));
        fs::remove_file(&restored).unwrap();
    }
    application.exits(0);
    states
}

/// Lets an application with these options write under a replicator, and judges every restore.
fn followed(bed: &Bed, options: &[&str]) -> Process {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    let mut application = bed.application(&database, options);
    let states = restores_while(bed, &mut application);
    assert_never_back(&states);
    all_committed(&states, &database);
    bed.converges(&database);
    replicator
}

fn restores_under_load_are_committed_states_in_order(bed: &Bed) {
    followed(bed, &["--seconds", "6", "--rate", "200"]).stop();
}

fn a_replicator_that_is_killed_again_and_again_loses_nothing(bed: &Bed) {
    let database = bed.database();
    let mut application = bed.application(&database, &["--seconds", "8", "--rate", "300"]);
    let mut states = Vec::new();
    // Uneven, so that it dies in all states: opening, in the first snapshot, under way.
    let mut lives = [40, 900, 150, 600, 20, 1200, 300, 90].into_iter().cycle();
    while application.is_running() {
        let replicator = bed.replicate(&database);
        // Part of the schedule: how long this one lives.
        sleep(Duration::from_millis(lives.next().unwrap_or_default()));
        replicator.kill();
        states.extend(bed.restored_if_any().map(|restored| judged(&restored)));
    }
    application.exits(0);
    assert_never_back(&states);
    all_committed(&states, &database);
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    replicator.stop();
    assert_equal(&database, &bed.restored());
}

fn a_transaction_of_40_mb_comes_back_whole(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.write(&database, &["--commits", "1", "--rows", "4000", "--size", "10000"]);
    bed.converges(&database);
    bed.write(&database, &["--commits", "3"]);
    replicator.stop();
    assert_equal(&database, &bed.restored());
}

fn application_checkpoints_are_harmless_and_not_delayed(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    let options = ["--seconds", "6", "--checkpoint", "truncate,restart,full,passive", "--every", "10"];
    let mut application = bed.application(&database, &options);
    let states = restores_while(bed, &mut application);
    assert_never_back(&states);
    all_committed(&states, &database);
    bed.converges(&database);
    // A pin that is kept lets about two commits through in this time; alone it is some 10,000.
    assert!(committed(&database).len() > 100, "{}", application.output());
    assert!(application.output().contains("busy_checkpoints=0"), "{}", application.output());
    assert_eq!(bed.generations().len(), 1, "its checkpoints are no reason to begin again");
    replicator.stop();
}

fn a_database_that_shrinks_by_vacuum_is_followed(bed: &Bed) {
    followed(bed, &["--seconds", "5", "--rate", "150", "--rows", "10", "--vacuum", "--every", "60"]).stop();
    assert_eq!(bed.generations().len(), 1);
}

/// Rows of random bytes, at the end of the table.
fn grow(application: &mut Session, rows: u32) {
    application.sql(&format!(
        "INSERT INTO t(body) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
         SELECT randomblob(1500) FROM n"
    ));
}

/// By VACUUM, and in each of SQLite's two ways to do with less. (That a restored file has the length that its header
/// tells, the judge looks.)
fn database_that_shrinks_and_grows_in_one_wal_is_replicated(bed: &Bed) {
    for (mode, shrink) in [("NONE", "VACUUM"), ("FULL", ""), ("INCREMENTAL", "PRAGMA incremental_vacuum")] {
        let (database, url) = (bed.path(&format!("{mode}.db")), bed.url_below(mode));
        let mut application = bed.session(&database);
        application.sql(&format!("PRAGMA auto_vacuum = {mode}"));
        application.sql("PRAGMA journal_mode = WAL");
        application.sql("PRAGMA wal_autocheckpoint = 0");
        application.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, body)");
        grow(&mut application, 10);
        let replicator = bed.replicate_to(&database, &url);
        let pages = |application: &mut Session| application.sql("PRAGMA page_count");
        for checkpoint in ["PRAGMA user_version", "PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(TRUNCATE)"] {
            grow(&mut application, 200);
            let large = pages(&mut application);
            application.sql("DELETE FROM t WHERE id % 20 <> 0");
            if !shrink.is_empty() {
                application.sql(shrink);
            }
            assert_ne!(pages(&mut application), large, "{mode}: it has shrunk");
            application.sql(checkpoint);
            stored(bed, &database, &url);
            grow(&mut application, 70);
            stored(bed, &database, &url);
        }
        replicator.stop();
        assert_equal(&database, &bed.restored_from(&url));
    }
}

fn stored(bed: &Bed, database: &Path, url: &str) {
    until("the restore equals the live database", || {
        let restored = bed.fresh("restored.db");
        match bed.restore(url, &restored).status {
            0 => equal(database, &restored),
            status => Err(format!("status {status}")),
        }
    });
}

fn a_database_that_is_opened_for_each_transaction_is_followed(bed: &Bed) {
    followed(bed, &["--seconds", "5", "--churn"]).stop();
    assert_eq!(bed.generations().len(), 1);
}

fn what_was_rolled_back_is_never_restored(bed: &Bed) {
    followed(bed, &["--seconds", "6", "--spill", "--rows", "20", "--rollback", "0.4"]).stop();
    assert_eq!(bed.generations().len(), 1);
}

fn a_long_reader_delays_nothing_for_good(bed: &Bed) {
    followed(bed, &["--seconds", "5", "--rate", "400", "--reader", "--rows", "10"]).stop();
    assert_eq!(bed.generations().len(), 1);
}

/// The salts of the WAL, which are others each time it is begun.
fn salts(database: &Path) -> Vec<u8> {
    let wal = fs::read(database.with_file_name("a.db-wal")).unwrap();
    wal[16..24].to_vec()
}

fn behind_a_long_reader_the_wal_is_begun_again(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut application = bed.session(&database);
    application.sql("PRAGMA wal_autocheckpoint = 50");
    let mut reader = bed.session(&database);
    reader.sql("BEGIN");
    reader.sql("SELECT count(*) FROM t");
    grow(&mut application, 1500);
    let held = salts(&database);
    grow(&mut application, 1500);
    // More than the 1000 frames from which on we checkpoint.
    let length = || fs::metadata(bed.path("a.db-wal")).unwrap().len();
    let most = length();
    assert_eq!(salts(&database), held, "the reader keeps every frame");
    reader.sql("COMMIT");
    until("the WAL is begun again", || {
        grow(&mut application, 1);
        if salts(&database) == held { Err("it still grows") } else { Ok(()) }
    });
    assert!(length() < most + most / 2, "{} bytes behind {most}", length());
    application.sql("DELETE FROM t WHERE typeof(body) = 'blob' AND length(body) = 1500");
    bed.converges(&database);
    replicator.stop();
    assert_eq!(bed.generations().len(), 1);
}

fn an_application_that_is_killed_again_and_again_is_followed(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    let end = Instant::now() + Duration::from_secs(5);
    let mut states = Vec::new();
    while Instant::now() < end {
        let application = bed.application(&database, &["--sync", "full"]);
        // Part of the schedule: how long this application lives.
        sleep(Duration::from_millis(400));
        application.kill();
        states.extend(bed.restored_if_any().map(|restored| judged(&restored)));
    }
    assert_never_back(&states);
    all_committed(&states, &database);
    bed.converges(&database);
    replicator.stop();
}

fn a_database_replaced_while_running_is_noticed(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let other = bed.path("other.db");
    bed.write(&other, &["--commits", "40", "--seed", "7"]);
    replace(&database, &other);
    bed.converges(&database);
    assert_eq!(bed.generations().len(), 2);
    bed.write(&database, &["--commits", "10", "--seed", "8"]);
    bed.converges(&database);
    replicator.stop();
}

fn a_database_that_is_deleted_and_made_again_is_taken_up(bed: &Bed) {
    let database = bed.database();
    let mut replicator = bed.replicate(&database);
    bed.converges(&database);
    remove_sidecars(&database);
    fs::remove_file(&database).unwrap();
    replicator.says("no such file");
    bed.write(&database, &["--commits", "10", "--seed", "9"]);
    bed.converges(&database);
    assert_eq!(bed.generations().len(), 2);
    bed.write(&database, &["--commits", "10", "--seed", "9"]);
    replicator.stop();
    assert_equal(&database, &bed.restored());
}

/// As a deployment does: the sidecars go, the new file takes the name.
fn replace(database: &Path, other: &Path) {
    remove_sidecars(database);
    fs::rename(other, database).unwrap();
}

fn remove_sidecars(database: &Path) {
    for suffix in ["-wal", "-shm"] {
        let mut name = database.as_os_str().to_owned();
        name.push(suffix);
        let _ = fs::remove_file(Path::new(&name));
    }
}

//! A start that has missed commits, because the WAL that held them is gone, stores the pages that differ and goes on in the
//! same generation. It does so only where it can prove what is stored; else a new generation begins, as without it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::support::{Bed, Ran, assert_equal, equal, meddled, on_a_directory_only, on_both_stores, python, until};

on_both_stores! {
    boot_after_a_clean_stop_sends_what_has_changed_and_no_more
    nightly_snapshot_sends_what_has_changed
}

on_a_directory_only! {
    each_way_to_change_a_database_is_made_good
    both_replicas_go_on_by_what_differs
    a_start_after_a_kill_sends_what_differs
    page_checksums_that_are_not_those_stored_are_not_believed
    full_snapshot_is_stored_where_that_is_better
    standby_follows_a_generation_that_goes_on_by_what_differs
    run_that_is_killed_leaves_the_old_end_or_the_new_one
}

/// Some two megabytes that do not compress, in pages of which a row fills most of one.
const FILL: &str = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<600)
    INSERT INTO t SELECT i, randomblob(3900) FROM n";
/// One of a hundred.
const CHANGE: &str = "UPDATE t SET x = randomblob(3900) WHERE k % 100 = 7";

/// A database that nobody has open.
fn filled(bed: &Bed, setup: &[&str]) -> PathBuf {
    let database = bed.path("a.db");
    let tables = ["PRAGMA journal_mode=WAL", "CREATE TABLE t(k INTEGER PRIMARY KEY, x)", FILL];
    bed.sql(&database, &[setup, &tables].concat());
    database
}

/// The last word of a run on what it has stored: how many bytes.
fn sent(ran: &Ran) -> u64 {
    let line = ran.stderr.lines().rfind(|line| line.contains("msg=stored")).expect("a line that says what is stored");
    line.rsplit_once("bytes=").expect("bytes").1.parse().expect("a number")
}

/// The reader that was written from the manual alone comes to the same database.
fn second_reader_agrees(bed: &Bed, database: &Path) {
    let output = bed.fresh("second.db");
    bed.run_command(python("second_reader.py").arg(bed.path("store")).arg(&output)).succeeded();
    assert!(fs::read(&output).expect("read") == fs::read(database).expect("read"), "the second reader disagrees");
}

fn boot_after_a_clean_stop_sends_what_has_changed_and_no_more(bed: &Bed) {
    let database = filled(bed, &[]);
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut session = bed.session(&database);
    session.sql("INSERT INTO t VALUES(9001, 1)");
    replicator.stop();
    drop(session);
    let whole = fs::metadata(&database).expect("stat").len();
    // Nothing has changed.
    let idle = bed.replicate_once(&database);
    assert_eq!(sent(&idle), 0, "{}", idle.stderr);
    let before = bed.restored();
    bed.sql(&database, &[CHANGE]);
    assert!(!database.with_extension("db-wal").exists(), "the last one to close has deleted the WAL");
    let changed = bed.replicate_once(&database);
    assert!(sent(&changed) > 0 && sent(&changed) * 30 <= whole, "{} of {whole} bytes", sent(&changed));
    assert!(changed.stderr.contains("msg=\"incremental snapshot\""), "{}", changed.stderr);
    assert!(!changed.stderr.contains("new generation"), "{}", changed.stderr);
    assert_equal(&database, &bed.restored());
    // Both sides of it can be restored, and what comes behind.
    let listed = bed.run(&["wal", "-json", &bed.url()]).succeeded();
    let rows: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let start =
        rows.as_array().and_then(|rows| rows.last()).expect("a row")["start"].as_str().expect("a start").to_string();
    let output = bed.fresh("before.db");
    let path = output.to_str().expect("a path");
    bed.run(&["restore", "-o", path, "-position", &start, &bed.url()]).succeeded();
    assert_equal(&before, &output);
    let replicator = bed.replicate(&database);
    bed.sql(&database, &["INSERT INTO t VALUES(9002, 2)"]);
    bed.converges(&database);
    replicator.stop();
    bed.run(&["verify", &bed.url()]).succeeded();
    let again = bed.replicate_once(&database);
    assert_eq!(sent(&again), 0, "{}", again.stderr);
}

/// No replicator runs; by cron.
fn nightly_snapshot_sends_what_has_changed(bed: &Bed) {
    let database = filled(bed, &[]);
    let path = database.to_str().expect("a path");
    let url = bed.url();
    let create: &[&str] = if url.starts_with("nats:") { &["-create-bucket"] } else { &[] };
    let night = |options: &[&str]| {
        let ran = bed.run(&[&["snapshot", "-json"], create, options, &[path, &url]].concat()).succeeded();
        let rows: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
        assert_equal(&database, &bed.restored());
        (rows[0]["kind"].as_str().expect("a kind").to_string(), rows[0]["bytes"].as_u64().expect("bytes"))
    };
    let (first, whole) = night(&[]);
    assert_eq!(first, "full");
    assert_eq!(night(&[]), ("incremental".to_string(), 0), "nothing has changed");
    for _ in 0..2 {
        bed.sql(&database, &[CHANGE]);
        let (kind, sent) = night(&[]);
        assert!(kind == "incremental" && sent > 0 && sent * 30 <= whole, "{kind}: {sent} of {whole} bytes");
    }
    // The WAL still has what was committed since.
    let mut session = bed.session(&database);
    session.sql("INSERT INTO t VALUES(7001, 1)");
    night(&[]);
    session.sql("INSERT INTO t VALUES(7002, 1)");
    let (kind, sent) = night(&[]);
    assert!(kind == "incremental" && sent > 0 && sent * 30 <= whole, "{kind}: {sent} of {whole} bytes");
    drop(session);
    let (kind, sent) = night(&["-full"]);
    assert!(kind == "full" && sent * 2 > whole, "{kind}: {sent} of {whole} bytes");
    bed.run(&["verify", &url]).succeeded();
}

fn each_way_to_change_a_database_is_made_good(bed: &Bed) {
    for setup in [&[][..], &["PRAGMA page_size = 1024", "PRAGMA auto_vacuum = INCREMENTAL"]] {
        for path in ["a.db", "a.db-wal", "a.db-shm"] {
            let _ = fs::remove_file(bed.path(path));
        }
        let _ = fs::remove_dir_all(bed.path("store"));
        let database = filled(bed, setup);
        bed.replicate_once(&database);
        let changes: [&[&str]; 6] = [
            &[CHANGE],
            // It grows, and shrinks again.
            &["INSERT INTO t SELECT k + 10000, randomblob(3000) FROM t WHERE k < 60"],
            &["DELETE FROM t WHERE k > 10020", "PRAGMA incremental_vacuum"],
            &["DELETE FROM t WHERE k > 580", "VACUUM"],
            &["UPDATE t SET x = zeroblob(3900) WHERE k % 50 = 3"],
            &["SELECT 1"],
        ];
        for change in changes {
            bed.sql(&database, change);
            let ran = bed.replicate_once(&database);
            assert!(!ran.stderr.contains("new generation"), "{setup:?}, {change:?}: {}", ran.stderr);
            assert_equal(&database, &bed.restored());
        }
        // Somebody has it open: the WAL is another one, and has frames of which some are in the file.
        let mut session = bed.session(&database);
        session.sql(CHANGE);
        session.sql("PRAGMA wal_checkpoint(PASSIVE)");
        session.sql("INSERT INTO t VALUES(99999, randomblob(20000))");
        let ran = bed.replicate_once(&database);
        assert!(ran.stderr.contains("incremental snapshot"), "{}", ran.stderr);
        session.sql("INSERT INTO t VALUES(99998, randomblob(20000))");
        bed.replicate_once(&database);
        assert_equal(&database, &bed.restored());
        assert_eq!(bed.generations().len(), 1, "{setup:?}");
        drop(session);
        bed.run(&["verify", &bed.url()]).succeeded();
        bed.sql(&database, &["PRAGMA wal_checkpoint(TRUNCATE)"]);
        second_reader_agrees(bed, &database);
    }
    // Of another page size no page is the same.
    let database = bed.path("a.db");
    bed.sql(&database, &["PRAGMA journal_mode=DELETE", "PRAGMA page_size=2048", "VACUUM", "PRAGMA journal_mode=WAL"]);
    let ran = bed.replicate_once(&database);
    assert!(ran.stderr.contains("new generation"), "{}", ran.stderr);
    assert_equal(&database, &bed.restored());
}

fn both_replicas_go_on_by_what_differs(bed: &Bed) {
    let database = filled(bed, &[]);
    let (config, other) = (bed.path("litestream.yml"), format!("file://{}", bed.path("other").display()));
    let text = format!(
        "dbs:\n- path: {}\n  replicas:\n  - {{name: one, url: '{}'}}\n  - {{name: two, url: '{other}'}}\n",
        database.display(),
        bed.url()
    );
    fs::write(&config, text).expect("write");
    let once = || bed.run(&["-config", config.to_str().expect("a path"), "replicate", "-once"]).succeeded();
    once();
    bed.sql(&database, &[CHANGE]);
    let ran = once();
    assert_eq!(ran.stderr.matches("msg=\"incremental snapshot\"").count(), 2, "{}", ran.stderr);
    for url in [bed.url(), other] {
        assert_equal(&database, &bed.restored_from(&url));
    }
}

fn page_checksums_that_are_not_those_stored_are_not_believed(bed: &Bed) {
    let database = filled(bed, &[]);
    let kept = bed.path(".a.db-litestream/page-checksums");
    bed.replicate_once(&database);
    let first = fs::read(&kept).expect("read");
    let changed = |at: usize| {
        let mut bytes = fs::read(&kept).expect("read");
        let at = at % bytes.len();
        bytes[at] ^= 1;
        fs::write(&kept, bytes).expect("write");
    };
    // Those of another database, whose file has the same number.
    let other = fs::read(kept_of_another(bed, &database)).expect("read");
    let harms: [&dyn Fn(); 6] = [
        &|| fs::remove_file(&kept).expect("remove"),
        // By now of another generation.
        &|| fs::write(&kept, &first).expect("write"),
        &|| fs::write(&kept, &fs::read(&kept).expect("read")[..1000]).expect("write"),
        &|| changed(33),
        &|| changed(5000),
        &|| fs::write(&kept, &other).expect("write"),
    ];
    for (at, harm) in harms.iter().enumerate() {
        bed.sql(&database, &[CHANGE]);
        let ran = bed.replicate_once(&database);
        assert!(!ran.stderr.contains("new generation"), "{at}: {}", ran.stderr);
        harm();
        bed.sql(&database, &[CHANGE]);
        let ran = bed.replicate_once(&database);
        assert!(ran.stderr.contains("new generation"), "{at}: {}", ran.stderr);
        assert_equal(&database, &bed.restored());
    }
    // Another file of the same name: what it holds was never a change of what was stored.
    let copy = bed.path("copy.db");
    fs::copy(&database, &copy).expect("copy");
    bed.sql(&copy, &[CHANGE]);
    fs::rename(&copy, &database).expect("rename");
    let ran = bed.replicate_once(&database);
    assert!(ran.stderr.contains("new generation"), "{}", ran.stderr);
    assert_equal(&database, &bed.restored());
}

/// The page checksums of another database, with the number of the file `database`.
fn kept_of_another(bed: &Bed, database: &Path) -> PathBuf {
    let other = bed.path("other.db");
    let tables = ["PRAGMA journal_mode=WAL", "CREATE TABLE t(k INTEGER PRIMARY KEY, x)", FILL];
    bed.sql(&other, &tables);
    bed.run_command(bed.replicate_command(&other, &bed.url_below("other")).arg("-once")).succeeded();
    let kept = bed.path(".other.db-litestream/page-checksums");
    let mut bytes = fs::read(&kept).expect("read");
    bytes[16..24].copy_from_slice(&fs::metadata(database).expect("stat").ino().to_le_bytes());
    sealed(&mut bytes);
    fs::write(&kept, bytes).expect("write");
    kept
}

/// With a crc32 that is right.
fn sealed(bytes: &mut [u8]) {
    let at = bytes.len() - 4;
    let crc = crc32fast::hash(&bytes[..at]);
    bytes[at..].copy_from_slice(&crc.to_le_bytes());
}

/// The run before has kept page checksums, more was stored since, then it was killed, and the WAL is gone.
fn a_start_after_a_kill_sends_what_differs(bed: &Bed) {
    let database = filled(bed, &[]);
    let kept = bed.path(".a.db-litestream/page-checksums");
    bed.replicate_once(&database);
    let whole = fs::metadata(&database).expect("stat").len();
    let killed = |changes: &[&str]| {
        let replicator = bed.replicate(&database);
        let mut session = bed.session(&database);
        changes.iter().for_each(|change| drop(session.sql(change)));
        bed.converges(&database);
        replicator.kill();
        drop(session);
        // The last one to close deletes the WAL.
        bed.sql(&database, &["UPDATE t SET x = randomblob(3900) WHERE k = 77", "SELECT 1"]);
        assert!(!database.with_extension("db-wal").exists());
    };
    // Pages change, the database grows and shrinks.
    for change in
        [CHANGE, "INSERT INTO t SELECT k + 1000, x FROM t WHERE k < 9", "DELETE FROM t WHERE k > 590", "VACUUM"]
    {
        let before = fs::read(&kept).expect("read");
        killed(&[change, "UPDATE t SET x = randomblob(3900) WHERE k = 5"]);
        assert!(fs::read(&kept).expect("read") == before, "nothing was kept of this run");
        let ran = bed.replicate_once(&database);
        if change != "VACUUM" {
            assert!(ran.stderr.contains("incremental snapshot"), "{change}: {}", ran.stderr);
            assert!(!ran.stderr.contains("new generation") && sent(&ran) * 15 <= whole, "{change}: {}", ran.stderr);
        }
        assert_equal(&database, &bed.restored());
        second_reader_agrees(bed, &database);
    }
    // The checksum of one page is wrong, and all that the file says of itself fits it.
    killed(&[CHANGE]);
    let mut forged = fs::read(&kept).expect("read");
    let total = u64::from_le_bytes(forged[24..32].try_into().expect("8 bytes"));
    let at = forged.len() - 4 - 8 * 100;
    let sum = u64::from_le_bytes(forged[at..at + 8].try_into().expect("8 bytes"));
    forged[at..at + 8].copy_from_slice(&(sum ^ 4).to_le_bytes());
    forged[24..32].copy_from_slice(&total.wrapping_sub(sum).wrapping_add(sum ^ 4).to_le_bytes());
    sealed(&mut forged);
    fs::write(&kept, forged).expect("write");
    let ran = bed.replicate_once(&database);
    assert!(ran.stderr.contains("new generation"), "{}", ran.stderr);
    assert_equal(&database, &bed.restored());
    bed.run(&["verify", &bed.url()]).succeeded();
}

fn full_snapshot_is_stored_where_that_is_better(bed: &Bed) {
    let database = filled(bed, &[]);
    bed.replicate_once(&database);
    bed.sql(&database, &["UPDATE t SET x = randomblob(3900) WHERE k > 270"]);
    let ran = bed.replicate_once(&database);
    assert!(ran.stderr.contains("reason=\"most pages differ\""), "{}", ran.stderr);
    assert_eq!(bed.generations().len(), 2);
    // Each run adds a third of a snapshot: the fourth would make a restore read more than twice one.
    let third = "UPDATE t SET x = randomblob(3900) WHERE k % 3 = 1";
    let full: Vec<bool> = (0..4)
        .map(|_| {
            bed.sql(&database, &[third]);
            bed.replicate_once(&database).stderr.contains("reason=\"a restore would read more than twice a snapshot\"")
        })
        .collect();
    assert!(full.contains(&true) && !full[0] && !full[1], "{full:?}");
    assert_equal(&database, &bed.restored());
    // Asked for.
    bed.sql(&database, &[CHANGE]);
    let mut command = bed.replicate_command(&database, &bed.url());
    let ran = bed.run_command(command.args(["-once", "-force-snapshot"])).succeeded();
    assert!(ran.stderr.contains("snapshot stored"), "{}", ran.stderr);
    assert_equal(&database, &bed.restored());
}

fn standby_follows_a_generation_that_goes_on_by_what_differs(bed: &Bed) {
    let database = filled(bed, &[]);
    bed.replicate_once(&database);
    let copy = bed.path("standby.db");
    let words = ["restore", "-f", "-follow-interval", "100ms", "-o", copy.to_str().expect("a path"), &bed.url()];
    let standby = bed.start(&words);
    let follows = |database: &Path| {
        until("the standby equals the database", || equal(database, &copy));
    };
    follows(&database);
    for change in [CHANGE, "DELETE FROM t WHERE k > 550", "VACUUM"] {
        bed.sql(&database, &[change]);
        let ran = bed.replicate_once(&database);
        assert!(ran.stderr.contains("incremental snapshot"), "{change}: {}", ran.stderr);
        follows(&database);
    }
    standby.stop();
}

/// At any system call that gives a file its name.
fn run_that_is_killed_leaves_the_old_end_or_the_new_one(bed: &Bed) {
    let database = filled(bed, &[]);
    bed.replicate_once(&database);
    for when in 1.. {
        bed.sql(&database, &[CHANGE]);
        let mut command = bed.replicate_command(&database, &bed.url());
        command.arg("-once");
        let inject = format!("rename,renameat,renameat2,linkat:signal=KILL:when={when}");
        let Some(mut meddled) = meddled(&command, &inject) else { return };
        let killed = bed.run_command(&mut meddled);
        bed.restored();
        bed.replicate_once(&database);
        assert_equal(&database, &bed.restored());
        if killed.status == 0 {
            assert!(when > 3, "nothing was killed");
            break;
        }
    }
    bed.run(&["verify", &bed.url()]).succeeded();
}

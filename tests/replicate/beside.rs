//! `snapshot` while another process keeps the database: whatever the application has done, no matter who comes and goes, there is
//! a full snapshot when it ends with status 0, and nothing is left in the meta path.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::support;
use crate::support::clock::{with_clock, wrong_clock};
use crate::support::{
    Bed, LOCKED, Process, assert_equal, litestream, on_a_directory_only, on_both_stores, tree, until,
};

on_both_stores! {
    a_snapshot_is_taken_behind_a_wal_that_was_emptied
    snapshots_at_the_same_time_are_all_taken
    the_snapshot_is_taken_also_if_the_replicator_dies_over_it
    replicator_started_during_a_snapshot_waits_for_it
}

on_a_directory_only! {
    retention_is_enforced_behind_a_snapshot_that_asks_for_it
    a_snapshot_that_dies_leaves_no_request
    a_snapshot_for_another_store_is_refused_by_name
}

fn snapshot_command(database: &Path, url: &str) -> Command {
    let mut command = litestream();
    command.args(["snapshot", "-full"]).arg(database).arg(url);
    command
}

/// Says nothing, and exits with status 0.
fn snapshot(bed: &Bed, database: &Path) {
    let ran = bed.run_command(&mut snapshot_command(database, &bed.url())).succeeded();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
}

/// Snapshots in the store.
fn snapshots(bed: &Bed) -> usize {
    let ran = bed.run(&["snapshots", "-json", &bed.url()]).succeeded();
    ran.stdout.matches("\"position\"").count()
}

/// What lies in the meta path beside the lock.
fn left(bed: &Bed) -> Vec<String> {
    tree(&bed.path(".a.db-litestream"))
        .into_iter()
        .filter(|name| !["lock ", "checkpointed ", "page-checksums "].iter().any(|kept| name.starts_with(kept)))
        .collect()
}

/// A replicator that stands still, and a snapshot that has asked it.
fn asked(bed: &Bed, replicator: &Process, database: &Path) -> Process {
    replicator.signal(libc::SIGSTOP);
    let requests = || left(bed).iter().filter(|name| name.starts_with("ask-snapshot-")).count();
    let before = requests();
    let mut asks = bed.start_command(&mut snapshot_command(database, &bed.url()));
    until("the snapshot asks", || {
        assert!(asks.is_running(), "{}", asks.log());
        if requests() > before { Ok(()) } else { Err("no request") }
    });
    asks
}

fn a_snapshot_is_taken_behind_a_wal_that_was_emptied(bed: &Bed) {
    let database = bed.database();
    let mut application = bed.session(&database);
    application.sql("CREATE TABLE r (x)");
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut expected = snapshots(bed);
    for mode in ["PASSIVE", "RESTART", "TRUNCATE"] {
        application.sql("INSERT INTO r VALUES (randomblob(9000))");
        application.sql(&format!("PRAGMA wal_checkpoint({mode})"));
        // Nothing is committed any more; at once, and when the replicator has gone to rest.
        for pause in [0, 3] {
            // Part of the schedule: at once, and at rest.
            sleep(Duration::from_secs(pause));
            snapshot(bed, &database);
            expected += 1;
            assert_eq!(snapshots(bed), expected, "{mode}");
        }
    }
    assert_equal(&database, &bed.restored());
    assert_eq!(left(bed), [""; 0]);
    replicator.stop();
    assert_equal(&database, &bed.restored());
}

fn snapshots_at_the_same_time_are_all_taken(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut application = bed.application(&database, &["--seconds", "3", "--rate", "100", "--checkpoint", "truncate"]);
    let start = |_| bed.start_command(&mut snapshot_command(&database, &bed.url()));
    // One that begins while another is under way.
    let mut first: Vec<Process> = (0..2).map(start).collect();
    // Part of the schedule: the others come while the first are under way.
    sleep(Duration::from_millis(700));
    let mut then: Vec<Process> = (0..2).map(start).collect();
    first.iter_mut().chain(&mut then).for_each(|asks| asks.exits(0));
    application.exits(0);
    bed.converges(&database);
    replicator.stop();
    // Nobody keeps it: the first to come does, and the others ask it.
    let mut alone: Vec<Process> = (0..3).map(start).collect();
    alone.iter_mut().for_each(|asks| asks.exits(0));
    assert_equal(&database, &bed.restored());
    assert_eq!(left(bed), [""; 0]);
}

fn the_snapshot_is_taken_also_if_the_replicator_dies_over_it(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let before = snapshots(bed);
    let mut asks = [(); 2].map(|()| asked(bed, &replicator, &database));
    bed.write(&database, &["--commits", "3"]);
    replicator.kill();
    asks.iter_mut().for_each(|asks| asks.exits(0));
    assert!(snapshots(bed) > before);
    assert_equal(&database, &bed.restored());
    assert_eq!(left(bed), [""; 0]);
}

/// A snapshot that has the lock, and was stopped there.
fn stopped_with_the_lock(bed: &Bed, database: &Path) -> Process {
    let lock = bed.path(".a.db-litestream").join("lock");
    let signed = || std::fs::read_to_string(&lock).is_ok_and(|text| text.ends_with('\n'));
    for _ in 0..50 {
        let _ = std::fs::remove_file(&lock);
        let mut first = bed.start_command(&mut snapshot_command(database, &bed.url()));
        while !signed() && first.is_running() {}
        first.signal(libc::SIGSTOP);
        if first.is_running() {
            return first;
        }
        // It was faster than we are.
        first.exits(0);
    }
    panic!("no snapshot could be stopped in time");
}

/// A service that starts while cron's snapshot runs.
fn replicator_started_during_a_snapshot_waits_for_it(bed: &Bed) {
    let database = bed.database();
    bed.replicate_once(&database);
    let mut first = stopped_with_the_lock(bed, &database);
    let mut replicator = bed.replicate(&database);
    replicator.says("msg=\"waiting for the lock\"");
    first.signal(libc::SIGCONT);
    first.exits(0);
    replicator.says("msg=\"the lock is free\"");
    bed.write(&database, &["--commits", "2"]);
    bed.converges(&database);
    replicator.stop();
    assert_equal(&database, &bed.restored());
}

/// A server keeps the objects, so that the replicator renames nothing but its answers.
#[test]
fn an_answer_that_cannot_be_written_is_written_again() {
    let bed = Bed::nats("answers");
    let database = bed.database();
    let command = bed.replicate_command(&database, &bed.url());
    let inject = "rename,renameat,renameat2:error=ENOSPC:when=1+2";
    let Some(mut command) = support::meddled(&command, inject) else { return };
    let mut replicator = bed.start_command(&mut command);
    bed.converges(&database);
    for number in 1..=3 {
        bed.write(&database, &["--commits", "2"]);
        let before = snapshots(&bed);
        snapshot(&bed, &database);
        assert!(snapshots(&bed) > before, "snapshot {number}");
        until("nothing is left", || match left(&bed) {
            names if names.is_empty() => Ok(()),
            names => Err(format!("{names:?}")),
        });
    }
    replicator.says("cannot answer a request for a snapshot");
    bed.converges(&database);
}

fn retention_is_enforced_behind_a_snapshot_that_asks_for_it(bed: &Bed) {
    let (database, library) = (bed.database(), wrong_clock(bed));
    for _ in 0..20 {
        bed.write(&database, &["--commits", "1", "--autocheckpoint", "0", "--abandon"]);
        let mut command = bed.replicate_command(&database, &bed.url());
        bed.run_command(with_clock(command.arg("-once"), &library, -3600)).succeeded();
    }
    // A window is merged once the chain has gone beyond it.
    bed.write(&database, &["--commits", "1", "--autocheckpoint", "0", "--abandon"]);
    // What earlier runs have left it looks at a minute after its start.
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let before = bed.objects("wal");
    let mut command = snapshot_command(&database, &bed.url());
    let ran = bed.run_command(command.arg("-enforce-retention")).succeeded();
    assert_eq!(ran.stderr, "");
    // How many merged segments there are depends on how many windows the runs fell into. What was merged is still there, for
    // restores that are under way.
    let behind = bed.objects("wal");
    assert!(behind.len() > before.len(), "nothing was merged: {behind:?}");
    assert_eq!(before.iter().find(|name| !behind.contains(name)), None);
    assert_eq!(left(bed), [""; 0]);
    replicator.stop();
    assert_equal(&database, &bed.restored());
}

fn a_snapshot_that_dies_leaves_no_request(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    asked(bed, &replicator, &database).kill();
    let mut stopped = asked(bed, &replicator, &database);
    stopped.terminate();
    assert_eq!(stopped.wait(), support::STORE, "{}", stopped.log());
    assert!(stopped.log().contains("stopped by signal 15 before it was stored"), "{}", stopped.log());
    replicator.signal(libc::SIGCONT);
    until("nothing is left", || match left(bed) {
        names if names.is_empty() => Ok(()),
        names => Err(format!("{names:?}")),
    });
    bed.converges(&database);
    replicator.stop();
}

fn a_snapshot_for_another_store_is_refused_by_name(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let other = format!("file://{}", bed.path("other").display());
    let ran = bed.run_command(&mut snapshot_command(&database, &other));
    ran.refused(
        LOCKED,
        &["a.db: snapshot by the running replicate: ", &bed.url(), &other, "a replica that the running replicate has"],
    );
    assert_eq!(tree(&bed.path("other")), [""; 0]);
    replicator.stop();
}

//! Death at the worst moments: of the application between writing a commit and publishing it, of the replicator, of a
//! snapshot and of a restore at any system call; and a disk that is full or broken at any of those that write.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::support::{
    Bed, DATABASE, Ran, STORE, application_command, assert_equal, judged, litestream, meddled, on_a_directory_only,
    restore_command, tree,
};

on_a_directory_only! {
    commit_unpublished_by_a_killed_writer_never_happened
    a_commit_whose_fsync_failed_never_happened
    a_commit_whose_writer_died_with_nobody_connected_did_happen
    a_replicator_that_dies_at_any_system_call_loses_nothing
    a_snapshot_that_dies_at_any_system_call_loses_nothing
    a_restore_that_dies_at_any_system_call_leaves_all_or_nothing
    a_disk_that_takes_half_of_each_write_gets_the_rest
    a_restore_whose_disk_is_full_or_broken_leaves_all_or_nothing
    a_run_whose_disk_is_full_or_broken_is_made_good_by_the_next
    a_replicator_whose_disk_fails_now_and_then_loses_nothing
}

/// Of a run that strace killed, or that was over before.
const KILLED: i32 = 128 + libc::SIGKILL;

/// An application whose n-th fdatasync of the WAL meets `fate`: the commit frame is written, but not yet published.
fn cut_short(bed: &Bed, database: &Path, fate: &str, when: u32) -> Option<Ran> {
    let options = ["--sync", "full", "--commits", "20", "--autocheckpoint", "0", "--seed", &when.to_string()];
    let command = application_command(database, &options);
    meddled(&command, &format!("fdatasync:{fate}:when={when}")).map(|mut command| bed.run_command(&mut command))
}

/// With the replicator connected no recovery runs, and the next writer overwrites the frame.
fn dead_commits(bed: &Bed, fate: &str) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    // The first ones sync the WAL's header and its directory.
    for when in 3..=7 {
        let Some(ran) = cut_short(bed, &database, fate, when) else { return };
        assert_ne!(ran.status, 0, "the application must not reach its end: {ran:?}");
        let live = judged(&database);
        bed.converges(&database);
        bed.write(&database, &["--commits", "2"]);
        bed.converges(&database);
        assert_eq!(judged(&database).seq, live.seq + 2);
    }
    replicator.stop();
    assert_equal(&database, &bed.restored());
    assert_eq!(bed.generations().len(), 1);
}

fn commit_unpublished_by_a_killed_writer_never_happened(bed: &Bed) {
    dead_commits(bed, "signal=KILL");
}

fn a_commit_whose_fsync_failed_never_happened(bed: &Bed) {
    dead_commits(bed, "error=EIO");
}

fn a_commit_whose_writer_died_with_nobody_connected_did_happen(bed: &Bed) {
    let database = bed.database();
    bed.replicate_once(&database);
    for when in 3..=5 {
        if cut_short(bed, &database, "signal=KILL", when).is_none() {
            return;
        }
        bed.replicate_once(&database);
        assert_equal(&database, &bed.restored());
    }
}

/// System calls, counted from 1: each of the first, then ever fewer of the many that follow.
fn moments() -> impl Iterator<Item = u32> {
    let mut next = 1;
    std::iter::from_fn(move || {
        let now = next;
        next += 1 + now / 12;
        Some(now)
    })
}

fn a_replicator_that_dies_at_any_system_call_loses_nothing(bed: &Bed) {
    let database = bed.database();
    dies_anywhere(bed, &database, |command| {
        command.arg("replicate").arg("-once").arg(&database).arg(bed.url());
    });
}

fn a_snapshot_that_dies_at_any_system_call_loses_nothing(bed: &Bed) {
    let database = bed.database();
    dies_anywhere(bed, &database, |command| {
        command.arg("snapshot").arg(&database).arg(bed.url());
    });
}

/// A run that stores all and ends; `words` completes the command.
fn dies_anywhere(bed: &Bed, database: &Path, words: impl Fn(&mut Command)) {
    for when in moments() {
        bed.write(database, &["--commits", "2", "--abandon"]);
        let mut command = litestream();
        words(&mut command);
        let Some(mut command) = meddled(&command, &format!("all:signal=KILL:when={when}")) else { return };
        let ran = bed.run_command(&mut command);
        if let Some(restored) = bed.restored_if_any() {
            judged(&restored);
        }
        if ran.status == 0 {
            assert_equal(database, &bed.restored());
            break;
        }
        assert_eq!(ran.status, KILLED, "{}", ran.stderr);
    }
    bed.write(database, &["--commits", "2"]);
    bed.replicate_once(database);
    assert_equal(database, &bed.restored());
}

fn a_restore_that_dies_at_any_system_call_leaves_all_or_nothing(bed: &Bed) {
    let database = bed.database();
    for _ in 0..3 {
        bed.write(&database, &["--commits", "10", "--abandon"]);
        bed.replicate_once(&database);
    }
    let folder = bed.path("output");
    fs::create_dir(&folder).unwrap();
    let output = folder.join("restored.db");
    for when in moments() {
        let command = restore_command(&bed.url(), &output);
        let Some(mut command) = meddled(&command, &format!("all:signal=KILL:when={when}")) else { return };
        let ran = bed.run_command(&mut command);
        if output.exists() {
            assert_equal(&database, &output);
            fs::remove_file(&output).unwrap();
        }
        if ran.status == 0 {
            break;
        }
        assert_eq!(ran.status, KILLED, "{}", ran.stderr);
    }
    // What the dead left beside it is in nobody's way, and does not pile up.
    bed.restore(&bed.url(), &output).succeeded();
    assert_equal(&database, &output);
    assert_eq!(tree(&folder).len(), 1, "{:?}", tree(&folder));
}

/// The system calls that change what is on a disk. (What goes to a log is among them.)
const DISK: &str =
    "/^(write|pwrite64|writev|fsync|fdatasync|ftruncate|fallocate|mkdir(at)?|rename(at|at2)?|link(at)?)$";

/// Lets a run meet each of three faults at the n-th of those calls, for ever fewer n. False where strace does not work.
fn disk_fails(bed: &Bed, mut command: impl FnMut() -> Command, mut check: impl FnMut(&Ran)) -> bool {
    let disk = short_of_space(bed);
    for fault in ["short", "ENOSPC", "EIO"] {
        let mut met = 0;
        for when in moments().step_by(2) {
            let meddled = match fault {
                "short" => Some(writing_short(command(), &disk, when)),
                _ => meddled(&command(), &format!("{DISK}:error={fault}:when={when}")),
            };
            let Some(mut command) = meddled else { return false };
            let ran = bed.run_command(&mut command);
            assert!([0, DATABASE, STORE].contains(&ran.status), "{fault} at {when}: {ran:?}");
            met += u32::from(ran.status != 0);
            check(&ran);
            if when > 60 {
                break;
            }
        }
        assert!(met > 0, "{fault}: no run met it");
    }
    true
}

/// The library that makes writes short (support/short_write.c).
fn short_of_space(bed: &Bed) -> PathBuf {
    let library = bed.fresh("short_write.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/short_write.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
    assert!(built.expect("run cc").success());
    library
}

/// The n-th write to a file takes half of its bytes, and the one after it none; with 0, each takes half.
fn writing_short(mut command: Command, library: &Path, when: u32) -> Command {
    command.env("LD_PRELOAD", library).env("SHORT_WRITE", when.to_string());
    command
}

fn a_disk_that_takes_half_of_each_write_gets_the_rest(bed: &Bed) {
    let (database, disk) = (bed.database(), short_of_space(bed));
    let mut once = bed.replicate_command(&database, &bed.url());
    once.arg("-once");
    bed.run_command(&mut writing_short(once, &disk, 0)).succeeded();
    let output = bed.path("output.db");
    bed.run_command(&mut writing_short(restore_command(&bed.url(), &output), &disk, 0)).succeeded();
    assert_equal(&database, &output);
    assert_equal(&database, &bed.restored());
}

fn a_restore_whose_disk_is_full_or_broken_leaves_all_or_nothing(bed: &Bed) {
    let database = bed.database();
    bed.replicate_once(&database);
    let folder = bed.path("output");
    fs::create_dir(&folder).unwrap();
    let output = folder.join("restored.db");
    let command = || restore_command(&bed.url(), &output);
    disk_fails(bed, command, |ran| {
        // Whole, or not there; an error may still come when it has its name (the directory's fsync).
        assert_eq!(tree(&folder).len(), usize::from(output.exists()), "{ran:?}: {:?}", tree(&folder));
        assert!(ran.status != 0 || output.exists());
        if output.exists() {
            assert_equal(&database, &output);
            fs::remove_file(&output).unwrap();
        }
    });
}

/// Lock, bucket and segments, each of which is on a disk here.
fn a_run_whose_disk_is_full_or_broken_is_made_good_by_the_next(bed: &Bed) {
    let database = bed.database();
    let config = bed.path("litestream.yml");
    let (path, url) = (database.display(), bed.url());
    let text = format!("shutdown-sync-timeout: 1s\ndbs:\n  - path: {path}\n    replica: {{ url: '{url}' }}\n");
    fs::write(&config, text).unwrap();
    let command = || {
        bed.write(&database, &["--commits", "2", "--abandon"]);
        let mut command = litestream();
        command.arg("-config").arg(&config).args(["replicate", "-once", "-force-snapshot"]);
        command
    };
    disk_fails(bed, command, |ran| {
        if ran.status != 0 {
            bed.restored_if_any().map(|restored| judged(&restored));
            bed.replicate_once(&database);
        }
        assert_equal(&database, &bed.restored());
    });
}

fn a_replicator_whose_disk_fails_now_and_then_loses_nothing(bed: &Bed) {
    let database = bed.database();
    let command = bed.replicate_command(&database, &bed.url());
    for inject in [":error=ENOSPC:when=9+7", ":error=EIO:when=12+5"] {
        let Some(mut command) = meddled(&command, &format!("{DISK}{inject}")) else { return };
        let replicator = bed.start_command(&mut command);
        bed.write(&database, &["--seconds", "3", "--rate", "100", "--checkpoint", "passive,truncate"]);
        if let Some(restored) = bed.restored_if_any() {
            judged(&restored);
        }
        // Part of the schedule: the disk fails a second longer, while nobody writes.
        sleep(Duration::from_secs(1));
        replicator.kill();
        bed.replicate_once(&database);
        assert_equal(&database, &bed.restored());
    }
}

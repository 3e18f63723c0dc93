//! The program dies, or meets an error, at each point where it touches a file, SQLite or the store (src/fault.rs). What it
//! leaves behind is whole, and the next run goes on.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{
    Bed, DATABASE, Process, Ran, STORE, all_committed, assert_equal, judged, like, litestream, on_a_directory_only,
    on_both_stores, restore_command, tree, until,
};

on_both_stores! {
    next_run_repairs_a_first_run_interrupted_anywhere
    next_run_repairs_a_later_run_interrupted_anywhere
}

on_a_directory_only! {
    a_replicator_that_dies_anywhere_is_made_good_by_the_next
    a_replicator_that_meets_an_error_anywhere_gets_over_it
    a_page_that_cannot_be_compared_stops_no_backup
    next_snapshot_repairs_one_interrupted_anywhere
    a_restore_that_is_cut_short_anywhere_leaves_all_or_nothing
    a_restore_without_room_leaves_nothing
    a_store_without_room_loses_nothing
}

const KILLED: i32 = 128 + libc::SIGKILL;

/// The program with its fault points in it, which `make test` builds. None, and that is said, without it.
pub fn with_points() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_litestream")).with_file_name("examples").join("litestream-fault");
    if built.exists() {
        return Some(built);
    }
    eprintln!("skipped: no litestream-fault here (cargo build --features fault --example litestream-fault)");
    None
}

/// The same command, to which `fault` happens; the points that it reaches are written to `log`.
pub fn faulty(command: &Command, fault: &str, log: &Path) -> Option<Command> {
    let mut faulty = like(command, Command::new(with_points()?));
    faulty.env("LITESTREAM_FAULT", fault).env("LITESTREAM_FAULT_LOG", log);
    Some(faulty)
}

/// Lets a command die at each point that it reaches, and then fail at each: the first ones one by one, then ever fewer.
/// `command` makes ready and names it, `check` looks at what is left and puts it right.
fn everywhere(bed: &Bed, command: impl Fn() -> Command, check: impl Fn(&Ran)) {
    for fate in ["die", "fail"] {
        let (mut at, mut runs, mut reached) = (1, 0, 0);
        loop {
            let log = bed.fresh("points");
            let Some(mut command) = faulty(&command(), &format!("{fate}:{at}"), &log) else { return };
            let ran = bed.run_command(&mut command);
            let points = fs::read_to_string(&log).unwrap_or_default().lines().count();
            reached = reached.max(points);
            if points < at {
                assert_eq!(ran.status, 0, "nothing happened to it: {}", ran.stderr);
                check(&ran);
                break;
            }
            assert!(fate == "fail" || ran.status == KILLED, "at point {at}: {ran:?}");
            assert!(ran.status != 101, "at point {at}: {}", ran.stderr);
            check(&ran);
            runs += 1;
            at += 1 + at / 6;
        }
        println!("{fate}: {runs} runs, {reached} points");
    }
}

/// What is stored now is a commit, and all commits if the run says so; the next run stores the rest.
fn made_good(bed: &Bed, database: &Path, url: &str, ran: &Ran) {
    let stored = bed.fresh("restored.db");
    if bed.restore(url, &stored).status == 0 {
        all_committed(&[judged(&stored)], database);
    }
    if ran.status == 0 {
        assert_equal(database, &stored);
        return;
    }
    bed.run_command(bed.replicate_command(database, url).arg("-once")).succeeded();
    assert_equal(database, &bed.restored_from(url));
}

fn next_run_repairs_a_first_run_interrupted_anywhere(bed: &Bed) {
    let database = bed.database();
    let prefix = std::cell::Cell::new(0);
    let url = || bed.url_below(&format!("run-{}", prefix.get()));
    let command = || {
        prefix.set(prefix.get() + 1);
        let mut command = bed.replicate_command(&database, &url());
        command.arg("-once");
        command
    };
    everywhere(bed, command, |ran| made_good(bed, &database, &url(), ran));
}

fn next_run_repairs_a_later_run_interrupted_anywhere(bed: &Bed) {
    let database = bed.database();
    let command = || {
        bed.write(&database, &["--commits", "2", "--abandon"]);
        let mut command = bed.replicate_command(&database, &bed.url());
        command.args(["-once", "-force-snapshot"]);
        command
    };
    everywhere(bed, command, |ran| made_good(bed, &database, &bed.url(), ran));
}

fn next_snapshot_repairs_one_interrupted_anywhere(bed: &Bed) {
    let database = bed.database();
    let command = || {
        bed.write(&database, &["--commits", "2", "--abandon"]);
        let mut command = litestream();
        command.arg("snapshot").arg(&database).arg(bed.url());
        command
    };
    everywhere(bed, command, |ran| made_good(bed, &database, &bed.url(), ran));
}

fn a_restore_that_is_cut_short_anywhere_leaves_all_or_nothing(bed: &Bed) {
    let database = bed.database();
    for _ in 0..3 {
        bed.replicate_once(&database);
        bed.write(&database, &["--commits", "3", "--abandon"]);
    }
    bed.replicate_once(&database);
    let folder = bed.path("output");
    fs::create_dir(&folder).unwrap();
    let output = folder.join("restored.db");
    let command = || {
        let mut command = restore_command(&bed.url(), &output);
        command.args(["-integrity-check", "quick"]);
        command
    };
    everywhere(bed, command, |ran| {
        let left = tree(&folder);
        assert!(ran.status == KILLED || left.len() == usize::from(output.exists()), "{left:?}");
        if output.exists() {
            assert_equal(&database, &output);
        }
        assert!(ran.status != 0 || output.exists());
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
    });
}

/// Numbers of points that a replicator passes while it follows an application for a second or two.
const ON_THE_WAY: [usize; 10] = [2, 5, 9, 14, 21, 30, 42, 60, 85, 120];

/// A replicator, under an application that keeps it busy until it has come to that point.
fn on_the_way(bed: &Bed, database: &Path, fate: &str, at: usize) -> Option<Process> {
    let command = bed.replicate_command(database, &bed.url());
    let log = bed.fresh("points");
    let replicator = bed.start_command(&mut faulty(&command, &format!("{fate}:{at}"), &log)?);
    until("the replicator comes to the point", || {
        bed.write(database, &["--seconds", "1", "--rate", "100", "--checkpoint", "restart,truncate", "--every", "9"]);
        match fs::read_to_string(&log).unwrap_or_default().lines().count() {
            points if points >= at => Ok(()),
            points => Err(format!("{points} of {at}")),
        }
    });
    Some(replicator)
}

fn a_replicator_that_dies_anywhere_is_made_good_by_the_next(bed: &Bed) {
    let database = bed.database();
    for at in ON_THE_WAY {
        let Some(mut replicator) = on_the_way(bed, &database, "die", at) else { return };
        assert_eq!(replicator.wait(), KILLED, "{}", replicator.log());
        let restored = bed.restored_if_any();
        all_committed(&restored.map(|restored| judged(&restored)).into_iter().collect::<Vec<_>>(), &database);
        bed.replicate_once(&database);
        assert_equal(&database, &bed.restored());
    }
}

fn a_replicator_that_meets_an_error_anywhere_gets_over_it(bed: &Bed) {
    let database = bed.database();
    bed.replicate_once(&database);
    for at in ON_THE_WAY {
        let Some(replicator) = on_the_way(bed, &database, "fail", at) else { return };
        bed.converges(&database);
        assert!(replicator.log().contains("fault injected"), "{}", replicator.log());
        replicator.stop();
        assert_equal(&database, &bed.restored());
    }
}

/// A sector that cannot be read, at each start: the WAL tells where the copy continues, and new commits are stored.
fn a_page_that_cannot_be_compared_stops_no_backup(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.write(&database, &["--commits", "2", "--abandon"]);
    bed.converges(&database);
    // Left as it is, the WAL holds the end of what is stored.
    replicator.kill();
    bed.write(&database, &["--commits", "2", "--abandon"]);
    let command = bed.replicate_command(&database, &bed.url());
    let Some(mut command) = faulty(&command, "fail:0:source.prove", &bed.fresh("points")) else { return };
    let ran = bed.run_command(command.arg("-once")).succeeded();
    assert!(ran.stderr.contains("database not compared with what is stored"), "{}", ran.stderr);
    assert!(ran.stderr.contains("continuing") && !ran.stderr.contains("new generation"), "{}", ran.stderr);
    assert_equal(&database, &bed.restored());
}

/// The same command, which cannot make a file longer than this; that includes what it says.
fn without_room(command: &Command, bytes: u64) -> Command {
    let mut limited = like(command, Command::new(command.get_program()));
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the call is allowed between fork and exec.
    unsafe {
        limited.pre_exec(move || match libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    limited
}

/// Rows that no compression makes small.
fn large(bed: &Bed) -> PathBuf {
    let database = bed.path("a.db");
    bed.write(&database, &["--commits", "2", "--rows", "50", "--size", "10000"]);
    database
}

fn a_restore_without_room_leaves_nothing(bed: &Bed) {
    let database = large(bed);
    bed.replicate_once(&database);
    let folder = bed.path("output");
    fs::create_dir(&folder).unwrap();
    let command = restore_command(&bed.url(), &folder.join("restored.db"));
    assert_eq!(bed.run_command(&mut without_room(&command, 0)).status, DATABASE, "not even for an error message");
    for bytes in [4096, 100_000, 500_000] {
        bed.run_command(&mut without_room(&command, bytes)).refused(DATABASE, &["write the output", "too large"]);
        assert_eq!(tree(&folder), [""; 0], "at {bytes} bytes");
    }
}

fn a_store_without_room_loses_nothing(bed: &Bed) {
    let database = large(bed);
    let config = bed.path("litestream.yml");
    let (path, url) = (database.display(), bed.url());
    let text = format!("shutdown-sync-timeout: 1s\ndbs:\n  - path: {path}\n    replica: {{ url: '{url}' }}\n");
    fs::write(&config, text).unwrap();
    let mut command = litestream();
    command.arg("-config").arg(&config).args(["replicate", "-once"]);
    let ran = bed.run_command(&mut without_room(&command, 100_000)).refused(STORE, &["too large"]);
    assert_eq!(ran.stderr.matches("problem, retrying").count(), 1, "the same trouble is logged once: {}", ran.stderr);
    assert_eq!(tree(&bed.path("store")), [""; 0]);
    bed.replicate_once(&database);
    assert_equal(&database, &bed.restored());
    // With room for segments, and none for what our own checkpoints would write into the database.
    let command = bed.replicate_command(&database, &bed.url());
    let mut replicator = bed.start_command(&mut without_room(&command, 1_000_000));
    bed.write(&database, &["--commits", "400", "--rate", "100", "--autocheckpoint", "0", "--abandon"]);
    replicator.says("checkpoint failed");
    bed.converges(&database);
    assert_eq!(bed.generations().len(), 1);
    replicator.stop();
    assert_equal(&database, &bed.restored());
}

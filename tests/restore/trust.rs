//! An exit 0 that can be believed: after it, a restore gives the live database, whatever the clock says, whatever other
//! generations the store holds, and anyone who wrote there before.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support;
use crate::support::clock::{with_clock, wrong_clock};
use crate::support::{Bed, CORRUPT, Ran, assert_equal, on_a_directory_only, on_both_stores};

on_both_stores! {
    clock_that_goes_back_at_each_start_buries_no_generation
    clock_far_ahead_that_is_corrected_buries_no_generation
}

on_a_directory_only! {
    snapshot_with_a_clock_that_goes_back_buries_no_generation
    snapshot_applies_the_retention_of_its_option
    generation_far_ahead_is_passed_once_by_the_next
    generation_with_the_greatest_number_is_an_error
}

const MINUTE: i64 = 60;
/// About 60 years.
const FAR_AHEAD: i64 = 60 * 365 * 86_400;

/// Another WAL than the last one: the next start cannot continue.
fn change(bed: &Bed, database: &Path, seed: usize) {
    bed.write(database, &["--commits", "2", "--seed", &seed.to_string()]);
}

/// `replicate -once` with a clock that is wrong by so many seconds; it must succeed.
fn once_with_clock(bed: &Bed, database: &Path, library: &Path, seconds: i64) -> Ran {
    let mut command = bed.replicate_command(database, &bed.url());
    bed.run_command(with_clock(command.arg("-once"), library, seconds)).succeeded()
}

/// How many generations there are, by what each run says of the first object that it stores.
fn begun(ran: &Ran) -> usize {
    ran.stderr.matches("\"new generation\"").count()
}

fn clock_that_goes_back_at_each_start_buries_no_generation(bed: &Bed) {
    let (database, library) = (bed.database(), wrong_clock(bed));
    let mut warned = 0;
    for (run, back) in [0, 30, 60, 90, 90, 91, 240, 0].into_iter().enumerate() {
        change(bed, &database, run);
        let ran = once_with_clock(bed, &database, &library, -back * MINUTE);
        assert_equal(&database, &bed.restored());
        let words = ran.stderr.matches("clock behind the newest stored commit").count();
        assert!(words <= 1 && (words == 1) == (back > 0), "{}", ran.stderr);
        assert_eq!(begun(&ran), 1, "{}", ran.stderr);
        warned += words;
    }
    assert_eq!(warned, 6);
}

fn clock_far_ahead_that_is_corrected_buries_no_generation(bed: &Bed) {
    let (database, library) = (bed.database(), wrong_clock(bed));
    for (run, ahead) in [0, FAR_AHEAD, 0, FAR_AHEAD / 2, 0].into_iter().enumerate() {
        change(bed, &database, run);
        once_with_clock(bed, &database, &library, ahead);
        assert_equal(&database, &bed.restored());
    }
}

/// The same for `snapshot`, of a database in WAL mode and of one that is not.
fn snapshot_with_a_clock_that_goes_back_buries_no_generation(bed: &Bed) {
    let (database, library) = (bed.path("plain.db"), wrong_clock(bed));
    let path = database.to_str().expect("a path");
    for (run, back) in [0, 30, 60, 90, 120, 150].into_iter().enumerate() {
        let mode = if run % 3 == 2 { "PRAGMA journal_mode=WAL" } else { "PRAGMA journal_mode=DELETE" };
        bed.sql(&database, &[mode, "CREATE TABLE IF NOT EXISTS t(x)", &format!("INSERT INTO t VALUES ({run})")]);
        let mut command = support::litestream();
        let command = with_clock(command.args(["snapshot", path, &bed.url()]), &library, -back * MINUTE);
        let ran = bed.run_command(command).succeeded();
        assert_equal(&database, &bed.restored());
        assert_eq!(ran.stderr.matches("clock behind the newest stored commit").count(), usize::from(back > 0));
    }
    assert_eq!(bed.generations().len(), 6);
}

/// By cron, and without a configuration. The default of a day would delete more.
fn snapshot_applies_the_retention_of_its_option(bed: &Bed) {
    const HOUR: i64 = 60 * MINUTE;
    let (database, library) = (bed.path("plain.db"), wrong_clock(bed));
    let path = database.to_str().expect("a path");
    let left = [(-300, None, 1), (-200, None, 2), (-100, Some("400h"), 3), (0, Some("400h"), 4), (0, Some("150h"), 4)];
    for (hours, retention, generations) in left {
        bed.sql(&database, &["CREATE TABLE IF NOT EXISTS t(x)", "INSERT INTO t VALUES (1)"]);
        let mut command = support::litestream();
        command.args(["snapshot", "-q"]);
        if let Some(retention) = retention {
            command.args(["-enforce-retention", "-retention", retention]);
        }
        let command = with_clock(command.args([path, &bed.url()]), &library, hours * HOUR);
        let ran = bed.run_command(command).succeeded();
        assert_eq!((ran.stdout.as_str(), bed.generations().len()), ("", generations), "{}", ran.stderr);
        assert_equal(&database, &bed.restored());
    }
}

/// A folder that somebody copied: whole, and of a time to come.
fn generation_far_ahead_is_passed_once_by_the_next(bed: &Bed) {
    let database = bed.database();
    bed.replicate_once(&database);
    let ours = bed.generations().pop_first().expect("a generation");
    let folder = |generation: &str| bed.path("store/generations").join(generation);
    let copied = Command::new("cp").arg("-r").arg(folder(&ours)).arg(folder("f000000000000000")).status();
    assert!(copied.expect("run cp").success());
    let mut generations = Vec::new();
    let mut application = bed.session(&database);
    application.sql("CREATE TABLE more(x)");
    for run in 0..3 {
        application.sql(&format!("INSERT INTO more VALUES ({run})"));
        generations.push(begun(&bed.replicate_once(&database)));
        assert_equal(&database, &bed.restored());
    }
    assert_eq!(generations, [1, 0, 0]);
}

/// What another program left there. A restore takes it, so nothing that is stored besides counts.
fn generation_with_the_greatest_number_is_an_error(bed: &Bed) {
    let database = bed.database();
    bed.replicate_once(&database);
    let folder = bed.path("store/generations/ffffffffffffffff/snapshots");
    fs::create_dir_all(&folder).expect("make a folder");
    fs::write(folder.join("00000000.000000000000-20260101T000000.000Z.gz"), "x").expect("write an object");
    let before = bed.stored();
    let path = database.to_str().expect("a path");
    let words = ["generations/ffffffffffffffff/: no new generation can start", "hint: litestream did not choose"];
    for _ in 0..2 {
        let mut command = bed.replicate_command(&database, &bed.url());
        bed.run_command(command.arg("-once")).refused(CORRUPT, &words);
        bed.run_command(&mut bed.replicate_command(&database, &bed.url())).refused(CORRUPT, &words);
        bed.run(&["snapshot", path, &bed.url()]).refused(CORRUPT, &words);
    }
    bed.sql(&database, &["PRAGMA journal_mode=DELETE"]);
    bed.run(&["snapshot", path, &bed.url()]).refused(CORRUPT, &words);
    assert_eq!(bed.stored(), before);
    fs::remove_dir_all(bed.path("store/generations/ffffffffffffffff")).expect("do what the hint says");
    bed.replicate_once(&database);
    assert_equal(&database, &bed.restored());
}

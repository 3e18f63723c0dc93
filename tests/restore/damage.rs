//! What is damaged or missing in the store is an error that names it, never a wrong database.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support;
use crate::support::{Bed, CORRUPT, NOTHING, Ran, assert_equal, equal, judged, litestream, on_a_directory_only};

on_a_directory_only! {
    a_missing_segment_is_a_gap_that_is_named
    a_damaged_object_is_named_and_nothing_is_written
    a_damaged_snapshot_is_told_with_what_can_be_done_instead
    the_newest_segment_may_be_missing_but_not_half_there
    a_moment_outside_of_what_is_stored_is_refused_with_the_range
}

/// A backup of one snapshot and several segments; the database, and the objects' paths in order.
fn backup(bed: &Bed) -> (PathBuf, Vec<PathBuf>) {
    let database = bed.database();
    for _ in 0..5 {
        bed.write(&database, &["--commits", "6", "--abandon"]);
        bed.replicate_once(&database);
    }
    assert_eq!(bed.generations().len(), 1);
    let path = |line: &String| bed.path("store").join(line.rsplit_once(' ').unwrap().0);
    let names = [bed.objects("snapshots"), bed.objects("wal")].concat();
    assert_eq!(names.len(), 5, "each run stores a segment: {names:?}");
    (database, names.iter().map(path).collect())
}

fn refuses(bed: &Bed, object: &Path, part: &str) -> Ran {
    let output = bed.fresh("output");
    let ran = bed.restore(&bed.url(), &output).refused(CORRUPT, &[part]);
    assert!(!output.exists(), "{} is damaged", object.display());
    ran
}

fn a_missing_segment_is_a_gap_that_is_named(bed: &Bed) {
    let (database, objects) = backup(bed);
    let (aside, segments) = (bed.path("aside"), &objects[1..objects.len() - 1]);
    for segment in segments {
        fs::rename(segment, &aside).unwrap();
        let refusal = refuses(bed, segment, "gap");
        what_the_hint_says_works(bed, &database, &refusal);
        fs::rename(&aside, segment).unwrap();
    }
    assert_equal(&database, &bed.restored());
}

/// A restore to the moment that a refusal names.
fn what_the_hint_says_works(bed: &Bed, database: &Path, refusal: &Ran) {
    let words = refusal.stderr.split("hint: -timestamp ").nth(1).unwrap_or_else(|| panic!("{}", refusal.stderr));
    let (moment, output) = (words.split(' ').next().unwrap(), bed.fresh("before.db"));
    let mut command = support::restore_command(&bed.url(), &output);
    bed.run_command(command.args(["-timestamp", moment])).succeeded();
    support::all_committed(&[judged(&output)], database);
}

/// Each thing that the refusal of a snapshot speaks of works.
fn a_damaged_snapshot_is_told_with_what_can_be_done_instead(bed: &Bed) {
    let database = bed.database();
    let run = |arguments: &[&str]| {
        bed.write(&database, &["--commits", "6", "--abandon"]);
        let mut command = bed.replicate_command(&database, &bed.url());
        bed.run_command(command.arg("-once").args(arguments)).succeeded();
    };
    run(&[]);
    let damage = |number: usize| {
        let object = bed.path("store").join(bed.objects("snapshots")[number].rsplit_once(' ').unwrap().0);
        let whole = fs::read(&object).unwrap();
        fs::write(&object, &whole[..whole.len() / 2]).unwrap();
        (object, whole)
    };
    let (only, whole) = damage(0);
    refuses(bed, &only, "hint: there is no other snapshot: take one of the live database with `snapshot`");
    fs::write(&only, whole).unwrap();
    run(&[]);
    run(&["-force-snapshot"]);
    run(&[]);
    assert_eq!((bed.generations().len(), bed.objects("snapshots").len()), (1, 2));
    let (newer, _) = damage(1);
    let refusal = refuses(bed, &newer, "; if you remove that object from the store, the snapshot of ");
    what_the_hint_says_works(bed, &database, &refusal);
    fs::remove_file(&newer).unwrap();
    assert_equal(&database, &bed.restored());
}

fn a_damaged_object_is_named_and_nothing_is_written(bed: &Bed) {
    let (database, objects) = backup(bed);
    for object in &objects {
        let whole = fs::read(object).unwrap();
        let name = object.file_name().unwrap().to_str().unwrap();
        for keep in [0, 9, whole.len() / 2, whole.len() - 1] {
            fs::write(object, &whole[..keep]).unwrap();
            let refusal = refuses(bed, object, name);
            if keep == 9 && object != &objects[0] {
                what_the_hint_says_works(bed, &database, &refusal);
            }
        }
        for at in (0..whole.len()).step_by(whole.len() / 9 + 1) {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            fs::write(object, changed).unwrap();
            refuses_or_is_right(bed, &database, name);
        }
        fs::write(object, &whole).unwrap();
    }
    assert_equal(&database, &bed.restored());
}

/// A few bits of a gzip header mean nothing: then the result must be right.
fn refuses_or_is_right(bed: &Bed, database: &Path, name: &str) {
    let output = bed.fresh("output");
    let ran = bed.restore(&bed.url(), &output);
    if ran.status == 0 {
        equal(database, &output).unwrap_or_else(|difference| panic!("{name} was changed: {difference}"));
    } else {
        // zlib-rs's word for a fault that it met before and has forgotten.
        assert!(!ran.stderr.contains("bad state"), "{}", ran.stderr);
        ran.refused(CORRUPT, &[name]);
        assert!(!output.exists());
    }
}

fn the_newest_segment_may_be_missing_but_not_half_there(bed: &Bed) {
    let (database, objects) = backup(bed);
    let last = objects.last().unwrap();
    let whole = fs::read(last).unwrap();
    fs::write(last, &whole[..whole.len() - 5]).unwrap();
    refuses(bed, last, last.file_name().unwrap().to_str().unwrap());
    fs::remove_file(last).unwrap();
    let older = judged(&bed.restored());
    assert!(older.seq < judged(&database).seq);
    support::all_committed(&[older], &database);
}

/// Told the same by URL and by configuration.
fn a_moment_outside_of_what_is_stored_is_refused_with_the_range(bed: &Bed) {
    let (database, _) = backup(bed);
    let (config, output) = (bed.path("litestream.yml"), bed.path("output.db"));
    fs::write(&config, format!("dbs: [{{path: {}, replica: {{url: '{}'}}}}]", database.display(), bed.url())).unwrap();
    for moment in ["2001-01-01T00:00:00.000Z", "2999-01-01T00:00:00.000Z"] {
        let restore = || {
            let mut command = litestream();
            command.args(["restore", "-strict", "-timestamp", moment, "-o"]).arg(&output);
            command
        };
        let by_url = bed.run_command(restore().arg(bed.url()));
        let by_config = bed.run_command(restore().arg("-config").arg(&config).arg(&database));
        assert_eq!(by_url.stderr, by_config.stderr);
        for ran in [by_url, by_config] {
            ran.refused(NOTHING, &[&format!("timestamp {moment}: the backup covers 20"), " to 20", "hint: "]);
        }
        assert!(!output.exists());
    }
}

//! Whatever happens to the database while the program is down: it goes on where it can prove that nothing is missing,
//! and begins a new generation where it cannot.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Bed, Process, assert_equal, on_a_directory_only, on_both_stores};

on_both_stores! {
    small_restart_after_commits_and_checkpoint_is_noticed
    the_last_close_deletes_the_wal_and_nothing_is_missed
}

on_a_directory_only! {
    small_restart_after_a_clean_stop_is_noticed
    application_with_one_connection_per_commit_is_noticed
    what_lies_beside_the_database_may_be_damaged_or_gone
    truncated_wal_that_grew_again_is_not_mistaken
    two_restarts_to_the_same_frame_count_are_noticed
    a_deleted_and_regrown_wal_is_not_mistaken_for_the_old_one
    nothing_happened_and_the_generation_goes_on
    appended_commits_are_taken_up_and_the_generation_goes_on
    a_clean_stop_and_appended_commits_need_no_snapshot
    a_database_replaced_by_rename_begins_a_new_generation
    a_database_set_back_to_an_older_copy_begins_a_new_generation
}

/// Bytes, with SQLite's default page size.
const WAL_HEADER: usize = 32;
const FRAME: usize = 24 + 4096;

/// A database with frames in its WAL that are stored; the program was killed after that, and no one is connected.
fn left_behind(bed: &Bed) -> PathBuf {
    let database = ended_by(bed, Process::kill);
    assert!(live_frames(&database) > 0, "the WAL outlives the replicator");
    database
}

fn ended_by(bed: &Bed, end: fn(Process)) -> PathBuf {
    let database = bed.database();
    write(bed, &database, "12", &[]);
    let replicator = bed.replicate(&database);
    write(bed, &database, "8", &[]);
    bed.converges(&database);
    end(replicator);
    assert!(wal_of(&database).exists(), "the WAL outlives the replicator");
    database
}

/// One frame a commit, no checkpoint, and the WAL stays.
fn write(bed: &Bed, database: &Path, commits: &str, more: &[&str]) {
    let options = ["--rows", "0", "--commits", commits, "--autocheckpoint", "0", "--abandon"];
    bed.write(database, &[&options, more].concat());
}

/// The program comes back: it must take up everything, and go on to follow.
fn comes_back(bed: &Bed, database: &Path) {
    let replicator = bed.replicate(database);
    bed.converges(database);
    bed.write(database, &["--commits", "10"]);
    bed.converges(database);
    replicator.stop();
    assert_equal(database, &bed.restored());
}

fn wal_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn wal_size(database: &Path) -> u64 {
    fs::metadata(wal_of(database)).map_or(0, |data| data.len())
}

fn small_restart_after_commits_and_checkpoint_is_noticed(bed: &Bed) {
    a_small_restart_is_not_missed(bed, &left_behind(bed));
}

fn small_restart_after_a_clean_stop_is_noticed(bed: &Bed) {
    a_small_restart_is_not_missed(bed, &ended_by(bed, Process::stop));
}

fn a_small_restart_is_not_missed(bed: &Bed, database: &Path) {
    let size = wal_size(database);
    bed.write(
        database,
        &["--commits", "30", "--autocheckpoint", "0", "--checkpoint", "restart", "--every", "28", "--abandon"],
    );
    assert!(wal_size(database) > size, "the WAL was restarted in place, behind frames that were appended");
    comes_back(bed, database);
}

fn application_with_one_connection_per_commit_is_noticed(bed: &Bed) {
    let database = ended_by(bed, Process::stop);
    bed.write(&database, &["--commits", "12", "--churn"]);
    comes_back(bed, &database);
}

/// What continues is decided by the store and the database alone.
fn what_lies_beside_the_database_may_be_damaged_or_gone(bed: &Bed) {
    let database = left_behind(bed);
    let meta = bed.path(".a.db-litestream");
    fs::write(meta.join("lock"), [0xa5; 5000]).unwrap();
    fs::create_dir(meta.join("spool")).unwrap();
    fs::write(meta.join("spool/garbage"), [0; 100]).unwrap();
    write(bed, &database, "5", &[]);
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    // A clean stop would empty the WAL, and then only what it notes in there tells that nothing was written since.
    replicator.kill();
    fs::remove_dir_all(&meta).unwrap();
    comes_back(bed, &database);
    assert_eq!(bed.objects("snapshots").len(), 1);
}

fn the_last_close_deletes_the_wal_and_nothing_is_missed(bed: &Bed) {
    let database = left_behind(bed);
    bed.write(&database, &["--commits", "15"]);
    assert!(!wal_of(&database).exists());
    comes_back(bed, &database);
}

fn truncated_wal_that_grew_again_is_not_mistaken(bed: &Bed) {
    let database = left_behind(bed);
    let size = wal_size(&database);
    write(bed, &database, "80", &["--checkpoint", "truncate", "--every", "30"]);
    assert!(wal_size(&database) >= size);
    comes_back(bed, &database);
}

fn two_restarts_to_the_same_frame_count_are_noticed(bed: &Bed) {
    let database = left_behind(bed);
    let before = live_frames(&database);
    // One process, since the first to come after the last has gone forgets that a restart was due.
    let (commits, every) = ((3 * before).to_string(), before.to_string());
    write(bed, &database, &commits, &["--checkpoint", "restart", "--every", &every]);
    assert_eq!(live_frames(&database), before);
    comes_back(bed, &database);
}

/// The frames of the WAL that are from its current run, by their salts.
fn live_frames(database: &Path) -> usize {
    let wal = fs::read(wal_of(database)).unwrap();
    // A clean stop has emptied it.
    let Some((header, frames)) = wal.split_at_checked(WAL_HEADER) else { return 0 };
    frames.chunks(FRAME).take_while(|frame| frame[8..16] == header[16..24]).count()
}

fn a_deleted_and_regrown_wal_is_not_mistaken_for_the_old_one(bed: &Bed) {
    let database = left_behind(bed);
    bed.write(&database, &["--rows", "0", "--commits", "5"]);
    assert!(!wal_of(&database).exists());
    write(bed, &database, "20", &[]);
    comes_back(bed, &database);
}

fn nothing_happened_and_the_generation_goes_on(bed: &Bed) {
    let database = left_behind(bed);
    let stored = bed.stored();
    bed.replicate_once(&database);
    assert_eq!(bed.stored(), stored);
    comes_back(bed, &database);
    assert_eq!(bed.objects("snapshots").len(), 1);
}

fn appended_commits_are_taken_up_and_the_generation_goes_on(bed: &Bed) {
    let database = left_behind(bed);
    write(bed, &database, "50", &[]);
    comes_back(bed, &database);
    assert_eq!(bed.objects("snapshots").len(), 1);
}

fn a_clean_stop_and_appended_commits_need_no_snapshot(bed: &Bed) {
    let database = bed.database();
    for _ in 0..3 {
        write(bed, &database, "7", &[]);
        let replicator = bed.replicate(&database);
        bed.converges(&database);
        replicator.stop();
    }
    comes_back(bed, &database);
    assert_eq!(bed.objects("snapshots").len(), 1);
}

fn a_database_replaced_by_rename_begins_a_new_generation(bed: &Bed) {
    let database = left_behind(bed);
    let other = bed.path("other.db");
    bed.write(&other, &["--commits", "20", "--seed", "9"]);
    fs::remove_file(wal_of(&database)).unwrap();
    fs::rename(&other, &database).unwrap();
    comes_back(bed, &database);
    assert_eq!(bed.generations().len(), 2);
}

fn a_database_set_back_to_an_older_copy_begins_a_new_generation(bed: &Bed) {
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    fs::copy(&database, &copy).unwrap();
    bed.write(&database, &["--commits", "20"]);
    bed.replicate_once(&database);
    let _ = fs::remove_file(wal_of(&database));
    fs::rename(&copy, &database).unwrap();
    comes_back(bed, &database);
    assert_eq!(bed.generations().len(), 2);
}

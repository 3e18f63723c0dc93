//! What was written comes back: after a quiet spell, a clean stop, one run with `-once`, from a snapshot alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::support;
use crate::support::{Bed, assert_equal, equal, on_a_directory_only, on_both_stores};

on_both_stores! {
    a_restore_after_a_quiet_spell_equals_the_live_database
    a_clean_stop_stores_the_last_commit
    a_restart_with_nothing_changed_stores_nothing
    an_idle_database_stores_nothing
    two_databases_under_two_prefixes_never_meet
    one_short_run_stores_everything
    a_snapshot_alone_is_enough_to_restore
}

on_a_directory_only! {
    every_page_size_comes_back
    a_name_with_spaces_and_foreign_letters_is_only_a_name
    a_relative_path_begins_where_the_program_was_started
    a_link_leads_to_its_database
    database_not_in_wal_mode_is_switched_and_logged
    a_snapshot_leaves_the_journal_mode_as_it_is
    nothing_is_written_into_the_database
}

/// Twice the default sync-interval and then some: long enough for whatever an idle program might still store.
const QUIET: Duration = Duration::from_millis(2500);

fn a_restore_after_a_quiet_spell_equals_the_live_database(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.write(&database, &["--seconds", "2", "--rate", "100"]);
    bed.converges(&database);
    replicator.stop();
    assert_equal(&database, &bed.restored());
}

fn a_clean_stop_stores_the_last_commit(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    bed.write(&database, &["--commits", "30"]);
    replicator.stop();
    assert_equal(&database, &bed.restored());
}

fn a_restart_with_nothing_changed_stores_nothing(bed: &Bed) {
    let database = bed.database();
    bed.write(&database, &["--commits", "20", "--abandon"]);
    bed.replicate_once(&database);
    let stored = bed.stored();
    bed.replicate_once(&database);
    assert_eq!(bed.stored(), stored);
    let replicator = bed.replicate(&database);
    sleep(QUIET);
    replicator.stop();
    assert_eq!(bed.stored(), stored);
    assert_equal(&database, &bed.restored());
}

fn an_idle_database_stores_nothing(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.write(&database, &["--commits", "20"]);
    bed.converges(&database);
    let stored = bed.stored();
    sleep(QUIET);
    assert_eq!(bed.stored(), stored);
    replicator.stop();
    assert_eq!(bed.stored(), stored);
}

fn two_databases_under_two_prefixes_never_meet(bed: &Bed) {
    // One prefix begins like the other, which must not make it part of the other.
    let followed = [("one.db", "x/one", "1"), ("two.db", "x/one-and-more", "2")].map(|(name, prefix, seed)| {
        let (database, url) = (bed.path(name), bed.url_below(prefix));
        bed.write(&database, &["--commits", "3", "--seed", seed]);
        let replicator = bed.replicate_to(&database, &url);
        (database, url, replicator, seed)
    });
    for (database, _, _, seed) in &followed {
        bed.write(database, &["--commits", "40", "--seed", seed]);
    }
    for (database, url, replicator, _) in followed {
        replicator.stop();
        assert_equal(&database, &bed.restored_from(&url));
    }
    let output = bed.path("none.db");
    bed.restore(&bed.url_below("x"), &output).refused(support::NOTHING, &[]);
    assert!(!output.exists());
}

fn one_short_run_stores_everything(bed: &Bed) {
    let database = bed.database();
    for ending in ["--abandon", "--churn"] {
        bed.write(&database, &["--commits", "25", ending]);
        bed.replicate_once(&database);
        assert_equal(&database, &bed.restored());
    }
}

fn a_snapshot_alone_is_enough_to_restore(bed: &Bed) {
    let database = bed.database();
    bed.write(&database, &["--commits", "25", "--abandon"]);
    let path = database.to_string_lossy();
    bed.run(&["snapshot", "-create-bucket", &path, &bed.url()]).succeeded();
    assert_equal(&database, &bed.restored());
    bed.write(&database, &["--commits", "5"]);
    bed.run(&["snapshot", &path, &bed.url()]).succeeded();
    assert_equal(&database, &bed.restored());
}

fn every_page_size_comes_back(bed: &Bed) {
    for shift in 9..=16 {
        let size = (1 << shift).to_string();
        let database = bed.path(&format!("{size}.db"));
        let url = bed.url_below(&size);
        bed.write(&database, &["--page-size", &size, "--commits", "10"]);
        let replicator = bed.replicate_to(&database, &url);
        bed.write(&database, &["--commits", "30", "--size", "2000", "--checkpoint", "restart", "--every", "7"]);
        replicator.stop();
        let restored = bed.restored_from(&url);
        assert_equal(&database, &restored);
        assert_eq!(page_size(&restored), 1 << shift);
    }
}

/// As it stands in the file's header; 1 means 65536.
fn page_size(database: &Path) -> u32 {
    let bytes = fs::read(database).unwrap();
    match u16::from_be_bytes([bytes[16], bytes[17]]) {
        1 => 65536,
        size => u32::from(size),
    }
}

fn a_name_with_spaces_and_foreign_letters_is_only_a_name(bed: &Bed) {
    let database = bed.path("my höme 100%41 'n \"more\".db");
    bed.write(&database, &["--commits", "10"]);
    bed.replicate_once(&database);
    assert_equal(&database, &bed.restored());
}

fn a_relative_path_begins_where_the_program_was_started(bed: &Bed) {
    let database = bed.database();
    fs::create_dir(bed.path("below")).unwrap();
    for (folder, path) in [("", "a.db"), ("", "./below/../a.db"), ("below", "../a.db")] {
        bed.write(&database, &["--commits", "5", "--abandon"]);
        let mut command = bed.replicate_command(Path::new(path), &bed.url());
        bed.run_command(command.arg("-once").current_dir(bed.path(folder))).succeeded();
        let mut command = support::restore_command(&bed.url(), Path::new("restored.db"));
        bed.run_command(command.current_dir(bed.path(folder))).succeeded();
        let restored = bed.path(folder).join("restored.db");
        assert_equal(&database, &restored);
        fs::remove_file(restored).unwrap();
    }
    assert_eq!(bed.generations().len(), 1);
}

fn a_link_leads_to_its_database(bed: &Bed) {
    let folder = bed.path("elsewhere");
    fs::create_dir(&folder).unwrap();
    let (database, link) = (folder.join("real.db"), bed.path("link.db"));
    bed.write(&database, &["--commits", "3"]);
    symlink("elsewhere/real.db", &link).unwrap();
    let replicator = bed.replicate(&link);
    bed.write(&database, &["--commits", "30", "--checkpoint", "truncate", "--every", "11"]);
    replicator.stop();
    assert_equal(&database, &bed.restored());
    assert!(!bed.path("link.db-wal").exists(), "a WAL beside the link is nobody's");
}

fn database_not_in_wal_mode_is_switched_and_logged(bed: &Bed) {
    let database = bed.path("a.db");
    bed.write(&database, &["--commits", "5", "--journal", "delete"]);
    let ran = bed.replicate_once(&database);
    assert!(ran.stderr.contains("WAL"), "{}", ran.stderr);
    assert_eq!(bed.sql(&database, &["PRAGMA journal_mode"]).trim(), "('wal',)");
    assert_equal(&database, &bed.restored());
}

fn a_snapshot_leaves_the_journal_mode_as_it_is(bed: &Bed) {
    let database = bed.path("a.db");
    bed.write(&database, &["--commits", "5", "--journal", "truncate"]);
    let before = fs::read(&database).unwrap();
    bed.run(&["snapshot", &database.to_string_lossy(), &bed.url()]).succeeded();
    assert_eq!(fs::read(&database).unwrap(), before);
    assert_equal(&database, &bed.restored());
}

fn nothing_is_written_into_the_database(bed: &Bed) {
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    fs::copy(&database, &copy).unwrap();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    replicator.stop();
    bed.run(&["snapshot", &database.to_string_lossy(), &bed.url_below("snapshot")]).succeeded();
    assert_equal(&database, &copy);
    assert!(equal(&database, &bed.restored()).is_ok());
    assert_eq!(fs::read(&database).unwrap(), fs::read(&copy).unwrap());
}

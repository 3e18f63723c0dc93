//! One database does not take the place of another: a prefix that holds the backups of one is refused to the other, and a
//! database that was moved is known again.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support;
use crate::support::{Bed, DATABASE, LOCKED, TAKEN_OVER, assert_equal, on_a_directory_only, on_both_stores};

on_both_stores! {
    another_database_is_refused_and_named
    moved_database_goes_on_below_its_prefix
}

on_a_directory_only! {
    link_to_another_database_is_noticed
    link_that_follows_its_database_goes_on
    snapshot_refuses_another_database_in_every_journal_mode
    database_beside_the_stored_one_is_another
    restore_of_a_database_refuses_the_backups_of_its_neighbour
    one_wrong_prefix_does_not_stop_other_databases
    generations_name_their_database
}

const FLAG: &str = "-allow-other-database";

/// A database with one table of this name, in WAL mode.
fn database_with(bed: &Bed, name: &str, table: &str) -> PathBuf {
    let path = bed.path(name);
    bed.sql(
        &path,
        &["PRAGMA journal_mode=WAL", &format!("CREATE TABLE {table}(x)"), &format!("INSERT INTO {table} VALUES(1)")],
    );
    path
}

/// The database as the configuration or the command line names it, and as messages do.
fn named(path: &Path) -> String {
    fs::canonicalize(path).expect("a path").display().to_string()
}

/// A database in a release's directory, and the path to it through a link.
fn released(bed: &Bed) -> (PathBuf, PathBuf) {
    let release = bed.path("1");
    fs::create_dir(&release).expect("a directory");
    let database = database_with(bed, "1/app.db", "users");
    lead_to(bed, "1");
    (database, bed.path("current/app.db"))
}

fn lead_to(bed: &Bed, release: &str) {
    let (next, link) = (bed.path("next"), bed.path("current"));
    std::os::unix::fs::symlink(bed.path(release), &next).expect("a link");
    fs::rename(next, link).expect("the link takes its name");
}

fn link_to_another_database_is_noticed(bed: &Bed) {
    let (first, path) = released(bed);
    let mut process = bed.replicate(&path);
    bed.converges(&path);
    fs::create_dir(bed.path("2")).expect("a directory");
    database_with(bed, "2/app.db", "baskets");
    lead_to(bed, "2");
    process.says("path leads to another file, replication starts again there");
    // The database whose backups these are is still there.
    process.says("expected backups of database");
    process.terminate();
    process.exits(DATABASE);
    assert_equal(&first, &bed.restored());
}

fn link_that_follows_its_database_goes_on(bed: &Bed) {
    let (first, path) = released(bed);
    let mut process = bed.replicate(&path);
    bed.converges(&path);
    fs::create_dir(bed.path("2")).expect("a directory");
    fs::rename(&first, bed.path("2/app.db")).expect("the database moves");
    for end in ["-wal", "-shm"] {
        let _ = fs::remove_file(bed.path(&format!("1/app.db{end}")));
    }
    lead_to(bed, "2");
    bed.sql(&path, &["INSERT INTO users VALUES(22)"]);
    bed.converges(&path);
    assert!(process.is_running());
    process.stop();
    assert_equal(&path, &bed.restored());
}

fn another_database_is_refused_and_named(bed: &Bed) {
    let app = database_with(bed, "app.db", "users");
    bed.replicate_once(&app);
    let before = bed.stored();
    let shop = database_with(bed, "shop.db", "baskets");
    let mut command = bed.replicate_command(&shop, &bed.url());
    let parts = [&*named(&app), &*named(&shop), "a prefix of its own", FLAG];
    bed.run_command(command.arg("-once")).refused(LOCKED, &parts);
    assert_eq!(bed.stored(), before);
    assert_equal(&app, &bed.restored());
    // Not by -once alone: it does not wait for better times.
    let mut running = bed.replicate_to(&shop, &bed.url());
    running.exits(LOCKED);
    let mut command = bed.replicate_command(&shop, &bed.url());
    bed.run_command(command.args(["-once", FLAG])).succeeded();
    assert_equal(&shop, &bed.restored());
    // From now on the prefix is the shop's, and the app's database is refused as one that was replaced.
    bed.sql(&shop, &["INSERT INTO baskets VALUES(2)"]);
    bed.replicate_once(&shop);
    let mut command = bed.replicate_command(&app, &bed.url());
    let parts = [&*named(&app), &*named(&shop), "was taken over", "-takeover"];
    bed.run_command(command.arg("-once")).refused(TAKEN_OVER, &parts);
    assert_equal(&shop, &bed.restored());
}

fn moved_database_goes_on_below_its_prefix(bed: &Bed) {
    let app = database_with(bed, "app.db", "users");
    bed.replicate_once(&app);
    let moved = bed.path("moved.db");
    fs::rename(&app, &moved).expect("move");
    for name in ["app.db-wal", "app.db-shm"] {
        let _ = fs::remove_file(bed.path(name));
    }
    bed.sql(&moved, &["CREATE TABLE orders(x)"]);
    bed.replicate_once(&moved);
    assert_equal(&moved, &bed.restored());
    // So does one that was restored elsewhere.
    let copy = bed.fresh("copy.db");
    bed.restore(&bed.url(), &copy).succeeded();
    fs::remove_file(&moved).expect("remove");
    bed.sql(&copy, &["INSERT INTO users VALUES(3)"]);
    bed.replicate_once(&copy);
    assert_equal(&copy, &bed.restored());
}

fn snapshot_refuses_another_database_in_every_journal_mode(bed: &Bed) {
    let app = database_with(bed, "app.db", "users");
    bed.replicate_once(&app);
    for (name, mode) in [("wal.db", "WAL"), ("delete.db", "DELETE")] {
        let shop = bed.path(name);
        bed.sql(&shop, &[&format!("PRAGMA journal_mode={mode}"), "CREATE TABLE baskets(x)"]);
        let shop_name = shop.display().to_string();
        bed.run(&["snapshot", &shop_name, &bed.url()]).refused(LOCKED, &[&named(&app), &named(&shop), FLAG]);
    }
    assert_equal(&app, &bed.restored());
    let shop = bed.path("delete.db");
    bed.run(&["snapshot", FLAG, &shop.display().to_string(), &bed.url()]).succeeded();
    assert_equal(&shop, &bed.restored());
}

fn database_beside_the_stored_one_is_another(bed: &Bed) {
    let one = database_with(bed, "tenant1.db", "users");
    let two = database_with(bed, "tenant2.db", "users");
    bed.sql(&two, &["INSERT INTO users VALUES(2)"]);
    bed.replicate_once(&one);
    let mut command = bed.replicate_command(&two, &bed.url());
    bed.run_command(command.arg("-once")).refused(LOCKED, &[&named(&one), &named(&two)]);
    fs::remove_file(&one).expect("remove");
    bed.replicate_once(&two);
    assert_equal(&two, &bed.restored());
}

fn restore_of_a_database_refuses_the_backups_of_its_neighbour(bed: &Bed) {
    let app = database_with(bed, "app.db", "users");
    bed.replicate_once(&app);
    let shop = bed.path("shop.db");
    let config = bed.path("litestream.yml");
    let text = format!("dbs:\n- path: {}\n  replica:\n    url: {}\n", shop.display(), bed.url());
    fs::write(&config, text).expect("write");
    let (config, shop_name) = (config.display().to_string(), shop.display().to_string());
    let words = ["-config", &config, "restore", &shop_name];
    bed.run(&words).refused(LOCKED, &[&named(&app), "shop.db", FLAG]);
    assert!(!shop.exists());
    let mut missing = bed.start(&["-config", &config, "replicate", "-restore-if-db-not-exists"]);
    missing.exits(LOCKED);
    bed.run(&[&words[..], &[FLAG]].concat()).succeeded();
    assert_equal(&app, &shop);
    fs::remove_file(&shop).expect("remove");
    // On another machine, or where the other one is lost, nothing stands in the way.
    fs::remove_file(&app).expect("remove");
    bed.run(&words).succeeded();
}

fn one_wrong_prefix_does_not_stop_other_databases(bed: &Bed) {
    let app = database_with(bed, "app.db", "users");
    bed.replicate_once(&app);
    let shop = database_with(bed, "shop.db", "baskets");
    let good = database_with(bed, "good.db", "pages");
    let config = bed.path("litestream.yml");
    let entry = |path: &Path, url: &str| format!("- path: {}\n  replica:\n    url: {url}\n", path.display());
    let text = format!("dbs:\n{}{}", entry(&shop, &bed.url()), entry(&good, &bed.url_below("good")));
    fs::write(&config, text).expect("write");
    let mut running = bed.start(&["-config", &config.display().to_string(), "replicate"]);
    running.says("cannot replicate, retrying");
    bed.sql(&good, &["INSERT INTO pages VALUES(2)"]);
    support::until("the good one is stored", || support::equal(&bed.restored_from(&bed.url_below("good")), &good));
    running.terminate();
    running.exits(3);
}

fn generations_name_their_database(bed: &Bed) {
    let app = database_with(bed, "app.db", "users");
    bed.replicate_once(&app);
    let ran = bed.run(&["generations", "-json", &bed.url()]).succeeded();
    let rows: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let database = rows[0]["database"].as_str().expect("a database");
    assert!(database.ends_with(&format!(":{}", named(&app))), "{database}");
}

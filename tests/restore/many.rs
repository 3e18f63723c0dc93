//! Many stored databases at once: restored together, named to somebody who mistyped one, and retired.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support;
use crate::support::drive;
use crate::support::{Bed, CORRUPT, LOCKED, NOTHING, Ran, USAGE, assert_equal, equal, on_both_stores, until};
use litestream::config::{self, Environment};
use litestream::store;
use serde_json::Value;

on_both_stores! {
    every_configured_database_is_restored_with_one_line_each
    databases_are_restored_from_the_url_alone
    one_damaged_backup_does_not_keep_the_others
    two_databases_for_one_output_are_not_restored
    a_mistyped_prefix_is_answered_with_what_is_stored
    a_deleted_database_leaves_nothing_and_the_others_stay
    a_database_that_is_replicated_is_not_deleted
}

/// Stores three databases: two that are named, one in a directory.
fn stored(bed: &Bed) -> Vec<(PathBuf, String)> {
    let tenants = bed.path("tenants");
    fs::create_dir_all(&tenants).unwrap();
    let databases = [("app.db", "app"), ("shop.db", "shop"), ("tenants/t1.db", "tenants/t1.db")];
    let databases = databases.map(|(file, prefix)| (bed.path(file), prefix.to_string()));
    for (number, (database, prefix)) in databases.iter().enumerate() {
        bed.write(database, &["--commits", &(number + 2).to_string()]);
        let ran =
            bed.run(&["replicate", "-once", "-create-bucket", database.to_str().unwrap(), &bed.url_below(prefix)]);
        ran.succeeded();
    }
    databases.to_vec()
}

fn config(bed: &Bed) -> PathBuf {
    let config = bed.path("litestream.yml");
    let named = ["app", "shop"].map(|name| {
        let path = bed.path(&format!("{name}.db"));
        format!("  - {{path: {}, replica: {{url: \"{}\"}}}}\n", path.display(), bed.url_below(name))
    });
    let dir = bed.path("tenants");
    let dir = format!(
        "  - {{dir: {}, pattern: \"*.db\", replica: {{url: \"{}\"}}}}\n",
        dir.display(),
        bed.url_below("tenants")
    );
    fs::write(&config, format!("dbs:\n{}{dir}", named.concat())).unwrap();
    config
}

fn restore_all(bed: &Bed, words: &[&str]) -> Ran {
    let config = config(bed);
    let words = ["-config", config.to_str().unwrap(), "restore", "-all"].into_iter().chain(words.iter().copied());
    bed.run(&words.collect::<Vec<_>>())
}

fn below(directory: &Path, path: &Path) -> PathBuf {
    directory.join(path.strip_prefix("/").unwrap())
}

fn every_configured_database_is_restored_with_one_line_each(bed: &Bed) {
    let databases = stored(bed);
    let output = bed.path("out");
    let ran = restore_all(bed, &["-o", output.to_str().unwrap()]).succeeded();
    assert_eq!(ran.stdout.lines().count(), 3, "{}", ran.stdout);
    for (database, _) in &databases {
        assert_equal(database, &below(&output, database));
    }
    // Without -o each goes where it was: also those of a directory whose files are all lost.
    let saved = bed.path("saved");
    fs::create_dir(&saved).unwrap();
    for (database, _) in &databases {
        let kept = saved.join(database.file_name().unwrap());
        fs::rename(database, kept).unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", database.display()));
        }
    }
    let ran = restore_all(bed, &["-q"]).succeeded();
    assert_eq!(ran.stdout, "");
    for (database, _) in &databases {
        assert_equal(&saved.join(database.file_name().unwrap()), database);
    }
    // What exists is not touched, and is an error unless that is asked for.
    restore_all(bed, &[]).refused(support::DATABASE, &["app.db", "already exists"]);
    let ran = restore_all(bed, &["-if-db-not-exists", "-json"]).succeeded();
    let rows: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(rows.as_array().unwrap().iter().all(|row| row["skipped"] == "the database exists"), "{rows}");
}

fn databases_are_restored_from_the_url_alone(bed: &Bed) {
    let databases = stored(bed);
    let output = bed.path("out");
    let ran = bed.run(&["restore", "-all", "-o", output.to_str().unwrap(), &bed.url()]).succeeded();
    assert_eq!(ran.stdout.lines().count(), 3, "{}", ran.stdout);
    for (database, prefix) in &databases {
        assert_equal(database, &output.join(prefix));
    }
    let ran = bed.run(&["restore", "-all", "-dry-run", "-json", &bed.url()]).succeeded();
    let rows: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(
        rows.as_array().unwrap().iter().all(|row| row["read"].as_u64() > Some(0) && row["error"].is_null()),
        "{rows}"
    );
    // One database is stored at the URL itself.
    let ran = bed.run(&["restore", "-all", "-o", bed.path("one").to_str().unwrap(), &bed.url_below("app")]);
    ran.succeeded();
    assert_equal(&databases[0].0, &bed.path("one").join("app"));
    bed.run(&["restore", "-all", &bed.url()]).refused(USAGE, &["-o"]);
    let words = ["restore", "-all", "-generation", "0123456789abcdef", "-o", "x", &bed.url()];
    bed.run(&words).refused(USAGE, &["-all", "-generation"]);
}

fn one_damaged_backup_does_not_keep_the_others(bed: &Bed) {
    let databases = stored(bed);
    damage(bed, "shop");
    let output = bed.path("out");
    let ran = bed.run(&["restore", "-all", "-o", output.to_str().unwrap(), &bed.url()]);
    assert_eq!(ran.status, CORRUPT, "{}", ran.stderr);
    assert!(ran.stderr.contains("shop"), "{}", ran.stderr);
    for (database, prefix) in databases.iter().filter(|(_, prefix)| prefix != "shop") {
        assert_equal(database, &output.join(prefix));
    }
    assert!(!output.join("shop").exists());
}

fn two_databases_for_one_output_are_not_restored(bed: &Bed) {
    // The one at the root gets the last part of the URL as its name.
    let last = bed.url().rsplit('/').next().unwrap().to_string();
    let urls = ["", &last, "n", "n/x", "other"].map(|prefix| match prefix {
        "" => bed.url(),
        prefix => bed.url_below(prefix),
    });
    let databases: Vec<PathBuf> = (0..urls.len()).map(|number| bed.path(&format!("{number}.db"))).collect();
    for (number, (database, url)) in databases.iter().zip(&urls).enumerate() {
        bed.write(database, &["--commits", &(number + 1).to_string()]);
        bed.run(&["replicate", "-once", "-create-bucket", database.to_str().unwrap(), url]).succeeded();
    }
    let output = bed.path("out");
    for _ in 0..2 {
        let ran = bed.run(&["restore", "-all", "-force", "-json", "-o", output.to_str().unwrap(), &bed.url()]);
        assert_eq!(ran.status, support::DATABASE, "{}", ran.stderr);
        let rows: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
        let error = |url: &str| rows.iter().find(|row| row["replica"] == url).expect("a row")["error"].to_string();
        for (one, other) in [(0, 1), (1, 0), (2, 3), (3, 2)] {
            let found = error(&urls[one]);
            assert!(found.contains(&urls[one]) && found.contains(&urls[other]), "{found}");
        }
        assert!(ran.stderr.contains("litestream restore -o FILE REPLICA_URL"), "{}", ran.stderr);
        assert_eq!(fs::read_dir(&output).unwrap().count(), 1);
        assert_equal(&databases[4], &output.join("other"));
    }
    // The way out that the hint names.
    let alone = bed.path("alone.db");
    bed.run(&["restore", "-o", alone.to_str().unwrap(), &urls[3]]).succeeded();
    assert_equal(&databases[3], &alone);
    // A follower keeps those that came first, and says what it does not follow.
    let words = ["restore", "-f", "-all", "-follow-interval", "50ms", "-o", output.to_str().unwrap(), &bed.url()];
    fs::remove_file(output.join("other")).unwrap();
    let mut follower = bed.start(&words);
    until("the root is there", || equal(&databases[0], &output.join(&last)));
    until("n is there", || equal(&databases[2], &output.join("n")));
    until("the other is there", || equal(&databases[4], &output.join("other")));
    follower.says("new database not followed");
    until("both are named", || {
        let log = follower.log();
        let told = |url: &str| log.lines().any(|line| line.contains("not followed") && line.contains(url));
        if told(&urls[1]) && told(&urls[3]) { Ok(()) } else { Err(log) }
    });
    follower.stop();
}

/// Replaces the content of the snapshot below a prefix, as another client would.
fn damage(bed: &Bed, prefix: &str) {
    let around = Environment {
        env: &|_| None,
        current_dir: "/".into(),
        seed_file: &|_| unreachable!(),
        context_file: &|_| Ok(None),
    };
    let replica = config::replica(&bed.url_below(prefix), &around).unwrap();
    let store = store::open(&replica.target, Default::default(), &mut store::ConnectionPool::default()).unwrap();
    drive::connect(&*store).unwrap();
    let names = drive::names(&*store, "generations/").unwrap();
    let snapshot = names.iter().find(|name| name.contains("/snapshots/")).expect("a snapshot");
    drive::put(&*store, snapshot, b"damaged").unwrap();
}

fn a_mistyped_prefix_is_answered_with_what_is_stored(bed: &Bed) {
    stored(bed);
    let output = bed.path("out.db");
    let output = output.to_str().unwrap();
    let named = ["app", "shop"];
    bed.run(&["restore", "-o", output, &bed.url_below("ap")]).refused(NOTHING, &named);
    bed.run(&["generations", &bed.url_below("ap")]).refused(NOTHING, &named);
    bed.run(&["delete", "-yes", &bed.url_below("ap")]).refused(NOTHING, &named);
    if bed.url().starts_with("nats://") {
        let (server, bucket) = bed.url().rsplit_once('/').map(|(a, b)| (a.to_string(), b.to_string())).unwrap();
        let ran = bed.run(&["restore", "-o", output, &format!("{server}/{bucket}x/app")]);
        assert!(ran.stderr.contains(&format!("there are {bucket}")), "{}", ran.stderr);
        assert!(!ran.stderr.contains("create-bucket"), "{}", ran.stderr);
    }
}

fn a_deleted_database_leaves_nothing_and_the_others_stay(bed: &Bed) {
    let databases = stored(bed);
    let url = bed.url_below("shop");
    let ran = bed.run(&["delete", "-dry-run", &url]).succeeded();
    assert!(ran.stdout.starts_with("would delete ") && ran.stdout.contains("every moment from"), "{}", ran.stdout);
    // Standard input is no terminal: nobody can confirm.
    bed.run(&["delete", &url]).refused(USAGE, &["not a terminal", "-yes"]);
    bed.restore(&url, &bed.path("still.db")).succeeded();
    let ran = bed.run(&["delete", "-yes", "-json", &url]).succeeded();
    let row: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(row["deleted"] == true && row["objects"].as_u64() > Some(0), "{row}");
    bed.restore(&url, &bed.path("gone.db")).refused(NOTHING, &["nothing is stored"]);
    for (database, prefix) in databases.iter().filter(|(_, prefix)| prefix != "shop") {
        let output = bed.fresh("rest.db");
        bed.restore(&bed.url_below(prefix), &output).succeeded();
        assert_equal(database, &output);
    }
}

fn a_database_that_is_replicated_is_not_deleted(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    bed.run(&["delete", "-yes", &bed.url()]).refused(LOCKED, &["delete "]);
    bed.converges(&database);
    replicator.stop();
    bed.run(&["delete", "-yes", &bed.url()]).succeeded();
    assert!(bed.restored_if_any().is_none());
}

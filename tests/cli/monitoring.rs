//! What a monitor reads: `status`, `verify`, the metrics file and the exit status say what is so, and what is not known.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support;
use crate::support::{Bed, CORRUPT, DATABASE, Ran, litestream, on_a_directory_only, on_both_stores, until};
use serde_json::Value;

on_both_stores! {
    a_tenant_whose_file_has_vanished_is_reported
    a_volume_that_is_not_mounted_is_no_success
}

on_a_directory_only! {
    a_directory_whose_store_cannot_be_listed_is_reported
    a_damaged_backup_is_said_once_and_has_a_row
    a_lag_that_is_not_known_is_not_told
    moment_after_the_newest_commit_gives_it_with_its_age
    time_without_zone_is_refused_with_both_readings
    replica_on_the_disk_of_its_database_is_warned_about_once
}

/// Writes the configuration; the path of its file.
fn config(bed: &Bed, text: &str) -> PathBuf {
    let path = bed.fresh("litestream.yml");
    fs::write(&path, text).unwrap();
    path
}

fn run(bed: &Bed, config: &Path, words: &[&str]) -> Ran {
    bed.run_command(litestream().arg("-config").arg(config).args(words))
}

fn rows(ran: &Ran) -> Vec<Value> {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", ran.stdout, ran.stderr))
}

/// A directory with these databases, and a configuration that stores them.
fn fleet(bed: &Bed, names: &[&str]) -> (PathBuf, PathBuf) {
    let directory = bed.path("tenants");
    fs::create_dir(&directory).unwrap();
    for name in names {
        bed.write(&directory.join(name), &["--commits", "3"]);
    }
    let text = format!(
        "dbs:\n  - dir: {}\n    pattern: '*.db'\n    replica: {{url: \"{}\"}}\n",
        directory.display(),
        bed.url_below("fleet")
    );
    (directory, config(bed, &text))
}

fn a_tenant_whose_file_has_vanished_is_reported(bed: &Bed) {
    let (directory, config) = fleet(bed, &["a.db", "b.db"]);
    run(bed, &config, &["replicate", "-once", "-create-bucket"]).succeeded();
    for command in ["status", "verify"] {
        assert_eq!(rows(&run(bed, &config, &[command, "-json"]).succeeded()).len(), 2, "{command}");
    }
    // What does not fit the pattern is no tenant of this directory.
    run(bed, &config, &["snapshot", directory.join("a.db").to_str().unwrap(), &bed.url_below("fleet/a.txt")]);
    let gone = directory.join("b.db");
    fs::remove_file(&gone).unwrap();
    for command in ["status", "verify"] {
        let ran = run(bed, &config, &[command, "-json"]);
        let rows = rows(&ran);
        assert_eq!((ran.status, rows.len()), (DATABASE, 2), "{command}: {}{}", ran.stdout, ran.stderr);
        let row = rows.iter().find(|row| row["database"] == gone.to_str().unwrap()).expect("a row for b.db");
        let says = row[if command == "status" { "status" } else { "live" }].as_str().unwrap();
        assert!(says.starts_with("missing"), "{row}");
        assert!(row["position"].is_string(), "{row}");
        assert!(run(bed, &config, &[command]).stdout.contains("missing: "), "{command}");
    }
    // The file alone is missing: what is stored is whole.
    bed.restored_from(&bed.url_below("fleet/b.db"));
}

/// Each database is told in a line, with the status that `status` has, and no heartbeat says that all is stored.
fn a_volume_that_is_not_mounted_is_no_success(bed: &Bed) {
    let (directory, file) = fleet(bed, &[]);
    // A directory that is empty from the beginning misses nothing.
    run(bed, &file, &["replicate", "-once", "-create-bucket"]).succeeded();
    for name in ["a.db", "b.db"] {
        bed.write(&directory.join(name), &["--commits", "3"]);
    }
    let (url, beats) = support::heartbeats();
    let file = config(bed, &format!("heartbeat-url: {url}\n{}", fs::read_to_string(file).unwrap()));
    run(bed, &file, &["snapshot"]).succeeded();
    beats.recv_timeout(support::SOON).expect("a heartbeat");
    fs::rename(&directory, bed.path("elsewhere")).unwrap();
    fs::create_dir(&directory).unwrap();
    for words in [&["snapshot"][..], &["replicate", "-once"]] {
        let ran = run(bed, &file, words).refused(DATABASE, &[]);
        for name in ["a.db", "b.db"] {
            let line = format!("litestream: database {}: missing: ", directory.join(name).display());
            assert_eq!(ran.stderr.matches(&line).count(), 1, "{words:?}: {}", ran.stderr);
        }
    }
    let rows = rows(&run(bed, &file, &["snapshot", "-json"]));
    assert!(rows.len() == 2 && rows[0]["error"].as_str().unwrap().contains("missing: "), "{rows:?}");
    assert!(beats.try_recv().is_err(), "a heartbeat was sent");
    assert_eq!(run(bed, &file, &["status"]).status, DATABASE);
    // Where nobody knows what is missing, nobody says that nothing is.
    let away = format!("nats://127.0.0.1:{}/b", closed_port());
    let text = format!("dbs: [{{dir: {}, pattern: '*.db', replica: {{url: '{away}'}}}}]", directory.display());
    let file = config(bed, &text);
    for words in [&["snapshot"][..], &["replicate", "-once"], &["status"]] {
        assert_eq!(run(bed, &file, words).status, support::STORE, "{words:?}");
    }
}

fn a_directory_whose_store_cannot_be_listed_is_reported(bed: &Bed) {
    let (directory, config) = fleet(bed, &[]);
    // A file stands where the store should be.
    fs::write(bed.path("store"), "").unwrap();
    for command in ["status", "verify"] {
        let ran = run(bed, &config, &[command, "-json"]);
        let rows = rows(&ran);
        assert_eq!((ran.status, rows.len()), (support::STORE, 1), "{command}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(rows[0]["database"], directory.to_str().unwrap());
    }
}

/// The object of the store with this in its name.
fn object(bed: &Bed, room: &str, part: &str) -> PathBuf {
    let objects = bed.objects(room);
    let name = objects.iter().find(|name| name.contains(part)).unwrap_or_else(|| panic!("no {part} in {objects:?}"));
    bed.path("store").join(name.split(' ').next().unwrap())
}

fn a_damaged_backup_is_said_once_and_has_a_row(bed: &Bed) {
    let (directory, config) = fleet(bed, &["a.db", "b.db"]);
    run(bed, &config, &["replicate", "-once"]).succeeded();
    let damaged = object(bed, "snapshots", "b.db");
    fs::write(&damaged, b"no gzip at all").unwrap();
    let ran = run(bed, &config, &["verify", "-json"]);
    assert_eq!(ran.status, CORRUPT, "{}{}", ran.stdout, ran.stderr);
    let rows = rows(&ran);
    let of = |name: &str| {
        let path = directory.join(name);
        rows.iter().find(|row| row["database"] == path.to_str().unwrap()).unwrap_or_else(|| panic!("{name}: {rows:?}"))
    };
    assert_eq!((&of("a.db")["live"], &of("a.db")["error"]), (&"equal".into(), &Value::Null));
    assert!(of("a.db")["bytes"].is_u64() && of("b.db")["bytes"].is_null(), "{rows:?}");
    assert!(of("b.db")["error"].as_str().unwrap().contains("snapshots/"), "{rows:?}");
    assert!(ran.stderr.lines().count() <= 3, "damage is said again and again:\n{}", ran.stderr);
}

/// Where nobody listens.
fn closed_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn a_lag_that_is_not_known_is_not_told(bed: &Bed) {
    let (database, metrics) = (bed.database(), bed.path("litestream.prom"));
    let text = |url: &str| {
        let (path, metrics) = (database.display(), metrics.display());
        let top = format!("shutdown-sync-timeout: 1s\nmetrics-file: {metrics}\n");
        config(bed, &format!("{top}dbs: [{{path: {path}, replica: {{url: '{url}'}}}}]"))
    };
    let start = |config: &Path| bed.spawn(litestream().arg("-config").arg(config).arg("replicate"));
    let written = |part: &str| {
        until("the metrics are written", || {
            let text = fs::read_to_string(&metrics).map_err(|error| error.to_string())?;
            if text.contains(part) { Ok(text) } else { Err(text) }
        })
    };
    let mut replicator = start(&text(&format!("nats://127.0.0.1:{}/backup", closed_port())));
    assert!(!written("litestream_up{db=").contains("litestream_lag_seconds{"));
    until("the trouble is told", || {
        let log = replicator.log();
        if log.contains("lag=- ") { Ok(()) } else { Err(log) }
    });
    replicator.terminate();
    replicator.wait();
    fs::remove_file(&metrics).unwrap();
    let replicator = start(&text(&bed.url()));
    written("litestream_lag_seconds{");
    replicator.stop();
}

fn restore(bed: &Bed, moment: &str, more: &[&str]) -> (Ran, PathBuf) {
    let output = bed.fresh("restored.db");
    let mut command = support::restore_command(&bed.url(), &output);
    (bed.run_command(command.args(["-timestamp", moment]).args(more).env("TZ", "XXX-01:30")), output)
}

fn moment_after_the_newest_commit_gives_it_with_its_age(bed: &Bed) {
    let database = bed.database();
    bed.replicate_once(&database);
    let age = "before the requested moment";
    for moment in ["2999-01-01 00:00Z", "@4000000000", "-0s"] {
        let (ran, output) = restore(bed, moment, &[]);
        assert!(ran.stderr.contains(age), "{}", ran.stderr);
        ran.succeeded();
        support::assert_equal(&database, &output);
        let (ran, output) = restore(bed, moment, &["-strict"]);
        ran.refused(support::NOTHING, &["the backup covers "]);
        assert!(!output.exists());
    }
    restore(bed, "-1h", &[]).0.refused(support::NOTHING, &["restores the oldest stored state"]);
    // What is stored of a newer generation says that there was more.
    let objects = bed.path("store/generations/ffff000000000000/wal");
    fs::create_dir_all(&objects).unwrap();
    let segment = "00000000.000000000000-00000000.000000001038-20260101T000000.000Z-20260101T000000.000Z.gz";
    fs::write(objects.join(segment), "x").unwrap();
    restore(bed, "2999-01-01 00:00Z", &[]).0.refused(support::NOTHING, &["the backup covers "]);
}

fn time_without_zone_is_refused_with_both_readings(bed: &Bed) {
    let (ran, _) = restore(bed, "2026-11-23 06:08", &[]);
    ran.refused(support::USAGE, &["2026-11-23T06:08:00Z is UTC, 2026-11-23T06:08:00+01:30 is local time"]);
}

/// By a service alone: cron mails each line.
fn replica_on_the_disk_of_its_database_is_warned_about_once(bed: &Bed) {
    let database = bed.database();
    let warning = "the replica is on the same file system as its database";
    let mut replicator = bed.replicate(&database);
    replicator.says(warning);
    bed.converges(&database);
    assert_eq!(replicator.log().matches(warning).count(), 1);
    replicator.stop();
    assert!(!bed.replicate_once(&database).stderr.contains(warning));
}

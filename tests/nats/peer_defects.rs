//! The 22 defects that were seen in the peer on NATS (Litestream 0.5.17), and where each is held to the right behaviour
//! here. What no other file tests is tested below.

use std::fs;

use crate::support::bucket;
use crate::support::{Bed, NOTHING, STORE, assert_equal, litestream};

/// Number, what the peer does, and the test: file and name.
const TABLE: [(&str, &str, &str, &str); 22] = [
    (
        "L1",
        "a failed upload leaves a visible object",
        "nats/limits",
        "a_full_bucket_is_told_and_waited_for_and_shows_nothing_half",
    ),
    (
        "L2",
        "a path is ignored: two databases mix",
        "replicate/roundtrip",
        "two_databases_under_two_prefixes_never_meet",
    ),
    ("L3", "directories do not work", "nats/peer_defects", "a_directory_of_databases_goes_into_one_bucket"),
    (
        "L4",
        "a URL of a host and a bucket beside it fail",
        "nats/logins",
        "user_and_password_work_from_file_url_and_environment",
    ),
    ("L5", "a login in a URL is dropped", "nats/logins", "a_token_in_the_file_the_url_and_the_environment"),
    ("L6", "nkeys never work", "nats/logins", "an_nkey_by_its_seed"),
    ("L7", "an outage is silent", "nats/outage", "an_outage_is_in_the_log_and_its_end_too"),
    ("L8", "a failed final sync exits 0", "nats/outage", "stop_during_an_outage_does_not_claim_success"),
    ("L9", "a short run stores nothing", "cli/service", "short_command_is_completely_stored_and_its_status_used"),
    ("L10", "no final sync when the child fails", "cli/service", "a_signal_reaches_the_child_and_its_end_is_ours"),
    ("L11", "the child's status is lost", "cli/service", "short_command_is_completely_stored_and_its_status_used"),
    (
        "L12",
        "-force deletes before it looks",
        "nats/peer_defects",
        "a_forced_restore_of_nothing_leaves_the_target_as_it_is",
    ),
    ("L13", "delete markers pile up", "nats/store_nats", "replace_delete_and_drop_leave_nothing_in_the_stream"),
    ("L14", "each restore lists the bucket again and again", "nats/peer_defects", "a_restore_lists_the_bucket_once"),
    ("L15", "a message a page", "nats/peer_defects", "a_snapshot_is_as_many_messages_as_its_chunks"),
    ("L16", "orphan chunks stay", "nats/store_nats_sweep", "a_sweep_removes_orphans_and_nothing_else"),
    (
        "L17",
        "a time-out without a unit is nanoseconds",
        "cli/config",
        "a_value_that_cannot_be_right_is_refused_at_its_line",
    ),
    ("L18", "misspelt keys are accepted", "cli/config", "unknown_key_is_reported_with_line_and_nearest_key"),
    (
        "L19",
        "no bucket is an error even if none is asked for",
        "nats/deadlines",
        "replicator_sleeps_while_it_waits_for_a_server",
    ),
    (
        "L20",
        "a moment after the last object is no moment",
        "nats/peer_defects",
        "moment_after_the_last_commit_is_the_same_by_url_and_config",
    ),
    (
        "L21",
        "the WAL grows without bound",
        "nats/peer_defects",
        "long_burst_without_application_checkpoints_keeps_wal_small",
    ),
    ("L22", "34 MB and 0.1 % while idle", "nats/peer_defects", "an_idle_replicator_is_small_and_sleeps"),
];

#[test]
fn each_defect_has_its_test() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (number, what, file, test) in TABLE {
        let text = fs::read_to_string(root.join(format!("{file}.rs"))).expect("a test file");
        assert!(text.contains(&format!("fn {test}(")), "{number}, {what}: no {test} in {file}.rs");
    }
}

fn monitored(name: &str) -> (Bed, u16) {
    let (config, monitor) = bucket::monitored();
    (Bed::nats_with(name, &config), monitor)
}

#[test]
fn a_directory_of_databases_goes_into_one_bucket() {
    let bed = Bed::nats("dir");
    let directory = bed.path("tenants");
    fs::create_dir_all(&directory).expect("make directories");
    let databases = [directory.join("a.db"), directory.join("b.db")];
    for (seed, database) in databases.iter().enumerate() {
        bed.write(database, &["--commits", "3", "--seed", &(seed + 1).to_string()]);
        let _ = fs::rename(format!("{}.commits", database.display()), bed.fresh("commits"));
    }
    let config = bed.path("litestream.yml");
    let text = format!(
        "dbs:\n  - dir: {}\n    pattern: \"*.db\"\n    replica: {{ type: nats, url: \"{}\", create-bucket: true }}\n",
        directory.display(),
        bed.url_below("tenants")
    );
    fs::write(&config, text).expect("write a configuration");
    bed.run_command(litestream().args(["replicate", "-once", "-config"]).arg(&config)).succeeded();
    for (name, database) in ["a.db", "b.db"].iter().zip(&databases) {
        assert_equal(database, &bed.restored_from(&bed.url_below(&format!("tenants/{name}"))));
    }
}

#[test]
fn a_forced_restore_of_nothing_leaves_the_target_as_it_is() {
    let bed = Bed::nats("force");
    let database = bed.database();
    bed.replicate_once(&database);
    let target = bed.restored();
    let before = fs::read(&target).expect("the target");
    let path = target.to_str().expect("a path");
    bed.run(&["restore", "-force", "-o", path, &bed.url_below("empty")]).refused(NOTHING, &["empty"]);
    let missing = bed.url().replace("/backup", "/nowhere");
    bed.run(&["restore", "-force", "-o", path, &missing]).refused(STORE, &["there is no such bucket"]);
    assert_eq!(fs::read(&target).expect("the target"), before);
    let fresh = bed.fresh("absent");
    bed.run(&["restore", "-if-replica-exists", "-o", fresh.to_str().expect("a path"), &missing]).succeeded();
    assert!(!fresh.exists(), "a bucket that is not there holds no replica");
}

#[test]
fn a_restore_lists_the_bucket_once() {
    let (bed, monitor) = monitored("lists");
    let database = bed.database();
    bed.replicate_once(&database);
    let requests = || bucket::http_get(monitor, "/varz")["in_msgs"].as_u64().expect("a number");
    let before = requests();
    bed.restored();
    let asked = requests() - before;
    // Bucket, consumer, batch and its end; two messages an object, and the link's own few.
    assert!(asked <= 30, "{asked} messages for a restore of two objects");
}

#[test]
fn a_snapshot_is_as_many_messages_as_its_chunks() {
    let (bed, monitor) = monitored("messages");
    let database = bed.path("a.db");
    bed.write(&database, &["--commits", "60", "--size", "60000"]);
    bed.replicate_once(&database);
    let size = fs::metadata(&database).expect("the database").len();
    let (messages, most) = (bucket::messages(monitor), size / (128 * 1024) + 8);
    assert!(size > 5_000_000 && messages <= most, "{messages} messages for {size} bytes, at most {most}");
}

#[test]
fn moment_after_the_last_commit_is_the_same_by_url_and_config() {
    let bed = Bed::nats("later");
    let database = bed.database();
    bed.replicate_once(&database);
    let (config, output) = (bed.path("litestream.yml"), bed.path("out.db"));
    let text =
        format!("dbs:\n  - path: {}\n    replica: {{ type: nats, url: \"{}\" }}\n", database.display(), bed.url());
    fs::write(&config, text).expect("write a configuration");
    let mut by_url = litestream();
    by_url.args(["restore", "-strict", "-timestamp", "2999-01-01T00:00:00Z", "-o"]).arg(&output).arg(bed.url());
    let mut by_config = litestream();
    by_config
        .args(["restore", "-strict", "-timestamp", "2999-01-01T00:00:00Z", "-o"])
        .arg(&output)
        .arg("-config")
        .arg(&config);
    for command in [&mut by_url, by_config.arg(&database)] {
        bed.run_command(command).refused(NOTHING, &["the backup covers ", "hint: leave out -timestamp"]);
    }
    assert!(!output.exists());
}

#[test]
fn an_idle_replicator_is_small_and_sleeps() {
    let bed = Bed::nats("idle");
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let stat = || {
        let text = fs::read_to_string(format!("/proc/{}/stat", replicator.pid())).expect("its times");
        let words: Vec<u64> =
            text.rsplit(") ").next().unwrap_or("").split(' ').filter_map(|w| w.parse().ok()).collect();
        words[10] + words[11]
    };
    let before = stat();
    // What is measured: five seconds at rest.
    std::thread::sleep(std::time::Duration::from_secs(5));
    let used = stat() - before;
    let status = fs::read_to_string(format!("/proc/{}/status", replicator.pid())).expect("its memory");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("its memory");
    let resident: u64 = line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number");
    println!("idle: {used} hundredths of a second in 5 s, {resident} kB");
    // A debug build on a busy machine; `make bench` has the figures of a release.
    assert!(used <= 10 && resident < 34_000, "{used} hundredths, {resident} kB");
    replicator.stop();
}

#[test]
fn long_burst_without_application_checkpoints_keeps_wal_small() {
    let bed = Bed::directory("burst");
    let database = bed.database();
    let wal = database.with_file_name("a.db-wal");
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    // About 8 MB a second, for which nobody but the replicator checkpoints.
    let burst = ["--commits", "320", "--rate", "40", "--rows", "20", "--size", "8000", "--change", "0"];
    let mut application = bed.application(&database, &[&burst[..], &["--autocheckpoint", "0"]].concat());
    let mut most = 0;
    while application.is_running() {
        most = most.max(fs::metadata(&wal).map_or(0, |wal| wal.len()));
        // A sample of the WAL's length each 50 ms while it writes.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    application.exits(0);
    let grown = fs::metadata(&database).expect("the database").len();
    println!("a WAL of {most} bytes at most, a database of {grown}");
    assert!(grown > 40_000_000, "{grown} bytes are no burst");
    assert!(most < grown / 2, "a WAL of {most} bytes for a database of {grown}");
    bed.converges(&database);
    replicator.stop();
}

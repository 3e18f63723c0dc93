//! The bucket is full, sealed, gone or narrow: the program says so, goes on as soon as it can, and nothing half is visible.

use std::path::Path;

use crate::support::raw;
use crate::support::{Bed, Process, STORE, State, USAGE, assert_equal, committed, judged, litestream, until};
use serde_json::json;

const BUCKET: &str = "backup";

fn address(bed: &Bed) -> String {
    bed.url().trim_start_matches("nats://").split('/').next().expect("an address").to_string()
}

/// Without -create-bucket: the test makes it.
fn replicate(bed: &Bed, database: &Path) -> Process {
    let mut command = litestream();
    command.arg("replicate").arg(database).arg(bed.url());
    bed.spawn(&mut command)
}

/// Every object that is visible can be read, and what is restored is a state that was committed.
fn restores_a_commit(bed: &Bed, database: &Path) -> State {
    bed.run(&["verify", &bed.url()]).succeeded();
    let state = judged(&bed.restored());
    assert!(committed(database).contains(&state), "{state:?}");
    state
}

#[test]
fn a_full_bucket_is_told_and_waited_for_and_shows_nothing_half() {
    let bed = Bed::nats("full");
    raw::create(&address(&bed), BUCKET, json!({"max_bytes": 400_000}));
    let database = bed.database();
    let mut replicator = replicate(&bed, &database);
    bed.converges(&database);
    // Too large for what is left, in more than one chunk.
    bed.write(&database, &["--commits", "30", "--size", "60000"]);
    replicator.says("maximum bytes exceeded");
    replicator.says("raise the limit");
    restores_a_commit(&bed, &database);
    assert!(replicator.is_running());
    raw::update(&address(&bed), BUCKET, json!({"max_bytes": 400_000_000}));
    bed.converges(&database);
    replicator.says("problem resolved");
    replicator.stop();
    bed.run(&["verify", &bed.url()]).succeeded();
    assert_equal(&database, &bed.restored());
}

#[test]
fn run_without_room_does_not_claim_success() {
    let bed = Bed::nats("once");
    raw::create(&address(&bed), BUCKET, json!({"max_bytes": 20_000}));
    let database = bed.path("a.db");
    bed.write(&database, &["--commits", "30", "--size", "60000"]);
    let config = bed.path("litestream.yml");
    let text = format!(
        "shutdown-sync-timeout: 2s\ndbs:\n  - path: {}\n    replica: {{ type: nats, url: \"{}\" }}\n",
        database.display(),
        bed.url()
    );
    std::fs::write(&config, text).expect("write a configuration");
    let ran = bed.run(&["replicate", "-once", "-config", config.to_str().expect("a path")]);
    ran.refused(STORE, &["maximum bytes exceeded"]);
    assert_ne!(bed.restore(&bed.url(), &bed.path("out.db")).status, 0, "there is no whole snapshot");
}

#[test]
fn a_narrow_server_gets_small_chunks() {
    let bed = Bed::nats_with("narrow", "max_payload: 65536");
    let database = bed.database();
    bed.write(&database, &["--commits", "20", "--size", "50000"]);
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    bed.write(&database, &["--commits", "10", "--size", "90000"]);
    bed.converges(&database);
    replicator.stop();
    bed.run(&["verify", &bed.url()]).succeeded();
}

#[test]
fn a_sealed_bucket_is_told_and_can_be_restored_from() {
    let bed = Bed::nats("sealed");
    let database = bed.database();
    bed.replicate_once(&database);
    raw::update(&address(&bed), BUCKET, json!({"sealed": true}));
    assert_equal(&database, &bed.restored());
    bed.write(&database, &["--commits", "2"]);
    let mut replicator = replicate(&bed, &database);
    replicator.says("the bucket is sealed");
    replicator.says("problem, retrying");
    assert!(replicator.is_running());
}

#[test]
fn recreated_bucket_gets_a_new_generation() {
    let bed = Bed::nats("deleted");
    raw::create(&address(&bed), BUCKET, json!({}));
    let database = bed.database();
    let mut replicator = replicate(&bed, &database);
    bed.converges(&database);
    raw::delete(&address(&bed), BUCKET);
    bed.write(&database, &["--commits", "2"]);
    replicator.says("there is no such bucket");
    assert!(replicator.is_running());
    raw::create(&address(&bed), BUCKET, json!({}));
    replicator.says("stored history is gone");
    bed.write(&database, &["--commits", "2"]);
    bed.converges(&database);
    let lines = replicator.log().lines().count();
    assert!(lines < 25, "it says the same over and over:\n{}", replicator.log());
    replicator.stop();
    bed.run(&["verify", &bed.url()]).succeeded();
}

#[test]
fn a_server_that_lost_its_disk_gets_everything_anew() {
    let mut bed = Bed::nats("disk");
    let database = bed.database();
    let mut replicator = bed.replicate(&database);
    bed.converges(&database);
    bed.server().kill();
    let disk = bed.server().scratch.join("jetstream");
    std::fs::remove_dir_all(disk).expect("remove the server's disk");
    bed.server().restart();
    // -create-bucket was given, so that no one needs to help; the database does not change meanwhile.
    replicator.says("stored history is gone");
    bed.converges(&database);
    replicator.stop();
}

#[test]
fn who_may_not_write_is_told_which_subject_it_is() {
    let config = "authorization { users = [ { user: u, password: p, permissions: { publish: [\"$JS.API.>\", \
                  \"litestream.>\"] } } ] }";
    let bed = Bed::nats_with("permission", config);
    let database = bed.database();
    let config = bed.path("litestream.yml");
    let url = bed.url();
    let text = format!(
        "shutdown-sync-timeout: 3s\ndbs:\n  - path: {}\n    replica: {{ type: nats, url: \"{url}\", username: u, password: p, \
         create-bucket: true, timeout: 1s }}\n",
        database.display(),
    );
    std::fs::write(&config, text).expect("write a configuration");
    let ran = bed.run(&["replicate", "-once", "-config", config.to_str().expect("a path")]);
    // At once: it does not wait for an answer that cannot come.
    let ran = ran.refused(STORE, &["Permissions Violation for Publish to \"$O.backup.C."]);
    assert!(!ran.stderr.contains("no answer within"), "{}", ran.stderr);
}

#[test]
fn purge_without_permission_is_said_with_its_subject() {
    let config = "authorization { users = [ { user: u, password: p, permissions: { publish: { \
                  deny: [\"$JS.API.STREAM.PURGE.>\"] } } } ] }";
    let bed = Bed::nats_with("purge", config);
    let database = bed.database();
    let url = bed.url().replace("nats://", "nats://u:p@");
    let mut command = bed.replicate_command(&database, &url);
    bed.run_command(command.arg("-once")).succeeded();
    let ran = bed.run(&["delete", "-yes", &url]);
    let ran = ran.refused(STORE, &["Permissions Violation for Publish to \"$JS.API.STREAM.PURGE.OBJ_backup\""]);
    assert!(!ran.stderr.contains("no answer within"), "{}", ran.stderr);
}

#[test]
fn bucket_with_a_message_limit_gets_smaller_chunks() {
    let bed = Bed::nats("messages");
    raw::create(&address(&bed), BUCKET, json!({"max_msg_size": 20_000}));
    let database = bed.database();
    bed.write(&database, &["--commits", "20", "--size", "50000"]);
    let replicator = replicate(&bed, &database);
    bed.converges(&database);
    replicator.stop();
    bed.run(&["verify", &bed.url()]).succeeded();
}

#[test]
fn start_waits_for_a_full_account_and_names_the_limit() {
    let config =
        "accounts { A { jetstream { max_consumers: 4 }, users = [ { user: u, password: p } ] } }\nno_auth_user: u";
    let bed = Bed::nats_with("consumers", config);
    let address = address(&bed);
    raw::create(&address, BUCKET, json!({}));
    for name in ["1", "2", "3", "4"] {
        let other = json!({"stream_name": "OBJ_backup", "config": {"durable_name": name, "ack_policy": "none"}});
        raw::ask(&address, &format!("$JS.API.CONSUMER.DURABLE.CREATE.OBJ_backup.{name}"), &other);
    }
    let database = bed.database();
    let mut replicator = replicate(&bed, &database);
    replicator.says("maximum consumers limit reached");
    assert!(replicator.log().contains("max_consumers of the account"), "{}", replicator.log());
    assert!(replicator.is_running());
    for name in ["1", "2", "3", "4"] {
        raw::ask(&address, &format!("$JS.API.CONSUMER.DELETE.OBJ_backup.{name}"), &json!({}));
    }
    // Not by restores in a loop: each of them is a consumer more for a while.
    replicator.says("snapshot stored");
    assert_equal(&database, &bed.restored());
    replicator.stop();
}

#[test]
fn account_that_wants_sizes_gets_a_hint_that_says_so() {
    let config = "accounts { A { jetstream { max_file: 1G, max_bytes_required: true }, users = [ { user: u, password: p } ] } }\n\
                  no_auth_user: u";
    let bed = Bed::nats_with("sizes", config);
    let database = bed.database();
    let mut command = bed.replicate_command(&database, &bed.url());
    let ran = bed.run_command(command.arg("-once"));
    ran.refused(STORE, &["error 10113", "nats object add --max-bucket-size=SIZE"]);
}

#[test]
fn prefix_that_no_server_takes_is_refused_at_the_start() {
    let bed = Bed::nats("prefix");
    let database = bed.database();
    let long = vec!["x".repeat(200); 13].join("/");
    let ran = bed.run_command(bed.replicate_command(&database, &bed.url_below(&long)).arg("-once"));
    ran.refused(USAGE, &["expected a prefix of at most 2560 bytes, found 2612"]);
    let fits = vec!["x".repeat(200); 12].join("/");
    bed.run_command(bed.replicate_command(&database, &bed.url_below(&fits)).arg("-once")).succeeded();
    assert_equal(&database, &bed.restored_from(&bed.url_below(&fits)));
}

/// A server that lets little wait for a client cuts it off: less is asked for then.
#[test]
fn restore_ends_though_the_server_lets_little_wait() {
    let bed = Bed::nats_with("pending", "max_payload: 262144\nmax_pending: 262144\nwrite_deadline: \"100ms\"");
    let database = bed.database();
    bed.write(&database, &["--commits", "60", "--size", "900000"]);
    bed.replicate_once(&database);
    assert_equal(&database, &bed.restored());
}

#[test]
fn an_account_without_room_is_told_and_waited_for() {
    let bed = Bed::nats_with(
        "account",
        "accounts { A { jetstream { max_file: 300000 }, users = [ { user: u, password: p } ] } }\nno_auth_user: u",
    );
    let database = bed.database();
    let mut replicator = bed.replicate(&database);
    bed.converges(&database);
    bed.write(&database, &["--commits", "40", "--size", "60000"]);
    replicator.says("problem, retrying");
    restores_a_commit(&bed, &database);
    until("the cause is told", || {
        let log = replicator.log();
        let told = log.contains("exceeded") || log.contains("insufficient");
        if told { Ok(()) } else { Err(log) }
    });
    assert!(replicator.is_running());
}

#[test]
fn a_bucket_that_would_throw_chunks_away_is_refused() {
    let bed = Bed::nats("narrow_subjects");
    raw::create(&address(&bed), BUCKET, json!({"max_msgs_per_subject": 1}));
    let database = bed.database();
    let expected = [
        "bucket backup: expected max_msgs_per_subject -1, found 1",
        "hint: this limit destroys every large object: nats stream edit OBJ_backup --max-msgs-per-subject=-1",
    ];
    let path = database.to_str().expect("a path");
    bed.run(&["replicate", path, &bed.url()]).refused(STORE, &expected);
    assert_eq!(raw::info(&address(&bed), BUCKET)["state"]["messages"], 0);
    // What the hint says does help.
    raw::update(&address(&bed), BUCKET, json!({"max_msgs_per_subject": -1}));
    bed.replicate_once(&database);
    assert_equal(&database, &bed.restored());
}

#[test]
fn history_deleting_bucket_is_refused_in_memory_one_warned() {
    let bed = Bed::nats("dropping");
    let database = bed.database();
    let path = database.to_str().expect("a path");
    let table = [
        (json!({"max_msgs": 100_000, "discard": "old"}), "discard old with max_msgs 100000", "--discard=new"),
        (json!({"max_bytes": 1_000_000, "discard": "old"}), "discard old with max_bytes 1000000", "--discard=new"),
        (json!({"max_age": 7_200_000_000_000u64}), "max_age 2h", "--max-age=-1"),
    ];
    for (config, limit, option) in table {
        raw::create(&address(&bed), BUCKET, config.clone());
        for command in [&["replicate"][..], &["replicate", "-once"], &["snapshot"]] {
            bed.run(&[command, &[path, &bed.url()]].concat()).refused(STORE, &[limit, "OBJ_backup", option]);
        }
        assert_eq!(raw::info(&address(&bed), BUCKET)["state"]["messages"], 0);
        raw::delete(&address(&bed), BUCKET);
    }
    // Beyond the retention it is said, and a reader takes the bucket as it is.
    for (config, warning) in [
        (json!({"max_age": 172_800_000_000_000u64}), "max_age 48h"),
        (json!({"storage": "memory"}), "the bucket is in memory"),
    ] {
        raw::create(&address(&bed), BUCKET, config);
        let ran = bed.replicate_once(&database);
        assert!(ran.stderr.contains(warning), "{}", ran.stderr);
        assert_equal(&database, &bed.restored());
        raw::delete(&address(&bed), BUCKET);
    }
    raw::create(&address(&bed), BUCKET, json!({"max_msgs": 100_000, "max_bytes": 1_000_000}));
    let ran = bed.replicate_once(&database);
    assert!(!ran.stderr.contains("level=warn"), "{}", ran.stderr);
}

#[test]
fn connection_limit_is_waited_out_without_blaming_the_password() {
    let bed = Bed::nats_with(
        "connections",
        "accounts { A { jetstream: enabled, limits { max_connections: 1 }, users = [ { user: u, password: p } ] } }\n\
         no_auth_user: u",
    );
    let database = bed.database();
    let held = raw::hold(&address(&bed));
    let mut replicator = bed.replicate(&database);
    replicator.says("maximum account active connections exceeded");
    replicator.says("the limit is the number of connections that the account allows");
    assert!(replicator.is_running());
    assert!(!replicator.log().contains("password"), "{}", replicator.log());
    drop(held);
    replicator.says("snapshot stored");
    replicator.stop();
}

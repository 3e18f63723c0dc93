//! A server that restarts in the middle of a restore, a proof or a snapshot is waited for, and the command goes on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::proxy::Proxy;
use crate::support::{Bed, Process, STORE, assert_equal, litestream, until};

/// Bytes a second: what is moved takes some seconds.
const RATE: u64 = 1 << 19;
/// When this many bytes have moved, it is in the middle.
const MIDDLE: u64 = RATE / 2;
/// Longer than the timeout of an operation, and shorter than a store may be away.
const AWAY: Duration = Duration::from_secs(3);

/// A database of about 2 MB that does not shrink, and a configuration that reaches its store by the proxy.
fn case(bed: &mut Bed, mode: &str) -> (PathBuf, Proxy, PathBuf) {
    let database = bed.path("large.db");
    let rows = "INSERT INTO t SELECT randomblob(100000) FROM (WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n \
                LIMIT 20) SELECT i FROM n)";
    bed.sql(&database, &[&format!("PRAGMA journal_mode={mode}"), "CREATE TABLE t(x)", rows]);
    let address = bed.server().address();
    let port = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let proxy = Proxy::narrow(port, RATE);
    let config = bed.path("litestream.yml");
    let text = format!(
        "dbs:\n- path: {}\n  replica: {{ url: \"nats://{}/backup\", timeout: 1s, reconnect-wait: 100ms, create-bucket: true }}\n",
        database.display(),
        proxy.address()
    );
    std::fs::write(&config, text).expect("write a configuration");
    (database, proxy, config)
}

fn command(config: &Path, words: &[&str]) -> Command {
    let mut command = litestream();
    command.arg("-config").arg(config).args(words);
    command
}

/// Runs a command, and stops the server for a while once the command is in the middle of it.
fn survives(bed: &mut Bed, proxy: &Proxy, mut process: Process) {
    let before = proxy.moved();
    until("it is in the middle", || {
        let sent = proxy.moved() - before;
        if sent > MIDDLE { Ok(()) } else { Err(format!("{sent} bytes")) }
    });
    lose_server(bed, proxy);
    std::thread::sleep(AWAY);
    assert!(process.is_running(), "it ended: {}", process.log());
    bed.server().restart();
    process.exits(0);
}

/// Kills the server, and with it goes what it has sent and the network still holds: without that a restore could get all it needs
/// from there.
fn lose_server(bed: &mut Bed, proxy: &Proxy) {
    bed.server().kill();
    proxy.cut();
}

#[test]
fn restore_and_verify_survive_a_restart_of_the_server() {
    let mut bed = Bed::nats("reads");
    let (database, proxy, config) = case(&mut bed, "WAL");
    bed.run_command(&mut command(&config, &["snapshot", database.to_str().expect("a path")])).succeeded();
    let output = bed.path("restored.db");
    let name = database.display().to_string();
    let words = ["restore", "-o", output.to_str().expect("a path"), &name];
    let process = bed.spawn(&mut command(&config, &words));
    survives(&mut bed, &proxy, process);
    assert_equal(&database, &output);
    let process = bed.spawn(&mut command(&config, &["verify", &name]));
    survives(&mut bed, &proxy, process);
}

#[test]
fn snapshot_survives_a_server_restart_in_every_journal_mode() {
    for mode in ["WAL", "DELETE"] {
        let mut bed = Bed::nats(&format!("snapshot-{mode}"));
        let (database, proxy, config) = case(&mut bed, mode);
        let process = bed.spawn(&mut command(&config, &["snapshot", database.to_str().expect("a path")]));
        survives(&mut bed, &proxy, process);
        assert_equal(&database, &bed.restored());
    }
}

#[test]
fn restore_from_a_lost_server_ends_with_the_waiting_time() {
    let mut bed = Bed::nats("gone");
    let (database, proxy, config) = case(&mut bed, "WAL");
    bed.run_command(&mut command(&config, &["snapshot", database.to_str().expect("a path")])).succeeded();
    let output = bed.path("restored.db");
    let words = ["restore", "-o", output.to_str().expect("a path"), database.to_str().expect("a path")];
    let before = proxy.moved();
    let mut process = bed.spawn(&mut command(&config, &words));
    until("it is in the middle", || if proxy.moved() - before > MIDDLE { Ok(()) } else { Err("too little") });
    lose_server(&mut bed, &proxy);
    process.exits(STORE);
    assert!(process.log().contains("unreachable for 30s"), "{}", process.log());
    assert!(!output.exists());
}

/// With several databases, each failure says of which one it is.
#[test]
fn failures_of_several_databases_name_them() {
    let bed = Bed::directory("names");
    let entry = |name: &str| {
        let database = bed.path(&format!("{name}.db"));
        bed.sql(&database, &["PRAGMA journal_mode=WAL", "CREATE TABLE t(x)"]);
        // A file where the replica's directory should be.
        std::fs::write(bed.path(&format!("{name}-store")), "").expect("write");
        format!(
            "- path: {}\n  replica: {{ url: \"{}\" }}\n",
            database.display(),
            bed.path(&format!("{name}-store")).display()
        )
    };
    let config = bed.path("litestream.yml");
    std::fs::write(&config, format!("dbs:\n{}{}", entry("one"), entry("two"))).expect("write");
    for words in [&["replicate", "-once"][..], &["snapshot"]] {
        let ran = bed.run_command(&mut command(&config, words));
        assert_ne!(ran.status, 0);
        for name in ["one.db", "two.db"] {
            assert!(ran.stderr.contains(&format!("database {}", bed.path(name).display())), "{}", ran.stderr);
        }
    }
}

/// The disk of somebody's worst day is not to be full of halves.
#[test]
fn interrupted_restore_leaves_no_file_and_says_the_signal() {
    let mut bed = Bed::nats("interrupted");
    let (database, proxy, config) = case(&mut bed, "WAL");
    bed.run_command(&mut command(&config, &["snapshot", database.to_str().expect("a path")])).succeeded();
    let folder = bed.path("out");
    std::fs::create_dir(&folder).expect("make a folder");
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let output = folder.join("restored.db");
        let words = ["restore", "-o", output.to_str().expect("a path"), database.to_str().expect("a path")];
        let before = proxy.moved();
        let mut process = bed.spawn(&mut command(&config, &words));
        until("it is in the middle", || if proxy.moved() - before > MIDDLE { Ok(()) } else { Err("too little") });
        process.signal(signal);
        process.exits(128 + signal);
        assert!(process.log().contains(&format!("stopped by signal {signal}")), "{}", process.log());
        assert_eq!(std::fs::read_dir(&folder).expect("list").count(), 0);
    }
}

//! One prefix, one replicator: a second one is refused by name, one that was cut off and replaced stops, and what the
//! peer has stored is recognised and left alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support;
use crate::support::nats::on_system;
use crate::support::proxy::Proxy;
use crate::support::{Bed, LOCKED, NOTHING, Ran, TAKEN_OVER, assert_equal, on_both_stores, python};

on_both_stores! {
    second_database_for_a_prefix_is_refused_by_name
    a_snapshot_and_a_restore_run_beside_a_replicator
    a_replicator_that_was_killed_leaves_the_prefix_free
}

fn other_database(bed: &Bed) -> PathBuf {
    let other = bed.path("other.db");
    bed.write(&other, &["--commits", "4", "--seed", "5"]);
    other
}

fn second_database_for_a_prefix_is_refused_by_name(bed: &Bed) {
    let (database, other) = (bed.database(), other_database(bed));
    let first = bed.replicate(&database);
    bed.converges(&database);
    let pid = format!("process {}", first.pid());
    for extra in [&["-once"][..], &[]] {
        let mut command = bed.replicate_command(&other, &bed.url());
        let ran = bed.run_command(command.args(extra));
        ran.refused(LOCKED, &["is already replicated to by", &pid, "hint: only one replicator per "]);
    }
    bed.write(&database, &["--commits", "3"]);
    bed.converges(&database);
    first.stop();
    let mut command = bed.replicate_command(&other, &bed.url_below("free"));
    bed.run_command(command.arg("-once")).succeeded();
}

fn a_snapshot_and_a_restore_run_beside_a_replicator(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let url = bed.url();
    bed.run(&["snapshot", database.to_str().expect("a path"), &url]).succeeded();
    assert_equal(&database, &bed.restored());
    replicator.stop();
}

fn a_replicator_that_was_killed_leaves_the_prefix_free(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    replicator.kill();
    bed.replicate_once(&database);
}

#[test]
fn the_refusal_names_host_process_and_database() {
    let bed = Bed::nats("names");
    let (database, other) = (bed.database(), other_database(&bed));
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let host = Command::new("uname").arg("-n").output().expect("uname").stdout;
    let host = String::from_utf8_lossy(&host).trim().to_string();
    let words = [format!("process {} on {host} from {}", replicator.pid(), database.display()), bed.url()];
    let mut command = bed.replicate_command(&other, &bed.url());
    bed.run_command(&mut command).refused(LOCKED, &[&words[0], &words[1]]);
    replicator.stop();
}

#[test]
fn a_login_that_may_not_ask_goes_on_and_says_so_once() {
    let config = "authorization { users = [ { user: u, password: p, permissions: { \
                  publish: [\"$JS.API.>\", \"$O.>\"], subscribe: [\"_INBOX.>\"] } } ] }";
    let bed = Bed::nats_with("mute", config);
    let database = bed.database();
    let url = bed.url().replace("nats://", "nats://u:p@");
    let mut replicator = bed.replicate_to(&database, &url);
    replicator.says("no permission on litestream.alive.>");
    bed.write(&database, &["--commits", "3"]);
    let output = bed.path("out.db");
    support::until("the restore equals the live database", || {
        let ran = bed.run(&["restore", "-force", "-o", output.to_str().expect("a path"), &url]);
        if ran.status == 0 { support::equal(&database, &output) } else { Err(ran.stderr) }
    });
    assert_eq!(replicator.log().matches("no permission on litestream.alive").count(), 1);
    replicator.stop();
}

/// A replicator behind a proxy is cut off, and another takes its prefix meanwhile. Then it comes back.
fn superseded(name: &str, other_stays: bool) -> (String, Ran) {
    superseded_by(name, other_stays, |bed, database, url| bed.replicate_to(database, url))
}

fn superseded_by(
    name: &str,
    other_stays: bool,
    start: impl FnOnce(&Bed, &Path, &str) -> support::Process,
) -> (String, Ran) {
    let bed = Bed::nats(name);
    let (database, other) = (bed.database(), other_database(&bed));
    let (direct, proxy) = (bed.url(), Proxy::new(port_of(&bed)));
    let through = direct.replace(&address_of(&bed), &proxy.address());
    let mut first = start(&bed, &database, &through);
    bed.converges(&database);
    proxy.part();
    first.says("level=warn");
    let mut command = bed.replicate_command(&other, &direct);
    let second = bed.spawn(command.arg("-allow-other-database"));
    bed.converges(&other);
    let second = if other_stays {
        Some(second)
    } else {
        second.stop();
        None
    };
    bed.write(&database, &["--commits", "5"]);
    let before = bed.stored();
    proxy.join();
    first.exits(TAKEN_OVER);
    assert_eq!(bed.stored(), before, "the first wrote on");
    bed.converges(&other);
    second.into_iter().for_each(support::Process::stop);
    (first.log(), bed.run(&["status", other.to_str().expect("a path"), &direct]))
}

fn address_of(bed: &Bed) -> String {
    bed.url().trim_start_matches("nats://").split('/').next().expect("an address").to_string()
}

fn port_of(bed: &Bed) -> u16 {
    address_of(bed).rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

#[test]
fn replaced_replicator_stops_when_it_reconnects() {
    let (log, status) = superseded("replaced", true);
    assert!(
        log.contains("was taken over while this process was disconnected by process")
            || log.contains("another replicator"),
        "{log}"
    );
    status.succeeded();
}

/// Tried again in a minute, it would take the prefix back as soon as the other one is not there for a moment.
#[test]
fn replicator_of_several_stops_if_one_was_taken_over() {
    let two = |bed: &Bed, database: &Path, url: &str| {
        let beside = bed.path("beside.db");
        bed.write(&beside, &["--commits", "1"]);
        let entry = |path: &Path, url: &str| format!("  - {{path: {}, replica: {{url: \"{url}\"}}}}\n", path.display());
        let config = bed.path("litestream.yml");
        let text = format!("dbs:\n{}{}", entry(&beside, &format!("{url}/beside")), entry(database, url));
        std::fs::write(&config, text).expect("write a configuration");
        bed.start(&["-config", config.to_str().expect("a path"), "replicate", "-create-bucket"])
    };
    let (log, status) = superseded_by("several", true, two);
    assert!(!log.contains("retrying in 1m"), "{log}");
    status.succeeded();
}

#[test]
fn replaced_replicator_stops_though_the_other_one_has_gone() {
    let (log, status) = superseded("left", false);
    assert!(log.contains("was taken over while this process was disconnected by process "), "{log}");
    assert!(log.contains("hint: commits that this one has not stored are still in its database"), "{log}");
    status.succeeded();
}

/// The generation that a restore would begin with.
fn only_generation(bed: &Bed) -> String {
    let ran = bed.run(&["generations", "-json", &bed.url()]).succeeded();
    let rows: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
    rows[0]["generation"].as_str().expect("a generation").to_string()
}

fn restored_generation(bed: &Bed, generation: &str) -> std::path::PathBuf {
    let output = bed.fresh("generation.db");
    let path = output.to_str().expect("a path");
    bed.run(&["restore", "-o", path, "-generation", generation, &bed.url()]).succeeded();
    output
}

/// Its connection is never lost, so that nothing but its own clock tells it that others had no answer.
#[test]
fn replicator_that_stood_still_stops_if_it_was_replaced() {
    let bed = Bed::nats("frozen");
    let (database, other) = (bed.database(), other_database(&bed));
    let mut first = bed.replicate(&database);
    bed.converges(&database);
    let (generation, stored) = (only_generation(&bed), bed.restored());
    first.signal(libc::SIGSTOP);
    let mut command = bed.replicate_command(&other, &bed.url());
    let second = bed.spawn(command.arg("-allow-other-database"));
    bed.converges(&other);
    bed.write(&database, &["--commits", "5"]);
    let before = bed.stored();
    first.signal(libc::SIGCONT);
    first.exits(TAKEN_OVER);
    assert_eq!(bed.stored(), before, "the first wrote on");
    let log = first.log();
    assert!(log.contains("was taken over while") || log.contains("has started generation"), "{log}");
    assert_equal(&stored, &restored_generation(&bed, &generation));
    bed.write(&other, &["--commits", "2"]);
    bed.converges(&other);
    second.stop();
}

/// An application that commits all the time: what it commits after the takeover is not stored by the one that was told to stop.
fn takeover_is_obeyed(bed: &Bed) {
    let (database, other) = (bed.database(), other_database(bed));
    let mut first = bed.replicate(&database);
    bed.converges(&database);
    let generation = only_generation(bed);
    let mut application = bed.application(&database, &["--seconds", "6", "--rate", "50"]);
    let mut command = bed.replicate_command(&other, &bed.url());
    let mut second = bed.spawn(command.args(["-allow-other-database", "-takeover"]));
    second.says("taken over");
    first.exits(TAKEN_OVER);
    let told = format!("was taken over by process {}", second.pid());
    assert!(first.log().contains(&told), "{}", first.log());
    bed.converges(&other);
    let before = bed.stored();
    application.exits(0);
    assert_eq!(bed.stored(), before, "the first wrote on");
    let restored = restored_generation(bed, &generation);
    support::all_committed(&[support::judged(&restored)], &database);
    second.stop();
}

#[test]
fn takeover_is_obeyed_by_the_holder() {
    takeover_is_obeyed(&Bed::nats("takeover"));
}

#[test]
fn takeover_is_obeyed_on_an_old_server() {
    on_system(|binary| takeover_is_obeyed(&Bed::nats_on("takeover-old", binary, "")));
}

/// Anyone who may read may ask who is there; to tell one to stop takes a permission of its own.
#[test]
fn takeover_needs_a_permission_of_its_own() {
    let allow = |publish: &str, subscribe: &str| {
        format!(
            "permissions: {{ publish: [\"$JS.API.>\", \"$O.>\", \"_INBOX.>\", {publish}], subscribe: [\"_INBOX.>\", {subscribe}] }}"
        )
    };
    let alive = "\"litestream.alive.>\"";
    let config = format!(
        "authorization {{ users = [ {{ user: a, password: p }}, {{ user: reader, password: p, {} }}, {{ user: deaf, password: p, {} }} ] }}",
        allow(alive, alive),
        allow(alive, alive),
    );
    let bed = Bed::nats_with("takeover-refused", &config);
    let (database, other) = (bed.database(), other_database(&bed));
    let url = |user: &str| bed.url().replace("nats://", &format!("nats://{user}:p@"));
    let taking = |user: &str| {
        let mut command = bed.replicate_command(&other, &url(user));
        bed.run_command(command.args(["-once", "-takeover", "-allow-other-database"]))
    };
    let mut first = bed.replicate_to(&database, &url("deaf"));
    first.says("snapshot stored");
    taking("a").refused(LOCKED, &["is already replicated to by", "cannot be told to stop"]);
    first.stop();
    let mut first = bed.replicate_to(&database, &url("a"));
    first.says("level=info msg=continuing");
    taking("reader").refused(support::STORE, &["Permissions Violation", "litestream.takeover."]);
    first.stop();
}

#[test]
fn a_connection_that_was_cut_and_nobody_took_the_prefix_goes_on() {
    let bed = Bed::nats("cut");
    let database = bed.database();
    let proxy = Proxy::new(port_of(&bed));
    let through = bed.url().replace(&address_of(&bed), &proxy.address());
    let replicator = bed.replicate_to(&database, &through);
    let mut application = bed.application(&database, &["--seconds", "4", "--rate", "100"]);
    for _ in 0..4 {
        // Part of the schedule: cut each 700 ms while it writes.
        std::thread::sleep(std::time::Duration::from_millis(700));
        proxy.cut();
    }
    application.exits(0);
    bed.converges(&database);
    replicator.stop();
}

/// Stores an object under a name of the peer's, and says what the bucket has of it.
const PEER: &str = "import asyncio,sys,nats\nasync def m():\n nc=await nats.connect(sys.argv[1])\n js=nc.jetstream()\n \
                    s=await js.object_store('backup')\n n='ltx/0/0000000000000001-0000000000000001.ltx'\n \
                    await s.put(n,b'LTX1') if sys.argv[2]=='put' else print((await s.get(n)).data)\n \
                    await nc.close()\nasyncio.run(m())";

#[test]
fn ltx_files_are_reported_once_and_ignored() {
    let bed = Bed::nats("peer");
    let database = bed.database();
    bed.replicate_once(&database);
    let peer = |what: &str| {
        let mut command = python("judge.py");
        let path =
            command.get_envs().find(|(name, _)| *name == "PYTHONPATH").and_then(|(_, path)| path.map(PathBuf::from));
        command = Command::new("python3");
        command.env("PYTHONPATH", path.expect("a path")).arg("-c").arg(PEER).arg(address_of(&bed)).arg(what);
        bed.run_command(&mut command)
    };
    let put = peer("put");
    if put.status != 0 && put.stderr.contains("No module named") {
        eprintln!("skipped: no nats-py");
        return;
    }
    put.succeeded();
    for prefix in ["", "below"] {
        let url = if prefix.is_empty() { bed.url() } else { bed.url_below(prefix) };
        let mut command = bed.replicate_command(&database, &url);
        let log = bed.run_command(command.arg("-once")).succeeded().stderr;
        assert_eq!(log.matches("LTX files of Litestream 0.5").count(), 1, "{log}");
        assert!(log.contains("such_as=ltx/0/"), "{log}");
        assert_eq!(log.matches("another program").count(), 1, "the line of the LTX files is the only one: {log}");
    }
    let output = bed.path("none.db");
    bed.restore(&bed.url_below("nothing"), &output).refused(NOTHING, &["LTX files of Litestream 0.5"]);
    assert!(peer("get").succeeded().stdout.contains("LTX1"));
}

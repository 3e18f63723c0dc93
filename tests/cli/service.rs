//! What an operator lives with: a child beside the backup, a configuration that changes, metrics, heartbeats, systemd.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use litestream::format::compaction::WINDOWS;

use crate::support;
use crate::support::proxy::Proxy;
use crate::support::{
    Bed, DATABASE, NOTHING, Process, SOON, application_command, assert_equal, litestream, on_a_directory_only,
    on_both_stores, until,
};

on_both_stores! {
    short_command_is_completely_stored_and_its_status_used
    missing_database_is_restored_at_startup_on_request
    many_small_segments_become_one_when_retention_is_enforced
    a_followed_copy_is_always_a_committed_state_and_keeps_up
    a_snapshot_is_forced_where_none_is_due
}

on_a_directory_only! {
    a_signal_reaches_the_child_and_its_end_is_ours
    a_child_that_makes_no_database_is_no_error
    sighup_adds_and_removes_databases_and_ignores_a_bad_file
    missing_database_after_sighup_is_not_reported_stored
    failed_restore_of_an_added_database_starts_no_generation
    files_in_a_watched_directory_come_and_go
    metrics_heartbeat_and_systemd_are_told
    a_heartbeat_is_sent_by_snapshot_only_when_all_is_stored
    one_that_fails_keeps_no_other_from_its_snapshot_or_its_proof
    one_that_ends_the_run_keeps_no_other_from_its_last_sync
    one_that_fails_keeps_no_other_from_being_stored_once
    a_log_in_json_is_json
    under_systemd_a_line_has_no_time
    log_level_is_from_the_option_then_the_environment
    a_restore_does_nothing_where_that_is_asked_for
}

fn exec_words(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

fn config(bed: &Bed, text: &str) -> std::path::PathBuf {
    let path = bed.path("litestream.yml");
    fs::write(&path, text).unwrap();
    path
}

fn entry(bed: &Bed, database: &Path, prefix: &str) -> String {
    format!("  - {{path: {}, replica: {{url: \"{}\"}}}}\n", database.display(), bed.url_below(prefix))
}

fn with_config(bed: &Bed, text: &str) -> Command {
    let mut command = litestream();
    command.arg("-config").arg(config(bed, text)).arg("replicate");
    command
}

fn short_command_is_completely_stored_and_its_status_used(bed: &Bed) {
    let database = bed.path("a.db");
    let child = exec_words(&application_command(&database, &["--commits", "5"]));
    let mut command = bed.replicate_command(&database, &bed.url());
    bed.run_command(command.arg("-exec").arg(&child)).succeeded();
    assert_equal(&database, &bed.restored());
    let mut command = bed.replicate_command(&database, &bed.url());
    let ran = bed.run_command(command.args(["-exec", "sh -c 'exit 7'"]));
    assert_eq!(ran.status, 7, "{}", ran.stderr);
    assert_equal(&database, &bed.restored());
}

fn a_signal_reaches_the_child_and_its_end_is_ours(bed: &Bed) {
    let database = bed.database();
    let mut command = bed.replicate_command(&database, &bed.url());
    let script =
        format!("sh -c 'trap \"echo got >{}; exit 9\" TERM; while :; do sleep 0.1; done'", bed.path("got").display());
    let mut replicator = Process::start("replicate", command.arg("-exec").arg(script), bed.fresh("replicate"));
    bed.converges(&database);
    replicator.terminate();
    assert_eq!(replicator.wait(), 9);
    assert!(bed.path("got").exists());
}

fn a_child_that_makes_no_database_is_no_error(bed: &Bed) {
    let mut command = bed.replicate_command(&bed.path("none.db"), &bed.url());
    bed.run_command(command.args(["-exec", "true"])).succeeded();
}

fn missing_database_is_restored_at_startup_on_request(bed: &Bed) {
    let database = bed.database();
    bed.replicate_once(&database);
    let kept = bed.path("kept.db");
    fs::rename(&database, &kept).unwrap();
    let mut command = bed.replicate_command(&database, &bed.url());
    bed.run_command(command.args(["-once", "-restore-if-db-not-exists"])).succeeded();
    assert_equal(&kept, &database);
    // One that is there is left alone, and where nothing is stored there is nothing to restore.
    let mut command = bed.replicate_command(&database, &bed.url_below("elsewhere"));
    bed.run_command(command.args(["-once", "-restore-if-db-not-exists"])).succeeded();
    assert_equal(&kept, &database);
    let mut command = bed.replicate_command(&bed.path("new.db"), &bed.url_below("nothing"));
    let ran = bed.run_command(command.args(["-restore-if-db-not-exists", "-exec", "true"])).succeeded();
    assert!(ran.stderr.contains("no backup to restore"), "{}", ran.stderr);
}

fn many_small_segments_become_one_when_retention_is_enforced(bed: &Bed) {
    let database = bed.database();
    bed.replicate_once(&database);
    for _ in 0..20 {
        bed.write(&database, &["--commits", "1", "--autocheckpoint", "0", "--abandon"]);
        bed.replicate_once(&database);
    }
    // A window is merged when a later segment is stored.
    let window = || UNIX_EPOCH.elapsed().unwrap().as_secs() / WINDOWS[0];
    let last = window();
    until("the window is over", || if window() > last { Ok(()) } else { Err("not yet") });
    bed.write(&database, &["--commits", "1", "--autocheckpoint", "0", "--abandon"]);
    bed.replicate_once(&database);
    let segments = |bed: &Bed| bed.run(&["wal", &bed.url()]).succeeded().stdout.lines().count() - 1;
    let before = segments(bed);
    assert!(before >= 18, "{before}");
    let mut command = bed.replicate_command(&database, &bed.url());
    bed.run_command(command.args(["-once", "-enforce-retention", "-force-snapshot"])).succeeded();
    // What was merged is still there, for restores that are under way.
    assert!(segments(bed) > before, "{} of {before}", segments(bed));
    assert_equal(&database, &bed.restored());
    bed.run(&["verify", &bed.url()]).succeeded();
}

fn missing_database_after_sighup_is_not_reported_stored(bed: &Bed) {
    let (a, b) = (bed.path("a.db"), bed.path("mistyped.db"));
    bed.write(&a, &["--commits", "3"]);
    let (one, both) = (entry(bed, &a, "a"), entry(bed, &a, "a") + &entry(bed, &b, "b"));
    let mut command = with_config(bed, &format!("dbs:\n{one}"));
    let mut replicator = Process::start("replicate", &mut command, bed.fresh("replicate"));
    replicator.says("snapshot stored");
    config(bed, &format!("dbs:\n{both}"));
    replicator.hang_up();
    replicator.says(&format!("msg=replicating db={}", b.display()));
    replicator.terminate();
    replicator.exits(DATABASE);
    let log = replicator.log();
    assert!(log.contains("mistyped.db: no such file, nothing of it is stored"), "{log}");
}

fn sighup_adds_and_removes_databases_and_ignores_a_bad_file(bed: &Bed) {
    let (a, b) = (bed.path("a.db"), bed.path("b.db"));
    bed.write(&a, &["--commits", "3"]);
    bed.write(&b, &["--commits", "3"]);
    let (one, both) = (entry(bed, &a, "a"), entry(bed, &a, "a") + &entry(bed, &b, "b"));
    let mut command = with_config(bed, &format!("dbs:\n{one}"));
    let mut replicator = Process::start("replicate", &mut command, bed.fresh("replicate"));
    replicator.says("snapshot stored");
    config(bed, &format!("service: false\ndbs:\n{both}"));
    replicator.hang_up();
    replicator.says("msg=\"setting applies at the next start\" keys=service");
    replicator.says(&format!("msg=replicating db={}", b.display()));
    until("b is stored", || match bed.run(&["snapshots", &bed.url_below("b")]).status {
        0 => Ok(()),
        status => Err(status),
    });
    // Not even the log becomes another.
    let wrong =
        "logging: {type: json, level: error}\ndbs: [{path: /a.db, replica: {url: nats://h/b, creds: /no/such.creds}}]";
    config(bed, wrong);
    replicator.hang_up();
    replicator.says("level=error msg=\"configuration not reloaded, keeping the old one\"");
    bed.write(&a, &["--commits", "3"]);
    let told = |replicator: &Process| replicator.log().matches("level=info msg=\"snapshot stored\"").count();
    let before = told(&replicator);
    bed.run(&["snapshot", a.to_str().unwrap(), &bed.url_below("a")]).succeeded();
    until("the snapshot is told", || if told(&replicator) > before { Ok(()) } else { Err(replicator.log()) });
    config(bed, &format!("dbs:\n{one}"));
    replicator.hang_up();
    replicator.says("replication stopped, everything is stored");
    assert_eq!(replicator.log().matches(&format!("msg=replicating db={} to=", a.display())).count(), 1);
    assert!(!replicator.log().contains(&format!("\"stopping replication\" db={}", a.display())), "a was disturbed");
    replicator.stop();
    assert_equal(&a, &bed.restored_from(&bed.url_below("a")));
    assert_equal(&b, &bed.restored_from(&bed.url_below("b")));
}

/// A database of so many commits at `url`, whose file is gone; what it was.
fn lost(bed: &Bed, database: &Path, url: &str, commits: &str) -> PathBuf {
    bed.write(database, &["--commits", commits]);
    bed.run_command(bed.replicate_command(database, url).arg("-once")).succeeded();
    let kept = bed.fresh("kept.db");
    fs::rename(database, &kept).unwrap();
    fs::remove_file(database.with_extension("db.commits")).unwrap();
    kept
}

fn restored_entry(database: &Path, url: &str) -> String {
    let replica = format!("replica: {{url: \"{url}\", timeout: 60s}}");
    format!("  - {{path: {}, restore-if-db-not-exists: true, {replica}}}\n", database.display())
}

/// `replicate` of one database, which has read its configuration again: another one has come, whose file is missing and
/// whose store stands still.
struct Later {
    bed: Bed,
    proxy: Proxy,
    first: PathBuf,
    late: PathBuf,
    kept: PathBuf,
    replicator: Process,
}

impl Later {
    fn new(name: &str) -> Later {
        let bed = Bed::nats(name);
        let (first, late) = (bed.path("a.db"), bed.path("b.db"));
        let kept = lost(&bed, &late, &bed.url_below("b"), "5");
        bed.write(&first, &["--commits", "3"]);
        let mut command = with_config(&bed, &format!("dbs:\n{}", entry(&bed, &first, "a")));
        let mut replicator = Process::start("replicate", &mut command, bed.fresh("replicate"));
        replicator.says("snapshot stored");
        let port = bed.url().split([':', '/']).find_map(|part| part.parse().ok()).expect("a port");
        let proxy = Proxy::new(port);
        proxy.stall();
        let through = bed.url_below("b").replace(&format!("127.0.0.1:{port}"), &proxy.address());
        let mut later = Later { bed, proxy, first, late, kept, replicator };
        later.wants(&through);
        later.replicator.says(&format!("msg=restoring db={}", later.late.display()));
        later
    }

    /// The other one is wanted from this store from now on.
    fn wants(&mut self, url: &str) {
        let before = self.reads();
        config(&self.bed, &format!("dbs:\n{}{}", entry(&self.bed, &self.first, "a"), restored_entry(&self.late, url)));
        self.replicator.hang_up();
        until("the configuration is read again", || if self.reads() > before { Ok(()) } else { Err("not yet") });
    }

    fn reads(&self) -> usize {
        self.replicator.log().matches("configuration reloaded").count()
    }

    fn follows(&mut self, how: &str) {
        self.replicator.says(&format!("{how} db={}", self.late.display()));
        self.replicator.says(&format!("msg=replicating db={}", self.late.display()));
    }
}

#[test]
fn missing_database_added_later_is_restored_in_the_background() {
    let mut later = Later::new("comes-later");
    later.bed.write(&later.first, &["--commits", "3"]);
    let stored = later.bed.url_below("a");
    until("the first one is stored", || support::equal(&later.first, &later.bed.restored_from(&stored)));
    let log = later.replicator.log();
    assert!(!log.contains("cannot replicate") && !log.contains("msg=restored"), "it was not waiting: {log}");
    assert!(!later.late.exists());
    later.proxy.join();
    later.follows("msg=restored");
    assert_equal(&later.kept, &later.late);
    later.bed.write(&later.late, &["--commits", "3"]);
    later.replicator.stop();
    assert_equal(&later.late, &later.bed.restored_from(&later.bed.url_below("b")));
}

#[test]
fn restore_is_cancelled_if_its_replica_changes() {
    let mut later = Later::new("elsewhere");
    let other = later.bed.path("c.db");
    let elsewhere = later.bed.url_below("c");
    let kept = lost(&later.bed, &other, &elsewhere, "7");
    later.wants(&elsewhere);
    later.proxy.join();
    later.follows("msg=restored");
    assert_equal(&kept, &later.late);
    later.replicator.stop();
}

#[test]
fn database_created_during_its_restore_is_kept() {
    let mut later = Later::new("meanwhile");
    later.bed.write(&later.late, &["--commits", "2"]);
    later.proxy.join();
    later.follows("msg=\"database appeared during restore, keeping it\"");
    assert_eq!(support::judged(&later.late).seq, 2);
    later.replicator.stop();
    assert_equal(&later.late, &later.bed.restored_from(&later.bed.url_below("b")));
}

fn failed_restore_of_an_added_database_starts_no_generation(bed: &Bed) {
    let (a, b, c, d) = (bed.database(), bed.path("b.db"), bed.path("c.db"), bed.path("d.db"));
    let (store, away) = (bed.path("disk"), bed.path("disk-away"));
    let url_of = |name: &str| format!("file://{}", store.join(name).display());
    let kept = lost(bed, &b, &url_of("b"), "5");
    fs::rename(&store, &away).unwrap();
    fs::write(&store, "not mounted").unwrap();
    // And another one, whose backup is damaged.
    lost(bed, &d, &bed.url_below("d"), "5");
    let snapshots = bed.objects("snapshots");
    let name = snapshots.iter().find(|name| name.starts_with("d/")).unwrap().split(' ').next().unwrap();
    fs::write(bed.path("store").join(name), "damaged").unwrap();
    let first = entry(bed, &a, "a");
    let mut replicator = bed.start_command(&mut with_config(bed, &format!("dbs:\n{first}")));
    replicator.says("snapshot stored");
    let (url, beats) = listener();
    let top = format!("heartbeat-url: {url}\ndbs:\n{first}");
    let both = top + &restored_entry(&b, &url_of("b"));
    config(bed, &(both.clone() + &restored_entry(&d, &bed.url_below("d"))));
    replicator.hang_up();
    for late in [&b, &d] {
        let name = late.display();
        replicator.says(&format!("msg=\"cannot replicate, retrying in 1m\" db={name}"));
        assert!(!late.exists() && !replicator.log().contains(&format!("msg=replicating db={name}")));
    }
    assert!(beats.recv_timeout(Duration::from_secs(7)).is_err(), "two are not followed");
    fs::remove_file(&store).unwrap();
    fs::rename(&away, &store).unwrap();
    // Instead of the damaged one, one of which nothing is stored.
    config(bed, &(both + &restored_entry(&c, &url_of("c"))));
    replicator.hang_up();
    replicator.says(&format!("msg=restored db={}", b.display()));
    replicator.says(&format!("msg=\"no backup to restore\" db={}", c.display()));
    assert_equal(&kept, &b);
    bed.write(&c, &["--commits", "1"]);
    assert_eq!(beats.recv_timeout(SOON).unwrap(), "GET /ping HTTP/1.1");
    replicator.stop();
    assert_equal(&c, &bed.restored_from(&url_of("c")));
}

fn files_in_a_watched_directory_come_and_go(bed: &Bed) {
    let folder = bed.path("folder");
    fs::create_dir(&folder).unwrap();
    let (a, b) = (folder.join("a.db"), folder.join("b.db"));
    bed.write(&a, &["--commits", "3"]);
    let text = format!(
        "dbs: [{{dir: {}, pattern: \"*.db\", watch: true, replica: {{url: \"{}\"}}}}]",
        folder.display(),
        bed.url()
    );
    let mut replicator = Process::start("replicate", &mut with_config(bed, &text), bed.fresh("replicate"));
    replicator.says("snapshot stored");
    bed.write(&b, &["--commits", "3"]);
    until("b is stored", || match bed.run(&["snapshots", &bed.url_below("b.db")]).status {
        0 => Ok(()),
        status => Err(status),
    });
    assert_equal(&b, &bed.restored_from(&bed.url_below("b.db")));
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(folder.join(format!("b.db{suffix}")));
    }
    replicator.says("replication stopped");
    bed.write(&a, &["--commits", "3"]);
    replicator.stop();
    assert_equal(&a, &bed.restored_from(&bed.url_below("a.db")));
}

/// Answers each request with 200; the first line of each.
fn listener() -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/ping", listener.local_addr().unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1000];
            let count = stream.read(&mut request).unwrap_or(0);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            let line = String::from_utf8_lossy(&request[..count]).lines().next().unwrap_or_default().to_string();
            let _ = sender.send(line);
        }
    });
    (url, receiver)
}

/// Listens as systemd does; each message.
fn systemd(path: &Path) -> std::sync::mpsc::Receiver<String> {
    let socket = UnixDatagram::bind(path).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut message = [0; 500];
        while let Ok(count) = socket.recv(&mut message) {
            let _ = sender.send(String::from_utf8_lossy(&message[..count]).into_owned());
        }
    });
    receiver
}

fn metrics_heartbeat_and_systemd_are_told(bed: &Bed) {
    let (url, beats) = listener();
    let socket = bed.path("notify");
    let heard = systemd(&socket);
    let database = bed.database();
    let metrics = bed.path("litestream.prom");
    let top = format!("metrics-file: {}\nheartbeat-url: {url}\ndbs:\n", metrics.display());
    // As the unit has it.
    let mut narrow = Command::new("sh");
    narrow.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(litestream().get_program());
    let mut command = support::like(&with_config(bed, &(top + &entry(bed, &database, "a"))), narrow);
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "400000");
    let mut replicator = Process::start("replicate", &mut command, bed.fresh("replicate"));
    let hear = |wanted: &str| while !heard.recv_timeout(SOON).expect(wanted).starts_with(wanted) {};
    hear("READY=1");
    hear("WATCHDOG=1");
    hear("STATUS=1 databases, lag ");
    hear("WATCHDOG=1");
    assert_eq!(beats.recv_timeout(SOON).unwrap(), "GET /ping HTTP/1.1");
    until("the metrics tell of success", || {
        let text = fs::read_to_string(&metrics).map_err(|error| error.to_string())?;
        let line = format!("litestream_last_success_timestamp_seconds{{db=\"{}\"}} ", database.display());
        if text.contains(&line) && text.contains("litestream_generations_total{") { Ok(()) } else { Err(text) }
    });
    assert_eq!(fs::metadata(&metrics).unwrap().mode() & 0o777, 0o644, "the exporter is another user");
    replicator.terminate();
    hear("STOPPING=1");
    replicator.exits(0);
}

fn a_heartbeat_is_sent_by_snapshot_only_when_all_is_stored(bed: &Bed) {
    let (url, beats) = listener();
    let database = bed.database();
    let top = format!("heartbeat-url: {url}\ndbs:\n");
    let good = entry(bed, &database, "a");
    let run = |text: String| {
        let mut command = litestream();
        bed.run_command(command.arg("-config").arg(config(bed, &text)).arg("snapshot"))
    };
    run(format!("{top}{good}")).succeeded();
    assert_eq!(beats.recv_timeout(SOON).unwrap(), "GET /ping HTTP/1.1");
    let missing = entry(bed, &bed.path("missing.db"), "b");
    assert_ne!(run(format!("{top}{good}{missing}")).status, 0);
    assert!(beats.recv_timeout(Duration::from_millis(100)).is_err());
}

/// In the night nobody is there to run it again for the others.
fn one_that_fails_keeps_no_other_from_its_snapshot_or_its_proof(bed: &Bed) {
    let database = bed.database();
    let [none, nowhere] = ["none.db", "nowhere.db"].map(|name| entry(bed, &bed.path(name), name));
    let text = format!("dbs:\n{none}{}{nowhere}", entry(bed, &database, "a"));
    let run = |words: &[&str]| {
        let mut command = litestream();
        bed.run_command(command.arg("-config").arg(config(bed, &text)).args(words))
    };
    let ran = run(&["snapshot", "-json"]);
    let stored = (ran.stdout.matches("\"path\"").count(), ran.stdout.matches("\"error\":null").count());
    assert_eq!((ran.status, stored), (support::DATABASE, (3, 1)), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.stderr.matches("litestream: ").count(), 2, "a line for each that failed: {}", ran.stderr);
    assert_equal(&database, &bed.restored_from(&bed.url_below("a")));
    let ran = run(&["verify"]);
    assert_eq!((ran.status, ran.stdout.matches(" equal ").count()), (NOTHING, 1), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.stderr.matches("nothing is stored").count(), 2, "{}", ran.stderr);
}

fn one_whose_store_is_a_file(bed: &Bed) -> String {
    let (odd, store) = (bed.path("odd.db"), bed.path("file/store"));
    std::fs::write(bed.path("file"), "no directory").unwrap();
    bed.write(&odd, &["--commits", "1"]);
    format!("  - {{path: {}, replica: {{url: \"{}\"}}}}\n", odd.display(), store.display())
}

/// The others are stored as far as they have come.
fn one_that_ends_the_run_keeps_no_other_from_its_last_sync(bed: &Bed) {
    let database = bed.database();
    let text = format!("dbs:\n{}{}", one_whose_store_is_a_file(bed), entry(bed, &database, "a"));
    let mut replicator = bed.start_command(&mut with_config(bed, &text));
    replicator.exits(support::STORE);
    assert!(replicator.log().contains("odd.db"), "{}", replicator.log());
    assert_equal(&database, &bed.restored_from(&bed.url_below("a")));
}

/// One is no database, which is seen before anything is contacted; the store of another is a file, which is seen later.
fn one_that_fails_keeps_no_other_from_being_stored_once(bed: &Bed) {
    let (database, broken) = (bed.database(), bed.path("broken.db"));
    std::fs::write(&broken, "no database").unwrap();
    let odd = one_whose_store_is_a_file(bed);
    let text = format!("dbs:\n{}{odd}{}", entry(bed, &broken, "broken"), entry(bed, &database, "a"));
    let mut command = litestream();
    let ran = bed.run_command(command.arg("-config").arg(config(bed, &text)).args(["replicate", "-once"]));
    assert_eq!(ran.status, support::STORE, "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("litestream: ").count(), 2, "a line for each that failed: {}", ran.stderr);
    assert_equal(&database, &bed.restored_from(&bed.url_below("a")));
}

fn a_log_in_json_is_json(bed: &Bed) {
    let database = bed.database();
    let text = format!("logging: {{type: json}}\ndbs:\n{}", entry(bed, &database, "a"));
    let ran = bed.run_command(with_config(bed, &text).arg("-once")).succeeded();
    assert!(ran.stderr.lines().count() > 2, "{}", ran.stderr);
    for line in ran.stderr.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value["time"].is_string() && value["level"].is_string() && value["msg"].is_string(), "{line}");
    }
}

fn under_systemd_a_line_has_no_time(bed: &Bed) {
    let database = bed.database();
    let log = bed.path("journal");
    let file = fs::File::create(&log).unwrap();
    let data = file.metadata().unwrap();
    let mut command = bed.replicate_command(&database, &bed.url());
    command.arg("-once").env("JOURNAL_STREAM", format!("{}:{}", data.dev(), data.ino())).stderr(file);
    assert!(command.status().unwrap().success());
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.starts_with("level=info msg=") && !text.contains("time="), "{text}");
    // A child of a service that logs elsewhere has the variable too.
    let mut command = bed.replicate_command(&database, &bed.url());
    let ran = bed.run_command(command.arg("-once").env("JOURNAL_STREAM", "1:1")).succeeded();
    assert!(ran.stderr.starts_with("time="), "{}", ran.stderr);
}

fn log_level_is_from_the_option_then_the_environment(bed: &Bed) {
    let database = bed.database();
    let run = |variable: &str, words: &[&str]| {
        let mut command = bed.replicate_command(&database, &bed.url());
        bed.run_command(command.arg("-once").args(words).env("LOG_LEVEL", variable))
    };
    assert_eq!(run("error", &[]).succeeded().stderr, "");
    assert!(run("error", &["-log-level", "info"]).succeeded().stderr.contains("level=info"));
    run("loud", &[]).refused(support::USAGE, &["LOG_LEVEL"]);
}

fn a_restore_does_nothing_where_that_is_asked_for(bed: &Bed) {
    let (database, output) = (bed.database(), bed.path("out.db"));
    let restore = |words: &[&str]| bed.run_command(support::restore_command(&bed.url(), &output).args(words));
    assert_eq!(restore(&[]).status, NOTHING);
    restore(&["-if-replica-exists"]).succeeded();
    assert!(!output.exists());
    bed.replicate_once(&database);
    fs::write(&output, "mine").unwrap();
    restore(&["-if-db-not-exists"]).succeeded();
    assert_eq!(fs::read(&output).unwrap(), b"mine");
    restore(&["-force"]).succeeded();
    assert_equal(&database, &output);
}

fn a_followed_copy_is_always_a_committed_state_and_keeps_up(bed: &Bed) {
    let (database, output) = (bed.database(), bed.path("copy.db"));
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut command = support::restore_command(&bed.url(), &output);
    command.args(["-f", "-follow-interval", "50ms"]);
    let mut follower = Process::start("restore -f", &mut command, bed.fresh("follow"));
    let wal = bed.path("copy.db-wal");
    until("the copy is open", || if wal.exists() { Ok(()) } else { Err(follower.log()) });
    let mut application = bed.application(&database, &["--commits", "300"]);
    let mut states = Vec::new();
    while application.is_running() {
        states.push(support::judged(&output));
    }
    application.exits(0);
    until("the copy has caught up", || support::equal(&database, &output));
    support::all_committed(&states, &database);
    assert!(states.is_sorted(), "a copy went back in time: {states:?}");
    // A new generation, and the copy goes on.
    replicator.stop();
    bed.sql(&database, &["PRAGMA wal_checkpoint(TRUNCATE)"]);
    bed.write(&database, &["--commits", "3"]);
    let replicator = bed.replicate(&database);
    until("the copy has caught up", || support::equal(&database, &output));
    replicator.stop();
    assert!(follower.is_running());
    follower.stop();
}

fn a_snapshot_is_forced_where_none_is_due(bed: &Bed) {
    let database = bed.database();
    bed.replicate_once(&database);
    bed.write(&database, &["--commits", "2", "--autocheckpoint", "0", "--abandon"]);
    bed.replicate_once(&database);
    let snapshots = || bed.run(&["snapshots", &bed.url()]).succeeded().stdout.lines().count() - 1;
    let before = snapshots();
    let mut command = bed.replicate_command(&database, &bed.url());
    bed.run_command(command.args(["-once", "-force-snapshot"])).succeeded();
    assert_eq!(snapshots(), before + 1);
    assert_equal(&database, &bed.restored());
}

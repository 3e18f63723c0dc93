//! What a device only adds is merged and deleted elsewhere; several that do so at once, and die at it, lose nothing.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, UNIX_EPOCH};

use litestream::format::keep::Keep;
use litestream::format::time::Timestamp;

use crate::support::clock::{with_clock, wrong_clock};
use crate::support::proxy::Proxy;
use crate::support::{
    Bed, Commit, NOTHING, Process, Ran, USAGE, assert_equal, commits, judged, litestream, on_a_directory_only,
    on_both_stores, until,
};

on_both_stores! {
    compact_does_what_a_device_leaves_undone
    compactors_that_die_beside_a_replicator_lose_nothing
    each_state_that_keep_keeps_is_restored
    its_metrics_tell_what_was_done_and_whether_it_went_well
}

on_a_directory_only! {
    a_signal_ends_it_though_its_server_hangs
    a_signal_ends_it_between_two_passes
    compact_of_nothing_says_so
    an_error_of_compact_that_goes_on_is_a_line_of_the_log
}

/// Later than the time for which what was merged stays for restores that are under way.
const LATER: i64 = 20 * 60;

/// Commits that may be older than the first snapshot.
const BEFORE: usize = 60;

/// A configuration whose replica has a segment each 200 ms.
fn configuration(bed: &Bed, database: &Path, more: &str) -> PathBuf {
    let path = bed.fresh("litestream.yml");
    let bucket = if bed.url().starts_with("nats") { "create-bucket: true, " } else { "" };
    let replica = format!("{{ url: \"{}\", {bucket}sync-interval: 200ms{more} }}", bed.url());
    fs::write(&path, format!("dbs:\n  - path: {}\n    replica: {replica}\n", database.display())).unwrap();
    path
}

fn replicate(bed: &Bed, config: &Path) -> Process {
    bed.start(&["replicate", "-config", config.to_str().unwrap()])
}

fn compact(bed: &Bed, options: &[&str], later: Option<&Path>) -> Ran {
    let mut command = litestream();
    command.arg("compact").args(options);
    if let Some(library) = later {
        with_clock(&mut command, library, LATER);
    }
    bed.run_command(&mut command).succeeded()
}

fn rows(ran: &Ran) -> Vec<serde_json::Value> {
    serde_json::from_str(&ran.stdout).unwrap()
}

/// The stored segments, each as the positions that it reaches over.
fn segments(bed: &Bed) -> Vec<String> {
    rows(&bed.run(&["wal", "-json", &bed.url()]).succeeded()).iter().map(|row| row.to_string()).collect()
}

/// The number in the only row of a result.
fn number(ran: &Ran, key: &str) -> u64 {
    let rows = rows(ran);
    assert!(rows.len() == 1 && rows[0]["error"].is_null(), "{rows:?}");
    rows[0][key].as_u64().unwrap_or_else(|| panic!("{key} in {rows:?}"))
}

/// Asserts that a restore to the moment of a commit gives that commit.
fn assert_moment(bed: &Bed, commit: &Commit, next: &Commit) {
    let moment = commit.done + next.begun.duration_since(commit.done).unwrap_or_default() / 2;
    let millis = moment.duration_since(UNIX_EPOCH).unwrap().as_millis();
    let output = bed.fresh("moment.db");
    let at = format!("@{}.{:03}", millis / 1000, millis % 1000);
    bed.run(&["restore", "-timestamp", &at, "-o", output.to_str().unwrap(), &bed.url()]).succeeded();
    let state = judged(&output);
    // Several commits may share a member, which was seen after the last of them.
    assert!(state.seq <= commit.state.seq && state.seq + 40 >= commit.state.seq, "{state:?} at {:?}", commit.state);
}

fn compact_does_what_a_device_leaves_undone(bed: &Bed) {
    let (database, library) = (bed.database(), wrong_clock(bed));
    let config = configuration(bed, &database, ", compaction: false");
    let process = replicate(bed, &config);
    bed.write(&database, &["--seconds", "26", "--rate", "20"]);
    process.stop();
    let stored = segments(bed);

    let planned = compact(bed, &["-dry-run", "-json", &bed.url()], None);
    let (before, after) = (number(&planned, "segments"), number(&planned, "segments_after"));
    assert!(before as usize == stored.len() && after < before - 30, "{before} {after}");
    assert_eq!(segments(bed), stored, "a dry run changes nothing");

    let done = compact(bed, &["-once", "-json", &bed.url()], None);
    assert!(number(&done, "merged") > 30 && number(&done, "deleted") == 0, "{}", done.stdout);
    assert!(stored.iter().all(|name| segments(bed).contains(name)), "a restore may be under way");
    let again = compact(bed, &["-once", "-json", "-config", config.to_str().unwrap()], Some(&library));
    assert_eq!(number(&again, "deleted"), number(&done, "merged"));
    assert_eq!(segments(bed).len() as u64, after);
    let nothing = compact(bed, &["-once", "-json", &bed.url()], Some(&library));
    assert_eq!((number(&nothing, "merged"), number(&nothing, "deleted")), (0, 0));

    assert_equal(&database, &bed.restored());
    let commits = commits(&database);
    commits.windows(2).skip(BEFORE).step_by(97).for_each(|pair| assert_moment(bed, &pair[0], &pair[1]));
    // The device goes on in the same generation.
    let process = replicate(bed, &config);
    bed.write(&database, &["--commits", "30", "--rate", "20", "--seed", "2"]);
    process.stop();
    assert_eq!(rows(&bed.run(&["generations", "-json", &bed.url()]).succeeded()).len(), 1);
    assert_equal(&database, &bed.restored());
}

fn compactors_that_die_beside_a_replicator_lose_nothing(bed: &Bed) {
    let (database, library) = (bed.database(), wrong_clock(bed));
    let config = configuration(bed, &database, "");
    let start = |_: usize| {
        let mut command: Command = litestream();
        command.args(["compact", "-interval", "1s", &bed.url()]);
        bed.spawn(with_clock(&mut command, &library, LATER))
    };
    bed.run(&["replicate", "-once", "-config", config.to_str().unwrap()]).succeeded();
    let mut process = replicate(bed, &config);
    let mut compactors: Vec<Process> = (0..2).map(start).collect();
    // `make compactors` takes ten minutes.
    let seconds = std::env::var("COMPACT_SECONDS").unwrap_or_else(|_| "20".to_string());
    let mut application = bed.application(&database, &["--seconds", &seconds, "--rate", "20"]);
    let mut next = 0;
    while application.is_running() {
        // Each dies at moments of its own, in the middle of whatever it does, and about twenty of them do.
        std::thread::sleep(Duration::from_millis(500 + next % 7 * 150));
        next += 1;
        match next % 5 {
            4 => {
                process.kill();
                process = replicate(bed, &config);
            }
            other => {
                compactors.remove(0).kill();
                compactors.push(start(other as usize));
            }
        }
    }
    // The last window of a generation that has ended is never closed. One ends where the application restarts the WAL after a
    // kill.
    let generation = |row: &serde_json::Value| row["start"].as_str().unwrap()[..16].to_string();
    until("few segments are left", || {
        let found = rows(&bed.run(&["wal", "-json", &bed.url()]).succeeded());
        let newest = found.iter().map(generation).max();
        match found.iter().filter(|row| Some(generation(row)) == newest).count() {
            0..=100 => Ok(()),
            more => Err(more),
        }
    });
    process.stop();
    compactors.into_iter().for_each(Process::stop);
    assert_equal(&database, &bed.restored());
    let commits = commits(&database);
    commits.windows(2).skip(BEFORE).step_by(31).for_each(|pair| assert_moment(bed, &pair[0], &pair[1]));
}

const HOUR: i64 = 3600;

/// Two commits each day, for some days: when each was seen, in the order of the commits.
fn days_of_commits(bed: &Bed, config: &Path, database: &Path, library: &Path) -> Vec<Timestamp> {
    let mut session = bed.session(database);
    session.sql("PRAGMA wal_autocheckpoint=0");
    session.sql("CREATE TABLE kept(x)");
    for commit in 0..12 {
        session.sql("INSERT INTO kept VALUES(hex(randomblob(300)))");
        let mut command = litestream();
        command.args(["replicate", "-once", "-config", config.to_str().unwrap()]);
        with_clock(&mut command, library, commit / 2 * 24 * HOUR + commit % 2 * HOUR / 2);
        bed.run_command(&mut command).succeeded();
    }
    let rows = rows(&bed.run(&["wal", "-json", &bed.url()]).succeeded());
    let times = rows.iter().map(|row| Timestamp::parse(row["last"].as_str().unwrap()).unwrap());
    times.collect()
}

fn each_state_that_keep_keeps_is_restored(bed: &Bed) {
    let (database, library) = (bed.database(), wrong_clock(bed));
    let config = configuration(bed, &database, "");
    let policy = "keep: { all: 1h, hourly: 2d, daily: 30d }\n";
    fs::write(&config, format!("{policy}{}", fs::read_to_string(&config).unwrap())).unwrap();
    let times = days_of_commits(bed, &config, &database, &library);
    let hours = |count: i64| Some(Duration::from_secs((count * HOUR) as u64));
    let keep = Keep::new([hours(1), hours(48), hours(24 * 30), None, None]).unwrap();
    let newest = times[times.len() - 1];
    let next = |commit: usize| times.get(commit + 1).copied().unwrap_or(Timestamp::MAX);
    let kept: Vec<bool> = (0..times.len()).map(|commit| keep.keeps(newest, times[commit], next(commit))).collect();
    let compact = |words: &[&str]| {
        let mut command = litestream();
        command.args(["compact", "-json"]).args(words);
        bed.run_command(with_clock(&mut command, &library, 5 * 24 * HOUR + HOUR)).succeeded()
    };
    let pass = || compact(&["-once", "-config", config.to_str().unwrap()]);
    let before = segments(bed);
    let planned = compact(&["-dry-run", "-keep", "all=1h,hourly=2d,daily=30d", &bed.url()]);
    let told = ["rollups", "delete", "states_after"].map(|key| number(&planned, key));
    assert_eq!(segments(bed), before, "a dry run changes nothing");
    let done = compact(&["-once", "-keep", "all=1h,hourly=2d,daily=30d", &bed.url()]);
    assert!(number(&done, "rollups") > 2 && number(&done, "deleted") == 0, "{}", done.stdout);
    let deleted = number(&pass(), "deleted");
    assert!(deleted > 4, "what was replaced goes in the next pass");
    assert_eq!(told, [number(&done, "rollups"), deleted, segments(bed).len() as u64 + 1], "as it was planned");
    assert_eq!((number(&pass(), "rollups"), number(&pass(), "deleted")), (0, 0));
    assert!(segments(bed).len() < times.len() && segments(bed).iter().any(|row| row.contains("\"rollup\"")));
    assert!(times.len() > 9 && kept.iter().any(|kept| !kept));
    for (at, kept) in kept.into_iter().enumerate() {
        let output = bed.fresh("moment.db");
        let moment = times[at].to_string();
        let ran = bed.run(&["restore", "-timestamp", &moment, "-o", output.to_str().unwrap(), &bed.url()]).succeeded();
        let count = bed.sql(&output, &["SELECT count(*) FROM kept"]).replace(|c: char| !c.is_ascii_digit(), "");
        let count: usize = count.parse().unwrap();
        // The first ones are in the snapshot.
        let wanted = 12 - (times.len() - 1 - at);
        assert!(if kept { count == wanted } else { count < wanted }, "{count} for {wanted}");
        assert_eq!(ran.stderr.contains("the newest kept state is from "), !kept, "{}", ran.stderr);
    }
    bed.run(&["verify", &bed.url()]).succeeded();
    assert_equal(&database, &bed.restored());
}

fn its_metrics_tell_what_was_done_and_whether_it_went_well(bed: &Bed) {
    let database = bed.database();
    bed.replicate_once(&database);
    let (metrics, config) = (bed.path("compact.prom"), bed.path("litestream.yml"));
    let entry =
        |name: &str, url: &str| format!("  - path: {}\n    replica: {{ url: \"{url}\" }}\n", bed.path(name).display());
    let missing = bed.url_below("missing");
    fs::write(&config, format!("dbs:\n{}{}", entry("a.db", &bed.url()), entry("missing.db", &missing))).unwrap();
    let words = ["compact", "-once", "-config", config.to_str().unwrap(), "-metrics-file", metrics.to_str().unwrap()];
    assert_eq!(bed.run(&words).status, NOTHING);
    let text = fs::read_to_string(&metrics).unwrap();
    for line in [
        format!("litestream_compact_up{{replica=\"{}\"}} 1", bed.url()),
        format!("litestream_compact_up{{replica=\"{missing}\"}} 0"),
        format!("litestream_compact_errors_total{{replica=\"{missing}\"}} 1"),
        format!("litestream_compact_deleted_objects_total{{replica=\"{}\"}} 0", bed.url()),
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
    }
    // The connection is closed by then, and what it carried is known.
    let listed = |line: &str| line.contains("direction=\"received\",purpose=\"listing\"") && !line.ends_with(" 0");
    assert_eq!(text.lines().any(listed), bed.url().starts_with("nats"), "{text}");
}

/// The time-out of a connect.
const TIMEOUT: Duration = Duration::from_secs(10);

fn a_signal_ends_it_though_its_server_hangs(bed: &Bed) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}/backup", silent.local_addr().unwrap());
    let output = bed.fresh("restored.db");
    let restore = ["restore", "-o", output.to_str().unwrap(), &url];
    let ended = 128 + libc::SIGTERM;
    let runs: [(&[&str], i32); 3] = [(&["compact", "-once", &url], ended), (&["compact", &url], 0), (&restore, ended)];
    for (words, status) in runs {
        let mut process = bed.start(words);
        let connection = silent.accept().unwrap();
        let begun = Instant::now();
        process.terminate();
        process.exits(status);
        assert!(begun.elapsed() * 2 < TIMEOUT, "{words:?}: {:?}", begun.elapsed());
        drop(connection);
    }
}

fn a_signal_ends_it_between_two_passes(bed: &Bed) {
    bed.replicate_once(&bed.database());
    let mut process = bed.start(&["compact", "-interval", "1h", &bed.url()]);
    process.says("compacting");
    process.terminate();
    process.exits(0);
}

/// Each of several databases in a bucket is found in one listing of it.
#[test]
fn a_bucket_is_listed_once_for_all_its_databases() {
    let mut bed = Bed::nats("compact-bucket");
    let names = ["one", "two", "three", "deep/four"];
    let urls: Vec<String> = names.iter().map(|name| bed.url_below(name)).collect();
    let database = bed.database();
    for (name, url) in names.iter().zip(&urls) {
        let copy = bed.path(&format!("{}.db", name.replace('/', "-")));
        fs::copy(&database, &copy).unwrap();
        bed.run_command(bed.replicate_command(&copy, url).arg("-once")).succeeded();
    }
    let proxy = Proxy::new(bed.server().port);
    let server = urls[0].trim_start_matches("nats://").split('/').next().unwrap();
    let entry = |name: &str, url: &str| {
        let url = url.replace(server, &proxy.address());
        format!("  - path: {}\n    replica: {{ url: \"{url}\" }}\n", bed.path(&format!("{name}.db")).display())
    };
    let entries: String = names.iter().zip(&urls).map(|(name, url)| entry(&name.replace('/', "-"), url)).collect();
    let config = bed.path("litestream.yml");
    fs::write(&config, format!("dbs:\n{entries}")).unwrap();
    proxy.overhear();
    let ran = bed.run(&["compact", "-once", "-json", "-config", config.to_str().unwrap()]).succeeded();
    let found: Vec<String> = rows(&ran).iter().map(|row| row["replica"].as_str().unwrap().to_string()).collect();
    assert!(names.iter().zip(&found).all(|(name, url)| url.ends_with(name)) && found.len() == 4, "{found:?}");
    let heard = String::from_utf8_lossy(&proxy.heard()).into_owned();
    // Once for the names, and once for what uploads that died have left.
    assert_eq!(heard.lines().filter(|line| line.starts_with("PUB $JS.API.CONSUMER.CREATE.")).count(), 2);
    // One of which nothing is stored is told, and keeps none of the others from it.
    let missing = format!("dbs:\n{entries}{}", entry("missing", &bed.url_below("missing")));
    fs::write(&config, missing).unwrap();
    let ran = bed.run(&["compact", "-once", "-json", "-config", config.to_str().unwrap()]);
    assert!(ran.status == NOTHING && ran.stderr.contains("missing: nothing is stored"), "{}", ran.stderr);
    assert_eq!(rows(&ran).iter().filter(|row| row["error"].is_null()).count(), 4);
}

fn an_error_of_compact_that_goes_on_is_a_line_of_the_log(bed: &Bed) {
    let database = bed.path("never-stored.db");
    let config = configuration(bed, &database, "");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("logging:\n  type: json\n{text}")).unwrap();
    fs::create_dir_all(bed.path("store")).unwrap();
    let mut process = bed.start(&["compact", "-interval", "1s", "-config", config.to_str().unwrap()]);
    process.says("not compacted, trying again");
    let log = process.log();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    let told = lines.iter().find(|line| line["msg"] == "not compacted, trying again").unwrap();
    assert!(told["level"] == "warn" && told["replica"].is_string(), "{told}");
    assert!(told["error"].as_str().is_some_and(|error| error.contains("nothing is stored")), "{told}");
    process.stop();
}

fn compact_of_nothing_says_so(bed: &Bed) {
    fs::create_dir_all(bed.path("store")).unwrap();
    bed.run(&["compact", "-once", &bed.url()]).refused(NOTHING, &["nothing is stored"]);
    let config = configuration(bed, &bed.path("never-stored.db"), "");
    let options = ["compact", "-once", "-json", "-config", config.to_str().unwrap()];
    let ran = bed.run(&options);
    assert_eq!(ran.status, NOTHING, "{}", ran.stderr);
    let row = &rows(&ran)[0];
    assert!(row["merged"].is_null() && row["deleted"].is_null() && row["error"].is_string(), "{row}");
    bed.run(&["compact", "-json", &bed.url()]).refused(USAGE, &["option -json works only with -once or -dry-run"]);
    bed.run(&["compact", "-once", "-interval", "1m", &bed.url()]).refused(USAGE, &["-once", "-interval"]);
    bed.run(&["compact", "-once", "-retention", "1h"])
        .refused(USAGE, &["option -retention works only with a REPLICA_URL"]);
    bed.run(&["compact", "-once", "-keep", "all=1h"]).refused(USAGE, &["option -keep works only with a REPLICA_URL"]);
    let keep = ["compact", "-once", "-keep", "all=1h,daily=1m", &bed.url()];
    bed.run(&keep).refused(USAGE, &["option -keep: daily: expected 1h or more"]);
}

//! Copies that a service keeps: many in one process, and what it tells of them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use crate::support::clock::{with_clock, wrong_clock};
use crate::support::{Bed, Process, Ran, assert_equal, equal, litestream, on_a_directory_only, restore_command, until};

on_a_directory_only! {
    status_tells_where_a_copy_is_and_who_follows
    many_are_followed_and_one_that_fails_stops_no_other
    a_heartbeat_says_that_every_copy_is_up_to_date
    a_command_is_told_of_another_file_and_its_status_is_ours
    a_copy_far_behind_takes_the_snapshot
    a_copy_far_behind_takes_the_rollup
}

fn follow(url: &str, output: &Path) -> Command {
    let mut command = restore_command(url, output);
    command.args(["-f", "-follow-interval", "50ms"]);
    command
}

/// A database with a few commits in the directory `live`, stored below its name.
fn stored(bed: &Bed, name: &str) -> PathBuf {
    let database = bed.path("live").join(name);
    fs::create_dir_all(database.parent().unwrap()).unwrap();
    bed.write(&database, &["--commits", "2", "--abandon"]);
    store(bed, &database, name);
    database
}

fn store(bed: &Bed, database: &Path, name: &str) {
    bed.run_command(bed.replicate_command(database, &bed.url_below(name)).arg("-once")).succeeded();
}

/// The one row of `status`, and its exit status.
fn status(bed: &Bed, copy: &Path) -> (serde_json::Value, i32) {
    let Ran { stdout, status, stderr, .. } = bed.run(&["status", "-json", copy.to_str().unwrap(), &bed.url()]);
    let rows: serde_json::Value =
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout} {stderr}"));
    (rows[0].clone(), status)
}

fn status_tells_where_a_copy_is_and_who_follows(bed: &Bed) {
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    bed.replicate_once(&database);
    let follower = bed.spawn(&mut follow(&bed.url(), &copy));
    let row = until("it is followed", || match status(bed, &copy) {
        (row, 0) => Ok(row),
        (row, _) => Err(row),
    });
    assert_eq!((row["status"].as_str(), row["behind"].as_u64()), (Some("following"), Some(0)), "{row}");
    assert!(row["position"].is_string() && row["last_contact"].is_string(), "{row}");
    // Nobody follows any more, and what is stored goes on.
    follower.stop();
    let (idle, exit) = status(bed, &copy);
    assert!(exit == 1 && idle["status"].as_str().unwrap().starts_with("not followed"), "{idle}");
    bed.write(&database, &["--commits", "2", "--abandon"]);
    bed.replicate_once(&database);
    let (late, exit) = status(bed, &copy);
    assert!(exit == 1 && late["behind"].as_u64() > Some(0) && late["seconds_behind"].as_u64() > Some(0), "{late}");
    assert_eq!(late["position"], row["position"]);
    // A database that is no copy has no contact.
    assert_eq!(status(bed, &database).0["last_contact"], serde_json::Value::Null);
}

fn many_are_followed_and_one_that_fails_stops_no_other(bed: &Bed) {
    let (a, b) = (stored(bed, "a.db"), stored(bed, "t/b.db"));
    let (live, metrics, config) = (bed.path("live"), bed.path("metrics.prom"), bed.path("f.yml"));
    let copy = |database: &Path| bed.path("out").join(database.strip_prefix("/").unwrap());
    let taken = copy(&stored(bed, "taken.db"));
    fs::create_dir_all(taken.parent().unwrap()).unwrap();
    fs::write(&taken, "somebody's").unwrap();
    let entry =
        format!("dir: {}, pattern: \"*.db\", recursive: true, replica: {{url: \"{}\"}}", live.display(), bed.url());
    fs::write(&config, format!("metrics-file: {}\ndbs: [{{{entry}}}]\n", metrics.display())).unwrap();
    let mut command = litestream();
    command.arg("-config").arg(&config).args(["restore", "-f", "-all", "-follow-interval", "50ms", "-o"]);
    let mut follower = bed.spawn(command.arg(bed.path("out")));
    until("a is there", || equal(&a, &copy(&a)));
    until("b is there", || equal(&b, &copy(&b)));
    bed.write(&b, &["--commits", "2", "--abandon"]);
    store(bed, &b, "t/b.db");
    until("b goes on", || equal(&b, &copy(&b)));
    // One that nobody knew of.
    let c = stored(bed, "c.db");
    until("c has come", || equal(&c, &copy(&c)));
    follower.says("already exists");
    assert_eq!(fs::read_to_string(&taken).unwrap(), "somebody's");
    let expected = |copy: &Path, metric: &str, value: &str| {
        format!("litestream_copy_{metric}{{db=\"{}\"}} {value}", copy.display())
    };
    let has = |text: &str, line: &str| text.lines().any(|found| found == line);
    until("the metrics tell of c", || {
        let text = fs::read_to_string(&metrics).map_err(|error| error.to_string())?;
        if has(&text, &expected(&copy(&c), "up", "1")) { Ok(()) } else { Err(text) }
    });
    let text = fs::read_to_string(&metrics).unwrap();
    for (copy, metric, value) in
        [(&taken, "up", "0"), (&copy(&a), "behind_bytes", "0"), (&copy(&a), "behind_seconds", "0")]
    {
        assert!(has(&text, &expected(copy, metric, value)), "{metric} {value}: {text}");
    }
    assert!(follower.is_running());
    follower.stop();
    for database in [a, b, c] {
        assert_equal(&database, &copy(&database));
    }
}

/// Answers each request; what was asked for.
fn host() -> (u16, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1000]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            let _ = sender.send(());
        }
    });
    (port, receiver)
}

fn a_heartbeat_says_that_every_copy_is_up_to_date(bed: &Bed) {
    let database = bed.database();
    bed.replicate_once(&database);
    let (port, beats) = host();
    let other = bed.path("other.db");
    let entry = |path: &Path, url: &str| format!("  - {{path: {}, replica: {{url: \"{url}\"}}}}\n", path.display());
    let start = |databases: &str, output: &Path| -> Process {
        let config = bed.fresh("f.yml");
        fs::write(&config, format!("heartbeat-url: http://127.0.0.1:{port}/\ndbs:\n{databases}")).unwrap();
        let mut command = litestream();
        command.arg("-config").arg(config).args(["restore", "-f", "-all", "-follow-interval", "50ms", "-o"]);
        bed.spawn(command.arg(output))
    };
    let (one, two) = (entry(&database, &bed.url()), entry(&other, &bed.url_below("nothing")));
    // One of them has no copy: there is nothing stored for it.
    let mut troubled = start(&format!("{one}{two}"), &bed.path("x"));
    troubled.says("no heartbeat, a copy is not up to date");
    assert!(beats.try_recv().is_err(), "{}", troubled.log());
    troubled.kill();
    let follower = start(&one, &bed.path("y"));
    beats.recv_timeout(crate::support::SOON).expect("a heartbeat");
    follower.stop();
}

fn a_command_is_told_of_another_file_and_its_status_is_ours(bed: &Bed) {
    let (database, copy, told) = (bed.database(), bed.path("copy.db"), bed.path("told"));
    bed.replicate_once(&database);
    let script = format!("trap 'echo told >{}; exit 42' USR1; while :; do sleep 0.05; done", told.display());
    let command = format!("sh -c \"{script}\"");
    let mut follower = bed.spawn(follow(&bed.url(), &copy).args(["-exec", &command, "-exec-signal", "USR1"]));
    until("the copy is there", || equal(&database, &copy));
    bed.write(&database, &["--commits", "1"]);
    bed.replicate_once(&database);
    until("the copy has caught up", || equal(&database, &copy));
    assert!(!told.exists() && follower.is_running(), "what is applied changes no file");
    bed.sql(&database, &["PRAGMA journal_mode=DELETE", "PRAGMA page_size=8192", "VACUUM", "PRAGMA journal_mode=WAL"]);
    bed.replicate_once(&database);
    follower.exits(42);
    assert!(told.exists());
    assert_equal(&database, &copy);
}

/// The segments that lead there are larger than the database, and a newer snapshot of the same generation is stored.
fn a_copy_far_behind_takes_the_snapshot(bed: &Bed) {
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    let mut session = bed.session(&database);
    session.sql("PRAGMA wal_autocheckpoint=0");
    session.sql("CREATE TABLE big AS SELECT randomblob(200000) AS x");
    bed.replicate_once(&database);
    let first = bed.spawn(&mut follow(&bed.url(), &copy));
    until("the copy is there", || equal(&database, &copy));
    first.kill();
    for _ in 0..12 {
        session.sql("UPDATE big SET x = randomblob(200000)");
    }
    bed.replicate_once(&database);
    bed.run(&["snapshot", "-full", database.to_str().unwrap(), &bed.url()]).succeeded();
    assert_eq!(bed.generations().len(), 1);
    let mut follower = bed.spawn(follow(&bed.url(), &copy).arg("-json"));
    follower.says("copy is far behind, a snapshot is the shorter way");
    until("the copy has caught up", || equal(&database, &copy));
    let read = bytes_read(&follower);
    assert!(read > 100_000 && read < 800_000, "{read}");
    follower.stop();
}

/// Bytes that a follower has read from the store, as it says.
fn bytes_read(follower: &Process) -> u64 {
    let row = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    follower.output().lines().map(|line| row(line)["read"].as_u64().unwrap()).sum()
}

/// The net change of many commits stands beside their segments: it is read in their place, and no snapshot is.
fn a_copy_far_behind_takes_the_rollup(bed: &Bed) {
    const DAY: i64 = 24 * 3600;
    let (database, copy, library) = (bed.database(), bed.path("copy.db"), wrong_clock(bed));
    let mut session = bed.session(&database);
    session.sql("PRAGMA wal_autocheckpoint=0");
    session.sql("CREATE TABLE big AS SELECT randomblob(200000) AS x UNION ALL SELECT randomblob(50000)");
    let later = |command: &mut Command, seconds| bed.run_command(with_clock(command, &library, seconds)).succeeded();
    let store = |seconds| later(bed.replicate_command(&database, &bed.url()).arg("-once"), seconds);
    store(0);
    let first = bed.spawn(&mut follow(&bed.url(), &copy));
    until("the copy is there", || equal(&database, &copy));
    first.stop();
    for minute in 1..=9 {
        session.sql("UPDATE big SET x = randomblob(50000) WHERE rowid = 2");
        store(minute * 60);
    }
    session.sql("UPDATE big SET x = 1 WHERE rowid = 2");
    store(2 * DAY);
    let mut compact = litestream();
    later(compact.args(["compact", "-once", "-keep", "all=1h,daily=30d", &bed.url()]), 2 * DAY + 60);
    let listed: Vec<serde_json::Value> =
        serde_json::from_str(&bed.run(&["wal", "-json", &bed.url()]).succeeded().stdout).unwrap();
    assert!(listed.iter().any(|row| row.to_string().contains("\"rollup\"")), "{listed:?}");
    let follower = bed.spawn(follow(&bed.url(), &copy).arg("-json"));
    until("the copy has caught up", || equal(&database, &copy));
    // Nine times 50,000 bytes in segments; at the end of a day, two rollups.
    let read = bytes_read(&follower);
    assert!(read > 40_000 && read < 180_000, "{read} {listed:?}");
    follower.stop();
    assert_equal(&database, &copy);
}

//! `list`: what it tells of each database below a place, and what a monitor hears of those that are not as they should be.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

use litestream::format::key::{SegmentKey, SnapshotKey};
use litestream::format::position::{Generation, Offset, WalPosition};
use litestream::format::time::Timestamp;
use serde_json::{Value, json};

use crate::support;
use crate::support::nats;
use crate::support::raw;
use crate::support::{Bed, NOTHING, Ran, STORE, USAGE, on_both_stores, until};

use crate::support::proxy::Proxy;
use crate::support::raw::Message;

on_both_stores! {
    each_database_is_told_with_what_a_restore_gives
    a_monitor_hears_what_is_late_and_what_is_gone
    what_cannot_be_restored_is_unprotected
    a_moment_in_the_future_proves_nothing
    a_mistyped_place_and_a_wrong_file_are_refused
}

/// `list URL -json`, by prefix.
fn listed(bed: &Bed, url: &str, more: &[&str]) -> BTreeMap<String, Value> {
    let ran = bed.run(&[&["list", url, "-json"], more].concat());
    assert!(ran.status <= 1, "{}", ran.stderr);
    rows(&ran.stdout)
}

fn rows(json: &str) -> BTreeMap<String, Value> {
    let rows: Vec<Value> = serde_json::from_str(json).expect("an array");
    rows.into_iter().map(|row| (row["prefix"].as_str().expect("a prefix").to_string(), row)).collect()
}

fn on_nats(bed: &Bed) -> bool {
    bed.url().starts_with("nats:")
}

/// A database, stored below `prefix`, with nobody who replicates it.
fn stored(bed: &Bed, prefix: &str) -> PathBuf {
    let database = bed.path(&format!("{}.db", prefix.replace('/', "-")));
    bed.write(&database, &["--commits", "3"]);
    let mut command = bed.replicate_command(&database, &bed.url_below(prefix));
    bed.run_command(command.arg("-once")).succeeded();
    database
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn each_database_is_told_with_what_a_restore_gives(bed: &Bed) {
    let quiet = stored(bed, "tenants/t1.db");
    let database = bed.database();
    let replicator = bed.replicate_to(&database, &bed.url_below("app"));
    until("the live one is told, with all stored", || {
        let ran = bed.run(&["list", &bed.url(), "-json"]);
        if ran.status != 0 {
            return Err(ran.stderr);
        }
        let rows = rows(&ran.stdout);
        let Some(app) = rows.get("app") else { return Err(ran.stdout) };
        let all_stored = if on_nats(bed) { app["lag"] == 0 } else { app["lag"].is_null() };
        if app["live"] == true && app["restore_size"].is_u64() && all_stored { Ok(()) } else { Err(ran.stdout) }
    });
    let rows = listed(bed, &bed.url(), &[]);
    assert_eq!(rows.keys().collect::<Vec<_>>(), ["app", "tenants/t1.db"]);
    for (prefix, path) in [("app", &database), ("tenants/t1.db", &quiet)] {
        let row = &rows[prefix];
        let url = bed.url_below(prefix);
        let output = bed.fresh("restored.db");
        let restored = bed.run(&["restore", "-json", "-o", output.to_str().unwrap(), &url]).succeeded().stdout;
        let restored: Value = serde_json::from_str(&restored).expect("JSON");
        assert_eq!((&row["newest"], &row["restore_size"]), (&restored["time"], &restored["read"]), "{row}");
        assert!(row["age"].as_u64().is_some_and(|age| age < 600), "{row}");
        let generations: Vec<Value> =
            serde_json::from_str(&bed.run(&["generations", "-json", &url]).succeeded().stdout).expect("JSON");
        let sum = |column: &str| generations.iter().filter_map(|row| row[column].as_u64()).sum::<u64>();
        assert_eq!(row["generations"], generations.len());
        assert_eq!(row["objects"], sum("snapshots") + sum("segments"));
        assert_eq!(row["bytes"], sum("size"));
        assert_eq!(row["first"], generations[0]["start"]);
        assert_eq!(row["database"], generations[0]["database"]);
        assert!(text(&row["database"]).ends_with(&format!(":{}", path.display())), "{row}");
        assert_eq!(row["problem"], Value::Null);
    }
    let app = &rows["app"];
    assert_eq!((&app["live"], &app["pid"]), (&json!(true), &json!(replicator.pid())));
    assert!(!text(&app["host"]).is_empty());
    let version = if on_nats(bed) { json!(env!("CARGO_PKG_VERSION")) } else { Value::Null };
    assert_eq!(app["version"], version);
    let quiet = &rows["tenants/t1.db"];
    assert_eq!(quiet["live"], false);
    assert!(["host", "pid", "version", "lag"].iter().all(|column| quiet[column].is_null()), "{quiet}");
    // Below a prefix, names begin after it; at a database they are that of the place itself.
    assert_eq!(listed(bed, &bed.url_below("tenants"), &[]).into_keys().collect::<Vec<_>>(), ["t1.db"]);
    let here = listed(bed, &bed.url_below("app"), &[]);
    assert_eq!((here.len(), &here["."]["pid"]), (1, &json!(replicator.pid())));
    replicator.stop();
}

/// Runs `list` as a monitor: its lines.
fn monitor(bed: &Bed, more: &[&str]) -> Ran {
    bed.run(&[&["list", &bed.url()], more].concat())
}

fn says(ran: &Ran, status: i32, lines: &[&str]) {
    let found: Vec<&str> = ran.stdout.lines().collect();
    let fits = found.len() == lines.len() && found.iter().zip(lines).all(|(line, start)| line.starts_with(start));
    assert!(
        fits && ran.status == status,
        "expected {status} {lines:?}, found {} {}{}",
        ran.status,
        ran.stdout,
        ran.stderr
    );
}

fn a_monitor_hears_what_is_late_and_what_is_gone(bed: &Bed) {
    stored(bed, "t/one");
    let database = bed.database();
    let replicator = bed.replicate_to(&database, &bed.url_below("app"));
    let expected = bed.path("expected");
    let expected_word = expected.to_str().unwrap();
    fs::write(&expected, "app\nt/one\n").unwrap();
    let well = until("all is well", || {
        let ran = monitor(bed, &["-max-age", "1h", "-missing", expected_word]);
        if ran.status == 0 { Ok(ran) } else { Err(ran.stdout + &ran.stderr) }
    });
    says(&well, 0, &[]);
    fs::write(&expected, "lost/x\r\n\nt/one\n/app/\nlost\n.\n").unwrap();
    let gone = [".: gone: nothing is stored", "lost: gone: ", "lost/x: gone: "];
    says(&monitor(bed, &["-missing", expected_word]), 1, &gone);
    // Nobody writes: it is not late as long as its replicator says that all is stored. A directory has nobody to ask.
    let late = ["t/one: late: the newest state is from 20"];
    let late_too = ["app: late: the newest state is from 20", late[0]];
    let late: &[&str] = if on_nats(bed) { &late } else { &late_too };
    let old = until("what was stored is old", || {
        let ran = monitor(bed, &["-max-age", "1s"]);
        if ran.stdout.lines().count() == late.len() { Ok(ran) } else { Err(ran.stdout + &ran.stderr) }
    });
    says(&old, 1, late);
    // The same with all that there is to know.
    let ran = monitor(bed, &["-json", "-max-age", "1s", "-missing", expected_word]);
    assert_eq!(ran.status, 1);
    let rows = rows(&ran.stdout);
    assert_eq!(rows["lost"]["problem"], "gone: nothing is stored");
    assert_eq!((&rows["lost"]["objects"], &rows["lost"]["newest"]), (&json!(0), &Value::Null));
    assert!(text(&rows["t/one"]["problem"]).starts_with("late: "));
    assert_eq!(rows["app"]["problem"].is_null(), on_nats(bed));
    // Without a question there is no alarm.
    assert_eq!(monitor(bed, &[]).status, 0);
    replicator.stop();
}

fn what_cannot_be_restored_is_unprotected(bed: &Bed) {
    let (one, two) = (Names::new(1, 10), Names::new(2, 4));
    let broken: Vec<String> = one.segments().chain(two.all().take(2)).chain(two.all().skip(3)).collect();
    let names = one.segments().map(|name| format!("half/{name}"));
    let names = names.chain(broken[10..].iter().map(|name| format!("gap/{name}")));
    let names: Vec<String> = names.chain(two.all().map(|name| format!("good/{name}"))).collect();
    place(bed, &names);
    let lines =
        ["gap: unprotected: generation 0000000000000002: no segment begins at ", "half: unprotected: segments are"];
    says(&monitor(bed, &["-max-age", "1000w"]), 1, &lines);
    let rows = listed(bed, &bed.url(), &[]);
    assert_eq!((&rows["gap"]["newest"], &rows["gap"]["restore_size"]), (&Value::Null, &Value::Null));
    assert!(text(&rows["half"]["problem"]).starts_with("unprotected: "));
    assert_eq!((&rows["half"]["objects"], &rows["good"]["objects"]), (&json!(10), &json!(5)));
    assert_eq!(monitor(bed, &[]).status, 0);
}

fn a_moment_in_the_future_proves_nothing(bed: &Bed) {
    let minutes = |minutes: u64| Names { begin: Names::new(1, 0).begin + 60_000 * minutes, ..Names::new(1, 0) };
    let last = Names { begin: Timestamp::MAX.millis(), ..Names::new(1, 0) };
    let names = [("near", minutes(1)), ("year", minutes(365 * 24 * 60)), ("last", last)];
    let names: Vec<String> =
        names.iter().flat_map(|(prefix, names)| names.all().map(move |name| format!("{prefix}/{name}"))).collect();
    place(bed, &names);
    let lines = ["last: unknown age: the newest moment, 9999-12-31", "year: unknown age: the newest moment, 20"];
    says(&monitor(bed, &["-max-age", "1h"]), 1, &lines);
    let rows = listed(bed, &bed.url(), &[]);
    for (prefix, age) in [("near", json!(0)), ("year", Value::Null), ("last", Value::Null)] {
        assert_eq!((&rows[prefix]["age"], rows[prefix]["newest"].is_null()), (&age, false), "{prefix}");
        assert_eq!(text(&rows[prefix]["problem"]).contains("a clock was wrong"), age.is_null(), "{prefix}");
    }
    assert_eq!(monitor(bed, &[]).status, 0);
}

fn a_mistyped_place_and_a_wrong_file_are_refused(bed: &Bed) {
    let url = bed.url();
    if on_nats(bed) {
        // No bucket, an empty one, and one of other programs.
        bed.run(&["list", &url]).refused(STORE, &["backup", "check the name of the bucket"]);
        raw::create(address(&url), "backup", json!({}));
        bed.run(&["list", &url]).refused(NOTHING, &[&url, "nothing is stored"]);
    } else {
        bed.run(&["list", &url]).refused(NOTHING, &["nothing is stored"]);
    }
    place(bed, &["readme".to_string(), "app/generations/junk".to_string()]);
    bed.run(&["list", &url]).refused(NOTHING, &["nothing is stored", "there are 2 object(s) of other programs"]);
    bed.run(&["list", &url, "-max-age", "5m"]).refused(NOTHING, &["nothing is stored"]);
    stored(bed, "t1");
    bed.run(&["list", &bed.url_below("t2")])
        .refused(NOTHING, &["nothing is stored", "check the prefix; stored prefixes: ", "t1"]);
    let file = bed.path("expected");
    let word = file.to_str().unwrap();
    bed.run(&["list", &url, "-missing", word]).refused(USAGE, &["option -missing: read ", word]);
    fs::write(&file, "\n\n").unwrap();
    bed.run(&["list", &url, "-missing", word]).refused(USAGE, &["names no prefix", "one prefix per line"]);
    bed.run(&["list", &url, "-max-age", "5"]).refused(USAGE, &["option -max-age", "did you mean 5s"]);
    bed.run(&["list", &url, "-max-age", "0"]).refused(USAGE, &["option -max-age: expected more than 0"]);
    bed.run(&["list"]).refused(USAGE, &["list: no replica URL is given"]);
    bed.run(&["list", &url, "more"]).refused(USAGE, &["list: expected at most 1"]);
}

fn address(url: &str) -> &str {
    url.strip_prefix("nats://").and_then(|rest| rest.split('/').next()).expect("an address")
}

/// Puts empty objects of these names.
fn place(bed: &Bed, names: &[String]) {
    if on_nats(bed) {
        let url = bed.url();
        let address = address(&url);
        if raw::ask(address, "$JS.API.STREAM.INFO.OBJ_backup", &json!({})).get("error").is_some() {
            raw::create(address, "backup", json!({}));
        }
        return raw::publish(address, &metas(names, 0));
    }
    for name in names {
        let path = bed.path("store").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
}

fn metas(names: &[String], size: usize) -> Vec<Message> {
    names.iter().enumerate().map(|(at, name)| Message::meta("backup", name, &format!("N{at}"), size)).collect()
}

/// The objects of one generation: a snapshot, and segments that follow it, a second each, up to now.
struct Names {
    generation: Generation,
    segments: u64,
    begin: u64,
}

impl Names {
    fn new(generation: u64, segments: u64) -> Names {
        let now = Timestamp::from_system_time(SystemTime::now()).millis();
        Names { generation: Generation::new(generation), segments, begin: now - 1000 * segments }
    }

    fn point(at: u64) -> WalPosition {
        WalPosition { index: 0, offset: Offset::new(32 + 4120 * at).expect("an offset") }
    }

    fn time(&self, at: u64) -> Timestamp {
        Timestamp::from_millis(self.begin + 1000 * at)
    }

    fn segments(&self) -> impl Iterator<Item = String> {
        let key = |at| SegmentKey {
            generation: self.generation,
            start: Names::point(at),
            end: Names::point(at + 1),
            first_seen: self.time(at + 1),
            last_seen: self.time(at + 1),
            part: false,
        };
        (0..self.segments).map(move |at| key(at).to_string())
    }

    fn all(&self) -> impl Iterator<Item = String> {
        let snapshot = SnapshotKey { generation: self.generation, position: Names::point(0), time: self.time(0) };
        std::iter::once(snapshot.to_string()).chain(self.segments())
    }
}

#[test]
fn strangers_in_the_bucket_are_passed_over_on_either_server() {
    strangers_are_passed_over(&nats::pinned());
    nats::on_system(strangers_are_passed_over);
}

fn strangers_are_passed_over(binary: &Path) {
    let bed = Bed::nats_on("list-strangers", binary, "");
    stored(&bed, "app");
    let url = bed.url();
    let address = address(&url);
    let ours = Names::new(1, 0).all().next().expect("a snapshot");
    let named = |name: &str| Message::meta("backup", name, "N", 0);
    let junk = |subject: &str, payload: &str| Message::new(format!("$O.backup.M.{subject}"), payload);
    let marked = json!({"name": format!("deleted/{ours}"), "bucket": "backup", "nuid": "N", "deleted": true});
    raw::publish(
        address,
        &[
            named("readme.txt"),
            named("app/generations/0123456789abcdef/snapshots/x.gz"),
            named(&format!("../{ours}")),
            named(&format!("evil\u{1b}[2J/{ours}")),
            named(&format!("turned\u{202e}/{ours}")),
            junk("bm90IGpzb24=", "not json"),
            junk("ZW1wdHk=", ""),
            junk("bGlzdA==", "[1,2]"),
            junk("ZGVsZXRlZA==", &marked.to_string()),
        ],
    );
    let rows = listed(&bed, &url, &[]);
    // A name with a control character is no object's; what turns the direction of text is one that is shown as it is.
    assert_eq!(rows.keys().collect::<Vec<_>>(), ["app", "turned\u{202e}"]);
    assert_eq!(rows["app"]["live"], false);
    let table = bed.run(&["list", &url]).succeeded().stdout;
    assert!(table.contains("turned\\u{202e}") && !table.contains('\u{202e}'), "{table}");
    assert!(table.starts_with("prefix "), "{table}");
    let late = bed.run(&["list", &url, "-max-age", "1000w"]);
    says(&late, 0, &[]);
}

#[test]
fn a_login_that_may_not_ask_who_replicates_is_told_the_rest() {
    let users = "authorization { users: [
        { user: \"all\", password: \"pw\" }
        { user: \"few\", password: \"pw\", permissions: { publish: { deny: [\"litestream.>\"] } } } ] }";
    let bed = Bed::nats_with("list-permissions", users);
    let database = bed.database();
    let with = |user: &str| bed.url().replace("nats://", &format!("nats://{user}:pw@"));
    let mut command = bed.replicate_command(&database, &format!("{}/app", with("all")));
    bed.run_command(command.arg("-once")).succeeded();
    for (user, live) in [("all", json!(false)), ("few", Value::Null)] {
        let rows = listed(&bed, &with(user), &[]);
        assert_eq!((&rows["app"]["live"], rows["app"]["restore_size"].is_u64()), (&live, true), "{user}");
    }
}

#[test]
fn silent_replicator_is_unknown_and_the_store_decides() {
    let bed = Bed::nats("list-frozen");
    let database = bed.database();
    let replicator = bed.replicate_to(&database, &bed.url_below("app"));
    until("it is live, with all stored", || {
        let ran = bed.run(&["list", &bed.url(), "-json"]);
        let live = ran.status == 0 && rows(&ran.stdout).get("app").is_some_and(|row| row["lag"] == 0);
        if live { Ok(()) } else { Err(ran.stdout + &ran.stderr) }
    });
    replicator.signal(libc::SIGSTOP);
    let rows = listed(&bed, &bed.url(), &["-max-age", "1s"]);
    let app = &rows["app"];
    assert_eq!((&app["live"], &app["lag"]), (&Value::Null, &Value::Null));
    assert!(text(&app["problem"]).starts_with("late: the newest state is from "), "{app}");
    replicator.signal(libc::SIGCONT);
    replicator.stop();
}

const DATABASES: usize = 1000;
const OBJECTS: u64 = 99;
const MEMORY: u64 = 32 << 20;

#[test]
fn a_thousand_databases_are_listed_in_one_pass_and_32_mib() {
    let bed = Bed::nats("list-thousand");
    let url = bed.url();
    let server = address(&url);
    raw::create(server, "backup", json!({}));
    let names: Vec<String> = Names::new(1, OBJECTS).all().collect();
    for name in &names {
        let names: Vec<String> = (0..DATABASES).map(|at| format!("tenants/{at:04}.db/{name}")).collect();
        raw::publish(server, &metas(&names, 10));
    }
    let proxy = Proxy::new(server.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port"));
    proxy.overhear();
    let (printed, memory) = run_measured(&format!("nats://{}/backup", proxy.address()));
    let rows = rows(&printed);
    assert_eq!(rows.len(), DATABASES);
    for row in rows.values() {
        assert_eq!((&row["objects"], &row["restore_size"]), (&json!(OBJECTS + 1), &json!(10 * (OBJECTS + 1))), "{row}");
    }
    assert!(memory <= MEMORY, "{memory} bytes");
    // One consumer reads all names; nothing is asked of a database but whether somebody replicates it.
    let heard = String::from_utf8_lossy(&proxy.heard()).into_owned();
    let asked = |subject: &str| heard.lines().filter(|line| line.starts_with("PUB") && line.contains(subject)).count();
    assert_eq!(asked("$JS.API.CONSUMER.CREATE"), 1);
    assert!(asked("$JS.API.CONSUMER.MSG.NEXT") <= DATABASES * (OBJECTS as usize + 1) / 2000 + 2);
    assert_eq!(asked("$JS.API.STREAM.MSG.GET"), 0);
    assert_eq!(asked("litestream.alive."), DATABASES);
    // A replicator at rest takes a second to answer: it is asked while the names are still read.
    let (first, last) = (heard.find("PUB litestream.alive."), heard.rfind("PUB $JS.API.CONSUMER.MSG.NEXT"));
    assert!(first.is_some() && first < last, "{first:?}, {last:?}");
}

/// `list URL -json`: what it prints, and the bytes of memory that it took at most. It prints more than a pipe holds, so that
/// it can be looked at when it has done all else.
fn run_measured(url: &str) -> (String, u64) {
    let mut command = support::litestream();
    let mut child = command.args(["list", url, "-json"]).stdout(Stdio::piped()).spawn().expect("spawn");
    let mut out = child.stdout.take().expect("its output");
    let mut first = [0];
    out.read_exact(&mut first).expect("a first byte");
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("its status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("the rest");
    assert!(rest.len() > 128 << 10, "it may have ended before it was looked at");
    assert!(child.wait().expect("it ends").success());
    (format!("{}{rest}", char::from(first[0])), peak << 10)
}

//! The contract of `litestream::store::Store`, held by every store: a directory, and NATS in two releases.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::support::drive::{connect, delete, get, list, missing, names, noise, put};
use crate::support::nats;
use litestream::error::Kind;
use litestream::format::time::Timestamp;
use litestream::store::nats::options::NatsOptions;
use litestream::store::{
    self, ConnectionPool, LeaseHolder, PutState, ScanEvent, ScannedObject, Store, StoreTarget, Writer,
};

/// Opens the store again below another prefix (same bucket, same directory tree).
type Open<'a> = &'a dyn Fn(&str) -> Rc<dyn Store>;

const KIB128: usize = 128 * 1024;

/// Every size at which a chunk begins or ends, and one with many chunks.
fn objects_of_every_size_read_back_as_they_were_written(store: &dyn Store) {
    for size in [0, 1, KIB128 - 1, KIB128, KIB128 + 1, 5 * 1024 * 1024] {
        let (name, bytes) = (format!("sizes/{size}"), noise(size, 7));
        put(store, &name, &bytes).expect("put");
        assert!(get(store, &name).expect("get") == bytes, "{size} bytes");
        let listed = list(store, &name).expect("list");
        assert_eq!(listed.iter().map(|e| e.size).collect::<Vec<_>>(), [size as u64]);
    }
}

fn a_put_over_a_name_replaces_it(store: &dyn Store) {
    for (seed, size) in [(1, 300_000), (2, 10), (3, 0), (4, 200_000)] {
        let bytes = noise(size, seed);
        put(store, "over", &bytes).expect("put");
        assert!(get(store, "over").expect("get") == bytes);
    }
    assert_eq!(names(store, "over").expect("list"), ["over"]);
}

fn what_is_not_committed_is_not_visible(store: &dyn Store) {
    put(store, "held", b"old").expect("put");
    let mut held = store.put("held");
    let bytes = noise(400_000, 9);
    let mut rest = bytes.as_slice();
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let n = if rest.is_empty() { 0 } else { held.write(rest).expect("write") };
        rest = &rest[n..];
        if rest.is_empty() {
            held.finish();
        }
        if held.poll(Instant::now()).expect("poll") == PutState::Staged {
            break;
        }
        assert!(Instant::now() < end, "never staged");
        store.wait(Duration::from_millis(20));
    }
    assert_eq!(get(store, "held").expect("get"), b"old");
    assert_eq!(list(store, "held").expect("list").len(), 1);
    held.commit();
    while held.poll(Instant::now()).expect("poll") != PutState::Done {
        store.wait(Duration::from_millis(20));
    }
    assert!(get(store, "held").expect("get") == bytes);
}

fn a_dropped_put_leaves_nothing(store: &dyn Store) {
    let mut dropped = store.put("dropped");
    for _ in 0..10 {
        dropped.write(&noise(100_000, 3)).expect("write");
        dropped.poll(Instant::now()).expect("poll");
        store.wait(Duration::from_millis(5));
    }
    drop(dropped);
    assert_eq!(names(store, "dropped").expect("list"), [""; 0]);
    assert_eq!(get(store, "dropped").expect_err("no object").kind(), Kind::NotFound);
}

fn names_may_hold_any_printable_character(store: &dyn Store) {
    let all = ["names/a b", "names/a+b?c*d>e.f", "names/ä/日本", "names/🦀", "names/x.", "names/…/~"];
    for name in all {
        put(store, name, name.as_bytes()).expect("put");
        assert_eq!(get(store, name).expect("get"), name.as_bytes());
    }
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    assert_eq!(names(store, "names/").expect("list"), sorted);
}

fn names_that_leave_the_store_are_refused(store: &dyn Store) {
    for name in ["", "..", "a/../../b", "/etc/x", "a//b", "a\nb"] {
        assert!(put(store, name, b"x").is_err(), "put {name:?}");
        assert!(get(store, name).is_err(), "get {name:?}");
        assert!(delete(store, &[name]).is_err(), "delete {name:?}");
    }
}

fn a_prefix_sees_only_its_own(open: Open) {
    let (one, two, deep) = (open("one"), open("one2"), open("one/deep"));
    for store in [&one, &two, &deep] {
        connect(store.as_ref()).expect("connect");
        put(store.as_ref(), "same", store.url().as_bytes()).expect("put");
    }
    assert_eq!(names(one.as_ref(), "").expect("list"), ["deep/same", "same"]);
    assert_eq!(names(two.as_ref(), "").expect("list"), ["same"]);
    delete(two.as_ref(), &["same", "deep/same"]).expect("delete");
    assert_eq!(get(one.as_ref(), "same").expect("get"), one.url().as_bytes());
    assert_eq!(get(deep.as_ref(), "same").expect("get"), deep.url().as_bytes());
    assert_eq!(names(two.as_ref(), "").expect("list"), [""; 0]);
}

fn what_is_not_there_is_not_found_and_deletes_well(store: &dyn Store) {
    assert_eq!(get(store, "missing/x").expect_err("no object").kind(), Kind::NotFound);
    delete(store, &["missing/x", "missing/y"]).expect("delete");
    delete(store, &[]).expect("delete nothing");
    assert!(list(store, "missing/").expect("list").is_empty());
}

fn a_look_for_objects_names_those_that_are_missing(store: &dyn Store) {
    put(store, "here/1", b"one").unwrap();
    put(store, "here/2", b"two").unwrap();
    let missing = |names: &[&str]| missing(store, names).expect("look");
    assert_eq!(missing(&["here/1", "here/2"]), [""; 0]);
    assert_eq!(missing(&["here/3", "here/1", "here"]), ["here/3", "here"]);
    delete(store, &["here/1"]).unwrap();
    assert_eq!(missing(&["here/1", "here/2"]), ["here/1"]);
    assert_eq!(missing(&[]), [""; 0]);
}

fn deleted_objects_are_gone_and_can_come_back(store: &dyn Store) {
    for name in ["gone/a", "gone/b", "gone/c"] {
        put(store, name, &noise(200_000, 5)).expect("put");
    }
    delete(store, &["gone/a", "gone/c"]).expect("delete");
    assert_eq!(names(store, "gone/").expect("list"), ["gone/b"]);
    assert_eq!(get(store, "gone/a").expect_err("deleted").kind(), Kind::NotFound);
    put(store, "gone/a", b"again").expect("put");
    assert_eq!(get(store, "gone/a").expect("get"), b"again");
}

fn many_objects_list_whole_and_in_order(store: &dyn Store) {
    const MANY: usize = 2_000;
    /// As many as a loop would have in flight.
    const AT_ONCE: usize = 50;
    let expected: Vec<String> = (0..MANY).map(|n| format!("many/{n:06}")).collect();
    for group in expected.chunks(AT_ONCE) {
        let mut puts: Vec<_> = group.iter().map(|name| store.put(name)).collect();
        for put in &mut puts {
            assert_eq!(put.write(b"small").expect("write"), 5);
            put.finish();
            put.commit();
        }
        while !puts.is_empty() {
            puts.retain_mut(|put| put.poll(Instant::now()).expect("poll") != PutState::Done);
            store.wait(Duration::from_millis(if puts.is_empty() { 0 } else { 20 }));
        }
    }
    assert_eq!(names(store, "many/").expect("list"), expected);
    let all: Vec<&str> = expected.iter().map(String::as_str).collect();
    delete(store, &all).expect("delete");
    assert!(list(store, "many/").expect("list").is_empty());
}

fn a_scan_gives_every_object_once_with_the_words_on_it(store: &dyn Store) {
    let mut put = store.put("scan/described");
    put.describe("words of \"a\" writer");
    assert_eq!(put.write(b"bytes").expect("write"), 5);
    put.finish();
    put.commit();
    while put.poll(Instant::now()).expect("poll") != PutState::Done {
        store.wait(Duration::from_millis(20));
    }
    assert_eq!(get(store, "scan/described").expect("get"), b"bytes");
    let (mut scan, mut found) = (store.scan(), Vec::new());
    loop {
        match scan.poll(Instant::now()).expect("poll") {
            ScanEvent::Object(object) => found.push(object),
            ScanEvent::Restarted => found.clear(),
            ScanEvent::Pending => store.wait(Duration::from_millis(20)),
            ScanEvent::End => break,
        }
    }
    for ScannedObject { entry, description } in &found {
        let words = description.as_deref();
        // A directory has no place for them.
        let kept = entry.name == "scan/described" && store.url().starts_with("nats:");
        assert_eq!(words, kept.then_some("words of \"a\" writer"), "{}", entry.name);
    }
    let mut found: Vec<_> = found.into_iter().map(|object| object.entry).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(found, list(store, "").expect("list"));
}

fn who_has_a_lease_is_found_below_its_prefix(open: Open) {
    let (above, one) = (open("kept"), open("kept/one"));
    connect(above.as_ref()).expect("connect");
    connect(one.as_ref()).expect("connect");
    let holder = LeaseHolder {
        database: "/a.db".to_string(),
        since: Timestamp::from_millis(1),
        takeover: false,
        anonymous: false,
    };
    let mut lease = one.acquire_lease(&holder);
    let end = Instant::now() + Duration::from_secs(60);
    while lease.poll(Instant::now()).expect("poll").is_none() {
        assert!(Instant::now() < end, "no lease");
        one.wait(Duration::from_millis(20));
    }
    lease.set_lag(Some(Duration::from_millis(1500)));
    let mut search = above.find_writers();
    ["one", "", "two"].iter().for_each(|prefix| search.query(prefix));
    // Anyone who has one answers at each of its ticks.
    while !search.poll(Instant::now()).expect("poll") {
        lease.poll(Instant::now()).expect("poll");
        above.wait(Duration::from_millis(20));
    }
    let writers = search.answers();
    let Writer::Live(writer) = &writers[0] else { panic!("{writers:?}") };
    assert_eq!(writer.pid, Some(std::process::id()));
    if let Some(database) = &writer.database {
        assert_eq!((database.as_str(), writer.lag), ("/a.db", Some(Duration::from_millis(1500))));
        assert_eq!(writer.version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    }
    assert_eq!(writers[1..], [Writer::Nobody, Writer::Nobody]);
}

fn keeps_the_contract(open: Open) {
    let store = open("p");
    let store = store.as_ref();
    connect(store).expect("connect");
    assert!(list(store, "").expect("the list of an empty store ends").is_empty());
    objects_of_every_size_read_back_as_they_were_written(store);
    a_put_over_a_name_replaces_it(store);
    what_is_not_committed_is_not_visible(store);
    a_dropped_put_leaves_nothing(store);
    names_may_hold_any_printable_character(store);
    names_that_leave_the_store_are_refused(store);
    what_is_not_there_is_not_found_and_deletes_well(store);
    a_look_for_objects_names_those_that_are_missing(store);
    deleted_objects_are_gone_and_can_come_back(store);
    many_objects_list_whole_and_in_order(store);
    a_scan_gives_every_object_once_with_the_words_on_it(store);
    who_has_a_lease_is_found_below_its_prefix(open);
    a_prefix_sees_only_its_own(open);
}

fn open_dir(root: &Path, prefix: &str) -> Rc<dyn Store> {
    store::open(&StoreTarget::Dir(root.join(prefix)), Default::default(), &mut ConnectionPool::default()).expect("open")
}

fn nats_keeps_the_contract(binary: &Path) {
    let server = nats::Server::start(binary, "");
    let mut pool = ConnectionPool::default();
    let stores = std::cell::RefCell::new(&mut pool);
    keeps_the_contract(&|prefix| {
        let mut options = NatsOptions::new(vec![server.in_options()], "bucket", prefix);
        options.create_bucket = true;
        store::open(&StoreTarget::Nats(Box::new(options)), Default::default(), &mut stores.borrow_mut()).expect("open")
    });
}

#[test]
fn the_pinned_nats_server_keeps_the_contract() {
    nats_keeps_the_contract(&nats::pinned());
}

#[test]
fn the_nats_server_of_this_machine_keeps_the_contract() {
    nats::on_system(nats_keeps_the_contract);
}

#[test]
fn a_directory_keeps_the_contract() {
    let scratch = nats::Scratch::new("dir");
    keeps_the_contract(&|prefix| open_dir(&scratch.join("not/yet/there"), prefix));
}

#[test]
fn a_directory_has_no_temporary_files_when_all_is_done() {
    let scratch = nats::Scratch::new("dir");
    let store = open_dir(scratch.path(), "x");
    put(store.as_ref(), "a/b", b"1").expect("put");
    drop(store.put("a/c"));
    delete(store.as_ref(), &["a/b"]).expect("delete");
    assert_eq!(std::fs::read_dir(scratch.join("x")).expect("read").count(), 0);
}

#[test]
fn a_directory_sweeps_what_a_crash_left_once_it_is_old() {
    let scratch = nats::Scratch::new("dir");
    let store = open_dir(scratch.path(), "x");
    put(store.as_ref(), "a", b"1").expect("put");
    let (old, young) = (scratch.join("x/.tmp-old"), scratch.join("x/.tmp-young"));
    for path in [&old, &young] {
        std::fs::write(path, "left").expect("write");
    }
    let hours_ago = std::time::SystemTime::now() - Duration::from_secs(2 * 3600);
    std::fs::File::options().write(true).open(&old).and_then(|f| f.set_modified(hours_ago)).expect("age");
    assert_eq!(names(store.as_ref(), "").expect("list"), ["a"]);
    put(store.as_ref(), "b", b"2").expect("put");
    assert!(!old.exists() && young.exists());
}

#[test]
fn a_file_in_place_of_the_directory_is_an_error_that_names_it() {
    let scratch = nats::Scratch::new("dir");
    std::fs::write(scratch.join("x"), "").expect("write");
    let error = connect(open_dir(scratch.path(), "x").as_ref()).expect_err("not a directory");
    assert_eq!(error.kind(), Kind::StoreRefused);
    assert!(error.message().contains("x: expected a directory, found a file"), "{error}");
}

//! What dead writers left goes; what is young, referred to or not understood stays.

use std::path::Path;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::bucket;
use crate::support::bucket::{messages, monitored_server};
use crate::support::cluster;
use crate::support::drive;
use crate::support::drive::{connect, get, noise, put};
use crate::support::nats;
use crate::support::nats::{Server, pinned, python};
use crate::support::raw;
use litestream::format::time::Timestamp;
use litestream::store::Store;
use litestream::store::nats::options::NatsOptions;
use litestream::store::nats::{ClientCache, NatsStore};
use litestream::store::{CleanupResult, MIN_ORPHAN_AGE, OrphanCleanup as _};

/// Stores three chunks without an object, and with `junk` also a meta that is none.
const LEAVE: &str = r#"
import asyncio, sys, nats
async def main(url, *junk):
    nc = await nats.connect(url)
    js = nc.jetstream()
    for nuid in ("deadA", "deadB", "deadB"):
        await js.publish("$O.bucket.C." + nuid, b"left")
    if junk:
        await js.publish("$O.bucket.M.anVuaw==", b"junk")
    await nc.close()
asyncio.run(main(*sys.argv[1:]))
"#;

fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    Timestamp::from_millis(since.as_millis() as u64)
}

fn sweep(store: &NatsStore, young: Duration) -> CleanupResult {
    let mut sweep = store.start_cleanup(wall(), young);
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Poll::Ready(swept) = sweep.poll(Instant::now()).expect("sweep") {
            return swept;
        }
        assert!(Instant::now() < end, "the sweep hangs");
        store.wait(Duration::from_millis(20));
    }
}

fn orphans_go_and_nothing_else(binary: &Path) {
    let (server, monitor) = monitored_server(binary);
    let mut options = NatsOptions::new(vec![server.in_options()], "bucket", "p");
    options.create_bucket = true;
    let store = NatsStore::open(&options, &mut ClientCache::default()).expect("open");
    connect(&store).expect("connect");
    assert_eq!(sweep(&store, Duration::ZERO), CleanupResult::default(), "an empty bucket");
    let bytes = noise(300_000, 1);
    put(&store, "kept", &bytes).expect("put");
    if !python(LEAVE, &[&server.address()]) {
        return;
    }
    let whole = messages(monitor);
    assert_eq!(sweep(&store, MIN_ORPHAN_AGE), CleanupResult { too_young: 2, ..CleanupResult::default() });
    assert_eq!(messages(monitor), whole);
    assert_eq!(sweep(&store, Duration::ZERO), CleanupResult { removed: 2, ..CleanupResult::default() });
    assert_eq!(messages(monitor), whole - 3);
    python(LEAVE, &[&server.address(), "junk"]);
    assert_eq!(sweep(&store, Duration::ZERO), CleanupResult { unreadable: 1, ..CleanupResult::default() });
    assert_eq!(messages(monitor), whole + 1);
    assert!(get(&store, "kept").expect("get") == bytes);
}

#[test]
fn a_sweep_removes_orphans_and_nothing_else() {
    orphans_go_and_nothing_else(&pinned());
}

#[test]
fn orphan_cleanup_is_exact_on_the_system_server() {
    nats::on_system(orphans_go_and_nothing_else);
}

#[test]
fn one_replicator_per_bucket_cleans_orphans_after_its_start() {
    let server = Server::plain();
    let store = bucket::store_on(&server, |_| {});
    connect(store.as_ref()).expect("connect");
    put(store.as_ref(), "kept", &noise(300_000, 1)).expect("put");
    let begun = Instant::now();
    let mut sweeping = litestream::replica::orphan_schedule::CleanupSchedule::new(store.clone(), begun);
    sweeping.poll(begun, wall());
    assert!(!sweeping.is_busy(), "others come first");
    sweeping.poll(begun + Duration::from_secs(3600), wall());
    assert!(sweeping.is_busy());
    let end = Instant::now() + Duration::from_secs(60);
    while sweeping.is_busy() && Instant::now() < end {
        store.wait(Duration::from_millis(20));
        sweeping.poll(Instant::now(), wall());
    }
    assert!(!sweeping.is_busy());
    assert!(store.clean_orphans(wall(), MIN_ORPHAN_AGE).is_none(), "it was swept just now");
    assert!(get(store.as_ref(), "kept").is_ok());
}

#[test]
fn a_subject_that_would_mean_other_chunks_removes_none() {
    let server = Server::plain();
    let mut options = NatsOptions::new(vec![server.in_options()], "bucket", "p");
    options.create_bucket = true;
    let store = NatsStore::open(&options, &mut ClientCache::default()).expect("open");
    connect(&store).expect("connect");
    let bytes = noise(300_000, 1);
    put(&store, "kept", &bytes).expect("put");
    for subject in ["$O.bucket.C.*", "$O.bucket.C.>", "$O.bucket.C.a.*"] {
        raw::publish(&server.address(), &[raw::Message::new(subject, "x")]);
    }
    sweep(&store, Duration::ZERO);
    assert!(get(&store, "kept").expect("get") == bytes);
}

/// As nats.go does it: the new metas, then the old ones go.
fn rename(address: &str, objects: &[usize]) {
    let meta = |room: &str, n: &usize| raw::Message::meta("bucket", &format!("{room}/{n}"), &format!("nuid{n}"), 5);
    raw::publish(address, &objects.iter().map(|n| meta("second", n)).collect::<Vec<_>>());
    for subject in objects.iter().map(|n| meta("first", n).subject) {
        let filter = String::from_utf8(subject).expect("a subject");
        raw::ask(address, "$JS.API.STREAM.PURGE.OBJ_bucket", &serde_json::json!({"filter": filter}));
    }
}

#[test]
fn an_object_that_is_renamed_during_a_sweep_keeps_its_chunks() {
    const OBJECTS: usize = 800;
    let cluster = cluster::Cluster::new();
    let address = cluster.servers[0].address();
    let mut options = NatsOptions::new(cluster.servers.iter().map(Server::in_options).collect(), "bucket", "");
    (options.create_bucket, options.bucket_replicas) = (true, 3);
    let store = NatsStore::open(&options, &mut ClientCache::default()).expect("open");
    drive::connect_patiently(&store);
    let chunk = |n: usize| raw::Message::new(format!("$O.bucket.C.nuid{n}"), "bytes");
    let meta = |n: usize| raw::Message::meta("bucket", &format!("first/{n}"), &format!("nuid{n}"), 5);
    raw::publish(&address, &(0..OBJECTS).flat_map(|n| [chunk(n), meta(n)]).collect::<Vec<_>>());
    // An orphan, so that there is something to remove.
    raw::publish(&address, &[raw::Message::new("$O.bucket.C.orphan", "bytes")]);
    let mut sweep = store.start_cleanup(wall(), Duration::ZERO);
    let (mut next, end) = (0..150, Instant::now() + Duration::from_secs(100));
    let swept = loop {
        if let Poll::Ready(swept) = sweep.poll(Instant::now()).expect("sweep") {
            break swept;
        }
        // While metas are on their way, so that of some neither the old nor the new one is seen.
        rename(&address, &next.by_ref().take(15).collect::<Vec<_>>());
        assert!(Instant::now() < end, "the sweep hangs");
        store.wait(Duration::from_millis(5));
    };
    assert_eq!(next.len(), 0, "the sweep was over before all were renamed");
    assert_eq!(swept, CleanupResult { removed: 1, ..CleanupResult::default() });
    assert_eq!(raw::info(&address, "bucket")["state"]["messages"], OBJECTS * 2);
}

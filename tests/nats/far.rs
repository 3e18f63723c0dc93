//! A slow, far and unreliable network: large objects keep a far link busy, a cut costs the object that was on its way and
//! nothing else, and a restore goes on where it was or says in time that it cannot.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::bucket::{messages, monitored_server, store_on};
use crate::support::drive;
use crate::support::drive::{connect, get, names, noise, put};
use crate::support::nats::{Server, pinned};
use crate::support::proxy::Proxy;
use crate::support::{Bed, Process, STORE, all_committed, assert_equal, judged, litestream};
use litestream::store::Store;

const HALF_OF_100_MS: Duration = Duration::from_millis(50);

fn through(proxy: &Proxy, server: &Server, timeout: Duration) -> Rc<dyn Store> {
    store_on(server, |options| {
        options.servers[0].port = proxy.port;
        options.timeout = timeout;
    })
}

#[test]
fn a_far_link_is_kept_busy() {
    let server = Server::plain();
    let proxy = Proxy::new(server.port);
    let store = through(&proxy, &server, Duration::from_secs(20));
    connect(store.as_ref()).expect("connect");
    let bytes = noise(100_000_000, 1);
    let timed = |what: &str, work: &dyn Fn()| {
        let begun = Instant::now();
        work();
        println!("{what}: {:.2} s", begun.elapsed().as_secs_f64());
        begun.elapsed()
    };
    let near = timed("put of 100 MB near by", &|| put(store.as_ref(), "near", &bytes).expect("put"));
    // A connection of its own, since the window goes by the shortest round trip that a connection has seen.
    proxy.far(HALF_OF_100_MS, Duration::ZERO);
    let store = through(&proxy, &server, Duration::from_secs(20));
    connect(store.as_ref()).expect("connect");
    let far = timed("put of 100 MB at 100 ms", &|| put(store.as_ref(), "far", &bytes).expect("put"));
    timed("get of 100 MB at 100 ms", &|| assert!(get(store.as_ref(), "far").expect("get") == bytes));
    let small = |n: u32| put(store.as_ref(), &format!("small{n}"), &bytes[..2000]).expect("put");
    timed("ten puts of 2 kB at 100 ms", &|| (0..10).for_each(small));
    // One chunk a round trip would take 76 s; the machine's own slowness is not the point.
    assert!(far < near * 4 + Duration::from_secs(20), "near {near:?}, far {far:?}");
}

#[test]
fn a_cut_costs_the_object_that_was_on_its_way_and_nothing_else() {
    let (server, monitor) = monitored_server(&pinned());
    let proxy = Proxy::new(server.port);
    let store = through(&proxy, &server, Duration::from_secs(10));
    connect(store.as_ref()).expect("connect");
    put(store.as_ref(), "before", &noise(500_000, 1)).expect("put");
    proxy.far(Duration::from_millis(5), Duration::from_millis(10));
    let bytes = noise(8_000_000, 2);
    let (mut on_its_way, mut at, from) = (store.put("big"), 0, proxy.sent());
    let error = loop {
        let step = on_its_way.write(&bytes[at..]).and_then(|n| {
            at += n;
            on_its_way.poll(Instant::now())
        });
        if let Err(error) = step {
            break error;
        }
        if proxy.sent() - from > 3_000_000 {
            proxy.cut();
        }
        store.wait(Duration::from_millis(5));
    };
    assert_eq!(error.kind(), litestream::error::Kind::StoreUnreachable, "{error}");
    drop(on_its_way);
    drive::connect_patiently(store.as_ref());
    assert_eq!(names(store.as_ref(), "").expect("list"), ["before"]);
    put(store.as_ref(), "big", &bytes).expect("again");
    assert!(get(store.as_ref(), "big").expect("get") == bytes);
    let end = Instant::now() + Duration::from_secs(30);
    while messages(monitor) > 4 + 1 + 62 + 1 && Instant::now() < end {
        store.wait(Duration::from_millis(20));
    }
    assert_eq!(messages(monitor), 4 + 1 + 62 + 1, "the first attempt left chunks");
}

/// A bed whose server is reached through a proxy, a database of some MB that is stored there, and its URL through it.
fn stored_behind_a_proxy(name: &str) -> (Bed, Proxy, std::path::PathBuf, String) {
    let bed = Bed::nats(name);
    let database = bed.database();
    bed.write(&database, &["--commits", "150", "--size", "60000"]);
    bed.replicate_once(&database);
    let (proxy, url) = behind_a_proxy(&bed);
    (bed, proxy, database, url)
}

/// The server of a bed behind a proxy, and its URL through that.
fn behind_a_proxy(bed: &Bed) -> (Proxy, String) {
    let address = bed.url().trim_start_matches("nats://").split('/').next().expect("an address").to_string();
    let proxy = Proxy::new(address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port"));
    let url = bed.url().replace(&address, &proxy.address());
    (proxy, url)
}

/// A replicator, configured for one database.
fn replicate(bed: &Bed, database: &Path, url: &str, keys: &str) -> Process {
    let config = bed.path("litestream.yml");
    let replica = format!("{{ type: nats, url: \"{url}\", create-bucket: true, {keys} }}");
    let text = format!("dbs:\n  - path: {}\n    replica: {replica}\n", database.display());
    std::fs::write(&config, text).expect("write a configuration");
    bed.spawn(litestream().args(["replicate", "-config"]).arg(&config))
}

#[test]
fn a_restore_goes_on_where_it_was_after_each_cut() {
    let (bed, proxy, database, url) = stored_behind_a_proxy("resumes");
    proxy.far(Duration::from_millis(20), Duration::from_millis(5));
    let output = bed.path("out.db");
    let mut command = litestream();
    command.args(["restore", "-o"]).arg(&output).arg(&url);
    let mut restore = bed.spawn(&mut command);
    for _ in 0..3 {
        // Part of the schedule: the link is cut in the middle of the restore.
        std::thread::sleep(Duration::from_millis(250));
        proxy.cut();
    }
    restore.exits(0);
    assert_equal(&database, &output);
}

#[test]
fn restore_from_a_silent_server_ends_with_a_clear_error() {
    let (bed, proxy, database, url) = stored_behind_a_proxy("silent");
    let config = bed.path("litestream.yml");
    let text =
        format!("dbs:\n  - path: {}\n    replica: {{ type: nats, url: \"{url}\", timeout: 2s }}\n", database.display());
    std::fs::write(&config, text).expect("write a configuration");
    proxy.far(Duration::from_millis(50), Duration::ZERO);
    let output = bed.path("out.db");
    let mut command = litestream();
    command.args(["restore", "-config"]).arg(&config).arg("-o").arg(&output).arg(&database);
    let mut restore = bed.spawn(&mut command);
    support::until("the restore has begun", || if proxy.sent() > 1000 { Ok(()) } else { Err("not yet") });
    let begun = Instant::now();
    proxy.stall();
    restore.exits(STORE);
    assert!(begun.elapsed() < Duration::from_secs(60), "took {:?}", begun.elapsed());
    assert!(!output.exists());
    let log = restore.log();
    assert!(log.contains(&proxy.address()) && log.contains("2s"), "{log}");
}

#[test]
fn a_link_that_stalls_and_is_cut_again_and_again_loses_nothing() {
    let bed = Bed::nats("stalls");
    let database = bed.database();
    let (proxy, url) = behind_a_proxy(&bed);
    proxy.far(Duration::from_millis(15), Duration::from_millis(15));
    let replicator = replicate(&bed, &database, &url, "timeout: 2s, reconnect-wait: 200ms");
    let mut application = bed.application(&database, &["--seconds", "9", "--rate", "80"]);
    for round in 0..3 {
        // Part of the schedule: a second of a link that works, then one that does not.
        std::thread::sleep(Duration::from_millis(1000));
        match round {
            1 => proxy.stall(),
            _ => proxy.part(),
        }
        // Part of the schedule: how long it does not.
        std::thread::sleep(Duration::from_millis(1500));
        proxy.join();
    }
    application.exits(0);
    bed.converges(&database);
    all_committed(&[judged(&bed.restored())], &database);
    replicator.stop();
}

#[test]
fn many_small_segments_are_not_a_round_trip_each() {
    const SEGMENTS: u32 = 40;
    let mut bed = Bed::nats("many_small_segments");
    let database = bed.database();
    let mut application = bed.session(&database);
    application.sql("CREATE TABLE r (x)");
    bed.replicate_once(&database);
    for number in 0..SEGMENTS {
        application.sql(&format!("INSERT INTO r VALUES ({number})"));
        bed.replicate_once(&database);
    }
    let url = bed.url();
    let port = bed.server().port;
    let proxy = Proxy::new(port);
    proxy.far(HALF_OF_100_MS, Duration::ZERO);
    let begun = Instant::now();
    let output = bed.restored_from(&url.replace(&port.to_string(), &proxy.port.to_string()));
    println!("restore of {SEGMENTS} segments at 100 ms: {:.2} s", begun.elapsed().as_secs_f64());
    // Read one by one they would take two round trips each, which no machine can make shorter.
    assert!(begun.elapsed() < HALF_OF_100_MS * 2 * 2 * SEGMENTS * 3 / 4, "{:?}", begun.elapsed());
    assert_equal(&database, &output);
}

#[test]
fn link_slower_than_the_timeout_per_chunk_still_works() {
    let server = Server::plain();
    let proxy = Proxy::narrow(server.port, 64_000);
    // 128 KiB take two seconds.
    let store = through(&proxy, &server, Duration::from_secs(1));
    drive::connect_patiently(store.as_ref());
    let bytes = noise(150_000, 7);
    put(store.as_ref(), "slow", &bytes).expect("put");
    assert!(get(store.as_ref(), "slow").expect("get") == bytes);
    assert_eq!(proxy.connections(), 1, "the connection was given up");
    // Once nothing moves any more, that is noticed as ever.
    proxy.stall();
    let begun = Instant::now();
    let error = put(store.as_ref(), "stalled", &bytes).expect_err("nothing moves");
    assert_eq!(error.kind(), litestream::error::Kind::StoreUnreachable, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// The positions of those that are stored.
fn snapshots(bed: &Bed) -> Vec<String> {
    let listed = bed.run(&["snapshots", "-json", &bed.url()]).stdout;
    let rows: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap_or_default();
    rows.iter().map(|row| row["position"].as_str().expect("a position").to_string()).collect()
}

/// While an application's own TRUNCATE, RESTART or FULL waits for a reader it has the write lock, and nobody can write. No
/// snapshot keeps it waiting, however long it takes: here longer than the application would wait.
#[test]
fn long_snapshot_delays_no_application_checkpoint() {
    let mut bed = Bed::nats("long");
    let database = bed.path("large.db");
    bed.write(&database, &["--commits", "30", "--rows", "100", "--size", "9000", "--change", "0"]);
    let port = bed.server().port;
    let proxy = Proxy::narrow(port, 900_000);
    let url = bed.url().replace(&port.to_string(), &proxy.port.to_string());
    let replicator = replicate(&bed, &database, &url, "timeout: 60s");
    support::until("a part of the snapshot is sent", || if proxy.sent() > 1 << 18 { Ok(()) } else { Err("not yet") });
    let hostile = ["--checkpoint", "truncate,restart,full", "--every", "10", "--rate", "60", "--seconds", "11"];
    let output = bed.write(&database, &[&hostile[..], &["--rows", "1", "--size", "60", "--change", "2"]].concat());
    println!("{output}");
    assert!(snapshots(&bed).is_empty(), "the snapshot was over before the application was");
    assert!(output.contains("busy_checkpoints=0 "), "{output}");
    bed.converges(&database);
    replicator.stop();
    let [position] = &snapshots(&bed)[..] else { panic!("expected one snapshot, which was not begun anew") };
    let output = bed.fresh("at.db");
    bed.run_command(support::restore_command(&bed.url(), &output).args(["-position", position])).succeeded();
    all_committed(&[judged(&output), judged(&bed.restored())], &database);
}

/// The same while the store takes nothing at all.
#[test]
fn snapshot_on_a_stalled_link_delays_no_writer() {
    let bed = Bed::nats("held");
    let database = bed.path("large.db");
    let mut application = bed.session(&database);
    application.sql("PRAGMA journal_mode = WAL");
    application.sql("CREATE TABLE t (body BLOB)");
    application
        .sql("INSERT INTO t SELECT randomblob(1 << 20) FROM json_each('[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]')");
    let (proxy, url) = behind_a_proxy(&bed);
    proxy.far(HALF_OF_100_MS, Duration::ZERO);
    let replicator = replicate(&bed, &database, &url, "timeout: 60s");
    support::until("a part of the snapshot is sent", || if proxy.sent() > 1 << 20 { Ok(()) } else { Err("not yet") });
    proxy.stall();
    for _ in 0..3 {
        application.sql("INSERT INTO t VALUES ('x')");
        let answer = application.sql("PRAGMA wal_checkpoint(TRUNCATE)");
        assert!(answer.starts_with("(0,"), "held up for its whole busy timeout: {answer}");
    }
    proxy.join();
    proxy.cut();
    bed.converges(&database);
    replicator.stop();
}

/// Without a WAL nobody can write while a snapshot reads, and that need not be as long as the link takes.
#[test]
fn snapshot_without_wal_blocks_writers_only_briefly() {
    let mut bed = Bed::nats("without_wal");
    let database = bed.path("large.db");
    let journal = ["--journal", "delete"];
    let much = ["--commits", "15", "--rows", "100", "--size", "9000", "--change", "0"];
    bed.write(&database, &[&much[..], &journal].concat());
    let before = bed.path("before.db");
    std::fs::copy(&database, &before).expect("copy the database");
    let port = bed.server().port;
    let proxy = Proxy::narrow(port, 900_000);
    let url = bed.url().replace(&port.to_string(), &proxy.port.to_string());
    let mut snapshot = bed.start(&["snapshot", "-create-bucket", database.to_str().expect("a name"), &url]);
    support::until("a part of the snapshot is sent", || if proxy.sent() > 1 << 18 { Ok(()) } else { Err("not yet") });
    let mut application = bed.session(&database);
    application.sql("PRAGMA busy_timeout = 6000");
    for _ in 0..5 {
        application.sql("UPDATE t SET body = zeroblob(length(body))");
    }
    assert!(snapshot.is_running(), "the snapshot was over before the application was");
    snapshot.exits(0);
    assert_equal(&before, &bed.restored());
    assert_eq!(
        std::fs::read_dir(bed.path(""))
            .expect("list")
            .filter(|file| file.as_ref().is_ok_and(|file| file.file_name().to_string_lossy().starts_with(".pages-")))
            .count(),
        0
    );
}

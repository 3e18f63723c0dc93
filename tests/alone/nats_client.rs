//! What a NATS store costs the process that it is in: the time of a connect and of a small object, a thread, a port.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::alone::alone;
use crate::support::bucket::{self, monitored_server, store_on};
use crate::support::drive::{connect, get, put};
use crate::support::nats::{Server, pinned};
use crate::support::until;
use litestream::secret::Secret;
use litestream::store::Store;
use litestream::store::nats::options::{Credentials, NatsOptions};
use litestream::store::nats::{ClientCache, NatsStore};

#[test]
fn connects_and_small_objects_wait_for_nothing_but_the_server() {
    let _alone = alone();
    let server = Server::plain();
    let begun = Instant::now();
    for _ in 0..20 {
        connect(store_on(&server, |_| {}).as_ref()).expect("connect");
    }
    println!("20 connects: {:?}", begun.elapsed());
    // The crate alone sleeps half a second each time, on average.
    assert!(begun.elapsed() < Duration::from_secs(5), "20 connects: {:?}", begun.elapsed());
    let store = store_on(&server, |_| {});
    connect(store.as_ref()).expect("connect");
    let begun = Instant::now();
    for n in 0..200 {
        put(store.as_ref(), &format!("{n}"), b"small").expect("put");
        assert_eq!(get(store.as_ref(), &format!("{n}")).expect("get"), b"small");
    }
    println!("200 puts and gets: {:?}", begun.elapsed());
    // The crate alone holds each question back for up to 5 ms: some 35 ms for the two.
    assert!(begun.elapsed() < Duration::from_secs(4), "200 puts and gets: {:?}", begun.elapsed());
}

/// Threads of this process by name.
fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("our threads");
    let comm = |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("comm")).ok();
    tasks.filter_map(comm).filter(|found| found.trim() == name).count()
}

#[test]
fn dropped_store_ends_its_connection_and_thread() {
    let _alone = alone();
    let (mut server, monitor) = monitored_server(&pinned());
    let open = || {
        let mut options = NatsOptions::new(vec![server.in_options()], "bucket", "p");
        (options.create_bucket, options.reconnect_wait) = (true, Duration::from_millis(50));
        // Each with a pool of its own, so that they do not share a connection.
        NatsStore::open(&options, &mut ClientCache::default()).expect("open")
    };
    let before = threads("link");
    let (one, two) = (open(), open());
    connect(&one).expect("connect");
    connect(&two).expect("connect");
    drop(one);
    until("its connection is closed", || match bucket::http_get(monitor, "/connz")["num_connections"].as_u64() {
        Some(1) => Ok(()),
        other => Err(format!("{other:?} connections")),
    });
    let end = Instant::now() + Duration::from_secs(30);
    server.kill();
    while two.connect(Instant::now()).is_ok() && Instant::now() < end {
        two.wait(Duration::from_millis(20));
    }
    drop(two);
    until("the link's thread ends", || if threads("link") <= before { Ok(()) } else { Err("it stays") });
}

/// Ports of 127.0.0.1 that this process listens on.
fn our_listeners() -> Vec<u16> {
    let inodes: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .expect("our descriptors")
        .filter_map(|fd| {
            std::fs::read_link(fd.ok()?.path()).ok()?.to_str()?.strip_prefix("socket:[").map(str::to_string)
        })
        .map(|inode| inode.trim_end_matches(']').to_string())
        .collect();
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("the table of sockets");
    let listening = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = fields.get(1)?.strip_prefix("0100007F:")?;
        let ours = fields.get(3) == Some(&"0A") && inodes.iter().any(|inode| fields.get(9) == Some(&inode.as_str()));
        ours.then(|| u16::from_str_radix(port, 16).ok()).flatten()
    });
    listening.collect()
}

/// What a process that is not ours gets from `port`, whatever it says.
fn overhear(port: u16) -> String {
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).expect("connect to the link");
    tcp.set_read_timeout(Some(Duration::from_millis(300))).expect("time-out");
    let _ = tcp.write_all(b"CONNECT {\"name\":\"guess\"}\r\nPING\r\nSUB > 1\r\n");
    let mut heard = Vec::new();
    let _ = tcp.read_to_end(&mut heard);
    String::from_utf8_lossy(&heard).into_owned()
}

#[test]
fn loopback_port_gives_other_processes_nothing() {
    let _alone = alone();
    let server = Server::start(&pinned(), "server_name: hidden\nauthorization { user: u, password: p }");
    let before = our_listeners();
    let store = store_on(&server, |options| {
        options.login = Credentials::UserPassword { user: "u".into(), password: Secret::new("p") }
    });
    let port = our_listeners().into_iter().find(|port| !before.contains(port)).expect("the link listens");
    // No session yet: the link may answer with an INFO of its own, for the crate says nothing before it has one.
    let early = overhear(port);
    for word in ["hidden", "2.15", "PONG", "MSG", "account", &server.port.to_string()] {
        assert!(!early.contains(word), "{early}");
    }
    connect(store.as_ref()).expect("connect");
    assert_eq!(overhear(port), "");
    put(store.as_ref(), "x", b"1").expect("the session is not disturbed");
}

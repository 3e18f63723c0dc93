//! The NATS store while its server is away, dies, freezes or says nothing.

use std::net::TcpListener;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::support::bucket::{messages, monitored_server, store_on};
use crate::support::drive::{connect, connect_patiently, delete, get, list, names, noise, put};
use crate::support::nats;
use crate::support::nats::Server;
use litestream::error::Kind;
use litestream::store::nats::options::{NatsOptions, Server as Address};
use litestream::store::{Chunk, ConnectionPool, ScanEvent, Store, StoreTarget, open};

/// Far more than any time-out of these tests, far less than for ever.
const SOON: Duration = Duration::from_secs(30);

/// Runs `work` and holds it to [`SOON`].
fn soon<T>(work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = work();
    assert!(start.elapsed() < SOON, "took {:?}", start.elapsed());
    value
}

fn store_at(port: u16) -> std::rc::Rc<dyn Store> {
    let mut options = NatsOptions::new(vec![Address { host: "127.0.0.1".into(), port }], "bucket", "p");
    options.timeout = Duration::from_secs(2);
    open(&StoreTarget::Nats(Box::new(options)), Default::default(), &mut ConnectionPool::default()).expect("open")
}

#[test]
fn a_server_that_says_nothing_is_given_up_after_the_time_out() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("listen");
    let store = store_at(silent.local_addr().expect("address").port());
    let error = soon(|| connect(store.as_ref()).expect_err("silent"));
    assert_eq!(error.kind(), Kind::StoreUnreachable);
    assert!(error.message().contains("expected INFO, found nothing within 2s"), "{error}");
}

#[test]
fn something_else_than_a_nats_server_is_named() {
    let other = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = other.local_addr().expect("address").port();
    let answer = std::thread::spawn(move || {
        let (mut tcp, _) = other.accept().expect("accept");
        let _ = std::io::Write::write_all(&mut tcp, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let error = connect(store_at(port).as_ref()).expect_err("not NATS");
    answer.join().expect("the other server");
    assert_eq!(error.kind(), Kind::StoreRefused);
    assert!(error.message().ends_with("expected INFO, found \"HTTP/1.1 400 Bad Request\""), "{error}");
}

#[test]
fn a_second_server_of_the_list_takes_over() {
    let server = Server::plain();
    let store = store_on(&server, |options| {
        options.servers.insert(0, Address { host: "127.0.0.1".into(), port: nats::free_port() });
        options.servers.push(Address { host: "host.invalid".into(), port: 4222 });
    });
    connect_patiently(store.as_ref());
    put(store.as_ref(), "x", b"1").expect("put");
}

/// Writes `bytes` and polls without a commit, until an error or the end of the bytes.
fn send(store: &dyn Store, name: &str, bytes: &[u8], mut midway: impl FnMut()) -> litestream::error::Result<()> {
    let mut put = store.put(name);
    put.commit();
    let (mut rest, half, mut told) = (bytes, bytes.len() / 2, false);
    let end = Instant::now() + SOON;
    loop {
        if !told && rest.len() <= half {
            told = true;
            midway();
        }
        let n = if rest.is_empty() { 0 } else { put.write(rest)? };
        rest = &rest[n..];
        if rest.is_empty() {
            put.finish();
        }
        if put.poll(Instant::now())? == litestream::store::PutState::Done {
            return Ok(());
        }
        assert!(Instant::now() < end, "the put hangs");
        store.wait(Duration::from_millis(5));
    }
}

#[test]
fn put_interrupted_by_a_server_kill_is_invisible_and_retried() {
    let mut server = Server::plain();
    let store = store_on(&server, |_| {});
    let store = store.as_ref();
    connect(store).expect("connect");
    put(store, "kept", b"before").expect("put");
    let bytes = noise(20_000_000, 4);
    let error = soon(|| send(store, "big", &bytes, || server.kill()).expect_err("the server is gone"));
    assert_eq!(error.kind(), Kind::StoreUnreachable, "{error}");
    assert!(error.message().starts_with("put p/big: "), "{error}");
    let error = soon(|| connect(store).expect_err("still gone"));
    assert_eq!(error.kind(), Kind::StoreUnreachable, "{error}");
    server.restart();
    connect_patiently(store);
    assert_eq!(names(store, "").expect("list"), ["kept"]);
    put(store, "big", &bytes).expect("the retry");
    assert!(get(store, "big").expect("get") == bytes);
    assert_eq!(get(store, "kept").expect("get"), b"before");
}

#[test]
fn a_get_goes_on_where_it_was_when_the_server_comes_back() {
    let mut server = Server::plain();
    let store = store_on(&server, |options| options.timeout = Duration::from_secs(20));
    let store = store.as_ref();
    connect(store).expect("connect");
    let bytes = noise(30_000_000, 6);
    put(store, "big", &bytes).expect("put");
    let (mut get, mut found, mut killed) = (store.get("big"), Vec::new(), false);
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match get.poll(Instant::now()).expect("get") {
            Chunk::Bytes(more) => found.extend(more),
            Chunk::Pending => store.wait(Duration::from_millis(20)),
            Chunk::End => break,
        }
        if !killed && found.len() > 3_000_000 {
            server.kill();
            server.restart();
            killed = true;
        }
        assert!(Instant::now() < end, "the get hangs");
    }
    assert!(killed && found == bytes);
}

#[test]
fn lists_and_deletes_survive_a_restart_of_the_server() {
    let mut server = Server::plain();
    let store = store_on(&server, |options| options.timeout = Duration::from_secs(20));
    let store = store.as_ref();
    connect(store).expect("connect");
    for n in 0..100 {
        put(store, &format!("x/{n:03}"), b"1").expect("put");
    }
    let (mut scan, mut scanned) = (store.scan(), 0);
    while scanned == 0 {
        match scan.poll(Instant::now()).expect("scan") {
            ScanEvent::Object(_) => scanned += 1,
            _ => store.wait(Duration::from_millis(20)),
        }
    }
    let mut listing = store.list("");
    assert!(listing.poll(Instant::now()).expect("list").is_pending());
    server.kill();
    server.restart();
    let found = loop {
        match listing.poll(Instant::now()).expect("list") {
            Poll::Ready(found) => break found,
            Poll::Pending => store.wait(Duration::from_millis(20)),
        }
    };
    assert_eq!(found.len(), 100);
    // What was read before is void, and said to be.
    let mut restarts = 0;
    loop {
        match scan.poll(Instant::now()).expect("scan") {
            ScanEvent::Object(_) => scanned += 1,
            ScanEvent::Restarted => (scanned, restarts) = (0, restarts + 1),
            ScanEvent::Pending => store.wait(Duration::from_millis(20)),
            ScanEvent::End => break,
        }
    }
    assert!(scanned == 100 && restarts > 0, "{scanned} objects, {restarts} restarts");
    let mut deleting = store.delete(found.into_iter().map(|entry| entry.name).collect());
    assert!(deleting.poll(Instant::now()).expect("delete").is_pending());
    store.wait(Duration::from_millis(1));
    server.kill();
    server.restart();
    while deleting.poll(Instant::now()).expect("delete").is_pending() {
        store.wait(Duration::from_millis(20));
    }
    assert!(list(store, "").expect("list").is_empty());
}

#[test]
fn frozen_server_is_noticed_and_used_again_after_thawing() {
    let server = Server::plain();
    let store = store_on(&server, |options| options.timeout = Duration::from_secs(2));
    let store = store.as_ref();
    connect(store).expect("connect");
    put(store, "x", b"1").expect("put");
    server.freeze();
    let start = Instant::now();
    for error in [
        send(store, "big", &noise(40_000_000, 2), || {}).expect_err("frozen"),
        get(store, "x").expect_err("frozen"),
        list(store, "").expect_err("frozen"),
        delete(store, &["x"]).expect_err("frozen"),
    ] {
        assert_eq!(error.kind(), Kind::StoreUnreachable, "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(60), "took {:?}", start.elapsed());
    server.thaw();
    connect_patiently(store);
    assert_eq!(get(store, "x").expect("get"), b"1");
}

#[test]
fn an_idle_connection_to_a_frozen_server_is_noticed_by_pings() {
    let server = Server::plain();
    let store = store_on(&server, |options| {
        options.ping_interval = Duration::from_millis(300);
        options.max_pings_out = 2;
    });
    let store = store.as_ref();
    connect(store).expect("connect");
    server.freeze();
    let error = soon(|| {
        loop {
            match store.connect(Instant::now()) {
                Ok(_) => store.wait(Duration::from_millis(50)),
                Err(error) => break error,
            }
        }
    });
    assert!(error.message().contains("silent for"), "{error}");
}

#[test]
fn a_write_that_failed_is_not_stored_later() {
    let (mut server, monitor) = monitored_server(&nats::pinned());
    let store = store_on(&server, |_| {});
    let store = store.as_ref();
    connect(store).expect("connect");
    server.kill();
    soon(|| put(store, "late", b"1").expect_err("the server is gone"));
    server.restart();
    connect_patiently(store);
    assert_eq!(names(store, "").expect("list"), [""; 0]);
    assert_eq!(messages(monitor), 0);
}

#[test]
fn reconnects_that_are_used_up_are_an_error_that_does_not_pass() {
    let mut server = Server::plain();
    let store = store_on(&server, |options| options.max_reconnects = Some(2));
    connect(store.as_ref()).expect("connect");
    server.kill();
    let error = soon(|| {
        loop {
            match store.connect(Instant::now()) {
                Err(error) if error.kind() == Kind::ReconnectsExhausted => break error,
                _ => store.wait(Duration::from_millis(20)),
            }
        }
    });
    assert!(error.message().starts_with("gave up reconnecting (max-reconnects): "), "{error}");
}

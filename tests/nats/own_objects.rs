//! An object is stored and deleted without asking what is there, and whatever others have done meanwhile is noticed all the same.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::support::bucket::{messages, monitored_server, store_on};
use crate::support::drive::{connect, connect_patiently, delete, get, names, noise, put};
use crate::support::nats::{self, Server, pinned};
use crate::support::proxy::Proxy;
use litestream::store::Store;
use litestream::store::nats::options;

const OBJECTS: usize = 20;

/// A store whose bytes pass `proxy`.
fn store_behind(server: &Server, proxy: &Proxy) -> Rc<dyn Store> {
    let store = store_on(server, |options| {
        options.servers = vec![options::Server { host: "127.0.0.1".into(), port: proxy.port }];
    });
    connect(store.as_ref()).expect("connect");
    store
}

fn object(number: usize) -> String {
    format!("generations/0123456789abcdef/wal/{number:08x}")
}

fn put_all(store: &dyn Store) {
    for number in 0..OBJECTS {
        put(store, &object(number), &noise(300, number as u64)).expect("put");
    }
}

fn delete_all(store: &dyn Store) {
    let names: Vec<String> = (0..OBJECTS).map(object).collect();
    delete(store, &names.iter().map(String::as_str).collect::<Vec<_>>()).expect("delete");
}

fn asked_for_metas(proxy: &Proxy) -> usize {
    String::from_utf8_lossy(&proxy.heard()).matches("STREAM.MSG.GET").count()
}

fn wait_for_messages(stores: &[&dyn Store], monitor: u16, expected: u64) {
    let end = Instant::now() + Duration::from_secs(30);
    while messages(monitor) != expected && Instant::now() < end {
        stores.iter().for_each(|store| store.wait(Duration::from_millis(20)));
    }
    assert_eq!(messages(monitor), expected);
}

fn costs_no_question(binary: &Path) {
    let (server, monitor) = monitored_server(binary);
    let (near, far) = (Proxy::new(server.port), Proxy::new(server.port));
    let (ours, other) = (store_behind(&server, &near), store_behind(&server, &far));
    near.overhear();
    let stored = near.moved();
    put_all(ours.as_ref());
    println!("{} bytes for each put", (near.moved() - stored) / OBJECTS as u64);
    let before = near.moved();
    delete_all(ours.as_ref());
    let own = near.moved() - before;
    println!("{} bytes for each delete", own / OBJECTS as u64);
    assert_eq!(asked_for_metas(&near), 0);
    assert_eq!(messages(monitor), 0);

    put_all(ours.as_ref());
    let before = far.moved();
    delete_all(other.as_ref());
    let foreign = far.moved() - before;
    println!("{} bytes for each delete of what another has stored", foreign / OBJECTS as u64);
    assert!(own * 10 < foreign * 7, "{own} bytes for our own objects, {foreign} for those of others");
}

#[test]
fn own_objects_are_never_asked_for() {
    costs_no_question(&pinned());
}

#[test]
fn own_objects_are_never_asked_for_on_the_system_server() {
    nats::on_system(costs_no_question);
}

fn notices_others(binary: &Path) {
    let (server, monitor) = monitored_server(binary);
    let (ours, other) = (store_on(&server, |_| {}), store_on(&server, |_| {}));
    let (ours, other) = (ours.as_ref(), other.as_ref());
    connect(ours).expect("connect");
    connect(other).expect("connect");
    for (store, seed) in [(ours, 1), (other, 2), (ours, 3), (ours, 4)] {
        put(store, "replaced", &noise(200_000, seed)).expect("put");
        assert!(get(ours, "replaced").expect("get") == noise(200_000, seed));
        wait_for_messages(&[ours, other], monitor, 3);
    }
    put(ours, "deleted", b"1").expect("put");
    delete(other, &["deleted"]).expect("delete");
    put(ours, "deleted", b"2").expect("put over what another has deleted");
    assert_eq!(get(other, "deleted").expect("get"), b"2");
    delete(other, &["deleted"]).expect("delete");
    delete(ours, &["deleted"]).expect("delete what is gone");

    put(ours, "both", &noise(400_000, 5)).expect("put");
    put(other, "both", &noise(140_000, 6)).expect("put");
    delete(ours, &["replaced", "both"]).expect("delete");
    assert_eq!(names(other, "").expect("list"), [""; 0]);
    wait_for_messages(&[ours, other], monitor, 0);
}

#[test]
fn changes_of_own_objects_by_others_are_noticed() {
    notices_others(&pinned());
}

#[test]
fn changes_by_others_are_noticed_on_the_system_server() {
    nats::on_system(notices_others);
}

/// The connection ends while the acknowledgement of the meta message is on its way back.
fn outlives_a_lost_acknowledgement(binary: &Path) {
    let (server, monitor) = monitored_server(binary);
    let proxy = Proxy::new(server.port);
    let store = store_behind(&server, &proxy);
    let store = store.as_ref();
    let bytes = noise(300, 1);
    proxy.far(Duration::from_millis(300), Duration::ZERO);
    let mut lost = store.put("x");
    lost.commit();
    lost.write(&bytes).expect("write");
    lost.finish();
    let end = Instant::now() + Duration::from_secs(30);
    while messages(monitor) < 2 {
        assert!(Instant::now() < end, "never stored");
        lost.poll(Instant::now()).expect("poll");
        store.wait(Duration::from_millis(5));
    }
    proxy.cut();
    while lost.poll(Instant::now()).is_ok() {
        assert!(Instant::now() < end, "the loss is never noticed");
        store.wait(Duration::from_millis(5));
    }
    drop(lost);
    proxy.far(Duration::ZERO, Duration::ZERO);
    connect_patiently(store);
    proxy.overhear();
    put(store, "x", &bytes).expect("put again");
    assert_eq!(asked_for_metas(&proxy), 1, "the server knows better than we do");
    assert!(get(store, "x").expect("get") == bytes);
    wait_for_messages(&[store], monitor, 2);
    delete(store, &["x"]).expect("delete");
    wait_for_messages(&[store], monitor, 0);
}

#[test]
fn put_with_a_lost_ack_is_repeated() {
    outlives_a_lost_acknowledgement(&pinned());
}

#[test]
fn put_with_a_lost_ack_is_repeated_on_the_system_server() {
    nats::on_system(outlives_a_lost_acknowledgement);
}

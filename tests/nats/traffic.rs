//! What the link carries is told by what it was for, and the sum is what the socket carried.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::support::certificates::Authority;
use crate::support::drive::{connect, connect_patiently, delete, get, list, missing, noise, put};
use crate::support::nats::{Server, pinned};
use crate::support::proxy::Proxy;
use crate::support::{Bed, litestream, until};
use litestream::store::nats::options::{NatsOptions, Tls};
use litestream::store::traffic::{Purpose, Traffic};
use litestream::store::{self, ConnectionPool, PutState, Store, StoreTarget};

/// A store behind `proxy`, and the pool that knows what its connection carries.
fn store_behind(proxy: &Proxy, tls: Tls) -> (Rc<dyn Store>, ConnectionPool) {
    let mut options = NatsOptions::new(vec![], "bucket", "p");
    options.servers = vec![store::nats::options::Server { host: "127.0.0.1".into(), port: proxy.port }];
    (options.create_bucket, options.tls, options.reconnect_wait) = (true, tls, Duration::from_millis(50));
    let mut pool = ConnectionPool::default();
    let store = store::open(&StoreTarget::Nats(Box::new(options)), Default::default(), &mut pool).expect("open");
    connect(store.as_ref()).expect("connect");
    (store, pool)
}

/// What the only link has carried, once nothing moves any more.
fn at_rest(pool: &ConnectionPool) -> Traffic {
    let mut last = Traffic::default();
    until("the link is at rest", || {
        let links = pool.traffic();
        let [traffic] = links.values().copied().collect::<Vec<_>>()[..] else { return Err("one link".to_string()) };
        let before = std::mem::replace(&mut last, traffic);
        if before == traffic { Ok(traffic) } else { Err(format!("{traffic:?}")) }
    })
}

/// The same, which must be what the proxy saw.
fn traffic(pool: &ConnectionPool, proxy: &Proxy) -> Traffic {
    until("the sums agree", || {
        let traffic = at_rest(pool);
        let (ours, seen) = ((traffic.sent.total(), traffic.received.total()), (proxy.sent(), proxy.received()));
        if ours == seen { Ok(traffic) } else { Err(format!("{ours:?} counted, {seen:?} seen")) }
    })
}

fn put_for(store: &dyn Store, name: &str, purpose: Purpose, bytes: &[u8]) {
    let mut put = store.put(name);
    put.count_for(purpose);
    put.commit();
    let (mut rest, end) = (bytes, Instant::now() + Duration::from_secs(60));
    loop {
        let taken = if rest.is_empty() { 0 } else { put.write(rest).expect("write") };
        rest = &rest[taken..];
        if rest.is_empty() {
            put.finish();
        }
        if put.poll(Instant::now()).expect("poll") == PutState::Done {
            return;
        }
        assert!(Instant::now() < end, "the put hangs");
        store.wait(Duration::from_millis(10));
    }
}

/// What `work` has added.
fn added(pool: &ConnectionPool, proxy: &Proxy, work: impl FnOnce()) -> Traffic {
    let before = traffic(pool, proxy);
    work();
    traffic(pool, proxy).since(before)
}

fn each_operation_counts_for_its_purpose(server: &Server, tls: Tls) {
    // A record of TLS is some twenty bytes more for each small message, and they keep the connection.
    let least = if tls.required { 6 } else { 9 };
    let proxy = Proxy::new(server.port);
    let (store, pool) = store_behind(&proxy, tls);
    let store = store.as_ref();
    const MOST: u64 = 300_000;
    let bytes = noise(MOST as usize, 1);
    // Nearly all that an operation sends or receives is its own.
    let all = |sent_for: Option<Purpose>, received_for: Option<Purpose>, work: &dyn Fn()| {
        let found = added(&pool, &proxy, work);
        for (expected, bytes) in [(sent_for, found.sent), (received_for, found.received)] {
            if let Some(purpose) = expected {
                assert!(bytes.of(purpose) * 10 >= bytes.total() * least, "{purpose:?}: {found:?}");
                assert!(bytes.of(purpose) >= 1000, "{purpose:?}: {found:?}");
            }
            let others = Purpose::ALL.into_iter().filter(|it| *it != Purpose::KeepAlive && Some(*it) != expected);
            assert!(expected.is_none() || others.map(|it| bytes.of(it)).sum::<u64>() == 0, "{found:?}");
        }
    };
    all(Some(Purpose::Changes), None, &|| put(store, "a", &bytes).expect("put"));
    all(Some(Purpose::Snapshots), None, &|| put_for(store, "b", Purpose::Snapshots, &bytes));
    all(Some(Purpose::Compaction), None, &|| put_for(store, "c", Purpose::Compaction, &bytes));
    all(None, Some(Purpose::Listing), &|| assert!(get(store, "a").expect("get") == bytes));
    for number in 0..30 {
        put(store, &format!("many/{number}"), b"x").expect("put");
    }
    all(None, Some(Purpose::Listing), &|| assert_eq!(list(store, "").expect("list").len(), 33));
    let many: Vec<String> = (0..30).map(|number| format!("many/{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    all(Some(Purpose::Listing), Some(Purpose::Listing), &|| assert!(missing(store, &many).expect("look").is_empty()));
    all(Some(Purpose::Compaction), Some(Purpose::Compaction), &|| delete(store, &many).expect("delete"));
}

#[test]
fn traffic_by_purpose_adds_up_to_that_of_the_socket() {
    each_operation_counts_for_its_purpose(&Server::plain(), Tls::default());
}

#[test]
fn in_tls_as_well() {
    let ca = Authority::new("ours");
    let server = Server::start(&pinned(), &ca.sign("server", "DNS:localhost,IP:127.0.0.1", 2).config(""));
    let tls = Tls { required: true, root_cas: vec![ca.root()], ..Tls::default() };
    each_operation_counts_for_its_purpose(&server, tls);
}

/// What waits here when a connection breaks has not been carried (what waits in the kernel has, as far as we can know), and a
/// login is carried again.
#[test]
fn after_a_connection_broke_the_sum_is_right_again() {
    let server = Server::plain();
    let proxy = Proxy::new(server.port);
    let (store, pool) = store_behind(&proxy, Tls::default());
    let bytes = noise(3_000_000, 1);
    for round in 1..=5 {
        let (before, seen) = (at_rest(&pool), (proxy.sent(), proxy.received()));
        proxy.cut_after(200_000 * round);
        put(store.as_ref(), "cut", &bytes).expect_err("cut");
        connect_patiently(store.as_ref());
        let news = at_rest(&pool).since(before);
        let (sent, received) = (proxy.sent() - seen.0, proxy.received() - seen.1);
        assert!(news.sent.total() >= sent && news.received.total() <= received, "{news:?}: {sent}, {received} seen");
        assert!(news.sent.of(Purpose::Changes) <= 3_000_000 + 10_000, "{news:?}");
        let login = news.sent.of(Purpose::KeepAlive);
        assert!((100..10_000).contains(&login), "{login} bytes for a login");
        let (before, sent) = (at_rest(&pool), proxy.sent());
        put(store.as_ref(), "whole", &bytes[..1000]).expect("put");
        let news = at_rest(&pool).since(before);
        assert_eq!(news.sent.total(), proxy.sent() - sent);
        assert!(news.sent.of(Purpose::Changes) > 1000, "{news:?}");
    }
}

/// The values of one metric, by their labels.
fn metric(path: &Path, name: &str) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once("} "));
    lines.map(|(labels, value)| (labels.to_string(), value.parse().expect("a number"))).collect()
}

#[test]
fn replicate_reports_the_traffic_of_its_link() {
    let mut bed = Bed::nats("traffic");
    let (database, metrics) = (bed.database(), bed.path("litestream.prom"));
    let proxy = Proxy::new(bed.server().port);
    let config = bed.path("litestream.yml");
    let replica = format!("{{url: 'nats://{}/backup'}}", proxy.address());
    let text = format!(
        "metrics-file: {}\nlogging: {{level: debug}}\ndbs: [{{path: {}, replica: {replica}}}]\n",
        metrics.display(),
        database.display()
    );
    fs::write(&config, text).expect("write");
    let replicator = bed.spawn(litestream().arg("-config").arg(&config).args(["replicate", "-create-bucket"]));
    for number in 0..20 {
        bed.sql(&database, &[&format!("CREATE TABLE t{number}(x)")]);
    }
    let found = until("the metrics tell what the socket carried", || {
        let found = metric(&metrics, "litestream_link_bytes_total");
        let sum = |direction: &str| {
            let part = format!("direction=\"{direction}\"");
            found.iter().filter(|(labels, _)| labels.contains(&part)).map(|(_, bytes)| bytes).sum::<u64>()
        };
        let (told, seen) = ((sum("sent"), sum("received")), (proxy.sent(), proxy.received()));
        if told == seen { Ok(found) } else { Err(format!("told {told:?}, seen {seen:?}")) }
    });
    let of = |direction: &str, purpose: &str| {
        let server = proxy.address();
        found[&format!("server=\"{server}\",direction=\"{direction}\",purpose=\"{purpose}\"")]
    };
    for purpose in ["changes", "snapshots", "listing", "keep-alive"] {
        assert!(of("sent", purpose) > 0 && of("received", purpose) > 0, "{purpose}: {found:?}");
    }
    replicator.terminate();
    let log = until("the log tells it at the end", || {
        let log = replicator.log();
        if log.contains("bytes on the link") { Ok(log) } else { Err(log) }
    });
    let line = log.lines().find(|line| line.contains("bytes on the link")).expect("the line");
    assert!(line.contains("sent-for=changes:") && line.contains("received-for=changes:"), "{line}");
    replicator.stop();
}

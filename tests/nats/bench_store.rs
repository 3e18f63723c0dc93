//! Figures of the NATS store for `make bench-store`, which says where the server is; no test of its own.

use std::time::{Duration, Instant};

use crate::support::drive::{connect, get, noise, put};
use litestream::store::nats::options::{NatsOptions, Server};
use litestream::store::{ConnectionPool, StoreTarget, open};

fn number(name: &str) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{name} must be a number"))
}

#[test]
#[ignore = "needs a server: make bench-store"]
fn figures() {
    let port = u16::try_from(number("BENCH_PORT")).expect("a port");
    // A prefix of its own: a put over a name that is there takes a third round trip.
    let prefix = std::process::id().to_string();
    let mut options = NatsOptions::new(vec![Server { host: "127.0.0.1".into(), port }], "ours", prefix);
    (options.create_bucket, options.timeout) = (true, Duration::from_secs(60));
    if let Some(ca) = std::env::var("BENCH_CA").ok().filter(|ca| !ca.is_empty()) {
        (options.tls.required, options.tls.root_cas) = (true, vec![ca.into()]);
    }
    let store =
        open(&StoreTarget::Nats(Box::new(options)), Default::default(), &mut ConnectionPool::default()).expect("open");
    connect(store.as_ref()).expect("connect");
    let (bytes, rounds) = (noise(number("BENCH_SIZE"), 1), number("BENCH_ROUNDS"));
    let seconds = |work: &dyn Fn()| {
        let begun = Instant::now();
        work();
        begun.elapsed().as_secs_f64()
    };
    let megabytes = bytes.len() as f64 / 1e6;
    let large = [
        megabytes / seconds(&|| put(store.as_ref(), "big", &bytes).expect("put")),
        megabytes / seconds(&|| assert!(get(store.as_ref(), "big").expect("get").len() == bytes.len())),
    ];
    let each =
        |work: &dyn Fn(String)| 1000.0 * seconds(&|| (0..rounds).for_each(|n| work(format!("s{n}")))) / rounds as f64;
    let small = [
        each(&|name| put(store.as_ref(), &name, &bytes[..2000]).expect("put")),
        each(&|name| assert!(get(store.as_ref(), &name).expect("get").len() == 2000)),
    ];
    println!("figures: {} {} {} {}", large[0], large[1], small[0], small[1]);
}

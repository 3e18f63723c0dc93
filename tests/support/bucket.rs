//! Stores on a test's own server, and a look at what is in its streams.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use litestream::store::nats::options::NatsOptions;
use litestream::store::{self, ConnectionPool, Store, StoreTarget};

use super::nats::{Server, free_port};

/// A store in `bucket/p`, which is made if it is missing; `change` has the last word.
pub fn store_on(server: &Server, change: impl FnOnce(&mut NatsOptions)) -> Rc<dyn Store> {
    let mut options = NatsOptions::new(vec![server.in_options()], "bucket", "p");
    options.create_bucket = true;
    options.timeout = Duration::from_secs(5);
    options.reconnect_wait = Duration::from_millis(100);
    change(&mut options);
    store::open(
        &StoreTarget::Nats(Box::new(options)),
        store::encrypted::Encryption::default(),
        &mut ConnectionPool::default(),
    )
    .expect("open")
}

/// The configuration for a monitoring port, and the port.
pub fn monitored() -> (String, u16) {
    let port = free_port();
    (format!("http: \"127.0.0.1:{port}\"\n"), port)
}

/// A server with a monitoring port, and the port.
pub fn monitored_server(binary: &Path) -> (Server, u16) {
    let (config, port) = monitored();
    (Server::start(binary, &config), port)
}

/// How many messages are in all streams: two for a small object, one for an empty one.
pub fn messages(monitor: u16) -> u64 {
    let json = http_get(monitor, "/jsz");
    json["messages"].as_u64().expect("a number of messages")
}

pub fn consumers(monitor: u16) -> u64 {
    http_get(monitor, "/jsz")["consumers"].as_u64().expect("a number of consumers")
}

pub fn http_get(port: u16, path: &str) -> serde_json::Value {
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).expect("connect to the monitor");
    write!(tcp, "GET {path} HTTP/1.0\r\n\r\n").expect("ask the monitor");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).expect("read the monitor's answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).expect("JSON")
}

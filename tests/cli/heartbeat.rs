//! The heartbeat over HTTPS: to a host that proves who it is, in time, and only while everything is stored.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::support;
use crate::support::certificates::{Authority, Pair};
use crate::support::{Bed, Ran, litestream, nats, on_a_directory_only};
use native_tls::{Identity, TlsAcceptor};

on_a_directory_only! {
    a_host_of_a_trusted_authority_is_told_past_any_proxy
    a_host_of_another_authority_or_another_name_is_not_told
    silent_heartbeat_host_delays_a_snapshot_by_its_timeout
    nobody_is_told_while_one_database_is_in_trouble
}

/// Listens with this certificate; the port, and the first line of each request.
fn host(pair: &Pair) -> (u16, Receiver<String>) {
    let [certificate, key] = [&pair.certificate, &pair.key].map(|path| fs::read(path).unwrap());
    let acceptor = TlsAcceptor::new(Identity::from_pkcs8(&certificate, &key).unwrap()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // One that does not trust the certificate hangs up.
            let Ok(mut stream) = acceptor.accept(stream.unwrap()) else { continue };
            let mut request = [0; 1000];
            let count = stream.read(&mut request).unwrap_or(0);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            let line = String::from_utf8_lossy(&request[..count]).lines().next().unwrap_or_default().to_string();
            let _ = sender.send(line);
        }
    });
    (port, receiver)
}

fn entry(bed: &Bed, database: &Path, prefix: &str) -> String {
    format!("  - {{path: {}, replica: {{url: \"{}\"}}}}\n", database.display(), bed.url_below(prefix))
}

fn with_config(bed: &Bed, text: &str) -> Command {
    let config = bed.fresh("litestream.yml");
    fs::write(&config, text).unwrap();
    let mut command = litestream();
    command.arg("-config").arg(config);
    command
}

/// A snapshot of all databases, whose heartbeat goes there.
fn snapshot(bed: &Bed, url: &str, trusted: &Authority) -> Ran {
    let text = format!("heartbeat-url: {url}\ndbs:\n{}", entry(bed, &bed.database(), "a"));
    let mut command = with_config(bed, &text);
    command.arg("snapshot").env("SSL_CERT_FILE", trusted.root());
    for proxy in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env(proxy, "http://127.0.0.1:1");
    }
    bed.run_command(&mut command).succeeded()
}

fn a_host_of_a_trusted_authority_is_told_past_any_proxy(bed: &Bed) {
    let authority = Authority::new("ours");
    let (port, beats) = host(&authority.sign("server", "DNS:localhost", 2));
    let ran = snapshot(bed, &format!("https://localhost:{port}/ping?id=1"), &authority);
    assert_eq!(ran.stderr, "");
    assert_eq!(beats.recv_timeout(support::SOON).unwrap(), "GET /ping?id=1 HTTP/1.1");
}

fn a_host_of_another_authority_or_another_name_is_not_told(bed: &Bed) {
    let [ours, theirs] = ["ours", "theirs"].map(Authority::new);
    let wrong = [(&theirs, "DNS:localhost", "certificate verify failed"), (&ours, "DNS:elsewhere", "mismatch")];
    for (authority, name, complaint) in wrong {
        let (port, beats) = host(&authority.sign("server", name, 2));
        let ran = snapshot(bed, &format!("https://localhost:{port}/secret"), &ours);
        assert!(ran.stderr.contains("heartbeat failed") && ran.stderr.contains(complaint), "{}", ran.stderr);
        assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
        assert!(beats.try_recv().is_err(), "{name}");
    }
}

fn silent_heartbeat_host_delays_a_snapshot_by_its_timeout(bed: &Bed) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", silent.local_addr().unwrap());
    let begin = Instant::now();
    let ran = snapshot(bed, &url, &Authority::new("ours"));
    assert!(ran.stderr.contains("heartbeat failed") && ran.stderr.contains("no answer in time"), "{}", ran.stderr);
    // The deadline is 10 seconds.
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}

/// What is told to systemd comes right after the decision.
fn nobody_is_told_while_one_database_is_in_trouble(bed: &Bed) {
    let authority = Authority::new("ours");
    let (port, beats) = host(&authority.sign("server", "DNS:localhost", 2));
    let (good, bad) = (bed.database(), bed.path("b.db"));
    bed.write(&bad, &["--commits", "3"]);
    let away = nats::free_port();
    let text = format!(
        "heartbeat-url: https://localhost:{port}/\ndbs:\n{}  - {{path: {}, replica: {{url: \"nats://127.0.0.1:{away}/b\"}}}}\n",
        entry(bed, &good, "a"),
        bad.display()
    );
    let socket = bed.path("notify");
    let heard = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    heard.set_read_timeout(Some(support::SOON)).unwrap();
    let mut command = with_config(bed, &text);
    command.arg("replicate").env("NOTIFY_SOCKET", &socket).env("SSL_CERT_FILE", authority.root());
    let replicator = bed.spawn(&mut command);
    let mut troubled = 0;
    while troubled < 2 {
        let mut message = [0; 500];
        let count = heard.recv(&mut message).expect("a word to systemd");
        troubled += usize::from(String::from_utf8_lossy(&message[..count]).contains("problem with 1"));
    }
    assert!(beats.try_recv().is_err(), "{}", replicator.log());
    bed.restored_from(&bed.url_below("a"));
    replicator.kill();
}

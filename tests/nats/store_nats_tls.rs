//! The NATS store over TLS, with certificates that are right and wrong in every usual way.

use std::path::PathBuf;

use crate::support::bucket::store_on;
use crate::support::certificates::{Authority, Pair, as_sec1};
use crate::support::drive::{connect, get, noise, put};
use crate::support::nats::{Server, pinned};
use litestream::error::{Error, Kind};
use litestream::store::nats::options::Tls;

const HERE: &str = "DNS:localhost,IP:127.0.0.1";

fn trusting(root: PathBuf) -> Tls {
    Tls { required: true, root_cas: vec![root], ..Tls::default() }
}

fn with(tls: Tls, pair: &Pair) -> Tls {
    Tls { identity: Some((pair.certificate.clone(), pair.key.clone())), ..tls }
}

fn works(server: &Server, host: &str, tls: Tls) {
    let store = store_on(server, |options| {
        options.tls = tls;
        options.servers[0].host = host.into();
    });
    connect(store.as_ref()).expect("connect");
    let bytes = noise(6_000_000, 8);
    put(store.as_ref(), "x", &bytes).expect("put");
    assert!(get(store.as_ref(), "x").expect("get") == bytes);
}

fn fails(server: &Server, host: &str, tls: Tls) -> Error {
    let store = store_on(server, |options| {
        options.tls = tls;
        options.servers[0].host = host.into();
    });
    let error = connect(store.as_ref()).expect_err("refused");
    assert_eq!(error.kind(), Kind::StoreRefused, "{error}");
    assert!(error.message().starts_with(&format!("{host}:{}: ", server.port)), "{error}");
    error
}

#[test]
fn certificate_of_a_named_authority_is_trusted() {
    let ca = Authority::new("ours");
    let server = Server::start(&pinned(), &ca.sign("server", HERE, 2).config(""));
    for host in ["localhost", "127.0.0.1"] {
        works(&server, host, trusting(ca.root()));
    }
    // Not asked for, but the server demands it: still checked.
    let mut tls = trusting(ca.root());
    tls.required = false;
    works(&server, "localhost", tls);
}

#[test]
fn a_handshake_before_the_first_line_works() {
    let ca = Authority::new("ours");
    let server = Server::start(&pinned(), &ca.sign("server", HERE, 2).config("handshake_first: true"));
    works(&server, "localhost", Tls { handshake_first: true, ..trusting(ca.root()) });
}

#[test]
fn untrusted_certificate_is_refused_with_the_reason() {
    let (ca, other) = (Authority::new("ours"), Authority::new("theirs"));
    let server = Server::start(&pinned(), &ca.sign("server", "DNS:localhost", 2).config(""));
    let error = fails(&server, "localhost", trusting(other.root()));
    assert!(error.message().contains("certificate verify failed"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("root-cas")), "{error:?}");
    let error = fails(&server, "127.0.0.1", trusting(ca.root()));
    assert!(error.message().contains("mismatch"), "{error}");
    let error = fails(&server, "localhost", Tls { required: true, ..Tls::default() });
    assert!(error.message().contains("certificate verify failed"), "{error}");
}

#[test]
fn an_expired_certificate_is_called_expired() {
    let ca = Authority::new("ours");
    let server = Server::start(&pinned(), &ca.sign("server", HERE, -1).config(""));
    let error = fails(&server, "localhost", trusting(ca.root()));
    assert!(error.message().contains("TLS handshake: certificate has expired"), "{error}");
}

#[test]
fn client_certificate_is_accepted_with_every_key_format() {
    let ca = Authority::new("ours");
    let config = format!("verify: true, ca_file: \"{}\"", ca.root().display());
    let server = Server::start(&pinned(), &ca.sign("server", HERE, 2).config(&config));
    let pair = ca.sign("client", "DNS:client", 2);
    for pair in [&pair, &as_sec1(&pair), &ca.sign_rsa("rsa", "DNS:rsa")] {
        works(&server, "localhost", with(trusting(ca.root()), pair));
    }
    let store = store_on(&server, |options| options.tls = trusting(ca.root()));
    let error = connect(store.as_ref()).expect_err("no client certificate");
    assert_eq!(error.kind(), Kind::StoreRefused, "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("client-cert")), "{error:?}");
}

#[test]
fn clear_text_is_never_spoken_where_tls_is_wanted() {
    let ca = Authority::new("ours");
    let server = Server::plain();
    let error = fails(&server, "localhost", trusting(ca.root()));
    assert!(error.message().ends_with("expected TLS, found a server that does not offer it"), "{error}");
    let error = fails(&server, "localhost", Tls { handshake_first: true, ..trusting(ca.root()) });
    assert!(error.message().contains("TLS handshake"), "{error}");
}

#[test]
fn a_file_that_holds_no_certificate_is_named() {
    let ca = Authority::new("ours");
    let server = Server::start(&pinned(), &ca.sign("server", HERE, 2).config(""));
    let error = fails(&server, "localhost", trusting("/dev/null".into()));
    assert!(error.message().contains("read /dev/null: expected a certificate in PEM, found none"), "{error}");
    let error = fails(&server, "localhost", trusting("/nonexistent.pem".into()));
    assert!(error.message().contains("read /nonexistent.pem: no such file"), "{error}");
}

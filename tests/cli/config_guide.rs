//! Each form of replica that Litestream's guide for NATS shows is taken as it is written there, and means what it says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use litestream::config::{self, Environment};
use litestream::secret::Secret;
use litestream::store::StoreTarget;
use litestream::store::nats::options::{Credentials, NatsOptions, Server, Tls};

/// The replica of a database whose lines are these, with variables of the environment.
fn options(lines: &str, variables: &[(&str, &str)]) -> NatsOptions {
    let lines: String = lines.lines().map(|line| format!("      {line}\n")).collect();
    let text = format!("dbs:\n  - path: /path/to/local/db\n    replica:\n{lines}");
    let env = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
    let seed_file = |_: &Path| unreachable!("NATS_NKEY is not set");
    let around =
        Environment { env: &env, current_dir: PathBuf::from("/"), seed_file: &seed_file, context_file: &|_| Ok(None) };
    let mut config = config::parse(&text, &around, true).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!((&config.warnings[..], config.dbs.len()), (&[][..], 1), "{text}");
    match config.dbs.remove(0).replica.target {
        StoreTarget::Nats(options) => *options,
        other => panic!("{other:?}"),
    }
}

/// What the form without more keys comes to, but for `change`.
fn expected(host: &str, change: impl FnOnce(&mut NatsOptions)) -> NatsOptions {
    let server = Server { host: host.to_string(), port: 4222 };
    let mut options = NatsOptions::new(vec![server], "BUCKETNAME", "");
    change(&mut options);
    options
}

fn at(host: &str, lines: &str) -> NatsOptions {
    options(&format!("type: nats\nurl: nats://{host}:4222/BUCKETNAME\n{lines}"), &[])
}

#[test]
fn the_url_form_is_an_anonymous_login_in_clear_text() {
    assert_eq!(at("localhost", ""), expected("localhost", |_| ()));
}

#[test]
fn each_way_to_log_in_is_that_way() {
    let table = [
        (
            "username: myuser\npassword: mypassword",
            Credentials::UserPassword { user: "myuser".to_string(), password: Secret::new("mypassword") },
        ),
        (
            "jwt: \"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9...\"\nseed: \"SUACANARYSEED\"",
            Credentials::Jwt {
                jwt: Secret::new("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9..."),
                seed: Secret::new("SUACANARYSEED"),
            },
        ),
        ("creds: /etc/litestream/nats.creds", Credentials::Creds(PathBuf::from("/etc/litestream/nats.creds"))),
        ("token: \"my-secret-token\"", Credentials::Token(Secret::new("my-secret-token"))),
    ];
    for (lines, login) in table {
        assert_eq!(at("localhost", lines), expected("localhost", |options| options.login = login), "{lines}");
    }
}

fn tls(roots: &[&str], identity: Option<(&str, &str)>) -> Tls {
    let identity = identity.map(|(certificate, key)| (PathBuf::from(certificate), PathBuf::from(key)));
    Tls { required: true, handshake_first: false, root_cas: roots.iter().map(PathBuf::from).collect(), identity }
}

const CERT: &str = "/etc/ssl/certs/litestream-client.pem";
const KEY: &str = "/etc/ssl/private/litestream-client.key";

#[test]
fn certificates_demand_tls_and_are_those_that_are_named() {
    let pair = format!("client-cert: {CERT}\nclient-key: {KEY}");
    let full = format!("root-cas:\n  - /etc/ssl/certs/nats-ca.pem\n{pair}");
    let table = [
        ("root-cas:\n  - /etc/ssl/certs/nats-ca.crt", tls(&["/etc/ssl/certs/nats-ca.crt"], None)),
        (
            "root-cas:\n  - /etc/ssl/certs/ca1.pem\n  - /etc/ssl/certs/ca2.pem",
            tls(&["/etc/ssl/certs/ca1.pem", "/etc/ssl/certs/ca2.pem"], None),
        ),
        (&pair, tls(&[], Some((CERT, KEY)))),
        (&full, tls(&["/etc/ssl/certs/nats-ca.pem"], Some((CERT, KEY)))),
    ];
    for (lines, tls) in table {
        let host = "nats.example.com";
        assert_eq!(at(host, lines), expected(host, |options| options.tls = tls), "{lines}");
    }
}

#[test]
fn paths_of_certificates_may_be_variables() {
    let lines = "type: nats\nurl: nats://nats.example.com:4222/BUCKETNAME\nroot-cas:\n  - ${NATS_CA_CERT}\n\
                 client-cert: ${NATS_CLIENT_CERT}\nclient-key: ${NATS_CLIENT_KEY}";
    let variables = [("NATS_CA_CERT", "/ca.pem"), ("NATS_CLIENT_CERT", CERT), ("NATS_CLIENT_KEY", KEY)];
    let tls = tls(&["/ca.pem"], Some((CERT, KEY)));
    assert_eq!(options(lines, &variables), expected("nats.example.com", |options| options.tls = tls));
}

#[test]
fn connection_options_in_the_guide_have_comments() {
    let lines = "max-reconnects: -1        # for ever\nreconnect-wait: 2s        # between attempts\n\
                 timeout: 10s              # to connect";
    let options = at("nats.example.com", lines);
    assert_eq!(options, expected("nats.example.com", |_| ()), "they are the defaults");
    let wait = (options.max_reconnects, options.reconnect_wait, options.timeout);
    assert_eq!(wait, (None, Duration::from_secs(2), Duration::from_secs(10)));
}

//! The NATS store against real servers: logins, buckets, what stays in the stream.

use std::net::TcpStream;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::support::bucket;
use crate::support::bucket::{consumers, messages, monitored, monitored_server, store_on};
use crate::support::drive;
use crate::support::drive::{connect, delete, get, list, noise, put};
use crate::support::jwt;
use crate::support::nats;
use crate::support::nats::{Server, free_port, pinned};
use crate::support::raw;
use litestream::error::Kind;
use litestream::secret::Secret;
use litestream::store::nats::options::{Credentials, NatsOptions};

#[test]
fn harness_restarts_a_killed_server_on_the_same_port() {
    let mut server = Server::plain();
    let reach = |server: &Server| TcpStream::connect(server.address());
    assert!(reach(&server).is_ok());
    server.kill();
    assert!(reach(&server).is_err());
    server.restart();
    assert!(reach(&server).is_ok());
    server.stop();
    assert!(reach(&server).is_err());
}

/// Stores and reads one object with `login`.
fn logs_in(server: &Server, login: Credentials) {
    let store = store_on(server, |options| options.login = login);
    connect(store.as_ref()).expect("connect");
    put(store.as_ref(), "x", b"1").expect("put");
    assert_eq!(get(store.as_ref(), "x").expect("get"), b"1");
}

/// What connecting with `login` fails with.
fn refused(server: &Server, login: Credentials) -> litestream::error::Error {
    let store = store_on(server, |options| options.login = login);
    connect(store.as_ref()).expect_err("refused")
}

fn user(name: &str, password: &str) -> Credentials {
    Credentials::UserPassword { user: name.into(), password: Secret::new(password) }
}

#[test]
fn right_password_is_accepted_and_a_wrong_one_explained() {
    let server = Server::start(&pinned(), "authorization { user: u, password: \"s3cret p@ss\" }");
    logs_in(&server, user("u", "s3cret p@ss"));
    for login in [user("u", "wr0ng"), Credentials::None, Credentials::Token(Secret::new("wr0ng"))] {
        let error = refused(&server, login);
        assert_eq!(error.kind(), Kind::StoreRefused, "{error}");
        assert!(error.message().contains("Authorization Violation"), "{error}");
        assert!(error.message().contains(&server.address()), "{error}");
        assert!(!format!("{error:?}").contains("wr0ng"), "{error:?}");
    }
}

#[test]
fn a_token_gets_in() {
    let server = Server::start(&pinned(), "authorization { token: \"t0ken\" }");
    logs_in(&server, Credentials::Token(Secret::new("t0ken")));
    assert_eq!(refused(&server, Credentials::Token(Secret::new("no"))).kind(), Kind::StoreRefused);
}

#[test]
fn an_nkey_gets_in_by_its_signature() {
    let key = nkeys::KeyPair::new_user();
    let server = Server::start(&pinned(), &format!("authorization {{ users = [ {{ nkey: {} }} ] }}", key.public_key()));
    logs_in(&server, Credentials::Nkey(Secret::new(key.seed().expect("seed"))));
    let other = nkeys::KeyPair::new_user().seed().expect("seed");
    assert_eq!(refused(&server, Credentials::Nkey(Secret::new(other))).kind(), Kind::StoreRefused);
}

#[test]
fn a_jwt_and_a_credentials_file_get_in() {
    let authority = jwt::authority();
    let server = Server::start(&pinned(), &authority.config);
    logs_in(&server, Credentials::Jwt { jwt: Secret::new(&authority.jwt), seed: Secret::new(&authority.seed) });
    let path = server.scratch.join("user.creds");
    std::fs::write(&path, authority.creds()).expect("write");
    logs_in(&server, Credentials::Creds(path.clone()));
    let other = jwt::authority();
    std::fs::write(&path, other.creds()).expect("write");
    assert_eq!(refused(&server, Credentials::Creds(path)).kind(), Kind::StoreRefused);
}

#[test]
fn missing_bucket_is_an_error_with_a_hint_unless_created() {
    let server = Server::plain();
    let store = store_on(&server, |options| options.create_bucket = false);
    let error = connect(store.as_ref()).expect_err("no bucket");
    assert_eq!((error.kind(), error.message()), (Kind::NotFound, "bucket bucket: there is no such bucket"));
    assert_eq!(error.hint(), Some("nats object add bucket, or -create-bucket"));
    connect(store_on(&server, |_| {}).as_ref()).expect("make it");
    connect(store.as_ref()).expect("it is there now");
}

#[test]
fn a_server_without_jetstream_says_so() {
    let server = Server::start(&pinned(), "accounts { A { users = [ { user: u, password: p } ] } }");
    let store = store_on(&server, |options| options.login = user("u", "p"));
    let error = connect(store.as_ref()).expect_err("no JetStream");
    assert!(error.hint().is_some_and(|hint| hint.contains("enable JetStream")), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("JetStream domain")), "{error}");
}

#[test]
fn a_missing_bucket_in_a_domain_is_told_with_the_domain() {
    let server = Server::start_tuned(&pinned(), "domain: edge", "");
    let store = store_on(&server, |options| options.create_bucket = false);
    let error = connect(store.as_ref()).expect_err("no bucket");
    assert_eq!(error.kind(), Kind::NotFound);
    let hint = error.hint().expect("a hint");
    assert!(hint.starts_with("this is JetStream domain edge: for a bucket of another domain, set js-domain"), "{hint}");
}

#[test]
fn what_the_user_may_not_do_is_named() {
    let config = "authorization { users = [ { user: u, password: p, permissions: { publish: [\"$JS.API.>\"] } } ] }";
    let server = Server::start(&pinned(), config);
    let store = store_on(&server, |options| {
        options.login = user("u", "p");
        options.timeout = Duration::from_secs(2);
    });
    connect(store.as_ref()).expect("connect");
    let error = put(store.as_ref(), "x", b"1").expect_err("no permission");
    assert!(error.message().contains("Permissions Violation for Publish"), "{error}");
    assert_eq!(error.kind(), Kind::StoreRefused);
}

#[test]
fn replace_delete_and_drop_leave_nothing_in_the_stream() {
    let (server, monitor) = monitored_server(&pinned());
    let store = store_on(&server, |_| {});
    let store = store.as_ref();
    connect(store).expect("connect");
    put(store, "a", &noise(300_000, 1)).expect("put");
    put(store, "b", &noise(10, 1)).expect("put");
    assert_eq!(messages(monitor), 4 + 2);
    put(store, "a", &noise(140_000, 2)).expect("put");
    assert_eq!(messages(monitor), 3 + 2, "the replaced chunks are gone");
    let mut dropped = store.put("c");
    for _ in 0..8 {
        dropped.write(&noise(200_000, 3)).expect("write");
        dropped.poll(Instant::now()).expect("poll");
    }
    drop(dropped);
    delete(store, &["a", "b", "never"]).expect("delete");
    let end = Instant::now() + Duration::from_secs(30);
    while messages(monitor) > 0 && Instant::now() < end {
        store.wait(Duration::from_millis(20));
    }
    assert_eq!(messages(monitor), 0, "no chunk, no marker");
    assert!(list(store, "").expect("list").is_empty());
    store.wait(Duration::from_millis(20));
    assert_eq!(consumers(monitor), 0, "no consumer");
}

#[test]
fn a_full_bucket_refuses_a_put_and_shows_nothing_of_it() {
    let server = Server::start(&pinned(), "");
    let limited = "import asyncio,sys,nats\nasync def m():\n nc=await nats.connect(sys.argv[1])\n \
                   await nc.jetstream().create_object_store('bucket',max_bytes=400000)\n await nc.close()\nasyncio.run(m())";
    if !nats::python(limited, &[&server.address()]) {
        return;
    }
    let store = store_on(&server, |_| {});
    connect(store.as_ref()).expect("connect");
    put(store.as_ref(), "fits", &noise(200_000, 1)).expect("put");
    let error = put(store.as_ref(), "does not", &noise(400_000, 1)).expect_err("full");
    assert!(error.message().starts_with("put p/does not: maximum bytes exceeded"), "{error}");
    assert_eq!(drive::names(store.as_ref(), "").expect("list"), ["fits"]);
}

#[test]
fn stores_of_one_login_share_a_connection() {
    let (server, monitor) = monitored_server(&pinned());
    let mut pool = litestream::store::ConnectionPool::default();
    let stores: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|prefix| {
            let mut options = NatsOptions::new(vec![server.in_options()], "bucket", prefix);
            options.create_bucket = true;
            litestream::store::open(
                &litestream::store::StoreTarget::Nats(Box::new(options)),
                Default::default(),
                &mut pool,
            )
            .expect("open")
        })
        .collect();
    for store in &stores {
        connect(store.as_ref()).expect("connect");
    }
    let varz = bucket::http_get(monitor, "/connz");
    assert_eq!(varz["num_connections"].as_u64(), Some(1));
    let name = varz["connections"][0]["name"].as_str().expect("a name");
    assert!(name.starts_with("litestream/") && name.ends_with(&std::process::id().to_string()), "{name}");
}

#[test]
fn nobody_there_is_unreachable_and_named() {
    let port = free_port();
    let mut options = NatsOptions::new(vec![], "bucket", "");
    options.servers.push(litestream::store::nats::options::Server { host: "127.0.0.1".into(), port });
    let target = litestream::store::StoreTarget::Nats(Box::new(options));
    let store = litestream::store::open(&target, Default::default(), &mut Default::default()).expect("open");
    let error = connect(store.as_ref()).expect_err("nobody");
    assert_eq!(error.kind(), Kind::StoreUnreachable);
    assert_eq!(error.message(), format!("127.0.0.1:{port}: connect: connection refused"));
}

#[test]
fn server_with_a_full_queue_gets_the_chunks_again_in_order() {
    let (config, monitor) = monitored();
    let server = Server::start_tuned(&pinned(), "max_buffered_msgs: 2", &config);
    let store = store_on(&server, |_| {});
    connect(store.as_ref()).expect("connect");
    let objects: Vec<Vec<u8>> = (1..=6).map(|seed| noise(1_500_000, seed)).collect();
    let mut puts: Vec<_> = (0..objects.len()).map(|n| (store.put(&format!("{n}")), 0, false)).collect();
    let end = Instant::now() + Duration::from_secs(100);
    while puts.iter().any(|(_, _, done)| !done) {
        for ((put, at, done), bytes) in puts.iter_mut().zip(&objects).filter(|((_, _, done), _)| !done) {
            *at += if *at < bytes.len() { put.write(&bytes[*at..]).expect("write") } else { 0 };
            if *at == bytes.len() {
                put.finish();
                put.commit();
            }
            *done = put.poll(Instant::now()).expect("put") == litestream::store::PutState::Done;
        }
        assert!(Instant::now() < end, "the puts hang");
        store.wait(Duration::from_millis(10));
    }
    for (n, bytes) in objects.iter().enumerate() {
        assert!(get(store.as_ref(), &format!("{n}")).expect("get") == *bytes, "object {n}");
    }
    assert_eq!(messages(monitor), 6 * (12 + 1), "nothing twice");
}

/// Of 6000 objects the first 4000 are on their way before the others are asked for: then some of the first are replaced, some
/// new ones come, the last are replaced, and some between them are deleted.
fn a_listing_while_others_write(binary: &std::path::Path) {
    let server = Server::start(binary, "");
    let store = store_on(&server, |_| {});
    connect(store.as_ref()).expect("connect");
    let write = |from: u32, to: u32, nuid: &str| {
        let metas: Vec<_> = (from..to).map(|n| raw::Message::meta("bucket", &format!("p/{n:05}"), nuid, 0)).collect();
        raw::publish(&server.address(), &metas);
    };
    write(0, 6000, "old");
    let mut listing = store.list("");
    let (end, mut polls) = (Instant::now() + Duration::from_secs(60), 0);
    let found = loop {
        if let Poll::Ready(found) = listing.poll(Instant::now()).expect("list") {
            break found;
        }
        polls += 1;
        if polls == 2 {
            write(0, 300, "new");
            write(6000, 6300, "new");
            write(5900, 6000, "new");
            let subjects = (4500..4510).map(|n| raw::Message::meta("bucket", &format!("p/{n:05}"), "", 0).subject);
            for subject in subjects {
                let filter = String::from_utf8(subject).expect("a subject");
                raw::ask(&server.address(), "$JS.API.STREAM.PURGE.OBJ_bucket", &serde_json::json!({"filter": filter}));
            }
        }
        assert!(Instant::now() < end, "the listing does not end");
        store.wait(Duration::from_millis(20));
    };
    assert!(polls > 2, "it was over before anything was replaced");
    let found: Vec<String> = found.into_iter().map(|entry| entry.name).collect();
    let stays = (0..4500).chain(4510..6000).map(|n| format!("{n:05}"));
    let missing: Vec<String> = stays.filter(|name| !found.contains(name)).collect();
    assert!(missing.is_empty(), "{} of {} are missing, such as {:?}", missing.len(), found.len(), missing.first());
    assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "some came twice");
}

#[test]
fn listing_is_complete_while_others_change_objects() {
    a_listing_while_others_write(&pinned());
}

#[test]
fn listing_is_complete_on_the_system_server() {
    nats::on_system(a_listing_while_others_write);
}

#[test]
fn of_several_metas_of_one_name_the_last_one_holds() {
    let server = Server::plain();
    let store = store_on(&server, |_| {});
    connect(store.as_ref()).expect("connect");
    let meta = |name: &str, size| raw::Message { headers: vec![], ..raw::Message::meta("bucket", name, "n", size) };
    let gone = raw::Message { payload: br#"{"name":"p/gone","deleted":true}"#.to_vec(), ..meta("p/gone", 0) };
    raw::publish(&server.address(), &[meta("p/two", 1), meta("p/gone", 1), gone, meta("p/two", 2)]);
    let found: Vec<_> = list(store.as_ref(), "").expect("list").into_iter().map(|e| (e.name, e.size)).collect();
    assert_eq!(found, [("two".to_string(), 2)]);
}

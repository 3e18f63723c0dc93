//! What we store, others read; what others store, we read. The other is nats-py.

use crate::support::bucket::{messages, monitored_server, store_on};
use crate::support::drive::{connect, delete, get, list, names, noise, put};
use crate::support::nats;
use crate::support::nats::{Server, pinned, python};
use crate::support::raw;
use litestream::error::Kind;

/// Reads the objects named on its command line, each followed by its SHA-256 and size.
const READ: &str = r#"
import asyncio, hashlib, sys, nats
async def main(url, words):
    nc = await nats.connect(url)
    store = await nc.jetstream().object_store("bucket")
    for name, digest, size in zip(words[0::3], words[1::3], words[2::3]):
        result = await store.get(name)
        assert hashlib.sha256(result.data).hexdigest() == digest, name
        assert result.info.size == int(size) == len(result.data), name
        assert result.info.name == name and result.info.chunks == -(-int(size) // 131072), name
    listed = sorted(info.name for info in await store.list())
    assert listed == sorted(words[0::3]), listed
    await nc.close()
asyncio.run(main(sys.argv[1], sys.argv[2:]))
"#;

/// Stores three objects, one of them deleted again and one twice, and things that are no objects.
const WRITE: &str = r#"
import asyncio, base64, sys, nats
async def main(url):
    nc = await nats.connect(url)
    js = nc.jetstream()
    store = await js.create_object_store("bucket")
    await store.put("p/empty", b"")
    await store.put("p/old", b"x" * 300000)
    await store.put("p/old", b"y" * 400000)
    await store.put("p/gone", b"z" * 10)
    await store.delete("p/gone")
    await store.put("other", b"not below the prefix")
    meta = lambda name: "$O.bucket.M." + base64.urlsafe_b64encode(name).decode()
    await js.publish(meta(b"p/junk"), b"junk")
    await js.publish(meta(b"p/null"), b'{"name":"p/null","nuid":null,"digest":null}')
    await js.publish(meta(b"p/link"), b'{"name":"p/link","nuid":"x","options":{"link":{"bucket":"b"}}}')
    await js.publish(meta(b"p/bare"), b'{"name":"p/bare","nuid":"bare","size":2}')
    await js.publish("$O.bucket.C.bare", b"ok")
    await js.publish(meta(b"p/hole"), b'{"name":"p/hole","nuid":"hole","size":2,"chunks":2}')
    await js.publish("$O.bucket.C.hole", b"o")
    await js.publish(meta(b"p/bad"), b'{"name":"p/bad","nuid":"bad","size":2,"chunks":1,"digest":"SHA-256=AAAA"}')
    await js.publish("$O.bucket.C.bad", b"ok")
    await nc.close()
asyncio.run(main(sys.argv[1]))
"#;

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn another_client_reads_and_lists_what_we_store() {
    let server = Server::plain();
    let store = store_on(&server, |_| {});
    connect(store.as_ref()).expect("connect");
    let mut words = vec![server.address()];
    for size in [0, 1, 131_072, 131_073, 1_000_000] {
        let (name, bytes) = (format!("grün/{size}"), noise(size, 3));
        put(store.as_ref(), &name, &bytes).expect("put");
        words.extend([format!("p/{name}"), sha256(&bytes), size.to_string()]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    python(READ, &words);
}

#[test]
fn objects_of_another_client_are_read_and_junk_is_ignored() {
    let (server, monitor) = monitored_server(&pinned());
    if !python(WRITE, &[&server.address()]) {
        return;
    }
    let store = store_on(&server, |options| options.create_bucket = false);
    let store = store.as_ref();
    connect(store).expect("connect");
    let listed: Vec<(String, u64)> = list(store, "").expect("list").into_iter().map(|e| (e.name, e.size)).collect();
    let expected = [("bad", 2), ("bare", 2), ("empty", 0), ("hole", 2), ("old", 400_000)];
    assert_eq!(listed, expected.map(|(name, size)| (name.to_string(), size)));
    assert_eq!(get(store, "old").expect("get"), vec![b'y'; 400_000]);
    assert_eq!(get(store, "empty").expect("get"), b"");
    assert_eq!(get(store, "bare").expect("get"), b"ok");
    for (name, kind) in [
        ("gone", Kind::NotFound),
        ("junk", Kind::Corrupt),
        ("null", Kind::Corrupt),
        ("link", Kind::Corrupt),
        ("hole", Kind::Corrupt),
        ("bad", Kind::Corrupt),
    ] {
        let error = get(store, name).expect_err(name);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().starts_with(&format!("get p/{name}: ")), "{error}");
    }
    delete(store, &["old", "empty", "gone", "junk", "null", "link", "bare", "hole", "bad"]).expect("delete");
    assert_eq!(names(store, "").expect("list"), [""; 0]);
    // What is left is the object that is not ours.
    assert_eq!(messages(monitor), 2);
}

/// Headers, subjects and names that no careful client would store.
fn poison() -> Vec<raw::Message> {
    let meta = |name: &str| raw::Message::meta("bucket", name, "n", 0);
    let with = |name: &str, headers: &[u8]| raw::Message { headers: headers.to_vec(), ..meta(name) };
    vec![
        with("p/not-utf8", b"X: \xff\xfe\r\n"),
        with("p/no-colon", b"nothing\r\n"),
        with("p/long", &[b"X: ", "x".repeat(20_000).as_bytes(), b"\r\n"].concat()),
        raw::Message { subject: b"$O.bucket.M.\xff".to_vec(), ..meta("p/subject") },
        raw::Message { subject: b"$O.bucket.M.\xc2\xa0\xe3\x80\x80".to_vec(), ..meta("p/blank") },
        // Its line is longer on the way to us than the server takes from anybody.
        meta(&format!("p/{}", "y".repeat(3000))),
    ]
}

fn a_listing_with_poison(binary: &std::path::Path) {
    let server = Server::start(binary, "");
    let store = store_on(&server, |_| {});
    connect(store.as_ref()).expect("connect");
    put(store.as_ref(), "ours", b"1").expect("put");
    for message in poison() {
        raw::publish(&server.address(), &[message]);
        let found = names(store.as_ref(), "").expect("list");
        assert!(found.contains(&"ours".to_string()), "{found:?}");
    }
    assert_eq!(get(store.as_ref(), "ours").expect("get"), b"1");
    for name in ["not-utf8", "no-colon", "long"] {
        assert_eq!(get(store.as_ref(), name).expect("get"), b"");
    }
}

#[test]
fn invalid_headers_and_subjects_are_tolerated() {
    a_listing_with_poison(&pinned());
}

#[test]
fn invalid_headers_are_tolerated_on_the_system_server() {
    nats::on_system(a_listing_with_poison);
}

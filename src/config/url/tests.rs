use super::*;
use crate::error::Kind;

fn nats_of(text: &str) -> NatsUrl {
    match parse(text) {
        Ok(Url::Nats(url)) => url,
        other => panic!("{text}: {other:?}"),
    }
}

/// Servers, bucket and prefix, as the display form writes them.
fn shown(text: &str) -> String {
    let url = nats_of(text);
    let mut options = NatsOptions::new(url.servers, url.bucket.unwrap_or_default(), url.prefix);
    options.tls.required = url.tls;
    options.api_prefix = url.subjects.api().unwrap().unwrap_or(options.api_prefix);
    format_nats(&options)
}

#[test]
fn every_form_of_a_nats_url_is_read() {
    let table = [
        ("nats://localhost:4222/B", "nats://localhost:4222/B"),
        ("nats://localhost/B", "nats://localhost:4222/B"),
        ("NATS://localhost/B/", "nats://localhost:4222/B"),
        ("nats://h/B/a/b/", "nats://h:4222/B/a/b"),
        ("nats://h/B//", "nats://h:4222/B"),
        ("nats://h:1,g:2/B", "nats://h:1,g:2/B"),
        ("nats://h,,g,/B", "nats://h:4222,g:4222/B"),
        ("nats://h,nats://g/B/p", "nats://h:4222,g:4222/B/p"),
        ("nats://h,tls://g/B", "tls://h:4222,g:4222/B"),
        ("nats://h,h/B", "nats://h:4222/B"),
        ("tls://h/B", "tls://h:4222/B"),
        ("nats://[::1]:4/B", "nats://[::1]:4/B"),
        ("nats://[fe80::1],10.0.0.1/B", "nats://[fe80::1]:4222,10.0.0.1:4222/B"),
        ("nats:///B", "nats:///B"),
        ("nats:///B/p", "nats:///B/p"),
        ("nats://h", "nats://h:4222/"),
        ("nats://h:1/", "nats://h:1/"),
        ("nats://", "nats:///"),
        ("nats://u:p@h/B", "nats://h:4222/B"),
        ("nats://u:p@h,u:p@g/B", "nats://h:4222,g:4222/B"),
        ("nats://h/my%2DB/a%20b", "nats://h:4222/my-B/a%20b"),
        ("nats://h/B/a%2Fb", "nats://h:4222/B/a/b"),
        ("nats://h/B?js-domain=hub", "nats://h:4222/B?js-domain=hub"),
        ("nats:///B/p?inbox-prefix=_I&js-domain=hub", "nats:///B/p?js-domain=hub"),
        ("nats://h/B?js-api-prefix=%24JS.hub.API", "nats://h:4222/B?js-domain=hub"),
        ("nats://h/B?js-api-prefix=JS.acc.API.", "nats://h:4222/B?js-api-prefix=JS.acc.API"),
    ];
    for (text, expected) in table {
        assert_eq!(shown(text), expected, "{text}");
        assert_eq!(shown(expected), expected, "the display form reads back");
    }
}

#[test]
fn a_login_in_a_url_is_decoded() {
    let password = |user: &str, password: &str| UrlCredentials::Password(user.to_string(), Secret::new(password));
    let table = [
        ("nats://h/B", None),
        ("nats://u:p@h/B", Some(password("u", "p"))),
        ("nats://u%40x:p%3A%2F%2C%3F%25@h/B", Some(password("u@x", "p:/,?%"))),
        ("nats://u:a:b@h/B", Some(password("u", "a:b"))),
        ("nats://u:a@b@h/B", Some(password("u", "a@b"))),
        ("nats://tok%20en@h/B", Some(UrlCredentials::Token(Secret::new("tok en")))),
        ("tls://h,tok@g/B", Some(UrlCredentials::Token(Secret::new("tok")))),
    ];
    for (text, expected) in table {
        assert_eq!(nats_of(text).user, expected, "{text}");
    }
}

#[test]
fn address_without_a_scheme_is_no_directory() {
    for text in ["127.0.0.1:4222/fleet", "localhost:4222", "nats.example.com:4222/b/p", "10.0.0.1/b", "[::1]:4222/b"] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.message(), "replica URL: expected a scheme, found the address of a server without one");
        assert_eq!(error.hint(), Some(format!("write nats://{text}, or a path that begins with ./").as_str()));
    }
    let error = parse("u:s3cret@host/b").unwrap_err();
    assert!(!format!("{error:?}").contains("s3cret"), "{error}");
    let error = parse("backup").unwrap_err();
    assert_eq!(
        error.hint(),
        Some("write nats:///backup for the bucket on the server of NATS_URL, ./backup for the directory")
    );
    for path in ["./127.0.0.1:4222", "./backup", "/backup", "a/b:1", "..", "backup/"] {
        assert_eq!(parse(path).unwrap(), Url::Dir(path.into()));
    }
}

#[test]
fn a_directory_is_a_file_url_or_a_bare_path() {
    let table = [
        ("file:///a/b", "/a/b"),
        ("file://localhost/a", "/a"),
        ("file:///a%20b", "/a b"),
        ("/a/b", "/a/b"),
        ("./backup", "./backup"),
        ("../x", "../x"),
    ];
    for (text, path) in table {
        assert_eq!(parse(text).unwrap(), Url::Dir(PathBuf::from(path)), "{text}");
    }
}

#[test]
fn what_is_no_replica_url_is_refused_and_the_reason_is_told() {
    let table = [
        ("", "expected nats://HOST/BUCKET or the path of a directory, found nothing"),
        ("nats:h/B", "expected // after the scheme"),
        ("file:/a", "expected // after the scheme"),
        ("file://relative", "expected an absolute path after file://"),
        ("file://host/a", "expected an absolute path after file://"),
        ("file:///a?b", "a query or fragment is not supported"),
        ("s3://bucket/db", "the s3 backend is not supported"),
        ("sftp://h/db", "the sftp backend is not supported"),
        ("ftp://h/db", "unknown scheme"),
        ("ws://h/b", "websocket servers are not supported"),
        ("nats://h,wss://i/b", "websocket servers are not supported"),
        ("nats://h/B?x=1", "a query or fragment is not supported"),
        ("nats://h/B#x", "a query or fragment is not supported"),
        ("nats://u:pa?ss@h/B", "a query or fragment is not supported"),
        ("nats://h/B?js-domain", "a query or fragment is not supported"),
        ("nats://h/B?js-domain=a&js-domain=b", "a query or fragment is not supported"),
        ("nats://h/B?js-domain=a.b", "js-domain: expected the name of a JetStream domain"),
        ("nats://h/B?js-domain=a&js-api-prefix=b", "expected js-domain or js-api-prefix, found both"),
        ("nats://h:0/B", "server 1: expected a port from 1 to 65535"),
        ("nats://h,g:x/B", "server 2: expected a port from 1 to 65535"),
        ("nats://h:/B", "server 1: expected a port from 1 to 65535"),
        ("nats://h:65536/B", "server 1: expected a port from 1 to 65535"),
        ("nats://h:+1/B", "server 1: expected a port from 1 to 65535"),
        ("nats://::1/B", "server 1: too many colons"),
        ("nats://[::1/B", "server 1: a [ is not closed"),
        ("nats://[h]/B", "server 1: expected an IPv6 address in the brackets"),
        ("nats://[::1]4/B", "server 1: expected a port after the brackets"),
        ("nats://:4222/B", "server 1: expected the name or address of a host"),
        ("nats://h h/B", "server 1: expected the name or address of a host"),
        ("nats://u:@h/B", "server 1: expected USER:PASSWORD@ or TOKEN@, found an empty part"),
        ("nats://:p@h/B", "server 1: expected USER:PASSWORD@ or TOKEN@, found an empty part"),
        ("nats://@h/B", "server 1: expected USER:PASSWORD@ or TOKEN@, found an empty part"),
        ("nats://u:p@h,v:p@g/B", "server 2: expected one login for all servers, found two"),
        ("nats://u%zz:p@h/B", "server 1: expected two hex digits after %"),
        ("nats://u:p%f@h/B", "server 1: expected two hex digits after %"),
        ("nats://u:%ff@h/B", "server 1: expected % codes that give UTF-8"),
        ("nats://h/my.bucket", "expected a bucket of letters, digits, - and _"),
        ("nats://h/a%2Fb", "expected a bucket of letters, digits, - and _"),
        ("nats://h//p", "the bucket is empty, but a prefix follows"),
        ("nats://h/B/a//b", "expected a prefix without empty parts"),
        ("nats://h/B/../b", "expected a prefix without empty parts"),
        ("nats://h/B/%2E", "expected a prefix without empty parts"),
        ("nats://h/B/a%0Ab", "expected a prefix without empty parts"),
    ];
    for (text, what) in table {
        let error = parse(text).expect_err(text);
        assert_eq!(error.kind(), Kind::Usage, "{text}");
        let what = match text.contains("://") {
            true => format!("replica URL {}: {what}", mask_credentials(text)),
            false => format!("replica URL: {what}"),
        };
        assert!(error.message().starts_with(&what), "{text}: {error}");
    }
}

#[test]
fn no_error_shows_a_piece_of_a_password_however_it_is_mangled() {
    for text in [
        "nats://u:canary@h:x/B",
        "nats://u:canary,canary@h/B",
        "nats://u:canary/canary@h/B",
        "nats://u:12/canary@h/B",
        "nats://u:canary?canary@h/B",
        "nats://u:canary#canary@h/B",
        "nats://u:canary%zz@h/B",
        "nats://u:canary@h/B?password=canary",
        "nats://u:canary@[h/B",
        "s3://key:canary@bucket/db",
        "nats:u:canary@h/B",
        "nats:/u:canary@h/B",
        "file://u:canary@h/B",
    ] {
        let error = parse(text).expect_err(text);
        let shown = format!("{error} {error:?} {:?}", error.hint());
        assert!(!shown.contains("canary"), "{text}: {shown}");
        if text.starts_with("nats://") {
            let error = parse_servers(text, "NATS_URL").expect_err(text);
            assert!(!format!("{error:?}").contains("canary"), "{text}: {error}");
        }
    }
}

#[test]
fn a_list_of_servers_is_read_with_or_without_schemes() {
    let table = [
        ("nats://h:1", "nats://h:1/"),
        ("h", "nats://h:4222/"),
        ("h:1,g:2", "nats://h:1,g:2/"),
        ("nats://h:1, nats://g:2", "nats://h:1,g:2/"),
        ("tls://h,nats://g/", "tls://h:4222,g:4222/"),
        ("u:p@h", "nats://h:4222/"),
    ];
    for (text, expected) in table {
        let url = parse_servers(text, "NATS_URL").unwrap();
        let mut options = NatsOptions::new(url.servers, "", "");
        options.tls.required = url.tls;
        assert_eq!(format_nats(&options), expected, "{text}");
    }
    assert!(parse_servers("nats://h/B", "NATS_URL").unwrap_err().message().contains("found a path"));
}

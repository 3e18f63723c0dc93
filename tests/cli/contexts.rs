//! Contexts of the nats CLI: where a server, a login and TLS come from when several places speak, and which place wins.

use std::fs;
use std::path::{Path, PathBuf};

use litestream::config::{self, Environment};
use litestream::error::{Error, Kind, Result};
use litestream::secret::Secret;
use litestream::store::StoreTarget;
use litestream::store::nats::options::{Credentials, NatsOptions};

use crate::support::{Bed, NOTHING, STORE, USAGE, litestream};

/// What the file of `nkey` holds: a seed made for this test alone.
const SEED: &str = "SUAHKFZWNVWZPCVGYY3L2QV6MQAT23QTCF2WYBVZEGJZOUNIYQNA6TUWOU";

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// The options that a URL comes to, or the first replica of a configuration, with these variables and files.
fn options(place: &str, variables: Pairs<'_>, files: Pairs<'_>) -> Result<NatsOptions> {
    let find =
        |pairs: Pairs<'_>, name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, v)| v.to_string());
    let env = |name: &str| find(variables, name);
    let seed_file = |path: &Path| match path.to_str() {
        Some("/etc/user.nk") => Ok(Secret::new(SEED)),
        _ => Err(Error::new(Kind::Usage, format!("read {}: no such file", path.display()))),
    };
    let context_file = |path: &Path| Ok(find(files, path.to_str().expect("a path")));
    let around = Environment {
        env: &env,
        current_dir: PathBuf::from("/work"),
        seed_file: &seed_file,
        context_file: &context_file,
    };
    let replica = match place.starts_with("nats:") {
        true => config::replica(place, &around),
        false => config::parse(place, &around, true).map(|mut config| config.dbs.remove(0).replica),
    };
    replica.map(|replica| match replica.target {
        StoreTarget::Nats(options) => *options,
        other => panic!("{other:?}"),
    })
}

/// `user@host,host`, with `*` where TLS is asked for.
fn shape(options: &NatsOptions) -> String {
    let login = match &options.login {
        Credentials::None => String::new(),
        Credentials::UserPassword { user, .. } => format!("{user}@"),
        other => format!("{other:?}@"),
    };
    let hosts: Vec<String> = options.servers.iter().map(|server| server.host.clone()).collect();
    format!("{login}{}{}", hosts.join(","), if options.tls.required { "*" } else { "" })
}

const FILES: Pairs<'static> = &[
    ("/home/me/.config/nats/context.txt", "chosen\n"),
    ("/home/me/.config/nats/context/chosen.json", r#"{"url":"chosen","user":"chosen-user","password":"p"}"#),
    ("/home/me/.config/nats/context/named.json", r#"{"url":"tls://n1,n2:5","user":"named-user","password":"p"}"#),
    ("/home/me/.config/nats/context/inline.json", r#"{"url":"nats://inline-user:p@inline"}"#),
    (
        "/home/me/.config/nats/context/empty.json",
        r#"{"description":"","url":"","user":"","creds":"","tls_first":false}"#,
    ),
    ("/work/dir/file.json", r#"{"url":"filed"}"#),
    ("/xdg/nats/context.txt", "other"),
    ("/xdg/nats/context/other.json", r#"{"url":"xdg"}"#),
];

const HOME: (&str, &str) = ("HOME", "/home/me");

/// The order stands in litestream(1), under CONTEXTS OF THE NATS PROGRAM.
#[test]
fn the_nearest_place_wins() {
    let named = ("NATS_CONTEXT", "named");
    let url = ("NATS_URL", "nats://env-user:p@env");
    let user: [(&str, &str); 2] = [("NATS_USER", "var-user"), ("NATS_PASSWORD", "p")];
    let mine = "dbs: [{path: /a.db, replica: {url: 'nats:///b', username: mine, password: p}}]";
    let top = "username: top\npassword: p\ndbs: [{path: /a.db, replica: {url: 'nats:///b'}}]";
    let both = "username: top\npassword: p\ndbs: [{path: /a.db, replica: {url: 'nats://me:p@h/b'}}]";
    let open = "dbs: [{path: /a.db, replica: {bucket: b}}]";
    let table: &[(&str, Pairs<'_>, &str)] = &[
        // The configuration: the replica, then the top level, then what is outside of it.
        (mine, &[HOME, named, user[0], user[1]], "mine@n1,n2*"),
        (top, &[HOME, named, user[0], user[1]], "top@n1,n2*"),
        (top, &[HOME, named, ("NATS_URL", "env")], "top@env"),
        (both, &[HOME, named], "me@h"),
        (open, &[HOME, named, user[0], user[1]], "var-user@n1,n2*"),
        (open, &[HOME, named], "named-user@n1,n2*"),
        (open, &[HOME], "chosen-user@chosen"),
        (open, &[], "127.0.0.1"),
        // Nothing names a server: the selected context, or this host.
        ("nats:///b", &[], "127.0.0.1"),
        ("nats:///b", &[HOME], "chosen-user@chosen"),
        ("nats:///b", &[HOME, ("XDG_CONFIG_HOME", "/xdg")], "xdg"),
        ("nats:///b", &[HOME, ("XDG_CONFIG_HOME", "/none")], "127.0.0.1"),
        // Something does: the selected one is not asked, and its login goes to no other server.
        ("nats://h/b", &[HOME], "h"),
        ("nats:///b", &[HOME, ("NATS_URL", "env")], "env"),
        // One that is named fills what is left open.
        ("nats:///b", &[HOME, named], "named-user@n1,n2*"),
        ("nats://h/b", &[HOME, named], "named-user@h"),
        ("nats://me:p@h/b", &[HOME, named], "me@h"),
        ("nats:///b", &[HOME, ("NATS_CONTEXT", "empty")], "127.0.0.1"),
        ("nats:///b", &[HOME, ("NATS_CONTEXT", "dir/file.json")], "filed"),
        // A login in a context's URL is for its servers.
        ("nats:///b", &[HOME, ("NATS_CONTEXT", "inline")], "inline-user@inline"),
        ("nats://h/b", &[HOME, ("NATS_CONTEXT", "inline")], "h"),
        // The variables stand over a context, as for the nats CLI.
        ("nats:///b", &[HOME, named, url], "env-user@env"),
        ("nats:///b", &[HOME, named, ("NATS_URL", "env")], "named-user@env"),
        ("nats:///b", &[HOME, named, user[0], user[1]], "var-user@n1,n2*"),
        ("nats://me:p@h/b", &[HOME, named, user[0], user[1]], "me@h"),
    ];
    for (place, variables, expected) in table {
        let found = options(place, variables, FILES).unwrap_or_else(|error| panic!("{place} {variables:?}: {error}"));
        assert_eq!(shape(&found), *expected, "{place} {variables:?}");
    }
}

/// The options that a context with this text comes to.
fn context(text: &str) -> Result<NatsOptions> {
    options("nats:///b", &[HOME, ("NATS_CONTEXT", "x")], &[("/home/me/.config/nats/context/x.json", text)])
}

#[test]
fn every_field_of_a_context_has_its_meaning() {
    let login = |text: &str| context(text).unwrap_or_else(|error| panic!("{text}: {error}")).login;
    let secret = |text: &str| Secret::new(text);
    let logins = [
        (r#"{"token":"t"}"#, Credentials::Token(secret("t"))),
        (r#"{"creds":"~/a.creds"}"#, Credentials::Creds("/home/me/a.creds".into())),
        (r#"{"nkey":"/etc/user.nk"}"#, Credentials::Nkey(secret(SEED))),
        (r#"{"user_jwt":"j","user_seed":"s"}"#, Credentials::Jwt { jwt: secret("j"), seed: secret("s") }),
        (
            r#"{"user":"u","password":"p","token":"","creds":""}"#,
            Credentials::UserPassword { user: "u".into(), password: secret("p") },
        ),
    ];
    for (text, expected) in logins {
        assert_eq!(login(text), expected, "{text}");
    }
    let text = r#"{"cert":"/c.pem","key":"k.pem","ca":"/ca.pem","tls_first":true,"color_scheme":"x","future":[1]}"#;
    let tls = context(text).unwrap().tls;
    assert_eq!(tls.identity, Some(("/c.pem".into(), "/work/k.pem".into())));
    assert_eq!((tls.root_cas, tls.handshake_first, tls.required), (vec!["/ca.pem".into()], true, true));
}

#[test]
fn a_context_that_cannot_be_used_is_named_without_its_secrets() {
    let table = [
        (r#"{"password":"canary""#, "expected a JSON object"),
        (r#"["canary"]"#, "expected a JSON object"),
        (r#"{"user":"canary"}"#, "user is given without password"),
        (r#"{"token":"canary","creds":"/c"}"#, "expected one login method, found 2: token and creds"),
        (r#"{"token":7}"#, "token: expected a text"),
        (r#"{"cert":"/c"}"#, "cert is given without key"),
        (r#"{"url":"nats://u:canary@h/path"}"#, "found a path"),
        (r#"{"nkey":"/missing"}"#, "nkey: read /missing: no such file"),
        (r#"{"creds":"op://vault/canary"}"#, "creds: expected a path, found a reference"),
        (r#"{"socks_proxy":"socks5://canary@h"}"#, "socks_proxy is not supported"),
        (r#"{"nsc":"nsc://o/a/u"}"#, "nsc is not supported"),
        (r#"{"inbox_prefix":"_I.>"}"#, "inbox_prefix: expected the first tokens of a subject"),
        (r#"{"jetstream_domain":"a.b"}"#, "jetstream_domain: expected the name of a JetStream domain"),
        (
            r#"{"jetstream_api_prefix":"JS","jetstream_domain":"hub"}"#,
            "expected js-domain or js-api-prefix, found both",
        ),
    ];
    for (text, expected) in table {
        let error = context(text).expect_err(text);
        let all = format!("{error} {:?}", error.hint());
        assert_eq!(error.kind(), Kind::Usage);
        assert!(all.contains("context \"x\" of the nats CLI") && all.contains(expected), "{text}: {all}");
        assert!(!all.contains("canary"), "{all}");
    }
    for (name, expected) in [
        ("lost", "context \"lost\" of the nats CLI: there is no /home/me/.config/nats/context/lost.json"),
        ("../x", "context \"../x\": expected a name"),
        ("a/b", "context \"a/b\": expected a name"),
    ] {
        let error = options("nats:///b", &[HOME, ("NATS_CONTEXT", name)], FILES).unwrap_err();
        assert!(error.message().starts_with(expected), "{error}");
    }
    let homeless = options("nats:///b", &[("NATS_CONTEXT", "x")], FILES).unwrap_err();
    assert!(homeless.message().contains("neither XDG_CONFIG_HOME nor HOME is set"), "{homeless}");
}

#[test]
fn the_program_connects_by_a_context() {
    let bed = Bed::nats_with("contexts", "authorization { user: me, password: \"c4nary-pass\" }");
    let url = bed.url();
    let server = url.strip_suffix("/backup").expect("a server");
    let folder = bed.path("config/nats/context");
    fs::create_dir_all(&folder).unwrap();
    let text = format!(r#"{{"url":"{server}","user":"me","password":"c4nary-pass"}}"#);
    fs::write(folder.join("mine.json"), text).unwrap();
    let database = bed.database();
    let command = |words: &[&str]| {
        let mut command = litestream();
        command.env("XDG_CONFIG_HOME", bed.path("config")).args(words);
        command
    };
    let path = database.to_str().unwrap();
    let stored =
        bed.run_command(&mut command(&["snapshot", "-create-bucket", "-context", "mine", path, "nats:///backup"]));
    assert!(!stored.stderr.contains("c4nary"), "{}", stored.stderr);
    stored.succeeded();
    bed.run_command(command(&["generations", "nats:///backup"]).env("NATS_CONTEXT", "mine")).succeeded();
    // The option stands over the variable.
    bed.run_command(command(&["generations", "-context", "mine", "nats:///backup"]).env("NATS_CONTEXT", "lost"))
        .succeeded();
    bed.run_command(command(&["generations", "nats:///backup"]).env("NATS_CONTEXT", "lost"))
        .refused(USAGE, &["context \"lost\"", "hint: `nats context ls`"]);
    // The selected one, where no server is named.
    fs::write(bed.path("config/nats/context.txt"), "mine").unwrap();
    bed.run_command(&mut command(&["generations", "nats:///backup"])).succeeded();
    bed.run_command(&mut command(&["generations", &url])).refused(STORE, &["Authorization Violation"]);
    bed.run_command(&mut command(&["generations", "-context", "mine", &url])).succeeded();
    bed.run_command(&mut command(&["generations", "-context", "mine", &format!("{url}/none")]))
        .refused(NOTHING, &["nothing is stored"]);
}

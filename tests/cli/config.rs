//! The configuration file, from text to checked values: every promised form, every refusal, and no secret in either.

use std::path::{Path, PathBuf};
use std::time::Duration;

use litestream::config::{self, Config, Database, Environment, LogFormat};
use litestream::error::{Error, Kind, Result};
use litestream::format::compression_level::CompressionLevel;
use litestream::format::keep::Keep;
use litestream::log::Level;
use litestream::secret::Secret;
use litestream::store::StoreTarget;
use litestream::store::nats::options::{Credentials, NatsOptions};

/// What the file of `NATS_NKEY` holds: a seed made for this test alone.
const SEED: &str = "SUAHKFZWNVWZPCVGYY3L2QV6MQAT23QTCF2WYBVZEGJZOUNIYQNA6TUWOU";

type Variables<'a> = &'a [(&'a str, &'a str)];

fn with_outside<T>(variables: Variables<'_>, run: impl FnOnce(&Environment<'_>) -> T) -> T {
    let env = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
    let seed_file = |path: &Path| match path.to_str() {
        Some("/etc/user.nk") => Ok(Secret::new(SEED)),
        _ => Err(Error::new(Kind::Usage, format!("read {}: no such file", path.display()))),
    };
    run(&Environment {
        env: &env,
        current_dir: PathBuf::from("/work"),
        seed_file: &seed_file,
        context_file: &|_| Ok(None),
    })
}

fn parse_with(text: &str, variables: Variables<'_>) -> Result<Config> {
    with_outside(variables, |around| config::parse(text, around, true))
}

fn fixture(name: &str, variables: Variables<'_>) -> Config {
    let path = Path::new("tests/data/config").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    parse_with(&text, variables).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn nats(database: &Database) -> &NatsOptions {
    match &database.replica.target {
        StoreTarget::Nats(options) => options,
        other => panic!("{other:?}"),
    }
}

/// The options of the only database.
fn only(config: &Config) -> &NatsOptions {
    assert_eq!(config.dbs.len(), 1);
    nats(&config.dbs[0])
}

/// A file with one database, whose replica holds the given lines.
fn with_replica(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("      {line}\n")).collect();
    format!("dbs:\n  - path: /a.db\n    replica:\n{lines}")
}

fn refused(text: &str) -> (String, String) {
    refused_with(text, &[])
}

fn refused_with(text: &str, variables: Variables<'_>) -> (String, String) {
    let error = parse_with(text, variables).expect_err(text);
    assert_eq!(error.kind(), Kind::Usage, "{text}");
    (error.message().to_string(), error.hint().unwrap_or_default().to_string())
}

fn password(user: &str, password: &str) -> Credentials {
    Credentials::UserPassword { user: user.to_string(), password: Secret::new(password) }
}

#[test]
fn every_way_to_log_in_is_read() {
    let url = fixture("url.yml", &[]);
    assert_eq!(url.dbs[0].path, Path::new("/srv/app.db"));
    assert_eq!(url.dbs[0].replica.url, "nats://localhost:4222/backups");
    assert_eq!((only(&url).login.clone(), only(&url).tls.required), (Credentials::None, false));
    assert_eq!(only(&fixture("password.yml", &[])).login, password("app", "canary-pass"));
    let jwt = Credentials::Jwt {
        jwt: Secret::new("canary-eyJ0eXAiOiJKV1QifQ..."),
        seed: Secret::new("SUACANARYUHDXKFSNVMJEGGJUQJNAIKBEM364ZYIJUUXI3YCJRYGSREX"),
    };
    assert_eq!(only(&fixture("jwt.yml", &[])).login, jwt);
    assert_eq!(only(&fixture("creds.yml", &[])).login, Credentials::Creds(PathBuf::from("/etc/litestream/app.creds")));
    assert_eq!(only(&fixture("token.yml", &[])).login, Credentials::Token(Secret::new("canary-token")));
}

#[test]
fn certificates_turn_tls_on() {
    let config = fixture("root-ca.yml", &[]);
    let tls = &only(&config).tls;
    assert!(tls.required && !tls.handshake_first && tls.identity.is_none());
    assert_eq!(tls.root_cas, ["/etc/ssl/one.pem", "/etc/ssl/two.pem"].map(PathBuf::from));
    assert_eq!(config.dbs[0].replica.url, "tls://tls.example.com:4222/backups");
    let config = fixture("mutual-tls.yml", &[]);
    let identity = (PathBuf::from("/etc/ssl/client.pem"), PathBuf::from("/etc/ssl/client.key"));
    assert_eq!(only(&config).tls.identity, Some(identity));
    let one = parse_with(&with_replica("url: nats://h/b\nroot-cas: /ca.pem"), &[]).unwrap();
    assert_eq!(only(&one).tls.root_cas, [PathBuf::from("/ca.pem")]);
    let off = parse_with(&format!("tls: true\n{}", with_replica("url: nats://h/b\ntls: false")), &[]).unwrap();
    assert!(!only(&off).tls.required);
}

#[test]
fn variables_are_put_into_values_and_nowhere_else() {
    let variables =
        [("DATA", "/srv"), ("SERVER", "h1,h2"), ("PASS", "canary: #[\"$DATA\"]\n- x"), ("CA", "/etc/ssl/ca.pem")];
    let config = fixture("variables.yml", &variables);
    assert_eq!(config.dbs[0].path, Path::new("/srv/app.db"));
    assert_eq!(config.dbs[0].replica.url, "tls://h1:4222,h2:4222/backups");
    assert_eq!(only(&config).login, password("app", "canary: #[\"$DATA\"]\n- x"));
    assert_eq!(only(&config).tls.root_cas, ["/etc/ssl/ca.pem", "/etc/ssl/ca.pem.old"].map(PathBuf::from));
}

#[test]
fn a_variable_that_is_not_set_is_named_with_its_line() {
    let text = with_replica("url: nats://h/b\nroot-cas:\n  - /one.pem\n  - ${NOPE}");
    let (what, hint) = refused(&text);
    assert_eq!(what, "line 7: root-cas: the environment variable NOPE is not set");
    assert_eq!(hint, "set it, write $$ for a dollar, or give -no-expand-env");
    let kept = with_outside(&[], |around| config::parse(&text, around, false)).unwrap();
    assert_eq!(only(&kept).tls.root_cas, ["/one.pem", "/work/${NOPE}"].map(PathBuf::from));
}

#[test]
fn every_option_of_the_connection_arrives() {
    let config = fixture("connection.yml", &[]);
    let options = only(&config);
    assert_eq!(options.max_reconnects, None);
    assert_eq!(options.reconnect_wait, Duration::from_secs(3));
    assert_eq!(options.reconnect_jitter, Duration::from_millis(250));
    assert_eq!(options.timeout, Duration::from_secs(20));
    assert_eq!(options.ping_interval, Duration::from_secs(60));
    assert_eq!((options.max_pings_out, options.create_bucket, options.bucket_replicas), (3, true, 3));
    assert!(options.tls.handshake_first && options.tls.required);
    assert_eq!(config.dbs[0].replica.sync_interval, Duration::from_secs(2));
    assert!(!config.dbs[0].replica.serves_standbys);
    let none = parse_with(&with_replica("url: nats://h/b\nmax-reconnects: 0"), &[]).unwrap();
    assert_eq!(only(&none).max_reconnects, Some(0));
}

#[test]
fn compression_level_is_auto_or_a_number_and_inherited() {
    let level = |text: &str| parse_with(text, &[]).unwrap().dbs[0].replica.compression_level;
    assert_eq!(level(&with_replica("url: nats://h/b")), CompressionLevel::Auto);
    assert_eq!(level(&with_replica("url: nats://h/b\ncompression-level: 9")), CompressionLevel::Fixed(9));
    assert_eq!(level(&with_replica("url: /mnt/backup\ncompression-level: 1")), CompressionLevel::Fixed(1));
    let inherits = |own: &str| level(&format!("compression-level: 6\n{}", with_replica(own)));
    assert_eq!(inherits("url: /mnt/backup"), CompressionLevel::Fixed(6));
    assert_eq!(inherits("url: nats://h/b\ncompression-level: auto"), CompressionLevel::Auto);
    for wrong in ["0", "10", "best", "-1", "1.5"] {
        let (what, _) = refused(&with_replica(&format!("url: nats://h/b\ncompression-level: {wrong}")));
        assert_eq!(what, format!("line 5: compression-level: expected auto or 1 to 9, found {wrong:?}"));
    }
}

#[test]
fn host_bucket_and_prefix_may_stand_apart() {
    let config = fixture("bucket.yml", &[("HOME", "/home/me"), ("NATS_URL", "nats://env:9")]);
    let urls: Vec<&str> = config.dbs.iter().map(|database| database.replica.url.as_str()).collect();
    let expected = [
        "nats://h1:4222,h2:4222/backups/a.db",
        "nats://h1:4222,h2:4222/backups/b.db",
        "nats://env:9/backups/c.db",
        "file:///mnt/backup/d",
        "file:///mnt/backup/e",
    ];
    assert_eq!(urls, expected);
    assert_eq!(config.dbs[4].path, Path::new("/home/me/e.db"));
    let config = fixture("bucket.yml", &[("HOME", "/home/me")]);
    assert_eq!(config.dbs[2].replica.url, "nats://127.0.0.1:4222/backups/c.db");
}

#[test]
fn replicas_inherit_what_they_do_not_say() {
    let config = fixture("inherited.yml", &[]);
    let [a, b, c] = &config.dbs[..] else { panic!("{config:?}") };
    assert_eq!(a.replica.url, "tls://nats.example.com:4222/backups/a");
    assert_eq!(nats(a).login, password("app", "canary-global"));
    assert_eq!((a.replica.sync_interval, nats(a).timeout), (Duration::from_secs(5), Duration::from_secs(30)));
    assert_eq!(a.snapshot_interval, Some(Duration::from_secs(6 * 3600)));
    assert_eq!(nats(b).login, Credentials::Token(Secret::new("canary-own")));
    assert_eq!((b.replica.sync_interval, nats(b).timeout), (Duration::from_secs(1), Duration::from_secs(30)));
    assert_eq!(b.snapshot_interval, Some(Duration::from_secs(3600)));
    assert_eq!(b.snapshot_retention, Some(Duration::from_secs(7 * 86_400)));
    assert!(nats(b).tls.identity.is_some());
    assert_eq!(c.replica.url, "tls://elsewhere:4222/other/c");
}

#[test]
fn keep_replaces_retention_and_is_inherited_as_a_whole() {
    let hours = |count: u64| Duration::from_secs(count * 3600);
    let text = "
keep: { all: 24h, hourly: 1w, monthly: 10y }
dbs:
  - { path: /a.db, replica: { bucket: b, path: a } }
  - { path: /b.db, replica: { bucket: b, path: b }, keep: { all: 2d, daily: 90d }, snapshot: { interval: 6h } }
  - { path: /c.db, replica: { bucket: b, path: c }, snapshot: { retention: 3d } }
";
    let config = parse_with(text, &[]).unwrap();
    let [a, b, c] = &config.dbs[..] else { panic!("{config:?}") };
    let none = Duration::ZERO;
    let years = Keep { all: hours(24), hourly: hours(168), daily: none, weekly: none, monthly: hours(87_600) };
    assert_eq!((a.keep, a.snapshot_retention, a.snapshot_interval), (Some(years), Some(hours(87_600)), None));
    let months = Keep { all: hours(48), daily: hours(2160), ..Keep::default() };
    assert_eq!((b.keep, b.snapshot_retention, b.snapshot_interval), (Some(months), Some(hours(2160)), Some(hours(6))));
    assert_eq!((c.keep, c.snapshot_retention, c.snapshot_interval), (None, Some(hours(72)), Some(hours(24))));
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn keep_that_cannot_be_meant_is_refused_by_name() {
    let of = |keep: &str| format!("dbs: [{{ path: /a.db, replica: {{ bucket: b }}, {keep} }}]");
    let table = [
        ("keep: { hourly: 7d }", "all: expected how long every commit is kept, found nothing"),
        ("keep: { all: 30m }", "all: expected 1h or more"),
        ("keep: { all: 7d, daily: 1d }", "daily: expected at least as long as all, found less"),
        ("keep: { all: 1d, daily: 90d, monthly: 9w }", "monthly: expected at least as long as daily, found less"),
        ("keep: { all: 1d, yearly: 90d }", "yearly"),
        ("keep: { all: 7 }", "all: duration \"7\": expected a number with a unit"),
        ("keep: { all: 1d }, snapshot: { retention: 2d }", "retention: works only without keep"),
    ];
    for (keep, text) in table {
        let (message, _) = refused(&of(keep));
        assert!(message.contains(text), "{keep}: {message}");
    }
    let (message, _) = refused(&format!("retention: {{ enabled: false }}\nkeep: {{ all: 1d }}\n{}", of("")));
    assert!(message.contains("keep: works only where retention is enabled"), "{message}");
}

#[test]
fn every_key_of_the_file_arrives() {
    let config = fixture("full.yml", &[]);
    assert_eq!((config.logging.level, config.logging.format), (Some(Level::Debug), LogFormat::Json));
    assert_eq!(config.metrics_file, Some(PathBuf::from("/run/litestream.prom")));
    let heartbeat = config.heartbeat.as_ref().unwrap();
    assert_eq!(heartbeat.url.reveal(), "https://example.com/ping/canary-beat");
    assert_eq!(heartbeat.interval, Duration::from_secs(120));
    assert_eq!(config.shutdown_sync_timeout, Duration::from_secs(45));
    assert_eq!(config.exec, Some(["app", "-listen", ":80"].map(str::to_string).to_vec()));
    let expected = Database {
        path: PathBuf::from("/srv/a.db"),
        replica: config.dbs[0].replica.clone(),
        replicas: config.dbs[0].replicas.clone(),
        monitor_interval: Duration::from_millis(100),
        checkpoint_interval: None,
        min_checkpoint_pages: 500,
        truncate_pages: None,
        busy_timeout: Duration::from_secs(2),
        meta_path: Some(PathBuf::from("/var/lib/litestream/a")),
        spool_limit: 64 << 20,
        compare_interval: None,
        enable_wal: false,
        allow_network_file_system: true,
        snapshot_interval: None,
        snapshot_retention: None,
        keep: None,
        restore_if_missing: true,
    };
    assert_eq!(config.dbs, [expected]);
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn what_is_left_out_has_the_default_that_the_manual_states() {
    let config = fixture("url.yml", &[]);
    let database = &config.dbs[0];
    let replica = database.replica.clone();
    assert_eq!(*database, Database::new(PathBuf::from("/srv/app.db"), replica));
    assert_eq!(database.monitor_interval, Duration::from_millis(50));
    assert_eq!(database.checkpoint_interval, Some(Duration::from_secs(60)));
    assert_eq!((database.min_checkpoint_pages, database.truncate_pages), (1000, Some(4000)));
    assert_eq!(database.busy_timeout, Duration::from_secs(1));
    assert_eq!(database.compare_interval, Some(Duration::from_secs(86_400)));
    assert_eq!(database.snapshot_interval, Some(Duration::from_secs(86_400)));
    assert_eq!(database.snapshot_retention, Some(Duration::from_secs(86_400)));
    assert_eq!(database.replica.sync_interval, Duration::from_secs(1));
    assert!(database.replica.serves_standbys);
    assert!(!database.allow_network_file_system);
    assert!(database.enable_wal && !database.restore_if_missing && database.meta_path.is_none());
    assert_eq!(config.shutdown_sync_timeout, Duration::from_secs(30));
    assert_eq!(*only(&config), NatsOptions::new(only(&config).servers.clone(), "backups", ""));
    assert_eq!((config.logging.level, config.heartbeat), (None, None));
}

#[test]
fn a_directory_becomes_one_database_and_one_prefix_a_file() {
    let config = fixture("full.yml", &[]);
    let files = ["b.db", "a.db", "a.db-wal", "x/c d.db", ".hidden.db", "notes.txt"].map(PathBuf::from);
    let (databases, _) = config.dirs[0].databases(&files);
    let found: Vec<(&str, &str)> =
        databases.iter().map(|d| (d.path.to_str().unwrap(), d.replica.url.as_str())).collect();
    let expected = [
        ("/srv/tenants/a.db", "nats://localhost:4222/backups/tenants/a.db"),
        ("/srv/tenants/b.db", "nats://localhost:4222/backups/tenants/b.db"),
        ("/srv/tenants/x/c d.db", "nats://localhost:4222/backups/tenants/x/c%20d.db"),
    ];
    assert_eq!(found, expected);
    assert_eq!(databases[0].meta_path, Some(PathBuf::from("/var/lib/litestream/tenants/a.db")));
    let env = |_: &str| None;
    assert_eq!(config.find("/srv/tenants/b.db", &env).unwrap(), databases[1]);
    assert_eq!(config.find("sqlite:///srv/a.db", &env).unwrap(), config.dbs[0]);
    let error = config.find("/srv/tenants/b.txt", &env).unwrap_err();
    assert_eq!(error.message(), "database /srv/tenants/b.txt: not in the configuration");
    assert!(config.dirs[0].database(Path::new("a\nb.db")).is_err());
    // A file that was found and is gone was deleted: it is not to come back.
    let mut entry = config.dirs[0].clone();
    entry.template.restore_if_missing = true;
    assert!(!entry.database(Path::new("a.db")).unwrap().restore_if_missing);
}

#[test]
fn keys_of_the_peer_that_do_nothing_here_are_told() {
    let config = fixture("peer.yml", &[]);
    let expected = [
        "line 2: addr does nothing here: there is no HTTP server; set metrics-file",
        "line 3: socket does nothing here: there is no control socket",
        "line 5: levels does nothing here: there are no compaction levels",
        "line 7: l0-retention does nothing here: there are no compaction levels",
        "line 10: max-checkpoint-page-count does nothing here: checkpoints that block writers are never forced; see \
         truncate-page-n",
        "line 13: auto-recover does nothing here: replicate starts a new generation by itself when needed",
    ];
    assert_eq!(config.warnings, expected);
}

#[test]
fn unknown_key_is_reported_with_line_and_nearest_key() {
    let replica = |line: &str| with_replica(&format!("url: nats://h/b\n{line}"));
    let table = [
        ("dbz: []".to_string(), "line 1: dbz: unknown key in the top level", "did you mean dbs?"),
        (replica("root-ca: x"), "line 5: root-ca: unknown key in a replica", "did you mean root-cas?"),
        (replica("bogus: x"), "line 5: bogus: unknown key in a replica", "litestream.yml(5) lists the keys"),
        (
            replica("monitor-interval: 1s"),
            "line 5: monitor-interval: unknown key in a replica",
            "it belongs to a database",
        ),
        (
            "url: nats://h/b\npath: x".to_string(),
            "line 2: path: unknown key in the top level",
            "it belongs to a database",
        ),
        ("replica: {url: x}".to_string(), "line 1: replica: unknown key in the top level", "it belongs to a database"),
        (
            replica("access-key-id: x"),
            "line 5: access-key-id: belongs to the s3 backend, which litestream does not support",
            "leave it out; replicas are of the type nats or file",
        ),
        (
            replica("endpoint: x"),
            "line 5: endpoint: belongs to the s3 backend, which litestream does not support",
            "leave it out; replicas are of the type nats or file",
        ),
        (
            replica("age: {}"),
            "line 5: age: expected recipients or recipients-file, found neither: the backup would be stored in clear",
            "age: { recipients: [age1...] }; age-keygen makes a key pair",
        ),
        (
            replica("retention: 24h"),
            "line 5: retention: this key is not supported",
            "write snapshot: { retention: ... } under the database",
        ),
        ("logging: {\n  levle: info}".to_string(), "line 2: levle: unknown key in logging", "did you mean level?"),
        (
            "dbs:\n- {path: /a.db,\n   replica: {url: nats://h/b,\n    tokn: x}}".to_string(),
            "line 4: tokn: unknown key in a replica",
            "did you mean token?",
        ),
    ];
    for (text, what, hint) in table {
        assert_eq!(refused(&text), (what.to_string(), hint.to_string()), "{text}");
    }
}

#[test]
fn a_value_that_cannot_be_right_is_refused_at_its_line() {
    let replica = |line: &str| with_replica(&format!("url: nats://h/b\n{line}"));
    let database = |line: &str| format!("dbs:\n  - path: /a.db\n    {line}\n    replica: {{url: nats://h/b}}");
    let table = [
        (
            replica("timeout: 10"),
            "line 5: timeout: duration \"10\": expected a number with a unit",
            "did you mean 10s?",
        ),
        (
            database("snapshot: {retention: 30}"),
            "line 3: retention: duration \"30\": expected a number with a unit",
            "did you mean 30h or 30d or 30w?",
        ),
        (replica("timeout: 0s"), "line 5: timeout: expected more than 0, found 0", ""),
        (replica("timeout: [1s]"), "line 5: timeout: expected a text, found a list", ""),
        (replica("tls: {}"), "line 5: tls: expected a text, found lines of the form `key: value`", ""),
        (replica("tls: maybe"), "line 5: tls: expected true or false, found \"maybe\"", ""),
        (replica("token: ''"), "line 5: token: expected a text, found an empty one", ""),
        (
            replica("max-reconnects: -2"),
            "line 5: max-reconnects: expected a whole number from -1 to 4294967295, found \"-2\"",
            "",
        ),
        (
            replica("bucket-replicas: 6"),
            "line 5: bucket-replicas: expected a whole number from 1 to 5, found \"6\"",
            "",
        ),
        (replica("bucket: other"), "line 5: bucket: differs from the bucket in url", "remove one of them"),
        (replica("type: file"), "line 5: type: contradicts the scheme of url", ""),
        (replica("type: s3"), "line 5: type: expected nats or file, found \"s3\"", "other backends are not supported"),
        (
            replica("path: a/../b"),
            "line 3: replica: path: expected a prefix without empty parts, . and .., and without control characters",
            "",
        ),
        (with_replica("bucket: a.b"), "line 4: bucket: expected a bucket of letters, digits, - and _", ""),
        (
            with_replica("type: nats"),
            "line 3: replica: the replica has no bucket",
            "write nats://HOST/BUCKET, or add bucket",
        ),
        (with_replica("type: file"), "line 3: replica: the replica has no directory", "add path or url"),
        (
            with_replica("sync-interval: 1s"),
            "line 3: replica: no bucket or directory is configured",
            "add url: nats://HOST/BUCKET, or bucket",
        ),
        (
            with_replica("path: /b\ntype: file\ntoken: x"),
            "line 3: replica: token works only for a replica of the type nats, and this one is a directory",
            "",
        ),
        (with_replica("url: nats://h/b/p\npath: q"), "line 5: path: url has a prefix too", "remove one of them"),
        (database("monitor-interval: 0s"), "line 3: monitor-interval: expected more than 0, found 0", ""),
        (
            database("min-checkpoint-page-count: 0"),
            "line 3: min-checkpoint-page-count: expected a whole number from 1 to 4294967295, found \"0\"",
            "",
        ),
        (
            database("spool-limit: 10"),
            "line 3: spool-limit: size \"10\": expected a number with a unit",
            "did you mean 10MiB?",
        ),
        (database("dir: /x"), "line 2: dbs: expected path or dir, found both", ""),
        (database("pattern: x"), "line 3: pattern: works only with dir, and this entry has a path", ""),
        (
            database("snapshot: {retention: 0s}"),
            "line 3: retention: expected more than 0, found 0",
            "to keep everything, write retention: { enabled: false } at the top level",
        ),
        (
            database("replicas: []"),
            "line 3: replicas: replica is given too",
            "write all replicas of the database under replicas",
        ),
        ("dbs:\n- replica: {url: nats://h/b}".to_string(), "line 2: dbs: expected path or dir, found neither", ""),
        (
            "dbs:\n- dir: /x\n  replica: {url: nats://h/b}".to_string(),
            "line 2: dir: needs pattern",
            "add pattern: \"*.db\"",
        ),
        (
            "dbs:\n- path: /x".to_string(),
            "line 2: dbs: no bucket or directory is configured",
            "add url: nats://HOST/BUCKET, or bucket",
        ),
        ("dbs: x".to_string(), "line 1: dbs: expected a list, found a text", ""),
        ("dbs:\n- x".to_string(), "line 2: dbs: expected lines of the form `key: value`, found a text", ""),
        ("".to_string(), "no database is configured", "add one under dbs"),
        ("- x".to_string(), "line 1: expected lines of the form `key: value`, found a list", ""),
        ("heartbeat-interval: 30s".to_string(), "line 1: heartbeat-interval: expected 1m or more", ""),
        (
            "heartbeat-url: ftp://canary".to_string(),
            "line 1: heartbeat-url: expected a URL that begins with http:// or https://",
            "",
        ),
        ("exec: sh -c 'x".to_string(), "line 1: exec: split the command to run: a ' is not closed", ""),
        ("heartbeat-interval: 2m".to_string(), "line 1: heartbeat-interval: needs heartbeat-url", ""),
        (replica("token: 12345678901234567890123"), "line 5: the number has too many digits", "put it in quotes"),
    ];
    for (text, what, hint) in table {
        assert_eq!(refused(&text), (what.to_string(), hint.to_string()), "{text}");
    }
}

#[test]
fn a_url_in_the_file_is_refused_without_its_password() {
    let (what, _) = refused(&with_replica("url: nats://u:canary@h:x/b"));
    assert_eq!(what, "line 4: url: replica URL nats://***@h:x/b: server 1: expected a port from 1 to 65535");
}

#[test]
fn exactly_one_way_to_log_in_is_taken() {
    let seed = "canary-seed";
    let table = [
        ("username: u", "username is given without password"),
        ("password: canary", "password is given without username"),
        ("jwt: canary", "jwt is given without seed"),
        ("seed: canary", "seed is given without jwt"),
        ("client-cert: /c", "client-cert is given without client-key"),
        ("client-key: /k", "client-key is given without client-cert"),
        ("username: u\ntoken: canary", "expected one login method, found 2: username and token"),
        ("token: canary\ncreds: /c", "expected one login method, found 2: token and creds"),
        ("jwt: canary\nseed: canary\ncreds: /c", "expected one login method, found 2: jwt and creds"),
        ("nkey: canary\njwt: canary\nseed: canary", "expected one login method, found 2: jwt and nkey"),
        ("nkey: UCANARY", "nkey is a public key, but its seed is missing"),
        ("nkey: canary", "nkey: expected a user's seed, found something else"),
        ("nkey: UCANARY\nseed: canary", "seed: expected a user's seed, found something else"),
    ];
    for (lines, expected) in table {
        let text = with_replica(&format!("url: nats://h/b\n{}", lines.replace("canary-seed", seed)));
        assert_eq!(refused(&text).0, format!("line 3: replica: {expected}"), "{lines}");
    }
    let (what, _) = refused(&with_replica("url: nats://u:canary@h/b\ntoken: canary"));
    assert_eq!(what, "line 3: replica: expected one login method, found 2: the login in url and token");
}

/// A seed and its public key.
fn key_pair() -> (String, String) {
    let pair = nkeys::KeyPair::new_user();
    (pair.seed().unwrap(), pair.public_key())
}

#[test]
fn an_nkey_is_its_seed_or_both_halves_of_one_pair() {
    let (seed, public) = key_pair();
    let login = |lines: &str| parse_with(&with_replica(&format!("url: nats://h/b\n{lines}")), &[]);
    let expected = Credentials::Nkey(Secret::new(seed.as_str()));
    for lines in
        [format!("nkey: {seed}"), format!("nkey: {public}\nseed: {seed}"), format!("nkey: {seed}\nseed: {seed}")]
    {
        assert_eq!(only(&login(&lines).unwrap()).login, expected, "{lines}");
    }
    let error = login(&format!("nkey: {}\nseed: {seed}", key_pair().1)).unwrap_err();
    assert_eq!(error.message(), "line 3: replica: nkey and seed are not a key pair");
    assert_eq!(error.hint(), Some(format!("the public key of this seed is {public}").as_str()));
}

#[test]
fn the_environment_fills_what_url_and_file_leave_open() {
    let (seed, _) = key_pair();
    let login = |url: &str, variables: Variables<'_>| {
        with_outside(variables, |around| config::replica(url, around)).map(|replica| match replica.target {
            StoreTarget::Nats(options) => *options,
            other => panic!("{other:?}"),
        })
    };
    let open = login("nats:///b", &[("NATS_URL", "tls://u:canary@h:1,g")]).unwrap();
    assert_eq!((open.login, open.tls.required, open.servers.len()), (password("u", "canary"), true, 2));
    let named = login("nats://h/b", &[("NATS_URL", "tls://u:canary@x"), ("NATS_USER", "")]).unwrap();
    assert_eq!((named.login, named.tls.required), (Credentials::None, false));
    let table = [
        (vec![("NATS_USER", "u"), ("NATS_PASSWORD", "canary")], password("u", "canary")),
        (vec![("NATS_TOKEN", "canary")], Credentials::Token(Secret::new("canary"))),
        (vec![("NATS_CREDS", "~/a.creds"), ("HOME", "/h")], Credentials::Creds(PathBuf::from("/h/a.creds"))),
        (vec![("NATS_NKEY", "/etc/user.nk")], Credentials::Nkey(Secret::new(SEED))),
        (vec![("NATS_NKEY", seed.as_str())], Credentials::Nkey(Secret::new(seed.as_str()))),
    ];
    for (variables, expected) in table {
        assert_eq!(login("nats://h/b", &variables).unwrap().login, expected, "{variables:?}");
        let own = login("nats://tok@h/b", &variables).unwrap().login;
        assert_eq!(own, Credentials::Token(Secret::new("tok")), "the URL's login stands");
    }
    let tls = login("nats://h/b", &[("NATS_CA", "ca.pem"), ("NATS_CERT", "/c"), ("NATS_KEY", "/k")]).unwrap().tls;
    assert_eq!(tls.root_cas, [PathBuf::from("/work/ca.pem")]);
    assert_eq!((tls.identity, tls.required), (Some((PathBuf::from("/c"), PathBuf::from("/k"))), true));
}

#[test]
fn half_a_pair_in_the_environment_is_named() {
    let table: [(Variables<'_>, &str); 6] = [
        (&[("NATS_USER", "u")], "NATS_USER is given without NATS_PASSWORD"),
        (&[("NATS_PASSWORD", "canary")], "NATS_PASSWORD is given without NATS_USER"),
        (&[("NATS_CERT", "c")], "NATS_CERT is given without NATS_KEY"),
        (&[("NATS_TOKEN", "t"), ("NATS_CREDS", "c")], "expected one login method, found 2: NATS_TOKEN and NATS_CREDS"),
        (&[("NATS_NKEY", "/x")], "NATS_NKEY: read /x: no such file"),
        (&[("LOG_LEVEL", "loud")], "LOG_LEVEL: expected trace, debug, info, warn or error, found \"loud\""),
    ];
    for (variables, expected) in table {
        let (what, _) = refused_with(&with_replica("url: nats://h/b"), variables);
        assert!(what.ends_with(expected), "{what}");
    }
}

#[test]
fn a_secret_that_looks_like_a_number_stays_as_it_is_written() {
    for text in ["0123", "1e3", "0x1F", "+5", "1.50", "true", "12345678901234567890", "'null'"] {
        let config = parse_with(&with_replica(&format!("url: nats://h/b\ntoken: {text}")), &[]).unwrap();
        assert_eq!(only(&config).login, Credentials::Token(Secret::new(text.trim_matches('\''))), "{text}");
    }
}

#[test]
fn anchors_and_merges_work_and_errors_still_have_a_line() {
    let text = "dbs:\n- path: /a.db\n  replica: &r {bucket: b, path: a, timeout: 5s}\n- path: /b.db\n  replica:\n    <<: *r\n    path: b\n";
    let config = parse_with(text, &[]).unwrap();
    assert_eq!(config.dbs[1].replica.url, "nats://127.0.0.1:4222/b/b");
    assert_eq!(nats(&config.dbs[1]).timeout, Duration::from_secs(5));
    let (what, _) = refused(&text.replace("<<: *r", "<<: {bogus: 1, bucket: b}"));
    assert_eq!(what, "line 5: bogus: unknown key in a replica");
}

#[test]
fn two_databases_never_share_a_file_or_a_place() {
    let two = |one: &str, other: &str| {
        let line = |number: u8, replica: &str| format!("- path: /{number}.db\n  replica: {{{replica}}}\n");
        format!("dbs:\n{}{}", line(1, one), line(2, other))
    };
    let shared = [
        ("url: nats://h/b", "url: nats://h/b"),
        ("url: \"nats://h/b/p\"", "url: \"nats://h:4222\", bucket: b, path: p"),
        ("url: \"nats://h,g/b\"", "url: \"nats://g/b\""),
        ("url: \"file:///x\"", "type: file, path: /x/./"),
    ];
    for (one, other) in shared {
        let (what, hint) = refused(&two(one, other));
        assert!(what.starts_with("line 5: replica: databases /1.db and /2.db: both would write to "), "{what}");
        assert!(hint.contains("prefix of its own"));
    }
    assert!(parse_with(&two("url: nats://h/b", "url: nats://h/b/p"), &[]).is_ok());
    let same = "dbs:\n- {path: /a.db, replica: {bucket: b}}\n- {path: sqlite:///a.db, replica: {bucket: c}}";
    assert_eq!(refused(same).0, "line 3: path: database /a.db: configured twice");
    // The directory for the lock is a file's own, too, whether it is written or not.
    let with_meta = |one: &str, other: &str| {
        let line =
            |number: u8, meta: &str| format!("- path: /{number}.db\n  replica: {{bucket: b, path: p{number}}}\n{meta}");
        format!("dbs:\n{}{}", line(1, one), line(2, other))
    };
    for (one, other) in [("  meta-path: /m\n", "  meta-path: /m/.\n"), ("", "  meta-path: /.1.db-litestream\n")] {
        let (what, hint) = refused(&with_meta(one, other));
        let line = if one.is_empty() { 6 } else { 7 };
        assert!(
            what.starts_with(&format!("line {line}: meta-path: databases /1.db and /2.db: both would use ")),
            "{what}"
        );
        assert!(hint.contains("meta-path of its own"), "{hint}");
    }
    assert!(parse_with(&with_meta("  meta-path: /m/1\n", "  meta-path: /m/2\n"), &[]).is_ok());
}

#[test]
fn replicas_of_one_database_have_places_and_names_of_their_own() {
    let many = |list: &str| format!("dbs:\n- path: /a.db\n  replicas: [{list}]\n");
    let config =
        parse_with(&many("{bucket: b, name: site-1}, {type: file, path: /x, sync-interval: 5s}"), &[]).unwrap();
    let database = &config.dbs[0];
    assert_eq!(database.replicas.iter().map(|one| one.label()).collect::<Vec<_>>(), ["site-1", "file:///x"]);
    assert_eq!(database.replica, database.replicas[0]);
    assert_eq!(database.replicas[1].sync_interval, Duration::from_secs(5));
    let directories: Vec<_> = database.each_replica().iter().map(|about| about.replica_directory().unwrap()).collect();
    assert_eq!(directories[0], "replica-site-1");
    assert_ne!(directories[0], directories[1]);
    assert_eq!(database.about("file:///x").unwrap().replica, database.replicas[1]);
    let unknown = database.about("nats://u:canary@h/b").unwrap_err();
    assert!(!format!("{unknown:?}").contains("canary"), "{unknown:?}");
    // One alone needs no directory of its own.
    assert_eq!(parse_with(&many("{bucket: b}"), &[]).unwrap().dbs[0].replica_directory(), None);
    let refusals = [
        ("", "line 3: replicas: expected at least one replica, found none"),
        ("{bucket: b}, {bucket: c}, {bucket: b}", "two replicas are in one place, nats://127.0.0.1:4222/b"),
        ("{bucket: b, name: x}, {bucket: c, name: x}", "two replicas have the name x"),
        ("{bucket: b, name: ../x}", "name: expected letters, digits, dots and dashes, found \"../x\""),
        ("{bucket: b}, {bucket: c, bogus: 1}", "line 3: bogus: unknown key in a replica"),
    ];
    for (list, expected) in refusals {
        let (what, _) = refused(&many(list));
        assert!(what.contains(expected), "{list}: {what}");
    }
    let shared = "dbs:\n- path: /a.db\n  replicas: [{bucket: b}, {bucket: c}]\n- {path: /b.db, replica: {bucket: c}}\n";
    assert!(
        refused(shared).0.contains("replica: databases /a.db and /b.db: both would write to "),
        "{}",
        refused(shared).0
    );
}

#[test]
fn replicas_of_a_directory_append_the_path_to_their_own() {
    let text = "dbs:\n- {dir: /srv, pattern: '*.db', replicas: [{bucket: b, path: p}, {type: file, path: /x}]}\n";
    let config = parse_with(text, &[]).unwrap();
    let database = config.dirs[0].database(Path::new("t.db")).unwrap();
    let urls: Vec<_> = database.replicas.iter().map(|one| one.url.as_str()).collect();
    assert_eq!(urls, ["nats://127.0.0.1:4222/b/p/t.db", "file:///x/t.db"]);
}

#[test]
fn what_is_no_yaml_is_refused_at_its_line() {
    for (text, line) in [("dbs: [", "line 2"), ("a: 1\na: 2", "line 2"), ("dbs:\n\t- x", "line 2"), ("a: *x", "line 1")]
    {
        let (what, _) = refused(text);
        assert!(what.contains(line) || what.contains("duplicate"), "{text:?}: {what}");
    }
}

#[test]
fn the_arguments_of_a_command_make_a_database_with_defaults() {
    let env = |_: &str| None;
    let database = config::from_arguments("/a.db", "nats://h/b", &env).unwrap();
    let replica = config::replica_from_url("nats://h/b", &env).unwrap();
    assert_eq!(database, Database::new(PathBuf::from("/a.db"), replica));
    let error = config::from_arguments("nats://u:canary@h/b", "/a.db", &env).unwrap_err();
    assert!(!format!("{error:?}").contains("canary"), "{error}");
    let here = config::replica_from_url("./backup", &env).unwrap();
    assert_eq!(here.target, StoreTarget::Dir(std::env::current_dir().unwrap().join("backup")));
}

#[test]
fn no_secret_is_shown_by_a_configuration_or_its_errors() {
    let variables = [("DATA", "/s"), ("SERVER", "h"), ("PASS", "canary"), ("CA", "/c"), ("HOME", "/h")];
    for entry in std::fs::read_dir("tests/data/config").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yml") {
            let config = fixture(path.file_name().unwrap().to_str().unwrap(), &variables);
            let shown = format!("{config:?}").to_lowercase();
            assert!(!shown.contains("canary"), "{}", path.display());
        }
    }
}

#[test]
fn the_configuration_file_is_found_as_the_manual_says() {
    let named = |name: &str| (name == "LITESTREAM_CONFIG").then(|| "/no/such.yml".to_string());
    assert_eq!(config::default_path(&named), PathBuf::from("/no/such.yml"));
    assert_eq!(config::default_path(&|_| None), PathBuf::from("/etc/litestream.yml"));
    let error = config::load(None, &named, true).unwrap_err();
    assert_eq!(error.message(), "read configuration /no/such.yml: no such file or directory");
    let loaded = config::load(Some(Path::new("tests/data/config/url.yml")), &named, true).unwrap();
    assert_eq!(loaded.dbs.len(), 1);
}

#[test]
fn the_level_of_the_environment_stands_over_that_of_the_file() {
    let text = format!("logging: {{level: error}}\n{}", with_replica("url: nats://h/b"));
    assert_eq!(parse_with(&text, &[]).unwrap().logging.level, Some(Level::Error));
    assert_eq!(parse_with(&text, &[("LOG_LEVEL", "trace")]).unwrap().logging.level, Some(Level::Trace));
    assert_eq!(config::log_level(&|_| None).unwrap(), None);
}

#[test]
fn a_bucket_may_be_made_on_request() {
    let mut replica = config::replica_from_url("nats://h/b", &|_| None).unwrap();
    replica.create_bucket();
    let StoreTarget::Nats(options) = &replica.target else { panic!("{replica:?}") };
    assert!(options.create_bucket);
}

/// Numbers without order, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

#[test]
fn no_text_makes_the_readers_panic() {
    let mut dice = Dice(1);
    let pieces = [
        "{", "}", "[", "]", ":", "\n", "- ", "&a ", "*a", "<<: ", "'", "\"", "$", "${", "é", "@", "/", "%", "0", "!x ",
        "|",
    ];
    for entry in std::fs::read_dir("tests/data/config").unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for _ in 0..300 {
            let mut letters: Vec<char> = text.chars().collect();
            for _ in 0..=dice.roll(3) {
                let (from, piece) = (dice.roll(letters.len()), pieces[dice.roll(pieces.len())]);
                let to = (from + dice.roll(4)).min(letters.len());
                letters.splice(from..to, piece.chars());
            }
            let text: String = letters.into_iter().collect();
            let _ = parse_with(&text, &[("HOME", "/h")]);
        }
    }
    for _ in 0..5000 {
        let mut url = "nats://u:p@h:1,[::1]/b/c".to_string();
        for _ in 0..3 {
            let piece = pieces[dice.roll(pieces.len())];
            let places: Vec<usize> = url.char_indices().map(|(at, _)| at).collect();
            url.insert_str(places[dice.roll(places.len())], piece);
        }
        let _ = with_outside(&[], |around| config::replica(&url, around));
    }
}

#[test]
fn a_retention_of_less_than_an_hour_is_warned_about() {
    let warnings = |retention: &str| {
        let text = format!(
            "dbs:\n  - path: /a.db\n    snapshot: {{retention: {retention}}}\n    replica: {{url: nats://h/b}}"
        );
        parse_with(&text, &[]).unwrap().warnings
    };
    assert_eq!(
        warnings("30m"),
        ["line 3: retention: states older than 30m cannot be restored; did you mean 1h or more?"]
    );
    assert!(warnings("1h").is_empty() && warnings("2w").is_empty());
}

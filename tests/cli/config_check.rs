//! The files that a configuration names are looked at before anything is contacted; each fault is told by name.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support;
use litestream::config::{self, Config, check_files};
use litestream::error::{Kind, Result};

const CERTIFICATE: &str = "subject=x\n-----BEGIN CERTIFICATE-----\nMIIB\nAAAA==\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN EC PARAMETERS-----\nBggq\n-----END EC PARAMETERS-----\n\
                   -----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\n";
const CREDS: &str = "-----BEGIN NATS USER JWT-----\neyJ0\n------END NATS USER JWT------\n\nIMPORTANT\n\
                     -----BEGIN USER NKEY SEED-----\nSUAC\n------END USER NKEY SEED------\n";

/// A directory that is gone after the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("litestream-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    }
}

/// Runs the openssl command.
fn openssl(words: &str) {
    let output = Command::new("openssl").args(words.split_whitespace()).output().expect("run openssl");
    assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Directory {
    /// A certificate and its key, in the form that `kind` asks for.
    fn pair(&self, kind: &str) -> (String, String) {
        let path = |end: &str| self.0.join(format!("{kind}.{end}")).display().to_string();
        let (certificate, key) = (path("pem"), path("key"));
        match kind {
            "rsa" => openssl(&format!("genrsa -traditional -out {key} 2048")),
            "ec" => openssl(&format!("ecparam -name prime256v1 -genkey -out {key}")),
            _ => openssl(&format!("genpkey -algorithm {kind} -out {key}")),
        }
        openssl(&format!("req -x509 -new -key {key} -days 2 -subj /CN=x -out {certificate}"));
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        (certificate, key)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn parsed(replica: &str) -> Config {
    support::config::parse(&format!("dbs: [{{path: /a.db, replica: {{bucket: b, {replica}}}}}]"), false).unwrap()
}

fn checked(replica: &str) -> Result<()> {
    check_files::config(&parsed(replica))
}

#[test]
fn files_that_are_right_pass() {
    let dir = Directory::new("right");
    let creds = dir.file("a.creds", CREDS, 0o400);
    // PKCS#1, SEC1 and PKCS#8.
    for kind in ["rsa", "ec", "ed25519"] {
        let (certificate, key) = dir.pair(kind);
        checked(&format!("root-cas: [{certificate}], client-cert: {certificate}, client-key: {key}, creds: {creds}"))
            .unwrap();
    }
}

#[test]
fn key_of_another_certificate_is_refused_whatever_its_kind() {
    let dir = Directory::new("pairs");
    let pairs = ["rsa", "ec", "ed25519"].map(|kind| dir.pair(kind));
    for (n, (certificate, _)) in pairs.iter().enumerate() {
        for (_, key) in pairs.iter().enumerate().filter(|(m, _)| *m != n).map(|(_, pair)| pair) {
            let error = checked(&format!("client-cert: {certificate}, client-key: {key}")).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage);
            assert!(error.message().starts_with(&format!("client-key: {key}: expected the key of the certificate")));
            assert!(error.hint().is_some_and(|hint| hint.contains(certificate)));
        }
    }
}

#[test]
fn a_file_that_is_missing_or_holds_something_else_is_named() {
    let dir = Directory::new("wrong");
    let certificate = dir.file("c.pem", CERTIFICATE, 0o644);
    let key = dir.file("k.pem", KEY, 0o600);
    let empty = dir.file("empty.pem", "", 0o600);
    let open = dir.file("open.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n", 0o600);
    let locked = dir.file("locked.pem", &KEY.replace("EC PRIVATE", "ENCRYPTED PRIVATE"), 0o600);
    let half = dir.file("half.creds", CREDS.split("IMPORTANT").next().unwrap(), 0o600);
    let table = [
        ("creds: /no/such".to_string(), "creds: read /no/such: no such file or directory".to_string()),
        (format!("creds: {}", dir.0.display()), format!("creds: read {}: is a directory", dir.0.display())),
        (format!("creds: {empty}"), format!("creds: {empty}: expected a credentials file, found no user JWT in it")),
        (format!("creds: {half}"), format!("creds: {half}: expected a credentials file, found no nkey seed in it")),
        ("root-cas: [/no/such]".to_string(), "root-cas: read /no/such: no such file or directory".to_string()),
        (
            format!("root-cas: [{certificate}, {empty}]"),
            format!("root-cas: {empty}: expected a certificate in PEM form, found none"),
        ),
        (format!("root-cas: {open}"), format!("root-cas: {open}: expected a certificate in PEM form, found none")),
        (
            format!("client-cert: {key}, client-key: {key}"),
            format!("client-cert: {key}: expected a certificate in PEM form, found a private key"),
        ),
        (
            format!("client-cert: {certificate}, client-key: {certificate}"),
            format!("client-key: {certificate}: expected a private key in PEM form, found none"),
        ),
        (
            format!("client-cert: {certificate}, client-key: {locked}"),
            format!("client-key: {locked}: expected a private key without a passphrase, found an encrypted one"),
        ),
        ("jwt: x, seed: canary".to_string(), "seed: expected a user's seed, found something else".to_string()),
    ];
    for (replica, expected) in table {
        let error = checked(&replica).expect_err(&replica);
        assert_eq!((error.kind(), error.message()), (Kind::Usage, expected.as_str()), "{replica}");
    }
}

/// The tests run as root, or as somebody else.
#[test]
fn configuration_that_others_can_write_is_refused_to_root() {
    let dir = Directory::new("writable");
    let root = litestream::directory::effective_user() == 0;
    for (mode, text, refused, warned) in [
        (0o600, "password: canary", false, false),
        (0o644, "password: canary", false, true),
        (0o644, "  token: 'canary'", false, true),
        (0o644, "url: nats://u:canary@h/b", false, true),
        (0o644, "password: $PASS", false, false),
        (0o644, "url: \"nats://u:${PASS}@h/b\"", false, false),
        (0o644, "# password: canary", false, false),
        (0o640, "password: canary", false, false),
        (0o646, "", root, false),
        (0o602, "", root, false),
    ] {
        let path = dir.file("litestream.yml", text, mode);
        let found = check_files::configuration(Path::new(&path), text);
        match found {
            Err(error) => {
                assert!(refused, "{mode:o} {text}");
                assert_eq!(error.kind(), Kind::Usage);
                let expected =
                    format!("configuration {path}: expected a file that no other user can write, found mode {mode:o}");
                assert_eq!(
                    (error.message(), error.hint()),
                    (expected.as_str(), Some(format!("chmod go-w {path}").as_str()))
                );
            }
            Ok(warnings) => {
                assert!(!refused, "{mode:o} {text}");
                assert_eq!(!warnings.is_empty(), warned, "{mode:o} {text}");
                assert!(!format!("{warnings:?}").contains("canary"));
            }
        }
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn variable_that_is_not_set_is_not_named_in_a_secret() {
    let refused = |replica: &str| {
        let text = format!("dbs:\n- path: /a.db\n  replica:\n    {replica}\n");
        support::config::parse(&text, true).unwrap_err().message().to_string()
    };
    for replica in ["password: pa$canary", "url: nats://u:pa$canary@h/b", "token: a${canary}b"] {
        let message = refused(replica);
        assert!(!message.contains("canary"), "{message}");
        let key = replica.split(':').next().unwrap();
        assert_eq!(message, format!("line 4: {key}: a $ begins the name of a variable that is not set"));
    }
    assert!(refused("bucket: $BUCKET").ends_with("the environment variable BUCKET is not set"));
}

#[test]
fn a_private_key_that_others_can_read_is_refused() {
    let dir = Directory::new("mode");
    let (certificate, good) = dir.pair("ec");
    let text = std::fs::read_to_string(good).unwrap();
    for (mode, refused) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true), (0o660, true), (0o610, true)]
    {
        let key = dir.file("k.pem", &text, mode);
        let result = checked(&format!("client-cert: {certificate}, client-key: {key}"));
        assert_eq!(result.is_err(), refused, "{mode:o}");
        if let Err(error) = result {
            let expected =
                format!("client-key: {key}: expected a file that only its owner can read, found mode {mode:o}");
            assert_eq!(error.message(), expected);
            assert_eq!(error.hint(), Some(format!("chmod 600 {key}").as_str()));
        }
        std::fs::remove_file(key).unwrap();
    }
}

#[test]
fn the_seed_is_read_from_the_file_that_the_environment_names() {
    let dir = Directory::new("seed");
    let seed = nkeys::KeyPair::new_user().seed().unwrap();
    for text in
        [format!("{seed}\n"), format!("-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n")]
    {
        let file = dir.file("user.nk", &text, 0o600);
        let env = |name: &str| (name == "NATS_NKEY").then(|| file.clone());
        let replica = config::replica_from_url("nats://h/b", &env).unwrap();
        check_files::replica(&replica).unwrap();
        assert!(!format!("{replica:?}").contains(&seed));
    }
    let file = dir.file("user.nk", "nothing", 0o600);
    let error =
        config::replica_from_url("nats://h/b", &|name| (name == "NATS_NKEY").then(|| file.clone())).unwrap_err();
    let expected = format!("NATS_NKEY: {file}: expected a file with a user's seed, which begins with SU");
    assert_eq!(error.message(), expected);
}

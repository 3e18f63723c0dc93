//! Every way to log in and every way to trust, as an operator gives them: in a file, a URL or the environment. Each fault
//! is told with its cause, its hint and its status, and no secret is ever shown.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support;
use crate::support::certificates::{Authority, Pair, as_sec1};
use crate::support::jwt;
use crate::support::{Bed, Process, Ran, STORE, USAGE, litestream};

/// What no output may hold.
const SECRETS: [&str; 5] = ["c4nary-pass", "c4nary-wrong", "c4nary-token", "SUA", "eyJ"];

fn silent(text: &str, what: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{what} shows {secret}:\n{text}");
    }
}

fn host(bed: &Bed) -> String {
    bed.url().trim_start_matches("nats://").split('/').next().expect("an address").to_string()
}

/// A configuration for the bed's database, whose replica has `more` beside its type.
fn configured(bed: &Bed, more: &str) -> std::process::Command {
    let (config, database) = (bed.fresh("litestream.yml"), bed.path("a.db"));
    let text = format!(
        "dbs:\n  - path: {}\n    replica: {{ type: nats, create-bucket: true, timeout: 5s, reconnect-wait: 200ms, {more} }}\n",
        database.display()
    );
    fs::write(&config, text).expect("write a configuration");
    let mut command = litestream();
    command.args(["-log-level", "trace", "replicate", "-config"]).arg(config);
    command
}

fn once(bed: &Bed, mut command: std::process::Command) -> Ran {
    let ran = bed.run_command(command.arg("-once"));
    silent(&format!("{}{}", ran.stdout, ran.stderr), "a run");
    ran
}

/// Runs with each of `right`, which must work, and with each of `wrong`, which must be refused with all these words.
fn table(bed: &Bed, right: &[String], wrong: &[(String, i32, &[&str])]) {
    bed.database();
    for more in right {
        let ran = once(bed, configured(bed, more));
        assert_eq!(ran.status, 0, "{more}:\n{}", ran.stderr);
    }
    for (more, status, words) in wrong {
        let ran = once(bed, configured(bed, more));
        assert_eq!(ran.status, *status, "{more}:\n{}", ran.stderr);
        for word in *words {
            assert!(ran.stderr.contains(word), "{more}: no {word:?} in\n{}", ran.stderr);
        }
    }
}

const VIOLATION: &[&str] = &["Authorization Violation", "hint: "];

#[test]
fn user_and_password_work_from_file_url_and_environment() {
    let bed = Bed::nats_with("user", "authorization { user: me, password: \"c4nary-pass/@\" }");
    let (url, host) = (bed.url(), host(&bed));
    table(
        &bed,
        &[
            format!("url: \"{url}\", username: me, password: c4nary-pass/@"),
            format!("url: \"nats://me:c4nary-pass%2F%40@{host}/backup\""),
            format!("url: \"nats://{host}/\", bucket: backup, username: me, password: c4nary-pass/@"),
        ],
        &[
            (format!("url: \"{url}\""), STORE, VIOLATION),
            (format!("url: \"{url}\", username: me, password: c4nary-wrong"), STORE, VIOLATION),
            (format!("url: \"{url}\", token: c4nary-token"), STORE, VIOLATION),
            (format!("url: \"{url}\", username: me"), USAGE, &["password"]),
            (format!("url: \"{url}\", username: me, password: c4nary-pass, token: c4nary-token"), USAGE, &["token"]),
        ],
    );
    let mut command = configured(&bed, &format!("url: \"{url}\""));
    command.env("NATS_USER", "me").env("NATS_PASSWORD", "c4nary-pass/@");
    once(&bed, command).succeeded();
    let mut command = litestream();
    command.args(["snapshot"]).arg(bed.path("a.db")).arg("nats:///backup");
    command.env("NATS_URL", format!("nats://me:c4nary-pass%2F%40@{host}"));
    let ran = bed.run_command(&mut command);
    silent(&ran.stderr, "snapshot");
    ran.succeeded();
}

#[test]
fn a_token_in_the_file_the_url_and_the_environment() {
    let bed = Bed::nats_with("token", "authorization { token: \"c4nary-token\" }");
    let (url, host) = (bed.url(), host(&bed));
    table(
        &bed,
        &[format!("url: \"{url}\", token: c4nary-token"), format!("url: \"nats://c4nary-token@{host}/backup\"")],
        &[(format!("url: \"{url}\", token: c4nary-wrong"), STORE, VIOLATION)],
    );
    let mut command = configured(&bed, &format!("url: \"{url}\""));
    command.env("NATS_TOKEN", "c4nary-token");
    once(&bed, command).succeeded();
}

#[test]
fn an_nkey_by_its_seed() {
    let key = nkeys::KeyPair::new_user();
    let (seed, other) = (key.seed().expect("a seed"), nkeys::KeyPair::new_user().seed().expect("a seed"));
    let bed = Bed::nats_with("nkey", &format!("authorization {{ users = [ {{ nkey: {} }} ] }}", key.public_key()));
    let url = bed.url();
    table(
        &bed,
        &[format!("url: \"{url}\", nkey: {}, seed: {seed}", key.public_key()), format!("url: \"{url}\", nkey: {seed}")],
        &[(format!("url: \"{url}\", nkey: {other}"), STORE, VIOLATION)],
    );
}

fn secret_file(path: &Path, text: &str) {
    fs::write(path, text).expect("write a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("restrict a file");
}

#[test]
fn a_jwt_and_credentials_that_are_replaced_while_it_runs() {
    let (authority, other) = (jwt::authority(), jwt::authority());
    let mut bed = Bed::nats_with("jwt", &authority.config);
    let (url, creds) = (bed.url(), bed.path("app.creds"));
    secret_file(&creds, &authority.creds());
    table(
        &bed,
        &[
            format!("url: \"{url}\", jwt: {}, seed: {}", authority.jwt, authority.seed),
            format!("url: \"{url}\", creds: {}", creds.display()),
        ],
        &[
            (format!("url: \"{url}\", jwt: {}, seed: {}", other.jwt, other.seed), STORE, VIOLATION),
            (format!("url: \"{url}\", jwt: {}", authority.jwt), USAGE, &["seed"]),
            (format!("url: \"{url}\", creds: /nonexistent.creds"), USAGE, &["/nonexistent.creds"]),
        ],
    );
    let mut replicator: Process =
        bed.spawn(&mut configured(&bed, &format!("url: \"{url}\", creds: {}", creds.display())));
    replicator.says("continuing");
    // Wrong at the next connect: told, and waited out until the file is right again.
    secret_file(&creds, &other.creds());
    bed.server().kill();
    bed.server().restart();
    bed.write(&bed.path("a.db"), &["--commits", "2"]);
    replicator.says("Authorization Violation");
    // Half written, or away: told by its name.
    secret_file(&creds, "half of it");
    replicator.says("app.creds: expected a user JWT and a seed");
    fs::remove_file(&creds).expect("remove the credentials");
    replicator.says("app.creds: no such file");
    secret_file(&creds, &authority.creds());
    replicator.says("problem resolved");
    let cmdline = fs::read_to_string(format!("/proc/{}/cmdline", replicator.pid())).expect("its command line");
    silent(&cmdline, "the process list");
    silent(&replicator.log(), "the log");
    replicator.stop();
}

#[test]
fn expired_credentials_are_reported_and_new_ones_are_used() {
    let authority = jwt::authority();
    let bed = Bed::nats_with("expires", &authority.config);
    let (database, creds) = (bed.database(), bed.path("app.creds"));
    let from_now = |seconds: i64| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        authority.creds_until(now.saturating_add_signed(seconds))
    };
    let more = format!("url: \"{}\", creds: {}", bed.url(), creds.display());
    secret_file(&creds, &from_now(-5));
    once(&bed, configured(&bed, &more)).refused(STORE, VIOLATION);
    secret_file(&creds, &from_now(8));
    let mut replicator = bed.spawn(&mut configured(&bed, &more));
    replicator.says("snapshot stored");
    bed.write(&database, &["--commits", "2"]);
    // The server's own word for it, unless it has refused the next attempt before we look.
    replicator.says("expired");
    bed.write(&database, &["--commits", "2"]);
    replicator.says("Authorization Violation");
    assert!(replicator.is_running());
    secret_file(&creds, &from_now(3600));
    replicator.says("problem resolved");
    silent(&replicator.log(), "the log");
    replicator.stop();
}

#[test]
fn revoked_login_is_reported_and_used_again_when_restored() {
    let config = |password: &str| format!("authorization {{ user: me, password: \"{password}\" }}");
    let mut bed = Bed::nats_with("withdrawn", &config("c4nary-pass"));
    let database = bed.database();
    let more = format!("url: \"{}\", username: me, password: c4nary-pass", bed.url());
    let mut replicator = bed.spawn(&mut configured(&bed, &more));
    replicator.says("snapshot stored");
    let conf = bed.server().scratch.join("nats.conf");
    let text = fs::read_to_string(&conf).expect("its configuration");
    fs::write(&conf, text.replace("c4nary-pass", "c4nary-wrong")).expect("change a password");
    bed.server().restart();
    bed.write(&database, &["--commits", "2"]);
    replicator.says("Authorization Violation");
    assert!(replicator.is_running());
    // It waits between its attempts, as it does for a server that is not there.
    let attempts = |bed: &mut Bed| bed.server().log().matches("authentication error").count();
    let (before, begun) = (attempts(&mut bed), Instant::now());
    // What is measured: attempts in two seconds.
    sleep(Duration::from_secs(2));
    let (more, waits) = (attempts(&mut bed) - before, begun.elapsed().as_millis() / 200);
    assert!((1..=waits + 1).contains(&(more as u128)), "{more} attempts in {:?}", begun.elapsed());
    fs::write(&conf, text).expect("change it back");
    bed.server().restart();
    replicator.says("problem resolved");
    silent(&replicator.log(), "the log");
    // What the server complains of comes out as a line of ours, and in no other way.
    let strange = |line: &&str| !line.starts_with("time=");
    assert_eq!(replicator.log().lines().find(strange), None);
    replicator.stop();
}

#[test]
fn authorities_that_cannot_be_read_do_not_matter_in_clear_text() {
    let bed = Bed::nats("authorities");
    bed.database();
    let mut command = configured(&bed, &format!("url: \"{}\"", bed.url()));
    command.env("SSL_CERT_FILE", "/nonexistent.pem").env("SSL_CERT_DIR", "/nonexistent");
    once(&bed, command).succeeded();
}

const HERE: &str = "DNS:localhost,IP:127.0.0.1";

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn private(pair: Pair) -> Pair {
    fs::set_permissions(&pair.key, fs::Permissions::from_mode(0o600)).expect("restrict a key");
    pair
}

fn with(root: &Path, pair: &Pair) -> String {
    format!("root-cas: [{}], client-cert: {}, client-key: {}", text(root), text(&pair.certificate), text(&pair.key))
}

#[test]
fn a_server_is_trusted_by_its_authority_and_its_name_alone() {
    let (ca, other) = (Authority::new("ours"), Authority::new("theirs"));
    let bed = Bed::nats_with("trust", &ca.sign("server", "DNS:localhost", 2).config(""));
    let port = host(&bed).replace("127.0.0.1:", "");
    let at = |scheme: &str, host: &str| format!("url: \"{scheme}://{host}:{port}/backup\"");
    let (root, wrong) = (text(&ca.root()), text(&other.root()));
    let bundle = bed.path("bundle.pem");
    let both = [&other.root(), &ca.root()].map(|path| fs::read_to_string(path).expect("a certificate")).concat();
    fs::write(&bundle, both).expect("write a bundle");
    let verify = &["certificate verify failed", "hint: root-cas must name"][..];
    table(
        &bed,
        &[
            format!("{}, root-cas: [{root}]", at("nats", "localhost")),
            format!("{}, root-cas: [{wrong}, {root}]", at("tls", "localhost")),
            format!("{}, root-cas: [{}], tls: true", at("nats", "localhost"), text(&bundle)),
        ],
        &[
            (format!("{}, root-cas: [{wrong}]", at("nats", "localhost")), STORE, verify),
            (at("tls", "localhost"), STORE, verify),
            // Not asked for, but the server demands it: its certificate is checked all the same.
            (at("nats", "localhost"), STORE, verify),
            (
                format!("{}, root-cas: [{root}]", at("nats", "127.0.0.1")),
                STORE,
                &["mismatch", "hint: connect with a name"],
            ),
            (format!("{}, root-cas: [/dev/null]", at("nats", "localhost")), USAGE, &["/dev/null"]),
            (format!("{}, root-cas: [/nonexistent.pem]", at("nats", "localhost")), USAGE, &["/nonexistent.pem"]),
        ],
    );
}

#[test]
fn a_server_whose_certificate_has_expired_is_refused() {
    let ca = Authority::new("ours");
    let bed = Bed::nats_with("expired", &ca.sign("server", HERE, -1).config(""));
    let more = format!("url: \"{}\", root-cas: [{}]", bed.url(), text(&ca.root()));
    table(&bed, &[], &[(more, STORE, &["certificate has expired", "hint: renew the certificate"])]);
}

#[test]
fn mutual_tls_takes_every_form_of_key_and_refuses_strangers() {
    let (ca, other) = (Authority::new("ours"), Authority::new("theirs"));
    let demand = format!("verify: true, ca_file: \"{}\"", text(&ca.root()));
    let bed = Bed::nats_with("mutual", &ca.sign("server", HERE, 2).config(&demand));
    let (url, root) = (bed.url(), ca.root());
    let pair = private(ca.sign("client", "DNS:client", 2));
    let (sec1, rsa) = (private(as_sec1(&pair)), private(ca.sign_rsa("rsa", "DNS:rsa")));
    let foreign = private(other.sign("foreign", "DNS:client", 2));
    let mixed = Pair { certificate: pair.certificate.clone(), key: foreign.key.clone() };
    let open = ca.sign("open", "DNS:open", 2);
    fs::set_permissions(&open.key, fs::Permissions::from_mode(0o644)).expect("open a key");
    let case = |pair: &Pair| format!("url: \"{url}\", {}", with(&root, pair));
    table(
        &bed,
        &[case(&pair), case(&sec1), case(&rsa)],
        &[
            (format!("url: \"{url}\", root-cas: [{}]", text(&root)), STORE, &["hint: ", "client-cert"]),
            (case(&foreign), STORE, &["hint: the server may", "client-cert"]),
            (case(&mixed), USAGE, &["foreign.key: expected the key of the certificate", "must be a pair"]),
            (case(&open), USAGE, &["open.key"]),
            (format!("url: \"{url}\", client-cert: {}", text(&pair.certificate)), USAGE, &["client-key"]),
        ],
    );
    let mut command = configured(&bed, &format!("url: \"{url}\""));
    command.env("NATS_CA", &root).env("NATS_CERT", &pair.certificate).env("NATS_KEY", &pair.key);
    once(&bed, command).succeeded();
}

#[test]
fn clear_text_is_never_spoken_where_tls_is_asked_for() {
    let ca = Authority::new("ours");
    let bed = Bed::nats_with("plain", "");
    let (url, tls) = (bed.url(), bed.url().replace("nats://", "tls://"));
    let root = text(&ca.root());
    let words = &["expected TLS, found a server that does not offer it"][..];
    table(
        &bed,
        &[],
        &[
            (format!("url: \"{tls}\", username: me, password: c4nary-pass"), STORE, words),
            (format!("url: \"{url}\", tls: true"), STORE, words),
            (format!("url: \"{url}\", root-cas: [{root}]"), STORE, words),
            (format!("url: \"{url}\", tls-first: true, root-cas: [{root}]"), STORE, &["TLS handshake", "hint: "]),
        ],
    );
}

#[test]
fn certificate_that_becomes_invalid_is_reported_and_retried() {
    let (ca, other) = (Authority::new("ours"), Authority::new("theirs"));
    let good = ca.sign("server", HERE, 2);
    // By name, and with the handshake before the first line.
    let mut bed = Bed::nats_with("turned", &good.config("handshake_first: true"));
    bed.database();
    let url = bed.url().replace("127.0.0.1", "localhost");
    let more = format!("url: \"{url}\", tls-first: true, root-cas: [{}]", text(&ca.root()));
    let mut replicator = bed.spawn(&mut configured(&bed, &more));
    replicator.says("snapshot stored");
    let conf = bed.server().scratch.join("nats.conf");
    let right = fs::read_to_string(&conf).expect("its configuration");
    let table = [
        (other.sign("server", HERE, 2), "certificate verify failed: unable to get local issuer"),
        (ca.sign("expired", HERE, -1), "certificate has expired"),
        (ca.sign("elsewhere", "DNS:elsewhere,IP:127.0.0.1", 2), "hostname mismatch"),
    ];
    for (bad, cause) in table {
        let wrong =
            right.replace(&text(&good.certificate), &text(&bad.certificate)).replace(&text(&good.key), &text(&bad.key));
        fs::write(&conf, wrong).expect("change the certificate");
        bed.server().restart();
        replicator.says(cause);
        assert!(replicator.is_running(), "{}", replicator.log());
        fs::write(&conf, &right).expect("change it back");
        bed.server().restart();
        let ends = replicator.log().matches("problem resolved").count();
        bed.write(&bed.path("a.db"), &["--commits", "1"]);
        support::until("it works again", || match replicator.log() {
            log if log.matches("problem resolved").count() > ends => Ok(()),
            log => Err(log),
        });
    }
    bed.server().stop();
    silent(&replicator.log(), "the log");
}

#[test]
fn key_of_another_certificate_is_named_for_every_key_type() {
    let ca = Authority::new("ours");
    let bed = Bed::nats_with("pairs", "");
    let kinds = ["rsa:2048", "P-256", "P-384", "ed25519"];
    let pairs: Vec<Pair> = kinds.iter().map(|kind| private(ca.sign_kind(kind))).collect();
    let strangers: Vec<Pair> = kinds.iter().map(|kind| private(ca.sign_kind(kind))).collect();
    let mut wrong = Vec::new();
    for (one, pair) in pairs.iter().enumerate() {
        for (two, other) in pairs.iter().enumerate() {
            let other = if one == two { &strangers[one] } else { other };
            let mixed = Pair { certificate: pair.certificate.clone(), key: other.key.clone() };
            let more = format!("url: \"{}\", {}", bed.url(), with(&ca.root(), &mixed));
            wrong.push((more, USAGE, &["expected the key of the certificate", "must be a pair"][..]));
        }
        // The pair itself is no fault: what is told is that this server speaks no TLS.
        let more = format!("url: \"{}\", {}", bed.url(), with(&ca.root(), pair));
        wrong.push((more, STORE, &["expected TLS, found a server that does not offer it"][..]));
    }
    table(&bed, &[], &wrong);
}

//! What lets one in is never shown: not in the log at its most talkative, not in an error, not in a result.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Bed, Ran, STORE, USAGE, assert_equal, litestream, nats, tree, until};

const PASSWORD: &str = "correct-horse-battery";
const WRONG: &str = "incorrect-horse";

fn bed(name: &str) -> Bed {
    Bed::nats_with(name, &format!("authorization {{ user: \"me\", password: \"{PASSWORD}\" }}"))
}

fn url_with(bed: &Bed, password: &str) -> String {
    bed.url().replace("nats://", &format!("nats://me:{password}@"))
}

fn run(bed: &Bed, change: impl FnOnce(&mut Command) -> &mut Command) -> Ran {
    let mut command = litestream();
    command.args(["-log-level", "trace"]);
    change(&mut command);
    let ran = bed.run_command(&mut command);
    for secret in [PASSWORD, WRONG] {
        assert!(!ran.stderr.contains(secret) && !ran.stdout.contains(secret), "{ran:?}");
    }
    ran
}

#[test]
fn a_password_in_a_url_stays_secret() {
    let bed = bed("url");
    let (database, output) = (bed.database(), bed.path("out.db"));
    let url = url_with(&bed, PASSWORD);
    run(&bed, |c| c.args(["replicate", "-once", "-create-bucket"]).arg(&database).arg(&url)).succeeded();
    run(&bed, |c| c.args(["restore", "-json", "-o"]).arg(&output).arg(&url)).succeeded();
    assert_equal(&database, &output);
}

#[test]
fn a_wrong_password_is_refused_and_stays_secret() {
    let bed = bed("wrong");
    let database = bed.database();
    let url = url_with(&bed, WRONG);
    run(&bed, |c| c.arg("replicate").arg(&database).arg(&url)).refused(STORE, &["127.0.0.1"]);
    run(&bed, |c| c.arg("snapshot").arg(&database).arg(bed.url())).refused(STORE, &["127.0.0.1"]);
}

#[test]
fn password_from_environment_or_configuration_stays_secret() {
    let bed = bed("config");
    let (database, config, output) = (bed.database(), bed.path("litestream.yml"), bed.path("out.db"));
    let text = format!(
        "dbs:\n  - path: {}\n    replica:\n      type: nats\n      url: {}\n      create-bucket: true\n      username: me\n      password: ${{APP_PASSWORD}}\n",
        database.display(),
        bed.url()
    );
    fs::write(&config, text).unwrap();
    run(&bed, |c| c.args(["replicate", "-once", "-config"]).arg(&config).env("APP_PASSWORD", PASSWORD)).succeeded();
    run(&bed, |c| c.args(["databases", "-config"]).arg(&config).env("APP_PASSWORD", PASSWORD)).succeeded();
    let login = [("NATS_USER", "me"), ("NATS_PASSWORD", PASSWORD)];
    run(&bed, |c| c.args(["restore", "-o"]).arg(&output).arg(bed.url()).envs(login)).succeeded();
    assert_equal(&database, &output);
}

#[test]
fn a_password_in_a_url_leaves_the_process_list() {
    let bed = bed("list");
    let database = bed.database();
    let mut replicator = bed.replicate_to(&database, &url_with(&bed, PASSWORD));
    replicator.says("replicating");
    let words = fs::read(format!("/proc/{}/cmdline", replicator.pid())).unwrap();
    let words = String::from_utf8_lossy(&words);
    assert!(words.contains("nats://***") && !words.contains(PASSWORD), "{words:?}");
    replicator.stop();
}

/// Every command that takes a replica, with results as text and as JSON.
const READERS: [&[&str]; 10] = [
    &["restore", "-o", "/nonexistent/out.db"],
    &["restore", "-dry-run", "-json", "-o", "/nonexistent/out.db"],
    &["generations"],
    &["generations", "-json"],
    &["snapshots", "-json"],
    &["wal"],
    &["wal", "-json"],
    &["verify"],
    &["verify", "-json"],
    &["status"],
];

#[test]
fn no_command_shows_the_login_of_its_url_whatever_fails() {
    let mut bed = bed("failing");
    let database = bed.database();
    let here = bed.url().trim_start_matches("nats://").to_string();
    let nobody = nats::free_port();
    // Right, refused as a user and as a token, nobody there, no such host, TLS that is not offered, no such bucket, below
    // a prefix without anything, and what is no URL.
    let urls = [
        format!("nats://me:{PASSWORD}@{here}"),
        format!("nats://me:{WRONG}@{here}"),
        format!("nats://{WRONG}@{here}"),
        format!("nats://me:{PASSWORD}@127.0.0.1:{nobody}/backup"),
        format!("nats://me:{PASSWORD}@host.invalid/backup"),
        format!("tls://me:{PASSWORD}@{here}"),
        format!("nats://me:{PASSWORD}@{here}-not-there"),
        format!("nats://me:{PASSWORD}@{here}/empty"),
        format!("nats://me:{PASSWORD}@{here}/../up"),
        format!("nats://me:{PASSWORD}@127.0.0.1:99999/backup"),
        format!("nats://me:{PASSWORD}@127.0.0.1/"),
        format!("nats://me:{PASSWORD}@"),
        format!("natz://me:{PASSWORD}@{here}"),
        format!("nats:/me:{PASSWORD}@{here}"),
        format!("nats://me:{PASSWORD}%zz@{here}"),
    ];
    run(&bed, |c| c.args(["replicate", "-once", "-create-bucket"]).arg(&database).arg(&urls[0])).succeeded();
    let mut failed = 0;
    for (n, url) in urls.iter().enumerate() {
        // All of them where the server says no, and for other faults some, so that the test stays short.
        let some = READERS.iter().enumerate().filter(|(m, _)| n == 1 || (n + m) % 4 == 0);
        for (_, words) in some {
            failed += i32::from(run(&bed, |c| c.args(*words).arg(url)).status != 0);
        }
        failed += i32::from(run(&bed, |c| c.arg("replicate").args(["-once"]).arg(&database).arg(url)).status != 0);
        run(&bed, |c| c.arg("snapshot").arg(&database).arg(url));
    }
    assert!(failed > 40, "only {failed} runs failed");
    // Words that are too many, and a URL where a path should be.
    for words in [["restore", "-o"], ["databases", "-json"], ["replicate", "-bogus"], ["bogus", "x"]] {
        assert_ne!(run(&bed, |c| c.args(words).arg(&urls[0]).arg(&urls[1])).status, 0);
    }
    bed.server().stop();
}

#[test]
fn no_fault_of_a_configuration_shows_what_lets_one_in() {
    let bed = Bed::directory("faults");
    let database = bed.database();
    let (config, secret) = (bed.path("litestream.yml"), PASSWORD);
    let replicas = [
        format!("pasword: {secret}"),
        format!("password: [{secret}]"),
        format!("password: {{ a: {secret} }}"),
        format!("password: {secret}"),
        format!("username: me, password: {secret}, token: {secret}"),
        format!("username: me, password: {secret}, password: {secret}"),
        format!("username: me, password: \"{secret}"),
        format!("username: me, password: {secret}: {secret}"),
        format!("username: me, password: \"{secret}\\q\""),
        format!("token: ${{UNDEFINED_{}}}{secret}", "X"),
        format!("jwt: {secret}"),
        format!("jwt: {secret}, seed: {secret}"),
        format!("nkey: {secret}"),
        format!("nkey: {secret}, seed: {secret}"),
        format!("seed: {secret}"),
        format!("url: \"nats://me:{secret}@h/b\", bucket: other"),
        format!("url: \"nats://me:{secret}@h:port/b\""),
        format!("url: \"s3://me:{secret}@h/b\""),
        format!("url: \"nats://me:{secret}@h/b\", token: {secret}"),
    ];
    for replica in replicas {
        let url = if replica.contains("url:") { "" } else { "url: \"nats://127.0.0.1:1/b\", " };
        let text = format!("dbs:\n  - path: {}\n    replica: {{ type: nats, {url}{replica} }}\n", database.display());
        fs::write(&config, text).expect("write a configuration");
        run(&bed, |c| c.args(["databases", "-json", "-config"]).arg(&config));
        let ran = run(&bed, |c| c.args(["replicate", "-once", "-config"]).arg(&config));
        assert!(ran.status == USAGE || ran.status == STORE, "{replica}: {ran:?}");
    }
    let creds = bed.path("bad.creds");
    fs::write(&creds, format!("-----BEGIN NATS USER JWT-----\n{secret}\n")).expect("write credentials");
    let text = format!(
        "dbs:\n  - path: {}\n    replica: {{ type: nats, url: \"nats://127.0.0.1:1/b\", creds: {} }}\n",
        database.display(),
        creds.display()
    );
    fs::write(&config, text).expect("write a configuration");
    assert_ne!(run(&bed, |c| c.args(["replicate", "-once", "-config"]).arg(&config)).status, 0);
}

/// Files below `top` that hold the password, and how many files were read.
fn leaks(top: &Path) -> (Vec<String>, usize) {
    let names: Vec<String> = tree(top).iter().filter_map(|line| Some(line.rsplit_once(' ')?.0.to_string())).collect();
    let holds = |name: &String| {
        let bytes = fs::read(top.join(name)).unwrap_or_default();
        bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes())
    };
    (names.iter().filter(|name| holds(name)).cloned().collect(), names.len())
}

#[test]
fn no_file_next_to_the_database_contains_the_password() {
    let mut bed = bed("files");
    let database = bed.database();
    let (config, metrics) = (bed.path("litestream.yml"), bed.path("litestream.prom"));
    let url = url_with(&bed, PASSWORD);
    let text = format!(
        "metrics-file: {}\ndbs:\n  - path: {}\n    replica: {{ type: nats, url: \"{url}\", create-bucket: true, \
         timeout: 2s, reconnect-wait: 200ms }}\n",
        metrics.display(),
        database.display()
    );
    fs::write(&config, text).expect("write a configuration");
    let mut command = litestream();
    let mut replicator = bed.spawn(command.args(["-log-level", "trace", "replicate", "-config"]).arg(&config));
    replicator.says("snapshot stored");
    // A request beside it, and then an outage that fills the spool.
    run(&bed, |c| c.args(["snapshot", "-config"]).arg(&config).arg(&database)).succeeded();
    for words in [&["databases"][..], &["databases", "-json"], &["status"], &["status", "-json"]] {
        run(&bed, |c| c.args(words).arg("-config").arg(&config)).succeeded();
    }
    bed.server().kill();
    // More than memory holds of it.
    bed.write(&database, &["--commits", "60", "--rows", "20", "--size", "20000", "--rate", "30"]);
    replicator.says("problem, retrying");
    let spool = database.with_file_name(".a.db-litestream/spool");
    until("segments wait in the spool", || {
        let some = tree(&spool).iter().any(|line| line.contains(".gz "));
        if some && metrics.exists() { Ok(()) } else { Err(format!("{:?}", tree(&spool))) }
    });
    let top = database.parent().expect("a directory");
    let (found, read) = leaks(top);
    assert_eq!(found, ["litestream.yml"], "the configuration alone holds it");
    assert!(read > 6, "{read} files");
    bed.server().restart();
    bed.write(&database, &["--commits", "1"]);
    replicator.says("problem resolved");
    replicator.stop();
}

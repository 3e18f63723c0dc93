//! What lets one in is never shown: not in the log at its most talkative, not in an error, not in a result.

mod support;

use std::fs;
use std::process::Command;

use support::{Bed, Ran, STORE, assert_equal, litestream};

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
fn a_password_in_the_environment_or_the_configuration_stays_secret() {
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

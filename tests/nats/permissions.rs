//! What a login must be allowed to do, as the table in litestream(1) says: each row on a server that grants exactly that. And
//! what somebody with the login of a device that may not delete cannot do.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::clock::{with_clock, wrong_clock};
use crate::support::{Bed, Ran, STORE, assert_equal, equal, litestream, raw, until};
use serde_json::{Value, json};

/// What the manual grants for these words in the first column of its table: subjects to publish to, and to subscribe to.
fn granted(roles: &[&str]) -> (Vec<String>, Vec<String>) {
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/man/litestream.1")).expect("read the manual");
    let (_, section) = manual.split_once(".Sh PERMISSIONS ON THE NATS SERVER").expect("the section");
    let (_, table) = section.split_once(".Bd -literal").expect("the table");
    let (table, _) = table.split_once(".Ed").expect("its end");
    let (mut publish, mut subscribe) = (Vec::new(), Vec::new());
    for line in table.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [role, verb, subject] = words[..] else { panic!("{line}") };
        assert!(["read", "store", "delete", "service", "ask", "take"].contains(&role), "{line}");
        if roles.contains(&role) {
            let subject = subject.replace("BUCKET", "backup");
            match verb {
                "publish" => publish.push(subject),
                "subscribe" => subscribe.push(subject),
                _ => panic!("{line}"),
            }
        }
    }
    assert!(!publish.is_empty() && !subscribe.is_empty());
    (publish, subscribe)
}

fn user(name: &str, roles: &[&str]) -> String {
    let (publish, subscribe) = granted(roles);
    let allow = |subjects: &[String]| format!("{{ allow: {} }}", json!(subjects));
    let permissions = format!("{{ publish: {}, subscribe: {} }}", allow(&publish), allow(&subscribe));
    format!("{{ user: {name}, password: p, permissions: {permissions} }}")
}

/// A server with a login for each task; who gives none may do all. The bucket is there, and allows roll-ups or not.
fn bed(name: &str, rollups: bool) -> Bed {
    let users = [
        "{ user: admin, password: p }".to_string(),
        user("device", &["read", "store", "service"]),
        user("all", &["read", "store", "delete"]),
        user("asker", &["read", "ask"]),
        user("compactor", &["read", "store", "delete"]),
        user("reader", &["read"]),
        user("inbox", &["read", "store", "delete"]).replace("_INBOX.", "_OWN."),
    ];
    let bed =
        Bed::nats_with(name, &format!("authorization {{ users = [ {} ] }}\nno_auth_user: admin\n", users.join(", ")));
    raw::create(address(&bed.url()), "backup", json!({ "allow_rollup_hdrs": rollups }));
    bed
}

fn address(url: &str) -> &str {
    url.trim_start_matches("nats://").split('/').next().expect("an address")
}

fn url_of(bed: &Bed, user: &str) -> String {
    bed.url().replace("nats://", &format!("nats://{user}:p@"))
}

/// Nothing was refused by the server.
fn allowed(ran: Ran) -> Ran {
    assert!(!ran.stderr.contains("Permissions Violation"), "{}", ran.stderr);
    ran.succeeded()
}

fn configuration(bed: &Bed, database: &Path, user: &str, more: &str) -> PathBuf {
    let path = bed.fresh("litestream.yml");
    let replica = format!("{{ url: '{}', username: {user}, password: p{more} }}", bed.url());
    fs::write(&path, format!("dbs: [{{ path: {}, replica: {replica} }}]\n", database.display())).expect("write");
    path
}

fn replicate_once(config: &Path) -> Command {
    let mut command = litestream();
    command.arg("-config").arg(config).args(["replicate", "-once"]);
    command
}

/// Stores some commits, one in each run.
fn store_segments(bed: &Bed, database: &Path, user: &str, more: &str) {
    let config = configuration(bed, database, user, more);
    let mut session = bed.session(database);
    session.sql("CREATE TABLE IF NOT EXISTS steps(n)");
    for step in 0..4 {
        session.sql(&format!("INSERT INTO steps VALUES ({step})"));
        allowed(bed.run_command(&mut replicate_once(&config)));
    }
}

/// What the only row of `compact -once -json` says.
fn compact(bed: &Bed, user: &str, later: i64) -> Value {
    let mut command = litestream();
    command.args(["compact", "-once", "-json", &url_of(bed, user)]);
    with_clock(&mut command, &wrong_clock(bed), later);
    let ran = allowed(bed.run_command(&mut command));
    let rows: Vec<Value> = serde_json::from_str(&ran.stdout).expect("rows");
    assert!(rows.len() == 1 && rows[0]["error"].is_null(), "{rows:?}");
    rows[0].clone()
}

fn device_and_compactor(name: &str, rollups: bool) {
    let bed = bed(name, rollups);
    let database = bed.database();
    let config = configuration(&bed, &database, "device", ", compaction: false, sync-interval: 200ms");
    let mut replicator = bed.spawn(litestream().arg("-config").arg(config).arg("replicate"));
    replicator.says("replicating");
    // A window of fifteen seconds is closed once there is something of the next one.
    bed.write(&database, &["--rate", "5", "--seconds", "26"]);
    bed.converges(&database);
    until("the replicator says that all is stored", || match bed.run(&["status", &url_of(&bed, "asker")]) {
        ran if ran.status == 0 => Ok(allowed(ran)),
        ran => Err(ran.stdout + &ran.stderr),
    });
    assert!(!replicator.log().contains("Permissions Violation"), "{}", replicator.log());
    replicator.stop();
    // What was merged goes a grace of ten minutes later.
    let merged = compact(&bed, "compactor", 20 * 60);
    assert!(merged["merged"].as_u64() > Some(4), "{merged}");
    let deleted = compact(&bed, "compactor", 60 * 60);
    let gone = |row: &Value| row["deleted"].as_u64().unwrap_or(0);
    assert!(gone(&merged) + gone(&deleted) > 4, "{merged} {deleted}");
    assert_equal(&database, &bed.restored());
}

#[test]
fn device_and_compactor_need_what_the_table_says() {
    device_and_compactor("permissions", true);
}

#[test]
fn they_need_the_same_where_the_bucket_allows_no_rollups() {
    device_and_compactor("permissions-no-rollups", false);
}

#[test]
fn who_reads_and_who_does_all_need_what_the_table_says() {
    let bed = bed("permissions-all", true);
    let database = bed.database();
    store_segments(&bed, &database, "all", "");
    let reader = url_of(&bed, "reader");
    for command in [&["list", &reader] as &[&str], &["generations", &reader], &["wal", &reader], &["verify", &reader]] {
        allowed(bed.run(command));
    }
    // The same with an inbox of its own, which no other login may hear.
    let own = format!("{}?inbox-prefix=_OWN", url_of(&bed, "inbox"));
    store_segments(&bed, &database, "inbox", ", inbox-prefix: _OWN");
    for command in [&["list", &own] as &[&str], &["verify", &own], &["snapshots", &own]] {
        allowed(bed.run(command));
    }
    let output = bed.fresh("read.db");
    allowed(bed.run(&["restore", "-o", output.to_str().expect("a path"), &reader]));
    equal(&database, &output).expect("the restore equals the live database");
    allowed(bed.run(&["delete", "-yes", &url_of(&bed, "all")]));
    assert_eq!(raw::info(address(&bed.url()), "backup")["state"]["messages"], 0);
}

/// A login for `roles` without one line of the table.
fn user_without(name: &str, roles: &[&str], missing: &str) -> String {
    let subject = json!(missing.replace("BUCKET", "backup")).to_string();
    let all = user(name, roles);
    assert!(all.contains(&subject), "{subject} is not in {all}");
    // A list may have it as its first, its last or its only one.
    let all = all.replacen(&format!("{subject},"), "", 1);
    all.replacen(&format!(",{subject}"), "", 1).replacen(&subject, "\"nothing\"", 1)
}

/// Without it the command cannot do its work. What it is called there is all that the server says.
#[test]
fn permission_that_is_missing_is_named_at_once() {
    let (readers, writers) = (["read"], ["read", "store", "delete"]);
    let subjects: [(&[&str], &str); 9] = [
        (&readers, "$JS.API.STREAM.INFO.OBJ_BUCKET"),
        (&readers, "$JS.API.STREAM.MSG.GET.OBJ_BUCKET"),
        (&readers, "$JS.API.CONSUMER.CREATE.OBJ_BUCKET.>"),
        (&readers, "$JS.API.CONSUMER.MSG.NEXT.OBJ_BUCKET.>"),
        (&readers, "_INBOX.>"),
        (&writers, "$JS.API.STREAM.INFO.OBJ_BUCKET"),
        (&writers, "$JS.API.CONSUMER.CREATE.OBJ_BUCKET.>"),
        (&writers, "$O.BUCKET.>"),
        (&writers, "$JS.API.STREAM.PURGE.OBJ_BUCKET"),
    ];
    let name = |at: usize| format!("user{at}");
    let users = subjects.iter().enumerate().map(|(at, (roles, missing))| user_without(&name(at), roles, missing));
    let users: Vec<String> = users.chain(["{ user: admin, password: p }".to_string()]).collect();
    let bed = Bed::nats_with(
        "permissions-missing",
        &format!("authorization {{ users = [ {} ] }}\nno_auth_user: admin\n", users.join(", ")),
    );
    let database = bed.database();
    raw::create(address(&bed.url()), "backup", json!({}));
    bed.run(&["replicate", "-once", database.to_str().expect("a path"), &bed.url()]).succeeded();
    for (at, (roles, missing)) in subjects.iter().enumerate() {
        let (url, output) = (url_of(&bed, &name(at)), bed.fresh("none.db"));
        let ran = match (roles.len(), *missing) {
            (1, _) => bed.restore(&url, &output),
            (_, "$JS.API.STREAM.PURGE.OBJ_BUCKET") => bed.run(&["delete", "-yes", &url]),
            _ => {
                bed.write(&database, &["--commits", "1"]);
                let config = configuration(&bed, &database, &name(at), "");
                let text = fs::read_to_string(&config).expect("read");
                // An upload that is refused is tried again until then: the permission may be granted meanwhile.
                fs::write(&config, format!("shutdown-sync-timeout: 1s\n{text}")).expect("write");
                bed.run_command(&mut replicate_once(&config))
            }
        };
        let subject = missing.replace("BUCKET", "backup");
        let named = format!(
            "Permissions Violation for {}",
            if missing.starts_with("_INBOX") { "Subscription to" } else { "Publish to" }
        );
        let ran = ran.refused(STORE, &[&named, subject.trim_end_matches('>')]);
        assert!(!ran.stderr.contains("no answer within"), "{}", ran.stderr);
    }
}

/// What the server says to `user` who publishes this, as an answer or as the refusal of a permission.
fn publishes(address: &str, user: &str, subject: &str, headers: &str, payload: &str) -> Result<Value, String> {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a deadline");
    let login = json!({ "verbose": false, "headers": true, "user": user, "pass": "p" });
    let block = format!("NATS/1.0\r\n{headers}\r\n");
    let sizes = format!("{} {}", block.len(), block.len() + payload.len());
    let message = format!("HPUB {subject} _INBOX.thief.1 {sizes}\r\n{block}{payload}\r\n");
    write!(&stream, "CONNECT {login}\r\nSUB _INBOX.thief.1 1\r\n{message}").expect("send");
    for line in BufReader::new(&stream).lines() {
        let line = line.expect("an answer");
        if line.starts_with("-ERR") {
            return Err(line);
        }
        if line.starts_with('{') {
            return Ok(serde_json::from_str(&line).expect("JSON"));
        }
    }
    panic!("no answer to {subject}");
}

#[test]
fn thief_of_a_device_that_may_not_delete_destroys_nothing() {
    let bed = bed("thief", false);
    let (database, url) = (bed.database(), bed.url());
    store_segments(&bed, &database, "device", ", compaction: false");
    let server = address(&url);
    let state = || {
        let info = raw::info(server, "backup");
        (info["state"]["first_seq"].as_u64(), info["state"]["messages"].as_u64(), info["config"].clone())
    };
    let before = state();
    let says = |subject: &str, headers: &str, payload: &str| publishes(server, "device", subject, headers, payload);
    for verb in ["STREAM.PURGE", "STREAM.DELETE", "STREAM.UPDATE", "STREAM.MSG.DELETE", "STREAM.CREATE"] {
        let refused = says(&format!("$JS.API.{verb}.OBJ_backup"), "", "{}").expect_err("refused");
        assert!(refused.contains("Permissions Violation"), "{refused}");
    }
    let meta = raw::Message::meta("backup", "generations/x", "n", 1);
    let subject = String::from_utf8(meta.subject).expect("a subject");
    for rollup in ["Nats-Rollup: all\r\n", "Nats-Rollup: sub\r\n"] {
        let refused = says(&subject, rollup, "{}").expect("an answer");
        assert_eq!(refused["error"]["err_code"], 10111, "{refused}");
    }
    assert_eq!(state(), before);
    assert_equal(&database, &bed.restored());
}

/// Why the manual asks for such a bucket: with roll-ups the same login empties the stream.
#[test]
fn with_rollups_the_same_login_can_empty_the_bucket() {
    let bed = bed("thief-rollups", true);
    let (database, url) = (bed.database(), bed.url());
    allowed(bed.run_command(&mut replicate_once(&configuration(&bed, &database, "device", ", compaction: false"))));
    let server = address(&url);
    assert!(raw::info(server, "backup")["state"]["messages"].as_u64() > Some(1));
    let stored = publishes(server, "device", "$O.backup.M.eA==", "Nats-Rollup: all\r\n", "{}").expect("an answer");
    assert!(stored["error"].is_null(), "{stored}");
    assert_eq!(raw::info(server, "backup")["state"]["messages"], 1);
}

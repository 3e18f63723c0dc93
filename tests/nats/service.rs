//! The running program as a service of NATS: found by the micro protocol, asked where it stands, told to store now. What a
//! request is about is what goes over its connection, and a login that may not is no worse off.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support;
use crate::support::nats::{Server, on_system, pinned, python};
use crate::support::raw::{self, Requester, answers};
use crate::support::{Bed, Process, assert_equal, litestream, until};
use serde_json::{Value, json};

/// Each answer comes within this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nothing more comes after that.
const SILENCE: Duration = Duration::from_secs(2);

fn address(bed: &Bed) -> String {
    bed.url().trim_start_matches("nats://").split('/').next().expect("an address").to_string()
}

/// A configuration with this database, and what else it says.
fn configuration(bed: &Bed, database: &Path, prefix: &str, more: &str) -> PathBuf {
    let path = bed.fresh("litestream.yml");
    let replica = format!("{{ url: '{}', create-bucket: true, sync-interval: 1h }}", bed.url_below(prefix));
    fs::write(&path, format!("{more}\ndbs: [{{ path: {}, replica: {replica} }}]\n", database.display()))
        .expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a file of its own");
    path
}

fn replicate(bed: &Bed, config: &Path) -> Process {
    bed.spawn(litestream().arg("-config").arg(config).arg("replicate"))
}

/// A second database beside the first one.
fn second_database(bed: &Bed) -> PathBuf {
    let database = bed.path("b.db");
    bed.write(&database, &["--commits", "2"]);
    database
}

/// The one answer to a request, which must come.
fn answer(bed: &Bed, subject: &str, payload: &str) -> Value {
    let mut requester = Requester::new(&address(bed));
    requester.request(subject, payload);
    requester.answer_within(PATIENCE).unwrap_or_else(|| panic!("no answer to {subject}"))
}

/// Looks until a replicator says that it has stored all; its statistics. `among` are the replicators.
fn settled(bed: &Bed, database: &Path, among: usize) -> Value {
    let name = database.display().to_string();
    until("a replicator shows its database as stored", || {
        let found = answers(&address(bed), "$SRV.STATS.litestream", "", SILENCE);
        let row = |stats: &Value| stats["endpoints"][0]["data"]["rows"][0].clone();
        let own = found.iter().find(|stats| row(stats)["database"] == name && row(stats)["status"] == "ok");
        match own {
            Some(stats) if found.len() == among => Ok(stats.clone()),
            _ => Err(format!("{found:?}")),
        }
    })
}

fn id(stats: &Value) -> String {
    stats["id"].as_str().expect("an ID").to_string()
}

fn each_is_found_and_asked_alone(bed: &Bed) {
    let (one, other) = (bed.database(), second_database(bed));
    let replicators = [(&one, "one"), (&other, "other")]
        .map(|(database, prefix)| replicate(bed, &configuration(bed, database, prefix, "")));
    let (first, second) = (settled(bed, &one, 2), settled(bed, &other, 2));
    assert_ne!(id(&first), id(&second));
    for (subject, expected) in [("$SRV.PING", 2), ("$SRV.INFO.litestream", 2), ("$SRV.PING.another", 0)] {
        assert_eq!(answers(&address(bed), subject, "", SILENCE).len(), expected, "{subject}");
    }
    let pings = answers(&address(bed), &format!("$SRV.PING.litestream.{}", id(&first)), "", SILENCE);
    assert_eq!(pings.len(), 1);
    assert_eq!((&pings[0]["id"], &pings[0]["type"]), (&first["id"], &json!("io.nats.micro.v1.ping_response")));
    let info = answer(bed, &format!("$SRV.INFO.litestream.{}", id(&first)), "");
    let told = info["metadata"][one.to_str().expect("a path")].as_str().expect("a text").to_string();
    assert!(told.starts_with(&bed.url_below("one")) && told.ends_with("0s ok"), "{told}");
    assert!(info["metadata"].get(other.to_str().expect("a path")).is_none(), "{info}");
    // A request reaches this one and no other, whatever it asks.
    let status = info["endpoints"][0]["subject"].as_str().expect("a subject").to_string();
    for payload in ["", "{}", one.to_str().expect("a path"), &bed.url_below("one")] {
        let rows = answer(bed, &status, payload);
        assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
        assert_eq!(rows[0]["database"], one.display().to_string());
    }
    let refused = answer(bed, &status, other.to_str().expect("a path"));
    assert_eq!(refused["code"], 404, "{refused}");
    let (first, second) = (settled(bed, &one, 2), settled(bed, &other, 2));
    let counted = |stats: &Value| {
        let endpoint = &stats["endpoints"][0];
        (endpoint["num_requests"].as_u64(), endpoint["num_errors"].as_u64())
    };
    assert_eq!((counted(&first), counted(&second)), ((Some(5), Some(1)), (Some(0), Some(0))));
    command_shows_what_the_process_says(bed, &one);
    replicators.into_iter().for_each(Process::stop);
    bed.run(&["status", &bed.url_below("one")]).refused(support::STORE, &["no replicator is connected"]);
}

fn command_shows_what_the_process_says(bed: &Bed, database: &Path) {
    let ran = bed.run(&["status", "-json", &bed.url_below("one")]).succeeded();
    let rows: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let compared = bed.run(&["status", "-json", database.to_str().expect("a path"), &bed.url_below("one")]).succeeded();
    let compared: Value = serde_json::from_str(&compared.stdout).expect("JSON");
    for field in ["database", "status", "position", "behind", "seconds_behind"] {
        assert_eq!(rows[0][field], compared[0][field], "{field}: {rows} {compared}");
    }
    assert_eq!(rows[0]["replica"], bed.url_below("one"));
}

#[test]
fn each_replicator_is_found_and_asked_alone() {
    each_is_found_and_asked_alone(&Bed::nats("service"));
}

#[test]
fn each_replicator_is_found_on_an_old_server() {
    on_system(|binary| each_is_found_and_asked_alone(&Bed::nats_on("service-old", binary, "")));
}

/// With a sync interval of an hour nothing else would store the second commit.
#[test]
fn sync_is_answered_when_all_is_stored_and_not_before() {
    let bed = Bed::nats("service-sync");
    let (database, server) = (bed.database(), address(&bed));
    let config = configuration(&bed, &database, "one", "");
    let replicator = replicate(&bed, &config);
    let subject = format!("litestream.sync.{}", id(&settled(&bed, &database, 1)));
    let url = bed.url_below("one");
    let mut application = bed.session(&database);
    application.sql("CREATE TABLE steps (n)");
    for step in 0..3 {
        application.sql(&format!("INSERT INTO steps VALUES ({step})"));
        assert_eq!(answer(&bed, &subject, "")[0]["status"], "ok");
        assert_equal(&database, &bed.restored_from(&url));
    }
    // A bucket that takes nothing: the answer waits, and so does one that asks about the same.
    let bytes = raw::info(&server, "backup")["state"]["bytes"].as_u64().expect("a size");
    raw::update(&server, "backup", json!({ "max_bytes": bytes }));
    application.sql("INSERT INTO steps VALUES (randomblob(300000))");
    let mut requesters = [0, 1].map(|_| Requester::new(&server));
    requesters.iter_mut().for_each(|requester| requester.request(&subject, ""));
    assert_eq!(requesters[0].answer_within(SILENCE), None);
    raw::update(&server, "backup", json!({ "max_bytes": -1 }));
    for requester in &mut requesters {
        let rows = requester.answer_within(PATIENCE).expect("an answer");
        assert_eq!(rows[0]["database"], database.display().to_string(), "{rows}");
        assert_equal(&database, &bed.restored_from(&url));
    }
    replicator.stop();
}

/// A server whose only user may do this much.
fn server_with(publish: &[&str], subscribe: &[&str]) -> Server {
    let allow = |subjects: &[&str]| json!({ "allow": subjects }).to_string();
    let permissions = format!("{{ publish: {}, subscribe: {} }}", allow(publish), allow(subscribe));
    let users = format!("{{ user: device, password: p, permissions: {permissions} }}, {{ user: admin, password: p }}");
    let config = format!("authorization {{ users = [ {users} ] }}\nno_auth_user: admin\n");
    Server::start(&pinned(), &config)
}

fn replicate_as_device(bed: &Bed, database: &Path, more: &str) -> Process {
    let login = format!("username: device\npassword: p\n{more}");
    replicate(bed, &configuration(bed, database, "one", &login))
}

const API: [&str; 3] = ["$JS.API.>", "$O.>", "litestream.alive.>"];

#[test]
fn login_without_the_permissions_loses_the_service_alone() {
    let publish = [&API[..], &["_INBOX.>"]].concat();
    let mut bed = Bed::on_server("service-refused", server_with(&publish, &["_INBOX.>", "litestream.alive.>"]));
    let database = bed.database();
    let mut replicator = replicate_as_device(&bed, &database, "");
    replicator.says("not shown as a NATS service");
    replicator.says("$SRV.");
    // Refused again with each connection, and not said again.
    bed.store_goes(false);
    bed.store_returns();
    let url = bed.url_below("one");
    bed.write(&database, &["--commits", "2"]);
    bed.run(&["list", &bed.url()]);
    replicator.terminate();
    replicator.exits(0);
    let log = replicator.log();
    assert_eq!(log.matches("not shown as a NATS service").count(), 1, "{log}");
    assert_eq!(log.matches("Permissions Violation").count(), 1, "{log}");
    assert_equal(&database, &bed.restored_from(&url));
}

#[test]
fn answer_that_is_refused_is_nobodys_trouble() {
    let subscribe = ["_INBOX.>", "litestream.>", "$SRV.>"];
    let bed = Bed::on_server("service-mute", server_with(&API, &subscribe));
    let database = bed.database();
    let mut replicator = replicate_as_device(&bed, &database, "");
    until("the bucket has a snapshot", || match bed.restore(&bed.url_below("one"), &bed.fresh("restored.db")) {
        ran if ran.status == 0 => Ok(()),
        ran => Err(ran.stderr),
    });
    for _ in 0..2 {
        assert_eq!(answers(&address(&bed), "$SRV.PING", "", SILENCE), Vec::<Value>::new());
    }
    replicator.says("cannot answer requests");
    let log = replicator.log();
    assert_eq!(log.matches("cannot answer requests").count(), 1, "{log}");
    assert!(!log.contains("level=warn") && !log.contains("level=error"), "{log}");
    replicator.terminate();
    replicator.exits(0);
    assert_equal(&database, &bed.restored_from(&bed.url_below("one")));
}

#[test]
fn service_false_listens_to_nobody() {
    let bed = Bed::nats("service-off");
    let database = bed.database();
    let mut replicator = replicate(&bed, &configuration(&bed, &database, "one", "service: false"));
    until("all is stored", || match bed.run(&["status", database.to_str().expect("a path"), &bed.url_below("one")]) {
        ran if ran.status == 0 => Ok(()),
        ran => Err(ran.stdout),
    });
    assert_eq!(answers(&address(&bed), "$SRV.PING", "", SILENCE), Vec::<Value>::new());
    let hint = ["cannot be asked", "service: false"];
    bed.run(&["status", &bed.url_below("one")]).refused(support::STORE, &hint);
    assert!(!replicator.log().contains("NATS service"), "{}", replicator.log());
    assert!(replicator.is_running());
    replicator.stop();
}

/// Reads the three answers as nats-py's own client of the protocol does.
const MICRO: &str = r#"
import asyncio, json, sys, nats
from nats.micro.service import ServicePing, ServiceInfo, ServiceStats
async def main(url):
    nc = await nats.connect(url)
    for verb, kind in (("PING", ServicePing), ("INFO", ServiceInfo), ("STATS", ServiceStats)):
        reply = await nc.request("$SRV." + verb, timeout=30)
        found = kind.from_dict(json.loads(reply.data))
        assert found.name == "litestream" and found.id and found.version, found
        for endpoint in getattr(found, "endpoints", None) or []:
            assert endpoint.queue_group == found.id and endpoint.subject.endswith(found.id), endpoint
    reply = await nc.request("litestream.sync." + found.id, b"/nowhere.db", timeout=30)
    assert reply.headers["Nats-Service-Error-Code"] == "404", reply.headers
    assert "/nowhere.db" in reply.headers["Nats-Service-Error"], reply.headers
    await nc.close()
asyncio.run(main(sys.argv[1]))
"#;

#[test]
fn another_client_of_the_protocol_reads_the_answers() {
    let bed = Bed::nats("service-micro");
    let database = bed.database();
    let replicator = replicate(&bed, &configuration(&bed, &database, "one", ""));
    settled(&bed, &database, 1);
    python(MICRO, &[&format!("nats://{}", address(&bed))]);
    replicator.stop();
}

/// A login that may answer who replicates is no operator: what it says of itself becomes no command of the one who asks.
#[test]
fn answer_of_a_stranger_becomes_no_command_of_ours() {
    let bed = Bed::nats("service-stranger");
    let database = bed.database();
    bed.replicate_once(&database);
    let delete = "PUB $JS.API.STREAM.DELETE.OBJ_backup 2\r\n{}\r\n";
    let service = format!("x 2\r\n{{}}\r\n{delete}PUB x");
    let info = json!({ "id": "x", "host": "h".repeat(100_000), "pid": 1, "db": "/a.db\r\n", "service": service });
    raw::answer_all(&address(&bed), "litestream.alive.>", &info.to_string());
    bed.run(&["status", &bed.url()]).refused(support::STORE, &["the replicator cannot be asked"]);
    let listed = bed.run(&["list", "-json", &bed.url()]).succeeded();
    let rows: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(rows[0]["host"].as_str().map(str::len), Some(1000));
    assert_equal(&database, &bed.restored());
}

/// An answer that repeats what was asked, twice, would be larger than a message may be: the server ends such a connection.
#[test]
fn request_of_any_size_is_answered_and_ends_no_connection() {
    let bed = Bed::nats("service-large");
    let database = bed.database();
    let replicator = replicate(&bed, &configuration(&bed, &database, "app", ""));
    let stats = settled(&bed, &database, 1);
    for payload in ["p".repeat(900_000), format!("{{\"database\":\"{}\"}}", "\u{e9}".repeat(300_000))] {
        let refused = answer(&bed, &format!("litestream.status.{}", id(&stats)), &payload);
        assert!(refused["error"].as_str().is_some_and(|text| text.len() <= 2000), "{refused}");
    }
    // The same connection, with the same ID, and no word of trouble.
    assert_eq!(id(&settled(&bed, &database, 1)), id(&stats));
    assert!(
        !replicator.log().contains("level=error") && !replicator.log().contains("level=warn"),
        "{}",
        replicator.log()
    );
    replicator.stop();
}

//! Buckets that are reached otherwise than at the server that one connects to: in the domain of a hub, through the API of
//! another account, with inboxes of one's own, and as a copy.

use std::path::Path;
use std::time::Duration;

use crate::support::nats::{Server, free_port, on_system, pinned};
use crate::support::raw;
use crate::support::sites::Sites;
use crate::support::{Bed, Process, assert_equal, equal, restore_command, until};
use serde_json::{Value, json};

/// Stores the database at `url`, once more after a commit, and reads it from `reader` by every command that reads.
fn round_trip(bed: &Bed, database: &Path, url: &str, reader: &str) {
    let path = database.to_str().expect("a path");
    for _ in 0..2 {
        bed.write(database, &["--commits", "3"]);
        bed.run(&["replicate", "-once", path, url]).succeeded();
    }
    bed.run(&["snapshot", path, url]).succeeded();
    assert_equal(database, &bed.restored_from(reader));
    let bucket = reader.replacen("/app", "", 1);
    assert_eq!(bed.run(&["list", &bucket]).succeeded().stdout.matches("app").count(), 1);
    bed.run(&["verify", path, reader]).succeeded();
}

fn in_the_domain_of_the_hub(binary: &Path) {
    let sites = Sites::new(binary);
    let bed = Bed::directory("hub-domain");
    let database = bed.database();
    let leaf = |query: &str| format!("nats://{}/backup/app{query}", sites.north.address());
    let ran = bed.run(&["replicate", "-once", "-create-bucket", database.to_str().unwrap(), &leaf("?js-domain=hub")]);
    ran.succeeded();
    let at_leaf = raw::ask(&sites.north.address(), "$JS.API.STREAM.INFO.OBJ_backup", &json!({}));
    assert!(at_leaf["error"].is_object(), "the leaf has a bucket");
    let list = |query: &str| format!("nats://{}/backup{query}", sites.north.address());
    round_trip(&bed, &database, &leaf("?js-domain=hub"), &format!("nats://{}/backup/app", sites.hub.address()));
    assert_equal(&database, &bed.restored_from(&leaf("?js-api-prefix=$JS.hub.API")));
    bed.run(&["list", &list("?js-domain=hub")]).succeeded();
    bed.restore(&leaf(""), &bed.fresh("none.db")).refused(4, &["there is no such bucket"]);
    bed.restore(&leaf("?js-domain=nowhere"), &bed.fresh("none.db")).refused(4, &["JetStream does not answer"]);
}

#[test]
fn a_bucket_in_the_domain_of_the_hub_is_used_through_a_leaf() {
    in_the_domain_of_the_hub(&pinned());
}

#[test]
fn an_old_server_lets_a_leaf_use_the_hub() {
    on_system(in_the_domain_of_the_hub);
}

/// The way that the manual names for a hub that can be reached by websocket alone.
fn by_a_leaf_that_speaks_websocket(binary: &Path) {
    let (port, leaves) = (free_port(), free_port());
    let listen = format!(
        "server_name: hub\nwebsocket {{ listen: \"127.0.0.1:{port}\", no_tls: true }}\nleafnodes {{ listen: \"127.0.0.1:{leaves}\" }}"
    );
    let hub = Server::start_tuned(binary, "domain: hub", &listen);
    let remote = format!("server_name: leaf\nleafnodes {{ remotes: [{{ url: \"ws://127.0.0.1:{port}\" }}] }}");
    let leaf = Server::start_tuned(binary, "domain: leaf", &remote);
    until("the leaf is joined", || {
        raw::ask_within(Duration::from_secs(2), &leaf.address(), "$JS.hub.API.INFO", &json!({}))
    });
    let bed = Bed::directory("websocket");
    let database = bed.database();
    raw::create(&hub.address(), "backup", json!({}));
    let url = format!("nats://{}/backup/app?js-domain=hub", leaf.address());
    round_trip(&bed, &database, &url, &format!("nats://{}/backup/app", hub.address()));
    let websocket = format!("ws://127.0.0.1:{port}/backup");
    bed.run(&["list", &websocket]).refused(2, &["websocket servers are not supported", "leaf node"]);
}

#[test]
fn a_hub_behind_websocket_is_used_through_a_leaf() {
    by_a_leaf_that_speaks_websocket(&pinned());
}

#[test]
fn an_old_server_reaches_a_hub_by_websocket() {
    on_system(by_a_leaf_that_speaks_websocket);
}

/// The account `store` has the bucket; `device` imports its API under another name, and may use only what it names itself.
const ACCOUNTS: &str = r#"
accounts {
  store {
    jetstream: enabled
    users: [{ user: store, password: p }]
    exports: [{ service: "$JS.API.>", response_type: stream }, { service: "$O.backup.>" }]
  }
  device {
    users: [{ user: device, password: p, permissions: {
      publish: ["JS.store.API.>", "$O.backup.>", "litestream.>", "_R_.>"]
      subscribe: ["_DEVICE.>", "litestream.>"]
    } }]
    imports: [
      { service: { account: store, subject: "$JS.API.>" }, to: "JS.store.API.>" }
      { service: { account: store, subject: "$O.backup.>" } }
    ]
  }
}
"#;

fn through_another_account(binary: &Path) {
    let server = Server::start(binary, ACCOUNTS);
    let bed = Bed::directory("accounts");
    let database = bed.database();
    let owner = format!("nats://store:p@{}/backup/app", server.address());
    bed.run(&["replicate", "-once", "-create-bucket", database.to_str().unwrap(), &owner]).succeeded();
    let query = "?js-api-prefix=JS.store.API&inbox-prefix=_DEVICE";
    let device = format!("nats://device:p@{}/backup/app{query}", server.address());
    round_trip(&bed, &database, &device, &owner);
    assert_equal(&database, &bed.restored_from(&device));
    // Without its own inbox it may hear no answer, and is told so at once.
    let inbox = format!("nats://device:p@{}/backup/app?js-api-prefix=JS.store.API", server.address());
    bed.restore(&inbox, &bed.fresh("none.db")).refused(4, &["Subscription to \"_INBOX."]);
}

#[test]
fn imported_api_of_another_account_works_with_own_inboxes() {
    through_another_account(&pinned());
}

#[test]
fn an_old_server_lets_another_account_use_its_api() {
    on_system(through_another_account);
}

/// Makes the bucket `name` of a stream without subjects.
fn copy(server: &Server, name: &str, change: Value) {
    let mut config = json!({ "name": format!("OBJ_{name}"), "storage": "file", "allow_direct": true });
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let answer = raw::ask(&server.address(), &format!("$JS.API.STREAM.CREATE.OBJ_{name}"), &config);
    assert!(answer["error"].is_null(), "{answer}");
}

/// What comes into the origin is told to who follows the copy, of one database or of all: by itself it would look in an hour.
fn copy_is_followed(bed: &Bed, database: &Path, origin: &str, copy: &str) {
    let (one, all) = (bed.fresh("followed.db"), bed.fresh("followed"));
    let (bucket, prefix) = copy.rsplit_once('/').unwrap();
    let follow = |url: &str, output: &Path, words: &[&str]| {
        bed.spawn(restore_command(url, output).args(["-f", "-follow-interval", "1h"]).args(words))
    };
    let followers = [follow(copy, &one, &[]), follow(bucket, &all, &["-all"])];
    let outputs = [one, all.join(prefix)];
    let caught_up = || outputs.iter().try_for_each(|output| equal(database, output));
    until("they are there", caught_up);
    bed.write(database, &["--commits", "2"]);
    bed.run(&["replicate", "-once", database.to_str().unwrap(), origin]).succeeded();
    until("they have what came since", caught_up);
    followers.into_iter().for_each(Process::kill);
}

fn from_copies(binary: &Path) {
    let server = Server::start(binary, "");
    let bed = Bed::directory("copies");
    let database = bed.database();
    let url = |bucket: &str| format!("nats://{}/{bucket}/app", server.address());
    raw::create(&server.address(), "backup", json!({}));
    copy(&server, "mirrored", json!({ "mirror": { "name": "OBJ_backup" } }));
    copy(&server, "sourced", json!({ "sources": [{ "name": "OBJ_backup" }] }));
    let path = database.to_str().unwrap();
    for bucket in ["mirrored", "sourced"] {
        bed.write(&database, &["--commits", "3"]);
        bed.run(&["replicate", "-once", path, &url("backup")]).succeeded();
        until("the copy has it", || {
            let ran = bed.run(&["verify", path, &url(bucket)]);
            if ran.status == 0 { Ok(()) } else { Err(ran.stderr) }
        });
        assert_equal(&database, &bed.restored_from(&url(bucket)));
        bed.run(&["generations", &url(bucket)]).succeeded();
        bed.run(&["list", &format!("nats://{}/{bucket}", server.address())]).succeeded();
        let before = raw::info(&server.address(), "backup")["state"]["messages"].clone();
        for words in [vec!["replicate", "-once", path], vec!["snapshot", path], vec!["delete", "-yes"]] {
            let at = url(bucket);
            let words: Vec<&str> = words.into_iter().chain([at.as_str()]).collect();
            bed.run(&words).refused(4, &["it is a copy of the bucket backup", "use the bucket backup"]);
        }
        let ran = bed.run(&["compact", "-once", "-json", &url(bucket)]);
        assert!(ran.status == 4 && ran.stderr.contains("it is a copy of the bucket backup"), "{}", ran.stderr);
        assert_eq!(ran.stdout.matches("\"replica\"").count(), 1, "{}", ran.stdout);
        assert_eq!(raw::info(&server.address(), "backup")["state"]["messages"], before);
        assert_equal(&database, &bed.restored_from(&url(bucket)));
        copy_is_followed(&bed, &database, &url("backup"), &url(bucket));
    }
}

#[test]
fn a_mirror_and_a_sourced_bucket_are_read_and_never_written() {
    from_copies(&pinned());
}

#[test]
fn the_copies_of_an_old_server_are_read_too() {
    on_system(from_copies);
}

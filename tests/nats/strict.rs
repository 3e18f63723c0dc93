//! A server in strict mode refuses a request with a field that it does not know. From 2.12 on that is the default. No request of
//! ours has one, whatever the command, and no refusal is passed over in silence: the server tells of each in its audit.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::clock::{with_clock, wrong_clock};
use crate::support::nats::{Server, pinned};
use crate::support::raw;
use crate::support::{BUCKET, Bed, Process, assert_equal, equal, litestream, restore_command, until};

/// "invalid JSON", which an unknown field is.
const REFUSED: u64 = 10025;

/// Everything that reads, stores, merges and deletes.
fn every_command(bed: &Bed, database: &Path) {
    let config = bed.path("litestream.yml");
    let text = format!(
        "snapshot: {{ retention: 1m }}\ndbs: [{{ path: {}, replica: {{ url: '{}', create-bucket: true }} }}]\n",
        database.display(),
        bed.url()
    );
    fs::write(&config, text).expect("write a configuration");
    let (config, url) = (config.to_str().expect("a path"), bed.url());
    for _ in 0..4 {
        bed.write(database, &["--commits", "1"]);
        bed.run(&["-config", config, "replicate", "-once"]).succeeded();
    }
    bed.run(&["-config", config, "snapshot", database.to_str().expect("a path")]).succeeded();
    // Merged after a quarter of an hour; deleted later, with the retention.
    for later in [20 * 60, 60 * 60] {
        let mut compact = litestream();
        compact.args(["compact", "-once", &url]);
        with_clock(&mut compact, &wrong_clock(bed), later);
        bed.run_command(&mut compact).succeeded();
    }
    let copy = bed.fresh("followed.db");
    let mut follower = bed.spawn(restore_command(&url, &copy).args(["-f", "-follow-interval", "1h"]));
    until("the copy is there", || equal(database, &copy));
    let mut replicator = bed.spawn(litestream().args(["-config", config, "replicate"]));
    replicator.says("msg=continuing");
    bed.write(database, &["--commits", "3"]);
    until("the copy has what came since", || equal(database, &copy));
    for command in ["list", "databases", "generations", "snapshots", "wal", "verify", "status"] {
        match command {
            "databases" => bed.run(&["-config", config, command]).succeeded(),
            _ => bed.run(&[command, &url]).succeeded(),
        };
    }
    assert!(follower.is_running() && replicator.is_running());
    [follower, replicator].into_iter().for_each(Process::stop);
    bed.run(&["-config", config, "replicate", "-once", "-enforce-retention"]).succeeded();
    assert_equal(database, &bed.restored());
    bed.run(&["delete", "-yes", &url]).succeeded();
}

#[test]
fn strict_server_refuses_no_request_of_any_command() {
    let server = Server::start_tuned(&pinned(), "strict: true", "");
    let address = server.address();
    let heard = raw::listen(&address, "$JS.EVENT.ADVISORY.API");
    let bed = Bed::on_server("strict", server);
    let database = bed.database();
    every_command(&bed, &database);
    // Such a server it is, and its audit tells.
    let refused = raw::ask(&address, "$JS.API.STREAM.NAMES", &json!({ "no_such_field": 1 }));
    assert_eq!(refused["error"]["err_code"], REFUSED, "{refused}");
    let audit = until("the audit has the refusal", || {
        let audit = heard.lock().expect("what was heard").clone();
        if audit.last().is_some_and(|line| line.contains("no_such_field")) { Ok(audit) } else { Err(audit.len()) }
    });
    let audit: Vec<Value> = audit.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for verb in ["STREAM.CREATE", "STREAM.INFO", "STREAM.PURGE", "CONSUMER.CREATE", "CONSUMER.DELETE"] {
        let asked = |call: &&Value| call["subject"].as_str().is_some_and(|subject| subject.contains(verb));
        assert!(audit.iter().any(|call| asked(&call)), "nobody asked {verb} of OBJ_{BUCKET}");
    }
    let refused = |call: &&Value| call["response"].as_str().is_some_and(|answer| answer.contains("10025"));
    let refused: Vec<&Value> = audit.iter().filter(refused).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
}

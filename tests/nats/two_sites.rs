//! Two sites behind leaf nodes, each with a JetStream domain and a bucket of the same name: the subjects of an object carry
//! no domain, so each stream would take in what the other site stores. That is refused before anything is visible.

use std::path::Path;

use crate::support;
use crate::support::nats::{Server, on_system, pinned};
use crate::support::raw;
use crate::support::sites::Sites;
use crate::support::{Bed, until};
use serde_json::json;

const BUCKET: &str = "backup";

fn url(server: &Server) -> String {
    format!("nats://{}/{BUCKET}/app", server.address())
}

/// Subjects of a new stream reach the other servers a moment after it was made.
fn subjects_are_known(from: &Server) {
    let probe = raw::Message::new(format!("$O.{BUCKET}.C.probe"), "x");
    let count = |server: &Server| raw::info(&server.address(), BUCKET)["state"]["messages"].as_u64();
    raw::publish(&from.address(), std::slice::from_ref(&probe));
    support::until("the probe is stored", || if count(from) > Some(0) { Ok(()) } else { Err("not yet") });
}

fn refused_from_the_start(binary: &Path) {
    let sites = Sites::new(binary);
    let bed = Bed::directory("two-sites");
    let database = bed.database();
    for server in [&sites.north, &sites.south] {
        raw::create(&server.address(), BUCKET, json!({}));
    }
    until("what one site stores reaches the other", || {
        subjects_are_known(&sites.north);
        match raw::info(&sites.south.address(), BUCKET)["state"]["messages"].as_u64() {
            Some(1..) => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
    let path = database.to_str().expect("a path");
    let parts = ["domain north", "domain south", "a bucket name of its own"];
    for words in [["replicate", path, &url(&sites.north)], ["replicate", path, &url(&sites.south)]] {
        bed.run(&words).refused(7, &parts);
    }
    bed.run(&["replicate", "-once", path, &url(&sites.north)]).refused(7, &parts);
    bed.run(&["snapshot", path, &url(&sites.south)]).refused(7, &parts);
    // Nothing became visible at either site.
    for server in [&sites.north, &sites.south] {
        bed.restore(&url(server), &bed.fresh("none.db")).refused(6, &["nothing is stored"]);
    }
}

#[test]
fn same_bucket_name_at_another_site_is_refused_at_once() {
    refused_from_the_start(&pinned());
}

#[test]
fn an_old_server_tells_the_same() {
    on_system(refused_from_the_start);
}

#[test]
fn bucket_created_later_at_another_site_ends_the_run() {
    let sites = Sites::new(&pinned());
    let bed = Bed::directory("two-sites-later");
    let database = bed.database();
    raw::create(&sites.north.address(), BUCKET, json!({}));
    let mut replicator = bed.replicate_to(&database, &url(&sites.north));
    until("the restore is there", || {
        let ran = bed.restore(&url(&sites.north), &bed.fresh("restored.db"));
        if ran.status == 0 { Ok(()) } else { Err(ran.stderr) }
    });
    raw::create(&sites.south.address(), BUCKET, json!({}));
    until("it has ended", || {
        if replicator.is_running() {
            bed.write(&database, &["--commits", "3"]);
            return Err("it runs");
        }
        Ok(())
    });
    replicator.exits(7);
    assert!(replicator.log().contains("domain south") && replicator.log().contains("domain north"));
}

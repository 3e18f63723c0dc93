//! Two sites behind leaf nodes, each with a JetStream domain and a bucket of the same name: the subjects of an object carry
//! no domain, so each stream would take in what the other site stores. That is refused before anything is visible.

#[path = "support/raw.rs"]
mod raw;
mod support;
use support::nats;

use std::path::Path;
use std::time::Duration;

use nats::{Server, free_port, on_system, pinned};
use serde_json::json;
use support::{Bed, until};

const BUCKET: &str = "backup";

struct Sites {
    north: Server,
    south: Server,
    _hub: Server,
}

impl Sites {
    /// They are joined when this returns.
    fn new(binary: &Path) -> Sites {
        let port = free_port();
        let listen = format!("server_name: hub\nleafnodes {{ listen: \"127.0.0.1:{port}\" }}");
        let hub = Server::start_tuned(binary, "domain: hub", &listen);
        let leaf = |name: &str| {
            let remote = format!("leafnodes {{ remotes: [{{ url: \"nats://127.0.0.1:{port}\" }}] }}");
            Server::start_tuned(binary, &format!("domain: {name}"), &format!("server_name: {name}\n{remote}"))
        };
        let sites = Sites { north: leaf("north"), south: leaf("south"), _hub: hub };
        for (server, other) in [(&sites.north, "south"), (&sites.south, "north")] {
            until("the sites are joined", || {
                let (within, subject) = (Duration::from_secs(2), format!("$JS.{other}.API.INFO"));
                raw::ask_within(within, &server.address(), &subject, &json!({}))
            });
        }
        sites
    }
}

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
fn a_bucket_of_the_same_name_at_another_site_is_refused_before_anything_is_visible() {
    refused_from_the_start(&pinned());
}

#[test]
fn an_old_server_tells_the_same() {
    on_system(refused_from_the_start);
}

#[test]
fn a_bucket_that_another_site_makes_later_ends_the_run_and_names_both() {
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

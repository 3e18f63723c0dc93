//! The server goes away, stands still and comes back: nothing is lost, nothing is out of order, and a stop that could
//! not store everything does not say that it did.

use std::thread::sleep;
use std::time::Duration;

use crate::support::{Bed, STORE, all_committed, assert_equal, judged};

/// Several sync intervals.
const AWAY: Duration = Duration::from_secs(4);

#[test]
fn a_server_that_was_killed_and_comes_back_has_everything() {
    let mut bed = Bed::nats("killed");
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut application = bed.application(&database, &["--seconds", "8", "--rate", "150"]);
    bed.server().kill();
    sleep(AWAY);
    bed.server().restart();
    application.exits(0);
    bed.converges(&database);
    all_committed(&[judged(&bed.restored())], &database);
    replicator.stop();
}

#[test]
fn a_server_that_stood_still_has_everything() {
    let mut bed = Bed::nats("frozen");
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut application = bed.application(&database, &["--seconds", "8", "--rate", "150"]);
    bed.server().freeze();
    sleep(AWAY);
    bed.server().thaw();
    application.exits(0);
    bed.converges(&database);
    replicator.stop();
}

#[test]
fn an_outage_is_in_the_log_and_its_end_too() {
    let mut bed = Bed::nats("log");
    let database = bed.database();
    let mut replicator = bed.replicate(&database);
    bed.converges(&database);
    bed.server().kill();
    bed.write(&database, &["--commits", "5"]);
    replicator.says("level=warn");
    bed.server().restart();
    bed.converges(&database);
    replicator.stop();
}

#[test]
fn lame_duck_server_is_left_at_once_and_found_again() {
    let mut bed = Bed::nats("lame");
    let database = bed.database();
    let mut replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut application = bed.application(&database, &["--seconds", "4", "--rate", "100"]);
    bed.server().lame();
    replicator.says("the server is going down (lame duck mode)");
    application.exits(0);
    bed.server().restart();
    replicator.says("problem resolved");
    bed.converges(&database);
    all_committed(&[judged(&bed.restored())], &database);
    let told = replicator.log().matches("lame duck").count();
    assert_eq!(told, 1, "{}", replicator.log());
    replicator.stop();
}

#[test]
fn stop_during_an_outage_does_not_claim_success() {
    let mut bed = Bed::nats("stop");
    let database = bed.database();
    let mut replicator = bed.replicate(&database);
    bed.converges(&database);
    bed.server().kill();
    bed.write(&database, &["--commits", "5"]);
    replicator.terminate();
    replicator.exits(STORE);
    bed.server().restart();
    bed.replicate_once(&database);
    assert_equal(&database, &bed.restored());
}

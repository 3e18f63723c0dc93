//! A copy learns of new commits from the server: without a poll, after cuts, and without a message at rest.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::bucket::{http_get, monitored};
use crate::support::{Bed, Process, assert_equal, equal, restore_command, until};

/// A follower that would look by itself only in an hour.
fn follow(bed: &Bed, copy: &Path) -> Process {
    let mut command = restore_command(&bed.url(), copy);
    let follower = bed.spawn(command.args(["-f", "-follow-interval", "1h"]));
    let wal = copy.with_extension("db-wal");
    until("the copy is there", || if wal.exists() { Ok(()) } else { Err(follower.log()) });
    follower
}

#[test]
fn a_copy_learns_of_each_commit_from_the_server() {
    let mut bed = Bed::nats("pushed");
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut follower = follow(&bed, &copy);
    for _ in 0..3 {
        bed.write(&database, &["--commits", "2"]);
        until("the copy has it", || equal(&database, &copy));
    }
    // What was stored while it was cut off is looked for when the server is back.
    bed.store_goes(false);
    bed.write(&database, &["--commits", "2"]);
    bed.store_returns();
    until("the copy has it", || equal(&database, &copy));
    bed.write(&database, &["--commits", "2"]);
    until("the copy has it", || equal(&database, &copy));
    // A new generation does not join what there is.
    replicator.stop();
    bed.sql(&database, &["VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"]);
    bed.write(&database, &["--commits", "2"]);
    let replicator = bed.replicate(&database);
    until("the copy has it", || equal(&database, &copy));
    assert!(follower.is_running());
    follower.stop();
    replicator.stop();
    assert_equal(&database, &copy);
}

#[test]
fn a_copy_at_rest_asks_nothing() {
    let (config, monitor) = monitored();
    let bed = Bed::nats_with("resting-copy", &config);
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    bed.replicate_once(&database);
    let mut command = restore_command(&bed.url(), &copy);
    let follower = bed.spawn(command.args(["-f", "-follow-interval", "20ms"]));
    let received = || http_get(monitor, "/varz")["in_msgs"].as_u64().expect("a number of messages");
    // A look takes several messages; a poll of 20 ms would make hundreds of them in this time.
    let mut last = received();
    until("it is at rest", || {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            // What is measured: two seconds at rest, in samples.
            std::thread::sleep(Duration::from_millis(50));
        }
        let before = std::mem::replace(&mut last, received());
        if last - before <= 2 { Ok(()) } else { Err(format!("{} messages", last - before)) }
    });
    assert_equal(&database, &copy);
    follower.stop();
}

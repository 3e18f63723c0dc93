//! One database in two replicas, a server and a directory: each is as good as the other, and neither waits for the other.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use crate::support::{Bed, Process, Ran, STORE, USAGE, all_committed, assert_equal, equal, judged, litestream, until};
use serde_json::Value;

/// Random rows, in all more than what may wait in memory and in a small spool, compressed.
const BURST: [&str; 8] = ["--commits", "60", "--rows", "20", "--size", "20000", "--rate", "30"];
const REPLICAS: [&str; 2] = ["server", "card"];

/// A server and a directory, and a configuration that names both. `more` is said of the database.
struct Two {
    bed: Bed,
    database: PathBuf,
    config: PathBuf,
}

impl Two {
    fn new(name: &str, more: &str) -> Two {
        let bed = Bed::nats(name);
        let (database, config) = (bed.database(), bed.path("litestream.yml"));
        let text = format!(
            "dbs:\n- path: {}\n  {more}\n  replicas:\n  - {{name: server, url: \"{}\", sync-interval: 100ms, \
             timeout: 2s, reconnect-wait: 100ms, create-bucket: true}}\n  - {{name: card, path: {}, sync-interval: 100ms}}\n",
            database.display(),
            bed.url(),
            bed.path("card").display()
        );
        fs::write(&config, text).unwrap();
        Two { bed, database, config }
    }

    fn command(&self, words: &[&str]) -> std::process::Command {
        let mut command = litestream();
        command.arg("-config").arg(&self.config).args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Ran {
        self.bed.run_command(&mut self.command(words))
    }

    fn rows(&self, words: &[&str]) -> Vec<Value> {
        let ran = self.run(words);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", ran.stdout, ran.stderr))
    }

    fn replicate(&self) -> Process {
        self.bed.spawn(&mut self.command(&["replicate"]))
    }

    fn restore(&self, replica: &str) -> (Ran, PathBuf) {
        let output = self.bed.fresh("restored.db");
        let (database, path) = (self.database.to_str().unwrap(), output.to_str().unwrap());
        (self.run(&["restore", "-replica", replica, "-o", path, database]), output)
    }

    fn restored(&self, replica: &str) -> PathBuf {
        let (ran, output) = self.restore(replica);
        ran.succeeded();
        output
    }

    fn converges(&self, replica: &str) {
        until("the restore equals the live database", || {
            let (ran, output) = self.restore(replica);
            match ran.status {
                0 => equal(&self.database, &output),
                _ => Err(ran.stderr),
            }
        });
    }

    fn both_converge(&self) {
        REPLICAS.into_iter().for_each(|replica| self.converges(replica));
    }

    fn generations(&self, replica: &str) -> usize {
        self.rows(&["generations", "-json", "-replica", replica, self.database.to_str().unwrap()]).len()
    }

    fn newest_segments(&self) -> [Option<Value>; 2] {
        let database = self.database.to_str().unwrap();
        REPLICAS.map(|replica| self.rows(&["wal", "-json", "-replica", replica, database]).pop())
    }
}

#[test]
fn one_that_is_away_delays_the_other_in_nothing_and_catches_up() {
    let mut two = Two::new("two-away", "");
    let mut replicator = two.replicate();
    two.both_converge();
    let timed = |two: &Two| {
        let begun = Instant::now();
        two.bed.write(&two.database, &["--commits", "3"]);
        two.converges("card");
        begun.elapsed()
    };
    let before = timed(&two);
    two.bed.server().kill();
    let during = (0..3).map(|_| timed(&two)).max().unwrap();
    assert!(during < 10 * before, "{before:?} with both, {during:?} with one");
    let ran = two.run(&["status", "-json"]);
    assert_ne!(ran.status, 0, "one replica cannot be reached: {}", ran.stdout);
    two.bed.server().restart();
    two.both_converge();
    for replica in REPLICAS {
        assert_eq!(two.generations(replica), 1, "{replica}");
        two.run(&["verify", "-replica", replica]).succeeded();
    }
    assert!(replicator.is_running());
    replicator.stop();
    two.run(&["status"]).succeeded();
}

#[test]
fn full_spool_ends_only_the_generation_of_its_replica() {
    let mut two = Two::new("two-full", "spool-limit: 1MiB");
    let mut replicator = two.replicate();
    two.both_converge();
    two.bed.server().kill();
    two.bed.write(&two.database, &BURST);
    replicator.says("replica=server reason=\"store away for too long\"");
    two.converges("card");
    two.bed.server().restart();
    two.both_converge();
    assert_eq!((two.generations("server"), two.generations("card")), (2, 1));
    for replica in REPLICAS {
        all_committed(&[judged(&two.restored(replica))], &two.database);
    }
    replicator.stop();
    REPLICAS.into_iter().for_each(|replica| assert_equal(&two.database, &two.restored(replica)));
}

#[test]
fn a_replicator_that_is_killed_goes_on_in_both_where_each_was() {
    let two = Two::new("two-killed", "");
    for round in 0..4 {
        let replicator = two.replicate();
        two.both_converge();
        let before = two.newest_segments();
        let writer = two.bed.application(&two.database, &["--commits", "600", "--rate", "200"]);
        // One that has nothing of this WAL, while the other has, begins a new generation: its place is no longer at hand.
        until("both have something of the WAL", || {
            let now = two.newest_segments();
            if now.iter().zip(&before).all(|(now, before)| now != before) { Ok(()) } else { Err("not yet") }
        });
        replicator.kill();
        drop(writer);
        two.run(&["replicate", "-once"]).succeeded();
        for replica in REPLICAS {
            assert_equal(&two.database, &two.restored(replica));
            assert_eq!(two.generations(replica), 1, "{replica}, round {round}");
        }
    }
}

/// The directory is further on than the server: what that one lacks is in the WAL still.
#[test]
fn at_a_start_one_that_is_behind_is_given_what_it_lacks() {
    let mut two = Two::new("two-behind", "");
    let replicator = two.replicate();
    two.both_converge();
    two.bed.server().kill();
    two.bed.write(&two.database, &["--commits", "5"]);
    two.converges("card");
    replicator.kill();
    let held = two.bed.application(&two.database, &["--commits", "3"]);
    drop(held);
    two.bed.server().restart();
    let ran = two.run(&["replicate", "-once"]).succeeded();
    for replica in REPLICAS {
        assert!(ran.stderr.contains(&format!("replica={replica} position=")), "{replica}: {}", ran.stderr);
        assert_equal(&two.database, &two.restored(replica));
    }
}

#[test]
fn one_that_does_not_answer_at_the_start_joins_later() {
    let mut two = Two::new("two-late", "");
    two.run(&["replicate", "-once"]).succeeded();
    two.bed.server().kill();
    let mut replicator = two.replicate();
    two.bed.write(&two.database, &["--commits", "3"]);
    two.converges("card");
    two.bed.server().restart();
    two.both_converge();
    assert!(replicator.is_running());
    replicator.stop();
    REPLICAS.into_iter().for_each(|replica| assert_equal(&two.database, &two.restored(replica)));
}

#[test]
fn a_single_run_stores_what_it_can_and_fails_for_what_it_cannot() {
    let mut two = Two::new("two-once", "");
    two.bed.server().kill();
    let ran = two.run(&["replicate", "-once"]);
    assert_eq!(ran.status, STORE, "{}", ran.stderr);
    // The log tells the one from the other.
    for (message, replica) in [("msg=stored ", "replica=card"), ("msg=\"commits are not stored\"", "replica=server")] {
        let lines: Vec<&str> = ran.stderr.lines().filter(|line| line.contains(message)).collect();
        assert!(matches!(lines[..], [line] if line.contains(replica)), "{message}: {}", ran.stderr);
    }
    assert_equal(&two.database, &two.restored("card"));
    two.bed.server().restart();
    two.run(&["replicate", "-once"]).succeeded();
    assert_equal(&two.database, &two.restored("server"));
}

#[test]
fn commands_use_every_replica_or_the_chosen_one() {
    let mut two = Two::new("two-commands", "");
    let database = two.database.to_str().unwrap().to_string();
    two.run(&["replicate", "-once"]).succeeded();
    for command in ["status", "verify", "snapshot"] {
        let rows = two.rows(&[command, "-json"]);
        let urls: Vec<_> = rows.iter().map(|row| row["replica"].as_str().unwrap().to_string()).collect();
        assert_eq!(urls.len(), 2, "{command}: {rows:?}");
        assert!(urls[0].starts_with("nats://") && urls[1].starts_with("file://"), "{command}: {urls:?}");
        for chosen in ["card", &urls[0]] {
            assert_eq!(two.rows(&[command, "-json", "-replica", chosen]).len(), 1, "{command} {chosen}");
        }
    }
    two.run(&["generations", &database]).refused(USAGE, &["it has several replicas", "-replica: server, card"]);
    two.run(&["status", "-replica", "tape"]).refused(USAGE, &["no replica tape", "server, card"]);
    two.bed
        .run(&["status", "-replica", "card", &database, &two.bed.url()])
        .refused(USAGE, &["-replica are both given"]);
    two.run(&["replicate", "-replica", "card"]).refused(USAGE, &["-replica works only with"]);
    // The newest is restored, and of those that answer alone.
    two.bed.write(&two.database, &["--commits", "2"]);
    two.run(&["snapshot", "-replica", "server", &database]).succeeded();
    for (away, expected) in [(false, "replica=server"), (true, "replica=card")] {
        if away {
            two.bed.server().kill();
        }
        let output = two.bed.fresh("newest.db");
        let ran = two.run(&["restore", "-o", output.to_str().unwrap(), &database]).succeeded();
        assert!(ran.stderr.contains(&format!("{expected} stored_until=")), "{}", ran.stderr);
        assert_eq!(equal(&two.database, &output).is_ok(), !away);
    }
}

#[test]
fn snapshot_is_requested_in_each_replica_of_a_replicator() {
    let two = Two::new("two-snapshot", "");
    let replicator = two.replicate();
    two.both_converge();
    two.bed.write(&two.database, &["--commits", "2"]);
    let rows = two.rows(&["snapshot", "-json"]);
    assert!(rows.iter().all(|row| row["error"].is_null()), "{rows:?}");
    for replica in REPLICAS {
        let snapshots = two.rows(&["snapshots", "-json", "-replica", replica, two.database.to_str().unwrap()]);
        assert_eq!(snapshots.len(), 2, "{replica}: {snapshots:?}");
    }
    replicator.stop();
}

#[test]
fn replica_of_another_replicator_is_refused_the_other_stored() {
    let two = Two::new("two-taken", "");
    let other = two.bed.path("other.db");
    two.bed.write(&other, &["--commits", "3"]);
    let keeper = two.bed.replicate(&other);
    until("the other database is stored", || match two.bed.restored_if_any() {
        Some(_) => Ok(()),
        None => Err("nothing to restore"),
    });
    let mut replicator = two.replicate();
    replicator.says("not stored in this replica");
    two.converges("card");
    assert!(replicator.is_running());
    replicator.terminate();
    assert_ne!(replicator.wait(), 0, "not all replicas have all: {}", replicator.log());
    keeper.stop();
}

//! A store that no longer has what it acknowledged: there is no exit 0 before a restore gives the live database again.

use std::path::Path;

use crate::support;
use crate::support::raw;
use crate::support::{Bed, assert_equal};
use serde_json::{Value, json};

/// The bucket of a bed.
fn bucket(bed: &Bed) -> String {
    bed.url().rsplit('/').next().expect("a bucket").to_string()
}

/// Ends with 0 only after what was lost is stored again.
fn ends_with_all_stored(bed: &Bed, database: &Path, harm: impl FnOnce()) {
    let replicator = bed.replicate(database);
    bed.converges(database);
    harm();
    replicator.stop();
    assert_equal(&bed.restored(), database);
}

#[test]
fn a_purged_stream_is_filled_again_before_the_end() {
    let mut bed = Bed::nats("purged");
    let (database, bucket) = (bed.database(), bucket(&bed));
    let address = bed.server().address();
    ends_with_all_stored(&bed, &database, || {
        raw::ask(&address, &format!("$JS.API.STREAM.PURGE.OBJ_{bucket}"), &json!({}));
    });
}

#[test]
fn a_bucket_that_was_made_again_is_filled_before_the_end() {
    let mut bed = Bed::nats("made-again");
    let (database, bucket) = (bed.database(), bucket(&bed));
    let address = bed.server().address();
    ends_with_all_stored(&bed, &database, || {
        raw::delete(&address, &bucket);
        raw::create(&address, &bucket, json!({}));
    });
}

#[test]
fn objects_deleted_by_hand_are_stored_again_before_exit() {
    for (room, which) in [("snapshots", "first"), ("wal", "first"), ("wal", "middle"), ("wal", "last")] {
        let bed = Bed::directory("by-hand");
        let database = bed.database();
        let replicator = bed.replicate(&database);
        for _ in 0..3 {
            bed.write(&database, &["--commits", "2"]);
            bed.converges(&database);
        }
        let names = bed.objects(room);
        let at = match which {
            "first" => 0,
            "middle" => names.len() / 2,
            _ => names.len() - 1,
        };
        let name = names[at].split_whitespace().next().expect("a name");
        std::fs::remove_file(bed.path("store").join(name)).expect("delete an object");
        replicator.stop();
        assert_equal(&bed.restored(), &database);
    }
}

/// The host of the server lost power before its disk had what was acknowledged: it comes back as it was a while ago.
fn comes_back_as_it_was(name: &str, binary: &Path, limits: &str) {
    let mut bed = Bed::nats_on(name, binary, limits);
    let database = bed.database();
    let mut replicator = bed.replicate(&database);
    bed.converges(&database);
    bed.server().stop();
    let (store, copy) = (bed.server().scratch.join("jetstream"), bed.path("earlier"));
    copy_tree(&store, &copy);
    bed.server().restart();
    for _ in 0..3 {
        bed.write(&database, &["--commits", "3"]);
        bed.converges(&database);
    }
    bed.server().kill();
    std::fs::remove_dir_all(&store).expect("remove the server's store");
    copy_tree(&copy, &store);
    bed.server().restart();
    // Nobody writes meanwhile: the reconnect alone makes it look.
    bed.converges(&database);
    replicator.says("problem, retrying");
    replicator.stop();
    assert_equal(&bed.restored(), &database);
}

fn copy_tree(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("run cp");
    assert!(copied.success());
}

#[test]
fn server_that_lost_its_last_minute_is_filled_again() {
    comes_back_as_it_was("rolled-back", &support::nats::pinned(), "sync_interval: \"10m\"");
    support::nats::on_system(|binary| comes_back_as_it_was("rolled-back-system", binary, ""));
}

#[test]
fn stream_in_memory_is_filled_again_after_a_restart() {
    let test = |name: &str, binary: &Path| {
        let mut bed = Bed::nats_on(name, binary, "");
        let (database, bucket) = (bed.database(), bucket(&bed));
        raw::create(&bed.server().address(), &bucket, json!({"storage": "memory"}));
        let mut replicator = bed.replicate(&database);
        replicator.says("the bucket is in memory");
        bed.converges(&database);
        bed.server().kill();
        bed.server().restart();
        // The bucket itself is gone with the server, until it is made again.
        support::until("all is stored again", || {
            let output = bed.fresh("restored.db");
            let ran = bed.restore(&bed.url(), &output);
            if ran.status == 0 { support::equal(&database, &output) } else { Err(ran.stderr) }
        });
        replicator.stop();
        assert_equal(&bed.restored(), &database);
    };
    test("memory", &support::nats::pinned());
    support::nats::on_system(|binary| test("memory-system", binary));
}

/// The sequence of the last chunk of the object with the most chunks, or of the one stored last.
fn last_chunk(address: &str, bucket: &str, most: bool) -> u64 {
    let subjects = raw::ask(
        address,
        &format!("$JS.API.STREAM.INFO.OBJ_{bucket}"),
        &json!({"subjects_filter": format!("$O.{bucket}.C.>")}),
    );
    let last = |subject: &String| {
        let found =
            raw::ask(address, &format!("$JS.API.STREAM.MSG.GET.OBJ_{bucket}"), &json!({"last_by_subj": subject}));
        found["message"]["seq"].as_u64().expect("a sequence")
    };
    let subjects = subjects["state"]["subjects"].as_object().expect("subjects").clone();
    let of_interest = |(subject, messages): (&String, &Value)| (messages.as_u64().filter(|_| most), last(subject));
    subjects.iter().map(of_interest).max().expect("a chunk").1
}

/// A block of the server's file store that is lost takes chunks and leaves the meta of their object.
fn chunk_is_lost(name: &str, binary: &Path, of_snapshot: bool) {
    let mut bed = Bed::nats_on(name, binary, "");
    let (database, bucket) = (bed.database(), bucket(&bed));
    let address = bed.server().address();
    bed.sql(&database, &["CREATE TABLE big (x)", "INSERT INTO big VALUES (randomblob(700000))"]);
    let mut replicator = bed.replicate(&database);
    bed.converges(&database);
    bed.write(&database, &["--commits", "2"]);
    bed.converges(&database);
    let lose_chunk = |of_snapshot| {
        let seq = last_chunk(&address, &bucket, of_snapshot);
        let deleted = raw::ask(&address, &format!("$JS.API.STREAM.MSG.DELETE.OBJ_{bucket}"), &json!({"seq": seq}));
        assert_eq!(deleted["success"], true, "{deleted}");
    };
    lose_chunk(of_snapshot);
    replicator.terminate();
    replicator.exits(0);
    let log = replicator.log();
    assert!(log.contains("is listed, but a part of it is missing"), "{log}");
    assert_equal(&bed.restored(), &database);
    // `snapshot` stores what has changed after the newest snapshot only if that is whole.
    bed.write(&database, &["--commits", "2"]);
    lose_chunk(true);
    bed.run(&["snapshot", database.to_str().unwrap(), &bed.url()]).succeeded();
    assert_equal(&bed.restored(), &database);
}

#[test]
fn a_chunk_that_the_server_lost_is_noticed_before_exit() {
    for of_snapshot in [true, false] {
        chunk_is_lost("lost-chunk", &support::nats::pinned(), of_snapshot);
        support::nats::on_system(|binary| chunk_is_lost("lost-chunk-system", binary, of_snapshot));
    }
}

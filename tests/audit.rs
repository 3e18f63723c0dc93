//! A store that no longer has what it acknowledged: there is no exit 0 before a restore gives the live database again.

mod support;

use std::path::Path;

use serde_json::json;
use support::{Bed, assert_equal};

#[path = "support/raw.rs"]
mod raw;

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
fn objects_that_were_deleted_by_hand_are_stored_again_before_the_end() {
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

//! Many databases in one process: what one of them has to do keeps none of the others waiting.

mod support;

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use support::{Bed, Process, assert_equal, litestream, on_a_directory_only, tree};

on_a_directory_only! {
    a_commit_is_stored_while_another_database_has_much_to_copy
}

fn segments(bed: &Bed, prefix: &str) -> usize {
    tree(&bed.path("store").join(prefix)).iter().filter(|name| name.contains("/wal/")).count()
}

fn send(process: &Process, signal: &str) {
    let sent = std::process::Command::new("kill").arg(signal).arg(process.pid().to_string()).status();
    assert!(sent.expect("kill").success(), "{signal}");
}

/// `replicate` for several databases, each below a prefix of its own name, in this order.
fn replicate_all(bed: &Bed, databases: &[&Path]) -> Process {
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_string();
    let one = |path: &&Path| {
        format!("  - {{path: {}, replica: {{url: \"{}\"}}}}\n", path.display(), bed.url_below(&name(path)))
    };
    let config = bed.path("litestream.yml");
    fs::write(&config, format!("dbs:\n{}", databases.iter().map(one).collect::<String>())).unwrap();
    bed.spawn(litestream().arg("-config").arg(config).arg("replicate"))
}

/// The segments of either, at the moment when the small database has one more.
fn a_commit_is_stored_while_another_database_has_much_to_copy(bed: &Bed) {
    let (large, small) = (bed.path("large.db"), bed.path("small.db"));
    let mut sessions = [&large, &small].map(|path| bed.session(path));
    for session in &mut sessions {
        session.sql("CREATE TABLE r (x)");
        session.sql("PRAGMA wal_autocheckpoint = 0");
    }
    let replicator = replicate_all(bed, &[&large, &small]);
    support::until("both are stored", || {
        let stored = |prefix| !tree(&bed.path("store").join(prefix)).is_empty();
        if stored("large") && stored("small") { Ok(()) } else { Err("not yet") }
    });
    let before = segments(bed, "small");
    send(&replicator, "-STOP");
    // Zeros are copied for long and take no room, so that no bound of memory ends the copy.
    for _ in 0..10 {
        sessions[0].sql(
            "INSERT INTO r SELECT zeroblob(1000000) FROM (WITH RECURSIVE n(i) AS \
            (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30) SELECT i FROM n)",
        );
    }
    sessions[1].sql("INSERT INTO r VALUES (1)");
    send(&replicator, "-CONT");
    let begin = Instant::now();
    while segments(bed, "small") == before {
        assert!(begin.elapsed() < support::SOON, "the small database's commit was not stored");
        sleep(Duration::from_millis(1));
    }
    let small_took = begin.elapsed();
    support::until("the large database's commits are stored", || {
        let output = bed.fresh("restored.db");
        bed.restore(&bed.url_below("large"), &output).succeeded();
        support::equal(&large, &output)
    });
    let large_took = begin.elapsed();
    println!("small after {small_took:?}, large after {large_took:?}");
    assert!(small_took < large_took / 4, "small after {small_took:?}, large after {large_took:?}");
    replicator.stop();
    assert_equal(&small, &bed.restored_from(&bed.url_below("small")));
}

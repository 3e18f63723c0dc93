//! The store is away for so long that memory is not enough: segments wait on disk, up to a bound, and nothing is lost
//! that the live database still has.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support;
use crate::support::{Bed, Process, all_committed, assert_equal, judged, until};

/// Random rows, in all more than what may wait in memory, compressed.
const BURST: [&str; 8] = ["--commits", "60", "--rows", "20", "--size", "20000", "--rate", "30"];

fn spool_of(database: &Path) -> PathBuf {
    let name = database.file_name().unwrap().to_str().unwrap();
    database.with_file_name(format!(".{name}-litestream/spool"))
}

/// Segments in the spool.
fn spooled(database: &Path) -> usize {
    support::tree(&spool_of(database)).iter().filter(|line| line.contains(".gz ")).count()
}

fn generations(bed: &Bed) -> usize {
    let ran = bed.run(&["generations", &bed.url()]).succeeded();
    ran.stdout.lines().count() - 1
}

fn waits_in_spool(database: &Path) {
    until("segments wait in the spool", || match spooled(database) {
        0 => Err("it is empty"),
        count => Ok(count),
    });
}

/// A bed whose server goes away under a burst that does not fit into memory.
fn overrun(name: &str) -> (Bed, PathBuf, Process) {
    let mut bed = Bed::nats(name);
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    assert_eq!(spooled(&database), 0, "nothing is written to disk while the store is there");
    bed.server().kill();
    bed.write(&database, &BURST);
    waits_in_spool(&database);
    (bed, database, replicator)
}

#[test]
fn overflow_waits_on_disk_and_is_stored_in_order() {
    let (mut bed, database, replicator) = overrun("spool");
    bed.server().restart();
    bed.converges(&database);
    assert_eq!(spooled(&database), 0, "what is stored is not kept twice");
    assert_eq!(generations(&bed), 1, "the history of the outage is not lost");
    all_committed(&[judged(&bed.restored())], &database);
    replicator.stop();
}

#[test]
fn spool_of_a_killed_process_is_recovered_by_the_next() {
    let (mut bed, database, replicator) = overrun("spool-killed");
    replicator.kill();
    bed.server().restart();
    let ran = bed.replicate_once(&database);
    assert!(ran.stderr.contains("segment recovered from the spool"), "{}", ran.stderr);
    assert_equal(&database, &bed.restored());
    assert_eq!(spooled(&database), 0);
}

#[test]
fn damaged_spool_loses_only_the_moments_of_the_outage() {
    let (mut bed, database, replicator) = overrun("spool-damaged");
    replicator.kill();
    for line in support::tree(&spool_of(&database)).iter().filter(|line| line.contains(".gz ")) {
        let path = spool_of(&database).join(line.rsplit_once(' ').unwrap().0);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    }
    bed.server().restart();
    bed.replicate_once(&database);
    assert_equal(&database, &bed.restored());
}

/// Each thing that may happen to the spool of a running process.
#[test]
fn spool_lost_during_an_outage_ends_the_generation_only() {
    let remove: fn(&Path) = |path| fs::remove_file(path).unwrap();
    let cut: fn(&Path) = |path| fs::write(path, &fs::read(path).unwrap()[..100]).unwrap();
    for (number, harm) in [remove, cut].into_iter().enumerate() {
        let (mut bed, database, mut replicator) = overrun(&format!("spool-harmed-{number}"));
        for line in support::tree(&spool_of(&database)).iter().filter(|line| line.contains(".gz ")) {
            harm(&spool_of(&database).join(line.rsplit_once(' ').unwrap().0));
        }
        bed.server().restart();
        replicator.says("reason=\"spool is damaged or gone\"");
        bed.converges(&database);
        bed.write(&database, &["--commits", "3"]);
        replicator.stop();
        assert_equal(&database, &bed.restored());
        bed.run(&["verify", &bed.url()]).succeeded();
        assert_eq!(spooled(&database), 0);
    }
}

/// The disk of the spool is full, or broken, now and then.
#[test]
fn a_spool_whose_disk_fails_loses_nothing() {
    for inject in ["fsync:error=EIO:when=2+3", "rename,renameat,renameat2:error=ENOSPC:when=3+2"] {
        let mut bed = Bed::nats("spool-disk");
        let database = bed.database();
        let command = bed.replicate_command(&database, &bed.url());
        let Some(mut command) = support::meddled(&command, inject) else { return };
        let mut replicator = bed.start_command(&mut command);
        bed.converges(&database);
        bed.server().kill();
        bed.write(&database, &BURST);
        replicator.says("cannot spool, segments wait in memory");
        bed.server().restart();
        bed.converges(&database);
        bed.run(&["verify", &bed.url()]).succeeded();
        assert!(replicator.is_running());
        all_committed(&[judged(&bed.restored())], &database);
    }
}

/// A disk that refuses what is put in the spool, with memory full, for a short while or for good.
#[test]
fn only_a_lasting_spool_failure_ends_the_generation() {
    for (for_good, begun) in [(false, 1), (true, 2)] {
        let mut bed = Bed::nats("spool-moment");
        let database = bed.database();
        let mut replicator = bed.replicate(&database);
        bed.converges(&database);
        bed.server().kill();
        fs::write(spool_of(&database), "no directory").unwrap();
        bed.write(&database, &BURST);
        replicator.says("cannot spool, segments wait in memory");
        if for_good {
            replicator.says("store away for too long");
        } else {
            // Longer than the pause between two looks.
            std::thread::sleep(Duration::from_millis(1500));
            fs::remove_file(spool_of(&database)).unwrap();
            replicator.says("spooling again");
            assert_eq!(replicator.log().matches("cannot spool, segments wait in memory").count(), 1, "said once");
        }
        bed.server().restart();
        bed.converges(&database);
        assert_eq!(generations(&bed), begun, "{}", replicator.log());
        all_committed(&[judged(&bed.restored())], &database);
        replicator.stop();
    }
}

#[test]
fn past_the_bound_the_wal_is_let_go_and_a_new_generation_begins() {
    let mut bed = Bed::nats("spool-bound");
    let database = bed.database();
    let config = bed.path("litestream.yml");
    let url = bed.url();
    let text = format!(
        "dbs:\n  - path: {}\n    spool-limit: 4MiB\n    replica:\n      url: {url}\n      create-bucket: true\n      timeout: 1s\n",
        database.display()
    );
    fs::write(&config, text).unwrap();
    let words = ["-config", config.to_str().unwrap(), "replicate"];
    let mut replicator = bed.start(&words);
    bed.converges(&database);
    bed.server().kill();
    bed.write(&database, &["--commits", "120", "--rows", "20", "--size", "20000", "--rate", "40"]);
    replicator.says("store away for too long");
    bed.server().restart();
    bed.converges(&database);
    assert_eq!(generations(&bed), 2);
    all_committed(&[judged(&bed.restored())], &database);
    replicator.stop();
}

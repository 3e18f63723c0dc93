//! A follower dies at each point where it touches a file or SQLite, while others read its copy: they see whole commits.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::faults::{faulty, with_points};
use crate::support::{
    Bed, Process, all_committed, assert_equal, commits, equal, judged, litestream, on_a_directory_only, python,
    restore_command, until,
};

on_a_directory_only! {
    readers_see_whole_commits_while_the_follower_dies_anywhere
}

/// Each commit comes at once, as no sync interval is set.
#[test]
fn readers_see_whole_commits_that_a_server_tells_of() {
    let bed = Bed::nats("told-readers");
    readers_see_whole_commits(&bed, &|database| bed.replicate(database), 700, 3);
}

const KILLED: i32 = 128 + libc::SIGKILL;
/// `make standby` asks for more.
const COMMITS: u32 = 3000;
const READERS: usize = 2;

/// `replicate` that stores each commit in a segment of its own, as far as it can.
fn replicate_at_once(bed: &Bed, database: &Path) -> Process {
    let config = bed.fresh("at-once.yml");
    let entry = format!(
        "path: {}, monitor-interval: 5ms, replica: {{url: \"{}\", sync-interval: 10ms}}",
        database.display(),
        bed.url()
    );
    fs::write(&config, format!("dbs: [{{{entry}}}]\n")).unwrap();
    bed.spawn(litestream().arg("-config").arg(config).arg("replicate"))
}

fn follow(bed: &Bed, copy: &Path) -> Command {
    let mut command = restore_command(&bed.url(), copy);
    command.args(["-f", "-follow-interval", "20ms", "-q"]);
    command
}

fn readers_see_whole_commits_while_the_follower_dies_anywhere(bed: &Bed) {
    let wanted = std::env::var("STANDBY_COMMITS").map_or(COMMITS, |text| text.parse().expect("a number of commits"));
    readers_see_whole_commits(bed, &|database| replicate_at_once(bed, database), wanted, 10);
}

fn readers_see_whole_commits(bed: &Bed, replicate: &dyn Fn(&Path) -> Process, wanted: u32, least_deaths: u64) {
    if with_points().is_none() {
        return;
    }
    let (database, copy, end) = (bed.database(), bed.path("copy.db"), bed.path("end"));
    bed.replicate_once(&database);
    let first = bed.spawn(&mut follow(bed, &copy));
    until("the copy is there", || if bed.path("copy.db-wal").exists() { Ok(()) } else { Err(first.log()) });
    let mut readers: Vec<Process> =
        (0..READERS).map(|_| bed.spawn(python("judge.py").arg("watch").arg(&copy).arg(&end))).collect();
    let replicator = replicate(&database);
    let (size, rate) = (wanted.to_string(), "--rate");
    let words = ["--commits", &size, rate, "150", "--rows", "1", "--change", "1", "--vacuum", "--every", "400"];
    let mut application = bed.application(&database, &words);
    first.kill();
    let (mut at, mut deaths) = (1, 0);
    while application.is_running() {
        let log = bed.fresh("points");
        let Some(mut command) = faulty(&follow(bed, &copy), &format!("die:{at}"), &log) else { return };
        let mut follower = bed.spawn(&mut command);
        while follower.is_running() && application.is_running() {
            // Until either ends; the next reader comes soon after the one before.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        if application.is_running() {
            assert_eq!(follower.wait(), KILLED, "{}", follower.log());
            deaths += 1;
        }
        // Nobody but the readers has it open now: what a new connection finds is a commit, too.
        all_committed(&[judged(&copy)], &database);
        at = if at > 400 { 1 + deaths % 7 } else { at + 1 + at / 5 };
    }
    application.exits(0);
    let last = bed.spawn(&mut follow(bed, &copy));
    until("the copy has caught up", || equal(&database, &copy));
    fs::write(&end, "").unwrap();
    for reader in &mut readers {
        assert_eq!(reader.wait(), 0, "{}", reader.log());
        println!("commits and looks of a reader: {}", reader.output().trim());
    }
    last.stop();
    replicator.stop();
    println!("{deaths} deaths, {} commits", commits(&database).len());
    assert!(deaths >= least_deaths, "{deaths}");
    // The file alone is the database.
    fs::remove_file(bed.path("copy.db-wal")).unwrap();
    fs::remove_file(bed.path("copy.db-shm")).unwrap();
    assert_equal(&database, &copy);
}

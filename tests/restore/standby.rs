//! The copy that `restore -f` keeps: who reads it, who may write to it, and what is left when its machine dies.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::support::random::Random;
use crate::support::{
    Bed, Process, Ran, TAKEN_OVER, all_committed, assert_equal, equal, judged, litestream, on_a_directory_only, python,
    restore_command, until,
};

on_a_directory_only! {
    a_connection_to_a_copy_sees_each_new_commit_and_generation
    nobody_writes_to_a_copy_and_what_was_written_later_is_undone
    a_copy_that_was_damaged_is_found_and_repaired
    a_page_that_never_changes_again_is_compared_and_repaired
    a_copy_of_a_database_without_wal_mode_compares_equal
    a_file_that_takes_the_name_of_a_copy_is_left_alone
    a_copy_goes_on_where_it_was_and_reads_no_snapshot_again
    a_copy_is_made_good_whatever_a_power_failure_left
    files_as_of_any_moment_are_a_commit_and_go_on
    another_page_size_takes_the_name_of_the_copy
    a_file_that_is_no_copy_is_not_replaced
    a_promoted_copy_goes_on_in_the_same_generation
    after_a_failover_the_old_primary_is_refused
}

fn command(bed: &Bed, copy: &Path) -> Command {
    let mut command = restore_command(&bed.url(), copy);
    command.args(["-f", "-follow-interval", "50ms"]);
    command
}

fn follow(bed: &Bed, copy: &Path) -> Process {
    bed.spawn(&mut command(bed, copy))
}

/// A follower whose copy is open.
fn following(bed: &Bed, copy: &Path) -> Process {
    let follower = follow(bed, copy);
    let wal = copy.with_extension("db-wal");
    until("the copy is there", || if wal.exists() { Ok(()) } else { Err(follower.log()) });
    follower
}

fn a_connection_to_a_copy_sees_each_new_commit_and_generation(bed: &Bed) {
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut follower = following(bed, &copy);
    let mut reader = bed.session(&copy);
    let count = "SELECT count(*) FROM t";
    let live = |bed: &Bed| bed.sql(&database, &[count]).trim().to_string();
    let before = reader.sql(count);
    bed.write(&database, &["--commits", "2", "--change", "0"]);
    until("the reader sees it", || Some(reader.sql(count)).filter(|now| *now == live(bed)).ok_or("not yet"));
    assert_ne!(reader.sql(count), before);
    // A new generation is one more transaction.
    let generations = bed.generations().len();
    replicator.stop();
    // Without them nothing tells what has changed.
    fs::remove_file(bed.path(".a.db-litestream/page-checksums")).expect("remove the page checksums");
    bed.sql(&database, &["DELETE FROM t", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"]);
    bed.write(&database, &["--commits", "2", "--change", "0"]);
    let replicator = bed.replicate(&database);
    until("the reader sees it", || Some(reader.sql(count)).filter(|now| *now == live(bed)).ok_or("not yet"));
    assert!(bed.generations().len() > generations);
    replicator.stop();
    assert!(follower.is_running());
    drop(reader);
    follower.stop();
    assert_equal(&database, &copy);
    assert_eq!(fs::metadata(bed.path("copy.db-wal")).unwrap().len(), 0, "the file alone has everything");
}

fn nobody_writes_to_a_copy_and_what_was_written_later_is_undone(bed: &Bed) {
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    bed.replicate_once(&database);
    let follower = following(bed, &copy);
    let mut other = bed.session(&copy);
    other.sql("PRAGMA busy_timeout = 100");
    assert_eq!(other.try_sql("DELETE FROM t"), Err("database is locked".to_string()));
    follower.kill();
    other.sql("DELETE FROM t");
    let mut follower = follow(bed, &copy);
    follower.says("copy is at no known position, making it anew");
    until("the copy is made anew", || equal(&database, &copy));
    drop(other);
    follower.stop();
}

fn a_copy_that_was_damaged_is_found_and_repaired(bed: &Bed) {
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    following(bed, &copy).stop();
    let mut follower = following(bed, &copy);
    until("the copy has caught up", || equal(&database, &copy));
    // Past SQLite, in a page that the next commit changes: the one of the table m.
    let page = bed.sql(&copy, &["SELECT rootpage FROM sqlite_schema WHERE name = 'm'"]);
    let page: u64 = page.trim().trim_matches(['(', ')', ',']).parse().unwrap();
    OpenOptions::new().write(true).open(&copy).unwrap().write_all_at(b"rotten", (page - 1) * 4096 + 2000).unwrap();
    bed.write(&database, &["--commits", "1"]);
    follower.says("copy differs from what is stored, making it anew");
    until("the copy is good again", || equal(&database, &copy));
    follower.stop();
    replicator.stop();
    assert_equal(&database, &copy);
}

/// A follower that compares its copy all the time.
fn comparing(bed: &Bed, database: &Path, copy: &Path) -> Process {
    let config = bed.fresh("f.yml");
    let entry = format!("path: {}, compare-interval: 1s, replica: {{url: \"{}\"}}", database.display(), bed.url());
    fs::write(&config, format!("dbs: [{{{entry}}}]\n")).unwrap();
    let mut command = litestream();
    command.arg("-config").arg(config).args(["restore", "-f", "-follow-interval", "50ms", "-o"]);
    bed.spawn(command.arg(copy).arg(database))
}

/// The copy is in WAL mode, and the checksum is that of a database which is not.
fn a_copy_of_a_database_without_wal_mode_compares_equal(bed: &Bed) {
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    bed.sql(&database, &["PRAGMA journal_mode=DELETE"]);
    bed.run(&["snapshot", database.to_str().unwrap(), &bed.url()]).succeeded();
    let mut follower = comparing(bed, &database, &copy);
    follower.says("copy compared with what is stored");
    assert!(!follower.log().contains("differs"), "{}", follower.log());
    follower.stop();
}

/// A program that has it open goes on reading, and sees commits only.
fn a_page_that_never_changes_again_is_compared_and_repaired(bed: &Bed) {
    let (database, copy, end) = (bed.database(), bed.path("copy.db"), bed.path("end"));
    bed.sql(&database, &["CREATE TABLE still(x)", "INSERT INTO still VALUES(printf('%.30000c', 'q'))"]);
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut follower = comparing(bed, &database, &copy);
    follower.says("copy compared with what is stored");
    let mut reader = bed.spawn(python("judge.py").arg("watch").arg(&copy).arg(&end));
    let mut application = bed.application(&database, &["--seconds", "4", "--rate", "50"]);
    // Past SQLite, in a page of text.
    let file = fs::read(&copy).unwrap();
    let at = file.windows(3000).position(|bytes| bytes.iter().all(|byte| *byte == b'q')).expect("a page of text");
    OpenOptions::new().write(true).open(&copy).unwrap().write_all_at(b"rotten", at as u64 + 1000).unwrap();
    follower.says("copy differs from what is stored, making it anew");
    application.exits(0);
    until("the copy is good again", || equal(&database, &copy));
    fs::write(&end, "").unwrap();
    assert_eq!(reader.wait(), 0, "{}", reader.log());
    assert!(follower.is_running() && !reader.output().is_empty());
    follower.stop();
    replicator.stop();
    assert_equal(&database, &copy);
}

fn a_file_that_takes_the_name_of_a_copy_is_left_alone(bed: &Bed) {
    let (database, copy, other) = (bed.database(), bed.path("copy.db"), bed.path("other.db"));
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut follower = following(bed, &copy);
    bed.sql(&other, &["CREATE TABLE mine(a)"]);
    let bytes = fs::read(&other).unwrap();
    let kept = bed.path("kept.db");
    fs::rename(&copy, &kept).unwrap();
    fs::rename(&other, &copy).unwrap();
    follower.says("it has lost its name");
    bed.write(&database, &["--commits", "1"]);
    bed.converges(&database);
    assert!(follower.is_running());
    assert!(fs::read(&copy).unwrap() == bytes, "somebody else's file was written to");
    // Under its name again, it goes on.
    fs::rename(&copy, &other).unwrap();
    fs::rename(&kept, &copy).unwrap();
    until("the copy has caught up", || equal(&database, &copy));
    follower.stop();
    replicator.stop();
    assert!(fs::read(&other).unwrap() == bytes, "somebody else's file was written to");
}

fn a_copy_goes_on_where_it_was_and_reads_no_snapshot_again(bed: &Bed) {
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    bed.write(&database, &["--commits", "100", "--size", "1000", "--abandon"]);
    bed.replicate_once(&database);
    following(bed, &copy).kill();
    for end in [Process::kill as fn(Process), Process::stop] {
        bed.write(&database, &["--commits", "1", "--abandon"]);
        bed.replicate_once(&database);
        let follower = bed.spawn(command(bed, &copy).arg("-json"));
        until("the copy has caught up", || equal(&database, &copy));
        let row = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let read: Vec<u64> = follower.output().lines().map(|line| row(line)["read"].as_u64().unwrap()).collect();
        assert!(read[0] == 0 && read.len() >= 2 && read.iter().all(|bytes| *bytes < 10_000), "{read:?}");
        end(follower);
    }
    // Two do not follow with one copy.
    let follower = bed.spawn(command(bed, &copy).arg("-json"));
    until("it follows", || if follower.output().is_empty() { Err("it says nothing") } else { Ok(()) });
    bed.run_command(&mut command(bed, &copy)).refused(7, &["another process follows with it"]);
    follower.stop();
}

/// What a disk may hold after a power failure: of what was not synced, the WAL and the notes, any part; and worse.
fn a_copy_is_made_good_whatever_a_power_failure_left(bed: &Bed) {
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut random = Random(7);
    for round in 0..12 {
        let follower = following(bed, &copy);
        bed.write(&database, &["--commits", "4"]);
        until("the copy has caught up", || equal(&database, &copy));
        follower.kill();
        let _ = fs::remove_file(bed.path("copy.db-shm"));
        // The first two lines of the notes were synced, what was added after them was not.
        let notes = fs::read_to_string(bed.path("copy.db-standby")).unwrap();
        let synced: usize = notes.split_inclusive('\n').take(2).map(str::len).sum();
        for (name, synced) in [("copy.db-wal", 0), ("copy.db-standby", synced as u64)] {
            let file = OpenOptions::new().write(true).open(bed.path(name)).unwrap();
            let length = file.metadata().unwrap().len();
            file.set_len(synced + random.below(length + 1 - synced)).unwrap();
        }
        if round % 3 == 0 {
            fs::remove_file(bed.path("copy.db-standby")).unwrap();
            bed.run_command(&mut command(bed, &copy)).refused(3, &["already exists"]);
            bed.spawn(command(bed, &copy).arg("-force")).stop_when_equal(&database, &copy);
            continue;
        }
        // SQLite finds a commit there, however much of the WAL is gone.
        all_committed(&[judged(&copy)], &database);
        if round % 3 == 1 {
            let file = OpenOptions::new().write(true).open(&copy).unwrap();
            let at = random.below(file.metadata().unwrap().len());
            file.write_all_at(&[7; 100], at).unwrap();
        }
        follow(bed, &copy).stop_when_equal(&database, &copy);
    }
    replicator.stop();
}

/// The machine stops at any moment, with all that was written: the files are a commit, and the copy goes on from there.
fn files_as_of_any_moment_are_a_commit_and_go_on(bed: &Bed) {
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let follower = following(bed, &copy);
    let mut application = bed.application(&database, &["--seconds", "6", "--rate", "100"]);
    let (mut random, mut taken) = (Random(11), Vec::new());
    while application.is_running() && taken.len() < 24 {
        let pause = std::time::Duration::from_millis(20 + random.below(200));
        // Part of the schedule: any moment.
        std::thread::sleep(pause);
        follower.signal(libc::SIGSTOP);
        let place = bed.path(&format!("moment-{}", taken.len()));
        fs::create_dir(&place).unwrap();
        for suffix in ["", "-wal", "-shm", "-standby"] {
            // Some machines lose the wal-index: it is a file in memory.
            if suffix != "-shm" || taken.len() % 2 == 0 {
                let _ = fs::copy(bed.path(&format!("copy.db{suffix}")), place.join(format!("copy.db{suffix}")));
            }
        }
        follower.signal(libc::SIGCONT);
        taken.push(place.join("copy.db"));
    }
    application.exits(0);
    until("the copy has caught up", || equal(&database, &copy));
    follower.stop();
    replicator.stop();
    assert!(taken.len() >= 5, "{}", taken.len());
    for at in &taken {
        all_committed(&[judged(at)], &database);
    }
    // Put in the place of the copy, one of them is another file to the follower, or where it was.
    for at in taken.iter().step_by(taken.len().div_ceil(4)) {
        for suffix in ["", "-wal", "-shm", "-standby"] {
            let (from, to) = (at.with_extension(format!("db{suffix}")), bed.path(&format!("copy.db{suffix}")));
            match fs::read(&from) {
                // Written into the file that is there, which keeps its identity.
                Ok(bytes) => fs::write(&to, bytes).unwrap(),
                Err(_) => drop(fs::remove_file(&to)),
            }
        }
        follow(bed, &copy).stop_when_equal(&database, &copy);
    }
}

trait StopWhenEqual {
    fn stop_when_equal(self, database: &Path, copy: &Path);
}

impl StopWhenEqual for Process {
    fn stop_when_equal(mut self, database: &Path, copy: &Path) {
        until("the copy is good again", || {
            assert!(self.is_running(), "{}", self.log());
            equal(database, copy)
        });
        self.stop();
    }
}

fn another_page_size_takes_the_name_of_the_copy(bed: &Bed) {
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    bed.replicate_once(&database);
    let mut follower = following(bed, &copy);
    bed.sql(&database, &["PRAGMA journal_mode=DELETE", "PRAGMA page_size=8192", "VACUUM", "PRAGMA journal_mode=WAL"]);
    bed.write(&database, &["--commits", "1"]);
    bed.replicate_once(&database);
    until("the copy has caught up", || equal(&database, &copy));
    bed.write(&database, &["--commits", "1"]);
    bed.replicate_once(&database);
    until("the copy has caught up", || equal(&database, &copy));
    assert!(follower.is_running());
    follower.stop();
}

fn a_file_that_is_no_copy_is_not_replaced(bed: &Bed) {
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    bed.replicate_once(&database);
    following(bed, &copy).stop();
    // Another file under the name of the copy, and a copy of something else.
    let aside = bed.path("aside.db");
    fs::rename(&copy, &aside).unwrap();
    bed.sql(&copy, &["CREATE TABLE mine(a)"]);
    bed.run_command(&mut command(bed, &copy)).refused(3, &["already exists"]);
    assert_eq!(bed.sql(&copy, &["SELECT name FROM sqlite_schema"]).trim(), "('mine',)");
    fs::rename(&aside, &copy).unwrap();
    let mut other = restore_command(&bed.url_below("other"), &copy);
    bed.run_command(other.arg("-f")).refused(3, &["already exists"]);
    follow(bed, &copy).stop_when_equal(&database, &copy);
}

fn a_promoted_copy_goes_on_in_the_same_generation(bed: &Bed) {
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let follower = following(bed, &copy);
    until("the copy has caught up", || equal(&database, &copy));
    let promote = || bed.run_command(restore_command(&bed.url(), &copy).arg("-promote"));
    promote().refused(7, &["another process follows with it"]);
    follower.kill();
    // The machine dies, and the store has what the copy has not seen.
    bed.write(&database, &["--commits", "3"]);
    bed.converges(&database);
    replicator.kill();
    let mut reader = bed.session(&copy);
    reader.sql("BEGIN");
    reader.sql("SELECT count(*) FROM t");
    promote().refused(3, &["a reader keeps its WAL from being emptied"]);
    reader.sql("COMMIT");
    assert!(promote().succeeded().stdout.starts_with("restored "));
    assert_equal(&database, &copy);
    promote().refused(3, &["expected a copy that restore -f made"]);
    assert!(!bed.path("copy.db-standby").exists());
    drop(reader);
    // It is written to, and the generation goes on, without a snapshot.
    let (snapshots, generations) = (bed.objects("snapshots"), bed.generations());
    let url = bed.url();
    let replicate = || bed.run_command(bed.replicate_command(&copy, &url).arg("-once"));
    replicate().succeeded();
    bed.write(&copy, &["--commits", "2", "--abandon"]);
    replicate().succeeded();
    assert_equal(&copy, &bed.restored());
    assert_eq!((bed.objects("snapshots"), bed.generations()), (snapshots, generations));
}

fn replicate_once(bed: &Bed, database: &Path, options: &[&str]) -> Ran {
    bed.run_command(bed.replicate_command(database, &bed.url()).arg("-once").args(options))
}

/// How messages call a database.
fn named(database: &Path) -> String {
    let host = Command::new("uname").arg("-n").output().expect("uname").stdout;
    format!("{}:{}", String::from_utf8_lossy(&host).trim(), fs::canonicalize(database).unwrap().display())
}

/// It was down the whole time, and nobody is there now who could tell it.
fn after_a_failover_the_old_primary_is_refused(bed: &Bed) {
    let (old, copy) = (bed.database(), bed.path("copy.db"));
    let primary = bed.replicate(&old);
    bed.write(&old, &["--commits", "1", "--abandon"]);
    bed.converges(&old);
    let follower = following(bed, &copy);
    until("the copy has caught up", || equal(&old, &copy));
    follower.stop();
    primary.kill();
    bed.run_command(restore_command(&bed.url(), &copy).arg("-promote")).succeeded();
    replicate_once(bed, &copy, &[]).succeeded();
    let refused = |ran: Ran| {
        let place = format!("was taken over by database {}", named(&copy));
        ran.refused(TAKEN_OVER, &[&place, &named(&old), "hint: to follow the other database", "-takeover"]);
    };
    // Also before the new one has stored anything: its WAL shows that it was not restored.
    refused(replicate_once(bed, &old, &[]));
    bed.write(&copy, &["--commits", "2", "--abandon"]);
    replicate_once(bed, &copy, &[]).succeeded();
    for commits in [0, 2] {
        // With what the store had when it died, and with a commit that nobody has seen.
        if commits > 0 {
            bed.write(&old, &["--commits", "2", "--abandon"]);
        }
        let before = bed.stored();
        refused(replicate_once(bed, &old, &[]));
        refused(replicate_once(bed, &old, &["-allow-other-database", "-force-snapshot"]));
        refused(bed.run(&["snapshot", old.to_str().unwrap(), &bed.url()]));
        bed.replicate(&old).exits(TAKEN_OVER);
        assert_eq!(bed.stored(), before, "the old primary stored something");
        let status = bed.run(&["status", old.to_str().unwrap(), &bed.url()]);
        assert!(status.stdout.contains(&format!("taken over: by database {}", named(&copy))), "{}", status.stdout);
        assert_eq!(status.status, TAKEN_OVER);
        let verify = bed.run(&["verify", "-live", old.to_str().unwrap(), &bed.url()]);
        let said = verify.stdout + &verify.stderr;
        assert!(said.contains(&format!("taken over by database {}", named(&copy))) && verify.status != 0, "{said}");
    }
    // Also behind a generation that it never saw begin, and without a WAL.
    let generations = bed.generations().len();
    bed.sql(&copy, &["PRAGMA journal_mode=DELETE", "PRAGMA page_size=8192", "VACUUM", "PRAGMA journal_mode=WAL"]);
    replicate_once(bed, &copy, &[]).succeeded();
    assert_eq!(bed.generations().len(), generations + 1);
    refused(replicate_once(bed, &old, &[]));
    bed.sql(&old, &["PRAGMA journal_mode=DELETE"]);
    refused(bed.run(&["snapshot", old.to_str().unwrap(), &bed.url()]));
    assert_equal(&copy, &bed.restored());
    // What is restored in its place is what is stored: that goes on.
    bed.run_command(restore_command(&bed.url(), &old).arg("-force")).succeeded();
    replicate_once(bed, &old, &[]).succeeded();
    assert_eq!(bed.generations().len(), generations + 1, "the generation goes on");
    bed.sql(&old, &["DELETE FROM t WHERE id = 1"]);
    replicate_once(bed, &old, &[]).succeeded();
    assert_equal(&old, &bed.restored());
    // Now the other one is the old one, until it is let in.
    bed.sql(&copy, &["DELETE FROM t"]);
    let place = format!("was taken over by database {}", named(&old));
    replicate_once(bed, &copy, &[]).refused(TAKEN_OVER, &[&place]);
    replicate_once(bed, &copy, &["-takeover"]).succeeded();
    assert_equal(&copy, &bed.restored());
    let owners = bed.stored().lines().filter(|line| line.contains("/owner-")).count();
    assert_eq!(owners, 1, "{}", bed.stored());
}

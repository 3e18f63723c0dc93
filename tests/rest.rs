//! A database at rest costs next to nothing, and nothing that happens to it is overlooked.

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use support::{Bed, Process, Session, like, litestream, meddled, on_a_directory_only, until};

on_a_directory_only! {
    at_rest_it_wakes_up_less_often_than_it_ticks
    a_commit_after_a_rest_is_stored_before_the_next_beat
    a_writer_that_reaches_the_file_by_another_mount_wakes_it_up
    a_checkpoint_of_the_application_wakes_it_up
    without_word_of_writes_it_looks_at_each_tick
}

/// Long enough for it to go to rest.
const REST: Duration = Duration::from_secs(3);
/// A database at rest is looked at this often in any case.
const BEAT: Duration = Duration::from_secs(1);

/// How often a process has gone to sleep so far.
fn sleeps(process: &Process) -> u64 {
    let pid = process.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/task/{pid}/status")).expect("read its status");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("a count");
    line.trim().parse().expect("a number")
}

/// A database that has one commit, stored, and a replicator that has gone to rest beside it.
fn at_rest(bed: &Bed) -> (Process, Session) {
    let database = bed.database();
    let mut application = bed.session(&database);
    application.sql("CREATE TABLE r (x)");
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    sleep(REST);
    (replicator, application)
}

fn at_rest_it_wakes_up_less_often_than_it_ticks(bed: &Bed) {
    let (replicator, _application) = at_rest(bed);
    let before = sleeps(&replicator);
    sleep(REST);
    let woken = sleeps(&replicator) - before;
    // Once a second; at each tick it would be 60 times.
    assert!(woken <= 20, "{woken} times in {REST:?}");
    replicator.stop();
}

/// The time until the store has one object more.
fn stored_after(bed: &Bed, application: &mut Session) -> Duration {
    let before = bed.objects("wal").len();
    application.sql("INSERT INTO r VALUES (randomblob(100))");
    let begin = Instant::now();
    while bed.objects("wal").len() == before {
        assert!(begin.elapsed() < Duration::from_secs(60), "not stored");
        sleep(Duration::from_millis(1));
    }
    begin.elapsed()
}

/// The shortest of three times that a commit after a rest took until it was stored.
fn soonest(bed: &Bed, application: &mut Session) -> Duration {
    let took = [(); 3].map(|()| {
        sleep(REST);
        stored_after(bed, application)
    });
    println!("{took:?}");
    took.into_iter().min().unwrap_or_default()
}

fn a_commit_after_a_rest_is_stored_before_the_next_beat(bed: &Bed) {
    let (replicator, mut application) = at_rest(bed);
    let took = soonest(bed, &mut application);
    // Waiting for the beat would take half of one on average.
    assert!(took < BEAT / 10, "{took:?}");
    replicator.stop();
}

/// As an application in a container does.
fn a_writer_that_reaches_the_file_by_another_mount_wakes_it_up(bed: &Bed) {
    let (replicator, own) = at_rest(bed);
    let (folder, elsewhere) = (bed.path(""), bed.fresh("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    let mount = "mount --bind \"$1\" \"$2\" && cd \"$2\" && shift 2 && exec \"$@\"";
    let within = |words: &Command| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", mount, "sh"]).arg(&folder).arg(&elsewhere).arg(words.get_program());
        like(words, command)
    };
    if !within(&Command::new("true")).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no mount namespace can be made here");
        return;
    }
    let mut words = support::python("judge.py");
    words.args(["session", "a.db"]);
    let mut application = bed.session_of(&mut within(&words));
    let took = soonest(bed, &mut application);
    assert!(took < BEAT / 4, "{took:?}");
    drop(own);
    replicator.stop();
    support::assert_equal(&bed.path("a.db"), &bed.restored());
}

fn a_checkpoint_of_the_application_wakes_it_up(bed: &Bed) {
    let (replicator, mut application) = at_rest(bed);
    for mode in ["FULL", "RESTART", "TRUNCATE"] {
        application.sql("INSERT INTO r VALUES (randomblob(3000))");
        sleep(REST);
        let begin = Instant::now();
        let answer = application.sql(&format!("PRAGMA wal_checkpoint({mode})"));
        println!("{mode}: {:?}", begin.elapsed());
        assert!(answer.starts_with("(0,"), "{mode} was busy: {answer}");
        assert!(begin.elapsed() < BEAT / 2, "{mode} took {:?}", begin.elapsed());
    }
    until("the rows are stored", || support::equal(&bed.database(), &bed.restored()));
    replicator.stop();
}

/// A file system that accepts a watch and never tells: the next commits after a rest come late, and no later ones.
fn without_word_of_writes_it_looks_at_each_tick(bed: &Bed) {
    let database = bed.database();
    let mut application = bed.session(&database);
    application.sql("CREATE TABLE r (x)");
    let replicate = like(&bed.replicate_command(&database, &bed.url()), litestream());
    let Some(mut deaf) = meddled(&replicate, "inotify_add_watch:retval=7") else { return };
    deaf.args(["-log-level", "debug"]);
    let mut replicator = bed.start_command(&mut deaf);
    bed.converges(&database);
    for _ in 0..2 {
        sleep(REST);
        stored_after(bed, &mut application);
    }
    replicator.says("no word of writes here");
    let took = soonest(bed, &mut application);
    assert!(took < BEAT / 4, "{took:?}");
    until("the rows are stored", || support::equal(&database, &bed.restored()));
}

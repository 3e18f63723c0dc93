//! A database at rest costs next to nothing, and nothing that happens to it is overlooked.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::alone::{alone, alone_on_a_directory};
use crate::support::raw::Requester;
use crate::support::{Bed, Process, Session, like, litestream, meddled, until};

alone_on_a_directory! {
    at_rest_it_wakes_up_less_often_than_it_ticks
    a_commit_after_a_rest_is_stored_before_the_next_beat
    a_writer_that_reaches_the_file_by_another_mount_wakes_it_up
    a_checkpoint_of_the_application_wakes_it_up
    without_word_of_writes_it_looks_at_each_tick
    at_rest_it_ends_at_once_when_it_is_told_to
    at_rest_a_look_at_a_database_takes_few_system_calls
    writer_in_another_container_is_replicated
}

#[test]
fn at_rest_it_answers_before_the_next_beat() {
    let _alone = alone();
    answers_at_once(&Bed::nats("rest-service"));
}

/// Long enough for it to go to rest. Nothing tells from outside that it has: a look at it would be a guess on a busy machine.
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
        // Measured to a millisecond.
        sleep(Duration::from_millis(1));
    }
    begin.elapsed()
}

/// Asserts that a commit after a rest is stored sooner than `bound`, once in three times: a busy machine is slow now and then.
/// It is at rest now.
fn assert_stored_within(bed: &Bed, application: &mut Session, bound: Duration) {
    let mut took = Vec::new();
    while took.len() < 3 {
        took.push(stored_after(bed, application));
        if took.iter().any(|took| *took < bound) {
            return println!("{took:?}");
        }
        // For the next one it is to be at rest again.
        sleep(REST);
    }
    panic!("{took:?}");
}

fn a_commit_after_a_rest_is_stored_before_the_next_beat(bed: &Bed) {
    let (replicator, mut application) = at_rest(bed);
    // Waiting for the beat would take half of one on average.
    assert_stored_within(bed, &mut application, BEAT / 10);
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
    assert_stored_within(bed, &mut application, BEAT / 4);
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
    replicator.says("no inotify events here");
    sleep(REST);
    assert_stored_within(bed, &mut application, BEAT / 4);
    until("the rows are stored", || support::equal(&database, &bed.restored()));
}

/// Also where the last commit has only just waked it up.
fn at_rest_it_ends_at_once_when_it_is_told_to(bed: &Bed) {
    for commits in [0, 1] {
        let (mut replicator, mut application) = at_rest(bed);
        (0..commits).for_each(|_| drop(application.sql("INSERT INTO r VALUES (randomblob(100))")));
        let begin = Instant::now();
        replicator.terminate();
        replicator.exits(0);
        let took = begin.elapsed();
        println!("{took:?}");
        assert!(took < BEAT / 2, "{took:?}");
        support::assert_equal(&bed.path("a.db"), &bed.restored());
        application.sql("DROP TABLE r");
    }
}

/// How often a process makes each system call, as strace(1) counts them for a while; none, and that is said, where there is none.
fn system_calls(process: &Process, output: &Path) -> Option<HashMap<String, u64>> {
    let pid = process.pid().to_string();
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-p", &pid, "-o"]).arg(output).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut strace) = command.spawn() else {
        eprintln!("skipped: there is no strace");
        return None;
    };
    // So long it counts.
    sleep(REST * 2);
    let strace_pid = libc::pid_t::try_from(strace.id()).expect("a pid");
    // SAFETY: kill(2) of a child that was not yet waited for.
    unsafe { libc::kill(strace_pid, libc::SIGINT) };
    strace.wait().expect("strace ends");
    let table = fs::read_to_string(output).unwrap_or_default();
    let count = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some((words.last()?.to_string(), words.get(3)?.parse().ok()?))
    };
    let found: HashMap<String, u64> = table.lines().filter_map(count).collect();
    if found.is_empty() {
        eprintln!("skipped: strace may not look at another process");
        return None;
    }
    Some(found)
}

/// Once a second each database is looked at: its file, and whether requests lie beside it. Its directory is looked at once for
/// all. Nothing is read, and no lock is asked for.
fn at_rest_a_look_at_a_database_takes_few_system_calls(bed: &Bed) {
    let folder = bed.path("many");
    fs::create_dir(&folder).unwrap();
    for number in 0..20 {
        bed.write(&folder.join(format!("{number}.db")), &["--commits", "1"]);
    }
    let config = bed.path("litestream.yml");
    let text = format!("dbs: [{{dir: {}, pattern: '*.db', replica: {{url: '{}'}}}}]", folder.display(), bed.url());
    fs::write(&config, text).unwrap();
    let replicator = bed.start(&["-config", config.to_str().unwrap(), "replicate"]);
    until("all are stored", || match bed.objects("snapshots").len() {
        20 => Ok(()),
        count => Err(count),
    });
    // What a directory or a file has is read for three seconds after its last change, and it goes to rest after that.
    sleep(REST * 3);
    let begin = Instant::now();
    let Some(calls) = system_calls(&replicator, &bed.path("calls")) else { return };
    let most = 20 * (begin.elapsed().as_secs() + 2);
    let of = |names: &[&str]| names.iter().filter_map(|name| calls.get(*name)).sum::<u64>();
    let looks = of(&["stat", "lstat", "fstat", "statx", "newfstatat"]);
    let others = of(&["open", "openat", "close", "getdents64", "pread64", "fcntl"]);
    assert!(looks >= 20 && looks <= 5 * most / 2 && others <= most / 2, "{looks} looks, {others} calls: {calls:?}");
    replicator.stop();
}

/// Mounts, as containers have them: a database that came with the image, on a file system that copies what is written to.
struct Containers {
    lower: PathBuf,
    upper: PathBuf,
    merged: PathBuf,
    /// In whose namespace the file system is mounted.
    first: Process,
}

impl Containers {
    /// None, and that is said, where such a file system cannot be mounted.
    fn new(bed: &Bed) -> Option<Containers> {
        let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| {
            let path = bed.path(name);
            fs::create_dir(&path).expect("make a directory");
            path
        });
        let mount = "mount -t overlay -o lowerdir=\"$1\",upperdir=\"$2\",workdir=\"$3\" overlay \"$4\" && echo mounted && exec sleep 600";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", mount, "sh"]).args([&lower, &upper, &work, &merged]);
        let mut first = bed.spawn(&mut command);
        until("it is mounted, or cannot be", || match (first.output().contains("mounted"), first.is_running()) {
            (false, true) => Err("neither"),
            _ => Ok(()),
        });
        if !first.is_running() {
            eprintln!("skipped: no overlay can be mounted here: {}", first.log());
            return None;
        }
        Some(Containers { lower, upper, merged, first })
    }

    /// A command in a container of its own, which has the file system too.
    fn within(&self, command: &Command) -> Command {
        let mut within = Command::new("nsenter");
        within.arg(format!("--mount=/proc/{}/ns/mnt", self.first.pid())).args(["unshare", "--mount"]);
        within.arg(command.get_program());
        like(command, within)
    }
}

fn writer_in_another_container_is_replicated(bed: &Bed) {
    let Some(containers) = Containers::new(bed) else { return };
    bed.write(&containers.lower.join("a.db"), &["--commits", "3"]);
    let shipped = fs::read(containers.lower.join("a.db")).unwrap();
    let database = containers.merged.join("a.db");
    let replicate = bed.replicate_command(&database, &bed.url());
    let replicator = bed.start_command(&mut containers.within(&replicate));
    let words = ["--seconds", "4", "--rate", "100", "--checkpoint", "truncate,passive,restart,full", "--churn"];
    let writer = containers.within(&support::application_command(&database, &words));
    bed.spawn(&mut { writer }).exits(0);
    // What is written down beside the database is in the upper layer, too.
    let written = containers.upper.join("a.db");
    let last = *support::committed(&written).last().expect("a commit");
    until("the last commit is stored", || match bed.restored_if_any().map(|restored| support::judged(&restored)) {
        Some(state) if state == last => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(bed.generations().len(), 1);
    let mut session = support::python("judge.py");
    let mut application = bed.session_of(&mut containers.within(session.arg("session").arg(&database)));
    application.sql("CREATE TABLE r (x)");
    sleep(REST);
    assert_stored_within(bed, &mut application, BEAT / 4);
    drop(application);
    replicator.stop();
    assert!(fs::read(containers.lower.join("a.db")).unwrap() == shipped);
    support::assert_equal(&written, &bed.restored());
}

/// Each request follows the answer before it: without a call from the link it would be heard with the next beat, a second later.
fn answers_at_once(bed: &Bed) {
    let (replicator, _application) = at_rest(bed);
    let address = bed.url().trim_start_matches("nats://").split('/').next().expect("an address").to_string();
    let mut requester = Requester::new(&address);
    let before = sleeps(&replicator);
    let begin = Instant::now();
    for _ in 0..8 {
        requester.request("$SRV.PING", "");
        requester.answer_within(REST * 10).expect("an answer");
    }
    let took = begin.elapsed();
    assert!(took < BEAT * 4, "{took:?}");
    // And is not looked for all the time afterwards.
    sleep(REST);
    let woken = sleeps(&replicator) - before;
    assert!(woken <= 8 * 30 + 20, "{woken} times");
    replicator.stop();
}

//! A copy learns of new commits from the server: without a poll, after cuts, and without a message at rest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::bucket::{http_get, monitored};
use crate::support::{
    Bed, LOCKED, Process, Ran, Session, TAKEN_OVER, assert_equal, equal, like, litestream, restore_command, until,
};

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
fn a_copy_has_each_commit_long_before_the_sync_interval() {
    let bed = Bed::nats("at-once");
    let (database, copy) = (bed.database(), bed.path("copy.db"));
    let mut application = bed.session(&database);
    application.sql("CREATE TABLE r (x)");
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let follower = follow(&bed, &copy);
    commits_come_at_once(&bed, &mut application, &copy);
    follower.stop();
    replicator.stop();
    assert_equal(&database, &copy);
}

/// Each commit follows the one before it as soon as the copy shows that: with the sync interval alone it would wait for a
/// second.
fn commits_come_at_once(bed: &Bed, application: &mut Session, copy: &Path) {
    const INTERVAL: Duration = Duration::from_secs(1);
    let mut reader = bed.session(copy);
    let mut waits = Vec::new();
    for _ in 0..12 {
        application.sql("INSERT INTO r VALUES (randomblob(100))");
        let begun = Instant::now();
        let rows = application.sql("SELECT count(*) FROM r");
        until("the copy has it", || match reader.sql("SELECT count(*) FROM r") {
            found if found == rows => Ok(()),
            found => Err(found),
        });
        waits.push(begun.elapsed());
    }
    println!("{waits:?}");
    waits.sort();
    assert!(waits[6] < INTERVAL / 2, "{waits:?}");
}

/// A database with a table r that an application has open, and what replicates it below a prefix.
fn replicated(bed: &Bed, name: &str) -> (PathBuf, Session, Process) {
    let database = bed.path("live").join(name);
    fs::create_dir_all(database.parent().expect("a directory")).expect("make a directory");
    bed.write(&database, &["--commits", "1"]);
    let mut application = bed.session(&database);
    application.sql("CREATE TABLE r (x)");
    let mut command = litestream();
    command.args(["-log-level", "debug", "replicate", "-create-bucket"]).arg(&database).arg(bed.url_below(name));
    (database, application, bed.spawn(&mut command))
}

/// One watch on the whole bucket, and each writer whose database has a copy stores at once.
#[test]
fn many_copies_have_each_commit_long_before_the_sync_interval() {
    const LISTENS: &str = "standby listens, storing each commit at once";
    let mut bed = Bed::nats("many-at-once");
    let out = bed.path("out");
    let (database, mut application, replicator) = replicated(&bed, "t/a");
    until("it is stored", || match bed.restore(&bed.url_below("t/a"), &bed.fresh("stored.db")) {
        Ran { status: 0, .. } => Ok(()),
        ran => Err(ran.stderr),
    });
    // What has the name of its copy is somebody's: there is none, and nobody waits for its commits.
    let (_, mut refused, unheard) = replicated(&bed, "refused");
    fs::create_dir_all(&out).expect("make a directory");
    fs::write(out.join("refused"), "somebody's").expect("write a file");
    let mut command = restore_command(&bed.url(), &out);
    // It would look by itself only in an hour.
    let mut follower = bed.spawn(command.args(["-f", "-all", "-follow-interval", "1h"]));
    let copy = out.join("t/a");
    until("the copy has it", || equal(&database, &copy));
    commits_come_at_once(&bed, &mut application, &copy);
    // A database that nobody knew of.
    let (new, mut new_application, mut new_replicator) = replicated(&bed, "new");
    let new_copy = out.join("new");
    until("the new database has come", || equal(&new, &new_copy));
    commits_come_at_once(&bed, &mut new_application, &new_copy);
    new_replicator.says(LISTENS);
    bed.store_goes(false);
    application.sql("INSERT INTO r VALUES (1)");
    bed.store_returns();
    until("the copy has it", || equal(&database, &copy));
    commits_come_at_once(&bed, &mut application, &copy);
    for _ in 0..3 {
        let before = bed.stored();
        refused.sql("INSERT INTO r VALUES (1)");
        until("it is stored", || if bed.stored() == before { Err("nothing") } else { Ok(()) });
    }
    assert!(!unheard.log().contains(LISTENS), "{}", unheard.log());
    assert!(follower.is_running());
    for process in [follower, replicator, new_replicator, unheard] {
        process.stop();
    }
    assert_equal(&database, &copy);
    assert_equal(&new, &new_copy);
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

/// The script under "Failover" in the manual, for this copy and this store.
fn failover(bed: &Bed, copy: &Path) -> Command {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/litestream-restore.1")).unwrap();
    let (_, section) = page.split_once(".Ss Failover\n").expect("the section");
    let (_, block) = section.split_once(".Bd -literal -offset indent\n").expect("a script");
    let (script, _) = block.split_once(".Ed").expect("its end");
    assert!(section.contains("litestream restore -f -o /srv/app.db nats://host/backup"));
    let script = script.replace("/srv/app.db", copy.to_str().unwrap()).replace("nats://host/backup", &bed.url());
    let program = litestream();
    let directory = Path::new(program.get_program()).parent().unwrap().display().to_string();
    let mut command = like(&program, Command::new("sh"));
    command.env("PATH", format!("{directory}:{}", std::env::var("PATH").unwrap())).args(["-c", &script]);
    command
}

/// Each generation with its snapshots, as far as a listing tells.
fn snapshots(bed: &Bed) -> String {
    bed.run(&["snapshots", "-json", &bed.url()]).succeeded().stdout
}

#[test]
fn the_script_of_the_manual_fails_over() {
    let bed = Bed::nats("failover");
    let (old, copy) = (bed.database(), bed.path("copy.db"));
    let primary = bed.replicate(&old);
    bed.converges(&old);
    let follower = follow(&bed, &copy);
    until("the copy has caught up", || equal(&old, &copy));
    follower.stop();
    bed.write(&old, &["--commits", "3"]);
    bed.converges(&old);
    primary.kill();
    let before = snapshots(&bed);
    let mut standby = bed.spawn(&mut failover(&bed, &copy));
    standby.says("level=info msg=continuing");
    assert_equal(&old, &copy);
    bed.write(&copy, &["--commits", "2"]);
    bed.converges(&copy);
    assert_eq!(snapshots(&bed), before, "the generation goes on without a snapshot");
    // The old one has a commit that nobody knows. While the new one runs, it is named.
    bed.write(&old, &["--commits", "1"]);
    let pid = format!("by process {}", standby.pid());
    let back = || bed.run_command(bed.replicate_command(&old, &bed.url()).arg("-once"));
    back().refused(LOCKED, &["is already replicated to", &pid, copy.to_str().unwrap()]);
    standby.kill();
    let stored = bed.stored();
    back().refused(TAKEN_OVER, &["was taken over by database", copy.to_str().unwrap(), old.to_str().unwrap()]);
    bed.replicate(&old).exits(TAKEN_OVER);
    assert_eq!(bed.stored(), stored, "the old primary stored something");
    let standby = bed.replicate(&copy);
    bed.write(&copy, &["--commits", "1"]);
    bed.converges(&copy);
    standby.stop();
}

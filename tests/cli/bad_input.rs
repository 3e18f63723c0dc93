//! What cannot be done is refused with its own exit status and a message that names the thing; nothing is changed.

use std::fs;
use std::path::Path;

use crate::support;
use crate::support::{Bed, DATABASE, LOCKED, NOTHING, STORE, USAGE, assert_equal, litestream, meddled, tree};

/// Runs words that must be refused, and asserts that no file appeared, went or changed its size.
fn refused(bed: &Bed, words: &[&str], status: i32, parts: &[&str]) {
    let before = listing(bed);
    bed.run(words).refused(status, parts);
    assert_eq!(listing(bed), before, "{words:?} changed something");
}

/// Every file of the test but the logs of its own runs.
fn listing(bed: &Bed) -> Vec<String> {
    let mut files = tree(&bed.path(""));
    files.retain(|line| !line.starts_with("run-") && !line.starts_with("replicate-"));
    files
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_string()
}

#[test]
fn a_missing_database_is_named() {
    let bed = Bed::directory("missing");
    let path = text(&bed.path("none.db"));
    refused(&bed, &["replicate", &path, &bed.url()], DATABASE, &["none.db"]);
    refused(&bed, &["replicate", "-once", &path, &bed.url()], DATABASE, &["none.db"]);
    refused(&bed, &["snapshot", &path, &bed.url()], DATABASE, &["none.db"]);
}

#[test]
fn a_file_that_is_no_database_is_left_alone() {
    let bed = Bed::directory("no-database");
    let path = bed.path("letter.txt");
    fs::write(&path, "Dear Sir or Madam, this is not a database. ".repeat(200)).unwrap();
    for command in ["replicate", "snapshot"] {
        refused(&bed, &[command, &text(&path), &bed.url()], DATABASE, &["letter.txt", "not a database"]);
    }
    let folder = bed.path("folder");
    fs::create_dir(&folder).unwrap();
    refused(&bed, &["replicate", &text(&folder), &bed.url()], DATABASE, &["folder"]);
}

#[test]
fn a_missing_bucket_is_named_with_the_way_to_make_it() {
    let bed = Bed::nats("no-bucket");
    let database = text(&bed.database());
    for command in ["replicate", "snapshot"] {
        let ran = bed.run(&[command, &database, &bed.url()]);
        ran.refused(STORE, &["backup", "-create-bucket"]);
    }
    let output = text(&bed.path("out.db"));
    refused(&bed, &["restore", "-o", &output, &bed.url()], STORE, &["backup"]);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let bed = Bed::directory("no-server");
    let url = format!("nats://127.0.0.1:{}/backup", support::nats::free_port());
    let output = text(&bed.path("out.db"));
    refused(&bed, &["restore", "-o", &output, &url], STORE, &["127.0.0.1"]);
}

#[test]
fn a_url_that_cannot_be_is_refused_before_anything_is_contacted() {
    let bed = Bed::directory("bad-url");
    let database = text(&bed.database());
    let table = [
        ("nats://127.0.0.1:4222", "bucket"),
        ("nats://127.0.0.1:99999/b", "99999"),
        ("nats://127.0.0.1:4222/b.c", "b.c"),
        ("s3://bucket/path", "s3"),
        ("nats://user:@@/b", "nats"),
    ];
    for (url, part) in table {
        refused(&bed, &["replicate", &database, url], USAGE, &[part]);
        refused(&bed, &["restore", "-o", "out.db", url], USAGE, &[part]);
    }
}

#[test]
fn a_password_in_a_bad_url_is_not_repeated() {
    let bed = Bed::directory("password");
    let url = "nats://me:hunter2@127.0.0.1:99999/b";
    let ran = bed.run(&["restore", "-o", "out.db", url]);
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    ran.refused(USAGE, &["99999"]);
}

#[test]
fn an_output_that_exists_is_not_touched() {
    let bed = Bed::directory("exists");
    let database = bed.database();
    bed.replicate_once(&database);
    let output = bed.path("precious.db");
    fs::write(&output, "precious").unwrap();
    refused(&bed, &["restore", "-o", &text(&output), &bed.url()], DATABASE, &["precious.db", "exists"]);
    assert_eq!(fs::read(&output).unwrap(), b"precious");
    let folder = text(&bed.path("no/such/folder/out.db"));
    refused(&bed, &["restore", "-o", &folder, &bed.url()], DATABASE, &["no/such/folder"]);
}

/// SQLite would replay them into the restored file.
#[test]
fn what_lies_beside_the_output_never_meets_what_is_restored() {
    let bed = Bed::directory("beside-output");
    let database = bed.database();
    bed.replicate_once(&database);
    let output = bed.path("out.db");
    let restore = |more: &[&str]| bed.run_command(support::restore_command(&bed.url(), &output).args(more));
    for suffix in ["-wal", "-shm", "-journal"] {
        let beside = bed.path(&format!("out.db{suffix}"));
        fs::write(&beside, "mine").unwrap();
        restore(&[]).refused(DATABASE, &[&format!("out.db{suffix}: already exists"), "hint: ", "-force"]);
        assert_eq!(fs::read(&beside).unwrap(), b"mine");
        assert!(!output.exists());
        restore(&["-force"]).succeeded();
        assert!(!beside.exists());
        assert_equal(&database, &output);
        fs::remove_file(&output).unwrap();
    }
    // The WAL of an older copy of the same database, which fits it as no other does.
    bed.write(&database, &["--commits", "9", "--autocheckpoint", "0", "--abandon"]);
    let wal = fs::read(bed.path("a.db-wal")).unwrap();
    assert!(wal.len() > 10_000);
    fs::write(bed.path("out.db-wal"), &wal).unwrap();
    let before = support::judged(&bed.restored());
    restore(&["-force"]).succeeded();
    assert_eq!(bed.sql(&output, &["SELECT seq FROM m"]).trim(), format!("({},)", before.seq));
    assert!(support::judged(&database).seq > before.seq);
}

#[test]
fn an_unknown_word_is_named() {
    let bed = Bed::directory("unknown");
    refused(&bed, &["replicate", "-frobnicate"], USAGE, &["frobnicate"]);
    refused(&bed, &["replicate", "--frobnicate=1"], USAGE, &["frobnicate"]);
    refused(&bed, &["frobnicate"], USAGE, &["frobnicate"]);
    refused(&bed, &["restore", &bed.url()], USAGE, &["-o"]);
    refused(&bed, &["replicate", &text(&bed.path("a.db"))], USAGE, &[]);
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let bed = Bed::directory("no-config");
    let path = text(&bed.path("none.yml"));
    refused(&bed, &["-config", &path, "replicate"], USAGE, &["none.yml"]);
    refused(&bed, &["--config", &path, "replicate"], USAGE, &["none.yml"]);
}

#[test]
fn a_store_with_nothing_in_it_has_nothing_to_restore() {
    let bed = Bed::directory("nothing");
    let output = text(&bed.path("out.db"));
    refused(&bed, &["restore", "-o", &output, &bed.url()], NOTHING, &["store"]);
    fs::create_dir(bed.path("store")).unwrap();
    refused(&bed, &["restore", "-o", &output, &bed.url()], NOTHING, &["store"]);
}

#[test]
fn a_second_instance_is_refused_and_names_the_first() {
    let bed = Bed::directory("second");
    let database = bed.database();
    let first = bed.replicate(&database);
    bed.converges(&database);
    let (path, pid) = (text(&database), first.pid().to_string());
    for words in [&["replicate"][..], &["replicate", "-once"]] {
        bed.run(&[words, &[&path, &bed.url()]].concat()).refused(LOCKED, &["a.db", &pid]);
    }
    // One full copy for cron does not disturb it, and the first goes on.
    bed.run(&["snapshot", &path, &bed.url()]).succeeded();
    bed.write(&database, &["--commits", "5"]);
    bed.converges(&database);
    first.stop();
}

/// statfs(2) answers that everything is on NFS.
#[test]
fn a_database_on_a_network_file_system_is_refused_unless_told() {
    let bed = Bed::directory("network");
    let database = bed.database();
    let config = bed.path("litestream.yml");
    let run = |more: &str| {
        let text = format!("dbs:\n  - path: {}\n{more}    replica: {{ url: '{}' }}\n", text(&database), bed.url());
        fs::write(&config, text).unwrap();
        let mut command = litestream();
        command.arg("-config").arg(&config).args(["replicate", "-once"]);
        meddled(&command, "statfs:poke_exit=@arg2=6969000000000000").map(|mut command| bed.run_command(&mut command))
    };
    let Some(ran) = run("") else { return };
    ran.refused(DATABASE, &["a.db: on a network file system (NFS)", "hint: ", "allow-network-file-system: true"]);
    assert!(!bed.path("a.db-shm").exists() && !bed.path("store").exists(), "nothing was touched");
    run("    allow-network-file-system: true\n").expect("strace works").succeeded();
    assert_equal(&database, &bed.restored());
}

/// What the kernel makes of one whose disk has failed, and what an SD card with a lock is.
#[test]
fn a_read_only_file_system_is_called_that() {
    let bed = Bed::directory("read-only");
    let (database, folder) = (bed.database(), bed.path("read-only"));
    bed.run(&["replicate", "-once", database.to_str().unwrap(), &bed.url()]).succeeded();
    std::fs::create_dir(&folder).unwrap();
    let inside = folder.join("b.db");
    bed.write(&inside, &["--commits", "1"]);
    let mount = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && exec \"$@\"";
    let within = |words: &[&str]| {
        let mut command = litestream();
        command.args(words);
        let mut mounted = std::process::Command::new("unshare");
        mounted.args(["--mount", "sh", "-c", mount, "sh"]).arg(&folder).arg(command.get_program());
        support::like(&command, mounted)
    };
    if !within(&["version"]).output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no mount namespace can be made here");
        return;
    }
    let (own, other) = (database.to_str().unwrap(), inside.to_str().unwrap());
    let (store, output) = (format!("file://{}/store", folder.display()), folder.join("out.db"));
    let stored = bed.url();
    let table = [
        (vec!["replicate", "-once", other, &store], DATABASE, other),
        (vec!["snapshot", other, &store], DATABASE, other),
        (vec!["replicate", "-once", own, &store], STORE, &store[7..]),
        (vec!["restore", "-o", output.to_str().unwrap(), &stored], DATABASE, "out.db"),
    ];
    for (words, status, name) in table {
        let ran = bed.run_command(&mut within(&words));
        ran.refused(status, &[name, "read-only file system\nhint: the file system is mounted"]);
    }
}

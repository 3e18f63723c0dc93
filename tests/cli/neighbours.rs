//! Neighbours on the machine: what another user has planted where root writes is not followed, and what is private stays so.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support;
use crate::support::{
    Bed, DATABASE, LOCKED, Process, USAGE, assert_equal, like, litestream, on_a_directory_only, on_both_stores, tree,
    until,
};

on_both_stores! {
    a_name_that_cannot_be_stored_stops_no_other_database
}

on_a_directory_only! {
    a_restore_follows_no_planted_link
    a_restore_replaces_regular_files_only
    a_restore_keeps_private_what_was_private
    a_restored_file_has_the_mode_that_the_live_one_had
    a_restore_by_root_belongs_to_the_owner_of_its_directory
    an_interrupted_restore_leaves_no_file
    a_metadata_directory_that_is_a_link_is_refused
    a_metadata_directory_that_others_may_write_to_is_refused
    a_metadata_directory_of_another_user_is_refused
    a_lock_file_that_is_a_link_is_not_followed
    metrics_go_into_a_file_of_ours_whatever_was_planted
    a_link_in_a_directory_of_databases_is_passed_over
    a_directory_that_cannot_be_read_stops_no_other_database
    a_file_whose_place_is_taken_stops_no_other_database
    objects_of_a_directory_are_private
}

/// A user who is not root: "nobody", by convention.
const OTHER: u32 = 65_534;

fn is_root() -> bool {
    // SAFETY: no arguments, and it cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: only root can become somebody else, or write what may not be written");
    }
    root
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// Every file below `top`, relative to it.
fn files(top: &Path) -> Vec<String> {
    let name = |line: String| line.rsplit_once(' ').map(|(name, _)| name.to_string());
    tree(top).into_iter().filter_map(name).collect()
}

/// A file that must stay as it is.
fn victim(bed: &Bed) -> PathBuf {
    let path = bed.path("victim");
    fs::write(&path, "precious").unwrap();
    path
}

fn assert_untouched(victim: &Path) {
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
}

/// A stored database with the permissions `mode`.
fn stored(bed: &Bed, mode: u32) -> PathBuf {
    let database = bed.database();
    bed.write(&database, &["--commits", "3"]);
    fs::set_permissions(&database, Permissions::from_mode(mode)).unwrap();
    bed.replicate_once(&database);
    database
}

fn a_restore_follows_no_planted_link(bed: &Bed) {
    let database = stored(bed, 0o600);
    let victim = victim(bed);
    let output = bed.path("out.db");
    // The name that a restore wrote to once, and beginnings of the one that it writes to now.
    for planted in [".out.db.restore", ".out.db.restore-", ".out.db.restore-0000000000000000"] {
        symlink(&victim, bed.path(planted)).unwrap();
    }
    bed.restore(&bed.url(), &output).succeeded();
    assert_equal(&database, &output);
    assert_untouched(&victim);
    assert!(fs::symlink_metadata(&output).unwrap().is_file());
}

fn a_restore_replaces_regular_files_only(bed: &Bed) {
    let database = stored(bed, 0o600);
    let victim = victim(bed);
    let (link, fifo) = (bed.path("link.db"), bed.path("fifo.db"));
    symlink(&victim, &link).unwrap();
    let name = CString::new(fifo.as_os_str().as_bytes()).unwrap();
    // SAFETY: the name ends with a zero byte, and the call does not keep it.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let forced = |output: &Path| bed.run(&["restore", "-force", "-o", output.to_str().unwrap(), &bed.url()]);
    forced(&link).refused(DATABASE, &["link.db", "symbolic link", "hint:"]);
    forced(&fifo).refused(DATABASE, &["fifo.db", "regular file"]);
    assert_untouched(&victim);
    if is_root() {
        // A device of our own: if it were replaced, nothing of the machine would suffer.
        let device = bed.path("null");
        let name = CString::new(device.as_os_str().as_bytes()).unwrap();
        // SAFETY: as above; the device is that of /dev/null.
        if unsafe { libc::mknod(name.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 3)) } == 0 {
            forced(&device).refused(DATABASE, &["null", "regular file"]);
        }
    }
    forced(&database).succeeded();
    bed.run(&["restore", "-o", "-", &bed.url()]).refused(USAGE, &["standard output"]);
}

fn a_restore_keeps_private_what_was_private(bed: &Bed) {
    stored(bed, 0o600);
    let output = bed.path("out.db");
    bed.restore(&bed.url(), &output).succeeded();
    assert_eq!(mode(&output), 0o600);
    for kept in [0o600, 0o640] {
        fs::set_permissions(&output, Permissions::from_mode(kept)).unwrap();
        bed.run(&["restore", "-force", "-o", output.to_str().unwrap(), &bed.url()]).succeeded();
        assert_eq!(mode(&output), kept);
    }
}

/// A restore to where nothing is: the application finds the permissions that it gave, and nothing is ever executable.
fn a_restored_file_has_the_mode_that_the_live_one_had(bed: &Bed) {
    for (live, expected) in [(0o640, 0o640), (0o664, 0o664), (0o400, 0o600), (0o755, 0o644)] {
        if live & 0o200 == 0 && !is_root() {
            continue;
        }
        let database = stored(bed, live);
        let output = bed.fresh("restored.db");
        bed.restore(&bed.url(), &output).succeeded();
        assert_eq!(mode(&output), expected, "{live:o}");
        fs::remove_dir_all(bed.path("store")).unwrap();
        fs::remove_file(database).unwrap();
    }
}

fn a_restore_by_root_belongs_to_the_owner_of_its_directory(bed: &Bed) {
    if !is_root() {
        return;
    }
    stored(bed, 0o600);
    let home = bed.path("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(OTHER), Some(OTHER)).unwrap();
    let output = home.join("app.db");
    bed.restore(&bed.url(), &output).succeeded();
    let found = fs::metadata(&output).unwrap();
    assert_eq!((found.uid(), found.gid()), (OTHER, OTHER));
}

fn an_interrupted_restore_leaves_no_file(bed: &Bed) {
    stored(bed, 0o600);
    // What a killed one has left goes with the next.
    let left = bed.path(".out.db.restore-00000000deadbeef");
    fs::write(&left, "left").unwrap();
    let output = bed.path("out.db");
    bed.restore(&bed.url(), &output).succeeded();
    assert!(!left.exists());
    fs::remove_file(&output).unwrap();
    let store = bed.path("store");
    let snapshot = files(&store).into_iter().find(|name| name.contains("/snapshots/")).expect("a snapshot");
    fs::write(store.join(snapshot), "damaged").unwrap();
    assert_ne!(bed.restore(&bed.url(), &output).status, 0);
    let names = files(&output.with_file_name(""));
    assert!(!names.iter().any(|name| name.contains(".restore")), "{names:?}");
}

fn a_metadata_directory_that_is_a_link_is_refused(bed: &Bed) {
    let database = bed.database();
    bed.write(&database, &["--commits", "1"]);
    let elsewhere = bed.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let meta = database.with_file_name(format!(".{}-litestream", database.file_name().unwrap().to_str().unwrap()));
    symlink(&elsewhere, &meta).unwrap();
    let ran = bed.run(&["replicate", "-once", database.to_str().unwrap(), &bed.url()]);
    ran.refused(DATABASE, &["-litestream", "symbolic link"]);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

fn a_metadata_directory_that_others_may_write_to_is_refused(bed: &Bed) {
    let database = bed.database();
    bed.write(&database, &["--commits", "1"]);
    let meta = database.with_file_name(format!(".{}-litestream", database.file_name().unwrap().to_str().unwrap()));
    fs::create_dir(&meta).unwrap();
    fs::set_permissions(&meta, Permissions::from_mode(0o777)).unwrap();
    let ran = bed.run(&["replicate", "-once", database.to_str().unwrap(), &bed.url()]);
    ran.refused(DATABASE, &["-litestream", "hint:"]);
}

fn a_metadata_directory_of_another_user_is_refused(bed: &Bed) {
    if !is_root() {
        return;
    }
    let database = bed.database();
    let meta = database.with_file_name(format!(".{}-litestream", database.file_name().unwrap().to_str().unwrap()));
    fs::create_dir(&meta).unwrap();
    fs::set_permissions(&meta, Permissions::from_mode(0o700)).unwrap();
    chown(&meta, Some(OTHER), Some(OTHER)).unwrap();
    let ran = bed.run(&["replicate", "-once", database.to_str().unwrap(), &bed.url()]);
    ran.refused(DATABASE, &["-litestream", "as its owner, found user 65534"]);
    assert_eq!(fs::read_dir(&meta).unwrap().count(), 0);
    // It may belong to whom the database belongs to.
    chown(&database, Some(OTHER), Some(OTHER)).unwrap();
    bed.replicate_once(&database);
}

fn a_lock_file_that_is_a_link_is_not_followed(bed: &Bed) {
    let database = bed.database();
    bed.write(&database, &["--commits", "1"]);
    let victim = victim(bed);
    let meta = database.with_file_name(format!(".{}-litestream", database.file_name().unwrap().to_str().unwrap()));
    fs::create_dir(&meta).unwrap();
    fs::set_permissions(&meta, Permissions::from_mode(0o700)).unwrap();
    symlink(&victim, meta.join("lock")).unwrap();
    let ran = bed.run(&["replicate", "-once", database.to_str().unwrap(), &bed.url()]);
    ran.refused(DATABASE, &["lock", "symbolic link"]);
    assert_untouched(&victim);
    fs::remove_file(meta.join("lock")).unwrap();
    bed.replicate_once(&database);
    assert_eq!(mode(&meta.join("lock")), 0o600);
}

fn metrics_go_into_a_file_of_ours_whatever_was_planted(bed: &Bed) {
    let database = bed.database();
    let victim = victim(bed);
    let metrics = bed.path("metrics.prom");
    symlink(&victim, &metrics).unwrap();
    let config = bed.path("litestream.yml");
    let text = format!(
        "metrics-file: {}\ndbs: [{{path: {}, replica: {{url: \"{}\"}}}}]\n",
        metrics.display(),
        database.display(),
        bed.url()
    );
    fs::write(&config, text).unwrap();
    let replicator = bed.start(&["-config", config.to_str().unwrap(), "replicate"]);
    until("the metrics are written", || {
        let found = fs::symlink_metadata(&metrics).map_err(|error| error.to_string())?;
        if found.is_file() { Ok(()) } else { Err("it is still the link".to_string()) }
    });
    replicator.stop();
    assert_untouched(&victim);
}

fn a_link_in_a_directory_of_databases_is_passed_over(bed: &Bed) {
    let (tenants, outside) = (bed.path("tenants"), bed.path("outside.db"));
    fs::create_dir(&tenants).unwrap();
    bed.write(&outside, &["--commits", "1"]);
    bed.write(&tenants.join("own.db"), &["--commits", "1"]);
    symlink(&outside, tenants.join("evil.db")).unwrap();
    // And a directory of somebody else, by a link to it.
    let away = bed.path("away");
    fs::create_dir(&away).unwrap();
    bed.write(&away.join("evil.db"), &["--commits", "1"]);
    symlink(&away, tenants.join("more")).unwrap();
    let config = bed.path("litestream.yml");
    let text = format!(
        "dbs: [{{dir: {}, pattern: \"*.db\", recursive: true, replica: {{url: \"{}\"}}}}]\n",
        tenants.display(),
        bed.url()
    );
    fs::write(&config, text).unwrap();
    bed.run(&["-config", config.to_str().unwrap(), "replicate", "-once"]).succeeded();
    let names = files(&bed.path("store"));
    assert!(names.iter().any(|name| name.starts_with("own.db/")), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("evil")), "{names:?}");
    assert!(!bed.path(".outside.db-litestream").exists() && !away.join(".evil.db-litestream").exists());
}

/// The configuration of a directory and all below it.
fn tenants_config(bed: &Bed, tenants: &Path, more: &str) -> String {
    let config = bed.path("litestream.yml");
    let replica = format!("replica: {{url: \"{}\"}}", bed.url_below("fleet"));
    let text =
        format!("dbs:\n- {{dir: {}, pattern: \"*.db\", recursive: true, watch: true, {replica}}}\n", tenants.display());
    fs::write(&config, format!("{more}{text}")).unwrap();
    config.to_str().unwrap().to_string()
}

/// Files of a tenant whose names no store takes.
fn plant_bad_names(bed: &Bed, honest: &Path, tenant: &Path) -> Vec<PathBuf> {
    let mut names = vec![tenant.join(std::ffi::OsStr::from_bytes(b"\xff.db"))];
    if bed.url().starts_with("nats:") {
        names.push(tenant.join("a\nb.db"));
        names.push((0..14).fold(tenant.to_path_buf(), |path, _| path.join("d".repeat(190))).join("x.db"));
    }
    for name in &names {
        fs::create_dir_all(name.parent().unwrap()).unwrap();
        fs::copy(honest, name).unwrap();
    }
    names
}

/// Each path has its row and its line, every other database is stored, and no heartbeat says that all is well.
fn a_name_that_cannot_be_stored_stops_no_other_database(bed: &Bed) {
    let tenants = bed.path("tenants");
    fs::create_dir(&tenants).unwrap();
    let honest = tenants.join("honest.db");
    bed.write(&honest, &["--commits", "2"]);
    let bad = plant_bad_names(bed, &honest, &tenants.join("t2"));
    let (url, beats) = support::heartbeats();
    let config = tenants_config(bed, &tenants, &format!("heartbeat-url: {url}\n"));
    let run = |words: &[&str]| bed.run(&[&["-config", &config], words].concat());
    let stored = |name: &str| {
        let output = bed.fresh("restored");
        let ran = bed.restore(&bed.url_below(&format!("fleet/{name}")), &output);
        if ran.status == 0 { support::equal(&tenants.join(name), &output) } else { Err(ran.stderr) }
    };
    let once = run(&["replicate", "-once", "-create-bucket"]).refused(DATABASE, &["expected a name in UTF-8", "/t2/"]);
    assert_eq!(once.stderr.matches("litestream: database ").count(), bad.len(), "{}", once.stderr);
    stored("honest.db").unwrap();
    for command in ["status", "verify", "snapshot"] {
        let ran = run(&[command, "-json"]);
        let rows: Vec<serde_json::Value> = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((ran.status, rows.len()), (DATABASE, 1 + bad.len()), "{command}: {}{}", ran.stdout, ran.stderr);
        let path =
            |row: &serde_json::Value| row.get("database").or(row.get("path")).unwrap().as_str().unwrap().to_string();
        for name in &bad {
            let row = rows.iter().find(|row| path(row) == name.to_string_lossy()).expect("a row");
            assert!(row.to_string().contains(": expected a "), "{command}: {row}");
        }
    }
    let listed = run(&["databases"]);
    assert!(listed.status == DATABASE && listed.stdout.contains("honest.db"), "{}{}", listed.stdout, listed.stderr);
    let socket = bed.path("notify");
    let heard = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    heard.set_read_timeout(Some(support::SOON)).unwrap();
    let mut replicator = bed.spawn(litestream().args(["-config", &config, "replicate"]).env("NOTIFY_SOCKET", &socket));
    replicator.says("path cannot be replicated");
    // One that comes later, and one that a new reading of the configuration finds.
    for name in ["later.db", "last.db"] {
        bed.write(&tenants.join(name), &["--commits", "2"]);
        until("it is stored", || stored(name));
        replicator.hang_up();
        replicator.says("configuration reloaded");
    }
    // What is told to systemd comes right after the decision about the heartbeat.
    let said = |message: &str| {
        let mut buffer = [0; 500];
        let count = heard.recv(&mut buffer).expect("a word to systemd");
        String::from_utf8_lossy(&buffer[..count]).contains(message)
    };
    let mut looks = 0;
    while looks < 2 {
        looks += usize::from(said("3 databases, lag 0s"));
    }
    assert!(beats.try_recv().is_err(), "{}", replicator.log());
    let lines = replicator.log();
    assert_eq!(lines.lines().filter(|line| line.contains("path cannot be replicated")).count(), bad.len(), "{lines}");
    let steers = |c: char| c.is_control() && c != '\n';
    assert!(!lines.contains(steers) && !lines.lines().any(|line| line.starts_with("b.db")), "{lines}");
    replicator.terminate();
    replicator.exits(DATABASE);
    fs::remove_dir_all(tenants.join("t2")).unwrap();
    run(&["snapshot"]).succeeded();
    beats.recv_timeout(support::SOON).expect("a heartbeat, when all is stored");
}

/// What is in there is not missing, and nothing else waits for it.
fn a_directory_that_cannot_be_read_stops_no_other_database(bed: &Bed) {
    if !is_root() {
        return;
    }
    let home = bed.path("home");
    let (honest, private) = (home.join("honest.db"), home.join("private"));
    fs::create_dir_all(&private).unwrap();
    for path in [&honest, &private.join("inner.db")] {
        bed.write(path, &["--commits", "2"]);
    }
    assert!(Command::new("chown").args(["-R", "65534:65534"]).arg(&home).status().unwrap().success());
    let url = format!("file://{}", home.join("store").display());
    let config = bed.path("litestream.yml");
    let text = format!(
        "dbs: [{{dir: {}, pattern: '*.db', recursive: true, watch: true, replica: {{url: '{url}'}}}}]",
        home.display()
    );
    fs::write(&config, text).unwrap();
    let program = bed.path("litestream");
    fs::copy(litestream().get_program(), &program).unwrap();
    let as_other = |words: &[&str]| {
        let mut command = like(litestream().arg("-config").arg(&config).args(words), Command::new(&program));
        command.uid(OTHER).gid(OTHER).current_dir("/");
        command
    };
    bed.run_command(&mut as_other(&["replicate", "-once"])).succeeded();
    let mut replicator = bed.spawn(&mut as_other(&["replicate"]));
    replicator.says("inner.db");
    fs::set_permissions(&private, Permissions::from_mode(0o000)).unwrap();
    replicator.says("path cannot be replicated");
    bed.sql(&honest, &["CREATE TABLE h (x)"]);
    until("the honest database is stored", || {
        let output = bed.fresh("restored");
        let ran = bed.restore(&format!("{url}/honest.db"), &output);
        if ran.status == 0 { support::equal(&honest, &output) } else { Err(ran.stderr) }
    });
    assert!(!replicator.log().contains("stopping replication"), "{}", replicator.log());
    replicator.terminate();
    replicator.exits(DATABASE);
    let said = ["read directory ", "private: permission denied"];
    bed.run_command(&mut as_other(&["replicate", "-once"])).refused(DATABASE, &said);
    bed.run_command(&mut as_other(&["snapshot"])).refused(DATABASE, &said);
    let ran = bed.run_command(&mut as_other(&["status"]));
    assert!(ran.status == DATABASE && ran.stdout.contains(said[1]), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("honest.db") && !ran.stdout.contains("missing"), "{}", ran.stdout);
    fs::set_permissions(&private, Permissions::from_mode(0o700)).unwrap();
    bed.run_command(&mut as_other(&["replicate", "-once"])).succeeded();
}

fn a_file_whose_place_is_taken_stops_no_other_database(bed: &Bed) {
    let (tenants, named) = (bed.path("tenants"), bed.path("named.db"));
    fs::create_dir(&tenants).unwrap();
    for path in [&named, &tenants.join("evil.db"), &tenants.join("honest.db")] {
        bed.write(path, &["--commits", "2"]);
    }
    let config = tenants_config(bed, &tenants, "");
    let evil = bed.url_below("fleet/evil.db");
    let text = fs::read_to_string(&config).unwrap()
        + &format!("- {{path: {}, replica: {{url: '{evil}'}}}}\n", named.display());
    fs::write(&config, text).unwrap();
    bed.run(&["-config", &config, "replicate", "-once"]).refused(DATABASE, &["evil.db: both would write to "]);
    assert_equal(&bed.restored_from(&evil), &named);
    assert_equal(&bed.restored_from(&bed.url_below("fleet/honest.db")), &tenants.join("honest.db"));
}

fn objects_of_a_directory_are_private(bed: &Bed) {
    let database = stored(bed, 0o600);
    let store = bed.path("store");
    let names = files(&store);
    assert!(!names.is_empty());
    for name in names {
        let path = store.join(&name);
        assert_eq!(mode(&path), 0o600, "{name}");
        for directory in path.ancestors().skip(1).take_while(|path| path.starts_with(&store)) {
            assert_eq!(mode(directory), 0o700, "{}", directory.display());
        }
    }
    let meta = database.with_file_name(format!(".{}-litestream", database.file_name().unwrap().to_str().unwrap()));
    assert_eq!(mode(&meta) & 0o077, 0);
}

/// One module opens what is written: see src/directory.rs.
#[test]
fn no_other_module_opens_a_file_to_write() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut read) = (Vec::new(), 0);
    for name in files(&src).into_iter().filter(|name| name.ends_with(".rs")) {
        read += 1;
        // Faults are noted in a file that a test names; no release has them. The others ask for locks, or read: what is let go
        // of is locked by a second descriptor on a file that SQLite has open, and not written to.
        let others = ["fault.rs", "source/close.rs", "restore/lock_holders.rs", "source/sigbus.rs"];
        let is_test = name.ends_with("tests.rs") || name.contains("/tests/");
        if name == "directory.rs" || is_test || others.contains(&name.as_str()) {
            continue;
        }
        let text = fs::read_to_string(src.join(&name)).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for word in ["File::create", "OpenOptions", "File::options", "fs::write", "fs::copy", "libc::open"] {
            let is_code = |line: &&str| !line.trim_start().starts_with("//");
            // Which is made below the handle of its directory.
            let opens = |line: &str| line.replace("TemporaryFile::create", "").contains(word);
            if code.lines().filter(is_code).any(opens) {
                found.push(format!("{name}: {word}"));
            }
        }
    }
    assert_eq!(found, [""; 0]);
    assert!(read > 50, "{read}");
}

/// What a tenant calls a file reaches the operator's terminal.
#[test]
fn names_with_escape_sequences_reach_no_terminal() {
    let bed = Bed::directory("escapes");
    let tenants = bed.path("tenants");
    fs::create_dir(&tenants).unwrap();
    let database = tenants.join("a\u{1b}]0;owned\u{7}\n\u{9b}2J\u{202e}.db");
    bed.write(&tenants.join("plain.db"), &["--commits", "1"]);
    fs::copy(tenants.join("plain.db"), &database).unwrap();
    let config = bed.path("litestream.yml");
    let text =
        format!("dbs: [{{dir: {}, pattern: \"*.db\", replica: {{url: \"{}\"}}}}]\n", tenants.display(), bed.url());
    fs::write(&config, text).unwrap();
    let path = database.to_str().unwrap();
    for words in
        [&["databases"][..], &["replicate", "-once"], &["status"], &["verify"], &["restore", path], &["wal", path]]
    {
        let ran = bed.run(&[&["-config", config.to_str().unwrap()], words].concat());
        let said = format!("{}{}", ran.stdout, ran.stderr);
        let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!said.contains(steers), "{words:?}: {said:?}");
        assert!(!said.lines().any(|line| line.starts_with("\u{9b}")), "{words:?}: {said:?}");
    }
}

/// A tenant who uploads junk stops nobody else's backup, at the next start neither.
#[test]
fn file_that_is_no_database_does_not_stop_the_others() {
    let bed = Bed::directory("junk");
    let tenants = bed.path("tenants");
    fs::create_dir(&tenants).unwrap();
    fs::write(tenants.join("a-junk.db"), "this is no database, however long it may be".repeat(100)).unwrap();
    let honest = tenants.join("b-honest.db");
    bed.write(&honest, &["--commits", "3"]);
    let config = bed.path("litestream.yml");
    let text =
        format!("dbs: [{{dir: {}, pattern: \"*.db\", replica: {{url: \"{}\"}}}}]\n", tenants.display(), bed.url());
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let mut replicator = bed.start(&["-config", config, "replicate"]);
    until("the honest database is stored", || {
        let output = bed.fresh("honest.db");
        let ran = bed.restore(&bed.url_below("b-honest.db"), &output);
        if ran.status == 0 { support::equal(&honest, &output) } else { Err(ran.stderr) }
    });
    bed.write(&honest, &["--commits", "3"]);
    replicator.says("a-junk.db");
    replicator.terminate();
    // Not everything that was to be stored is.
    replicator.exits(DATABASE);
    let output = bed.fresh("honest.db");
    bed.restore(&bed.url_below("b-honest.db"), &output).succeeded();
    assert_equal(&honest, &output);
    bed.run(&["-config", config, "replicate", "-once"]).refused(DATABASE, &["a-junk.db"]);
}

/// A configuration of an honest database and a neighbour's, each with its prefix; the paths of both.
fn two(bed: &Bed) -> (PathBuf, PathBuf, PathBuf) {
    let (honest, bad, config) = (bed.database(), bed.path("bad.db"), bed.path("litestream.yml"));
    let entry = |path: &Path, prefix: &str| {
        format!("  - {{path: {}, replica: {{url: \"{}\"}}}}\n", path.display(), bed.url_below(prefix))
    };
    // The neighbour comes first.
    fs::write(&config, format!("dbs:\n{}{}", entry(&bad, "bad"), entry(&honest, "honest"))).unwrap();
    (honest, bad, config)
}

fn held_lock(database: &Path) -> fs::File {
    let name = database.file_name().unwrap().to_str().unwrap();
    let meta = database.with_file_name(format!(".{name}-litestream"));
    fs::create_dir_all(&meta).unwrap();
    fs::set_permissions(&meta, Permissions::from_mode(0o700)).unwrap();
    // Anyone who holds it may write into it whatever they like.
    fs::write(meta.join("lock"), format!("{}\n", std::process::id())).unwrap();
    let lock = fs::File::options().write(true).read(true).open(meta.join("lock")).unwrap();
    lock.try_lock().unwrap();
    lock
}

fn honest_is_stored(bed: &Bed, honest: &Path, replicator: &mut Process) {
    bed.write(honest, &["--commits", "2"]);
    until("the honest database is stored", || {
        assert!(replicator.is_running(), "{}", replicator.log());
        let output = bed.fresh("honest.db");
        let ran = bed.restore(&bed.url_below("honest"), &output);
        if ran.status == 0 { support::equal(honest, &output) } else { Err(ran.stderr) }
    });
}

/// The owner of a database may write into its metadata directory, and so may lock what is in there.
#[test]
fn a_neighbour_who_holds_the_lock_of_a_database_stops_no_other() {
    let bed = Bed::directory("held");
    let (honest, bad, config) = two(&bed);
    let lock = held_lock(&bad);
    // Before there is a database, and then with one.
    for _ in 0..2 {
        let mut replicator = bed.start(&["-config", config.to_str().unwrap(), "replicate"]);
        honest_is_stored(&bed, &honest, &mut replicator);
        bed.write(&bad, &["--commits", "2"]);
        replicator.says("bad.db");
        replicator.says("already replicated by");
        honest_is_stored(&bed, &honest, &mut replicator);
        replicator.terminate();
        replicator.exits(DATABASE);
    }
    // The same configuration started twice is something else.
    let own = held_lock(&honest);
    bed.run(&["-config", config.to_str().unwrap(), "replicate"]).refused(LOCKED, &["bad.db", "already replicated by"]);
    drop((lock, own));
    bed.run(&["-config", config.to_str().unwrap(), "replicate", "-once"]).succeeded();
}

#[test]
fn a_neighbour_who_has_the_prefix_of_a_database_stops_no_other() {
    let bed = Bed::directory("taken");
    let (honest, bad, config) = two(&bed);
    let other = bed.path("other.db");
    for database in [&bad, &other] {
        bed.write(database, &["--commits", "2"]);
    }
    let mut squatter = bed.replicate_to(&other, &bed.url_below("bad"));
    squatter.says("snapshot stored");
    let mut replicator = bed.start(&["-config", config.to_str().unwrap(), "replicate"]);
    honest_is_stored(&bed, &honest, &mut replicator);
    replicator.says("is already replicated to by");
    honest_is_stored(&bed, &honest, &mut replicator);
    squatter.stop();
    replicator.terminate();
    replicator.exits(DATABASE);
}

//! What the server cannot read: a device with recipients alone backs up for years, only an identity restores, and what was
//! tampered with, moved or mixed is refused by its name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use litestream::format::compaction::WINDOWS;

use crate::support::encryption::Key;
use crate::support::{
    Bed, CORRUPT, LOCKED, Process, Ran, USAGE, assert_equal, equal, litestream, on_a_directory_only, on_both_stores,
    until,
};

on_both_stores! {
    only_an_identity_restores_what_a_device_stores
    clear_is_followed_by_encrypted_and_not_back
}

on_a_directory_only! {
    changed_recipients_count_from_the_next_object_on
    a_new_key_alone_restores_after_the_next_snapshot
    a_running_replicate_that_has_not_read_its_keys_is_named
    nothing_that_the_store_holds_is_in_clear
    tampered_objects_are_named_and_nothing_is_restored
    an_object_in_clear_behind_encrypted_ones_is_refused
    a_device_that_lost_its_note_key_asks_before_it_begins_anew
    a_device_without_an_identity_merges_what_it_stored_itself
    a_database_without_a_wal_is_encrypted_too
    keys_that_are_wrong_or_open_to_others_are_refused
}

/// A configuration with `age` for its replica, if that is not empty.
fn config(bed: &Bed, database: &Path, age: &str) -> String {
    let path = bed.fresh("litestream.yml");
    let bucket = if bed.url().starts_with("nats") { ", create-bucket: true" } else { "" };
    let age = if age.is_empty() { String::new() } else { format!(", age: {{ {age} }}") };
    let replica = format!("{{ url: \"{}\", sync-interval: 50ms{bucket}{age} }}", bed.url());
    fs::write(&path, format!("dbs:\n  - path: {}\n    replica: {replica}\n", database.display())).unwrap();
    path.to_str().unwrap().to_string()
}

fn to(keys: &[&Key]) -> String {
    let recipients: Vec<String> = keys.iter().map(|key| key.recipient()).collect();
    format!("recipients: [{}]", recipients.join(", "))
}

fn replicate(bed: &Bed, config: &str) -> Process {
    bed.start(&["replicate", "-config", config])
}

fn once(bed: &Bed, config: &str, more: &[&str]) -> Ran {
    bed.run(&[&["replicate", "-once", "-config", config], more].concat())
}

fn restore(bed: &Bed, output: &Path, more: &[&str]) -> Ran {
    bed.run(&[&["restore", "-o", output.to_str().unwrap(), &bed.url()], more].concat())
}

/// Restores with the key until the result equals the live database.
fn converges(bed: &Bed, database: &Path, key: &Key) {
    until("the restore equals the live database", || {
        let output = bed.fresh("restored.db");
        let ran = restore(bed, &output, &["-identity", key.file()]);
        if ran.status != 0 { Err(ran.stderr) } else { equal(database, &output) }
    });
}

fn column(ran: &Ran, name: &str) -> serde_json::Value {
    let rows: Vec<serde_json::Value> = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
    rows[0][name].clone()
}

fn only_an_identity_restores_what_a_device_stores(bed: &Bed) {
    let (database, one, two, other) = (bed.database(), Key::new(bed), Key::new(bed), Key::new(bed));
    let config = config(bed, &database, &to(&[&one, &two]));
    let process = replicate(bed, &config);
    converges(bed, &database, &one);
    bed.write(&database, &["--commits", "20"]);
    converges(bed, &database, &two);
    // A running process that is asked says it as well.
    if bed.url().starts_with("nats") {
        let live = || bed.run(&["status", "-json", &bed.url()]);
        until("all is stored", || if live().status == 0 { Ok(()) } else { Err(live().stderr) });
        assert_eq!(column(&live().succeeded(), "recipients"), 2);
    }
    process.kill();
    // After a segment, and after a WAL that the application has emptied.
    bed.write(&database, &["--commits", "5", "--abandon"]);
    let again = once(bed, &config, &[]).succeeded();
    assert!(again.stderr.contains("continuing") && !again.stderr.contains("new generation"), "{}", again.stderr);
    bed.sql(&database, &["PRAGMA wal_checkpoint(TRUNCATE)"]);
    let again = once(bed, &config, &[]).succeeded();
    assert!(again.stderr.contains("continuing") && !again.stderr.contains("new generation"), "{}", again.stderr);

    let status = bed.run(&["status", "-json", "-config", &config]).succeeded();
    assert_eq!((column(&status, "status"), column(&status, "recipients")), ("ok".into(), 2.into()));
    let listed = bed.run(&["list", "-json", &bed.url()]).succeeded();
    assert_eq!(column(&listed, "recipients"), 2, "{}", listed.stdout);
    assert!(!listed.stdout.contains("a.db"), "the path is told: {}", listed.stdout);
    let listed = bed.run(&["list", "-json", "-identity", two.file(), &bed.url()]).succeeded();
    assert!(listed.stdout.contains("a.db"), "{}", listed.stdout);
    let verified = bed.run(&["verify", "-json", "-config", &config, "-identity", one.file()]).succeeded();
    assert_eq!(column(&verified, "live"), "equal", "{}", verified.stdout);

    let output = bed.fresh("refused.db");
    restore(bed, &output, &[]).refused(CORRUPT, &["one of its 2 recipients", "hint: ", "-identity"]);
    restore(bed, &output, &["-identity", other.file()]).refused(CORRUPT, &["no identity here"]);
    assert!(!output.exists());
    assert_eq!(bed.run(&["verify", &bed.url()]).status, CORRUPT);
    restore(bed, &output, &["-identity", two.file()]).succeeded();
    assert_equal(&database, &output);
    // Somebody without the keys cannot take the place of what is stored by mistake.
    let unaware = bed.run_command(bed.replicate_command(&database, &bed.url()).arg("-once"));
    unaware.refused(LOCKED, &["expected recipients to encrypt to", "-allow-unencrypted"]);
}

fn clear_is_followed_by_encrypted_and_not_back(bed: &Bed) {
    let (database, key) = (bed.database(), Key::new(bed));
    let (clear, encrypted) = (config(bed, &database, ""), config(bed, &database, &to(&[&key])));
    once(bed, &clear, &[]).succeeded();
    let begun = once(bed, &encrypted, &[]).succeeded();
    assert!(begun.stderr.contains("stored history is not encrypted"), "{}", begun.stderr);
    bed.write(&database, &["--commits", "3"]);
    once(bed, &encrypted, &[]).succeeded();
    let output = bed.fresh("restored.db");
    restore(bed, &output, &["-identity", key.file()]).succeeded();
    assert_equal(&database, &output);

    once(bed, &clear, &[]).refused(LOCKED, &["expected recipients to encrypt to"]);
    let snapshot = bed.run(&["snapshot", "-config", &clear]);
    assert_eq!(snapshot.status, LOCKED, "{}", snapshot.stderr);
    let ended = once(bed, &clear, &["-allow-unencrypted"]).succeeded();
    assert!(ended.stderr.contains("new generation"), "{}", ended.stderr);
    let output = bed.fresh("restored.db");
    let warned = restore(bed, &output, &["-identity", key.file()]).succeeded();
    assert!(warned.stderr.contains("this backup is in clear"), "{}", warned.stderr);
    assert_equal(&database, &output);
}

fn changed_recipients_count_from_the_next_object_on(bed: &Bed) {
    let (database, one, two, three) = (bed.database(), Key::new(bed), Key::new(bed), Key::new(bed));
    let people = bed.fresh("recipients.txt");
    let write = |text: String| {
        let beside = bed.fresh("new.txt");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, &people).unwrap();
    };
    write(one.recipient());
    let from_file = config(bed, &database, &format!("recipients-file: {}", people.display()));
    let mut process = replicate(bed, &from_file);
    converges(bed, &database, &one);
    // To whom what is committed now is stored.
    let becomes = |what: &str, right: &dyn Fn(&Path) -> bool| {
        until(what, || {
            bed.write(&database, &["--commits", "1"]);
            let newest = files(bed).into_iter().rfind(|file| file.to_str().unwrap().contains("/wal/"));
            if newest.is_some_and(|newest| right(&newest)) { Ok(()) } else { Err("it is not") }
        });
    };
    becomes("a segment is stored", &|newest| one.opens(newest) && !two.opens(newest));
    write(format!("{}\n{}\n", one.recipient(), two.recipient()));
    becomes("it is for both", &|newest| one.opens(newest) && two.opens(newest));
    let said = "age recipients not changed: their file cannot be used";
    write(three.recipient()[..30].to_string());
    bed.write(&database, &["--commits", "1"]);
    process.says(said);
    let before = files(bed).len();
    becomes("the recipients of before stay", &|newest| two.opens(newest) && files(bed).len() > before + 2);
    let log = process.log();
    assert!(log.matches(said).count() == 1 && log.contains("recipients.txt"), "{log}");
    write(two.recipient());
    becomes("the first one is out", &|newest| two.opens(newest) && !one.opens(newest));
    // In the configuration itself, with SIGHUP.
    let text = fs::read_to_string(&from_file).unwrap();
    fs::write(&from_file, text.replace("age: {", &format!("age: {{ {},", to(&[&three])))).unwrap();
    process.hang_up();
    becomes("it is for the third one, too", &|newest| three.opens(newest) && two.opens(newest));
    let log = process.log();
    assert_eq!((log.matches("new generation").count(), log.matches("age recipients changed").count()), (1, 2), "{log}");
    // A full snapshot follows each change: whoever is new needs nothing that was stored before.
    converges(bed, &database, &three);
    process.says("full snapshot for the age recipients of now");
    process.stop();
}

fn a_new_key_alone_restores_after_the_next_snapshot(bed: &Bed) {
    let (database, one, two) = (bed.database(), Key::new(bed), Key::new(bed));
    let (clear, old) = (config(bed, &database, ""), config(bed, &database, &to(&[&one])));
    let new = config(bed, &database, &to(&[&two]));
    let snapshot = |config: &str| {
        let ran = bed.run(&["snapshot", "-json", "-enforce-retention", "-config", config]).succeeded();
        bed.write(&database, &["--commits", "2", "--abandon"]);
        column(&ran, "kind")
    };
    let kinds: Vec<_> = [&clear, &clear, &old, &old, &new, &new].map(|config| snapshot(config)).into();
    // An incremental one would follow a base that the new key cannot read.
    assert_eq!(kinds, ["full", "incremental", "full", "incremental", "full", "incremental"]);
    snapshot(&new);
    let output = bed.fresh("restored.db");
    bed.run(&["snapshot", "-config", &new]).succeeded();
    restore(bed, &output, &["-identity", two.file()]).succeeded();
    assert_equal(&database, &output);
    // Where nobody knows to whom the base is encrypted, it is not relied on.
    fs::remove_file(bed.path(".a.db-litestream").join("recipients")).unwrap();
    assert_eq!((snapshot(&new), snapshot(&new)), ("full".into(), "incremental".into()));
    // A start of `replicate` stores a full one, too, before it ends.
    once(bed, &old, &[]).succeeded();
    let output = bed.fresh("restored.db");
    restore(bed, &output, &["-identity", one.file()]).succeeded();
    assert_equal(&database, &output);
}

fn a_running_replicate_that_has_not_read_its_keys_is_named(bed: &Bed) {
    let (database, one, two) = (bed.database(), Key::new(bed), Key::new(bed));
    let config = config(bed, &database, &to(&[&one]));
    let process = replicate(bed, &config);
    converges(bed, &database, &one);
    bed.run(&["snapshot", "-config", &config]).succeeded();
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace(&one.recipient(), &two.recipient())).unwrap();
    bed.run(&["snapshot", "-config", &config]).refused(LOCKED, &["not for the age recipients", "SIGHUP"]);
    process.hang_up();
    converges(bed, &database, &two);
    bed.run(&["snapshot", "-config", &config]).succeeded();
    process.stop();
}

/// The paths of all stored files.
fn files(bed: &Bed) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["snapshots", "wal"]
        .into_iter()
        .flat_map(|room| bed.objects(room))
        .map(|line| bed.path("store").join(line.rsplit_once(' ').unwrap().0))
        .collect();
    found.sort();
    found
}

fn nothing_that_the_store_holds_is_in_clear(bed: &Bed) {
    let (database, key) = (bed.database(), Key::new(bed));
    let config = config(bed, &database, &to(&[&key]));
    let process = replicate(bed, &config);
    converges(bed, &database, &key);
    // Bytes that no compression hides.
    let known = "7f3a9c51e8b2d604c7e19f5a2b8d3e60";
    bed.sql(&database, &["CREATE TABLE known_name (x)", &format!("INSERT INTO known_name VALUES (x'{known}')")]);
    converges(bed, &database, &key);
    process.stop();
    bed.run(&["snapshot", "-full", "-config", &config]).succeeded();
    let blob: Vec<u8> =
        (0..known.len()).step_by(2).map(|at| u8::from_str_radix(&known[at..at + 2], 16).unwrap()).collect();
    let path = database.to_str().unwrap();
    let words: [&[u8]; 5] = [&blob, b"known_name", path.as_bytes(), b"\x1f\x8b\x08\x04", b"SQLite format"];
    let files = files(bed);
    // Two snapshots and what is between them, which may be one segment.
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let bytes = fs::read(&file).unwrap();
        assert!(bytes.starts_with(b"age-encryption.org/v1\n"), "{}", file.display());
        for word in words {
            let found = bytes.windows(word.len()).any(|piece| piece == word);
            assert!(!found, "{}: {}", file.display(), String::from_utf8_lossy(word));
        }
    }
}

fn tampered_objects_are_named_and_nothing_is_restored(bed: &Bed) {
    let (database, key) = (bed.database(), Key::new(bed));
    let config = config(bed, &database, &to(&[&key]));
    once(bed, &config, &[]).succeeded();
    for _ in 0..3 {
        bed.write(&database, &["--commits", "2", "--abandon"]);
        once(bed, &config, &[]).succeeded();
    }
    let (files, output) = (files(bed), bed.fresh("refused.db"));
    let refuses = |object: &Path, what: &str| {
        let ran = restore(bed, &output, &["-identity", key.file()]);
        let name = object.file_name().unwrap().to_str().unwrap();
        ran.refused(CORRUPT, &[name]);
        assert!(!output.exists(), "{what}: {name}");
    };
    assert!(files.iter().any(|file| file.components().any(|part| part.as_os_str() == "wal")));
    for file in &files {
        let bytes = fs::read(file).unwrap();
        let change = |at: usize| {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            changed
        };
        for (what, changed) in [
            ("a bit of the header", change(100)),
            ("a bit of the payload", change(bytes.len() - 20)),
            ("cut off", bytes[..bytes.len() - 1].to_vec()),
            ("longer", [&bytes[..], b"x"].concat()),
        ] {
            fs::write(file, changed).unwrap();
            refuses(file, what);
        }
        fs::write(file, bytes).unwrap();
    }
    // Two segments that change their places; a whole generation under another number.
    let segments: Vec<&PathBuf> = files.iter().filter(|file| file.to_str().unwrap().contains("/wal/")).collect();
    let (first, second) = (fs::read(segments[0]).unwrap(), fs::read(segments[1]).unwrap());
    fs::write(segments[0], &second).unwrap();
    fs::write(segments[1], &first).unwrap();
    refuses(segments[0], "exchanged");
    fs::write(segments[0], first).unwrap();
    fs::write(segments[1], second).unwrap();
    let generation = segments[0].parent().unwrap().parent().unwrap();
    fs::rename(generation, generation.with_file_name("fffffffffffffff0")).unwrap();
    let moved = restore(bed, &output, &["-identity", key.file()]);
    moved.refused(CORRUPT, &["under another name or prefix"]);
    assert!(!output.exists());
}

fn an_object_in_clear_behind_encrypted_ones_is_refused(bed: &Bed) {
    let (database, key) = (bed.database(), Key::new(bed));
    let config = config(bed, &database, &to(&[&key]));
    once(bed, &config, &[]).succeeded();
    bed.write(&database, &["--commits", "2", "--abandon"]);
    once(bed, &config, &[]).succeeded();
    let segment = files(bed).into_iter().find(|file| file.to_str().unwrap().contains("/wal/")).unwrap();
    let (encrypted, plain) = (fs::read(&segment).unwrap(), key.decrypt(&segment));
    fs::write(&segment, &plain).unwrap();
    let output = bed.fresh("refused.db");
    let ran = restore(bed, &output, &["-identity", key.file()]);
    ran.refused(CORRUPT, &["found one in clear", segment.file_name().unwrap().to_str().unwrap()]);
    // Nor is a snapshot in clear that somebody has put before them.
    fs::write(&segment, encrypted).unwrap();
    let snapshot = files(bed).into_iter().find(|file| file.to_str().unwrap().contains("/snapshots/")).unwrap();
    fs::write(&snapshot, key.decrypt(&snapshot)).unwrap();
    restore(bed, &output, &["-identity", key.file()]).refused(CORRUPT, &["found an encrypted one"]);
    assert!(!output.exists());
}

fn a_device_that_lost_its_note_key_asks_before_it_begins_anew(bed: &Bed) {
    let (database, key) = (bed.database(), Key::new(bed));
    let config = config(bed, &database, &to(&[&key]));
    once(bed, &config, &[]).succeeded();
    let note_key = bed.path(".a.db-litestream").join("note-key");
    assert_eq!(fs::metadata(&note_key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::remove_file(&note_key).unwrap();
    let asked = once(bed, &config, &[]);
    asked.refused(LOCKED, &["cannot be read here", "-allow-other-database", "identities"]);
    let begun = once(bed, &config, &["-allow-other-database"]).succeeded();
    assert!(begun.stderr.contains("stored history is encrypted and cannot be read here"), "{}", begun.stderr);
    converges(bed, &database, &key);
    // With an identity in the configuration it goes on, whatever happened to the key.
    let both = self::config(bed, &database, &format!("{}, identities: [\"{}\"]", to(&[&key]), key.file()));
    fs::remove_file(&note_key).unwrap();
    bed.write(&database, &["--commits", "2", "--abandon"]);
    let again = once(bed, &both, &[]).succeeded();
    assert!(again.stderr.contains("continuing") && !again.stderr.contains("new generation"), "{}", again.stderr);
    converges(bed, &database, &key);
}

fn a_device_without_an_identity_merges_what_it_stored_itself(bed: &Bed) {
    let (database, key) = (bed.database(), Key::new(bed));
    let blind = config(bed, &database, &to(&[&key]));
    let mut process = bed.start(&["replicate", "-config", &blind, "-log-level", "debug"]);
    converges(bed, &database, &key);
    // The commits are those of the rest of one window, of at least ten seconds, of a whole one, and of the begin of a third. A
    // device that has not listed its store leaves the first.
    let second = || UNIX_EPOCH.elapsed().unwrap().as_secs();
    until("a window has begun", || match second() % WINDOWS[0] {
        0..5 => Ok(()),
        other => Err(other),
    });
    bed.write(&database, &["--seconds", "31", "--rate", "10"]);
    process.says("msg=\"segments merged\"");
    process.stop();
    let segments = || bed.objects("wal").len();
    let before = segments();
    let compact = |config: &str| bed.run(&["compact", "-once", "-json", "-config", config]).succeeded();
    let nothing = compact(&blind);
    assert_eq!((column(&nothing, "merged"), segments()), (0.into(), before));
    assert!(nothing.stderr.contains("no age identity here"), "{}", nothing.stderr);
    let keeping = bed.fresh("keeping.yml");
    fs::write(&keeping, format!("keep: {{ all: 1h, daily: 30d }}\n{}", fs::read_to_string(&blind).unwrap())).unwrap();
    let nothing = compact(keeping.to_str().unwrap());
    assert!(nothing.stderr.contains("history not thinned out"), "{}", nothing.stderr);
    // By a URL alone nobody knows for whom the merged segments would be.
    let words = ["compact", "-once", "-json", "-identity", key.file(), &bed.url()];
    let unknown = bed.run(&words).succeeded();
    assert_eq!(column(&unknown, "merged"), 0, "{}", unknown.stdout);
    let sighted = config(bed, &database, &format!("{}, identities: [\"{}\"]", to(&[&key]), key.file()));
    let done = compact(&sighted);
    assert!(column(&done, "merged").as_u64().unwrap() > 2, "{}", done.stdout);
    converges(bed, &database, &key);
    assert!(files(bed).iter().all(|file| fs::read(file).unwrap().starts_with(b"age-encryption.org/v1")));
    // The device goes on after what was merged elsewhere.
    bed.write(&database, &["--commits", "3", "--abandon"]);
    let again = once(bed, &blind, &[]).succeeded();
    assert!(again.stderr.contains("continuing"), "{}", again.stderr);
    converges(bed, &database, &key);
}

fn a_database_without_a_wal_is_encrypted_too(bed: &Bed) {
    let (database, key) = (bed.path("plain.db"), Key::new(bed));
    bed.sql(&database, &["CREATE TABLE t (x)", "INSERT INTO t VALUES (1)"]);
    let encrypted = config(bed, &database, &to(&[&key]));
    for _ in 0..2 {
        bed.run(&["snapshot", "-config", &encrypted]).succeeded();
    }
    converges(bed, &database, &key);
    let clear = config(bed, &database, "");
    let refused = bed.run(&["snapshot", "-config", &clear]);
    assert!(refused.status == LOCKED && refused.stderr.contains("recipients to encrypt to"), "{}", refused.stderr);
    bed.run(&["snapshot", "-allow-unencrypted", "-allow-other-database", "-config", &clear]).succeeded();
}

fn keys_that_are_wrong_or_open_to_others_are_refused(bed: &Bed) {
    let (database, key) = (bed.database(), Key::new(bed));
    let secret = key.identity.reveal().to_string();
    let refuses = |age: &str, parts: &[&str]| {
        let ran = once(bed, &config(bed, &database, age), &[]);
        assert!(!ran.stderr.contains(&secret[20..]), "{}", ran.stderr);
        ran.refused(USAGE, parts);
    };
    refuses("recipients: [age1yubikey1qwerty]", &["recipients: ", "the plugin yubikey"]);
    refuses("recipients: [age1pq1qwerty]", &["post-quantum"]);
    refuses("recipients: [ssh-ed25519 AAAA]", &["an SSH key"]);
    refuses(&format!("recipients: [{secret}]"), &["an identity, which is secret"]);
    refuses(&format!("{}, identities: [AGE-PLUGIN-TPM-1QWERTY]", to(&[&key])), &["plugin"]);
    refuses(&format!("identities: [{secret}]"), &["expected recipients"]);
    refuses("recipients-file: /nowhere/recipients", &["recipients-file: ", "/nowhere/recipients"]);
    refuses("passphrase: x", &["passphrase: unknown key in age"]);
    fs::set_permissions(key.file(), fs::Permissions::from_mode(0o644)).unwrap();
    let with_file = format!("{}, identities: [\"{}\"]", to(&[&key]), key.file());
    refuses(&with_file, &["age: identities", "expected a file that only its owner can read", "chmod 600"]);
    let ran = restore(bed, &bed.fresh("refused.db"), &["-identity", key.file()]);
    ran.refused(USAGE, &["option -identity", "chmod 600"]);
    let mut command = litestream();
    let ran = bed.run_command(command.args(["replicate", "-identity", key.file()]));
    ran.refused(USAGE, &["-identity"]);
    // Recipients of a file are as good as those in the configuration.
    let recipients = bed.fresh("recipients.txt");
    fs::write(&recipients, format!("# ours\n{}\n", key.recipient())).unwrap();
    fs::set_permissions(key.file(), fs::Permissions::from_mode(0o600)).unwrap();
    once(bed, &config(bed, &database, &format!("recipients-file: {}", recipients.display())), &[]).succeeded();
    converges(bed, &database, &key);
}

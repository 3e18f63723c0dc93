//! An encrypted history is thinned out by someone with an identity and the recipients, for a device that has recipients alone.

use std::fs;

use litestream::format::time::Timestamp;

use crate::support::clock::{with_clock, wrong_clock};
use crate::support::encryption::Key;
use crate::support::{Bed, Ran, assert_equal, litestream, on_a_directory_only, python};

on_a_directory_only! {
    an_encrypted_history_is_thinned_out_and_its_device_goes_on
}

const HOUR: i64 = 3600;

fn rows(ran: &Ran) -> Vec<serde_json::Value> {
    serde_json::from_str(&ran.stdout).unwrap()
}

/// The number in the only row of a result.
fn number(ran: &Ran, key: &str) -> u64 {
    let rows = rows(ran);
    assert!(rows.len() == 1 && rows[0]["error"].is_null(), "{rows:?}");
    rows[0][key].as_u64().unwrap_or_else(|| panic!("{key} in {rows:?}"))
}

fn an_encrypted_history_is_thinned_out_and_its_device_goes_on(bed: &Bed) {
    let (database, library, key) = (bed.database(), wrong_clock(bed), Key::new(bed));
    let policy = "keep: { all: 1h, hourly: 2d, daily: 30d }\n";
    let with_age = |age: String| {
        let config = bed.fresh("litestream.yml");
        let replica = format!("{{ url: \"{}\", age: {{ {age} }} }}", bed.url());
        let text = format!("{policy}dbs:\n  - path: {}\n    replica: {replica}\n", database.display());
        fs::write(&config, text).unwrap();
        config.to_str().unwrap().to_string()
    };
    let blind = with_age(format!("recipients: [{}]", key.recipient()));
    let sighted = with_age(format!("recipients: [{}], identities: [{}]", key.recipient(), key.file()));
    let once = |days: i64| {
        let mut command = litestream();
        command.args(["replicate", "-once", "-config", &blind]);
        bed.run_command(with_clock(&mut command, &library, days * 24 * HOUR)).succeeded()
    };
    let mut session = bed.session(&database);
    session.sql("CREATE TABLE kept(x)");
    let states: Vec<String> = (0..12)
        .map(|commit| {
            session.sql("INSERT INTO kept VALUES(randomblob(60000))");
            once(commit / 2);
            bed.sql(&database, &["SELECT count(*), sum(length(x)) FROM kept"])
        })
        .collect();
    let times: Vec<Timestamp> = rows(&bed.run(&["wal", "-json", &bed.url()]).succeeded())
        .iter()
        .map(|row| Timestamp::parse(row["last"].as_str().unwrap()).unwrap())
        .collect();
    let compact = |words: &[&str]| {
        let mut command = litestream();
        command.args(["compact", "-once", "-json"]).args(words);
        bed.run_command(with_clock(&mut command, &library, 5 * 24 * HOUR + HOUR)).succeeded()
    };
    // Each key alone is not enough, and it is said which one is missing.
    let stored = || [bed.objects("snapshots"), bed.objects("wal")];
    let before = stored();
    let by_url = ["-keep", "all=1h,hourly=2d,daily=30d", "-identity", key.file(), &bed.url()];
    for (words, missing) in
        [(&["-config", &blind][..], "no age identity here: what is stored"), (&by_url, "no age recipients here")]
    {
        let nothing = compact(words);
        assert!(nothing.stderr.contains("history not thinned out") && nothing.stderr.contains(missing), "{nothing:?}");
        assert_eq!(stored(), before);
    }
    let passes: Vec<Ran> = (0..4).map(|_| compact(&["-config", &sighted])).collect();
    let sum = |key: &str| passes.iter().map(|pass| number(pass, key)).sum::<u64>();
    assert!(sum("rollups") > 2 && sum("snapshots") > 1 && sum("deleted") > 4, "{passes:?}");
    assert_eq!(["rollups", "snapshots", "deleted"].map(|key| number(&passes[3], key)), [0; 3]);
    // The last commit of each day, by three readers.
    for (at, state) in states.iter().enumerate().filter(|(at, _)| at % 2 == 1) {
        let (output, moment) = (bed.fresh("moment.db"), times[times.len() + at - states.len()].to_string());
        let words = ["restore", "-identity", key.file(), "-timestamp", &moment, "-o", output.to_str().unwrap()];
        bed.run(&[&words[..], &[&bed.url()]].concat()).succeeded();
        assert_eq!(&bed.sql(&output, &["SELECT count(*), sum(length(x)) FROM kept"]), state);
    }
    bed.run(&["verify", "-identity", key.file(), &bed.url()]).succeeded();
    let (clear, output) = (bed.fresh("clear"), bed.fresh("second.db"));
    key.decrypt_tree(&bed.path("store"), &clear);
    bed.run_command(python("second_reader.py").arg(&clear).arg(&output)).succeeded();
    assert_equal(&database, &output);
    // The device, which cannot read any of it, goes on.
    session.sql("INSERT INTO kept VALUES(1)");
    let again = once(6);
    assert!(again.stderr.contains("continuing") && !again.stderr.contains("new generation"), "{}", again.stderr);
    // When its own snapshot has gone by retention, it still knows its database by the note in a later one.
    let snapshots = bed.objects("snapshots");
    let (first, _size) = snapshots[0].split_once(' ').unwrap();
    fs::remove_file(bed.path("store").join(first)).unwrap();
    drop(session);
    bed.sql(&database, &["INSERT INTO kept VALUES(2)"]);
    let _ = fs::remove_file(bed.path(".a.db-litestream/page-checksums"));
    let again = once(7);
    assert!(snapshots.len() > 2 && again.stderr.contains("new generation"), "{}", again.stderr);
}

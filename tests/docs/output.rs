//! What each command prints with -json has the names that litestream(1) lists, and the table has the same ones.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::{Bed, litestream, on_a_directory_only};
use litestream::format::time::Timestamp;
use serde_json::Value;

on_a_directory_only! {
    every_result_has_the_columns_that_the_manual_lists
    status_shows_bytes_and_seconds_behind
}

/// The names under a command in the section OUTPUT.
fn documented(command: &str) -> BTreeSet<String> {
    let page = fs::read_to_string("man/litestream.1").unwrap();
    let section = page.split_once(".Sh OUTPUT\n").unwrap().1.split_once(".Sh ").unwrap().0;
    let entry = section.split_once(&format!(".It Ic {command}\n")).unwrap_or_else(|| panic!("no {command}")).1;
    let entry = entry.split("\n.It Ic ").next().unwrap();
    let names = entry.lines().filter_map(|line| line.strip_prefix(".Cm "));
    names.map(|name| name.trim_end_matches([' ', ',', '.']).to_string()).collect()
}

/// The names of the only, or the first, object.
fn names(text: &str) -> BTreeSet<String> {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let object = value.get(0).unwrap_or(&value).as_object().unwrap_or_else(|| panic!("no object in {text}"));
    object.keys().map(|name| name.replace('_', " ")).collect()
}

fn every_result_has_the_columns_that_the_manual_lists(bed: &Bed) {
    let database = bed.database();
    bed.replicate_once(&database);
    bed.write(&database, &["--commits", "2", "--autocheckpoint", "0", "--abandon"]);
    bed.replicate_once(&database);
    let config = bed.path("litestream.yml");
    let text = format!("dbs: [{{path: {}, replica: {{url: \"{}\"}}}}]", database.display(), bed.url());
    fs::write(&config, text).unwrap();
    let run = |words: &str| {
        let mut command = litestream();
        bed.run_command(command.arg("-config").arg(&config).args(words.split(' ').filter(|word| !word.is_empty())))
    };
    let path = database.display();
    for words in ["databases", "generations DB", "snapshots DB", "wal DB", "status", "verify"] {
        let command = words.split(' ').next().unwrap();
        let words = words.replace("DB", &path.to_string());
        let found = names(&run(&format!("{words} -json")).succeeded().stdout);
        assert_eq!(found, documented(command), "{command}");
        let table = run(&words).succeeded().stdout;
        let head: BTreeSet<String> =
            table.lines().next().unwrap().split("  ").map(|name| name.trim().to_string()).collect();
        let head: BTreeSet<String> = head.into_iter().filter(|name| !name.is_empty()).collect();
        assert_eq!(head, found, "{command}");
    }
    for command in ["version", "snapshot"] {
        assert_eq!(names(&run(&format!("{command} -json")).succeeded().stdout), documented(command), "{command}");
    }
    let output = bed.path("restored.db");
    let restored = names(&run(&format!("restore -json -o {} {path}", output.display())).succeeded().stdout);
    let planned = names(&run(&format!("restore -json -dry-run {path}")).succeeded().stdout);
    assert_eq!(&restored | &planned, documented("restore"));
}

/// What `status -json` says of the database, and when the last commit was stored.
fn status(bed: &Bed, database: &Path, url: &str) -> (Value, SystemTime) {
    let ran = bed.run(&["status", "-json", database.to_str().unwrap(), url]);
    let value: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let stored = Timestamp::parse(value[0]["stored_until"].as_str().unwrap()).unwrap_or_default();
    (value[0].clone(), UNIX_EPOCH + Duration::from_millis(stored.millis()))
}

fn dated(path: &Path, time: SystemTime) {
    fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
}

fn status_shows_bytes_and_seconds_behind(bed: &Bed) {
    let database = bed.database();
    let wal = PathBuf::from(format!("{}-wal", database.display()));
    let says = || status(bed, &database, &bed.url());
    let one = ["--commits", "1", "--autocheckpoint", "0", "--abandon"];
    bed.write(&database, &one);
    bed.replicate_once(&database);
    let (found, stored) = says();
    assert_eq!((&found["status"], &found["behind"], &found["seconds_behind"]), (&"ok".into(), &0.into(), &0.into()));

    // The commit that follows is as late as the file system says; it is rounded up to whole seconds.
    bed.write(&database, &one);
    let late = fs::metadata(&wal).unwrap().modified().unwrap().duration_since(stored).unwrap();
    let (found, _) = says();
    assert_eq!((&found["status"], &found["seconds_behind"]), (&"behind".into(), &(late.as_secs() + 1).into()));
    assert!(found["behind"].as_u64().unwrap() > 4096, "{found}");

    // A checkpoint that writes to the database file is no commit.
    dated(&wal, stored + Duration::from_secs(90));
    dated(&database, stored + Duration::from_secs(300));
    assert_eq!(says().0["seconds_behind"], 90);
    // The clock was set back: what it says is not known to be true.
    dated(&wal, stored - Duration::from_secs(1));
    assert_eq!(says().0["seconds_behind"], Value::Null);

    // What was in the WAL is in the file.
    bed.sql(&database, &["PRAGMA wal_checkpoint(TRUNCATE)"]);
    dated(&database, stored + Duration::from_secs(120));
    let (found, _) = says();
    assert_eq!(found["status"], "behind: WAL restarted while not running");
    assert_eq!((&found["behind"], &found["seconds_behind"]), (&Value::Null, &120.into()));

    let nothing = format!("file://{}", bed.path("nothing").display());
    let ran = bed.run(&["status", "-json", database.to_str().unwrap(), &nothing]);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&found[0]["behind"], &found[0]["seconds_behind"]), (&Value::Null, &Value::Null));
}

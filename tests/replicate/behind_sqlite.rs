//! Files that change, move or vanish behind SQLite's back, by hands that know nothing of it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::support;
use crate::support::{Bed, Process, litestream, on_a_directory_only, until};

on_a_directory_only! {
    a_copy_over_a_database_that_nobody_uses_is_what_is_restored
    a_copy_in_another_format_is_let_go_of_and_followed_anew
    an_older_copy_over_a_database_in_use_begins_a_new_generation
    a_copy_over_the_database_is_noticed_at_the_end
    checkpoints_of_anybody_are_no_copies
    flipped_byte_on_disk_starts_a_new_generation
    constant_comparison_gives_no_false_alarm
    what_a_neighbour_does_to_its_files_stops_no_other_database
    a_restore_takes_no_file_from_under_those_who_have_it_open
    moved_database_does_not_disturb_its_successor
}

const OVERWRITTEN: &str = "reason=\"database file overwritten";

/// A database that is stored, with frames in its WAL that are in the database file, or not, and nobody who uses it.
fn left(bed: &Bed, checkpoint: bool) -> (PathBuf, Process) {
    let database = bed.database();
    let mut application = bed.session(&database);
    application.sql("CREATE TABLE r (x)");
    application.sql("INSERT INTO r VALUES ('old')");
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    if checkpoint {
        application.sql("PRAGMA wal_checkpoint(PASSIVE)");
    }
    drop(application);
    a_look_comes();
    (database, replicator)
}

/// A copy within the same second as somebody's checkpoint cannot be told from it: a look must come between the two.
fn a_look_comes() {
    // Part of the schedule: longer than the second between two looks.
    std::thread::sleep(std::time::Duration::from_millis(2500));
}

/// What people make with `.backup` or VACUUM INTO, or by a copy of the file.
fn other(bed: &Bed, mode: &str) -> PathBuf {
    let other = bed.path("other.db");
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)
        INSERT INTO r SELECT 'new' || hex(randomblob(300)) FROM n";
    let mode = format!("PRAGMA journal_mode = {mode}");
    bed.sql(&other, &[&mode, "CREATE TABLE before (y)", "CREATE TABLE r (x)", fill]);
    other
}

/// As cp(1) does it: the file stays the one it was.
fn copy_over(from: &Path, to: &Path) {
    let bytes = fs::read(from).unwrap();
    fs::write(to, bytes).unwrap();
}

fn rows(bed: &Bed, database: &Path) -> String {
    bed.sql(database, &["SELECT count(*), min(substr(x, 1, 3)) FROM r", "PRAGMA integrity_check"])
}

fn a_copy_over_a_database_that_nobody_uses_is_what_is_restored(bed: &Bed) {
    for checkpoint in [true, false] {
        let (database, mut replicator) = left(bed, checkpoint);
        copy_over(&other(bed, "wal"), &database);
        replicator.says(OVERWRITTEN);
        replicator.says("removed a file of the replaced database");
        bed.sql(&database, &["INSERT INTO r VALUES ('new')"]);
        bed.converges(&database);
        let found = rows(bed, &bed.restored());
        assert!(found.contains("901") && found.contains("ok"), "{found}");
        replicator.stop();
        for path in [&database, &bed.path("other.db")] {
            for suffix in ["", "-wal", "-shm"] {
                let _ = fs::remove_file(format!("{}{suffix}", path.display()));
            }
        }
    }
}

fn a_copy_in_another_format_is_let_go_of_and_followed_anew(bed: &Bed) {
    let (database, mut replicator) = left(bed, false);
    copy_over(&other(bed, "delete"), &database);
    replicator.says(OVERWRITTEN);
    until("the application can write", || {
        let ran = bed.try_sql(&database, &["INSERT INTO r VALUES ('new')"]);
        if ran.status == 0 { Ok(()) } else { Err(ran.stderr) }
    });
    bed.converges(&database);
    let found = rows(bed, &bed.restored());
    assert!(found.contains("new") && found.contains("ok"), "{found}");
    replicator.stop();
}

/// Its header is that of the newer one, and so is the wal-index of the application.
fn an_older_copy_over_a_database_in_use_begins_a_new_generation(bed: &Bed) {
    let database = bed.database();
    let mut application = bed.session(&database);
    application.sql("CREATE TABLE r (x)");
    application.sql("INSERT INTO r VALUES ('old')");
    application.sql("PRAGMA wal_checkpoint(PASSIVE)");
    let mut replicator = bed.replicate(&database);
    bed.converges(&database);
    let older = fs::read(&database).unwrap();
    application.sql("UPDATE r SET x = 'newer'");
    bed.converges(&database);
    application.sql("PRAGMA wal_checkpoint(PASSIVE)");
    bed.converges(&database);
    a_look_comes();
    fs::write(&database, older).unwrap();
    replicator.says(OVERWRITTEN);
    until("a restore gives what is there", || {
        let found = bed.restored_if_any().map(|restored| rows(bed, &restored)).unwrap_or_default();
        if found.contains("old") { Ok(()) } else { Err(found) }
    });
    replicator.stop();
}

fn a_copy_over_the_database_is_noticed_at_the_end(bed: &Bed) {
    let (database, replicator) = left(bed, true);
    copy_over(&other(bed, "wal"), &database);
    replicator.stop();
    let found = rows(bed, &bed.restored());
    assert!(found.contains("900") && found.contains("ok"), "{found}");
}

fn checkpoints_of_anybody_are_no_copies(bed: &Bed) {
    let database = bed.database();
    let mut application = bed.session(&database);
    application.sql("CREATE TABLE r (x)");
    let mut command = bed.replicate_command(&database, &bed.url());
    let replicator = bed.start_command(command.args(["-log-level", "debug"]));
    let begin = std::time::Instant::now();
    for mode in ["PASSIVE", "TRUNCATE", "FULL", "RESTART"].iter().cycle() {
        application.sql("INSERT INTO r VALUES (randomblob(5000))");
        let _ = application.try_sql(&format!("PRAGMA wal_checkpoint({mode})"));
        if begin.elapsed() > std::time::Duration::from_secs(8) {
            break;
        }
    }
    application.sql("VACUUM");
    bed.converges(&database);
    let log = replicator.log();
    assert!(!log.contains("generation ended"), "{log}");
    replicator.stop();
}

const COMPARED: &str = "database compared with what is stored";

/// Not even the time of the last change tells.
fn flipped_byte_on_disk_starts_a_new_generation(bed: &Bed) {
    let database = bed.database();
    let mut application = bed.session(&database);
    application.sql("CREATE TABLE r (x)");
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)";
    application.sql(&format!("{rows} INSERT INTO r SELECT randomblob(3000) FROM n"));
    let mut replicator = bed.replicate_comparing(&database);
    bed.converges(&database);
    application.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    bed.converges(&database);
    replicator.says(COMPARED);
    let good = bed.restored();
    let at = fs::metadata(&database).unwrap().len() / 2 + 300;
    let file = fs::File::options().read(true).write(true).open(&database).unwrap();
    let (mut byte, modified) = ([0], file.metadata().unwrap().modified().unwrap());
    file.read_exact_at(&mut byte, at).unwrap();
    // No look may come between the two.
    replicator.signal(libc::SIGSTOP);
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_modified(modified).unwrap();
    replicator.signal(libc::SIGCONT);
    replicator.says("reason=\"database differs from its commits");
    until("a restore has what the disk has", || {
        let restored = bed.restored_if_any().ok_or("nothing to restore")?;
        let same = fs::read(&restored).unwrap() == fs::read(&database).unwrap();
        if same { Ok(()) } else { Err(replicator.log()) }
    });
    let compared = replicator.log().matches(COMPARED).count();
    until("the new generation is compared", || match replicator.log() {
        log if log.matches(COMPARED).count() > compared => Ok(()),
        log => Err(log),
    });
    replicator.stop();
    // The generation before has the page as it was.
    let first = bed.run(&["generations", &bed.url()]).succeeded().stdout;
    let first = first.lines().nth(1).and_then(|line| line.split_whitespace().next()).unwrap().to_string();
    let output = bed.fresh("first");
    let mut command = support::restore_command(&bed.url(), &output);
    bed.run_command(command.args(["-generation", &first])).succeeded();
    assert!(fs::read(&output).unwrap() == fs::read(&good).unwrap());
}

fn constant_comparison_gives_no_false_alarm(bed: &Bed) {
    let database = bed.database();
    let mut replicator = bed.replicate_comparing(&database);
    let options = ["--seconds", "8", "--rate", "60", "--rows", "8", "--rollback", "0.2", "--vacuum"];
    let mut application =
        bed.application(&database, &[&options[..], &["--checkpoint", "truncate,passive,full"]].concat());
    application.exits(0);
    replicator.says(COMPARED);
    bed.converges(&database);
    let log = replicator.log();
    assert!(!log.contains("generation ended"), "{log}");
    replicator.stop();
}

fn moved_database_does_not_disturb_its_successor(bed: &Bed) {
    let (database, mut replicator) = left(bed, false);
    let moved = bed.path("moved.db");
    fs::rename(&database, &moved).unwrap();
    replicator.says("removed a file of the replaced database");
    for suffix in ["-wal", "-shm"] {
        assert!(!Path::new(&format!("{}{suffix}", database.display())).exists());
    }
    let found = rows(bed, &moved);
    assert!(found.contains("old") && found.contains("ok"), "the moved one lacks nothing: {found}");
    bed.sql(&database, &["PRAGMA journal_mode = WAL", "CREATE TABLE r (x)", "INSERT INTO r VALUES ('new')"]);
    bed.converges(&database);
    let found = rows(bed, &bed.restored());
    assert!(found.contains("new") && found.contains("ok"), "{found}");
    replicator.stop();
}

/// One process keeps both. The neighbour is named in the log, and the honest one is stored all the while.
fn what_a_neighbour_does_to_its_files_stops_no_other_database(bed: &Bed) {
    let (honest, bad) = (bed.database(), bed.path("bad.db"));
    let mut neighbour = bed.session(&bad);
    neighbour.sql("PRAGMA journal_mode = WAL");
    neighbour.sql("CREATE TABLE r (x)");
    let entry = |path: &Path, prefix: &str| {
        format!("  - {{path: {}, replica: {{url: \"{}\"}}}}\n", path.display(), bed.url_below(prefix))
    };
    let config = bed.path("litestream.yml");
    fs::write(&config, format!("dbs:\n{}{}", entry(&honest, "honest"), entry(&bad, "bad"))).unwrap();
    let mut command = litestream();
    let mut replicator = bed.start_command(command.arg("-config").arg(&config).arg("replicate"));
    let name = |suffix: &str| format!("{}{suffix}", bad.display());
    let cut = |suffix: &str| {
        if let Ok(file) = fs::File::options().write(true).open(name(suffix)) {
            file.set_len(0).unwrap();
        }
    };
    let garble = |suffix: &str| {
        let length = fs::metadata(name(suffix)).map_or(0, |found| found.len());
        let _ = fs::write(name(suffix), vec![0xa5; length as usize]);
    };
    let swap = || {
        let _ = fs::rename(name(""), name("-wal"));
    };
    let harms: [&dyn Fn(); 6] =
        [&|| cut("-shm"), &|| garble("-shm"), &|| cut("-wal"), &|| garble("-wal"), &|| cut(""), &swap];
    let stored = |replicator: &mut Process| {
        bed.sql(&honest, &["CREATE TABLE IF NOT EXISTS h (x)", "INSERT INTO h VALUES (randomblob(100))"]);
        until("the honest database is stored", || {
            assert!(replicator.is_running(), "{}", replicator.log());
            let output = bed.fresh("restored");
            let ran = bed.restore(&bed.url_below("honest"), &output);
            if ran.status == 0 { support::equal(&honest, &output) } else { Err(ran.stderr) }
        });
    };
    stored(&mut replicator);
    for harm in harms {
        for _ in 0..20 {
            harm();
            // Part of the schedule: harm each 100 ms, for two seconds.
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        stored(&mut replicator);
    }
    let log = replicator.log();
    assert!(log.contains("-shm file: truncated by another process"), "{log}");
    let named = |line: &&str| line.contains("WARN") || line.contains("warn");
    assert!(log.lines().filter(named).any(|line| line.contains("bad.db")), "{log}");
    replicator.kill();
}

fn a_restore_takes_no_file_from_under_those_who_have_it_open(bed: &Bed) {
    let database = bed.database();
    bed.replicate_once(&database);
    let restore = |option: &str| {
        let mut command = support::restore_command(&bed.url(), &database);
        bed.run_command(command.arg(option))
    };
    // In WAL mode a lock tells; else the descriptor does, with nothing but an open connection.
    for mode in ["wal", "delete"] {
        let mut application = bed.session(&database);
        application.sql(&format!("PRAGMA journal_mode = {mode}"));
        application.sql("SELECT count(*) FROM sqlite_schema");
        let before = fs::read(&database).unwrap();
        restore("-force").refused(7, &["process ", "(python", "has it open", "hint: ", "-force-open"]);
        assert!(before == fs::read(&database).unwrap(), "{mode}");
        if mode == "delete" {
            restore("-force-open").succeeded();
        }
        drop(application);
    }
    restore("-force").succeeded();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    restore("-force").refused(7, &["(litestream) has it open"]);
    replicator.stop();
    restore("-force").succeeded();
}

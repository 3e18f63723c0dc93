//! The machine's own SQLite as the application, with what it leaves in the WAL: commits that never happened, frames
//! without checksums, headers without frames, histories that fork.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support;
use crate::support::{Bed, DATABASE, Session, assert_equal, judged, on_a_directory_only, python, until};
use litestream::format::wal::{ByteOrder, WalHeader};

on_a_directory_only! {
    a_wal_with_a_header_and_no_commit_is_taken_up_whole
    commit_killed_at_fsync_is_gone_while_others_are_connected
    a_commit_whose_fsync_fails_never_happened_and_its_retry_did
    commit_killed_at_fsync_is_kept_if_nobody_was_connected
    commit_killed_at_fsync_is_kept_if_the_replicator_died_too
    frames_overwritten_in_a_transaction_are_copied_as_committed
    a_wal_of_the_other_byte_order_is_followed
    frames_without_checksums_are_followed
    history_that_forked_offline_starts_a_new_generation
    a_garbled_wal_index_is_healed_and_the_generation_goes_on
    a_database_in_exclusive_mode_is_waited_for
    database_with_enable_wal_false_is_waited_for
    a_database_that_cannot_be_switched_now_is_switched_later
    the_journal_mode_cannot_be_changed_under_us
    a_backup_into_the_live_database_is_followed
    backup_of_another_page_size_is_refused_by_sqlite
    any_journal_size_limit_is_followed
    a_database_that_does_not_exist_yet_is_waited_for
    a_hard_link_is_refused
}

/// More than the cache holds.
const SPILLS: &str = "INSERT INTO t(body) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) \
                      SELECT randomblob(2000) FROM n";

/// A checkpoint has chosen the next salts, and a transaction that spilled and was rolled back has written the header with
/// them: the wal-index knows it, and there is no frame.
fn a_wal_with_a_header_and_no_commit_is_taken_up_whole(bed: &Bed) {
    let database = bed.database();
    let mut application = bed.session(&database);
    application.sql("PRAGMA cache_size = 2");
    application.sql("INSERT INTO t(body) VALUES ('before')");
    application.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    application.sql("BEGIN");
    application.sql(SPILLS);
    application.sql("ROLLBACK");
    bed.replicate_once(&database);
    application.sql("INSERT INTO t(body) VALUES ('committed')");
    bed.replicate_once(&database);
    assert_equal(&database, &bed.restored());
    assert_eq!(bed.generations().len(), 1);
}

/// A library for LD_PRELOAD that interferes with the n-th sync of a -wal file: frames and commit frame are written, and
/// nothing is published. None, and that is said, without a C compiler.
fn at_the_fsync(bed: &Bed, fate: &str) -> Option<PathBuf> {
    let (source, library) = (bed.path("fsync.c"), bed.path("fsync.so"));
    let text = format!(
        "#define _GNU_SOURCE\n#include <errno.h>\n#include <signal.h>\n#include <stdio.h>\n#include <stdlib.h>\n\
         #include <string.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
         static int left = -1;\n\
         static int meet(int fd, long call) {{\n\
           char link[64], name[4096]; snprintf(link, sizeof link, \"/proc/self/fd/%d\", fd);\n\
           ssize_t n = readlink(link, name, sizeof name - 1); if (n < 0) n = 0; name[n] = 0;\n\
           if (n > 4 && !strcmp(name + n - 4, \"-wal\")) {{\n\
             if (left < 0) left = atoi(getenv(\"AT_SYNC\"));\n\
             if (--left == 0) {{ {fate}; }} }}\n\
           return syscall(call, fd); }}\n\
         int fsync(int fd) {{ return meet(fd, SYS_fsync); }}\n\
         int fdatasync(int fd) {{ return meet(fd, SYS_fdatasync); }}\n"
    );
    fs::write(&source, text).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    if built.is_ok_and(|status| status.success()) {
        return Some(library);
    }
    eprintln!("skipped: there is no C compiler");
    None
}

const KILL: &str = "kill(getpid(), SIGKILL)";
const FAIL: &str = "errno = EIO; return -1";

/// An application that syncs each commit, whose `nth` sync of the WAL from now on is interfered with.
fn doomed(bed: &Bed, database: &Path, library: &Path, nth: u32) -> Session {
    let mut command = python("judge.py");
    command.arg("session").arg(database).env("LD_PRELOAD", library).env("AT_SYNC", nth.to_string());
    let mut session = bed.session_of(&mut command);
    session.sql("PRAGMA synchronous = FULL");
    session.sql("PRAGMA wal_autocheckpoint = 0");
    session
}

const INSERT: &str = "INSERT INTO t(body) VALUES (randomblob(3000))";

/// Inserts until the application meets its fate; how often it succeeded.
fn inserts(session: &mut Session) -> u32 {
    (0..50).take_while(|_| session.try_sql(INSERT).is_ok()).count() as u32
}

fn commit_killed_at_fsync_is_gone_while_others_are_connected(bed: &Bed) {
    let database = bed.database();
    let Some(library) = at_the_fsync(bed, KILL) else { return };
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    for nth in 2..6 {
        assert!(inserts(&mut doomed(bed, &database, &library, nth)) < 50);
        // The ghost stands in the WAL until the next commit takes its place.
        bed.converges(&database);
        bed.sql(&database, &[INSERT, INSERT]);
        bed.converges(&database);
    }
    replicator.stop();
    assert_equal(&database, &bed.restored());
    assert_eq!(bed.generations().len(), 1);
}

fn a_commit_whose_fsync_fails_never_happened_and_its_retry_did(bed: &Bed) {
    let database = bed.database();
    let Some(library) = at_the_fsync(bed, FAIL) else { return };
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    for nth in 2..6 {
        let mut session = doomed(bed, &database, &library, nth);
        let statement = "INSERT INTO t(body) VALUES ('the same again')";
        let failed = (0..50).find_map(|_| session.try_sql(statement).err());
        assert!(failed.is_some_and(|error| error.contains("disk I/O error")));
        bed.converges(&database);
        session.sql(statement);
        bed.converges(&database);
    }
    replicator.stop();
    assert_eq!(bed.generations().len(), 1);
}

fn commit_killed_at_fsync_is_kept_if_nobody_was_connected(bed: &Bed) {
    let database = bed.database();
    let Some(library) = at_the_fsync(bed, KILL) else { return };
    for nth in 2..5 {
        let done = inserts(&mut doomed(bed, &database, &library, nth));
        bed.replicate_once(&database);
        assert_equal(&database, &bed.restored());
        assert!(done < 50);
    }
}

/// The next to open the database recovers the WAL, and finds the commit in it.
fn commit_killed_at_fsync_is_kept_if_the_replicator_died_too(bed: &Bed) {
    let database = bed.database();
    let Some(library) = at_the_fsync(bed, KILL) else { return };
    let rows = |file: &Path| bed.sql(file, &["SELECT count(*) FROM t"]);
    for nth in 2..5 {
        let replicator = bed.replicate(&database);
        bed.converges(&database);
        assert!(inserts(&mut doomed(bed, &database, &library, nth)) < 50);
        let while_connected = rows(&database);
        replicator.kill();
        bed.replicate_once(&database);
        assert_ne!(rows(&database), while_connected, "the dead commit came to be");
        assert_equal(&database, &bed.restored());
    }
}

/// An application that writes into the WAL before it commits, and leaves it as it is.
fn spilling(bed: &Bed, database: &Path) -> Session {
    let mut application = bed.session(database);
    application.sql("PRAGMA cache_size = 2");
    application.sql("PRAGMA wal_autocheckpoint = 0");
    application
}

/// More than the cache holds is written, looked at for some ticks, and changed again before it is committed.
fn frames_overwritten_in_a_transaction_are_copied_as_committed(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut application = spilling(bed, &database);
    for end in ["COMMIT", "ROLLBACK", "COMMIT"] {
        application.sql("BEGIN");
        application.sql(SPILLS);
        let spilled = fs::read(wal_of(&database)).unwrap();
        bed.converges(&database);
        application.sql("UPDATE t SET body = randomblob(2001) WHERE id > (SELECT max(id) - 60 FROM t)");
        let changed = fs::read(wal_of(&database)).unwrap();
        assert_ne!(spilled, changed[..spilled.len()], "frames were written over in place");
        bed.converges(&database);
        application.sql(end);
        bed.converges(&database);
    }
    replicator.stop();
    assert_eq!(bed.generations().len(), 1);
}

/// Gives each frame the checksums that a machine of the other byte order would have given it.
fn turn_byte_order(wal: &Path) -> ByteOrder {
    let mut bytes = fs::read(wal).unwrap();
    let header = WalHeader::parse(bytes[..32].try_into().unwrap()).unwrap();
    let order = if header.order == ByteOrder::Little { ByteOrder::Big } else { ByteOrder::Little };
    let turned = WalHeader { order, ..header }.encode();
    bytes[..32].copy_from_slice(&turned);
    let mut sum = WalHeader::parse(&turned).unwrap().checksum;
    for frame in bytes[32..].chunks_exact_mut(FRAME as usize) {
        sum = sum.over_frame(order, frame);
        frame[16..20].copy_from_slice(&sum.0.to_be_bytes());
        frame[20..24].copy_from_slice(&sum.1.to_be_bytes());
    }
    fs::write(wal, bytes).unwrap();
    order
}

/// Stores what is committed. The replicator then dies, so that it leaves the WAL as it is.
fn stored_and_killed(bed: &Bed, database: &Path, url: &str) {
    let replicator = bed.replicate_to(database, url);
    until("all is stored", || {
        let output = bed.fresh("restored.db");
        let ran = bed.restore(url, &output);
        if ran.status == 0 { support::equal(database, &output) } else { Err(ran.stderr) }
    });
    replicator.kill();
}

/// SQLite keeps the byte order of a WAL that it finds until it begins another one.
fn a_wal_of_the_other_byte_order_is_followed(bed: &Bed) {
    let database = bed.database();
    let append = || bed.write(&database, &["--commits", "8", "--autocheckpoint", "0", "--abandon"]);
    append();
    let order = turn_byte_order(&wal_of(&database));
    fs::remove_file(database.with_file_name("a.db-shm")).unwrap();
    let before = judged(&database).seq;
    stored_and_killed(bed, &database, &bed.url());
    append();
    stored_and_killed(bed, &database, &bed.url());
    let replicator = bed.replicate(&database);
    append();
    bed.converges(&database);
    let wal = fs::read(wal_of(&database)).unwrap();
    assert_eq!(WalHeader::parse(wal[..32].try_into().unwrap()).unwrap().order, order, "still the same WAL");
    bed.write(&database, &["--commits", "8", "--checkpoint", "restart", "--every", "4"]);
    bed.converges(&database);
    replicator.stop();
    assert_eq!(judged(&bed.restored()).seq, before + 24);
    assert_eq!(bed.generations().len(), 1);
}

/// SQLite before 3.50.2 leaves frames without salt and checksum where a transaction that has spilled changes late pages
/// once more in place and then goes back to a savepoint; its own recovery would drop them and all that follows.
fn frames_without_checksums_are_followed(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut application = spilling(bed, &database);
    let mut ends_unsealed = 0;
    for _ in 0..4 {
        application.sql("BEGIN");
        application.sql("SAVEPOINT s");
        application.sql(SPILLS);
        application.sql("UPDATE t SET body = randomblob(2001) WHERE id > (SELECT max(id) - 10 FROM t)");
        application.sql("ROLLBACK TO s");
        application.sql(INSERT);
        application.sql(INSERT);
        application.sql("COMMIT");
        bed.converges(&database);
        ends_unsealed += usize::from(last_frame_is_unsealed(&database));
        // A snapshot at that very frame, and a restore through it.
        bed.run(&["snapshot", &database.to_string_lossy(), &bed.url()]).succeeded();
        application.sql(INSERT);
        bed.converges(&database);
    }
    println!("{} frames without checksums, {ends_unsealed} snapshots at one", unsealed(&database));
    let version = application.sql("SELECT sqlite_version()");
    assert!(
        unsealed(&database) > 0 && ends_unsealed > 0 || !version.starts_with("('3.40."),
        "SQLite {version} leaves some"
    );
    application.sql(INSERT);
    bed.converges(&database);
    assert_eq!(bed.generations().len(), 1);
    // With nobody connected any more, such a SQLite loses what it left unsealed. The live database is what counts.
    replicator.kill();
    drop(application);
    bed.sql(&database, &[INSERT]);
    bed.replicate_once(&database);
    assert_equal(&database, &bed.restored());
}

/// Frames of the WAL whose salt and checksum are zero.
fn unsealed(database: &Path) -> usize {
    let wal = fs::read(wal_of(database)).unwrap();
    wal[32..].chunks_exact(FRAME as usize).filter(|frame| frame[8..24] == [0; 16]).count()
}

fn last_frame_is_unsealed(database: &Path) -> bool {
    let index = fs::read(database.with_file_name("a.db-shm")).unwrap();
    let frames = u32::from_ne_bytes(index[16..20].try_into().unwrap()) as usize;
    let wal = fs::read(wal_of(database)).unwrap();
    wal[32..].chunks_exact(FRAME as usize).nth(frames - 1).unwrap()[8..24] == [0; 16]
}

fn wal_of(database: &Path) -> PathBuf {
    database.with_file_name("a.db-wal")
}

/// What happens to a WAL of this length.
type Damage = fn(&fs::File, u64) -> std::io::Result<()>;
/// Bytes, with SQLite's default page size.
const FRAME: u64 = 24 + 4096;

/// Power fails while all is down: the machine comes back with a WAL that ends earlier, or has another end.
fn history_that_forked_offline_starts_a_new_generation(bed: &Bed) {
    let kinds: [Damage; 3] = [
        |wal, length| wal.set_len(length - FRAME),
        |wal, _| wal.set_len(0),
        |wal, length| wal.write_all_at(&[0xa5; FRAME as usize], length - FRAME),
    ];
    for (number, damage) in kinds.into_iter().enumerate() {
        let database = bed.path(&format!("{number}/a.db"));
        fs::create_dir(database.parent().unwrap()).unwrap();
        let url = bed.url_below(&number.to_string());
        let once = || {
            let mut command = bed.replicate_command(&database, &url);
            bed.run_command(command.arg("-once")).succeeded()
        };
        let append = |seed| {
            let options = ["--commits", "5", "--rows", "1", "--autocheckpoint", "0", "--abandon", "--seed", seed];
            bed.write(&database, &options)
        };
        append("1");
        stored_and_killed(bed, &database, &url);
        append("2");
        stored_and_killed(bed, &database, &url);
        let _ = fs::remove_file(database.with_file_name("a.db-shm"));
        let wal = fs::OpenOptions::new().write(true).open(wal_of(&database)).unwrap();
        damage(&wal, wal.metadata().unwrap().len()).unwrap();
        append("3");
        let ran = once();
        assert!(ran.stderr.contains("new generation"), "{}", ran.stderr);
        assert_equal(&database, &bed.restored_from(&url));
    }
}

fn a_garbled_wal_index_is_healed_and_the_generation_goes_on(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    for round in 0..5u8 {
        bed.write(&database, &["--commits", "5", "--autocheckpoint", "0", "--abandon"]);
        // Both copies of the header, as a machine's memory error or a stray writer would leave them.
        let index = fs::OpenOptions::new().write(true).open(database.with_file_name("a.db-shm")).unwrap();
        index.write_all_at(&[0x5a ^ round; 96], 0).unwrap();
        bed.write(&database, &["--commits", "3", "--autocheckpoint", "0", "--abandon"]);
        bed.converges(&database);
    }
    replicator.stop();
    assert_equal(&database, &bed.restored());
    assert_eq!(bed.generations().len(), 1);
}

fn a_database_in_exclusive_mode_is_waited_for(bed: &Bed) {
    let database = bed.database();
    let mut application = bed.session(&database);
    application.sql("PRAGMA locking_mode = EXCLUSIVE");
    application.sql(INSERT);
    let mut command = bed.replicate_command(&database, &bed.url());
    bed.run_command(command.arg("-once")).refused(DATABASE, &["database is locked", "locking_mode=EXCLUSIVE"]);
    let mut replicator = with_config(bed, &database);
    replicator.says("database is locked");
    application.sql("PRAGMA locking_mode = NORMAL");
    application.sql(INSERT);
    bed.converges(&database);
    replicator.stop();
}

fn database_with_enable_wal_false_is_waited_for(bed: &Bed) {
    let database = bed.path("a.db");
    bed.write(&database, &["--commits", "3", "--journal", "delete"]);
    let mut replicator = with_options(bed, &database, "    enable-wal: false\n");
    replicator.says("journal mode is delete, not wal, and enable-wal is false");
    bed.write(&database, &["--commits", "3", "--journal", "delete"]);
    bed.sql(&database, &["PRAGMA journal_mode=WAL"]);
    bed.converges(&database);
    replicator.stop();
}

/// Nobody can change the journal mode while another connection reads.
fn a_database_that_cannot_be_switched_now_is_switched_later(bed: &Bed) {
    let database = bed.path("a.db");
    bed.write(&database, &["--commits", "3", "--journal", "delete"]);
    let mut reader = bed.session(&database);
    reader.sql("BEGIN");
    reader.sql("SELECT count(*) FROM t");
    let mut replicator = with_options(bed, &database, "    busy-timeout: 200ms\n");
    replicator.says("journal mode is delete, not wal, and cannot be changed now: ");
    reader.sql("COMMIT");
    replicator.says("database switched to WAL mode");
    bed.write(&database, &["--commits", "3"]);
    bed.converges(&database);
    replicator.stop();
}

/// With a configuration file, `replicate` is a service that waits for its databases.
fn with_config(bed: &Bed, database: &Path) -> support::Process {
    with_options(bed, database, "")
}

fn with_options(bed: &Bed, database: &Path, options: &str) -> support::Process {
    let (config, url) = (bed.path("litestream.yml"), bed.url());
    let text = format!("dbs:\n  - path: {}\n{options}    replica: {{ url: '{url}' }}\n", database.display());
    fs::write(&config, text).unwrap();
    let mut command = support::litestream();
    bed.start_command(command.arg("-config").arg(&config).arg("replicate"))
}

fn the_journal_mode_cannot_be_changed_under_us(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let mut application = bed.session(&database);
    application.sql("PRAGMA busy_timeout = 300");
    for mode in ["DELETE", "TRUNCATE", "OFF"] {
        let answer = application.try_sql(&format!("PRAGMA journal_mode = {mode}"));
        assert!(answer.as_ref().is_err_and(|error| error.contains("locked")), "{mode}: {answer:?}");
        application.sql(INSERT);
    }
    bed.converges(&database);
    replicator.stop();
    assert_eq!(bed.generations().len(), 1);
}

fn a_backup_into_the_live_database_is_followed(bed: &Bed) {
    let (database, other) = (bed.database(), bed.path("other.db"));
    bed.write(&other, &["--commits", "50", "--seed", "5"]);
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    backup(bed, &other, &database).succeeded();
    assert_equal(&database, &other);
    bed.converges(&database);
    replicator.stop();
    assert_eq!(bed.generations().len(), 1);
}

/// SQLite's online backup, as `.restore` of its shell does it.
fn backup(bed: &Bed, from: &Path, to: &Path) -> support::Ran {
    let script = "import sqlite3, sys\na, b = map(sqlite3.connect, sys.argv[1:])\na.backup(b)\n";
    let mut command = Command::new("python3");
    bed.run_command(command.args(["-c", script]).arg(from).arg(to))
}

fn backup_of_another_page_size_is_refused_by_sqlite(bed: &Bed) {
    let (database, other) = (bed.database(), bed.path("other.db"));
    bed.write(&other, &["--commits", "50", "--seed", "5", "--page-size", "8192"]);
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    let before = judged(&database);
    let ran = backup(bed, &other, &database);
    assert!(ran.status != 0 && ran.stderr.contains("readonly"), "{ran:?}");
    assert_eq!(judged(&database), before);
    bed.write(&database, &["--commits", "5"]);
    bed.converges(&database);
    replicator.stop();
    assert_eq!(bed.generations().len(), 1);
}

fn any_journal_size_limit_is_followed(bed: &Bed) {
    let database = bed.database();
    let replicator = bed.replicate(&database);
    bed.converges(&database);
    for limit in ["0", "1", "4152", "10000", "-1"] {
        let mut application = bed.session(&database);
        application.sql(&format!("PRAGMA journal_size_limit = {limit}"));
        for round in 0..20 {
            application.sql(INSERT);
            if round % 6 == 0 {
                application.sql("PRAGMA wal_checkpoint(RESTART)");
            }
        }
        bed.converges(&database);
    }
    replicator.stop();
    assert_eq!(bed.generations().len(), 1);
}

fn a_database_that_does_not_exist_yet_is_waited_for(bed: &Bed) {
    let database = bed.path("a.db");
    let mut replicator = with_config(bed, &database);
    replicator.says("no such file");
    fs::write(&database, "").unwrap();
    replicator.says("empty: nothing has been written to it yet, or it was truncated");
    bed.write(&database, &["--commits", "10"]);
    bed.converges(&database);
    replicator.stop();
}

fn a_hard_link_is_refused(bed: &Bed) {
    let (database, link) = (bed.database(), bed.path("link.db"));
    fs::hard_link(&database, &link).unwrap();
    let mut command = bed.replicate_command(&link, &bed.url());
    bed.run_command(command.arg("-once")).refused(DATABASE, &["2 hard links"]);
    until("it can be followed again", || fs::remove_file(&link));
    bed.replicate_once(&database);
}

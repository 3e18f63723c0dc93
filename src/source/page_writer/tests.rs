//! What is written here, read by SQLite itself.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::*;
use crate::format::database_checksum::DatabaseChecksum;
use crate::source::Comparison;

/// A directory of its own, with a database in it that others change by SQL, and a copy of it.
struct Pair {
    directory: PathBuf,
    live: Connection,
}

impl Pair {
    fn new(name: &str, page_size: u32) -> Pair {
        let directory =
            std::env::temp_dir().join(format!("litestream-pages-{name}-{page_size}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let live = Connection::open(directory.join("live.db")).unwrap();
        live.execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=wal; PRAGMA synchronous=OFF;
             CREATE TABLE account(id INTEGER PRIMARY KEY, amount INTEGER, note BLOB);
             INSERT INTO account SELECT value, 100, randomblob(50) FROM generate_series(1, 100);"
        ))
        .or_else(|_| {
            live.execute_batch(
                "CREATE TABLE IF NOT EXISTS account(id INTEGER PRIMARY KEY, amount INTEGER, note BLOB);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
                 INSERT INTO account SELECT i, 100, randomblob(50) FROM n;",
            )
        })
        .unwrap();
        let pair = Pair { directory, live };
        fs::write(pair.copy(), pair.state()).unwrap();
        pair
    }

    fn copy(&self) -> PathBuf {
        self.directory.join("copy.db")
    }

    /// The live database as a file.
    fn state(&self) -> Vec<u8> {
        self.live.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        fs::read(self.directory.join("live.db")).unwrap()
    }

    /// A transaction that leaves the sum of all amounts as it is.
    fn change(&self, step: u32) {
        let sql = match step % 40 {
            7 => "INSERT INTO account(amount, note) SELECT 0, randomblob(900) FROM account a, account b LIMIT 2500"
                .to_string(),
            19 => "DELETE FROM account WHERE id > 100".to_string(),
            20 => "PRAGMA incremental_vacuum".to_string(),
            33 => "VACUUM".to_string(),
            38 => format!("CREATE TABLE t{step}(a); DROP TABLE t{step}"),
            _ => format!(
                "BEGIN; UPDATE account SET amount = amount - {step} WHERE id = 1 + {step} % 100;
                 UPDATE account SET amount = amount + {step} WHERE id = 1 + ({step} * 7 + 1) % 100; COMMIT"
            ),
        };
        self.live.execute_batch(&sql).unwrap();
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn reader(path: &Path) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX).unwrap()
}

fn sum(reader: &Connection) -> i64 {
    reader.query_row("SELECT sum(amount) FROM account", [], |row| row.get(0)).unwrap()
}

fn integrity(reader: &Connection) -> String {
    reader.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}

/// Writes the pages in which `state` differs from what the writer has.
fn write_state(writer: &mut PageWriter, state: &[u8]) {
    let size = writer.page_size().get() as usize;
    let mut transaction = writer.begin().unwrap();
    let mut old = vec![0; size];
    for (number, page) in (1..).zip(state.chunks(size)) {
        transaction.read(number, &mut old).unwrap();
        if old != page {
            transaction.write(number, page).unwrap();
        }
    }
    transaction.commit(u32::try_from(state.len() / size).unwrap()).unwrap();
}

/// What the writer has, page by page.
fn content(writer: &PageWriter) -> Vec<u8> {
    let mut bytes = vec![0; writer.pages() as usize * writer.page_size().get() as usize];
    for (number, page) in (1..).zip(bytes.chunks_mut(writer.page_size().get() as usize)) {
        writer.read(number, page).unwrap();
    }
    bytes
}

#[test]
fn readers_see_each_transaction_whole_and_the_file_is_the_same() {
    for (page_size, steps) in [(512, 150), (4096, 80), (65_536, 50)] {
        let pair = Pair::new("whole", page_size);
        let mut writer = PageWriter::open(&pair.copy()).unwrap();
        assert_eq!(writer.page_size().get(), page_size);
        let connected = reader(&pair.copy());
        let (mut most, mut old) = (0, None::<(Connection, i64)>);
        for step in 1..=steps {
            pair.change(step);
            let state = pair.state();
            write_state(&mut writer, &state);
            most = most.max(writer.wal_frames());
            assert_eq!(sum(&connected), 10_000, "step {step}");
            if step % 8 == 0 {
                assert_eq!(integrity(&connected), "ok", "step {step}");
            }
            assert!(content(&writer) == state, "step {step}");
            // One that began long ago keeps what it saw, and keeps the WAL from being emptied.
            match step % 70 {
                3 => {
                    let began = reader(&pair.copy());
                    began.execute_batch("BEGIN").unwrap();
                    let rows = began.query_row("SELECT sum(id) FROM account", [], |row| row.get(0)).unwrap();
                    old = Some((began, rows));
                }
                60 => assert!(!writer.checkpoint().unwrap()),
                61 => {
                    let (began, rows) = old.take().unwrap();
                    let now: i64 = began.query_row("SELECT sum(id) FROM account", [], |row| row.get(0)).unwrap();
                    assert_eq!(now, rows);
                }
                62 | 65 => assert!(writer.checkpoint().unwrap() && writer.wal_frames() == 0),
                _ => {}
            }
        }
        // More than one block of the wal-index, for the small pages.
        assert!(page_size != 512 || most > 4_062, "{most}");
        let state = pair.state();
        // All are gone, and SQLite recovers from the WAL alone.
        drop((connected, old));
        drop(writer);
        fs::remove_file(pair.directory.join("copy.db-shm")).unwrap();
        assert_eq!((sum(&reader(&pair.copy())), integrity(&reader(&pair.copy()))), (10_000, "ok".to_string()));
        let mut writer = PageWriter::open(&pair.copy()).unwrap();
        assert!(content(&writer) == state);
        assert!(writer.checkpoint().unwrap());
        drop(writer);
        assert!(fs::read(pair.copy()).unwrap() == state, "the file is not the database");
    }
}

#[test]
fn what_was_not_committed_never_happened() {
    let pair = Pair::new("dropped", 512);
    let mut writer = PageWriter::open(&pair.copy()).unwrap();
    let connected = reader(&pair.copy());
    for step in 1..50 {
        let before = content(&writer);
        let pages = writer.pages();
        let mut transaction = writer.begin().unwrap();
        // More than waits in memory, so that frames are in the WAL and must be written over.
        for number in 1..=pages + step * 200 {
            transaction.write(number, &[step as u8; 512]).unwrap();
        }
        transaction.write_waiting().unwrap();
        drop(transaction);
        assert!(content(&writer) == before);
        assert_eq!((sum(&connected), integrity(&connected)), (10_000, "ok".to_string()));
        pair.change(step);
        write_state(&mut writer, &pair.state());
        assert_eq!((sum(&connected), integrity(&connected)), (10_000, "ok".to_string()));
    }
}

#[test]
fn pages_that_were_cut_off_do_not_show_again() {
    let pair = Pair::new("cut", 512);
    let mut writer = PageWriter::open(&pair.copy()).unwrap();
    let pages = writer.pages();
    let mut transaction = writer.begin().unwrap();
    transaction.write(pages + 5, &[5; 512]).unwrap();
    transaction.commit(pages + 8).unwrap();
    assert!(writer.checkpoint().unwrap());
    let mut transaction = writer.begin().unwrap();
    transaction.cut(pages);
    transaction.write(pages + 7, &[7; 512]).unwrap();
    let mut page = [1; 512];
    transaction.read(pages + 5, &mut page).unwrap();
    assert_eq!(page, [0; 512]);
    transaction.commit(pages + 9).unwrap();
    for (number, byte) in [(5, 0), (7, 7), (8, 0), (9, 0)] {
        writer.read(pages + number, &mut page).unwrap();
        assert_eq!(page, [byte; 512], "page {number} behind the old end");
    }
}

/// The checksum of a database in a file.
fn checksum(state: &[u8], size: usize) -> DatabaseChecksum {
    let mut sum = RunningChecksum::new(PageSize::new(size as u32).unwrap());
    state.chunks(size).for_each(|page| sum.push(page));
    sum.sum()
}

/// Reads pieces until a pass is over.
fn pass(writer: &mut PageWriter, expected: DatabaseChecksum) -> Comparison {
    let mut pieces = std::iter::repeat_with(|| writer.compare(4 * 512, expected, &|_| ()).unwrap());
    pieces.find(|found| *found != Comparison::Going).unwrap()
}

#[test]
fn a_comparison_follows_what_is_written_and_cut_off() {
    let pair = Pair::new("compared", 512);
    let mut writer = PageWriter::open(&pair.copy()).unwrap();
    let mut found = Vec::new();
    for step in 1..=120 {
        pair.change(step);
        let state = pair.state();
        write_state(&mut writer, &state);
        if step % 9 == 0 {
            assert!(writer.checkpoint().unwrap());
        }
        let expected = checksum(&state, 512);
        // A few pages, a large part, or to the end and into the next pass.
        for _ in 0..[1, 40, 900][step as usize % 3] {
            found.push(writer.compare(4 * 512, expected, &|_| ()).unwrap());
        }
    }
    let count = |wanted| found.iter().filter(|found| **found == wanted).count();
    assert!(count(Comparison::Equal) > 20 && count(Comparison::Going) > 1000, "{found:?}");
    assert_eq!(count(Comparison::Equal) + count(Comparison::Going), found.len());
    // The first page as it is seen: here with another byte.
    let other = checksum(&pair.state(), 512);
    while writer.compare(1 << 20, other, &|first| first[18] ^= 1).unwrap() != Comparison::Differs {}
}

#[test]
fn a_byte_changed_past_sqlite_is_found_within_two_passes() {
    for (page, done, write) in [(3, 0, 0), (3, 5, 0), (12, 1, 5), (12, 4, 12), (12, 1, 12), (17, 9, 17)] {
        let pair = Pair::new(&format!("flipped-{page}-{done}-{write}"), 512);
        let more = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)
            INSERT INTO account SELECT 1000 + i, 0, randomblob(400) FROM n";
        pair.live.execute_batch(more).unwrap();
        let state = pair.state();
        fs::write(pair.copy(), &state).unwrap();
        // Closed after the writer: closing it drops all locks on the file.
        let file = fs::File::options().read(true).write(true).open(pair.copy()).unwrap();
        let mut writer = PageWriter::open(&pair.copy()).unwrap();
        let expected = checksum(&state, 512);
        for _ in 0..done {
            writer.compare(4 * 512, expected, &|_| ()).unwrap();
        }
        let (mut byte, at) = ([0], (page - 1) * 512 + 200);
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, at).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[byte[0] ^ 16], at).unwrap();
        let mut expected = expected;
        if write > 0 {
            // What a segment changes in a page is applied to what is there.
            let (mut old, mut transaction) = ([0; 512], writer.begin().unwrap());
            transaction.read(write, &mut old).unwrap();
            let mut new = old;
            new[300] ^= 1;
            transaction.write(write, &new).unwrap();
            let pages = (state.len() / 512) as u32;
            transaction.commit(pages).unwrap();
            let mut sum = RunningChecksum::known(PageSize::new(512).unwrap(), expected, pages);
            sum.frame(write, &old, &new);
            expected = sum.sum();
        }
        let found = [pass(&mut writer, expected), pass(&mut writer, expected)];
        assert!(found.contains(&Comparison::Differs), "page {page} after {done} pieces, {write}: {found:?}");
    }
}

#[test]
fn nobody_else_writes_and_who_did_is_noticed() {
    let pair = Pair::new("others", 4096);
    let mut writer = PageWriter::open(&pair.copy()).unwrap();
    let other = Connection::open(pair.copy()).unwrap();
    other.busy_timeout(Duration::ZERO).unwrap();
    let write = || other.execute("UPDATE account SET amount = 101 WHERE id = 1", []);
    assert_eq!(write().unwrap_err().sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy));
    assert_eq!(PageWriter::open(&pair.copy()).err().unwrap().kind(), Kind::DatabaseNotReady);
    // A checkpoint of an application is none of our business, and copies what is committed.
    write_state(&mut writer, &pair.state());
    other.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
    assert!(writer.checkpoint().unwrap());
    connection::run(&writer.connection, "COMMIT").unwrap();
    write().unwrap();
    assert_eq!(writer.begin().err().unwrap().kind(), Kind::AnotherDatabase);
}

#[test]
fn a_database_that_is_not_in_wal_mode_is_refused() {
    let pair = Pair::new("journal", 4096);
    let mut state = pair.state();
    state[18..20].copy_from_slice(&[1, 1]);
    fs::write(pair.copy(), state).unwrap();
    let error = PageWriter::open(&pair.copy()).err().unwrap();
    assert!(error.message().ends_with("expected a database in WAL mode, found another one"), "{error}");
}

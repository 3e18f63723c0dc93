//! A live database for the tests of this room, and what only the whole of a source shows.

use rusqlite::Connection;

use super::repinning::IDLE_REPINS;
use super::*;

/// A database with nothing in its WAL, and an application that is connected to it. Its files are gone with it.
pub(super) struct Live {
    pub(super) application: Connection,
    pub(super) path: PathBuf,
}

impl Live {
    pub(super) fn new(name: &str) -> Live {
        Live::at(std::env::temp_dir().join(format!("litestream-source-{name}-{}.db", std::process::id())))
    }

    pub(super) fn at(path: PathBuf) -> Live {
        let application = Connection::open(&path).unwrap();
        Live::begun(application, path)
    }

    /// One of this page size, auto-vacuum mode and number of reserved bytes at the end of each page.
    pub(super) fn of(name: &str, page_size: u32, vacuum: &str, reserved: std::ffi::c_int) -> Live {
        let path = std::env::temp_dir().join(format!("litestream-source-{name}-{}.db", std::process::id()));
        let application = Connection::open(&path).unwrap();
        let mut bytes = reserved;
        // SAFETY: this operation takes an int (sqlite.org/c3ref/c_fcntl_begin_atomic_write.html).
        let code = unsafe {
            let (code, at) = (rusqlite::ffi::SQLITE_FCNTL_RESERVE_BYTES, (&raw mut bytes).cast());
            rusqlite::ffi::sqlite3_file_control(application.handle(), c"main".as_ptr(), code, at)
        };
        assert_eq!(code, rusqlite::ffi::SQLITE_OK);
        let setup = format!("PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {vacuum};");
        application.execute_batch(&setup).unwrap();
        Live::begun(application, path)
    }

    fn begun(application: Connection, path: PathBuf) -> Live {
        let setup = "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t(a);";
        application.execute_batch(setup).unwrap();
        application.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        Live { application, path }
    }

    /// A commit of one frame.
    pub(super) fn commit(&self) {
        self.application.execute("REPLACE INTO t(rowid, a) VALUES (1, random())", []).unwrap();
    }

    pub(super) fn follow(&self) -> Source {
        let options = SourceOptions {
            busy_timeout: Duration::ZERO,
            enable_wal: false,
            allow_network: false,
            differences: true,
            checkpoint_frames: 1000,
            checkpoint_interval: None,
            truncate_frames: None,
        };
        Source::open(&self.path, &options).unwrap()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", self.path.display()));
        }
    }
}

/// Copies what there is; how many frames that was.
pub(super) fn copy(source: &mut Source) -> usize {
    let (mut buffer, mut count, size) = (vec![0; 1 << 20], 0, source.page_size().frame());
    loop {
        match source.read(&mut buffer, &mut Composer::default()).unwrap() {
            ReadResult::CaughtUp => return count,
            ReadResult::Batch(batch) => count += batch.frames.len() / size,
            ReadResult::Broken(reason) => panic!("{reason}"),
        }
    }
}

/// The first pin was on READ0 while frames of that WAL were still to be copied: nothing keeps the application from
/// emptying the WAL then. What was not copied is lost, also where the rest of a transaction is.
#[test]
fn wal_emptied_before_the_first_pin_is_a_loss() {
    for part in [false, true] {
        let live = Live::new("emptied");
        let mut source = live.follow();
        live.commit();
        copy(&mut source);
        let mark = source.copied.position.mark();
        drop(source);
        let large = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<9)
                     INSERT INTO t SELECT zeroblob(4000) FROM n;";
        live.application.execute_batch(large).unwrap();
        live.application.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        let mut source = live.follow();
        assert_eq!(source.resume(&mark).unwrap(), Ok(()));
        let mut buffer = vec![0; 4 * source.page_size().frame()];
        if part {
            let read = source.read(&mut buffer, &mut Composer::default()).unwrap();
            assert!(matches!(&read, ReadResult::Batch(batch) if batch.part), "{read:?}");
        }
        live.application.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        let read = source.read(&mut buffer, &mut Composer::default()).unwrap();
        let lost = matches!(read, ReadResult::Broken(GenerationEnd::WalRestartedWhileNotRunning));
        assert!(lost, "part {part}: {read:?}");
        assert!(source.whole_file().unwrap().is_none());
    }
}

/// Without a commit, nothing but the pin itself says so; until the next one it would be too late.
#[test]
fn a_pin_that_was_lost_is_noticed_while_nothing_is_committed() {
    let live = Live::new("unpinned");
    let mut source = live.follow();
    for _ in 0..=IDLE_REPINS {
        assert!(!source.has_work(Instant::now()).unwrap());
    }
    source.pins.end();
    assert!(source.has_work(Instant::now()).unwrap());
    let mut buffer = [0; 1 << 16];
    let lost = source.read(&mut buffer, &mut Composer::default()).unwrap();
    assert!(matches!(lost, ReadResult::Broken(GenerationEnd::WalBroken(_))), "{lost:?}");
}

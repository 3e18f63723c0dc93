//! SQLite connections as this program needs them: read-mostly, small, and never the cause of a checkpoint by accident.

use std::ffi::{c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Once;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use crate::directory::is_read_only;
use crate::error::{Error, Kind, Result};
use crate::source::sigbus;

/// The first version with the fix of the WAL-reset bug (sqlite.org/wal.html#walresetbug): an older SQLite that runs
/// checkpoints beside an application can lose that application's commits.
const OLDEST_SAFE_SQLITE: i32 = 3_051_003;

/// The two bytes of a database that are 2 in WAL mode (sqlite.org/fileformat2.html#file_format_version_numbers).
const FILE_FORMAT_VERSIONS: std::ops::Range<usize> = 18..20;

const NEEDS_WRITE_HINT: &str =
    "replication needs write access to the database and its directory (for the -wal and -shm files)";

/// Pages that a connection may cache, in KiB. It reads one page of the schema and nothing else.
const CACHE_KIB: i32 = 32;

/// Opens an existing database for reading and checkpoints. The file is never created.
pub fn open(path: &Path, busy_timeout: Duration) -> Result<Connection> {
    if rusqlite::version_number() < OLDEST_SAFE_SQLITE {
        let found = rusqlite::version();
        return Err(Error::new(Kind::Database, format!("SQLite: expected 3.51.3 or later, found {found}")));
    }
    disable_lookaside();
    sigbus::install();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|e| from_sqlite(&e, "open"))?;
    reject_read_only(path, &connection)?;
    configure(&connection, busy_timeout).map_err(|e| from_sqlite(&e, "open"))?;
    persist_wal(&connection);
    Ok(connection)
}

/// SQLite opens what may not be written to for reading alone. A -shm file that is made by a user who may only read the
/// database would keep those out who may write to it.
fn reject_read_only(path: &Path, connection: &Connection) -> Result<()> {
    if !connection.is_readonly("main").map_err(|e| from_sqlite(&e, "open"))? {
        return Ok(());
    }
    let mut header = [0; FILE_FORMAT_VERSIONS.end];
    read_file(connection, 0, &mut header)?;
    match header[FILE_FORMAT_VERSIONS] {
        [2, 2] if is_read_only(path) => {
            Err(Error::io(Kind::Database, "open", &std::io::Error::from_raw_os_error(libc::EROFS)))
        }
        [2, 2] => {
            Err(Error::new(Kind::Database, "open: this user may read it but not write it").with_hint(NEEDS_WRITE_HINT))
        }
        _ => Ok(()),
    }
}

/// SQLite would set 48 kB aside for each connection, to make quick what is done here a few times a second. A process that
/// follows a thousand databases has thousands of connections.
fn disable_lookaside() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (size, count): (c_int, c_int) = (0, 0);
        // SAFETY: before SQLite is used first, and with the two integers that sqlite.org/c3ref/c_config_covering_index_scan.html
        // names for this option. Where it is refused (SQLite is in use already), all that is lost is memory.
        unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOOKASIDE, size, count) };
    });
}

/// Opens a file that nobody else uses, for reading alone: no lock is taken and no file appears beside it.
pub fn open_immutable(path: &Path) -> Result<Connection> {
    let quoted: String = path
        .as_os_str()
        .as_bytes()
        .iter()
        .map(|byte| match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => char::from(*byte).to_string(),
            byte => format!("%{byte:02x}"),
        })
        .collect();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(format!("file:{quoted}?immutable=1"), flags).map_err(|e| from_sqlite(&e, "open"))
}

fn configure(connection: &Connection, busy_timeout: Duration) -> rusqlite::Result<()> {
    connection.busy_timeout(busy_timeout)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // A look at a database must leave everything as it is: no checkpoint when we are the last to close.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.set_prepared_statement_cache_capacity(4);
    Ok(())
}

/// Keeps the -wal file when this connection is the last to close, so that a restart of ours can continue in it. One
/// connection without it would delete the WAL of an idle database, and a new generation would have to begin.
fn persist_wal(connection: &Connection) {
    let mut on: c_int = 1;
    file_control(connection, ffi::SQLITE_FCNTL_PERSIST_WAL, &mut on);
}

/// SQLite's own file of the database, for as long as the connection is open; none if there is none.
pub fn file_pointer(connection: &Connection) -> Option<NonNull<ffi::sqlite3_file>> {
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    file_control(connection, ffi::SQLITE_FCNTL_FILE_POINTER, &mut file);
    NonNull::new(file)
}

/// Asks the main database's file; `argument` is of the type that sqlite.org/c3ref/c_fcntl_begin_atomic_write.html names
/// for `operation`.
fn file_control<T>(connection: &Connection, operation: c_int, argument: &mut T) {
    // SAFETY: the handle is open, and the callers above pass what the operation stores to: an int or a file pointer.
    unsafe {
        let argument = std::ptr::from_mut(argument).cast::<c_void>();
        ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), operation, argument);
    }
}

/// Gives back compiled statements, and pages that no transaction holds.
pub fn release_memory(connection: &Connection) {
    connection.flush_prepared_statement_cache();
    // SAFETY: the handle is open. What cannot be freed stays (sqlite.org/c3ref/db_release_memory.html).
    unsafe { ffi::sqlite3_db_release_memory(connection.handle()) };
}

/// Begins a read transaction and makes it real: BEGIN alone takes no lock.
pub fn begin_read(connection: &Connection) -> Result<()> {
    run(connection, "BEGIN")?;
    read_schema(connection).inspect_err(|_| rollback(connection))
}

/// Reads the schema once: takes a read lock, and runs the recovery if the wal-index needs it.
pub fn read_schema(connection: &Connection) -> Result<()> {
    let read = || connection.prepare_cached("SELECT count(*) FROM sqlite_schema")?.query_row([], |_| Ok(()));
    read().map_err(|e| from_sqlite(&e, "read"))
}

/// Ends whatever transaction is open. It has written nothing, so there is nothing that could fail to matter.
pub fn rollback(connection: &Connection) {
    if !connection.is_autocommit() {
        let _ = run(connection, "ROLLBACK");
    }
}

/// Runs one statement that gives no rows.
pub fn run(connection: &Connection, sql: &str) -> Result<()> {
    let step = || connection.prepare_cached(sql)?.execute([]).map(|_| ());
    step().map_err(|e| from_sqlite(&e, sql))
}

/// Tries to become the only writer, without waiting. False if another one is.
pub fn try_begin_write(connection: &Connection) -> Result<bool> {
    match run(connection, "BEGIN IMMEDIATE") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == Kind::DatabaseNotReady => Ok(false),
        Err(error) => Err(error),
    }
}

/// How a checkpoint ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckpointMode {
    /// Copies what no reader needs; never waits, never makes anybody wait.
    Passive,
    /// Also empties the -wal file, if nobody is using it right now.
    Truncate,
}

/// Runs a checkpoint. True if it did all that its mode asks for.
pub fn checkpoint(connection: &Connection, mode: CheckpointMode) -> Result<bool> {
    let sql = match mode {
        CheckpointMode::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
        CheckpointMode::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
    };
    let ask = || connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, i32>(0));
    match ask() {
        Ok(busy) => Ok(busy == 0),
        Err(error) => match from_sqlite(&error, sql) {
            error if error.kind() == Kind::DatabaseNotReady => Ok(false),
            error => Err(error),
        },
    }
}

/// The value of a pragma that gives one text.
pub fn pragma_text(connection: &Connection, name: &str) -> Result<String> {
    connection.pragma_query_value(None, name, |row| row.get(0)).map_err(|e| from_sqlite(&e, name))
}

/// The value of a pragma that gives one number.
pub fn pragma_number(connection: &Connection, name: &str) -> Result<u32> {
    connection.pragma_query_value(None, name, |row| row.get(0)).map_err(|e| from_sqlite(&e, name))
}

/// SQLite's error in our words. Which database it was, the caller adds.
pub fn from_sqlite(error: &rusqlite::Error, operation: &str) -> Error {
    let (kind, hint) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            (Kind::DatabaseNotReady, Some("another process holds it, perhaps with locking_mode=EXCLUSIVE"))
        }
        Some(ErrorCode::NotADatabase) => {
            (Kind::Database, Some("the file is not a SQLite database, or it is encrypted"))
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            (Kind::Database, Some(NEEDS_WRITE_HINT))
        }
        Some(ErrorCode::DiskFull) => (Kind::DatabaseNotReady, Some("the disk is full")),
        _ => (Kind::Database, None),
    };
    let error = Error::new(kind, format!("{operation}: {}", sqlite_message(error)));
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn sqlite_message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(code, Some(text)) => format!("{text} (SQLite error {})", code.extended_code),
        rusqlite::Error::SqliteFailure(code, None) => format!("SQLite error {}", code.extended_code),
        other => other.to_string(),
    }
}

/// Reads the database file itself at `offset`, through the connection's own descriptor: a descriptor of ours would drop
/// every POSIX lock of this process when it is closed. What lies past the end of the file reads as zeros.
pub fn read_file(connection: &Connection, offset: u64, bytes: &mut [u8]) -> Result<()> {
    let failed = |what: String| Error::new(Kind::Database, format!("read the database file at {offset}: {what}"));
    let at = i64::try_from(offset).map_err(|_| failed("beyond the largest file".into()))?;
    let length = c_int::try_from(bytes.len()).map_err(|_| failed("more than SQLite reads at once".into()))?;
    let Some(file) = file_pointer(connection) else { return Err(failed("SQLite has no file open".into())) };
    let file = file.as_ptr();
    // SAFETY: the file pointer lives as long as the connection, and xRead stores at most `length` bytes.
    let code = unsafe {
        let methods = (*file).pMethods;
        let read = if methods.is_null() { None } else { (*methods).xRead };
        let Some(read) = read else { return Err(failed("SQLite has no file open".into())) };
        read(file, bytes.as_mut_ptr().cast::<c_void>(), length, at)
    };
    // A short read fills the rest with zeros (unixRead, sqlite3.c).
    match code {
        ffi::SQLITE_OK | ffi::SQLITE_IOERR_SHORT_READ => Ok(()),
        code => Err(failed(format!("SQLite error {code}"))),
    }
}

/// Whether the connection's file no longer has the name that it was opened by.
pub fn has_moved(connection: &Connection) -> bool {
    let mut moved: c_int = 0;
    file_control(connection, ffi::SQLITE_FCNTL_HAS_MOVED, &mut moved);
    moved != 0
}

//! A database is opened, its journal mode settled, and its first commit pinned.

use std::path::Path;

use rusqlite::Connection;

use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::position::PageSize;
use crate::format::wal::FrameChecksum;
use crate::source::checkpoint::CheckpointState;
use crate::source::copied::{CopyMark, CopyProgress};
use crate::source::file_state::FileWatcher;
use crate::source::foreign_locks::ForeignLocks;
use crate::source::identity::{self, FileIdentity};
use crate::source::idle::IdleWatches;
use crate::source::pins::ReadPins;
use crate::source::sigbus::FaultCount;
use crate::source::snapshot::ActiveSnapshots;
use crate::source::wal_file::WalFile;
use crate::source::wal_index::{IndexHeader, WalIndex};
use crate::source::{CurrentPin, DatabaseFiles, KnownContent, Source, SourceOptions, connection};

/// Looks whether `path` is a database that can be read, and changes nothing.
///
/// Errors: as [`Source::open`].
pub fn check(path: &Path, options: &SourceOptions) -> Result<()> {
    let real = identity::resolve(path, options.allow_network)?;
    let look = || -> Result<()> {
        let connection = connection::open(&real, options.busy_timeout)?;
        connection::read_schema(&connection)?;
        not_empty(&connection)
    };
    look().map_err(|e| e.context(format!("database {}", path.display())))
}

pub(super) fn open(real: &Path, options: &SourceOptions) -> Result<Source> {
    fault::point("source.open")?;
    let before = FileIdentity::of(real)?;
    let faults = FaultCount::current();
    let readers = [open_first(real, options)?, open_second(real, options)?];
    if readers.iter().any(connection::has_moved) {
        return Err(Error::new(Kind::DatabaseNotReady, "replaced while it was being opened"));
    }
    let index = WalIndex::map(&readers[0])?;
    let (pins, first) = first_pin(readers, &index)?;
    let identity = FileIdentity::of(real)?;
    if before.changed(&identity).is_some_and(|what| what.starts_with("database")) {
        return Err(Error::new(Kind::DatabaseNotReady, "replaced while it was being opened"));
    }
    let wal = WalFile::open(real)?;
    let place = initial_position(&first, wal.as_ref(), pins.idle_connection())?;
    let mut source = Source {
        pins,
        pin: CurrentPin { header: first, idle_repins: 0, overtaken: 0 },
        files: DatabaseFiles { index, wal, path: real.to_path_buf(), identity, faults },
        options: options.clone(),
        copied: CopyProgress::new(place, first),
        content: KnownContent::default(),
        active_snapshots: ActiveSnapshots::default(),
        checkpoints: CheckpointState::default(),
        idle_watches: IdleWatches::default(),
        file_watch: FileWatcher::default(),
        foreign_locks: ForeignLocks::default(),
    };
    source.file_watch.base = source.file_state()?;
    Ok(source)
}

/// Opens the first connection, and settles the journal mode.
fn open_first(path: &Path, options: &SourceOptions) -> Result<Connection> {
    let first = connection::open(path, options.busy_timeout)?;
    connection::read_schema(&first)?;
    not_empty(&first)?;
    ensure_wal(&first, path, options.enable_wal)?;
    connection::read_schema(&first)?;
    Ok(first)
}

fn not_empty(connection: &Connection) -> Result<()> {
    match connection::pragma_number(connection, "page_count")? {
        0 => Err(Error::new(Kind::DatabaseNotReady, "empty: nothing has been written to it yet, or it was truncated")),
        _ => Ok(()),
    }
}

fn open_second(path: &Path, options: &SourceOptions) -> Result<Connection> {
    let second = connection::open(path, options.busy_timeout)?;
    connection::read_schema(&second)?;
    Ok(second)
}

/// The one thing that is ever changed in a database: its journal mode, because only a WAL can be followed.
fn ensure_wal(connection: &Connection, path: &Path, enable: bool) -> Result<()> {
    let mode = connection::pragma_text(connection, "journal_mode")?;
    if mode.eq_ignore_ascii_case("wal") {
        return Ok(());
    }
    let not_wal = |what: &str| {
        Error::new(Kind::DatabaseNotReady, format!("journal mode is {mode}, not wal{what}"))
            .with_hint("run `PRAGMA journal_mode=WAL` once while nothing else uses the database")
    };
    if !enable {
        return Err(not_wal(", and enable-wal is false"));
    }
    fault::point("source.journal")?;
    let now: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)).map_err(|e| {
        let error = connection::from_sqlite(&e, "journal_mode");
        match error.kind() {
            Kind::DatabaseNotReady => not_wal(&format!(", and cannot be changed now: {error}")),
            _ => error.context(format!("change journal mode {mode} to wal")),
        }
    })?;
    if !now.eq_ignore_ascii_case("wal") {
        return Err(not_wal(&format!(", and stays {now}")));
    }
    crate::log::warn("database switched to WAL mode").field("db", path.display()).field("was", mode).emit();
    Ok(())
}

/// Begins the first pin so that its commit is known exactly: the wal-index was the same before and after it.
fn first_pin(readers: [Connection; 2], index: &WalIndex) -> Result<(ReadPins, IndexHeader)> {
    fault::point("source.pin")?;
    let pins = ReadPins::new(readers);
    for _ in 0..1000 {
        let before = index.read()?;
        pins.begin()?;
        let behind = index.read()?;
        match (before, behind) {
            (Some(before), Some(behind)) if before.same_commit(&behind) => return Ok((pins, behind)),
            (None, _) | (_, None) => connection::read_schema(pins.idle_connection())?,
            _ => {}
        }
        pins.end();
    }
    Err(Error::new(Kind::DatabaseNotReady, "written too fast to pin a commit"))
}

/// Where the copy stands at the first pin.
fn initial_position(first: &IndexHeader, wal: Option<&WalFile>, connection: &Connection) -> Result<CopyMark> {
    let page_size = PageSize::new(connection::pragma_number(connection, "page_size")?)?;
    if first.frames > 0 {
        let chain = FrameChecksum::new(first.order, first.salt, first.checksum);
        return Ok(CopyMark { page_size, frame: first.frames, chain, chain_known: true });
    }
    let header = match wal {
        Some(wal) => wal.header()?.map(|(_, header)| header).filter(|header| header.salt == first.salt),
        None => None,
    };
    let sum = header.map(|header| header.checksum);
    let chain = FrameChecksum::new(first.order, first.salt, sum.unwrap_or_default());
    Ok(CopyMark { page_size, frame: 0, chain, chain_known: sum.is_some() })
}

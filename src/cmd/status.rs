//! `litestream status`: whether a database is protected right now, for people and for scripts.

use crate::cli;
use crate::cmd::clock::System;
use crate::cmd::print::Table;
use crate::cmd::{Given, Status, service};
use crate::config::Database;
use crate::error::Result;
use crate::error::{Error, Kind};
use crate::format::position::Position;
use crate::replica::start::{Found, find_end};
use crate::source::{Reason, Source};
use crate::store::Pool;

/// The exit status when something is committed that is not stored yet.
const BEHIND: Status = 1;

/// Bytes that are read at once where the whole database must be compared.
const BUFFER: usize = 1 << 20;

/// What is said of one database.
struct Row {
    state: String,
    position: String,
    time: String,
    /// Bytes of WAL that are not stored.
    behind: String,
    exit: Status,
}

pub fn run(given: &Given, options: &cli::Status) -> Result<Status> {
    let mut pool = Pool::default();
    let mut table = Table::new(&["database", "status", "position", "stored until", "behind", "replica"]);
    let mut exit = 0;
    for database in given.chosen(&options.chosen)? {
        let row = look(&database, &mut pool);
        exit = exit.max(row.exit);
        let path = database.path.display().to_string();
        table.row([path, row.state, row.position, row.time, row.behind, database.replica.url.clone()]);
    }
    table.print(options.json)?;
    Ok(exit)
}

fn look(database: &Database, pool: &mut Pool) -> Row {
    let found = service::open_store(database, false, pool).and_then(|store| find_end(&store, &System));
    match found {
        Ok(found) => compare(database, &found),
        Err(error) => trouble("unreachable", &error),
    }
}

fn compare(database: &Database, found: &Found) -> Row {
    let end = match &found.end {
        Ok(end) => end,
        Err(Reason::NothingStored) => return said("unprotected: nothing stored", Kind::Nothing.exit_status()),
        Err(reason) => return said(&format!("unprotected: {reason}"), Kind::Corrupt.exit_status()),
    };
    let mut options = service::source_options(database);
    options.enable_wal = false;
    let behind = Source::open(&database.path, &options).and_then(|mut source| {
        let resumed = end.resume(&mut source, &mut vec![0; BUFFER])?;
        Ok(resumed.map(|()| source.frames_left()))
    });
    let position = Position { generation: end.tail.generation, point: end.point() }.to_string();
    let (state, behind, exit) = match behind {
        Ok(Ok(0)) => ("ok".to_string(), "0".to_string(), 0),
        Ok(Ok(frames)) => {
            let bytes = u64::from(frames) * end.tail.page_size.frame() as u64;
            ("behind".to_string(), bytes.to_string(), BEHIND)
        }
        Ok(Err(reason)) => (format!("behind: {reason}"), "-".to_string(), BEHIND),
        Err(error) => (format!("database: {error}"), "-".to_string(), error.kind().exit_status()),
    };
    Row { state, position, time: end.time.to_string(), behind, exit }
}

fn said(state: &str, exit: Status) -> Row {
    let none = || "-".to_string();
    Row { state: state.to_string(), position: none(), time: none(), behind: none(), exit }
}

fn trouble(state: &str, error: &Error) -> Row {
    said(&format!("{state}: {error}"), error.kind().exit_status())
}

//! `litestream status`: whether a database is protected right now, for people and for scripts.

use crate::cli;
use crate::cmd::clock::System;
use crate::cmd::files::Reported;
use crate::cmd::print::Table;
use crate::cmd::{Given, Status, service};
use crate::config::Database;
use crate::error::Result;
use crate::error::{Error, Kind};
use crate::format::position::Position;
use crate::format::time::Timestamp;
use crate::replica::checkpoint_note::CheckpointNote;
use crate::replica::start::{Found, find_end};
use crate::source::{Reason, Source};
use crate::store::Pool;

/// The exit status when something is committed that is not stored yet.
const BEHIND: Status = 1;

/// New ones come last: scripts count the others.
const COLUMNS: [&str; 7] = ["database", "status", "position", "stored until", "behind", "replica", "seconds behind"];

/// Bytes that are read at once where the whole database must be compared.
const BUFFER: usize = 1 << 20;

/// What is said of one database.
#[derive(Default)]
struct Row {
    state: String,
    position: Option<String>,
    time: Option<String>,
    /// Bytes of WAL that are not stored.
    behind: Option<u64>,
    /// How much later the database was last written to, in seconds.
    seconds: Option<u64>,
    exit: Status,
}

pub fn run(given: &Given, options: &cli::Status) -> Result<Status> {
    let mut pool = Pool::default();
    let mut table = Table::new(&COLUMNS);
    let mut exit = 0;
    for reported in given.reported(&options.chosen, &mut pool)? {
        let (database, row) = match reported {
            Reported::Configured(database) | Reported::Gone(database) => {
                let row = look(&database, &mut pool);
                (database, row)
            }
            Reported::Unlisted(directory, error) => (directory, trouble("unreachable: ", &error)),
        };
        exit = exit.max(row.exit);
        table.row([
            database.path.display().to_string().into(),
            row.state.into(),
            row.position.into(),
            row.time.into(),
            row.behind.into(),
            database.replica.url.into(),
            row.seconds.into(),
        ]);
    }
    table.print(options.json)?;
    Ok(exit)
}

fn look(database: &Database, pool: &mut Pool) -> Row {
    let found = service::open_store(database, false, pool).and_then(|store| find_end(&store, &System));
    match found {
        Ok(found) => compare(database, &found),
        Err(error) => trouble("unreachable: ", &error),
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
    let found = Source::open(&database.path, &options).and_then(|mut source| {
        let note = CheckpointNote::read(&service::settings(database, false).meta());
        let resumed = end.resume(&mut source, &note, &mut vec![0; BUFFER])?;
        Ok((resumed.map(|()| source.frames_left()), source.last_write()))
    });
    let row = match found {
        Ok((Ok(0), _)) => Row { behind: Some(0), seconds: Some(0), ..said("ok", 0) },
        Ok((Ok(frames), written)) => {
            let bytes = u64::from(frames) * end.tail.page_size.frame() as u64;
            Row { behind: Some(bytes), seconds: seconds(end.time, written), ..said("behind", BEHIND) }
        }
        Ok((Err(reason), written)) => {
            Row { seconds: seconds(end.time, written), ..said(&format!("behind: {reason}"), BEHIND) }
        }
        Err(_) if !database.path.exists() => {
            said("missing: there is no database file, only its backup", Kind::Database.exit_status())
        }
        Err(error) => trouble("", &error),
    };
    let position = Position { generation: end.tail.generation, point: end.point() }.to_string();
    Row { position: Some(position), time: Some(end.time.to_string()), ..row }
}

/// How much later than the last stored commit the database was last written to, in whole seconds, rounded up.
///
/// When each commit happened is nowhere written down, so that this is all there is to know of those that are not stored.
/// It is nothing where the clock was set back since, or a file with an older date was put in place.
fn seconds(stored: Timestamp, written: Option<Timestamp>) -> Option<u64> {
    let later = written.filter(|written| *written > stored)?;
    u64::try_from(later.since(stored).as_millis().div_ceil(1000)).ok()
}

fn said(state: &str, exit: Status) -> Row {
    Row { state: state.to_string(), exit, ..Row::default() }
}

fn trouble(state: &str, error: &Error) -> Row {
    said(&format!("{state}{error}"), error.kind().exit_status())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_behind_is_rounded_up_and_never_made_up() {
        let at = Timestamp::from_millis;
        let stored = at(50_000);
        for (written, expected) in [
            (Some(at(50_001)), Some(1)),
            (Some(at(51_000)), Some(1)),
            (Some(at(51_001)), Some(2)),
            (Some(at(50_000)), None),
            (Some(at(49_000)), None),
            (None, None),
        ] {
            assert_eq!(seconds(stored, written), expected, "{written:?}");
        }
    }
}

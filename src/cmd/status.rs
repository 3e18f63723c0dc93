//! `litestream status`: whether a database is protected right now, for people and for scripts.

use crate::backup::checkpoint_note::CheckpointNote;
use crate::backup::find_end::{StoredHistory, find_end};
use crate::backup::listing::load_listing;
use crate::backup::owner::replaced_by;
use crate::cli;
use crate::cmd::clock::SystemClock;
use crate::cmd::copy_status::of_copy;
use crate::cmd::find_databases::Reported;
use crate::cmd::print::Table;
use crate::cmd::{Context, EXIT_BEHIND, ExitStatus, wiring};
use crate::config::Database;
use crate::error::Result;
use crate::error::{Error, Kind};
use crate::format::position::Position;
use crate::format::time::Timestamp;
use crate::restore::standby::seen::{self, CopyState};
use crate::source::{GenerationEnd, Source};
use crate::store::ConnectionPool;
use crate::store::blocking::connect;

/// New ones come last: scripts count the others.
pub const COLUMNS: [&str; 9] = [
    "database",
    "status",
    "position",
    "stored until",
    "behind",
    "replica",
    "seconds behind",
    "recipients",
    "last contact",
];

/// Bytes that are read at once where the whole database must be compared.
const BUFFER_BYTES: usize = 1 << 20;

/// What is said of one database.
#[derive(Default)]
struct StatusRow {
    state: String,
    position: Option<String>,
    time: Option<String>,
    /// Bytes of WAL that are not stored.
    behind: Option<u64>,
    /// How much later the database was last written to, in seconds.
    seconds: Option<u64>,
    /// To how many recipients what is stored is encrypted; 0: it is in clear.
    recipients: Option<u64>,
    /// When the store of a copy answered last.
    contact: Option<String>,
    exit: ExitStatus,
}

pub fn run(ctx: &Context, selection: &cli::DatabaseSelection, as_json: bool) -> Result<ExitStatus> {
    let mut pool = ConnectionPool::default();
    let mut table = Table::new(&COLUMNS);
    let mut exit = 0;
    for reported in ctx.reported(selection, &mut pool)? {
        let (database, row) = match reported {
            Reported::Configured(database) | Reported::Gone(database) => {
                let row = status_of(&database, &mut pool);
                (database, row)
            }
            Reported::Unlisted(directory, error) => (directory, error_row("unreachable: ", &error)),
            Reported::Unusable(database, error) => (database, error_row("", &error)),
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
            row.recipients.into(),
            row.contact.into(),
        ]);
    }
    table.print(as_json)?;
    Ok(exit)
}

fn status_of(database: &Database, pool: &mut ConnectionPool) -> StatusRow {
    match seen::read_copy_state(&database.path) {
        Ok(None) => {}
        Ok(Some(copy)) => return status_of_copy(database, &copy, pool),
        Err(error) => return error_row("", &error),
    }
    let found = wiring::open_store(database, false, pool).and_then(|store| {
        let found = find_end(&store, &SystemClock)?;
        let meta = wiring::replicator_settings(database, false).meta();
        let other = replaced_by(&*store, found.known.owner, (&database.path, &meta), &SystemClock)?;
        Ok((found, other))
    });
    match found {
        Ok((_, Some(other))) => row(&format!("taken over: by database {other}"), Kind::TakenOver.exit_status()),
        Ok((found, None)) => {
            let stored = !matches!(found.end, Err(GenerationEnd::NothingStored));
            let recipients = stored.then_some(found.known.recipients as u64);
            StatusRow { recipients, ..compare_with_live(database, &found) }
        }
        Err(error) => error_row("unreachable: ", &error),
    }
}

/// A copy that `restore -f` keeps, or kept.
fn status_of_copy(database: &Database, copy: &CopyState, pool: &mut ConnectionPool) -> StatusRow {
    let store = wiring::open_store(database, false, pool);
    let listing = store.and_then(|store| {
        connect(&*store, &SystemClock)?;
        load_listing(&*store, &SystemClock)
    });
    let found = of_copy(copy, listing.as_ref());
    StatusRow {
        state: found.state,
        position: Some(copy.position.to_string()),
        time: Some(copy.time.to_string()),
        behind: found.behind,
        seconds: found.seconds,
        recipients: (!copy.encrypted).then_some(0),
        contact: Some(copy.contact.to_string()),
        exit: found.exit,
    }
}

fn compare_with_live(database: &Database, found: &StoredHistory) -> StatusRow {
    let end = match &found.end {
        Ok(end) => end,
        Err(GenerationEnd::NothingStored) => {
            return row("unprotected: nothing stored", Kind::NothingToRestore.exit_status());
        }
        Err(reason) => return row(&format!("unprotected: {reason}"), Kind::Corrupt.exit_status()),
    };
    let mut options = wiring::source_options(database);
    options.enable_wal = false;
    let found = Source::open(&database.path, &options).and_then(|mut source| {
        let note = CheckpointNote::read(&wiring::replicator_settings(database, false).meta());
        let resumed = end.resume(&mut source, &note, &mut vec![0; BUFFER_BYTES])?;
        Ok((resumed.map(|()| source.uncopied_frames()), source.last_write()))
    });
    let row = match found {
        Ok((Ok(0), _)) => StatusRow { behind: Some(0), seconds: Some(0), ..row("ok", 0) },
        Ok((Ok(frames), written)) => {
            let bytes = u64::from(frames) * end.chain_end.page_size.frame() as u64;
            StatusRow { behind: Some(bytes), seconds: seconds_behind(end.time, written), ..row("behind", EXIT_BEHIND) }
        }
        Ok((Err(reason), written)) => {
            StatusRow { seconds: seconds_behind(end.time, written), ..row(&format!("behind: {reason}"), EXIT_BEHIND) }
        }
        Err(_) if !database.path.exists() => {
            row("missing: there is no database file, only its backup", Kind::Database.exit_status())
        }
        Err(error) => error_row("", &error),
    };
    let position = Position { generation: end.chain_end.generation, wal_position: end.wal_position() }.to_string();
    StatusRow { position: Some(position), time: Some(end.time.to_string()), ..row }
}

/// How much later than the last stored commit the database was last written to, in whole seconds, rounded up.
///
/// When each commit happened is nowhere written down, so that this is all there is to know of those that are not stored.
/// It is nothing where the clock was set back since, or a file with an older date was put in place.
fn seconds_behind(stored: Timestamp, written: Option<Timestamp>) -> Option<u64> {
    let later = written.filter(|written| *written > stored)?;
    u64::try_from(later.since(stored).as_millis().div_ceil(1000)).ok()
}

fn row(state: &str, exit: ExitStatus) -> StatusRow {
    StatusRow { state: state.to_string(), exit, ..StatusRow::default() }
}

fn error_row(state: &str, error: &Error) -> StatusRow {
    row(&format!("{state}{error}"), error.kind().exit_status())
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
            assert_eq!(seconds_behind(stored, written), expected, "{written:?}");
        }
    }
}

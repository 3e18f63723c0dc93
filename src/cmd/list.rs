//! `litestream list`: every database below a URL, with what is stored of it and who replicates it; and the same as a
//! monitor that says what is late, gone or cannot be restored.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::find_replicas::with_stored_hint;
use crate::cmd::print::{self, Cell, Table};
use crate::cmd::{Context, ExitStatus, connect, environment};
use crate::config::{self, Replica};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::monitor::{Problem, ROOT_NAME, age, expected_prefixes, problem};
use crate::format::stored_databases::{NewestState, StoredDatabase, StoredDatabases};
use crate::format::time::Timestamp;
use crate::log;
use crate::printable::printable;
use crate::replica::standalone_snapshot::origin_of;
use crate::replica::survey::survey_with_writers;
use crate::store::encrypted::described_recipients;
use crate::store::{ConnectionPool, LiveWriter, Store, StoreTarget, Writer};

/// The exit status when a database is late, gone or cannot be restored, and that was asked for.
const EXIT_PROBLEM: ExitStatus = 1;

/// New ones come last: scripts count the others.
const COLUMNS: [&str; 17] = [
    "prefix",
    "newest",
    "age",
    "live",
    "host",
    "version",
    "lag",
    "restore size",
    "bytes",
    "objects",
    "generations",
    "first",
    "database",
    "pid",
    "problem",
    "recipients",
    "all since",
];

/// One database.
struct ListRow<'a> {
    prefix: &'a str,
    /// None where it is expected and not there.
    stored: Option<&'a StoredDatabase>,
    newest: Option<Result<NewestState>>,
    writer: Writer,
    problem: Option<Problem>,
}

pub fn run(_: &Context, options: &cli::ListOptions) -> Result<ExitStatus> {
    let expected = options.expected.as_deref().map(read_expected).transpose()?;
    let replica = config::replica_from_url(options.url.reveal(), &environment)?;
    config::check_files::replica(&replica)?;
    let mut pool = ConnectionPool::default();
    let store = connect(&replica, &mut pool)?;
    let named = expected.iter().flatten().map(String::as_str);
    let (stored, mut writers) =
        survey_with_writers(&*store, &SystemClock, named.clone()).with_context(|| format!("list {}", replica.url))?;
    let monitoring = options.max_age.is_some() || expected.is_some();
    if stored.is_empty() && expected.is_none() {
        return Err(with_stored_hint(nothing_stored(&replica, &stored), &replica, &mut pool));
    }
    let prefixes: BTreeSet<&str> = stored.prefixes().chain(named).collect();
    let now = SystemClock.utc_now();
    let mut row = |prefix| {
        let writer = writers.remove(prefix).unwrap_or(Writer::Unknown);
        row(prefix, stored.database(prefix), writer, options.max_age, now)
    };
    let rows: Vec<ListRow> = prefixes.into_iter().map(&mut row).collect();
    match monitoring && !options.json {
        true => print::text(&problem_lines(&rows))?,
        false => table(&rows, &replica, &*store, now).print(options.json)?,
    }
    let trouble = monitoring && rows.iter().any(|row| row.problem.is_some());
    Ok(if trouble { EXIT_PROBLEM } else { 0 })
}

/// The prefixes that must be there.
///
/// Errors: of kind `Usage`; a file that names none would keep quiet of everything.
fn read_expected(path: &Path) -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::io(Kind::Usage, format!("option -missing: read {}", path.display()), &e))?;
    let expected = expected_prefixes(&text);
    match expected.is_empty() {
        true => Err(Error::new(Kind::Usage, format!("option -missing: {} names no prefix", path.display()))
            .with_hint("write one prefix per line, as litestream list prints them")),
        false => Ok(expected),
    }
}

fn nothing_stored(replica: &Replica, stored: &StoredDatabases) -> Error {
    let error = Error::new(Kind::NothingToRestore, format!("{}: nothing is stored", replica.url));
    match stored.strangers() {
        0 => error,
        count => error.with_hint(format!("there are {count} object(s) of other programs")),
    }
}

fn row<'a>(
    prefix: &'a str,
    stored: Option<&'a StoredDatabase>,
    writer: Writer,
    max_age: Option<Duration>,
    now: Timestamp,
) -> ListRow<'a> {
    let newest = stored.map(StoredDatabase::newest_state);
    let lag = match &writer {
        Writer::Live(writer) => writer.lag,
        _ => None,
    };
    let problem = problem(newest.as_ref(), lag, max_age, now);
    ListRow { prefix, stored, newest, writer, problem }
}

/// One line a database that is not as it should be.
fn problem_lines(rows: &[ListRow]) -> String {
    let line = |row: &ListRow| {
        let problem = row.problem.as_ref()?;
        Some(format!("{}: {}\n", printable(name(row.prefix)), printable(&problem.to_string())))
    };
    rows.iter().filter_map(line).collect()
}

/// An empty word would shift the columns.
fn name(prefix: &str) -> &str {
    if prefix.is_empty() { ROOT_NAME } else { prefix }
}

fn table(rows: &[ListRow], replica: &Replica, store: &dyn Store, now: Timestamp) -> Table {
    let mut table = Table::new(&COLUMNS);
    for row in rows {
        let (database, recipients) = database_of(row, replica, store);
        table.row(cells(row, database, recipients, now));
    }
    table
}

fn cells(row: &ListRow, database: Option<String>, recipients: Option<usize>, now: Timestamp) -> [Cell; 17] {
    let newest = row.newest.as_ref().and_then(|newest| newest.as_ref().ok());
    let (live, writer) = match &row.writer {
        Writer::Live(writer) => (Some(true), writer.clone()),
        Writer::Nobody => (Some(false), LiveWriter::default()),
        Writer::Unknown => (None, LiveWriter::default()),
    };
    let count = |count: fn(&StoredDatabase) -> u64| row.stored.map_or(0, count).into();
    [
        name(row.prefix).into(),
        newest.map(|newest| newest.time.to_string()).into(),
        newest.and_then(|newest| age(newest.time, now)).map(|age| age.as_secs()).into(),
        live.into(),
        writer.host.into(),
        writer.version.into(),
        writer.lag.map(seconds_up).into(),
        newest.map(|newest| newest.size).into(),
        count(StoredDatabase::bytes),
        count(StoredDatabase::objects),
        count(StoredDatabase::generations),
        row.stored.and_then(StoredDatabase::first).map(|first| first.to_string()).into(),
        database.into(),
        writer.pid.map(u64::from).into(),
        row.problem.as_ref().map(Problem::to_string).into(),
        recipients.map(|recipients| recipients as u64).into(),
        row.stored.and_then(StoredDatabase::all_since).map(|since| since.to_string()).into(),
    ]
}

/// 0 is nothing at all.
fn seconds_up(lag: Duration) -> u64 {
    lag.as_secs() + u64::from(lag.subsec_nanos() > 0)
}

/// The host and path of the database: as its newest snapshot records them, or else its replicator says.
///
/// In NATS the listing has told it. In a directory the beginning of a file is read for it, which costs nothing.
///
/// And to how many recipients that snapshot is encrypted, which the description of an encrypted one says instead. Whoever can
/// decrypt it reads its beginning.
fn database_of(row: &ListRow, replica: &Replica, store: &dyn Store) -> (Option<String>, Option<usize>) {
    let described = row.stored.and_then(StoredDatabase::description);
    let encrypted = described.and_then(described_recipients);
    let (database, recipients) = match (described, encrypted) {
        (Some(words), None) => (Some(words.to_string()), Some(0)),
        (_, Some(recipients)) if !store.can_decrypt() => (None, Some(recipients)),
        _ => read_origin(row, replica, store).unwrap_or((None, encrypted)),
    };
    let by_writer = || match &row.writer {
        Writer::Live(LiveWriter { host: Some(host), database: Some(path), .. }) => Some(format!("{host}:{path}")),
        _ => None,
    };
    (database.or_else(by_writer), recipients)
}

fn read_origin(row: &ListRow, replica: &Replica, store: &dyn Store) -> Option<(Option<String>, Option<usize>)> {
    let snapshot = row.stored.and_then(StoredDatabase::newest_snapshot)?;
    let encrypted = row.stored.and_then(StoredDatabase::description).is_some();
    if !encrypted && !matches!(&replica.target, StoreTarget::Dir(_)) {
        return None;
    }
    let name = if row.prefix.is_empty() { snapshot.to_string() } else { format!("{}/{snapshot}", row.prefix) };
    match origin_of(store, &SystemClock, &name) {
        Ok((origin, recipients)) => Some((origin.map(|origin| origin.to_string()), Some(recipients))),
        Err(error) => {
            log::warn("cannot read which database a snapshot belongs to").field("name", &name).error(&error).emit();
            None
        }
    }
}

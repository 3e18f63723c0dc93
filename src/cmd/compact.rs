//! `litestream compact`: merges and deletes what is stored, near the store and without any database file. Once, or again and
//! again.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::find_replicas::with_stored_hint;
use crate::cmd::print::{self, Table};
use crate::cmd::{Context, ErrorCollector, ExitStatus, connect, environment, heartbeat, signals, with_signal_status};
use crate::config::{self, Database, DatabaseDir, Heartbeat, Replica};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::keep::Keep;
use crate::format::listing::Listing;
use crate::format::prefixes::by_prefix;
use crate::format::preview::{Preview, preview};
use crate::format::retention::Policy;
use crate::interrupt;
use crate::log;
use crate::replica::clock_jump::ClockJumpDetector;
use crate::replica::maintenance::{DELETE_GRACE_PERIOD, MaintenanceResult, Pass, run_one_pass};
use crate::store::blocking::list;
use crate::store::{ConnectionPool, Entry, Store, Target};
use crate::thinning::{Thinned, thin};

/// Between two looks whether the end was asked for.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A place whose objects are listed at once.
struct Place {
    replica: Replica,
    databases: Selection,
}

/// Which of the databases at a place.
enum Selection {
    /// Those of the configuration.
    Named(Vec<Named>),
    /// The one at the place itself, and those below it.
    Below(Kept),
    /// Those below it that a directory of the configuration may have.
    OfDirectory(Box<config::DatabaseDir>, Kept),
}

/// How long what is stored stays, and which states of it.
#[derive(Clone, Copy)]
struct Kept {
    retention: Option<Duration>,
    keep: Option<Keep>,
}

/// A database whose replica is known.
#[derive(Clone)]
struct Named {
    /// Below the place.
    prefix: String,
    replica: Replica,
    kept: Kept,
}

impl Place {
    /// The databases that are to be compacted, of those that are stored.
    fn select(&self, stored: impl Iterator<Item = String>) -> Result<Vec<Named>> {
        let below = |prefix: String, kept| {
            let replica = match prefix.is_empty() {
                true => self.replica.clone(),
                false => self.replica.below(Path::new(&prefix))?,
            };
            Ok(Named { prefix, replica, kept })
        };
        match &self.databases {
            Selection::Named(databases) => Ok(databases.clone()),
            Selection::Below(kept) => stored.map(|prefix| below(prefix, *kept)).collect(),
            Selection::OfDirectory(dir, kept) => {
                stored.filter(|prefix| dir.matches(Path::new(prefix))).map(|prefix| below(prefix, *kept)).collect()
            }
        }
    }
}

/// The databases by their buckets, since a bucket has to be listed as a whole for any one of them.
fn by_bucket(databases: impl Iterator<Item = Named>) -> Vec<Place> {
    let mut places: Vec<(Replica, Vec<Named>)> = Vec::new();
    for database in databases {
        let (bucket, prefix) = bucket(&database.replica);
        let named = Named { prefix, ..database };
        match places.iter_mut().find(|(other, _)| other.target == bucket.target) {
            Some((_, others)) => others.push(named),
            None => places.push((bucket, vec![named])),
        }
    }
    places.into_iter().map(|(bucket, databases)| Place::of(bucket, databases)).collect()
}

/// The whole bucket, and where in it the replica is.
fn bucket(replica: &Replica) -> (Replica, String) {
    let mut bucket = replica.clone();
    let prefix = match &mut bucket.target {
        Target::Nats(options) => std::mem::take(&mut options.prefix),
        Target::Dir(_) => String::new(),
    };
    (bucket, prefix)
}

impl Place {
    /// One that is alone in its bucket needs the names of no other.
    fn of(bucket: Replica, mut databases: Vec<Named>) -> Place {
        let replica = match databases.as_mut_slice() {
            [only] => {
                only.prefix = String::new();
                only.replica.clone()
            }
            _ => bucket,
        };
        Place { replica, databases: Selection::Named(databases) }
    }
}

/// What became of one database.
struct Row {
    replica: String,
    done: Result<Done>,
}

enum Done {
    Compacted(MaintenanceResult, Thinned),
    Planned(Preview),
}

pub fn run(given: &Context, options: &cli::Compact) -> Result<ExitStatus> {
    signals::install_shutdown_handlers();
    let (places, heartbeat) = places(given, options)?;
    let mut pool = ConnectionPool::default();
    let mut jumps = ClockJumpDetector::default();
    let Some(interval) = options.interval else {
        return with_signal_status(once(&places, options, heartbeat.as_ref(), &mut jumps, &mut pool));
    };
    log::info("compacting")
        .field("places", places.len())
        .field("interval", config::units::format_duration(interval))
        .emit();
    loop {
        let begun = SystemClock.now();
        let rows = compact_all(&places, false, &mut jumps, &mut pool);
        if signals::shutdown_signal().is_some() {
            return Ok(0);
        }
        rows.iter().for_each(log_row);
        if let Some(heartbeat) = heartbeat.as_ref().filter(|_| rows.iter().all(|row| row.done.is_ok())) {
            heartbeat::send(heartbeat);
        }
        if wait(begun + interval) {
            return Ok(0);
        }
    }
}

/// True: the end was asked for.
fn wait(until: Instant) -> bool {
    while signals::shutdown_signal().is_none() && SystemClock.now() < until {
        SystemClock.sleep(POLL_INTERVAL);
    }
    signals::shutdown_signal().is_some()
}

fn once(
    places: &[Place],
    options: &cli::Compact,
    heartbeat: Option<&Heartbeat>,
    jumps: &mut ClockJumpDetector,
    pool: &mut ConnectionPool,
) -> Result<ExitStatus> {
    let rows = compact_all(places, options.dry_run, jumps, pool);
    if let ([], [place]) = (rows.as_slice(), places) {
        let error = Error::new(Kind::NothingToRestore, format!("compact {}: nothing is stored", place.replica.url));
        return Err(with_stored_hint(error, &place.replica, pool));
    }
    if options.json || rows.iter().any(|row| row.done.is_ok()) {
        print_rows(&rows, options)?;
    }
    let mut errors = ErrorCollector(None);
    rows.into_iter().filter_map(|row| row.done.err()).for_each(|error| errors.push(error));
    errors.into_result()?;
    if let Some(heartbeat) = heartbeat.filter(|_| !options.dry_run) {
        heartbeat::send(heartbeat);
    }
    Ok(0)
}

/// What is to be compacted, and where to report that all of it was.
fn places(given: &Context, options: &cli::Compact) -> Result<(Vec<Place>, Option<Heartbeat>)> {
    if let Some(url) = &options.url {
        let replica = config::replica_from_url(url.reveal(), &environment)?;
        config::check_files::replica(&replica)?;
        let kept = Kept { retention: options.retention, keep: None };
        return Ok((vec![Place { replica, databases: Selection::Below(kept) }], None));
    }
    let config = given.config()?;
    config::check_files::config(&config)?;
    let named = by_bucket(config.dbs.iter().flat_map(Database::each_replica).map(|database| Named {
        prefix: String::new(),
        kept: kept(&database),
        replica: database.replica,
    }));
    let replicas = |dir: &DatabaseDir| -> Vec<(Database, DatabaseDir)> {
        dir.template.each_replica().into_iter().map(|template| (template, dir.clone())).collect()
    };
    let directories = config.dirs.iter().flat_map(replicas).map(|(template, dir)| Place {
        databases: Selection::OfDirectory(Box::new(dir), kept(&template)),
        replica: template.replica,
    });
    let places: Vec<Place> = named.into_iter().chain(directories).collect();
    Ok((places, config.heartbeat))
}

fn kept(database: &Database) -> Kept {
    Kept { retention: database.snapshot_retention, keep: database.keep }
}

/// Ends at the first place where the end was asked for.
fn compact_all(places: &[Place], dry_run: bool, jumps: &mut ClockJumpDetector, pool: &mut ConnectionPool) -> Vec<Row> {
    let mut rows = Vec::new();
    for place in places {
        if let Err(error) = compact_place(place, dry_run, jumps, pool, &mut rows) {
            rows.push(Row { replica: place.replica.url.clone(), done: Err(error) });
        }
        if signals::shutdown_signal().is_some() {
            break;
        }
    }
    rows
}

/// One listing for all databases of the place: a bucket has to be listed as a whole for any one of them.
fn compact_place(
    place: &Place,
    dry_run: bool,
    jumps: &mut ClockJumpDetector,
    pool: &mut ConnectionPool,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let url = &place.replica.url;
    let store = connect(&place.replica, pool)?;
    let entries = list(&*store, &SystemClock, "").context(|| format!("compact {url}"))?;
    let mut stored = by_prefix(entries.into_iter().map(|entry| (entry.name, entry.size)));
    let databases = place.select(stored.keys().cloned().collect::<Vec<_>>().into_iter())?;
    let mut compact = |Named { prefix, replica, kept }: Named| {
        let done = match stored.remove(&prefix) {
            None => Err(Error::new(Kind::NothingToRestore, "nothing is stored")),
            Some(objects) if dry_run => Ok(Done::Planned(planned(objects, kept))),
            Some(objects) => compact_database(&replica, objects, kept, jumps, pool),
        };
        Row { done: done.context(|| format!("compact {}", replica.url)), replica: replica.url }
    };
    let whole = each_database(databases.into_iter(), &mut compact, &interrupt::check, rows)?;
    if whole && !dry_run {
        remove_orphans(&*store).context(|| format!("compact {url}"))?;
    }
    Ok(())
}

/// Compacts one database after the other, until the end is asked for. False: it was, and the row of the database in which
/// that happened says so.
///
/// Errors: the end was asked for, and no row says so.
fn each_database<T>(
    databases: impl Iterator<Item = T>,
    compact: &mut dyn FnMut(T) -> Row,
    check: &dyn Fn() -> Result<()>,
    rows: &mut Vec<Row>,
) -> Result<bool> {
    for database in databases {
        check()?;
        let row = compact(database);
        let failed = row.done.is_err();
        rows.push(row);
        if failed && check().is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn planned(objects: Vec<(String, u64)>, Kept { retention, keep }: Kept) -> Preview {
    preview(&Listing::new(objects), Policy { retention, keep, grace: DELETE_GRACE_PERIOD }, SystemClock.utc_now())
}

fn compact_database(
    replica: &Replica,
    objects: Vec<(String, u64)>,
    Kept { retention, keep }: Kept,
    jumps: &mut ClockJumpDetector,
    pool: &mut ConnectionPool,
) -> Result<Done> {
    let store = connect(replica, pool)?;
    let mut listing = objects.into_iter().map(|(name, size)| Entry { name, size }).collect();
    let mut thinned = Thinned::default();
    jumps.check(&SystemClock);
    let trusted = !jumps.is_distrusted(SystemClock.now());
    let done = match keep.filter(|_| trusted) {
        Some(keep) => thin(&*store, &SystemClock, &keep, &mut listing, &mut thinned),
        None => Ok(()),
    };
    // What is damaged in an old part of the history keeps nothing else from being done.
    if let Err(error) = done.as_ref()
        && error.kind() != Kind::Corrupt
    {
        return done.map(|()| Done::Compacted(MaintenanceResult::default(), thinned));
    }
    let pass = Pass { retention, keep, listing: Some(listing), replaced: thinned.replaced.clone() };
    let compacted = run_one_pass(&store, &replica.url, pass, jumps, &SystemClock)?;
    done.map(|()| Done::Compacted(compacted, thinned))
}

/// What uploads that died have left: a device that only adds objects cannot remove it.
fn remove_orphans(store: &dyn Store) -> Result<()> {
    let cleanup = store.clean_orphans(SystemClock.utc_now(), crate::store::MIN_ORPHAN_AGE);
    let Some(mut cleanup) = cleanup else { return Ok(()) };
    while cleanup.poll(SystemClock.now())?.is_none() {
        interrupt::check()?;
        store.wait(POLL_INTERVAL);
    }
    Ok(())
}

fn log_row(row: &Row) {
    match &row.done {
        Ok(Done::Compacted(done, thinned)) if done.merged + done.deleted + thinned.rollups + thinned.snapshots > 0 => {
            log::info("compacted")
                .field("replica", &row.replica)
                .field("merged", done.merged)
                .field("into", done.into)
                .field("rollups", thinned.rollups)
                .field("deleted", done.deleted + thinned.snapshots)
                .emit();
        }
        Ok(_) => {}
        Err(error) => log::warn("not compacted, trying again").field("replica", &row.replica).error(error).emit(),
    }
}

fn print_rows(rows: &[Row], options: &cli::Compact) -> Result<()> {
    if options.json {
        return print::json_value(&rows.iter().map(|row| json_row(row, options.dry_run)).collect());
    }
    let columns: &[&str] = match options.dry_run {
        true => &["replica", "segments", "after", "delete", "bytes", "first", "first after"],
        false => &["replica", "merged", "into", "rollups", "deleted"],
    };
    let mut table = Table::new(columns);
    let number = |number: usize| (number as u64).into();
    for row in rows {
        let replica = || row.replica.clone().into();
        match &row.done {
            Ok(Done::Compacted(done, thinned)) => {
                let deleted = done.deleted + thinned.snapshots;
                table.row([
                    replica(),
                    number(done.merged),
                    number(done.into),
                    number(thinned.rollups),
                    number(deleted),
                ]);
            }
            Ok(Done::Planned(planned)) => table.row([
                replica(),
                number(planned.segments),
                number(planned.segments_after),
                number(planned.delete),
                planned.delete_bytes.into(),
                planned.first.map(|time| time.to_string()).into(),
                planned.first_after.map(|time| time.to_string()).into(),
            ]),
            Err(_) => {}
        }
    }
    table.print(false)
}

/// What is not known is null, so that a name always has one type.
fn json_row(row: &Row, dry_run: bool) -> Value {
    let (planned, compacted) = match &row.done {
        Ok(Done::Planned(planned)) => (Some(planned), None),
        Ok(Done::Compacted(done, thinned)) => (None, Some((done, thinned))),
        Err(_) => (None, None),
    };
    let error = row.done.as_ref().err().map(|error| error.message());
    match dry_run {
        true => json!({
            "replica": row.replica,
            "segments": planned.map(|it| it.segments),
            "segments_after": planned.map(|it| it.segments_after),
            "delete": planned.map(|it| it.delete),
            "delete_bytes": planned.map(|it| it.delete_bytes),
            "first": planned.and_then(|it| it.first).map(|time| time.to_string()),
            "first_after": planned.and_then(|it| it.first_after).map(|time| time.to_string()),
            "not_deleted_because": planned.and_then(|it| it.skipped_reason),
            "error": error,
        }),
        false => json!({
            "replica": row.replica,
            "merged": compacted.map(|(it, _)| it.merged),
            "into": compacted.map(|(it, _)| it.into),
            "rollups": compacted.map(|(_, thinned)| thinned.rollups),
            "bytes": compacted.map(|(it, thinned)| it.bytes + thinned.bytes),
            "deleted": compacted.map(|(it, thinned)| it.deleted + thinned.snapshots),
            "error": error,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// What two databases and their place say, if the signal comes in the n-th piece of work and ends it or does not.
    fn told(signal_in: u32, breaks_off: bool) -> (usize, bool) {
        let signalled = Cell::new(false);
        let stopped = || Error::new(Kind::Database, "stopped by signal 15");
        let check = || if signalled.get() { Err(stopped()) } else { Ok(()) };
        let mut compact = |database: u32| {
            signalled.set(database == signal_in);
            let done = if breaks_off { check() } else { Ok(()) };
            Row {
                replica: database.to_string(),
                done: done.map(|()| Done::Compacted(MaintenanceResult::default(), Thinned::default())),
            }
        };
        let mut rows = Vec::new();
        let whole = each_database(1..=2, &mut compact, &check, &mut rows);
        let errors = rows.iter().filter(|row| row.done.is_err()).count() + usize::from(whole.is_err());
        (errors, whole.unwrap_or(false))
    }

    #[test]
    fn a_signal_is_told_once_wherever_it_comes() {
        assert_eq!(told(1, true), (1, false));
        assert_eq!(told(1, false), (1, false));
        assert_eq!(told(2, true), (1, false));
        assert_eq!(told(2, false), (0, true));
        assert_eq!(told(3, true), (0, true));
    }
}

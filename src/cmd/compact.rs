//! `litestream compact`: merges and deletes what is stored, near the store and without any database file. Once, or again and
//! again.

mod metrics;
mod roots;
mod rows;

use std::time::{Duration, Instant};

use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::find_replicas::with_stored_hint;
use crate::cmd::progress::{ProgressLine, progress_line};
use crate::cmd::{Context, ErrorCollector, ExitStatus, connect, heartbeat, signals, with_signal_status};
use crate::config::{self, Heartbeat, Replica};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::listing::Listing;
use crate::format::preview::{Preview, preview};
use crate::format::retention::Policy;
use crate::interrupt;
use crate::log;
use crate::replica::clock_jump::ClockJumpDetector;
use crate::replica::maintenance::{DELETE_GRACE_PERIOD, MaintenanceResult, Pass, run_one_pass};
use crate::replica::survey::objects_by_prefix;
use crate::store::{ConnectionPool, Entry, Store};
use crate::thinning::{Thinned, thin};

use metrics::CompactMetrics;
use roots::{CompactionRoot, Kept, Named, roots};
use rows::{CompactRow, Done, log_row, print_rows};

/// Between two looks whether the end was asked for.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub fn run(ctx: &Context, options: &cli::CompactOptions) -> Result<ExitStatus> {
    signals::install_shutdown_handlers();
    let (roots, heartbeat) = roots(ctx, options)?;
    let mut pool = ConnectionPool::default();
    let mut jumps = ClockJumpDetector::default();
    let mut metrics = CompactMetrics::default();
    let Some(interval) = options.interval else {
        return with_signal_status(once(&roots, options, heartbeat.as_ref(), &mut jumps, &mut pool));
    };
    log::info("compacting")
        .field("places", roots.len())
        .field("interval", config::units::format_duration(interval))
        .emit();
    loop {
        let begun = SystemClock.now();
        let rows = compact_all(&roots, false, &mut jumps, &mut pool);
        metrics.record(&rows, options.metrics_file.as_deref(), &pool.traffic(), SystemClock.utc_now());
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
    roots: &[CompactionRoot],
    options: &cli::CompactOptions,
    heartbeat: Option<&Heartbeat>,
    jumps: &mut ClockJumpDetector,
    pool: &mut ConnectionPool,
) -> Result<ExitStatus> {
    let rows = compact_all(roots, options.dry_run, jumps, pool);
    let metrics_file = options.metrics_file.as_deref();
    CompactMetrics::default().record(&rows, metrics_file, &pool.traffic(), SystemClock.utc_now());
    if let ([], [root]) = (rows.as_slice(), roots) {
        let error = Error::new(Kind::NothingToRestore, format!("compact {}: nothing is stored", root.replica.url));
        return Err(with_stored_hint(error, &root.replica, pool));
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

/// Ends at the first root where the end was asked for.
fn compact_all(
    roots: &[CompactionRoot],
    dry_run: bool,
    jumps: &mut ClockJumpDetector,
    pool: &mut ConnectionPool,
) -> Vec<CompactRow> {
    let mut rows = Vec::new();
    for root in roots {
        if let Err(error) = compact_root(root, dry_run, jumps, pool, &mut rows) {
            add_failure(&mut rows, &root.replica.url, error);
        }
        if signals::shutdown_signal().is_some() {
            break;
        }
    }
    rows
}

/// What went wrong at a root stands in the row of the database that is the root itself, if nothing else does.
fn add_failure(rows: &mut Vec<CompactRow>, root: &str, error: Error) {
    match rows.iter_mut().find(|row| row.replica == root && row.done.is_ok()) {
        Some(row) => row.done = Err(error),
        None => rows.push(CompactRow { replica: root.to_string(), done: Err(error) }),
    }
}

/// One listing for all databases of the root: a bucket has to be listed as a whole for any one of them.
fn compact_root(
    root: &CompactionRoot,
    dry_run: bool,
    jumps: &mut ClockJumpDetector,
    pool: &mut ConnectionPool,
    rows: &mut Vec<CompactRow>,
) -> Result<()> {
    let url = &root.replica.url;
    let store = connect(&root.replica, pool)?;
    let mut stored = objects_by_prefix(&*store, &SystemClock).with_context(|| format!("compact {url}"))?;
    let databases = root.select(stored.prefixes().map(str::to_string))?;
    let mut done_bytes = 0;
    let mut progress = ProgressLine::new("compact", stored.total_bytes(), SystemClock.now());
    let mut compact = |Named { prefix, replica, kept }: Named| {
        progress.update(done_bytes, SystemClock.now());
        done_bytes += stored.bytes(&prefix);
        let done = match stored.remove(&prefix) {
            None => Err(Error::new(Kind::NothingToRestore, "nothing is stored")),
            Some(objects) if dry_run => Ok(Done::Planned(planned(objects, kept))),
            Some(objects) => compact_database(&replica, objects, kept, jumps, pool),
        };
        CompactRow { done: done.with_context(|| format!("compact {}", replica.url)), replica: replica.url }
    };
    let begun = rows.len();
    let whole = each_database(databases.into_iter(), &mut compact, &interrupt::check, rows)?;
    let of_root = rows.get(begun..).unwrap_or_default();
    // Where nothing could be done to any database, nothing can be removed either: each row has said why.
    if whole && !dry_run && (of_root.is_empty() || of_root.iter().any(|row| row.done.is_ok())) {
        remove_orphans(&*store).with_context(|| format!("compact {url}"))?;
    }
    Ok(())
}

/// Compacts one database after the other, until the end is asked for. False: it was, and the row of the database in which
/// that happened says so.
///
/// Errors: the end was asked for, and no row says so.
fn each_database<T>(
    databases: impl Iterator<Item = T>,
    compact: &mut dyn FnMut(T) -> CompactRow,
    check: &dyn Fn() -> Result<()>,
    rows: &mut Vec<CompactRow>,
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
    let mut listing = objects.into_iter().map(|(name, size)| Entry { name, size, whole: true }).collect();
    let mut thinned = Thinned::default();
    jumps.check(&SystemClock);
    let trusted = !jumps.is_distrusted(SystemClock.now());
    let done = match keep.filter(|_| trusted) {
        Some(keep) => thin(&*store, &SystemClock, &keep, &mut listing, &mut thinned, &progress_line("thin out")),
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
    while cleanup.poll(SystemClock.now())?.is_pending() {
        interrupt::check()?;
        store.wait(POLL_INTERVAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// What two databases and their root say, if the signal comes in the n-th piece of work and ends it or does not.
    fn told(signal_in: u32, breaks_off: bool) -> (usize, bool) {
        let signalled = Cell::new(false);
        let stopped = || Error::new(Kind::Database, "stopped by signal 15");
        let check = || if signalled.get() { Err(stopped()) } else { Ok(()) };
        let mut compact = |database: u32| {
            signalled.set(database == signal_in);
            let done = if breaks_off { check() } else { Ok(()) };
            CompactRow {
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
    fn what_fails_at_a_root_is_told_in_the_row_of_its_database() {
        let row = |replica: &str| CompactRow {
            replica: replica.to_string(),
            done: Ok(Done::Compacted(MaintenanceResult::default(), Thinned::default())),
        };
        let failed = |rows: &[CompactRow]| rows.iter().map(|row| row.done.is_err()).collect::<Vec<_>>();
        let error = || Error::new(Kind::StoreRefused, "it is a copy");
        let mut rows = vec![row("a/b"), row("a")];
        add_failure(&mut rows, "a", error());
        assert_eq!(failed(&rows), [false, true]);
        // It has another error already, or is not there.
        add_failure(&mut rows, "a", error());
        add_failure(&mut rows, "c", error());
        assert_eq!(failed(&rows), [false, true, true, true]);
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

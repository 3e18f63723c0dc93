//! `litestream snapshot`: the state of now, and the end. For cron; also while `replicate` runs.
//!
//! What changed since the newest stored state is stored; the whole database where nothing is, where it is asked for, and where
//! a restore would read more than twice a snapshot.

mod by_replicator;
mod check;
mod rollback_journal;

use std::time::Duration;

use serde_json::json;

use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::drain::{DrainLimit, drain};
use crate::cmd::event_loop::EventLoop;
use crate::cmd::find_databases::{Found, Reported};
use crate::cmd::progress::ProgressLine;
use crate::cmd::{Context, ErrorCollector, ExitStatus, environment, heartbeat, of_database, print, signals, wiring};
use crate::config::{self, Database};
use crate::error::{Kind, Result};
use crate::log::{self, Level};
use crate::replica::clock_jump::ClockJumpDetector;
use crate::replica::maintenance::{Pass, run_one_pass};
use crate::replica::replicator::Replicator;
use crate::source;
use crate::store::{ConnectionPool, Store};

use by_replicator::request_from_replicator;
use check::check_restorable;
use rollback_journal::snapshot_rollback_journal;

/// How long the snapshot waits for a store that is silent, and for a running `replicate` that makes no progress.
const NO_PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);

pub fn run(ctx: &Context, options: &cli::SnapshotOptions) -> Result<ExitStatus> {
    if ctx.invocation.log_level.is_none() && config::log_level(&environment)?.is_none() {
        // Cron sends what is printed by mail: silence is success.
        log::set_level(Level::Warn);
    }
    let (found, heartbeat) = selected_databases(ctx, options)?;
    let databases = &found.databases;
    signals::install_shutdown_handlers();
    let mut pool = ConnectionPool::default();
    let mut rows = Vec::new();
    let mut errors = ErrorCollector::default();
    for database in databases {
        let done = snapshot_database(database, options, &mut pool);
        let done = if databases.len() > 1 { done.map_err(|e| of_database(e, &database.path)) } else { done };
        rows.push(row(database, &done));
        if let Err(error) = done {
            errors.push(error);
        }
        if signals::shutdown_signal().is_some() {
            break;
        }
    }
    let all = rows.len() == databases.len();
    // After the databases: their bucket may have been made just now.
    let others =
        if all { ctx.others(&options.selection, &found, options.create_bucket, &mut pool)? } else { Vec::new() };
    for (database, error) in others.into_iter().filter_map(Reported::problem) {
        rows.push(row(&database, &Err(error.clone())));
        errors.push(error);
    }
    if options.json {
        print::json_value(&rows.into())?;
    }
    errors.into_result()?;
    if let Some(heartbeat) = heartbeat.filter(|_| all) {
        heartbeat::send(&heartbeat);
    }
    Ok(0)
}

/// What is printed of one database. What is not known is null, so that a name always has one type.
fn row(database: &Database, done: &Result<StoredSnapshot>) -> serde_json::Value {
    let path = database.path.display().to_string();
    let mut row = match done {
        Ok(StoredSnapshot { position, bytes, full, .. }) => {
            let kind = if *full { "full" } else { "incremental" };
            json!({ "path": path, "position": position, "bytes": bytes, "kind": kind, "error": null })
        }
        Err(error) => {
            json!({ "path": path, "position": null, "bytes": null, "kind": null, "error": error.message() })
        }
    };
    if let Some(object) = row.as_object_mut().filter(|_| database.has_several_replicas()) {
        object.insert("replica".to_string(), json!(database.replica.url));
    }
    row
}

/// The databases, and where to report that all of them are stored.
fn selected_databases(ctx: &Context, options: &cli::SnapshotOptions) -> Result<(Found, Option<config::Heartbeat>)> {
    let mut found = ctx.selected_databases(&options.selection)?;
    if options.retention.is_some() {
        found.databases.iter_mut().for_each(|database| {
            (database.snapshot_retention, database.keep) = (options.retention, None);
        });
    }
    // A part of the configuration is not all that the heartbeat stands for.
    let heartbeat = match options.selection {
        cli::DatabaseSelection::Configured => ctx.config()?.heartbeat,
        _ => None,
    };
    Ok((found, heartbeat))
}

/// A snapshot that was stored.
struct StoredSnapshot {
    path: String,
    position: String,
    bytes: u64,
    /// The whole database.
    full: bool,
}

fn snapshot_database(
    database: &Database,
    asked: &cli::SnapshotOptions,
    pool: &mut ConnectionPool,
) -> Result<StoredSnapshot> {
    let options = wiring::source_options(database);
    let store = wiring::open_store(database, asked.create_bucket, pool)?;
    source::check(&database.path, &options)?;
    if let Some(done) = snapshot_rollback_journal(database, &options, asked, &store)? {
        if asked.enforce_retention {
            let mut unwatched = ClockJumpDetector::default();
            let pass = Pass { retention: database.snapshot_retention, keep: database.keep, ..Pass::default() };
            run_one_pass(&store, &done.path, pass, &mut unwatched, &SystemClock)?;
        }
        return Ok(done);
    }
    let mut settings = wiring::replicator_settings(database, false);
    (settings.force_snapshot, settings.snapshot_if_long) = (asked.full, true);
    // How often `replicate` takes one is its own business.
    settings.snapshot_interval = None;
    settings.keep_page_sums = true;
    settings.source.enable_wal = false;
    settings.enforce_retention = asked.enforce_retention;
    settings.allow_other_database = asked.allow_other_database;
    settings.allow_unencrypted = asked.allow_unencrypted;
    let target = wiring::replica_target(database, store.clone());
    let mut replicator = Replicator::with_replicas(settings, vec![target], SystemClock.now());
    match replicator.check_database() {
        Ok(()) => snapshot_directly(database, &*store, replicator),
        Err(error) if error.kind() == Kind::Locked => {
            if asked.retention.is_some() {
                return Err(error.context("option -retention").with_hint(
                    "the running replicate deletes by its own retention: set snapshot.retention in its configuration",
                ));
            }
            request_from_replicator(database, &store, replicator, asked.enforce_retention)
        }
        Err(error) => Err(error),
    }
}

/// Nobody follows the database: what is committed and not stored goes first, so that the generation can go on.
fn snapshot_directly(database: &Database, store: &dyn Store, replicator: Replicator) -> Result<StoredSnapshot> {
    let mut event_loop = EventLoop::new(vec![replicator], database.monitor_interval);
    let mut progress = None;
    let mut watch = |event_loop: &EventLoop| {
        let status = event_loop.replicators.first().map(|replicator| replicator.status(&SystemClock));
        if let Some(snapshot) = status.and_then(|status| status.snapshot) {
            let begin = || ProgressLine::new("snapshot", snapshot.total, SystemClock.now());
            progress.get_or_insert_with(begin).update(snapshot.read, SystemClock.now());
        }
    };
    drain(&mut event_loop, DrainLimit::Idle(NO_PROGRESS_TIMEOUT), &mut watch)?;
    drop(progress);
    let status = event_loop.replicators.first().map(|replicator| replicator.status(&SystemClock)).unwrap_or_default();
    if let Some(stored) = status.stored {
        // The end comes beside an application that never pauses: a later commit of it may be stored, and its answer on the way.
        check_restorable(&database.path, store, &stored, true)?;
    }
    let full = status.snapshot_stored.is_some();
    let position = status.snapshot_stored.or(status.stored).map_or_else(String::new, |position| position.to_string());
    Ok(StoredSnapshot { path: database.path.display().to_string(), position, bytes: status.bytes, full })
}

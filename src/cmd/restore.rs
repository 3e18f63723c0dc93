//! `litestream restore`: a database file out of a store, whole and verified, or nothing.

use std::path::Path;
use std::time::Duration;

use crate::cli::{self, ReplicaRef, RestoreSource, RestoreTarget};
use crate::clock::Clock;
use crate::cmd::clock::{SystemClock, zone_offset};
use crate::cmd::find_replicas::with_stored_hint;
use crate::cmd::print::{self, Table};
use crate::cmd::restore_one::{Outcome, request, restore_one};
use crate::cmd::{Context, ExitStatus, connect, environment, restore_all, signals, with_signal_status};
use crate::config::{self, Replica};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::moment::Moment;
use crate::format::plan::Plan;
use crate::log;
use crate::restore::apply::RestoreResult;
use crate::restore::standby::{self, Followed};
use crate::store::ConnectionPool;

pub fn run(given: &Context, options: &cli::Restore) -> Result<ExitStatus> {
    // The file that is being made is removed before the end: nobody is to take it for a database.
    signals::install_shutdown_handlers();
    with_signal_status(restore(given, options))
}

fn restore(given: &Context, options: &cli::Restore) -> Result<ExitStatus> {
    // One moment for all: "an hour ago" does not move on from database to database.
    let options = &cli::Restore { target: at_a_moment(&options.target)?, ..options.clone() };
    let RestoreSource::One(source) = &options.source else { return restore_all::run(given, options) };
    let mut pool = ConnectionPool::default();
    let (replica, database) = match source {
        ReplicaRef::Database(path) => {
            let database = given.config()?.find(path, &environment)?;
            database.replicas.iter().try_for_each(config::check_files::replica)?;
            (given.newest_replica(&database, &mut pool)?, Some(database.path))
        }
        ReplicaRef::Replica(_) => (given.replica(source)?.0, None),
    };
    let output = options.output.clone().or(database.clone());
    if let (true, Some(output)) = (options.promote, &output) {
        return promote(&replica, options, database.as_deref(), output, &mut pool);
    }
    if let (Some(interval), Some(output)) = (options.follow, &output) {
        return follow_standby(&replica, options, database.as_deref(), output, interval, &mut pool);
    }
    let outcome = restore_one(&replica, options, database.as_deref(), output.as_deref(), &mut pool);
    match outcome.map_err(|error| with_stored_hint(error, &replica, &mut pool))? {
        Outcome::Planned(plan) => dry_run(&plan, output.as_deref(), options)?,
        outcome if options.json => print::json_value(&outcome.json(output.as_deref()))?,
        Outcome::Skipped(_) => {}
        outcome if options.quiet => drop(outcome),
        outcome => print::text(&outcome.line(&output.unwrap_or_default().display().to_string()))?,
    }
    Ok(0)
}

/// Counted from now, where it is a time ago.
fn at_a_moment(until: &RestoreTarget) -> Result<RestoreTarget> {
    let RestoreTarget::Time(moment) = until else { return Ok(until.clone()) };
    let moment = moment.resolve(SystemClock.utc_now(), zone_offset).context(|| "option -timestamp")?;
    Ok(RestoreTarget::Time(Moment::At(moment)))
}

fn follow_standby(
    replica: &Replica,
    options: &cli::Restore,
    database: Option<&Path>,
    output: &Path,
    interval: Duration,
    pool: &mut ConnectionPool,
) -> Result<ExitStatus> {
    let wanted = request(options, database)?;
    if options.if_db_not_exists && output.exists() {
        log::info("database exists, nothing to do").field("path", output.display()).emit();
        return Ok(0);
    }
    let store = connect(replica, pool)?;
    let source = database.map_or_else(|| replica.url.clone(), |database| database.display().to_string());
    let mut report = |restored: &RestoreResult, took: Duration| match options.quiet {
        true => Ok(()),
        false => report(output, *restored, took, options.json),
    };
    let followed = Followed {
        store: &*store,
        clock: &SystemClock,
        url: &replica.url,
        source: &source,
        wanted: &wanted,
        output,
        interval,
    };
    match standby::follow(&followed, &mut report) {
        Err(error) if options.if_replica_exists && matches!(error.kind(), Kind::NothingToRestore | Kind::NotFound) => {
            log::info("no backup, nothing to do").field("replica", &replica.url).field("detail", error).emit();
            Ok(0)
        }
        followed => followed.map(|()| 0),
    }
}

/// Ends the following for good.
fn promote(
    replica: &Replica,
    options: &cli::Restore,
    database: Option<&Path>,
    output: &Path,
    pool: &mut ConnectionPool,
) -> Result<ExitStatus> {
    let (wanted, begun) = (request(options, database)?, SystemClock.now());
    let store = connect(replica, pool)?;
    let source = database.map_or_else(|| replica.url.clone(), |database| database.display().to_string());
    let followed = Followed {
        store: &*store,
        clock: &SystemClock,
        url: &replica.url,
        source: &source,
        wanted: &wanted,
        output,
        interval: Duration::ZERO,
    };
    let Some(promoted) = standby::promote(&followed)? else {
        let what = format!("output {}: expected a copy that restore -f made of {source}, found none", output.display());
        return Err(
            Error::new(Kind::Database, what).with_hint("pass the path and the replica that restore -f was given")
        );
    };
    if !options.quiet {
        report(output, promoted, begun.elapsed(), options.json)?;
    }
    Ok(0)
}

/// One line for each state that a standby shows.
fn report(output: &Path, result: RestoreResult, took: Duration, as_json: bool) -> Result<()> {
    let outcome = Outcome::Restored { result, seconds: took.as_secs_f64() };
    match as_json {
        true => print::json_value(&outcome.json(Some(output))),
        false => print::text(&outcome.line(&output.display().to_string())),
    }
}

/// Says what would be read, and reads none of it.
fn dry_run(plan: &Plan, output: Option<&Path>, options: &cli::Restore) -> Result<()> {
    let mut table = Table::new(&["object", "size"]);
    for (key, size) in plan.objects() {
        table.row([key.to_string().into(), size.into()]);
    }
    if let (Some(output), false) = (output, options.json) {
        print::text(&Outcome::Planned(plan.clone()).line(&output.display().to_string()))?;
    }
    table.print(options.json)
}

//! `litestream restore`: a database file out of a store, whole and verified, or nothing.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::cli::{self, ReplicaRef, RestoreSource, RestoreTarget};
use crate::clock::Clock;
use crate::cmd::clock::{SystemClock, zone_offset};
use crate::cmd::find_replicas::with_stored_hint;
use crate::cmd::follow::Following;
use crate::cmd::follow_report::Reporter;
use crate::cmd::print::{self, Table};
use crate::cmd::restore_items::{Item, wanted};
use crate::cmd::restore_one::{Outcome, request, restore_one};
use crate::cmd::{Context, ExitStatus, connect, environment, restore_all, signals, with_signal_status};
use crate::config::{self, Config};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::moment::Moment;
use crate::format::plan::Plan;
use crate::log;
use crate::restore::standby;
use crate::store::{ConnectionPool, Store};

pub fn run(ctx: &Context, options: &cli::RestoreOptions) -> Result<ExitStatus> {
    // The file that is being made is removed before the end: nobody is to take it for a database.
    signals::install_shutdown_handlers();
    with_signal_status(restore(ctx, options))
}

fn restore(ctx: &Context, options: &cli::RestoreOptions) -> Result<ExitStatus> {
    // One moment for all: "an hour ago" does not move on from database to database.
    let options = &cli::RestoreOptions { target: at_a_moment(&options.target)?, ..options.clone() };
    let RestoreSource::One(source) = &options.source else {
        return match options.follow {
            Some(interval) => follow_many(ctx, options, interval),
            None => restore_all::run(ctx, options),
        };
    };
    let mut pool = ConnectionPool::default();
    let item = match source {
        ReplicaRef::Database(path) => {
            let database = ctx.config()?.find(path, &environment)?;
            database.replicas.iter().try_for_each(config::check_files::replica)?;
            let output = options.output.clone().unwrap_or_else(|| database.path.clone());
            Item::of_database(&database, ctx.newest_replica(&database, &mut pool)?, output)
        }
        ReplicaRef::Replica(_) => Item::of_replica(ctx.replica(source)?.0, options.output.clone()),
    };
    let Item { database, replica, output, .. } = &item;
    if let (Some(output), true) = (output, options.promote || options.follow.is_some()) {
        return match options.follow {
            Some(interval) => follow(ctx, options, &item, output, interval, pool),
            None => promote(options, &item, output, &mut pool),
        };
    }
    let outcome = restore_one(replica, options, database.as_deref(), output.as_deref(), &mut pool);
    match outcome.map_err(|error| with_stored_hint(error, replica, &mut pool))? {
        Outcome::Planned(plan) => dry_run(&plan, output.as_deref(), options)?,
        outcome if options.json => print::json_value(&outcome.json(output.as_deref()))?,
        Outcome::Skipped(_) => {}
        outcome if options.quiet => drop(outcome),
        outcome => print::text(&outcome.line(&output.clone().unwrap_or_default().display().to_string()))?,
    }
    Ok(0)
}

/// Counted from now, where it is a time ago.
fn at_a_moment(until: &RestoreTarget) -> Result<RestoreTarget> {
    let RestoreTarget::Time(moment) = until else { return Ok(until.clone()) };
    let moment = moment.resolve(SystemClock.utc_now(), zone_offset).with_context(|| "option -timestamp")?;
    Ok(RestoreTarget::Time(Moment::At(moment)))
}

/// The configuration, for where to report: none where a URL alone was given.
fn reporting(ctx: &Context, options: &cli::RestoreOptions) -> Result<Option<Config>> {
    let by_url = matches!(&options.source, RestoreSource::Below(_) | RestoreSource::One(ReplicaRef::Replica(_)));
    (!by_url).then(|| ctx.config()).transpose()
}

fn follow(
    ctx: &Context,
    options: &cli::RestoreOptions,
    item: &Item,
    output: &Path,
    interval: Duration,
    mut pool: ConnectionPool,
) -> Result<ExitStatus> {
    if options.if_db_not_exists && output.exists() {
        log::info("database exists, nothing to do").field("path", output.display()).emit();
        return Ok(0);
    }
    let reporter = Reporter::new(reporting(ctx, options)?.as_ref());
    let store = connect(&item.replica, &mut pool)?;
    match Following::new(options, interval, pool, reporter).run_one(item, &store) {
        Err(error) if options.if_replica_exists && matches!(error.kind(), Kind::NothingToRestore | Kind::NotFound) => {
            log::info("no backup, nothing to do").field("replica", &item.replica.url).field("detail", error).emit();
            Ok(0)
        }
        followed => followed,
    }
}

fn follow_many(ctx: &Context, options: &cli::RestoreOptions, interval: Duration) -> Result<ExitStatus> {
    let mut pool = ConnectionPool::default();
    let reporter = Reporter::new(reporting(ctx, options)?.as_ref());
    let wanted = wanted(ctx, options, &mut pool)?;
    Following::new(options, interval, pool, reporter).run_many(wanted)
}

/// Ends the following for good.
fn promote(options: &cli::RestoreOptions, item: &Item, output: &Path, pool: &mut ConnectionPool) -> Result<ExitStatus> {
    let begun = SystemClock.now();
    let store: Rc<dyn Store> = connect(&item.replica, pool)?;
    let wanted = request(options, item.database.as_deref())?;
    let Some(promoted) = standby::promote(item.followed(store, wanted, output))? else {
        let source = item.source();
        let what = format!("output {}: expected a copy that restore -f made of {source}, found none", output.display());
        return Err(
            Error::new(Kind::Database, what).with_hint("pass the path and the replica that restore -f was given")
        );
    };
    Reporter::published(&output.display().to_string(), &promoted, begun.elapsed(), options.quiet, options.json)?;
    Ok(0)
}

/// Says what would be read, and reads none of it.
fn dry_run(plan: &Plan, output: Option<&Path>, options: &cli::RestoreOptions) -> Result<()> {
    let mut table = Table::new(&["object", "size"]);
    for (key, size) in plan.objects() {
        table.row([key.to_string().into(), size.into()]);
    }
    if let (Some(output), false) = (output, options.json) {
        print::text(&Outcome::Planned(plan.clone()).line(&output.display().to_string()))?;
    }
    table.print(options.json)
}

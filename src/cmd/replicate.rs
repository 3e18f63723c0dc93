//! `litestream replicate`: replicates databases until it is stopped, or stores once what they hold.

mod daemon;
mod reports;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::drain::{DrainLimit, drain};
use crate::cmd::exec::ChildCommand;
use crate::cmd::find_databases::{Found, Reported};
use crate::cmd::service::ServiceRequests;
use crate::cmd::supervisor::Supervisor;
use crate::cmd::{Context, ErrorCollector, ExitStatus, find_databases, of_database, restore_missing, signals, wiring};
use crate::config::{self, Config, Database, Replica};
use crate::error::{Kind, Result};
use crate::log;
use crate::replica::replicator::Replicator;
use crate::store::StoreTarget;

use daemon::Daemon;

pub fn run(ctx: &Context, options: &cli::ReplicateOptions) -> Result<ExitStatus> {
    let config = read_config(ctx, options)?;
    let found = find_databases::find_databases(&config)?;
    let databases = &found.databases;
    signals::install_shutdown_handlers();
    let tick = databases.iter().map(|database| database.monitor_interval).min();
    let tick = tick.unwrap_or(config::DEFAULT_MONITOR_INTERVAL);
    let timeout = config.shutdown_sync_timeout;
    let mut supervisor = Supervisor::new(tick, timeout, options.create_bucket);
    if options.once {
        return once(&mut supervisor, &config, &found, options);
    }
    let exec = options.exec.clone().or(config.exec.clone());
    let service = if config.service { ServiceRequests::start(&mut supervisor) } else { None };
    start_all(&mut supervisor, databases, options, exec.is_some())?;
    supervisor.set_unusable(found.unusable);
    drop(found.databases);
    signals::install_hangup_handler();
    let exec = exec.as_deref().map(ChildCommand::start).transpose()?;
    let mut daemon = Daemon::new(config, supervisor, exec, service);
    let ended = daemon.run_until_stopped(ctx, options);
    let stored = daemon.stop(timeout);
    // A run that a database has ended says so already.
    let complete = if ended.is_ok() { daemon.require_all_running() } else { Ok(()) };
    match (ended, stored.and(complete)) {
        // The status tells of the command's failure, or the error of the database that failed first; a line tells of this one.
        (ended @ (Err(_) | Ok(1..)), Err(error)) => {
            log::error("stopped with unstored commits").error(&error).emit();
            ended
        }
        (ended, stored) => ended.and_then(|status| stored.map(|()| status)),
    }
}

/// Starts each of them. An error that concerns one database alone puts that one off: it does not stop the others.
///
/// Errors: what is about more than one; of kind `Locked` if other processes have them all.
fn start_all(
    supervisor: &mut Supervisor,
    databases: &[Database],
    options: &cli::ReplicateOptions,
    exec: bool,
) -> Result<()> {
    let mut put_off = Vec::new();
    for database in databases {
        match start_database(supervisor, database, options, exec) {
            Err(error) if databases.len() > 1 && error.kind().concerns_one_database() => {
                put_off.push((database, error));
            }
            started => started?,
        }
    }
    if put_off.len() == databases.len() && put_off.iter().all(|(_, error)| error.kind() == Kind::Locked) {
        return put_off.into_iter().next().map_or(Ok(()), |(_, error)| Err(error));
    }
    put_off.iter().for_each(|(database, error)| supervisor.add_later(database, error));
    Ok(())
}

/// Stores what each of them holds. One that fails does not keep the others from it.
fn once(
    supervisor: &mut Supervisor,
    config: &Config,
    found: &Found,
    options: &cli::ReplicateOptions,
) -> Result<ExitStatus> {
    let mut errors = ErrorCollector::default();
    let databases = &found.databases;
    for database in databases {
        if let Err(error) = start_database(supervisor, database, options, false) {
            errors.push(if databases.len() > 1 { of_database(error, &database.path) } else { error });
        }
    }
    if let Err(error) = drain(&mut supervisor.event_loop, DrainLimit::Idle(config.shutdown_sync_timeout), &mut |_| ()) {
        errors.push(error);
    }
    // After the databases: their bucket may have been made just now.
    let others = found.others(config, options.create_bucket, supervisor.pool());
    others.into_iter().filter_map(Reported::problem).for_each(|(_, error)| errors.push(error));
    errors.into_result().map(|()| 0)
}

/// The configuration file, or one that comes to the database and replica of the command line.
fn read_config(ctx: &Context, options: &cli::ReplicateOptions) -> Result<Config> {
    let mut config = match &options.pair {
        Some(pair) => Config::single_database(ctx.explicit_database(pair)?),
        None => ctx.config()?,
    };
    if options.pair.is_none() {
        config::check_files::config(&config)?;
    }
    for database in &mut config.dbs {
        database.restore_if_missing |= options.restore_if_missing;
    }
    Ok(config)
}

/// Starts one database: it is restored if that is asked for, and refused if it can never be followed.
fn start_database(
    supervisor: &mut Supervisor,
    database: &Database,
    options: &cli::ReplicateOptions,
    exec: bool,
) -> Result<()> {
    if restore_missing::is_needed(database) {
        restore_missing::restore_missing(database, options.create_bucket, supervisor.pool(), Arc::default())?;
    }
    if !options.once {
        warn_of_one_disk(database);
    }
    let mut settings = wiring::replicator_settings(database, !options.once);
    settings.force_snapshot = options.force_snapshot;
    settings.enforce_retention = options.enforce_retention;
    (settings.keep_note, settings.keep_page_sums) = (true, true);
    settings.allow_other_database = options.allow_other_database;
    settings.allow_unencrypted = options.allow_unencrypted;
    settings.takeover = options.takeover;
    let mut replicator =
        wiring::new_replicator(database, settings, options.create_bucket, supervisor.pool(), SystemClock.now())?;
    let patient = if options.pair.is_some() { exec } else { !options.once };
    check_database(&mut replicator, patient)?;
    supervisor.add(database, replicator);
    Ok(())
}

/// A replica on the disk of its database is lost with it.
fn warn_of_one_disk(database: &Database) {
    database.replicas.iter().for_each(|replica| warn_of_disk(database, replica));
}

fn warn_of_disk(database: &Database, replica: &Replica) {
    let StoreTarget::Dir(directory) = &replica.target else { return };
    let device = |path: &Path| path.ancestors().find_map(|path| std::fs::metadata(path).ok()).map(|found| found.dev());
    if device(directory).is_some() && device(directory) == device(&database.path) {
        log::warn("the replica is on the same file system as its database")
            .field("db", database.path.display())
            .field("replica", directory.display())
            .emit();
    }
}

/// A database that can never be followed ends the program before anything is contacted. One that is not there yet is
/// waited for where that makes sense: a service, or a child that will make it.
fn check_database(replicator: &mut Replicator, patient: bool) -> Result<()> {
    match replicator.check_database() {
        Err(error) if error.kind() == Kind::DatabaseNotReady && patient => {
            log::warn("waiting for the database").field("db", replicator.name()).error(&error).emit();
            Ok(())
        }
        other => other,
    }
}

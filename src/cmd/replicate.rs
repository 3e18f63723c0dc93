//! `litestream replicate`: follows databases until it is told to stop, or stores once what they hold.

use std::time::Duration;

use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::System;
use crate::cmd::exec::Exec;
use crate::cmd::poll::Poll;
use crate::cmd::{Given, Status, files, service, signals};
use crate::config::{self, Database};
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::replica::follow::Follower;
use crate::store::Pool;

/// Between two lines that say where each database stands.
const REPORT: Duration = Duration::from_secs(60);

/// What the command line and the configuration ask for.
struct Plan {
    databases: Vec<Database>,
    exec: Option<Vec<String>>,
    shutdown_timeout: Duration,
    /// Wait for databases and stores that are not there yet.
    patient_with_databases: bool,
}

pub fn run(given: &Given, options: &cli::Replicate) -> Result<Status> {
    let plan = plan(given, options)?;
    signals::install();
    let mut pool = Pool::default();
    let mut followers = Vec::new();
    for database in &plan.databases {
        let mut settings = service::settings(database, !options.once);
        settings.force_snapshot = options.force_snapshot;
        let mut follower = service::follower(database, settings, options.create_bucket, &mut pool, System.now())?;
        check(&mut follower, plan.patient_with_databases)?;
        log::info("replicating").field("db", follower.name()).field("to", &database.replica.url).emit();
        followers.push(follower);
    }
    let tick = plan.databases.iter().map(|database| database.monitor_interval).min();
    let mut poll = Poll::new(followers, tick.unwrap_or(config::DEFAULT_MONITOR_INTERVAL));
    let exec = plan.exec.as_deref().map(Exec::start).transpose()?;
    if options.once {
        finish(&mut poll, Patience::WithoutProgress(plan.shutdown_timeout), &mut |_| ())?;
        return Ok(0);
    }
    let status = follow(&mut poll, exec)?;
    match finish(&mut poll, Patience::InAll(plan.shutdown_timeout), &mut |_| ()) {
        // The child's trouble is told by its status, ours by a line.
        Err(error) if status != 0 => {
            log::error("not all is stored").cause(&error).emit();
            Ok(status)
        }
        finished => finished.map(|()| status),
    }
}

fn plan(given: &Given, options: &cli::Replicate) -> Result<Plan> {
    if let Some(pair) = &options.pair {
        return Ok(Plan {
            databases: vec![given.pair(pair)?],
            exec: options.exec.clone(),
            shutdown_timeout: config::DEFAULT_SHUTDOWN_SYNC_TIMEOUT,
            patient_with_databases: options.exec.is_some(),
        });
    }
    let config = given.config()?;
    config::check::config(&config)?;
    Ok(Plan {
        databases: files::expand(&config)?,
        exec: options.exec.clone().or(config.exec.clone()),
        shutdown_timeout: config.shutdown_sync_timeout,
        patient_with_databases: !options.once,
    })
}

/// A database that can never be followed ends the program before anything is contacted. One that is not there yet is
/// waited for where that makes sense: a service, or a child that will make it.
fn check(follower: &mut Follower, patient: bool) -> Result<()> {
    match follower.check_database() {
        Err(error) if error.kind() == Kind::DatabaseNotReady && patient => {
            log::warn("waiting for the database").field("db", follower.name()).cause(&error).emit();
            Ok(())
        }
        other => other,
    }
}

/// Follows until a signal comes or the child ends; the status to end with.
fn follow(poll: &mut Poll, mut exec: Option<Exec>) -> Result<Status> {
    let mut report = System.now() + REPORT;
    let mut passed_on = false;
    loop {
        poll.turn(System.now() + REPORT)?;
        if let Some(exec) = &mut exec
            && let Some(status) = exec.ended()?
        {
            log::info("command ended").field("status", status).emit();
            return Ok(status);
        }
        match (signals::received(), &exec) {
            (Some(signal), Some(exec)) if !passed_on => {
                exec.signal(signal);
                passed_on = true;
            }
            (Some(_), None) => return Ok(0),
            _ => {}
        }
        if System.now() >= report {
            report = System.now() + REPORT;
            poll.followers.iter().for_each(|follower| say(follower, "replicating"));
        }
    }
}

/// How long the end may take.
#[derive(Clone, Copy)]
pub enum Patience {
    InAll(Duration),
    /// As long as it takes, if only something moves.
    WithoutProgress(Duration),
}

/// Stores what is committed; `watch` is told after each turn.
///
/// Errors: of kind `Unreachable` if it could not all be stored in time.
pub fn finish(poll: &mut Poll, patience: Patience, watch: &mut dyn FnMut(&Poll)) -> Result<()> {
    poll.close();
    let (Patience::InAll(timeout) | Patience::WithoutProgress(timeout)) = patience;
    let mut deadline = System.now() + timeout;
    let mut moved = progress(poll);
    loop {
        poll.turn(deadline)?;
        watch(poll);
        if poll.is_settled() {
            poll.followers.iter().for_each(|follower| say(follower, "stored"));
            return Ok(());
        }
        if let Patience::WithoutProgress(_) = patience {
            if let Some(signal) = signals::received() {
                return Err(Error::new(Kind::Unreachable, format!("stopped by signal {signal} before all was stored")));
            }
            // An attempt that fails at the same place each time is no progress.
            if progress(poll) > moved {
                moved = progress(poll);
                deadline = System.now() + timeout;
            }
        }
        if System.now() >= deadline {
            return Err(unfinished(poll, timeout));
        }
    }
}

/// A number that changes whenever something moves.
fn progress(poll: &Poll) -> u64 {
    let moved = |follower: &Follower| {
        let status = follower.status(&System);
        status.bytes + status.objects + status.snapshot.map_or(0, |snapshot| snapshot.read + snapshot.stored)
    };
    poll.followers.iter().map(moved).sum()
}

fn unfinished(poll: &Poll, timeout: Duration) -> Error {
    let behind: Vec<&Follower> = poll.followers.iter().filter(|follower| !follower.is_settled()).collect();
    behind.iter().for_each(|follower| say(follower, "not all is stored"));
    let names: Vec<&str> = behind.iter().map(|follower| follower.name()).collect();
    let causes = behind.iter().find_map(|follower| follower.status(&System).trouble);
    let cause = causes.map(|cause| format!(": {cause}")).unwrap_or_default();
    let what = format!("{}: not all was stored within {}s{cause}", names.join(", "), timeout.as_secs());
    Error::new(Kind::Unreachable, what).with_hint(
        "what is missing is still in the database; the next run stores it. shutdown-sync-timeout sets the time",
    )
}

/// One line about one database.
fn say(follower: &Follower, message: &str) {
    let status = follower.status(&System);
    let position = status.stored.map_or_else(|| "none".to_string(), |position| position.to_string());
    let mut line = log::info(message)
        .field("db", follower.name())
        .field("position", position)
        .field("lag", format!("{:.1}s", status.lag.as_secs_f64()))
        .field("objects", status.objects)
        .field("bytes", status.bytes);
    if let Some(snapshot) = status.snapshot {
        line = line.field("snapshot", format!("{}/{}", snapshot.read, snapshot.total));
    }
    if let Some(trouble) = status.trouble {
        line = line.field("trouble", trouble);
    }
    line.emit();
}

//! `litestream replicate`: follows databases until it is told to stop, or stores once what they hold.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::event_loop::EventLoop;
use crate::cmd::exec::ChildCommand;
use crate::cmd::heartbeat::HeartbeatSender;
use crate::cmd::notify::Notifier;
use crate::cmd::service::Service;
use crate::cmd::supervisor::Supervisor;
use crate::cmd::traffic_log::TrafficLog;
use crate::cmd::{
    Context, ErrorCollector, ExitStatus, environment, find_databases, metrics, restore_missing, signals, wiring,
};
use crate::config::start_only::start_only_keys;
use crate::config::{self, Config, Database, Replica};
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::log::problem_log::lag_text;
use crate::log::target_name::TargetName;
use crate::replica::replicator::{Replicator, ReplicatorStatus};
use crate::store::Target;

/// Between two lines that say where each database stands.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Between two looks for files that came or went in a watched directory.
const RESCAN_INTERVAL: Duration = Duration::from_secs(1);
/// Between two metrics files: the node exporter is asked four times a minute at most.
const METRICS_INTERVAL: Duration = Duration::from_secs(10);
/// Between two looks at all databases together, for systemd's status and the heartbeat.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

pub fn run(given: &Context, options: &cli::Replicate) -> Result<ExitStatus> {
    let config = config(given, options)?;
    let databases = find_databases::find_databases(&config)?;
    signals::install_shutdown_handlers();
    let tick = databases.iter().map(|database| database.monitor_interval).min();
    let tick = tick.unwrap_or(config::DEFAULT_MONITOR_INTERVAL);
    let mut fleet = Supervisor::new(tick, config.shutdown_sync_timeout, options.create_bucket);
    let exec = if options.once { None } else { options.exec.clone().or(config.exec.clone()) };
    if options.once {
        return once(&mut fleet, &databases, options, config.shutdown_sync_timeout);
    }
    let service = if config.service { Service::start(&mut fleet) } else { None };
    start_all(&mut fleet, &databases, options, exec.is_some())?;
    signals::install_hangup_handler();
    let exec = exec.as_deref().map(ChildCommand::start).transpose()?;
    let timeout = config.shutdown_sync_timeout;
    let mut run = Daemon::new(config, fleet, exec, service);
    run.notifier.send("READY=1");
    let followed = run.run_until_stopped(given, options);
    run.notifier.send("STOPPING=1");
    let Daemon { supervisor: mut fleet, mut notifier, mut traffic, service, .. } = run;
    if let Some(service) = service {
        service.stop(&mut fleet);
    }
    // Also where a database has ended the run: the others are stored as far as they have come.
    let finished = drain(&mut fleet.event_loop, DrainLimit::Total(timeout), &mut |_| notifier.alive(SystemClock.now()));
    traffic.log(&fleet.traffic());
    // A run that a database has ended says so already.
    let complete = if followed.is_ok() { fleet.require_all_running() } else { Ok(()) };
    let finished = finished.and(complete);
    match (followed, finished) {
        // The child's trouble is told by its status, that of the database which failed first by its error; ours by a line.
        (followed @ (Err(_) | Ok(1..)), Err(error)) => {
            log::error("stopped with unstored commits").error(&error).emit();
            followed
        }
        (followed, finished) => followed.and_then(|status| finished.map(|()| status)),
    }
}

/// Begins with each of them. What is about one database alone puts that one off: whoever owns it stops no other.
///
/// Errors: what is about more than one; of kind `Locked` if other processes have them all.
fn start_all(fleet: &mut Supervisor, databases: &[Database], options: &cli::Replicate, exec: bool) -> Result<()> {
    let mut put_off = Vec::new();
    for database in databases {
        match start_database(fleet, database, options, exec) {
            Err(error) if databases.len() > 1 && error.kind().concerns_one_database() => {
                put_off.push((database, error));
            }
            begun => begun?,
        }
    }
    if put_off.len() == databases.len() && put_off.iter().all(|(_, error)| error.kind() == Kind::Locked) {
        return put_off.into_iter().next().map_or(Ok(()), |(_, error)| Err(error));
    }
    put_off.iter().for_each(|(database, error)| fleet.add_later(database, error));
    Ok(())
}

/// Stores what each of them holds. One that fails does not keep the others from it.
fn once(
    fleet: &mut Supervisor,
    databases: &[Database],
    options: &cli::Replicate,
    timeout: Duration,
) -> Result<ExitStatus> {
    let mut errors = ErrorCollector::default();
    for database in databases {
        if let Err(error) = start_database(fleet, database, options, false) {
            errors.push(if databases.len() > 1 { of_database(error, &database.path) } else { error });
        }
    }
    if let Err(error) = drain(&mut fleet.event_loop, DrainLimit::Idle(timeout), &mut |_| ()) {
        errors.push(error);
    }
    errors.into_result().map(|()| 0)
}

/// The configuration file, or one that comes to the database and replica of the command line.
fn config(given: &Context, options: &cli::Replicate) -> Result<Config> {
    let mut config = match &options.pair {
        Some(pair) => Config::single_database(given.explicit_database(pair)?),
        None => given.config()?,
    };
    if options.pair.is_none() {
        config::check_files::config(&config)?;
    }
    for database in &mut config.dbs {
        database.restore_if_missing |= options.restore_if_missing;
    }
    Ok(config)
}

/// Begins with one database: it is restored if that is asked for, and refused if it can never be followed.
fn start_database(fleet: &mut Supervisor, database: &Database, options: &cli::Replicate, exec: bool) -> Result<()> {
    if restore_missing::is_needed(database) {
        restore_missing::restore_missing(database, options.create_bucket, fleet.pool(), Arc::default())?;
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
    let mut follower =
        wiring::new_replicator(database, settings, options.create_bucket, fleet.pool(), SystemClock.now())?;
    let patient = if options.pair.is_some() { exec } else { !options.once };
    check_database(&mut follower, patient)?;
    fleet.add(database, follower);
    Ok(())
}

/// A replica on the disk of its database is lost with it.
fn warn_of_one_disk(database: &Database) {
    database.replicas.iter().for_each(|replica| warn_of_disk(database, replica));
}

fn warn_of_disk(database: &Database, replica: &Replica) {
    let Target::Dir(directory) = &replica.target else { return };
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
fn check_database(follower: &mut Replicator, patient: bool) -> Result<()> {
    match follower.check_database() {
        Err(error) if error.kind() == Kind::DatabaseNotReady && patient => {
            log::warn("waiting for the database").field("db", follower.name()).error(&error).emit();
            Ok(())
        }
        other => other,
    }
}

/// All that goes on while databases are followed.
struct Daemon {
    config: Config,
    supervisor: Supervisor,
    exec: Option<ChildCommand>,
    /// None where nobody may ask for anything.
    service: Option<Service>,
    notifier: Notifier,
    heartbeat: Option<HeartbeatSender>,
    schedule: Schedule,
    traffic: TrafficLog,
    /// What was wrong with the metrics file or a directory when it was last said.
    last_warning: Option<String>,
}

/// When each of the things that are done now and then is done next.
struct Schedule {
    report: Instant,
    rescan: Instant,
    metrics: Instant,
    status: Instant,
}

impl Daemon {
    fn new(config: Config, fleet: Supervisor, exec: Option<ChildCommand>, service: Option<Service>) -> Daemon {
        let now = SystemClock.now();
        let due = Schedule { report: now + REPORT_INTERVAL, rescan: now + RESCAN_INTERVAL, metrics: now, status: now };
        let heartbeat = config.heartbeat.clone().map(|heartbeat| HeartbeatSender::new(heartbeat, now));
        let notifier = Notifier::new(&environment);
        Daemon {
            config,
            supervisor: fleet,
            exec,
            service,
            notifier,
            heartbeat,
            schedule: due,
            traffic: TrafficLog::new(now),
            last_warning: None,
        }
    }

    /// Follows until a signal comes or the child ends; the status to end with.
    fn run_until_stopped(&mut self, given: &Context, options: &cli::Replicate) -> Result<ExitStatus> {
        loop {
            let now = SystemClock.now();
            let mut until = self.notifier.next().unwrap_or(now + REPORT_INTERVAL).min(now + RESCAN_INTERVAL);
            if self.exec.is_some() {
                // A child's end has no other herald.
                until = until.min(now + config::DEFAULT_MONITOR_INTERVAL);
            }
            let asked = self.service.as_ref().and_then(|service| service.next(now));
            until = asked.map_or(until, |soon| until.min(soon));
            if let Err(error) = self.supervisor.step(until) {
                self.terminate_child();
                return Err(error);
            }
            if let Some(service) = &mut self.service {
                service.poll(SystemClock.now(), &mut self.supervisor);
            }
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            self.notifier.alive(SystemClock.now());
            if signals::take_hangup() {
                self.reload(given, options);
            }
            self.run_periodic_tasks();
        }
    }

    /// The status to end with, if it is time.
    fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.exec {
            Some(exec) => exec.poll(),
            None => Ok(signals::shutdown_signal().map(|_| 0)),
        }
    }

    /// What cannot be backed up must not go on running: the child is asked to end, and waited for.
    fn terminate_child(&mut self) {
        let Some(exec) = &mut self.exec else { return };
        log::error("stopping the command, its database cannot be replicated").emit();
        exec.signal(libc::SIGTERM);
        let deadline = SystemClock.now() + self.config.shutdown_sync_timeout;
        while matches!(exec.try_wait(), Ok(None)) && SystemClock.now() < deadline {
            SystemClock.sleep(config::DEFAULT_MONITOR_INTERVAL);
        }
    }

    /// Reads the configuration again. One that is wrong changes nothing.
    fn reload(&mut self, given: &Context, options: &cli::Replicate) {
        let read = config(given, options)
            .and_then(|config| find_databases::find_databases(&config).map(|found| (config, found)));
        let log_as = |config: &Config| given.apply_log_settings(config, Some(log::Level::Info));
        match read {
            Ok((config, databases)) => {
                log_as(&config);
                let now = SystemClock.now();
                log::info("configuration reloaded").field("databases", databases.len()).emit();
                let keys = start_only_keys(&self.config, &config);
                if !keys.is_empty() {
                    log::warn("setting applies at the next start").field("keys", keys.join(", ")).emit();
                }
                if config.heartbeat != self.config.heartbeat {
                    self.heartbeat = config.heartbeat.clone().map(|heartbeat| HeartbeatSender::new(heartbeat, now));
                }
                self.config = config;
                self.supervisor.set_desired(databases, now);
            }
            Err(error) => {
                log_as(&self.config);
                log::error("configuration not reloaded, keeping the old one").error(&error).emit();
            }
        }
    }

    fn run_periodic_tasks(&mut self) {
        let now = SystemClock.now();
        if now >= self.schedule.rescan && self.config.dirs.iter().any(|entry| entry.watch) {
            self.schedule.rescan = now + RESCAN_INTERVAL;
            self.rescan(now);
        }
        if now >= self.schedule.metrics && self.config.metrics_file.is_some() {
            self.schedule.metrics = now + METRICS_INTERVAL;
            self.write_metrics();
        }
        if now >= self.schedule.status {
            self.schedule.status = now + STATUS_INTERVAL;
            self.send_heartbeat(now);
            self.notify_status();
        }
        self.traffic.poll(now, || self.supervisor.traffic());
        if now >= self.schedule.report {
            self.schedule.report = now + REPORT_INTERVAL;
            self.supervisor
                .event_loop
                .replicators
                .iter()
                .for_each(|follower| log_status(|| log::info("replicating"), follower));
        }
    }

    fn rescan(&mut self, now: Instant) {
        match find_databases::find_databases_again(&self.config, self.supervisor.wanted()) {
            Ok(databases) if databases != self.supervisor.wanted() => self.supervisor.set_desired(databases, now),
            Ok(_) => {}
            Err(error) => self.warn_once(|| log::warn("cannot scan directory"), &error),
        }
    }

    fn write_metrics(&mut self) {
        let Some(path) = &self.config.metrics_file else { return };
        let status = |follower: &Replicator| {
            let statuses = follower.statuses(&SystemClock);
            let name = follower.name().to_string();
            statuses.into_iter().map(move |status| (name.clone(), status)).collect::<Vec<_>>()
        };
        let databases: Vec<_> = self.supervisor.event_loop.replicators.iter().flat_map(status).collect();
        if let Err(error) =
            metrics::write(path, &metrics::render(&databases, &self.supervisor.traffic(), SystemClock.utc_now()))
        {
            self.warn_once(|| log::warn("cannot write metrics"), &error);
        }
    }

    /// Once for each new text.
    fn warn_once(&mut self, line: fn() -> log::Record, error: &Error) {
        if self.last_warning.as_deref() != Some(error.message()) {
            line().error(error).emit();
            self.last_warning = Some(error.message().to_string());
        }
    }

    /// The heartbeat says that everything was stored within its interval.
    fn send_heartbeat(&mut self, now: Instant) {
        let Some(heartbeat) = &mut self.heartbeat else { return };
        let (interval, wall) = (heartbeat.interval(), SystemClock.utc_now());
        let fresh = |follower: &Replicator| {
            follower.statuses(&SystemClock).iter().all(|status| {
                status.problem.is_none() && status.all_stored_at.is_some_and(|at| wall.since(at) < interval)
            })
        };
        let fleet = &self.supervisor;
        heartbeat.poll(now, || fleet.all_running() && fleet.event_loop.replicators.iter().all(fresh));
    }

    fn notify_status(&self) {
        let followers = &self.supervisor.event_loop.replicators;
        let worst = |follower: &Replicator| ReplicatorStatus::worst(follower.statuses(&SystemClock));
        let status: Vec<_> = followers.iter().map(worst).collect();
        self.notifier.send(&status_text(&status));
    }
}

/// All databases in one line, for systemd. The lag is that of the one which is furthest behind.
fn status_text(status: &[ReplicatorStatus]) -> String {
    let lag = status.iter().filter_map(|status| status.lag).max();
    let unknown = status.iter().filter(|status| status.lag.is_none()).count();
    let troubles = status.iter().filter(|status| status.problem.is_some()).count();
    let mut text = format!("STATUS={} databases", status.len());
    if let Some(lag) = lag {
        text += &format!(", lag {}s", lag.as_secs());
    }
    if unknown > 0 {
        text += &format!(", lag of {unknown} unknown");
    }
    if troubles > 0 {
        text += &format!(", problem with {troubles}");
    }
    text
}

/// How long the end may take.
#[derive(Clone, Copy)]
pub enum DrainLimit {
    Total(Duration),
    /// As long as it takes, if only something moves.
    Idle(Duration),
}

/// Stores what is committed; `watch` is told after each turn. A database that fails does not keep the others from it.
///
/// Errors: the last one, when all others have been said; of kind `Unreachable` if it could not all be stored in time.
pub fn drain(poll: &mut EventLoop, patience: DrainLimit, watch: &mut dyn FnMut(&EventLoop)) -> Result<()> {
    poll.close();
    let (DrainLimit::Total(timeout) | DrainLimit::Idle(timeout)) = patience;
    let several = poll.replicators.len() > 1;
    let mut deadline = SystemClock.now() + timeout;
    let mut advance = Advance::new(progress(poll));
    let mut errors = ErrorCollector::default();
    loop {
        if let Err((name, error)) = poll.run_once(deadline) {
            poll.replicators.retain(|follower| follower.name() != name);
            advance = Advance::new(progress(poll));
            errors.push(if several { of_database(error, Path::new(&name)) } else { error });
        }
        watch(poll);
        // What is left for the next start may be missing: it is worth no error.
        if poll.is_drained() || (SystemClock.now() >= deadline && poll.is_stored()) {
            poll.replicators.iter().for_each(|follower| log_status(|| log::info("stored"), follower));
            push_failures(poll, &mut errors);
            return errors.into_result();
        }
        if let DrainLimit::Idle(_) = patience {
            if let Some(signal) = signals::shutdown_signal() {
                errors.push(Error::new(
                    Kind::StoreUnreachable,
                    format!("stopped by signal {signal} before everything was stored"),
                ));
                return errors.into_result();
            }
            if advance.has_moved(progress(poll)) {
                deadline = SystemClock.now() + timeout;
            }
        }
        if SystemClock.now() >= deadline {
            push_failures(poll, &mut errors);
            errors.push(drain_timeout_error(poll, timeout));
            return errors.into_result();
        }
    }
}

/// A replica that could not be written to, beside others that could.
fn push_failures(poll: &mut EventLoop, errors: &mut ErrorCollector) {
    for replicator in &mut poll.replicators {
        let path = Path::new(replicator.name()).to_path_buf();
        replicator.take_failures().into_iter().for_each(|error| errors.push(of_database(error, &path)));
    }
}

/// The same error, with the database that it is about.
pub fn of_database(error: Error, path: &Path) -> Error {
    let name = path.display().to_string();
    if error.message().contains(&name) { error } else { error.context(format!("database {name}")) }
}

/// Whether a run comes further. An upload that has to begin anew counts from its beginning, so that a slow link gets the
/// time it needs; but not for ever, if it fails at the same place each time.
struct Advance {
    last: u64,
    most: u64,
    falls: u32,
}

impl Advance {
    /// Uploads that begin anew without coming further than one before them.
    const FALLS: u32 = 5;

    fn new(progress: u64) -> Advance {
        Advance { last: progress, most: progress, falls: 0 }
    }

    fn has_moved(&mut self, progress: u64) -> bool {
        let before = std::mem::replace(&mut self.last, progress);
        self.falls += u32::from(progress < before);
        if progress > self.most {
            (self.most, self.falls) = (progress, 0);
            return true;
        }
        progress > before && self.falls <= Advance::FALLS
    }
}

/// Bytes and objects that have moved. Falls only where an upload has to begin anew.
fn progress(poll: &EventLoop) -> u64 {
    let moved = |follower: &Replicator| {
        let statuses = follower.statuses(&SystemClock);
        let stored = statuses.iter().filter_map(|status| status.snapshot).map(|snapshot| snapshot.stored).sum::<u64>();
        let status = ReplicatorStatus::worst(statuses);
        status.bytes + status.objects + status.retention_operations + stored
    };
    poll.replicators.iter().map(moved).sum()
}

fn drain_timeout_error(poll: &EventLoop, timeout: Duration) -> Error {
    let behind: Vec<&Replicator> = poll.replicators.iter().filter(|follower| !follower.is_drained()).collect();
    behind.iter().for_each(|follower| log_status(|| log::info("commits are not stored"), follower));
    let names: Vec<&str> = behind.iter().map(|follower| follower.name()).collect();
    let causes = behind.iter().find_map(|follower| ReplicatorStatus::worst(follower.statuses(&SystemClock)).problem);
    let cause = causes.map(|cause| format!(": {cause}")).unwrap_or_default();
    let what = format!("{}: commits were not stored within {}s{cause}", names.join(", "), timeout.as_secs());
    Error::new(Kind::StoreUnreachable, what).with_hint(
        "the missing commits are still in the database; the next run stores them. shutdown-sync-timeout sets the time limit",
    )
}

/// One line about each replica of one database.
fn log_status(line: fn() -> log::Record, follower: &Replicator) {
    for status in follower.statuses(&SystemClock) {
        log_replica_status(line(), follower.name(), status);
    }
}

fn log_replica_status(line: log::Record, database: &str, status: ReplicatorStatus) {
    let name = TargetName::of_replica(database, status.replica);
    let position = status.stored.map_or_else(|| "none".to_string(), |position| position.to_string());
    let mut line = name
        .tag(line)
        .field("position", position)
        .field("lag", lag_text(status.lag))
        .field("objects", status.objects)
        .field("bytes", status.bytes);
    if let Some(snapshot) = status.snapshot {
        line = line.field("snapshot", format!("{}/{}", snapshot.read, snapshot.total));
    }
    if let Some(trouble) = status.problem {
        line = line.field("problem", trouble);
    }
    line.emit();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_for_systemd_tells_a_lag_only_where_it_is_known() {
        let status = |lag: Option<u64>, trouble: bool| ReplicatorStatus {
            lag: lag.map(Duration::from_secs),
            problem: trouble.then(|| "away".to_string()),
            ..ReplicatorStatus::default()
        };
        let table = [
            (vec![], "STATUS=0 databases"),
            (vec![status(Some(0), false)], "STATUS=1 databases, lag 0s"),
            (vec![status(Some(2), false), status(Some(5), true)], "STATUS=2 databases, lag 5s, problem with 1"),
            (vec![status(None, true)], "STATUS=1 databases, lag of 1 unknown, problem with 1"),
            (vec![status(None, false), status(Some(5), false)], "STATUS=2 databases, lag 5s, lag of 1 unknown"),
        ];
        for (given, expected) in table {
            assert_eq!(status_text(&given), expected);
        }
    }
}

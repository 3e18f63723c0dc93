//! `litestream replicate`: follows databases until it is told to stop, or stores once what they hold.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::{System, sleep};
use crate::cmd::exec::Exec;
use crate::cmd::fleet::Fleet;
use crate::cmd::heartbeat::Heartbeat;
use crate::cmd::notify::Notifier;
use crate::cmd::poll::Poll;
use crate::cmd::{Errors, Given, Status, environment, files, metrics, restoring, service, signals};
use crate::config::{self, Config, Database};
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::replica::follow::{self, Follower, lag_text};
use crate::store::Target;

/// Between two lines that say where each database stands.
const REPORT: Duration = Duration::from_secs(60);
/// Between two looks for files that came or went in a watched directory.
const RESCAN: Duration = Duration::from_secs(3);
/// Between two metrics files: the node exporter is asked four times a minute at most.
const METRICS: Duration = Duration::from_secs(10);
/// Between two looks at all databases together, for systemd's status and the heartbeat.
const STATUS: Duration = Duration::from_secs(5);

pub fn run(given: &Given, options: &cli::Replicate) -> Result<Status> {
    let config = config(given, options)?;
    let databases = files::expand(&config)?;
    signals::install();
    let tick = databases.iter().map(|database| database.monitor_interval).min();
    let tick = tick.unwrap_or(config::DEFAULT_MONITOR_INTERVAL);
    let mut fleet = Fleet::new(tick, config.shutdown_sync_timeout, options.create_bucket);
    let exec = if options.once { None } else { options.exec.clone().or(config.exec.clone()) };
    if options.once {
        return once(&mut fleet, &databases, options, config.shutdown_sync_timeout);
    }
    for database in &databases {
        match begin(&mut fleet, database, options, exec.is_some()) {
            Err(error) if databases.len() > 1 && error.kind().is_of_one_database() => fleet.add_later(database, &error),
            begun => begun?,
        }
    }
    signals::install_hangup();
    let exec = exec.as_deref().map(Exec::start).transpose()?;
    let timeout = config.shutdown_sync_timeout;
    let mut run = Run::new(config, fleet, exec);
    run.notifier.say("READY=1");
    let followed = run.follow(given, options);
    run.notifier.say("STOPPING=1");
    let Run { mut fleet, mut notifier, .. } = run;
    // Also where a database has ended the run: the others are stored as far as they have come.
    let finished = finish(&mut fleet.poll, Patience::InAll(timeout), &mut |_| notifier.alive(System.now()));
    // A run that a database has ended says so already.
    let complete = if followed.is_ok() { fleet.check_complete() } else { Ok(()) };
    let finished = finished.and(complete);
    match (followed, finished) {
        // The child's trouble is told by its status, that of the database which failed first by its error; ours by a line.
        (followed @ (Err(_) | Ok(1..)), Err(error)) => {
            log::error("not all is stored").cause(&error).emit();
            followed
        }
        (followed, finished) => followed.and_then(|status| finished.map(|()| status)),
    }
}

/// Stores what each of them holds. One that fails does not keep the others from it.
fn once(fleet: &mut Fleet, databases: &[Database], options: &cli::Replicate, timeout: Duration) -> Result<Status> {
    let mut errors = Errors::default();
    for database in databases {
        if let Err(error) = begin(fleet, database, options, false) {
            errors.push(if databases.len() > 1 { of_database(error, &database.path) } else { error });
        }
    }
    if let Err(error) = finish(&mut fleet.poll, Patience::WithoutProgress(timeout), &mut |_| ()) {
        errors.push(error);
    }
    errors.last().map(|()| 0)
}

/// The configuration file, or one that comes to the database and replica of the command line.
fn config(given: &Given, options: &cli::Replicate) -> Result<Config> {
    let mut config = match &options.pair {
        Some(pair) => Config::of(given.pair(pair)?),
        None => given.config()?,
    };
    if options.pair.is_none() {
        config::check::config(&config)?;
    }
    for database in &mut config.dbs {
        database.restore_if_missing |= options.restore_if_missing;
    }
    Ok(config)
}

/// Begins with one database: it is restored if that is asked for, and refused if it can never be followed.
fn begin(fleet: &mut Fleet, database: &Database, options: &cli::Replicate, exec: bool) -> Result<()> {
    if restoring::is_due(database) {
        restoring::restore_missing(database, options.create_bucket, fleet.pool(), Arc::default())?;
    }
    if !options.once {
        warn_of_one_disk(database);
    }
    let mut settings = service::settings(database, !options.once);
    settings.force_snapshot = options.force_snapshot;
    settings.enforce_retention = options.enforce_retention;
    settings.keep_note = true;
    settings.allow_other_database = options.allow_other_database;
    let mut follower = service::follower(database, settings, options.create_bucket, fleet.pool(), System.now())?;
    let patient = if options.pair.is_some() { exec } else { !options.once };
    check(&mut follower, patient)?;
    fleet.add(database, follower);
    Ok(())
}

/// A replica on the disk of its database is lost with it.
fn warn_of_one_disk(database: &Database) {
    let Target::Dir(directory) = &database.replica.target else { return };
    let device = |path: &Path| path.ancestors().find_map(|path| std::fs::metadata(path).ok()).map(|found| found.dev());
    if device(directory).is_some() && device(directory) == device(&database.path) {
        log::warn("the replica is on the file system of its database, and is lost with it")
            .field("db", database.path.display())
            .field("replica", directory.display())
            .emit();
    }
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

/// All that goes on while databases are followed.
struct Run {
    config: Config,
    fleet: Fleet,
    exec: Option<Exec>,
    passed_on: bool,
    notifier: Notifier,
    heartbeat: Option<Heartbeat>,
    due: Due,
    /// What was wrong with the metrics file or a directory when it was last said.
    complaint: Option<String>,
}

/// When each of the things that are done now and then is done next.
struct Due {
    report: Instant,
    rescan: Instant,
    metrics: Instant,
    status: Instant,
}

impl Run {
    fn new(config: Config, fleet: Fleet, exec: Option<Exec>) -> Run {
        let now = System.now();
        let due = Due { report: now + REPORT, rescan: now + RESCAN, metrics: now, status: now };
        let heartbeat = config.heartbeat.clone().map(|heartbeat| Heartbeat::new(heartbeat, now));
        let notifier = Notifier::new(&environment);
        Run { config, fleet, exec, passed_on: false, notifier, heartbeat, due, complaint: None }
    }

    /// Follows until a signal comes or the child ends; the status to end with.
    fn follow(&mut self, given: &Given, options: &cli::Replicate) -> Result<Status> {
        loop {
            let now = System.now();
            let mut until = self.notifier.next().unwrap_or(now + REPORT).min(now + RESCAN);
            if self.exec.is_some() {
                // A child's end has no other herald.
                until = until.min(now + config::DEFAULT_MONITOR_INTERVAL);
            }
            if let Err(error) = self.fleet.turn(until) {
                self.end_child();
                return Err(error);
            }
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            self.notifier.alive(System.now());
            if signals::hangup() {
                self.reload(given, options);
            }
            self.now_and_then();
        }
    }

    /// The status to end with, if it is time.
    fn ended(&mut self) -> Result<Option<Status>> {
        let Some(exec) = &mut self.exec else { return Ok(signals::received().map(|_| 0)) };
        if let Some(status) = exec.ended()? {
            log::info("command ended").field("status", status).emit();
            return Ok(Some(status));
        }
        if let Some(signal) = signals::received().filter(|_| !self.passed_on) {
            exec.signal(signal);
            self.passed_on = true;
        }
        Ok(None)
    }

    /// What cannot be backed up must not go on running: the child is asked to end, and waited for.
    fn end_child(&mut self) {
        let Some(exec) = &mut self.exec else { return };
        log::error("ending the command, since its database cannot be followed").emit();
        exec.signal(libc::SIGTERM);
        let deadline = System.now() + self.config.shutdown_sync_timeout;
        while matches!(exec.ended(), Ok(None)) && System.now() < deadline {
            sleep(config::DEFAULT_MONITOR_INTERVAL);
        }
    }

    /// Reads the configuration again. One that is wrong changes nothing.
    fn reload(&mut self, given: &Given, options: &cli::Replicate) {
        let read = config(given, options).and_then(|config| files::expand(&config).map(|found| (config, found)));
        let log_as = |config: &Config| given.log_as(config, Some(log::Level::Info));
        match read {
            Ok((config, databases)) => {
                log_as(&config);
                let now = System.now();
                log::info("configuration read again").field("databases", databases.len()).emit();
                if config.heartbeat != self.config.heartbeat {
                    self.heartbeat = config.heartbeat.clone().map(|heartbeat| Heartbeat::new(heartbeat, now));
                }
                self.config = config;
                self.fleet.want(databases, now);
            }
            Err(error) => {
                log_as(&self.config);
                log::error("configuration stays as it was").cause(&error).emit();
            }
        }
    }

    fn now_and_then(&mut self) {
        let now = System.now();
        if now >= self.due.rescan && self.config.dirs.iter().any(|entry| entry.watch) {
            self.due.rescan = now + RESCAN;
            self.rescan(now);
        }
        if now >= self.due.metrics && self.config.metrics_file.is_some() {
            self.due.metrics = now + METRICS;
            self.write_metrics();
        }
        if now >= self.due.status {
            self.due.status = now + STATUS;
            self.beat(now);
            self.tell_status();
        }
        if now >= self.due.report {
            self.due.report = now + REPORT;
            self.fleet.poll.followers.iter().for_each(|follower| say(follower, "replicating"));
        }
    }

    fn rescan(&mut self, now: Instant) {
        match files::expand_again(&self.config, self.fleet.wanted()) {
            Ok(databases) if databases != self.fleet.wanted() => self.fleet.want(databases, now),
            Ok(_) => {}
            Err(error) => self.complain("directory not looked at", &error),
        }
    }

    fn write_metrics(&mut self) {
        let Some(path) = &self.config.metrics_file else { return };
        let status = |follower: &Follower| (follower.name().to_string(), follower.status(&System));
        let databases: Vec<_> = self.fleet.poll.followers.iter().map(status).collect();
        if let Err(error) = metrics::write(path, &metrics::text(&databases, System.wall())) {
            self.complain("metrics not written", &error);
        }
    }

    /// Once for each new text.
    fn complain(&mut self, message: &str, error: &Error) {
        if self.complaint.as_deref() != Some(error.message()) {
            log::warn(message).cause(error).emit();
            self.complaint = Some(error.message().to_string());
        }
    }

    /// The heartbeat says that everything was stored within its interval.
    fn beat(&mut self, now: Instant) {
        let Some(heartbeat) = &mut self.heartbeat else { return };
        let (interval, wall) = (heartbeat.interval(), System.wall());
        let fresh = |follower: &Follower| {
            let status = follower.status(&System);
            status.trouble.is_none() && status.settled.is_some_and(|at| wall.since(at) < interval)
        };
        let fleet = &self.fleet;
        heartbeat.poll(now, || fleet.is_complete() && fleet.poll.followers.iter().all(fresh));
    }

    fn tell_status(&self) {
        let followers = &self.fleet.poll.followers;
        let status: Vec<_> = followers.iter().map(|follower| follower.status(&System)).collect();
        self.notifier.say(&status_text(&status));
    }
}

/// All databases in one line, for systemd. The lag is that of the one which is furthest behind.
fn status_text(status: &[follow::Status]) -> String {
    let lag = status.iter().filter_map(|status| status.lag).max();
    let unknown = status.iter().filter(|status| status.lag.is_none()).count();
    let troubles = status.iter().filter(|status| status.trouble.is_some()).count();
    let mut text = format!("STATUS={} databases", status.len());
    if let Some(lag) = lag {
        text += &format!(", lag {}s", lag.as_secs());
    }
    if unknown > 0 {
        text += &format!(", lag of {unknown} unknown");
    }
    if troubles > 0 {
        text += &format!(", trouble with {troubles}");
    }
    text
}

/// How long the end may take.
#[derive(Clone, Copy)]
pub enum Patience {
    InAll(Duration),
    /// As long as it takes, if only something moves.
    WithoutProgress(Duration),
}

/// Stores what is committed; `watch` is told after each turn. A database that fails does not keep the others from it.
///
/// Errors: the last one, when all others have been said; of kind `Unreachable` if it could not all be stored in time.
pub fn finish(poll: &mut Poll, patience: Patience, watch: &mut dyn FnMut(&Poll)) -> Result<()> {
    poll.close();
    let (Patience::InAll(timeout) | Patience::WithoutProgress(timeout)) = patience;
    let several = poll.followers.len() > 1;
    let mut deadline = System.now() + timeout;
    let mut advance = Advance::new(progress(poll));
    let mut errors = Errors::default();
    loop {
        if let Err((name, error)) = poll.turn(deadline) {
            poll.followers.retain(|follower| follower.name() != name);
            advance = Advance::new(progress(poll));
            errors.push(if several { of_database(error, Path::new(&name)) } else { error });
        }
        watch(poll);
        if poll.is_settled() {
            poll.followers.iter().for_each(|follower| say(follower, "stored"));
            return errors.last();
        }
        if let Patience::WithoutProgress(_) = patience {
            if let Some(signal) = signals::received() {
                errors.push(Error::new(Kind::Unreachable, format!("stopped by signal {signal} before all was stored")));
                return errors.last();
            }
            if advance.has_moved(progress(poll)) {
                deadline = System.now() + timeout;
            }
        }
        if System.now() >= deadline {
            errors.push(unfinished(poll, timeout));
            return errors.last();
        }
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
fn progress(poll: &Poll) -> u64 {
    let moved = |follower: &Follower| {
        let status = follower.status(&System);
        status.bytes + status.objects + status.kept + status.snapshot.map_or(0, |snapshot| snapshot.stored)
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
        .field("lag", lag_text(status.lag))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_for_systemd_tells_a_lag_only_where_it_is_known() {
        let status = |lag: Option<u64>, trouble: bool| follow::Status {
            lag: lag.map(Duration::from_secs),
            trouble: trouble.then(|| "away".to_string()),
            ..follow::Status::default()
        };
        let table = [
            (vec![], "STATUS=0 databases"),
            (vec![status(Some(0), false)], "STATUS=1 databases, lag 0s"),
            (vec![status(Some(2), false), status(Some(5), true)], "STATUS=2 databases, lag 5s, trouble with 1"),
            (vec![status(None, true)], "STATUS=1 databases, lag of 1 unknown, trouble with 1"),
            (vec![status(None, false), status(Some(5), false)], "STATUS=2 databases, lag 5s, lag of 1 unknown"),
        ];
        for (given, expected) in table {
            assert_eq!(status_text(&given), expected);
        }
    }
}

//! A running `replicate`: its loop, from the first iteration until all is stored that was committed at the end.

use std::time::{Duration, Instant};

use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::drain::{DrainLimit, drain};
use crate::cmd::exec::ChildCommand;
use crate::cmd::service::ServiceRequests;
use crate::cmd::supervisor::Supervisor;
use crate::cmd::watched_directories::WatchedDirectories;
use crate::cmd::{Context, ExitStatus, find_databases, signals};
use crate::config::start_only::start_only_keys;
use crate::config::{self, Config};
use crate::error::Result;
use crate::log;

use super::read_config;
use super::reports::{LOG_INTERVAL, Reports};

/// Between two looks for files that came or went in a watched directory.
const RESCAN_INTERVAL: Duration = Duration::from_secs(1);

/// All that goes on while databases are replicated.
pub struct Daemon {
    config: Config,
    supervisor: Supervisor,
    exec: Option<ChildCommand>,
    /// None if nobody may ask for anything.
    service: Option<ServiceRequests>,
    reports: Reports,
    next_rescan: Instant,
    watched: WatchedDirectories,
}

impl Daemon {
    pub fn new(
        config: Config,
        supervisor: Supervisor,
        exec: Option<ChildCommand>,
        service: Option<ServiceRequests>,
    ) -> Daemon {
        let now = SystemClock.now();
        let reports = Reports::new(&config, now);
        let next_rescan = now + RESCAN_INTERVAL;
        Daemon { config, supervisor, exec, service, reports, next_rescan, watched: WatchedDirectories::default() }
    }

    /// Replicates until a signal comes or the command ends; the status to end with.
    pub fn run_until_stopped(&mut self, ctx: &Context, options: &cli::ReplicateOptions) -> Result<ExitStatus> {
        self.reports.notify("READY=1");
        loop {
            if let Err(error) = self.supervisor.step(self.next_iteration(SystemClock.now())) {
                self.terminate_child();
                return Err(error);
            }
            if let Some(service) = &mut self.service {
                service.poll(SystemClock.now(), &mut self.supervisor);
            }
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            self.reports.keep_alive(SystemClock.now());
            if signals::take_hangup() {
                self.reload(ctx, options);
            }
            self.run_periodic_tasks(SystemClock.now());
        }
    }

    /// When an iteration begins at the latest.
    fn next_iteration(&self, now: Instant) -> Instant {
        // Nothing else tells of a command's end.
        let exec = self.exec.as_ref().map(|_| now + config::DEFAULT_MONITOR_INTERVAL);
        let service = self.service.as_ref().and_then(|service| service.next(now));
        let keep_alive = self.reports.next_keep_alive().unwrap_or(now + LOG_INTERVAL);
        [exec, service, Some(keep_alive)].into_iter().flatten().fold(now + RESCAN_INTERVAL, Instant::min)
    }

    /// The status to end with, if it is time.
    fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.exec {
            Some(exec) => exec.poll(),
            None => Ok(signals::shutdown_signal().map(|_| 0)),
        }
    }

    /// What cannot be backed up must not go on running: the command is asked to end, and waited for.
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
    fn reload(&mut self, ctx: &Context, options: &cli::ReplicateOptions) {
        let read = read_config(ctx, options)
            .and_then(|config| find_databases::find_databases(&config).map(|found| (config, found)));
        let log_as = |config: &Config| ctx.apply_log_settings(config, Some(log::Level::Info));
        match read {
            Ok((config, found)) => {
                log_as(&config);
                let now = SystemClock.now();
                log::info("configuration reloaded").field("databases", found.databases.len()).emit();
                let keys = start_only_keys(&self.config, &config);
                if !keys.is_empty() {
                    log::warn("setting applies at the next start").field("keys", keys.join(", ")).emit();
                }
                self.reports.reconfigure(&self.config, &config, now);
                self.config = config;
                self.watched = WatchedDirectories::default();
                self.supervisor.set_desired(found.databases, now);
                self.supervisor.set_unusable(found.unusable);
            }
            Err(error) => {
                log_as(&self.config);
                log::error("configuration not reloaded, keeping the old one").error(&error).emit();
            }
        }
    }

    fn run_periodic_tasks(&mut self, now: Instant) {
        if now >= self.next_rescan && self.config.dirs.iter().any(|entry| entry.watch) {
            self.next_rescan = now + RESCAN_INTERVAL;
            self.rescan(now);
        }
        self.reports.poll(&self.supervisor, now);
    }

    fn rescan(&mut self, now: Instant) {
        if !self.watched.must_scan(now) {
            return;
        }
        let (wanted, unusable) = (self.supervisor.wanted(), self.supervisor.unusable());
        let found = find_databases::find_databases_again(&self.config, wanted, unusable);
        if found.databases != wanted {
            self.supervisor.set_desired(found.databases, now);
        }
        // What cannot be looked at now may be at the next scan, without a change of the directory.
        match found.unusable.is_empty() {
            true => self.watched.on_scan(found.directories),
            false => self.watched = WatchedDirectories::default(),
        }
        self.supervisor.set_unusable(found.unusable);
    }

    /// Stores what is committed. Also if a database has ended the run: the others are stored as far as they have come.
    pub fn stop(&mut self, timeout: Duration) -> Result<()> {
        self.reports.notify("STOPPING=1");
        if let Some(service) = self.service.take() {
            service.stop(&mut self.supervisor);
        }
        let Daemon { supervisor, reports, .. } = self;
        let limit = DrainLimit::Total(timeout);
        let stored = drain(&mut supervisor.event_loop, limit, &mut |_| reports.keep_alive(SystemClock.now()));
        reports.log_traffic(supervisor);
        stored
    }

    /// As [`Supervisor::require_all_running`].
    pub fn require_all_running(&mut self) -> Result<()> {
        self.supervisor.require_all_running()
    }
}

//! What a running `replicate` reports now and then: to systemd, to the heartbeat's service, in the metrics file, in the log.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::environment;
use crate::cmd::heartbeat::HeartbeatSender;
use crate::cmd::metrics::{self, METRICS_INTERVAL};
use crate::cmd::notify::{Notifier, STATUS_INTERVAL};
use crate::cmd::status_log::log_status;
use crate::cmd::supervisor::Supervisor;
use crate::cmd::traffic_log::TrafficLog;
use crate::config::{Config, Heartbeat};
use crate::log;
use crate::log::warn_once::WarnOnce;
use crate::replica::replicator::{Replicator, ReplicatorStatus};

/// Between two log lines about where each database stands.
pub const LOG_INTERVAL: Duration = Duration::from_secs(60);

pub struct Reports {
    notifier: Notifier,
    heartbeat: Option<HeartbeatSender>,
    metrics_file: Option<PathBuf>,
    metrics_warning: WarnOnce,
    traffic: TrafficLog,
    next: NextReports,
}

/// When each report is due next.
struct NextReports {
    log: Instant,
    metrics: Instant,
    status: Instant,
}

impl Reports {
    pub fn new(config: &Config, now: Instant) -> Reports {
        Reports {
            notifier: Notifier::new(&environment),
            heartbeat: heartbeat_sender(config.heartbeat.as_ref(), now),
            metrics_file: config.metrics_file.clone(),
            metrics_warning: WarnOnce::default(),
            traffic: TrafficLog::new(now),
            next: NextReports { log: now + LOG_INTERVAL, metrics: now, status: now },
        }
    }

    /// The configuration was read again. A heartbeat whose settings are the same keeps its rhythm.
    pub fn reconfigure(&mut self, before: &Config, config: &Config, now: Instant) {
        if config.heartbeat != before.heartbeat {
            self.heartbeat = heartbeat_sender(config.heartbeat.as_ref(), now);
        }
        self.metrics_file.clone_from(&config.metrics_file);
    }

    /// Tells systemd of a change of state.
    pub fn notify(&self, state: &str) {
        self.notifier.send(state);
    }

    /// Tells systemd's watchdog that the loop does not hang. To be called in each iteration.
    pub fn keep_alive(&mut self, now: Instant) {
        self.notifier.alive(now);
    }

    /// When [`Reports::keep_alive`] must be called next.
    pub fn next_keep_alive(&self) -> Option<Instant> {
        self.notifier.next()
    }

    /// Makes the reports that are due.
    pub fn poll(&mut self, supervisor: &Supervisor, now: Instant) {
        if now >= self.next.metrics && self.metrics_file.is_some() {
            self.next.metrics = now + METRICS_INTERVAL;
            self.write_metrics(supervisor);
        }
        if now >= self.next.status {
            self.next.status = now + STATUS_INTERVAL;
            self.send_heartbeat(supervisor, now);
            self.notify_status(supervisor);
        }
        self.traffic.poll(now, || supervisor.traffic());
        if now >= self.next.log {
            self.next.log = now + LOG_INTERVAL;
            replicators(supervisor).iter().for_each(|replicator| log_status(|_| log::info("replicating"), replicator));
        }
    }

    /// The last line about the bytes on the links.
    pub fn log_traffic(&mut self, supervisor: &Supervisor) {
        self.traffic.log(&supervisor.traffic());
    }

    fn write_metrics(&mut self, supervisor: &Supervisor) {
        let Some(path) = &self.metrics_file else { return };
        let named = |replicator: &Replicator| {
            let name = replicator.name().to_string();
            replicator.statuses(&SystemClock).into_iter().map(move |status| (name.clone(), status)).collect::<Vec<_>>()
        };
        let databases: Vec<_> = replicators(supervisor).iter().flat_map(named).collect();
        let text = metrics::render(&databases, &supervisor.traffic(), SystemClock.utc_now());
        if let Err(error) = metrics::write(path, &text) {
            self.metrics_warning.log(|| log::warn("cannot write metrics"), &error);
        }
    }

    /// The heartbeat says that everything was stored within its interval.
    fn send_heartbeat(&mut self, supervisor: &Supervisor, now: Instant) {
        let Some(heartbeat) = &mut self.heartbeat else { return };
        let (interval, time) = (heartbeat.interval(), SystemClock.utc_now());
        let is_fresh = |replicator: &Replicator| {
            replicator.statuses(&SystemClock).iter().all(|status| {
                status.problem.is_none() && status.all_stored_at.is_some_and(|at| time.since(at) < interval)
            })
        };
        heartbeat.poll(now, || supervisor.all_running() && replicators(supervisor).iter().all(is_fresh));
    }

    fn notify_status(&self, supervisor: &Supervisor) {
        let worst = |replicator: &Replicator| ReplicatorStatus::worst(replicator.statuses(&SystemClock));
        let statuses: Vec<_> = replicators(supervisor).iter().map(worst).collect();
        self.notifier.send(&status_text(&statuses));
    }
}

fn heartbeat_sender(settings: Option<&Heartbeat>, now: Instant) -> Option<HeartbeatSender> {
    settings.map(|settings| HeartbeatSender::new(settings.clone(), now))
}

fn replicators(supervisor: &Supervisor) -> &[Replicator] {
    &supervisor.event_loop.replicators
}

/// All databases in one line, for systemd. The lag is that of the one which is furthest behind.
fn status_text(status: &[ReplicatorStatus]) -> String {
    let lag = status.iter().filter_map(|status| status.lag).max();
    let unknown = status.iter().filter(|status| status.lag.is_none()).count();
    let problems = status.iter().filter(|status| status.problem.is_some()).count();
    let mut text = format!("STATUS={} databases", status.len());
    if let Some(lag) = lag {
        text += &format!(", lag {}s", lag.as_secs());
    }
    if unknown > 0 {
        text += &format!(", lag of {unknown} unknown");
    }
    if problems > 0 {
        text += &format!(", problem with {problems}");
    }
    text
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
        for (ctx, expected) in table {
            assert_eq!(status_text(&ctx), expected);
        }
    }
}

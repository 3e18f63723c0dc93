//! What the outside learns of the copies that a process keeps up to date: lines, metrics, the heartbeat, systemd.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::follow_member::Member;
use crate::cmd::follow_metrics::METRICS;
use crate::cmd::heartbeat::HeartbeatSender;
use crate::cmd::metrics::{self, METRICS_INTERVAL};
use crate::cmd::notify::{Notifier, STATUS_INTERVAL};
use crate::cmd::restore_one::Outcome;
use crate::cmd::{environment, print};
use crate::config::Config;
use crate::error::Result;
use crate::log;
use crate::restore::apply::RestoreResult;
use crate::store::traffic::Traffic;

/// Tells the outside.
pub struct Reporter {
    metrics_file: Option<PathBuf>,
    heartbeat: Option<HeartbeatSender>,
    notifier: Notifier,
    next_metrics: Instant,
    next_status: Instant,
    /// Why no heartbeat was sent when that was last said, and for which copy.
    withheld: Option<(String, &'static str)>,
    last_warning: Option<String>,
}

impl Reporter {
    /// As the configuration says, where there is one.
    pub fn new(config: Option<&Config>) -> Reporter {
        let now = SystemClock.now();
        let heartbeat = config.and_then(|config| config.heartbeat.clone());
        Reporter {
            metrics_file: config.and_then(|config| config.metrics_file.clone()),
            heartbeat: heartbeat.map(|heartbeat| HeartbeatSender::new(heartbeat, now)),
            notifier: Notifier::new(&environment),
            next_metrics: now,
            next_status: now,
            withheld: None,
            last_warning: None,
        }
    }

    pub fn begin(&self) {
        self.notifier.send("READY=1");
    }

    pub fn end(&self) {
        self.notifier.send("STOPPING=1");
    }

    /// To be called on each turn of the loop.
    pub fn poll<'m>(
        &mut self,
        members: impl Iterator<Item = &'m Member> + Clone,
        links: impl FnOnce() -> BTreeMap<String, Traffic>,
    ) {
        let now = SystemClock.now();
        self.notifier.alive(now);
        if now >= self.next_metrics
            && let Some(path) = self.metrics_file.clone()
        {
            self.next_metrics = now + METRICS_INTERVAL;
            self.write_metrics(&path, members.clone(), &links());
        }
        if now >= self.next_status {
            self.next_status = now + STATUS_INTERVAL;
            self.notifier.send(&status_text(members.clone()));
            self.send_heartbeat(now, members);
        }
    }

    fn write_metrics<'m>(
        &mut self,
        path: &Path,
        members: impl Iterator<Item = &'m Member>,
        links: &BTreeMap<String, Traffic>,
    ) {
        let found: Vec<_> = members.map(|member| (metrics::label("db", member.name()), member.status())).collect();
        let rows: Vec<_> = found.iter().map(|(labels, status)| (labels.clone(), status)).collect();
        let written = metrics::write(path, &metrics::render_with(&METRICS, &rows, links, SystemClock.utc_now()));
        let warning = written.err().map(|error| error.to_string());
        if let Some(text) = warning.as_ref().filter(|_| warning != self.last_warning) {
            log::warn("cannot write metrics").field("error", text).emit();
        }
        self.last_warning = warning;
    }

    /// The heartbeat says that each copy was what is stored within its interval.
    fn send_heartbeat<'m>(&mut self, now: Instant, mut members: impl Iterator<Item = &'m Member>) {
        let Some(heartbeat) = &mut self.heartbeat else { return };
        let within = heartbeat.interval();
        let late = members.find_map(|member| Some((member.name().to_string(), member.not_current(within)?)));
        heartbeat.poll(now, || late.is_none());
        if let Some((name, reason)) = late.as_ref().filter(|_| late != self.withheld) {
            log::warn("no heartbeat, a copy is not up to date").field("db", name).field("reason", reason).emit();
        }
        self.withheld = late;
    }

    /// One line for each state that a copy shows.
    pub fn published(output: &str, shown: &RestoreResult, took: Duration, quiet: bool, as_json: bool) -> Result<()> {
        let outcome = Outcome::Restored { result: *shown, seconds: took.as_secs_f64() };
        match as_json {
            _ if quiet => Ok(()),
            true => print::json_value(&outcome.json(Some(Path::new(output)))),
            false => print::text(&outcome.line(output)),
        }
    }
}

/// All copies in one line, for systemd.
fn status_text<'m>(members: impl Iterator<Item = &'m Member>) -> String {
    let (mut count, mut problems, mut behind) = (0, 0, Duration::ZERO);
    for status in members.map(Member::status) {
        count += 1;
        problems += usize::from(status.problem.is_some() || status.position.is_none());
        behind = behind.max(status.behind.unwrap_or_default());
    }
    let trouble = if problems > 0 { format!(", problem with {problems}") } else { String::new() };
    format!("STATUS={count} copies, {}s behind{trouble}", behind.as_secs())
}

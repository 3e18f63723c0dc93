//! The end of a run: what is committed is stored, within a time limit.

use std::path::Path;
use std::time::Duration;

use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::event_loop::EventLoop;
use crate::cmd::status_log::log_status;
use crate::cmd::{ErrorCollector, of_database, signals};
use crate::error::{Error, Kind, Result};
use crate::log::{self, LogRecord};
use crate::replica::replicator::{Replicator, ReplicatorStatus};

/// How long the end may take.
#[derive(Clone, Copy)]
pub enum DrainLimit {
    Total(Duration),
    /// As long as it takes, if only something moves.
    Idle(Duration),
}

impl DrainLimit {
    fn timeout(self) -> Duration {
        let (DrainLimit::Total(timeout) | DrainLimit::Idle(timeout)) = self;
        timeout
    }
}

/// What is said of a replica at the end: of several, one may have failed.
fn end_record(status: &ReplicatorStatus) -> LogRecord {
    match (&status.problem, status.lag) {
        (None, _) | (_, Some(Duration::ZERO)) => log::info("stored"),
        (Some(_), _) => log::info("commits are not stored"),
    }
}

/// What a drain has ended with.
enum DrainEnd {
    Stored,
    Signal(i32),
    TimedOut,
}

/// Stores what is committed; `watch` is called after each iteration. A database that fails does not keep the others from it.
///
/// Errors: the last one, after all others have been printed; of kind `StoreUnreachable` if not everything was stored in time.
pub fn drain(event_loop: &mut EventLoop, limit: DrainLimit, watch: &mut dyn FnMut(&EventLoop)) -> Result<()> {
    event_loop.close();
    let mut errors = ErrorCollector::default();
    match run_to_end(event_loop, limit, watch, &mut errors) {
        DrainEnd::Stored => {
            event_loop.replicators.iter().for_each(|replicator| log_status(end_record, replicator));
            push_failures(event_loop, &mut errors);
        }
        DrainEnd::Signal(signal) => {
            let what = format!("stopped by signal {signal} before everything was stored");
            errors.push(Error::new(Kind::StoreUnreachable, what));
        }
        DrainEnd::TimedOut => {
            push_failures(event_loop, &mut errors);
            errors.push(timeout_error(event_loop, limit.timeout()));
        }
    }
    errors.into_result()
}

fn run_to_end(
    event_loop: &mut EventLoop,
    limit: DrainLimit,
    watch: &mut dyn FnMut(&EventLoop),
    errors: &mut ErrorCollector,
) -> DrainEnd {
    let several = event_loop.replicators.len() > 1;
    let mut deadline = SystemClock.now() + limit.timeout();
    let mut progress = DrainProgress::new(moved(event_loop));
    loop {
        if let Err((name, error)) = event_loop.run_once(deadline) {
            event_loop.replicators.retain(|replicator| replicator.name() != name);
            progress = DrainProgress::new(moved(event_loop));
            errors.push(if several { of_database(error, Path::new(&name)) } else { error });
        }
        watch(event_loop);
        // What is left for the next start may be missing: it is worth no error.
        if event_loop.is_drained() || (SystemClock.now() >= deadline && event_loop.is_stored()) {
            return DrainEnd::Stored;
        }
        if let DrainLimit::Idle(timeout) = limit {
            if let Some(signal) = signals::shutdown_signal() {
                return DrainEnd::Signal(signal);
            }
            if progress.has_advanced(moved(event_loop)) {
                deadline = SystemClock.now() + timeout;
            }
        }
        if SystemClock.now() >= deadline {
            return DrainEnd::TimedOut;
        }
    }
}

/// Adds the errors of replicas that could not be written to, beside others that could.
fn push_failures(event_loop: &mut EventLoop, errors: &mut ErrorCollector) {
    for replicator in &mut event_loop.replicators {
        let path = Path::new(replicator.name()).to_path_buf();
        replicator.take_failures().into_iter().for_each(|error| errors.push(of_database(error, &path)));
    }
}

/// Whether a drain advances. An upload that has to restart counts from its beginning, so that a slow link gets the time
/// that it needs; but not for ever, if it fails at the same place each time.
struct DrainProgress {
    last: u64,
    furthest: u64,
    /// Uploads that have restarted since it was furthest.
    restarts: u32,
}

impl DrainProgress {
    /// Uploads that restart without getting further than one before them.
    const MAX_RESTARTS: u32 = 5;

    fn new(moved: u64) -> DrainProgress {
        DrainProgress { last: moved, furthest: moved, restarts: 0 }
    }

    fn has_advanced(&mut self, moved: u64) -> bool {
        let before = std::mem::replace(&mut self.last, moved);
        self.restarts += u32::from(moved < before);
        if moved > self.furthest {
            (self.furthest, self.restarts) = (moved, 0);
            return true;
        }
        moved > before && self.restarts <= DrainProgress::MAX_RESTARTS
    }
}

/// Bytes and objects that have moved. Falls only if an upload has to restart.
fn moved(event_loop: &EventLoop) -> u64 {
    let of_one = |replicator: &Replicator| {
        let statuses = replicator.statuses(&SystemClock);
        let stored = statuses.iter().filter_map(|status| status.snapshot).map(|snapshot| snapshot.stored).sum::<u64>();
        let status = ReplicatorStatus::worst(statuses);
        status.bytes + status.objects + status.retention_operations + stored
    };
    event_loop.replicators.iter().map(of_one).sum()
}

fn timeout_error(event_loop: &EventLoop, timeout: Duration) -> Error {
    let late: Vec<&Replicator> = event_loop.replicators.iter().filter(|replicator| !replicator.is_drained()).collect();
    late.iter().for_each(|replicator| log_status(|_| log::info("commits are not stored"), replicator));
    let names: Vec<&str> = late.iter().map(|replicator| replicator.name()).collect();
    let cause = late.iter().find_map(|replicator| ReplicatorStatus::worst(replicator.statuses(&SystemClock)).problem);
    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    let what = format!("{}: commits were not stored within {}s{cause}", names.join(", "), timeout.as_secs());
    Error::new(Kind::StoreUnreachable, what).with_hint(
        "the missing commits are still in the database; the next run stores them. shutdown-sync-timeout sets the time limit",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_advances_until_uploads_restart_too_often() {
        let mut progress = DrainProgress::new(10);
        assert!(!progress.has_advanced(10), "nothing has moved");
        assert!(progress.has_advanced(30));
        for _ in 0..DrainProgress::MAX_RESTARTS {
            assert!(!progress.has_advanced(10), "an upload restarts");
            assert!(progress.has_advanced(20), "and counts from its beginning");
        }
        assert!(!progress.has_advanced(10));
        assert!(!progress.has_advanced(20), "it fails at the same place each time");
        assert!(progress.has_advanced(31), "it got further");
        assert!(!progress.has_advanced(10));
        assert!(progress.has_advanced(20), "and may restart again");
    }
}

//! What other processes ask for while this one keeps the database (src/control).

use std::time::Instant;

use crate::clock::Clock;
use crate::control::{RequestInbox, SnapshotReply};
use crate::error::Error;
use crate::replica::replicator::CHECK_INTERVAL;
use crate::replica::replicator::side::Side;

/// Snapshots that were asked for.
pub(super) struct SnapshotRequests {
    /// Those of other processes, for as long as the lock is ours.
    pub(super) inbox: Option<RequestInbox>,
    next_scan: Instant,
    /// This run was asked for a whole one, or needs it.
    pub(super) force_snapshot: bool,
}

impl SnapshotRequests {
    pub(super) fn new(force_snapshot: bool, now: Instant) -> SnapshotRequests {
        SnapshotRequests { inbox: None, next_scan: now, force_snapshot }
    }

    pub(super) fn want_snapshot(&self) -> bool {
        self.force_snapshot || self.inbox.as_ref().is_some_and(RequestInbox::wants_snapshot)
    }
}

impl Side {
    /// Looks for requests each second, also while the database is at rest, and tells those who wait how it goes.
    pub(super) fn poll_requests(&mut self, clock: &dyn Clock) {
        let now = clock.now();
        let Some(inbox) = self.requests.inbox.as_mut().filter(|_| now >= self.requests.next_scan) else { return };
        self.requests.next_scan = now + CHECK_INTERVAL;
        inbox.scan(now);
        if !inbox.is_empty() {
            self.send_progress();
        }
    }

    fn send_progress(&mut self) {
        let upload = self.writing().and_then(|writing| writing.snapshot.as_ref());
        let progress = match upload {
            Some(upload) => SnapshotReply::Reading {
                read: upload.read(),
                total: upload.header().payload_len(),
                stored: upload.stored(),
            },
            None => SnapshotReply::Waiting(self.health.problems.text().unwrap_or_default().to_string()),
        };
        let keeping = SnapshotReply::Retention(self.retention.operations());
        self.requests.inbox.iter_mut().for_each(|inbox| inbox.reply_all(&progress, &keeping));
    }

    /// A snapshot is stored.
    pub(super) fn reply_snapshot(&mut self, clock: &dyn Clock) {
        let (Some(inbox), Some(position)) = (&mut self.requests.inbox, self.acknowledged.snapshot) else { return };
        if inbox.snapshot_stored(position, self.replica.store.url()) {
            self.retention.request_pass(clock.now());
        }
        self.send_progress();
    }

    /// Retention has done what it could, or failed.
    pub(super) fn reply_retention(&mut self, error: Option<&Error>, clock: &dyn Clock) {
        let Some(inbox) = &mut self.requests.inbox else { return };
        if inbox.wants_retention() && (error.is_some() || self.retention.is_done()) {
            inbox.retention_done(error, self.replica.store.url());
            self.requests.next_scan = clock.now();
        }
    }
}

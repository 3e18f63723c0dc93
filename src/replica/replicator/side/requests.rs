//! What other processes ask for while this one keeps the database (replica/request.rs).

use crate::clock::Clock;
use crate::control::Reply;
use crate::error::Error;
use crate::replica::replicator::CHECK_INTERVAL;
use crate::replica::replicator::side::Side;

impl Side {
    /// Looks for requests each second, also while the database is at rest, and tells those who wait how it goes.
    pub(super) fn poll_requests(&mut self, clock: &dyn Clock) {
        let now = clock.now();
        let Some(desk) = self.requests.as_mut().filter(|_| now >= self.next_requests) else { return };
        self.next_requests = now + CHECK_INTERVAL;
        desk.scan();
        if !desk.is_empty() {
            self.send_progress();
        }
    }

    fn send_progress(&mut self) {
        let upload = self.writing().and_then(|writing| writing.snapshot.as_ref());
        let progress = match upload {
            Some(upload) => {
                Reply::Reading { read: upload.read(), total: upload.header().payload_len(), stored: upload.stored() }
            }
            None => Reply::Waiting(self.problems.text().unwrap_or_default().to_string()),
        };
        let keeping = Reply::Retention(self.retention.operations());
        self.requests.iter_mut().for_each(|desk| desk.reply_all(&progress, &keeping));
    }

    /// A snapshot is stored.
    pub(super) fn reply_snapshot(&mut self, clock: &dyn Clock) {
        let (Some(desk), Some(position)) = (&mut self.requests, self.last_snapshot) else { return };
        if desk.snapshot_stored(position, self.store.url()) {
            self.retention.request_pass(clock.now());
        }
        self.send_progress();
    }

    /// Retention has done what it could, or failed.
    pub(super) fn reply_retention(&mut self, error: Option<&Error>, clock: &dyn Clock) {
        let Some(desk) = &mut self.requests else { return };
        if desk.wants_retention() && (error.is_some() || self.retention.is_done()) {
            desk.retention_done(error, self.store.url());
            self.next_requests = clock.now();
        }
    }
}

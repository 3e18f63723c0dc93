//! What other processes ask for while this one keeps the database (replica/request.rs).

use crate::clock::Clock;
use crate::error::Error;
use crate::replica::follow::{Follower, LOOK, Stage};
use crate::replica::request::Answer;

impl Follower {
    /// Looks for requests each second, also while the database is at rest, and tells those who wait how it goes.
    pub(super) fn look_at_requests(&mut self, clock: &dyn Clock) {
        let now = clock.now();
        let Some(desk) = self.desk.as_mut().filter(|_| now >= self.next_requests) else { return };
        self.next_requests = now + LOOK;
        desk.look();
        if !desk.is_empty() {
            self.tell();
        }
    }

    fn tell(&mut self) {
        let upload = match &self.stage {
            Stage::Following(following) => following.snapshot.as_ref(),
            _ => None,
        };
        let progress = match upload {
            Some(upload) => {
                Answer::Reading { read: upload.read(), total: upload.header().payload_len(), stored: upload.stored() }
            }
            None => Answer::Waiting(self.trouble.text().unwrap_or_default().to_string()),
        };
        let keeping = Answer::Keeping(self.keeper.operations());
        self.desk.iter_mut().for_each(|desk| desk.tell(&progress, &keeping));
    }

    /// A snapshot is stored.
    pub(super) fn answer_snapshot(&mut self, clock: &dyn Clock) {
        let (Some(desk), Some(position)) = (&mut self.desk, self.snapshot_stored) else { return };
        if desk.stored(position, self.store.url()) {
            self.keeper.ask(clock.now());
        }
        self.tell();
    }

    /// Retention has done what it could, or failed.
    pub(super) fn answer_retention(&mut self, error: Option<&Error>, clock: &dyn Clock) {
        let Some(desk) = &mut self.desk else { return };
        if desk.wants_retention() && (error.is_some() || self.keeper.is_done()) {
            desk.kept(error, self.store.url());
            self.next_requests = clock.now();
        }
    }
}

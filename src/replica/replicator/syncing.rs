//! A sync on request: what is committed when it is requested is stored at once, and the client learns when.
//!
//! It goes by rounds, one at a time. A round begins when everything that is committed was copied, at a place of each side,
//! and ends when each side's store has all before that place. What is asked for while a round is under way waits for the next
//! one, so that an endless row of questions keeps none of them waiting.

use std::time::Instant;

use crate::replica::replicator::Replicator;
use crate::replica::replicator::side::Side;

/// How many rounds were asked for, begun, and finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct SyncRounds {
    wanted: u64,
    begun: u64,
    finished: u64,
}

impl SyncRounds {
    /// The round that answers anyone who asks now.
    fn request(&mut self) -> u64 {
        self.wanted = self.begun + 1;
        self.wanted
    }

    pub(super) fn is_pending(&self) -> bool {
        self.wanted > self.finished
    }

    /// Whether a round is to begin.
    pub(super) fn is_due(&self) -> bool {
        self.begun == self.finished && self.wanted > self.begun
    }

    fn begin(&mut self) {
        self.begun = self.wanted;
    }

    fn is_under_way(&self) -> bool {
        self.begun > self.finished
    }

    fn finish(&mut self) {
        self.finished = self.begun;
    }
}

impl Replicator {
    /// Asks that what is committed now is stored at once in every replica. It is when [`Replicator::finished_syncs`] has
    /// reached the number that is returned.
    pub fn request_sync(&mut self) -> u64 {
        self.syncs.request()
    }

    pub fn finished_syncs(&self) -> u64 {
        self.syncs.finished
    }

    /// Everything committed was just copied: a round that is due begins here.
    pub(super) fn begin_sync_round(&mut self, now: Instant) {
        if self.syncs.is_due() && self.reader.is_caught_up() && self.sides.iter().all(Side::is_following) {
            self.sides.iter_mut().for_each(|side| side.begin_sync(now));
            self.syncs.begin();
        }
    }

    pub(super) fn finish_sync_round(&mut self) {
        if self.syncs.is_under_way() && self.sides.iter().all(Side::has_synced) {
            self.syncs.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_during_a_round_waits_for_the_next_one() {
        let mut rounds = SyncRounds::default();
        assert!(!rounds.is_pending() && !rounds.is_due());
        assert_eq!((rounds.request(), rounds.request()), (1, 1));
        assert!(rounds.is_due());
        rounds.begin();
        assert_eq!((rounds.request(), rounds.request()), (2, 2));
        assert!(!rounds.is_due() && rounds.is_under_way());
        rounds.finish();
        assert_eq!(rounds.finished, 1);
        assert!(rounds.is_due() && rounds.is_pending());
        rounds.begin();
        rounds.finish();
        assert_eq!(rounds.finished, 2);
        assert!(!rounds.is_pending());
    }
}

//! A standby that listens for what is stored gets each commit at once, where no sync interval was asked for.
//!
//! What is committed while segments are on their way shares the next one: on a slow link there are few large ones.

use std::time::{Duration, Instant};

use crate::log;
use crate::replica::replicator::side::Side;

/// A standby that has said that it listens is taken to do so for this long. It says so again while it hears of new objects
/// (every 5 s, in `store::nats::watch`).
const TRUST_TIME: Duration = Duration::from_secs(20);
/// Between the ends of two segments: what a database that is written to without a pause may cost.
const SEGMENT_INTERVAL: Duration = Duration::from_millis(5);
/// One segment becomes visible while the next one is sent. With this many, later commits wait.
const MAX_ON_THEIR_WAY: usize = 2;

impl Side {
    /// Hears whether a standby listens.
    pub(super) fn hear_standby(&mut self, now: Instant) {
        let heard = self.access.writer.take_standby() && self.replica.target.serves_standbys;
        if heard && self.access.standby_until.is_none() {
            self.replica.name.tag(log::debug("standby listens, storing each commit at once")).emit();
        }
        if heard {
            self.access.standby_until = Some(now + TRUST_TIME);
        }
        self.access.standby_until.take_if(|until| now >= *until);
    }

    /// Whether a standby waits for each commit.
    pub(in crate::replica::replicator) fn has_standby(&self) -> bool {
        self.access.standby_until.is_some()
    }

    /// Whether it has taken what a standby waits for, and it may be sent.
    pub(in crate::replica::replicator) fn owes_standby(&self) -> bool {
        let taken = self.writing().is_some_and(|writing| !writing.builder.is_empty());
        taken && self.has_standby() && self.access.exclusive && self.uploads.len() < MAX_ON_THEIR_WAY
    }

    /// Sends what was taken on its way, if a standby waits for it.
    pub(in crate::replica::replicator) fn close_for_standby(&mut self, now: Instant) {
        if self.owes_standby() && self.is_rested(now) {
            self.finish_segment(now);
        }
    }

    /// Whether the next segment for a standby may end now.
    fn is_rested(&self, now: Instant) -> bool {
        let last = self.writing().and_then(|writing| writing.last_close);
        last.is_none_or(|last| now.saturating_duration_since(last) >= SEGMENT_INTERVAL)
    }
}

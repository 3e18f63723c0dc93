//! What may be deleted, and when: never while the clock is in doubt, and nothing that a restore may have planned to read.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::format::key::Key;
use crate::format::listing::Listing;
use crate::format::retention::{Policy, clock_distrust, plan_deletions};
use crate::format::time::Timestamp;
use crate::log;
use crate::log::target_name::TargetName;
use crate::replica::clock_jump::ClockJumpDetector;

/// What a plan needs stays for so long: time to read several gigabytes over a slow line.
pub const DELETE_GRACE_PERIOD: Duration = Duration::from_secs(600);

pub struct DeletionPlanner {
    name: TargetName,
    policy: Policy,
    /// Objects that a larger one has replaced, and when they may go. The oldest first.
    replaced: VecDeque<(Instant, Vec<Key>)>,
    pub clock_jumps: ClockJumpDetector,
    suspended_reason: Option<&'static str>,
}

impl DeletionPlanner {
    pub fn new(name: TargetName, policy: Policy) -> DeletionPlanner {
        DeletionPlanner {
            name,
            policy,
            replaced: VecDeque::new(),
            clock_jumps: ClockJumpDetector::default(),
            suspended_reason: None,
        }
    }

    /// The newest moment that was stored before this run: if the clock does not fit it, it is doubted.
    pub fn on_start(&mut self, newest: Timestamp, clock: &dyn Clock) {
        let known = newest != Timestamp::default();
        let trusted = self.policy.keep.map(|keep| keep.all).or(self.policy.retention);
        if let Some(why) = clock_distrust(newest, trusted, clock.utc_now()).filter(|_| known) {
            self.suspend(why);
            self.clock_jumps.distrust(clock.now());
        }
    }

    /// Notices a clock that jumped.
    pub fn check_clock(&mut self, clock: &dyn Clock) {
        if self.clock_jumps.check(clock) {
            self.suspend("the clock jumped");
        }
    }

    /// Those were replaced by a larger object: they go after [`DELETE_GRACE_PERIOD`].
    pub fn on_replaced(&mut self, keys: Vec<Key>, now: Instant) {
        self.replaced.push_back((now + DELETE_GRACE_PERIOD, keys));
    }

    /// Replaced objects that may go now.
    pub fn take_due(&mut self, now: Instant) -> Option<Vec<Key>> {
        if self.replaced.front().is_none_or(|(from, _)| now < *from) {
            return None;
        }
        self.replaced.pop_front().map(|(_, keys)| keys)
    }

    /// What is older than the policy asks for. Replaced objects are not among it: they have their own time.
    pub fn outdated(&mut self, listing: &Listing, clock: &dyn Clock) -> Vec<Key> {
        if self.clock_jumps.is_distrusted(clock.now()) {
            return Vec::new();
        }
        let actions = plan_deletions(listing, self.policy, clock.utc_now());
        match actions.skipped_reason {
            Some(why) => self.suspend(why),
            None => self.suspended_reason = None,
        }
        let waiting: HashSet<&Key> = self.replaced.iter().flat_map(|(_, keys)| keys).collect();
        actions.delete.into_iter().filter(|key| !waiting.contains(key)).collect()
    }

    fn suspend(&mut self, why: &'static str) {
        if self.suspended_reason != Some(why) {
            self.name.tag(log::warn("retention suspended")).field("reason", why).emit();
        }
        self.suspended_reason = Some(why);
    }
}

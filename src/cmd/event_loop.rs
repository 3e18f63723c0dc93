//! The poll loop: every database in turn, and a sleep that ends when the store has something, a tick is due, or the kernel
//! tells of a write to a database at rest.

use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::heap;
use crate::error::Error;
use crate::replica::replicator::{Replicator, SharedBuffers, WakeOn};
use crate::wakeup::WakeReceiver;

/// While uploads are under way in more than one store, each is looked at this often; and while they are in one, a commit
/// that a standby waits for is.
const BUSY_POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Urgent looks take at most one part in this of the time.
const URGENT_SHARE: u32 = 4;
/// A database at rest is looked at this often: it has timers of its own, and its store may have news.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// All databases of a process.
pub struct EventLoop {
    pub replicators: Vec<Replicator>,
    pub shared: SharedBuffers,
    /// Ends a sleep when a request arrives.
    pub wake: Option<WakeReceiver>,
    tick: Duration,
    /// When those at rest are looked at.
    next_idle_check: Instant,
    /// All were at rest once: the start is over.
    has_rested: bool,
    closing: bool,
}

impl EventLoop {
    /// `tick` is the shortest monitor interval.
    pub fn new(replicators: Vec<Replicator>, tick: Duration) -> EventLoop {
        EventLoop {
            replicators,
            shared: SharedBuffers::new(),
            wake: None,
            tick,
            next_idle_check: SystemClock.now(),
            has_rested: false,
            closing: false,
        }
    }

    /// One that wants to be looked at this often has joined.
    pub fn set_min_interval(&mut self, tick: Duration) {
        self.tick = self.tick.min(tick);
    }

    /// Lets each database make progress, then sleeps as long as nothing can be done, at most until `until`, and not at all when
    /// nothing is left to do.
    ///
    /// Errors: those of a database that cannot be followed, with its name.
    pub fn run_once(&mut self, until: Instant) -> Result<(), (String, Error)> {
        let begun = SystemClock.now();
        self.shared.check_idle = begun >= self.next_idle_check;
        if self.shared.check_idle {
            self.next_idle_check = begun + IDLE_CHECK_INTERVAL;
        }
        self.shared.inotify.read_events();
        let mut next = WakeOn::DatabaseWrite;
        for replicator in &mut self.replicators {
            let polled = replicator.poll(&mut self.shared, &SystemClock);
            next = next.min(polled.map_err(|error| (replicator.name().to_string(), error))?);
        }
        if self.closing && self.is_drained() {
            return Ok(());
        }
        self.trim_at_first_rest(next);
        let wake = match next {
            WakeOn::DatabaseWrite => self.next_idle_check,
            _ => {
                begun
                    + self.replicators.iter().filter_map(Replicator::urgent_interval).min().map_or(self.tick, |soon| {
                        soon.max(URGENT_SHARE * SystemClock.now().duration_since(begun)).min(self.tick)
                    })
            }
        };
        let left = wake.min(until).saturating_duration_since(SystemClock.now());
        match next {
            WakeOn::Immediately => {}
            WakeOn::StoreEvent => self.wait_for_stores(left),
            WakeOn::NextTick | WakeOn::DatabaseWrite => {
                self.shared.inotify.wait(left, self.wake.as_ref().map(WakeReceiver::fd));
            }
        }
        Ok(())
    }

    fn trim_at_first_rest(&mut self, next: WakeOn) {
        if next == WakeOn::DatabaseWrite && !self.has_rested && !self.replicators.is_empty() {
            self.has_rested = true;
            heap::trim();
        }
    }

    fn wait_for_stores(&self, left: Duration) {
        // One that waits for a store hears of no commit meanwhile.
        let listens = self.replicators.iter().any(Replicator::listens_for_commits);
        let left = if listens { left.min(BUSY_POLL_INTERVAL) } else { left };
        let mut busy = self.replicators.iter().flat_map(Replicator::busy_stores);
        match (busy.next(), busy.next()) {
            (Some(only), None) => only.wait(left),
            (Some(first), Some(_)) => first.wait(left.min(BUSY_POLL_INTERVAL)),
            _ => SystemClock.sleep(left.min(BUSY_POLL_INTERVAL)),
        }
    }

    /// From now on, store what is committed and come to an end.
    pub fn close(&mut self) {
        self.closing = true;
        for replicator in &mut self.replicators {
            replicator.close();
        }
    }

    /// Whether everything that was committed is stored, and what is left for the next start may be missing.
    pub fn is_stored(&self) -> bool {
        self.replicators.iter().all(Replicator::is_stored)
    }

    /// Whether everything that was committed is stored.
    pub fn is_drained(&self) -> bool {
        self.replicators.iter().all(Replicator::is_drained)
    }
}

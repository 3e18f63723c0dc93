//! The poll loop: every database in turn, and a sleep that ends when the store has something, a tick is due, or the kernel
//! tells of a write to a database at rest.

use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::cmd::clock::{System, sleep};
use crate::error::Error;
use crate::replica::follow::{Follower, Next, Tools};

/// While uploads are under way in more than one store, each is looked at this often.
const GLANCE: Duration = Duration::from_millis(2);
/// While a commit is on its way, it is looked for this often.
const EAGER: Duration = Duration::from_millis(2);
/// A database at rest is looked at this often: it has timers of its own, and its store may have news.
const BEAT: Duration = Duration::from_secs(1);

/// All databases of a process.
pub struct Poll {
    pub followers: Vec<Follower>,
    pub tools: Tools,
    tick: Duration,
    /// When those at rest are looked at.
    beat: Instant,
    closing: bool,
}

impl Poll {
    /// `tick` is the shortest monitor interval.
    pub fn new(followers: Vec<Follower>, tick: Duration) -> Poll {
        Poll { followers, tools: Tools::new(), tick, beat: System.now(), closing: false }
    }

    /// One that wants to be looked at this often has joined.
    pub fn quicken(&mut self, tick: Duration) {
        self.tick = self.tick.min(tick);
    }

    /// Lets each database make progress, then sleeps as long as nothing can be done, at most until `until`, and not at all when
    /// nothing is left to do.
    ///
    /// Errors: those of a database that cannot be followed, with its name.
    pub fn turn(&mut self, until: Instant) -> Result<(), (String, Error)> {
        let begun = System.now();
        self.tools.everyone = begun >= self.beat;
        if self.tools.everyone {
            self.beat = begun + BEAT;
        }
        self.tools.watch.fetch();
        let mut next = Next::Rest;
        for follower in &mut self.followers {
            let polled = follower.poll(&mut self.tools, &System);
            next = next.min(polled.map_err(|error| (follower.name().to_string(), error))?);
        }
        if self.closing && self.is_settled() {
            return Ok(());
        }
        let wake = match next {
            Next::Rest => self.beat,
            _ if self.followers.iter().any(Follower::is_eager) => begun + EAGER,
            _ => begun + self.tick,
        };
        let left = wake.min(until).saturating_duration_since(System.now());
        match next {
            Next::Now => {}
            Next::Store => self.wait_for_stores(left),
            Next::Tick | Next::Rest => self.tools.watch.wait(left),
        }
        Ok(())
    }

    fn wait_for_stores(&self, left: Duration) {
        let mut busy = self.followers.iter().filter(|follower| follower.is_busy());
        match (busy.next(), busy.next()) {
            (Some(only), None) => only.store().wait(left),
            (Some(first), Some(_)) => first.store().wait(left.min(GLANCE)),
            _ => sleep(left.min(GLANCE)),
        }
    }

    /// From now on, store what is committed and come to an end.
    pub fn close(&mut self) {
        self.closing = true;
        for follower in &mut self.followers {
            follower.close();
        }
    }

    /// Whether everything that was committed is stored.
    pub fn is_settled(&self) -> bool {
        self.followers.iter().all(Follower::is_settled)
    }
}

//! The poll loop: every database in turn, and a sleep that ends when the store has something or a tick is due.

use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::cmd::clock::{System, sleep};
use crate::error::Error;
use crate::replica::follow::{Follower, Next, Tools};

/// While uploads are under way in more than one store, each is looked at this often.
const GLANCE: Duration = Duration::from_millis(2);

/// All databases of a process.
pub struct Poll {
    pub followers: Vec<Follower>,
    pub tools: Tools,
    tick: Duration,
}

impl Poll {
    /// `tick` is the shortest monitor interval.
    pub fn new(followers: Vec<Follower>, tick: Duration) -> Poll {
        Poll { followers, tools: Tools::new(), tick }
    }

    /// One that wants to be looked at this often has joined.
    pub fn quicken(&mut self, tick: Duration) {
        self.tick = self.tick.min(tick);
    }

    /// Lets each database make progress, then sleeps as long as nothing can be done, at most until `until`.
    ///
    /// Errors: those of a database that cannot be followed, with its name.
    pub fn turn(&mut self, until: Instant) -> Result<(), (String, Error)> {
        let begun = System.now();
        let mut next = Next::Tick;
        for follower in &mut self.followers {
            let polled = follower.poll(&mut self.tools, &System);
            next = next.min(polled.map_err(|error| (follower.name().to_string(), error))?);
        }
        let left = (begun + self.tick).min(until).saturating_duration_since(System.now());
        match next {
            Next::Now => {}
            Next::Store => self.wait_for_stores(left),
            Next::Tick => sleep(left),
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
        for follower in &mut self.followers {
            follower.close();
        }
    }

    /// Whether everything that was committed is stored.
    pub fn is_settled(&self) -> bool {
        self.followers.iter().all(Follower::is_settled)
    }
}

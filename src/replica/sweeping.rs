//! Removing what uploads that died have left: once some minutes after a start, then daily, a little in each poll.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::format::time::Timestamp;
use crate::log;
use crate::store::{Store, Sweep, YOUNG, random};

/// After a start others come first: the database, and what it has to catch up.
const FIRST: Duration = Duration::from_secs(5 * 60);
/// So much is added at random, so that the replicators of a site do not sweep at once (ms).
const SPREAD: u64 = 10 * 60 * 1000;
const DAILY: Duration = Duration::from_secs(24 * 3600);

pub struct Sweeping {
    store: Rc<dyn Store>,
    due: Instant,
    sweep: Option<Box<dyn Sweep>>,
}

impl Sweeping {
    pub fn new(store: Rc<dyn Store>, now: Instant) -> Sweeping {
        Sweeping { store, due: now + FIRST + Duration::from_millis(random::below(SPREAD)), sweep: None }
    }

    pub fn is_busy(&self) -> bool {
        self.sweep.is_some()
    }

    /// Begins when it is due, and makes progress. Trouble is only told: the next day tries again.
    pub fn poll(&mut self, now: Instant, wall: Timestamp) {
        if now >= self.due {
            self.due = now + DAILY;
            self.sweep = self.store.sweep(wall, YOUNG);
        }
        let Some(sweep) = &mut self.sweep else { return };
        match sweep.poll(now) {
            Ok(None) => return,
            Ok(Some(swept)) if swept.unreadable > 0 => {
                log::warn("objects that cannot be read: nothing of dead uploads was removed")
                    .field("store", self.store.url())
                    .field("count", swept.unreadable)
                    .emit();
            }
            Ok(Some(swept)) => {
                let line = if swept.removed > 0 { log::info } else { log::debug };
                line("removed what dead uploads had left")
                    .field("store", self.store.url())
                    .field("uploads", swept.removed)
                    .emit();
            }
            Err(error) => {
                log::info("what dead uploads have left stays for a day").cause(&error).emit();
            }
        }
        self.sweep = None;
    }
}

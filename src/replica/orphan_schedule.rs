//! Removing what uploads that died have left: once some minutes after a start, then daily, a little in each poll.

use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::format::time::Timestamp;
use crate::log;
use crate::random;
use crate::store::{MIN_ORPHAN_AGE, OrphanCleanup, Store};

/// After a start others come first: the database, and what it has to catch up.
const FIRST_DELAY: Duration = Duration::from_secs(5 * 60);
/// So much is added at random, so that the replicators of a site do not sweep at once (ms).
const JITTER_MILLIS: u64 = 10 * 60 * 1000;
const CLEANUP_INTERVAL: Duration = Duration::from_secs(24 * 3600);

pub struct CleanupSchedule {
    store: Rc<dyn Store>,
    due: Instant,
    cleanup: Option<Box<dyn OrphanCleanup>>,
}

impl CleanupSchedule {
    pub fn new(store: Rc<dyn Store>, now: Instant) -> CleanupSchedule {
        CleanupSchedule {
            store,
            due: now + FIRST_DELAY + Duration::from_millis(random::random_below(JITTER_MILLIS)),
            cleanup: None,
        }
    }

    pub fn is_busy(&self) -> bool {
        self.cleanup.is_some()
    }

    /// Begins when it is due, and makes progress. Trouble is only told: the next day tries again.
    pub fn poll(&mut self, now: Instant, wall: Timestamp) {
        if now >= self.due {
            self.due = now + CLEANUP_INTERVAL;
            self.cleanup = self.store.clean_orphans(wall, MIN_ORPHAN_AGE);
        }
        let Some(sweep) = &mut self.cleanup else { return };
        match sweep.poll(now) {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(swept)) if swept.unreadable > 0 => {
                log::warn("unreadable objects, remains of aborted uploads not removed")
                    .field("store", self.store.url())
                    .field("count", swept.unreadable)
                    .emit();
            }
            Ok(Poll::Ready(swept)) => {
                let level = if swept.removed > 0 { log::Level::Info } else { log::Level::Debug };
                log::at(level, "remains of aborted uploads removed")
                    .field("store", self.store.url())
                    .field("uploads", swept.removed)
                    .emit();
            }
            Err(error) => {
                log::info("cannot remove remains of aborted uploads, retrying in 1d").error(&error).emit();
            }
        }
        self.cleanup = None;
    }
}

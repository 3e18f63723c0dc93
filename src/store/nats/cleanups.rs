//! What is left to be done for operations that have ended, and when a bucket was last swept.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::format::time::Timestamp;

/// Stores of one bucket share a sweep that is younger.
const SWEEP_INTERVAL: Duration = Duration::from_secs(6 * 3600);

/// Work that is left to be done for an operation that is over, while others wait.
pub trait Cleanup {
    /// Makes progress. True: done, or given up.
    fn poll(&mut self, now: Instant) -> bool;
}

#[derive(Default)]
pub struct Cleanups {
    deferred: RefCell<Vec<Box<dyn Cleanup>>>,
    /// When which bucket was last swept.
    last_sweeps: RefCell<HashMap<String, Timestamp>>,
}

impl Cleanups {
    /// Leaves something to be done in later polls.
    pub fn defer(&self, cleanup: Box<dyn Cleanup>) {
        self.deferred.borrow_mut().push(cleanup);
    }

    pub fn poll(&self, now: Instant) {
        let mut cleanups = self.deferred.take();
        cleanups.retain_mut(|cleanup| !cleanup.poll(now));
        self.deferred.borrow_mut().append(&mut cleanups);
    }

    /// Whether `bucket` should be swept by the caller; the next one is told no.
    pub fn sweep_is_due(&self, bucket: &str, now_utc: Timestamp) -> bool {
        let mut last_sweeps = self.last_sweeps.borrow_mut();
        let due = last_sweeps.get(bucket).is_none_or(|last| now_utc.since(*last) > SWEEP_INTERVAL);
        if due {
            last_sweeps.insert(bucket.to_string(), now_utc);
        }
        due
    }
}

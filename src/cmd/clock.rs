//! The real clock.

use std::time::{Duration, Instant, SystemTime};

use crate::clock::Clock;
use crate::format::time::Timestamp;

/// The clocks of the operating system.
pub struct System;

impl Clock for System {
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Rounded up: what is stamped with it has happened by then, so a restore of the millisecond before goes without.
    fn wall(&self) -> Timestamp {
        Timestamp::at(SystemTime::now())
    }
}

/// Sleeps at least this long, whatever signals arrive.
pub fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn nothing_is_stamped_earlier_than_it_happened() {
        for _ in 0..1000 {
            let happened = SystemTime::now();
            let stamp = UNIX_EPOCH + Duration::from_millis(System.wall().millis());
            assert!(stamp >= happened, "{happened:?}, {stamp:?}");
        }
    }
}

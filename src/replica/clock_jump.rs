//! Noticing that the wall clock jumped, so that nothing is deleted by a time that may be wrong.

use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::format::time::Timestamp;

/// The wall clock moved by so much more or less than the monotonic one: it was set, or the machine slept.
const MIN_JUMP: Duration = Duration::from_secs(300);
/// So long it is then in doubt: NTP sets a wrong clock right within minutes, an operator within the hour.
const DISTRUST_TIME: Duration = Duration::from_secs(3600);

/// Watches the two clocks drift apart.
#[derive(Default)]
pub struct ClockJumpDetector {
    last: Option<(Instant, Timestamp)>,
    distrusted_until: Option<Instant>,
}

impl ClockJumpDetector {
    /// Compares the clocks with what they were at the last look; whether they jumped since.
    pub fn check(&mut self, clock: &dyn Clock) -> bool {
        let (now, wall) = (clock.now(), clock.utc_now());
        let jumped = self.last.is_some_and(|(then, before)| {
            let passed = now.duration_since(then);
            let shown = wall.since(before);
            wall < before && before.since(wall) > MIN_JUMP || shown.abs_diff(passed) > MIN_JUMP
        });
        self.last = Some((now, wall));
        if jumped {
            self.distrust(now);
        }
        jumped
    }

    /// The clock is not to be believed for a while.
    pub fn distrust(&mut self, now: Instant) {
        self.distrusted_until = Some(now + DISTRUST_TIME);
    }

    pub fn is_distrusted(&self, now: Instant) -> bool {
        self.distrusted_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    struct Set(Instant, Cell<u64>, Cell<u64>);

    impl Clock for Set {
        fn now(&self) -> Instant {
            self.0 + Duration::from_secs(self.1.get())
        }

        fn utc_now(&self) -> Timestamp {
            Timestamp::from_millis(self.2.get() * 1000)
        }

        fn sleep(&self, duration: Duration) {
            self.1.set(self.1.get() + duration.as_secs());
        }
    }

    #[test]
    fn clock_jump_is_distrusted_for_an_hour_but_drift_is_not() {
        let clock = Set(Instant::now(), Cell::new(0), Cell::new(1_000_000));
        let mut watch = ClockJumpDetector::default();
        let mut look = |passed: u64, wall: u64| {
            clock.1.set(clock.1.get() + passed);
            clock.2.set(wall);
            (watch.check(&clock), watch.is_distrusted(clock.now()))
        };
        assert_eq!(look(0, 1_000_000), (false, false));
        assert_eq!(look(1000, 1_001_010), (false, false));
        assert_eq!(look(1, 1_005_000), (true, true));
        assert_eq!(look(3599, 1_008_599), (false, true));
        assert_eq!(look(1, 1_008_600), (false, false));
        assert_eq!(look(1, 1_008_000), (true, true));
        assert_eq!(look(3600, 1_011_600), (false, false));
        assert_eq!(look(900, 1_011_600), (true, true));
    }
}

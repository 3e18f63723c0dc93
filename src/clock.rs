//! Time as an argument. The clock itself is read in one place, in `cmd`.

use std::time::{Duration, Instant};

use crate::format::time::Timestamp;

/// The clocks of a run. `cmd` has the real one; tests have one that they set.
pub trait Clock {
    /// The monotonic clock: for intervals and deadlines.
    fn now(&self) -> Instant;
    /// The wall clock: for what is written down. It may jump.
    fn utc_now(&self) -> Timestamp;
    /// Sleeps at least this long, whatever signals arrive.
    fn sleep(&self, duration: Duration);
}

//! The real clock.

use std::time::{Duration, Instant, SystemTime};

use crate::clock::Clock;
use crate::format::time::Timestamp;

/// The clocks of the operating system.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Rounded up: what is stamped with it has happened by then, so a restore of the millisecond before goes without.
    fn utc_now(&self) -> Timestamp {
        Timestamp::from_system_time(SystemTime::now())
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// How many minutes the time of this machine's zone is before UTC, when it shows this date and time.
#[allow(clippy::useless_conversion, reason = "time_t has 32 bits on some targets")]
pub fn zone_offset(shown: Timestamp) -> Option<i64> {
    let seconds = libc::time_t::try_from(shown.millis() / 1000).ok()?;
    let mut parts = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live values; a tm of zeroes is valid, and is filled in only if the call succeeds.
    let filled = unsafe { libc::gmtime_r(&seconds, parts.as_mut_ptr()) };
    if filled.is_null() {
        return None;
    }
    // SAFETY: zeroed at first, and filled in since.
    let mut parts = unsafe { parts.assume_init() };
    // The library is to find out whether it is summer time.
    parts.tm_isdst = -1;
    // SAFETY: a live tm whose fields are in their ranges.
    let utc = unsafe { libc::mktime(&mut parts) };
    (utc != -1).then(|| i64::from(seconds - utc) / 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn nothing_is_stamped_earlier_than_it_happened() {
        for _ in 0..1000 {
            let happened = SystemTime::now();
            let stamp = UNIX_EPOCH + Duration::from_millis(SystemClock.utc_now().millis());
            assert!(stamp >= happened, "{happened:?}, {stamp:?}");
        }
    }
}

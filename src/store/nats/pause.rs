//! Whether this process stood still: stopped by a signal, frozen with its container, or asleep with its machine. Anyone who asked
//! it something meanwhile had no answer, and may take it for dead.

use std::time::Duration;

/// Looks at a clock at each turn.
#[derive(Default)]
pub struct PauseDetector {
    last: Option<Duration>,
}

impl PauseDetector {
    /// Whether `limit` or more lies between this look, at `now` of a clock that never stands still, and the last one.
    pub fn was_paused(&mut self, now: Duration, limit: Duration) -> bool {
        self.last.replace(now).is_some_and(|last| now.saturating_sub(last) >= limit)
    }
}

/// Since the machine was started, the time that it slept included (clock_gettime(2)).
pub fn since_boot() -> Duration {
    // SAFETY: all zeros is a valid timespec, and it lives through the call.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time);
        time
    };
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seen_once() {
        let (mut detector, second) = (PauseDetector::default(), Duration::from_secs(1));
        let looks = [100, 101, 105, 106, 112, 113].map(|at| detector.was_paused(second * at, second * 5));
        assert_eq!(looks, [false, false, false, false, true, false]);
        assert!(since_boot() > Duration::ZERO && since_boot() <= since_boot());
    }
}

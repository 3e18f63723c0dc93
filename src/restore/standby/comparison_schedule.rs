//! When a copy is compared with the checksum of what was applied to it, and how much of it at once. Pure.

use std::time::{Duration, Instant};

use crate::source::comparison::{BUSY_SHARE, READ_BYTES};

/// When a copy is to be compared.
pub struct CopyComparisonSchedule {
    /// From the end of a pass to the next one; none: never.
    interval: Option<Duration>,
    due: Instant,
    /// Since when a pass has been under way.
    begun: Option<Instant>,
    /// Transactions that had been applied at the last piece.
    applied: u64,
}

impl CopyComparisonSchedule {
    /// All of the copy is known to be good.
    pub fn new(interval: Option<Duration>, now: Instant) -> CopyComparisonSchedule {
        CopyComparisonSchedule { interval, due: now + interval.unwrap_or_default(), begun: None, applied: 0 }
    }

    /// Since when a piece is due; none if none is. Of several copies, the one that has waited longest is the next.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.interval.and(Some(self.due)).filter(|due| now >= *due)
    }

    /// How many bytes to read now, after so many transactions: less where something was applied since the last piece.
    pub fn piece(&mut self, now: Instant, applied: u64) -> usize {
        self.begun.get_or_insert(now);
        let busy = std::mem::replace(&mut self.applied, applied) != applied;
        if busy { READ_BYTES / BUSY_SHARE } else { READ_BYTES }
    }

    /// It could not be read just now: others have their turn before.
    pub fn postpone(&mut self, now: Instant) {
        self.due = now;
    }

    /// A pass is over; how long it took.
    pub fn finish(&mut self, now: Instant) -> Duration {
        self.due = now + self.interval.unwrap_or_default();
        self.begun.take().map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_compared_each_interval_and_slower_under_commits() {
        let begun = Instant::now();
        let later = |seconds| begun + Duration::from_secs(seconds);
        let mut schedule = CopyComparisonSchedule::new(Some(Duration::from_secs(60)), begun);
        assert_eq!((schedule.due(later(59)), schedule.due(later(70))), (None, Some(later(60))));
        assert_eq!(schedule.piece(later(70), 0), READ_BYTES);
        assert_eq!(schedule.piece(later(71), 5), READ_BYTES / BUSY_SHARE);
        assert_eq!(schedule.piece(later(72), 5), READ_BYTES);
        schedule.postpone(later(73));
        assert_eq!(schedule.due(later(73)), Some(later(73)));
        assert_eq!(schedule.finish(later(80)), Duration::from_secs(10));
        assert_eq!((schedule.due(later(139)), schedule.due(later(140))), (None, Some(later(140))));
        assert_eq!(CopyComparisonSchedule::new(None, begun).due(later(1 << 30)), None);
    }
}

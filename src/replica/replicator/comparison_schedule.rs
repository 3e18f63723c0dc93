//! When a database is compared with what is stored, and how much of it at once.

use std::time::{Duration, Instant};

use crate::format::position::PageSize;
use crate::source::WalMark;
use crate::source::comparison::{BUSY_SHARE, READ_BYTES};

/// How often a database is compared, and how fast.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ComparisonPace {
    /// From the end of a pass to the next one.
    pub interval: Duration,
    /// Bytes that are read at once, in each [`crate::source::comparison::PIECE_INTERVAL`].
    pub piece: usize,
}

impl ComparisonPace {
    pub fn each(interval: Duration) -> ComparisonPace {
        ComparisonPace { interval, piece: READ_BYTES }
    }
}

/// When a database is to be compared.
pub(super) struct DatabaseComparisonSchedule {
    pace: Option<ComparisonPace>,
    due: Instant,
    /// Since when a pass has been under way.
    begun: Option<Instant>,
    /// What was copied at the last piece.
    copied: Option<WalMark>,
}

impl DatabaseComparisonSchedule {
    /// All of it is known to be as stored, or to become so.
    pub(super) fn new(pace: Option<ComparisonPace>, now: Instant) -> DatabaseComparisonSchedule {
        let due = now + pace.map_or(Duration::ZERO, |pace| pace.interval);
        DatabaseComparisonSchedule { pace, due, begun: None, copied: None }
    }

    /// A snapshot reads all of it.
    pub(super) fn postpone(&mut self, now: Instant) {
        *self = DatabaseComparisonSchedule { copied: self.copied, ..DatabaseComparisonSchedule::new(self.pace, now) };
    }

    /// A piece is read. Since when the pass has been under way.
    pub(super) fn begin(&mut self, now: Instant) -> Instant {
        *self.begun.get_or_insert(now)
    }

    /// How much to read now.
    pub(super) fn piece(&mut self, now: Instant, copied: WalMark, size: PageSize) -> Option<usize> {
        let pace = self.pace.filter(|_| now >= self.due)?;
        let busy = self.copied.replace(copied).is_some_and(|before| before != copied);
        let piece = if busy { pace.piece / BUSY_SHARE } else { pace.piece };
        Some(piece.max(size.get() as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::wal::{ByteOrder, Salt};

    #[test]
    fn pass_is_due_after_its_interval_and_slower_under_commits() {
        let begun = Instant::now();
        let pace = ComparisonPace { interval: Duration::from_secs(60), piece: 1 << 20 };
        let copied = |frame| WalMark {
            page_size: PageSize::MIN,
            order: ByteOrder::Little,
            salt: Salt(1, 2),
            frame,
            checksum: None,
        };
        let mut schedule = DatabaseComparisonSchedule::new(Some(pace), begun);
        let later = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(schedule.piece(later(59), copied(0), PageSize::MIN), None);
        assert_eq!(schedule.piece(later(60), copied(0), PageSize::MIN), Some(1 << 20));
        assert_eq!(schedule.piece(later(61), copied(1), PageSize::MIN), Some(1 << 18));
        assert_eq!(schedule.piece(later(62), copied(1), PageSize::MIN), Some(1 << 20));
        schedule.postpone(later(62));
        assert_eq!(schedule.piece(later(121), copied(1), PageSize::MIN), None);
        assert_eq!(schedule.piece(later(122), copied(1), PageSize::MIN), Some(1 << 20));
        let mut small = DatabaseComparisonSchedule::new(Some(ComparisonPace { piece: 1, ..pace }), begun);
        assert_eq!(small.piece(later(60), copied(0), PageSize::MAX), Some(65_536));
        assert_eq!(DatabaseComparisonSchedule::new(None, begun).piece(later(1 << 30), copied(0), PageSize::MIN), None);
    }
}

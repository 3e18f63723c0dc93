//! How hard deflate tries: what the operator asks for, and what `auto` makes of it.
//!
//! A better level costs time, so `auto` follows what waits. While frames wait to be copied, or the store takes compressed
//! bytes as fast as they come, the fastest level is used. What is better is paid out of a budget that fills slowly.

use std::time::{Duration, Instant};

/// What the operator asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CompressionLevel {
    #[default]
    Auto,
    /// gzip's, 1 to 9.
    Fixed(u8),
}

/// A level of deflate that is worth its time.
struct LevelCost {
    level: u32,
    /// Tenths of the time that the fastest one takes for a byte.
    cost: u32,
}

/// Pages of JSON text with hashes and numbers, on one core of an x86-64 server with zlib-rs 0.6: level 1 makes 0.526 of the bytes
/// at 218 MB/s, level 2 0.389 at 112, level 4 0.359 at 73, level 6 0.346 at 49. Levels 3 and 5 gain little over the one before,
/// and 7 to 9 cost several times as much as 6 for 1 % less. miniz_oxide at its level 1 makes 0.414 at 145 MB/s, and libdeflate
/// 0.389 at 157; but the first is another dependency for a step between two of these, and streams of the second cannot be
/// put one after another, which a snapshot of many pieces needs.
const LADDER: [LevelCost; 4] =
    [FASTEST, LevelCost { level: 2, cost: 20 }, LevelCost { level: 4, cost: 30 }, LevelCost { level: 6, cost: 45 }];
const FASTEST: LevelCost = LevelCost { level: 1, cost: 10 };

/// The part of one core that better levels for segments may use.
const CORE_SHARE: u32 = 50;
/// What can be saved up for them: also the longest that they make a commit wait.
const MOST_SAVED: Duration = Duration::from_millis(40);
/// What the fastest level takes for a byte before that was measured: a small ARM core.
const FIRST_PACE: Duration = Duration::from_nanos(50);
/// What is less says more about the setting up than about bytes.
const LEAST_MEASURED: usize = 8 << 10;

/// What better compression of segments may still cost.
#[derive(Debug)]
pub struct SegmentLevels {
    saved: Duration,
    filled: Option<Instant>,
    /// Picoseconds that the fastest level takes for a byte.
    pace: u64,
}

impl Default for SegmentLevels {
    fn default() -> SegmentLevels {
        SegmentLevels { saved: MOST_SAVED, filled: None, pace: FIRST_PACE.as_nanos() as u64 * 1000 }
    }
}

impl SegmentLevels {
    /// The level for the next `bytes`, while `backlog` committed frames wait after them.
    pub fn next(&mut self, asked: CompressionLevel, bytes: usize, backlog: u64, now: Instant) -> u32 {
        let passed = self.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        self.saved = (self.saved + passed / CORE_SHARE).min(MOST_SAVED);
        self.filled = Some(now);
        segment_level(asked, bytes, backlog, self.saved, self.pace)
    }

    /// That many bytes took this long at `level`.
    pub fn spent(&mut self, level: u32, bytes: usize, time: Duration) {
        let Some(step) = LADDER.iter().find(|step| step.level == level) else { return };
        if level > FASTEST.level {
            self.saved = self.saved.saturating_sub(time);
        }
        if bytes >= LEAST_MEASURED {
            let pace = time.as_nanos() as u64 * 1000 * u64::from(FASTEST.cost) / u64::from(step.cost) / bytes as u64;
            // What the scheduler took away is not the level's: slower is believed slowly.
            self.pace = pace.min((7 * self.pace + pace) / 8).max(1);
        }
    }
}

/// `saved` is what may be spent, `pace` the picoseconds that the fastest level takes for a byte.
fn segment_level(asked: CompressionLevel, bytes: usize, backlog: u64, saved: Duration, pace: u64) -> u32 {
    let CompressionLevel::Auto = asked else { return asked.fixed() };
    let time = |step: &LevelCost| {
        let picos = u128::from(pace) * bytes as u128 * u128::from(step.cost) / u128::from(FASTEST.cost);
        Duration::from_nanos(u64::try_from(picos / 1000).unwrap_or(u64::MAX))
    };
    let affordable = LADDER.iter().rev().find(|step| backlog == 0 && time(step) <= saved);
    affordable.unwrap_or(&FASTEST).level
}

/// The part of the fastest level's time by which better levels may make a snapshot longer that the store takes as fast as it
/// is compressed.
const SNAPSHOT_TIME_SHARE: u64 = 8;
/// The same in bytes for the beginning, so that a small database is compressed better: some ten milliseconds.
const FIRST_CREDIT: u64 = 2 << 20;
/// The best level for pieces of a snapshot: the last step of the ladder costs half as much again for 3 % less.
const LAST_FOR_PIECES: usize = 2;

/// The levels of one snapshot's pieces, one after the other.
#[derive(Debug)]
pub struct PieceLevels {
    asked: CompressionLevel,
    step: usize,
    /// Bytes that the fastest level would compress in the time that is left for better ones.
    credit: u64,
}

impl PieceLevels {
    pub fn new(asked: CompressionLevel) -> PieceLevels {
        PieceLevels { asked, step: 0, credit: FIRST_CREDIT }
    }

    /// The level for the next `bytes`. `store_waits`: all that was compressed before has been taken.
    pub fn next(&mut self, bytes: usize, store_waits: bool) -> u32 {
        let CompressionLevel::Auto = self.asked else { return self.asked.fixed() };
        self.step = next_step(self.step, store_waits);
        if self.step > 0 {
            return LADDER[self.step].level;
        }
        let better = &LADDER[1];
        let price = bytes as u64 * u64::from(better.cost - FASTEST.cost) / u64::from(FASTEST.cost);
        self.credit += bytes as u64 / SNAPSHOT_TIME_SHARE;
        if self.credit < price {
            return FASTEST.level;
        }
        self.credit -= price;
        better.level
    }
}

/// One step up for each piece that the store does not wait for, and one step down for each that it does.
fn next_step(step: usize, store_waits: bool) -> usize {
    if store_waits { step.saturating_sub(1) } else { (step + 1).min(LAST_FOR_PIECES) }
}

impl CompressionLevel {
    fn fixed(self) -> u32 {
        match self {
            CompressionLevel::Auto => FASTEST.level,
            CompressionLevel::Fixed(level) => level.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_of_a_segment_follows_backlog_budget_and_pace() {
        let (auto, ms) = (CompressionLevel::Auto, Duration::from_millis);
        // What is asked for, bytes, backlog, budget, nanoseconds a byte, and the level.
        let table = [
            (CompressionLevel::Fixed(9), 1 << 20, u64::MAX, ms(0), 5, 9),
            (CompressionLevel::Fixed(1), 100, 0, ms(40), 5, 1),
            (auto, 100, 0, ms(40), 50, 6),
            (auto, 100, 1, ms(40), 50, 1),
            (auto, 100, 0, ms(0), 50, 1),
            (auto, 1 << 20, 0, ms(40), 5, 6),
            (auto, 1 << 20, 0, ms(20), 5, 4),
            (auto, 1 << 20, 0, ms(12), 5, 2),
            (auto, 1 << 20, 0, ms(10), 5, 1),
            // The same on a core that is ten times slower.
            (auto, 1 << 20, 0, ms(40), 50, 1),
            (auto, 1 << 17, 0, ms(40), 50, 6),
            (auto, 1 << 40, 0, ms(40), u64::MAX / 1000, 1),
        ];
        for (asked, bytes, backlog, saved, pace, level) in table {
            let found = segment_level(asked, bytes, backlog, saved, pace * 1000);
            assert_eq!(found, level, "{asked:?} {bytes} {backlog} {saved:?} {pace}");
        }
    }

    #[test]
    fn better_levels_of_segments_take_a_fiftieth_of_a_core() {
        let (begin, mut levels, mut spent) = (Instant::now(), SegmentLevels::default(), Duration::ZERO);
        let (mut better, seconds) = (0, 100);
        for tick in 0..seconds * 20 {
            let level = levels.next(CompressionLevel::Auto, 256 << 10, 0, begin + tick * Duration::from_millis(50));
            let cost = LADDER.iter().find(|step| step.level == level).unwrap().cost;
            let time = Duration::from_nanos(5) * (256 << 10) * cost / FASTEST.cost;
            levels.spent(level, 256 << 10, time);
            if level > FASTEST.level {
                (better, spent) = (better + 1, spent + time);
            }
        }
        assert!(spent <= MOST_SAVED + Duration::from_secs(u64::from(seconds)) / CORE_SHARE, "{spent:?}");
        assert!(better > 500, "{better} of {} at a better level", seconds * 20);
    }

    #[test]
    fn pace_is_measured_without_the_time_of_the_scheduler() {
        let mut levels = SegmentLevels::default();
        let bytes = 100_000;
        levels.spent(1, bytes, Duration::from_nanos(5) * bytes as u32);
        assert_eq!(levels.pace, 5_000);
        levels.spent(6, bytes, Duration::from_nanos(45) * bytes as u32 / 2);
        assert_eq!(levels.pace, 5_000);
        levels.spent(1, bytes, Duration::from_secs(1));
        assert!(levels.pace < 2_000_000, "{}", levels.pace);
        let before = levels.pace;
        levels.spent(1, 100, Duration::ZERO);
        assert_eq!(levels.pace, before);
    }

    #[test]
    fn level_rises_until_the_store_waits_for_it() {
        let mut levels = PieceLevels { credit: 0, ..PieceLevels::new(CompressionLevel::Auto) };
        let mut next = |store_waits| levels.next(100, store_waits);
        assert_eq!([next(true), next(false), next(false), next(false), next(false)], [1, 2, 4, 4, 4]);
        assert_eq!([next(true), next(false), next(true), next(true), next(true)], [2, 4, 2, 1, 1]);
        let mut fixed = PieceLevels::new(CompressionLevel::Fixed(9));
        assert_eq!([fixed.next(1, true), fixed.next(1, false)], [9, 9]);
    }

    #[test]
    fn snapshot_for_a_fast_store_takes_an_eighth_longer_at_most() {
        let mut levels = PieceLevels::new(CompressionLevel::Auto);
        let pieces = 1200;
        let better = (0..pieces).filter(|_| levels.next(256 << 10, true) > FASTEST.level).count() as u32;
        let longer = better * (LADDER[1].cost - FASTEST.cost);
        let first = FIRST_CREDIT as u32 / (256 << 10);
        assert!(longer <= (pieces / SNAPSHOT_TIME_SHARE as u32 + first) * FASTEST.cost, "{better}");
        assert!(better >= pieces / 9, "{better}");
    }
}

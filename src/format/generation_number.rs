//! Numbers and times of new generations.
//!
//! What must hold, whatever the clock says: the number of a new generation is greater than that of every generation that
//! is stored, and its time is not earlier than any that is stored. A restore takes the generation with the greatest
//! number, so any other rule would bury what is newest.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::format::key::ROOT;
use crate::format::listing::{Listing, latest_time};
use crate::format::position::Generation;
use crate::format::time::Timestamp;

/// The random part of a number: as many values as its lower 16 bits have.
pub const RANDOM_RANGE: u64 = 1 << 16;
/// Numbers that must stay free above a new generation: 65,536 starts with the largest step. Else a few starts after a
/// generation of another program with nearly the greatest number would use up what is left, and later ones would be
/// refused.
const MIN_FREE_NUMBERS: u64 = 1 << 32;
/// Clocks that are kept right by NTP differ by less than this: nothing is said about so little.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// The greatest number and the latest moment below a prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HighWaterMark {
    pub generation: Option<Generation>,
    pub moment: Timestamp,
}

impl HighWaterMark {
    /// Of all names that are valid, even if their content is not.
    pub fn of(listing: &Listing) -> HighWaterMark {
        HighWaterMark {
            generation: listing.generations().next_back().map(|(generation, _)| generation),
            moment: latest_time(listing).unwrap_or_default(),
        }
    }

    /// The number and the time of a generation that begins now. `random` is any number.
    ///
    /// Errors: of kind `Corrupt` if the numbers that are left are too few, with the objects that take the others.
    pub fn next_generation(&self, now_utc: Timestamp, random: u64) -> Result<(Generation, Timestamp)> {
        let time = now_utc.max(self.moment);
        let by_time = Generation::new((time.millis() << 16) | (random % RANDOM_RANGE));
        match self.generation {
            Some(newest) if newest >= by_time => next_number(newest, random).map(|generation| (generation, time)),
            _ => Ok((by_time, time)),
        }
    }

    /// Whether a clock is so far behind what is stored that it cannot be right.
    pub fn is_clock_behind(&self, now_utc: Timestamp) -> bool {
        self.moment.since(now_utc) > CLOCK_TOLERANCE
    }
}

/// A random step, so that two hosts that see the same listing do not take the same number.
fn next_number(newest: Generation, random: u64) -> Result<Generation> {
    if u64::MAX - newest.get() < MIN_FREE_NUMBERS {
        return Err(numbers_exhausted(newest));
    }
    Ok(Generation::new(newest.get() + 1 + random % RANDOM_RANGE))
}

fn numbers_exhausted(newest: Generation) -> Error {
    let folder = format!("{ROOT}{newest}/");
    let what = format!("{folder}: no new generation can start, because these objects use up nearly all higher numbers");
    Error::new(Kind::Corrupt, what).with_hint(format!(
        "litestream did not choose this number: move the objects below {folder} elsewhere, or delete them; a running litestream checks again every minute"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{Random, millis};

    const NOW: u64 = 1_795_000_000_000;
    const HOUR: u64 = 3_600_000;

    fn mark(generation: u64, moment: u64) -> HighWaterMark {
        HighWaterMark { generation: Some(Generation::new(generation)), moment: millis(moment) }
    }

    #[test]
    fn next_generation_is_time_and_random_part_if_clock_is_right() {
        let none = HighWaterMark::default();
        let (first, time) = none.next_generation(millis(NOW), 0xdead_0007).unwrap();
        assert_eq!((first.get(), time), (NOW << 16 | 7, millis(NOW)));
        let (second, time) = mark(first.get(), NOW).next_generation(millis(NOW + 1), 0).unwrap();
        assert_eq!((second.get(), time), ((NOW + 1) << 16, millis(NOW + 1)));
    }

    #[test]
    fn next_generation_is_above_all_stored_ones_despite_the_clock() {
        let far = 3_660_000_000_000;
        let clocks = [0, 1, NOW - 2 * HOUR, NOW - 1, NOW, NOW + 1, NOW + HOUR, far, u64::MAX];
        let newest = [0, 1, NOW << 16, NOW << 16 | 0xffff, far << 16, u64::MAX - (2 << 32), u64::MAX - (1 << 32)];
        for seed in 0..200 {
            let mut random = Random(seed);
            for (generation, moment) in newest.iter().flat_map(|newest| clocks.map(|moment| (*newest, moment))) {
                for now_utc in clocks {
                    let mark = mark(generation, moment);
                    let (next, time) = mark.next_generation(millis(now_utc), random.next()).unwrap();
                    assert!(Some(next) > mark.generation, "{next} {mark:?} {now_utc}");
                    assert!(time >= mark.moment && time >= millis(now_utc));
                }
            }
        }
    }

    /// As a Raspberry Pi without a battery does: each start is further back.
    #[test]
    fn next_generation_rises_while_the_clock_goes_back() {
        let mut met = 0;
        for seed in 0..500 {
            let (mut here, mut there) = (Random(seed), Random(seed + 1_000_000));
            let mut stored = HighWaterMark::default();
            for start in 0..8 {
                let now_utc = millis(NOW - start * HOUR / 2);
                let ((next, time), other) = (
                    stored.next_generation(now_utc, here.next()).unwrap(),
                    stored.next_generation(now_utc, there.next()),
                );
                assert!(Some(next) > stored.generation && time >= stored.moment);
                met += u32::from(next == other.unwrap().0);
                stored = HighWaterMark { generation: Some(next), moment: time };
            }
        }
        assert!(met <= 2, "{met} of 4000");
    }

    #[test]
    fn next_generation_without_room_names_the_objects() {
        let error = mark(u64::MAX, 0).next_generation(millis(NOW), 1).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.message().starts_with("generations/ffffffffffffffff/: no new generation can start"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("below generations/ffffffffffffffff/ elsewhere")));
        let last = u64::MAX - MIN_FREE_NUMBERS;
        assert_eq!(mark(last, 0).next_generation(millis(NOW), 7).unwrap().0.get(), last + 8);
        assert_eq!(mark(last + 1, 0).next_generation(millis(NOW), 7).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn clock_is_refuted_only_beyond_what_two_good_clocks_differ_by() {
        for (now_utc, expected) in [(NOW + 1, false), (NOW, false), (NOW - 1000, false), (NOW - 1001, true), (0, true)]
        {
            assert_eq!(mark(1, NOW).is_clock_behind(millis(now_utc)), expected, "{now_utc}");
        }
    }

    #[test]
    fn high_water_mark_counts_every_valid_name() {
        let names = [
            "generations/ffffffffffffffff/wal/\
             00000000.000000000000-00000000.000000000020-20860101T000000.000Z-20870101T000000.000Z.gz",
            "generations/0000000000000001/snapshots/00000000.000000000000-20990101T000000.000Z.gz",
            "generations/readme",
        ];
        let found = HighWaterMark::of(&Listing::new(names.map(|name| (name.to_string(), 1))));
        let moment = Timestamp::parse("2099-01-01T00:00:00Z").unwrap();
        assert_eq!(found, HighWaterMark { generation: Some(Generation::new(u64::MAX)), moment });
        assert_eq!(HighWaterMark::of(&Listing::new([])), HighWaterMark::default());
    }
}

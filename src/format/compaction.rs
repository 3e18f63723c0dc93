//! Which small segments become one, so that a long history is few objects and no moment in it is lost.
//!
//! gzip members concatenate, so a merged segment is the bytes of its parts, one behind the other. Sizes fall into
//! classes, each up to 16 times the one below. As soon as 16 segments of a class follow each other (with smaller ones
//! between them), they become one, of up to 8 MiB. So a byte is stored again at most four times, and one write a
//! second is some 100 objects a day.
//!
//! What must hold:
//!
//! * The newest segment stays as it is: a start has to read it, and it should be small.
//! * A part is merged only together with what ends its transaction.
//! * Only neighbours are merged: each starts exactly where the one before it ended.

use std::ops::Range;

use crate::format::key::SegmentKey;

/// So many segments of a class become one. Twice as many would halve the writing and double the objects.
pub const FAN_IN: usize = 16;

/// The ends of the classes in bytes, each 16 times the one before: 16 of a class make one of the next. What is not
/// below the last one stays as it is.
pub const SIZE_CLASSES: [u64; 4] = [512, 8 << 10, 128 << 10, 2 << 20];

/// No merged segment is larger, in bytes: so much must be read again if a restore ends inside it.
pub const MAX_MERGED_BYTES: u64 = 8 << 20;

/// The segments of one transaction, or a single one of several.
struct CompactionUnit {
    indices: Range<usize>,
    bytes: u64,
    /// None: it stays as it is.
    class: Option<usize>,
}

/// The places of the segments that should become one now; they are in order, as a chain has them.
pub fn next_group(segments: &[(SegmentKey, u64)]) -> Option<Range<usize>> {
    let units = units(segments);
    (0..SIZE_CLASSES.len()).find_map(|class| {
        runs(segments, &units, class)
            .filter(|run| run.iter().filter(|unit| unit.class == Some(class)).count() >= FAN_IN)
            .find_map(fit_group)
    })
}

/// The segment that a group of neighbours becomes; none if they are not that.
pub fn merged_key(group: &[(SegmentKey, u64)]) -> Option<SegmentKey> {
    let ((first, _), (last, _)) = (group.first()?, group.last()?);
    let joined = group.windows(2).all(|pair| matches!(pair, [(one, _), (two, _)] if is_adjacent(one, two)));
    let key = SegmentKey { end: last.end, last_seen: last.last_seen, part: last.part, ..*first };
    (joined && group.len() > 1 && !last.part && first.first_seen <= last.last_seen).then_some(key)
}

fn is_adjacent(one: &SegmentKey, two: &SegmentKey) -> bool {
    one.generation == two.generation && one.end == two.start && one.last_seen <= two.first_seen
}

fn units(segments: &[(SegmentKey, u64)]) -> Vec<CompactionUnit> {
    let mut units = Vec::new();
    let mut begun = 0;
    // Behind a part that nothing joins, the rest of its transaction stays where it is.
    let mut broken = false;
    for (place, (key, _)) in segments.iter().enumerate().take(segments.len().saturating_sub(1)) {
        let next = segments.get(place + 1).filter(|(next, _)| is_adjacent(key, next));
        if key.part && next.is_some() {
            continue;
        }
        let places = begun..place + 1;
        begun = place + 1;
        let bytes = segments.get(places.clone()).unwrap_or_default().iter().map(|(_, size)| size).sum();
        let class = SIZE_CLASSES.iter().position(|end| bytes < *end).filter(|_| !key.part && !broken);
        units.push(CompactionUnit { indices: places, bytes, class });
        broken = key.part;
    }
    units
}

/// The longest runs of neighbours that are of this class or below.
fn runs<'a>(
    segments: &'a [(SegmentKey, u64)],
    units: &'a [CompactionUnit],
    class: usize,
) -> impl Iterator<Item = &'a [CompactionUnit]> {
    let fits = move |unit: &CompactionUnit| unit.class.is_some_and(|own| own <= class);
    let joined = |one: &CompactionUnit, two: &CompactionUnit| {
        let keys = (segments.get(two.indices.start.wrapping_sub(1)), segments.get(two.indices.start));
        one.indices.end == two.indices.start
            && matches!(keys, (Some((one, _)), Some((two, _))) if is_adjacent(one, two))
    };
    units.chunk_by(move |one, two| fits(one) == fits(two) && joined(one, two)).filter(move |run| run.iter().all(fits))
}

/// As many of a run, from its start, as may be one.
fn fit_group(run: &[CompactionUnit]) -> Option<Range<usize>> {
    let mut bytes = 0;
    let count = run.iter().take_while(|unit| {
        bytes += unit.bytes;
        bytes <= MAX_MERGED_BYTES
    });
    let last = run.get(count.count().checked_sub(1)?)?;
    let places = run.first()?.indices.start..last.indices.end;
    (places.len() > 1).then_some(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{GENERATION, Random, millis, point};
    use crate::format::position::Generation;

    /// Neighbours of these sizes in bytes; a negative size is a part.
    fn chain(sizes: &[i64]) -> Vec<(SegmentKey, u64)> {
        let key = |at: usize, size: &i64| SegmentKey {
            generation: Generation::new(GENERATION),
            start: point(0, at as u64),
            end: point(0, at as u64 + 1),
            first_seen: millis(at as u64),
            last_seen: millis(at as u64),
            part: *size < 0,
        };
        sizes.iter().enumerate().map(|(at, size)| (key(at, size), size.unsigned_abs())).collect()
    }

    fn repeat(times: usize, size: i64) -> Vec<i64> {
        vec![size; times]
    }

    #[test]
    fn sixteen_of_a_class_become_one_and_the_newest_stays() {
        let kib = 1 << 10;
        let table: [(Vec<i64>, Option<Range<usize>>); 10] = [
            (vec![], None),
            (repeat(16, 100), None),
            (repeat(17, 100), Some(0..16)),
            (repeat(40, 100), Some(0..39)),
            // Smaller ones between them go along, larger ones do not.
            ([repeat(15, 9 * kib), repeat(3, 1), repeat(2, 9 * kib)].concat(), Some(0..19)),
            ([repeat(10, 1), repeat(1, 3 << 20), repeat(10, 1)].concat(), None),
            ([repeat(1, 3 << 20), repeat(17, 1)].concat(), Some(1..17)),
            // The small ones first.
            ([repeat(16, 9 * kib), repeat(17, 1)].concat(), Some(16..32)),
            // Never more than 8 MiB.
            (repeat(17, 1000 * kib), Some(0..8)),
            (repeat(40, 2 << 20), None),
        ];
        for (sizes, expected) in table {
            assert_eq!(next_group(&chain(&sizes)), expected, "{sizes:?}");
        }
    }

    #[test]
    fn a_transaction_in_parts_is_merged_whole_or_not_at_all() {
        let table: [(Vec<i64>, Option<Range<usize>>); 4] = [
            // Two segments are one transaction: 15 of them are not 16.
            ([repeat(14, 1), vec![-1, 1], repeat(1, 1)].concat(), None),
            ([repeat(15, 1), vec![-1, 1], repeat(1, 1)].concat(), Some(0..17)),
            // Its end is not stored yet.
            ([repeat(15, 1), vec![-1], repeat(1, -1)].concat(), None),
            // One of its parts is large.
            ([vec![-(3 << 20), 1], repeat(16, 1)].concat(), None),
        ];
        for (sizes, expected) in table {
            assert_eq!(next_group(&chain(&sizes)), expected, "{sizes:?}");
        }
    }

    #[test]
    fn over_a_gap_nothing_is_merged() {
        let mut segments = chain(&repeat(30, 1));
        segments.remove(15);
        assert_eq!(next_group(&segments), None);
        assert_eq!(merged_key(&segments), None);
        assert_eq!(merged_key(&segments[..1]), None);
    }

    #[test]
    fn a_merged_segment_reaches_from_the_first_to_the_last() {
        let segments = chain(&repeat(4, 1));
        let key = merged_key(&segments).unwrap();
        assert_eq!((key.start, key.end), (point(0, 0), point(0, 4)));
        assert_eq!((key.first_seen, key.last_seen, key.part), (millis(0), millis(3), false));
        assert_eq!(merged_key(&chain(&[1, -1])), None);
    }

    /// Stores segments of these sizes one by one and merges whenever it is due: what stays, and the bytes stored again.
    fn grown(sizes: impl Iterator<Item = u64>) -> (Vec<(SegmentKey, u64)>, u64) {
        let (mut segments, mut again): (Vec<(SegmentKey, u64)>, u64) = (Vec::new(), 0);
        for (at, size) in sizes.enumerate() {
            let (mut key, _) = chain(&[1])[0];
            (key.start, key.end) = (point(0, at as u64), point(0, at as u64 + 1));
            segments.push((key, size));
            // Looking at each one would only take the test longer.
            while at % 8 == 0
                && let Some(places) = next_group(&segments)
            {
                let key = merged_key(&segments[places.clone()]).unwrap();
                let bytes = segments[places.clone()].iter().map(|(_, size)| size).sum::<u64>();
                assert!(bytes <= MAX_MERGED_BYTES);
                again += bytes;
                segments.splice(places, [(key, bytes)]);
            }
        }
        (segments, again)
    }

    #[test]
    fn a_day_of_one_write_a_second_is_about_a_hundred_objects() {
        for size in [300, 2_500] {
            let (segments, again) = grown(std::iter::repeat_n(size, 86_400));
            assert!(segments.len() < 200, "{} of {size} bytes", segments.len());
            assert!(again <= 86_400 * size * 4, "{again} of {size} bytes");
        }
    }

    #[test]
    fn whatever_the_sizes_are_nothing_is_lost_and_objects_stay_few() {
        for seed in 0..4 {
            let mut random = Random(seed);
            let largest = 1 << (8 + random.below(12));
            let sizes: Vec<u64> = (0..4_000).map(|_| 200 + random.below(largest)).collect();
            let total: u64 = sizes.iter().sum();
            let (segments, again) = grown(sizes.into_iter());
            assert!(segments.windows(2).all(|pair| pair[0].0.end == pair[1].0.start), "seed {seed}");
            assert_eq!(segments.iter().map(|(_, size)| size).sum::<u64>(), total, "seed {seed}");
            let few = 5 * FAN_IN as u64 + 2 * total / (1 << 20);
            assert!((segments.len() as u64) < few, "seed {seed}: {} of {few}", segments.len());
            assert!(again <= total * 5, "seed {seed}: {again} of {total}");
        }
    }
}

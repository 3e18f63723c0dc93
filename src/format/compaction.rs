//! Which small segments become one, so that a long history is few objects and no moment in it is lost.
//!
//! gzip members concatenate, so a merged segment is the bytes of its parts, one after another. Time (UTC) is cut into
//! windows of four lengths, each of which lies whole in one of the next length. Once the chain has gone beyond a window, its
//! segments may become one. So a byte is stored again at most four times, and one write a second is some 60 objects a day.
//!
//! What must hold:
//!
//! * A merged segment is always a whole window: it begins where the last segment of an earlier window ends, or with the first
//!   that any restore reads. Of two merged segments, no matter who made them, one then contains the other, or they do not
//!   overlap. So several programs can merge, and delete what a larger segment contains, at the same time: none deletes what
//!   another's segment needs on either side.
//! * The newest segment stays as it is: a start has to read it, and it should be small.
//! * A transaction in parts belongs to the window in which it ends, and is merged whole.
//! * Only neighbours are merged: each starts exactly where the one before it ended.

use std::ops::Range;

use crate::format::key::SegmentKey;

/// The lengths of the windows in seconds: 15 s, 4 minutes, an hour, a day.
pub const WINDOWS: [u64; 4] = [15, 240, 3600, 86_400];

/// Fewer segments than this stay as they are until a longer window is over.
pub const MIN_SEGMENTS: usize = 8;

/// No merged segment is larger, in bytes: so much must be read again if a restore ends inside it.
pub const MAX_MERGED_BYTES: u64 = 8 << 20;

/// What one object less may cost, in bytes that are stored again.
const MAX_BYTES_PER_SEGMENT: u64 = 512 << 10;

/// The segments of one transaction, or a single one of several.
struct CompactionUnit {
    indices: Range<usize>,
    bytes: u64,
    /// When its end was seen (ms).
    end: u64,
    /// It begins where the one before it ends.
    continues: bool,
}

/// The places of the segments that should become one now; they are in order, as a chain has them. `from_start`: no restore
/// reads anything before them.
pub fn next_group(segments: &[(SegmentKey, u64)], from_start: bool) -> Option<Range<usize>> {
    next_group_where(segments, from_start, |_| true)
}

/// The same, of the groups that may be merged.
pub fn next_group_where(
    segments: &[(SegmentKey, u64)],
    from_start: bool,
    may_merge: impl Fn(&[(SegmentKey, u64)]) -> bool,
) -> Option<Range<usize>> {
    let is_possible = |range: &Range<usize>| {
        segments.get(range.clone()).is_some_and(|group| merged_key(group).is_some() && may_merge(group))
    };
    let units = units(segments);
    WINDOWS.iter().find_map(|seconds| {
        let mut behind = 0;
        let same = |one: &CompactionUnit, two: &CompactionUnit| {
            two.continues && window(one.end, *seconds) == window(two.end, *seconds)
        };
        units.chunk_by(same).find_map(|run| {
            let begin = behind;
            behind += run.len();
            let closed = units.get(behind).is_some_and(|next| next.continues);
            let begun = if begin == 0 { from_start } else { run.first().is_some_and(|first| first.continues) };
            range(run).filter(|range| begun && closed && is_worthwhile(run, range) && is_possible(range))
        })
    })
}

fn window(millis: u64, seconds: u64) -> u64 {
    millis / (seconds * 1000)
}

fn range(run: &[CompactionUnit]) -> Option<Range<usize>> {
    Some(run.first()?.indices.start..run.last()?.indices.end)
}

fn is_worthwhile(run: &[CompactionUnit], range: &Range<usize>) -> bool {
    let bytes: u64 = run.iter().map(|unit| unit.bytes).sum();
    let fewer = range.len() as u64 - 1;
    range.len() >= MIN_SEGMENTS && bytes <= MAX_MERGED_BYTES && bytes <= fewer * MAX_BYTES_PER_SEGMENT
}

/// The segment that a group of neighbours becomes; none if they are not that, or if one is a rollup: that stays by itself,
/// under a name that tells it.
pub fn merged_key(group: &[(SegmentKey, u64)]) -> Option<SegmentKey> {
    let ((first, _), (last, _)) = (group.first()?, group.last()?);
    let joined = group.windows(2).all(|pair| matches!(pair, [(one, _), (two, _)] if is_adjacent(one, two)));
    let key = SegmentKey { end: last.end, last_seen: last.last_seen, part: last.part, ..*first };
    let whole = joined && group.len() > 1 && !last.part && first.first_seen <= last.last_seen;
    (whole && !group.iter().any(|(key, _)| key.is_rollup())).then_some(key)
}

fn is_adjacent(one: &SegmentKey, two: &SegmentKey) -> bool {
    one.generation == two.generation && one.end == two.start && one.last_seen <= two.first_moment()
}

/// After a part that nothing joins, the rest of its transaction continues nothing.
fn units(segments: &[(SegmentKey, u64)]) -> Vec<CompactionUnit> {
    let mut units = Vec::new();
    let mut begin = 0;
    let joined = |index: usize| match (segments.get(index), segments.get(index + 1)) {
        (Some((key, _)), Some((next, _))) => is_adjacent(key, next),
        _ => false,
    };
    for (index, (key, _)) in segments.iter().enumerate() {
        if key.part && joined(index) {
            continue;
        }
        let indices = begin..index + 1;
        let before = begin.checked_sub(1).filter(|index| joined(*index));
        let continues = before.and_then(|index| segments.get(index)).is_some_and(|(key, _)| !key.part);
        let bytes = segments.get(indices.clone()).unwrap_or_default().iter().map(|(_, size)| size).sum();
        units.push(CompactionUnit { indices, bytes, end: key.last_seen.millis(), continues });
        begin = index + 1;
    }
    units
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::format::chain::SegmentChain;
    use crate::format::fixtures::{GENERATION, Random, millis, point, segment_key as key};
    use crate::format::key::SnapshotKey;
    use crate::format::listing::GenerationObjects;
    use crate::format::position::Generation;

    /// One segment a second, of these sizes in bytes; a negative size is a part.
    fn chain(sizes: &[i64]) -> Vec<(SegmentKey, u64)> {
        let key = |at: usize, size: &i64| SegmentKey { part: *size < 0, ..key(at as u64, at as u64 + 1) };
        sizes.iter().enumerate().map(|(at, size)| (key(at, size), size.unsigned_abs())).collect()
    }

    fn repeat(times: usize, size: i64) -> Vec<i64> {
        vec![size; times]
    }

    #[test]
    fn a_window_becomes_one_once_the_chain_is_beyond_it() {
        let table: [(Vec<i64>, Option<Range<usize>>); 9] = [
            (vec![], None),
            (repeat(30, 100), None),
            (repeat(31, 100), Some(15..30)),
            (repeat(60, 100), Some(15..30)),
            // Too few of them, and too large to be worth it.
            ([repeat(22, 100), repeat(8, -1), repeat(3, 1)].concat(), None),
            (repeat(31, 450 << 10), Some(15..30)),
            (repeat(31, 500 << 10), None),
            ([repeat(20, 1), repeat(1, 6 << 20), repeat(20, 1)].concat(), Some(15..30)),
            ([repeat(20, 1), repeat(1, 9 << 20), repeat(20, 1)].concat(), None),
        ];
        for (sizes, expected) in table {
            assert_eq!(next_group(&chain(&sizes), false), expected, "{sizes:?}");
        }
        // Where the first window began must be known.
        assert_eq!(next_group(&chain(&repeat(30, 100)), true), Some(0..15));
        // Rarer ones wait for a longer window.
        let rare: Vec<_> = (0..40).map(|at| (key(at * 20, at * 20 + 20), 100)).collect();
        assert_eq!(next_group(&rare, false), Some(12..24));
    }

    #[test]
    fn transaction_in_parts_belongs_to_the_window_of_its_end() {
        let table: [(Vec<i64>, Option<Range<usize>>); 4] = [
            // It goes on beyond the window.
            ([repeat(28, 1), vec![-1, -1, 1], repeat(20, 1)].concat(), Some(15..28)),
            ([repeat(13, 1), vec![-1, -1, 1], repeat(15, 1)].concat(), Some(13..30)),
            // Its end is not stored yet.
            ([repeat(29, 1), vec![-1, -1, -1]].concat(), Some(15..29)),
            ([repeat(28, 1), vec![-1, -1]].concat(), None),
        ];
        for (sizes, expected) in table {
            assert_eq!(next_group(&chain(&sizes), false), expected, "{sizes:?}");
        }
    }

    #[test]
    fn over_a_gap_nothing_is_merged() {
        for missing in [14, 15, 20, 29] {
            let mut segments = chain(&repeat(31, 1));
            segments.remove(missing);
            assert_eq!(next_group(&segments, false), None, "without {missing}");
        }
        let mut segments = chain(&repeat(31, 1));
        segments.remove(20);
        assert_eq!(merged_key(&segments), None);
        assert_eq!(merged_key(&segments[..1]), None);
    }

    #[test]
    fn a_merged_segment_reaches_from_the_first_to_the_last() {
        let segments = chain(&repeat(4, 1));
        let key = merged_key(&segments).unwrap();
        assert_eq!((key.start, key.end), (point(0, 0), point(0, 4)));
        assert_eq!((key.first_seen, key.last_seen, key.part), (millis(1), millis(3001), false));
        assert_eq!(merged_key(&chain(&[1, -1])), None);
    }

    /// Stores segments of these sizes one by one and merges whenever it is due: what stays, and the bytes stored again.
    fn grown(sizes: impl Iterator<Item = u64>) -> (Vec<(SegmentKey, u64)>, u64) {
        let (mut segments, mut again): (Vec<(SegmentKey, u64)>, u64) = (Vec::new(), 0);
        for (at, size) in sizes.enumerate() {
            segments.push((key(at as u64, at as u64 + 1), size));
            // Looking at each one would only take the test longer.
            while at % 15 == 0
                && let Some(range) = next_group(&segments, true)
            {
                let key = merged_key(&segments[range.clone()]).unwrap();
                let bytes = segments[range.clone()].iter().map(|(_, size)| size).sum::<u64>();
                assert!(bytes <= MAX_MERGED_BYTES);
                again += bytes;
                segments.splice(range, [(key, bytes)]);
            }
        }
        (segments, again)
    }

    #[test]
    fn a_day_of_one_write_a_second_is_about_a_hundred_objects() {
        for size in [300, 2_000] {
            let (segments, again) = grown(std::iter::repeat_n(size, 86_400));
            assert!(segments.len() < 100, "{} of {size} bytes", segments.len());
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
            let few = 100 + total / (256 << 10);
            assert!((segments.len() as u64) < few, "seed {seed}: {} of {few}", segments.len());
            assert!(again <= total * 4, "seed {seed}: {again} of {total}");
        }
    }

    fn whole_chain(stored: &HashMap<SegmentKey, u64>) -> Vec<(SegmentKey, u64)> {
        let position = point(0, 0);
        let snapshot = (SnapshotKey { generation: Generation::new(GENERATION), position, time: millis(0) }, 1);
        let mut segments: Vec<_> = stored.iter().map(|(key, size)| (*key, *size)).collect();
        segments.sort_by_key(|(key, _)| (key.start, key.end));
        SegmentChain::of(&GenerationObjects { snapshots: vec![snapshot], segments }, snapshot).segments
    }

    /// A program that merges, by what it has listed.
    #[derive(Default)]
    struct Compactor {
        chain: Vec<(SegmentKey, u64)>,
        /// What it is to delete.
        parts: Vec<SegmentKey>,
    }

    impl Compactor {
        fn step(&mut self, stored: &mut HashMap<SegmentKey, u64>, random: &mut Random) {
            match random.below(4) {
                0 => self.chain = whole_chain(stored),
                1 => {
                    for part in self.parts.drain(..random.below(self.parts.len() as u64 + 1) as usize) {
                        stored.remove(&part);
                    }
                }
                _ => {
                    let Some(range) = next_group(&self.chain, true) else { return };
                    let group = self.chain[range.clone()].to_vec();
                    // A part that another has deleted cannot be read.
                    if !group.iter().all(|(part, _)| stored.contains_key(part)) {
                        self.chain = whole_chain(stored);
                        return;
                    }
                    let (key, bytes) = (merged_key(&group).unwrap(), group.iter().map(|(_, size)| size).sum());
                    stored.insert(key, bytes);
                    self.parts.extend(group.iter().map(|(part, _)| *part));
                    self.chain.splice(range, [(key, bytes)]);
                }
            }
        }
    }

    #[test]
    fn several_that_merge_and_delete_at_once_lose_nothing() {
        for seed in 0..60 {
            let mut random = Random(seed);
            let mut stored = HashMap::new();
            let mut compactors: [Compactor; 3] = Default::default();
            let mut end = 0;
            for _ in 0..3_000 {
                if random.below(3) > 0 {
                    let next = end + 1 + random.below(3) * random.below(20);
                    stored.insert(key(end, next), 100);
                    end = next;
                }
                compactors[random.below(3) as usize].step(&mut stored, &mut random);
                let reached = whole_chain(&stored).last().map(|(key, _)| key.end);
                assert!(reached.is_none_or(|at| at == point(0, end)), "seed {seed}: a gap at {reached:?} of {end}");
            }
            assert!(stored.len() < 1_000, "seed {seed}: {} objects", stored.len());
        }
    }
}

//! The way from a snapshot along the segments after it.
//!
//! Stored segments may overlap: one was uploaded again after a crash, or a merged one from A to C stands beside those from
//! A to B and from B to C.
//! A chain takes the way that reaches furthest, and of several the one that costs least: in bytes, and in objects.

use std::collections::HashMap;
use std::fmt;

use crate::error::{Error, Kind, Result};
use crate::format::key::{Key, SegmentKey, SnapshotKey};
use crate::format::listing::GenerationObjects;
use crate::format::position::WalPosition;
use crate::format::time::Timestamp;

/// A snapshot and the segments that continue it, each with its size in bytes.
///
/// Each segment starts exactly where the one before it ends. The first may start before the snapshot's point: its
/// members up to that point are then passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentChain {
    pub snapshot: (SnapshotKey, u64),
    pub segments: Vec<(SegmentKey, u64)>,
    /// More is stored beyond the end, but nothing that joins it.
    pub gap: Option<Gap>,
}

/// A hole in what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where the chain ends, and nothing begins.
    pub at: WalPosition,
    /// The first thing beyond it.
    pub next: Key,
}

/// What an object costs besides its bytes, in bytes: it has to be asked for, and it stands in each listing. So a merged segment
/// is taken before its parts, and a rollup before what it was made of.
pub const OBJECT_COST: u64 = 16 << 10;

/// However small the snapshot is, a restore may read so many bytes of segments after it.
const SHORT_CHAIN: u64 = 1 << 20;

/// What a restore of the newest commit reads, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChainBytes {
    pub snapshot: u64,
    pub segments: u64,
}

impl ChainBytes {
    /// Whether a restore that reads `more` bytes of segments reads more than twice what the snapshot has.
    pub fn is_long_with(&self, more: u64) -> bool {
        self.segments.saturating_add(more) > self.snapshot.max(SHORT_CHAIN)
    }
}

/// What a way over segments has reached, and how.
struct PathCost {
    cost: u64,
    /// The last segment on the way; none at the snapshot.
    previous: Option<usize>,
}

impl SegmentChain {
    /// The chain of the newest snapshot, if there is one, or of an older one that leads further.
    pub fn newest(stored: &GenerationObjects) -> Option<SegmentChain> {
        SegmentChain::furthest(stored, &stored.snapshots)
    }

    /// The chain of the newest of these snapshots, or of an older one that leads further: a rollup may lead over the point of a
    /// snapshot, and what led on from there may be gone.
    pub fn furthest(stored: &GenerationObjects, snapshots: &[(SnapshotKey, u64)]) -> Option<SegmentChain> {
        let mut best = SegmentChain::of(stored, *snapshots.last()?);
        while let Some(start) = best.rollups_over_gap(stored).map(|rollup| rollup.start).min() {
            let before = snapshots.iter().rev().find(|(key, _)| key.position <= start);
            let longer = before.map(|snapshot| SegmentChain::of(stored, *snapshot));
            let Some(longer) = longer.filter(|chain| chain.end() > best.end()) else { break };
            best = longer;
        }
        Some(best)
    }

    /// The rollups that lead over the end of the chain, if nothing that is stored leads on from there.
    pub fn rollups_over_gap<'a>(
        &self,
        stored: &'a GenerationObjects,
    ) -> impl Iterator<Item = &'a SegmentKey> + use<'a> {
        let at = self.gap.map(|gap| gap.at);
        let over = move |key: &&SegmentKey| key.is_rollup() && at.is_some_and(|at| key.start < at && at < key.end);
        stored.segments.iter().map(|(key, _)| key).filter(over)
    }

    /// The chain of one of the snapshots.
    pub fn of(stored: &GenerationObjects, snapshot: (SnapshotKey, u64)) -> SegmentChain {
        let way = longest_path(snapshot.0.position, &stored.segments);
        let segments = way.into_iter().filter_map(|at| stored.segments.get(at).copied()).collect();
        let mut chain = SegmentChain { snapshot, segments, gap: None };
        chain.gap = gap(stored, chain.end());
        chain
    }

    /// Where it ends.
    pub fn end(&self) -> WalPosition {
        self.segments.last().map_or(self.snapshot.0.position, |(key, _)| key.end)
    }

    /// The rollup that leads over a point, and so not to it.
    pub fn rollup_over(&self, at: WalPosition) -> Option<&SegmentKey> {
        let over = |key: &&SegmentKey| key.is_rollup() && key.start < at && at < key.end;
        self.segments.iter().map(|(key, _)| key).find(over)
    }

    /// What a restore of its end reads.
    pub fn bytes(&self) -> ChainBytes {
        ChainBytes { snapshot: self.snapshot.1, segments: self.segments.iter().map(|(_, size)| size).sum() }
    }

    /// The moment that it reaches.
    pub fn latest_time(&self) -> Timestamp {
        self.segments.last().map_or(self.snapshot.0.time, |(key, _)| key.last_seen)
    }

    /// The object that it ends with.
    pub fn last_key(&self) -> Key {
        self.segments.last().map_or(Key::Snapshot(self.snapshot.0), |(key, _)| Key::Segment(*key))
    }

    /// Takes segments off the end until the last one ends with a transaction; how many that were.
    pub fn drop_trailing_parts(&mut self) -> usize {
        let before = self.segments.len();
        while self.segments.pop_if(|(key, _)| key.part).is_some() {}
        before - self.segments.len()
    }

    /// Errors: [`Kind::Corrupt`] if there is a gap, with the moment up to which a restore is possible.
    pub fn require_no_gap(&self) -> Result<()> {
        let Some(gap) = self.gap else { return Ok(()) };
        let mut whole = self.clone();
        whole.drop_trailing_parts();
        Err(Error::new(Kind::Corrupt, format!("generation {}: {gap}", self.snapshot.0.generation))
            .with_hint(format!("-timestamp {} restores the latest state before the gap", whole.latest_time())))
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no segment begins at {}; the next stored ", self.at)?;
        match self.next {
            Key::Segment(key) => write!(f, "one begins at {}", key.start),
            Key::Snapshot(key) => write!(f, "snapshot is at {}", key.position),
        }
    }
}

/// The segments that lead on from `at`, up to the last one that ends a transaction; none if something is stored beyond that
/// does not join.
pub fn continuation(stored: &GenerationObjects, at: WalPosition) -> Option<Vec<(SegmentKey, u64)>> {
    let way = longest_path(at, &stored.segments);
    let mut segments: Vec<_> = way.into_iter().filter_map(|index| stored.segments.get(index).copied()).collect();
    let end = segments.last().map_or(at, |(key, _)| key.end);
    while segments.pop_if(|(key, _)| key.part).is_some() {}
    gap(stored, end).is_none().then_some(segments)
}

/// The segments, by their places in the slice, that lead furthest from `at`.
///
/// They are in order of their starts, and each ends after its start: so each point is settled before any way goes on
/// from it, and one pass is enough.
fn longest_path(at: WalPosition, segments: &[(SegmentKey, u64)]) -> Vec<usize> {
    let mut reached = HashMap::from([(at, PathCost { cost: 0, previous: None })]);
    let joins = |key: &SegmentKey| key.start >= at || key.leads_on_from(at);
    for (index, (key, size)) in segments.iter().enumerate().filter(|(_, (key, _))| key.end > at && joins(key)) {
        let Some(before) = reached.get(&key.start.max(at)) else { continue };
        // What has the point within is taken before what begins there: its parts may be about to be deleted.
        let bytes = if key.start < at { 0 } else { *size };
        let cost = before.cost.saturating_add(bytes).saturating_add(OBJECT_COST);
        if reached.get(&key.end).is_none_or(|step| cost < step.cost) {
            reached.insert(key.end, PathCost { cost, previous: Some(index) });
        }
    }
    let mut way = Vec::new();
    let mut point = reached.keys().max().copied();
    while let Some(index) = point.and_then(|p| reached.get(&p)).and_then(|step| step.previous) {
        way.push(index);
        point = segments.get(index).map(|(key, _)| key.start.max(at));
    }
    way.reverse();
    way
}

fn gap(stored: &GenerationObjects, end: WalPosition) -> Option<Gap> {
    let segments = stored.segments.iter().filter(|(key, _)| key.end > end);
    let segments = segments.map(|(key, _)| (key.start, Key::Segment(*key)));
    let snapshots = stored.snapshots.iter().filter(|(key, _)| key.position > end);
    let snapshots = snapshots.map(|(key, _)| (key.position, Key::Snapshot(*key)));
    segments.chain(snapshots).min_by_key(|(point, _)| *point).map(|(_, next)| Gap { at: end, next })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{GENERATION, Random, millis, point};
    use crate::format::position::Generation;

    fn snapshot(at: u64) -> (SnapshotKey, u64) {
        let key = SnapshotKey { generation: Generation::new(GENERATION), position: point(0, at), time: millis(at) };
        (key, 1)
    }

    /// A segment whose times are its offsets.
    fn segment(start: u64, end: u64) -> (SegmentKey, u64) {
        let generation = Generation::new(GENERATION);
        let (first, last) = (millis(start + 1), millis(end));
        let key = SegmentKey {
            generation,
            start: point(0, start),
            end: point(0, end),
            first_seen: first,
            last_seen: last,
            part: false,
        };
        (key, end - start)
    }

    fn stored(snapshots: &[u64], segments: &[(u64, u64)]) -> GenerationObjects {
        let mut stored = GenerationObjects {
            snapshots: snapshots.iter().map(|at| snapshot(*at)).collect(),
            segments: segments.iter().map(|(start, end)| segment(*start, *end)).collect(),
        };
        stored.segments.sort_by_key(|(key, _)| (key.start, key.end));
        stored
    }

    fn ranges(chain: &SegmentChain) -> Vec<(u64, u64)> {
        chain.segments.iter().map(|(key, _)| (key.start.offset.get(), key.end.offset.get())).collect()
    }

    /// What a chain from a snapshot at the first number takes of the segments, and where it says the gap ends.
    type Row = (u64, &'static [(u64, u64)], &'static [(u64, u64)], Option<u64>);

    #[test]
    fn chain_takes_the_longest_path_and_of_several_the_cheapest() {
        let table: [Row; 11] = [
            (0, &[], &[], None),
            (0, &[(0, 1), (1, 2)], &[(0, 1), (1, 2)], None),
            (1, &[(0, 1), (1, 2)], &[(1, 2)], None),
            (2, &[(0, 1), (1, 2)], &[], None),
            // A merged object beside those that it was made of.
            (0, &[(0, 1), (0, 2), (1, 2), (2, 3)], &[(0, 2), (2, 3)], None),
            // The snapshot's point is inside an object.
            (1, &[(0, 2), (2, 3)], &[(0, 2), (2, 3)], None),
            (1, &[(0, 2), (1, 2), (2, 3)], &[(0, 2), (2, 3)], None),
            // Fewest objects is not nearest: the long way round reaches further.
            (0, &[(0, 5), (0, 2), (2, 4), (4, 6)], &[(0, 2), (2, 4), (4, 6)], None),
            // Gaps.
            (0, &[(0, 1), (2, 3), (3, 4)], &[(0, 1)], Some(2)),
            (0, &[(3, 4), (2, 3)], &[], Some(2)),
            (0, &[(0, 4), (2, 5)], &[(0, 4)], Some(2)),
        ];
        for (at, segments, expected, gap) in table {
            let chain = SegmentChain::of(&stored(&[at], segments), snapshot(at));
            assert_eq!(ranges(&chain), expected, "{segments:?} from {at}");
            let found = chain.gap.map(|gap| match gap.next {
                Key::Segment(key) => key.start.offset.get(),
                Key::Snapshot(key) => key.position.offset.get(),
            });
            assert_eq!(found, gap, "{segments:?} from {at}");
        }
    }

    #[test]
    fn a_gap_is_named_exactly_and_tells_how_far_a_restore_can_go() {
        let chain = SegmentChain::of(&stored(&[0], &[(0, 16), (32, 48)]), snapshot(0));
        let error = chain.require_no_gap().unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert_eq!(
            error.message(),
            "generation 019aaf3c5d10a1b2: no segment begins at 00000000:000000000010; \
             the next stored one begins at 00000000:000000000020"
        );
        assert_eq!(error.hint(), Some("-timestamp 1970-01-01T00:00:00.016Z restores the latest state before the gap"));
    }

    #[test]
    fn what_leads_on_from_a_point_needs_no_snapshot_and_shows_a_gap() {
        let parts = |stored: &GenerationObjects, at| {
            let found = continuation(stored, point(0, at))?;
            Some(found.iter().map(|(key, _)| (key.start.offset.get(), key.end.offset.get())).collect::<Vec<_>>())
        };
        let mut all = stored(&[4], &[(0, 2), (2, 3), (2, 6), (3, 4), (4, 6), (6, 7)]);
        assert_eq!(parts(&all, 2), Some(vec![(2, 6), (6, 7)]));
        assert_eq!(parts(&all, 1), Some(vec![(0, 2), (2, 6), (6, 7)]));
        assert_eq!(parts(&all, 7), Some(vec![]));
        // After a point that nobody knows any more, and after the end.
        assert_eq!((parts(&all, 5), parts(&all, 8)), (Some(vec![(2, 6), (6, 7)]), Some(vec![])));
        all.segments.last_mut().unwrap().0.part = true;
        assert_eq!(parts(&all, 6), Some(vec![]));
        let gap = stored(&[4], &[(0, 2), (4, 6)]);
        assert_eq!((parts(&gap, 2), parts(&gap, 4)), (None, Some(vec![(4, 6)])));
    }

    #[test]
    fn a_snapshot_that_no_segment_leads_to_shows_a_gap() {
        let stored = stored(&[0, 32], &[(0, 16)]);
        let error = SegmentChain::of(&stored, snapshot(0)).require_no_gap().unwrap_err();
        assert!(error.message().ends_with(
            "no segment begins at 00000000:000000000010; the next stored snapshot is at 00000000:000000000020"
        ));
        assert!(SegmentChain::newest(&stored).unwrap().require_no_gap().is_ok());
        assert_eq!(SegmentChain::newest(&GenerationObjects::default()), None);
    }

    #[test]
    fn a_chain_knows_its_end_and_drops_parts_from_it() {
        let mut stored = stored(&[0], &[(0, 1), (1, 2), (2, 3)]);
        for (key, _) in &mut stored.segments[1..] {
            key.part = true;
        }
        let mut chain = SegmentChain::newest(&stored).unwrap();
        assert_eq!((chain.end(), chain.latest_time()), (point(0, 3), millis(3)));
        assert_eq!(chain.last_key(), Key::Segment(stored.segments[2].0));
        assert_eq!(chain.drop_trailing_parts(), 2);
        assert_eq!((chain.end(), chain.latest_time()), (point(0, 1), millis(1)));
        chain.segments.clear();
        assert_eq!((chain.end(), chain.latest_time()), (point(0, 0), millis(0)));
        assert_eq!(chain.last_key(), Key::Snapshot(snapshot(0).0));
    }

    /// Every way from `at`, as (end, number of objects), by trying all of them.
    fn all_ways(at: u64, here: u64, objects: usize, segments: &[(u64, u64)], found: &mut Vec<(u64, usize)>) {
        found.push((here, objects));
        for (start, end) in segments {
            if *end > here && (*start).max(at) == here {
                all_ways(at, *end, objects + 1, segments, found);
            }
        }
    }

    #[test]
    fn a_chain_of_random_objects_is_what_trying_every_way_finds() {
        for seed in 0..3000 {
            let mut random = Random(seed);
            let length = 2 + random.below(10);
            let count = random.below(14);
            let mut segments: Vec<_> = (0..count)
                .map(|_| {
                    let start = random.below(length - 1);
                    (start, start + 1 + random.below(4.min(length - start)))
                })
                .collect();
            segments.sort_unstable();
            segments.dedup();
            let at = random.below(length);
            let mut ways = Vec::new();
            all_ways(at, at, 0, &segments, &mut ways);
            let end = ways.iter().map(|(end, _)| *end).max().unwrap();
            let objects = ways.iter().filter(|way| way.0 == end).map(|way| way.1).min().unwrap();

            let chain = SegmentChain::of(&stored(&[at], &segments), snapshot(at));
            let found = ranges(&chain);
            assert_eq!((chain.end().offset.get(), found.len()), (end, objects), "seed {seed}: {segments:?} from {at}");
            let mut here = at;
            for (start, end) in &found {
                assert_eq!((*start).max(at), here, "seed {seed}: {found:?} from {at}");
                here = *end;
            }
            assert_eq!(chain.gap.is_some(), segments.iter().any(|(_, e)| *e > end), "seed {seed}");
        }
    }
}

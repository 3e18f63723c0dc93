//! Which stored segments continue a copy, and which of them make one transaction of it. Pure.

use crate::format::chain::continuation;
use crate::format::key::{Key, SegmentKey};
use crate::format::listing::Listing;
use crate::format::position::Position;
use crate::store::Entry;

/// Bytes that are stored after the position; none if what is stored does not lead on from there.
pub fn stored_after(listing: &Listing, at: &Position) -> Option<u64> {
    news(listing, at).map(|segments| bytes(&segments))
}

/// What is stored after the position; none if it does not lead on from there.
pub(super) fn news(listing: &Listing, at: &Position) -> Option<Vec<(SegmentKey, u64)>> {
    let (newest, stored) = listing.generations().next_back()?;
    if newest != at.generation {
        return None;
    }
    continuation(stored, at.wal_position)
}

/// The objects of these that continue a copy at a position, which were stored in this order; none where they do not join.
pub(super) fn following(entries: &[Entry], mut at: Position) -> Option<Vec<(SegmentKey, u64)>> {
    let mut segments = Vec::new();
    for entry in entries {
        match use_of(&entry.name, &at) {
            Use::Nothing => {}
            Use::Look => return None,
            Use::Apply(key) => {
                at.wal_position = key.end;
                segments.push((key, entry.size));
            }
        }
    }
    Some(segments)
}

/// Splits segments where a transaction of the copy ends: at the end of one of the database, once there are so many bytes.
pub(super) fn transactions(segments: &[(SegmentKey, u64)], least: u64) -> impl Iterator<Item = &[(SegmentKey, u64)]> {
    let mut bytes = 0;
    segments.chunk_by(move |(key, size), _| {
        bytes += size;
        let joins = key.part || bytes < least;
        bytes = if joins { bytes } else { 0 };
        joins
    })
}

/// What an object is to a copy at a position.
#[derive(PartialEq, Eq, Debug)]
enum Use {
    /// It tells nothing new, or not all of a transaction.
    Nothing,
    /// It continues the copy.
    Apply(SegmentKey),
    /// It does not join.
    Look,
}

fn use_of(name: &str, at: &Position) -> Use {
    match Key::parse(name) {
        None => Use::Nothing,
        Some(Key::Snapshot(key)) if key.generation == at.generation => Use::Nothing,
        Some(Key::Segment(key)) if key.generation == at.generation => match key.leads_on_from(at.wal_position) {
            _ if key.end <= at.wal_position || key.part => Use::Nothing,
            true => Use::Apply(key),
            false => Use::Look,
        },
        Some(_) => Use::Look,
    }
}

pub(super) fn bytes(segments: &[(SegmentKey, u64)]) -> u64 {
    segments.iter().map(|(_, size)| size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{GENERATION, millis, point};
    use crate::format::key::SnapshotKey;
    use crate::format::position::Generation;

    #[test]
    fn an_object_is_applied_only_where_it_continues_the_copy() {
        let generation = Generation::new(GENERATION);
        let at = Position { generation, wal_position: point(1, 100) };
        let segment = |generation, start, end, part| {
            let (first_seen, last_seen) = (millis(1), millis(2));
            SegmentKey { generation, start: point(1, start), end: point(1, end), first_seen, last_seen, part }
        };
        let use_of = |key: SegmentKey| use_of(&key.to_string(), &at);
        for (start, end) in [(100, 200), (50, 200)] {
            let key = segment(generation, start, end, false);
            assert_eq!(use_of(key), Use::Apply(key));
        }
        assert_eq!(use_of(segment(generation, 50, 100, false)), Use::Nothing);
        assert_eq!(use_of(segment(generation, 100, 200, true)), Use::Nothing);
        assert_eq!(use_of(segment(generation, 150, 200, false)), Use::Look);
        // A rollup has no state between its ends.
        let rollup = |start| SegmentKey { first_seen: SegmentKey::ROLLUP, ..segment(generation, start, 200, false) };
        assert_eq!(use_of(rollup(50)), Use::Look);
        assert_eq!(use_of(rollup(100)), Use::Apply(rollup(100)));
        let other = Generation::new(GENERATION + 1);
        assert_eq!(use_of(segment(other, 100, 200, false)), Use::Look);
        let snapshot = |generation| SnapshotKey { generation, position: point(1, 300), time: millis(3) }.to_string();
        assert_eq!(super::use_of(&snapshot(generation), &at), Use::Nothing);
        assert_eq!(super::use_of(&snapshot(other), &at), Use::Look);
        assert_eq!(super::use_of("something/else", &at), Use::Nothing);
        let entry = |key: SegmentKey| Entry { name: key.to_string(), size: 7, whole: true };
        let [first, second] = [(100, 200), (200, 300)].map(|(start, end)| segment(generation, start, end, false));
        assert_eq!(following(&[entry(first), entry(second)], at), Some(vec![(first, 7), (second, 7)]));
        assert_eq!(following(&[entry(second), entry(first)], at), None);
    }

    #[test]
    fn small_segments_are_applied_together_and_parts_are_not_split() {
        let generation = Generation::new(GENERATION);
        let segment = |(start, size, part)| {
            let (first_seen, last_seen) = (millis(1), millis(2));
            let key = SegmentKey {
                generation,
                start: point(1, start),
                end: point(1, start + 100),
                first_seen,
                last_seen,
                part,
            };
            (key, size)
        };
        let segments =
            [(0, 4, false), (100, 4, false), (200, 4, false), (300, 9, true), (400, 9, true), (500, 1, false)];
        let segments = segments.map(segment);
        let lengths = |least| transactions(&segments, least).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(0), [1, 1, 1, 3]);
        assert_eq!(lengths(8), [2, 4]);
        assert_eq!(lengths(1000), [6]);
    }
}

//! Compares what a restore of the newest state would give with the position that a replicator has stored.
//!
//! The planner of `restore` decides here too, so that the two cannot disagree. A replicator may call its work stored only
//! while this says [`LatestRestore::AtPosition`] of a fresh listing.

use std::collections::HashSet;
use std::fmt;

use crate::format::chain::SegmentChain;
use crate::format::key::Key;
use crate::format::listing::{GenerationObjects, Listing};
use crate::format::plan::{Plan, PlanTarget, plan};
use crate::format::position::{Generation, Position, WalPosition};

/// What `restore` without a target would give now, seen from the position that a replicator has stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LatestRestore {
    /// Exactly that position.
    AtPosition,
    /// Another generation: its number is greater, and it has a snapshot. Whether it can be restored does not matter.
    OtherGeneration { generation: Generation, example: Key },
    /// The replicator's generation has no snapshot. `instead` is what a restore takes.
    NoSnapshot { instead: Option<Generation> },
    /// An error: an object is missing on the way. `what` names it.
    Gap { what: String },
    /// The replicator's generation, but only up to `end`, and nothing that is stored leads further.
    EndsBefore { end: WalPosition },
    /// The same, because the segments from `end` on are the beginning of a transaction whose end is not stored.
    TransactionUnfinished { end: WalPosition },
    /// The replicator's generation, and more than it knows of: another process wrote it, or an upload arrived whose
    /// acknowledgement did not.
    EndsAfter { end: WalPosition },
}

impl LatestRestore {
    /// A restore gives exactly the position.
    pub fn is_exact(&self) -> bool {
        *self == LatestRestore::AtPosition
    }
}

/// An object that a restore of the newest state reads, and that is `incomplete`.
pub fn incomplete_object(listing: &Listing, incomplete: &HashSet<Key>) -> Option<Key> {
    let plan = plan(listing, None, &PlanTarget::Latest).ok().filter(|_| !incomplete.is_empty())?;
    let segments = plan.segments.iter().map(|(key, _)| Key::Segment(*key));
    [Key::Snapshot(plan.snapshot)].into_iter().chain(segments).find(|key| incomplete.contains(key))
}

/// Judges a listing of everything below the prefix. `position` is the end of what the replicator has stored.
pub fn latest_restore(listing: &Listing, position: &Position) -> LatestRestore {
    match plan(listing, None, &PlanTarget::Latest) {
        Ok(plan) => compare_end(listing, &plan, position),
        Err(error) => plan_error(listing, error.message(), position),
    }
}

fn compare_end(listing: &Listing, plan: &Plan, position: &Position) -> LatestRestore {
    let chosen = plan.snapshot.generation;
    if chosen != position.generation {
        return other_generation(listing, chosen, position);
    }
    let end = plan.segments.last().map_or(plan.snapshot.position, |(key, _)| key.end);
    if end == position.wal_position {
        return LatestRestore::AtPosition;
    }
    if end > position.wal_position {
        return LatestRestore::EndsAfter { end };
    }
    let chain = listing.generation(chosen).and_then(SegmentChain::newest);
    match chain.is_some_and(|chain| chain.end() >= position.wal_position) {
        true => LatestRestore::TransactionUnfinished { end },
        false => LatestRestore::EndsBefore { end },
    }
}

/// `restore` fails. The generation that it chose is the newest one with a snapshot.
fn plan_error(listing: &Listing, what: &str, position: &Position) -> LatestRestore {
    let mut newest = listing.generations().rev().filter(|(_, stored)| !stored.snapshots.is_empty());
    match newest.next() {
        None => LatestRestore::NoSnapshot { instead: None },
        Some((chosen, _)) if chosen != position.generation => other_generation(listing, chosen, position),
        Some(_) => LatestRestore::Gap { what: what.to_string() },
    }
}

fn other_generation(listing: &Listing, chosen: Generation, position: &Position) -> LatestRestore {
    let example = listing.generation(chosen).and_then(GenerationObjects::example);
    match example.filter(|_| chosen > position.generation) {
        Some(example) => LatestRestore::OtherGeneration { generation: chosen, example },
        None => LatestRestore::NoSnapshot { instead: Some(chosen) },
    }
}

impl fmt::Display for LatestRestore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LatestRestore::AtPosition => write!(f, "a restore gives exactly what is stored"),
            LatestRestore::OtherGeneration { generation, example } => {
                write!(f, "a restore takes generation {generation}, which is newer, because of {example}")
            }
            LatestRestore::NoSnapshot { instead: Some(instead) } => {
                write!(f, "the generation has no snapshot, and a restore takes generation {instead}")
            }
            LatestRestore::NoSnapshot { instead: None } => write!(f, "no snapshot is stored"),
            LatestRestore::Gap { what } => write!(f, "a restore fails: {what}"),
            LatestRestore::EndsBefore { end } => {
                write!(f, "a restore ends at {end}: what was stored after it is missing")
            }
            LatestRestore::TransactionUnfinished { end } => {
                write!(f, "a restore ends at {end}: the transaction after it is not stored completely")
            }
            LatestRestore::EndsAfter { end } => write!(f, "a restore ends at {end}, which is later"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{Random, millis, point};
    use crate::format::key::{SegmentKey, SnapshotKey};

    const OURS: u64 = 5;

    fn id(generation: u64) -> Generation {
        Generation::new(generation)
    }

    fn snapshot(generation: u64, at: u64) -> Key {
        Key::Snapshot(SnapshotKey { generation: id(generation), position: point(0, at), time: millis(at) })
    }

    fn segment(generation: u64, start: u64, end: u64) -> Key {
        let (start, end, first, last) = (point(0, start), point(0, end), millis(start), millis(end));
        Key::Segment(SegmentKey {
            generation: id(generation),
            start,
            end,
            first_seen: first,
            last_seen: last,
            part: false,
        })
    }

    fn part(generation: u64, start: u64, end: u64) -> Key {
        match segment(generation, start, end) {
            Key::Segment(key) => Key::Segment(SegmentKey { part: true, ..key }),
            key => key,
        }
    }

    fn listing(keys: &[Key]) -> Listing {
        Listing::new(keys.iter().map(|key| (key.to_string(), 1)))
    }

    fn at(offset: u64) -> Position {
        Position { generation: id(OURS), wal_position: point(0, offset) }
    }

    fn other(key: Key) -> LatestRestore {
        LatestRestore::OtherGeneration { generation: key.generation(), example: key }
    }

    #[test]
    fn latest_restore_tells_what_is_in_the_way_of_the_position() {
        let ours = [snapshot(OURS, 0), segment(OURS, 0, 10), segment(OURS, 10, 20)];
        let with = |more: &[Key]| [&ours[..], more].concat();
        let gap = "generation 0000000000000005: no segment begins at 00000000:000000000014; \
                   the next stored one begins at 00000000:00000000001e";
        let table = [
            (ours.to_vec(), 20, LatestRestore::AtPosition),
            (vec![snapshot(OURS, 20)], 20, LatestRestore::AtPosition),
            (with(&[snapshot(4, 0), segment(4, 0, 90)]), 20, LatestRestore::AtPosition),
            // `restore` passes over a newer generation that has no snapshot.
            (with(&[segment(6, 0, 9)]), 20, LatestRestore::AtPosition),
            (with(&[snapshot(6, 7)]), 20, other(snapshot(6, 7))),
            (with(&[snapshot(u64::MAX, 7), segment(u64::MAX, 8, 9)]), 20, other(snapshot(u64::MAX, 7))),
            (vec![snapshot(6, 7)], 20, other(snapshot(6, 7))),
            (vec![], 20, LatestRestore::NoSnapshot { instead: None }),
            (vec![segment(OURS, 0, 20)], 20, LatestRestore::NoSnapshot { instead: None }),
            (vec![segment(OURS, 0, 20), snapshot(4, 0)], 20, LatestRestore::NoSnapshot { instead: Some(id(4)) }),
            (vec![snapshot(4, 0), segment(4, 8, 9)], 20, LatestRestore::NoSnapshot { instead: Some(id(4)) }),
            (with(&[segment(OURS, 30, 40)]), 40, LatestRestore::Gap { what: gap.to_string() }),
            (ours.to_vec(), 30, LatestRestore::EndsBefore { end: point(0, 20) }),
            (with(&[part(OURS, 20, 30)]), 30, LatestRestore::TransactionUnfinished { end: point(0, 20) }),
            (with(&[part(OURS, 20, 30)]), 40, LatestRestore::EndsBefore { end: point(0, 20) }),
            (with(&[part(OURS, 20, 30)]), 20, LatestRestore::AtPosition),
            (ours.to_vec(), 10, LatestRestore::EndsAfter { end: point(0, 20) }),
        ];
        for (keys, offset, expected) in table {
            let found = latest_restore(&listing(&keys), &at(offset));
            assert_eq!(found, expected, "{keys:?}");
            assert_eq!(found.is_exact(), expected == LatestRestore::AtPosition);
        }
    }

    #[test]
    fn latest_restore_is_exact_only_if_the_plan_ends_there() {
        for seed in 0..3000 {
            let mut random = Random(seed);
            let keys: Vec<_> = (0..random.below(8))
                .map(|_| {
                    let (generation, start) = (OURS - 1 + random.below(3), random.below(4));
                    match random.below(4) {
                        0 => snapshot(generation, start),
                        1 => part(generation, start, start + 1),
                        _ => segment(generation, start, start + 1 + random.below(2)),
                    }
                })
                .collect();
            let (listing, position) = (listing(&keys), at(random.below(6)));
            let planned = plan(&listing, None, &PlanTarget::Latest).ok();
            let end = planned.map(|plan| {
                let end = plan.segments.last().map_or(plan.snapshot.position, |(key, _)| key.end);
                Position { generation: plan.snapshot.generation, wal_position: end }
            });
            assert_eq!(latest_restore(&listing, &position).is_exact(), end == Some(position), "{seed}: {keys:?}");
        }
    }

    #[test]
    fn latest_restore_names_an_object_of_the_generation_in_the_way() {
        let found = latest_restore(&listing(&[snapshot(OURS, 0), snapshot(u64::MAX, 1)]), &at(0));
        let text = "a restore takes generation ffffffffffffffff, which is newer, because of \
                    generations/ffffffffffffffff/snapshots/00000000.000000000001-19700101T000000.001Z.gz";
        assert_eq!(found.to_string(), text);
    }
}

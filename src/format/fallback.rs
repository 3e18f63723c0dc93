//! What else can be restored where the snapshot that a plan begins with turns out to be damaged.

use crate::error::Kind;
use crate::format::chain::SegmentChain;
use crate::format::key::SnapshotKey;
use crate::format::listing::{GenerationObjects, Listing};
use crate::format::plan_objects::{Plan, at_time};
use crate::format::position::Generation;
use crate::format::time::Timestamp;

/// What the operator can do without the snapshot of `plan`, which was made within `generation` if there is one: as words
/// for a hint.
pub fn fallback_hint(listing: &Listing, generation: Option<Generation>, plan: &Plan) -> String {
    let snapshot = &plan.snapshot;
    let before = older_moment(listing, generation, snapshot);
    let stored = listing.generation(snapshot.generation);
    let as_far = stored.and_then(|stored| equivalent_older_snapshot(stored, plan));
    match (before, as_far) {
        (Some(before), Some(older)) => {
            format!("{before}; if you remove that object from the store, the snapshot of {older} reaches as far")
        }
        (Some(before), None) => before,
        _ => stored
            .and_then(|stored| newer_snapshot(stored, snapshot))
            .unwrap_or_else(|| other_generation(listing, snapshot)),
    }
}

/// The newest moment before it, which needs an older snapshot.
fn older_moment(listing: &Listing, generation: Option<Generation>, snapshot: &SnapshotKey) -> Option<String> {
    let moment = Timestamp::from_millis(snapshot.time.millis().checked_sub(1)?);
    match at_time(listing, generation, moment) {
        Ok(_) => Some(format!("-timestamp {moment} restores the state before it")),
        // There is a gap on the way.
        Err(error) if error.kind() == Kind::Corrupt => error.hint().map(str::to_string),
        Err(_) => None,
    }
}

/// An older snapshot from which the segments lead as far. A restore begins with the newest one that fits.
fn equivalent_older_snapshot(stored: &GenerationObjects, plan: &Plan) -> Option<Timestamp> {
    let end = plan.segments.last().map_or(plan.snapshot.position, |(key, _)| key.end);
    let older = stored
        .snapshots
        .iter()
        .rev()
        .find(|(key, _)| (key.position, key.time) < (plan.snapshot.position, plan.snapshot.time));
    older.filter(|older| SegmentChain::of(stored, **older).end() >= end).map(|(key, _)| key.time)
}

fn newer_snapshot(stored: &GenerationObjects, snapshot: &SnapshotKey) -> Option<String> {
    let newer = stored.snapshots.iter().find(|(key, _)| key.time > snapshot.time);
    newer.map(|(key, _)| format!("-timestamp {} restores the oldest state that does not need it", key.time))
}

fn other_generation(listing: &Listing, snapshot: &SnapshotKey) -> String {
    let other =
        |id: &Generation, stored: &GenerationObjects| *id != snapshot.generation && !stored.snapshots.is_empty();
    match listing.generations().rev().find(|(id, stored)| other(id, stored)) {
        Some((id, _)) => format!("-generation {id} restores the latest state of another generation"),
        None => "there is no other snapshot: take one of the live database with `snapshot`".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{millis, point};
    use crate::format::key::SegmentKey;
    use crate::format::plan::{PlanTarget, plan};

    fn snapshot(generation: u64, at: u64, time: u64) -> (String, u64) {
        let key = SnapshotKey { generation: Generation::new(generation), position: point(0, at), time: millis(time) };
        (key.to_string(), 100)
    }

    /// Seen at its end.
    fn segment(generation: u64, start: u64, end: u64) -> (String, u64) {
        let (first, last) = (millis(end), millis(end));
        let (start, end) = (point(0, start), point(0, end));
        let key = SegmentKey {
            generation: Generation::new(generation),
            start,
            end,
            first_seen: first,
            last_seen: last,
            part: false,
        };
        (key.to_string(), 10)
    }

    fn hint(entries: &[(String, u64)], generation: Option<u64>, target: PlanTarget) -> String {
        let (listing, generation) = (Listing::new(entries.to_vec()), generation.map(Generation::new));
        plan(&listing, generation, &target).unwrap().fallback_hint
    }

    #[test]
    fn fallback_names_the_older_moment_and_equal_snapshot() {
        let mut entries =
            vec![snapshot(1, 0, 5), segment(1, 0, 10), segment(1, 10, 20), snapshot(1, 20, 25), segment(1, 20, 30)];
        let before = "-timestamp 1970-01-01T00:00:00.024Z restores the state before it";
        let older =
            "; if you remove that object from the store, the snapshot of 1970-01-01T00:00:00.005Z reaches as far";
        assert_eq!(hint(&entries, None, PlanTarget::Latest), format!("{before}{older}"));
        entries.remove(4);
        entries.push(snapshot(2, 40, 40));
        assert_eq!(hint(&entries, None, PlanTarget::Latest), before.replace("024", "039"));
        // With a gap before it, no further than that.
        entries.remove(2);
        let gap = "-timestamp 1970-01-01T00:00:00.010Z restores the latest state before the gap";
        assert_eq!(hint(&entries, Some(1), PlanTarget::Time(millis(25))), gap);
    }

    #[test]
    fn without_anything_before_it_what_is_behind_it_is_named() {
        let mut entries = vec![snapshot(1, 0, 5), segment(1, 0, 10)];
        let alone = "there is no other snapshot: take one of the live database with `snapshot`";
        assert_eq!(hint(&entries, None, PlanTarget::Latest), alone);
        entries.push(snapshot(2, 40, 40));
        let other = "-generation 0000000000000002 restores the latest state of another generation";
        assert_eq!(hint(&entries, Some(1), PlanTarget::Latest), other);
        entries.push(snapshot(1, 10, 15));
        let behind = "-timestamp 1970-01-01T00:00:00.015Z restores the oldest state that does not need it";
        assert_eq!(hint(&entries, None, PlanTarget::Time(millis(10))), behind);
    }
}

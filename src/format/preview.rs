//! What compaction and retention would do to what is stored, without doing it.

use std::collections::HashSet;

use crate::format::compaction::{merged_key, next_group};
use crate::format::keep::Keep;
use crate::format::key::{Key, SegmentKey};
use crate::format::listing::{Listing, latest_time};
use crate::format::retention::{Policy, clock_distrust, plan_deletions, restore_path};
use crate::format::thinning::{leads_to_the_same, plan_thinning};
use crate::format::time::Timestamp;

/// What one pass would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Preview {
    /// Segments that a restore may read, now and after merging.
    pub segments: usize,
    pub segments_after: usize,
    /// Rollups that would be made.
    pub rollups: usize,
    /// States that can be restored, as the names tell: one at the end of each segment. Now and afterwards.
    pub states: usize,
    pub states_after: usize,
    /// Objects that go, and their bytes as stored. Those that become rollups go in a later pass.
    pub delete: usize,
    pub delete_bytes: u64,
    /// The first moment that can be restored, now and afterwards.
    pub first: Option<Timestamp>,
    pub first_after: Option<Timestamp>,
    /// Why nothing is deleted.
    pub skipped_reason: Option<&'static str>,
}

/// Plans one pass over `listing`.
pub fn preview(listing: &Listing, policy: Policy, now: Timestamp) -> Preview {
    let thinned = policy.keep.and_then(|keep| thinned(listing, &keep, now));
    let begun = thinned.as_ref().unwrap_or(listing);
    let deletions = plan_deletions(begun, policy, now);
    let after = begun.without(&deletions.delete.iter().copied().collect());
    let stay: HashSet<Key> = objects(&after).map(|(key, _)| key).collect();
    let gone: Vec<u64> = objects(listing).filter(|(key, _)| !stay.contains(key)).map(|(_, size)| size).collect();
    let rollups = |listing: &Listing| objects(listing).filter(|(key, _)| is_rollup(key)).count();
    Preview {
        rollups: rollups(begun).saturating_sub(rollups(listing)),
        states: states(listing),
        states_after: states(&after),
        segments: chains(listing).map(|chain| chain.len()).sum(),
        segments_after: chains(&after).map(|chain| merged_chain(chain).len()).sum(),
        delete: gone.len(),
        delete_bytes: gone.into_iter().sum(),
        first: first_moment(listing),
        first_after: first_moment(&after),
        skipped_reason: deletions.skipped_reason,
    }
}

fn objects(listing: &Listing) -> impl Iterator<Item = (Key, u64)> + '_ {
    listing.generations().flat_map(|(_, stored)| {
        let snapshots = stored.snapshots.iter().map(|(key, size)| (Key::Snapshot(*key), *size));
        snapshots.chain(stored.segments.iter().map(|(key, size)| (Key::Segment(*key), *size)))
    })
}

fn is_rollup(key: &Key) -> bool {
    matches!(key, Key::Segment(key) if key.is_rollup())
}

/// What thinning would leave, each rollup as large as what it is made of; none while the clock is not believed.
fn thinned(listing: &Listing, keep: &Keep, now: Timestamp) -> Option<Listing> {
    let newest = latest_time(listing)?;
    if clock_distrust(newest, Some(keep.all), now).is_some() {
        return None;
    }
    let superfluous = plan_thinning(listing, keep, now).into_iter().flat_map(|plan| plan.superfluous);
    let superfluous = superfluous.map(Key::Snapshot).collect();
    let without = listing.without(&superfluous);
    let mut thinned = if leads_to_the_same(listing, &without, keep, now) { without } else { listing.clone() };
    for plan in plan_thinning(&thinned, keep, now) {
        let groups = plan.groups.iter().filter_map(|range| plan.chain.segments.get(range.clone()));
        let made: Vec<(Key, u64)> = groups.clone().filter_map(rolled_up).collect();
        let replaced: HashSet<Key> = groups.flatten().map(|(key, _)| Key::Segment(*key)).collect();
        let stay = thinned.without(&replaced);
        thinned = Listing::new(objects(&stay).chain(made).map(|(key, size)| (key.to_string(), size)));
    }
    Some(thinned)
}

fn rolled_up(group: &[(SegmentKey, u64)]) -> Option<(Key, u64)> {
    let ((first, _), (last, _)) = (group.first()?, group.last()?);
    let key = SegmentKey { start: first.start, first_seen: SegmentKey::ROLLUP, ..*last };
    Some((Key::Segment(key), group.iter().map(|(_, size)| size).sum()))
}

/// The oldest snapshot's, and the one at the end of each segment that ends a transaction.
fn states(listing: &Listing) -> usize {
    let of = |chain: Vec<(SegmentKey, u64)>| 1 + chain.iter().filter(|(key, _)| !key.part).count();
    listing
        .generations()
        .filter(|(_, stored)| !stored.snapshots.is_empty())
        .map(|(_, stored)| of(restore_path(stored)))
        .sum()
}

fn chains(listing: &Listing) -> impl Iterator<Item = Vec<(SegmentKey, u64)>> + '_ {
    listing.generations().map(|(_, stored)| restore_path(stored))
}

fn merged_chain(mut chain: Vec<(SegmentKey, u64)>) -> Vec<(SegmentKey, u64)> {
    while let Some(range) = next_group(&chain, true) {
        let Some(group) = chain.get(range.clone()) else { break };
        let Some(key) = merged_key(group) else { break };
        let bytes = group.iter().map(|(_, size)| size).sum();
        chain.splice(range, [(key, bytes)]);
    }
    chain
}

fn first_moment(listing: &Listing) -> Option<Timestamp> {
    listing.generations().filter_map(|(_, stored)| stored.first_snapshot()).min()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::format::fixtures::{GENERATION, millis, point};
    use crate::format::key::SnapshotKey;
    use crate::format::position::Generation;

    #[test]
    fn a_pass_is_planned_with_what_it_merges_and_deletes() {
        let generation = Generation::new(GENERATION);
        let second = 1000;
        let snapshot = |at: u64| {
            Key::Snapshot(SnapshotKey { generation, position: point(0, at), time: millis(at * second) }).to_string()
        };
        let segment = |at: u64| {
            let seen = millis((at + 1) * second);
            let (start, end) = (point(0, at), point(0, at + 1));
            let key = SegmentKey { generation, start, end, first_seen: seen, last_seen: seen, part: false };
            Key::Segment(key).to_string()
        };
        let mut names: Vec<(String, u64)> = (0..600).map(|at| (segment(at), 10)).collect();
        names.extend([(snapshot(0), 100), (snapshot(300), 100)]);
        let listing = Listing::new(names);
        let keep_all = Policy { retention: None, keep: None, grace: Duration::ZERO };
        let planned = preview(&listing, keep_all, millis(600 * second));
        assert_eq!((planned.segments, planned.delete, planned.first_after), (600, 0, Some(millis(0))));
        assert!(planned.segments_after < 60, "{planned:?}");
        let short = Policy { retention: Some(Duration::from_secs(200)), keep: None, grace: Duration::ZERO };
        let planned = preview(&listing, short, millis(600 * second));
        assert_eq!((planned.first, planned.first_after), (Some(millis(0)), Some(millis(300 * second))));
        // The first snapshot, and the segments that end before the second.
        assert_eq!((planned.delete, planned.delete_bytes), (300, 100 + 299 * 10));
        assert_eq!((planned.states, planned.states_after), (601, 301));
        let wrong = preview(&listing, short, millis(0));
        assert!(wrong.skipped_reason.is_some() && wrong.delete == 0);
        // Two commits an hour, of which one is kept after an hour.
        let hour = Duration::from_secs(3600);
        let keep = Keep::new([Some(hour), Some(1000 * hour), None, None, None]).unwrap();
        let thinning = Policy { retention: Some(1000 * hour), keep: Some(keep), grace: Duration::ZERO };
        let planned = preview(&listing, thinning, millis(600 * second));
        assert_eq!((planned.rollups, planned.states_after), (0, 601), "all of it is younger: {planned:?}");
    }

    #[test]
    fn what_a_policy_does_not_keep_is_counted_in_states_and_bytes() {
        let generation = Generation::new(GENERATION);
        let half = 1_800_000;
        let snapshot = SnapshotKey { generation, position: point(0, 0), time: millis(0) };
        let segment = |at: u64| {
            let seen = millis((at + 1) * half);
            let (start, end) = (point(0, at), point(0, at + 1));
            SegmentKey { generation, start, end, first_seen: seen, last_seen: seen, part: false }
        };
        let segments = (0..40).map(|at| (Key::Segment(segment(at)).to_string(), 10));
        let listing = Listing::new(segments.chain([(Key::Snapshot(snapshot).to_string(), 100)]));
        let hour = Duration::from_secs(3600);
        let keep = Keep::new([Some(2 * hour), Some(1000 * hour), None, None, None]).unwrap();
        let policy = Policy { retention: Some(1000 * hour), keep: Some(keep), grace: Duration::ZERO };
        let planned = preview(&listing, policy, millis(40 * half));
        // The first commit is alone in its hour; of the 40, five are younger than two hours.
        assert_eq!((planned.states, planned.rollups), (41, 17), "{planned:?}");
        assert_eq!((planned.delete, planned.delete_bytes, planned.states_after), (34, 340, 24), "{planned:?}");
        let early = preview(&listing, policy, millis(0));
        assert_eq!((early.rollups, early.delete), (0, 0), "the clock is behind");
    }
}

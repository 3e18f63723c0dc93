//! What compaction and retention would do to what is stored, without doing it.

use crate::format::compaction::{merged_key, next_group};
use crate::format::key::{Key, SegmentKey};
use crate::format::listing::Listing;
use crate::format::retention::{Policy, plan_deletions, restore_path};
use crate::format::time::Timestamp;

/// What one pass would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Preview {
    /// Segments that a restore may read, now and after merging.
    pub segments: usize,
    pub segments_after: usize,
    /// Objects to delete, and their bytes as stored.
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
    let deletions = plan_deletions(listing, policy, now);
    let gone = deletions.delete.iter().copied().collect();
    let after = listing.without(&gone);
    let sizes = listing.generations().flat_map(|(_, stored)| {
        let snapshots = stored.snapshots.iter().map(|(key, size)| (Key::Snapshot(*key), *size));
        snapshots.chain(stored.segments.iter().map(|(key, size)| (Key::Segment(*key), *size)))
    });
    Preview {
        segments: chains(listing).map(|chain| chain.len()).sum(),
        segments_after: chains(&after).map(|chain| merged_chain(chain).len()).sum(),
        delete: deletions.delete.len(),
        delete_bytes: sizes.filter(|(key, _)| gone.contains(key)).map(|(_, size)| size).sum(),
        first: first_moment(listing),
        first_after: first_moment(&after),
        skipped_reason: deletions.skipped_reason,
    }
}

fn chains(listing: &Listing) -> impl Iterator<Item = Vec<(SegmentKey, u64)>> + '_ {
    listing.generations().map(|(_, stored)| restore_path(stored))
}

fn merged_chain(mut chain: Vec<(SegmentKey, u64)>) -> Vec<(SegmentKey, u64)> {
    while let Some(places) = next_group(&chain, true) {
        let Some(group) = chain.get(places.clone()) else { break };
        let Some(key) = merged_key(group) else { break };
        let bytes = group.iter().map(|(_, size)| size).sum();
        chain.splice(places, [(key, bytes)]);
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
        let wrong = preview(&listing, short, millis(0));
        assert!(wrong.skipped_reason.is_some() && wrong.delete == 0);
    }
}

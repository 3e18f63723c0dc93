//! Snapshots that may go: without them, what is kept is restored all the same, and not at too high a price.
//!
//! A rollup may lead over the point of a snapshot: it was made by a listing without that snapshot. No segment leads to the
//! snapshot then, but the way along the segments and the way from the snapshot meet later. If they have the same database
//! there, nothing is lost with a snapshot whose own state is not kept.

use std::time::Duration;

use crate::format::chain::{OBJECT_COST, SegmentChain};
use crate::format::keep::Keep;
use crate::format::key::SnapshotKey;
use crate::format::listing::GenerationObjects;
use crate::format::position::WalPosition;
use crate::format::time::Timestamp;

/// What a restore may read after a snapshot of so many bytes. Less than an object costs saves nothing.
pub(super) fn most_behind(snapshot: u64) -> u64 {
    (snapshot / 2).max(OBJECT_COST)
}

/// The first point at which the ways with and without a snapshot are the same again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeetingPoint {
    pub at: WalPosition,
    /// The way from the snapshot.
    pub way: SegmentChain,
}

/// Where `chain`, which leads over the point of a snapshot, meets the way from there: at that point, if it leads to it. None if
/// there is no such place.
pub fn meeting_point(
    chain: &SegmentChain,
    stored: &GenerationObjects,
    snapshot: (SnapshotKey, u64),
) -> Option<MeetingPoint> {
    let (way, own) = (SegmentChain::of(stored, snapshot), snapshot.0.position);
    let leads_to = |way: &SegmentChain, at| at <= way.end() && way.rollup_over(at).is_none();
    let ends = chain.segments.iter().filter(|(key, _)| !key.part && key.end > own).map(|(key, _)| key.end);
    let own = Some(own).filter(|own| leads_to(chain, *own));
    let at = own.into_iter().chain(ends).find(|at| leads_to(&way, *at))?;
    Some(MeetingPoint { at, way })
}

/// Snapshots that are old enough, and without which a restore is cheap, or of states that are not kept.
pub(super) fn superfluous_snapshots(
    chain: &SegmentChain,
    stored: &GenerationObjects,
    (keep, reference): (&Keep, Timestamp),
    is_kept: impl Fn(&SnapshotKey) -> bool,
) -> Vec<SnapshotKey> {
    let mut found = Vec::new();
    let (mut before, end) = ((chain.snapshot.0.position, chain.snapshot.1), chain.end());
    let newest = stored.snapshots.last().map(|(key, _)| *key);
    let snapshots = || stored.snapshots.iter().skip(1).filter(|(key, _)| key.position <= end);
    let nexts = snapshots().skip(1).map(|(key, _)| key.position).chain([end]);
    for ((key, size), next) in snapshots().zip(nexts) {
        // Without it, states up to the next one are restored from the one before.
        let between = chain.segments.iter().filter(|(segment, _)| segment.end > before.0 && segment.start < next);
        let bytes: u64 = between.map(|(_, size)| size).sum();
        let old = !keep.keeps_all(reference, key.time);
        let expires = reference.since(key.time) + margin(keep) > keep.longest();
        let unneeded = match chain.rollup_over(key.position) {
            Some(over) => {
                !keep.keeps(reference, key.time, over.last_seen)
                    && meeting_point(chain, stored, (*key, *size)).is_some()
            }
            None => bytes <= most_behind(before.1) || !is_kept(key),
        };
        if unneeded && Some(*key) != newest && old && !expires {
            found.push(*key);
        } else {
            before = (key.position, *size);
        }
    }
    found
}

/// From the plan to delete a snapshot to its end, with the difference of two clocks.
fn margin(keep: &Keep) -> Duration {
    const DAY: Duration = Duration::from_secs(86_400);
    (keep.longest() / 10).min(DAY)
}

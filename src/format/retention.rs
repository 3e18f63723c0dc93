//! What may go: everything that no moment within retention needs, and what merging has made superfluous.
//!
//! What must hold, whatever is stored, and after any part of the deletions, in their order:
//!
//! * Every moment within retention, and the latest one, is restored from the same snapshot to the same commit as before.
//! * A moment before it is restored as before, or refused; a restore never ends earlier than it would have.
//!
//! So snapshots go first: without its snapshot, a half deleted generation is not taken for a short one. And before
//! anything goes, the plans over what stays are made and compared with those of today.

use std::collections::HashSet;
use std::time::Duration;

use crate::error::Result;
use crate::format::chain::SegmentChain;
use crate::format::keep::Keep;
use crate::format::key::{Key, SegmentKey, SnapshotKey};
use crate::format::listing::{GenerationObjects, Listing, latest_time};
use crate::format::plan::{Plan, PlanTarget, plan};
use crate::format::position::{Generation, WalPosition};
use crate::format::thinning::{kept_states, overlaps_partly, reference};
use crate::format::time::Timestamp;

/// What is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Any moment of this long can be restored. None: for ever.
    pub retention: Option<Duration>,
    /// What is kept of a longer history, if it is thinned out: then `retention` is the longest of that.
    pub keep: Option<Keep>,
    /// What a plan of this long ago needs is kept too, for a restore that is under way.
    pub grace: Duration,
}

/// What to do, or why nothing is done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Deletions {
    /// In this order.
    pub delete: Vec<Key>,
    /// What an operator should know.
    pub skipped_reason: Option<&'static str>,
}

/// Beyond so many retentions after the newest stored moment, the clock is not believed,
const MAX_CLOCK_LEAD: u32 = 10;
/// and never within this time: a monthly snapshot from cron is no wrong clock.
const MIN_CLOCK_LEAD: Duration = Duration::from_secs(35 * 86_400);

/// Clocks of two machines differ by so much without being wrong: what is stored may be a little ahead of ours.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(300);

const CLOCK_BEHIND: &str = "the clock is behind the newest stored moment";
const CLOCK_AHEAD: &str = "the clock is far ahead of the newest stored moment";
const UNPROVEN: &str = "the remaining objects would not give the same restores";

/// Decides what of `listing` may be deleted.
pub fn plan_deletions(listing: &Listing, policy: Policy, now: Timestamp) -> Deletions {
    let Some(newest) = latest_time(listing) else { return Deletions::default() };
    let trusted = policy.keep.map(|keep| keep.all).or(policy.retention);
    if let Some(refused) = clock_distrust(newest, trusted, now) {
        return Deletions { delete: Vec::new(), skipped_reason: Some(refused) };
    }
    let horizon = policy.retention.map(|retention| cutoff(now, retention + policy.grace).min(newest));
    let mut delete = horizon.map(|horizon| expired(listing, horizon)).unwrap_or_default();
    let known: HashSet<Key> = delete.iter().copied().collect();
    delete.extend(superseded(listing, cutoff(now, policy.grace)).into_iter().filter(|key| !known.contains(key)));
    let kept: Vec<Timestamp> = policy.keep.map(|keep| old_moments(listing, &keep, now)).unwrap_or_default();
    if delete.is_empty() || preserves_restores(listing, &delete, horizon, &kept) {
        return Deletions { delete, skipped_reason: None };
    }
    Deletions { delete: Vec::new(), skipped_reason: Some(UNPROVEN) }
}

/// The states that a policy keeps of the part of a history in which not every commit is kept.
fn old_moments(listing: &Listing, keep: &Keep, now: Timestamp) -> Vec<Timestamp> {
    let reference = reference(listing, now);
    let moments = kept_states(listing, keep, now).into_iter().map(|moment| moment.time);
    moments.filter(|time| !keep.keeps_all(reference, *time)).collect()
}

/// Why a clock cannot be believed, seen from the newest stored moment.
pub fn clock_distrust(newest: Timestamp, retention: Option<Duration>, now: Timestamp) -> Option<&'static str> {
    let far = retention.unwrap_or_default().saturating_mul(MAX_CLOCK_LEAD).max(MIN_CLOCK_LEAD);
    match () {
        () if now < newest.before(MAX_CLOCK_SKEW) => Some(CLOCK_BEHIND),
        () if now.since(newest) > far => Some(CLOCK_AHEAD),
        () => None,
    }
}

fn cutoff(now: Timestamp, time: Duration) -> Timestamp {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_millis(now.millis().saturating_sub(millis))
}

/// The snapshot that a restore of the horizon begins with: the oldest that is needed.
fn oldest_needed_snapshot(listing: &Listing, horizon: Timestamp) -> Option<SnapshotKey> {
    plan(listing, None, &PlanTarget::Time(horizon)).ok().map(|plan| plan.snapshot)
}

/// All that only moments before the horizon need: snapshots first, the oldest first.
fn expired(listing: &Listing, horizon: Timestamp) -> Vec<Key> {
    let Some(anchor) = oldest_needed_snapshot(listing, horizon) else { return Vec::new() };
    let (mut snapshots, mut segments) = (Vec::new(), Vec::new());
    for (generation, stored) in listing.generations() {
        if generation < anchor.generation && stored.latest_time() <= Some(horizon) {
            snapshots.extend(stored.snapshots.iter().map(|(key, _)| Key::Snapshot(*key)));
            segments.extend(stored.segments.iter().map(|(key, _)| Key::Segment(*key)));
        }
        if generation == anchor.generation {
            let old =
                stored.snapshots.iter().filter(|(key, _)| key.position < anchor.position && key.time <= anchor.time);
            snapshots.extend(old.map(|(key, _)| Key::Snapshot(*key)));
            segments.extend(objects_after(stored, anchor.position).map(Key::Segment));
        }
    }
    snapshots.extend(segments);
    snapshots
}

/// Segments that no chain from `at` needs. The one that ends there stays: a start reads it.
fn objects_after(stored: &GenerationObjects, at: WalPosition) -> impl Iterator<Item = SegmentKey> + '_ {
    stored.segments.iter().map(|(key, _)| *key).filter(move |key| key.end < at)
}

/// Segments that stand whole in a larger one, or were stored twice and seen at other times. Every chain takes the other one in
/// their place, and did so at `since` already.
fn superseded(listing: &Listing, since: Timestamp) -> Vec<Key> {
    let mut found = Vec::new();
    for (_, stored) in listing.generations() {
        let way = restore_path(stored);
        let crossing = crossing_rollups(stored);
        let mut larger = way.iter().map(|(key, _)| key).peekable();
        for (key, _) in &stored.segments {
            let apart = |of: &SegmentKey| !crossing.contains(of);
            while larger.next_if(|of| of.end < key.end).is_some() {}
            let replaces = |of: &SegmentKey| covers(of, key) && apart(of) && !leads_over_needed(of, key, stored);
            let covered = larger.peek().is_some_and(|of| replaces(of) && of.last_seen.max(key.last_seen) <= since);
            found.extend(covered.then_some(Key::Segment(*key)));
        }
    }
    found
}

/// A rollup leads over the point of a snapshot, from which a restore needs the smaller segment.
fn leads_over_needed(large: &SegmentKey, small: &SegmentKey, stored: &GenerationObjects) -> bool {
    let within = |at: WalPosition| large.start < at && at < large.end && at < small.end;
    large.is_rollup() && stored.snapshots.iter().any(|(key, _)| within(key.position))
}

/// What overlaps a rollup, or is one that is overlapped, and neither contains the other: two programs thinned or merged in
/// different ways at the same time. Each may have deleted what the other relies on, so neither replaces anything.
fn crossing_rollups(stored: &GenerationObjects) -> HashSet<SegmentKey> {
    let range = |key: &SegmentKey| (key.start, key.end);
    let rollups = stored.segments.iter().filter(|(key, _)| key.is_rollup());
    let mut found = HashSet::new();
    for (rollup, _) in rollups {
        for (other, _) in stored.segments.iter().filter(|(other, _)| overlaps_partly(range(rollup), range(other))) {
            found.extend([*rollup, *other]);
        }
    }
    found
}

/// The segments that a restore from the oldest snapshot reads, with their sizes: neighbours all.
pub fn restore_path(stored: &GenerationObjects) -> Vec<(SegmentKey, u64)> {
    let oldest = stored.snapshots.first();
    oldest.map(|oldest| SegmentChain::of(stored, *oldest).segments).unwrap_or_default()
}

fn covers(large: &SegmentKey, small: &SegmentKey) -> bool {
    if (large.start, large.end) == (small.start, small.end) {
        return large != small && large.part == small.part;
    }
    large.start <= small.start && small.end <= large.end && !large.part
}

/// Whether every plan that matters is the same without these.
fn preserves_restores(listing: &Listing, delete: &[Key], horizon: Option<Timestamp>, thinned: &[Timestamp]) -> bool {
    let gone: HashSet<Key> = delete.iter().copied().collect();
    let rest = listing.without(&gone);
    let kept = rest.generations().flat_map(|(_, stored)| stored.snapshots.iter().map(|(key, _)| *key));
    let kept: Vec<SnapshotKey> = kept.collect();
    let moments = kept
        .iter()
        .map(|key| key.time)
        .chain(thinned.iter().copied())
        .chain(horizon)
        .filter(|time| horizon.is_none_or(|h| *time >= h));
    let targets = moments.map(PlanTarget::Time).chain([PlanTarget::Latest]);
    let same_plans =
        targets.into_iter().all(|target| same_outcome(&plan(listing, None, &target), &plan(&rest, None, &target)));
    same_plans && kept.iter().all(|key| available_until(listing, key) == available_until(&rest, key))
}

fn same_outcome(one: &Result<Plan>, two: &Result<Plan>) -> bool {
    let outcome =
        |plan: &Plan| (plan.snapshot, plan.segments.last().map(|(key, _)| (key.end, key.last_seen)), plan.stop);
    match (one, two) {
        (Ok(one), Ok(two)) => outcome(one) == outcome(two),
        (Err(one), Err(two)) => one.kind() == two.kind(),
        _ => false,
    }
}

/// How far a restore from a snapshot leads, and where a gap is.
fn available_until(listing: &Listing, key: &SnapshotKey) -> Option<(Generation, WalPosition, bool)> {
    let stored = listing.generation(key.generation)?;
    let snapshot = stored.snapshots.iter().find(|(other, _)| other == key)?;
    let chain = SegmentChain::of(stored, *snapshot);
    Some((key.generation, chain.end(), chain.gap.is_some()))
}

#[cfg(test)]
mod tests;

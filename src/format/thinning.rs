//! What of a history can be thinned out, so that exactly the states stay that a policy keeps.
//!
//! Ages are counted back from now, or from the newest stored commit if that is earlier: a clock that is ahead thins nothing.
//!
//! What must hold:
//!
//! * A group becomes one rollup. It begins and ends at a state that stays: one that the policy keeps, the point of a snapshot,
//!   or the edge of a segment that has such a point within. So of two rollups, no matter who made them, one contains the
//!   other, or they do not overlap; a group that would overlap something stored in another way is left as it is.
//! * A segment with a state within that is kept stays whole: finer than wanted, until all of it is old enough.
//! * A snapshot that a restore does not need to be cheap is superfluous, and so is one of a state that is not kept: it would hold
//!   two rollups apart. The first one of a generation and the last one stay, and one that is about to become the first: another
//!   program may be deleting what is before it. A rollup may lead over the point of one, if it was made by a listing without it: see
//!   [`meeting_point`].
//! * Rollups cross only at the point of a snapshot that one of their makers did not know of. All of them become one once the snapshot
//!   is gone. The newest snapshot stays; so if that is such a one, a new one is wanted after it.
//! * Where a restore would read more than half of a snapshot after one, a new one is wanted, at the last commit of an
//!   hour. So each state that is kept is restored at the price of one and a half snapshots, or of one and what came in
//!   one hour.

mod superfluous;

use std::ops::Range;

use crate::format::chain::SegmentChain;
use crate::format::keep::{Keep, KeepStep};
use crate::format::key::{SegmentKey, SnapshotKey};
use crate::format::listing::{GenerationObjects, Listing, latest_time};
use crate::format::plan::{PlanTarget, plan};
use crate::format::position::{Generation, WalPosition};
use crate::format::time::Timestamp;

pub use superfluous::{MeetingPoint, meeting_point};
use superfluous::{most_behind, superfluous_snapshots};

/// A state that is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeptState {
    pub generation: Generation,
    pub position: WalPosition,
    pub time: Timestamp,
}

/// What can be thinned out of one generation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thinning {
    pub generation: Generation,
    /// The way from the oldest snapshot to the end.
    pub chain: SegmentChain,
    /// Of its segments, those that should become one rollup each.
    pub groups: Vec<Range<usize>>,
    /// Snapshots that may go once it is proven that the chain leads to each of them.
    pub superfluous: Vec<SnapshotKey>,
    /// The segments after which a snapshot is wanted.
    pub wanted: Vec<usize>,
}

/// Where ages are counted from.
pub fn reference(listing: &Listing, now: Timestamp) -> Timestamp {
    latest_time(listing).map_or(now, |newest| newest.min(now))
}

/// What is to be thinned out, by generation. One with a gap stays as it is.
pub fn plan_thinning(listing: &Listing, keep: &Keep, now: Timestamp) -> Vec<Thinning> {
    let reference = reference(listing, now);
    let plans = whole_chains(listing).map(|(generation, stored, chain)| {
        let units = units(&chain, stored, keep, reference);
        let groups = groups(&units, &chain, stored);
        let kept = |key: &SnapshotKey| is_kept(key, &units, &chain);
        let superfluous = superfluous_snapshots(&chain, stored, (keep, reference), kept);
        let wanted = wanted_snapshots(&units, &chain, stored);
        Thinning { generation, chain, groups, superfluous, wanted }
    });
    let is_work = |plan: &Thinning| !(plan.groups.is_empty() && plan.superfluous.is_empty() && plan.wanted.is_empty());
    plans.filter(is_work).collect()
}

/// The states that the policy keeps, as far as names tell them: those at the ends of segments, and the oldest and the newest of
/// each generation.
pub fn kept_states(listing: &Listing, keep: &Keep, now: Timestamp) -> Vec<KeptState> {
    let reference = reference(listing, now);
    let moments = whole_chains(listing).flat_map(|(generation, stored, chain)| {
        let (oldest, _) = chain.snapshot;
        let first = KeptState { generation, position: oldest.position, time: oldest.time };
        let kept = units(&chain, stored, keep, reference).into_iter().filter(|unit| unit.kept);
        let ends = kept.filter_map(|unit| chain.segments.get(unit.range.end - 1)).map(|(key, _)| *key);
        let ends = ends.map(move |key| KeptState { generation, position: key.end, time: key.last_seen });
        [first].into_iter().chain(ends).collect::<Vec<_>>()
    });
    moments.collect()
}

/// Whether `rest` leads to the same state as `listing` at each moment that is kept, and to the same end.
pub fn leads_to_the_same(listing: &Listing, rest: &Listing, keep: &Keep, now: Timestamp) -> bool {
    let reference = reference(listing, now);
    let old = |moment: &KeptState| !keep.keeps_all(reference, moment.time);
    let moments = kept_states(listing, keep, now).into_iter().filter(old).map(|moment| PlanTarget::Time(moment.time));
    moments.chain([PlanTarget::Latest]).all(|target| {
        let end = |listing: &Listing| {
            let plan = plan(listing, None, &target).ok()?;
            let end = plan.segments.last().map_or(plan.snapshot.position, |(key, _)| key.end);
            Some((plan.snapshot.generation, end.max(plan.snapshot.position), plan.stop))
        };
        end(listing) == end(rest)
    })
}

/// Generations that can be restored from their first snapshot to their end.
fn whole_chains(listing: &Listing) -> impl Iterator<Item = (Generation, &GenerationObjects, SegmentChain)> {
    listing.generations().filter_map(|(generation, stored)| {
        let chain = SegmentChain::of(stored, *stored.snapshots.first()?);
        chain.gap.is_none().then_some((generation, stored, chain))
    })
}

/// The segments of one transaction, or a single one with one transaction or more.
struct ThinningUnit {
    range: Range<usize>,
    /// Some state within must stay, or may have to.
    whole: bool,
    /// The point of a snapshot is within.
    straddles: bool,
    /// The policy keeps the state at its end.
    kept: bool,
    /// That is the point of a snapshot.
    snapshot: bool,
    /// There is one state in it: that at its end.
    single: bool,
}

fn units(chain: &SegmentChain, stored: &GenerationObjects, keep: &Keep, reference: Timestamp) -> Vec<ThinningUnit> {
    let segments = &chain.segments;
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut begin = 0;
    for (index, (key, _)) in segments.iter().enumerate() {
        if !key.part || index + 1 == segments.len() {
            ranges.push(begin..index + 1);
            begin = index + 1;
        }
    }
    // The first moment that can be restored with a unit, if it is not only the last one.
    let is_single = |of: &[(SegmentKey, u64)]| of.iter().all(|(key, _)| key.first_moment() == key.last_seen);
    let first_moment = |range: &Range<usize>| {
        let of = segments.get(range.clone())?;
        let (single, (first, _), (last, _)) = (is_single(of), of.first()?, of.last()?);
        Some(if single { last.last_seen } else { first.first_moment() })
    };
    let nexts: Vec<Option<Timestamp>> = ranges.iter().skip(1).map(first_moment).chain([None]).collect();
    let units = ranges.iter().zip(nexts).filter_map(|(range, next)| {
        let of = segments.get(range.clone())?;
        let (single, (first, _), (last, _)) = (is_single(of), of.first()?, of.last()?);
        let time = last.last_seen;
        let within = !single && keep.keeps_between(reference, first.first_moment(), time);
        Some(ThinningUnit {
            range: range.clone(),
            whole: next.is_none() || last.part || within || keep.keeps_all(reference, time),
            straddles: points(stored).any(|at| first.start < at && at < last.end),
            kept: !last.part && next.is_none_or(|next| keep.keeps(reference, time, next)),
            snapshot: points(stored).any(|at| at == last.end),
            single,
        })
    });
    units.collect()
}

fn points(stored: &GenerationObjects) -> impl Iterator<Item = WalPosition> + '_ {
    stored.snapshots.iter().map(|(key, _)| key.position)
}

fn groups(units: &[ThinningUnit], chain: &SegmentChain, stored: &GenerationObjects) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let joined = chain.segments.first().is_some_and(|(key, _)| key.start == chain.snapshot.0.position);
    // Where a group may begin; none after something that must stay and does not end with a kept state.
    let mut begin = joined.then_some(0);
    let mut several = 0;
    for unit in units {
        let (first, end) = (unit.range.start, unit.range.end);
        if unit.straddles {
            groups.extend(begin.filter(|begin| *begin < first).map(|begin| (begin..first, several)));
            (begin, several) = (Some(end), 0);
            continue;
        }
        if unit.whole {
            (begin, several) = ((unit.kept || unit.snapshot).then_some(end), 0);
            continue;
        }
        several += usize::from(!unit.single);
        if unit.kept || unit.snapshot {
            groups.extend(begin.map(|begin| (begin..end, several)));
            (begin, several) = (Some(end), 0);
        }
    }
    let worthwhile = |(range, several): &(Range<usize>, usize)| range.len() > 1 || *several > 0;
    let groups = groups.into_iter().filter(worthwhile).map(|(range, _)| range);
    groups.filter(|range| is_apart(range, chain, stored)).collect()
}

/// Nothing that is stored overlaps the group but what is within, or contains all of it.
fn is_apart(range: &Range<usize>, chain: &SegmentChain, stored: &GenerationObjects) -> bool {
    let Some(group) = chain.segments.get(range.clone()) else { return false };
    let (Some((first, _)), Some((last, _))) = (group.first(), group.last()) else { return false };
    !stored.segments.iter().any(|(key, _)| overlaps_partly((key.start, key.end), (first.start, last.end)))
}

/// Whether both have something that the other has not, and something in common.
pub fn overlaps_partly(one: (WalPosition, WalPosition), two: (WalPosition, WalPosition)) -> bool {
    let crosses = |one: (WalPosition, WalPosition), two: (WalPosition, WalPosition)| {
        one.0 < two.0 && two.0 < one.1 && one.1 < two.1
    };
    crosses(one, two) || crosses(two, one)
}

/// A rollup leads over a point, or a segment does that a rollup crosses: two programs have made something of it, of which one did not
/// know of the point.
fn divides(at: WalPosition, stored: &GenerationObjects) -> bool {
    let crosses = |one: &SegmentKey, two: &SegmentKey| overlaps_partly((one.start, one.end), (two.start, two.end));
    let rollups = || stored.segments.iter().map(|(key, _)| key).filter(|key| key.is_rollup());
    let mut over = stored.segments.iter().map(|(key, _)| key).filter(|key| key.start < at && at < key.end);
    over.any(|key| key.is_rollup() || rollups().any(|rollup| crosses(rollup, key)))
}

/// The policy keeps the state of a snapshot that the chain leads to.
fn is_kept(snapshot: &SnapshotKey, units: &[ThinningUnit], chain: &SegmentChain) -> bool {
    let end = |unit: &ThinningUnit| chain.segments.get(unit.range.end - 1).map(|(key, _)| key.end);
    units.iter().any(|unit| unit.kept && end(unit) == Some(snapshot.position))
}

/// The segments after which a restore has read too much since the snapshot before it, each the last one of an hour that
/// is over. And the first one of the kind after the newest snapshot, if that divides what would become one without it.
fn wanted_snapshots(units: &[ThinningUnit], chain: &SegmentChain, stored: &GenerationObjects) -> Vec<usize> {
    let (mut wanted, mut snapshots) = (Vec::new(), stored.snapshots.iter().skip(1).peekable());
    let (mut behind, mut size) = (0, chain.snapshot.1);
    let mut replaced = stored.snapshots.last().map(|(key, _)| key.position).filter(|at| divides(*at, stored));
    for (unit, next) in units.iter().zip(units.iter().skip(1)) {
        let (Some(segments), Some((after, _))) =
            (chain.segments.get(unit.range.clone()), chain.segments.get(next.range.start))
        else {
            break;
        };
        let Some((last, _)) = segments.last() else { break };
        behind += segments.iter().map(|(_, size)| size).sum::<u64>();
        while let Some((_, bytes)) = snapshots.next_if(|(key, _)| key.position <= last.end) {
            (behind, size) = (0, *bytes);
        }
        let border = unit.kept && KeepStep::Hour.ends_between(last.last_seen, after.first_moment());
        let replaces = replaced.is_some_and(|newest| newest < last.end && !divides(last.end, stored));
        if border && (behind > most_behind(size) || replaces) {
            wanted.push(unit.range.end - 1);
            (behind, replaced) = (0, replaced.filter(|newest| *newest >= last.end));
        }
    }
    wanted
}

#[cfg(test)]
mod tests;

//! The objects that lead to a state: the snapshot, and the segments after it.

use crate::error::{Error, Kind, Result};
use crate::format::chain::SegmentChain;
use crate::format::key::{Key, SegmentKey, SnapshotKey};
use crate::format::listing::{GenerationObjects, Listing};
use crate::format::position::{Generation, Position, WalPosition};
use crate::format::time::{Timestamp, age_text};

/// Where a restore ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopAt {
    /// After the last segment.
    End,
    /// At this point, where a transaction must end.
    Point(WalPosition),
    /// Before the first member that was seen later than this.
    Time(Timestamp),
}

/// What to read, in order, and where to stop. Sizes are in bytes, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub snapshot: SnapshotKey,
    pub snapshot_size: u64,
    /// The first one may begin before the snapshot's point: members that end at or before it are passed over.
    pub segments: Vec<(SegmentKey, u64)>,
    pub stop: StopAt,
    /// What the operator should know about what is left out.
    pub warnings: Vec<String>,
    /// What the operator can do if the snapshot is damaged.
    pub fallback_hint: String,
}

pub(super) fn latest(listing: &Listing, generation: Option<Generation>) -> Result<Plan> {
    let (chosen, stored) = match generation {
        Some(generation) => (generation, require_generation(listing, generation)?),
        None => newest_restorable(listing)?,
    };
    let chain = SegmentChain::newest(stored).ok_or_else(|| no_snapshot(chosen))?;
    chain.require_no_gap()?;
    let mut plan = Plan::new(chain, StopAt::End);
    if generation.is_none() {
        plan.warnings.extend(generations_without_snapshot(listing, chosen, Timestamp::MAX));
    }
    Ok(plan)
}

pub(super) fn at_time(listing: &Listing, generation: Option<Generation>, time: Timestamp) -> Result<Plan> {
    check_range(listing, generation, time)?;
    let begun = |stored: &GenerationObjects| stored.first_snapshot().is_some_and(|first| first <= time);
    let (chosen, stored) = scope(listing, generation)
        .rev()
        .find(|(_, stored)| begun(stored))
        .ok_or_else(|| Error::new(Kind::NothingToRestore, format!("there is no snapshot from before {time}")))?;
    let count = stored.snapshots.iter().rposition(|(key, _)| key.time <= time).map_or(0, |at| at + 1);
    let before = stored.snapshots.get(..count).unwrap_or_default();
    let mut chain = chain_at(stored, before, time).ok_or_else(|| no_snapshot(chosen))?;
    let over_gap = chain.rollups_over_gap(stored).map(|key| key.last_seen).filter(|next| *next > time).min();
    let reach = chain.latest_time();
    if time > reach && over_gap.is_none() {
        chain.require_no_gap()?;
    }
    let wanted = segments_at(&chain, time);
    let next = chain.segments.get(wanted).filter(|(key, _)| key.is_rollup()).map(|(key, _)| key.last_seen);
    let next = next.or(over_gap);
    chain.segments.truncate(wanted);
    let newest = chain.latest_time();
    let mut plan = Plan::new(chain, StopAt::Time(time));
    if let Some(next) = next.filter(|_| newest < time) {
        let age = age_text(time.since(newest));
        plan.warnings.push(format!(
            "the newest kept state is from {newest}, {age} before the requested moment; the next is from {next}"
        ));
    }
    if time > reach && over_gap.is_none() {
        plan.warnings.push(format!("generation {chosen} reaches to {reach}: nothing is stored from then to {time}"));
    }
    if generation.is_none() {
        plan.warnings.extend(generations_without_snapshot(listing, chosen, time));
    }
    Ok(plan)
}

/// The chain that has the newest state at or before a moment.
fn chain_at(stored: &GenerationObjects, snapshots: &[(SnapshotKey, u64)], time: Timestamp) -> Option<SegmentChain> {
    let newest = SegmentChain::of(stored, *snapshots.last()?);
    let furthest = SegmentChain::furthest(stored, snapshots).filter(|_| time > newest.latest_time());
    let end = |chain: &SegmentChain| {
        let last = segments_at(chain, time).checked_sub(1).and_then(|at| chain.segments.get(at));
        last.map_or(chain.snapshot.0.position, |(key, _)| key.end)
    };
    let furthest = furthest.filter(|chain| end(chain) > end(&newest));
    Some(furthest.unwrap_or(newest))
}

/// How many segments of a chain a restore to a moment reads.
fn segments_at(chain: &SegmentChain, time: Timestamp) -> usize {
    chain.segments.iter().take_while(|(key, _)| key.first_moment() <= time).count()
}

pub(super) fn at_position(listing: &Listing, generation: Option<Generation>, position: &Position) -> Result<Plan> {
    if let Some(other) = generation.filter(|other| *other != position.generation) {
        return Err(Error::new(Kind::Usage, format!("position {position} is not in generation {other}")));
    }
    let stored = require_generation(listing, position.generation)?;
    let Some(first) = stored.snapshots.first() else { return Err(no_snapshot(position.generation)) };
    let count = stored.snapshots.partition_point(|(key, _)| key.position <= position.wal_position);
    let before = stored.snapshots.get(..count).unwrap_or_default();
    let mut chain = SegmentChain::of(stored, *before.last().unwrap_or(first));
    if position.wal_position > chain.end() {
        chain = SegmentChain::furthest(stored, before).unwrap_or(chain);
    }
    if before.is_empty() || position.wal_position > chain.end() {
        return Err(position_out_of_range(stored, &chain, first.0.position, position));
    }
    let wanted = chain.segments.iter().take_while(|(key, _)| key.start < position.wal_position).count();
    chain.segments.truncate(wanted);
    if chain.segments.last().is_some_and(|(key, _)| key.part && key.end == position.wal_position) {
        return Err(Error::new(Kind::NothingToRestore, format!("position {position} is inside a transaction"))
            .with_hint("the `wal` command lists the stored positions"));
    }
    if let Some((key, _)) = chain.segments.last().filter(|(key, _)| key.is_rollup() && key.end > position.wal_position)
    {
        return Err(not_kept(position, key));
    }
    Ok(Plan {
        snapshot: chain.snapshot.0,
        snapshot_size: chain.snapshot.1,
        segments: chain.segments,
        stop: StopAt::Point(position.wal_position),
        warnings: Vec::new(),
        fallback_hint: String::new(),
    })
}

impl Plan {
    /// The bytes that it reads from the store.
    pub fn bytes(&self) -> u64 {
        self.snapshot_size + self.segments.iter().map(|(_, size)| size).sum::<u64>()
    }

    /// All objects that it reads, with their sizes.
    pub fn objects(&self) -> impl Iterator<Item = (Key, u64)> {
        let snapshot = (Key::Snapshot(self.snapshot), self.snapshot_size);
        std::iter::once(snapshot).chain(self.segments.iter().map(|(key, size)| (Key::Segment(*key), *size)))
    }

    /// Along the whole chain, but for a transaction at its end that is not stored whole.
    fn new(mut chain: SegmentChain, stop: StopAt) -> Plan {
        let parts = chain.drop_trailing_parts();
        let mut warnings = Vec::new();
        if parts > 0 {
            let end = chain.end();
            warnings.push(format!("the transaction after {end} is incomplete: {parts} segment(s) ignored"));
        }
        let (snapshot, snapshot_size) = chain.snapshot;
        Plan { snapshot, snapshot_size, segments: chain.segments, stop, warnings, fallback_hint: String::new() }
    }
}

/// The generations that may be used.
fn scope(
    listing: &Listing,
    generation: Option<Generation>,
) -> impl DoubleEndedIterator<Item = (Generation, &GenerationObjects)> {
    listing.generations().filter(move |(id, _)| generation.is_none_or(|only| only == *id))
}

fn require_generation(listing: &Listing, generation: Generation) -> Result<&GenerationObjects> {
    listing.generation(generation).ok_or_else(|| {
        Error::new(Kind::NothingToRestore, format!("generation {generation} is not stored"))
            .with_hint("the `generations` command lists the stored ones")
    })
}

fn newest_restorable(listing: &Listing) -> Result<(Generation, &GenerationObjects)> {
    let found = listing.generations().rev().find(|(_, stored)| !stored.snapshots.is_empty());
    found.ok_or_else(|| nothing_stored(listing))
}

fn nothing_stored(listing: &Listing) -> Error {
    match listing.is_empty() {
        true => Error::new(Kind::NothingToRestore, "nothing is stored"),
        false => Error::new(Kind::NothingToRestore, "segments are stored, but no snapshot yet"),
    }
}

fn no_snapshot(generation: Generation) -> Error {
    Error::new(Kind::NothingToRestore, format!("generation {generation} has no snapshot yet"))
}

/// A moment outside of all that is stored is refused, rather than taken for the nearest one.
fn check_range(listing: &Listing, generation: Option<Generation>, time: Timestamp) -> Result<()> {
    if let Some(generation) = generation {
        require_generation(listing, generation)?;
    }
    let first = scope(listing, generation).filter_map(|(_, stored)| stored.first_snapshot()).min();
    let last = scope(listing, generation).filter_map(|(_, stored)| stored.latest_time()).max();
    let (Some(first), Some(last)) = (first, last) else {
        return Err(generation.map_or_else(|| nothing_stored(listing), no_snapshot));
    };
    if (first..=last).contains(&time) {
        return Ok(());
    }
    let hint = match time < first {
        true => format!("-timestamp {first} restores the oldest stored state"),
        false => "leave out -timestamp to restore the latest state".to_string(),
    };
    let what = format!("timestamp {time}: the backup covers {first} to {last}");
    Err(Error::new(Kind::NothingToRestore, what).with_hint(hint))
}

fn not_kept(position: &Position, rollup: &SegmentKey) -> Error {
    let SegmentKey { generation, start, end, .. } = rollup;
    let what = format!("position {position} is not kept: no state between {start} and {end} is stored");
    Error::new(Kind::NothingToRestore, what)
        .with_hint(format!("-position {generation}/{end} restores the next state, -timestamp the one before a moment"))
}

fn position_out_of_range(
    stored: &GenerationObjects,
    chain: &SegmentChain,
    first: WalPosition,
    position: &Position,
) -> Error {
    let beyond = position.wal_position > chain.end() && stored.latest_position() >= Some(position.wal_position);
    match chain.require_no_gap() {
        Err(gap) if beyond => gap,
        _ => Error::new(
            Kind::NothingToRestore,
            format!("position {position}: the backup covers {first} to {}", chain.end()),
        )
        .with_hint("the `wal` command lists the stored positions"),
    }
}

/// Newer generations that had begun by `time`, but cannot be restored since their snapshot is not stored yet.
fn generations_without_snapshot(listing: &Listing, chosen: Generation, time: Timestamp) -> Vec<String> {
    let newer = listing.generations().filter(|(id, stored)| *id > chosen && stored.snapshots.is_empty());
    let begun = newer.filter(|(_, stored)| stored.earliest_time().is_some_and(|first| first <= time));
    begun
        .map(|(id, _)| format!("generation {id} is newer, but has no snapshot yet: using generation {chosen}"))
        .collect()
}

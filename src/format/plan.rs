//! From a listing to the objects that a restore reads, and where it stops.
//!
//! A plan never leads past what was asked for, and never over a gap. Which commits are stored in the same object as
//! the last one wanted is for the restore to see, member by member.

use crate::error::{Error, Kind, Result};
use crate::format::chain::Chain;
use crate::format::key::{Key, SegmentKey, SnapshotKey};
use crate::format::listing::{Listing, Stored};
use crate::format::position::{Generation, Point, Position};
use crate::format::time::Timestamp;

pub use crate::format::listing::last_moment;

/// What is to be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The newest state that is stored whole.
    Latest,
    /// The newest state that was seen at or before this moment.
    Time(Timestamp),
    /// The state at exactly this position.
    Position(Position),
}

/// Where a restore ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Behind the last segment.
    End,
    /// At this point, where a transaction must end.
    Point(Point),
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
    pub stop: Stop,
    /// What the operator should know about what is left out.
    pub warnings: Vec<String>,
}

/// Plans the restore of `target`, out of one generation or of the one that fits.
///
/// Errors: [`Kind::Nothing`] if nothing stored fits, naming what does; [`Kind::Corrupt`] for a gap on the way;
/// [`Kind::Usage`] if `generation` is not the one of the position.
pub fn plan(listing: &Listing, generation: Option<Generation>, target: &Target) -> Result<Plan> {
    let mut plan = match target {
        Target::Latest => latest(listing, generation),
        Target::Time(time) => at_time(listing, generation, *time),
        Target::Position(position) => at_position(listing, generation, position),
    }?;
    plan.warnings.extend(foreign(listing));
    Ok(plan)
}

fn latest(listing: &Listing, generation: Option<Generation>) -> Result<Plan> {
    let (chosen, stored) = match generation {
        Some(generation) => (generation, named(listing, generation)?),
        None => newest(listing)?,
    };
    let chain = Chain::newest(stored).ok_or_else(|| no_snapshot(chosen))?;
    chain.without_gap()?;
    let mut plan = Plan::new(chain, Stop::End);
    if generation.is_none() {
        plan.warnings.extend(unready(listing, chosen, Timestamp::MAX));
    }
    Ok(plan)
}

fn at_time(listing: &Listing, generation: Option<Generation>, time: Timestamp) -> Result<Plan> {
    check_range(listing, generation, time)?;
    let begun = |stored: &Stored| stored.first_snapshot().is_some_and(|first| first <= time);
    let (chosen, stored) = scope(listing, generation)
        .rev()
        .find(|(_, stored)| begun(stored))
        .ok_or_else(|| Error::new(Kind::Nothing, format!("no snapshot is stored from before {time}")))?;
    let snapshot = stored.snapshots.iter().rev().find(|(key, _)| key.time <= time);
    let mut chain = snapshot.map(|snapshot| Chain::of(stored, *snapshot)).ok_or_else(|| no_snapshot(chosen))?;
    let reach = chain.last_moment();
    if time > reach {
        chain.without_gap()?;
    }
    let wanted = chain.segments.iter().take_while(|(key, _)| key.first <= time).count();
    chain.segments.truncate(wanted);
    let mut plan = Plan::new(chain, Stop::Time(time));
    if time > reach {
        plan.warnings.push(format!("generation {chosen} reaches to {reach}: nothing is stored from then to {time}"));
    }
    if generation.is_none() {
        plan.warnings.extend(unready(listing, chosen, time));
    }
    Ok(plan)
}

fn at_position(listing: &Listing, generation: Option<Generation>, position: &Position) -> Result<Plan> {
    if let Some(other) = generation.filter(|other| *other != position.generation) {
        return Err(Error::new(Kind::Usage, format!("position {position} is not in generation {other}")));
    }
    let stored = named(listing, position.generation)?;
    let Some(first) = stored.snapshots.first() else { return Err(no_snapshot(position.generation)) };
    let before = stored.snapshots.iter().rev().find(|(key, _)| key.at <= position.point);
    let mut chain = Chain::of(stored, *before.unwrap_or(first));
    if before.is_none() || position.point > chain.end() {
        return Err(off_chain(stored, &chain, first.0.at, position));
    }
    let wanted = chain.segments.iter().take_while(|(key, _)| key.start < position.point).count();
    chain.segments.truncate(wanted);
    if chain.segments.last().is_some_and(|(key, _)| key.part && key.end == position.point) {
        return Err(Error::new(Kind::Nothing, format!("position {position} is inside a transaction"))
            .with_hint("the `wal` command lists the positions that are stored"));
    }
    Ok(Plan {
        snapshot: chain.snapshot.0,
        snapshot_size: chain.snapshot.1,
        segments: chain.segments,
        stop: Stop::Point(position.point),
        warnings: Vec::new(),
    })
}

impl Plan {
    /// Along the whole chain, but for a transaction at its end that is not stored whole.
    fn new(mut chain: Chain, stop: Stop) -> Plan {
        let parts = chain.drop_parts();
        let mut warnings = Vec::new();
        if parts > 0 {
            let end = chain.end();
            warnings.push(format!("the transaction behind {end} is not stored whole: {parts} segment(s) left out"));
        }
        let (snapshot, snapshot_size) = chain.snapshot;
        Plan { snapshot, snapshot_size, segments: chain.segments, stop, warnings }
    }
}

/// The generations that may be used.
fn scope(listing: &Listing, generation: Option<Generation>) -> impl DoubleEndedIterator<Item = (Generation, &Stored)> {
    listing.generations().filter(move |(id, _)| generation.is_none_or(|only| only == *id))
}

fn named(listing: &Listing, generation: Generation) -> Result<&Stored> {
    listing.generation(generation).ok_or_else(|| {
        Error::new(Kind::Nothing, format!("generation {generation} is not stored"))
            .with_hint("the `generations` command lists those that are")
    })
}

fn newest(listing: &Listing) -> Result<(Generation, &Stored)> {
    let found = listing.generations().rev().find(|(_, stored)| !stored.snapshots.is_empty());
    found.ok_or_else(|| nothing(listing))
}

fn nothing(listing: &Listing) -> Error {
    match listing.is_empty() {
        true => Error::new(Kind::Nothing, "nothing is stored"),
        false => Error::new(Kind::Nothing, "segments are stored, but no snapshot yet"),
    }
}

fn no_snapshot(generation: Generation) -> Error {
    Error::new(Kind::Nothing, format!("generation {generation} has no snapshot yet"))
}

/// A moment outside of all that is stored is refused, rather than taken for the nearest one.
fn check_range(listing: &Listing, generation: Option<Generation>, time: Timestamp) -> Result<()> {
    if let Some(generation) = generation {
        named(listing, generation)?;
    }
    let first = scope(listing, generation).filter_map(|(_, stored)| stored.first_snapshot()).min();
    let last = scope(listing, generation).filter_map(|(_, stored)| stored.last_moment()).max();
    let (Some(first), Some(last)) = (first, last) else {
        return Err(generation.map_or_else(|| nothing(listing), no_snapshot));
    };
    if (first..=last).contains(&time) {
        return Ok(());
    }
    Err(Error::new(Kind::Nothing, format!("timestamp {time}: what is stored reaches from {first} to {last}"))
        .with_hint("leave out -timestamp to restore the latest state"))
}

fn off_chain(stored: &Stored, chain: &Chain, first: Point, position: &Position) -> Error {
    let beyond = position.point > chain.end() && stored.last_point() >= Some(position.point);
    match chain.without_gap() {
        Err(gap) if beyond => gap,
        _ => Error::new(
            Kind::Nothing,
            format!("position {position}: what is stored reaches from {first} to {}", chain.end()),
        )
        .with_hint("the `wal` command lists the positions that are stored"),
    }
}

/// Newer generations that had begun by `time`, but cannot be restored since their snapshot is not stored yet.
fn unready(listing: &Listing, chosen: Generation, time: Timestamp) -> Vec<String> {
    let newer = listing.generations().filter(|(id, stored)| *id > chosen && stored.snapshots.is_empty());
    let begun = newer.filter(|(_, stored)| stored.first_moment().is_some_and(|first| first <= time));
    begun
        .map(|(id, _)| format!("generation {id} is newer, but has no snapshot yet: generation {chosen} is used"))
        .collect()
}

fn foreign(listing: &Listing) -> Option<String> {
    let example = listing.foreign_example()?;
    Some(format!("{} object(s) with names that are not ours, such as {example:?}, are passed over", listing.foreign()))
}

/// Where replication left off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainEnd {
    pub generation: Generation,
    /// The newest snapshot.
    pub snapshot: SnapshotKey,
    /// The object that the chain ends with.
    pub last: Key,
    /// Where the next segment must start.
    pub point: Point,
    /// The latest moment in the chain.
    pub time: Timestamp,
}

/// Where the newest generation ends; none if nothing is stored.
///
/// Errors: [`Kind::Corrupt`] with the reason why it cannot be continued: a gap, or no snapshot.
pub fn end_of(listing: &Listing) -> Result<Option<ChainEnd>> {
    let Some((generation, stored)) = listing.generations().next_back() else { return Ok(None) };
    let Some(chain) = Chain::newest(stored) else {
        return Err(Error::new(Kind::Corrupt, format!("generation {generation} holds segments, but no snapshot")));
    };
    chain.without_gap()?;
    Ok(Some(ChainEnd {
        generation,
        snapshot: chain.snapshot.0,
        last: chain.last_key(),
        point: chain.end(),
        time: chain.last_moment(),
    }))
}

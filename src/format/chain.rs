//! The way from a snapshot along the segments behind it.
//!
//! Stored segments may overlap: one was uploaded again after a crash, or a merged [A,C] stands beside [A,B] and [B,C].
//! A chain takes the way that reaches furthest, and of several the one with the fewest objects.

use std::collections::HashMap;
use std::fmt;

use crate::error::{Error, Kind, Result};
use crate::format::key::{Key, SegmentKey, SnapshotKey};
use crate::format::listing::Stored;
use crate::format::position::Point;
use crate::format::time::Timestamp;

/// A snapshot and the segments that continue it, each with its size in bytes.
///
/// Each segment starts exactly where the one before it ends. The first may start before the snapshot's point: its
/// members up to that point are then passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub snapshot: (SnapshotKey, u64),
    pub segments: Vec<(SegmentKey, u64)>,
    /// More is stored beyond the end, but nothing that joins it.
    pub gap: Option<Gap>,
}

/// A hole in what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where the chain ends, and nothing begins.
    pub at: Point,
    /// The first thing beyond it.
    pub next: Key,
}

/// What a way over segments has reached, and how.
struct Step {
    objects: usize,
    /// The last segment on the way; none at the snapshot.
    via: Option<usize>,
}

impl Chain {
    /// The chain of the newest snapshot, if there is one.
    pub fn newest(stored: &Stored) -> Option<Chain> {
        stored.snapshots.last().map(|snapshot| Chain::of(stored, *snapshot))
    }

    /// The chain of one of the snapshots.
    pub fn of(stored: &Stored, snapshot: (SnapshotKey, u64)) -> Chain {
        let way = furthest(snapshot.0.at, &stored.segments);
        let segments = way.into_iter().filter_map(|at| stored.segments.get(at).copied()).collect();
        let mut chain = Chain { snapshot, segments, gap: None };
        chain.gap = gap(stored, chain.end());
        chain
    }

    /// Where it ends.
    pub fn end(&self) -> Point {
        self.segments.last().map_or(self.snapshot.0.at, |(key, _)| key.end)
    }

    /// The moment that it reaches.
    pub fn last_moment(&self) -> Timestamp {
        self.segments.last().map_or(self.snapshot.0.time, |(key, _)| key.last)
    }

    /// The object that it ends with.
    pub fn last_key(&self) -> Key {
        self.segments.last().map_or(Key::Snapshot(self.snapshot.0), |(key, _)| Key::Segment(*key))
    }

    /// Takes segments off the end until the last one ends with a transaction; how many that were.
    pub fn drop_parts(&mut self) -> usize {
        let before = self.segments.len();
        while self.segments.pop_if(|(key, _)| key.part).is_some() {}
        before - self.segments.len()
    }

    /// Errors: [`Kind::Corrupt`] if there is a gap, with the moment up to which a restore is possible.
    pub fn without_gap(&self) -> Result<()> {
        let Some(gap) = self.gap else { return Ok(()) };
        let mut whole = self.clone();
        whole.drop_parts();
        Err(Error::new(Kind::Corrupt, format!("generation {}: {gap}", self.snapshot.0.generation))
            .with_hint(format!("-timestamp {} restores what is before the gap", whole.last_moment())))
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no segment begins at {}; the next stored ", self.at)?;
        match self.next {
            Key::Segment(key) => write!(f, "one begins at {}", key.start),
            Key::Snapshot(key) => write!(f, "snapshot is at {}", key.at),
        }
    }
}

/// The segments, by their places in the slice, that lead furthest from `at`.
///
/// They are in order of their starts, and each ends behind its start: so each point is settled before any way goes on
/// from it, and one pass is enough.
fn furthest(at: Point, segments: &[(SegmentKey, u64)]) -> Vec<usize> {
    let mut reached = HashMap::from([(at, Step { objects: 0, via: None })]);
    for (place, (key, _)) in segments.iter().enumerate().filter(|(_, (key, _))| key.end > at) {
        let Some(objects) = reached.get(&key.start.max(at)).map(|step| step.objects + 1) else { continue };
        if reached.get(&key.end).is_none_or(|step| objects < step.objects) {
            reached.insert(key.end, Step { objects, via: Some(place) });
        }
    }
    let mut way = Vec::new();
    let mut point = reached.keys().max().copied();
    while let Some(place) = point.and_then(|p| reached.get(&p)).and_then(|step| step.via) {
        way.push(place);
        point = segments.get(place).map(|(key, _)| key.start.max(at));
    }
    way.reverse();
    way
}

fn gap(stored: &Stored, end: Point) -> Option<Gap> {
    let segments = stored.segments.iter().filter(|(key, _)| key.end > end);
    let segments = segments.map(|(key, _)| (key.start, Key::Segment(*key)));
    let snapshots = stored.snapshots.iter().filter(|(key, _)| key.at > end);
    let snapshots = snapshots.map(|(key, _)| (key.at, Key::Snapshot(*key)));
    segments.chain(snapshots).min_by_key(|(point, _)| *point).map(|(_, next)| Gap { at: end, next })
}

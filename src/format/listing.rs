//! What is stored for one database, as the names in a listing tell it.

use std::collections::BTreeMap;

use crate::format::key::{Key, SegmentKey, SnapshotKey};
use crate::format::position::{Generation, Point};
use crate::format::time::Timestamp;

/// The stored objects of one database, by generation.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    generations: BTreeMap<Generation, Stored>,
    foreign: usize,
    foreign_example: Option<String>,
}

/// The stored objects of one generation, each with its size in bytes. Never empty.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Oldest first.
    pub snapshots: Vec<(SnapshotKey, u64)>,
    /// In order of start, then end.
    pub segments: Vec<(SegmentKey, u64)>,
}

impl Listing {
    /// Sorts out names (below the replica's prefix) and sizes, in any order.
    pub fn new(entries: impl IntoIterator<Item = (String, u64)>) -> Listing {
        let mut listing = Listing::default();
        for (name, size) in entries {
            listing.add(name, size);
        }
        for stored in listing.generations.values_mut() {
            stored.snapshots.sort_unstable_by_key(|(key, _)| (key.at, key.time));
            stored.segments.sort_unstable_by_key(|(key, _)| (key.start, key.end, key.first, key.last));
        }
        listing
    }

    fn add(&mut self, name: String, size: u64) {
        match Key::parse(&name) {
            Some(Key::Snapshot(key)) => self.stored(key.generation).snapshots.push((key, size)),
            Some(Key::Segment(key)) => self.stored(key.generation).segments.push((key, size)),
            None => {
                self.foreign += 1;
                self.foreign_example.get_or_insert(name);
            }
        }
    }

    fn stored(&mut self, generation: Generation) -> &mut Stored {
        self.generations.entry(generation).or_default()
    }

    /// Oldest first.
    pub fn generations(&self) -> impl DoubleEndedIterator<Item = (Generation, &Stored)> {
        self.generations.iter().map(|(generation, stored)| (*generation, stored))
    }

    pub fn generation(&self, generation: Generation) -> Option<&Stored> {
        self.generations.get(&generation)
    }

    pub fn is_empty(&self) -> bool {
        self.generations.is_empty()
    }

    /// How many names are none of ours.
    pub fn foreign(&self) -> usize {
        self.foreign
    }

    /// One of the names that are none of ours.
    pub fn foreign_example(&self) -> Option<&str> {
        self.foreign_example.as_deref()
    }
}

impl Stored {
    /// The earliest moment of a snapshot: no restore of this generation can go further back.
    pub fn first_snapshot(&self) -> Option<Timestamp> {
        self.snapshots.iter().map(|(key, _)| key.time).min()
    }

    /// The earliest moment in any name.
    pub fn first_moment(&self) -> Option<Timestamp> {
        self.segments.iter().map(|(key, _)| key.first).chain(self.first_snapshot()).min()
    }

    /// The latest moment in any name.
    pub fn last_moment(&self) -> Option<Timestamp> {
        let snapshots = self.snapshots.iter().map(|(key, _)| key.time);
        self.segments.iter().map(|(key, _)| key.last).chain(snapshots).max()
    }

    /// The furthest point that any name tells of.
    pub fn last_point(&self) -> Option<Point> {
        let snapshots = self.snapshots.iter().map(|(key, _)| key.at);
        self.segments.iter().map(|(key, _)| key.end).chain(snapshots).max()
    }
}

/// The latest moment in any name. New names must not be earlier, or time would run backwards in the store.
pub fn last_moment(listing: &Listing) -> Option<Timestamp> {
    listing.generations().filter_map(|(_, stored)| stored.last_moment()).max()
}

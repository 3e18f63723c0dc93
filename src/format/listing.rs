//! What is stored for one database, as the names in a listing tell it.

use std::collections::{BTreeMap, HashSet};

use crate::format::key::{Key, SegmentKey, SnapshotKey};
use crate::format::owner;
use crate::format::position::{Generation, WalPosition};
use crate::format::prefixes::is_of_longer_prefix;
use crate::format::time::Timestamp;

/// The stored objects of one database, by generation.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    generations: BTreeMap<Generation, GenerationObjects>,
    owner: Option<u32>,
    foreign: usize,
    foreign_example: Option<String>,
}

/// The stored objects of one generation, each with its size in bytes. Never empty.
#[derive(Clone, Debug, Default)]
pub struct GenerationObjects {
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
            stored.snapshots.sort_unstable_by_key(|(key, _)| (key.position, key.time));
            stored.segments.sort_unstable_by_key(|(key, _)| key.rank());
        }
        listing
    }

    fn add(&mut self, name: String, size: u64) {
        match Key::parse(&name) {
            Some(Key::Snapshot(key)) => self.objects(key.generation).snapshots.push((key, size)),
            Some(Key::Segment(key)) => self.objects(key.generation).segments.push((key, size)),
            // Databases may be nested: one at the root of a bucket, others below prefixes.
            None if is_of_longer_prefix(&name) || owner::is_below_longer_prefix(&name) => {}
            None => match owner::number(&name) {
                Some(number) => self.owner = self.owner.max(Some(number)),
                None => {
                    self.foreign += 1;
                    self.foreign_example.get_or_insert(name);
                }
            },
        }
    }

    fn objects(&mut self, generation: Generation) -> &mut GenerationObjects {
        self.generations.entry(generation).or_default()
    }

    /// Oldest first.
    pub fn generations(&self) -> impl DoubleEndedIterator<Item = (Generation, &GenerationObjects)> {
        self.generations.iter().map(|(generation, stored)| (*generation, stored))
    }

    pub fn generation(&self, generation: Generation) -> Option<&GenerationObjects> {
        self.generations.get(&generation)
    }

    /// The newest snapshot of each generation that has one, newest first.
    pub fn newest_snapshots(&self) -> impl Iterator<Item = SnapshotKey> {
        self.generations.values().rev().filter_map(|stored| stored.snapshots.last()).map(|(key, _)| *key)
    }

    pub fn is_empty(&self) -> bool {
        self.generations.is_empty()
    }

    /// The number of the newest owner record, if there is one.
    pub fn owner(&self) -> Option<u32> {
        self.owner
    }

    /// The same but for some objects.
    pub fn without(&self, gone: &HashSet<Key>) -> Listing {
        let mut rest = self.clone();
        for stored in rest.generations.values_mut() {
            stored.snapshots.retain(|(key, _)| !gone.contains(&Key::Snapshot(*key)));
            stored.segments.retain(|(key, _)| !gone.contains(&Key::Segment(*key)));
        }
        rest.generations.retain(|_, stored| !stored.snapshots.is_empty() || !stored.segments.is_empty());
        rest
    }

    /// How many names are none of ours.
    pub fn foreign_count(&self) -> usize {
        self.foreign
    }

    /// One of the names that are none of ours.
    pub fn foreign_example(&self) -> Option<&str> {
        self.foreign_example.as_deref()
    }
}

impl GenerationObjects {
    /// One of the objects: the newest snapshot, or the first segment if there is none.
    pub fn example(&self) -> Option<Key> {
        let snapshot = self.snapshots.last().map(|(key, _)| Key::Snapshot(*key));
        snapshot.or_else(|| self.segments.first().map(|(key, _)| Key::Segment(*key)))
    }

    /// The earliest moment of a snapshot: no restore of this generation can go further back.
    pub fn first_snapshot(&self) -> Option<Timestamp> {
        self.snapshots.iter().map(|(key, _)| key.time).min()
    }

    /// The earliest moment in any name.
    pub fn earliest_time(&self) -> Option<Timestamp> {
        self.segments.iter().map(|(key, _)| key.first_moment()).chain(self.first_snapshot()).min()
    }

    /// The latest moment in any name.
    pub fn latest_time(&self) -> Option<Timestamp> {
        let snapshots = self.snapshots.iter().map(|(key, _)| key.time);
        self.segments.iter().map(|(key, _)| key.last_seen).chain(snapshots).max()
    }

    /// The furthest point that any name tells of.
    pub fn latest_position(&self) -> Option<WalPosition> {
        let snapshots = self.snapshots.iter().map(|(key, _)| key.position);
        self.segments.iter().map(|(key, _)| key.end).chain(snapshots).max()
    }
}

/// The latest moment in any name. New names must not be earlier, or time would run backwards in the store.
pub fn latest_time(listing: &Listing) -> Option<Timestamp> {
    listing.generations().filter_map(|(_, stored)| stored.latest_time()).max()
}

/// What is said of files of Litestream 0.5, which a bucket or directory may hold beside ours.
pub const LTX_WARNING: &str = "LTX files of Litestream 0.5 are ignored, because litestream cannot read them";

/// Whether Litestream 0.5 gave this name: `ltx/<level>/<txid>-<txid>.ltx`.
pub fn is_ltx_name(name: &str) -> bool {
    name.ends_with(".ltx") && name.split('/').any(|part| part == "ltx")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{GENERATION, millis, point};

    fn snapshot(generation: u64, offset: u64, time: u64) -> (String, u64) {
        let key =
            SnapshotKey { generation: Generation::new(generation), position: point(0, offset), time: millis(time) };
        (key.to_string(), 1)
    }

    fn segment(start: u64, end: u64, first: u64, last: u64) -> (String, u64) {
        let generation = Generation::new(GENERATION);
        let (start, end) = (point(0, start), point(0, end));
        (
            SegmentKey { generation, start, end, first_seen: millis(first), last_seen: millis(last), part: false }
                .to_string(),
            2,
        )
    }

    #[test]
    fn a_listing_in_any_order_is_sorted_out_by_generation_and_point() {
        let mut entries = vec![
            snapshot(GENERATION, 20, 5),
            snapshot(GENERATION, 0, 1),
            snapshot(GENERATION - 1, 0, 0),
            segment(10, 20, 3, 4),
            segment(0, 20, 2, 4),
            segment(0, 10, 2, 2),
        ];
        let sorted = Listing::new(entries.clone());
        entries.reverse();
        let reversed = Listing::new(entries);
        for listing in [sorted, reversed] {
            let ids: Vec<_> = listing.generations().map(|(id, _)| id.get()).collect();
            assert_eq!(ids, [GENERATION - 1, GENERATION]);
            let stored = listing.generation(Generation::new(GENERATION)).unwrap();
            let at: Vec<_> = stored.snapshots.iter().map(|(key, size)| (key.position.offset.get(), *size)).collect();
            assert_eq!(at, [(0, 1), (20, 1)]);
            let ranges: Vec<_> =
                stored.segments.iter().map(|(key, _)| (key.start.offset.get(), key.end.offset.get())).collect();
            assert_eq!(ranges, [(0, 10), (0, 20), (10, 20)]);
        }
    }

    #[test]
    fn names_of_others_are_counted_and_one_is_kept() {
        let listing = Listing::new([("b".to_string(), 1), ("generations/x".to_string(), 1)]);
        assert!(listing.is_empty());
        assert_eq!((listing.foreign_count(), listing.foreign_example()), (2, Some("b")));
        assert_eq!(Listing::new([]).foreign_example(), None);
        let (nested, size) = snapshot(GENERATION, 0, 1);
        assert_eq!(Listing::new([(format!("app/{nested}"), size)]).foreign_count(), 0);
        let owners = [3, 1].map(owner::name).into_iter().chain([format!("app/{}", owner::name(9))]);
        let owners = Listing::new(owners.map(|name| (name, 1)));
        assert_eq!((owners.owner(), owners.foreign_count(), owners.is_empty()), (Some(3), 0, true));
    }

    #[test]
    fn the_files_of_the_peer_are_told_by_their_names() {
        assert!(is_ltx_name("ltx/0/0000000000000001-0000000000000001.ltx") && is_ltx_name("a/ltx/9/1-2.ltx"));
        assert!(!is_ltx_name("ltx/0/readme") && !is_ltx_name("x.ltx") && !is_ltx_name("generations/1.ltx"));
    }

    #[test]
    fn the_edges_of_what_is_stored_are_known() {
        let entries = [snapshot(GENERATION, 10, 5), snapshot(GENERATION, 0, 4), segment(10, 30, 3, 9)];
        let listing = Listing::new(entries);
        let stored = listing.generation(Generation::new(GENERATION)).unwrap();
        assert_eq!(stored.first_snapshot(), Some(millis(4)));
        assert_eq!((stored.earliest_time(), stored.latest_time()), (Some(millis(3)), Some(millis(9))));
        assert_eq!(stored.latest_position(), Some(point(0, 30)));
        assert_eq!(latest_time(&listing), Some(millis(9)));
        assert_eq!(latest_time(&Listing::new([])), None);
        let later = Listing::new([snapshot(GENERATION, 10, 50), segment(10, 30, 3, 9)]);
        assert_eq!(latest_time(&later), Some(millis(50)));
    }
}

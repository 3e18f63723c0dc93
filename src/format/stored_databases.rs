//! Many databases, each below a prefix of its own, as the names of their objects tell it.
//!
//! The names are taken one after another, in any order, and are not kept. What stays of a database is a few numbers, the
//! newest snapshot, and the segments after it, without which nobody can tell where a restore ends: a segment that a newer
//! snapshot replaces is forgotten when that one comes.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Kind, Result};
use crate::format::chain::SegmentChain;
use crate::format::key::{Key, SegmentKey, SnapshotKey};
use crate::format::listing::GenerationObjects;
use crate::format::owner;
use crate::format::position::Generation;
use crate::format::prefixes::split;
use crate::format::time::Timestamp;

/// The databases below a root, by prefix; the empty one is the root itself.
#[derive(Default, Debug)]
pub struct StoredDatabases {
    databases: BTreeMap<String, StoredDatabase>,
    strangers: u64,
}

/// The objects of one database, as far as they matter. Never empty.
#[derive(Default, Debug)]
pub struct StoredDatabase {
    objects: u64,
    /// As stored.
    bytes: u64,
    generations: BTreeSet<Generation>,
    /// Of any snapshot.
    first: Option<Timestamp>,
    /// Of the newest rollup's end: of what is older, not every commit can be restored.
    thinned_to: Option<Timestamp>,
    newest: Option<NewestSnapshot>,
    /// Those of the newest snapshot's generation that may lead on from it, and those of newer generations.
    segments: Vec<(SegmentKey, u64)>,
}

#[derive(Debug)]
struct NewestSnapshot {
    key: SnapshotKey,
    /// In bytes, as stored.
    size: u64,
    description: Option<String>,
}

impl NewestSnapshot {
    /// The order in which a restore prefers them.
    fn rank(key: &SnapshotKey) -> impl Ord + use<> {
        (key.generation, key.position, key.time)
    }

    /// Whether a restore that begins with this one, or with a newer one, may read the segment.
    fn is_followed_by(&self, segment: &SegmentKey) -> bool {
        segment.generation > self.key.generation
            || (segment.generation == self.key.generation && segment.end > self.key.position)
    }
}

/// What a restore of the newest state gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewestState {
    /// The moment that it is of.
    pub time: Timestamp,
    /// Bytes that the restore reads, as stored.
    pub size: u64,
}

impl StoredDatabases {
    /// Takes in an object by its name and size; the prefix of its database, if that is new. `description` is what its writer
    /// says of it.
    pub fn add<'a>(&mut self, name: &'a str, size: u64, description: Option<String>) -> Option<&'a str> {
        let Some((prefix, key)) = split(name) else {
            let owner = owner::number(name).is_some() || owner::is_below_longer_prefix(name);
            self.strangers += u64::from(!owner);
            return None;
        };
        if let Some(database) = self.databases.get_mut(prefix) {
            database.add(key, size, description);
            return None;
        }
        self.databases.entry(prefix.to_string()).or_default().add(key, size, description);
        Some(prefix)
    }

    pub fn is_empty(&self) -> bool {
        self.databases.is_empty()
    }

    /// In their order.
    pub fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.databases.keys().map(String::as_str)
    }

    /// In order of their prefixes.
    pub fn databases(&self) -> impl Iterator<Item = (&str, &StoredDatabase)> {
        self.databases.iter().map(|(prefix, database)| (prefix.as_str(), database))
    }

    pub fn database(&self, prefix: &str) -> Option<&StoredDatabase> {
        self.databases.get(prefix)
    }

    /// How many names are none of ours.
    pub fn strangers(&self) -> u64 {
        self.strangers
    }
}

impl StoredDatabase {
    fn add(&mut self, key: Key, size: u64, description: Option<String>) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(size);
        self.generations.insert(key.generation());
        match key {
            Key::Snapshot(key) => self.add_snapshot(NewestSnapshot { key, size, description }),
            Key::Segment(key) => {
                if key.is_rollup() {
                    self.thinned_to = self.thinned_to.max(Some(key.last_seen));
                }
                if self.newest.as_ref().is_none_or(|newest| newest.is_followed_by(&key)) {
                    self.segments.push((key, size));
                }
            }
        }
    }

    fn add_snapshot(&mut self, snapshot: NewestSnapshot) {
        let time = snapshot.key.time;
        self.first = Some(self.first.map_or(time, |first| first.min(time)));
        let rank = NewestSnapshot::rank;
        if self.newest.as_ref().is_some_and(|newest| rank(&newest.key) > rank(&snapshot.key)) {
            return;
        }
        self.segments.retain(|(key, _)| snapshot.is_followed_by(key));
        // Room for a day of segments is not kept where the next day has few.
        self.segments.shrink_to(2 * self.segments.len());
        self.newest = Some(snapshot);
    }

    pub fn objects(&self) -> u64 {
        self.objects
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn generations(&self) -> u64 {
        self.generations.len() as u64
    }

    /// The first moment that can be restored.
    pub fn first(&self) -> Option<Timestamp> {
        self.first
    }

    /// From here on every commit can be restored.
    pub fn all_since(&self) -> Option<Timestamp> {
        self.first.max(self.thinned_to)
    }

    pub fn newest_snapshot(&self) -> Option<SnapshotKey> {
        self.newest.as_ref().map(|newest| newest.key)
    }

    /// What the writer of the newest snapshot says of it.
    pub fn description(&self) -> Option<&str> {
        self.newest.as_ref()?.description.as_deref()
    }

    /// What a restore without a target would give: the planner of `restore` comes to the same. But where a rollup leads over
    /// the newest snapshot and nothing leads on from there, a restore begins with an older one, of which nothing is known here:
    /// that is told as a gap.
    ///
    /// Errors: of kind `NothingToRestore` without a snapshot, `Corrupt` for a gap on the way.
    pub fn newest_state(&self) -> Result<NewestState> {
        let missing = || Error::new(Kind::NothingToRestore, "segments are stored, but no snapshot");
        let newest = self.newest.as_ref().ok_or_else(missing)?;
        let own = |(key, _): &&(SegmentKey, u64)| key.generation == newest.key.generation;
        let mut segments: Vec<_> = self.segments.iter().filter(own).copied().collect();
        segments.sort_unstable_by_key(|(key, _)| key.rank());
        let snapshots = vec![(newest.key, newest.size)];
        let stored = GenerationObjects { snapshots, segments };
        let mut chain = SegmentChain::of(&stored, (newest.key, newest.size));
        chain.require_no_gap()?;
        chain.drop_trailing_parts();
        let sizes = chain.segments.iter().map(|(_, size)| *size);
        Ok(NewestState { time: chain.latest_time(), size: sizes.fold(newest.size, u64::saturating_add) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{Random, millis, point};
    use crate::format::listing::Listing;
    use crate::format::plan::{PlanTarget, plan};

    fn snapshot(generation: u64, at: u64, time: u64) -> String {
        SnapshotKey { generation: Generation::new(generation), position: point(0, at), time: millis(time) }.to_string()
    }

    fn segment(generation: u64, start: u64, end: u64, part: bool) -> String {
        // A first moment of 0 is a rollup's.
        let (start, end, first, last) = (point(0, start), point(0, end), millis(start + 1), millis(end));
        SegmentKey { generation: Generation::new(generation), start, end, first_seen: first, last_seen: last, part }
            .to_string()
    }

    fn stored(names: &[(String, u64)]) -> StoredDatabases {
        let mut stored = StoredDatabases::default();
        for (name, size) in names {
            stored.add(name, *size, None);
        }
        stored
    }

    /// What `restore` plans, or its kind of error.
    fn planned(names: &[(String, u64)]) -> std::result::Result<NewestState, Kind> {
        let plan = plan(&Listing::new(names.to_vec()), None, &PlanTarget::Latest).map_err(|error| error.kind())?;
        let time = plan.segments.last().map_or(plan.snapshot.time, |(key, _)| key.last_seen);
        Ok(NewestState { time, size: plan.snapshot_size + plan.segments.iter().map(|(_, size)| size).sum::<u64>() })
    }

    #[test]
    fn names_in_any_order_come_to_what_a_restore_plans() {
        let mut restorable = 0;
        for seed in 0..2000 {
            let mut random = Random(seed);
            let mut names: Vec<(String, u64)> = (0..1 + random.below(12))
                .map(|_| {
                    let generation = 1 + random.below(2);
                    let start = 10 * random.below(5);
                    let end = start + 10 * (1 + random.below(3));
                    let name = match random.below(4) {
                        0 => snapshot(generation, start, start + random.below(2)),
                        kind => segment(generation, start, end, kind == 1),
                    };
                    (name, 1 + random.below(1000))
                })
                .collect();
            names.sort();
            names.dedup_by(|a, b| a.0 == b.0);
            let expected = planned(&names);
            restorable += u32::from(expected.is_ok());
            for _ in 0..3 {
                for at in (1..names.len()).rev() {
                    names.swap(at, random.below(1 + at as u64) as usize);
                }
                let stored = stored(&names);
                let found = stored.database("").unwrap().newest_state().map_err(|error| error.kind());
                assert_eq!(found, expected, "seed {seed}: {names:?}");
            }
        }
        assert!(restorable > 200, "{restorable}");
    }

    #[test]
    fn a_rollup_over_the_newest_snapshot_is_told_as_a_gap() {
        let rollup = |start, end| {
            let (generation, end_at) = (Generation::new(1), millis(end));
            let key = SegmentKey {
                generation,
                start: point(0, start),
                end: point(0, end),
                first_seen: SegmentKey::ROLLUP,
                last_seen: end_at,
                part: false,
            };
            (key.to_string(), 5)
        };
        let mut names = vec![(snapshot(1, 0, 1), 9), rollup(0, 20), (snapshot(1, 10, 10), 9)];
        let told =
            |names: &[(String, u64)]| stored(names).database("").unwrap().newest_state().map_err(|error| error.kind());
        assert_eq!(
            (told(&names), planned(&names)),
            (Err(Kind::Corrupt), Ok(NewestState { time: millis(20), size: 14 }))
        );
        names.push((snapshot(1, 20, 20), 9));
        assert_eq!(told(&names), planned(&names));
    }

    #[test]
    fn databases_and_strangers_are_told_apart_and_counted() {
        let (one, two) = (snapshot(1, 0, 5), segment(1, 0, 10, false));
        let mut names = vec![(one.clone(), 100), ("readme".to_string(), 7), ("generations/x".to_string(), 7)];
        for prefix in ["app", "tenants/t1.db", "generations/odd"] {
            names.extend([(format!("{prefix}/{one}"), 100), (format!("{prefix}/{two}"), 20)]);
        }
        names.push((format!("app/{}", snapshot(2, 0, 3)), 50));
        let stored = stored(&names);
        let prefixes: Vec<&str> = stored.databases().map(|(prefix, _)| prefix).collect();
        assert_eq!((prefixes, stored.strangers()), (vec!["", "app", "generations/odd", "tenants/t1.db"], 2));
        let app = stored.database("app").unwrap();
        assert_eq!((app.objects(), app.bytes(), app.generations(), app.first()), (3, 170, 2, Some(millis(3))));
        assert_eq!(app.newest_state().unwrap(), NewestState { time: millis(3), size: 50 });
        let tenant = stored.database("tenants/t1.db").unwrap();
        assert_eq!(tenant.newest_state().unwrap(), NewestState { time: millis(10), size: 120 });
        assert!(stored.database("tenants").is_none());
    }

    #[test]
    fn what_was_thinned_out_has_not_every_commit() {
        let rollup = |end: u64| {
            let (generation, start, end, last_seen) =
                (Generation::new(1), point(0, end - 5), point(0, end), millis(end));
            SegmentKey { generation, start, end, first_seen: SegmentKey::ROLLUP, last_seen, part: false }.to_string()
        };
        let names = [snapshot(1, 0, 1), rollup(5), rollup(10), segment(1, 10, 20, false), snapshot(2, 0, 4)];
        let stored = stored(&names.map(|name| (name, 1)));
        let database = stored.database("").unwrap();
        assert_eq!((database.first(), database.all_since()), (Some(millis(1)), Some(millis(10))));
    }

    #[test]
    fn the_words_of_the_newest_snapshot_are_kept() {
        let mut stored = StoredDatabases::default();
        for (name, words) in [(snapshot(1, 9, 9), "new"), (snapshot(1, 0, 1), "old"), (segment(1, 9, 10, false), "x")] {
            stored.add(&name, 1, Some(words.to_string()));
        }
        assert_eq!(stored.database("").unwrap().description(), Some("new"));
    }

    #[test]
    fn what_a_newer_snapshot_replaces_is_forgotten() {
        let mut stored = StoredDatabases::default();
        let kept = |stored: &StoredDatabases| stored.database("").map_or(0, |database| database.segments.len());
        for day in 0..100u64 {
            stored.add(&snapshot(1, day * 1000, day * 1000), 1, None);
            for at in day * 1000..day * 1000 + 50 {
                stored.add(&segment(1, at, at + 1, false), 1, None);
            }
            assert!(kept(&stored) <= 50, "day {day}");
        }
        // The snapshots of a newer generation come late: a snapshot is uploaded while segments are stored.
        for at in 0..50 {
            assert_eq!(stored.add(&segment(2, at, at + 1, false), 1, None), None);
        }
        assert_eq!(kept(&stored), 100);
        stored.add(&snapshot(2, 0, 200_000), 1, None);
        assert_eq!((kept(&stored), stored.database("").map(StoredDatabase::objects)), (50, Some(100 + 5000 + 51)));
    }
}

use std::collections::BTreeMap;
use std::collections::HashSet;

use super::*;
use crate::format::compaction::{merged_key, next_group_where};
use crate::format::fixtures::{Random, millis, point};
use crate::format::key::Key;
use crate::format::retention::{Policy, plan_deletions};

const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;
const DAY: u64 = 24 * HOUR;
/// 2026-11-20T00:00:00Z.
const T0: u64 = 1_795_132_800_000;

fn days(count: u64) -> Option<Duration> {
    Some(Duration::from_millis(count * DAY))
}

fn keep() -> Keep {
    Keep::new([days(1), days(7), days(30), None, days(400)]).unwrap()
}

fn id() -> Generation {
    Generation::new(7)
}

fn key(from: u64, to: u64, first: u64, last: u64) -> SegmentKey {
    let (start, end) = (point(0, from), point(0, to));
    SegmentKey { generation: id(), start, end, first_seen: millis(first), last_seen: millis(last), part: false }
}

fn snapshot(at: u64, time: u64) -> SnapshotKey {
    SnapshotKey { generation: id(), position: point(0, at), time: millis(time) }
}

fn listed(snapshots: &[SnapshotKey], segments: &[SegmentKey], size: u64) -> Listing {
    let snapshots = snapshots.iter().map(|key| (key.to_string(), 1_000_000));
    Listing::new(snapshots.chain(segments.iter().map(|key| (key.to_string(), size))))
}

/// One commit each ten minutes for so many hours, from hour `from` on, and the newest one at hour `newest`.
fn each_ten_minutes(from: u64, hours: u64, newest: u64) -> Vec<SegmentKey> {
    let time = |at: u64| T0 + from * HOUR + (at + 1) * HOUR / 6 - 1;
    let mut segments: Vec<_> = (0..hours * 6).map(|at| key(at, at + 1, time(at), time(at))).collect();
    segments.push(key(hours * 6, hours * 6 + 1, T0 + newest * HOUR, T0 + newest * HOUR));
    segments
}

/// The groups, each from one place to another.
fn planned(listing: &Listing, hour: u64) -> Vec<(usize, usize)> {
    let mut plans = plan_thinning(listing, &keep(), Snapshots::Made, millis(T0 + hour * HOUR));
    assert!(plans.len() <= 1);
    plans.pop().map(|plan| pairs(&plan)).unwrap_or_default()
}

fn pairs(plan: &Thinning) -> Vec<(usize, usize)> {
    plan.groups.iter().map(|places| (places.start, places.end)).collect()
}

#[test]
fn what_is_old_becomes_a_rollup_an_hour_and_later_one_a_day() {
    let segments = each_ten_minutes(0, 4, 24 * 6);
    let listing = listed(&[snapshot(0, T0 - 1)], &segments, 10_000);
    assert_eq!(planned(&listing, 24 * 6), [(0, 6), (6, 12), (12, 18), (18, 24)]);
    // A week later, one of all that is of the same day.
    let later = [&segments[..24], &[key(24, 25, T0 + 9 * DAY, T0 + 9 * DAY)]].concat();
    assert_eq!(planned(&listed(&[snapshot(0, T0 - 1)], &later, 10_000), 24 * 9), [(0, 24)]);
    // While every commit is kept, none; nor where the newest commit is of then, whatever the clock says.
    assert_eq!(planned(&listed(&[snapshot(0, T0 - 1)], &each_ten_minutes(0, 4, 20), 10), 24 * 30), [(0, 0); 0]);
    // Hours that are only half in the part of which every commit is kept wait for the rest.
    let listing = listed(&[snapshot(0, T0 - 1)], &each_ten_minutes(0, 4, 26), 10);
    let half = plan_thinning(&listing, &keep(), Snapshots::Made, millis(T0 + 25 * HOUR + HOUR / 2));
    assert_eq!((planned(&listing, 26), pairs(&half[0])), (vec![(0, 6), (6, 12)], vec![(0, 6)]));
}

#[test]
fn a_rollup_is_left_alone_until_it_belongs_to_a_longer_step() {
    let rollup = |from, to, last| SegmentKey { first_seen: SegmentKey::ROLLUP, ..key(from, to, last, last) };
    let hours: Vec<_> = (0..4).map(|hour| rollup(hour, hour + 1, T0 + (hour + 1) * HOUR - 1)).collect();
    let with = |newest: u64| [&hours[..], &[key(4, 5, newest, newest)]].concat();
    assert_eq!(planned(&listed(&[snapshot(0, T0 - 1)], &with(T0 + 2 * DAY), 10), 48), [(0, 0); 0]);
    assert_eq!(planned(&listed(&[snapshot(0, T0 - 1)], &with(T0 + 9 * DAY), 10), 216), [(0, 4)]);
}

#[test]
fn snapshots_and_what_must_stay_whole_bound_the_groups() {
    let segments = each_ten_minutes(0, 3, 24 * 9);
    let at = |snapshots: &[u64]| {
        let snapshots: Vec<_> = snapshots.iter().map(|at| snapshot(*at, T0 + at * HOUR / 6)).collect();
        planned(&listed(&snapshots, &segments, 1_000_000), 24 * 9)
    };
    assert_eq!(at(&[0]), [(0, 18)]);
    assert_eq!(at(&[0, 8]), [(0, 8), (8, 18)]);
    // A segment with the point of a snapshot in it, or from before the first.
    let mut merged = segments.clone();
    merged.splice(6..12, [key(6, 12, segments[6].first_seen.millis(), segments[11].last_seen.millis())]);
    let listing = listed(&[snapshot(0, T0 - 1), snapshot(8, T0 + 2 * HOUR)], &merged, 1_000_000);
    assert_eq!(planned(&listing, 24 * 9), [(0, 6), (7, 13)]);
    let late = listed(&[snapshot(8, T0 + 2 * HOUR)], &merged[6..], 1_000_000);
    assert_eq!(planned(&late, 24 * 9), [(1, 7)]);
    // One of more than an hour, while the last commit of each hour is kept: what is before it ends with no hour.
    merged.splice(2..7, [key(2, 12, segments[2].first_seen.millis(), segments[11].last_seen.millis())]);
    merged.pop();
    merged.push(key(18, 19, T0 + 6 * DAY, T0 + 6 * DAY));
    assert_eq!(planned(&listed(&[snapshot(0, T0 - 1)], &merged, 10), 24 * 6), [(3, 9)]);
    // Nothing where something is missing, and nothing beside what overlaps in another way.
    let gap = [&segments[..3], &segments[4..]].concat();
    assert_eq!(planned(&listed(&[snapshot(0, T0 - 1)], &gap, 10), 24 * 9), [(0, 0); 0]);
    let mut crossed = each_ten_minutes(0, 3, 24 * 6);
    crossed.splice(6..12, [key(6, 12, crossed[6].first_seen.millis(), crossed[11].last_seen.millis())]);
    assert_eq!(planned(&listed(&[snapshot(0, T0 - 1)], &crossed, 10), 24 * 6), [(0, 6), (6, 7), (7, 13)]);
    crossed.push(SegmentKey { first_seen: SegmentKey::ROLLUP, ..key(9, 15, 0, T0 + 2 * HOUR) });
    assert_eq!(planned(&listed(&[snapshot(0, T0 - 1)], &crossed, 10), 24 * 6), [(0, 6)]);
}

#[test]
fn a_transaction_in_parts_is_of_the_hour_in_which_it_ends() {
    let part = |from, to, time| SegmentKey { part: true, ..key(from, to, time, time) };
    let minute = HOUR / 60;
    let segments = [
        key(0, 1, T0 + 10 * minute, T0 + 10 * minute),
        key(1, 2, T0 + 50 * minute, T0 + 50 * minute),
        part(2, 3, T0 + 55 * minute),
        part(3, 4, T0 + 58 * minute),
        key(4, 5, T0 + 61 * minute, T0 + 61 * minute),
        key(5, 6, T0 + 90 * minute, T0 + 90 * minute),
        key(6, 7, T0 + 3 * DAY, T0 + 3 * DAY),
    ];
    let listing = listed(&[snapshot(0, T0 - 1)], &segments, 10);
    assert_eq!(planned(&listing, 72), [(0, 2), (2, 6)]);
    let kept: Vec<_> = kept_moments(&listing, &keep(), millis(T0 + 3 * DAY)).iter().map(|it| it.position).collect();
    assert_eq!(kept, [point(0, 0), point(0, 2), point(0, 6), point(0, 7)]);
}

#[test]
fn snapshots_that_save_little_are_superfluous() {
    let segments = each_ten_minutes(0, 4, 24 * 9);
    let planned = |snapshots: &[(u64, u64)], size: u64, made: Snapshots| {
        let snapshots: Vec<_> = snapshots.iter().map(|(at, time)| snapshot(*at, *time)).collect();
        let listing = listed(&snapshots, &segments, size);
        let plans = plan_thinning(&listing, &keep(), made, millis(T0 + 9 * DAY));
        plans.iter().flat_map(|plan| &plan.superfluous).map(|key| key.position.offset.get()).collect::<Vec<_>>()
    };
    let some = [(0, T0 - 1), (6, T0 + HOUR), (12, T0 + 2 * HOUR), (24, T0 + 4 * HOUR)];
    let of = |snapshots: &[(u64, u64)], size: u64| planned(snapshots, size, Snapshots::NotMade);
    assert_eq!(of(&some, 10_000), [6, 12]);
    // Without the second one, half a snapshot is read up to the third; without that, more.
    assert_eq!(of(&some, 40_000), [6]);
    // States up to the third one would cost more.
    assert_eq!(of(&some, 50_000), [0; 0]);
    assert_eq!(of(&some, 100_000), [0; 0]);
    assert_eq!(of(&some[..2], 10_000), [0; 0]);
    // Where snapshots can be made, one of a state that is not kept is of no use.
    assert_eq!(planned(&some, 100_000, Snapshots::Made), [6, 12]);
    // Every commit is kept of the part that it is in, or it is about to be the first one.
    assert_eq!(of(&[(0, T0 - 1), (6, T0 + 9 * DAY - HOUR), (12, T0 + 9 * DAY)], 10), [0; 0]);
    let short = Keep::new([days(1), days(9), None, None, None]).unwrap();
    let listing = listed(&[snapshot(0, T0 - 1), snapshot(6, T0 + HOUR), snapshot(24, T0 + 4 * HOUR)], &segments, 10);
    assert!(
        plan_thinning(&listing, &short, Snapshots::Made, millis(T0 + 9 * DAY))
            .iter()
            .all(|plan| plan.superfluous.is_empty())
    );
}

#[test]
fn a_snapshot_is_wanted_where_a_restore_reads_too_much() {
    let wanted = |snapshots: &[u64], newest: u64, size: u64| {
        let snapshots: Vec<_> = snapshots.iter().map(|at| snapshot(*at, T0 + at * HOUR / 6 - 1)).collect();
        let listing = listed(&snapshots, &each_ten_minutes(0, 4, newest), size);
        let plans = plan_thinning(&listing, &keep(), Snapshots::Made, millis(T0 + newest * HOUR));
        plans.iter().flat_map(|plan| &plan.wanted).copied().collect::<Vec<_>>()
    };
    // Behind two hours of it; behind each hour.
    assert_eq!(wanted(&[0], 20, 50_000), [11, 23]);
    assert_eq!(wanted(&[0], 20, 100_000), [5, 11, 17, 23]);
    assert_eq!(wanted(&[0], 20, 20_000), [0; 0]);
    assert_eq!(wanted(&[0, 12], 20, 50_000), [23]);
    // A week later, only behind the day.
    assert_eq!(wanted(&[0], 24 * 9, 100_000), [23]);
    // The hour of the newest commit may not be over.
    let open = listed(&[snapshot(0, T0 - 1)], &each_ten_minutes(0, 4, 20)[..22], 100_000);
    let plans = plan_thinning(&open, &keep(), Snapshots::Made, millis(T0 + 20 * HOUR));
    assert_eq!(plans.iter().flat_map(|plan| &plan.wanted).copied().collect::<Vec<_>>(), [5, 11, 17]);
    let listing = listed(&[snapshot(0, T0 - 1)], &each_ten_minutes(0, 4, 20), 100_000);
    assert_eq!(plan_thinning(&listing, &keep(), Snapshots::NotMade, millis(T0 + 20 * HOUR)), []);
}

/// What is stored, by name: size, and the commits (by number, from 1) that can be restored with it.
type Stored = BTreeMap<String, (Key, u64, Vec<u64>)>;

/// A device that only ever adds, and what it has committed.
struct Device {
    /// When commit number n, from 1 on, was seen.
    times: Vec<u64>,
    now: u64,
}

impl Device {
    fn commit(&mut self, stored: &mut Stored, random: &mut Random) {
        self.now += 1 + match random.below(8) {
            0 => random.below(3 * DAY),
            1 | 2 => random.below(3 * HOUR),
            _ => random.below(600 * SECOND),
        };
        let from = self.times.len() as u64;
        let count = 1 + random.below(3) * random.below(2);
        for _ in 0..count {
            self.times.push(self.now);
            self.now += 1 + random.below(20 * SECOND) * random.below(2) * random.below(60);
        }
        let to = self.times.len() as u64;
        let segment = key(from, to, self.times[from as usize], self.times[to as usize - 1]);
        put(stored, Key::Segment(segment), 100 * count + random.below(20_000), (from + 1..=to).collect());
        if random.below(40) == 0 {
            self.snapshot(stored, 1_000 + random.below(1 << 20));
        }
    }

    fn snapshot(&self, stored: &mut Stored, size: u64) {
        let (at, time) = (self.times.len() as u64, self.times.last().copied().unwrap_or(T0));
        put(stored, Key::Snapshot(snapshot(at, time)), size, vec![at]);
    }
}

fn put(stored: &mut Stored, key: Key, size: u64, commits: Vec<u64>) {
    stored.insert(key.to_string(), (key, size, commits));
}

fn listing(stored: &Stored) -> Listing {
    Listing::new(stored.iter().map(|(name, (_, size, _))| (name.clone(), *size)))
}

/// Which commit a restore of a moment gives; none if it is refused.
fn restored(stored: &Stored, listing: &Listing, time: u64, times: &[u64]) -> Option<u64> {
    let plan = plan(listing, None, &Target::Time(millis(time))).ok()?;
    let mut at = plan.snapshot.position.offset.get();
    for (key, _) in plan.segments {
        assert!(key.leads_on_from(point(0, at)), "{key} does not lead on from commit {at}");
        let (_, _, commits) = &stored[&key.to_string()];
        let fits = |commit: &&u64| times[**commit as usize - 1] <= time;
        at = commits.iter().rev().find(fits).copied().unwrap_or(at).max(at);
    }
    Some(at)
}

/// A program that thins, merges and deletes by what it has listed.
#[derive(Default)]
struct Compactor {
    listing: Listing,
    /// When that was.
    now: u64,
    /// What it has decided to delete.
    deleting: Vec<String>,
}

impl Compactor {
    fn step(&mut self, stored: &mut Stored, now: u64, keep: &Keep, random: &mut Random) {
        match random.below(6) {
            _ if self.deleting.len() > 1 && random.below(3) > 0 => drop(stored.remove(&self.deleting.remove(0))),
            0 => self.list(stored, now),
            1 => self.merge(stored, keep),
            2 => {
                self.list(stored, now);
                let retention = Some(keep.longest());
                let policy = Policy { retention, keep: Some(*keep), grace: Duration::ZERO };
                let delete = plan_deletions(&self.listing, policy, millis(now)).delete;
                self.deleting = delete.iter().map(Key::to_string).collect();
            }
            3 if random.below(2) == 0 => self.add_snapshots(stored, keep, random),
            3 => self.drop_snapshots(stored, keep),
            _ => self.roll_up(stored, keep, random),
        }
    }

    fn list(&mut self, stored: &Stored, now: u64) {
        (self.listing, self.now) = (listing(stored), now);
        self.deleting.clear();
    }

    fn merge(&mut self, stored: &mut Stored, keep: &Keep) {
        for thinning in whole_chains(&self.listing) {
            let chain = thinning.2.segments;
            let may = |group: &[(SegmentKey, u64)]| {
                keep.allows_merge(group[0].0.last_seen, group[group.len() - 1].0.last_seen)
            };
            let Some(places) = next_group_where(&chain, true, may) else { continue };
            let group = chain[places].to_vec();
            replace(stored, &group, merged_key(&group).unwrap(), |bytes| bytes, |commits| commits);
        }
    }

    fn roll_up(&mut self, stored: &mut Stored, keep: &Keep, random: &mut Random) {
        for plan in plan_thinning(&self.listing, keep, Snapshots::Made, millis(self.now)) {
            for places in &plan.groups {
                let group = plan.chain.segments[places.clone()].to_vec();
                let (first, last) = (group[0].0, group[group.len() - 1].0);
                let key =
                    SegmentKey { first_seen: SegmentKey::ROLLUP, last_seen: last.last_seen, end: last.end, ..first };
                let smaller = |bytes: u64| bytes * 2 / 3;
                replace(stored, &group, key, smaller, |commits| commits[commits.len() - 1..].to_vec());
                if random.below(5) == 0 {
                    return;
                }
            }
        }
    }

    fn add_snapshots(&mut self, stored: &mut Stored, keep: &Keep, random: &mut Random) {
        for plan in plan_thinning(&self.listing, keep, Snapshots::Made, millis(self.now)) {
            for (key, _) in plan.wanted.iter().map(|place| plan.chain.segments[*place]) {
                let at = key.end.offset.get();
                let size = 1_000 + random.below(1 << 18);
                put(stored, Key::Snapshot(snapshot(at, key.last_seen.millis())), size, vec![at]);
            }
        }
    }

    fn drop_snapshots(&mut self, stored: &mut Stored, keep: &Keep) {
        for plan in plan_thinning(&self.listing, keep, Snapshots::Made, millis(self.now)) {
            let gone: HashSet<Key> = plan.superfluous.iter().map(|key| Key::Snapshot(*key)).collect();
            let fresh = listing(stored);
            if leads_to_the_same(&fresh, &fresh.without(&gone), keep, millis(self.now)) {
                // In this order, so that the seed decides everything.
                self.deleting = plan.superfluous.iter().map(|key| Key::Snapshot(*key).to_string()).collect();
            }
        }
    }
}

/// Puts one object for a group, if all of the group is still there.
fn replace(
    stored: &mut Stored,
    group: &[(SegmentKey, u64)],
    key: SegmentKey,
    size: impl Fn(u64) -> u64,
    commits: impl Fn(Vec<u64>) -> Vec<u64>,
) {
    let found: Option<Vec<_>> = group.iter().map(|(key, _)| stored.get(&key.to_string()).cloned()).collect();
    let Some(found) = found else { return };
    let bytes = found.iter().map(|(_, size, _)| size).sum();
    let all = found.into_iter().flat_map(|(_, _, commits)| commits).collect();
    put(stored, Key::Segment(key), size(bytes), commits(all));
}

#[test]
fn several_that_thin_at_once_keep_what_the_policy_keeps() {
    let keeps = [keep(), Keep::new([days(1), None, days(10), days(40), None]).unwrap()];
    for seed in 0..10 {
        let mut random = Random(seed);
        let keep = keeps[seed as usize % 2];
        let mut stored = Stored::new();
        let mut device = Device { times: Vec::new(), now: T0 };
        device.snapshot(&mut stored, 100_000);
        let mut compactors: [Compactor; 3] = Default::default();
        for step in 0..700 {
            if random.below(3) == 0 {
                device.commit(&mut stored, &mut random);
            }
            let some = random.below(3) as usize;
            compactors[some].step(&mut stored, device.now, &keep, &mut random);
            if step % 9 == 0 {
                check(&stored, &device, &keep, &format!("seed {seed} step {step}"));
            }
        }
        // In the end one of them does all that is left.
        for _ in 0..60 {
            let mut last = Compactor::default();
            last.list(&stored, device.now);
            last.drop_snapshots(&mut stored, &keep);
            last.deleting.iter().for_each(|name| drop(stored.remove(name)));
            last.list(&stored, device.now);
            last.roll_up(&mut stored, &keep, &mut random);
            last.list(&stored, device.now);
            last.add_snapshots(&mut stored, &keep, &mut random);
            let policy = Policy { retention: Some(keep.longest()), keep: Some(keep), grace: Duration::ZERO };
            for gone in plan_deletions(&listing(&stored), policy, millis(device.now)).delete {
                stored.remove(&gone.to_string());
            }
        }
        check(&stored, &device, &keep, &format!("seed {seed} at the end"));
        let rollups = stored.values().filter(|(key, _, _)| matches!(key, Key::Segment(key) if key.is_rollup())).count();
        assert!(rollups > 0 || device.times.len() < 50, "seed {seed}");
        let kept =
            device.times.windows(2).filter(|pair| keep.keeps(millis(device.now), millis(pair[0]), millis(pair[1])));
        let (kept, objects) = (kept.count(), stored.len());
        // A snapshot that stays cuts what is beside it.
        let snapshots = stored.values().filter(|(key, _, _)| matches!(key, Key::Snapshot(_))).count();
        let what = format!("{objects} objects, {snapshots} snapshots, {kept} of {} commits", device.times.len());
        assert!(objects < kept + 4 * snapshots + 30, "seed {seed}: {what}");
    }
}

fn check(stored: &Stored, device: &Device, keep: &Keep, what: &str) {
    let (listing, times) = (listing(stored), &device.times);
    let Some(newest) = times.last().copied() else { return };
    let oldest =
        stored.values().filter_map(|(key, _, _)| if let Key::Snapshot(key) = key { Some(key.time) } else { None });
    let oldest = oldest.min().unwrap().millis();
    for (at, time) in times.iter().enumerate() {
        let next = times.get(at + 1).copied().unwrap_or(u64::MAX / 2);
        let found = restored(stored, &listing, *time, times);
        let commit = at as u64 + 1;
        assert!(found.is_none_or(|found| found <= commit), "{what}: commit {found:?} for {commit}");
        let horizon = newest.saturating_sub(keep.longest().as_millis() as u64);
        if *time >= horizon.max(oldest) && keep.keeps(millis(newest), millis(*time), millis(next)) {
            assert_eq!(found, Some(commit), "{what}: commit {commit} of {}", times.len());
        }
    }
}

//! A device, what is stored of it, and programs that thin, merge and delete that.

use std::collections::{BTreeMap, HashSet};

use super::*;
use crate::format::compaction::{merged_key, next_group_where};
use crate::format::fixtures::{Random, millis, point};
use crate::format::key::Key;
use crate::format::retention::{Policy, plan_deletions};

/// What is stored, by name: size, and the commits (by number, from 1) that can be restored with it.
pub type Stored = BTreeMap<String, (Key, u64, Vec<u64>)>;

/// A device that only ever adds, and what it has committed.
pub struct Device {
    /// When commit number n, from 1 on, was seen.
    pub times: Vec<u64>,
    pub now: u64,
    /// No segment of it goes on from one hour to the next: then none has a state within that is kept.
    pub cuts: bool,
}

impl Device {
    pub fn commit(&mut self, stored: &mut Stored, random: &mut Random) {
        self.now += 1 + match random.below(8) {
            0 => random.below(3 * DAY),
            1 | 2 => random.below(3 * HOUR),
            _ => random.below(600 * SECOND),
        };
        self.commit_now(stored, random);
    }

    pub fn commit_now(&mut self, stored: &mut Stored, random: &mut Random) {
        let from = self.times.len() as u64;
        let count = 1 + random.below(3) * random.below(2);
        for at in 0..count {
            if self.cuts && at > 0 && self.times.last().is_some_and(|last| last / HOUR < self.now / HOUR) {
                break;
            }
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

    pub fn snapshot(&self, stored: &mut Stored, size: u64) {
        let (at, time) = (self.times.len() as u64, self.times.last().copied().unwrap_or(T0));
        put(stored, Key::Snapshot(snapshot(at, time)), size, vec![at]);
    }
}

pub fn put(stored: &mut Stored, key: Key, size: u64, commits: Vec<u64>) {
    stored.insert(key.to_string(), (key, size, commits));
}

pub fn listing(stored: &Stored) -> Listing {
    Listing::new(stored.iter().map(|(name, (_, size, _))| (name.clone(), *size)))
}

/// Which commit a restore of a moment gives; none if it is refused.
pub fn restored(stored: &Stored, listing: &Listing, time: u64, times: &[u64]) -> Option<u64> {
    let plan = plan(listing, None, &PlanTarget::Time(millis(time))).ok()?;
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
pub struct Compactor {
    pub listing: Listing,
    /// When that was.
    pub now: u64,
    /// What it has decided to delete.
    pub deleting: Vec<String>,
}

impl Compactor {
    pub fn step(&mut self, stored: &mut Stored, now: u64, keep: &Keep, random: &mut Random) {
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

    pub fn list(&mut self, stored: &Stored, now: u64) {
        (self.listing, self.now) = (listing(stored), now);
        self.deleting.clear();
    }

    pub fn merge(&mut self, stored: &mut Stored, keep: &Keep) {
        for thinning in whole_chains(&self.listing) {
            let chain = thinning.2.segments;
            let may = |group: &[(SegmentKey, u64)]| {
                keep.allows_merge(group[0].0.last_seen, group[group.len() - 1].0.last_seen)
            };
            let Some(range) = next_group_where(&chain, true, may) else { continue };
            let group = chain[range].to_vec();
            replace(stored, &group, merged_key(&group).unwrap(), |bytes| bytes, |commits| commits);
        }
    }

    /// It may die after each rollup.
    pub fn roll_up(&mut self, stored: &mut Stored, keep: &Keep, random: &mut Random) {
        self.roll_up_until(stored, keep, || random.below(5) == 0);
    }

    pub fn roll_up_until(&mut self, stored: &mut Stored, keep: &Keep, mut dies: impl FnMut() -> bool) {
        for plan in plan_thinning(&self.listing, keep, millis(self.now)) {
            for range in &plan.groups {
                let group = plan.chain.segments[range.clone()].to_vec();
                let (first, last) = (group[0].0, group[group.len() - 1].0);
                let key =
                    SegmentKey { first_seen: SegmentKey::ROLLUP, last_seen: last.last_seen, end: last.end, ..first };
                let smaller = |bytes: u64| bytes * 2 / 3;
                replace(stored, &group, key, smaller, |commits| commits[commits.len() - 1..].to_vec());
                if dies() {
                    return;
                }
            }
        }
    }

    pub fn add_snapshots(&mut self, stored: &mut Stored, keep: &Keep, random: &mut Random) {
        for plan in plan_thinning(&self.listing, keep, millis(self.now)) {
            for (key, _) in plan.wanted.iter().map(|place| plan.chain.segments[*place]) {
                let at = key.end.offset.get();
                let size = 1_000 + random.below(1 << 18);
                put(stored, Key::Snapshot(snapshot(at, key.last_seen.millis())), size, vec![at]);
            }
        }
    }

    pub fn drop_snapshots(&mut self, stored: &mut Stored, keep: &Keep) {
        for plan in plan_thinning(&self.listing, keep, millis(self.now)) {
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
pub fn replace(
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

pub fn check(stored: &Stored, device: &Device, keep: &Keep, what: &str) {
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

/// The same of nothing but the states that the policy keeps, which is faster.
pub fn check_kept(stored: &Stored, device: &Device, keep: &Keep, what: &str) {
    let (listing, times, now) = (listing(stored), &device.times, device.times[device.times.len() - 1]);
    for (at, pair) in times.windows(2).enumerate() {
        let [time, next] = [pair[0], pair[1]].map(millis);
        if keep.keeps(millis(now), time, next) && !keep.keeps_all(millis(now), time) {
            let found = restored(stored, &listing, pair[0], times);
            assert_eq!(found, Some(at as u64 + 1), "{what}: commit {} of {}", at + 1, times.len());
        }
    }
}

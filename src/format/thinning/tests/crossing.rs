//! Rollups that cross one another, made by programs that do not know of each snapshot: one program alone brings them to an end.

use super::model::*;
use super::*;
use crate::format::fixtures::Random;
use crate::format::key::Key;
use crate::format::retention::{Policy, plan_deletions};

type Made = Vec<(String, (Key, u64, Vec<u64>))>;

/// A history, and what compactors have made of it that did not know of some of the snapshots, each by a listing of another time.
fn crossed(seed: u64) -> (Device, Stored, Vec<Made>) {
    let mut random = Random(seed);
    let mut device = Device { times: Vec::new(), now: T0, cuts: true };
    let (mut stored, mut made) = (Stored::new(), Vec::<Made>::new());
    device.snapshot(&mut stored, 100_000);
    for _ in 0..5 {
        (0..10 + random.below(15)).for_each(|_| device.commit(&mut stored, &mut random));
        device.snapshot(&mut stored, 1_000 + random.below(1 << 20));
        (0..random.below(15)).for_each(|_| device.commit(&mut stored, &mut random));
        device.now += [0, 1, 5, 25][random.below(4) as usize] * DAY;
        device.commit(&mut stored, &mut random);
        for _ in 0..2 {
            made.push(made_by_another(&stored, &made, device.now, &mut random));
        }
    }
    // The newest snapshot is within an hour.
    device.now += HOUR - device.now % HOUR;
    for at in 0..8 {
        device.now += 5 * HOUR / 60;
        device.commit_now(&mut stored, &mut random);
        if at == 3 {
            device.snapshot(&mut stored, 500_000);
        }
    }
    device.now += [2, 10][random.below(2) as usize] * DAY;
    device.commit_now(&mut stored, &mut random);
    (0..4).for_each(|_| made.push(made_by_another(&stored, &made, device.now, &mut random)));
    (device, stored, made)
}

/// It knows of the oldest snapshot, of half of the others, and of half of what others have made.
fn made_by_another(stored: &Stored, others: &[Made], now: u64, random: &mut Random) -> Made {
    let mut seen = stored.clone();
    let oldest = seen.keys().find(|name| name.contains("/snapshots/")).cloned();
    seen.retain(|name, _| !name.contains("/snapshots/") || Some(name) == oldest.as_ref() || random.below(2) > 0);
    others.iter().filter(|_| random.below(2) > 0).for_each(|made| seen.extend(made.clone()));
    let mut compactor = Compactor::default();
    compactor.list(&seen, now);
    let mut after = seen.clone();
    if random.below(2) == 0 {
        compactor.merge(&mut after, &keep());
        compactor.list(&after, now);
    }
    compactor.roll_up_until(&mut after, &keep(), || random.below(50) == 0);
    after.into_iter().filter(|(name, _)| !seen.contains_key(name)).collect()
}

/// The rollups that overlap another segment, of which neither contains the other.
fn crossing(stored: &Stored) -> usize {
    let segment = |key: &Key| if let Key::Segment(key) = key { Some(*key) } else { None };
    let segments: Vec<SegmentKey> = stored.values().filter_map(|(key, _, _)| segment(key)).collect();
    let crosses = |one: &&SegmentKey| {
        one.is_rollup() && segments.iter().any(|two| overlaps_partly((one.start, one.end), (two.start, two.end)))
    };
    segments.iter().filter(crosses).count()
}

/// One pass of a program alone, as `thin` and the retention after it make it. Whether it has changed anything.
fn pass(stored: &mut Stored, device: &Device, random: &mut Random, what: &str) -> bool {
    let (before, keep): (Vec<String>, _) = (stored.keys().cloned().collect(), keep());
    let mut alone = Compactor::default();
    for _ in 0..6 {
        alone.list(stored, device.now);
        alone.drop_snapshots(stored, &keep);
        for name in std::mem::take(&mut alone.deleting) {
            stored.remove(&name);
            check_kept(stored, device, &keep, what);
        }
        alone.list(stored, device.now);
        alone.roll_up_until(stored, &keep, || false);
        check_kept(stored, device, &keep, what);
        alone.list(stored, device.now);
        alone.add_snapshots(stored, &keep, random);
        check_kept(stored, device, &keep, what);
    }
    let policy = Policy { retention: Some(keep.longest()), keep: Some(keep), grace: Duration::ZERO };
    for gone in plan_deletions(&listing(stored), policy, millis(device.now)).delete {
        stored.remove(&gone.to_string());
        check_kept(stored, device, &keep, what);
    }
    !stored.keys().eq(before.iter())
}

/// How many objects are left in the end, and how many rollups have crossed, if all that was made is put in one of several orders. In
/// order 0 nothing of it is put.
fn left(seed: u64, order: u64) -> (usize, usize) {
    let (device, mut stored, mut made) = crossed(seed);
    let (mut random, what) = (Random(order), format!("seed {seed} order {order}"));
    let mut crossed = 0;
    while order > 0 && !made.is_empty() {
        stored.extend(made.swap_remove(random.below(made.len() as u64) as usize));
        check_kept(&stored, &device, &keep(), &what);
        crossed = crossed.max(crossing(&stored));
        if random.below(4) == 0 {
            pass(&mut stored, &device, &mut random, &what);
        }
    }
    let passes = (0..20).take_while(|_| pass(&mut stored, &device, &mut random, &what)).count();
    assert!(passes < 20, "{what}: it comes to no end");
    check(&stored, &device, &keep(), &what);
    (stored.len(), crossed)
}

/// `THINNING_SEEDS=n` tries more histories.
#[test]
fn rollups_that_cross_leave_no_more_objects_in_any_order() {
    let given = std::env::var("THINNING_SEEDS").ok();
    let seeds = given.map_or(6, |text| text.parse().expect("THINNING_SEEDS: expected a number"));
    let mut crossed = 0;
    for seed in 0..seeds {
        let (alone, _) = left(seed, 0);
        for order in 1..4 {
            let (objects, crossing) = left(seed, order);
            println!("seed {seed} order {order}: {crossing} crossed, {objects} objects, {alone} without them");
            assert!(
                objects <= alone + 3,
                "seed {seed} order {order}: {objects} objects, {alone} without other programs"
            );
            crossed += crossing;
        }
    }
    assert!(crossed > 5, "{crossed} rollups crossed others");
}

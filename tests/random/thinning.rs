//! A history is thinned out at random moments by programs that die at it: each state that the policy keeps is restored as it was
//! committed, with its checksum.

mod device;

use std::time::Duration;

use crate::support::random::Random;
use device::{DAY, Device, Eyes, Objects, keep};
use litestream::age::identity::Identity;
use litestream::error::Kind;
use litestream::store::Entry;
use litestream::thinning::{Thinned, no_progress, thin};

/// Every third seed is encrypted.
fn grown(seed: u64, commits: usize) -> (Device, Random) {
    let mut random = Random(seed);
    let identity = (seed % 3 == 1).then(Identity::generate);
    let mut device = Device::new(&mut random, identity);
    while device.commits.len() < commits {
        device.commit(&mut random);
    }
    (device, random)
}

#[test]
fn what_the_policy_keeps_survives_compactors_that_die() {
    for seed in 0..3 {
        let (mut device, mut random) = grown(seed, 30);
        let (mut rollups, mut snapshots) = (0, 0);
        for _ in 0..60 {
            for _ in 0..random.below(6) {
                device.commit(&mut random);
            }
            let left = (random.below(4) > 0).then(|| random.below(9) as usize);
            let done = device.compact(Eyes::OPEN, left);
            (rollups, snapshots) = (rollups + done.rollups, snapshots + done.new_snapshots);
            device.check(&mut random, 6);
        }
        for _ in 0..6 {
            device.compact(Eyes::OPEN, None);
        }
        device.check(&mut random, 1);
        assert!(rollups > 10 && device.rollups() > 3, "seed {seed}: {rollups} rollups");
        assert!(snapshots > 0, "seed {seed}: no snapshot was made");
        let kept = (0..device.commits.len()).filter(|commit| device.keeps(*commit)).count();
        let (objects, commits) = (device.store.names().len(), device.commits.len());
        assert!(objects < kept + 25 && kept < commits, "seed {seed}: {objects} objects, {kept} of {commits} are kept");
    }
}

/// Each change that a pass makes to its store may be the last one.
#[test]
fn a_pass_may_die_behind_each_of_its_changes() {
    let (device, mut random) = grown(11, 150);
    let before = device.store.objects.borrow().clone();
    let mut changes = 0;
    loop {
        *device.store.objects.borrow_mut() = before.clone();
        let (_, done) = device.pass(Eyes::OPEN, Some(changes));
        device.check(&mut random, 12);
        device.clock.pass(Duration::from_secs(1200));
        device.compact(Eyes::OPEN, None);
        device.check(&mut random, 12);
        if done.is_ok() {
            break;
        }
        changes += 1;
    }
    assert!(changes > 8, "{changes} changes");
}

/// Objects get lost, and what was deleted is there again: what could be restored and is kept can still be.
#[test]
fn a_store_that_loses_and_doubles_objects_loses_no_more_by_it() {
    for seed in 20..24 {
        let (mut device, mut random) = grown(seed, 60);
        let mut gone: Vec<(String, Vec<u8>)> = Vec::new();
        for _ in 0..25 {
            (0..random.below(5)).for_each(|_| device.commit(&mut random));
            device.clock.pass(Duration::from_secs(1200));
            let before = device.store.objects.borrow().clone();
            drop(device.pass(Eyes::OPEN, None));
            let after = device.store.objects.borrow().clone();
            gone.extend(before.into_iter().filter(|(name, _)| !after.contains_key(name)));
            if random.below(4) == 0 {
                let at = random.below(after.len() as u64) as usize;
                let name = after.keys().nth(at).unwrap().clone();
                device.store.objects.borrow_mut().remove(&name);
            }
            for _ in 0..random.below(4).min(gone.len() as u64) {
                let (name, bytes) = gone[random.below(gone.len() as u64) as usize].clone();
                device.store.objects.borrow_mut().insert(name, bytes);
            }
            let kept: Vec<usize> = (0..device.commits.len()).filter(|at| device.keeps(*at)).collect();
            let possible = |at: &&usize| device.restored(device.commits[**at].time) == Some(**at);
            let wanted: Vec<&usize> = kept.iter().filter(|_| random.below(3) == 0).collect();
            let wanted: Vec<&usize> = wanted.into_iter().filter(possible).collect();
            drop(device.pass(Eyes::OPEN, None));
            for at in wanted {
                assert_eq!(device.restored(device.commits[*at].time), Some(*at), "seed {seed}: commit {at}");
            }
        }
    }
}

/// What a compactor stores that does not know of some objects, after so many days.
fn rolled_up_without(device: &mut Device, random: &mut Random, days: u64, hidden: &Objects) -> Objects {
    device.clock.pass(Duration::from_millis(days * DAY));
    device.commit(random);
    let before = device.store.objects.borrow().clone();
    device.store.objects.borrow_mut().retain(|name, _| !hidden.contains_key(name));
    device.compact(Eyes::OPEN, None);
    let mut made = device.store.objects.replace(before);
    made.retain(|name, _| name.contains("-19700101T000000.000Z-"));
    made
}

/// A pass ended with an error, each time: nothing leads to the point of the snapshot.
#[test]
fn a_rollup_over_a_snapshot_keeps_nothing_from_going_on() {
    let mut led_over = 0;
    for seed in 40..52 {
        let mut random = Random(seed);
        let mut device = Device::new(&mut random, (seed % 3 == 0).then(Identity::generate));
        (0..25).for_each(|_| device.commit(&mut random));
        let (before, at) = (device.store.objects.borrow().clone(), device.commits.len() - 1);
        device.snapshot();
        let mut snapshot = device.store.objects.borrow().clone();
        snapshot.retain(|name, _| !before.contains_key(name));
        let Some(name) = snapshot.keys().next() else { continue };
        (0..25).for_each(|_| device.commit(&mut random));
        let made = rolled_up_without(&mut device, &mut random, 2, &snapshot);
        device.store.objects.borrow_mut().extend(made);
        let is_led_over = device.rollup_over(name);
        // What is after it becomes one state a day.
        device.clock.pass(Duration::from_millis(5 * DAY));
        device.commit(&mut random);
        device.compact(Eyes::OPEN, None);
        device.check(&mut random, 1);
        // It is no longer the newest one, and may go.
        device.clock.pass(Duration::from_millis(30 * DAY));
        device.commit(&mut random);
        device.snapshot();
        device.check(&mut random, 1);
        (0..4).for_each(|_| {
            device.compact(Eyes::OPEN, None);
            device.clock.pass(Duration::from_secs(1200));
        });
        device.check(&mut random, 1);
        let is_there = device.store.objects.borrow().contains_key(name);
        assert!(!is_led_over || !is_there || device.keeps(at), "seed {seed}: the snapshot is still there");
        led_over += usize::from(is_led_over);
        let objects = device.store.names().len();
        let kept = (0..device.commits.len()).filter(|commit| device.keeps(*commit)).count();
        assert!(objects <= kept + 12, "seed {seed}: {objects} objects for {kept} states");
    }
    assert!(led_over > 3, "{led_over} of the snapshots");
}

/// Format 1 tells no database checksum: that of a second copy takes its place, and nothing is left to be tried again.
#[test]
fn what_is_stored_in_format_1_is_rolled_up_once() {
    let mut random = Random(31);
    let mut device = Device::new(&mut random, None);
    device.old = true;
    (0..40).for_each(|_| device.commit(&mut random));
    device.old = false;
    (0..20).for_each(|_| device.commit(&mut random));
    device.clock.pass(Duration::from_millis(30 * DAY));
    device.commit(&mut random);
    let done = device.compact(Eyes::OPEN, None);
    device.check(&mut random, 1);
    device.clock.pass(Duration::from_secs(1200));
    assert!(done.rollups > 0 && device.compact(Eyes::OPEN, None).rollups == 0, "{done:?}");
    let objects = device.store.names().len();
    let kept = (0..device.commits.len()).filter(|commit| device.keeps(*commit)).count();
    // Two snapshots, of which the newest stays, and a transaction in two parts.
    assert!(objects <= kept + 5, "{objects} objects for {kept} states");
    device.check(&mut random, 1);
}

/// Two have thinned out: one by hours, without knowing of the newest snapshot, and one by days, from that snapshot on.
fn crossed(seed: u64) -> (Device, Random) {
    let mut random = Random(seed);
    let mut device = Device::new(&mut random, (seed.is_multiple_of(3)).then(Identity::generate));
    (0..25).for_each(|_| device.commit(&mut random));
    let before = device.store.objects.borrow().clone();
    device.snapshot();
    let mut snapshot = device.store.objects.borrow().clone();
    snapshot.retain(|name, _| !before.contains_key(name));
    (0..9).for_each(|_| device.commit(&mut random));
    let is_later =
        |name: &str| name.contains("/snapshots/") && !before.contains_key(name) && !snapshot.contains_key(name);
    device.store.objects.borrow_mut().retain(|name, _| !is_later(name));
    let by_hours = rolled_up_without(&mut device, &mut random, 2, &snapshot);
    let by_days = rolled_up_without(&mut device, &mut random, 5, &Objects::new());
    device.store.objects.borrow_mut().extend(by_hours.into_iter().chain(by_days));
    (device, random)
}

/// A pass that dies after each of its changes, and those after it, leave what is kept; in the end nothing crosses, and no more is
/// left than where nothing ever did.
#[test]
fn rollups_that_cross_are_gone_after_some_passes() {
    let mut found = 0;
    for seed in 40..50 {
        let (device, mut random) = crossed(seed);
        let (before, crossing) = (device.store.objects.borrow().clone(), device.crossing());
        let mut changes = 0;
        found += crossing;
        if crossing == 0 {
            continue;
        }
        loop {
            *device.store.objects.borrow_mut() = before.clone();
            let (_, done) = device.pass(Eyes::OPEN, Some(changes));
            device.check(&mut random, 4);
            for _ in 0..4 {
                device.clock.pass(Duration::from_secs(1200));
                device.compact(Eyes::OPEN, None);
            }
            device.check(&mut random, 4);
            let (left, objects) = (device.crossing(), device.store.names().len());
            assert_eq!(left, 0, "seed {seed}: of {crossing}, after {changes} changes");
            let kept = (0..device.commits.len()).filter(|commit| device.keeps(*commit)).count();
            assert!(objects <= kept + 12, "seed {seed}: {objects} objects for {kept} states after {changes} changes");
            if done.is_ok() {
                break;
            }
            changes += 5;
        }
    }
    assert!(found > 3, "{found} crossing rollups");
}

/// The rollup leads over it, and what follows it does not fit.
#[test]
fn a_snapshot_of_another_database_is_not_thinned_out() {
    let mut random = Random(40);
    let mut device = Device::new(&mut random, None);
    (0..25).for_each(|_| device.commit(&mut random));
    let before = device.store.objects.borrow().clone();
    device.wrong_snapshot();
    let mut snapshot = device.store.objects.borrow().clone();
    snapshot.retain(|name, _| !before.contains_key(name));
    (0..25).for_each(|_| device.commit(&mut random));
    let made = rolled_up_without(&mut device, &mut random, 2, &snapshot);
    device.store.objects.borrow_mut().extend(made);
    device.clock.pass(Duration::from_millis(30 * DAY));
    device.commit(&mut random);
    device.snapshot();
    let name = snapshot.keys().next().unwrap();
    assert!(device.rollup_over(name));
    let error = device.pass(Eyes::OPEN, None).1.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(device.store.objects.borrow().contains_key(name));
}

/// Nothing proves that the other objects lead to it: it stays.
#[test]
fn a_snapshot_without_a_checksum_keeps_nothing_from_going_on() {
    let mut random = Random(32);
    let mut device = Device::new(&mut random, None);
    device.old = true;
    (0..20).for_each(|_| device.commit(&mut random));
    device.snapshot();
    (0..20).for_each(|_| device.commit(&mut random));
    device.old = false;
    device.clock.pass(Duration::from_millis(30 * DAY));
    device.commit(&mut random);
    device.snapshot();
    let done = device.compact(Eyes::OPEN, None);
    assert!(done.rollups > 0 && done.snapshots == 0, "{done:?}");
    device.check(&mut random, 1);
}

#[test]
fn without_all_keys_nothing_encrypted_is_thinned_out() {
    let (device, mut random) = grown(7, 80);
    device.clock.pass(Duration::from_millis(2 * DAY));
    let stored = || device.store.objects.borrow().clone();
    let before = stored();
    for eyes in [
        // It cannot read them.
        Eyes { recipient: true, identity: false },
        // It can, and does not know whom to encrypt to.
        Eyes { recipient: false, identity: true },
        Eyes { recipient: false, identity: false },
    ] {
        assert_eq!((device.compact(eyes, None), device.rollups()), (Thinned::default(), 0));
        assert!(stored().iter().all(|(name, bytes)| before.get(name) == Some(bytes)), "something was merged");
    }
    assert!(device.compact(Eyes::OPEN, None).rollups > 0);
    assert!(stored().values().all(|bytes| bytes.starts_with(b"age-encryption.org/v1\n")));
    device.check(&mut random, 1);
}

#[test]
fn a_wrong_database_checksum_thins_out_nothing() {
    let (mut device, mut random) = grown(3, 40);
    device.lies = true;
    (0..30).for_each(|_| device.commit(&mut random));
    device.lies = false;
    device.clock.pass(Duration::from_millis(30 * DAY));
    device.commit(&mut random);
    let before = device.store.names();
    let mut entries: Vec<Entry> =
        before.iter().map(|(name, size)| Entry { name: name.clone(), size: *size, whole: true }).collect();
    let error =
        thin(&*device.store, &device.clock, &keep(), &mut entries, &mut Thinned::default(), &no_progress).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.message().contains("database checksum after a member: expected "), "{error}");
    // Whatever was made before, everything that was there still is.
    let after = device.store.names();
    let segments = before.iter().filter(|(name, _)| name.contains("/wal/"));
    assert!(segments.into_iter().all(|object| after.contains(object)));
}

#[test]
fn a_wrong_clock_thins_out_nothing() {
    let (device, _) = grown(5, 80);
    let before = device.store.names();
    let thinned_at = |wrong: i64| {
        device.clock.wrong.set(wrong);
        let thinned = device.compact(Eyes::OPEN, None);
        device.clock.wrong.set(0);
        thinned
    };
    let day = DAY as i64;
    // After what is stored, and far ahead of it.
    for wrong in [-day, 60 * day, 4_000 * day] {
        assert_eq!(thinned_at(wrong), Thinned::default(), "{wrong}");
        assert_eq!(device.rollups(), 0);
    }
    // A little ahead it does what it would do by the newest commit.
    let (ahead, right) = (thinned_at(20 * day), grown(5, 80).0.compact(Eyes::OPEN, None));
    assert!(ahead.rollups > 0 && ahead == right && before.len() > 20);
}

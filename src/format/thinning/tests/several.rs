//! Several programs that thin, merge and delete the same history at the same time: what the policy keeps stays restorable.

use super::model::*;
use super::*;
use crate::format::fixtures::Random;
use crate::format::key::Key;
use crate::format::retention::{Policy, plan_deletions};

#[test]
fn several_that_thin_at_once_keep_what_the_policy_keeps() {
    let keeps = [keep(), Keep::new([days(1), None, days(10), days(40), None]).unwrap()];
    // 63: a snapshot under a rollup, from which nothing led on.
    for seed in (0..10).chain([63]) {
        let mut random = Random(seed);
        let keep = keeps[seed as usize % 2];
        let mut stored = Stored::new();
        let mut device = Device { times: Vec::new(), now: T0, cuts: false };
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

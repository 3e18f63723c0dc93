use super::*;
use crate::format::compaction;
use crate::format::fixtures::{Random, millis, point};

const HOUR: u64 = 3_600_000;

fn policy(hours: u64, grace: u64) -> Policy {
    let retention = Some(Duration::from_millis(hours * HOUR));
    Policy { retention, keep: None, grace: Duration::from_millis(grace * HOUR) }
}

/// A snapshot at a point that is its hour.
fn snapshot(generation: u64, hour: u64) -> Key {
    let generation = Generation::new(generation);
    Key::Snapshot(SnapshotKey { generation, position: point(0, hour), time: millis(hour * HOUR) })
}

/// A segment from one hour to another: its first batch was seen an hour after its start.
fn segment(generation: u64, start: u64, end: u64) -> Key {
    let (generation, first, last) = (Generation::new(generation), millis((start + 1) * HOUR), millis(end * HOUR));
    let (start, end) = (point(0, start), point(0, end));
    Key::Segment(SegmentKey { generation, start, end, first_seen: first, last_seen: last, part: false })
}

fn listing(keys: &[Key]) -> Listing {
    Listing::new(keys.iter().map(|key| (key.to_string(), 1)))
}

/// What goes at this hour, with a retention of 24 hours.
fn gone(keys: &[Key], hour: u64) -> Vec<Key> {
    plan_deletions(&listing(keys), policy(24, 0), millis(hour * HOUR)).delete
}

#[test]
fn what_is_within_retention_stays_with_the_snapshot_before_it() {
    let (a, b, c) = (snapshot(1, 0), snapshot(1, 20), snapshot(1, 40));
    let (x, y, z) = (segment(1, 0, 20), segment(1, 20, 40), segment(1, 40, 60));
    let keys = [a, b, c, x, y, z];
    assert_eq!(gone(&keys, 60), [a]);
    // The segment that ends at the oldest snapshot stays, one that ends before it goes.
    assert_eq!(gone(&[a, b, c, segment(1, 0, 10), segment(1, 10, 20), y, z], 60), [a, segment(1, 0, 10)]);
    assert_eq!(gone(&keys, 63), [a]);
    assert_eq!(gone(&keys, 64), [a, b, x]);
    // However old it is, the newest state stays.
    assert_eq!(gone(&keys, 500), [a, b, x]);
}

#[test]
fn an_older_generation_goes_when_the_newer_one_covers_retention() {
    let old = [snapshot(1, 0), segment(1, 0, 10)];
    let new = [snapshot(2, 11), segment(2, 11, 50)];
    let keys = [old, new].concat();
    assert_eq!(gone(&keys, 50), old);
    assert_eq!(gone(&[old.as_slice(), &[snapshot(2, 40), segment(2, 40, 50)]].concat(), 50), []);
    // One without a snapshot goes with the others, once it is superseded.
    let bare = segment(1, 0, 10);
    assert_eq!(gone(&[[bare, bare], new].concat()[1..], 50), [bare]);
    assert_eq!(gone(&[segment(1, 0, 10)], 50), []);
    assert_eq!(gone(&[old.as_slice(), &[segment(2, 11, 50)]].concat(), 50), []);
}

#[test]
fn nothing_goes_while_the_clock_is_wrong_or_retention_is_off() {
    let keys = [snapshot(1, 0), snapshot(1, 20), segment(1, 0, 20), segment(1, 20, 60)];
    let at = |hour: u64| plan_deletions(&listing(&keys), policy(24, 0), millis(hour * HOUR));
    assert_eq!(at(59), Deletions { delete: Vec::new(), skipped_reason: Some(CLOCK_BEHIND) });
    assert_eq!(at(60 + 35 * 24 + 1), Deletions { delete: Vec::new(), skipped_reason: Some(CLOCK_AHEAD) });
    assert_eq!(at(60 + 35 * 24).delete.len(), 1);
    let ever = Policy { retention: None, keep: None, grace: Duration::ZERO };
    assert_eq!(plan_deletions(&listing(&keys), ever, millis(100 * HOUR)), Deletions::default());
    assert_eq!(plan_deletions(&listing(&[]), policy(1, 0), millis(100 * HOUR)), Deletions::default());
}

#[test]
fn what_stands_in_a_merged_segment_goes_after_the_grace() {
    let small = [segment(1, 0, 1), segment(1, 1, 2)];
    let keys = [[snapshot(1, 0), segment(1, 0, 2)], small].concat();
    let at = |hour: u64| plan_deletions(&listing(&keys), policy(24, 1), millis(hour * HOUR)).delete;
    assert_eq!(at(2), []);
    assert_eq!(at(3), small);
    // One that reaches further is not in it.
    assert_eq!(gone(&[snapshot(1, 0), segment(1, 0, 2), segment(1, 1, 3), segment(1, 2, 3)], 10), []);
}

#[test]
fn of_a_segment_that_was_stored_twice_one_goes_after_the_grace() {
    let again = |key: Key, hours: u64| match key {
        Key::Segment(key) => {
            Key::Segment(SegmentKey { last_seen: millis(key.last_seen.millis() + hours * HOUR), ..key })
        }
        other => other,
    };
    let (one, two, three) = (segment(1, 0, 1), segment(1, 1, 2), segment(1, 2, 3));
    let keys = [snapshot(1, 0), one, again(one, 1), two, three];
    let at = |hour: u64| plan_deletions(&listing(&keys), policy(24, 1), millis(hour * HOUR)).delete;
    assert_eq!(at(3), [again(one, 1)]);
    assert_eq!(plan_deletions(&listing(&keys), policy(24, 2), millis(3 * HOUR)).delete, []);
    // The last one that is stored is seen twice, too: what a restore gives stays, its newest moment included.
    let keys = [snapshot(1, 0), one, two, again(two, 1)];
    let rest = plan_deletions(&listing(&keys), policy(24, 0), millis(9 * HOUR)).delete;
    assert_eq!(rest, [again(two, 1)]);
    // A part and what is whole are not the same.
    let part = match one {
        Key::Segment(key) => Key::Segment(SegmentKey { part: true, ..key }),
        other => other,
    };
    assert_eq!(gone(&[snapshot(1, 0), one, part, two], 9), []);
}

/// No restore from the snapshot can use the rollup, and nothing else is left alone for it.
#[test]
fn what_a_snapshot_under_a_rollup_needs_stays() {
    let rollup = |start, end| match segment(1, start, end) {
        Key::Segment(key) => Key::Segment(SegmentKey { first_seen: SegmentKey::ROLLUP, ..key }),
        snapshot => snapshot,
    };
    let hours = |from: u64, to: u64| (from..to).map(|hour| segment(1, hour, hour + 1));
    let keys: Vec<Key> =
        [snapshot(1, 0), snapshot(1, 5), rollup(0, 4), rollup(4, 7)].into_iter().chain(hours(0, 9)).collect();
    let ever = Policy { retention: None, keep: None, grace: Duration::ZERO };
    let deletions = plan_deletions(&listing(&keys), ever, millis(9 * HOUR));
    assert_eq!(deletions, Deletions { delete: hours(0, 5).collect(), skipped_reason: None });
    // Without the snapshot, all of it goes.
    let keys: Vec<Key> = keys.into_iter().filter(|key| *key != snapshot(1, 5)).collect();
    assert_eq!(plan_deletions(&listing(&keys), ever, millis(9 * HOUR)).delete, hours(0, 7).collect::<Vec<_>>());
}

#[test]
fn a_grace_keeps_what_a_plan_made_before_it_needs() {
    let keys = [snapshot(1, 0), snapshot(1, 20), segment(1, 0, 20), segment(1, 20, 60)];
    assert_eq!(plan_deletions(&listing(&keys), policy(40, 0), millis(60 * HOUR)).delete, [keys[0]]);
    assert_eq!(plan_deletions(&listing(&keys), policy(40, 1), millis(60 * HOUR)).delete, []);
    assert_eq!(plan_deletions(&listing(&keys), policy(40, 1), millis(61 * HOUR)).delete, [keys[0]]);
}

/// A history of some generations, each with snapshots and segments, some of them merged or stored twice; its end.
fn history(random: &mut Random) -> (Vec<Key>, u64) {
    let (mut keys, mut hour) = (Vec::new(), 0);
    for generation in 1..2 + random.below(4) {
        let begin = hour;
        let has_snapshot = random.below(5) > 0;
        if has_snapshot {
            keys.push(snapshot(generation, begin));
        }
        for _ in 0..random.below(25) {
            let start = hour;
            hour += 1 + random.below(3);
            if random.below(30) > 0 {
                keys.push(segment(generation, start, hour));
            }
            if has_snapshot && random.below(4) == 0 {
                keys.push(snapshot(generation, start + random.below(hour - start + 1)));
            }
            if random.below(6) == 0 {
                keys.push(segment(generation, begin + random.below(hour - begin), hour));
            }
        }
        hour += 1 + random.below(20);
    }
    keys.sort_by_key(Key::to_string);
    keys.dedup();
    (keys, hour)
}

/// What a restore of each hour comes to: where it begins and ends, or none.
fn outcomes(keys: &[Key], end: u64) -> Vec<Option<(SnapshotKey, u64)>> {
    let listing = listing(keys);
    let outcome = |hour: u64| {
        let plan = plan(&listing, None, &PlanTarget::Time(millis(hour * HOUR))).ok()?;
        let last = plan.segments.last().map_or(plan.snapshot.position, |(key, _)| key.end.max(plan.snapshot.position));
        Some((plan.snapshot, last.offset.get().min(hour)))
    };
    (0..=end).map(outcome).collect()
}

#[test]
fn partial_deletions_keep_every_restore_within_retention() {
    let mut deleted = 0;
    for seed in 0..60 {
        let mut random = Random(seed);
        let (keys, end) = history(&mut random);
        let newest = latest_time(&listing(&keys)).map_or(0, |last| last.millis() / HOUR);
        let (retention, grace) = (1 + random.below(end + 1), random.below(3));
        let now = newest + random.below(20);
        let actions = plan_deletions(&listing(&keys), policy(retention, grace), millis(now * HOUR));
        let before = outcomes(&keys, newest);
        let mut left = keys.clone();
        for gone in &actions.delete {
            left.retain(|key| key != gone);
            for (hour, (found, expected)) in outcomes(&left, newest).into_iter().zip(&before).enumerate() {
                let outside = hour as u64 + retention + grace < now && found.is_none();
                assert!(found == *expected || outside, "seed {seed}: hour {hour} of {now} without {gone}");
            }
        }
        deleted += actions.delete.len();
    }
    assert!(deleted > 200, "only {deleted} were deleted");
}

#[test]
fn merges_and_their_deletions_keep_every_restore() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let count = 40 + random.below(60);
        let mut keys: Vec<Key> = (0..count).map(|hour| segment(1, hour, hour + 1)).collect();
        keys.extend((0..4).map(|_| snapshot(1, random.below(count))));
        keys.push(snapshot(1, 0));
        let before = outcomes(&keys, count);
        let same = |keys: &[Key]| outcomes(keys, count) == before;
        let stored = |keys: &[Key]| {
            let listing = listing(keys);
            restore_path(listing.generation(Generation::new(1)).unwrap())
        };
        while let Some(places) = compaction::next_group(&stored(&keys), true) {
            let group = stored(&keys)[places].to_vec();
            keys.push(Key::Segment(compaction::merged_key(&group).unwrap()));
            assert!(same(&keys), "seed {seed}");
            let actions = plan_deletions(
                &listing(&keys),
                Policy { retention: None, keep: None, grace: Duration::ZERO },
                millis(count * HOUR),
            );
            assert_eq!(actions.delete.len(), group.len(), "seed {seed}");
            for gone in actions.delete {
                keys.retain(|key| *key != gone);
                assert!(same(&keys), "seed {seed}: without {gone}");
            }
        }
    }
}

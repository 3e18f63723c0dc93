//! What is planned for listings with and without gaps, and where a generation ends.

use super::*;
use crate::error::{Error, Kind};
use crate::format::fixtures::{Random, millis, point};
use crate::format::key::{Key, SegmentKey, SnapshotKey};

/// Start and end of segments.
type Ranges = &'static [(u64, u64)];
/// Names and sizes.
type Entries<'a> = &'a [(String, u64)];

fn id(generation: u64) -> Generation {
    Generation::new(generation)
}

/// A snapshot at index 0.
fn snapshot(generation: u64, at: u64, time: u64) -> (String, u64) {
    (SnapshotKey { generation: id(generation), position: point(0, at), time: millis(time) }.to_string(), 100)
}

fn timed(generation: u64, range: (u64, u64), time: (u64, u64), part: bool) -> (String, u64) {
    let (start, end) = (point(0, range.0), point(0, range.1));
    let (first, last) = (millis(time.0), millis(time.1));
    (
        SegmentKey { generation: id(generation), start, end, first_seen: first, last_seen: last, part }.to_string(),
        range.1 - range.0,
    )
}

/// A segment from `start` to `end` that was seen at `end`.
fn segment(generation: u64, start: u64, end: u64) -> (String, u64) {
    timed(generation, (start, end), (end, end), false)
}

fn part(generation: u64, start: u64, end: u64) -> (String, u64) {
    timed(generation, (start, end), (end, end), true)
}

fn at(generation: u64, offset: u64) -> PlanTarget {
    PlanTarget::Position(Position { generation: id(generation), wal_position: point(0, offset) })
}

fn ranges(plan: &Plan) -> Vec<(u64, u64)> {
    plan.segments.iter().map(|(key, _)| (key.start.offset.get(), key.end.offset.get())).collect()
}

fn planned(entries: &[(String, u64)], target: PlanTarget) -> Plan {
    plan(&Listing::new(entries.to_vec()), None, &target).unwrap()
}

fn refused(entries: &[(String, u64)], generation: Option<u64>, target: PlanTarget) -> Error {
    plan(&Listing::new(entries.to_vec()), generation.map(id), &target).unwrap_err()
}

/// Two generations: 1 from 0 to 40 with a snapshot in between, 2 from 100 to 120.
fn two() -> Vec<(String, u64)> {
    vec![
        snapshot(1, 0, 5),
        segment(1, 0, 10),
        segment(1, 10, 20),
        snapshot(1, 20, 25),
        segment(1, 20, 30),
        segment(1, 30, 40),
        snapshot(2, 100, 100),
        segment(2, 100, 110),
        segment(2, 110, 120),
    ]
}

#[test]
fn latest_is_the_newest_snapshot_and_all_later_segments() {
    let plan = planned(&two(), PlanTarget::Latest);
    assert_eq!((plan.snapshot.generation, plan.snapshot.position), (id(2), point(0, 100)));
    assert_eq!((plan.snapshot_size, plan.stop), (100, StopAt::End));
    assert_eq!(ranges(&plan), [(100, 110), (110, 120)]);
    assert_eq!(plan.segments.iter().map(|(_, size)| size).sum::<u64>(), 20);
    assert!(plan.warnings.is_empty());
}

#[test]
fn latest_of_a_generation_is_of_that_one() {
    let plan = plan(&Listing::new(two()), Some(id(1)), &PlanTarget::Latest).unwrap();
    assert_eq!((plan.snapshot.generation, plan.snapshot.position), (id(1), point(0, 20)));
    assert_eq!(ranges(&plan), [(20, 30), (30, 40)]);
    assert!(plan.warnings.is_empty());
}

#[test]
fn newer_generation_without_snapshot_is_skipped_with_a_warning() {
    let mut entries = two();
    entries.push(segment(3, 200, 210));
    let text = "generation 0000000000000003 is newer, but has no snapshot yet: using generation 0000000000000002";
    for (target, warnings) in [
        (PlanTarget::Latest, vec![text]),
        (PlanTarget::Time(millis(115)), vec![]),
        (PlanTarget::Time(millis(30)), vec![]),
    ] {
        assert_eq!(planned(&entries, target).warnings, warnings, "{target:?}");
    }
    let late = planned(&entries, PlanTarget::Time(millis(210)));
    assert_eq!(late.warnings.last().map(String::as_str), Some(text));
    let named = plan(&Listing::new(entries), Some(id(2)), &PlanTarget::Latest).unwrap();
    assert!(named.warnings.is_empty());
}

#[test]
fn incomplete_transaction_is_left_out_with_a_warning() {
    let entries = [snapshot(1, 0, 0), segment(1, 0, 16), part(1, 16, 20), part(1, 20, 30)];
    let text = "the transaction after 00000000:000000000010 is incomplete: 2 segment(s) ignored";
    for target in [PlanTarget::Latest, PlanTarget::Time(millis(30))] {
        let plan = planned(&entries, target);
        assert_eq!((ranges(&plan), plan.warnings), (vec![(0, 16)], vec![text.to_string()]));
    }
    let whole = [&entries[..], &[segment(1, 30, 40)]].concat();
    assert_eq!(ranges(&planned(&whole, PlanTarget::Latest)), [(0, 16), (16, 20), (20, 30), (30, 40)]);
}

#[test]
fn a_time_is_never_passed() {
    let table: [(u64, u64, u64, Ranges); 9] = [
        (5, 1, 0, &[]),
        (9, 1, 0, &[]),
        (10, 1, 0, &[(0, 10)]),
        (24, 1, 0, &[(0, 10), (10, 20)]),
        (25, 1, 20, &[]),
        (39, 1, 20, &[(20, 30)]),
        (40, 1, 20, &[(20, 30), (30, 40)]),
        (100, 2, 100, &[]),
        (120, 2, 100, &[(100, 110), (110, 120)]),
    ];
    for (time, generation, snapshot, segments) in table {
        let plan = planned(&two(), PlanTarget::Time(millis(time)));
        assert_eq!((plan.snapshot.generation, plan.snapshot.position), (id(generation), point(0, snapshot)), "{time}");
        assert_eq!((ranges(&plan), plan.stop), (segments.to_vec(), StopAt::Time(millis(time))), "{time}");
    }
}

#[test]
fn a_time_inside_a_merged_object_takes_the_object() {
    let entries = [snapshot(1, 0, 0), timed(1, (0, 30), (10, 30), false), segment(1, 30, 40)];
    assert_eq!(ranges(&planned(&entries, PlanTarget::Time(millis(15)))), [(0, 30)]);
    assert!(ranges(&planned(&entries, PlanTarget::Time(millis(9)))).is_empty());
}

#[test]
fn time_between_generations_gives_the_older_end_and_warns() {
    let plan = planned(&two(), PlanTarget::Time(millis(70)));
    assert_eq!((plan.snapshot.generation, ranges(&plan)), (id(1), vec![(20, 30), (30, 40)]));
    assert_eq!(
        plan.warnings,
        ["generation 0000000000000001 reaches to 1970-01-01T00:00:00.040Z: \
          nothing is stored from then to 1970-01-01T00:00:00.070Z"]
    );
}

#[test]
fn a_time_outside_of_what_is_stored_is_refused_with_the_range() {
    for (generation, time, range) in
        [(None, 4, (5, 120)), (None, 121, (5, 120)), (Some(1), 41, (5, 40)), (Some(2), 99, (100, 120))]
    {
        let error = refused(&two(), generation, PlanTarget::Time(millis(time)));
        assert_eq!(error.kind(), Kind::NothingToRestore);
        let text = format!("timestamp {}: the backup covers {} to {}", millis(time), millis(range.0), millis(range.1));
        assert_eq!(error.message(), text);
        let oldest = format!("-timestamp {} restores the oldest stored state", millis(range.0));
        let latest = "leave out -timestamp to restore the latest state";
        assert_eq!(error.hint(), Some(if time < range.0 { oldest.as_str() } else { latest }));
    }
}

#[test]
fn where_nothing_fits_the_error_says_what_is_missing() {
    let segments = [segment(1, 0, 10)];
    let late = [segment(1, 0, 10), snapshot(2, 0, 20)];
    let table: [(Entries<'_>, Option<u64>, PlanTarget, &str); 9] = [
        (&[], None, PlanTarget::Latest, "nothing is stored"),
        (&[], None, PlanTarget::Time(millis(1)), "nothing is stored"),
        (&[], None, at(1, 1), "generation 0000000000000001 is not stored"),
        (&segments, None, PlanTarget::Latest, "segments are stored, but no snapshot yet"),
        (&segments, Some(1), PlanTarget::Latest, "generation 0000000000000001 has no snapshot yet"),
        (&segments, Some(1), PlanTarget::Time(millis(1)), "generation 0000000000000001 has no snapshot yet"),
        (&segments, None, at(1, 5), "generation 0000000000000001 has no snapshot yet"),
        (&late, Some(3), PlanTarget::Latest, "generation 0000000000000003 is not stored"),
        (&late, Some(3), PlanTarget::Time(millis(1)), "generation 0000000000000003 is not stored"),
    ];
    for (entries, generation, target, text) in table {
        let error = refused(entries, generation, target);
        assert_eq!((error.kind(), error.message()), (Kind::NothingToRestore, text));
    }
}

#[test]
fn a_gap_on_the_way_is_refused_and_one_behind_the_target_is_not() {
    let entries = [snapshot(1, 0, 0), segment(1, 0, 16), segment(1, 32, 48)];
    for target in [PlanTarget::Latest, PlanTarget::Time(millis(17)), PlanTarget::Time(millis(48)), at(1, 20), at(1, 48)]
    {
        let error = refused(&entries, None, target);
        assert_eq!(error.kind(), Kind::Corrupt, "{target:?}");
        assert!(error.message().contains("no segment begins at 00000000:000000000010; the next"), "{error}");
        assert_eq!(error.hint(), Some("-timestamp 1970-01-01T00:00:00.016Z restores the latest state before the gap"));
    }
    for target in [PlanTarget::Time(millis(15)), PlanTarget::Time(millis(16)), at(1, 8), at(1, 16)] {
        assert!(planned(&entries, target).warnings.is_empty(), "{target:?}");
    }
    let healed = [&entries[..], &[snapshot(1, 48, 50), segment(1, 48, 60)]].concat();
    assert_eq!(ranges(&planned(&healed, PlanTarget::Latest)), [(48, 60)]);
    assert_eq!(refused(&healed, None, PlanTarget::Time(millis(49))).kind(), Kind::Corrupt);
}

#[test]
fn a_position_is_reached_from_the_newest_snapshot_before_it() {
    let table: [(u64, u64, Ranges); 6] = [
        (0, 0, &[]),
        (10, 0, &[(0, 10)]),
        (11, 0, &[(0, 10), (10, 20)]),
        (20, 20, &[]),
        (21, 20, &[(20, 30)]),
        (40, 20, &[(20, 30), (30, 40)]),
    ];
    for (offset, snapshot, segments) in table {
        let plan = planned(&two(), at(1, offset));
        assert_eq!((plan.snapshot.position, ranges(&plan)), (point(0, snapshot), segments.to_vec()), "{offset}");
        assert_eq!(plan.stop, StopAt::Point(point(0, offset)));
    }
}

#[test]
fn position_outside_the_backup_is_refused_with_the_range() {
    let late = [snapshot(1, 16, 16), segment(1, 16, 32)];
    for offset in [15, 33] {
        let error = refused(&late, None, at(1, offset));
        assert_eq!(error.kind(), Kind::NothingToRestore);
        let range = "the backup covers 00000000:000000000010 to 00000000:000000000020";
        assert_eq!(error.message(), format!("position 0000000000000001/{}: {range}", point(0, offset)));
    }
    let gap = [&late[..], &[segment(1, 40, 50)]].concat();
    assert_eq!(refused(&gap, None, at(1, 51)).kind(), Kind::NothingToRestore);
    assert_eq!(refused(&gap, None, at(1, 3)).kind(), Kind::NothingToRestore);
}

#[test]
fn position_in_a_transaction_or_other_generation_is_refused() {
    let entries = [snapshot(1, 0, 0), part(1, 0, 16), segment(1, 16, 32)];
    let error = refused(&entries, None, at(1, 16));
    assert_eq!(error.kind(), Kind::NothingToRestore);
    assert_eq!(error.message(), "position 0000000000000001/00000000:000000000010 is inside a transaction");
    let error = refused(&entries, Some(2), at(1, 32));
    assert_eq!(error.kind(), Kind::Usage);
    assert_eq!(
        error.message(),
        "position 0000000000000001/00000000:000000000020 is not in generation 0000000000000002"
    );
    assert!(plan(&Listing::new(entries.to_vec()), Some(id(1)), &at(1, 32)).is_ok());
}

#[test]
fn names_that_are_not_ours_are_told() {
    let mut entries = two();
    entries.push(("generations/readme".to_string(), 3));
    assert_eq!(
        planned(&entries, PlanTarget::Latest).warnings,
        ["1 object(s) of other programs, such as \"generations/readme\", are ignored"]
    );
}

#[test]
fn replication_goes_on_at_the_end_of_the_newest_chain() {
    let end = listed_end(&Listing::new(two())).unwrap().unwrap();
    assert_eq!((end.generation, end.snapshot.position), (id(2), point(0, 100)));
    assert_eq!((end.end, end.time), (point(0, 120), millis(120)));
    assert_eq!(end.last.to_string(), segment(2, 110, 120).0);
    let fresh = listed_end(&Listing::new([snapshot(1, 0, 5)])).unwrap().unwrap();
    assert_eq!((fresh.last, fresh.time), (Key::Snapshot(fresh.snapshot), millis(5)));
    assert_eq!(listed_end(&Listing::new([])).unwrap(), None);
    let unfinished = [snapshot(1, 0, 0), part(1, 0, 16)];
    assert_eq!(listed_end(&Listing::new(unfinished)).unwrap().unwrap().end, point(0, 16));
}

#[test]
fn replication_does_not_continue_after_a_gap() {
    let gap = [snapshot(1, 0, 0), segment(1, 16, 32)];
    let error = listed_end(&Listing::new(gap)).unwrap_err();
    assert!(error.message().contains("no segment begins at 00000000:000000000000"), "{error}");
    let newer = [snapshot(1, 0, 0), segment(2, 16, 32)];
    let error = listed_end(&Listing::new(newer)).unwrap_err();
    assert_eq!(error.message(), "generation 0000000000000002 has segments, but no snapshot");
}

/// The furthest end of any way along whole objects, by trying all of them.
fn furthest(at: u64, here: u64, segments: &[(u64, u64)]) -> u64 {
    let next = segments.iter().filter(|(start, end)| *end > here && (*start).max(at) == here);
    next.map(|(_, end)| furthest(at, *end, segments)).max().unwrap_or(here)
}

/// What must become of a restore to `time`: the boundary that it ends at, or the kind of the error. Boundaries are
/// numbered, and each was seen at ten times its number.
fn expected(snapshots: &[u64], segments: &[(u64, u64)], time: u64) -> std::result::Result<(u64, u64), Kind> {
    let last = segments.iter().map(|(_, end)| *end).chain(snapshots.iter().copied()).max().unwrap();
    let at = snapshots.iter().filter(|at| *at * 10 <= time).max();
    let Some(at) = at.filter(|_| time <= last * 10) else { return Err(Kind::NothingToRestore) };
    let end = furthest(*at, *at, segments);
    if time > end * 10 && last > end {
        return Err(Kind::Corrupt);
    }
    Ok((*at, end.min(time / 10)))
}

#[test]
fn plans_for_random_moments_are_what_trying_every_way_finds() {
    for seed in 0..5000 {
        let mut random = Random(seed);
        let length = 2 + random.below(9);
        let segments: Vec<_> = (0..random.below(12))
            .map(|_| {
                let start = random.below(length);
                (start, start + 1 + random.below(4.min(length - start)))
            })
            .collect();
        let snapshots: Vec<_> = (0..1 + random.below(2)).map(|_| random.below(length)).collect();
        let mut entries: Vec<_> = snapshots.iter().map(|at| snapshot(1, *at, at * 10)).collect();
        entries.extend(segments.iter().map(|(s, e)| timed(1, (*s, *e), ((s + 1) * 10, e * 10), false)));
        let time = random.below(length * 10 + 20);

        let found = plan(&Listing::new(entries), None, &PlanTarget::Time(millis(time)));
        let found = found.as_ref().map(|plan| outcome(plan, time)).map_err(Error::kind);
        assert_eq!(found, expected(&snapshots, &segments, time), "seed {seed}: {segments:?} {snapshots:?} {time}");
    }
}

/// What applying a plan leads to: its snapshot, and the last boundary seen in time. The objects must join.
fn outcome(plan: &Plan, time: u64) -> (u64, u64) {
    let at = plan.snapshot.position.offset.get();
    let mut here = at;
    for (start, end) in ranges(plan) {
        assert_eq!(start.max(at), here);
        assert!((start + 1) * 10 <= time);
        here = end;
    }
    (at, here.min(time / 10))
}

#[test]
fn a_listing_of_a_hundred_thousand_segments_is_planned_at_once() {
    let mut entries: Vec<_> = (0..100_000).map(|n| segment(1, n, n + 1)).collect();
    entries.push(snapshot(1, 0, 0));
    let listing = Listing::new(entries);
    let plan = plan(&listing, None, &PlanTarget::Latest).unwrap();
    assert_eq!(plan.segments.len(), 100_000);
}

#[test]
fn between_two_kept_states_the_earlier_one_is_given_and_named() {
    let rollup = |range: (u64, u64)| timed(1, range, (0, range.1), false);
    let entries = [snapshot(1, 0, 5), rollup((0, 20)), rollup((20, 3_600_040)), segment(1, 3_600_040, 3_600_050)];
    let plan = planned(&entries, PlanTarget::Time(millis(3_600_030)));
    assert_eq!((ranges(&plan), plan.stop), (vec![(0, 20)], StopAt::Time(millis(3_600_030))));
    let warning = "the newest kept state is from 1970-01-01T00:00:00.020Z, 1h before the requested moment; the next is from \
                   1970-01-01T01:00:00.040Z";
    assert_eq!(plan.warnings, [warning]);
    // At a kept one there is nothing to say.
    assert_eq!(planned(&entries, PlanTarget::Time(millis(20))).warnings, [""; 0]);
    assert_eq!(ranges(&planned(&entries, PlanTarget::Latest)).len(), 3);
    // A position within is refused with the next one that can be given.
    let error = refused(&entries, None, at(1, 30));
    assert_eq!(error.kind(), Kind::NothingToRestore);
    assert!(error.message().contains("is not kept: no state between "), "{error}");
    assert_eq!(ranges(&planned(&entries, at(1, 20))), [(0, 20)]);
}

/// What led on from the snapshot went because the rollup contains it.
#[test]
fn a_snapshot_within_a_rollup_gives_its_own_state_alone() {
    let rollup = |range: (u64, u64)| timed(1, range, (0, range.1), false);
    let entries =
        [snapshot(1, 0, 5), rollup((0, 20)), rollup((20, 90_000)), segment(1, 90_000, 90_010), snapshot(1, 30, 30)];
    let way = |target| {
        let plan = planned(&entries, target);
        (plan.snapshot.position.offset.get(), ranges(&plan).len(), plan.warnings)
    };
    assert_eq!(way(PlanTarget::Latest), (0, 3, vec![]));
    assert_eq!(way(at(1, 90_010)), (0, 3, vec![]));
    assert_eq!(way(at(1, 30)), (30, 0, vec![]));
    assert_eq!(way(PlanTarget::Time(millis(90_000))), (0, 2, vec![]));
    assert_eq!(ranges(&planned(&entries, PlanTarget::Time(millis(25)))), [(0, 20)]);
    let (from, segments, warnings) = way(PlanTarget::Time(millis(80_000)));
    assert_eq!((from, segments), (30, 0));
    assert!(
        warnings[0].contains("00:00:00.030Z") && warnings[0].ends_with("the next is from 1970-01-01T00:01:30.000Z")
    );
    assert_eq!(refused(&entries, None, at(1, 40)).kind(), Kind::NothingToRestore);
    // Without the way to the rollup there is a gap.
    for missing in [0, 1] {
        let mut rest = entries.to_vec();
        rest.remove(missing);
        assert_eq!(refused(&rest, None, PlanTarget::Latest).kind(), Kind::Corrupt, "{missing}");
    }
}

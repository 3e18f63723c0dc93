mod crossing;
mod model;
mod several;

use std::time::Duration;

use super::*;
use crate::format::fixtures::{millis, point};

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
    let mut plans = plan_thinning(listing, &keep(), millis(T0 + hour * HOUR));
    assert!(plans.len() <= 1);
    plans.pop().map(|plan| pairs(&plan)).unwrap_or_default()
}

fn pairs(plan: &Thinning) -> Vec<(usize, usize)> {
    plan.groups.iter().map(|range| (range.start, range.end)).collect()
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
    let half = plan_thinning(&listing, &keep(), millis(T0 + 25 * HOUR + HOUR / 2));
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
    let kept: Vec<_> = kept_states(&listing, &keep(), millis(T0 + 3 * DAY)).iter().map(|it| it.position).collect();
    assert_eq!(kept, [point(0, 0), point(0, 2), point(0, 6), point(0, 7)]);
}

#[test]
fn snapshots_that_save_little_are_superfluous() {
    let superfluous = |snapshots: &[(u64, u64)], size: u64, day: u64| {
        let snapshots: Vec<_> = snapshots.iter().map(|(at, time)| snapshot(*at, *time)).collect();
        let listing = listed(&snapshots, &each_ten_minutes(0, 4, 24 * day), size);
        let plans = plan_thinning(&listing, &keep(), millis(T0 + day * DAY));
        plans.iter().flat_map(|plan| &plan.superfluous).map(|key| key.position.offset.get()).collect::<Vec<_>>()
    };
    let some = [(0, T0 - 1), (6, T0 + HOUR), (12, T0 + 2 * HOUR), (24, T0 + 4 * HOUR)];
    // Of a week, one state an hour is kept.
    let of = |snapshots: &[(u64, u64)], size: u64| superfluous(snapshots, size, 6);
    assert_eq!(of(&some, 10_000), [6, 12]);
    // Without the second one, half a snapshot is read up to the third; without that, more.
    assert_eq!(of(&some, 40_000), [6]);
    // States up to the third one would cost more.
    assert_eq!(of(&some, 50_000), [0; 0]);
    assert_eq!(of(&some, 100_000), [0; 0]);
    assert_eq!(of(&some[..2], 10_000), [0; 0]);
    // Later, one a day: a snapshot of a state that is not kept is of no use.
    assert_eq!(superfluous(&some, 100_000, 9), [6, 12]);
    // Every commit is kept of the part that it is in, or it is about to be the first one.
    assert_eq!(of(&[(0, T0 - 1), (6, T0 + 6 * DAY - HOUR), (12, T0 + 6 * DAY)], 10), [0; 0]);
    let short = Keep::new([days(1), days(9), None, None, None]).unwrap();
    let segments = each_ten_minutes(0, 4, 24 * 9);
    let listing = listed(&[snapshot(0, T0 - 1), snapshot(6, T0 + HOUR), snapshot(24, T0 + 4 * HOUR)], &segments, 10);
    assert!(plan_thinning(&listing, &short, millis(T0 + 9 * DAY)).iter().all(|plan| plan.superfluous.is_empty()));
}

/// A rollup was made by a listing without the snapshot, and the policy keeps nothing but its end.
#[test]
fn a_snapshot_under_a_rollup_is_proven_where_the_ways_meet() {
    let at = |at: u64| snapshot(at, T0 + at * HOUR / 6 - 1);
    let found = |rollup: (u64, u64), lost: Range<u64>, size: u64| {
        let mut segments = each_ten_minutes(0, 4, 24 * 6);
        segments.retain(|key| !lost.contains(&key.start.offset.get()));
        let (from, to) = rollup;
        let last = T0 + to * HOUR / 6 - 1;
        segments.push(SegmentKey { first_seen: SegmentKey::ROLLUP, ..key(from, to, last, last) });
        let listing = listed(&[at(0), at(8), at(24)], &segments, size);
        let stored = listing.generation(id()).unwrap();
        let chain = SegmentChain::of(stored, stored.snapshots[0]);
        let meeting = meeting_point(&chain, stored, stored.snapshots[1]).map(|meeting| meeting.at.offset.get());
        let plans = plan_thinning(&listing, &keep(), millis(T0 + 6 * DAY));
        let plans: Vec<_> = plans.into_iter().flat_map(|plan| plan.superfluous).collect();
        (meeting, plans.contains(&at(8)))
    };
    // Whatever it costs to do without it: its state is not kept.
    assert_eq!((found((6, 12), 0..0, 10), found((6, 12), 0..0, 100_000)), ((Some(12), true), (Some(12), true)));
    assert_eq!(found((6, 10), 0..0, 10), (Some(10), true));
    assert_eq!(found((6, 8), 0..0, 10), (Some(8), true));
    // Nothing leads to the end of the rollup but the rollup, or to any later point.
    assert_eq!(found((6, 12), 8..9, 10), (None, false));
    // The hour of the snapshot ends within the rollup: another policy has made it.
    assert_eq!(found((6, 14), 0..0, 10), (Some(14), false));
    // The way from the snapshot leads over the end of the rollup, and they meet after that.
    let mut segments = each_ten_minutes(0, 4, 24 * 6);
    let rollup = |from, to| SegmentKey { first_seen: SegmentKey::ROLLUP, ..key(from, to, 0, T0 + to * HOUR / 6 - 1) };
    segments.extend([rollup(6, 12), rollup(8, 18), rollup(12, 18)]);
    let listing = listed(&[at(0), at(8), at(24)], &segments, 10);
    let stored = listing.generation(id()).unwrap();
    let chain = SegmentChain::of(stored, stored.snapshots[0]);
    let meeting = meeting_point(&chain, stored, stored.snapshots[1]).unwrap();
    assert_eq!((meeting.at, meeting.way.segments[0].0), (point(0, 18), rollup(8, 18)));
}

#[test]
fn a_snapshot_is_wanted_where_a_restore_reads_too_much() {
    let wanted = |snapshots: &[u64], newest: u64, size: u64| {
        let snapshots: Vec<_> = snapshots.iter().map(|at| snapshot(*at, T0 + at * HOUR / 6 - 1)).collect();
        let listing = listed(&snapshots, &each_ten_minutes(0, 4, newest), size);
        let plans = plan_thinning(&listing, &keep(), millis(T0 + newest * HOUR));
        plans.iter().flat_map(|plan| &plan.wanted).copied().collect::<Vec<_>>()
    };
    // After two hours of it; after each hour.
    assert_eq!(wanted(&[0], 20, 50_000), [11, 23]);
    assert_eq!(wanted(&[0], 20, 100_000), [5, 11, 17, 23]);
    assert_eq!(wanted(&[0], 20, 20_000), [0; 0]);
    assert_eq!(wanted(&[0, 12], 20, 50_000), [23]);
    // A week later, only after the day.
    assert_eq!(wanted(&[0], 24 * 9, 100_000), [23]);
    // The hour of the newest commit may not be over.
    let open = listed(&[snapshot(0, T0 - 1)], &each_ten_minutes(0, 4, 20)[..22], 100_000);
    let plans = plan_thinning(&open, &keep(), millis(T0 + 20 * HOUR));
    assert_eq!(plans.iter().flat_map(|plan| &plan.wanted).copied().collect::<Vec<_>>(), [5, 11, 17]);
}

#[test]
fn a_newest_snapshot_under_a_rollup_is_followed_by_another() {
    let wanted = |rollups: &[(u64, u64)], newest: u64| {
        let mut segments = each_ten_minutes(0, 4, 24 * 6);
        let last = |to: u64| T0 + to * HOUR / 6 - 1;
        let rollup = |(from, to): &(u64, u64)| key(*from, *to, last(*to), last(*to));
        segments.extend(rollups.iter().map(|it| SegmentKey { first_seen: SegmentKey::ROLLUP, ..rollup(it) }));
        let listing = listed(&[snapshot(0, T0 - 1), snapshot(newest, last(newest))], &segments, 10);
        let chain = |plan: &Thinning| plan.wanted.iter().map(|at| plan.chain.segments[*at].0.end).collect::<Vec<_>>();
        let plans = plan_thinning(&listing, &keep(), millis(T0 + 6 * DAY));
        plans.iter().flat_map(chain).map(|at| at.offset.get()).collect::<Vec<_>>()
    };
    // At the first border of an hour after it.
    assert_eq!(wanted(&[(6, 12)], 8), [12]);
    assert_eq!(wanted(&[(6, 10)], 8), [12]);
    // A restore does not take the one that leads over it, but what is made later must not cross it.
    assert_eq!(wanted(&[(0, 8), (6, 12), (8, 24)], 8), [24]);
    assert_eq!(wanted(&[(6, 8), (8, 12)], 8), [0; 0]);
    // A merged segment leads over it, which crosses the rollup before it.
    let last = T0 + 2 * HOUR - 1;
    let merged = [key(7, 12, T0 + 80 * HOUR / 60 - 1, last)];
    let listing = |rollup: (u64, u64)| {
        let rollup = SegmentKey { first_seen: SegmentKey::ROLLUP, ..key(rollup.0, rollup.1, last, last) };
        let segments = [&each_ten_minutes(0, 4, 24 * 6)[..], &merged, &[rollup]].concat();
        listed(&[snapshot(0, T0 - 1), snapshot(8, last - HOUR / 2)], &segments, 10)
    };
    let plans = |listing: &Listing| plan_thinning(listing, &keep(), millis(T0 + 6 * DAY));
    assert!(plans(&listing((6, 8))).iter().any(|plan| !plan.wanted.is_empty()));
    assert!(plans(&listing((6, 7))).iter().all(|plan| plan.wanted.is_empty()));
}

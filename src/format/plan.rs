//! From a listing to the objects that a restore reads, and where it stops.
//!
//! A plan never leads past what was asked for, and never over a gap. Which commits are stored in the same object as
//! the last one wanted is for the restore to see, member by member.

use crate::error::{Error, Kind, Result};
use crate::format::as_of::as_of;
use crate::format::chain::SegmentChain;
use crate::format::fallback::fallback_hint;
use crate::format::key::{Key, SegmentKey, SnapshotKey};
use crate::format::listing::{GenerationObjects, Listing};
use crate::format::position::{Generation, Position, WalPosition};
use crate::format::time::Timestamp;

pub use crate::format::listing::latest_time;

/// What is to be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The newest state that is stored whole.
    Latest,
    /// The newest state that was seen at or before this moment, which must not be after all that is stored.
    Time(Timestamp),
    /// The same, where a moment after all that is stored is the newest state.
    AsOf(Timestamp),
    /// The state at exactly this position.
    Position(Position),
}

/// Where a restore ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopAt {
    /// Behind the last segment.
    End,
    /// At this point, where a transaction must end.
    Point(WalPosition),
    /// Before the first member that was seen later than this.
    Time(Timestamp),
}

/// What to read, in order, and where to stop. Sizes are in bytes, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub snapshot: SnapshotKey,
    pub snapshot_size: u64,
    /// The first one may begin before the snapshot's point: members that end at or before it are passed over.
    pub segments: Vec<(SegmentKey, u64)>,
    pub stop: StopAt,
    /// What the operator should know about what is left out.
    pub warnings: Vec<String>,
    /// What the operator can do if the snapshot is damaged.
    pub fallback_hint: String,
}

/// Plans the restore of `target`, out of one generation or of the one that fits.
///
/// Errors: [`Kind::NothingToRestore`] if nothing stored fits, naming what does; [`Kind::Corrupt`] for a gap on the way;
/// [`Kind::Usage`] if `generation` is not the one of the position.
pub fn plan(listing: &Listing, generation: Option<Generation>, target: &Target) -> Result<Plan> {
    let mut plan = plan_objects(listing, generation, target)?;
    plan.warnings.extend(foreign_warning(listing));
    plan.fallback_hint = fallback_hint(listing, generation, &plan);
    Ok(plan)
}

/// The same, without what is to be said besides.
pub(super) fn plan_objects(listing: &Listing, generation: Option<Generation>, target: &Target) -> Result<Plan> {
    match target {
        Target::Latest => latest(listing, generation),
        Target::Time(time) => at_time(listing, generation, *time),
        Target::AsOf(time) => as_of(listing, generation, *time),
        Target::Position(position) => at_position(listing, generation, position),
    }
}

fn latest(listing: &Listing, generation: Option<Generation>) -> Result<Plan> {
    let (chosen, stored) = match generation {
        Some(generation) => (generation, require_generation(listing, generation)?),
        None => newest_restorable(listing)?,
    };
    let chain = SegmentChain::newest(stored).ok_or_else(|| no_snapshot(chosen))?;
    chain.require_no_gap()?;
    let mut plan = Plan::new(chain, StopAt::End);
    if generation.is_none() {
        plan.warnings.extend(generations_without_snapshot(listing, chosen, Timestamp::MAX));
    }
    Ok(plan)
}

fn at_time(listing: &Listing, generation: Option<Generation>, time: Timestamp) -> Result<Plan> {
    check_range(listing, generation, time)?;
    let begun = |stored: &GenerationObjects| stored.first_snapshot().is_some_and(|first| first <= time);
    let (chosen, stored) = scope(listing, generation)
        .rev()
        .find(|(_, stored)| begun(stored))
        .ok_or_else(|| Error::new(Kind::NothingToRestore, format!("there is no snapshot from before {time}")))?;
    let snapshot = stored.snapshots.iter().rev().find(|(key, _)| key.time <= time);
    let mut chain = snapshot.map(|snapshot| SegmentChain::of(stored, *snapshot)).ok_or_else(|| no_snapshot(chosen))?;
    let reach = chain.latest_time();
    if time > reach {
        chain.require_no_gap()?;
    }
    let wanted = chain.segments.iter().take_while(|(key, _)| key.first_seen <= time).count();
    chain.segments.truncate(wanted);
    let mut plan = Plan::new(chain, StopAt::Time(time));
    if time > reach {
        plan.warnings.push(format!("generation {chosen} reaches to {reach}: nothing is stored from then to {time}"));
    }
    if generation.is_none() {
        plan.warnings.extend(generations_without_snapshot(listing, chosen, time));
    }
    Ok(plan)
}

fn at_position(listing: &Listing, generation: Option<Generation>, position: &Position) -> Result<Plan> {
    if let Some(other) = generation.filter(|other| *other != position.generation) {
        return Err(Error::new(Kind::Usage, format!("position {position} is not in generation {other}")));
    }
    let stored = require_generation(listing, position.generation)?;
    let Some(first) = stored.snapshots.first() else { return Err(no_snapshot(position.generation)) };
    let before = stored.snapshots.iter().rev().find(|(key, _)| key.position <= position.wal_position);
    let mut chain = SegmentChain::of(stored, *before.unwrap_or(first));
    if before.is_none() || position.wal_position > chain.end() {
        return Err(position_out_of_range(stored, &chain, first.0.position, position));
    }
    let wanted = chain.segments.iter().take_while(|(key, _)| key.start < position.wal_position).count();
    chain.segments.truncate(wanted);
    if chain.segments.last().is_some_and(|(key, _)| key.part && key.end == position.wal_position) {
        return Err(Error::new(Kind::NothingToRestore, format!("position {position} is inside a transaction"))
            .with_hint("the `wal` command lists the stored positions"));
    }
    Ok(Plan {
        snapshot: chain.snapshot.0,
        snapshot_size: chain.snapshot.1,
        segments: chain.segments,
        stop: StopAt::Point(position.wal_position),
        warnings: Vec::new(),
        fallback_hint: String::new(),
    })
}

impl Plan {
    /// The bytes that it reads from the store.
    pub fn bytes(&self) -> u64 {
        self.snapshot_size + self.segments.iter().map(|(_, size)| size).sum::<u64>()
    }

    /// All objects that it reads, with their sizes.
    pub fn objects(&self) -> impl Iterator<Item = (Key, u64)> {
        let snapshot = (Key::Snapshot(self.snapshot), self.snapshot_size);
        std::iter::once(snapshot).chain(self.segments.iter().map(|(key, size)| (Key::Segment(*key), *size)))
    }

    /// Along the whole chain, but for a transaction at its end that is not stored whole.
    fn new(mut chain: SegmentChain, stop: StopAt) -> Plan {
        let parts = chain.drop_trailing_parts();
        let mut warnings = Vec::new();
        if parts > 0 {
            let end = chain.end();
            warnings.push(format!("the transaction after {end} is incomplete: {parts} segment(s) ignored"));
        }
        let (snapshot, snapshot_size) = chain.snapshot;
        Plan { snapshot, snapshot_size, segments: chain.segments, stop, warnings, fallback_hint: String::new() }
    }
}

/// The generations that may be used.
fn scope(
    listing: &Listing,
    generation: Option<Generation>,
) -> impl DoubleEndedIterator<Item = (Generation, &GenerationObjects)> {
    listing.generations().filter(move |(id, _)| generation.is_none_or(|only| only == *id))
}

fn require_generation(listing: &Listing, generation: Generation) -> Result<&GenerationObjects> {
    listing.generation(generation).ok_or_else(|| {
        Error::new(Kind::NothingToRestore, format!("generation {generation} is not stored"))
            .with_hint("the `generations` command lists the stored ones")
    })
}

fn newest_restorable(listing: &Listing) -> Result<(Generation, &GenerationObjects)> {
    let found = listing.generations().rev().find(|(_, stored)| !stored.snapshots.is_empty());
    found.ok_or_else(|| nothing_stored(listing))
}

fn nothing_stored(listing: &Listing) -> Error {
    match listing.is_empty() {
        true => Error::new(Kind::NothingToRestore, "nothing is stored"),
        false => Error::new(Kind::NothingToRestore, "segments are stored, but no snapshot yet"),
    }
}

fn no_snapshot(generation: Generation) -> Error {
    Error::new(Kind::NothingToRestore, format!("generation {generation} has no snapshot yet"))
}

/// A moment outside of all that is stored is refused, rather than taken for the nearest one.
fn check_range(listing: &Listing, generation: Option<Generation>, time: Timestamp) -> Result<()> {
    if let Some(generation) = generation {
        require_generation(listing, generation)?;
    }
    let first = scope(listing, generation).filter_map(|(_, stored)| stored.first_snapshot()).min();
    let last = scope(listing, generation).filter_map(|(_, stored)| stored.latest_time()).max();
    let (Some(first), Some(last)) = (first, last) else {
        return Err(generation.map_or_else(|| nothing_stored(listing), no_snapshot));
    };
    if (first..=last).contains(&time) {
        return Ok(());
    }
    let hint = match time < first {
        true => format!("-timestamp {first} restores the oldest stored state"),
        false => "leave out -timestamp to restore the latest state".to_string(),
    };
    let what = format!("timestamp {time}: the backup covers {first} to {last}");
    Err(Error::new(Kind::NothingToRestore, what).with_hint(hint))
}

fn position_out_of_range(
    stored: &GenerationObjects,
    chain: &SegmentChain,
    first: WalPosition,
    position: &Position,
) -> Error {
    let beyond = position.wal_position > chain.end() && stored.latest_position() >= Some(position.wal_position);
    match chain.require_no_gap() {
        Err(gap) if beyond => gap,
        _ => Error::new(
            Kind::NothingToRestore,
            format!("position {position}: the backup covers {first} to {}", chain.end()),
        )
        .with_hint("the `wal` command lists the stored positions"),
    }
}

/// Newer generations that had begun by `time`, but cannot be restored since their snapshot is not stored yet.
fn generations_without_snapshot(listing: &Listing, chosen: Generation, time: Timestamp) -> Vec<String> {
    let newer = listing.generations().filter(|(id, stored)| *id > chosen && stored.snapshots.is_empty());
    let begun = newer.filter(|(_, stored)| stored.earliest_time().is_some_and(|first| first <= time));
    begun
        .map(|(id, _)| format!("generation {id} is newer, but has no snapshot yet: using generation {chosen}"))
        .collect()
}

fn foreign_warning(listing: &Listing) -> Option<String> {
    let example = listing.foreign_example()?;
    Some(format!("{} object(s) of other programs, such as {example:?}, are ignored", listing.foreign_count()))
}

/// Where replication left off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedEnd {
    pub generation: Generation,
    /// The newest snapshot.
    pub snapshot: SnapshotKey,
    /// The object that ends there: a segment if there is one.
    pub last: Key,
    /// Where the next segment must start.
    pub point: WalPosition,
    /// The latest moment in the chain.
    pub time: Timestamp,
}

/// Where the newest generation ends; none if nothing is stored.
///
/// Errors: [`Kind::Corrupt`] with the reason why it cannot be continued: a gap, or no snapshot.
pub fn listed_end(listing: &Listing) -> Result<Option<ListedEnd>> {
    let Some((generation, stored)) = listing.generations().next_back() else { return Ok(None) };
    let Some(chain) = SegmentChain::newest(stored) else {
        return Err(Error::new(Kind::Corrupt, format!("generation {generation} has segments, but no snapshot")));
    };
    chain.require_no_gap()?;
    // A snapshot does not know the crc32 of the batch before it, but a segment that ends at the same point does.
    let point = chain.end();
    let ending = stored.segments.iter().rev().find(|(key, _)| key.end == point);
    Ok(Some(ListedEnd {
        generation,
        snapshot: chain.snapshot.0,
        last: ending.map_or(chain.last_key(), |(key, _)| Key::Segment(*key)),
        point: chain.end(),
        time: chain.latest_time(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{Random, millis, point};

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

    fn at(generation: u64, offset: u64) -> Target {
        Target::Position(Position { generation: id(generation), wal_position: point(0, offset) })
    }

    fn ranges(plan: &Plan) -> Vec<(u64, u64)> {
        plan.segments.iter().map(|(key, _)| (key.start.offset.get(), key.end.offset.get())).collect()
    }

    fn planned(entries: &[(String, u64)], target: Target) -> Plan {
        plan(&Listing::new(entries.to_vec()), None, &target).unwrap()
    }

    fn refused(entries: &[(String, u64)], generation: Option<u64>, target: Target) -> Error {
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
        let plan = planned(&two(), Target::Latest);
        assert_eq!((plan.snapshot.generation, plan.snapshot.position), (id(2), point(0, 100)));
        assert_eq!((plan.snapshot_size, plan.stop), (100, StopAt::End));
        assert_eq!(ranges(&plan), [(100, 110), (110, 120)]);
        assert_eq!(plan.segments.iter().map(|(_, size)| size).sum::<u64>(), 20);
        assert!(plan.warnings.is_empty());
    }

    #[test]
    fn latest_of_a_generation_is_of_that_one() {
        let plan = plan(&Listing::new(two()), Some(id(1)), &Target::Latest).unwrap();
        assert_eq!((plan.snapshot.generation, plan.snapshot.position), (id(1), point(0, 20)));
        assert_eq!(ranges(&plan), [(20, 30), (30, 40)]);
        assert!(plan.warnings.is_empty());
    }

    #[test]
    fn newer_generation_without_snapshot_is_skipped_with_a_warning() {
        let mut entries = two();
        entries.push(segment(3, 200, 210));
        let text = "generation 0000000000000003 is newer, but has no snapshot yet: using generation 0000000000000002";
        for (target, warnings) in
            [(Target::Latest, vec![text]), (Target::Time(millis(115)), vec![]), (Target::Time(millis(30)), vec![])]
        {
            assert_eq!(planned(&entries, target).warnings, warnings, "{target:?}");
        }
        let late = planned(&entries, Target::Time(millis(210)));
        assert_eq!(late.warnings.last().map(String::as_str), Some(text));
        let named = plan(&Listing::new(entries), Some(id(2)), &Target::Latest).unwrap();
        assert!(named.warnings.is_empty());
    }

    #[test]
    fn incomplete_transaction_is_left_out_with_a_warning() {
        let entries = [snapshot(1, 0, 0), segment(1, 0, 16), part(1, 16, 20), part(1, 20, 30)];
        let text = "the transaction after 00000000:000000000010 is incomplete: 2 segment(s) ignored";
        for target in [Target::Latest, Target::Time(millis(30))] {
            let plan = planned(&entries, target);
            assert_eq!((ranges(&plan), plan.warnings), (vec![(0, 16)], vec![text.to_string()]));
        }
        let whole = [&entries[..], &[segment(1, 30, 40)]].concat();
        assert_eq!(ranges(&planned(&whole, Target::Latest)), [(0, 16), (16, 20), (20, 30), (30, 40)]);
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
            let plan = planned(&two(), Target::Time(millis(time)));
            assert_eq!(
                (plan.snapshot.generation, plan.snapshot.position),
                (id(generation), point(0, snapshot)),
                "{time}"
            );
            assert_eq!((ranges(&plan), plan.stop), (segments.to_vec(), StopAt::Time(millis(time))), "{time}");
        }
    }

    #[test]
    fn a_time_inside_a_merged_object_takes_the_object() {
        let entries = [snapshot(1, 0, 0), timed(1, (0, 30), (10, 30), false), segment(1, 30, 40)];
        assert_eq!(ranges(&planned(&entries, Target::Time(millis(15)))), [(0, 30)]);
        assert!(ranges(&planned(&entries, Target::Time(millis(9)))).is_empty());
    }

    #[test]
    fn time_between_generations_gives_the_older_end_and_warns() {
        let plan = planned(&two(), Target::Time(millis(70)));
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
            let error = refused(&two(), generation, Target::Time(millis(time)));
            assert_eq!(error.kind(), Kind::NothingToRestore);
            let text =
                format!("timestamp {}: the backup covers {} to {}", millis(time), millis(range.0), millis(range.1));
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
        let table: [(Entries<'_>, Option<u64>, Target, &str); 9] = [
            (&[], None, Target::Latest, "nothing is stored"),
            (&[], None, Target::Time(millis(1)), "nothing is stored"),
            (&[], None, at(1, 1), "generation 0000000000000001 is not stored"),
            (&segments, None, Target::Latest, "segments are stored, but no snapshot yet"),
            (&segments, Some(1), Target::Latest, "generation 0000000000000001 has no snapshot yet"),
            (&segments, Some(1), Target::Time(millis(1)), "generation 0000000000000001 has no snapshot yet"),
            (&segments, None, at(1, 5), "generation 0000000000000001 has no snapshot yet"),
            (&late, Some(3), Target::Latest, "generation 0000000000000003 is not stored"),
            (&late, Some(3), Target::Time(millis(1)), "generation 0000000000000003 is not stored"),
        ];
        for (entries, generation, target, text) in table {
            let error = refused(entries, generation, target);
            assert_eq!((error.kind(), error.message()), (Kind::NothingToRestore, text));
        }
    }

    #[test]
    fn a_gap_on_the_way_is_refused_and_one_behind_the_target_is_not() {
        let entries = [snapshot(1, 0, 0), segment(1, 0, 16), segment(1, 32, 48)];
        for target in [Target::Latest, Target::Time(millis(17)), Target::Time(millis(48)), at(1, 20), at(1, 48)] {
            let error = refused(&entries, None, target);
            assert_eq!(error.kind(), Kind::Corrupt, "{target:?}");
            assert!(error.message().contains("no segment begins at 00000000:000000000010; the next"), "{error}");
            assert_eq!(
                error.hint(),
                Some("-timestamp 1970-01-01T00:00:00.016Z restores the latest state before the gap")
            );
        }
        for target in [Target::Time(millis(15)), Target::Time(millis(16)), at(1, 8), at(1, 16)] {
            assert!(planned(&entries, target).warnings.is_empty(), "{target:?}");
        }
        let healed = [&entries[..], &[snapshot(1, 48, 50), segment(1, 48, 60)]].concat();
        assert_eq!(ranges(&planned(&healed, Target::Latest)), [(48, 60)]);
        assert_eq!(refused(&healed, None, Target::Time(millis(49))).kind(), Kind::Corrupt);
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
            planned(&entries, Target::Latest).warnings,
            ["1 object(s) of other programs, such as \"generations/readme\", are ignored"]
        );
    }

    #[test]
    fn replication_goes_on_at_the_end_of_the_newest_chain() {
        let end = listed_end(&Listing::new(two())).unwrap().unwrap();
        assert_eq!((end.generation, end.snapshot.position), (id(2), point(0, 100)));
        assert_eq!((end.point, end.time), (point(0, 120), millis(120)));
        assert_eq!(end.last.to_string(), segment(2, 110, 120).0);
        let fresh = listed_end(&Listing::new([snapshot(1, 0, 5)])).unwrap().unwrap();
        assert_eq!((fresh.last, fresh.time), (Key::Snapshot(fresh.snapshot), millis(5)));
        assert_eq!(listed_end(&Listing::new([])).unwrap(), None);
        let unfinished = [snapshot(1, 0, 0), part(1, 0, 16)];
        assert_eq!(listed_end(&Listing::new(unfinished)).unwrap().unwrap().point, point(0, 16));
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

            let found = plan(&Listing::new(entries), None, &Target::Time(millis(time)));
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
        let plan = plan(&listing, None, &Target::Latest).unwrap();
        assert_eq!(plan.segments.len(), 100_000);
    }
}

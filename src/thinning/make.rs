//! Makes rollups and proves them and what they replace, with a private copy of the database.

use crate::clock::Clock;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::compose::Composition;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::key::{Key, SegmentKey, SnapshotKey};
use crate::format::listing::Listing;
use crate::format::position::WalPosition;
use crate::format::rollup::{self, RollupEncoder};
use crate::format::snapshot::{SnapshotHeader, SnapshotReader};
use crate::format::thinning::{MeetingPoint, Thinning, meeting_point};
use crate::log;
use crate::replica::compaction::check_same_encryption;
use crate::restore::object_reader::{ObjectReader, ReadLog};
use crate::restore::replay::Replay;
use crate::store::{Entry, Store};
use crate::thinning::made::{BUFFER_BYTES, Made};
use crate::thinning::work::Work;

/// Bytes of changed pages that are held at once. What does not fit takes another pass over the segments.
const MAX_MEMORY_BYTES: usize = 12 << 20;
/// gzip's level: a rollup is made once and read often.
const LEVEL: u32 = 6;

/// A group of neighbours, with their sizes.
pub type Group = [(SegmentKey, u64)];

/// Makes, proves and stores the rollups of a plan, and tells each one.
pub fn rollups(work: &Work<'_>, plan: &Thinning, stored: &mut dyn FnMut(Entry, &Group)) -> Result<()> {
    let Work { store, clock, listing, .. } = *work;
    let chain = &plan.chain.segments;
    let groups: Vec<&Group> = plan.groups.iter().filter_map(|places| chain.get(places.clone())).collect();
    let Some((first, _)) = groups.first().and_then(|group| group.first()) else { return Ok(()) };
    let snapshot = last_snapshot(listing, plan, first.start, &[]);
    let grouped = groups.iter().map(|group| bytes_of(group)).sum::<u64>();
    let last = groups.last().and_then(|group| group.last()).map_or(first.start, |(key, _)| key.end);
    let mut read = work.begin(snapshot.1 + grouped + bytes_between(chain, snapshot.0.position, last));
    let mut replay = Replay::of(store, clock, snapshot)?;
    read.add(snapshot.1);
    for group in groups {
        let (Some((first, _)), Some((last, _))) = (group.first(), group.last()) else { continue };
        read.add(bytes_between(chain, replay.position(), first.start));
        replay.lead(chain, first.start)?;
        let Some((key, made)) = compose_proven(work, &replay, chain, group)? else {
            log::debug("not rolled up, its end is no commit").field("name", last).emit();
            replay.lead(chain, last.end)?;
            continue;
        };
        read.add(2 * bytes_of(group));
        // The proof: only a true one leads the copy to the checksum that was stored with the last commit.
        replay.apply(&key, made.reader()?).with_context(|| format!("rollup {key}"))?;
        let size = made.size();
        if is_worthwhile(size + encryption_overhead(store, size), group) {
            let name = key.to_string();
            made.store(store, clock, store.put(&name), &name)?;
            log::debug("segments rolled up").field("name", key).field("of", group.len()).emit();
            stored(Entry { name, size, whole: true }, group);
        }
    }
    Ok(())
}

/// The superfluous snapshots of a plan without which the other objects lead to the same database: at the point of the snapshot, or
/// where the way from there and the way over it meet.
///
/// Errors: [`Kind::Corrupt`] if they lead to another one.
pub fn proven_snapshots(work: &Work<'_>, plan: &Thinning) -> Result<Vec<Key>> {
    let Work { store, clock, listing, .. } = *work;
    let Some(stored) = listing.generation(plan.generation) else { return Ok(Vec::new()) };
    let superfluous = stored.snapshots.iter().filter(|(key, _)| plan.superfluous.contains(key));
    let mut meetings: Vec<MeetingPoint> =
        superfluous.filter_map(|snapshot| meeting_point(&plan.chain, stored, *snapshot)).collect();
    meetings.sort_by_key(|meeting| meeting.at);
    let (Some(first), Some(last)) = (plan.superfluous.first(), meetings.last()) else { return Ok(Vec::new()) };
    let chain = &plan.chain.segments;
    let base = last_snapshot(listing, plan, first.position, &plan.superfluous);
    let own_ways = meetings.iter().map(bytes_to_meeting).sum::<u64>();
    let mut read = work.begin(base.1 + bytes_between(chain, base.0.position, last.at) + own_ways);
    let mut replay = Replay::of(store, clock, base)?;
    read.add(base.1);
    let mut proven = Vec::new();
    for meeting in &meetings {
        read.add(bytes_between(chain, replay.position(), meeting.at));
        replay.lead(chain, meeting.at)?;
        let (snapshot, _) = meeting.way.snapshot;
        let Some(expected) = checksum_at(work, meeting)? else { continue };
        read.add(bytes_to_meeting(meeting));
        let found = replay.checksum();
        if found != Some(expected) {
            let found = found.map_or(0, |found| found.get());
            let what =
                format!("expected database checksum {:016x}, found {found:016x} along the segments", expected.get());
            return Err(Error::new(Kind::Corrupt, what).context(format!("object {snapshot}")));
        }
        proven.push(Key::Snapshot(snapshot));
    }
    Ok(proven)
}

/// The database checksum to which the way from a snapshot leads; none if the snapshot does not tell its own.
fn checksum_at(work: &Work<'_>, meeting: &MeetingPoint) -> Result<Option<DatabaseChecksum>> {
    let Work { store, clock, .. } = *work;
    let (snapshot, way) = (meeting.way.snapshot, &meeting.way.segments);
    let own = header(store, clock, &snapshot.0)?.database;
    if own.is_none() || meeting.at == snapshot.0.position {
        return Ok(own);
    }
    let mut along = Replay::of(store, clock, snapshot)?;
    along.lead(way, meeting.at)?;
    Ok(along.checksum())
}

/// What is read for a meeting after the point of its snapshot.
fn bytes_to_meeting(meeting: &MeetingPoint) -> u64 {
    let (snapshot, size) = meeting.way.snapshot;
    match meeting.at == snapshot.position {
        true => 0,
        false => size + bytes_between(&meeting.way.segments, snapshot.position, meeting.at),
    }
}

/// The newest snapshot at or before a point that the chain leads to, and that is not among `without`; at least the oldest of all.
pub fn last_snapshot(
    listing: &Listing,
    plan: &Thinning,
    at: WalPosition,
    without: &[SnapshotKey],
) -> (SnapshotKey, u64) {
    let mut stored = listing.generation(plan.generation).into_iter().flat_map(|stored| &stored.snapshots);
    let joins = |key: &SnapshotKey| !without.contains(key) && plan.chain.rollup_over(key.position).is_none();
    let fits = |(key, _): &&(SnapshotKey, u64)| key.position <= at && joins(key);
    stored.rfind(fits).copied().unwrap_or(plan.chain.snapshot)
}

fn bytes_of(group: &Group) -> u64 {
    group.iter().map(|(_, size)| size).sum()
}

/// Of the segments that lead from one point to another.
pub fn bytes_between(chain: &Group, from: WalPosition, to: WalPosition) -> u64 {
    chain.iter().filter(|(key, _)| key.end > from && key.start < to).map(|(_, size)| size).sum()
}

fn header(store: &dyn Store, clock: &dyn Clock, key: &SnapshotKey) -> Result<SnapshotHeader> {
    let name = key.to_string();
    let read = ReadLog::default();
    let reader = SnapshotReader::open(ObjectReader::new(store, clock, &name, &read));
    reader.map(|reader| *reader.header()).with_context(|| format!("object {name}"))
}

/// An object less is worth what the chain counts it, and a smaller one of one what it saves.
fn is_worthwhile(size: u64, group: &Group) -> bool {
    size < bytes_of(group) + (group.len() as u64 - 1) * crate::format::chain::OBJECT_COST
}

/// About the bytes that encryption adds to an object.
fn encryption_overhead(store: &dyn Store, size: u64) -> u64 {
    match store.recipients() as u64 {
        0 => 0,
        recipients => 512 + 128 * recipients + size / 2048,
    }
}

/// The rollup of a group. Format 1 does not tell the database checksum at its end: then it is that of another copy, led there along
/// the segments themselves, whose frames have checksums of their own. So it is known of the rollup, as of any other.
fn compose_proven(
    work: &Work<'_>,
    replay: &Replay<'_>,
    chain: &Group,
    group: &Group,
) -> Result<Option<(SegmentKey, Made)>> {
    let made = compose(work, group, None)?;
    let Some((last, _)) = group.last().filter(|_| made.is_none()) else { return Ok(made) };
    let mut along = replay.fork()?;
    along.lead(chain, last.end)?;
    compose(work, group, along.checksum())
}

/// None, if the database checksum at the end of the group is not known.
fn compose(work: &Work<'_>, group: &Group, known: Option<DatabaseChecksum>) -> Result<Option<(SegmentKey, Made)>> {
    let Work { store, clock, .. } = *work;
    let mut writing: Option<(SegmentKey, Made, RollupEncoder)> = None;
    let mut from = Some(1);
    while let Some(first) = from {
        let mut composed = Composition::new(first, MAX_MEMORY_BYTES);
        for (key, _) in group {
            let name = key.to_string();
            let read = ReadLog::default();
            let added = composed.add(key, ObjectReader::new(store, clock, &name, &read));
            // What is encrypted never becomes a part of something that is not.
            let added = added.and_then(|()| check_same_encryption(read.recipients(), store.recipients()));
            added.with_context(|| format!("object {name}"))?;
        }
        let Some((header, net)) = composed.rollup(known) else { return Ok(None) };
        let mut out = Vec::new();
        let (_, made, encoder) = match &mut writing {
            Some(writing) => writing,
            none => none.insert((rollup::key_of(&header), Made::new()?, RollupEncoder::new(&header, LEVEL, &mut out))),
        };
        for (number, delta) in net.pages() {
            encoder.page(number, delta, &mut out);
            if out.len() >= BUFFER_BYTES {
                made.append(&mut out)?;
            }
        }
        made.append(&mut out)?;
        from = net.next_pass();
    }
    let Some((key, mut made, encoder)) = writing else { return Ok(None) };
    let mut out = Vec::new();
    encoder.finish(&mut out);
    made.append(&mut out)?;
    Ok(Some((key, made)))
}

//! Makes rollups and proves them and what they replace, with a private copy of the database.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};

use crate::clock::Clock;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::fault;
use crate::format::compose::Composition;
use crate::format::key::{Key, SegmentKey, SnapshotKey};
use crate::format::listing::Listing;
use crate::format::position::WalPosition;
use crate::format::rollup::{self, RollupEncoder};
use crate::format::snapshot;
use crate::format::thinning::Thinning;
use crate::log;
use crate::replica::compaction::check_same_encryption;
use crate::restore::object_reader::{ObjectReader, ReadLog};
use crate::restore::replay::Replay;
use crate::restore::scratch::scratch;
use crate::store::traffic::Purpose;
use crate::store::{Entry, Store, blocking};

/// Bytes of changed pages that are held at once. What does not fit takes another pass over the segments.
const MEMORY: usize = 12 << 20;
/// gzip's level: a rollup is made once and read often.
const LEVEL: u32 = 6;
/// Bytes that are read and written at once.
const PIECE: usize = 64 << 10;

/// A group of neighbours, with their sizes.
type Group = [(SegmentKey, u64)];

/// Makes, proves and stores the rollups of a plan, and tells each one.
pub fn rollups(
    store: &dyn Store,
    clock: &dyn Clock,
    listing: &Listing,
    plan: &Thinning,
    stored: &mut dyn FnMut(Entry, &Group),
) -> Result<()> {
    let chain = &plan.chain.segments;
    let groups: Vec<&Group> = plan.groups.iter().filter_map(|places| chain.get(places.clone())).collect();
    let Some((first, _)) = groups.first().and_then(|group| group.first()) else { return Ok(()) };
    let mut replay = Replay::of(store, clock, last_snapshot(listing, plan, first.start, &[]))?;
    for group in groups {
        let (Some((first, _)), Some((last, _))) = (group.first(), group.last()) else { continue };
        replay.lead(chain, first.start)?;
        let Some(made) = compose(store, clock, group)? else {
            log::debug("not rolled up, no database checksum").field("name", last).emit();
            replay.lead(chain, last.end)?;
            continue;
        };
        // The proof: only a true one leads the copy to the checksum that was stored with the last commit.
        replay.apply(&made.key, made.reader()?).context(|| format!("rollup {}", made.key))?;
        if is_worthwhile(made.size + encryption_overhead(store, made.size), group) {
            made.store(store, clock)?;
            log::debug("segments rolled up").field("name", made.key).field("of", group.len()).emit();
            stored(Entry { name: made.key.to_string(), size: made.size }, group);
        }
    }
    Ok(())
}

/// The superfluous snapshots of a plan that the other objects lead to.
///
/// Errors: [`Kind::Corrupt`] if they lead to another database there.
pub fn proven_snapshots(store: &dyn Store, clock: &dyn Clock, listing: &Listing, plan: &Thinning) -> Result<Vec<Key>> {
    let Some(first) = plan.superfluous.first() else { return Ok(Vec::new()) };
    let mut replay = Replay::of(store, clock, last_snapshot(listing, plan, first.position, &plan.superfluous))?;
    let mut proven = Vec::new();
    for snapshot in &plan.superfluous {
        replay.lead(&plan.chain.segments, snapshot.position)?;
        let Some(expected) = header(store, clock, snapshot)?.database else { continue };
        let found = replay.checksum();
        if found != Some(expected) {
            let found = found.map_or(0, |found| found.get());
            let what =
                format!("expected database checksum {:016x}, found {found:016x} along the segments", expected.get());
            return Err(Error::new(Kind::Corrupt, what).context(format!("object {snapshot}")));
        }
        proven.push(Key::Snapshot(*snapshot));
    }
    Ok(proven)
}

/// The newest snapshot at or before a point that is not among `without`; at least the oldest of all.
fn last_snapshot(listing: &Listing, plan: &Thinning, at: WalPosition, without: &[SnapshotKey]) -> (SnapshotKey, u64) {
    let mut stored = listing.generation(plan.generation).into_iter().flat_map(|stored| &stored.snapshots);
    let fits = |(key, _): &&(SnapshotKey, u64)| key.position <= at && !without.contains(key);
    stored.rfind(fits).copied().unwrap_or(plan.chain.snapshot)
}

fn header(store: &dyn Store, clock: &dyn Clock, key: &SnapshotKey) -> Result<snapshot::Header> {
    let name = key.to_string();
    let read = ReadLog::default();
    let reader = snapshot::Reader::open(ObjectReader::new(store, clock, &name, &read));
    reader.map(|reader| *reader.header()).context(|| format!("object {name}"))
}

/// An object less is worth what the chain counts it, and a smaller one of one what it saves.
fn is_worthwhile(size: u64, group: &Group) -> bool {
    size < group.iter().map(|(_, size)| size).sum::<u64>()
        + (group.len() as u64 - 1) * crate::format::chain::OBJECT_COST
}

/// About the bytes that encryption adds to an object.
fn encryption_overhead(store: &dyn Store, size: u64) -> u64 {
    match store.recipients() as u64 {
        0 => 0,
        recipients => 512 + 128 * recipients + size / 2048,
    }
}

/// A rollup that is not stored yet.
struct Made {
    key: SegmentKey,
    size: u64,
    file: File,
}

/// None, if the group does not end in a state whose checksum is stored.
fn compose(store: &dyn Store, clock: &dyn Clock, group: &Group) -> Result<Option<Made>> {
    let mut writing: Option<(Made, RollupEncoder)> = None;
    let mut from = Some(1);
    while let Some(first) = from {
        let mut composed = Composition::new(first, MEMORY);
        for (key, _) in group {
            let name = key.to_string();
            let read = ReadLog::default();
            let added = composed.add(key, ObjectReader::new(store, clock, &name, &read));
            // What is encrypted never becomes a part of something that is not.
            let added = added.and_then(|()| check_same_encryption(read.recipients(), store.recipients()));
            added.context(|| format!("object {name}"))?;
        }
        let Some((header, net)) = composed.rollup() else { return Ok(None) };
        let mut out = Vec::new();
        let (made, encoder) = match &mut writing {
            Some(writing) => writing,
            none => none.insert((
                Made { key: rollup::key_of(&header), size: 0, file: scratch()? },
                RollupEncoder::new(&header, LEVEL, &mut out),
            )),
        };
        for (number, delta) in net.pages() {
            encoder.page(number, delta, &mut out);
            if out.len() >= PIECE {
                made.append(&mut out)?;
            }
        }
        made.append(&mut out)?;
        from = net.next_pass();
    }
    let Some((mut made, encoder)) = writing else { return Ok(None) };
    let mut out = Vec::new();
    encoder.finish(&mut out);
    made.append(&mut out)?;
    Ok(Some(made))
}

impl Made {
    fn append(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| Error::io(Kind::Database, "write a temporary file", &error))?;
        self.size += bytes.len() as u64;
        bytes.clear();
        Ok(())
    }

    fn reader(&self) -> Result<impl Read + use<'_>> {
        (&self.file).rewind().map_err(|error| Error::io(Kind::Database, "read a temporary file", &error))?;
        Ok(BufReader::with_capacity(PIECE, &self.file))
    }

    /// Stores it, and reads it back.
    fn store(&self, store: &dyn Store, clock: &dyn Clock) -> Result<()> {
        let name = self.key.to_string();
        fault::point("thin.put")?;
        blocking::put(store, clock, &name, Purpose::Compaction, &mut self.reader()?)?;
        fault::point("thin.stored")?;
        let read = ReadLog::default();
        let same = same(ObjectReader::new(store, clock, &name, &read), self.reader()?);
        match same.context(|| format!("object {name}"))? {
            true => Ok(()),
            false => {
                Err(Error::new(Kind::Corrupt, format!("object {name}: expected what was stored, found something else")))
            }
        }
    }
}

fn same(mut one: impl Read, mut two: impl Read) -> Result<bool> {
    let (mut first, mut second) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let count = fill(&mut one, &mut first)?;
        if count != fill(&mut two, &mut second)? || first.get(..count) != second.get(..count) {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

fn fill(from: &mut impl Read, piece: &mut [u8]) -> Result<usize> {
    let mut have = 0;
    while have < piece.len() {
        match from.read(&mut piece[have..]) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::of_stream(error)),
        }
    }
    Ok(have)
}

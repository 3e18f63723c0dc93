//! Snapshots of a database that cannot be followed.

use crate::clock::Clock;
use crate::error::{Context, Result};
use crate::format::listing::Listing;
use crate::format::numbering::HighWaterMark;
use crate::format::position::Point;
use crate::replica::download::list;
use crate::replica::snapshot::SnapshotUpload;
use crate::source::snapshot::Snapshot;
use crate::store::{Store, random};

/// What is stored. To be asked for before the snapshot begins: nobody can write to the database then.
pub fn stored_until(store: &dyn Store, clock: &dyn Clock) -> Result<HighWaterMark> {
    let entries = list(store, clock, "")?;
    let listing = Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)));
    Ok(HighWaterMark::of(&listing))
}

/// A snapshot of a database that is not in WAL mode: a generation of its own, which nothing continues.
///
/// Errors: of kind `Corrupt` if no greater number is left.
pub fn alone(
    store: &dyn Store,
    snapshot: Snapshot,
    newest: &HighWaterMark,
    clock: &dyn Clock,
) -> Result<SnapshotUpload> {
    let next = newest.next(clock.wall(), random::below(u64::MAX));
    let (generation, time) = next.context(|| store.url().to_string())?;
    let at = Point { index: 0, offset: snapshot.mark().offset() };
    Ok(SnapshotUpload::new(store, snapshot, generation, at, time))
}

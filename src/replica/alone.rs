//! Snapshots of a database that cannot be followed.

use crate::clock::Clock;
use crate::error::Result;
use crate::format::listing::Listing;
use crate::format::plan::last_moment;
use crate::format::position::Point;
use crate::format::time::Timestamp;
use crate::replica::download::list;
use crate::replica::follow::new_generation;
use crate::replica::snapshot::SnapshotUpload;
use crate::source::snapshot::Snapshot;
use crate::store::Store;

/// The last moment that is stored. To be asked for before the snapshot begins: nobody can write to the database then.
pub fn stored_until(store: &dyn Store, clock: &dyn Clock) -> Result<Timestamp> {
    let entries = list(store, clock, "")?;
    let listing = Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)));
    Ok(last_moment(&listing).unwrap_or_default())
}

/// A snapshot of a database that is not in WAL mode: a generation of its own, which nothing continues.
pub fn alone(store: &dyn Store, snapshot: Snapshot, stored_until: Timestamp, clock: &dyn Clock) -> SnapshotUpload {
    let time = clock.wall().max(stored_until);
    let generation = new_generation(time);
    let at = Point { index: 0, offset: snapshot.mark().offset() };
    SnapshotUpload::new(store, snapshot, generation, at, time)
}

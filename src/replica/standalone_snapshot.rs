//! Snapshots of a database that cannot be followed.

use std::rc::Rc;

use crate::backup::listing::load_listing_patiently;
use crate::backup::origin::{OriginRead, OriginSearch, StoredOrigin, witnesses};
use crate::clock::Clock;
use crate::error::{Result, ResultExt};
use crate::format::generation_number::HighWaterMark;
use crate::format::origin::DatabaseOrigin;
use crate::format::position::WalPosition;
use crate::random;
use crate::replica::snapshot_upload::SnapshotUpload;
use crate::source::snapshot::Snapshot;
use crate::store::Store;
use crate::store::blocking::MAX_SLEEP;

/// What is stored: up to where, and of which database, if it says so. To be asked for before the snapshot begins: nobody
/// can write to the database then.
pub fn latest_stored_time(store: &Rc<dyn Store>, clock: &dyn Clock) -> Result<(HighWaterMark, Option<StoredOrigin>)> {
    let listing = load_listing_patiently(&**store, clock)?;
    let mut search = OriginSearch::new(store.clone(), &witnesses(&listing));
    loop {
        if let Some(origin) = search.poll(clock.now())? {
            return Ok((HighWaterMark::of(&listing), origin));
        }
        store.wait(MAX_SLEEP);
    }
}

/// Reads of which database the snapshot of this name is; none if it does not say so.
pub fn origin_of(store: &dyn Store, clock: &dyn Clock, name: &str) -> Result<Option<DatabaseOrigin>> {
    let mut read = OriginRead::new(store, name);
    loop {
        if let Some(origin) = read.poll(clock.now())? {
            return Ok(origin);
        }
        store.wait(MAX_SLEEP);
    }
}

/// A snapshot of a database that is not in WAL mode: a generation of its own, which nothing continues.
///
/// Errors: of kind `Corrupt` if no greater number is left.
pub fn standalone_snapshot(
    store: &dyn Store,
    snapshot: Snapshot,
    newest: &HighWaterMark,
    clock: &dyn Clock,
) -> Result<SnapshotUpload> {
    let next = newest.next_generation(clock.utc_now(), random::random_below(u64::MAX));
    let (generation, time) = next.context(|| store.url().to_string())?;
    let mark = snapshot.mark();
    let at = WalPosition { index: 0, offset: mark.offset() };
    Ok(SnapshotUpload::new(store, snapshot, mark, generation, at, time))
}

//! Snapshots of a database that cannot be followed.

use std::rc::Rc;
use std::task::Poll;

use crate::backup::listing::load_listing_patiently;
use crate::backup::origin::{OriginRead, OriginSearch, StoredOrigin, witnesses};
use crate::backup::owner::read_owner;
use crate::clock::Clock;
use crate::error::{Kind, Result, ResultExt};
use crate::format::generation_number::HighWaterMark;
use crate::format::origin::DatabaseOrigin;
use crate::format::owner::OwnerRecord;
use crate::format::position::WalPosition;
use crate::random;
use crate::replica::snapshot_upload::SnapshotUpload;
use crate::source::snapshot::Snapshot;
use crate::store::Store;
use crate::store::blocking::MAX_SLEEP;

/// What is stored.
pub struct LatestStored {
    /// Up to where.
    pub newest: HighWaterMark,
    /// Of which database, if it says so. Errors: of kind `AnotherDatabase`, if it is encrypted and cannot be read here.
    pub origin: Result<Option<StoredOrigin>>,
    /// Which database is kept there now, where that was recorded.
    pub owner: Option<OwnerRecord>,
    /// To how many recipients it is encrypted; 0: it is in clear.
    pub recipients: usize,
}

/// Looks at what is stored. To be asked for before the snapshot begins: nobody can write to the database then.
pub fn latest_stored(store: &Rc<dyn Store>, clock: &dyn Clock) -> Result<LatestStored> {
    let listing = load_listing_patiently(&**store, clock)?;
    let mut search = OriginSearch::new(store.clone(), &witnesses(&listing));
    let origin = loop {
        match search.poll(clock.now()) {
            Ok(Poll::Pending) => store.wait(MAX_SLEEP),
            Ok(Poll::Ready(origin)) => break Ok(origin),
            Err(error) if error.kind() == Kind::AnotherDatabase => break Err(error),
            Err(error) => return Err(error),
        }
    };
    let owner = listing.owner().map(|number| read_owner(&**store, number, clock)).transpose()?.flatten();
    Ok(LatestStored { newest: HighWaterMark::of(&listing), origin, owner, recipients: search.recipients() })
}

/// Reads of which database the snapshot of this name is, none if it does not say so or cannot be read here; and to how many
/// recipients it is encrypted, 0 if it is in clear.
pub fn origin_of(store: &dyn Store, clock: &dyn Clock, name: &str) -> Result<(Option<DatabaseOrigin>, usize)> {
    let mut read = OriginRead::new(store, name);
    loop {
        match read.poll(clock.now()) {
            Ok(Poll::Pending) => store.wait(MAX_SLEEP),
            Ok(Poll::Ready(origin)) => return Ok((origin, read.recipients())),
            Err(error) if error.kind() == Kind::NoIdentity => return Ok((None, read.recipients())),
            Err(error) => return Err(error),
        }
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
    let (generation, time) = next.with_context(|| store.url().to_string())?;
    let mark = snapshot.mark();
    let at = WalPosition { index: 0, offset: mark.offset() };
    Ok(SnapshotUpload::new(store, snapshot, mark, generation, at, time))
}

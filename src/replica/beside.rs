//! Snapshots by a process that does not follow the database: beside one that does, or of one that cannot be followed.

use std::path::Path;
use std::rc::Rc;

use crate::clock::Clock;
use crate::error::Result;
use crate::format::listing::Listing;
use crate::format::plan::last_moment;
use crate::format::position::Point;
use crate::replica::download::list;
use crate::replica::follow::new_generation;
use crate::replica::snapshot::SnapshotUpload;
use crate::replica::start::find_end;
use crate::source::snapshot::Snapshot;
use crate::source::{Options, Reason, Source};
use crate::store::Store;

/// What came of an attempt.
pub enum Joined {
    Upload(Box<SnapshotUpload>),
    /// What is stored does not reach into the current WAL yet.
    NotYet(Reason),
}

/// Looks where the other process stands, and begins a snapshot at a position that it has passed or will pass.
///
/// The database is opened without its lock, and anew each time: while the source is open, its pin keeps the WAL.
pub fn join(store: &Rc<dyn Store>, path: &Path, options: &Options, clock: &dyn Clock) -> Result<Joined> {
    let end = match find_end(store, clock)?.end {
        Ok(end) => end,
        Err(reason) => return Ok(Joined::NotYet(reason)),
    };
    let Some(snapshot) = Source::open(path, options)?.snapshot()? else {
        return Ok(Joined::NotYet(Reason::UnknownStoredPosition));
    };
    match end.point_of(&snapshot.mark()).filter(|at| *at >= end.point()) {
        Some(at) => {
            let time = clock.wall().max(end.time);
            let upload = SnapshotUpload::new(&**store, snapshot, end.tail.generation, at, time);
            Ok(Joined::Upload(Box::new(upload)))
        }
        None => Ok(Joined::NotYet(Reason::WalRestartedWhileNotRunning)),
    }
}

/// A snapshot of a database that is not in WAL mode: a generation of its own, which nothing continues.
pub fn alone(store: &dyn Store, snapshot: Snapshot, clock: &dyn Clock) -> Result<SnapshotUpload> {
    let entries = list(store, clock, "")?;
    let listing = Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)));
    let time = clock.wall().max(last_moment(&listing).unwrap_or_default());
    let generation = new_generation(time);
    let at = Point { index: 0, offset: snapshot.mark().offset() };
    Ok(SnapshotUpload::new(store, snapshot, generation, at, time))
}

//! The replica to restore a database from, where it has several: the one whose stored end is the newest.

use crate::backup::find_end::find_end;
use crate::cmd::clock::SystemClock;
use crate::cmd::wiring;
use crate::config::{Database, Replica};
use crate::error::Result;
use crate::format::time::Timestamp;
use crate::log;
use crate::log::target_name::TargetName;
use crate::store::ConnectionPool;

/// Asks each replica, and says which one it is. Of two that are as new, the one that is configured first.
///
/// Errors: the last store's, where none that answers has anything to restore and one does not answer: what that one has is
/// not to be taken for nothing.
pub fn newest_replica(database: &Database, pool: &mut ConnectionPool) -> Result<Replica> {
    if !database.has_several_replicas() {
        return Ok(database.replica.clone());
    }
    let (mut newest, mut failed) = (None::<(Timestamp, Replica)>, None);
    let path = database.path.display().to_string();
    for about in database.each_replica() {
        match stored_until(&about, pool) {
            Ok(Some(time)) if newest.as_ref().is_none_or(|(other, _)| time > *other) => {
                newest = Some((time, about.replica));
            }
            Ok(_) => {}
            Err(error) => {
                let name = TargetName::of_replica(&path, Some(about.replica.label().to_string()));
                name.tag(log::warn("replica does not answer")).error(&error).emit();
                failed = Some(error);
            }
        }
    }
    match (newest, failed) {
        (Some((time, replica)), _) => {
            let name = TargetName::of_replica(&path, Some(replica.label().to_string()));
            name.tag(log::info("the newest replica")).field("stored_until", time).emit();
            Ok(replica)
        }
        (None, Some(error)) => Err(error),
        (None, None) => Ok(database.replica.clone()),
    }
}

/// The time of the last commit that can be restored; none where there is none.
fn stored_until(database: &Database, pool: &mut ConnectionPool) -> Result<Option<Timestamp>> {
    let store = wiring::open_store(database, false, pool)?;
    let found = find_end(&store, &SystemClock)?;
    Ok(found.end.ok().map(|end| end.time))
}

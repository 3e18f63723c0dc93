//! Whether a restore would give the snapshot that was stored.

use std::path::Path;

use crate::backup::listing::load_listing_patiently;
use crate::cmd::clock::SystemClock;
use crate::error::{Error, Kind, Result};
use crate::format::latest_restore::{LatestRestore, latest_restore};
use crate::format::listing::Listing;
use crate::format::position::Position;
use crate::store::Store;

/// Makes sure that a restore would give what was stored. `more_follows`: later commits may be stored as well.
///
/// Errors: of kind `Corrupt` if a restore would give something else.
pub fn check_restorable(database: &Path, store: &dyn Store, position: &Position, more_follows: bool) -> Result<()> {
    let listing = load_listing_patiently(store, &SystemClock)?;
    check_plan(database, store.url(), &listing, position, more_follows)
}

pub fn check_plan(
    database: &Path,
    url: &str,
    listing: &Listing,
    position: &Position,
    more_follows: bool,
) -> Result<()> {
    let found = latest_restore(listing, position);
    if found.is_exact() || (more_follows && matches!(found, LatestRestore::EndsAfter { .. })) {
        return Ok(());
    }
    let what = format!("database {}: {url}: {position} is stored, but {found}", database.display());
    Err(Error::new(Kind::Corrupt, what)
        .with_hint("another program writes or deletes below this prefix: stop it, and run snapshot again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_is_called_stored_only_if_a_restore_would_give_it() {
        let name = |generation: &str, at: u32| {
            format!("generations/{generation}/snapshots/00000000.{at:012x}-20260101T000000.000Z.gz")
        };
        let (ours, newer) = (name("0000000000000005", 0), name("ffffffffffffffff", 0));
        let position: Position = "0000000000000005/0:0".parse().unwrap();
        let judged = |names: &[&String], more_follows| {
            let listing = Listing::new(names.iter().map(|name| (name.to_string(), 1)));
            check_plan(Path::new("/a.db"), "file:///store", &listing, &position, more_follows)
        };
        assert!(judged(&[&ours], false).is_ok());
        let in_the_way = judged(&[&ours, &newer], true).unwrap_err();
        assert_eq!(in_the_way.kind(), Kind::Corrupt);
        assert!(in_the_way.message().contains("ffffffffffffffff, which is newer"), "{in_the_way}");
        assert!(judged(&[], false).unwrap_err().message().contains("no snapshot is stored"));
        let later = name("0000000000000005", 9);
        assert!(judged(&[&ours, &later], false).is_err());
        // Beside a replicator more is stored in the meantime, but a hole in front of it is one all the same.
        assert!(judged(&[&later], true).is_ok());
        assert!(judged(&[&name("0000000000000004", 0)], true).is_err());
    }
}

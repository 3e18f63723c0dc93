//! Proving a backup: each generation is restored to nowhere, and the newest one is compared with the live database.

use crate::backup::listing::load_listing_patiently;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::format::listing::Listing;
use crate::format::plan::{PlanTarget, plan};
use crate::format::position::{Generation, Position};
use crate::restore::StartProgress;
use crate::restore::apply::{RestoreResult, restore};
use crate::restore::live_state::{LiveMatch, LiveState};
use crate::restore::page_compare::{Difference, PageComparer};
use crate::restore::page_output::PageOutput;
use crate::restore::plan::retry_with_new_plan;
use crate::restore::scratch::scratch;
use crate::store::Store;

/// What was found of one generation.
pub struct VerifiedGeneration {
    pub generation: Option<Generation>,
    /// None: nothing was restored.
    pub restored: Result<Option<RestoreResult>>,
    pub live: LiveComparison,
}

/// How the live database compares with the backup.
pub enum LiveComparison {
    /// There was nothing to compare.
    Unknown,
    Equal,
    /// Why not.
    NotCompared(String),
    /// There should be a database file, and there is none.
    Gone,
}

impl VerifiedGeneration {
    pub fn failed(generation: Option<Generation>, error: Error) -> VerifiedGeneration {
        VerifiedGeneration { generation, restored: Err(error), live: LiveComparison::Unknown }
    }
}

/// Reads back all that is stored. What retention deletes meanwhile is planned again.
///
/// Errors: those of the store; of kind `NothingToRestore` if there is no snapshot. What is damaged stands in the row of its
/// generation.
pub fn verify(
    store: &dyn Store,
    clock: &dyn Clock,
    live: &LiveMatch,
    progress: StartProgress<'_>,
) -> Result<Vec<VerifiedGeneration>> {
    retry_with_new_plan(
        || load_listing_patiently(store, clock),
        |listing| Verification { store, clock, listing: &listing, live, progress }.generations(),
    )
}

/// What is stored by one listing, on its way to be proven.
struct Verification<'a> {
    store: &'a dyn Store,
    clock: &'a dyn Clock,
    listing: &'a Listing,
    /// The live database, which is to equal the newest generation.
    live: &'a LiveMatch,
    progress: StartProgress<'a>,
}

impl Verification<'_> {
    /// Every generation that has a snapshot, from its newest one to its end. One that is damaged does not hide the others.
    fn generations(&self) -> Result<Vec<VerifiedGeneration>> {
        let whole: Vec<_> =
            self.listing.generations().filter(|(_, stored)| !stored.snapshots.is_empty()).map(|(id, _)| id).collect();
        let Some(newest) = whole.last().copied() else {
            return Err(Error::new(Kind::NothingToRestore, "nothing is stored"));
        };
        let prove = |generation| {
            let live = if generation == newest { self.live } else { &LiveMatch::NoFile };
            match self.one_generation(generation, live) {
                Err(error) if error.kind() == Kind::Corrupt => Ok(VerifiedGeneration::failed(Some(generation), error)),
                other => other,
            }
        };
        whole.into_iter().map(prove).collect()
    }

    fn one_generation(&self, generation: Generation, live: &LiveMatch) -> Result<VerifiedGeneration> {
        let restored = self.restore_to_nowhere(generation, &PlanTarget::Latest, &scratch()?)?;
        let live = match live {
            LiveMatch::At(there) => self.compare(there)?,
            LiveMatch::NotStored(why) => LiveComparison::NotCompared(why.clone()),
            LiveMatch::NoFile => LiveComparison::Unknown,
        };
        Ok(VerifiedGeneration { generation: Some(generation), restored: Ok(Some(restored)), live })
    }

    fn restore_to_nowhere<O: PageOutput>(
        &self,
        generation: Generation,
        target: &PlanTarget,
        output: O,
    ) -> Result<RestoreResult> {
        let plan = plan(self.listing, Some(generation), target)?;
        restore(self.store, self.clock, &plan, output, &mut *(self.progress)(plan.bytes()))
    }

    /// Whether the live database held what is stored when it was looked at. Where the checksum of that is stored, its own is
    /// compared; if that differs or is not there, the same is restored once more, and compared page by page: pages that are
    /// unused do not count.
    ///
    /// Errors: of kind `Corrupt` if it is not equal.
    fn compare(&self, there: &LiveState) -> Result<LiveComparison> {
        if there.stored == Some(there.checksums.checksum) {
            return Ok(LiveComparison::Equal);
        }
        let file = scratch()?;
        let mut pages = PageComparer::new(&there.checksums, &file);
        let target = there.position.map_or(PlanTarget::Latest, |point| {
            PlanTarget::Position(Position { generation: there.generation, wal_position: point })
        });
        let restored = self.restore_to_nowhere(there.generation, &target, &mut pages)?;
        match pages.compare(&restored) {
            Difference::None => Ok(LiveComparison::Equal),
            // Without a WAL there is no telling what is stored but by what the database says of itself.
            Difference::Some { changed_since: true, .. } if there.position.is_none() => {
                Ok(LiveComparison::NotCompared("changed since the snapshot".to_string()))
            }
            Difference::Some { what, .. } => {
                let path = there.path.display();
                Err(Error::new(
                    Kind::Corrupt,
                    format!("position {}: the backup differs from database {path}: {what}", restored.position),
                )
                .with_hint(
                    "something wrote to the database file without SQLite, or it is damaged: check it, then run litestream snapshot",
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::flaky_store::{FlakyStore, RealClock};
    use crate::restore::plan::MAX_PLANS;

    #[test]
    fn deletions_by_retention_are_no_verify_failure() {
        let directory = std::env::temp_dir().join(format!("litestream-verify-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let store = FlakyStore::with_snapshot_of(&directory.join("a.db"), &directory.join("store"));
        for (gone, works) in [(MAX_PLANS - 1, true), (MAX_PLANS, false)] {
            store.failures_left.set(gone);
            let proven = verify(&store, &RealClock, &LiveMatch::NoFile, &|_| Box::new(|_| ()));
            assert_eq!(proven.map(|rows| rows.len()).ok(), works.then_some(1));
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

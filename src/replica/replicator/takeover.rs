//! Whether what is stored below the prefix is of this database: asked once, before a new generation takes its place.
//!
//! A generation that is continued needs no such question: its WAL, or its whole file, was recognised.

use crate::backup::origin::OriginSearch;
use crate::clock::Clock;
use crate::error::Result;
use crate::format::origin::DatabaseOrigin;
use crate::replica::replicator::settings::WakeOn;
use crate::replica::replicator::{Replicator, Stage};
use crate::source::GenerationEnd;

/// The headers of the newest snapshots on their way.
pub(super) struct Identifying {
    live: DatabaseOrigin,
    reason: GenerationEnd,
    search: OriginSearch,
}

impl Replicator {
    /// Begins to ask. The caller has let go of its source: no pin is held while the store answers.
    pub(super) fn begin_to_identify(&mut self, live: DatabaseOrigin, reason: GenerationEnd) {
        let search = OriginSearch::new(self.store.clone(), &self.store_summary.witnesses);
        self.stage = Stage::Identifying(Box::new(Identifying { live, reason, search }));
    }

    pub(super) fn go_on_identifying(&mut self, clock: &dyn Clock) -> Result<WakeOn> {
        let Stage::Identifying(identifying) = &mut self.stage else { return Ok(WakeOn::Immediately) };
        let Identifying { live, reason, search } = &mut **identifying;
        let Some(stored) = search.poll(clock.now())? else { return Ok(WakeOn::StoreEvent) };
        if let Some(stored) = stored {
            stored.check(self.store.url(), live)?;
        }
        self.identified = true;
        self.stage = Stage::Opening(Err(reason.clone()));
        Ok(WakeOn::Immediately)
    }
}

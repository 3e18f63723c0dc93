//! Whether what is stored below the prefix is of this database: asked once, before a new generation takes its place.
//!
//! A generation that is continued needs no such question: its WAL, or its whole file, was recognised.

use crate::backup::origin::OriginSearch;
use crate::clock::Clock;
use crate::error::Result;
use crate::format::origin::DatabaseOrigin;
use crate::replica::replicator::settings::WakeOn;
use crate::replica::replicator::side::{Side, SideStage};
use crate::source::GenerationEnd;

/// The headers of the newest snapshots on their way.
pub(in crate::replica::replicator) struct Identifying {
    live: DatabaseOrigin,
    reason: GenerationEnd,
    search: OriginSearch,
}

impl Side {
    /// Whether it must be asked first of which database that is what is stored. No pin is held for it while the store answers.
    pub(in crate::replica::replicator) fn must_identify(&self) -> bool {
        !self.identified
    }

    /// Begins to ask.
    pub(in crate::replica::replicator) fn begin_to_identify(&mut self, live: DatabaseOrigin, reason: GenerationEnd) {
        let search = OriginSearch::new(self.store.clone(), &self.store_summary.witnesses);
        self.stage = SideStage::Identifying(Box::new(Identifying { live, reason, search }));
    }

    pub(super) fn go_on_identifying(&mut self, clock: &dyn Clock) -> Result<WakeOn> {
        let SideStage::Identifying(identifying) = &mut self.stage else { return Ok(WakeOn::Immediately) };
        let Identifying { live, reason, search } = &mut **identifying;
        let Some(stored) = search.poll(clock.now())? else { return Ok(WakeOn::StoreEvent) };
        if let Some(stored) = stored {
            stored.check(self.store.url(), live)?;
        }
        self.identified = true;
        self.stage = SideStage::Ready(Err(reason.clone()));
        Ok(WakeOn::Immediately)
    }
}

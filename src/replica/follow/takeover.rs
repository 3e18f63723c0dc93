//! Whether what is stored below the prefix is of this database: asked once, before a new generation takes its place.
//!
//! A generation that is continued needs no such question: its WAL, or its whole file, was recognised.

use crate::clock::Clock;
use crate::error::Result;
use crate::format::origin::DatabaseOrigin;
use crate::replica::follow::settings::Next;
use crate::replica::follow::{Follower, Stage};
use crate::replica::origin::OriginSearch;
use crate::source::Reason;

/// The headers of the newest snapshots on their way.
pub(super) struct Identifying {
    live: DatabaseOrigin,
    reason: Reason,
    search: OriginSearch,
}

impl Follower {
    /// Begins to ask. The caller has let go of its source: no pin is held while the store answers.
    pub(super) fn begin_to_identify(&mut self, live: DatabaseOrigin, reason: Reason) {
        let search = OriginSearch::new(self.store.clone(), &self.known.witnesses);
        self.stage = Stage::Identifying(Box::new(Identifying { live, reason, search }));
    }

    pub(super) fn go_on_identifying(&mut self, clock: &dyn Clock) -> Result<Next> {
        let Stage::Identifying(identifying) = &mut self.stage else { return Ok(Next::Now) };
        let Identifying { live, reason, search } = &mut **identifying;
        let Some(stored) = search.poll(clock.now())? else { return Ok(Next::Store) };
        if let Some(stored) = stored {
            stored.check(self.store.url(), live)?;
        }
        self.identified = true;
        self.stage = Stage::Opening(Err(reason.clone()));
        Ok(Next::Now)
    }
}

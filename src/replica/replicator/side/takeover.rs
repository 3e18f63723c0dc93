//! Whether what is stored below the prefix is of this database, and whether this database may go on there: asked before a
//! new generation takes its place.
//!
//! A generation that is continued needs no such question: its WAL, or its whole file, was recognised. Where another database
//! was kept there before, that this one is the owner now is stored first.

use std::task::Poll;

use crate::backup::origin::{OriginSearch, StoredOrigin};
use crate::backup::owner::{OwnerRead, check, location_of, noted};
use crate::clock::Clock;
use crate::error::{Kind, Result};
use crate::format::origin::DatabaseOrigin;
use crate::format::owner::{OwnerRecord, location};
use crate::replica::claim::Claim;
use crate::replica::replicator::settings::WakeOn;
use crate::replica::replicator::side::{Side, SideStage};
use crate::source::GenerationEnd;

/// The record of the owner, and the headers of the newest snapshots, on their way.
pub(in crate::replica::replicator) struct Identifying {
    live: DatabaseOrigin,
    reason: GenerationEnd,
    record: Option<OwnerRead>,
    owner: Option<OwnerRecord>,
    search: OriginSearch,
}

/// Whether the prefix is this database's to write to.
#[derive(Default)]
pub(super) struct Ownership {
    /// What is stored is of this database, or may be replaced though it is not.
    pub(super) identified: bool,
    /// Nothing is written before this is done.
    claim: Option<Box<Claim>>,
}

impl Side {
    /// Whether it must be asked first of which database that is what is stored. No pin is held for it while the store answers.
    pub(in crate::replica::replicator) fn must_identify(&self) -> bool {
        !self.ownership.identified
    }

    /// Begins to ask.
    pub(in crate::replica::replicator) fn start_identifying(&mut self, live: DatabaseOrigin, reason: GenerationEnd) {
        let record = self.store_summary.owner.map(|number| OwnerRead::new(&*self.replica.store, number));
        let search = OriginSearch::new(self.replica.store.clone(), &self.store_summary.witnesses);
        self.stage = SideStage::Identifying(Box::new(Identifying { live, reason, record, owner: None, search }));
    }

    pub(super) fn continue_identifying(&mut self, clock: &dyn Clock) -> Result<WakeOn> {
        let meta = self.replica.directory();
        let SideStage::Identifying(identifying) = &mut self.stage else { return Ok(WakeOn::Immediately) };
        let Identifying { live, reason, record, owner, search } = &mut **identifying;
        let here = location(live);
        if let Some(read) = record {
            let Poll::Ready(found) = read.poll(clock.now())? else { return Ok(WakeOn::StoreEvent) };
            (*record, *owner) = (None, found);
            if let Some(owner) = owner.as_ref().filter(|_| !self.replica.settings.takeover) {
                check(self.replica.store.url(), owner, &here, noted(&meta).as_deref())?;
            }
        }
        // One that was replaced is let in by now, or refused.
        let known = noted(&meta);
        let was_owner =
            |owner: &OwnerRecord| owner.is(&here, known.as_deref()) || owner.has_replaced(&here, known.as_deref());
        let is_ours = owner.as_ref().is_some_and(was_owner);
        let stored = match search.poll(clock.now()) {
            Ok(Poll::Pending) => return Ok(WakeOn::StoreEvent),
            Ok(Poll::Ready(stored)) => stored,
            Err(error) if error.kind() == Kind::AnotherDatabase && self.replica.settings.allow_other_database => None,
            Err(error) => return Err(error),
        };
        if let Some(stored) = stored.as_ref().filter(|_| !is_ours && !self.replica.settings.allow_other_database) {
            stored.check(self.replica.store.url(), live)?;
        }
        let of_snapshot = |stored: StoredOrigin| OwnerRecord::of_snapshot(location(stored.origin()));
        let owner = owner.take().or(stored.map(of_snapshot)).filter(|owner| owner.location != here);
        self.ownership.claim = owner.map(|owner| Box::new(Claim::after(self.replica.store.clone(), owner, here, meta)));
        self.ownership.identified = true;
        self.stage = SideStage::Ready(Err(reason.clone()));
        Ok(WakeOn::Immediately)
    }

    /// It goes on with what is stored. `own_note`: it was there before, as its WAL or a note beside the database shows; then
    /// only a record says that another one has taken its place since. What was restored from there has neither.
    pub(in crate::replica::replicator) fn claim(&mut self, own_note: bool) {
        let number = self.store_summary.owner;
        if self.ownership.identified || (own_note && number.is_none()) {
            return;
        }
        let (here, witnesses) = (location_of(&self.replica.settings.path), self.store_summary.witnesses);
        let meta = self.replica.directory();
        let claim = Claim::of_continued(self.replica.store.clone(), number, witnesses, here, meta);
        self.ownership.claim =
            Some(Box::new(if own_note && !self.replica.settings.takeover { claim.unless_replaced() } else { claim }));
    }

    /// Until the prefix is ours, nothing else is written.
    ///
    /// Errors: of kind `TakenOver`, if another database has taken the place of this one.
    pub(super) fn poll_claim(&mut self, clock: &dyn Clock) -> Result<()> {
        let Some(claim) = self.ownership.claim.as_mut().filter(|_| self.access.exclusive) else { return Ok(()) };
        match claim.poll(clock.now()) {
            Ok(Poll::Ready(())) => self.ownership.claim = None,
            Ok(Poll::Pending) => self.access.exclusive = false,
            Err(error) if error.kind() == Kind::TakenOver => return Err(error),
            Err(error) => {
                self.access.exclusive = false;
                self.report(&error, clock);
            }
        }
        Ok(())
    }
}

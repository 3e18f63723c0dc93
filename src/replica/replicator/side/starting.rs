//! The first look at a store: what it has, and what a process before this one has left for it in the spool.

use std::task::Poll;
use std::time::Instant;

use crate::backup::origin::{Witnesses, would_be_clear};
use crate::backup::stored_end::StoredEnd;
use crate::clock::Clock;
use crate::control::RequestInbox;
use crate::directory::Directory;
use crate::error::{Error, Kind, Result};
use crate::format::time::Timestamp;
use crate::log;
use crate::replica::replicator::settings::WakeOn;
use crate::replica::replicator::side::incremental::StoredChanges;
use crate::replica::replicator::side::{Side, SideStage};
use crate::source::GenerationEnd;

impl Side {
    /// Makes progress with the store before anything is written to it, and sees that it stays ours.
    pub(in crate::replica::replicator) fn poll_store(&mut self, clock: &dyn Clock) -> Result<WakeOn> {
        if self.is_given_up(clock.now()) || self.is_paused(clock.now()) {
            return Ok(WakeOn::NextTick);
        }
        self.poll_requests(clock);
        self.check_exclusive(clock)?;
        self.poll_claim(clock)?;
        match &self.stage {
            SideStage::Starting(_) => self.poll_start(clock),
            SideStage::Identifying(_) => self.continue_identifying(clock),
            SideStage::Ready(_) | SideStage::Writing(_) => Ok(WakeOn::NextTick),
        }
    }

    fn poll_start(&mut self, clock: &dyn Clock) -> Result<WakeOn> {
        let now = clock.now();
        let SideStage::Starting(start) = &mut self.stage else { return Ok(WakeOn::Immediately) };
        if !self.access.exclusive {
            return Ok(WakeOn::StoreEvent);
        }
        let Poll::Ready(mut found) = start.poll(now)? else { return Ok(WakeOn::StoreEvent) };
        if found.known.recipients > 0 && self.replica.store.recipients() == 0 {
            if !self.replica.settings.allow_unencrypted {
                self.stage = SideStage::starting(&self.replica.store);
                return Err(would_be_clear(self.replica.store.url()));
            }
            found.end = Err(GenerationEnd::NoLongerEncrypted);
        }
        if self.access.writer.predecessor_may_write() && found.end.is_ok() {
            found.end = Err(GenerationEnd::PredecessorMayWrite);
        }
        if !self.access.reached {
            self.access.writer.add_generations(start.generations().iter().copied());
        }
        self.access.reached = true;
        self.store_summary = found.known;
        self.compare_recipients();
        self.ownership.identified |= self.store_summary.witnesses == Witnesses::default();
        self.retention.started(self.store_summary.newest.moment, clock);
        self.stage = SideStage::Ready(found.end);
        Ok(WakeOn::Immediately)
    }

    /// The lock of the database is ours, and so is what lies beside it.
    pub(in crate::replica::replicator) fn on_locked(&mut self) {
        if self.requests.inbox.is_none() {
            let directory = self.replica.directory();
            if self.replica.target.directory.is_some() {
                let owner = std::fs::metadata(&self.replica.settings.path).ok();
                if let Err(error) = Directory::open_or_create(&directory, owner.as_ref()) {
                    let what = format!("open metadata directory {}", directory.display());
                    let error = Error::io(Kind::Database, what, &error);
                    self.replica.name.tag(log::warn("no snapshot can be asked for")).error(&error).emit();
                }
            }
            self.requests.inbox = Some(RequestInbox::new(&directory));
        }
    }

    /// Whether it waits for a database to be read, after its end or from anywhere. What was let go for want of room waits
    /// until there is room again.
    pub(in crate::replica::replicator) fn wants_database(&self, now: Instant) -> bool {
        matches!(self.stage, SideStage::Ready(_)) && !self.is_paused(now) && !self.uploads.is_full()
    }

    /// Takes up the spool, once. The lock must be ours.
    pub(in crate::replica::replicator) fn adopt_spool(&mut self, clock: &dyn Clock) -> Result<()> {
        let SideStage::Ready(end) = &mut self.stage else { return Ok(()) };
        if !self.generations.begun && !std::mem::replace(&mut self.generations.spool_adopted, true) {
            self.uploads.adopt_spool(end.as_mut().ok(), clock.now())?;
        }
        Ok(())
    }

    /// Whether it will soon know where it can go on, as far as is known: its store is being asked, and nothing is in the way.
    pub(in crate::replica::replicator) fn is_on_its_way(&self) -> bool {
        let asks = matches!(self.stage, SideStage::Starting(_) | SideStage::Identifying(_));
        asks && self.health.failure.is_none() && self.health.problems.text().is_none()
    }

    /// Where it can go on, if it waits for that.
    pub(in crate::replica::replicator) fn resumable_end(&self) -> Option<StoredEnd> {
        match &self.stage {
            SideStage::Ready(Ok(end)) => Some(*end),
            _ => None,
        }
    }

    /// What waits to go on after an end cannot.
    pub(in crate::replica::replicator) fn refuse_end(&mut self, reason: GenerationEnd) {
        if let SideStage::Ready(end) = &mut self.stage {
            self.generations.changes = StoredChanges::NotAsked;
            self.generations.missed_end = end.as_ref().ok().copied().filter(|_| reason.is_only_missed());
            *end = Err(reason);
        }
    }

    /// No object may have an earlier time in its name.
    pub(super) fn newest_time(&self) -> Timestamp {
        let copied = self.writing().map(|writing| writing.builder.end().time).unwrap_or_default();
        self.store_summary.newest.moment.max(copied)
    }
}

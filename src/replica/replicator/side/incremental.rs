//! A generation that goes on by what differs from its end: commits between the two are not known.

use std::task::Poll;
use std::time::Instant;

use crate::backup::changes_search::ChangesSearch;
use crate::backup::page_sums_file;
use crate::backup::stored_end::StoredEnd;
use crate::clock::Clock;
use crate::error::Result;
use crate::format::chain::ChainBytes;
use crate::format::chain_end::ChainEnd;
use crate::format::page_sums::SummedState;
use crate::format::position::{Offset, Position, WalPosition};
use crate::format::rollup;
use crate::format::wal::Salt;
use crate::log;
use crate::replica::replicator::incremental::{ChangesSince, IncrementalAt};
use crate::replica::replicator::side::Side;
use crate::replica::segment_builder::Segment;
use crate::source::{GenerationEnd, WalMark};

/// Which pages the store has changed since the page checksums were kept.
#[derive(Default)]
pub(super) enum StoredChanges {
    #[default]
    NotAsked,
    Searching(SummedState, Box<ChangesSearch>),
    Known(Option<ChangesSince>),
}

impl Side {
    /// The end after which only commits are missing. None before what is stored is known to be of this database, and
    /// where a full snapshot is asked for.
    pub(in crate::replica::replicator) fn missed_end(&self) -> Option<StoredEnd> {
        self.generations.missed_end.filter(|_| self.ownership.identified && !self.requests.force_snapshot)
    }

    pub(in crate::replica::replicator) fn forget_missed_end(&mut self) {
        (self.generations.missed_end, self.generations.changes) = (None, StoredChanges::NotAsked);
    }

    /// Finds out which pages the store has changed since the commit whose page checksums an earlier run has kept, if that is
    /// not the end itself. Ready: it is known, or it cannot be.
    ///
    /// Errors: the store's; it may be polled again.
    pub(in crate::replica::replicator) fn poll_changes(&mut self, now: Instant) -> Result<Poll<()>> {
        let Some(end) = self.missed_end() else { return Ok(Poll::Ready(())) };
        if let StoredChanges::NotAsked = self.generations.changes {
            self.generations.changes = self.begin_search(end);
        }
        let StoredChanges::Searching(state, search) = &mut self.generations.changes else { return Ok(Poll::Ready(())) };
        let state = *state;
        let polled = search.poll(now).inspect_err(|_| self.generations.changes = StoredChanges::NotAsked);
        let Poll::Ready(changed) = polled? else { return Ok(Poll::Pending) };
        self.generations.changes = StoredChanges::Known(changed.map(|changed| ChangesSince { state, changed }));
        Ok(Poll::Ready(()))
    }

    fn begin_search(&self, end: StoredEnd) -> StoredChanges {
        let store = &self.replica.store;
        let blind = self.store_summary.recipients > 0 && !store.can_decrypt();
        let kept = page_sums_file::read_state(&self.replica.settings.meta()).filter(|_| !blind);
        let from = kept.filter(|kept| kept.state.page_size == end.chain_end.page_size).and_then(|kept| {
            let before =
                |at: &&Position| at.generation == end.chain_end.generation && at.wal_position < end.wal_position();
            kept.positions.iter().find(before).map(|position| (kept.state, *position))
        });
        match from {
            Some((state, from)) if end.database.is_some_and(|known| known != state.fingerprint()) => {
                let search = ChangesSearch::new(store.clone(), from, state.fingerprint(), end);
                StoredChanges::Searching(state, Box::new(search))
            }
            _ => StoredChanges::Known(None),
        }
    }

    /// What was found.
    pub(in crate::replica::replicator) fn changes_since(&self) -> Option<&ChangesSince> {
        match &self.generations.changes {
            StoredChanges::Known(changes) => changes.as_ref(),
            _ => None,
        }
    }

    /// What a restore of what is stored reads.
    pub(in crate::replica::replicator) fn chain_bytes(&self) -> ChainBytes {
        self.store_summary.chain
    }

    /// Goes on after `end` with `found`, which leads to where the reader is.
    pub(in crate::replica::replicator) fn continue_by_difference(
        &mut self,
        end: &StoredEnd,
        found: &IncrementalAt,
        reason: &GenerationEnd,
        clock: &dyn Clock,
    ) {
        let IncrementalAt { mark, incremental } = found;
        let Some(next) = chain_end_after(end, mark) else { return self.forget_missed_end() };
        // The clock is read after the commit, and never runs backwards in names.
        let time = clock.utc_now().max(end.time).max(self.store_summary.newest.moment);
        let header = incremental.header(end.wal_position(), &next, time);
        let segment = Segment {
            key: rollup::key_of(&header),
            bytes: incremental.object(&header),
            oldest: time,
            end: StoredEnd::after_member(&header, 0),
        };
        self.replica
            .name
            .tag(log::info("incremental snapshot"))
            .field("position", segment.end.position())
            .field("reason", reason)
            .field("pages", incremental.changed)
            .field("stored", segment.bytes.len())
            .emit();
        self.acknowledged.continue_from(end.position());
        let next = segment.end;
        self.uploads.push(segment, clock.now());
        self.write_behind(next, end.position(), false, clock);
    }
}

/// The end of the chain that leads to the reader, at `mark` in the next WAL of a generation that ends at `end`. A WAL of
/// which nothing is known yet, not even its header, is recognised by the database alone.
fn chain_end_after(end: &StoredEnd, mark: &WalMark) -> Option<ChainEnd> {
    let index = end.wal_position().index.checked_add(1)?;
    let (salt, checksum) = mark.checksum.map_or((Salt::default(), None), |checksum| (mark.salt, Some(checksum)));
    let offset = if mark.frame == 0 { Offset::ZERO } else { mark.offset() };
    let (generation, end) = (end.chain_end.generation, WalPosition { index, offset });
    Some(ChainEnd { generation, end, page_size: mark.page_size, order: mark.order, salt, checksum, crc: None })
}

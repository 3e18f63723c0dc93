//! A generation that goes on by what differs from its end: commits between the two are not known.

use crate::backup::stored_end::StoredEnd;
use crate::clock::Clock;
use crate::format::chain::ChainBytes;
use crate::format::chain_end::ChainEnd;
use crate::format::position::{Offset, WalPosition};
use crate::format::rollup;
use crate::format::wal::Salt;
use crate::log;
use crate::replica::replicator::incremental::IncrementalAt;
use crate::replica::replicator::side::Side;
use crate::replica::segment_builder::Segment;
use crate::source::{GenerationEnd, WalMark};

impl Side {
    /// The end after which only commits are missing. None before what is stored is known to be of this database, and
    /// where a full snapshot is asked for.
    pub(in crate::replica::replicator) fn missed_end(&self) -> Option<StoredEnd> {
        self.generations.missed_end.filter(|_| self.ownership.identified && !self.requests.force_snapshot)
    }

    pub(in crate::replica::replicator) fn forget_missed_end(&mut self) {
        self.generations.missed_end = None;
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

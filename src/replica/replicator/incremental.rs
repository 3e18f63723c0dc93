//! A start whose WAL does not tell what happened since the newest stored commit: what differs from that is stored, and the
//! generation goes on.
//!
//! What must hold:
//!
//! * The checksums of the stored pages sum up to the database checksum that the store has: at its end, or at an earlier commit,
//!   after which the stored segments tell which pages they do not hold for ([`crate::backup::changes_search`]).
//! * All pages are read at the commit where the reader begins: a snapshot there, under the first pin, which does not move
//!   before the last page is read. So whatever is committed later stands in the WAL after that place.
//! * It goes into the queue before anything that follows it: a process that is killed leaves the old end, or the new one.
//! * What is stored is of this database, as far as a new generation is asked for that; and of the same file.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::backup::page_sums_file;
use crate::backup::stored_end::StoredEnd;
use crate::error::Result;
use crate::fault;
use crate::format::chain::ChainBytes;
use crate::format::changed_pages::ChangedPages;
use crate::format::incremental::{Incremental, IncrementalEncoder, StoredPages, WhyFull};
use crate::format::page_sums::SummedState;
use crate::source::snapshot::Snapshot;
use crate::source::{Source, WalMark};

/// How long the first pin stays, no matter who waits for it.
const MAX_PIN_TIME: Duration = Duration::from_secs(1);

/// What differs at one place of the reader.
pub(super) struct IncrementalAt {
    pub(super) mark: WalMark,
    pub(super) incremental: Incremental,
}

impl IncrementalAt {
    /// Whether it leads on from this end, where the reader is.
    pub(super) fn leads_on_from(&self, end: &StoredEnd, source: &Source) -> bool {
        source.start() == self.mark
            && end.database == Some(self.incremental.from)
            && end.chain_end.page_size == self.mark.page_size
    }
}

/// The pages that the store has changed since the commit whose page checksums were kept.
pub(super) struct ChangesSince {
    pub(super) state: SummedState,
    pub(super) changed: ChangedPages,
}

/// What is known of the pages at the end of what is stored; none for a file of another number.
fn stored_pages(end: &StoredEnd, changes: Option<&ChangesSince>, meta: &Path, inode: u64) -> Option<StoredPages> {
    let state = end.database?;
    let (kept, sums) = page_sums_file::read(meta)?;
    if kept.state.inode != inode || kept.state.page_size != end.chain_end.page_size {
        return None;
    }
    if kept.state.fingerprint() == state {
        return Some(StoredPages::all(sums));
    }
    let changes = changes.filter(|changes| changes.state == kept.state)?;
    Some(StoredPages { state, sums, changed: changes.changed.clone() })
}

/// A database that is read to find what differs.
pub(super) struct IncrementalRead {
    // Dropped before the source, whose connections must be the last ones.
    snapshot: Snapshot,
    source: Source,
    encoder: IncrementalEncoder,
    chain: ChainBytes,
    begun: Instant,
}

/// Why it is begun, or not.
pub(super) enum IncrementalStart {
    Reading(Box<IncrementalRead>),
    /// It cannot be.
    No(Box<Source>),
    /// Something was committed at that moment.
    Again,
}

/// How far it has come.
pub(super) enum IncrementalProgress {
    More,
    Full(WhyFull),
    Done,
}

impl IncrementalRead {
    /// Begins at the place of `source`, if the pages that are stored at `end` are known.
    pub(super) fn begin(
        mut source: Source,
        end: &StoredEnd,
        (chain, changes): (ChainBytes, Option<&ChangesSince>),
        meta: &Path,
        now: Instant,
    ) -> Result<IncrementalStart> {
        fault::point("incremental.begin")?;
        let page_size = end.chain_end.page_size;
        let place = source.start();
        // After a frame without checksum a rollup cannot say where it ends.
        let known_place = place.frame == 0 || place.checksum.is_some();
        if place.page_size != page_size || !known_place {
            return Ok(IncrementalStart::No(Box::new(source)));
        }
        let Some(stored) = stored_pages(end, changes, meta, source.stamp()?.inode()) else {
            return Ok(IncrementalStart::No(Box::new(source)));
        };
        let Some(snapshot) = source.snapshot(meta)? else { return Ok(IncrementalStart::Again) };
        if !source.begin_at(&snapshot.mark())? {
            return Ok(IncrementalStart::Again);
        }
        let encoder = IncrementalEncoder::new(stored, snapshot.pages());
        Ok(IncrementalStart::Reading(Box::new(IncrementalRead { snapshot, source, encoder, chain, begun: now })))
    }

    /// Reads the next pages.
    pub(super) fn step(&mut self, buffer: &mut [u8]) -> Result<IncrementalProgress> {
        fault::point("incremental.read")?;
        let count = self.snapshot.read(buffer)?;
        let size = self.source.page_size().get() as usize;
        for page in buffer.get(..count).unwrap_or_default().chunks_exact(size) {
            self.encoder.page(page);
        }
        Ok(match self.encoder.why_full(&self.chain) {
            Some(why) => IncrementalProgress::Full(why),
            None if count == 0 => IncrementalProgress::Done,
            None => IncrementalProgress::More,
        })
    }

    /// Whether an application's checkpoint has waited for it long enough.
    pub(super) fn must_give_way(&mut self, now: Instant) -> bool {
        now.saturating_duration_since(self.begun) >= MAX_PIN_TIME && self.source.has_waiting_checkpoint()
    }

    /// The database, as it was opened.
    pub(super) fn give_up(self) -> Source {
        drop(self.snapshot);
        self.source
    }

    /// After the last page: the source goes on there, and knows the database checksum.
    pub(super) fn finish(self) -> (Source, IncrementalAt) {
        let IncrementalRead { snapshot, mut source, encoder, .. } = self;
        let incremental = encoder.finish();
        source.trust_snapshot(snapshot.handle(), incremental.checksum);
        (source, IncrementalAt { mark: snapshot.mark(), incremental })
    }
}

//! Incremental snapshots: the pages of a database that are not what is stored, as one rollup of whole pages.
//!
//! What changed is found by the checksums of the pages at the stored commit; what was there before is not needed. The rollup
//! leads from that commit to the one that was read, and knows none in between. Applying it ends with the database
//! checksum of all pages that were read, or refuses it.

use crate::format::chain::ChainBytes;
use crate::format::chain_end::ChainEnd;
use crate::format::changed_pages::ChangedPages;
use crate::format::database_checksum::{DatabaseChecksum, DatabaseFingerprint};
use crate::format::page_delta::PageDelta;
use crate::format::page_sums::PageSums;
use crate::format::position::{Offset, PageSize, WalPosition};
use crate::format::rollup::{self, RollupEncoder};
use crate::format::segment_header::{Differences, MemberHeader, Rollup};
use crate::format::time::Timestamp;
use crate::format::wal::Checksum;

/// gzip's level. The pin of the database is kept meanwhile.
const LEVEL: u32 = 3;
/// In bytes, compressed: it waits in memory for the store.
pub const MAX_BYTES: usize = 32 << 20;

/// Why a full snapshot is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhyFull {
    /// It would hardly be larger; and it may be another database.
    MostPagesDiffer,
    TooLarge,
    /// A restore would read more than twice what a snapshot has.
    LongChain,
}

impl WhyFull {
    /// As the log says it.
    pub fn text(self) -> &'static str {
        match self {
            WhyFull::MostPagesDiffer => "most pages differ",
            WhyFull::TooLarge => "too large to wait in memory",
            WhyFull::LongChain => "a restore would read more than twice a snapshot",
        }
    }
}

/// What is known of the pages of a stored state.
pub struct StoredPages {
    pub state: DatabaseFingerprint,
    /// The checksums of its pages, or of those of an earlier state
    pub sums: PageSums,
    /// and which pages may have changed since that one.
    pub changed: ChangedPages,
}

impl StoredPages {
    /// All of them.
    pub fn all(sums: PageSums) -> StoredPages {
        let state = DatabaseFingerprint { pages: sums.pages(), checksum: sums.checksum() };
        StoredPages { state, changed: ChangedPages::none(sums.pages()), sums }
    }
}

/// Finds the pages that changed. All pages are given in order.
pub struct IncrementalEncoder {
    stored: StoredPages,
    found: PageSums,
    encoder: RollupEncoder,
    body: Vec<u8>,
    changed: u32,
    /// How many there will be.
    pages: u32,
}

/// What differs, and where it leads.
pub struct Incremental {
    /// The stored state that it leads on from.
    pub from: DatabaseFingerprint,
    pub page_size: PageSize,
    pub pages: u32,
    pub checksum: DatabaseChecksum,
    /// How many pages it has.
    pub changed: u32,
    body: Vec<u8>,
}

impl IncrementalEncoder {
    /// Of a database of so many pages.
    pub fn new(stored: StoredPages, pages: u32) -> IncrementalEncoder {
        let (found, encoder) = (PageSums::new(stored.sums.page_size()), RollupEncoder::without_header(LEVEL));
        IncrementalEncoder { stored, found, encoder, body: Vec::new(), changed: 0, pages }
    }

    /// Adds the next page.
    pub fn page(&mut self, page: &[u8]) {
        let differs = self.found.push(page, &self.stored.sums);
        if differs || self.stored.changed.contains(self.found.pages()) {
            self.changed += 1;
            self.encoder.page(self.found.pages(), &PageDelta::whole(page), &mut self.body);
        }
    }

    /// Why it is not to be gone on with, as far as it has come.
    pub fn why_full(&self, chain: &ChainBytes) -> Option<WhyFull> {
        if u64::from(self.changed) * 2 > u64::from(self.pages) {
            return Some(WhyFull::MostPagesDiffer);
        }
        if self.body.len() > MAX_BYTES {
            return Some(WhyFull::TooLarge);
        }
        chain.is_long_with(self.body.len() as u64).then_some(WhyFull::LongChain)
    }

    /// After the last page.
    pub fn finish(mut self) -> Incremental {
        self.encoder.finish(&mut self.body);
        Incremental {
            from: self.stored.state,
            page_size: self.found.page_size(),
            pages: self.found.pages(),
            checksum: self.found.checksum(),
            changed: self.changed,
            body: self.body,
        }
    }
}

impl Incremental {
    /// The header that leads on from `start` to `next`, where the database was read.
    pub fn header(&self, start: WalPosition, next: &ChainEnd, time: Timestamp) -> MemberHeader {
        let ChainEnd { generation, end, order, salt, checksum, .. } = *next;
        MemberHeader {
            generation,
            start,
            index: end.index,
            payload_offset: Offset::ZERO,
            end: end.offset,
            page_size: self.page_size,
            order,
            part: false,
            unchecksummed: false,
            salt,
            checksum_before: Checksum::default(),
            checksum_after: checksum.unwrap_or_default(),
            pages: self.pages,
            visible_after: Timestamp::default(),
            visible_by: time,
            previous_crc: 0,
            differences: Some(Differences { checksum: self.checksum, checkpoint: 0, tells_wal: true }),
            // What was there at both ends, and is not in here, has not changed.
            rollup: Some(Rollup { least: self.pages.min(self.from.pages) }),
        }
    }

    /// The whole object under this header.
    pub fn object(&self, header: &MemberHeader) -> Vec<u8> {
        let mut object = rollup::header_bytes(header);
        object.extend_from_slice(&self.body);
        object
    }
}

#[cfg(test)]
mod tests;

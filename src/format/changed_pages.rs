//! Which pages segments change after a place, and proof that the place is the state that it is thought to be.
//!
//! The checksums of pages at an earlier commit still hold at a later one for the pages that no segment between the two changes.
//! For the others nothing is known; what is proven of the earlier commit is its database checksum, which the member that ends
//! there tells, or a snapshot.

use std::collections::HashSet;

use crate::error::Result;
use crate::format::database_checksum::DatabaseFingerprint;
use crate::format::frames::MemberFrames;
use crate::format::key::SegmentKey;
use crate::format::payload_deltas::PayloadDeltas;
use crate::format::position::WalPosition;
use crate::format::segment::{MemberHeader, SegmentReader};

/// The pages that changed since a state whose page checksums are known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChangedPages {
    numbers: HashSet<u32>,
    /// The smallest size of the database since then: pages beyond it may be others.
    least: u32,
}

impl ChangedPages {
    /// None, of a database with so many pages.
    pub fn none(pages: u32) -> ChangedPages {
        ChangedPages { numbers: HashSet::new(), least: pages }
    }

    /// Whether a page may be another one than it was.
    pub fn contains(&self, number: u32) -> bool {
        number > self.least || self.numbers.contains(&number)
    }
}

/// Collects the changed pages along segments, from the place of a state on.
pub struct ChangeCollector {
    from: WalPosition,
    state: DatabaseFingerprint,
    /// Something stored has told that this is the state there.
    proven: bool,
    reached: WalPosition,
    last: Option<DatabaseFingerprint>,
    changed: ChangedPages,
}

impl ChangeCollector {
    pub fn new(from: WalPosition, state: DatabaseFingerprint) -> ChangeCollector {
        let changed = ChangedPages::none(state.pages);
        ChangeCollector { from, state, proven: false, reached: from, last: None, changed }
    }

    /// A snapshot at the place tells the state.
    pub fn told(&mut self, state: DatabaseFingerprint) {
        self.proven |= state == self.state;
    }

    /// Adds the next segment: the one that ends at the place, one that contains it, or one that begins where the last one ended.
    /// False: it does not join, or there is another state at the place.
    ///
    /// Errors: of kind `Corrupt`, if it is damaged.
    pub fn add(&mut self, key: &SegmentKey, bytes: &[u8]) -> Result<bool> {
        let mut reader = SegmentReader::named(key, bytes);
        while let Some(header) = reader.next_member()? {
            if !self.member(&header, &mut reader)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn member(&mut self, header: &MemberHeader, reader: &mut SegmentReader<&[u8]>) -> Result<bool> {
        let end = header.end_point();
        if end <= self.reached {
            self.proven |= end == self.from && header.fingerprint() == Some(self.state);
            return Ok(true);
        }
        if header.start != self.reached || !self.proven {
            return Ok(false);
        }
        match header.differences.is_some() {
            true => self.differences(header, reader)?,
            false => self.frames(header, reader)?,
        }
        (self.reached, self.last) = (end, header.fingerprint());
        Ok(true)
    }

    fn differences(&mut self, header: &MemberHeader, reader: &mut SegmentReader<&[u8]>) -> Result<()> {
        let mut deltas = PayloadDeltas::new(reader, header);
        while let Some(step) = deltas.next_delta()? {
            self.change(step.page, step.commit);
        }
        if let Some(rollup) = header.rollup {
            self.change_size(rollup.least.min(header.pages));
        }
        Ok(())
    }

    fn frames(&mut self, header: &MemberHeader, reader: &mut SegmentReader<&[u8]>) -> Result<()> {
        let (mut frames, mut frame) = (MemberFrames::new(reader, header)?, Vec::new());
        while let Some(found) = frames.next_frame(&mut frame)? {
            self.change(found.page, found.commit);
        }
        Ok(())
    }

    fn change(&mut self, page: u32, commit: u32) {
        self.changed.numbers.insert(page);
        if commit != 0 {
            self.change_size(commit);
        }
    }

    fn change_size(&mut self, pages: u32) {
        self.changed.least = self.changed.least.min(pages);
    }

    /// What has changed, if the segments led to this state there.
    pub fn finish(self, end: WalPosition, state: DatabaseFingerprint) -> Option<ChangedPages> {
        (self.proven && self.reached == end && self.last == Some(state)).then_some(self.changed)
    }
}

#[cfg(test)]
mod tests;

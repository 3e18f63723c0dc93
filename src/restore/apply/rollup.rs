//! Rollups: the database is cut to its smallest size on the way, changed page by page, and proven by its checksum.

use std::io::Read;

use crate::error::{Error, Kind, Result};
use crate::format::page_delta::PageDelta;
use crate::format::payload_deltas::PayloadDeltas;
use crate::format::position::WalPosition;
use crate::format::segment::{Differences, MemberHeader, Rollup, SegmentReader};
use crate::restore::apply::{Restore, page_offset, proven};
use crate::restore::page_output::PageOutput;

impl<O: PageOutput> Restore<'_, O> {
    /// Applies a rollup: all of it, since it knows no state in between.
    pub(super) fn rollup<R: Read>(
        &mut self,
        reader: &mut SegmentReader<R>,
        header: &MemberHeader,
        (rollup, told): (&Rollup, &Differences),
        stop: WalPosition,
    ) -> Result<()> {
        let end = header.end_point();
        if header.start != self.state.applied_to || !self.state.at_commit {
            let (expected, found) = (self.state.applied_to, header.start);
            return Err(Error::new(
                Kind::Corrupt,
                format!("expected a rollup from {expected} on, found one from {found}"),
            ));
        }
        if end > stop {
            return Err(Error::new(Kind::Corrupt, format!("expected a rollup up to {stop}, found one up to {end}")));
        }
        self.end_transaction(rollup.least)?;
        let mut deltas = PayloadDeltas::new(reader, header);
        let size = header.page_size.get() as usize;
        let (mut old, mut new) = (vec![0; size], vec![0; size]);
        while let Some(step) = deltas.next_delta()? {
            self.change(step.page, &step.delta, &mut old, &mut new)?;
        }
        self.end_transaction(header.pages)?;
        proven(told, &self.state.running)?;
        self.state.proven = true;
        (self.state.applied_to, self.state.time, self.state.at_commit) = (end, header.visible_by, true);
        Ok(())
    }

    fn change(&mut self, number: u32, delta: &PageDelta, old: &mut [u8], new: &mut [u8]) -> Result<()> {
        if number > self.state.running.extent() {
            old.fill(0);
        } else if !delta.is_whole() {
            self.output.read_at(page_offset(number, self.state.page_size), old)?;
        }
        delta.apply(old, new)?;
        self.apply_page(number, new)
    }
}

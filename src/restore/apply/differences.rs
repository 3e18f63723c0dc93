//! Members whose frames are differences of pages: made whole from the pages of the output.

use std::collections::HashMap;
use std::io::Read;

use crate::error::{Error, Kind, Result};
use crate::format::difference_frames::{BasePages, DifferenceFrames};
use crate::format::position::{Offset, PageSize, WalPosition};
use crate::format::running_checksum::RunningChecksum;
use crate::format::segment::{Differences, MemberHeader, SegmentReader};
use crate::format::wal::{FRAME_HEADER, FrameHeader};
use crate::restore::apply::{Restore, proven};
use crate::restore::page_output::{PageOutput, expect_growth};

/// Bytes of pages after the point to stop at that are kept to prove the member, at most. A writer's members have less.
const MAX_PAST_STOP_BYTES: usize = 16 << 20;

/// Where the pages are while a member is read.
struct Pages<'a, O> {
    output: &'a mut O,
    page_size: PageSize,
    running: RunningChecksum,
    /// Of the frames after the point to stop at, which the output does not get; none before it.
    behind: Option<PagesPastStop>,
}

#[derive(Default)]
struct PagesPastStop {
    pages: HashMap<u32, Vec<u8>>,
    /// The database was so short, or shorter: what is beyond holds zeros, unless it is among the pages.
    shortest: Option<u32>,
}

impl<O: PageOutput> BasePages for Pages<'_, O> {
    fn base(&mut self, number: u32, page: &mut [u8]) -> Result<()> {
        if let Some(behind) = &self.behind {
            if let Some(found) = behind.pages.get(&number) {
                page.copy_from_slice(found);
                return Ok(());
            }
            if behind.shortest.is_some_and(|shortest| number > shortest) {
                page.fill(0);
                return Ok(());
            }
        }
        if number > self.running.extent() {
            page.fill(0);
            return Ok(());
        }
        self.output.read_at(u64::from(number.saturating_sub(1)) * u64::from(self.page_size.get()), page)
    }
}

impl<O: PageOutput> Restore<'_, O> {
    /// Applies a member of format 2 up to `stop`, and proves all of it.
    pub(super) fn differences<R: Read>(
        &mut self,
        reader: &mut SegmentReader<R>,
        header: &MemberHeader,
        told: &Differences,
        stop: WalPosition,
    ) -> Result<()> {
        if header.start < self.state.snapshot {
            let (snapshot, found) = (self.state.snapshot, header.start);
            let what = format!("expected differences from {snapshot} on, the point of the snapshot, found {found}");
            return Err(Error::new(Kind::Corrupt, what));
        }
        let begun = header.payload_offset == Offset::ZERO;
        let before = if begun { Some(header.checksum_before) } else { self.state.chain_end.checksum };
        let unknown = || Error::new(Kind::Corrupt, "expected differences after a known frame checksum, found none");
        let mut frames = DifferenceFrames::new(reader, header, before.ok_or_else(unknown)?);
        let mut frame = Vec::new();
        let mut number = header.payload_offset.frame(header.page_size).unwrap_or(0);
        let mut ahead = None;
        loop {
            let running = ahead.as_ref().map_or(self.state.running, |(running, _)| *running);
            let behind = ahead.take().map(|(_, behind)| behind);
            let page_size = header.page_size;
            let mut pages = Pages { output: &mut self.output, page_size, running, behind };
            let Some(found) = frames.next_frame(&mut pages, &mut frame)? else {
                proven(told, &running)?;
                self.state.proven = true;
                return Ok(());
            };
            number = number.saturating_add(1);
            let point = WalPosition { index: header.index, offset: Offset::end_of_frame(number, header.page_size) };
            let page = frame.get(FRAME_HEADER..).unwrap_or_default();
            if point > stop {
                let (running, behind) = pages.keep(&found, page)?;
                ahead = Some((running, behind));
                continue;
            }
            self.apply(found.page, found.commit, page)?;
            self.state.applied_to = point;
            self.state.time = header.visible_by;
        }
    }
}

impl<O: PageOutput> Pages<'_, O> {
    /// Takes a frame after the point to stop at.
    fn keep(mut self, found: &FrameHeader, new: &[u8]) -> Result<(RunningChecksum, PagesPastStop)> {
        let mut running = self.running;
        expect_growth(self.output, &running, found.page.max(found.commit), self.page_size)?;
        let mut old = vec![0; new.len()];
        self.behind.get_or_insert_default();
        self.base(found.page, &mut old)?;
        running.frame(found.page, &old, new);
        let mut kept = self.behind.take().unwrap_or_default();
        kept.pages.insert(found.page, new.to_vec());
        if kept.pages.len() * new.len() > MAX_PAST_STOP_BYTES {
            return Err(Error::new(
                Kind::Corrupt,
                format!("expected at most {MAX_PAST_STOP_BYTES} bytes of pages in a member, found more"),
            ));
        }
        (self.behind, self.running) = (Some(kept), running);
        if found.commit != 0 {
            running.commit(found.commit, &mut |number, page| self.base(number, page), &mut old)?;
        }
        let mut kept = self.behind.take().unwrap_or_default();
        if found.commit != 0 {
            kept.pages.retain(|number, _| *number <= found.commit);
            kept.shortest = Some(kept.shortest.map_or(found.commit, |shortest| shortest.min(found.commit)));
        }
        Ok((running, kept))
    }
}

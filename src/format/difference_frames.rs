//! The frames of a member of format 2, made from differences of pages and proven.

use std::io::Read;

use crate::error::Result;
use crate::format::member_header::corrupt;
use crate::format::payload_deltas::PayloadDeltas;
use crate::format::segment::{MemberHeader, SegmentReader};
use crate::format::wal::{Checksum, FRAME_HEADER, FrameHeader};

/// Where the pages are that differences are differences of.
pub trait BasePages {
    /// Fills `page` with page `number` as it is now; with zeros if there is none.
    fn base(&mut self, number: u32, page: &mut [u8]) -> Result<()>;
}

/// Reads the frames of the member of format 2 that [`SegmentReader::next_member`] has just given.
///
/// At the end it is proven that the frames have the checksums of a WAL with this header, up to `checksum after`, that the
/// member's claims about commits are true, and that its crc32 is right.
pub struct DifferenceFrames<'a, R> {
    deltas: PayloadDeltas<'a, R>,
    header: MemberHeader,
    chain: Checksum,
    old: Vec<u8>,
}

impl<'a, R: Read> DifferenceFrames<'a, R> {
    /// `before` is the checksum of the frame before the first one, or of the WAL header.
    pub fn new(reader: &'a mut SegmentReader<R>, header: &MemberHeader, before: Checksum) -> DifferenceFrames<'a, R> {
        let old = vec![0; header.page_size.get() as usize];
        DifferenceFrames { deltas: PayloadDeltas::new(reader, header), header: *header, chain: before, old }
    }

    /// Makes one frame (its header and page) in `frame`; none after the last one, when all is verified.
    ///
    /// The frame must be applied before the next one is asked for: that may be made from it.
    pub fn next_frame(&mut self, bases: &mut dyn BasePages, frame: &mut Vec<u8>) -> Result<Option<FrameHeader>> {
        let Some(step) = self.deltas.next_delta()? else {
            self.verify_chain()?;
            return Ok(None);
        };
        frame.resize(self.header.page_size.frame(), 0);
        if !step.delta.is_whole() {
            bases.base(step.page, &mut self.old)?;
        }
        let (head, page) = frame.split_at_mut(FRAME_HEADER);
        step.delta.apply(&self.old, page)?;
        head[..4].copy_from_slice(&step.page.to_be_bytes());
        head[4..8].copy_from_slice(&step.commit.to_be_bytes());
        self.chain = self.chain.over_frame(self.header.order, frame);
        let words = [self.header.salt.0, self.header.salt.1, self.chain.0, self.chain.1];
        for (place, word) in frame[8..FRAME_HEADER].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        Ok(FrameHeader::first(frame))
    }

    fn verify_chain(&self) -> Result<()> {
        let (claimed, found) = (self.header.checksum_after, self.chain);
        if claimed != found {
            return Err(corrupt(format!("differences: expected frames that end in {claimed:x?}, found {found:x?}"))
                .with_hint("it was made from other pages, or it is damaged"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! From segments one after another to the rollup that leads from the start of the first to the end of the last.

use std::io::Read;

use crate::error::{Error, Kind, Result};
use crate::format::chain_end::{ChainEnd, check_continues, check_key};
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::frames::MemberFrames;
use crate::format::key::SegmentKey;
use crate::format::net_change::NetChange;
use crate::format::page_delta::PageDelta;
use crate::format::payload_deltas::PayloadDeltas;
use crate::format::position::WalPosition;
use crate::format::rollup;
use crate::format::segment::{MemberHeader, SegmentReader};
use crate::format::wal::FRAME_HEADER;

/// The net change of segments, as far as one pass over them goes.
pub struct Composition {
    from: u32,
    max_bytes: usize,
    begun: Option<PartialRollup>,
}

struct PartialRollup {
    start: WalPosition,
    net: NetChange,
    last: MemberHeader,
    chain_end: ChainEnd,
}

impl Composition {
    /// Of the pages from number `from` on, in about `max_bytes` of memory.
    pub fn new(from: u32, max_bytes: usize) -> Composition {
        Composition { from, max_bytes, begun: None }
    }

    /// Takes the next segment, read from `stored`.
    ///
    /// Errors: the stream's; [`Kind::Corrupt`] for one that is damaged or does not continue the one before it.
    pub fn add<R: Read>(&mut self, key: &SegmentKey, stored: R) -> Result<()> {
        let mut reader = SegmentReader::named(key, stored);
        let (mut first, mut reached) = (true, key.start);
        while let Some(header) = reader.next_member()? {
            if std::mem::take(&mut first) {
                check_key(key, &header)?;
            }
            self.member(&mut reader, &header)?;
            reached = header.end_point();
        }
        match reached == key.end {
            true => Ok(()),
            false => Err(Error::new(Kind::Corrupt, format!("expected batches up to {} by its name", key.end))),
        }
    }

    fn member<R: Read>(&mut self, reader: &mut SegmentReader<R>, header: &MemberHeader) -> Result<()> {
        if let Some(begun) = &self.begun {
            check_continues(&begun.chain_end, header)?;
        }
        let begun = self.begun.get_or_insert_with(|| PartialRollup {
            start: header.start,
            net: NetChange::new(header.page_size, self.from, self.max_bytes),
            last: *header,
            chain_end: ChainEnd::after_member(header, 0),
        });
        match (&header.rollup, &header.differences) {
            (Some(rollup), _) => {
                begun.net.commit(rollup.least);
                add_deltas(&mut begun.net, reader, header)?;
                begun.net.commit(header.pages);
            }
            (None, Some(_)) => add_deltas(&mut begun.net, reader, header)?,
            (None, None) => add_frames(&mut begun.net, reader, header)?,
        }
        begun.last = *header;
        begun.chain_end = ChainEnd::after_member(header, reader.crc());
        Ok(())
    }

    /// The header of the rollup, and its pages as far as this pass has them. `known` is the database checksum at the end, which
    /// format 1 does not tell. None, if what was taken does not tell it either.
    pub fn rollup(&self, known: Option<DatabaseChecksum>) -> Option<(MemberHeader, &NetChange)> {
        let begun = self.begun.as_ref()?;
        let header = rollup::header_from(begun.start, &begun.last, begun.net.least(), known)?;
        (header.pages == begun.net.size()).then_some((header, &begun.net))
    }
}

fn add_deltas<R: Read>(net: &mut NetChange, reader: &mut SegmentReader<R>, header: &MemberHeader) -> Result<()> {
    let mut deltas = PayloadDeltas::new(reader, header);
    while let Some(step) = deltas.next_delta()? {
        net.page(step.page, step.delta)?;
        if step.commit != 0 {
            net.commit(step.commit);
        }
    }
    Ok(())
}

fn add_frames<R: Read>(net: &mut NetChange, reader: &mut SegmentReader<R>, header: &MemberHeader) -> Result<()> {
    let (mut frames, mut frame) = (MemberFrames::new(reader, header)?, Vec::new());
    while let Some(found) = frames.next_frame(&mut frame)? {
        net.page(found.page, PageDelta::whole(frame.get(FRAME_HEADER..).unwrap_or_default()))?;
        if found.commit != 0 {
            net.commit(found.commit);
        }
    }
    Ok(())
}

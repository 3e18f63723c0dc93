//! Frames as differences of pages: the payload of a member of format 2.
//!
//! ```text
//! length of the steps (varint)  the steps of all frames, one after another  the literal bytes of all frames
//! ```
//!
//! The steps of a frame are its page, as a zigzag varint against that of the frame before it (0 before the first one); one
//! byte with the [`Form`] in the lowest two bits and bit 2 if it ends a transaction; then, if so, the size of the database
//! in pages, as a zigzag varint against the header's `pages`; then what [`crate::format::page_delta::PageDelta::write`] makes of the page. Salts and
//! frame checksums are not stored: anyone who reads the frames computes them, and must arrive at the header's `checksum after`.

use crate::format::page_delta::Form;
use crate::format::page_diff::PageDiffer;
use crate::format::segment_header::MemberHeader;
use crate::format::varint;
use crate::format::wal::{FRAME_HEADER, FrameHeader};

/// Bytes of the steps of one member, at most: a reader has them in memory. A writer has some 40 % of a buffer of frames.
pub const MAX_STEPS: usize = 8 << 20;
/// The bit that says that the frame ends a transaction.
pub(super) const COMMIT: u8 = 4;
/// The most bytes that the payload of a member can have.
pub(super) fn most_bytes(header: &MemberHeader) -> u64 {
    let literals = u64::from(header.frames()) * u64::from(header.page_size.get());
    literals + MAX_STEPS as u64 + varint::len(u32::MAX) as u64
}

/// Makes the payload of one member after the other. Keep one: its memory is used again.
#[derive(Default)]
pub struct Composer {
    differ: PageDiffer,
    pub(super) length: Vec<u8>,
    pub(super) steps: Vec<u8>,
    pub(super) literals: Vec<u8>,
    pages: u32,
    page: u32,
}

impl Composer {
    /// Begins the payload of a member with this size of the database after its last commit.
    pub fn begin(&mut self, pages: u32) {
        self.steps.clear();
        self.literals.clear();
        (self.pages, self.page) = (pages, 0);
    }

    /// Adds a frame: its header and page. `old` is the page as it was.
    pub fn frame(&mut self, frame: &[u8], old: &[u8]) {
        let (Some(header), Some(new)) = (FrameHeader::first(frame), frame.get(FRAME_HEADER..)) else { return };
        varint::write(varint::zigzag(header.page.wrapping_sub(self.page) as i32), &mut self.steps);
        self.page = header.page;
        let delta = self.differ.diff(old, new);
        let form = match delta.form() {
            Form::Whole => 0,
            Form::InPlace => 1,
            Form::Moved => 2,
        };
        self.steps.push(if header.commit != 0 { form | COMMIT } else { form });
        if header.commit != 0 {
            varint::write(varint::zigzag(header.commit.wrapping_sub(self.pages) as i32), &mut self.steps);
        }
        delta.write(&mut self.steps, &mut self.literals);
    }

    /// Ends the payload. False if it is one that no reader would take: then the frames must be stored raw.
    pub fn finish(&mut self) -> bool {
        self.length.clear();
        varint::write(u32::try_from(self.steps.len()).unwrap_or(u32::MAX), &mut self.length);
        self.steps.len() <= MAX_STEPS
    }

    /// Bytes of the payload.
    pub fn payload_len(&self) -> usize {
        self.payload().iter().map(|piece| piece.len()).sum()
    }

    /// The payload, in pieces.
    pub(super) fn payload(&self) -> [&[u8]; 3] {
        [&self.length, &self.steps, &self.literals]
    }
}

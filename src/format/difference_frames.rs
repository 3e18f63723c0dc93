//! The frames of a member of format 2, made from differences of pages and proven.

use std::io::Read;

use crate::error::{Result, ResultExt};
use crate::format::differences::{COMMIT, MAX_STEPS};
use crate::format::member_header::corrupt;
use crate::format::page_delta::{Form, PageDelta};
use crate::format::segment::{MemberHeader, Reader};
use crate::format::varint;
use crate::format::wal::{Checksum, FRAME_HEADER, FrameHeader};

/// Bytes that are read at once: so much more than what is there is allocated.
const PIECE: usize = 64 << 10;

/// Where the pages are that differences are differences of.
pub trait Bases {
    /// Fills `page` with page `number` as it is now; with zeros if there is none.
    fn base(&mut self, number: u32, page: &mut [u8]) -> Result<()>;
}

/// Reads the frames of the member of format 2 that [`Reader::next_member`] has just given.
///
/// At the end it is proven that the frames have the checksums of a WAL with this header, up to `checksum after`, that the
/// member's claims about commits are true, and that its crc32 is right.
pub struct DifferenceFrames<'a, R> {
    reader: &'a mut Reader<R>,
    header: MemberHeader,
    steps: Vec<u8>,
    /// How many of them were read.
    read: usize,
    /// Literal bytes that are not used yet.
    literals: Vec<u8>,
    chain: Checksum,
    left: u32,
    page: u32,
    pages: u32,
    whole: bool,
    old: Vec<u8>,
}

impl<'a, R: Read> DifferenceFrames<'a, R> {
    /// `before` is the checksum of the frame before the first one, or of the WAL header.
    pub fn new(reader: &'a mut Reader<R>, header: &MemberHeader, before: Checksum) -> Result<DifferenceFrames<'a, R>> {
        let steps = read_steps(reader, header).context(|| "differences")?;
        Ok(DifferenceFrames {
            reader,
            header: *header,
            steps,
            read: 0,
            literals: Vec::new(),
            chain: before,
            left: header.frames(),
            page: 0,
            pages: 0,
            whole: false,
            old: vec![0; header.page_size.get() as usize],
        })
    }

    /// Makes one frame (its header and page) in `frame`; none behind the last one, when all is verified.
    ///
    /// The frame must be applied before the next one is asked for: that may be made from it.
    pub fn next_frame(&mut self, bases: &mut dyn Bases, frame: &mut Vec<u8>) -> Result<Option<FrameHeader>> {
        if self.left == 0 {
            self.verify_end()?;
            return Ok(None);
        }
        self.left -= 1;
        frame.resize(self.header.page_size.frame(), 0);
        let (header, delta) = self.step().context(|| "differences")?;
        if !delta.is_whole() {
            bases.base(header.page, &mut self.old)?;
        }
        let (head, page) = frame.split_at_mut(FRAME_HEADER);
        delta.apply(&self.old, page)?;
        head[..4].copy_from_slice(&header.page.to_be_bytes());
        head[4..8].copy_from_slice(&header.commit.to_be_bytes());
        self.chain = self.chain.over_frame(self.header.order, frame);
        let words = [self.header.salt.0, self.header.salt.1, self.chain.0, self.chain.1];
        for (place, word) in frame[8..FRAME_HEADER].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        Ok(FrameHeader::first(frame))
    }

    fn step(&mut self) -> Result<(FrameHeader, PageDelta)> {
        self.want_literals()?;
        let mut steps = self.steps.get(self.read..).unwrap_or_default();
        let page = self.page.wrapping_add(varint::unzigzag(varint::read(&mut steps)?) as u32);
        if page == 0 {
            return Err(corrupt("expected a page number, found 0"));
        }
        let (tag, rest) = steps.split_first().ok_or_else(|| corrupt("the steps are cut short"))?;
        steps = rest;
        let form = match tag & !COMMIT {
            0 => Form::Whole,
            1 => Form::InPlace,
            2 => Form::Moved,
            _ => return Err(corrupt(format!("expected a form of steps, found {tag}"))),
        };
        let commit = match tag & COMMIT {
            0 => 0,
            _ => self.header.pages.wrapping_add(varint::unzigzag(varint::read(&mut steps)?) as u32),
        };
        if tag & COMMIT != 0 && commit == 0 {
            return Err(corrupt("expected the size of the database, found 0"));
        }
        let mut literals = self.literals.as_slice();
        let delta = PageDelta::read(form, self.header.page_size.get(), &mut steps, &mut literals)?;
        let used = self.literals.len() - literals.len();
        self.literals.drain(..used);
        self.read = self.steps.len() - steps.len();
        (self.page, self.whole) = (page, commit != 0);
        self.pages = if commit != 0 { commit } else { self.pages };
        Ok((FrameHeader { page, commit, salt: self.header.salt, checksum: Checksum::default() }, delta))
    }

    /// Reads on until there are enough literal bytes for any page, or no more.
    fn want_literals(&mut self) -> Result<()> {
        let size = self.header.page_size.get() as usize;
        let mut have = self.literals.len();
        self.literals.resize(have.max(size), 0);
        while have < size {
            match self.reader.read(&mut self.literals[have..])? {
                0 => break,
                count => have += count,
            }
        }
        self.literals.truncate(have);
        Ok(())
    }

    fn verify_end(&mut self) -> Result<()> {
        let unused = (self.steps.len() - self.read, self.literals.len());
        if unused != (0, 0) || self.reader.read(&mut [0])? != 0 {
            let (steps, literals) = unused;
            let what =
                format!("differences: expected no more steps and literals, found {steps} and {literals} bytes or more");
            return Err(corrupt(what));
        }
        let (claimed, found) = ((self.header.part, self.header.pages), (!self.whole, self.pages));
        if claimed != found {
            let words = |(part, pages): (bool, u32)| {
                let end = if part { "a part of a transaction" } else { "a whole transaction" };
                format!("{end} and a database of {pages} pages")
            };
            let (claimed, found) = (words(claimed), words(found));
            return Err(corrupt(format!("differences: expected {claimed} by the header, found {found}")));
        }
        let (claimed, found) = (self.header.checksum_after, self.chain);
        if claimed != found {
            return Err(corrupt(format!("differences: expected frames that end in {claimed:x?}, found {found:x?}"))
                .with_hint("it was made from other pages, or it is damaged"));
        }
        Ok(())
    }
}

/// Takes the steps off the front of a payload. No more is allocated than is there.
fn read_steps<R: Read>(reader: &mut Reader<R>, header: &MemberHeader) -> Result<Vec<u8>> {
    let mut number = Vec::new();
    loop {
        let mut byte = [0];
        reader.read_exact(&mut byte)?;
        number.push(byte[0]);
        if byte[0] < 0x80 || number.len() > varint::len(u32::MAX) {
            break;
        }
    }
    let length = varint::read(&mut number.as_slice())? as usize;
    if length > MAX_STEPS || header.frames() as usize > length {
        return Err(corrupt(format!("expected steps for {} frames, found {length} bytes", header.frames())));
    }
    let mut steps = Vec::new();
    while steps.len() < length {
        let begin = steps.len();
        steps.resize(length.min(begin + PIECE), 0);
        reader.read_exact(&mut steps[begin..])?;
    }
    Ok(steps)
}

#[cfg(test)]
mod tests;

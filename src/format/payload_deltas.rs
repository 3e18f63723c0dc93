//! The differences in the payload of a member, without the pages: which page, and how it changes.
//!
//! A payload is blocks one after another: the length of the steps (a varint), the steps of some frames, and their literal
//! bytes. A member of format 2 is one block; a rollup is as many as it takes, so that it is read and made in little memory.

use std::io::Read;

use crate::error::{Result, ResultExt};
use crate::format::differences::{COMMIT, MAX_STEPS};
use crate::format::member_header::corrupt;
use crate::format::page_delta::{Form, PageDelta};
use crate::format::segment::{MemberHeader, SegmentReader};
use crate::format::varint;

/// Bytes that are read at once: so much more than what is there is allocated.
const READ_BYTES: usize = 64 << 10;

/// A frame that is not made yet.
#[derive(Debug, PartialEq, Eq)]
pub struct DeltaFrame {
    pub page: u32,
    /// The size of the database if the frame ends a transaction, else 0.
    pub commit: u32,
    pub delta: PageDelta,
}

/// Reads the differences of the member that [`SegmentReader::next_member`] has just given.
///
/// At the end it is proven that the member's claims about commits are true and that its crc32 is right. What the pages must
/// lead to is for those who have them.
pub struct PayloadDeltas<'a, R> {
    reader: &'a mut SegmentReader<R>,
    header: MemberHeader,
    steps: Vec<u8>,
    /// How many of them were read.
    read: usize,
    /// Payload that is not used yet: literal bytes, and what follows them.
    ahead: Vec<u8>,
    begun: bool,
    /// Frames that are to come; none in a rollup, which ends with its payload.
    left: Option<u32>,
    page: u32,
    pages: u32,
    whole: bool,
}

impl<'a, R: Read> PayloadDeltas<'a, R> {
    /// Nothing is read yet.
    pub fn new(reader: &'a mut SegmentReader<R>, header: &MemberHeader) -> PayloadDeltas<'a, R> {
        PayloadDeltas {
            reader,
            header: *header,
            steps: Vec::new(),
            read: 0,
            ahead: Vec::new(),
            begun: false,
            left: header.rollup.is_none().then(|| header.frames()),
            page: 0,
            pages: 0,
            whole: false,
        }
    }

    /// The next one; none after the last one, when all is verified.
    pub fn next_delta(&mut self) -> Result<Option<DeltaFrame>> {
        self.checked_step().with_context(|| "differences")
    }

    fn checked_step(&mut self) -> Result<Option<DeltaFrame>> {
        self.fill_ahead(self.header.page_size.get() as usize)?;
        let end_of_block = self.read == self.steps.len();
        let ended = match self.left {
            Some(left) => left == 0,
            None => end_of_block && self.ahead.is_empty(),
        };
        if ended {
            self.verify_end()?;
            return Ok(None);
        }
        if end_of_block && (self.left.is_none() || !self.begun) {
            self.begin_block()?;
            self.fill_ahead(self.header.page_size.get() as usize)?;
        }
        self.left = self.left.map(|left| left - 1);
        self.step().map(Some)
    }

    fn step(&mut self) -> Result<DeltaFrame> {
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
        if self.header.rollup.is_some() {
            self.check_rolled_up(page, commit)?;
        }
        let mut literals = self.ahead.as_slice();
        let delta = PageDelta::read(form, self.header.page_size.get(), &mut steps, &mut literals)?;
        let used = self.ahead.len() - literals.len();
        self.ahead.drain(..used);
        self.read = self.steps.len() - steps.len();
        (self.page, self.whole) = (page, commit != 0);
        self.pages = if commit != 0 { commit } else { self.pages };
        Ok(DeltaFrame { page, commit, delta })
    }

    /// A rollup has each page once, in order, none that the database does not have, and no commits.
    fn check_rolled_up(&self, page: u32, commit: u32) -> Result<()> {
        if commit == 0 && self.page < page && page <= self.header.pages {
            return Ok(());
        }
        let (after, last) = (self.page, self.header.pages);
        Err(corrupt(format!("expected a page after {after} and up to {last} in a rollup, found {page}")))
    }

    /// Takes the length and the steps of the next block. No more is allocated than is there.
    fn begin_block(&mut self) -> Result<()> {
        self.begun = true;
        self.fill_ahead(varint::len(u32::MAX))?;
        let mut rest = self.ahead.as_slice();
        let length = varint::read(&mut rest)? as usize;
        let taken = self.ahead.len() - rest.len();
        self.ahead.drain(..taken);
        let frames = self.left.unwrap_or(1);
        if length > MAX_STEPS || frames as usize > length {
            return Err(corrupt(format!("expected steps for {frames} frames, found {length} bytes")));
        }
        (self.steps, self.read) = (std::mem::take(&mut self.ahead), 0);
        self.ahead = self.steps.split_off(length.min(self.steps.len()));
        while self.steps.len() < length {
            let begin = self.steps.len();
            self.steps.resize(length.min(begin + READ_BYTES), 0);
            self.reader.read_exact(&mut self.steps[begin..])?;
        }
        Ok(())
    }

    /// Reads on until so much payload is at hand, or no more is there.
    fn fill_ahead(&mut self, count: usize) -> Result<()> {
        let mut have = self.ahead.len();
        self.ahead.resize(have.max(count), 0);
        while have < count {
            match self.reader.read(&mut self.ahead[have..])? {
                0 => break,
                more => have += more,
            }
        }
        self.ahead.truncate(have);
        Ok(())
    }

    fn verify_end(&mut self) -> Result<()> {
        let unused = (self.steps.len() - self.read, self.ahead.len());
        if unused != (0, 0) || self.reader.read(&mut [0])? != 0 {
            let (steps, literals) = unused;
            let what = format!("expected no more steps and literals, found {steps} and {literals} bytes or more");
            return Err(corrupt(what));
        }
        let (claimed, found) = ((self.header.part, self.header.pages), (!self.whole, self.pages));
        if self.header.rollup.is_none() && claimed != found {
            let words = |(part, pages): (bool, u32)| {
                let end = if part { "a part of a transaction" } else { "a whole transaction" };
                format!("{end} and a database of {pages} pages")
            };
            let (claimed, found) = (words(claimed), words(found));
            return Err(corrupt(format!("expected {claimed} by the header, found {found}")));
        }
        Ok(())
    }
}

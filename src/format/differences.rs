//! Frames as differences of pages: the payload of a member of format 2.
//!
//! ```text
//! length of the steps (varint)  the steps of all frames, one behind the other  the literal bytes of all frames
//! ```
//!
//! The steps of a frame are its page, as a zigzag varint against that of the frame before it (0 before the first one); one
//! byte with the [`Form`] in the lowest two bits and bit 2 if it ends a transaction; then, if so, the size of the database
//! in pages, as a zigzag varint against the header's `pages`; then what [`PageDelta::write`] makes of the page. Salts and
//! frame checksums are not stored: whoever reads the frames computes them, and must arrive at the header's `checksum after`.

use std::io::Read;

use crate::error::{Result, ResultExt};
use crate::format::member_header::corrupt;
use crate::format::page_delta::{Form, PageDelta};
use crate::format::page_diff::PageDiffer;
use crate::format::segment::{MemberHeader, Reader};
use crate::format::varint;
use crate::format::wal::{Checksum, FRAME_HEADER, FrameHeader};

/// Bytes of the steps of one member, at most: a reader has them in memory. A writer has some 40 % of a buffer of frames.
pub const MAX_STEPS: usize = 8 << 20;
/// The bit that says that the frame ends a transaction.
const COMMIT: u8 = 4;
/// Bytes that are read at once: so much more than what is there is allocated.
const PIECE: usize = 64 << 10;

/// The most bytes that the payload of a member can have.
pub(super) fn most_bytes(header: &MemberHeader) -> u64 {
    let literals = u64::from(header.frames()) * u64::from(header.page_size.get());
    literals + MAX_STEPS as u64 + varint::len(u32::MAX) as u64
}

/// Makes the payload of one member after the other. Keep one: its memory is used again.
#[derive(Default)]
pub struct Composer {
    differ: PageDiffer,
    length: Vec<u8>,
    steps: Vec<u8>,
    literals: Vec<u8>,
    pages: u32,
    page: u32,
}

impl Composer {
    /// Begins the payload of a member with this size of the database behind its last commit.
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
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::error::Kind;
    use crate::format::database_checksum::DatabaseChecksum;
    use crate::format::fixtures::{Random, Wal, wal};
    use crate::format::key::SegmentKey;
    use crate::format::segment::{Differences, Encoder, key_of, last_member};
    use crate::format::wal::{ByteOrder, Salt};

    /// Pages by number; all others are zeros.
    #[derive(Clone, Default)]
    struct Pages(HashMap<u32, Vec<u8>>);

    impl Bases for Pages {
        fn base(&mut self, number: u32, page: &mut [u8]) -> Result<()> {
            match self.0.get(&number) {
                Some(old) => page.copy_from_slice(old),
                None => page.fill(0),
            }
            Ok(())
        }
    }

    fn noise(random: &mut Random, len: usize) -> Vec<u8> {
        (0..len).map(|_| random.below(256) as u8).collect()
    }

    fn changed(random: &mut Random, page: &[u8]) -> Vec<u8> {
        let (mut new, len) = (page.to_vec(), page.len() as u64);
        match random.below(6) {
            0 => new = noise(random, page.len()),
            1 => new.fill(0),
            2 => {}
            _ => {
                let (at, to) = (random.below(len / 2) as usize, random.below(len / 2) as usize);
                let count = random.below(len / 2) as usize;
                new.copy_within(at..at + count, to);
                new[at] ^= 1;
            }
        }
        new
    }

    /// A WAL of `frames` frames that change `pages`, which are left as they are behind it.
    fn history(random: &mut Random, pages: &mut Pages, frames: u32) -> Wal {
        let size = 512 << random.below(8);
        let order = if random.below(2) == 0 { ByteOrder::Little } else { ByteOrder::Big };
        let mut wal = Wal::new(order, size, Salt(random.next() as u32, 8));
        for frame in 1..=frames {
            let most = if random.below(9) == 0 { u32::MAX.into() } else { 5 };
            let number = 1 + random.below(most) as u32;
            let mut old = vec![0; size as usize];
            pages.base(number, &mut old).unwrap();
            let new = changed(random, &old);
            let commit = if frame == frames || random.below(3) == 0 { 1 + random.next() as u32 / 2 } else { 0 };
            wal.page(number, commit, &new);
            pages.0.insert(number, new);
        }
        wal
    }

    /// A member as it is stored, with its name.
    fn member(wal: &Wal, header: &MemberHeader, pages: &mut Pages) -> (SegmentKey, Vec<u8>) {
        let mut composer = Composer::default();
        let checksum = DatabaseChecksum::new(5);
        let header =
            MemberHeader { differences: Some(Differences { checksum, checkpoint: 0, tells_wal: true }), ..*header };
        composer.begin(header.pages);
        for frame in frames_of(wal, &header) {
            let mut old = vec![0; header.page_size.get() as usize];
            let number = FrameHeader::first(frame).unwrap().page;
            pages.base(number, &mut old).unwrap();
            composer.frame(frame, &old);
            pages.0.insert(number, frame[FRAME_HEADER..].to_vec());
        }
        assert!(composer.finish());
        let mut out = Vec::new();
        Encoder::new(1).differences(&header, &composer, &mut out);
        (key_of(&header, &header), out)
    }

    fn frames_of<'a>(wal: &'a Wal, header: &MemberHeader) -> impl Iterator<Item = &'a [u8]> {
        let first = header.payload_offset.get().max(32) as usize;
        wal.bytes[first..header.end.get() as usize].chunks_exact(header.page_size.frame())
    }

    /// All frames of an object, one behind the other, and its last header.
    fn read(key: &SegmentKey, stored: &[u8], before: Checksum, pages: &mut Pages) -> Result<(Vec<u8>, MemberHeader)> {
        let mut reader = Reader::named(key, stored);
        let header = reader.next_member()?.unwrap();
        let before = if header.payload_offset.get() == 0 { header.checksum_before } else { before };
        let mut frames = DifferenceFrames::new(&mut reader, &header, before)?;
        let (mut all, mut frame) = (Vec::new(), Vec::new());
        while let Some(found) = frames.next_frame(pages, &mut frame)? {
            pages.0.insert(found.page, frame[FRAME_HEADER..].to_vec());
            all.extend_from_slice(&frame);
        }
        assert_eq!(frames.next_frame(pages, &mut frame)?, None);
        Ok((all, header))
    }

    #[test]
    fn frames_come_back_bit_by_bit_whatever_the_pages_are() {
        for seed in 0..120 {
            let mut random = Random(seed);
            let mut pages = Pages::default();
            let wal = history(&mut random, &mut pages, 1 + seed as u32 % 12);
            let count = wal.bytes.len() / wal.header.page_size.frame();
            let (mut written, mut read_back) = (Pages::default(), Pages::default());
            let cut = random.below(count as u64) as u32;
            for (after, upto) in [(0, cut), (cut, count as u32)].into_iter().filter(|(after, upto)| after < upto) {
                let header = wal.batch(0, after, upto, 100);
                let (key, stored) = member(&wal, &header, &mut written);
                let (found, last) = read(&key, &stored, header.checksum_before, &mut read_back).unwrap();
                assert!(found == frames_of(&wal, &header).flatten().copied().collect::<Vec<_>>(), "{seed}");
                assert_eq!((last.end, last.pages, last.part), (header.end, header.pages, header.part));
                assert_eq!(last.differences.unwrap().checksum.get(), 5);
            }
            assert!(read_back.0 == pages.0, "{seed}");
        }
    }

    #[test]
    fn a_page_that_is_not_the_base_is_noticed() {
        let mut random = Random(3);
        let old = noise(&mut random, 512);
        let mut new = old.clone();
        new[7] ^= 1;
        let wal = {
            let mut wal = Wal::new(ByteOrder::Little, 512, Salt(1, 2));
            wal.page(1, 1, &new);
            wal
        };
        let (key, stored) = member(&wal, &wal.batch(0, 0, 1, 1), &mut Pages(HashMap::from([(1, old.clone())])));
        assert!(read(&key, &stored, Checksum::default(), &mut Pages(HashMap::from([(1, old.clone())]))).is_ok());
        for bit in 0..512 * 8 {
            let mut wrong = old.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            // What the literals replace does not matter.
            let found = read(&key, &stored, Checksum::default(), &mut Pages(HashMap::from([(1, wrong)])));
            assert!(found.is_ok() == (bit / 8 == 7), "{bit}");
            if let Err(error) = found {
                assert!(error.message().starts_with("differences: expected frames that end in "), "{error}");
                assert_eq!(error.hint(), Some("it was made from other pages, or it is damaged"));
            }
        }
    }

    #[test]
    fn a_small_change_is_a_small_member() {
        let mut random = Random(4);
        let old = noise(&mut random, 4096);
        let mut wal = Wal::new(ByteOrder::Little, 4096, Salt(1, 2));
        let mut new = old.clone();
        new[100..104].copy_from_slice(b"word");
        wal.page(1, 1, &new);
        let (_, stored) = member(&wal, &wal.batch(0, 0, 1, 1), &mut Pages(HashMap::from([(1, old)])));
        assert!(stored.len() <= 16 + 54 + 8 + 20, "{} bytes", stored.len());
    }

    #[test]
    fn the_last_member_is_found_with_what_it_inherits() {
        let (wal, mut pages, mut out) = (wal(), Pages::default(), Vec::new());
        let mut encoder = Encoder::new(1);
        let mut headers = [wal.batch(0, 0, 2, 100), wal.batch(0, 2, 3, 200), wal.batch(0, 3, 6, 300)];
        encoder.member(&headers[0], &[wal.payload(&headers[0])], &mut out);
        let mut composer = Composer::default();
        for header in &mut headers[1..] {
            let checksum = DatabaseChecksum::new(header.visible_by.millis());
            header.differences = Some(Differences { checksum, checkpoint: 0, tells_wal: false });
            composer.begin(header.pages);
            for frame in frames_of(&wal, header) {
                let (number, mut old) = (FrameHeader::first(frame).unwrap().page, vec![0; 512]);
                pages.base(number, &mut old).unwrap();
                composer.frame(frame, &old);
            }
            assert!(composer.finish());
            encoder.differences(header, &composer, &mut out);
        }
        let key = key_of(&headers[0], &headers[2]);
        let (last, _) = last_member(&key, &out).unwrap();
        assert_eq!(last, MemberHeader { visible_after: headers[1].visible_by, ..headers[2] });
        let unnamed = Reader::new(&out[out.len() - 1..]).next_member();
        assert_eq!(unnamed.unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn a_member_without_its_name_says_too_little() {
        let wal = wal();
        let (_, stored) = member(&wal, &wal.batch(0, 0, 2, 1), &mut Pages::default());
        let error = Reader::new(stored.as_slice()).next_member().unwrap_err();
        assert_eq!(error.message(), "segment header: expected the name of the segment, which says the rest");
    }

    #[test]
    fn damaged_members_are_refused_in_bounds() {
        let mut random = Random(9);
        let (mut wal, mut pages) = (Wal::new(ByteOrder::Little, 512, Salt(1, 2)), Pages::default());
        for number in [1, 2, 3, 2, 1] {
            wal.page(number, 3, &noise(&mut random, 512));
        }
        let header = wal.batch(0, 0, 5, 1);
        let (key, stored) = member(&wal, &header, &mut pages);
        for bit in 0..stored.len() * 8 {
            let mut bad = stored.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            match read(&key, &bad, Checksum::default(), &mut Pages::default()) {
                Err(error) => assert_eq!(error.kind(), Kind::Corrupt, "bit {bit}"),
                Ok((found, _)) => assert!(found == wal.bytes[32..], "bit {bit}"),
            }
        }
    }

    /// Members with a good crc32 whose payload is anything.
    #[test]
    fn payloads_of_any_bytes_are_refused_without_a_panic() {
        let wal = wal();
        let (mut frame, mut refused) = (Vec::new(), 0);
        for seed in 0..20_000 {
            let mut random = Random(seed);
            let header = wal.batch(0, 0, 1 + random.below(6) as u32, 1);
            let differences = Differences { checksum: DatabaseChecksum::new(1), checkpoint: 0, tells_wal: true };
            let header = MemberHeader { differences: Some(differences), ..header };
            let (length, count) = (random.below(60) as u8, random.below(2000) as usize);
            let (steps, literals) = (noise(&mut random, length.into()), noise(&mut random, count));
            let composer = Composer { length: vec![length], steps, literals, ..Composer::default() };
            let mut stored = Vec::new();
            Encoder::new(1).differences(&header, &composer, &mut stored);
            let key = key_of(&header, &header);
            let mut reader = Reader::named(&key, stored.as_slice());
            let Ok(Some(header)) = reader.next_member() else { continue };
            let Ok(mut frames) = DifferenceFrames::new(&mut reader, &header, header.checksum_before) else { continue };
            let mut pages = Pages::default();
            while let Ok(Some(_)) = frames.next_frame(&mut pages, &mut frame) {}
            refused += u32::from(frames.next_frame(&mut pages, &mut frame).is_err());
        }
        assert!(refused > 10_000, "{refused}");
    }
}

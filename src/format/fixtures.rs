//! WALs and batches for the tests of this layer, made with the rules of SQLite's own writer.

use crate::error::{Kind, Result};
use crate::format::key::SegmentKey;
use crate::format::position::{Generation, Offset, PageSize, WalPosition};
use crate::format::segment::{ChainEnd, MemberHeader, SegmentEncoder};
use crate::format::time::Timestamp;
use crate::format::wal::{ByteOrder, Checksum, FRAME_HEADER, Salt, WalHeader};

/// A WAL of SQLite 3.40.1: 6 frames of 512-byte pages, commits after frames 2, 3 and 6 (tests/data/README).
pub const SQLITE_WAL: &[u8] = include_bytes!("../../tests/data/small.db-wal");

pub const GENERATION: u64 = 0x019a_af3c_5d10_a1b2;

pub fn size(bytes: u32) -> PageSize {
    PageSize::new(bytes).unwrap()
}

pub fn point(index: u32, offset: u64) -> WalPosition {
    WalPosition { index, offset: Offset::new(offset).unwrap() }
}

pub fn millis(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// From offset to offset, seen a millisecond after the offsets' seconds.
pub fn segment_key(start: u64, end: u64) -> SegmentKey {
    SegmentKey {
        generation: Generation::new(GENERATION),
        start: point(0, start),
        end: point(0, end),
        first_seen: millis(1 + start * 1000),
        last_seen: millis(1 + (end - 1) * 1000),
        part: false,
    }
}

/// Flips each bit of what is stored: reading it fails, as damage, or gives the same. How many bits are of no matter.
pub fn harmless_bits<T: PartialEq>(stored: &[u8], read: impl Fn(&[u8]) -> Result<T>) -> usize {
    let good = read(stored).unwrap_or_else(|error| panic!("undamaged: {error}"));
    let flipped = |bit: &usize| {
        let mut bad = stored.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        match read(&bad) {
            Err(error) => {
                assert_eq!(error.kind(), Kind::Corrupt, "bit {bit}");
                false
            }
            Ok(found) => {
                assert!(found == good, "bit {bit}");
                true
            }
        }
    };
    (0..stored.len() * 8).filter(flipped).count()
}

/// One WAL under construction.
pub struct Wal {
    pub header: WalHeader,
    pub bytes: Vec<u8>,
    /// The chain after the header and each frame; zero where it is broken.
    sums: Vec<Checksum>,
    /// (commit, unsealed) of each frame.
    frames: Vec<(u32, bool)>,
    running: Checksum,
}

impl Wal {
    pub fn new(order: ByteOrder, page_size: u32, salt: Salt) -> Wal {
        let unchecked =
            WalHeader { order, page_size: size(page_size), checkpoint: 0, salt, checksum: Checksum::default() };
        let bytes = unchecked.encode();
        let header = WalHeader::parse(&bytes).unwrap();
        let running = header.checksum;
        Wal { header, bytes: bytes.to_vec(), sums: vec![running], frames: Vec::new(), running }
    }

    fn frame_bytes(&self, page: u32, commit: u32) -> Vec<u8> {
        let mut frame = vec![0; self.header.page_size.frame()];
        frame[..4].copy_from_slice(&page.to_be_bytes());
        frame[4..8].copy_from_slice(&commit.to_be_bytes());
        let mut seed = u64::from(page) << 32 | self.frames.len() as u64;
        for byte in &mut frame[FRAME_HEADER..] {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = if seed >> 63 == 0 { (seed >> 40) as u8 } else { 0 };
        }
        frame
    }

    pub fn frame(&mut self, page: u32, commit: u32) -> &mut Wal {
        let frame = self.frame_bytes(page, commit);
        self.page(page, commit, &frame[FRAME_HEADER..])
    }

    /// A frame with this page in it.
    pub fn page(&mut self, page: u32, commit: u32, bytes: &[u8]) -> &mut Wal {
        let mut frame = self.frame_bytes(page, commit);
        frame[FRAME_HEADER..].copy_from_slice(bytes);
        self.running = self.running.over_frame(self.header.order, &frame);
        let words = [self.header.salt.0, self.header.salt.1, self.running.0, self.running.1];
        for (at, word) in words.into_iter().enumerate() {
            frame[8 + at * 4..12 + at * 4].copy_from_slice(&word.to_be_bytes());
        }
        self.push(frame, commit, false)
    }

    pub fn unchecksummed_frame(&mut self, page: u32, commit: u32) -> &mut Wal {
        let frame = self.frame_bytes(page, commit);
        // What the writer's running checksum is after such a frame is not known from the file.
        self.running = Checksum(self.running.0 ^ 0x5555, self.running.1);
        self.push(frame, commit, true)
    }

    fn push(&mut self, frame: Vec<u8>, commit: u32, unsealed: bool) -> &mut Wal {
        self.bytes.extend_from_slice(&frame);
        self.sums.push(if unsealed { Checksum::default() } else { self.running });
        self.frames.push((commit, unsealed));
        self
    }

    /// The batch of the frames after frame `after` up to frame `upto`.
    pub fn batch(&self, index: u32, after: u32, upto: u32, seen: u64) -> MemberHeader {
        let WalHeader { order, page_size, salt, .. } = self.header;
        let (from, end) = (Offset::end_of_frame(after, page_size), Offset::end_of_frame(upto, page_size));
        let frames = &self.frames[after as usize..upto as usize];
        MemberHeader {
            generation: Generation::new(GENERATION),
            start: WalPosition { index, offset: from },
            index,
            payload_offset: from,
            end,
            page_size,
            order,
            part: frames.last().is_none_or(|(commit, _)| *commit == 0),
            unchecksummed: frames.iter().any(|(_, unsealed)| *unsealed)
                || self.sums[after as usize] == Checksum::default(),
            salt,
            checksum_before: self.sums[after as usize],
            checksum_after: self.sums[upto as usize],
            pages: frames.iter().rev().map(|(commit, _)| *commit).find(|commit| *commit != 0).unwrap_or(0),
            visible_after: millis(seen.saturating_sub(50)),
            visible_by: millis(seen),
            previous_crc: 0,
            differences: None,
            rollup: None,
        }
    }

    pub fn payload(&self, header: &MemberHeader) -> &[u8] {
        &self.bytes[header.payload_offset.get() as usize..header.end.get() as usize]
    }

    /// One member as it is stored.
    pub fn member(&self, header: &MemberHeader) -> Vec<u8> {
        let mut out = Vec::new();
        SegmentEncoder::new(1).member(header, &[self.payload(header)], &mut out);
        out
    }

    pub fn chain_end(&self, header: &MemberHeader) -> ChainEnd {
        ChainEnd::after_member(header, crc32fast::hash(self.payload(header)))
    }
}

/// Three transactions: frames 1-2, 3, 4-6.
pub fn wal() -> Wal {
    let mut wal = Wal::new(ByteOrder::Little, 512, Salt(7, 8));
    wal.frame(1, 0).frame(2, 2).frame(2, 2).frame(1, 0).frame(3, 0).frame(2, 3);
    wal
}

/// A small generator of numbers that look random and are the same each time (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to, not including, `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A stream that gives few bytes at a time, so that every boundary falls inside something.
pub struct ChunkedReader<'a>(pub &'a [u8], pub usize);

impl std::io::Read for ChunkedReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let count = self.1.min(buf.len()).min(self.0.len());
        let (now, rest) = self.0.split_at(count);
        buf[..count].copy_from_slice(now);
        self.0 = rest;
        Ok(count)
    }
}

/// A stream that ends with an error.
pub struct FailingReader<'a>(pub &'a [u8], pub Option<std::io::Error>);

impl std::io::Read for FailingReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match (self.0.is_empty(), self.1.take()) {
            (true, Some(error)) => Err(error),
            (_, error) => {
                self.1 = error;
                std::io::Read::read(&mut self.0, buf)
            }
        }
    }
}

//! The bytes of a SQLite WAL: header, frames, and the checksum that chains them (sqlite.org/fileformat2.html#walformat).

use std::fmt;

use crate::error::{Error, Kind, Result};
use crate::format::wal_layout::PageSize;

pub use crate::format::wal_layout::{FRAME_HEADER, WAL_HEADER};

/// The only WAL version there has been, since SQLite 3.7.0 (sqlite3.c 67761, WAL_MAX_VERSION).
pub const WAL_VERSION: u32 = 3_007_000;
/// The magic number with the lowest bit clear: checksums read the content as little-endian words.
const MAGIC: u32 = 0x377f_0682;

/// The two numbers that a restart of the WAL changes, and that every frame of it repeats.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Salt(pub u32, pub u32);

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.{:08x}", self.0, self.1)
    }
}

/// The running checksum over a WAL up to some byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Checksum(pub u32, pub u32);

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.{:08x}", self.0, self.1)
    }
}

/// How checksums read the content: the byte order of the machine that started this WAL.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ByteOrder {
    Little,
    Big,
}

impl Checksum {
    /// Continues this checksum over `bytes`, whose length must be a multiple of 8 (walChecksumBytes, sqlite3.c 68298).
    pub fn over(self, order: ByteOrder, bytes: &[u8]) -> Checksum {
        debug_assert!(bytes.len().is_multiple_of(8));
        match order {
            ByteOrder::Little => self.fold(bytes, u32::from_le_bytes),
            ByteOrder::Big => self.fold(bytes, u32::from_be_bytes),
        }
    }

    #[inline]
    fn fold(self, bytes: &[u8], word: impl Fn([u8; 4]) -> u32) -> Checksum {
        let (mut a, mut b) = (self.0, self.1);
        let (pairs, _) = bytes.as_chunks::<8>();
        for &[p, q, r, s, t, u, v, w] in pairs {
            a = a.wrapping_add(word([p, q, r, s])).wrapping_add(b);
            b = b.wrapping_add(word([t, u, v, w])).wrapping_add(a);
        }
        Checksum(a, b)
    }

    /// Continues this checksum over one frame: the first 8 bytes of its header, and its page.
    ///
    /// `frame` is the header and the page.
    pub fn over_frame(self, order: ByteOrder, frame: &[u8]) -> Checksum {
        self.over(order, &frame[..8]).over(order, &frame[FRAME_HEADER..])
    }
}

/// The header of a WAL file, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalHeader {
    pub order: ByteOrder,
    pub page_size: PageSize,
    /// How often this WAL was restarted, as far as the writing connection knew. Not a reliable counter.
    pub checkpoint: u32,
    pub salt: Salt,
    /// Where the chain of frame checksums begins.
    pub checksum: Checksum,
}

impl WalHeader {
    /// Errors: [`Kind::Corrupt`], naming the field that is wrong.
    pub fn parse(bytes: &[u8; WAL_HEADER]) -> Result<WalHeader> {
        let bad = |what: String| Error::new(Kind::Corrupt, format!("WAL header: {what}"));
        let magic = be32(bytes, 0);
        let order = match magic {
            MAGIC => ByteOrder::Little,
            m if m == MAGIC | 1 => ByteOrder::Big,
            m => return Err(bad(format!("expected magic {MAGIC:08x}, found {m:08x}"))),
        };
        let version = be32(bytes, 4);
        if version != WAL_VERSION {
            return Err(bad(format!("expected version {WAL_VERSION}, found {version}")));
        }
        let checksum = Checksum::default().over(order, &bytes[..24]);
        let stored = Checksum(be32(bytes, 24), be32(bytes, 28));
        if checksum != stored {
            return Err(bad(format!("expected checksum {checksum:x?}, found {stored:x?}")));
        }
        Ok(WalHeader {
            order,
            page_size: PageSize::new(be32(bytes, 8))?,
            checkpoint: be32(bytes, 12),
            salt: Salt(be32(bytes, 16), be32(bytes, 20)),
            checksum,
        })
    }

    /// The 32 bytes that [`WalHeader::parse`] reads back; `checksum` is computed again.
    pub fn encode(&self) -> [u8; WAL_HEADER] {
        let magic = match self.order {
            ByteOrder::Little => MAGIC,
            ByteOrder::Big => MAGIC | 1,
        };
        let mut bytes = [0; WAL_HEADER];
        let words = [magic, WAL_VERSION, self.page_size.get(), self.checkpoint, self.salt.0, self.salt.1];
        for (at, word) in words.into_iter().enumerate() {
            bytes[at * 4..at * 4 + 4].copy_from_slice(&word.to_be_bytes());
        }
        let sum = Checksum::default().over(self.order, &bytes[..24]);
        bytes[24..28].copy_from_slice(&sum.0.to_be_bytes());
        bytes[28..32].copy_from_slice(&sum.1.to_be_bytes());
        bytes
    }
}

/// The 24 bytes before a page. Nothing is checked yet: [`FrameChecksum`] does that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// The page, counted from 1.
    pub page: u32,
    /// The size of the database in pages after this frame if it ends a transaction, else 0.
    pub commit: u32,
    pub salt: Salt,
    pub checksum: Checksum,
}

impl FrameHeader {
    pub fn parse(bytes: &[u8; FRAME_HEADER]) -> FrameHeader {
        FrameHeader {
            page: be32(bytes, 0),
            commit: be32(bytes, 4),
            salt: Salt(be32(bytes, 8), be32(bytes, 12)),
            checksum: Checksum(be32(bytes, 16), be32(bytes, 20)),
        }
    }

    /// The header of the first frame in `bytes`, if that many are there.
    pub fn first(bytes: &[u8]) -> Option<FrameHeader> {
        bytes.first_chunk().map(FrameHeader::parse)
    }

    /// Whether SQLite left salt and checksum zero.
    ///
    /// SQLite 3.11 to 3.50.1 does so in frames that were written twice within a transaction with a ROLLBACK TO between
    /// (forum post b490f726db). Such a frame is good if the wal-index covers it, but it breaks the chain.
    pub fn is_unchecksummed(&self) -> bool {
        self.salt == Salt(0, 0) && self.checksum == Checksum(0, 0)
    }
}

/// Follows the checksums of one WAL from frame to frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameChecksum {
    order: ByteOrder,
    salt: Salt,
    sum: Checksum,
    /// The last frame was unsealed: the next sealed one is where the chain starts again.
    unknown: bool,
}

impl FrameChecksum {
    /// A chain that continues after a frame (or header) whose checksum is `sum`.
    pub fn new(order: ByteOrder, salt: Salt, sum: Checksum) -> FrameChecksum {
        FrameChecksum { order, salt, sum, unknown: false }
    }

    /// A chain that continues after an unsealed frame: the next sealed one is where it starts again.
    pub fn unknown(order: ByteOrder, salt: Salt) -> FrameChecksum {
        FrameChecksum { order, salt, sum: Checksum::default(), unknown: true }
    }

    /// Takes one frame: its header and page.
    ///
    /// Errors: [`Kind::Corrupt`] if it does not follow. The chain is then unchanged.
    pub fn push(&mut self, frame: &[u8]) -> Result<FrameHeader> {
        let Some(header) = FrameHeader::first(frame) else {
            return Err(Error::new(
                Kind::Corrupt,
                format!("frame: expected a header of 24 bytes, found {}", frame.len()),
            ));
        };
        if header.is_unchecksummed() {
            self.unknown = true;
            return Ok(header);
        }
        if header.salt != self.salt {
            return Err(mismatch("salt", format!("{:x?}", self.salt), format!("{:x?}", header.salt)));
        }
        if !self.unknown {
            let sum = self.sum.over_frame(self.order, frame);
            if sum != header.checksum {
                return Err(mismatch("checksum", format!("{sum:x?}"), format!("{:x?}", header.checksum)));
            }
        }
        self.sum = header.checksum;
        self.unknown = false;
        Ok(header)
    }

    /// The checksum after the last frame; none while the chain is broken by an unsealed frame.
    pub fn sum(&self) -> Option<Checksum> {
        (!self.unknown).then_some(self.sum)
    }

    pub fn order(&self) -> ByteOrder {
        self.order
    }

    pub fn salt(&self) -> Salt {
        self.salt
    }
}

fn mismatch(what: &str, expected: String, found: String) -> Error {
    Error::new(Kind::Corrupt, format!("frame {what}: expected {expected}, found {found}"))
}

/// The big-endian word at `at`, which the caller's array type has bounded.
fn be32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{SQLITE_WAL, Wal, wal};

    const ORDERS: [ByteOrder; 2] = [ByteOrder::Little, ByteOrder::Big];

    fn header(bytes: &[u8]) -> Result<WalHeader> {
        WalHeader::parse(bytes.first_chunk().unwrap())
    }

    fn frames(wal: &Wal) -> std::slice::ChunksExact<'_, u8> {
        wal.bytes[WAL_HEADER..].chunks_exact(wal.header.page_size.frame())
    }

    #[test]
    fn a_wal_that_sqlite_wrote_is_understood_to_its_last_byte() {
        let found = header(SQLITE_WAL).unwrap();
        assert_eq!(found.order, ByteOrder::Little);
        assert_eq!(found.page_size.get(), 512);
        assert_eq!(found.salt, Salt(0xcb71_4025, 0x4372_70c0));
        assert_eq!(found.encode(), SQLITE_WAL[..WAL_HEADER]);
        let mut chain = FrameChecksum::new(found.order, found.salt, found.checksum);
        let frames = SQLITE_WAL[WAL_HEADER..].chunks_exact(found.page_size.frame());
        let frames: Vec<_> = frames.map(|frame| chain.push(frame).unwrap()).collect();
        let pages: Vec<_> = frames.iter().map(|frame| (frame.page, frame.commit)).collect();
        assert_eq!(pages, [(1, 0), (2, 2), (2, 2), (1, 0), (2, 0), (3, 3)]);
        assert_eq!(chain.sum(), Some(Checksum(0xf604_338a, 0x404d_a135)));
    }

    #[test]
    fn both_byte_orders_and_all_page_sizes_chain() {
        for order in ORDERS {
            for exponent in 9..=16 {
                let mut wal = Wal::new(order, 1 << exponent, Salt(1, u32::MAX));
                wal.frame(1, 0).frame(2, 2).frame(1, 2);
                let found = header(&wal.bytes).unwrap();
                assert_eq!((found.order, found.page_size.get()), (order, 1 << exponent));
                let mut chain = FrameChecksum::new(order, found.salt, found.checksum);
                for frame in frames(&wal) {
                    chain.push(frame).unwrap();
                }
                assert_eq!(chain.sum(), Some(wal.batch(0, 0, 3, 0).checksum_after));
            }
        }
    }

    #[test]
    fn the_byte_order_of_the_checksum_matters() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        let little = Checksum::default().over(ByteOrder::Little, &bytes);
        assert_eq!(little, Checksum(0x0403_0201, 0x0c0a_0806));
        let big = Checksum::default().over(ByteOrder::Big, &bytes);
        assert_eq!(big, Checksum(0x0102_0304, 0x0608_0a0c));
        assert_eq!(Checksum(u32::MAX, 0).over(ByteOrder::Little, &bytes), Checksum(0x0403_0200, 0x0c0a_0805));
    }

    /// A header with one word replaced, and its checksum put right if `sealed`.
    fn forged(at: usize, word: u32, sealed: bool) -> [u8; WAL_HEADER] {
        let mut bytes = *SQLITE_WAL.first_chunk().unwrap();
        bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
        if sealed {
            let sum = Checksum::default().over(ByteOrder::Little, &bytes[..24]);
            bytes[24..28].copy_from_slice(&sum.0.to_be_bytes());
            bytes[28..32].copy_from_slice(&sum.1.to_be_bytes());
        }
        bytes
    }

    #[test]
    fn a_bad_wal_header_is_refused_by_the_field_that_is_wrong() {
        let table = [
            (0, 0x377f_0684, true, "WAL header: expected magic 377f0682, found 377f0684"),
            (0, 0, true, "WAL header: expected magic 377f0682, found 00000000"),
            (4, 3_007_001, true, "WAL header: expected version 3007000, found 3007001"),
            (8, 1, true, "page size 1: expected a power of two from 512 to 65536"),
            (8, 131_072, true, "page size 131072: expected a power of two from 512 to 65536"),
            (24, 0, false, "WAL header: expected checksum fa0b74de.7255bec6, found 00000000.7255bec6"),
        ];
        for (at, word, sealed, text) in table {
            let error = header(&forged(at, word, sealed)).unwrap_err();
            assert_eq!((error.kind(), error.message()), (Kind::Corrupt, text));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_in_the_wal_header_is_seen() {
        for bit in 0..WAL_HEADER * 8 {
            let mut bytes = SQLITE_WAL[..WAL_HEADER].to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(header(&bytes).unwrap_err().kind(), Kind::Corrupt, "bit {bit}");
        }
    }

    #[test]
    fn flipped_bit_in_a_frame_is_detected_and_changes_nothing() {
        let wal = wal();
        let good = frames(&wal).next().unwrap();
        for bit in 0..good.len() * 8 {
            let mut chain = FrameChecksum::new(wal.header.order, wal.header.salt, wal.header.checksum);
            let before = chain;
            let mut frame = good.to_vec();
            frame[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(chain.push(&frame).unwrap_err().kind(), Kind::Corrupt, "bit {bit}");
            assert_eq!(chain, before);
        }
    }

    #[test]
    fn a_frame_of_another_wal_or_out_of_turn_is_refused() {
        let wal = wal();
        let mut chain = FrameChecksum::new(wal.header.order, Salt(7, 9), wal.header.checksum);
        let error = chain.push(frames(&wal).next().unwrap()).unwrap_err();
        assert_eq!(error.message(), "frame salt: expected 00000007.00000009, found 00000007.00000008");
        let mut chain = FrameChecksum::new(wal.header.order, wal.header.salt, wal.header.checksum);
        let error = chain.push(frames(&wal).nth(1).unwrap()).unwrap_err();
        assert!(error.message().starts_with("frame checksum: expected "), "{error}");
        let error = chain.push(&[0; 23]).unwrap_err();
        assert_eq!(error.message(), "frame: expected a header of 24 bytes, found 23");
    }

    #[test]
    fn the_chain_begins_anew_behind_an_unsealed_frame() {
        let mut wal = Wal::new(ByteOrder::Big, 512, Salt(3, 4));
        wal.frame(1, 0).unchecksummed_frame(2, 0).unchecksummed_frame(3, 3).frame(1, 3).frame(2, 3);
        let mut chain = FrameChecksum::new(ByteOrder::Big, Salt(3, 4), wal.header.checksum);
        let known: Vec<_> = frames(&wal)
            .map(|frame| {
                chain.push(frame).unwrap();
                chain.sum().is_some()
            })
            .collect();
        assert_eq!(known, [true, false, false, true, true]);

        let mut late = FrameChecksum::unknown(ByteOrder::Big, Salt(3, 4));
        assert_eq!(late.sum(), None);
        let mut rest = frames(&wal).skip(3);
        late.push(rest.next().unwrap()).unwrap();
        let mut bad = rest.next().unwrap().to_vec();
        bad[30] ^= 1;
        assert_eq!(late.push(&bad).unwrap_err().kind(), Kind::Corrupt);
    }
}

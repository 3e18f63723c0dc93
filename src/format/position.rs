//! Where a commit is: `generation/index:offset`, all in lower-case hex.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Kind, Result};
use crate::format::wal_layout::WAL_HEADER;

pub use crate::format::wal_layout::PageSize;

/// An unbroken run of changes that starts with a snapshot: 16 hex digits.
///
/// The upper 48 bits are the wall clock in milliseconds when it began, and the lower 16 are random, so that two hosts do
/// not meet. It is greater than every number that was stored then, so that generations sort by age: see
/// [`crate::format::generation_number`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

impl Generation {
    pub fn new(raw: u64) -> Generation {
        Generation(raw)
    }

    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Generation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Generation> {
        parse_hex_exact(text, 16)
            .map(Generation)
            .ok_or_else(|| Error::new(Kind::Usage, format!("generation {text:?}: expected 16 lower-case hex digits")))
    }
}

/// A byte in a WAL file: 0, or just after the header or a frame.
///
/// At most 48 bits, which the 2^32 frames of 64 KiB that SQLite can count never fill in practice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(u64);

impl Offset {
    pub const ZERO: Offset = Offset(0);
    pub const MAX: u64 = (1 << 48) - 1;

    /// Errors: [`Kind::Corrupt`] past 48 bits.
    pub fn new(bytes: u64) -> Result<Offset> {
        if bytes <= Self::MAX {
            return Ok(Offset(bytes));
        }
        Err(Error::new(Kind::Corrupt, format!("WAL offset {bytes}: expected at most {}", Self::MAX)))
    }

    /// The offset after frame `frame`, counted from 1; 0 for frame 0, where not even the header is copied.
    pub fn end_of_frame(frame: u32, page_size: PageSize) -> Offset {
        if frame == 0 {
            return Offset::ZERO;
        }
        Offset(WAL_HEADER as u64 + u64::from(frame) * page_size.frame() as u64)
    }

    /// The frame that ends here, counted from 1; 0 at the start; none if no frame of this page size ends here.
    pub fn frame(self, page_size: PageSize) -> Option<u32> {
        if self.0 == 0 {
            return Some(0);
        }
        let body = self.0.checked_sub(WAL_HEADER as u64)?;
        let size = page_size.frame() as u64;
        if body == 0 || body % size != 0 {
            return None;
        }
        u32::try_from(body / size).ok()
    }

    /// In bytes.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl fmt::Debug for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A position within one generation: the n-th WAL (its index) and an offset in it. Ordered as the commits were.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalPosition {
    pub index: u32,
    pub offset: Offset,
}

impl fmt::Display for WalPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}:{}", self.index, self.offset)
    }
}

impl fmt::Debug for WalPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `generation/index:offset`. Two positions compare only within a generation, so there is no order on this type.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    pub generation: Generation,
    pub wal_position: WalPosition,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.generation, self.wal_position)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Position {
    type Err = Error;

    /// Errors: [`Kind::Usage`]. Leading zeros of index and offset may be left out.
    fn from_str(text: &str) -> Result<Position> {
        parse_position(text).ok_or_else(|| {
            Error::new(Kind::Usage, format!("position {text:?}: expected generation/index:offset in lower-case hex"))
                .with_hint("the `wal` command lists the stored positions")
        })
    }
}

fn parse_position(text: &str) -> Option<Position> {
    let (generation, point) = text.split_once('/')?;
    let (index, offset) = point.split_once(':')?;
    Some(Position {
        generation: generation.parse().ok()?,
        wal_position: WalPosition {
            index: parse_hex_up_to(index, 8)? as u32,
            offset: Offset::new(parse_hex_up_to(offset, 12)?).ok()?,
        },
    })
}

/// Exactly `digits` lower-case hex digits.
pub(super) fn parse_hex_exact(text: &str, digits: usize) -> Option<u64> {
    if text.len() != digits {
        return None;
    }
    parse_hex_up_to(text, digits)
}

fn parse_hex_up_to(text: &str, most: usize) -> Option<u64> {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.is_empty() || text.len() > most || !text.bytes().all(lower) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_as_it_was_written() {
        let position = Position {
            generation: Generation::new(0x019a_af3c_5d10_a1b2),
            wal_position: WalPosition { index: 3, offset: Offset::new(0x1068).unwrap() },
        };
        assert_eq!(position.to_string(), "019aaf3c5d10a1b2/00000003:000000001068");
        assert_eq!(position.to_string().parse::<Position>().unwrap(), position);
        assert_eq!("019aaf3c5d10a1b2/3:1068".parse::<Position>().unwrap(), position);
    }

    #[test]
    fn anything_else_is_refused_as_a_position() {
        for text in [
            "",
            "/",
            "1/2:3",
            "019aaf3c5d10a1b2/3",
            "019AAF3C5D10A1B2/3:4",
            "019aaf3c5d10a1b2/3:-4",
            "019aaf3c5d10a1b2/:",
        ] {
            let error = text.parse::<Position>().unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{text}");
        }
    }

    #[test]
    fn page_sizes_are_those_of_sqlite() {
        for exponent in 9..=16 {
            assert!(PageSize::new(1 << exponent).is_ok());
        }
        for bad in [0, 1, 256, 511, 513, 4095, 131_072] {
            assert_eq!(PageSize::new(bad).unwrap_err().kind(), Kind::Corrupt, "{bad}");
        }
    }

    #[test]
    fn an_offset_knows_the_frame_that_ends_there() {
        let size = PageSize::new(4096).unwrap();
        assert_eq!(Offset::end_of_frame(0, size), Offset::ZERO);
        assert_eq!(Offset::end_of_frame(1, size).get(), 32 + 4120);
        for frame in [0, 1, 2, 1000, u32::MAX] {
            assert_eq!(Offset::end_of_frame(frame, size).frame(size), Some(frame));
        }
        for bytes in [1, 32, 33, 4120, 32 + 4119] {
            assert_eq!(Offset::new(bytes).unwrap().frame(size), None, "{bytes}");
        }
    }
}

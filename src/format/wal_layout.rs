//! How a WAL file is laid out: a header, and frames of one page each (sqlite.org/fileformat2.html#walformat).

use std::fmt;

use crate::error::{Error, Kind, Result};

/// Bytes of the header at the start of a WAL file.
pub const WAL_HEADER: usize = 32;
/// Bytes of the header before each page.
pub const FRAME_HEADER: usize = 24;

/// The size of a page in bytes: a power of two from 512 to 65536.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageSize(u32);

impl fmt::Debug for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl PageSize {
    pub const MIN: PageSize = PageSize(512);
    pub const MAX: PageSize = PageSize(65_536);

    /// Errors: [`Kind::Corrupt`] for anything that SQLite cannot have written.
    pub fn new(bytes: u32) -> Result<PageSize> {
        if bytes.is_power_of_two() && (Self::MIN.0..=Self::MAX.0).contains(&bytes) {
            return Ok(PageSize(bytes));
        }
        Err(Error::new(Kind::Corrupt, format!("page size {bytes}: expected a power of two from 512 to 65536")))
    }

    /// In bytes.
    pub fn get(self) -> u32 {
        self.0
    }

    /// Bytes of one frame in a WAL: a 24-byte header and the page.
    pub fn frame(self) -> usize {
        FRAME_HEADER + self.0 as usize
    }
}

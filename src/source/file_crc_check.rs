//! A database file read whole, to tell whether it is the one that is stored.

use rusqlite::Connection;

use crate::error::Result;
use crate::format::crc32::Crc32;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::position::PageSize;
use crate::format::running_checksum::RunningChecksum;
use crate::source::bases::EarlyPages;
use crate::source::connection;

/// The lock-byte page lies here in databases that are large enough; SQLite never writes it (sqlite.org/fileformat2.html#lockbyte).
const PENDING_BYTE: u64 = 1 << 30;

/// How far a database file has been read to tell whether it is the one that is stored.
#[derive(Debug)]
pub struct FileCrcCheck {
    pub(super) pages: u32,
    /// The crc32 of what is stored; none where its checksum is known and will do.
    expected: Option<u32>,
    pub(super) checksum: Option<DatabaseChecksum>,
    crc: Crc32,
    running: Option<RunningChecksum>,
    pub(super) early: EarlyPages,
    at: u64,
}

impl FileCrcCheck {
    pub fn new(pages: u32, expected: Option<u32>, checksum: Option<DatabaseChecksum>) -> FileCrcCheck {
        FileCrcCheck {
            pages,
            expected,
            checksum,
            crc: Crc32::default(),
            running: None,
            early: EarlyPages::default(),
            at: 0,
        }
    }

    /// Whether nothing has been read yet.
    pub(super) fn is_at_start(&self) -> bool {
        self.at == 0
    }

    /// Whether what was read is what is stored.
    pub(super) fn is_expected(&self) -> bool {
        let sum = self.running.map(|running| running.sum());
        let same = self.expected.is_none_or(|expected| self.crc.clone().finish() == expected);
        same && self.checksum.is_none_or(|expected| sum == Some(expected))
    }
}

/// Adds the next piece of a database file to its crc32, as a snapshot of it would have it. True at its end.
pub(super) fn update_file_crc(
    connection: &Connection,
    check: &mut FileCrcCheck,
    length: u64,
    page_size: u32,
    buffer: &mut [u8],
) -> Result<bool> {
    let left = usize::try_from(length.saturating_sub(check.at)).unwrap_or(usize::MAX).min(buffer.len());
    let piece = &mut buffer[..left];
    if !piece.is_empty() {
        connection::read_file(connection, check.at, piece)?;
        blank_lock_page(check.at, page_size as usize, piece);
        check.crc.update(piece);
        let size = PageSize::new(page_size)?;
        let running = check.running.get_or_insert_with(|| RunningChecksum::new(size));
        for page in piece.chunks_exact(page_size as usize) {
            running.push(page);
            check.early.keep(running.extent(), page);
        }
        check.at += left as u64;
    }
    Ok(check.at >= length)
}

/// What a file has in the lock-byte page is no part of the database.
pub(super) fn blank_lock_page(start: u64, size: usize, bytes: &mut [u8]) {
    if let Some(at) = PENDING_BYTE.checked_sub(start)
        && let Some(page) = bytes.get_mut(at as usize..).and_then(|rest| rest.get_mut(..size))
    {
        page.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_byte_page_is_blank_and_its_neighbours_are_not() {
        let mut bytes = vec![1u8; 3 * 4096];
        blank_lock_page(PENDING_BYTE - 4096, 4096, &mut bytes);
        assert!(bytes[..4096].iter().chain(&bytes[8192..]).all(|b| *b == 1));
        assert!(bytes[4096..8192].iter().all(|b| *b == 0));
        let mut bytes = vec![1u8; 4096];
        blank_lock_page(PENDING_BYTE + 4096, 4096, &mut bytes);
        blank_lock_page(0, 4096, &mut bytes);
        assert!(bytes.iter().all(|b| *b == 1));
    }
}

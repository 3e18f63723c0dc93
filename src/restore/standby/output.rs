//! A transaction in a copy, as the place where restored pages go.

use std::cell::Cell;
use std::path::Path;

use crate::directory::free_bytes;
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::position::PageSize;
use crate::restore::page_output::PageOutput;
use crate::restore::to_file::room_for;
use crate::source::page_writer::{Transaction, WAL_VERSIONS};

/// Where a database says by which versions it is written and read.
const FILE_FORMAT_VERSIONS: std::ops::Range<usize> = 18..20;

/// Puts a first page into WAL mode, and gives what it said before; none if it is no first page.
pub fn to_wal_mode(first: &mut [u8]) -> Option<[u8; 2]> {
    let place = first.get_mut(FILE_FORMAT_VERSIONS)?;
    let before = [place[0], place[1]];
    place.copy_from_slice(&WAL_VERSIONS);
    Some(before)
}

/// The first page as it is in the database that is followed.
pub fn from_wal_mode(first: &mut [u8], versions: [u8; 2]) {
    if let Some(place) = first.get_mut(FILE_FORMAT_VERSIONS) {
        place.copy_from_slice(&versions);
    }
}

/// A transaction that takes the pages.
pub struct TransactionOutput<'t, 'w> {
    pub transaction: &'t mut Transaction<'w>,
    pub page_size: PageSize,
    pub directory: &'t Path,
    /// What the database says where the copy says WAL mode.
    pub versions: &'t Cell<[u8; 2]>,
}

impl TransactionOutput<'_, '_> {
    fn number(&self, at: u64) -> Result<u32> {
        let number = at / u64::from(self.page_size.get()) + 1;
        u32::try_from(number)
            .map_err(|_| Error::new(Kind::Corrupt, format!("page {number}: beyond the largest database")))
    }
}

impl PageOutput for TransactionOutput<'_, '_> {
    fn write_at(&mut self, at: u64, page: &[u8]) -> Result<()> {
        fault::point("restore.write")?;
        let number = self.number(at)?;
        if number != 1 {
            return self.transaction.write(number, page);
        }
        let mut first = page.to_vec();
        if let Some(versions) = to_wal_mode(&mut first) {
            self.versions.set(versions);
        }
        self.transaction.write(number, &first)
    }

    fn read_at(&mut self, at: u64, page: &mut [u8]) -> Result<()> {
        let number = self.number(at)?;
        self.transaction.read(number, page)?;
        if number == 1 {
            from_wal_mode(page, self.versions.get());
        }
        Ok(())
    }

    fn set_len(&mut self, bytes: u64) -> Result<()> {
        let pages = self.number(bytes)? - 1;
        self.transaction.cut(pages);
        Ok(())
    }

    fn expect(&mut self, bytes: u64) -> Result<()> {
        room_for(bytes, free_bytes(self.directory), self.directory)
    }
}

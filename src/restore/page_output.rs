//! Where the pages of a database go that is restored.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use crate::directory::free_bytes_beside;
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::key::SnapshotKey;
use crate::format::origin::DatabaseOrigin;
use crate::format::position::PageSize;
use crate::format::running_checksum::RunningChecksum;

/// A frame or a commit that makes the database longer by so many bytes at once must find room for them: a few bytes can
/// ask for a database of any size.
const LEAP_BYTES: u64 = 1 << 20;

/// Where the pages go.
pub trait PageOutput {
    /// Stores `page` at byte `at`.
    fn write_at(&mut self, at: u64, page: &[u8]) -> Result<()>;
    /// Fills `page` with what is at byte `at`: zeros where nothing was written.
    fn read_at(&mut self, at: u64, page: &mut [u8]) -> Result<()>;
    /// Cuts or extends to `bytes`.
    fn set_len(&mut self, bytes: u64) -> Result<()>;

    /// About so many bytes more will be written. Called before the first of them.
    ///
    /// Errors: where there is no room for them.
    fn expect(&mut self, bytes: u64) -> Result<()>;

    /// Of which database it is, where that is stored. Called before the first byte is written.
    ///
    /// Errors: where it must not be written there.
    fn origin(&mut self, _origin: &DatabaseOrigin, _snapshot: &SnapshotKey) -> Result<()> {
        Ok(())
    }
}

impl PageOutput for &File {
    fn write_at(&mut self, at: u64, page: &[u8]) -> Result<()> {
        fault::point("restore.write")?;
        self.write_all_at(page, at).map_err(|e| Error::io(Kind::Database, "write the output", &e))
    }

    fn read_at(&mut self, at: u64, page: &mut [u8]) -> Result<()> {
        let failed = |e: std::io::Error| Error::io(Kind::Database, "read the output", &e);
        let mut have = 0;
        while have < page.len() {
            match FileExt::read_at(*self, &mut page[have..], at + have as u64) {
                Ok(0) => break,
                Ok(count) => have += count,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
        }
        page[have..].fill(0);
        Ok(())
    }

    fn set_len(&mut self, bytes: u64) -> Result<()> {
        fault::point("restore.resize")?;
        File::set_len(self, bytes).map_err(|e| Error::io(Kind::Database, "set the size of the output", &e))
    }

    fn expect(&mut self, bytes: u64) -> Result<()> {
        match free_bytes_beside(self) {
            Some(free) if free < bytes => {
                Err(Error::new(Kind::Database, format!("output: expected room for {bytes} bytes, found {free}")))
            }
            _ => Ok(()),
        }
    }
}

/// Asks for room where the database is about to become so many pages long at once.
pub fn expect_growth<O: PageOutput>(
    output: &mut O,
    running: &RunningChecksum,
    pages: u32,
    size: PageSize,
) -> Result<()> {
    let growth = u64::from(pages.saturating_sub(running.extent())) * u64::from(size.get());
    if growth >= LEAP_BYTES { output.expect(growth) } else { Ok(()) }
}

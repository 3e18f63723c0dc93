//! The pages of a database that a comparison has read.

use crate::error::Result;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::position::PageSize;
use crate::format::running_checksum::RunningChecksum;

/// The pages that were read so far, and have followed all frames since.
#[derive(Clone, Copy, Debug)]
pub(super) struct ComparedPages(pub(super) RunningChecksum);

impl ComparedPages {
    pub(super) fn new(page_size: PageSize) -> ComparedPages {
        ComparedPages(RunningChecksum::new(page_size))
    }

    /// A frame of this page has changed the checksum of the database.
    pub(super) fn follow(&mut self, page: u32, before: &RunningChecksum, behind: &RunningChecksum) {
        if page <= self.0.extent() {
            let change = behind.sum().get().wrapping_sub(before.sum().get());
            self.0 = self.0.moved_by(DatabaseChecksum::new(change));
        }
    }

    /// The database ends after this page. `read` fills a page that is cut off with what it held.
    pub(super) fn cut(
        &mut self,
        pages: u32,
        read: &mut dyn FnMut(u32, &mut [u8]) -> Result<()>,
        page: &mut [u8],
    ) -> Result<()> {
        if pages < self.0.extent() {
            self.0.commit(pages, read, page)?;
        }
        Ok(())
    }
}

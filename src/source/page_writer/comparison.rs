//! A database to which pages are written, compared with its checksum a piece at a time.
//!
//! The pages are read in order, each as it was committed. From then on the checksum of those that were read follows each
//! transaction, by what the changed pages held and what they hold now. When the last page is read, it is that of the whole
//! database. A page that was changed past SQLite, or that the disk gives back otherwise, tells:
//!
//! * While it is read before a transaction writes it, it is not what the checksum of the database counts.
//! * If a transaction writes it first, what it held was read from the file. Then both checksums go without what was
//!   applied before, and the one that is stored with the next segment differs.
//! * If it is changed after it was read, the next pass finds it.
//!
//! The lock of the writer keeps everybody else's frames out. It takes the memory of one checksum.

use crate::error::{Kind, Result};
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::running_checksum::RunningChecksum;
use crate::source::comparison::Comparison;
use crate::source::page_writer::PageWriter;
use crate::source::page_writer::transaction::Transaction;

impl PageWriter {
    /// Reads the next pages, about `bytes` of them, to compare all with `expected`, the first page seen through `first`. A pass
    /// that has come to its end says so once.
    ///
    /// Errors: of kind `AnotherDatabase`, if another process has written to it. The pass begins again.
    pub fn compare(
        &mut self,
        bytes: usize,
        expected: DatabaseChecksum,
        first: &dyn Fn(&mut [u8]),
    ) -> Result<Comparison> {
        match self.hold_write_lock() {
            Err(error) if error.kind() == Kind::DatabaseNotReady => return Ok(Comparison::Waiting),
            held => held?,
        }
        let size = self.page_size.get() as usize;
        let mut read = self.compared.take().unwrap_or_else(|| RunningChecksum::new(self.page_size));
        let mut page = vec![0; size];
        for _ in 0..(bytes / size).max(1) {
            if read.extent() < self.pages() {
                self.read(read.extent() + 1, &mut page)?;
                read.push(&page);
            }
        }
        if read.extent() < self.pages() {
            self.compared = Some(read);
            return Ok(Comparison::Going);
        }
        self.read(1, &mut page)?;
        let mut seen = page.clone();
        first(&mut seen);
        read.frame(1, &page, &seen);
        Ok(if read.sum() == expected { Comparison::Equal } else { Comparison::Differs })
    }
}

impl Transaction<'_> {
    /// The pages that were compared so far, after this transaction, which ends with so many pages.
    pub(super) fn compared_after(&self, pages: u32) -> Result<Option<RunningChecksum>> {
        let Some(mut compared) = self.writer.compared else { return Ok(None) };
        let size = self.writer.page_size.get() as usize;
        let (mut old, mut new) = (vec![0; size], vec![0; size]);
        let kept = compared.extent().min(pages);
        for (number, frame) in self.written.iter().filter(|(number, _)| **number <= kept) {
            self.writer.read(*number, &mut old)?;
            self.writer.log.read(*frame, &mut new)?;
            compared.frame(*number, &old, &new);
        }
        if pages < compared.extent() {
            compared.commit(pages, &mut |number, page| self.writer.read(number, page), &mut old)?;
        }
        Ok(Some(compared))
    }
}

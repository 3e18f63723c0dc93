//! The net change of a stretch of history: what becomes of each page, as a function of the page before all of it.
//!
//! Page functions compose without any page, so nothing but the stored changes is needed. Where a commit made the database
//! shorter, the pages after its end are zeros from then on: what follows is composed onto zeros, and is whole. That is why a
//! net change carries the smallest size that the database had: anyone who applies it cuts the database to that first.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::format::page_delta::PageDelta;
use crate::format::position::PageSize;

/// Bytes of memory that a page takes besides its function.
const PAGE_OVERHEAD: usize = 96;

/// The pages from one number on, as far as there is memory for them.
pub struct NetChange {
    from: u32,
    /// The last page that there was room for.
    upto: u32,
    max_bytes: usize,
    bytes: usize,
    pages: BTreeMap<u32, PageDelta>,
    /// The smallest size at a commit; none before the first one.
    least: Option<u32>,
    /// The size at the last commit.
    size: u32,
    zeros: PageDelta,
}

impl NetChange {
    /// Of the pages from number `from` on, in about `max_bytes` of memory: what does not fit is left to another pass.
    pub fn new(page_size: PageSize, from: u32, max_bytes: usize) -> NetChange {
        let zeros = PageDelta::whole(&vec![0; page_size.get() as usize]);
        NetChange { from, upto: u32::MAX, max_bytes, bytes: 0, pages: BTreeMap::new(), least: None, size: 0, zeros }
    }

    /// Page `number` is changed by `delta`.
    ///
    /// Errors: of kind `Corrupt`, for a page of another size.
    pub fn page(&mut self, number: u32, delta: PageDelta) -> Result<()> {
        if !(self.from..=self.upto).contains(&number) {
            return Ok(());
        }
        let before = self.remove(number);
        let cut_off = self.least.is_some_and(|least| number > least);
        let both = match before {
            Some(before) => before.then(&delta)?,
            None if cut_off => self.zeros.then(&delta)?,
            None => delta,
        };
        self.bytes += bytes_of(&both);
        self.pages.insert(number, both);
        while self.bytes > self.max_bytes && self.pages.len() > 1 {
            self.drop_last();
        }
        Ok(())
    }

    /// A transaction ends, and the database has so many pages.
    pub fn commit(&mut self, pages: u32) {
        while let Some((number, _)) = self.pages.last_key_value().filter(|(number, _)| **number > pages) {
            let number = *number;
            self.remove(number);
        }
        self.least = Some(self.least.map_or(pages, |least| least.min(pages)));
        self.size = pages;
    }

    /// The smallest size of the database at a commit, in pages.
    pub fn least(&self) -> u32 {
        self.least.unwrap_or(0)
    }

    /// The size of the database after the last commit, in pages.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The pages that are changed, in order.
    pub fn pages(&self) -> impl Iterator<Item = (u32, &PageDelta)> {
        self.pages.iter().map(|(number, delta)| (*number, delta))
    }

    /// Where the next pass over the same changes must begin; none if there was room for all pages.
    pub fn next_pass(&self) -> Option<u32> {
        (self.upto < u32::MAX).then(|| self.upto + 1)
    }

    fn remove(&mut self, number: u32) -> Option<PageDelta> {
        let removed = self.pages.remove(&number)?;
        self.bytes -= bytes_of(&removed);
        Some(removed)
    }

    fn drop_last(&mut self) {
        if let Some((number, delta)) = self.pages.pop_last() {
            self.bytes -= bytes_of(&delta);
            self.upto = number - 1;
        }
    }
}

fn bytes_of(delta: &PageDelta) -> usize {
    PAGE_OVERHEAD + delta.memory()
}

#[cfg(test)]
mod tests;

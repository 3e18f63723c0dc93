//! One transaction: pages that become visible together, or not at all.

use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::source::page_writer::PageWriter;
use crate::source::page_writer::index::Published;
use crate::source::page_writer::log::WriteMark;

/// Bytes of pages that wait in memory for the commit: a page that is written again costs one frame. What is more goes into
/// the WAL before, where no reader looks.
const MAX_WAITING: usize = 4 << 20;

/// Pages to write. Dropped without [`Transaction::commit`], nothing has happened.
pub struct Transaction<'a> {
    pub(super) writer: &'a mut PageWriter,
    waiting: BTreeMap<u32, Vec<u8>>,
    /// The frame that holds a page which does not wait any more.
    pub(super) written: HashMap<u32, u32>,
    /// The pages of the frames that were written, in their order.
    pages_of_frames: Vec<u32>,
    /// After the last frame; none before the first.
    end: Option<WriteMark>,
    /// Pages after this one hold nothing but what was written since they were cut off, or were never there.
    kept: u32,
}

impl<'a> Transaction<'a> {
    pub(super) fn begin(writer: &'a mut PageWriter) -> Result<Transaction<'a>> {
        let kept = writer.pages();
        let (waiting, written, pages_of_frames) = (BTreeMap::new(), HashMap::new(), Vec::new());
        Ok(Transaction { writer, waiting, written, pages_of_frames, end: None, kept })
    }

    /// Fills `content` with the page as it is here: zeros where there is none.
    pub fn read(&self, number: u32, content: &mut [u8]) -> Result<()> {
        match (self.waiting.get(&number), self.written.get(&number)) {
            (Some(page), _) => content.copy_from_slice(page),
            (None, Some(frame)) => self.writer.log.read(*frame, content)?,
            (None, None) if number > self.kept => content.fill(0),
            (None, None) => self.writer.read(number, content)?,
        }
        Ok(())
    }

    /// Puts `content`, a whole page, in the place of what was there.
    pub fn write(&mut self, number: u32, content: &[u8]) -> Result<()> {
        if content.len() != self.writer.page_size.get() as usize || number == 0 {
            let what =
                format!("page {number}: expected {} bytes, found {}", self.writer.page_size.get(), content.len());
            return Err(Error::new(Kind::Database, what));
        }
        self.waiting.insert(number, content.to_vec());
        if self.waiting.len() * content.len() > MAX_WAITING {
            self.write_waiting()?;
        }
        Ok(())
    }

    /// Makes the database so many pages long, if it is longer. What is cut off does not show again if it grows.
    pub fn cut(&mut self, pages: u32) {
        self.kept = self.kept.min(pages);
        self.waiting.retain(|number, _| *number <= pages);
        self.written.retain(|number, _| *number <= pages);
    }

    /// Makes everything visible at once, in a database of so many pages.
    pub fn commit(mut self, pages: u32) -> Result<()> {
        self.cut(pages);
        // The file may hold old bytes where nothing was written.
        let blank = vec![0; self.writer.page_size.get() as usize];
        for number in self.kept.saturating_add(1)..=pages {
            if !self.waiting.contains_key(&number) && !self.written.contains_key(&number) {
                self.write(number, &blank)?;
            }
        }
        if self.waiting.is_empty() {
            // Some frame must carry the commit.
            let mut first = blank;
            self.read(1, &mut first)?;
            self.waiting.insert(1, first);
        }
        let last = self.waiting.pop_last();
        self.write_waiting()?;
        if let Some((number, page)) = last {
            self.write_frame(number, pages, &page)?;
        }
        self.publish(pages)
    }

    pub(super) fn write_waiting(&mut self) -> Result<()> {
        for (number, page) in std::mem::take(&mut self.waiting) {
            self.write_frame(number, 0, &page)?;
        }
        Ok(())
    }

    fn write_frame(&mut self, number: u32, commit: u32, page: &[u8]) -> Result<()> {
        let end = match &mut self.end {
            Some(end) => end,
            none => none.insert(self.writer.log_end()?),
        };
        self.writer.log.write(end, number, commit, page)?;
        self.written.insert(number, end.frames);
        self.pages_of_frames.push(number);
        Ok(())
    }

    fn publish(self, pages: u32) -> Result<()> {
        let Some(end) = self.end else { return Ok(()) };
        let after = self.compared_after(pages)?;
        let PageWriter { index, frames, compared, published, page_size, .. } = self.writer;
        for (frame, page) in (published.frames.saturating_add(1)..).zip(&self.pages_of_frames) {
            fault::point("standby.index")?;
            index.append(frame, *page, published.frames)?;
        }
        fault::point("standby.publish")?;
        let WriteMark { frames: last, order, salt, checksum } = end;
        let change = published.change.wrapping_add(1);
        *published = Published { change, order, frames: last, pages, checksum, salt };
        index.publish(published, *page_size);
        frames.extend(self.written);
        *compared = after;
        Ok(())
    }
}

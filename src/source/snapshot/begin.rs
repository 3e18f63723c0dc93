//! A snapshot begins beside a copy: at a commit whose place in the WAL is certain.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::source::resume::WalMark;
use crate::source::snapshot::Snapshot;
use crate::source::snapshot::state::SnapshotState;
use crate::source::wal_file::WalFile;
use crate::source::wal_index::IndexHeader;
use crate::source::wal_pages::WalPages;
use crate::source::{Source, connection};

impl Source {
    /// Begins a snapshot at a commit at or after the one that [`Source::read`] has come to. None if writers were too
    /// fast just now: try again in the next round. Pages that change while it is read wait
    /// in a file in the directory `meta`.
    pub fn snapshot(&mut self, meta: &Path) -> Result<Option<Snapshot>> {
        fault::point("snapshot.begin")?;
        let connection = connection::open(&self.files.path, self.options.busy_timeout)?;
        let before = self.header()?;
        connection::begin_read(&connection)?;
        let pinned = self.header()?;
        let Some(mark) = self.wal_mark(&before, &pinned)? else { return Ok(None) };
        let pages = connection::pragma_number(&connection, "page_count")?;
        let commit = (pinned.salt, pinned.frames);
        let blank = self.blank_pages(&pinned)?;
        let mut state = SnapshotState::new(connection, &self.files.path, meta, mark, commit, pages);
        if !pinned.is_backfilled() {
            let (wal, overlay) = self.overlay(&pinned)?;
            (state.wal, state.overlay) = (Some(wal), overlay);
        }
        state.blank = blank.iter().copied().collect();
        let mut snapshot = Snapshot::new(state);
        snapshot.summed = self.options.differences;
        self.active_snapshots.add(&snapshot.state);
        if self.options.differences {
            snapshot.handle = self.content.borders.add(mark, pages, blank);
            self.reach_borders()?;
        }
        // The pin moves a few times more though nothing changes, so that the transaction of its own soon ends.
        self.pin.idle_repins = 0;
        Ok(Some(snapshot))
    }

    /// The pages of a pin that hold zeros in what is stored, whatever the files have there.
    fn blank_pages(&self, pinned: &IndexHeader) -> Result<BTreeSet<u32>> {
        if !self.options.differences {
            return Ok(BTreeSet::new());
        }
        let known = self.content.bases.as_ref();
        let Some(files) = self.page_files().filter(|_| pinned.frames > 0) else {
            return Ok(known.map(|bases| bases.pages().blank().clone()).unwrap_or_default());
        };
        let (pages, after) = match known {
            Some(bases) => (bases.pages().without_frames(), self.copied.position.frame),
            None => (WalPages::default(), 0),
        };
        Ok(files.wal_pages(pages, after, pinned.frames)?.map(|pages| pages.blank().clone()).unwrap_or_default())
    }

    /// The place of a pin that began between two looks at the wal-index, if it is certain and in the WAL being copied.
    fn wal_mark(&self, before: &IndexHeader, pinned: &IndexHeader) -> Result<Option<WalMark>> {
        if !before.same_commit(pinned) {
            return Ok(None);
        }
        if pinned.frames == 0 {
            // Reset, or not begun yet: the state is that after the last frame of the WAL before. The pins allow a reset
            // only when all of it has been copied, unless the copy has not caught up since the start.
            return Ok(self.copied.passed_first_pin.then(|| self.copied.position.mark()));
        }
        if pinned.salt != self.copied.position.chain.salt() || pinned.frames < self.copied.position.frame {
            return Ok(None);
        }
        Ok(Some(WalMark {
            page_size: self.copied.position.page_size,
            order: pinned.order,
            salt: pinned.salt,
            frame: pinned.frames,
            checksum: self.is_checksummed(pinned)?.then_some(pinned.checksum),
        }))
    }

    /// Whether the last frame says what the wal-index says of it. After one that was left without checksum the next batch
    /// says that the chain is broken, and so must a snapshot that it follows.
    fn is_checksummed(&self, pinned: &IndexHeader) -> Result<bool> {
        let Some(wal) = WalFile::open(&self.files.path)? else { return Ok(false) };
        let last = wal.frame_header(pinned.frames, self.copied.position.page_size)?;
        Ok(last.is_some_and(|frame| frame.salt == pinned.salt && frame.checksum == pinned.checksum))
    }

    fn overlay(&self, pinned: &IndexHeader) -> Result<(WalFile, Vec<(u32, u32)>)> {
        let torn = |what: String| Error::new(Kind::Database, format!("snapshot: {what}"));
        let wal = WalFile::open(&self.files.path)?.ok_or_else(|| torn("there is no -wal file".into()))?;
        let mut overlay = Vec::with_capacity(pinned.frames as usize);
        for frame in 1..=pinned.frames {
            let header = wal
                .frame_header(frame, self.copied.position.page_size)?
                .filter(|header| header.salt == pinned.salt || header.is_unchecksummed())
                .ok_or_else(|| torn(format!("frame {frame} is not of the pinned WAL")))?;
            overlay.push((header.page, frame));
        }
        Ok((wal, last_frame_per_page(overlay)))
    }
}

/// The last frame of each page, sorted by page.
fn last_frame_per_page(mut frames: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    frames.sort_unstable_by(|a, b| (a.0, b.1).cmp(&(b.0, a.1)));
    frames.dedup_by_key(|(page, _)| *page);
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_frame_of_each_page_wins() {
        assert_eq!(last_frame_per_page(vec![(5, 1), (2, 2), (5, 3), (2, 4), (9, 5)]), [(2, 4), (5, 3), (9, 5)]);
    }
}

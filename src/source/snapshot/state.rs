//! A database at one commit: what is read of it, and what is kept before it changes.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::error::{Error, Kind, Result};
use crate::format::wal::Salt;
use crate::source::connection;
use crate::source::file_crc_check::blank_lock_page;
use crate::source::preimages::Preimages;
use crate::source::resume::WalMark;
use crate::source::wal_file::WalFile;
use crate::source::wal_index::{IndexHeader, WalIndex};

const BYTES_PER_CREDIT: u32 = 256;
/// Bytes that are copied at once: whole pages, whatever their size.
const COPY_PAGES: u32 = 256 << 10;

/// What keeps the commit readable.
pub(super) enum Protection {
    /// A read transaction of the snapshot's own.
    OwnTransaction,
    /// What was kept, and the source's pin for the rest.
    PreImages,
    /// Nothing any more. Why, until that was told.
    Lost(Option<Error>),
}

/// A database at one commit, however it goes on.
pub(super) struct SnapshotState {
    /// In the transaction, if there is one; the database file is read through it.
    pub(super) connection: Connection,
    pub(super) protection: Protection,
    pub(super) path: PathBuf,
    pub(super) wal: Option<WalFile>,
    /// Page and frame, sorted by page, one frame a page: of the WAL of `commit`, in front of the file.
    pub(super) overlay: Vec<(u32, u32)>,
    /// The WAL of the commit, and its frame.
    commit: (Salt, u32),
    /// Each page that has a frame after the commit is kept, up to this frame of this WAL.
    preserved_up_to: (Salt, u32),
    /// Each page beyond this one is kept.
    intact_below: u32,
    /// Pages that hold zeros, sorted, whatever the file has there: the database grew over them without writing them.
    pub(super) blank: Vec<u32>,
    preimages: Preimages,
    /// Pages before this one are not read again.
    pub(super) next_unread: u32,
    pub(super) mark: WalMark,
    pub(super) pages: u32,
}

impl SnapshotState {
    /// At the commit that `connection` is in a read transaction on.
    pub(super) fn new(
        connection: Connection,
        path: &Path,
        meta: &Path,
        mark: WalMark,
        commit: (Salt, u32),
        pages: u32,
    ) -> SnapshotState {
        SnapshotState {
            connection,
            protection: Protection::OwnTransaction,
            path: path.to_path_buf(),
            wal: None,
            overlay: Vec::new(),
            commit,
            preserved_up_to: commit,
            intact_below: pages,
            blank: Vec::new(),
            preimages: Preimages::new(meta, mark.page_size),
            next_unread: 1,
            mark,
            pages,
        }
    }

    pub(super) fn read(&mut self, first: u32, count: u32, bytes: &mut [u8]) -> Result<()> {
        let lost = |what: &str| Error::new(Kind::Database, format!("snapshot: {what}"));
        match &mut self.protection {
            Protection::OwnTransaction if self.connection.is_autocommit() => {
                return Err(lost("its read transaction was lost"));
            }
            Protection::OwnTransaction | Protection::PreImages => {}
            Protection::Lost(why) => {
                return Err(why.take().unwrap_or_else(|| lost("its commit is no longer available")));
            }
        }
        self.read_current(first, count, bytes)?;
        if self.preimages.is_empty() {
            return Ok(());
        }
        for (number, page) in (first..).zip(bytes.chunks_exact_mut(self.mark.page_size.get() as usize)) {
            if self.preimages.contains(number) {
                self.preimages.get(number, page)?;
            }
        }
        Ok(())
    }

    /// Pages of which no frame after the commit is in the database file, or on its way there.
    fn read_current(&self, first: u32, count: u32, bytes: &mut [u8]) -> Result<()> {
        let size = self.mark.page_size.get() as usize;
        let start = u64::from(first - 1) * size as u64;
        connection::read_file(&self.connection, start, bytes)?;
        blank_lock_page(start, size, bytes);
        let blank = self.blank.partition_point(|page| *page < first);
        for page in self.blank[blank..].iter().take_while(|page| **page - first < count) {
            let at = (page - first) as usize * size;
            bytes[at..at + size].fill(0);
        }
        let from = self.overlay.partition_point(|(page, _)| *page < first);
        for (page, frame) in self.overlay[from..].iter().take_while(|(page, _)| *page - first < count) {
            let at = (page - first) as usize * size;
            let read = match &self.wal {
                Some(wal) => wal.page(*frame, self.mark.page_size, &mut bytes[at..at + size])?,
                None => false,
            };
            if !read {
                return Err(Error::new(Kind::Database, format!("snapshot: the WAL ends before frame {frame}")));
            }
        }
        Ok(())
    }

    /// The pin is about to move: another one has begun, after the wal-index said `before`, and the one that keeps the
    /// commit is still there. False if so much has changed that it may not move yet.
    pub(super) fn hand_over_to_pin(&mut self, before: &IndexHeader, index: &WalIndex, most: u32) -> Result<bool> {
        let mut before = *before;
        let mut left = most;
        loop {
            let Some(now) = index.read()? else { return Ok(false) };
            if !self.preserve(&now, &mut left)? {
                return Ok(false);
            }
            if self.overlay_obsolete(&before, &now) {
                self.overlay.clear();
            } else if !self.overlay.is_empty() && now.backfilled >= self.commit.1 {
                // Under the new pin the WAL might be restarted. One more look tells that its frames are not needed.
                before = now;
                continue;
            }
            if matches!(self.protection, Protection::OwnTransaction) {
                connection::rollback(&self.connection);
                self.protection = Protection::PreImages;
            }
            return Ok(true);
        }
    }

    /// Whether the database file has what the overlay stands for, of each page that is not kept. `before` was seen before
    /// `now`, and all pages that frames up to `now` change are kept.
    ///
    /// A checkpoint that was over by `before` knew no more frames than `now` has. So what it left out, for a newer frame
    /// or for being cut off, is kept. A WAL that was restarted had all its frames in the file.
    fn overlay_obsolete(&self, before: &IndexHeader, now: &IndexHeader) -> bool {
        let (salt, frame) = self.commit;
        before.salt != salt || now.salt != salt || before.backfilled >= frame
    }

    /// Keeps each page that a frame up to `now` changes or a commit cuts off. False if that is more than `left` allows.
    ///
    /// While a pin is held, no frame that it needs can go: the WAL is either the same, or was restarted once, and then
    /// nothing after the pin was in the one before.
    pub(super) fn preserve(&mut self, now: &IndexHeader, left: &mut u32) -> Result<bool> {
        let broken = |what: String| Error::new(Kind::Database, format!("snapshot: {what}"));
        if now.salt != self.preserved_up_to.0 {
            self.preserved_up_to = (now.salt, 0);
        }
        if now.frames < self.preserved_up_to.1 {
            return Err(broken(format!("expected frame {} in the WAL, found {}", self.preserved_up_to.1, now.frames)));
        }
        while self.preserved_up_to.1 < now.frames {
            let frame = self.preserved_up_to.1 + 1;
            if self.wal.is_none() {
                self.wal = WalFile::open(&self.path)?;
            }
            let header = match &self.wal {
                Some(wal) => wal.frame_header(frame, self.mark.page_size)?,
                None => None,
            };
            let header = header
                .filter(|header| header.salt == now.salt || header.is_unchecksummed())
                .ok_or_else(|| broken(format!("frame {frame} belongs to another WAL than the wal-index")))?;
            if header.commit > 0 && !self.preserve_truncated(header.commit, left)? {
                return Ok(false);
            }
            if *left == 0 {
                return Ok(false);
            }
            *left -= 1;
            self.preserve_page(header.page, left)?;
            self.preserved_up_to.1 = frame;
        }
        Ok(true)
    }

    /// The database was cut off after `page`.
    fn preserve_truncated(&mut self, page: u32, left: &mut u32) -> Result<bool> {
        while self.intact_below > page.max(self.next_unread - 1) {
            if *left == 0 {
                return Ok(false);
            }
            self.preserve_page(self.intact_below, left)?;
            self.intact_below -= 1;
        }
        Ok(true)
    }

    fn preserve_page(&mut self, page: u32, left: &mut u32) -> Result<()> {
        if page < self.next_unread || page > self.pages || self.preimages.contains(page) {
            return Ok(());
        }
        let size = self.mark.page_size.get();
        *left = left.saturating_sub(size / BYTES_PER_CREDIT);
        let mut bytes = vec![0; size as usize];
        self.read_current(page, 1, &mut bytes)?;
        self.preimages.put(page, self.pages, &bytes)
    }

    pub(super) fn detach(&mut self, directory: &Path) -> Result<()> {
        self.preimages = self.copy_unread(directory)?;
        connection::rollback(&self.connection);
        self.protection = Protection::PreImages;
        Ok(())
    }

    /// All pages that are still to be read, kept in `directory`.
    fn copy_unread(&mut self, directory: &Path) -> Result<Preimages> {
        let size = self.mark.page_size.get();
        let mut kept = Preimages::new(directory, self.mark.page_size);
        kept.require_free_space(u64::from(size) * u64::from((self.pages + 1).saturating_sub(self.next_unread)))?;
        let mut piece = vec![0; COPY_PAGES as usize];
        let mut first = self.next_unread;
        while first <= self.pages {
            let count = (COPY_PAGES / size).min(self.pages - first + 1);
            let bytes = &mut piece[..(count * size) as usize];
            self.read(first, count, bytes)?;
            kept.put(first, self.pages, bytes)?;
            first += count;
        }
        Ok(kept)
    }

    pub(super) fn fail(&mut self, why: Error) {
        self.protection = Protection::Lost(Some(why));
    }
}

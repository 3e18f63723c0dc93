//! A source that has just been opened continues where a copy ended before.

use std::collections::BTreeSet;

use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::wal::{Checksum, FrameChecksum};
use crate::source::Source;
use crate::source::bases::Bases;
use crate::source::copied::CopyMark;
use crate::source::file_crc_check::{FileCrcCheck, update_file_crc};
use crate::source::resume::{GenerationEnd, WalMark, WalState, check_resumable};
use crate::source::wal_file::WalFile;
use crate::source::wal_pages::WalPages;

impl Source {
    /// Continues after `stored`, the last commit that the store has, instead of at the pinned one.
    ///
    /// The outer error is trouble; the inner one says why the generation cannot go on, and leaves the source at
    /// [`Source::start`].
    pub fn resume(&mut self, stored: &WalMark) -> Result<std::result::Result<(), GenerationEnd>> {
        fault::point("source.resume")?;
        let wal = WalFile::open(&self.files.path)?;
        let (mut header, mut frame) = (None, None);
        if let Some(wal) = &wal {
            header = wal.header()?.map(|(_, header)| header);
            if stored.frame > 0 {
                frame = wal.frame_header(stored.frame, stored.page_size)?;
            }
        }
        let observed = WalState { index: &self.copied.header_at_open, header: header.as_ref(), frame: frame.as_ref() };
        if let Err(reason) = check_resumable(stored, &observed) {
            return Ok(Err(reason));
        }
        self.files.wal = wal;
        let nothing_left = stored.frame == self.copied.header_at_open.frames;
        self.copied.resume_from(CopyMark::at(stored), nothing_left);
        Ok(Ok(()))
    }

    /// Continues before the first frame of the WAL, if the database file is exactly the one that is stored: then whatever
    /// was committed since stands in this WAL from its first frame on. Reads the whole file, a buffer at each call; none:
    /// there is more to read.
    ///
    /// This is how a database is recognised that had no WAL when it was stored.
    pub fn resume_at_file(
        &mut self,
        check: &mut FileCrcCheck,
        buffer: &mut [u8],
    ) -> Result<Option<std::result::Result<(), GenerationEnd>>> {
        let size = self.copied.position.page_size.get();
        if check.is_at_start() {
            check.early = self.early_pages(0)?;
        }
        let length = std::fs::metadata(&self.files.path).map(|found| found.len());
        let length = length.map_err(|e| Error::io(Kind::Database, "stat the database", &e))?;
        let same = length == u64::from(check.pages) * u64::from(size);
        if same && !update_file_crc(self.pins.idle_connection(), check, length, size, buffer)? {
            return Ok(None);
        }
        if !same || !check.is_expected() {
            return Ok(Some(Err(GenerationEnd::DatabaseChangedWhileNotRunning)));
        }
        let first = self.copied.header_at_open;
        let chain = FrameChecksum::new(first.order, first.salt, Checksum::default());
        let start = CopyMark { page_size: self.copied.position.page_size, frame: 0, chain, chain_known: false };
        self.copied.resume_from(start, first.frames == 0);
        if check.checksum.is_some() {
            let (page_size, early) = (self.copied.position.page_size, std::mem::take(&mut check.early));
            let found = WalPages::before(check.pages, BTreeSet::new());
            let bases = Bases::new(page_size, check.checksum, check.pages, found);
            self.content.bases = Some(bases.with(early)).filter(|_| self.options.differences);
        }
        Ok(Some(Ok(())))
    }

    /// Continues after `stored` as if this source had copied it, and the WAL had been restarted since. The database file
    /// must be in the state of `stored`: whatever was committed later then stands in this WAL from its first frame on.
    pub fn resume_behind_restart(&mut self, stored: &WalMark) {
        let nothing_left = self.copied.header_at_open.frames == 0;
        self.copied.resume_from(CopyMark::at(stored), nothing_left);
    }

    /// Begins at this commit, after the pinned one in the same WAL, of which a snapshot has been begun. What is between
    /// them is not given out. False if it is not such a place.
    pub fn begin_at(&mut self, mark: &WalMark) -> Result<bool> {
        if *mark == self.start() {
            return Ok(true);
        }
        if mark.checksum.is_none()
            || mark.salt != self.copied.position.chain.salt()
            || mark.frame < self.copied.position.frame
        {
            return Ok(false);
        }
        self.copied.position = CopyMark::at(mark);
        self.reach_borders()?;
        Ok(true)
    }

    /// How many committed frames of the WAL have not been given out.
    pub fn uncopied_frames(&self) -> u32 {
        let same = self.copied.header_at_open.salt == self.copied.position.chain.salt();
        self.copied.header_at_open.frames.saturating_sub(if same { self.copied.position.frame } else { 0 })
    }

    /// Whether the WAL was restarted after what was given out, and has commits since: no place in it is known before they
    /// are read.
    pub fn has_unread_restart(&self) -> bool {
        self.copied.header_at_open.salt != self.copied.position.chain.salt() && self.copied.header_at_open.frames > 0
    }
}

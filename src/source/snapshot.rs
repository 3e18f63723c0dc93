//! The whole database at one commit, read while it is being written to.
//!
//! A read transaction of its own holds the commit. If every frame of the WAL was in the database file when it began, the
//! file is read plainly: nothing later can be checkpointed into it meanwhile. If not, the transaction holds the WAL, and
//! the last frame of each page stands in front of the file: all frames from the first on, for two reasons. A checkpoint
//! may be writing any of those pages right now. And nBackfill reaching our commit later does not mean that the file has
//! its state: a checkpoint that is held at our mark leaves out each page that has a newer frame behind the mark
//! (walCheckpoint, sqlite3.c: `iFrame>mxSafeFrame`), older frames of that page included.
//! Nobody waits for this reader; the WAL cannot be restarted until it ends.

use std::path::Path;

use rusqlite::Connection;

use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::crc::Crc;
use crate::format::position::PageSize;
use crate::format::wal::{ByteOrder, Salt};
use crate::source::connection;
use crate::source::continuity::Mark;
use crate::source::wal_file::WalFile;
use crate::source::wal_index::IndexHeader;
use crate::source::{Options, Source, identity};

/// The lock-byte page lies here in databases that are large enough; SQLite never writes it (sqlite.org/fileformat2.html#lockbyte).
const LOCK_BYTE: u64 = 1 << 30;

/// A database being read at one commit.
pub struct Snapshot {
    connection: Connection,
    wal: Option<WalFile>,
    /// Page and frame, sorted by page, one frame a page.
    overlay: Vec<(u32, u32)>,
    mark: Mark,
    pages: u32,
    /// The next page to give out, counted from 1.
    next: u32,
}

impl Snapshot {
    /// The commit whose state this is.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// The size of the database in pages.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// The size of the database in bytes.
    pub fn bytes(&self) -> u64 {
        u64::from(self.pages) * u64::from(self.mark.page_size.get())
    }

    /// Fills `buffer` with the next whole pages and says how many bytes that were; 0 at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        fault::point("snapshot.read")?;
        let size = self.mark.page_size.get() as usize;
        let left = (self.pages + 1).saturating_sub(self.next);
        let count = u32::try_from(buffer.len() / size).unwrap_or(u32::MAX).min(left);
        if count == 0 {
            return if left == 0 {
                Ok(0)
            } else {
                Err(Error::new(Kind::Database, "snapshot buffer: smaller than a page"))
            };
        }
        let bytes = &mut buffer[..count as usize * size];
        if self.connection.is_autocommit() {
            return Err(Error::new(Kind::Database, "snapshot: its read transaction was lost"));
        }
        let start = u64::from(self.next - 1) * size as u64;
        connection::read_file(&self.connection, start, bytes)?;
        blank_lock_page(start, size, bytes);
        self.lay_over(self.next, count, bytes)?;
        self.next += count;
        Ok(bytes.len())
    }

    /// Fills `page` with the page of this number, which must exist; [`Snapshot::read`] goes on behind it.
    pub fn page(&mut self, number: u32, page: &mut [u8]) -> Result<()> {
        self.next = number.max(1);
        self.read(page).map(|_| ())
    }

    /// Goes back to the first page: for those who must know all of it before they pass on any.
    pub fn rewind(&mut self) {
        self.next = 1;
    }

    fn lay_over(&self, first: u32, count: u32, bytes: &mut [u8]) -> Result<()> {
        let Some(wal) = &self.wal else { return Ok(()) };
        let size = self.mark.page_size;
        let from = self.overlay.partition_point(|(page, _)| *page < first);
        let within = self.overlay[from..].iter().take_while(|(page, _)| *page - first < count);
        for (page, frame) in within {
            let at = (page - first) as usize * size.get() as usize;
            if !wal.page(*frame, size, &mut bytes[at..at + size.get() as usize])? {
                return Err(Error::new(Kind::Database, format!("snapshot: the WAL ends before frame {frame}")));
            }
        }
        Ok(())
    }
}

/// How far a database file has been read to tell whether it is the one that is stored.
#[derive(Debug)]
pub struct FileCheck {
    pub(super) pages: u32,
    /// The crc32 of what is stored.
    pub(super) expected: u32,
    crc: Crc,
    at: u64,
}

impl FileCheck {
    pub fn new(pages: u32, expected: u32) -> FileCheck {
        FileCheck { pages, expected, crc: Crc::default(), at: 0 }
    }

    pub(super) fn sum(&self) -> u32 {
        self.crc.clone().finish()
    }
}

/// Adds the next piece of a database file to its crc32, as a snapshot of it would have it. True at its end.
pub(super) fn sum_file(
    connection: &Connection,
    check: &mut FileCheck,
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
        check.at += left as u64;
    }
    Ok(check.at >= length)
}

fn blank_lock_page(start: u64, size: usize, bytes: &mut [u8]) {
    if let Some(at) = LOCK_BYTE.checked_sub(start)
        && let Some(page) = bytes.get_mut(at as usize..).and_then(|rest| rest.get_mut(..size))
    {
        page.fill(0);
    }
}

impl Source {
    /// Begins a snapshot at a commit at or behind the one that [`Source::read`] has come to. None if writers were too
    /// fast just now: try again in the next round.
    pub fn snapshot(&mut self) -> Result<Option<Snapshot>> {
        fault::point("snapshot.begin")?;
        let connection = connection::open(&self.path, self.options.busy_timeout)?;
        let before = self.header()?;
        connection::begin_read(&connection)?;
        let pinned = self.header()?;
        let Some(mark) = self.mark_of(&before, &pinned)? else { return Ok(None) };
        let pages = connection::pragma_number(&connection, "page_count")?;
        let mut snapshot = Snapshot { connection, wal: None, overlay: Vec::new(), mark, pages, next: 1 };
        if !pinned.is_backfilled() {
            let (wal, overlay) = self.overlay(&pinned)?;
            (snapshot.wal, snapshot.overlay) = (Some(wal), overlay);
        }
        Ok(Some(snapshot))
    }

    /// The place of a pin that began between two looks at the wal-index, if it is certain and in the WAL being copied.
    fn mark_of(&self, before: &IndexHeader, pinned: &IndexHeader) -> Result<Option<Mark>> {
        if !before.same_commit(pinned) {
            return Ok(None);
        }
        if pinned.frames == 0 {
            // Reset, or not begun yet: the state is that behind the last frame of the WAL before. The pins allow a reset
            // only when all of it has been copied, unless the copy has not caught up since the start.
            return Ok(self.caught_up.then(|| self.place.mark()));
        }
        if pinned.salt != self.place.chain.salt() || pinned.frames < self.place.frame {
            return Ok(None);
        }
        Ok(Some(Mark {
            page_size: self.place.page_size,
            order: pinned.order,
            salt: pinned.salt,
            frame: pinned.frames,
            checksum: self.is_sealed(pinned)?.then_some(pinned.checksum),
        }))
    }

    /// Whether the last frame says what the wal-index says of it. Behind one that was left without checksum the next batch
    /// says that the chain is broken, and so must a snapshot that it follows.
    fn is_sealed(&self, pinned: &IndexHeader) -> Result<bool> {
        let Some(wal) = WalFile::open(&self.path)? else { return Ok(false) };
        let last = wal.frame_header(pinned.frames, self.place.page_size)?;
        Ok(last.is_some_and(|frame| frame.salt == pinned.salt && frame.checksum == pinned.checksum))
    }

    fn overlay(&self, pinned: &IndexHeader) -> Result<(WalFile, Vec<(u32, u32)>)> {
        let torn = |what: String| Error::new(Kind::Database, format!("snapshot: {what}"));
        let wal = WalFile::open(&self.path)?.ok_or_else(|| torn("there is no -wal file".into()))?;
        let mut overlay = Vec::with_capacity(pinned.frames as usize);
        for frame in 1..=pinned.frames {
            let header = wal
                .frame_header(frame, self.place.page_size)?
                .filter(|header| header.salt == pinned.salt || header.is_unsealed())
                .ok_or_else(|| torn(format!("frame {frame} is not of the pinned WAL")))?;
            overlay.push((header.page, frame));
        }
        Ok((wal, newest(overlay)))
    }
}

/// The last frame of each page, sorted by page.
fn newest(mut frames: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    frames.sort_unstable_by(|a, b| (a.0, b.1).cmp(&(b.0, a.1)));
    frames.dedup_by_key(|(page, _)| *page);
    frames
}

/// A snapshot of a database that is not in WAL mode: its read transaction keeps every writer out of the file.
///
/// Errors: as [`Source::open`]. None if the database is in WAL mode; then a [`Source`] takes the snapshot.
pub fn of_rollback_journal(path: &Path, options: &Options) -> Result<Option<Snapshot>> {
    let real = identity::resolve(path, options.allow_network)?;
    let connection = connection::open(&real, options.busy_timeout)?;
    connection::begin_read(&connection)?;
    if connection::pragma_text(&connection, "journal_mode")?.eq_ignore_ascii_case("wal") {
        return Ok(None);
    }
    let pages = connection::pragma_number(&connection, "page_count")?;
    if pages == 0 {
        return Err(Error::new(Kind::DatabaseNotReady, format!("database {}: still empty", path.display())));
    }
    let page_size = PageSize::new(connection::pragma_number(&connection, "page_size")?)?;
    let mark = Mark { page_size, order: ByteOrder::Little, salt: Salt::default(), frame: 0, checksum: None };
    Ok(Some(Snapshot { connection, wal: None, overlay: Vec::new(), mark, pages, next: 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_frame_of_each_page_wins() {
        assert_eq!(newest(vec![(5, 1), (2, 2), (5, 3), (2, 4), (9, 5)]), [(2, 4), (5, 3), (9, 5)]);
    }

    #[test]
    fn the_lock_byte_page_is_blank_and_its_neighbours_are_not() {
        let mut bytes = vec![1u8; 3 * 4096];
        blank_lock_page(LOCK_BYTE - 4096, 4096, &mut bytes);
        assert!(bytes[..4096].iter().chain(&bytes[8192..]).all(|b| *b == 1));
        assert!(bytes[4096..8192].iter().all(|b| *b == 0));
        let mut bytes = vec![1u8; 4096];
        blank_lock_page(LOCK_BYTE + 4096, 4096, &mut bytes);
        blank_lock_page(0, 4096, &mut bytes);
        assert!(bytes.iter().all(|b| *b == 1));
    }
}

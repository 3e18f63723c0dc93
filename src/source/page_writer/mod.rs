//! Pages written into a database that others have open, a transaction at a time, by the rules of SQLite's own writer.
//!
//! SQL cannot write pages, and sqlite_dbpage is not in the bundled SQLite; it would also change bytes of the first page
//! (pager_write_changecounter) and vacuum where it should not (autoVacuumCommit). So frames and wal-index are written here,
//! and everything else is left to SQLite: locks, recovery, checkpoints.
//!
//! What must hold:
//!
//! 1. The database is in WAL mode. A reader takes its snapshot from the wal-index header alone; it waits for no writer, and
//!    no writer waits for it (sqlite.org/wal.html).
//! 2. Anyone who writes holds the WRITE lock, by a transaction of SQLite's (BEGIN IMMEDIATE: sqlite3WalBeginWriteTransaction,
//!    sqlite3.c 71135). It is held from the first look to the end, but for the time of a checkpoint: so an application that
//!    tries to write gets SQLITE_BUSY, and nobody else restarts the WAL (walRestartHdr and RESTART and TRUNCATE need the
//!    WRITE lock: 71311, 71777).
//! 3. Frames go after the last committed one, then into the hash tables, then the header is published (walFrames, 71474 to
//!    71697). Up to there no reader sees anything, and a death leaves nothing but what the next writer overwrites. If nobody
//!    has the database open by then, the recovery finds the frames up to the last commit (walIndexRecover, 68826): the
//!    whole transaction or none of it.
//! 4. Nothing is synced at a commit, as with synchronous=NORMAL: a power failure may take the last transactions, each
//!    whole. SQLite's checkpoint syncs the WAL before it copies anything (walCheckpoint, 69700), and the header of a new WAL
//!    is durable before its frames.
//! 5. A page that no frame of the WAL holds is read through SQLite's own descriptor, under the read lock of the same
//!    transaction: no descriptor on the database or its -shm is opened here (see the top of `source`).
//!
//! A change by another process in the time of a checkpoint is told by the count of commits in the header.

mod comparison;
mod index;
mod log;
mod transaction;

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::position::PageSize;
use crate::format::running_checksum::RunningChecksum;
use crate::format::sidecar::with_suffix;
use crate::format::wal::Salt;
use crate::random::random_below;
use crate::source::connection::{self, CheckpointMode};
use crate::source::sigbus::FaultCount;
use crate::source::wal_index::WalIndex;

use index::{IndexWriter, Published};
use log::{LogWriter, WriteMark};

pub use transaction::Transaction;

/// In the header of a database: the versions to write and to read with. 1 is a rollback journal, 2 is WAL.
pub const WAL_VERSIONS: [u8; 2] = [2, 2];
const VERSIONS_OFFSET: u64 = 18;
/// For how long a recovery by another process is waited for.
const OPEN_PATIENCE: Duration = Duration::from_secs(1);

/// A database to write pages to. While it lives nobody else writes.
pub struct PageWriter {
    log: LogWriter,
    index: IndexWriter,
    header: WalIndex,
    /// The newest committed frame of each page that is in the WAL.
    frames: HashMap<u32, u32>,
    /// The pages that a comparison has read, as they are now; none between two passes.
    compared: Option<RunningChecksum>,
    /// What the header says, as we left it.
    published: Published,
    page_size: PageSize,
    path: PathBuf,
    /// A process that makes the -shm file shorter takes our mapping of it away.
    faults: FaultCount,
    index_inode: u64,
    /// Dropped last: what is above is mapped by it.
    connection: Connection,
}

impl PageWriter {
    /// Opens a database in WAL mode. What a writer that died has left is recovered by SQLite.
    ///
    /// Errors: of kind `DatabaseNotReady`, if another process is writing to it; of kind `Database`, if it is none, or not in
    /// WAL mode.
    pub fn open(path: &Path) -> Result<PageWriter> {
        open(path).map_err(|e| e.context(format!("database {}", path.display())))
    }

    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Size of the database in pages.
    pub fn pages(&self) -> u32 {
        self.published.pages
    }

    /// Frames in the WAL. What a checkpoint copied counts until the WAL restarts.
    pub fn wal_frames(&self) -> u32 {
        self.published.frames
    }

    /// Begins to write. Nothing is seen by anybody before [`Transaction::commit`].
    ///
    /// Errors: of kind `DatabaseNotReady`, if another process is writing; of kind `AnotherDatabase`, if one has written.
    pub fn begin(&mut self) -> Result<Transaction<'_>> {
        self.hold_write_lock()?;
        Transaction::begin(self)
    }

    /// Lets SQLite copy the WAL into the database file, durably, and empty it. False if a reader needs it still.
    ///
    /// Errors: as for [`PageWriter::begin`].
    pub fn checkpoint(&mut self) -> Result<bool> {
        self.hold_write_lock()?;
        fault::point("standby.checkpoint")?;
        // A checkpoint copies no further than the oldest reader, and our own transaction is one. Nothing is committed by
        // this: the transaction has written nothing (sqlite3PagerCommitPhaseOne ends at once).
        connection::run(&self.connection, "COMMIT")?;
        let done = connection::checkpoint(&self.connection, CheckpointMode::Truncate);
        fault::point("standby.checkpointed")?;
        self.hold_write_lock()?;
        done
    }

    /// The checksum of what the first `pages` pages hold now, the first one seen through `first`: reads all of them.
    pub fn checksum(&self, pages: u32, first: &dyn Fn(&mut [u8])) -> Result<RunningChecksum> {
        let mut sum = RunningChecksum::new(self.page_size);
        let mut page = vec![0; self.page_size.get() as usize];
        for number in 1..=pages {
            self.read(number, &mut page)?;
            if number == 1 {
                first(&mut page);
            }
            sum.push(&page);
        }
        Ok(sum)
    }

    /// Fills `content` with a page as it was committed.
    pub fn read(&self, number: u32, content: &mut [u8]) -> Result<()> {
        match self.frames.get(&number) {
            Some(frame) => self.log.read(*frame, content),
            None => {
                let at = u64::from(number.saturating_sub(1)) * u64::from(self.page_size.get());
                connection::read_file(&self.connection, at, content)
            }
        }
    }

    /// Becomes the only writer, if we are not.
    fn hold_write_lock(&mut self) -> Result<()> {
        if !self.connection.is_autocommit() {
            return Ok(());
        }
        begin_immediate(&self.connection)?;
        // With the lock goes the belief that the header is as we left it: it is looked at again whenever it is taken.
        self.take_over_header().inspect_err(|_| connection::rollback(&self.connection))
    }

    fn take_over_header(&mut self) -> Result<()> {
        let changed =
            |what: &str| Error::new(Kind::AnotherDatabase, format!("database {}: {what}", self.path.display()));
        self.faults.check(self.index_inode).map_err(|e| changed(e.message()))?;
        let found = published(&self.header, &self.index, self.pages())?;
        let (checksum, salt, order) = (found.checksum, found.salt, found.order);
        let emptied = Published { frames: 0, checksum, salt, order, ..self.published };
        if found != self.published && found != emptied {
            return Err(changed("another process has written to it"));
        }
        // Emptied, by us or by an application: everything is in the file (walCheckpoint resets the WAL only then, 69788).
        if found.frames == 0 {
            self.frames.clear();
        }
        self.published = found;
        Ok(())
    }

    /// Where the next frame goes: after the last one, or into a new WAL.
    fn log_end(&self) -> Result<WriteMark> {
        match self.published.frames {
            0 => self.log.begin(Salt(random_word(), random_word())),
            _ => Ok(WriteMark::of(&self.published)),
        }
    }
}

fn random_word() -> u32 {
    u32::try_from(random_below(1 << 32)).unwrap_or_default()
}

fn begin_immediate(connection: &Connection) -> Result<()> {
    match connection::try_begin_write(connection)? {
        true => Ok(()),
        false => Err(Error::new(Kind::DatabaseNotReady, "another process is writing to it")),
    }
}

fn open(path: &Path) -> Result<PageWriter> {
    let faults = FaultCount::current();
    let connection = connection::open(path, OPEN_PATIENCE)?;
    let mut versions = [0; 2];
    connection::read_file(&connection, VERSIONS_OFFSET, &mut versions)?;
    if versions != WAL_VERSIONS {
        return Err(Error::new(Kind::Database, "expected a database in WAL mode, found another one"));
    }
    // From now on nobody is waited for: a reader who is in the way of a checkpoint is let be.
    connection.busy_timeout(Duration::ZERO).map_err(|e| connection::from_sqlite(&e, "open"))?;
    begin_immediate(&connection)?;
    let page_size = PageSize::new(connection::pragma_number(&connection, "page_size")?)?;
    let (header, index) = (WalIndex::map(&connection)?, IndexWriter::new(&connection)?);
    let in_file = std::fs::metadata(path).map_or(0, |file| file.len()) / u64::from(page_size.get());
    let published = published(&header, &index, u32::try_from(in_file).unwrap_or(u32::MAX))?;
    let log = LogWriter::open(path, page_size)?;
    let mut frames = HashMap::new();
    for frame in 1..=published.frames {
        frames.insert(log.page_of(frame, published.salt)?, frame);
    }
    let index_inode = std::fs::metadata(with_suffix(path, "-shm")).map_or(0, |file| file.ino());
    let path = path.to_path_buf();
    let compared = None;
    Ok(PageWriter { log, index, header, frames, compared, published, page_size, path, faults, index_inode, connection })
}

/// What the header says. Where the WAL is empty, the size of the database is that of its file, `in_file`.
fn published(header: &WalIndex, index: &IndexWriter, in_file: u32) -> Result<Published> {
    let unknown = || Error::new(Kind::DatabaseNotReady, "wal-index: it has no header that is whole");
    let found = header.read()?.ok_or_else(unknown)?;
    let pages = if found.frames == 0 { in_file } else { found.pages };
    let (frames, checksum, salt) = (found.frames, found.checksum, found.salt);
    Ok(Published { change: index.change(), order: found.order, frames, pages, checksum, salt })
}

#[cfg(test)]
mod tests;

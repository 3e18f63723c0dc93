//! The whole database at one commit, read while it is being written to and checkpointed; nobody waits for the reader.
//!
//! At first a read transaction of its own holds the commit. If every frame of the WAL was in the database file when it
//! began, the file is read plainly. If not, the last frame of each page stands in front of the file: all frames from the
//! first on, for two reasons. A checkpoint may be writing any of those pages right now. And nBackfill reaching our commit
//! later does not mean that the file has its state: a checkpoint that is held at our mark leaves out each page that has a
//! newer frame after the mark (walCheckpoint, sqlite3.c: `iFrame>mxSafeFrame`), older frames of that page included.
//!
//! The transaction ends when the source's pin moves on for the first time. From then on that pin is the only one, and
//! what must hold is this: **a page that has a frame after the commit is kept, as it was, before the pin that keeps it in
//! the file or the WAL ends** ([`SnapshotState::hand_over_to_pin`]). So is a page that a commit cuts off. Any other page is still what it
//! was, and anyone who checkpoints meanwhile writes what is there already. An application's own TRUNCATE, RESTART or FULL
//! therefore waits as long for a snapshot as it does without one: until the pin moves.

mod active;
mod begin;
mod state;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::origin::DatabaseOrigin;
use crate::format::position::PageSize;
use crate::format::wal::{ByteOrder, Salt};
use crate::source::borders::SnapshotHandle;
use crate::source::resume::WalMark;
use crate::source::{SourceOptions, connection, facts, identity};

pub(crate) use active::ActiveSnapshots;

use state::SnapshotState;

/// A database being read at one commit.
pub struct Snapshot {
    state: Rc<RefCell<SnapshotState>>,
    mark: WalMark,
    pages: u32,
    origin: DatabaseOrigin,
    handle: SnapshotHandle,
    /// Its checksum is to be known, for the differences that follow.
    summed: bool,
    /// The next page to give out, counted from 1.
    next: u32,
    /// Nothing is read twice any more.
    read_once: bool,
}

impl Snapshot {
    fn new(state: SnapshotState) -> Snapshot {
        let (mark, pages) = (state.mark, state.pages);
        let origin = facts::origin(&state.connection, &state.path);
        let (state, handle) = (Rc::new(RefCell::new(state)), SnapshotHandle::unused());
        Snapshot { state, mark, pages, origin, handle, summed: false, next: 1, read_once: false }
    }

    /// Whether the checksum of the database is to be known: then all of it is read once more.
    pub fn is_summed(&self) -> bool {
        self.summed
    }

    /// What its source knows it by. To be kept until it is stored, or comes to nothing.
    pub fn handle(&self) -> &SnapshotHandle {
        &self.handle
    }

    /// Which database it is.
    pub fn origin(&self) -> &DatabaseOrigin {
        &self.origin
    }

    /// The commit whose state this is.
    pub fn mark(&self) -> WalMark {
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
        let mut state = self.state.borrow_mut();
        state.read(self.next, count, bytes)?;
        self.next += count;
        if self.read_once {
            state.next_unread = self.next;
        }
        Ok(bytes.len())
    }

    /// Fills `page` with the page of this number, which must exist; [`Snapshot::read`] goes on after it.
    pub fn page(&mut self, number: u32, page: &mut [u8]) -> Result<()> {
        self.next = number.max(1);
        self.read(page).map(|_| ())
    }

    /// Goes back to the first page: for those who must know all of it before they pass on any.
    pub fn rewind(&mut self) {
        self.next = 1;
    }

    /// Copies all that is still to be read to a nameless file in `directory`, and lets go of the database. For one that is
    /// not in WAL mode: nobody can write to it until then.
    ///
    /// Errors: of kind `DatabaseNotReady` if that would take more than half of the room there. Then all stays as it was.
    pub fn detach(&mut self, directory: &Path) -> Result<()> {
        self.state.borrow_mut().detach(directory)
    }

    /// Promises that no page is read again: what has been read need not be kept.
    pub fn read_once(&mut self) {
        self.read_once = true;
    }
}

/// A snapshot of a database that is not in WAL mode: its read transaction keeps every writer out of the file.
///
/// Errors: as [`Source::open`]. None if the database is in WAL mode; then a [`Source`] takes the snapshot.
pub fn open_rollback_snapshot(path: &Path, options: &SourceOptions) -> Result<Option<Snapshot>> {
    let real = identity::resolve(path, options.allow_network)?;
    let connection = connection::open(&real, options.busy_timeout)?;
    connection::begin_read(&connection)?;
    if connection::pragma_text(&connection, "journal_mode")?.eq_ignore_ascii_case("wal") {
        return Ok(None);
    }
    let pages = connection::pragma_number(&connection, "page_count")?;
    if pages == 0 {
        return Err(Error::new(
            Kind::DatabaseNotReady,
            format!("database {}: empty: nothing has been written to it yet, or it was truncated", path.display()),
        ));
    }
    let page_size = PageSize::new(connection::pragma_number(&connection, "page_size")?)?;
    let mark = WalMark { page_size, order: ByteOrder::Little, salt: Salt::default(), frame: 0, checksum: None };
    Ok(Some(Snapshot::new(SnapshotState::new(connection, &real, Path::new(""), mark, (mark.salt, 0), pages))))
}

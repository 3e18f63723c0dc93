//! The whole database at one commit, read while it is being written to and checkpointed; nobody waits for the reader.
//!
//! At first a read transaction of its own holds the commit. If every frame of the WAL was in the database file when it
//! began, the file is read plainly. If not, the last frame of each page stands in front of the file: all frames from the
//! first on, for two reasons. A checkpoint may be writing any of those pages right now. And nBackfill reaching our commit
//! later does not mean that the file has its state: a checkpoint that is held at our mark leaves out each page that has a
//! newer frame behind the mark (walCheckpoint, sqlite3.c: `iFrame>mxSafeFrame`), older frames of that page included.
//!
//! The transaction ends when the source's pin moves on for the first time. From then on that pin is the only one, and
//! what must hold is this: **a page that has a frame behind the commit is kept, as it was, before the pin that keeps it in
//! the file or the WAL ends** ([`SnapshotState::hand_over_to_pin`]). So is a page that a commit cuts off. Any other page is still what it
//! was, and whoever checkpoints meanwhile writes what is there already. An application's own TRUNCATE, RESTART or FULL
//! therefore waits as long for a snapshot as it does without one: until the pin moves.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};

use rusqlite::Connection;

use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::crc32::Crc32;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::origin::DatabaseOrigin;
use crate::format::position::PageSize;
use crate::format::running_checksum::RunningChecksum;
use crate::format::wal::{ByteOrder, Salt};
use crate::source::bases::EarlyPages;
use crate::source::borders::SnapshotHandle;
use crate::source::connection;
use crate::source::preimages::Preimages;
use crate::source::resume::WalMark;
use crate::source::wal_file::WalFile;
use crate::source::wal_index::{IndexHeader, WalIndex};
use crate::source::wal_pages::WalPages;
use crate::source::{Options, Source, facts, identity};

/// The lock-byte page lies here in databases that are large enough; SQLite never writes it (sqlite.org/fileformat2.html#lockbyte).
const PENDING_BYTE: u64 = 1 << 30;
/// How much is kept in one go: a frame that is looked at counts 1, and a page that is kept its bytes by this many.
/// A few milliseconds, whatever the page size.
const PRESERVE_BUDGET: u32 = 4096;
const BYTES_PER_CREDIT: u32 = 256;
/// Bytes that are copied at once: whole pages, whatever their size.
const COPY_PAGES: u32 = 256 << 10;

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

    /// Fills `page` with the page of this number, which must exist; [`Snapshot::read`] goes on behind it.
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

/// What keeps the commit readable.
enum Protection {
    /// A read transaction of the snapshot's own.
    OwnTransaction,
    /// What was kept, and the source's pin for the rest.
    PreImages,
    /// Nothing any more. Why, until that was told.
    Lost(Option<Error>),
}

/// A database at one commit, however it goes on.
struct SnapshotState {
    /// In the transaction, if there is one; the database file is read through it.
    connection: Connection,
    protection: Protection,
    path: PathBuf,
    wal: Option<WalFile>,
    /// Page and frame, sorted by page, one frame a page: of the WAL of `commit`, in front of the file.
    overlay: Vec<(u32, u32)>,
    /// The WAL of the commit, and its frame.
    commit: (Salt, u32),
    /// Each page that has a frame behind the commit is kept, up to this frame of this WAL.
    preserved_up_to: (Salt, u32),
    /// Each page beyond this one is kept.
    intact_below: u32,
    /// Pages that hold zeros, sorted, whatever the file has there: the database grew over them without writing them.
    blank: Vec<u32>,
    preimages: Preimages,
    /// Pages before this one are not read again.
    next_unread: u32,
    mark: WalMark,
    pages: u32,
}

impl SnapshotState {
    /// At the commit that `connection` is in a read transaction on.
    fn new(
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

    fn read(&mut self, first: u32, count: u32, bytes: &mut [u8]) -> Result<()> {
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

    /// Pages of which no frame behind the commit is in the database file, or on its way there.
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
    fn hand_over_to_pin(&mut self, before: &IndexHeader, index: &WalIndex, most: u32) -> Result<bool> {
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
                // Under the new pin the WAL might be begun anew. One more look tells that its frames are not needed.
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
    /// or for being cut off, is kept. A WAL that was begun anew had all its frames in the file.
    fn overlay_obsolete(&self, before: &IndexHeader, now: &IndexHeader) -> bool {
        let (salt, frame) = self.commit;
        before.salt != salt || now.salt != salt || before.backfilled >= frame
    }

    /// Keeps each page that a frame up to `now` changes or a commit cuts off. False if that is more than `left` allows.
    ///
    /// While a pin is held, no frame that it needs can go: the WAL is either the same, or was begun anew once, and then
    /// nothing behind the pin was in the one before.
    fn preserve(&mut self, now: &IndexHeader, left: &mut u32) -> Result<bool> {
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

    /// The database was cut off behind `page`.
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

    fn detach(&mut self, directory: &Path) -> Result<()> {
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

    fn fail(&mut self, why: Error) {
        self.protection = Protection::Lost(Some(why));
    }
}

/// A snapshot that is being read, as its source sees it.
struct ActiveSnapshot(Weak<RefCell<SnapshotState>>);

impl ActiveSnapshot {
    fn with(&self, act: impl FnOnce(&mut SnapshotState) -> Result<bool>) -> bool {
        let Some(state) = self.0.upgrade() else { return true };
        let mut state = state.borrow_mut();
        if matches!(state.protection, Protection::Lost(_)) {
            return true;
        }
        match act(&mut state) {
            Ok(done) => done,
            Err(error) => {
                // What is copied does not depend on it.
                state.fail(error);
                true
            }
        }
    }

    fn preserve(&self, now: &IndexHeader) -> bool {
        self.with(|state| state.preserve(now, &mut PRESERVE_BUDGET.clone()))
    }

    fn hand_over_to_pin(&self, before: &IndexHeader, index: &WalIndex) -> bool {
        self.with(|state| state.hand_over_to_pin(before, index, PRESERVE_BUDGET))
    }

    fn hand_over_all(&self, before: &IndexHeader, index: &WalIndex) {
        self.with(|state| match state.hand_over_to_pin(before, index, u32::MAX)? {
            true => Ok(true),
            false => Err(Error::new(Kind::Database, "snapshot: the wal-index is torn")),
        });
    }

    fn is_active(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl Drop for ActiveSnapshot {
    fn drop(&mut self) {
        self.with(|state| match state.protection {
            Protection::PreImages => Err(Error::new(Kind::Database, "snapshot: the database is no longer replicated")),
            _ => Ok(true),
        });
    }
}

/// All of them. What must hold of one holds of each.
#[derive(Default)]
pub(super) struct ActiveSnapshots(Vec<ActiveSnapshot>);

impl ActiveSnapshots {
    fn add(&mut self, snapshot: &Snapshot) {
        self.0.retain(ActiveSnapshot::is_active);
        self.0.push(ActiveSnapshot(Rc::downgrade(&snapshot.state)));
    }

    /// Keeps some of what has changed by `now`, ahead of a move of the pin. False if there is more.
    pub(super) fn preserve(&self, now: &IndexHeader) -> bool {
        self.0.iter().filter(|one| !one.preserve(now)).count() == 0
    }

    /// The next pin has begun, after the wal-index said `before`. False if the current one may not end yet.
    pub(super) fn hand_over_to_pin(&self, before: &IndexHeader, index: &WalIndex) -> bool {
        // One that was handed over already is so again: what is kept covers what the next pin needs.
        self.0.iter().all(|one| one.hand_over_to_pin(before, index))
    }

    /// The same while nobody can write, so that there is little.
    pub(super) fn hand_over_all(&self, before: &IndexHeader, index: &WalIndex) {
        self.0.iter().for_each(|one| one.hand_over_all(before, index));
    }
}

/// How far a database file has been read to tell whether it is the one that is stored.
#[derive(Debug)]
pub struct FileCrcCheck {
    pub(super) pages: u32,
    /// The crc32 of what is stored; none where its checksum is known and will do.
    expected: Option<u32>,
    pub(super) checksum: Option<DatabaseChecksum>,
    crc: Crc32,
    running: Option<RunningChecksum>,
    pub(super) early: EarlyPages,
    at: u64,
}

impl FileCrcCheck {
    pub fn new(pages: u32, expected: Option<u32>, checksum: Option<DatabaseChecksum>) -> FileCrcCheck {
        FileCrcCheck {
            pages,
            expected,
            checksum,
            crc: Crc32::default(),
            running: None,
            early: EarlyPages::default(),
            at: 0,
        }
    }

    /// Whether nothing has been read yet.
    pub(super) fn is_at_start(&self) -> bool {
        self.at == 0
    }

    /// Whether what was read is what is stored.
    pub(super) fn is_expected(&self) -> bool {
        let sum = self.running.map(|running| running.sum());
        let same = self.expected.is_none_or(|expected| self.crc.clone().finish() == expected);
        same && self.checksum.is_none_or(|expected| sum == Some(expected))
    }
}

/// Adds the next piece of a database file to its crc32, as a snapshot of it would have it. True at its end.
pub(super) fn update_file_crc(
    connection: &Connection,
    check: &mut FileCrcCheck,
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
        let size = PageSize::new(page_size)?;
        let running = check.running.get_or_insert_with(|| RunningChecksum::new(size));
        for page in piece.chunks_exact(page_size as usize) {
            running.push(page);
            check.early.keep(running.extent(), page);
        }
        check.at += left as u64;
    }
    Ok(check.at >= length)
}

fn blank_lock_page(start: u64, size: usize, bytes: &mut [u8]) {
    if let Some(at) = PENDING_BYTE.checked_sub(start)
        && let Some(page) = bytes.get_mut(at as usize..).and_then(|rest| rest.get_mut(..size))
    {
        page.fill(0);
    }
}

impl Source {
    /// Begins a snapshot at a commit at or behind the one that [`Source::read`] has come to. None if writers were too
    /// fast just now: try again in the next round. Pages that change while it is read wait
    /// in a file in the directory `meta`.
    pub fn snapshot(&mut self, meta: &Path) -> Result<Option<Snapshot>> {
        fault::point("snapshot.begin")?;
        let connection = connection::open(&self.path, self.options.busy_timeout)?;
        let before = self.header()?;
        connection::begin_read(&connection)?;
        let pinned = self.header()?;
        let Some(mark) = self.wal_mark(&before, &pinned)? else { return Ok(None) };
        let pages = connection::pragma_number(&connection, "page_count")?;
        let commit = (pinned.salt, pinned.frames);
        let blank = self.blank_pages(&pinned)?;
        let mut state = SnapshotState::new(connection, &self.path, meta, mark, commit, pages);
        if !pinned.is_backfilled() {
            let (wal, overlay) = self.overlay(&pinned)?;
            (state.wal, state.overlay) = (Some(wal), overlay);
        }
        state.blank = blank.iter().copied().collect();
        let mut snapshot = Snapshot::new(state);
        snapshot.summed = self.options.differences;
        self.active_snapshots.add(&snapshot);
        if self.options.differences {
            snapshot.handle = self.borders.add(mark, pages, blank);
            self.reach_borders()?;
        }
        // The pin moves a few times more though nothing changes, so that the transaction of its own soon ends.
        self.idle_repins = 0;
        Ok(Some(snapshot))
    }

    /// The pages of a pin that hold zeros in what is stored, whatever the files have there.
    fn blank_pages(&self, pinned: &IndexHeader) -> Result<BTreeSet<u32>> {
        if !self.options.differences {
            return Ok(BTreeSet::new());
        }
        let known = self.bases.as_ref();
        let Some(files) = self.files().filter(|_| pinned.frames > 0) else {
            return Ok(known.map(|bases| bases.pages().blank().clone()).unwrap_or_default());
        };
        let (pages, after) = match known {
            Some(bases) => (bases.pages().without_frames(), self.position.frame),
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
            // Reset, or not begun yet: the state is that behind the last frame of the WAL before. The pins allow a reset
            // only when all of it has been copied, unless the copy has not caught up since the start.
            return Ok(self.passed_first_pin.then(|| self.position.mark()));
        }
        if pinned.salt != self.position.chain.salt() || pinned.frames < self.position.frame {
            return Ok(None);
        }
        Ok(Some(WalMark {
            page_size: self.position.page_size,
            order: pinned.order,
            salt: pinned.salt,
            frame: pinned.frames,
            checksum: self.is_checksummed(pinned)?.then_some(pinned.checksum),
        }))
    }

    /// Whether the last frame says what the wal-index says of it. Behind one that was left without checksum the next batch
    /// says that the chain is broken, and so must a snapshot that it follows.
    fn is_checksummed(&self, pinned: &IndexHeader) -> Result<bool> {
        let Some(wal) = WalFile::open(&self.path)? else { return Ok(false) };
        let last = wal.frame_header(pinned.frames, self.position.page_size)?;
        Ok(last.is_some_and(|frame| frame.salt == pinned.salt && frame.checksum == pinned.checksum))
    }

    fn overlay(&self, pinned: &IndexHeader) -> Result<(WalFile, Vec<(u32, u32)>)> {
        let torn = |what: String| Error::new(Kind::Database, format!("snapshot: {what}"));
        let wal = WalFile::open(&self.path)?.ok_or_else(|| torn("there is no -wal file".into()))?;
        let mut overlay = Vec::with_capacity(pinned.frames as usize);
        for frame in 1..=pinned.frames {
            let header = wal
                .frame_header(frame, self.position.page_size)?
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

/// A snapshot of a database that is not in WAL mode: its read transaction keeps every writer out of the file.
///
/// Errors: as [`Source::open`]. None if the database is in WAL mode; then a [`Source`] takes the snapshot.
pub fn open_rollback_snapshot(path: &Path, options: &Options) -> Result<Option<Snapshot>> {
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
    let mark = WalMark { page_size, order: ByteOrder::Little, salt: Salt::default(), frame: 0, checksum: None };
    Ok(Some(Snapshot::new(SnapshotState::new(connection, &real, Path::new(""), mark, (mark.salt, 0), pages))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_frame_of_each_page_wins() {
        assert_eq!(last_frame_per_page(vec![(5, 1), (2, 2), (5, 3), (2, 4), (9, 5)]), [(2, 4), (5, 3), (9, 5)]);
    }

    #[test]
    fn the_lock_byte_page_is_blank_and_its_neighbours_are_not() {
        let mut bytes = vec![1u8; 3 * 4096];
        blank_lock_page(PENDING_BYTE - 4096, 4096, &mut bytes);
        assert!(bytes[..4096].iter().chain(&bytes[8192..]).all(|b| *b == 1));
        assert!(bytes[4096..8192].iter().all(|b| *b == 0));
        let mut bytes = vec![1u8; 4096];
        blank_lock_page(PENDING_BYTE + 4096, 4096, &mut bytes);
        blank_lock_page(0, 4096, &mut bytes);
        assert!(bytes.iter().all(|b| *b == 1));
    }
}

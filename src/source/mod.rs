//! A live SQLite database, followed from outside. The only user of rusqlite.
//!
//! What must hold, and why nothing is lost or invented:
//!
//! 1. There is always a read transaction (a pin) from the first copy to the end. A pin on one of the slots READ1 to READ4
//!    keeps every frame where it is. A pin on READ0, taken when the database file had everything, lets writers restart
//!    the WAL at most once with data, and keeps the database file as it is.
//! 2. The next pin begins before the last one ends, and only after everything that was committed when the last one began
//!    has been copied. So no frame can go uncopied, whatever checkpoints others run.
//! 3. Only frames that the wal-index covers are copied: a commit is what was published there, not what looks like one.
//! 4. Every copy ends with the checksum that the wal-index names: exactly the live history was copied, or the copy is
//!    refused and a new generation begins.
//! 5. No descriptor on the database or its -shm is opened outside SQLite: closing one would drop the locks of all.
//! 6. Nothing is written to the database but SQLite's own checkpoints, which copy what is committed already.
//!
//! What is held, who waits for it, and for how long:
//!
//! | lock | who waits | at most |
//! |---|---|---|
//! | a pin (READ0 to READ4) | FULL, RESTART, TRUNCATE, and all writers after those | two moves: each at the next tick, or within 0.5 ms where such a checkpoint waited less than 200 ms ago |
//! | the first pin, before its first move | the same | not kept while one waits (2 s of attempts); 1 s while a start compares the database (`COMPARE_PATIENCE`) |
//! | a snapshot's own transaction | the same | until the pin moves: what changes is kept in slices of [`snapshot`]'s budget, some milliseconds each |
//! | WRITE, to move the pin past a writer that never pauses | writers | copying 256 frames or 1 MiB |
//! | WRITE, by a checkpoint under it (`checkpoint`) | writers | copying 256 frames or 1 MiB, writing back 1000 frames or 4 MiB, and two fsyncs |
//! | CKPT, by a passive checkpoint | checkpoints of others | writing back what is committed, and two fsyncs; writers do not wait |
//! | CKPT, WRITE, READ1 to READ4, by our TRUNCATE | writers, checkpoints | nothing is written back: one ftruncate(2) and an fsync; gives up at once if anybody is in the way |
//! | RECOVER, WRITE, CKPT, by SQLite's recovery | everybody | reading the WAL once, as for anyone who is first to see a torn wal-index |
//! | the file of a database that is not in WAL mode | writers | the time to copy it aside (`Snapshot::detach`) |

pub mod lock_bytes;
pub mod page_checksums;
pub mod page_writer;
pub mod resume;
pub mod snapshot;

mod bases;
mod border;
mod borders;
mod checkpoint;
mod close;
mod compared_pages;
pub mod comparison;
mod connection;
mod copied;
mod copy;
mod facts;
mod file_crc_check;
mod file_stamp;
mod file_state;
mod foreign_locks;
mod identity;
mod idle;
mod inotify;
mod integrity;
mod lock;
mod opening;
mod pins;
mod preimages;
mod proof;
mod repinning;
mod replacement;
mod reread;
mod resuming;
mod sigbus;
mod wal_file;
mod wal_index;
mod wal_pages;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::differences::Composer;
use crate::format::origin::DatabaseOrigin;
use crate::format::position::PageSize;
use crate::format::time::Timestamp;

pub use borders::SnapshotHandle;
pub use comparison::Comparison;
pub use copy::{Batch, ReadResult};
pub use facts::is_another_file;
pub use file_crc_check::FileCrcCheck;
pub use file_stamp::FileStamp;
pub use foreign_locks::{CHECKPOINT_PATIENCE, CHECKPOINT_PAUSE};
pub use inotify::Inotify;
pub use integrity::{IntegrityCheck, check_integrity};
pub use lock::{Lock, LockWait, default_meta_path};
pub use opening::check;
pub use proof::{Proof, StateCheck};
pub use reread::MarkRelation;
pub use resume::{GenerationEnd, WalMark};

use bases::Bases;
use borders::Borders;
use checkpoint::CheckpointState;
use copied::CopyProgress;
use file_state::{FileState, FileWatcher};
use foreign_locks::ForeignLocks;
use identity::FileIdentity;
use idle::IdleWatches;
use pins::ReadPins;
use sigbus::FaultCount;
use snapshot::ActiveSnapshots;
use wal_file::WalFile;
use wal_index::{IndexHeader, WalIndex};

/// The version of SQLite in here.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// How a database is to be followed.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// How long our own reads and checkpoints wait for a lock.
    pub busy_timeout: Duration,
    /// Switch a database that is not in WAL mode to it.
    pub enable_wal: bool,
    /// Follow a database on a network file system, at the operator's own risk.
    pub allow_network: bool,
    /// What pages differ in is found, so that it can be stored instead of the pages.
    pub differences: bool,
    /// A WAL with this many frames is checkpointed.
    pub checkpoint_frames: u32,
    /// A WAL with unsaved frames is checkpointed at least this often, however short it is.
    pub checkpoint_interval: Option<Duration>,
    /// A -wal file with room for more frames than this is made shorter when it is idle; none: never.
    pub truncate_frames: Option<u32>,
}

/// One database, followed.
///
/// A round: [`Source::has_work`]; if so, [`Source::read`] until there is nothing more; then [`Source::finish_round`].
pub struct Source {
    /// Also run checkpoints, recover the wal-index, and own the mapping of it.
    pins: ReadPins,
    pin: CurrentPin,
    files: DatabaseFiles,
    options: SourceOptions,
    copied: CopyProgress,
    content: KnownContent,
    checkpoints: CheckpointState,
    idle_watches: IdleWatches,
    file_watch: FileWatcher,
    foreign_locks: ForeignLocks,
    /// The snapshots that are being read, which must be carried along when the pin moves.
    active_snapshots: ActiveSnapshots,
}

/// The pin that is held: it keeps frames that are not copied where they are.
struct CurrentPin {
    /// What the wal-index said just before it began.
    header: IndexHeader,
    /// Pins taken in a row while nothing changed: see [`Source::has_work`].
    idle_repins: u8,
    /// Pins in a row that began after the place, and were given up.
    overtaken: u8,
}

/// The files of the database as they were opened. Others that take their names are noticed, and not read.
struct DatabaseFiles {
    index: WalIndex,
    wal: Option<WalFile>,
    path: PathBuf,
    identity: FileIdentity,
    /// Before the wal-index was mapped.
    faults: FaultCount,
}

/// What the pages must be at the place: what writes past SQLite is found by it.
#[derive(Default)]
struct KnownContent {
    /// The pages as they were at the place; none where that is not known.
    bases: Option<Bases>,
    borders: Borders,
    /// A snapshot that is stored has shown that something has written to the database past SQLite.
    differs: bool,
}

impl Source {
    /// Opens a database and pins it. What it holds at that commit is where a snapshot or a continuation begins.
    ///
    /// Errors: [`Kind::DatabaseNotReady`] where waiting may help: no file yet, an empty one, locked, not in WAL mode;
    /// [`Kind::Database`] where it cannot.
    pub fn open(path: &Path, options: &SourceOptions) -> Result<Source> {
        let real = identity::resolve(path, options.allow_network)?;
        opening::open(&real, options).map_err(|e| e.context(format!("database {}", path.display())))
    }

    /// The commit that was pinned at the start.
    pub fn start(&self) -> WalMark {
        self.copied.position.mark()
    }

    pub fn page_size(&self) -> PageSize {
        self.copied.position.page_size
    }

    /// Which database it is.
    ///
    /// Errors: where it cannot be opened once more.
    pub fn origin(&self) -> Result<DatabaseOrigin> {
        let connection = connection::open(&self.files.path, self.options.busy_timeout)?;
        Ok(facts::origin(&connection, &self.files.path))
    }

    /// The path with every symbolic link resolved.
    pub fn path(&self) -> &Path {
        &self.files.path
    }

    /// Frames in the WAL, and how many of them are in the database file already. None while the wal-index is torn.
    pub fn wal_frames(&self) -> Option<(u32, u32)> {
        self.files.index.read().ok().flatten().map(|header| (header.frames, header.backfilled))
    }

    /// When the database was last written to, by its WAL, or by its own file where the WAL holds no commit. Not earlier
    /// than its last commit, but later where a transaction was rolled back since, or a checkpoint emptied the WAL.
    ///
    /// None where it is not known: the wal-index is torn, or the file system keeps no such time.
    pub fn last_write(&self) -> Option<Timestamp> {
        let (frames, _) = self.wal_frames()?;
        let file = if frames > 0 { wal_file::wal_path(&self.files.path) } else { self.files.path.clone() };
        std::fs::metadata(file).and_then(|found| found.modified()).ok().map(Timestamp::from_system_time)
    }

    /// The stamp of the database file as it is now.
    pub fn stamp(&self) -> Result<FileStamp> {
        FileStamp::of(&self.files.path)
    }

    /// The same as of the last look at the file ([`Source::replaced_file`]), without another one.
    pub fn last_stamp(&self) -> Option<FileStamp> {
        self.file_watch.base.as_ref().map(FileState::stamp)
    }

    /// The stamp of the database file, if everything was given out and all of it is in that file: no frame of the WAL is
    /// missing in it, and nobody has written to it but checkpoints.
    pub fn whole_file(&mut self) -> Result<Option<FileStamp>> {
        let before = self.header()?;
        let whole = self.copied.passed_first_pin && before.is_backfilled() && self.is_copied(&before);
        if !whole || self.files.index.progress().is_open() || !self.may_checkpoint() {
            return Ok(None);
        }
        let stamp = self.stamp()?;
        Ok((self.header()? == before).then_some(stamp))
    }

    /// Empties the WAL at the end of a run, if nobody is in the way: anyone who closes the database last then finds nothing to
    /// write, and the next run finds the file as this one has left it.
    pub fn checkpoint_at_end(&mut self) -> Result<()> {
        checkpoint::at_end(self)
    }

    /// Whether a round is worth while: something was committed, restarted or not yet given out, or the pin was lost. Costs
    /// 35 ns when idle.
    pub fn has_work(&mut self, now: Instant) -> Result<bool> {
        if !self.pins.is_held() {
            return Ok(true);
        }
        let header = self.header()?;
        if header != self.pin.header || !self.is_copied(&header) || self.checkpoints.is_blocking() {
            self.pin.idle_repins = 0;
            self.checkpoints.forget_wal_length();
            return Ok(true);
        }
        if header.is_backfilled() {
            self.repin_when_idle(&header, now)?;
            return Ok(false);
        }
        Ok(self.checkpoints.is_due(now, &header, self))
    }

    /// Whether a checkpoint of another process keeps all writers waiting, for our pin perhaps. Costs a call of fcntl(2),
    /// or two. A source that has just been opened is not to be kept then (src/source/foreign_locks.rs).
    pub fn has_waiting_checkpoint(&mut self) -> bool {
        self.foreign_locks.has_waiting_checkpoint(self.files.identity.index)
    }

    /// Gives out the next committed frames, as many whole frames as `buffer` has room for.
    ///
    /// What their pages differ in is put into `composer`, if the batch says so.
    pub fn read<'b>(&mut self, buffer: &'b mut [u8], composer: &mut Composer) -> Result<ReadResult<'b>> {
        fault::point("source.read")?;
        if !self.pins.is_held() {
            // SQLite ends a transaction by itself after some errors of the disk.
            return Ok(ReadResult::Broken(GenerationEnd::WalBroken("the pin was lost".into())));
        }
        if self.content.differs {
            return Ok(ReadResult::Broken(GenerationEnd::DatabaseDiffers));
        }
        copy::read(self, buffer, composer)
    }

    /// Ends a round in which [`Source::read`] came to an end: moves the pin, and runs a checkpoint where one is due.
    /// True if another round should follow at once rather than at the next tick.
    pub fn finish_round(&mut self, now: Instant) -> Result<bool> {
        if !self.copied.all_copied {
            checkpoint::abort(self);
            return Ok(false);
        }
        let header = self.header()?;
        if !self.active_snapshots.preserve(&header) {
            return Ok(true);
        }
        checkpoint::advance(self, now)
    }

    /// Ends a turn in which [`Source::read`] did not come to an end. True if it is to go on now, because writers are held off
    /// for the rest: see [`Source::release_writers`].
    pub fn lock_to_catch_up(&mut self, now: Instant) -> Result<bool> {
        checkpoint::lock_to_catch_up(self, now)
    }

    /// Whether writers wait for the copy to go on.
    pub fn blocks_writers(&self) -> bool {
        self.checkpoints.is_locked()
    }

    /// Nobody may be kept waiting by a copy that does not go on: ends a checkpoint under the WRITE lock. To be called
    /// after an error in a round.
    pub fn release_writers(&mut self) {
        checkpoint::abort(self);
    }

    /// The wal-index header; recovers it first if it is torn for good, as it is after a writer died in the middle.
    fn header(&mut self) -> Result<IndexHeader> {
        for _ in 0..3 {
            let found = self.files.index.read()?;
            self.has_no_gap()?;
            if let Some(header) = found {
                return Ok(header);
            }
            connection::read_schema(self.pins.idle_connection())?;
        }
        Err(Error::new(Kind::DatabaseNotReady, "wal-index: torn, and SQLite did not recover it"))
    }

    /// Nobody has cut the -shm file that is mapped.
    fn has_no_gap(&self) -> Result<()> {
        self.files.identity.index.map_or(Ok(()), |(_, inode)| self.files.faults.check(inode))
    }

    fn is_copied(&self, header: &IndexHeader) -> bool {
        self.copied.has_all_of(header)
    }
}

#[cfg(test)]
mod tests;

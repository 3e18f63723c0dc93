//! What a database is kept by, and what all databases of a process share.

use std::path::PathBuf;
use std::time::Duration;

use crate::format::differences::Composer;
use crate::format::segment::Encoder;
use crate::replica::snapshot::Desk;
use crate::replica::writer::encoder;
use crate::source::{self, Watch};

/// How one database is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    pub path: PathBuf,
    pub source: source::Options,
    /// Where the lock is, and what must be kept while the store is away. None: beside the database.
    pub meta_path: Option<PathBuf>,
    /// How often the database is looked at.
    pub monitor_interval: Duration,
    /// Under steady writes, at most one segment in this time.
    pub sync_interval: Duration,
    /// How old the newest snapshot may grow while there are changes; none: only where a generation begins.
    pub snapshot_interval: Option<Duration>,
    /// How long any moment stays restorable; none: for ever.
    pub retention: Option<Duration>,
    /// Merge and delete what is due, before all is settled.
    pub enforce_retention: bool,
    /// Take a snapshot now, whether one is due or not.
    pub force_snapshot: bool,
    /// Take the place of what is stored below the prefix, also if it is of another database.
    pub allow_other_database: bool,
    /// Leave a note of the database file, by which the next start finds a stored position without a WAL.
    pub keep_note: bool,
    /// Wait for a database or a store that is not there yet, rather than fail.
    pub patient: bool,
    /// Bytes that may wait on disk for the store, in the spool or in the WAL. Past it the WAL is let go and a new
    /// generation must begin: the application's disk matters more than the history of the outage.
    pub backlog_bytes: u64,
}

impl Settings {
    /// The directory of the lock and of requests. By the real path, so that two names of one database meet there.
    pub fn meta(&self) -> PathBuf {
        let real = || self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        self.meta_path.clone().unwrap_or_else(|| source::default_meta_path(&real()))
    }
}

/// What all databases of a process share: big buffers, and word from the kernel.
pub struct Tools {
    pub encoder: Encoder,
    pub composer: Composer,
    pub buffer: Vec<u8>,
    pub desk: Desk,
    pub watch: Watch,
    /// Those at rest are to be looked at, too.
    pub everyone: bool,
}

impl Tools {
    /// Frames that are copied at once, in bytes. At least one frame of the largest page size.
    const BUFFER: usize = 1 << 20;

    #[allow(clippy::new_without_default)]
    pub fn new() -> Tools {
        Tools {
            encoder: encoder(),
            composer: Composer::default(),
            buffer: vec![0; Self::BUFFER],
            desk: Desk::new(),
            watch: Watch::new(),
            everyone: true,
        }
    }
}

/// When to call again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Next {
    /// At once: there is work that was put off to let others have their turn.
    Now,
    /// As soon as the store has something.
    Store,
    /// At this database's next tick.
    Tick,
    /// When there is word of a write, or when everyone is looked at.
    Rest,
}

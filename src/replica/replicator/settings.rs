//! What a database is kept by, and what all databases of a process share.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::format::compression_level::{CompressionLevel, SegmentLevels};
use crate::format::differences::Composer;
use crate::format::keep::Keep;
use crate::format::segment::SegmentEncoder;
use crate::replica::maintenance::Maintenance;
use crate::replica::replicator::comparison_schedule::ComparisonPace;
use crate::replica::segment_builder::new_encoder;
use crate::replica::sent_segments::SentSegments;
use crate::replica::snapshot_upload::SnapshotBuffers;
use crate::settled::DirectoryStamps;
use crate::source::{self, Inotify, SourceOptions};
use crate::store::Store;

/// How one database is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    pub path: PathBuf,
    pub source: SourceOptions,
    /// Where the lock is, and what must be kept while the store is away. None: beside the database.
    pub meta_path: Option<PathBuf>,
    /// How often the database is looked at.
    pub monitor_interval: Duration,
    /// Under steady writes, at most one segment in this time.
    pub sync_interval: Duration,
    /// While a standby listens, each commit is stored at once.
    pub serves_standbys: bool,
    /// How old the newest snapshot may grow while there are changes; none: only where a generation begins.
    pub snapshot_interval: Option<Duration>,
    /// How often the database is compared with what is stored; none: only at a start.
    pub comparison: Option<ComparisonPace>,
    /// How long any moment stays restorable; none: for ever.
    pub retention: Option<Duration>,
    /// What is kept of a longer history, if it is thinned out.
    pub keep: Option<Keep>,
    /// Merge small segments and delete what is too old. False: only add objects.
    pub compaction: bool,
    pub compression_level: CompressionLevel,
    /// Merge and delete what is due, before all is settled.
    pub enforce_retention: bool,
    /// Take a snapshot now, whether one is due or not.
    pub force_snapshot: bool,
    /// Take a snapshot where a restore would read more than twice the last one.
    pub snapshot_if_long: bool,
    /// Take the place of what is stored below the prefix, also if it is of another database.
    pub allow_other_database: bool,
    /// Store in clear, also after what is encrypted.
    pub allow_unencrypted: bool,
    /// Tell anyone who replicates to the same place to stop.
    pub takeover: bool,
    /// Leave a note of the database file, by which the next start finds a stored position without a WAL.
    pub keep_note: bool,
    /// Leave the checksums of all pages, by which the next start finds what differs where the WAL does not tell it.
    pub keep_page_sums: bool,
    /// Wait for a database or a store that is not there yet, rather than fail.
    pub wait_for_database: bool,
    /// Bytes that may wait on disk for the store, in the spool or in the WAL. Past it the WAL is let go and a new
    /// generation must begin: the application's disk matters more than the history of the outage.
    pub max_backlog: u64,
}

impl Settings {
    pub fn maintenance(&self) -> Maintenance {
        let Settings { retention, keep, compaction, enforce_retention: single_pass, .. } = *self;
        Maintenance { retention, keep, compaction, single_pass }
    }

    /// The directory of what concerns one replica: that of the lock, or `directory` in there.
    pub fn replica_directory(&self, directory: Option<&str>) -> PathBuf {
        directory.map_or_else(|| self.meta(), |name| self.meta().join(name))
    }

    /// Where segments wait while a store is away.
    pub(super) fn spool_directory(&self, directory: Option<&str>) -> PathBuf {
        let meta = self.meta_path.clone().unwrap_or_else(|| source::default_meta_path(&self.path));
        directory.map_or_else(|| meta.clone(), |name| meta.join(name)).join("spool")
    }

    /// The one replica of a database that has no other.
    pub(super) fn only_target(&self, store: Rc<dyn Store>) -> ReplicaTarget {
        ReplicaTarget {
            store,
            name: None,
            directory: None,
            sync_interval: self.sync_interval,
            serves_standbys: self.serves_standbys,
            compaction: self.compaction,
            compression_level: self.compression_level,
        }
    }

    /// The directory of the lock and of requests. By the real path, so that two names of one database meet there.
    pub fn meta(&self) -> PathBuf {
        let real = || self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        self.meta_path.clone().unwrap_or_else(|| source::default_meta_path(&real()))
    }
}

/// One of the replicas of a database.
#[derive(Clone)]
pub struct ReplicaTarget {
    pub store: Rc<dyn Store>,
    /// What log lines call it; none where the database has no other.
    pub name: Option<String>,
    /// Its directory beside the lock of the database; none: no directory of its own.
    pub directory: Option<String>,
    /// Under steady writes, at most one segment in this time.
    pub sync_interval: Duration,
    /// While a standby listens, each commit is stored at once.
    pub serves_standbys: bool,
    /// Merge small segments and delete what is too old. False: only add objects.
    pub compaction: bool,
    pub compression_level: CompressionLevel,
}

/// What all databases of a process share: big buffers, and word from the kernel.
pub struct SharedBuffers {
    pub encoder: SegmentEncoder,
    pub composer: Composer,
    /// What compression may cost, for all of them together.
    pub levels: SegmentLevels,
    pub buffer: Vec<u8>,
    pub snapshot_buffers: SnapshotBuffers,
    /// What was stored lately, for merging.
    pub sent_segments: SentSegments,
    pub inotify: Inotify,
    pub directories: DirectoryStamps,
    /// No database is compared before.
    pub next_comparison: Option<Instant>,
    /// Those at rest are to be looked at, too.
    pub check_idle: bool,
    /// Of the database that is read for the checksums of its pages.
    pub page_sums_turn: Rc<()>,
}

impl SharedBuffers {
    /// Frames that are copied at once, in bytes. At least one frame of the largest page size.
    const BUFFER: usize = 1 << 20;

    #[allow(clippy::new_without_default)]
    pub fn new() -> SharedBuffers {
        SharedBuffers {
            encoder: new_encoder(),
            composer: Composer::default(),
            levels: SegmentLevels::default(),
            buffer: vec![0; Self::BUFFER],
            snapshot_buffers: SnapshotBuffers::new(),
            sent_segments: SentSegments::default(),
            inotify: Inotify::new(),
            directories: DirectoryStamps::default(),
            next_comparison: None,
            check_idle: true,
            page_sums_turn: Rc::default(),
        }
    }
}

/// When to call again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum WakeOn {
    /// At once: there is work that was put off to let others have their turn.
    Immediately,
    /// As soon as the store has something.
    StoreEvent,
    /// At this database's next tick.
    NextTick,
    /// When there is word of a write, or when everyone is looked at.
    DatabaseWrite,
}

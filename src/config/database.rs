//! A database, and how it is backed up.

use std::path::PathBuf;
use std::time::Duration;

use super::{Replica, SnapshotPolicy, mask_credentials};
use crate::error::{Error, Kind, Result};
use crate::format::crc32::Crc32;
use crate::format::keep::Keep;

/// How often the WAL is looked at. A look costs microseconds, so that a commit is seen at once.
pub const DEFAULT_MONITOR_INTERVAL: Duration = Duration::from_millis(50);
/// How often a checkpoint is made even if the WAL is small. Litestream's default.
pub const DEFAULT_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);
/// In pages: from this size of the WAL on a checkpoint is made. Litestream's default, and SQLite's own.
pub const DEFAULT_MIN_CHECKPOINT_PAGES: u32 = 1000;
/// In pages: a WAL file that grew past this is shrunk. 16 MiB at the usual page size; Litestream lets it grow to 500 MB.
pub const DEFAULT_TRUNCATE_PAGES: u32 = 4000;
/// How long to wait for a lock of the application. Litestream's default.
pub const DEFAULT_BUSY_TIMEOUT: Duration = Duration::from_secs(1);
/// In bytes: so much may wait on disk for a store that is away. Hours of a busy database; small beside most disks.
pub const DEFAULT_SPOOL_LIMIT: u64 = 1 << 30;

/// From the end of one comparison with what is stored to the next. One snapshot a day is as much reading.
pub const DEFAULT_COMPARE_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// A database, and how it is backed up.
#[derive(Clone, PartialEq, Debug)]
pub struct Database {
    /// Absolute.
    pub path: PathBuf,
    /// The replica that a command is about; where that is no one in particular, the first.
    pub replica: Replica,
    /// All of them.
    pub replicas: Vec<Replica>,
    pub monitor_interval: Duration,
    /// None: only the WAL's size matters.
    pub checkpoint_interval: Option<Duration>,
    pub min_checkpoint_pages: u32,
    /// None: a grown WAL file keeps its size.
    pub truncate_pages: Option<u32>,
    pub busy_timeout: Duration,
    /// Where the lock file and the spool are; none: beside the database.
    pub meta_path: Option<PathBuf>,
    /// In bytes: so much may wait on disk for a store that is away.
    pub spool_limit: u64,
    /// Whether `replicate` may switch the database to WAL mode.
    pub enable_wal: bool,
    /// Whether the database may be on a network file system, at the operator's own risk.
    pub allow_network_file_system: bool,
    /// From one comparison with what is stored to the next; none: only at a start.
    pub compare_interval: Option<Duration>,
    /// None: a snapshot is taken only at the start of a generation.
    pub snapshot_interval: Option<Duration>,
    /// None: nothing is ever deleted.
    pub snapshot_retention: Option<Duration>,
    /// What is kept of a longer history, if it is thinned out: then `snapshot_retention` is the longest of that.
    pub keep: Option<Keep>,
    pub restore_if_missing: bool,
}

impl Database {
    /// With the default for everything else.
    pub fn new(path: PathBuf, replica: Replica) -> Database {
        let policy = SnapshotPolicy::default();
        Database {
            path,
            replicas: vec![replica.clone()],
            replica,
            monitor_interval: DEFAULT_MONITOR_INTERVAL,
            checkpoint_interval: Some(DEFAULT_CHECKPOINT_INTERVAL),
            min_checkpoint_pages: DEFAULT_MIN_CHECKPOINT_PAGES,
            truncate_pages: Some(DEFAULT_TRUNCATE_PAGES),
            busy_timeout: DEFAULT_BUSY_TIMEOUT,
            meta_path: None,
            spool_limit: DEFAULT_SPOOL_LIMIT,
            enable_wal: true,
            allow_network_file_system: false,
            compare_interval: Some(DEFAULT_COMPARE_INTERVAL),
            snapshot_interval: policy.interval(),
            snapshot_retention: policy.retention,
            keep: policy.keep,
            restore_if_missing: false,
        }
    }

    pub fn has_several_replicas(&self) -> bool {
        self.replicas.len() > 1
    }

    /// The same database once for each replica.
    pub fn each_replica(&self) -> Vec<Database> {
        let about = |replica: &Replica| Database { replica: replica.clone(), ..self.clone() };
        self.replicas.iter().map(about).collect()
    }

    /// The same database with the replica of this name, or at this URL.
    ///
    /// Errors: of kind `Usage` if there is none.
    pub fn about(&self, wanted: &str) -> Result<Database> {
        let is_it = |replica: &&Replica| replica.name.as_deref() == Some(wanted) || replica.url == wanted;
        match self.replicas.iter().find(is_it) {
            Some(replica) => Ok(Database { replica: replica.clone(), ..self.clone() }),
            None => {
                let what = format!("database {}: no replica {}", self.path.display(), mask_credentials(wanted));
                Err(Error::new(Kind::Usage, what).with_hint(format!("its replicas are {}", self.replica_labels())))
            }
        }
    }

    /// What its replicas are called.
    pub fn replica_labels(&self) -> String {
        self.replicas.iter().map(Replica::label).collect::<Vec<_>>().join(", ")
    }

    /// The directory of the replica beside the lock; none where the database has no other.
    pub fn replica_directory(&self) -> Option<String> {
        self.has_several_replicas().then(|| match &self.replica.name {
            Some(name) => format!("replica-{name}"),
            None => {
                let mut crc = Crc32::default();
                crc.update(self.replica.url.as_bytes());
                format!("replica-{:08x}", crc.finish())
            }
        })
    }
}

//! Where one database stands, for the log, the metrics and the commands.

use std::time::Duration;

use crate::format::position::Position;
use crate::format::time::Timestamp;
use crate::replica::counters::ReplicatorCounters;

/// Where things stand.
#[derive(Clone, Debug, Default)]
pub struct ReplicatorStatus {
    /// The replica, where the database has several.
    pub replica: Option<String>,
    /// Everything up to here is stored.
    pub stored: Option<Position>,
    /// Everything up to here has been copied from the WAL.
    pub copied: Option<Position>,
    /// Since the oldest commit that is not stored; none where that is not known.
    pub lag: Option<Duration>,
    /// Objects and bytes stored since the start.
    pub objects: u64,
    pub bytes: u64,
    /// Listings, merges and deletes since the start.
    pub retention_operations: u64,
    /// Frames in the WAL.
    pub wal_frames: u32,
    pub snapshot: Option<SnapshotStatus>,
    /// The snapshot that was stored last in this run.
    pub snapshot_stored: Option<Position>,
    pub problem: Option<String>,
    pub counters: ReplicatorCounters,
    /// When everything that was committed was last seen to be stored.
    pub all_stored_at: Option<Timestamp>,
    /// Bytes of frames in the WAL.
    pub wal_bytes: u64,
    /// To how many recipients what was stored last is encrypted; 0: it is in clear. None: nothing is known to be stored.
    pub recipients: Option<usize>,
}

impl ReplicatorStatus {
    /// Several replicas of one database as one: the worst of each.
    pub fn worst(replicas: Vec<ReplicatorStatus>) -> ReplicatorStatus {
        let lag =
            |one: Option<Duration>, other: Option<Duration>| one.and_then(|one| other.map(|other| one.max(other)));
        let worse = |one: ReplicatorStatus, other: ReplicatorStatus| ReplicatorStatus {
            lag: lag(one.lag, other.lag),
            problem: one.problem.or(other.problem),
            all_stored_at: one.all_stored_at.min(other.all_stored_at),
            objects: one.objects + other.objects,
            bytes: one.bytes + other.bytes,
            retention_operations: one.retention_operations + other.retention_operations,
            ..one
        };
        replicas.into_iter().reduce(worse).unwrap_or_default()
    }
}

/// A snapshot under way.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotStatus {
    /// Bytes of the database read, of how many, and bytes stored.
    pub read: u64,
    pub total: u64,
    pub stored: u64,
}

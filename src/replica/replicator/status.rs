//! Where one database stands, for the log, the metrics and the commands.

use std::time::Duration;

use crate::format::position::Position;
use crate::format::time::Timestamp;
use crate::replica::counters::Counters;

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
    pub counters: Counters,
    /// When everything that was committed was last seen to be stored.
    pub all_stored_at: Option<Timestamp>,
    /// Bytes of frames in the WAL.
    pub wal_bytes: u64,
}

/// A snapshot under way.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotStatus {
    /// Bytes of the database read, of how many, and bytes stored.
    pub read: u64,
    pub total: u64,
    pub stored: u64,
}

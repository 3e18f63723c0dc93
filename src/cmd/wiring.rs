//! From a checked configuration to what follows the databases.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::cmd::encryption;
use crate::config::Database;
use crate::error::Result;
use crate::replica::replicator::{ComparisonPace, ReplicaTarget, Replicator, Settings};
use crate::restore::live_state::LiveDatabase;
use crate::source::SourceOptions;
use crate::store::{self, ConnectionPool, Store, StoreTarget};

/// How `database` is to be followed.
pub fn replicator_settings(database: &Database, wait_for_database: bool) -> Settings {
    Settings {
        path: database.path.clone(),
        source: source_options(database),
        meta_path: database.meta_path.clone(),
        monitor_interval: database.monitor_interval,
        sync_interval: database.replica.sync_interval,
        serves_standbys: database.replica.serves_standbys,
        snapshot_interval: database.snapshot_interval,
        comparison: database.compare_interval.map(ComparisonPace::each),
        retention: database.snapshot_retention,
        keep: database.keep,
        compaction: database.replica.compaction,
        compression_level: database.replica.compression_level,
        enforce_retention: false,
        force_snapshot: false,
        snapshot_if_long: false,
        allow_other_database: false,
        allow_unencrypted: false,
        takeover: false,
        keep_note: false,
        keep_page_sums: false,
        wait_for_database,
        max_backlog: database.spool_limit,
    }
}

/// The live database beside what is stored of it.
pub fn live_database(database: &Database) -> LiveDatabase<'_> {
    LiveDatabase {
        path: &database.path,
        options: SourceOptions { enable_wal: false, ..source_options(database) },
        meta: replicator_settings(database, false).meta(),
        sync_interval: database.replica.sync_interval,
    }
}

/// How the live database is read.
pub fn source_options(database: &Database) -> SourceOptions {
    SourceOptions {
        busy_timeout: database.busy_timeout,
        enable_wal: database.enable_wal,
        allow_network: database.allow_network_file_system,
        differences: true,
        checkpoint_frames: database.min_checkpoint_pages,
        checkpoint_interval: database.checkpoint_interval,
        truncate_frames: database.truncate_pages,
    }
}

/// Opens the store of the replica that `database` is about, and makes its bucket if that is asked for.
pub fn open_store(database: &Database, create_bucket: bool, pool: &mut ConnectionPool) -> Result<Rc<dyn Store>> {
    let mut target = database.replica.target.clone();
    if let StoreTarget::Nats(options) = &mut target {
        options.create_bucket |= create_bucket;
        options.must_keep = Some(database.snapshot_retention.unwrap_or(Duration::MAX));
    }
    let notes = replicator_settings(database, false).meta();
    store::open(&target, encryption(&database.replica, Some(notes))?, pool)
}

/// What follows `database`, ready to be polled.
pub fn new_replicator(
    database: &Database,
    settings: Settings,
    create_bucket: bool,
    pool: &mut ConnectionPool,
    now: Instant,
) -> Result<Replicator> {
    let target = |about: &Database| open_store(about, create_bucket, pool).map(|store| replica_target(about, store));
    let targets = database.each_replica().iter().map(target).collect::<Result<Vec<_>>>()?;
    Ok(Replicator::with_replicas(settings, targets, now))
}

/// The replica that `database` is about, in its store.
pub fn replica_target(database: &Database, store: Rc<dyn Store>) -> ReplicaTarget {
    ReplicaTarget {
        store,
        name: database.has_several_replicas().then(|| database.replica.label().to_string()),
        directory: database.replica_directory(),
        sync_interval: database.replica.sync_interval,
        serves_standbys: database.replica.serves_standbys,
        compaction: database.replica.compaction,
        compression_level: database.replica.compression_level,
    }
}

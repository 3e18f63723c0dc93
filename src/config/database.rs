//! One entry of `dbs`: a database, or a directory of databases.

use std::path::PathBuf;
use std::time::Duration;

use super::database_dir::DatabaseDir;
use super::document::Section;
use super::environment::Environment;
use super::replica_settings::{self, ReplicaSettings};
use super::{Replica, SnapshotPolicy, glob, is_same_location, keys, mask_credentials};
use crate::error::{Error, Kind, Result};
use crate::format::crc32::Crc32;

/// How often the WAL is looked at. A look costs microseconds, so that a commit is seen at once.
pub const DEFAULT_MONITOR_INTERVAL: Duration = Duration::from_millis(50);
/// How often a checkpoint is made even if the WAL is small. The peer's default.
pub const DEFAULT_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);
/// In pages: from this size of the WAL on a checkpoint is made. The peer's default, and SQLite's own.
pub const DEFAULT_MIN_CHECKPOINT_PAGES: u32 = 1000;
/// In pages: a WAL file that grew past this is shrunk. 16 MiB at the usual page size; the peer lets it grow to 500 MB.
pub const DEFAULT_TRUNCATE_PAGES: u32 = 4000;
/// How long to wait for a lock of the application. The peer's default.
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
            snapshot_interval: policy.interval,
            snapshot_retention: policy.retention,
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

/// What an entry of `dbs` is.
pub(super) enum DbsEntry {
    Database(Database),
    Directory(DatabaseDir),
}

/// What the top level says for every database.
pub(super) struct Defaults {
    pub layer: ReplicaSettings,
    pub snapshot: SnapshotPolicy,
}

/// Reads one entry; `warnings` takes what is to be logged.
pub(super) fn read(
    section: &Section<'_>,
    inherited: &Defaults,
    around: &Environment<'_>,
    warnings: &mut Vec<String>,
) -> Result<DbsEntry> {
    warnings.extend(keys::check(section, &keys::DATABASE)?);
    let (replica, replicas) = replicas(section, inherited, around, warnings)?;
    let place = location(section, around)?;
    let mut database = Database { replicas, ..Database::new(place.clone(), replica) };
    read_settings(section, &mut database, around)?;
    read_snapshot(section, &mut database, inherited, warnings)?;
    if section.has("path") {
        return Ok(DbsEntry::Database(database));
    }
    directory(section, database, around).map(DbsEntry::Directory)
}

/// The database's path, or the directory.
fn location(section: &Section<'_>, around: &Environment<'_>) -> Result<PathBuf> {
    let (path, dir) = (section.text("path")?, section.text("dir")?);
    match (path, dir) {
        (Some(path), None) => section.with_key_context("path", around.database_path(&path)),
        (None, Some(dir)) => section.with_key_context("dir", around.absolute(&dir)),
        (Some(_), Some(_)) => Err(section.error_here("expected path or dir, found both")),
        (None, None) => Err(section.error_here("expected path or dir, found neither")),
    }
}

fn directory(section: &Section<'_>, template: Database, around: &Environment<'_>) -> Result<DatabaseDir> {
    let Some(pattern) = section.text("pattern")? else {
        return Err(section.error("dir", "needs pattern").with_hint("add pattern: \"*.db\""));
    };
    if !glob::is_valid(&pattern) {
        return Err(
            section.error("pattern", format!("expected a pattern of file names such as *.db, found {pattern:?}"))
        );
    }
    if section.has("meta-path") {
        return Err(section.error("meta-path", "one path cannot serve many databases").with_hint("write meta-dir"));
    }
    let meta_dir = section.text("meta-dir")?.map(|text| around.absolute(&text)).transpose();
    Ok(DatabaseDir {
        pattern,
        recursive: section.bool("recursive")?.unwrap_or(false),
        watch: section.bool("watch")?.unwrap_or(false),
        meta_dir: section.with_key_context("meta-dir", meta_dir)?,
        template,
    })
}

fn read_settings(section: &Section<'_>, database: &mut Database, around: &Environment<'_>) -> Result<()> {
    if section.has("path") {
        let stray = ["pattern", "recursive", "watch", "meta-dir"].into_iter().find(|key| section.has(key));
        if let Some(key) = stray {
            return Err(section.error(key, "works only with dir, and this entry has a path"));
        }
    }
    database.monitor_interval = section.interval("monitor-interval")?.unwrap_or(database.monitor_interval);
    if let Some(interval) = section.duration("checkpoint-interval")? {
        database.checkpoint_interval = Some(interval).filter(|interval| !interval.is_zero());
    }
    if let Some(interval) = section.duration("compare-interval")? {
        database.compare_interval = Some(interval).filter(|interval| !interval.is_zero());
    }
    if let Some(pages) = section.integer("min-checkpoint-page-count", 1, i64::from(u32::MAX))? {
        database.min_checkpoint_pages = u32::try_from(pages).unwrap_or(u32::MAX);
    }
    if let Some(pages) = section.integer("truncate-page-n", -1, i64::from(u32::MAX))? {
        database.truncate_pages = u32::try_from(pages).ok().filter(|pages| *pages > 0);
    }
    database.busy_timeout = section.duration("busy-timeout")?.unwrap_or(database.busy_timeout);
    let meta_path = section.text("meta-path")?.map(|text| around.absolute(&text)).transpose();
    database.meta_path = section.with_key_context("meta-path", meta_path)?;
    database.spool_limit = section.size("spool-limit")?.unwrap_or(database.spool_limit);
    database.enable_wal = section.bool("enable-wal")?.unwrap_or(database.enable_wal);
    let allow = section.bool("allow-network-file-system")?;
    database.allow_network_file_system = allow.unwrap_or(database.allow_network_file_system);
    database.restore_if_missing = section.bool("restore-if-db-not-exists")?.unwrap_or(database.restore_if_missing);
    Ok(())
}

/// The database's own snapshot keys, over those of the top level.
fn read_snapshot(
    section: &Section<'_>,
    database: &mut Database,
    inherited: &Defaults,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let own = section.section("snapshot")?;
    let policy = SnapshotPolicy::read(own.as_ref(), inherited.snapshot, warnings)?;
    database.snapshot_interval = policy.interval;
    database.snapshot_retention = policy.retention;
    Ok(())
}

/// The entry's replicas: `replica`, or those of `replicas`, or what the top level says; the first, and all.
fn replicas(
    section: &Section<'_>,
    inherited: &Defaults,
    around: &Environment<'_>,
    warnings: &mut Vec<String>,
) -> Result<(Replica, Vec<Replica>)> {
    let mut replicas: Vec<Replica> = Vec::new();
    for own in own_replicas(section)? {
        warnings.extend(keys::check(&own, &keys::REPLICA)?);
        let layer = ReplicaSettings::read(&own, around)?;
        let replica = replica_settings::replica(layer, inherited.layer.clone(), around);
        let replica = own.with_section_context(replica)?;
        if let Some(why) = replicas.iter().find_map(|other| clash(other, &replica)) {
            return Err(own.error_here(why));
        }
        replicas.push(replica);
    }
    if let Some(first) = replicas.first() {
        return Ok((first.clone(), replicas));
    }
    let replica = replica_settings::replica(ReplicaSettings::default(), inherited.layer.clone(), around);
    section.with_section_context(replica).map(|replica| (replica.clone(), vec![replica]))
}

/// Why one database cannot have both.
fn clash(one: &Replica, other: &Replica) -> Option<String> {
    if is_same_location(&one.target, &other.target) {
        return Some(format!("two replicas are in one place, {}", other.url));
    }
    let name = other.name.as_ref().filter(|_| one.name == other.name)?;
    Some(format!("two replicas have the name {name}"))
}

fn own_replicas<'a>(section: &Section<'a>) -> Result<Vec<Section<'a>>> {
    let one = section.section("replica")?;
    if !section.has("replicas") {
        return Ok(one.into_iter().collect());
    }
    if one.is_some() {
        return Err(section
            .error("replicas", "replica is given too")
            .with_hint("write all replicas of the database under replicas"));
    }
    match section.sections("replicas")? {
        many if many.is_empty() => Err(section.error("replicas", "expected at least one replica, found none")),
        many => Ok(many),
    }
}

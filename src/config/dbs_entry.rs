//! One entry of `dbs`: a database, or a directory of databases.

use std::path::PathBuf;

use super::database::Database;
use super::database_dir::DatabaseDir;
use super::document::Section;
use super::environment::Environment;
use super::replica_settings::ReplicaSettings;
use super::resolve_replica;
use super::{Replica, SnapshotPolicy, glob, is_same_location, keys};
use crate::error::Result;

/// What an entry of `dbs` is.
pub(super) enum DbsEntry {
    Database(Database),
    Directory(DatabaseDir),
}

impl DbsEntry {
    /// The database, or what each one in the directory is like.
    pub fn database(&self) -> &Database {
        match self {
            DbsEntry::Database(database) => database,
            DbsEntry::Directory(dir) => &dir.template,
        }
    }
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
    environment: &Environment<'_>,
    warnings: &mut Vec<String>,
) -> Result<DbsEntry> {
    warnings.extend(keys::check(section, &keys::DATABASE)?);
    let (replica, replicas) = replicas(section, inherited, environment, warnings)?;
    let place = location(section, environment)?;
    let mut database = Database { replicas, ..Database::new(place.clone(), replica) };
    read_settings(section, &mut database, environment)?;
    read_snapshot(section, &mut database, inherited, warnings)?;
    if section.has("path") {
        return Ok(DbsEntry::Database(database));
    }
    directory(section, database, environment).map(DbsEntry::Directory)
}

/// The database's path, or the directory.
fn location(section: &Section<'_>, environment: &Environment<'_>) -> Result<PathBuf> {
    let (path, dir) = (section.text("path")?, section.text("dir")?);
    match (path, dir) {
        (Some(path), None) => section.with_key_context("path", environment.database_path(&path)),
        (None, Some(dir)) => section.with_key_context("dir", environment.absolute(&dir)),
        (Some(_), Some(_)) => Err(section.error_here("expected path or dir, found both")),
        (None, None) => Err(section.error_here("expected path or dir, found neither")),
    }
}

fn directory(section: &Section<'_>, template: Database, environment: &Environment<'_>) -> Result<DatabaseDir> {
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
    let meta_dir = section.text("meta-dir")?.map(|text| environment.absolute(&text)).transpose();
    Ok(DatabaseDir {
        pattern,
        recursive: section.bool("recursive")?.unwrap_or(false),
        watch: section.bool("watch")?.unwrap_or(false),
        meta_dir: section.with_key_context("meta-dir", meta_dir)?,
        template,
    })
}

fn read_settings(section: &Section<'_>, database: &mut Database, environment: &Environment<'_>) -> Result<()> {
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
    let meta_path = section.text("meta-path")?.map(|text| environment.absolute(&text)).transpose();
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
    let policy = SnapshotPolicy::read((section, own.as_ref()), inherited.snapshot, warnings)?;
    database.snapshot_interval = policy.interval();
    database.snapshot_retention = policy.retention;
    database.keep = policy.keep;
    Ok(())
}

/// The entry's replicas: `replica`, or those of `replicas`, or what the top level says; the first, and all.
fn replicas(
    section: &Section<'_>,
    inherited: &Defaults,
    environment: &Environment<'_>,
    warnings: &mut Vec<String>,
) -> Result<(Replica, Vec<Replica>)> {
    let mut replicas: Vec<Replica> = Vec::new();
    for own in own_replicas(section)? {
        warnings.extend(keys::check(&own, &keys::REPLICA)?);
        let layer = ReplicaSettings::read(&own, environment)?;
        let replica = resolve_replica::replica(layer, inherited.layer.clone(), environment);
        let replica = own.with_section_context(replica)?;
        if let Some(why) = replicas.iter().find_map(|other| clash(other, &replica)) {
            return Err(own.error_here(why));
        }
        replicas.push(replica);
    }
    if let Some(first) = replicas.first() {
        return Ok((first.clone(), replicas));
    }
    let replica = resolve_replica::replica(ReplicaSettings::default(), inherited.layer.clone(), environment);
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

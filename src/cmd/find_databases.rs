//! The databases of a configuration, those in its directories included.

use std::path::{Path, PathBuf};

use crate::cmd::find_replicas::stored_below;
use crate::config::{self, Config, Database, DatabaseDir};
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::store::ConnectionPool;

/// Every database: the ones that are named, and the ones that match in a directory now.
pub fn find_databases(config: &Config) -> Result<Vec<Database>> {
    let mut databases = config.dbs.clone();
    for entry in &config.dirs {
        let found = scan_dir(entry)?;
        if found.is_empty() {
            log::warn("no file matches").field("dir", entry.dir().display()).emit();
        }
        databases.extend(found);
    }
    config::reject_overlaps(databases.iter())?;
    Ok(databases)
}

/// The same at a later time: where a directory is watched, files have come and gone; the others are as they were.
pub fn find_databases_again(config: &Config, before: &[Database]) -> Result<Vec<Database>> {
    let mut databases = config.dbs.clone();
    for entry in &config.dirs {
        let known = |database: &&Database| {
            let relative = database.path.strip_prefix(entry.dir());
            relative.is_ok_and(|relative| entry.matches(relative)) && !config.dbs.contains(database)
        };
        match entry.watch {
            true => databases.extend(scan_dir(entry)?),
            false => databases.extend(before.iter().filter(known).cloned()),
        }
    }
    // Each is compared with each other one: not at every look.
    if databases != before {
        config::reject_overlaps(databases.iter())?;
    }
    Ok(databases)
}

/// A database that a report has a row for.
pub enum Reported {
    Configured(Database),
    /// It is stored below a directory's replica, but the directory has no such file any more.
    Gone(Database),
    /// What is stored below this directory's replica cannot be listed.
    Unlisted(Database, Error),
}

/// The databases, and those that are stored below the replicas of the directories without having a file.
pub fn reported(config: &Config, pool: &mut ConnectionPool) -> Result<Vec<Reported>> {
    let databases = find_databases(config)?;
    let mut gone = Vec::new();
    for entry in &config.dirs {
        for template in entry.template.each_replica() {
            match stored_in(entry, &template, pool) {
                Ok(stored) => gone.extend(missing(stored, &databases).map(Reported::Gone)),
                Err(error) => gone.push(Reported::Unlisted(template, error)),
            }
        }
    }
    Ok(databases.into_iter().map(Reported::Configured).chain(gone).collect())
}

fn missing(stored: Vec<Database>, databases: &[Database]) -> impl Iterator<Item = Database> {
    let is_known = |stored: &Database| {
        let is_it = |known: &Database| {
            known.path == stored.path || known.replicas.iter().any(|one| one.target == stored.replica.target)
        };
        databases.iter().any(is_it)
    };
    stored.into_iter().filter(move |stored| !is_known(stored))
}

/// The databases of a directory that its replicas have objects of.
///
/// Errors: the last one, where no replica answers.
pub fn stored(entry: &DatabaseDir, pool: &mut ConnectionPool) -> Result<Vec<Database>> {
    let (mut databases, mut failed) = (None::<Vec<Database>>, None);
    for template in entry.template.each_replica() {
        match stored_in(entry, &template, pool) {
            Ok(stored) => databases.get_or_insert_default().extend(stored),
            Err(error) => failed = Some(error),
        }
    }
    if let (Some(_), Some(error)) = (&databases, &failed) {
        log::warn("replica does not answer").field("dir", entry.dir().display()).error(error).emit();
    }
    let mut databases = match (databases, failed) {
        (None, Some(error)) => return Err(error),
        (databases, _) => databases.unwrap_or_default(),
    };
    databases.sort_by(|one, other| one.path.cmp(&other.path));
    databases.dedup_by(|one, other| one.path == other.path);
    Ok(databases)
}

/// Those that the replica which `template` is about has objects of, each about that replica.
fn stored_in(entry: &DatabaseDir, template: &Database, pool: &mut ConnectionPool) -> Result<Vec<Database>> {
    let found = stored_below(&template.replica, pool)?;
    let relative = found.prefixes().map(Path::new).filter(|relative| entry.matches(relative));
    let about =
        |relative: &Path| Ok(Database { replica: template.replica.below(relative)?, ..entry.database(relative)? });
    relative.map(about).collect()
}

fn scan_dir(entry: &DatabaseDir) -> Result<Vec<Database>> {
    entry.databases(&walk_files(entry.dir(), Path::new(""))?)
}

/// Every ordinary file below `root`, relative to it. What belongs to SQLite or to us is passed over.
fn walk_files(root: &Path, relative: &Path) -> Result<Vec<PathBuf>> {
    let directory = root.join(relative);
    let failed = |e: &std::io::Error| Error::io(Kind::Database, format!("read directory {}", directory.display()), e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&directory).map_err(|e| failed(&e))? {
        let entry = entry.map_err(|e| failed(&e))?;
        let kind = entry.file_type().map_err(|e| failed(&e))?;
        let path = relative.join(entry.file_name());
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_dir() && !name.starts_with('.') {
            files.extend(walk_files(root, &path)?);
        } else if kind.is_symlink() {
            // A tenant who may write there could name a database of another tenant.
            log::debug("symbolic link ignored").field("path", root.join(&path).display()).emit();
        } else if kind.is_file() && !is_sidecar(&name) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn is_sidecar(name: &str) -> bool {
    ["-wal", "-shm", "-journal"].iter().any(|suffix| name.ends_with(suffix))
}

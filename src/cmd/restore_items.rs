//! Which databases `restore -all` and `restore -f` are about: each with its replica and its output.

use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crate::cli::{self, RestoreSource};
use crate::cmd::Context;
use crate::cmd::clock::SystemClock;
use crate::cmd::find_databases::stored;
use crate::cmd::find_replicas::stored_below;
use crate::config::{self, DEFAULT_COMPARE_INTERVAL, Database, DatabaseDir, Replica};
use crate::error::{Error, Kind, Result};
use crate::restore::request::RestoreRequest;
use crate::restore::standby::Followed;
use crate::secret::Secret;
use crate::store::{ConnectionPool, Store};

/// One database to restore. Without an output only a dry run is possible.
#[derive(Clone)]
pub struct Item {
    /// The database whose backup it is said to be; none below a URL.
    pub database: Option<PathBuf>,
    pub replica: Replica,
    pub output: Option<PathBuf>,
    /// From one comparison of a copy with what was applied to it to the next; none: only at a start.
    pub compare_interval: Option<Duration>,
}

impl Item {
    /// One that no configuration is about.
    pub fn of_replica(replica: Replica, output: Option<PathBuf>) -> Item {
        Item { database: None, replica, output, compare_interval: Some(DEFAULT_COMPARE_INTERVAL) }
    }

    /// A database of the configuration.
    pub fn of_database(database: &Database, replica: Replica, output: PathBuf) -> Item {
        let compare_interval = database.compare_interval;
        Item { database: Some(database.path.clone()), replica, output: Some(output), compare_interval }
    }

    /// What a copy is one of.
    pub fn source(&self) -> String {
        self.database.as_ref().map_or_else(|| self.replica.url.clone(), |database| database.display().to_string())
    }

    /// What to follow, and where to.
    pub fn followed(&self, store: Rc<dyn Store>, wanted: RestoreRequest, output: &Path) -> Followed<'static> {
        Followed {
            store,
            clock: &SystemClock,
            url: self.replica.url.clone(),
            source: self.source(),
            wanted,
            output: output.to_path_buf(),
        }
    }

    /// Makes the directory of the output where it is missing.
    pub fn create_parent(&self) -> Result<()> {
        let parent = self.output.as_deref().and_then(Path::parent).filter(|parent| !parent.as_os_str().is_empty());
        parent.map_or(Ok(()), std::fs::create_dir_all).map_err(|e| {
            let parent = parent.unwrap_or_else(|| Path::new("."));
            Error::io(Kind::Database, format!("create directory {}", parent.display()), &e)
        })
    }
}

/// A root: every database that is stored below it is meant, and new ones appear by themselves.
pub struct ReplicaRoot {
    pub replica: Replica,
    /// None: any that is below a URL.
    entry: Option<DatabaseDir>,
    directory: Option<PathBuf>,
}

/// The databases that are named, and the roots below which there are more.
pub struct Wanted {
    pub items: Vec<Item>,
    pub roots: Vec<ReplicaRoot>,
}

impl ReplicaRoot {
    /// The database below this prefix; none if it is not wanted.
    ///
    /// Errors: a name that cannot be that of a file.
    pub fn item(&self, prefix: &str) -> Result<Option<Item>> {
        let replica = self.replica.at(prefix)?;
        let Some(entry) = &self.entry else {
            let name = if prefix.is_empty() { self.replica.last_part() } else { prefix };
            let output = self.directory.as_deref().map(|directory| inside(directory, Path::new(name)));
            return Ok(Some(Item::of_replica(replica, output)));
        };
        if !entry.matches(Path::new(prefix)) {
            return Ok(None);
        }
        let database = entry.database(Path::new(prefix))?;
        let output = output_of(&database.path, self.directory.as_deref());
        Ok(Some(Item::of_database(&database, replica, output)))
    }

    /// What is stored there now.
    pub fn stored(&self, pool: &mut ConnectionPool) -> Result<Vec<Item>> {
        let found = stored_below(&self.replica, pool)?;
        found.prefixes().filter_map(|prefix| self.item(prefix).transpose()).collect()
    }
}

/// What the options are about, where that is more than one database.
pub fn wanted(ctx: &Context, options: &cli::RestoreOptions, pool: &mut ConnectionPool) -> Result<Wanted> {
    let directory = options.output.clone();
    if let RestoreSource::Below(url) = &options.source {
        let roots = vec![ReplicaRoot { replica: root(url)?, entry: None, directory }];
        return Ok(Wanted { items: Vec::new(), roots });
    }
    let config = ctx.config()?;
    config::check_files::config(&config)?;
    let roots_of = |entry: &DatabaseDir| {
        let replicas = entry.template.each_replica().into_iter();
        let to_root = |about: Database| ReplicaRoot {
            replica: about.replica,
            entry: Some(entry.clone()),
            directory: directory.clone(),
        };
        replicas.map(to_root).collect::<Vec<_>>()
    };
    let roots = config.dirs.iter().flat_map(roots_of).collect();
    let items = config.dbs.iter().map(|database| item(ctx, database, directory.as_deref(), pool));
    Ok(Wanted { items: items.collect::<Result<_>>()?, roots })
}

fn root(url: &Secret) -> Result<Replica> {
    let root = config::replica_from_url(url.reveal(), &super::environment)?;
    config::check_files::replica(&root)?;
    Ok(root)
}

fn item(ctx: &Context, database: &Database, directory: Option<&Path>, pool: &mut ConnectionPool) -> Result<Item> {
    // One whose stores do not answer fails when it is restored.
    let replica = match ctx.newest_replica(database, pool) {
        Err(error) if error.kind() == Kind::Usage => return Err(error),
        newest => newest.unwrap_or_else(|_| database.replica.clone()),
    };
    let output = output_of(&database.path, directory);
    Ok(Item::of_database(database, replica, output))
}

/// Every database that is there now. Those of a directory are the ones that are stored: their files may be lost.
pub fn all(ctx: &Context, options: &cli::RestoreOptions, pool: &mut ConnectionPool) -> Result<Vec<Item>> {
    let directory = options.output.as_deref();
    if let RestoreSource::Below(url) = &options.source {
        return ReplicaRoot { replica: root(url)?, entry: None, directory: directory.map(Path::to_path_buf) }
            .stored(pool);
    }
    let config = ctx.config()?;
    config::check_files::config(&config)?;
    let mut databases = config.dbs.clone();
    for dir in &config.dirs {
        databases.extend(stored(dir, pool)?);
    }
    config::reject_overlaps(databases.iter())?;
    databases.iter().map(|database| item(ctx, database, directory, pool)).collect()
}

fn output_of(path: &Path, directory: Option<&Path>) -> PathBuf {
    directory.map_or_else(|| path.to_path_buf(), |directory| inside(directory, path))
}

/// The same path below another directory.
fn inside(directory: &Path, path: &Path) -> PathBuf {
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
    directory.iter().map(Path::new).chain(parts.map(|part| Path::new(part.as_os_str()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_below_another_directory_never_leaves_it() {
        for (path, expected) in
            [("/var/lib/a.db", "/out/var/lib/a.db"), ("t/1.db", "/out/t/1.db"), ("../../etc/x", "/out/etc/x")]
        {
            assert_eq!(inside(Path::new("/out"), Path::new(path)), Path::new(expected));
        }
        assert_eq!(inside(Path::new("out"), Path::new("/a.db")), Path::new("out/a.db"));
    }
}

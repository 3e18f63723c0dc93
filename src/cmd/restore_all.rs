//! `litestream restore -all`: every database of the configuration, or every one that is stored below a URL.
//!
//! One that fails does not keep the others from being restored.

use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::{self, RestoreSource};
use crate::cmd::find_databases::stored;
use crate::cmd::find_replicas::stored_below;
use crate::cmd::restore_one::{Outcome, restore_one};
use crate::cmd::{Context, ExitStatus, print, print_error};
use crate::config::{self, Database, Replica};
use crate::error::{Error, Kind, Result};
use crate::interrupt;
use crate::secret::Secret;
use crate::store::ConnectionPool;

/// One database to restore. Without an output only a dry run is possible.
struct Item {
    /// The database whose backup it is said to be; none below a URL.
    database: Option<PathBuf>,
    replica: Replica,
    output: Option<PathBuf>,
}

pub fn run(given: &Context, options: &cli::Restore) -> Result<ExitStatus> {
    let mut pool = ConnectionPool::default();
    let items = match &options.source {
        RestoreSource::Below(url) => below(url, options.output.as_deref(), &mut pool)?,
        _ => configured(given, options.output.as_deref(), &mut pool)?,
    };
    if items.is_empty() {
        return Err(Error::new(Kind::NothingToRestore, "restore -all: nothing is stored"));
    }
    let mut worst = None;
    let mut rows = Vec::new();
    for item in &items {
        let result = restore_item(item, options, &mut pool);
        let row = log_item(item, options, result.as_ref())?;
        rows.push(row);
        worst = worst.max(result.err().map(|error| severity(error.kind())));
        interrupt::check()?;
    }
    if options.json {
        print::json_value(&rows.into())?;
    }
    Ok(worst.map_or(0, |(_, status)| status))
}

fn restore_item(item: &Item, options: &cli::Restore, pool: &mut ConnectionPool) -> Result<Outcome> {
    if let (Some(parent), false, Some(_)) = (parent(item), options.dry_run, &options.output) {
        std::fs::create_dir_all(parent)
            .map_err(|e| Error::io(Kind::Database, format!("create directory {}", parent.display()), &e))?;
    }
    restore_one(&item.replica, options, item.database.as_deref(), item.output.as_deref(), pool)
}

fn parent(item: &Item) -> Option<&Path> {
    item.output.as_deref()?.parent().filter(|parent| !parent.as_os_str().is_empty())
}

/// Prints one line a database, at once: a restore of many takes its time. What has failed goes to standard error.
fn log_item(item: &Item, options: &cli::Restore, result: std::result::Result<&Outcome, &Error>) -> Result<Value> {
    let path = item.output.as_ref().map(|path| path.display().to_string());
    let mut row = match result {
        Ok(outcome) => outcome.json(item.output.as_deref()),
        Err(error) => json!({ "path": path, "error": error.to_string() }),
    };
    if let Some(object) = row.as_object_mut() {
        object.insert("replica".into(), json!(item.replica.url));
        object.entry("error").or_insert(Value::Null);
    }
    match result {
        Err(error) => print_error(error),
        Ok(outcome) if !options.json && !options.quiet => {
            let name = path.unwrap_or_else(|| item.replica.url.clone());
            print::text(&outcome.line(&name))?;
        }
        Ok(_) => {}
    }
    Ok(row)
}

/// What an operator has to look at first is the worst: a damaged backup before a store that is away, and so on.
fn severity(kind: Kind) -> (u8, ExitStatus) {
    let rank = match kind {
        Kind::NothingToRestore | Kind::NotFound => 1,
        Kind::Usage => 2,
        Kind::Locked | Kind::AnotherDatabase => 3,
        Kind::Corrupt | Kind::NoIdentity => 6,
        Kind::Database | Kind::DatabaseNotReady => 4,
        _ => 5,
    };
    (rank, kind.exit_status())
}

/// The databases of the configuration. Those of a directory are the ones that are stored: their files may be lost.
fn configured(given: &Context, directory: Option<&Path>, pool: &mut ConnectionPool) -> Result<Vec<Item>> {
    let config = given.config()?;
    config::check_files::config(&config)?;
    let mut databases = config.dbs.clone();
    for dir in &config.dirs {
        databases.extend(stored(dir, pool)?);
    }
    config::reject_overlaps(databases.iter())?;
    let output = |path: &Path| directory.map_or_else(|| path.to_path_buf(), |directory| inside(directory, path));
    let mut item = |database: &Database| {
        // One whose stores do not answer fails when it is restored.
        let replica = match given.newest_replica(database, pool) {
            Err(error) if error.kind() == Kind::Usage => return Err(error),
            newest => newest.unwrap_or_else(|_| database.replica.clone()),
        };
        Ok(Item { replica, database: Some(database.path.clone()), output: Some(output(&database.path)) })
    };
    databases.iter().map(&mut item).collect()
}

/// The same path below another directory.
fn inside(directory: &Path, path: &Path) -> PathBuf {
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
    directory.iter().map(Path::new).chain(parts.map(|part| Path::new(part.as_os_str()))).collect()
}

/// The databases below a URL, each in a file of its prefix's name. What is stored at the URL itself is called after it.
fn below(url: &Secret, directory: Option<&Path>, pool: &mut ConnectionPool) -> Result<Vec<Item>> {
    let root = config::replica_from_url(url.reveal(), &super::environment)?;
    config::check_files::replica(&root)?;
    let found = stored_below(&root, pool)?;
    let item = |prefix: &str| -> Result<Item> {
        let replica = if prefix.is_empty() { root.clone() } else { root.below(Path::new(prefix))? };
        let name = if prefix.is_empty() { root.last_part() } else { prefix };
        Ok(Item { replica, database: None, output: directory.map(|directory| inside(directory, Path::new(name))) })
    };
    found.prefixes().map(item).collect()
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

    #[test]
    fn a_damaged_backup_is_worse_than_one_that_is_not_there() {
        let worst = [Kind::NothingToRestore, Kind::Corrupt, Kind::StoreUnreachable].map(severity).into_iter().max();
        assert_eq!(worst.map(|(_, status)| status), Some(Kind::Corrupt.exit_status()));
    }
}

//! Databases are held apart: no two share a file, a place in a store, or a directory for what is kept beside them.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::database::Database;
use super::is_same_location;
use crate::error::{Error, Kind, Result};
use crate::source::default_meta_path;
use crate::store::StoreTarget;

/// Databases of which no two share anything.
#[derive(Default)]
pub struct DistinctDatabases<'a> {
    paths: HashSet<&'a Path>,
    meta_paths: HashMap<PathBuf, &'a Database>,
    /// By prefix or directory: most have one of their own, so that a thousand are not compared with each other.
    locations: HashMap<&'a Path, Vec<&'a Database>>,
}

/// What two databases would share.
pub struct Overlap {
    /// The key of the configuration that says so.
    pub key: &'static str,
    pub error: Error,
}

impl<'a> DistinctDatabases<'a> {
    /// Adds a database, unless it shares something with one that was added before.
    pub fn add(&mut self, database: &'a Database) -> std::result::Result<(), Overlap> {
        let meta_path = database.meta_path.clone().unwrap_or_else(|| default_meta_path(&database.path));
        match self.overlap(database, &meta_path) {
            Some(overlap) => Err(overlap),
            None => {
                self.paths.insert(&database.path);
                self.meta_paths.insert(meta_path, database);
                for replica in &database.replicas {
                    self.locations.entry(location(&replica.target)).or_default().push(database);
                }
                Ok(())
            }
        }
    }

    fn overlap(&self, database: &Database, meta_path: &Path) -> Option<Overlap> {
        let path = database.path.display();
        if self.paths.contains(&*database.path) {
            let error = Error::new(Kind::Usage, format!("database {path}: configured twice"));
            return Some(Overlap { key: "path", error });
        }
        if let Some(other) = self.meta_paths.get(meta_path) {
            let what = format!(
                "databases {} and {path}: both would use meta-path {}",
                other.path.display(),
                meta_path.display()
            );
            let error = Error::new(Kind::Usage, what).with_hint("give each a meta-path of its own, or leave it out");
            return Some(Overlap { key: "meta-path", error });
        }
        database.replicas.iter().find_map(|replica| {
            let shares =
                |other: &&&Database| other.replicas.iter().any(|one| is_same_location(&one.target, &replica.target));
            let other = self.locations.get(location(&replica.target))?.iter().find(shares)?;
            let what = format!("databases {} and {path}: both would write to {}", other.path.display(), replica.url);
            let error = Error::new(Kind::Usage, what)
                .with_hint("give each a prefix of its own: url: nats://HOST/BUCKET/PREFIX, or path: PREFIX");
            Some(Overlap { key: "replica", error })
        })
    }
}

/// Where it is within its server, or on the disk.
fn location(target: &StoreTarget) -> &Path {
    match target {
        StoreTarget::Dir(directory) => directory,
        StoreTarget::Nats(options) => Path::new(&options.prefix),
    }
}

/// Errors: of kind `Usage`, if two of them share something.
pub fn reject_overlaps<'a>(databases: impl Iterator<Item = &'a Database>) -> Result<()> {
    let mut distinct = DistinctDatabases::default();
    databases.into_iter().try_for_each(|database| distinct.add(database)).map_err(|overlap| overlap.error)
}

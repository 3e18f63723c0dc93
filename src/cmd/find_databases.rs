//! The databases of a configuration, those in its directories included.

use std::path::{Path, PathBuf};

use crate::cmd::find_replicas::stored_below;
use crate::cmd::walk_files::walk_files;
use crate::config::{Config, Database, DatabaseDir, DistinctDatabases};
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::store::ConnectionPool;

/// What a configuration comes to.
#[derive(Default)]
pub struct Found {
    pub databases: Vec<Database>,
    /// The directories that were looked into.
    pub directories: Vec<PathBuf>,
    /// What is in a directory and cannot be replicated: no other database suffers from it.
    pub unusable: Vec<Unusable>,
}

/// A file whose name cannot be stored, or a directory that cannot be read, where databases are looked for.
#[derive(Clone, Debug)]
pub struct Unusable {
    /// Its path is the one; the rest is as for every database of the directory.
    pub database: Database,
    /// Of kind `Database`.
    pub error: Error,
}

impl Unusable {
    fn new(entry: &DatabaseDir, relative: &Path, error: &Error) -> Unusable {
        let database = Database { path: entry.dir().join(relative), ..entry.template.clone() };
        Unusable { database, error: of_one_database(error) }
    }

    pub fn path(&self) -> &Path {
        &self.database.path
    }

    fn is_or_holds(&self, path: &Path) -> bool {
        path.starts_with(self.path())
    }
}

/// What is wrong with a name is no error of the configuration: the operator did not write it.
fn of_one_database(error: &Error) -> Error {
    let ours = Error::new(Kind::Database, error.message());
    match error.hint() {
        Some(hint) => ours.with_hint(hint),
        None => ours,
    }
}

/// Every database: the ones that are named, and the ones that match in a directory now.
///
/// Errors: of kind `Database`, if there is none, and a directory itself cannot be read.
pub fn find_databases(config: &Config) -> Result<Found> {
    let mut found = Found { databases: config.dbs.clone(), ..Found::default() };
    for entry in &config.dirs {
        let here = scan_dir(entry);
        if here.databases.is_empty() && here.unusable.is_empty() {
            log::warn("no file matches").field("dir", entry.dir().display()).emit();
        }
        found.extend(here);
    }
    let found = found.distinct();
    let is_root = |one: &&Unusable| config.dirs.iter().any(|entry| entry.dir() == one.path());
    match found.unusable.iter().find(is_root) {
        Some(root) if found.databases.is_empty() => Err(root.error.clone()),
        _ => Ok(found),
    }
}

/// The same at a later time: where a directory is watched, files have come and gone; the others are as they were. What is in
/// a directory that cannot be read any more has not gone.
pub fn find_databases_again(config: &Config, before: &[Database], unusable: &[Unusable]) -> Found {
    let mut found = Found { databases: config.dbs.clone(), ..Found::default() };
    for entry in &config.dirs {
        let known = before.iter().filter(|database| {
            let relative = database.path.strip_prefix(entry.dir());
            relative.is_ok_and(|relative| entry.matches(relative)) && !config.dbs.contains(database)
        });
        if entry.watch {
            let here = scan_dir(entry);
            let is_hidden = |database: &&Database| {
                let hides = |one: &Unusable| one.is_or_holds(&database.path);
                here.unusable.iter().any(hides) && !here.databases.contains(database)
            };
            let hidden: Vec<Database> = known.filter(is_hidden).cloned().collect();
            found.extend(here);
            found.databases.extend(hidden);
        } else {
            found.databases.extend(known.cloned());
            found.unusable.extend(unusable.iter().filter(|one| one.path().starts_with(entry.dir())).cloned());
        }
    }
    found.distinct()
}

impl Found {
    /// Databases that all can be replicated.
    pub fn of(databases: Vec<Database>) -> Found {
        Found { databases, ..Found::default() }
    }

    fn extend(&mut self, other: Found) {
        self.databases.extend(other.databases);
        self.directories.extend(other.directories);
        self.unusable.extend(other.unusable);
    }

    /// The same, where what shares a file or a place with one before it cannot be replicated.
    fn distinct(self) -> Found {
        let mut distinct = DistinctDatabases::default();
        let overlaps: Vec<Option<Error>> =
            self.databases.iter().map(|database| distinct.add(database).err().map(|overlap| overlap.error)).collect();
        let databases = Vec::with_capacity(self.databases.len());
        let mut found = Found { databases, directories: self.directories, unusable: self.unusable };
        for (database, overlap) in self.databases.into_iter().zip(overlaps) {
            match overlap {
                None => found.databases.push(database),
                Some(error) => found.unusable.push(Unusable { database, error: of_one_database(&error) }),
            }
        }
        found
    }

    /// What a report of the whole configuration has beside the databases. Where a missing bucket may be made, nothing is
    /// stored in it yet.
    pub fn others(&self, config: &Config, create_bucket: bool, pool: &mut ConnectionPool) -> Vec<Reported> {
        let unusable = self.unusable.iter().cloned();
        let mut others: Vec<Reported> =
            unusable.map(|Unusable { database, error }| Reported::Unusable(database, error)).collect();
        for entry in &config.dirs {
            for mut template in entry.template.each_replica() {
                if create_bucket {
                    template.replica.create_bucket();
                }
                match stored_in(entry, &template, pool) {
                    Ok(stored) => {
                        others.extend(stored.into_iter().filter(|one| !self.is_known(one)).map(Reported::Gone));
                    }
                    Err(error) => others.push(Reported::Unlisted(template, error)),
                }
            }
        }
        others
    }

    /// Whether a database that is stored has its file, or may have one where nothing can be seen.
    fn is_known(&self, stored: &Database) -> bool {
        let is_it = |known: &Database| {
            known.path == stored.path || known.replicas.iter().any(|one| one.target == stored.replica.target)
        };
        self.databases.iter().any(is_it) || self.unusable.iter().any(|one| one.is_or_holds(&stored.path))
    }
}

/// A database that a report has a row for.
pub enum Reported {
    Configured(Database),
    /// It is stored below a directory's replica, but the directory has no such file any more.
    Gone(Database),
    /// What is stored below this directory's replica cannot be listed.
    Unlisted(Database, Error),
    /// A path that cannot be replicated.
    Unusable(Database, Error),
}

impl Reported {
    /// What is wrong, for a command that stores all databases; none of one that is there.
    pub fn problem(self) -> Option<(Database, Error)> {
        match self {
            Reported::Configured(_) => None,
            Reported::Gone(database) => {
                let what = format!(
                    "database {}: missing: there is no database file, only its backup {}",
                    database.path.display(),
                    database.replica.url
                );
                Some((database, Error::new(Kind::Database, what)))
            }
            Reported::Unlisted(database, error) => {
                let what = format!("list the backups of directory {}", database.path.display());
                Some((database, error.context(what)))
            }
            Reported::Unusable(database, error) => Some((database, error)),
        }
    }
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

fn scan_dir(entry: &DatabaseDir) -> Found {
    let below = walk_files(entry.dir(), entry.recursive);
    let (databases, refused) = entry.databases(&below.files);
    let problems: Vec<(PathBuf, Error)> = below.unreadable.into_iter().chain(refused).collect();
    let unusable = problems.iter().map(|(relative, error)| Unusable::new(entry, relative, error)).collect();
    Found { databases, directories: below.directories, unusable }
}

//! A directory whose files are databases: from their names to databases, each with a prefix of its own.

use std::path::{Path, PathBuf};

use super::database::Database;
use super::{Replica, glob, url};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::sidecar::is_sidecar;
use crate::store::StoreTarget;
use crate::store::nats::check_prefix;

/// An entry of `dbs` with `dir` and `pattern`. Which files there are is asked when the program runs.
#[derive(Clone, PartialEq, Debug)]
pub struct DatabaseDir {
    /// What file names fit.
    pub pattern: String,
    /// Whether files in subdirectories count.
    pub recursive: bool,
    /// Whether files that appear later count.
    pub watch: bool,
    /// Where the lock files and spools are, one directory each; none: beside the databases.
    pub meta_dir: Option<PathBuf>,
    /// What every database there is like; its path is the directory.
    pub template: Database,
}

impl DatabaseDir {
    pub fn dir(&self) -> &Path {
        &self.template.path
    }

    /// Whether a file, by its path below the directory, is one of the entry's. SQLite's own files beside a database and
    /// hidden files never are.
    pub fn matches(&self, relative: &Path) -> bool {
        // A name that is no UTF-8 is looked at too: it cannot be stored, which is to be told.
        let Some(name) = relative.file_name().map(|name| name.to_string_lossy()) else { return false };
        let depth = relative.components().count();
        (self.recursive || depth == 1)
            && !is_sidecar(&name)
            && !name.starts_with('.')
            && glob::matches(&self.pattern, &name)
    }

    /// The database in a file, by its path below the directory; its prefix is the entry's, and the path after it.
    ///
    /// Errors: of kind `Usage`, a name that cannot be part of an object's name.
    pub fn database(&self, relative: &Path) -> Result<Database> {
        let mut database = self.template.clone();
        database.path = self.dir().join(relative);
        let below =
            |one: &Replica| one.below(relative).with_context(|| format!("database {}", database.path.display()));
        let replicas = self.template.replicas.iter().map(below).collect::<Result<_>>()?;
        database.replica = below(&self.template.replica)?;
        database.replicas = replicas;
        // What was found and is gone now was deleted.
        database.restore_if_missing = false;
        database.meta_path = self.meta_dir.as_ref().map(|dir| dir.join(relative));
        Ok(database)
    }

    /// The databases among the files below the directory, in order of their names; and the files that cannot be stored, with
    /// the reason. Who names one file does not decide about others.
    pub fn databases(&self, files: &[PathBuf]) -> (Vec<Database>, Vec<(PathBuf, Error)>) {
        let mut names: Vec<&PathBuf> = files.iter().filter(|file| self.matches(file)).collect();
        names.sort();
        names.dedup();
        let (mut databases, mut refused) = (Vec::with_capacity(names.len()), Vec::new());
        for name in names {
            match self.database(name) {
                Ok(database) => databases.push(database),
                Err(error) => refused.push((name.clone(), error)),
            }
        }
        (databases, refused)
    }
}

impl Replica {
    /// The whole bucket. A directory stays as it is: what is above it may be a whole disk.
    pub fn root(&self) -> Replica {
        let mut root = self.clone();
        if let StoreTarget::Nats(options) = &mut root.target {
            options.prefix.clear();
            root.url = url::format_nats(options);
        }
        root
    }

    /// The last part of its prefix or directory, or the bucket.
    pub fn last_part(&self) -> &str {
        let path = match &self.target {
            StoreTarget::Dir(dir) => dir.file_name().and_then(|name| name.to_str()),
            StoreTarget::Nats(options) => options.prefix.rsplit('/').next().filter(|part| !part.is_empty()),
        };
        path.unwrap_or(match &self.target {
            StoreTarget::Dir(_) => "database",
            StoreTarget::Nats(options) => &options.bucket,
        })
    }

    /// The replica itself for no prefix, and else the one with this prefix after its own.
    ///
    /// Errors: as for [`Replica::below`].
    pub fn at(&self, prefix: &str) -> Result<Replica> {
        match prefix.is_empty() {
            true => Ok(self.clone()),
            false => self.below(Path::new(prefix)).with_context(|| format!("database {prefix:?}")),
        }
    }

    /// The same replica with a prefix after its own, as a file below a directory has it.
    ///
    /// Errors: a path that cannot be part of an object's name.
    pub fn below(&self, relative: &Path) -> Result<Replica> {
        let mut replica = self.clone();
        // Two names that are none could look the same in a URL and in a log.
        let name = relative.to_str().ok_or_else(|| Error::new(Kind::Usage, "expected a name in UTF-8"))?;
        match &mut replica.target {
            StoreTarget::Dir(dir) => {
                dir.push(relative);
                check_directory_length(dir)?;
                replica.url = url::format_dir(dir);
            }
            StoreTarget::Nats(options) => {
                let parts = [std::mem::take(&mut options.prefix), url::parse_prefix(name)?];
                options.prefix = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
                check_prefix(&options.prefix)?;
                replica.url = url::format_nats(options);
            }
        }
        Ok(replica)
    }
}

/// In bytes: a path has at most 4096 (PATH_MAX, linux/limits.h), and the names of the objects and of temporary files follow.
const MAX_DIRECTORY: usize = 3840;

fn check_directory_length(directory: &Path) -> Result<()> {
    let length = directory.as_os_str().len();
    if length <= MAX_DIRECTORY {
        return Ok(());
    }
    let what = format!("expected a directory of at most {MAX_DIRECTORY} bytes, found {length}");
    Err(Error::new(Kind::Usage, what).with_hint("the paths of its objects would be longer than the system allows"))
}

//! Which databases `compact` is about, and what is kept of each.

use std::path::Path;
use std::time::Duration;

use crate::cli;
use crate::cmd::{Context, environment};
use crate::config::{self, Database, DatabaseDir, Heartbeat, Replica};
use crate::error::Result;
use crate::format::keep::Keep;
use crate::store::StoreTarget;

/// A URL whose objects are listed at once.
pub struct CompactionRoot {
    pub replica: Replica,
    databases: Selection,
}

/// Which of the databases at and below a root.
pub enum Selection {
    /// Those of the configuration.
    Named(Vec<Named>),
    /// The one at the root itself, and those below it.
    Below(Kept),
    /// Those below it that a directory of the configuration may have.
    OfDirectory(Box<config::DatabaseDir>, Kept),
}

/// How long what is stored stays, and which states of it.
#[derive(Clone, Copy)]
pub struct Kept {
    pub retention: Option<Duration>,
    pub keep: Option<Keep>,
}

/// A database whose replica is known.
#[derive(Clone)]
pub struct Named {
    /// Below the root.
    pub prefix: String,
    pub replica: Replica,
    pub kept: Kept,
}

impl CompactionRoot {
    /// The databases that are to be compacted, of those that are stored.
    pub fn select(&self, stored: impl Iterator<Item = String>) -> Result<Vec<Named>> {
        let below = |prefix: String, kept| Ok(Named { replica: self.replica.at(&prefix)?, prefix, kept });
        match &self.databases {
            Selection::Named(databases) => Ok(databases.clone()),
            Selection::Below(kept) => stored.map(|prefix| below(prefix, *kept)).collect(),
            Selection::OfDirectory(dir, kept) => {
                stored.filter(|prefix| dir.matches(Path::new(prefix))).map(|prefix| below(prefix, *kept)).collect()
            }
        }
    }
}

/// The databases by their buckets, since a bucket has to be listed as a whole for any one of them.
fn by_bucket(databases: impl Iterator<Item = Named>) -> Vec<CompactionRoot> {
    let mut roots: Vec<(Replica, Vec<Named>)> = Vec::new();
    for database in databases {
        let (bucket, prefix) = bucket(&database.replica);
        let named = Named { prefix, ..database };
        match roots.iter_mut().find(|(other, _)| other.target == bucket.target) {
            Some((_, others)) => others.push(named),
            None => roots.push((bucket, vec![named])),
        }
    }
    roots.into_iter().map(|(bucket, databases)| CompactionRoot::of(bucket, databases)).collect()
}

/// The whole bucket, and where in it the replica is.
fn bucket(replica: &Replica) -> (Replica, String) {
    let mut bucket = replica.clone();
    let prefix = match &mut bucket.target {
        StoreTarget::Nats(options) => std::mem::take(&mut options.prefix),
        StoreTarget::Dir(_) => String::new(),
    };
    (bucket, prefix)
}

impl CompactionRoot {
    /// One that is alone in its bucket needs the names of no other.
    fn of(bucket: Replica, mut databases: Vec<Named>) -> CompactionRoot {
        let replica = match databases.as_mut_slice() {
            [only] => {
                only.prefix = String::new();
                only.replica.clone()
            }
            _ => bucket,
        };
        CompactionRoot { replica, databases: Selection::Named(databases) }
    }
}

/// What is to be compacted, and where to report that all of it was.
pub fn roots(ctx: &Context, options: &cli::CompactOptions) -> Result<(Vec<CompactionRoot>, Option<Heartbeat>)> {
    if let Some(url) = &options.url {
        let replica = config::replica_from_url(url.reveal(), &environment)?;
        config::check_files::replica(&replica)?;
        let retention = options.keep.map(|keep| keep.longest()).or(options.retention);
        let kept = Kept { retention, keep: options.keep };
        return Ok((vec![CompactionRoot { replica, databases: Selection::Below(kept) }], None));
    }
    let config = ctx.config()?;
    config::check_files::config(&config)?;
    let named = by_bucket(config.dbs.iter().flat_map(Database::each_replica).map(|database| Named {
        prefix: String::new(),
        kept: kept(&database),
        replica: database.replica,
    }));
    let replicas = |dir: &DatabaseDir| -> Vec<(Database, DatabaseDir)> {
        dir.template.each_replica().into_iter().map(|template| (template, dir.clone())).collect()
    };
    let directories = config.dirs.iter().flat_map(replicas).map(|(template, dir)| CompactionRoot {
        databases: Selection::OfDirectory(Box::new(dir), kept(&template)),
        replica: template.replica,
    });
    let roots: Vec<CompactionRoot> = named.into_iter().chain(directories).collect();
    Ok((roots, config.heartbeat))
}

fn kept(database: &Database) -> Kept {
    Kept { retention: database.snapshot_retention, keep: database.keep }
}

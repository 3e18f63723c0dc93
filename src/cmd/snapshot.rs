//! `litestream snapshot`: one full copy, now, and the end. For cron; also while `replicate` runs.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;

use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::{System, sleep};
use crate::cmd::poll::Poll;
use crate::cmd::progress::Progress;
use crate::cmd::replicate::{Patience, finish};
use crate::cmd::{Given, Status, environment, heartbeat, print, service, signals};
use crate::config::{self, Database};
use crate::error::{Error, Kind, Result};
use crate::format::position::Position;
use crate::log::{self, Level};
use crate::replica::beside::{Joined, alone, join};
use crate::replica::download::connect;
use crate::replica::follow::Follower;
use crate::replica::retention::enforce;
use crate::replica::snapshot::{Progress as Moved, SnapshotUpload};
use crate::source::{self, snapshot::of_rollback_journal};
use crate::store::{Pool, Store};

/// How long the snapshot waits for a running `replicate` to store what it has copied, and for a store that is silent.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn run(given: &Given, options: &cli::Snapshot) -> Result<Status> {
    if given.invocation.log_level.is_none() && config::log_level(&environment)?.is_none() {
        // Cron sends what is printed by mail: silence is success.
        log::set_level(Level::Warn);
    }
    let (databases, heartbeat) = chosen(given, options)?;
    signals::install();
    let mut pool = Pool::default();
    let mut stored = Vec::new();
    for database in &databases {
        stored.push(one(database, options, &mut pool)?);
    }
    if let Some(heartbeat) = &heartbeat {
        heartbeat::send(heartbeat);
    }
    if options.json {
        let rows =
            stored.iter().map(|done| json!({ "path": done.path, "position": done.position, "bytes": done.bytes }));
        print::json_value(&rows.collect())?;
    }
    Ok(0)
}

/// The databases, and where to report that all of them are stored.
fn chosen(given: &Given, options: &cli::Snapshot) -> Result<(Vec<Database>, Option<config::Heartbeat>)> {
    let databases = given.chosen(&options.chosen)?;
    // A part of the configuration is not all that the heartbeat stands for.
    let heartbeat = match options.chosen {
        cli::Chosen::All => given.config()?.heartbeat,
        _ => None,
    };
    Ok((databases, heartbeat))
}

/// A snapshot that was stored.
struct Done {
    path: String,
    position: String,
    bytes: u64,
}

fn one(database: &Database, asked: &cli::Snapshot, pool: &mut Pool) -> Result<Done> {
    let options = service::source_options(database);
    let store = service::open_store(database, asked.create_bucket, pool)?;
    source::check(&database.path, &options)?;
    if let Some(snapshot) = of_rollback_journal(&database.path, &options)? {
        connect(&*store, &System)?;
        let upload = alone(&*store, snapshot, &System)?;
        let done = upload_all(database, &store, upload)?;
        if asked.enforce_retention {
            enforce(&store, &done.path, database.snapshot_retention, &System)?;
        }
        return Ok(done);
    }
    let mut settings = service::settings(database, false);
    settings.force_snapshot = true;
    settings.source.enable_wal = false;
    settings.enforce_retention = asked.enforce_retention;
    let mut follower = Follower::new(settings, store.clone(), System.now());
    match follower.check_database() {
        Ok(()) => follow(database, follower),
        Err(error) if error.kind() == Kind::Locked => beside(database, &store),
        Err(error) => Err(error),
    }
}

/// Nobody follows the database: what is committed and not stored goes first, so that the generation can go on.
fn follow(database: &Database, follower: Follower) -> Result<Done> {
    let mut poll = Poll::new(vec![follower], database.monitor_interval);
    let mut progress = None;
    let mut watch = |poll: &Poll| {
        let status = poll.followers.first().map(|follower| follower.status(&System));
        if let Some(snapshot) = status.and_then(|status| status.snapshot) {
            let begin = || Progress::new("snapshot", snapshot.total, System.now());
            progress.get_or_insert_with(begin).update(snapshot.read, System.now());
        }
    };
    finish(&mut poll, Patience::WithoutProgress(PATIENCE), &mut watch)?;
    drop(progress);
    let status = poll.followers.first().map(|follower| follower.status(&System)).unwrap_or_default();
    let position = status.snapshot_stored.map_or_else(String::new, |position| position.to_string());
    Ok(Done { path: database.path.display().to_string(), position, bytes: status.bytes })
}

/// Another process follows the database: the snapshot joins its generation. Retention is then that process's work.
fn beside(database: &Database, store: &Rc<dyn Store>) -> Result<Done> {
    let options = service::source_options(database);
    let deadline = System.now() + PATIENCE;
    loop {
        match join(store, &database.path, &options, &System)? {
            Joined::Upload(upload) => return upload_all(database, store, *upload),
            Joined::NotYet(why) if System.now() >= deadline => {
                return Err(Error::new(
                    Kind::Unreachable,
                    format!("database {}: the running replicate has not caught up: {why}", database.path.display()),
                ));
            }
            Joined::NotYet(_) => sleep(Duration::from_millis(200)),
        }
    }
}

fn upload_all(database: &Database, store: &Rc<dyn Store>, mut upload: SnapshotUpload) -> Result<Done> {
    let mut progress = Progress::new("snapshot", upload.header().payload_len(), System.now());
    loop {
        match upload.poll(System.now())? {
            Moved::Done => break,
            Moved::Working => {}
            Moved::Waiting => store.wait(Duration::from_millis(50)),
        }
        progress.update(upload.read(), System.now());
    }
    let header = upload.header();
    let position = Position { generation: header.generation, point: header.at };
    Ok(Done { path: database.path.display().to_string(), position: position.to_string(), bytes: upload.stored() })
}

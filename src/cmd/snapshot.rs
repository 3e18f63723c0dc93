//! `litestream snapshot`: the state of now, and the end. For cron; also while `replicate` runs.
//!
//! What changed since the newest stored state is stored; the whole database where nothing is, where it is asked for, and where
//! a restore would read more than twice a snapshot.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::backup::listing::load_listing_patiently;
use crate::backup::origin::would_be_clear;
use crate::backup::owner;
use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::drain::{DrainLimit, drain};
use crate::cmd::event_loop::EventLoop;
use crate::cmd::progress::ProgressLine;
use crate::cmd::{Context, ErrorCollector, ExitStatus, environment, heartbeat, print, signals, wiring};
use crate::config::{self, Database};
use crate::control::{Reply, SnapshotRequest};
use crate::error::{Error, Kind, Result};
use crate::format::latest_restore::{LatestRestore, latest_restore};
use crate::format::listing::Listing;
use crate::format::position::Position;
use crate::log::{self, Level};
use crate::replica::clock_jump::ClockJumpDetector;
use crate::replica::maintenance::{Pass, run_one_pass};
use crate::replica::replicator::{Replicator, warn_clock};
use crate::replica::snapshot_upload::{SnapshotBuffers, SnapshotUpload, UploadProgress as Moved};
use crate::replica::standalone_snapshot::{LatestStored, latest_stored, standalone_snapshot};
use crate::source::{self, snapshot::open_rollback_snapshot};
use crate::store::blocking::{Outage, connect};
use crate::store::{ConnectionPool, Store};

/// How long the snapshot waits for a store that is silent, and for a running `replicate` that comes no further.
const NO_PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a store may keep writers out of a database that is not in WAL mode. Then what is left is copied aside, which
/// takes as long as the disk does.
const MAX_WRITER_BLOCK: Duration = Duration::from_secs(1);
/// A snapshot that is cut off by an outage is begun anew this often, at most.
const ATTEMPTS: u32 = 5;
/// Between two looks for an answer.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub fn run(given: &Context, options: &cli::Snapshot) -> Result<ExitStatus> {
    if given.invocation.log_level.is_none() && config::log_level(&environment)?.is_none() {
        // Cron sends what is printed by mail: silence is success.
        log::set_level(Level::Warn);
    }
    let (databases, heartbeat) = selected_databases(given, options)?;
    signals::install_shutdown_handlers();
    let mut pool = ConnectionPool::default();
    let mut rows = Vec::new();
    let mut errors = ErrorCollector::default();
    for database in &databases {
        let done = snapshot_database(database, options, &mut pool);
        let done = if databases.len() > 1 { done.map_err(|e| of_database(e, &database.path)) } else { done };
        rows.push(row(database, &done));
        if let Err(error) = done {
            errors.push(error);
        }
        if signals::shutdown_signal().is_some() {
            break;
        }
    }
    let all = rows.len() == databases.len();
    if options.json {
        print::json_value(&rows.into())?;
    }
    errors.into_result()?;
    if let Some(heartbeat) = heartbeat.filter(|_| all) {
        heartbeat::send(&heartbeat);
    }
    Ok(0)
}

/// What is printed of one database. What is not known is null, so that a name always has one type.
fn row(database: &Database, done: &Result<StoredSnapshot>) -> serde_json::Value {
    let path = database.path.display().to_string();
    let mut row = match done {
        Ok(StoredSnapshot { position, bytes, full, .. }) => {
            let kind = if *full { "full" } else { "incremental" };
            json!({ "path": path, "position": position, "bytes": bytes, "kind": kind, "error": null })
        }
        Err(error) => {
            json!({ "path": path, "position": null, "bytes": null, "kind": null, "error": error.message() })
        }
    };
    if let Some(object) = row.as_object_mut().filter(|_| database.has_several_replicas()) {
        object.insert("replica".to_string(), json!(database.replica.url));
    }
    row
}

/// The databases, and where to report that all of them are stored.
fn selected_databases(given: &Context, options: &cli::Snapshot) -> Result<(Vec<Database>, Option<config::Heartbeat>)> {
    let mut databases = given.selected_databases(&options.selection)?;
    if options.retention.is_some() {
        databases.iter_mut().for_each(|database| {
            (database.snapshot_retention, database.keep) = (options.retention, None);
        });
    }
    // A part of the configuration is not all that the heartbeat stands for.
    let heartbeat = match options.selection {
        cli::DatabaseSelection::Configured => given.config()?.heartbeat,
        _ => None,
    };
    Ok((databases, heartbeat))
}

/// A snapshot that was stored.
struct StoredSnapshot {
    path: String,
    position: String,
    bytes: u64,
    /// The whole database.
    full: bool,
}

fn snapshot_database(database: &Database, asked: &cli::Snapshot, pool: &mut ConnectionPool) -> Result<StoredSnapshot> {
    let options = wiring::source_options(database);
    let store = wiring::open_store(database, asked.create_bucket, pool)?;
    source::check(&database.path, &options)?;
    if let Some(done) = snapshot_rollback_journal(database, &options, asked, &store)? {
        if asked.enforce_retention {
            let mut unwatched = ClockJumpDetector::default();
            let pass = Pass { retention: database.snapshot_retention, keep: database.keep, ..Pass::default() };
            run_one_pass(&store, &done.path, pass, &mut unwatched, &SystemClock)?;
        }
        return Ok(done);
    }
    let mut settings = wiring::replicator_settings(database, false);
    (settings.force_snapshot, settings.snapshot_if_long) = (asked.full, true);
    // How often `replicate` takes one is its own business.
    settings.snapshot_interval = None;
    settings.keep_page_sums = true;
    settings.source.enable_wal = false;
    settings.enforce_retention = asked.enforce_retention;
    settings.allow_other_database = asked.allow_other_database;
    settings.allow_unencrypted = asked.allow_unencrypted;
    let target = wiring::replica_target(database, store.clone());
    let mut follower = Replicator::with_replicas(settings, vec![target], SystemClock.now());
    match follower.check_database() {
        Ok(()) => snapshot_directly(database, &*store, follower),
        Err(error) if error.kind() == Kind::Locked => {
            if asked.retention.is_some() {
                return Err(error.context("option -retention").with_hint(
                    "the running replicate deletes by its own retention: set snapshot.retention in its configuration",
                ));
            }
            request_from_replicator(database, &store, follower, asked.enforce_retention)
        }
        Err(error) => Err(error),
    }
}

/// Of a database that is not in WAL mode: nobody can write to it until the snapshot has ended or been [`MAX_WRITER_BLOCK`]. None if it
/// is in WAL mode.
fn snapshot_rollback_journal(
    database: &Database,
    options: &source::Options,
    asked: &cli::Snapshot,
    store: &Rc<dyn Store>,
) -> Result<Option<StoredSnapshot>> {
    if open_rollback_snapshot(&database.path, options)?.is_none() {
        return Ok(None);
    }
    // Whatever takes time goes first.
    connect(&**store, &SystemClock)?;
    for _ in 1..ATTEMPTS {
        match stored_without_wal(database, options, asked, store) {
            // What was sent is of a moment that nobody can go back to: the next attempt takes another one.
            Err(error) => Outage::default().sit_out(&**store, &SystemClock, error)?,
            done => return done,
        }
    }
    stored_without_wal(database, options, asked, store)
}

/// One attempt.
fn stored_without_wal(
    database: &Database,
    options: &source::Options,
    asked: &cli::Snapshot,
    store: &Rc<dyn Store>,
) -> Result<Option<StoredSnapshot>> {
    let LatestStored { newest, origin, owner: recorded, recipients } = latest_stored(store, &SystemClock)?;
    if recipients > 0 && store.recipients() == 0 && !asked.allow_unencrypted {
        return Err(would_be_clear(store.url()));
    }
    let Some(snapshot) = open_rollback_snapshot(&database.path, options)? else { return Ok(None) };
    let (here, noted) =
        (owner::place_of(&database.path), owner::noted(&wiring::replicator_settings(database, false).meta()));
    if let Some(recorded) = &recorded {
        owner::check(store.url(), recorded, &here, noted.as_deref())?;
    }
    let is_owner = recorded.is_some_and(|recorded| recorded.is(&here, noted.as_deref()));
    if !is_owner
        && !asked.allow_other_database
        && let Some(stored) = origin?
    {
        stored.check(store.url(), snapshot.origin())?;
    }
    if newest.is_clock_behind(SystemClock.utc_now()) {
        warn_clock(&database.path.display().to_string(), &newest, SystemClock.utc_now());
    }
    let snapshot = standalone_snapshot(&**store, snapshot, &newest, &SystemClock)?;
    upload(database, store, snapshot.compressed(database.replica.compression_level)).map(Some)
}

/// Makes sure that a restore would give what was stored. `others_write`: more may have been stored since.
///
/// Errors: of kind `Corrupt` if a restore would give something else.
fn check_restorable(database: &Path, store: &dyn Store, position: &Position, others_write: bool) -> Result<()> {
    let listing = load_listing_patiently(store, &SystemClock)?;
    check_plan(database, store.url(), &listing, position, others_write)
}

fn check_plan(database: &Path, url: &str, listing: &Listing, position: &Position, others_write: bool) -> Result<()> {
    let found = latest_restore(listing, position);
    if found.is_exact() || (others_write && matches!(found, LatestRestore::EndsAfter { .. })) {
        return Ok(());
    }
    let what = format!("database {}: {url}: {position} is stored, but {found}", database.display());
    Err(Error::new(Kind::Corrupt, what)
        .with_hint("another program writes or deletes below this prefix: stop it, and run snapshot again"))
}

/// Nobody follows the database: what is committed and not stored goes first, so that the generation can go on.
fn snapshot_directly(database: &Database, store: &dyn Store, follower: Replicator) -> Result<StoredSnapshot> {
    let mut poll = EventLoop::new(vec![follower], database.monitor_interval);
    let mut progress = None;
    let mut watch = |poll: &EventLoop| {
        let status = poll.replicators.first().map(|follower| follower.status(&SystemClock));
        if let Some(snapshot) = status.and_then(|status| status.snapshot) {
            let begin = || ProgressLine::new("snapshot", snapshot.total, SystemClock.now());
            progress.get_or_insert_with(begin).update(snapshot.read, SystemClock.now());
        }
    };
    drain(&mut poll, DrainLimit::Idle(NO_PROGRESS_TIMEOUT), &mut watch)?;
    drop(progress);
    let status = poll.replicators.first().map(|follower| follower.status(&SystemClock)).unwrap_or_default();
    if let Some(stored) = status.stored {
        check_restorable(&database.path, store, &stored, false)?;
    }
    let full = status.snapshot_stored.is_some();
    let position = status.snapshot_stored.or(status.stored).map_or_else(String::new, |position| position.to_string());
    Ok(StoredSnapshot { path: database.path.display().to_string(), position, bytes: status.bytes, full })
}

/// Another process follows the database, and takes the snapshot for us: it alone knows where it stands. Should it end
/// meanwhile, the lock is free, and we take the snapshot.
fn request_from_replicator(
    database: &Database,
    store: &Rc<dyn Store>,
    mut follower: Replicator,
    retention: bool,
) -> Result<StoredSnapshot> {
    connect(&**store, &SystemClock)?;
    let settings = wiring::replicator_settings(database, false);
    let meta = settings.replica_directory(database.replica_directory().as_deref());
    let mut request = SnapshotRequest::create(&meta, retention)?;
    let mut waiting = ReplicatorWait::new(SystemClock.now());
    loop {
        match request.read_reply()? {
            Some(Reply::Stored { position, url }) => return locate_stored(database, &**store, position, &url),
            Some(Reply::Failed(what)) => return Err(request_failed(&database.path, Kind::StoreRefused, &what)),
            answer => waiting.on_reply(answer, SystemClock.now()),
        }
        match follower.take_lock() {
            Err(error) if error.kind() == Kind::Locked => {
                waiting.check_timeout(&database.path, &error, SystemClock.now())?
            }
            Err(error) => return Err(error),
            Ok(()) => {
                drop(request);
                return snapshot_directly(database, &**store, follower);
            }
        }
        if !request.exists() {
            request = SnapshotRequest::create(&meta, retention)?;
        }
        SystemClock.sleep(POLL_INTERVAL);
    }
}

/// For how long the process that keeps the database has not come further.
struct ReplicatorWait {
    answer: Option<Reply>,
    deadline: Instant,
    progress: Option<ProgressLine>,
}

impl ReplicatorWait {
    fn new(now: Instant) -> ReplicatorWait {
        ReplicatorWait { answer: None, deadline: now + NO_PROGRESS_TIMEOUT, progress: None }
    }

    fn on_reply(&mut self, answer: Option<Reply>, now: Instant) {
        if let Some(Reply::Reading { read, total, .. }) = answer {
            self.progress.get_or_insert_with(|| ProgressLine::new("snapshot", total, now)).update(read, now);
        }
        if answer != self.answer {
            (self.answer, self.deadline) = (answer, now + NO_PROGRESS_TIMEOUT);
        }
    }

    /// Errors: a signal came, or patience is over. `locked` names the process.
    fn check_timeout(&self, database: &Path, locked: &Error, now: Instant) -> Result<()> {
        if let Some(signal) = signals::shutdown_signal() {
            let what = format!("stopped by signal {signal} before it was stored");
            return Err(request_failed(database, Kind::StoreUnreachable, &what));
        }
        if now < self.deadline {
            return Ok(());
        }
        let seconds = NO_PROGRESS_TIMEOUT.as_secs();
        Err(match &self.answer {
            None => Error::new(Kind::Locked, format!("{locked}, which did not answer within {seconds}s"))
                .with_hint("that process hangs, or its version takes no requests for snapshots; check its log"),
            Some(Reply::Waiting(trouble)) if !trouble.is_empty() => {
                request_failed(database, Kind::StoreUnreachable, trouble)
            }
            Some(_) => request_failed(database, Kind::StoreUnreachable, &format!("no progress for {seconds}s")),
        })
    }
}

fn request_failed(database: &Path, kind: Kind, what: &str) -> Error {
    Error::new(kind, format!("database {}: snapshot by the running replicate: {what}", database.display()))
}

/// It is in our store too, under whatever address that process knows it.
fn locate_stored(database: &Database, store: &dyn Store, position: Position, url: &str) -> Result<StoredSnapshot> {
    let listing = load_listing_patiently(store, &SystemClock)?;
    let snapshots = listing.generation(position.generation).map(|stored| stored.snapshots.as_slice());
    let found = snapshots.unwrap_or_default().iter().rfind(|(key, _)| key.position == position.wal_position);
    let Some((_, bytes)) = found else {
        let what = format!("it stores to {url}, not to {}", store.url());
        return Err(request_failed(&database.path, Kind::Locked, &what)
            .with_hint("name a replica that the running replicate has, or stop it first"));
    };
    check_plan(&database.path, store.url(), &listing, &position, true)?;
    let path = database.path.display().to_string();
    Ok(StoredSnapshot { path, position: position.to_string(), bytes: *bytes, full: true })
}

/// A directory for what is copied. That of a database that is not in WAL mode need not exist.
fn spill_dir(database: &Database) -> &Path {
    let meta = database.meta_path.as_deref().filter(|meta| meta.is_dir());
    let beside = || database.path.parent().filter(|parent| !parent.as_os_str().is_empty());
    meta.or_else(beside).unwrap_or(Path::new("."))
}

fn upload(database: &Database, store: &Rc<dyn Store>, mut upload: SnapshotUpload) -> Result<StoredSnapshot> {
    let mut progress = ProgressLine::new("snapshot", upload.header().payload_len(), SystemClock.now());
    let mut desk = SnapshotBuffers::new();
    let mut held_until = Some(SystemClock.now() + MAX_WRITER_BLOCK);
    loop {
        if held_until.take_if(|until| *until <= SystemClock.now()).is_some()
            && let Err(error) = upload.detach(spill_dir(database))
        {
            log::warn("writers wait until the snapshot is stored")
                .field("db", database.path.display())
                .error(&error)
                .emit();
        }
        match upload.poll(&mut desk, true, SystemClock.now())? {
            Moved::Done => break,
            Moved::Working => {}
            Moved::Waiting => store.wait(Duration::from_millis(50)),
        }
        progress.update(upload.read(), SystemClock.now());
    }
    let header = upload.header();
    let position = Position { generation: header.generation, wal_position: header.position };
    check_restorable(&database.path, &**store, &position, false)?;
    Ok(StoredSnapshot {
        path: database.path.display().to_string(),
        position: position.to_string(),
        bytes: upload.stored(),
        full: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answers: &[Option<Reply>], seconds: u64) -> Result<()> {
        let begin = SystemClock.now();
        let mut waiting = ReplicatorWait::new(begin);
        answers.iter().for_each(|answer| waiting.on_reply(answer.clone(), begin));
        let locked = Error::new(Kind::Locked, "/a.db: already replicated by process 7");
        waiting.check_timeout(Path::new("/a.db"), &locked, begin + Duration::from_secs(seconds))
    }

    #[test]
    fn replicator_without_progress_is_given_up_with_its_answer() {
        let reading = Some(Reply::Reading { read: 1, total: 2, stored: 0 });
        let table = [
            (None, Kind::Locked, "/a.db: already replicated by process 7, which did not answer within 30s"),
            (
                Some(Reply::Waiting("no disk".into())),
                Kind::StoreUnreachable,
                "snapshot by the running replicate: no disk",
            ),
            (Some(Reply::Waiting(String::new())), Kind::StoreUnreachable, "no progress for 30s"),
            (reading, Kind::StoreUnreachable, "no progress for 30s"),
        ];
        for (answer, kind, text) in table {
            let error = check(std::slice::from_ref(&answer), 31).unwrap_err();
            assert!(error.kind() == kind && error.message().ends_with(text), "{error}");
            assert!(check(&[answer], 29).is_ok());
        }
    }

    #[test]
    fn snapshot_is_called_stored_only_if_a_restore_would_give_it() {
        let name = |generation: &str, at: u32| {
            format!("generations/{generation}/snapshots/00000000.{at:012x}-20260101T000000.000Z.gz")
        };
        let (ours, newer) = (name("0000000000000005", 0), name("ffffffffffffffff", 0));
        let position: Position = "0000000000000005/0:0".parse().unwrap();
        let judged = |names: &[&String], others_write| {
            let listing = Listing::new(names.iter().map(|name| (name.to_string(), 1)));
            check_plan(Path::new("/a.db"), "file:///store", &listing, &position, others_write)
        };
        assert!(judged(&[&ours], false).is_ok());
        let in_the_way = judged(&[&ours, &newer], true).unwrap_err();
        assert_eq!(in_the_way.kind(), Kind::Corrupt);
        assert!(in_the_way.message().contains("ffffffffffffffff, which is newer"), "{in_the_way}");
        assert!(judged(&[], false).unwrap_err().message().contains("no snapshot is stored"));
        let later = name("0000000000000005", 9);
        assert!(judged(&[&ours, &later], false).is_err());
        // Beside a replicator more is stored in the meantime, but a hole in front of it is one all the same.
        assert!(judged(&[&later], true).is_ok());
        assert!(judged(&[&name("0000000000000004", 0)], true).is_err());
    }
}

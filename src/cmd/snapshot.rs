//! `litestream snapshot`: one full copy, now, and the end. For cron; also while `replicate` runs.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::{System, sleep};
use crate::cmd::poll::Poll;
use crate::cmd::progress::Progress;
use crate::cmd::replicate::{Patience, finish, of_database};
use crate::cmd::{Errors, Given, Status, environment, heartbeat, print, service, signals};
use crate::config::{self, Database};
use crate::error::{Error, Kind, Result};
use crate::format::listing::Listing;
use crate::format::position::Position;
use crate::format::restorable::{LatestRestore, latest_restore};
use crate::log::{self, Level};
use crate::replica::alone::{alone, stored_until};
use crate::replica::download::{Outage, connect, list_patiently};
use crate::replica::follow::{Follower, warn_clock};
use crate::replica::request::{Answer, Request};
use crate::replica::retention::enforce;
use crate::replica::snapshot::{Desk, Progress as Moved, SnapshotUpload};
use crate::source::{self, snapshot::of_rollback_journal};
use crate::store::{Pool, Store};

/// How long the snapshot waits for a store that is silent, and for a running `replicate` that comes no further.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a store may keep writers out of a database that is not in WAL mode. Then what is left is copied aside, which
/// takes as long as the disk does.
const HELD: Duration = Duration::from_secs(1);
/// A snapshot that is cut off by an outage is begun anew this often, at most.
const ATTEMPTS: u32 = 5;
/// Between two looks for an answer.
const GLANCE: Duration = Duration::from_millis(100);

pub fn run(given: &Given, options: &cli::Snapshot) -> Result<Status> {
    if given.invocation.log_level.is_none() && config::log_level(&environment)?.is_none() {
        // Cron sends what is printed by mail: silence is success.
        log::set_level(Level::Warn);
    }
    let (databases, heartbeat) = chosen(given, options)?;
    signals::install();
    let mut pool = Pool::default();
    let mut rows = Vec::new();
    let mut errors = Errors::default();
    for database in &databases {
        let done = one(database, options, &mut pool);
        let done = if databases.len() > 1 { done.map_err(|e| of_database(e, &database.path)) } else { done };
        rows.push(row(database, &done));
        if let Err(error) = done {
            errors.push(error);
        }
        if signals::received().is_some() {
            break;
        }
    }
    let all = rows.len() == databases.len();
    if options.json {
        print::json_value(&rows.into())?;
    }
    errors.last()?;
    if let Some(heartbeat) = heartbeat.filter(|_| all) {
        heartbeat::send(&heartbeat);
    }
    Ok(0)
}

/// What is printed of one database. What is not known is null, so that a name always has one type.
fn row(database: &Database, done: &Result<Done>) -> serde_json::Value {
    let path = database.path.display().to_string();
    match done {
        Ok(Done { position, bytes, .. }) => {
            json!({ "path": path, "position": position, "bytes": bytes, "error": null })
        }
        Err(error) => json!({ "path": path, "position": null, "bytes": null, "error": error.message() }),
    }
}

/// The databases, and where to report that all of them are stored.
fn chosen(given: &Given, options: &cli::Snapshot) -> Result<(Vec<Database>, Option<config::Heartbeat>)> {
    let mut databases = given.chosen(&options.chosen)?;
    if options.retention.is_some() {
        databases.iter_mut().for_each(|database| database.snapshot_retention = options.retention);
    }
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
    if let Some(done) = without_wal(database, &options, asked, &store)? {
        if asked.enforce_retention {
            enforce(&store, &done.path, database.snapshot_retention, &System)?;
        }
        return Ok(done);
    }
    let mut settings = service::settings(database, false);
    settings.force_snapshot = true;
    settings.source.enable_wal = false;
    settings.enforce_retention = asked.enforce_retention;
    settings.allow_other_database = asked.allow_other_database;
    let mut follower = Follower::new(settings, store.clone(), System.now());
    match follower.check_database() {
        Ok(()) => follow(database, follower),
        Err(error) if error.kind() == Kind::Locked => {
            if asked.retention.is_some() {
                return Err(error.context("option -retention").with_hint(
                    "the running replicate deletes by its own retention: set snapshot.retention in its configuration",
                ));
            }
            beside(database, &store, follower, asked.enforce_retention)
        }
        Err(error) => Err(error),
    }
}

/// Of a database that is not in WAL mode: nobody can write to it until the snapshot has ended or been [`HELD`]. None if it
/// is in WAL mode.
fn without_wal(
    database: &Database,
    options: &source::Options,
    asked: &cli::Snapshot,
    store: &Rc<dyn Store>,
) -> Result<Option<Done>> {
    if of_rollback_journal(&database.path, options)?.is_none() {
        return Ok(None);
    }
    // Whatever takes time goes first.
    connect(&**store, &System)?;
    for _ in 1..ATTEMPTS {
        match stored_without_wal(database, options, asked, store) {
            // What was sent is of a moment that nobody can go back to: the next attempt takes another one.
            Err(error) => Outage::default().sit_out(&**store, &System, error)?,
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
) -> Result<Option<Done>> {
    let (newest, stored) = stored_until(store, &System)?;
    let Some(snapshot) = of_rollback_journal(&database.path, options)? else { return Ok(None) };
    if let Some(stored) = stored.filter(|_| !asked.allow_other_database) {
        stored.check(store.url(), snapshot.origin())?;
    }
    if newest.refutes(System.wall()) {
        warn_clock(&database.path.display().to_string(), &newest, System.wall());
    }
    upload_all(database, store, alone(&**store, snapshot, &newest, &System)?).map(Some)
}

/// Makes sure that a restore would give what was stored. `others_write`: more may have been stored since.
///
/// Errors: of kind `Corrupt` if a restore would give something else.
fn check_restorable(database: &Path, store: &dyn Store, position: &Position, others_write: bool) -> Result<()> {
    let entries = list_patiently(store, &System, "")?;
    let listing = Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)));
    judge(database, store.url(), &listing, position, others_write)
}

fn judge(database: &Path, url: &str, listing: &Listing, position: &Position, others_write: bool) -> Result<()> {
    let found = latest_restore(listing, position);
    if found.is_exact() || (others_write && matches!(found, LatestRestore::Further { .. })) {
        return Ok(());
    }
    let what = format!("database {}: {url}: {position} is stored, but {found}", database.display());
    Err(Error::new(Kind::Corrupt, what)
        .with_hint("another program writes or deletes below this prefix: stop it, and run snapshot again"))
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
    if let (Some(follower), Some(stored)) = (poll.followers.first(), status.stored) {
        check_restorable(&database.path, &**follower.store(), &stored, false)?;
    }
    let position = status.snapshot_stored.map_or_else(String::new, |position| position.to_string());
    Ok(Done { path: database.path.display().to_string(), position, bytes: status.bytes })
}

/// Another process follows the database, and takes the snapshot for us: it alone knows where it stands. Should it end
/// meanwhile, the lock is free, and we take the snapshot.
fn beside(database: &Database, store: &Rc<dyn Store>, mut follower: Follower, retention: bool) -> Result<Done> {
    connect(&**store, &System)?;
    let meta = service::settings(database, false).meta();
    let mut request = Request::place(&meta, retention)?;
    let mut waiting = Waiting::new(System.now());
    loop {
        match request.answer()? {
            Some(Answer::Stored { position, url }) => return stored_by_another(database, &**store, position, &url),
            Some(Answer::Failed(what)) => return Err(refused(&database.path, Kind::Store, &what)),
            answer => waiting.hear(answer, System.now()),
        }
        match follower.take_lock() {
            Err(error) if error.kind() == Kind::Locked => waiting.check(&database.path, &error, System.now())?,
            Err(error) => return Err(error),
            Ok(()) => {
                drop(request);
                return follow(database, follower);
            }
        }
        if !request.is_placed() {
            request = Request::place(&meta, retention)?;
        }
        sleep(GLANCE);
    }
}

/// For how long the process that keeps the database has not come further.
struct Waiting {
    answer: Option<Answer>,
    deadline: Instant,
    progress: Option<Progress>,
}

impl Waiting {
    fn new(now: Instant) -> Waiting {
        Waiting { answer: None, deadline: now + PATIENCE, progress: None }
    }

    fn hear(&mut self, answer: Option<Answer>, now: Instant) {
        if let Some(Answer::Reading { read, total, .. }) = answer {
            self.progress.get_or_insert_with(|| Progress::new("snapshot", total, now)).update(read, now);
        }
        if answer != self.answer {
            (self.answer, self.deadline) = (answer, now + PATIENCE);
        }
    }

    /// Errors: a signal came, or patience is over. `locked` names the process.
    fn check(&self, database: &Path, locked: &Error, now: Instant) -> Result<()> {
        if let Some(signal) = signals::received() {
            let what = format!("stopped by signal {signal} before it was stored");
            return Err(refused(database, Kind::Unreachable, &what));
        }
        if now < self.deadline {
            return Ok(());
        }
        let seconds = PATIENCE.as_secs();
        Err(match &self.answer {
            None => Error::new(Kind::Locked, format!("{locked}, which did not answer within {seconds}s")).with_hint(
                "that process hangs, or is of a version that cannot be asked for a snapshot; its log may tell",
            ),
            Some(Answer::Waiting(trouble)) if !trouble.is_empty() => refused(database, Kind::Unreachable, trouble),
            Some(_) => refused(database, Kind::Unreachable, &format!("it came no further for {seconds}s")),
        })
    }
}

fn refused(database: &Path, kind: Kind, what: &str) -> Error {
    Error::new(kind, format!("database {}: the running replicate, asked for a snapshot: {what}", database.display()))
}

/// It is in our store too, under whatever address that process knows it.
fn stored_by_another(database: &Database, store: &dyn Store, position: Position, url: &str) -> Result<Done> {
    let entries = list_patiently(store, &System, "")?;
    let listing = Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)));
    let snapshots = listing.generation(position.generation).map(|stored| stored.snapshots.as_slice());
    let found = snapshots.unwrap_or_default().iter().rfind(|(key, _)| key.at == position.point);
    let Some((_, bytes)) = found else {
        let what = format!("expected the snapshot {position} in {}, found that it is kept in {url}", store.url());
        return Err(refused(&database.path, Kind::Locked, &what)
            .with_hint("one database has one replica: name the one that the running replicate has, or stop it first"));
    };
    judge(&database.path, store.url(), &listing, &position, true)?;
    Ok(Done { path: database.path.display().to_string(), position: position.to_string(), bytes: *bytes })
}

/// A directory for what is copied. That of a database that is not in WAL mode need not exist.
fn aside(database: &Database) -> &Path {
    let meta = database.meta_path.as_deref().filter(|meta| meta.is_dir());
    let beside = || database.path.parent().filter(|parent| !parent.as_os_str().is_empty());
    meta.or_else(beside).unwrap_or(Path::new("."))
}

fn upload_all(database: &Database, store: &Rc<dyn Store>, mut upload: SnapshotUpload) -> Result<Done> {
    let mut progress = Progress::new("snapshot", upload.header().payload_len(), System.now());
    let mut desk = Desk::new();
    let mut held_until = Some(System.now() + HELD);
    loop {
        if held_until.take_if(|until| *until <= System.now()).is_some()
            && let Err(error) = upload.let_go(aside(database))
        {
            log::warn("writers wait until the snapshot is stored")
                .field("db", database.path.display())
                .cause(&error)
                .emit();
        }
        match upload.poll(&mut desk, System.now())? {
            Moved::Done => break,
            Moved::Working => {}
            Moved::Waiting => store.wait(Duration::from_millis(50)),
        }
        progress.update(upload.read(), System.now());
    }
    let header = upload.header();
    let position = Position { generation: header.generation, point: header.at };
    check_restorable(&database.path, &**store, &position, false)?;
    Ok(Done { path: database.path.display().to_string(), position: position.to_string(), bytes: upload.stored() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answers: &[Option<Answer>], seconds: u64) -> Result<()> {
        let begin = System.now();
        let mut waiting = Waiting::new(begin);
        answers.iter().for_each(|answer| waiting.hear(answer.clone(), begin));
        let locked = Error::new(Kind::Locked, "/a.db: already replicated by process 7");
        waiting.check(Path::new("/a.db"), &locked, begin + Duration::from_secs(seconds))
    }

    #[test]
    fn a_replicator_that_comes_no_further_is_given_up_with_what_it_said() {
        let reading = Some(Answer::Reading { read: 1, total: 2, stored: 0 });
        let table = [
            (None, Kind::Locked, "/a.db: already replicated by process 7, which did not answer within 30s"),
            (Some(Answer::Waiting("no disk".into())), Kind::Unreachable, "asked for a snapshot: no disk"),
            (Some(Answer::Waiting(String::new())), Kind::Unreachable, "it came no further for 30s"),
            (reading, Kind::Unreachable, "it came no further for 30s"),
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
            judge(Path::new("/a.db"), "file:///store", &listing, &position, others_write)
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

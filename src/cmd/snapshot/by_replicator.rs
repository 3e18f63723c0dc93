//! A snapshot that the running `replicate` takes for us: it alone knows where it stands.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::backup::listing::load_listing_patiently;
use crate::backup::recipients_note::RecipientsNote;
use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::progress::ProgressLine;
use crate::cmd::{signals, wiring};
use crate::config::Database;
use crate::control::{SnapshotReply, SnapshotRequest};
use crate::error::{Error, Kind, Result};
use crate::format::position::Position;
use crate::replica::replicator::Replicator;
use crate::store::Store;
use crate::store::blocking::connect;

use super::check::check_plan;
use super::{NO_PROGRESS_TIMEOUT, StoredSnapshot, snapshot_directly};

/// Between two looks for an answer.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Another process follows the database, and takes the snapshot for us: it alone knows where it stands. Should it end
/// meanwhile, the lock is free, and we take the snapshot.
pub fn request_from_replicator(
    database: &Database,
    store: &Rc<dyn Store>,
    mut replicator: Replicator,
    retention: bool,
) -> Result<StoredSnapshot> {
    connect(&**store, &SystemClock)?;
    let settings = wiring::replicator_settings(database, false);
    let meta = settings.replica_directory(database.replica_directory().as_deref());
    let mut request = SnapshotRequest::create(&meta, retention)?;
    let mut waiting = ReplicatorWait::new(SystemClock.now());
    loop {
        match request.read_reply()? {
            Some(SnapshotReply::Stored { position, url }) => {
                check_recipients(database, &**store, &position, &meta)?;
                return locate_stored(database, &**store, position, &url);
            }
            Some(SnapshotReply::Failed(what)) => return Err(request_failed(&database.path, Kind::StoreRefused, &what)),
            answer => waiting.on_reply(answer, SystemClock.now()),
        }
        match replicator.take_lock() {
            Err(error) if error.kind() == Kind::Locked => {
                waiting.check_timeout(&database.path, &error, SystemClock.now())?
            }
            Err(error) => return Err(error),
            Ok(()) => {
                drop(request);
                return snapshot_directly(database, &**store, replicator);
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
    answer: Option<SnapshotReply>,
    deadline: Instant,
    progress: Option<ProgressLine>,
}

impl ReplicatorWait {
    fn new(now: Instant) -> ReplicatorWait {
        ReplicatorWait { answer: None, deadline: now + NO_PROGRESS_TIMEOUT, progress: None }
    }

    fn on_reply(&mut self, answer: Option<SnapshotReply>, now: Instant) {
        if let Some(SnapshotReply::Reading { read, total, .. }) = answer {
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
            Some(SnapshotReply::Waiting(problem)) if !problem.is_empty() => {
                request_failed(database, Kind::StoreUnreachable, problem)
            }
            Some(_) => request_failed(database, Kind::StoreUnreachable, &format!("no progress for {seconds}s")),
        })
    }
}

fn request_failed(database: &Path, kind: Kind, what: &str) -> Error {
    Error::new(kind, format!("database {}: snapshot by the running replicate: {what}", database.display()))
}

/// Refuses what the running process has encrypted to others than those in the configuration: it has not read that yet.
fn check_recipients(database: &Database, store: &dyn Store, position: &Position, directory: &Path) -> Result<()> {
    let Some(wanted) = store.recipients_digest() else { return Ok(()) };
    match RecipientsNote::read(directory) {
        Some(note) if note.position == *position && note.digest == wanted => Ok(()),
        _ => Err(request_failed(&database.path, Kind::Locked, "it is not for the age recipients of the configuration")
            .with_hint(
                "the running replicate has not read its configuration again: send it SIGHUP, then run snapshot",
            )),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answers: &[Option<SnapshotReply>], seconds: u64) -> Result<()> {
        let begin = SystemClock.now();
        let mut waiting = ReplicatorWait::new(begin);
        answers.iter().for_each(|answer| waiting.on_reply(answer.clone(), begin));
        let locked = Error::new(Kind::Locked, "/a.db: already replicated by process 7");
        waiting.check_timeout(Path::new("/a.db"), &locked, begin + Duration::from_secs(seconds))
    }

    #[test]
    fn replicator_without_progress_is_given_up_with_its_answer() {
        let reading = Some(SnapshotReply::Reading { read: 1, total: 2, stored: 0 });
        let table = [
            (None, Kind::Locked, "/a.db: already replicated by process 7, which did not answer within 30s"),
            (
                Some(SnapshotReply::Waiting("no disk".into())),
                Kind::StoreUnreachable,
                "snapshot by the running replicate: no disk",
            ),
            (Some(SnapshotReply::Waiting(String::new())), Kind::StoreUnreachable, "no progress for 30s"),
            (reading, Kind::StoreUnreachable, "no progress for 30s"),
        ];
        for (answer, kind, text) in table {
            let error = check(std::slice::from_ref(&answer), 31).unwrap_err();
            assert!(error.kind() == kind && error.message().ends_with(text), "{error}");
            assert!(check(&[answer], 29).is_ok());
        }
    }
}

//! A snapshot of a database that is not in WAL mode: writers wait for it.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::backup::origin::would_be_clear;
use crate::backup::owner;
use crate::cli;
use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::progress::ProgressLine;
use crate::cmd::wiring;
use crate::config::Database;
use crate::error::Result;
use crate::format::position::Position;
use crate::log;
use crate::replica::replicator::warn_clock;
use crate::replica::snapshot_upload::{SnapshotBuffers, SnapshotUpload, UploadProgress};
use crate::replica::standalone_snapshot::{LatestStored, latest_stored, standalone_snapshot};
use crate::source::{SourceOptions, snapshot::open_rollback_snapshot};
use crate::store::Store;
use crate::store::blocking::{Outage, connect};

use super::StoredSnapshot;
use super::check::check_restorable;

/// How long a store may keep writers out of a database that is not in WAL mode. Then what is left is copied aside, which
/// takes as long as the disk does.
const MAX_WRITER_BLOCK: Duration = Duration::from_secs(1);
/// A snapshot that is cut off by an outage is started again this often, at most.
const MAX_ATTEMPTS: u32 = 5;
/// Between two looks at a store that has nothing to say.
const STORE_WAIT: Duration = Duration::from_millis(50);

/// Of a database that is not in WAL mode: nobody can write to it until the snapshot has ended or been [`MAX_WRITER_BLOCK`]. None if it
/// is in WAL mode.
pub fn snapshot_rollback_journal(
    database: &Database,
    options: &SourceOptions,
    asked: &cli::SnapshotOptions,
    store: &Rc<dyn Store>,
) -> Result<Option<StoredSnapshot>> {
    if open_rollback_snapshot(&database.path, options)?.is_none() {
        return Ok(None);
    }
    // Whatever takes time goes first.
    connect(&**store, &SystemClock)?;
    for _ in 1..MAX_ATTEMPTS {
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
    options: &SourceOptions,
    asked: &cli::SnapshotOptions,
    store: &Rc<dyn Store>,
) -> Result<Option<StoredSnapshot>> {
    let LatestStored { newest, origin, owner: recorded, recipients } = latest_stored(store, &SystemClock)?;
    if recipients > 0 && store.recipients() == 0 && !asked.allow_unencrypted {
        return Err(would_be_clear(store.url()));
    }
    let Some(snapshot) = open_rollback_snapshot(&database.path, options)? else { return Ok(None) };
    let (here, noted) =
        (owner::location_of(&database.path), owner::noted(&wiring::replicator_settings(database, false).meta()));
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

/// A directory for what is copied. That of a database that is not in WAL mode need not exist.
fn spill_dir(database: &Database) -> &Path {
    let meta = database.meta_path.as_deref().filter(|meta| meta.is_dir());
    let beside = || database.path.parent().filter(|parent| !parent.as_os_str().is_empty());
    meta.or_else(beside).unwrap_or(Path::new("."))
}

fn upload(database: &Database, store: &Rc<dyn Store>, mut upload: SnapshotUpload) -> Result<StoredSnapshot> {
    let mut progress = ProgressLine::new("snapshot", upload.header().payload_len(), SystemClock.now());
    let mut buffers = SnapshotBuffers::new();
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
        match upload.poll(&mut buffers, true, SystemClock.now())? {
            UploadProgress::Done => break,
            UploadProgress::Working => {}
            UploadProgress::Waiting => store.wait(STORE_WAIT),
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

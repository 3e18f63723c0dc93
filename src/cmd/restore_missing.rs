//! Restores missing databases before replication starts: in the foreground at startup, and in a thread of its own for a
//! database that is added later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use crate::cmd::clock::SystemClock;
use crate::cmd::newest_replica::newest_replica;
use crate::cmd::progress::progress_line;
use crate::cmd::wiring;
use crate::config::Database;
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::restore::missing;
use crate::store::ConnectionPool;

/// A restore beside the poll loop. Dropped, it goes on no further than to its next page, and leaves no file.
pub struct BackgroundRestore {
    /// As it was configured when this began.
    database: Database,
    cancelled: Arc<AtomicBool>,
    answer: Receiver<Result<()>>,
}

impl BackgroundRestore {
    /// Begins to restore `database`.
    ///
    /// Errors: of kind `Database`, if there can be no thread.
    pub fn start(database: &Database, create_bucket: bool) -> Result<BackgroundRestore> {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, answer) = channel();
        let (wanted, stopped) = (database.clone(), stop.clone());
        std::thread::Builder::new()
            .name("restore".to_string())
            .spawn(move || {
                // Connections belong to the thread that made them.
                let _ = sender.send(restore_missing(&wanted, create_bucket, &mut ConnectionPool::default(), stopped));
            })
            .map_err(|e| Error::io(Kind::Database, "start a thread", &e))?;
        log::info("restoring").field("db", database.path.display()).field("from", &database.replica.url).emit();
        Ok(BackgroundRestore { database: database.clone(), cancelled: stop, answer })
    }

    pub fn database(&self) -> &Database {
        &self.database
    }

    /// It is not wanted any more, or not in this way.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// How it ended, once it has: as [`restore_missing`].
    pub fn try_result(&self) -> Option<Result<()>> {
        match self.answer.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(Error::new(Kind::Database, "the restore was aborted"))),
        }
    }
}

impl Drop for BackgroundRestore {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// Whether a database is to be restored before it is followed.
pub fn is_needed(database: &Database) -> bool {
    database.restore_if_missing && !database.path.exists()
}

/// Restores a database that is not there: [`missing::restore_missing`].
pub fn restore_missing(
    database: &Database,
    create_bucket: bool,
    pool: &mut ConnectionPool,
    cancelled: Arc<AtomicBool>,
) -> Result<()> {
    let database = &Database { replica: newest_replica(database, pool)?, ..database.clone() };
    let store = wiring::open_store(database, create_bucket, pool)?;
    let url = &database.replica.url;
    missing::restore_missing(&*store, &SystemClock, url, &database.path, cancelled, &progress_line("restore"))
}

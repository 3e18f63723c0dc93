//! Databases whose file is missing, and which are restored before they are followed. Those that the run begins with are
//! waited for; one that comes later has a thread of its own, so that nobody else waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use crate::cmd::clock::System;
use crate::cmd::output::{Replaced, refuse_existing};
use crate::cmd::restore::{Wanted, fetch};
use crate::cmd::service;
use crate::config::Database;
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::replica::download::connect;
use crate::store::Pool;

/// A restore beside the poll loop. Dropped, it goes on no further than to its next page, and leaves no file.
pub struct Restoring {
    /// As it was configured when this began.
    database: Database,
    stop: Arc<AtomicBool>,
    answer: Receiver<Result<()>>,
}

impl Restoring {
    /// Begins to restore `database`.
    ///
    /// Errors: of kind `Database`, if there can be no thread.
    pub fn begin(database: &Database, create_bucket: bool) -> Result<Restoring> {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, answer) = channel();
        let (wanted, stopped) = (database.clone(), stop.clone());
        std::thread::Builder::new()
            .name("restore".to_string())
            .spawn(move || {
                // Connections belong to the thread that made them.
                let _ = sender.send(restore_missing(&wanted, create_bucket, &mut Pool::default(), stopped));
            })
            .map_err(|e| Error::io(Kind::Database, "start a thread", &e))?;
        log::info("restoring").field("db", database.path.display()).field("from", &database.replica.url).emit();
        Ok(Restoring { database: database.clone(), stop, answer })
    }

    pub fn database(&self) -> &Database {
        &self.database
    }

    /// It is not wanted any more, or not in this way.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// How it ended, once it has: as [`restore_missing`].
    pub fn ended(&self) -> Option<Result<()>> {
        match self.answer.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(Error::new(Kind::Database, "the restore broke off"))),
        }
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether a database is to be restored before it is followed.
pub fn is_due(database: &Database) -> bool {
    database.restore_if_missing && !database.path.exists()
}

/// Restores a database that is not there. Where nothing is stored that is no error, nor where somebody made it meanwhile.
///
/// Errors: those of the store, which then must not be taken for an empty one: a database that begins anew would bury the
/// one that is stored.
pub fn restore_missing(database: &Database, create_bucket: bool, pool: &mut Pool, stop: Arc<AtomicBool>) -> Result<()> {
    let name = database.path.display();
    // What would keep the result from its name is better known before it is fetched.
    refuse_existing(&database.path, Replaced::EmptyLog)?;
    let store = service::open_store(database, create_bucket, pool)?;
    let url = &database.replica.url;
    connect(&*store, &System).map_err(|error| error.context(url))?;
    let wanted = Wanted {
        replaced: Replaced::EmptyLog,
        database: Some(database.path.clone()),
        stop: Some(stop),
        ..Wanted::LATEST
    };
    match fetch(&*store, url, &wanted, &database.path) {
        Ok(done) => {
            log::info("restored").field("db", name).field("position", done.position).field("time", done.time).emit();
            Ok(())
        }
        Err(error) if error.kind() == Kind::Nothing => {
            log::info("no backup to restore").field("db", name).field("detail", error).emit();
            Ok(())
        }
        Err(error) if database.path.exists() => {
            log::warn("not restored, since it is there now").field("db", name).cause(&error).emit();
            Ok(())
        }
        Err(error) => Err(error),
    }
}

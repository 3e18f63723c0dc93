//! Restoring a database whose file is missing, before it is replicated.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::clock::Clock;
use crate::error::{Kind, Result};
use crate::log;
use crate::restore::StartProgress;
use crate::restore::output_file::{Overwrite, refuse_existing};
use crate::restore::request::RestoreRequest;
use crate::restore::to_file::to_file;
use crate::store::Store;
use crate::store::blocking::connect;

/// Restores a database that is not there. Where nothing is stored that is no error, nor if it was made meanwhile.
///
/// Errors: those of the store, which then must not be taken for an empty one: a database that starts again would bury the
/// one that is stored.
pub fn restore_missing(
    store: &dyn Store,
    clock: &dyn Clock,
    url: &str,
    database: &Path,
    cancelled: Arc<AtomicBool>,
    progress: StartProgress<'_>,
) -> Result<()> {
    let name = database.display();
    // What would keep the result from its name is better known before it is fetched.
    refuse_existing(database, Overwrite::EmptyWal)?;
    connect(store, clock).map_err(|error| error.context(url))?;
    let wanted = RestoreRequest {
        overwrite: Overwrite::EmptyWal,
        database: Some(database.to_path_buf()),
        cancelled: Some(cancelled),
        ..RestoreRequest::LATEST
    };
    match to_file(store, clock, url, &wanted, database, progress) {
        Ok(done) => {
            log::info("restored").field("db", name).field("position", done.position).field("time", done.time).emit();
            Ok(())
        }
        Err(error) if error.kind() == Kind::NothingToRestore => {
            log::info("no backup to restore").field("db", name).field("detail", error).emit();
            Ok(())
        }
        Err(error) if database.exists() => {
            log::warn("database appeared during restore, keeping it").field("db", name).error(&error).emit();
            Ok(())
        }
        Err(error) => Err(error),
    }
}

//! What to restore, and how.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Kind, Result};
use crate::format::plan::PlanTarget;
use crate::format::position::Generation;
use crate::interrupt;
use crate::restore::output_file::Overwrite;
use crate::source::IntegrityCheck;

/// What to restore, and how.
#[derive(Clone)]
pub struct RestoreRequest {
    pub target: PlanTarget,
    pub generation: Option<Generation>,
    pub check: Option<IntegrityCheck>,
    pub overwrite: Overwrite,
    /// The database whose backup it is said to be; none if any will do.
    pub database: Option<PathBuf>,
    /// Set by another thread when it is not wanted any more: it then ends with an error, and leaves no file.
    pub cancelled: Option<Arc<AtomicBool>>,
}

impl RestoreRequest {
    /// The latest state of a database that is not there.
    pub const LATEST: RestoreRequest = RestoreRequest {
        target: PlanTarget::Latest,
        generation: None,
        check: None,
        overwrite: Overwrite::Never,
        database: None,
        cancelled: None,
    };

    /// Errors: if it is not wanted any more.
    pub fn check_cancelled(&self) -> Result<()> {
        interrupt::check()?;
        match &self.cancelled {
            Some(stop) if stop.load(Ordering::SeqCst) => Err(Error::new(Kind::Database, "cancelled")),
            _ => Ok(()),
        }
    }
}

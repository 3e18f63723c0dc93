//! The lock of a database: one process at a time follows it.

use crate::control::RequestInbox;
use crate::error::{Kind, Result};
use crate::log;
use crate::replica::replicator::Replicator;
use crate::source::{self, Lock, LockWait};

impl Replicator {
    /// Takes the lock, if the database can be followed at all; one that never can be is refused before anything else.
    /// A process that has the lock and ends by itself is waited for, by the polls that follow.
    ///
    /// Errors: as [`source::check`], and [`Kind::Locked`].
    pub fn check_database(&mut self) -> Result<()> {
        source::check(&self.settings.path, &self.settings.source)?;
        match self.take_lock() {
            Err(error) if error.kind() == Kind::DatabaseNotReady => {
                log::info("waiting for the lock").field("db", &self.name).error(&error).emit();
                self.waits_for_lock = true;
                Ok(())
            }
            taken => taken,
        }
    }

    /// Takes the lock, so that nobody else follows the database.
    ///
    /// Errors: of kind `Locked` if another process has it, `DatabaseNotReady` if that one can be waited for.
    pub fn take_lock(&mut self) -> Result<()> {
        if self.lock.is_none() {
            let meta = self.settings.meta();
            let stay = if self.settings.wait_for_database { LockWait::UntilStopped } else { LockWait::UntilDone };
            self.lock = Some(Lock::take(&meta, &self.settings.path, stay)?);
            self.requests = Some(RequestInbox::new(&meta));
        }
        Ok(())
    }

    /// Tries again where the lock is waited for: whoever has it keeps the store for itself, too. True if it is ours, or not
    /// waited for.
    pub(super) fn wait_for_lock(&mut self) -> Result<bool> {
        if self.waits_for_lock {
            match self.take_lock() {
                Err(error) if error.kind() == Kind::DatabaseNotReady => return Ok(false),
                taken => taken?,
            }
            log::info("the lock is free").field("db", &self.name).emit();
            self.waits_for_lock = false;
        }
        Ok(true)
    }
}

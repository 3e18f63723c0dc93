//! Two read transactions that take turns, so that there is always one. The connection whose turn it is not is free for
//! what cannot be done inside of a transaction: checkpoints.

use rusqlite::Connection;

use crate::error::{Kind, Result};
use crate::source::connection::{self, begin_read, rollback};

/// Two connections, one of which is in a read transaction.
pub struct ReadPins {
    readers: [Connection; 2],
    current: usize,
}

impl ReadPins {
    /// Takes the connections; nothing is pinned before [`ReadPins::begin`].
    pub fn new(readers: [Connection; 2]) -> ReadPins {
        ReadPins { readers, current: 0 }
    }

    /// The connection that is in no transaction.
    pub fn idle_connection(&self) -> &Connection {
        &self.readers[1 - self.current]
    }

    /// Gives back what the connections have cached. They compile their statements and read their pages again when the pin moves
    /// next; the pin stays.
    pub fn release_memory(&self) {
        self.readers.iter().for_each(connection::release_memory);
    }

    /// Begins the current pin, where there is none.
    pub fn begin(&self) -> Result<()> {
        begin_read(&self.readers[self.current])
    }

    /// Ends the current pin. Something else must pin the WAL, or nothing has been copied yet.
    pub fn end(&self) {
        rollback(&self.readers[self.current]);
    }

    /// Whether the current pin still is one.
    pub fn is_held(&self) -> bool {
        !self.readers[self.current].is_autocommit()
    }

    /// Begins the other pin beside the current one. False if it could not begin right now.
    pub fn begin_next(&self) -> Result<bool> {
        match begin_read(self.idle_connection()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == Kind::DatabaseNotReady => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends the other pin again: the current one stays.
    pub fn abandon_next(&self) {
        rollback(self.idle_connection());
    }

    /// Ends the current pin: the other one, which has begun, takes its place.
    pub fn promote_next(&mut self) {
        rollback(&self.readers[self.current]);
        self.current = 1 - self.current;
    }
}

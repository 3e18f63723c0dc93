//! Two read transactions that take turns, so that there is always one. The connection whose turn it is not is free for
//! what cannot be done inside of a transaction: checkpoints.

use rusqlite::Connection;

use crate::error::{Kind, Result};
use crate::source::connection::{begin_read, end};

/// Two connections, one of which is in a read transaction.
pub struct Pins {
    readers: [Connection; 2],
    current: usize,
}

impl Pins {
    /// Takes the connections; nothing is pinned before [`Pins::begin`].
    pub fn new(readers: [Connection; 2]) -> Pins {
        Pins { readers, current: 0 }
    }

    /// The connection that is in no transaction.
    pub fn spare(&self) -> &Connection {
        &self.readers[1 - self.current]
    }

    /// Begins the current pin, where there is none.
    pub fn begin(&self) -> Result<()> {
        begin_read(&self.readers[self.current])
    }

    /// Ends the current pin. Something else must pin the WAL, or nothing has been copied yet.
    pub fn end(&self) {
        end(&self.readers[self.current]);
    }

    /// Whether the current pin still is one.
    pub fn is_held(&self) -> bool {
        !self.readers[self.current].is_autocommit()
    }

    /// Begins the other pin beside the current one. False if it could not begin right now.
    pub fn begin_next(&self) -> Result<bool> {
        match begin_read(self.spare()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == Kind::DatabaseNotReady => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends the other pin again: the current one stays.
    pub fn abandon_next(&self) {
        end(self.spare());
    }

    /// Ends the current pin: the other one, which has begun, takes its place.
    pub fn step(&mut self) {
        end(&self.readers[self.current]);
        self.current = 1 - self.current;
    }
}

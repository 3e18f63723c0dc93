//! A stored object as an ordinary stream, for commands that have nothing else to do meanwhile.

use std::cell::Cell;
use std::io::{self, Read};
use std::time::Duration;

use crate::clock::Clock;
use crate::error::Result;
use crate::store::{Chunk, Entry, Get, Store};

/// How long one sleep lasts at most while nothing arrives.
const NAP: Duration = Duration::from_millis(100);

/// Reads one object. Ends only if all of it was right; an [`io::Error`] holds the store's own error.
pub struct Download<'a> {
    store: &'a dyn Store,
    clock: &'a dyn Clock,
    get: Box<dyn Get>,
    bytes: Vec<u8>,
    at: usize,
    ended: bool,
    received: &'a Cell<u64>,
}

impl<'a> Download<'a> {
    /// Adds to `received` the bytes that arrive.
    pub fn new(store: &'a dyn Store, clock: &'a dyn Clock, name: &str, received: &'a Cell<u64>) -> Download<'a> {
        Download { store, clock, get: store.get(name), bytes: Vec::new(), at: 0, ended: false, received }
    }

    fn fill(&mut self) -> Result<()> {
        while self.at == self.bytes.len() && !self.ended {
            match self.get.poll(self.clock.now())? {
                Chunk::Pending => self.store.wait(NAP),
                Chunk::Bytes(bytes) => {
                    self.received.set(self.received.get() + bytes.len() as u64);
                    (self.bytes, self.at) = (bytes, 0);
                }
                Chunk::End => self.ended = true,
            }
        }
        Ok(())
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.fill().map_err(io::Error::other)?;
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

/// Waits until the store is reached.
///
/// Errors: the store's, when it cannot be reached within its timeout.
pub fn connect(store: &dyn Store, clock: &dyn Clock) -> Result<()> {
    while !store.connect(clock.now())? {
        store.wait(NAP);
    }
    Ok(())
}

/// Lists the whole prefix.
pub fn list(store: &dyn Store, clock: &dyn Clock, prefix: &str) -> Result<Vec<Entry>> {
    let mut list = store.list(prefix);
    loop {
        if let Some(entries) = list.poll(clock.now())? {
            return Ok(entries);
        }
        store.wait(NAP);
    }
}

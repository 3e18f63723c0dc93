//! A stored object as an ordinary stream, for commands that have nothing else to do meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::Result;
use crate::store::{Chunk, Entry, Get, Store};

/// How long one sleep lasts at most while nothing arrives.
pub const NAP: Duration = Duration::from_millis(100);

/// Objects that are asked for ahead of their turn: more than this, together, wait in memory for it only if one alone is
/// larger.
const AHEAD_BYTES: u64 = 4 << 20;
/// At most so many objects are asked for ahead. 100 ms away, where each takes two round trips, this is 160 a second.
const AHEAD_OBJECTS: usize = 32;

/// Reads one object. Ends only if all of it was right; an [`io::Error`] holds the store's own error.
pub struct Download<'a> {
    store: &'a dyn Store,
    clock: &'a dyn Clock,
    arriving: Arriving,
    /// What is read next.
    ahead: Option<&'a Ahead<'a>>,
    bytes: Vec<u8>,
    at: usize,
    ended: bool,
    received: &'a Cell<u64>,
}

/// An object that was asked for, and what has come of it.
struct Arriving {
    get: Box<dyn Get>,
    came: VecDeque<Result<Chunk>>,
    /// Its end, or an error, has come: it must not be polled again.
    over: bool,
}

impl Arriving {
    fn new(get: Box<dyn Get>) -> Arriving {
        Arriving { get, came: VecDeque::new(), over: false }
    }

    /// Takes in what is there now.
    fn poll(&mut self, now: Instant) {
        while !self.over {
            match self.get.poll(now) {
                Ok(Chunk::Pending) => return,
                Ok(Chunk::Bytes(bytes)) => self.came.push_back(Ok(Chunk::Bytes(bytes))),
                last => {
                    self.over = true;
                    self.came.push_back(last);
                }
            }
        }
    }

    /// The next of what has come.
    fn next(&mut self, now: Instant) -> Result<Chunk> {
        match self.came.pop_front() {
            Some(came) => came,
            None if self.over => Ok(Chunk::End),
            None => self.get.poll(now).inspect_err(|_| self.over = true),
        }
    }
}

impl<'a> Download<'a> {
    /// Adds to `received` the bytes that are read.
    pub fn new(store: &'a dyn Store, clock: &'a dyn Clock, name: &str, received: &'a Cell<u64>) -> Download<'a> {
        let arriving = Arriving::new(store.get(name));
        Download { store, clock, arriving, ahead: None, bytes: Vec::new(), at: 0, ended: false, received }
    }

    fn fill(&mut self) -> Result<()> {
        while self.at == self.bytes.len() && !self.ended {
            match self.arriving.next(self.clock.now())? {
                Chunk::Pending => {
                    if let Some(ahead) = self.ahead {
                        ahead.poll(self.clock.now());
                    }
                    self.store.wait(NAP);
                }
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

/// Objects that will be read one after the other. The next ones are asked for while one is read, so that a history of
/// many small ones does not cost the round trips of each.
pub struct Ahead<'a> {
    store: &'a dyn Store,
    clock: &'a dyn Clock,
    received: &'a Cell<u64>,
    /// Those that have not been asked for, the next one last.
    names: RefCell<Vec<(String, u64)>>,
    arriving: RefCell<VecDeque<(Arriving, u64)>>,
}

impl<'a> Ahead<'a> {
    /// `names` with their sizes in bytes, in the order of reading.
    pub fn new(
        store: &'a dyn Store,
        clock: &'a dyn Clock,
        names: impl DoubleEndedIterator<Item = (String, u64)>,
        received: &'a Cell<u64>,
    ) -> Ahead<'a> {
        let names = RefCell::new(names.rev().collect());
        Ahead { store, clock, received, names, arriving: RefCell::default() }
    }

    /// The next object; none behind the last one.
    pub fn download(&'a self) -> Option<Download<'a>> {
        self.ask();
        let (arriving, _) = self.arriving.borrow_mut().pop_front()?;
        self.ask();
        let (store, clock, received) = (self.store, self.clock, self.received);
        Some(Download { store, clock, arriving, ahead: Some(self), bytes: Vec::new(), at: 0, ended: false, received })
    }

    /// Asks for as many as may wait.
    fn ask(&self) {
        let (mut names, mut arriving) = (self.names.borrow_mut(), self.arriving.borrow_mut());
        let mut bytes: u64 = arriving.iter().map(|(_, size)| size).sum();
        while let Some((_, size)) = names.last() {
            bytes = bytes.saturating_add(*size);
            if arriving.len() >= AHEAD_OBJECTS || (bytes > AHEAD_BYTES && !arriving.is_empty()) {
                return;
            }
            let Some((name, size)) = names.pop() else { return };
            arriving.push_back((Arriving::new(self.store.get(&name)), size));
        }
    }

    fn poll(&self, now: Instant) {
        self.arriving.borrow_mut().iter_mut().for_each(|(arriving, _)| arriving.poll(now));
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

//! A stored object as an ordinary stream, for commands that have nothing else to do meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::format::crc32;
use crate::interrupt;
use crate::log;
use crate::store::{Chunk, Entry, Get, Store};

/// How long a store may be away in the middle of what was begun, without one byte more of it: a server that restarts, a
/// cluster that chooses another leader.
pub const OUTAGE: Duration = Duration::from_secs(30);
/// Between two attempts at a store that is away.
const RETRY: Duration = Duration::from_millis(250);

/// How long one sleep lasts at most while nothing arrives.
pub const MAX_SLEEP: Duration = Duration::from_millis(100);

/// Objects that are asked for ahead of their turn: more than this, together, wait in memory for it only if one alone is
/// larger.
const AHEAD_BYTES: u64 = 4 << 20;
/// At most so many objects are asked for ahead. 100 ms away, where each takes two round trips, this is 160 a second.
const AHEAD_OBJECTS: usize = 32;

/// Reads one object. Ends only if all of it was right; an [`io::Error`] holds the store's own error.
pub struct ObjectReader<'a> {
    store: &'a dyn Store,
    clock: &'a dyn Clock,
    pending: PendingObject,
    /// What is read next.
    ahead: Option<&'a Prefetcher<'a>>,
    bytes: Vec<u8>,
    at: usize,
    ended: bool,
    received: &'a Cell<u64>,
    name: String,
    given: Given,
}

/// What of an object has been given out, so that it can be asked for once more and continued there.
#[derive(Default)]
struct Given {
    bytes: u64,
    crc: crc32::Crc32,
    /// Of the object that was asked for again: what has been passed over so far.
    passed: u64,
    passed_crc: crc32::Crc32,
}

impl Given {
    /// The part of `bytes` that is new.
    ///
    /// Errors: of kind `NotFound` if what has been given out before was of another object.
    fn take(&mut self, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
        let old = usize::try_from(self.bytes - self.passed).unwrap_or(usize::MAX).min(bytes.len());
        self.passed_crc.update(&bytes[..old]);
        self.passed += old as u64;
        if old > 0 && self.passed == self.bytes && self.passed_crc.clone().finish() != self.crc.clone().finish() {
            return Err(Error::new(Kind::NotFound, "the object was replaced while it was read"));
        }
        bytes.drain(..old);
        self.crc.update(&bytes);
        // There is something new only once all that was old has been passed over.
        self.bytes += bytes.len() as u64;
        self.passed += bytes.len() as u64;
        Ok(bytes)
    }

    fn begin_again(&mut self) {
        (self.passed, self.passed_crc) = (0, crc32::Crc32::default());
    }
}

/// An object that was asked for, and what has come of it.
struct PendingObject {
    get: Box<dyn Get>,
    received: VecDeque<Result<Chunk>>,
    /// Its end, or an error, has come: it must not be polled again.
    ended: bool,
}

impl PendingObject {
    fn new(get: Box<dyn Get>) -> PendingObject {
        PendingObject { get, received: VecDeque::new(), ended: false }
    }

    /// Takes in what is there now.
    fn poll(&mut self, now: Instant) {
        while !self.ended {
            match self.get.poll(now) {
                Ok(Chunk::Pending) => return,
                Ok(Chunk::Bytes(bytes)) => self.received.push_back(Ok(Chunk::Bytes(bytes))),
                last => {
                    self.ended = true;
                    self.received.push_back(last);
                }
            }
        }
    }

    /// The next of what has come.
    fn next(&mut self, now: Instant) -> Result<Chunk> {
        match self.received.pop_front() {
            Some(came) => came,
            None if self.ended => Ok(Chunk::End),
            None => self.get.poll(now).inspect_err(|_| self.ended = true),
        }
    }
}

impl<'a> ObjectReader<'a> {
    /// Adds to `received` the bytes that are read.
    pub fn new(store: &'a dyn Store, clock: &'a dyn Clock, name: &str, received: &'a Cell<u64>) -> ObjectReader<'a> {
        ObjectReader::of(store, clock, name.to_string(), PendingObject::new(store.get(name)), received)
    }

    fn of(
        store: &'a dyn Store,
        clock: &'a dyn Clock,
        name: String,
        arriving: PendingObject,
        received: &'a Cell<u64>,
    ) -> ObjectReader<'a> {
        let (ahead, given) = (None, Given::default());
        ObjectReader {
            store,
            clock,
            pending: arriving,
            ahead,
            bytes: Vec::new(),
            at: 0,
            ended: false,
            received,
            name,
            given,
        }
    }

    fn fill(&mut self) -> Result<()> {
        let mut outage = Outage::default();
        while self.at == self.bytes.len() && !self.ended {
            interrupt::check()?;
            match self.pending.next(self.clock.now()) {
                Ok(Chunk::Pending) => {
                    if let Some(ahead) = self.ahead {
                        ahead.poll(self.clock.now());
                    }
                    self.store.wait(MAX_SLEEP);
                }
                Ok(Chunk::Bytes(bytes)) => {
                    self.received.set(self.received.get() + bytes.len() as u64);
                    (self.bytes, self.at) = (self.given.take(bytes)?, 0);
                }
                Ok(Chunk::End) if self.given.passed < self.given.bytes => {
                    return Err(Error::new(Kind::NotFound, "the object was replaced while it was read"));
                }
                Ok(Chunk::End) => self.ended = true,
                Err(error) => {
                    outage.sit_out(self.store, self.clock, error)?;
                    self.given.begin_again();
                    self.pending = PendingObject::new(self.store.get(&self.name));
                }
            }
        }
        Ok(())
    }
}

/// A store that is away in the middle of an operation.
#[derive(Default)]
pub struct Outage {
    since: Option<Instant>,
}

impl Outage {
    /// Waits until the store is there again, for as long as [`OUTAGE`] in all: what was asked is to be asked once more.
    ///
    /// Errors: `error`, if waiting does not help, or no longer.
    pub fn sit_out(&mut self, store: &dyn Store, clock: &dyn Clock, error: Error) -> Result<()> {
        if error.kind() != Kind::StoreUnreachable {
            return Err(error);
        }
        let since = match self.since {
            Some(since) => since,
            None => {
                log::warn("the store is away, going on when it is back").error(&error).emit();
                *self.since.insert(clock.now())
            }
        };
        let mut next = clock.now() + RETRY;
        loop {
            interrupt::check()?;
            if clock.now().saturating_duration_since(since) >= OUTAGE {
                return Err(error.context(format!("not back within {}s", OUTAGE.as_secs())));
            }
            if clock.now() >= next {
                match store.connect(clock.now()) {
                    Ok(true) => return Ok(()),
                    Err(error) if error.kind() != Kind::StoreUnreachable => return Err(error),
                    _ => next = clock.now() + RETRY,
                }
            }
            store.wait(MAX_SLEEP);
        }
    }
}

impl Read for ObjectReader<'_> {
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
pub struct Prefetcher<'a> {
    store: &'a dyn Store,
    clock: &'a dyn Clock,
    received: &'a Cell<u64>,
    /// Those that have not been asked for, the next one last.
    names: RefCell<Vec<(String, u64)>>,
    pending: RefCell<VecDeque<(String, PendingObject, u64)>>,
}

impl<'a> Prefetcher<'a> {
    /// `names` with their sizes in bytes, in the order of reading.
    pub fn new(
        store: &'a dyn Store,
        clock: &'a dyn Clock,
        names: impl DoubleEndedIterator<Item = (String, u64)>,
        received: &'a Cell<u64>,
    ) -> Prefetcher<'a> {
        let names = RefCell::new(names.rev().collect());
        Prefetcher { store, clock, received, names, pending: RefCell::default() }
    }

    /// The next object; none behind the last one.
    pub fn download(&'a self) -> Option<ObjectReader<'a>> {
        self.request_more();
        let (name, arriving, _) = self.pending.borrow_mut().pop_front()?;
        self.request_more();
        let download = ObjectReader::of(self.store, self.clock, name, arriving, self.received);
        Some(ObjectReader { ahead: Some(self), ..download })
    }

    /// Asks for as many as may wait.
    fn request_more(&self) {
        let (mut names, mut arriving) = (self.names.borrow_mut(), self.pending.borrow_mut());
        let mut bytes: u64 = arriving.iter().map(|(_, _, size)| size).sum();
        while let Some((_, size)) = names.last() {
            bytes = bytes.saturating_add(*size);
            if arriving.len() >= AHEAD_OBJECTS || (bytes > AHEAD_BYTES && !arriving.is_empty()) {
                return;
            }
            let Some((name, size)) = names.pop() else { return };
            let get = self.store.get(&name);
            arriving.push_back((name, PendingObject::new(get), size));
        }
    }

    fn poll(&self, now: Instant) {
        self.pending.borrow_mut().iter_mut().for_each(|(_, arriving, _)| arriving.poll(now));
    }
}

/// Waits until the store is reached.
///
/// Errors: the store's, when it cannot be reached within its timeout.
pub fn connect(store: &dyn Store, clock: &dyn Clock) -> Result<()> {
    while !store.connect(clock.now())? {
        store.wait(MAX_SLEEP);
    }
    Ok(())
}

/// Lists the whole prefix, in the middle of an operation: a store that is away is waited for.
pub fn list_patiently(store: &dyn Store, clock: &dyn Clock, prefix: &str) -> Result<Vec<Entry>> {
    let mut outage = Outage::default();
    loop {
        match list(store, clock, prefix) {
            Err(error) => outage.sit_out(store, clock, error)?,
            listed => return listed,
        }
    }
}

/// Lists the whole prefix.
pub fn list(store: &dyn Store, clock: &dyn Clock, prefix: &str) -> Result<Vec<Entry>> {
    let mut list = store.list(prefix);
    loop {
        if let Some(entries) = list.poll(clock.now())? {
            return Ok(entries);
        }
        store.wait(MAX_SLEEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `object` in pieces of these sizes, up to `end`; what is given out.
    fn fed(given: &mut Given, object: &[u8], sizes: &[usize], end: usize) -> Result<Vec<u8>> {
        let (mut at, mut out) = (0, Vec::new());
        for size in sizes.iter().cycle() {
            let next = (at + size).min(end);
            out.extend(given.take(object[at..next].to_vec())?);
            at = next;
            if at == end {
                return Ok(out);
            }
        }
        unreachable!("the sizes come again and again")
    }

    #[test]
    fn an_object_that_is_asked_for_again_goes_on_where_it_was_whatever_the_pieces() {
        let object: Vec<u8> = (0..1000u32).map(|byte| (byte * 7 % 251) as u8).collect();
        for sizes in [&[1][..], &[64], &[64, 3, 200], &[1000]] {
            for breaks in [&[500][..], &[1, 999], &[300, 100, 700], &[640, 640, 64]] {
                let (mut given, mut out) = (Given::default(), Vec::new());
                for end in breaks {
                    out.extend(fed(&mut given, &object, sizes, *end).unwrap());
                    given.begin_again();
                }
                out.extend(fed(&mut given, &object, &[17, 80], 1000).unwrap());
                assert!(out == object, "{sizes:?} {breaks:?}");
                assert_eq!((given.passed, given.bytes), (1000, 1000));
            }
        }
    }

    #[test]
    fn an_object_that_is_another_one_by_then_is_told() {
        let mut given = Given::default();
        fed(&mut given, &[1; 100], &[7], 50).unwrap();
        given.begin_again();
        let error = fed(&mut given, &[2; 100], &[7], 100).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        // One that ends too soon is told by what was passed over.
        given.begin_again();
        fed(&mut given, &[1; 100], &[7], 30).unwrap();
        assert!(given.passed < given.bytes);
    }
}

//! Stored objects as ordinary streams, the next ones asked for while one is read.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::time::Instant;

use crate::age::sealed_note::SealedNote;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::interrupt;
use crate::restore::pending_object::{DeliveredBytes, PendingObject};
use crate::store::blocking::{MAX_SLEEP, Outage};
use crate::store::{Chunk, Store};

/// Objects that are asked for ahead of their turn wait in memory for it: never more than this. A larger one is asked for when its
/// turn comes, and then read no faster than it is used.
const AHEAD_BYTES: u64 = 4 << 20;
/// At most so many objects are asked for ahead. 100 ms away, where each takes two round trips, this is 160 a second.
const AHEAD_OBJECTS: usize = 32;

/// What was read for one restore.
#[derive(Default)]
pub struct ReadLog {
    /// In all.
    bytes: Cell<u64>,
    /// Of the snapshot that it begins with: to how many recipients that is encrypted. None: nothing was read yet.
    recipients: Cell<Option<usize>>,
}

impl ReadLog {
    /// For what follows an object that is encrypted to so many recipients.
    pub fn behind(recipients: usize) -> ReadLog {
        ReadLog { recipients: Cell::new(Some(recipients)), ..ReadLog::default() }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    pub fn recipients(&self) -> usize {
        self.recipients.get().unwrap_or(0)
    }

    /// Errors: of kind `Corrupt` for an object in clear after an encrypted snapshot, which anybody can write, and for the
    /// other way round: a generation is encrypted as a whole or not at all.
    fn add(&self, bytes: u64, recipients: usize) -> Result<()> {
        self.bytes.set(self.bytes.get() + bytes);
        let first = self.recipients.get();
        if first.is_some_and(|first| first > 0) && recipients == 0 {
            return Err(Error::new(
                Kind::Corrupt,
                "expected an encrypted object, as the snapshot before it is; found one in clear",
            )
            .with_hint("a program that cannot encrypt has put it there, or litestream did without its recipients"));
        }
        if first == Some(0) && recipients > 0 {
            let what = "expected an object in clear, as the snapshot before it is; found an encrypted one";
            return Err(
                Error::new(Kind::Corrupt, what).with_hint("a program that cannot encrypt has put the snapshot there")
            );
        }
        self.recipients.set(first.or(Some(recipients)));
        Ok(())
    }
}

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
    received: &'a ReadLog,
    name: String,
    given: DeliveredBytes,
}

impl<'a> ObjectReader<'a> {
    /// Adds to `received` the bytes that are read.
    pub fn new(store: &'a dyn Store, clock: &'a dyn Clock, name: &str, received: &'a ReadLog) -> ObjectReader<'a> {
        ObjectReader::of(store, clock, name.to_string(), PendingObject::new(store.get(name)), received)
    }

    fn of(
        store: &'a dyn Store,
        clock: &'a dyn Clock,
        name: String,
        arriving: PendingObject,
        received: &'a ReadLog,
    ) -> ObjectReader<'a> {
        let (ahead, given) = (None, DeliveredBytes::default());
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

    /// What its writer has noted in it for itself, once something of it was read.
    pub fn sealed_note(&self) -> Option<SealedNote> {
        self.pending.sealed_note()
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
                    self.received.add(bytes.len() as u64, self.pending.recipients())?;
                    (self.bytes, self.at) = (self.given.take(bytes)?, 0);
                }
                Ok(Chunk::End) if self.given.is_behind() => {
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
    received: &'a ReadLog,
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
        received: &'a ReadLog,
    ) -> Prefetcher<'a> {
        let names = RefCell::new(names.rev().collect());
        Prefetcher { store, clock, received, names, pending: RefCell::default() }
    }

    /// The next object; none after the last one.
    pub fn download(&'a self) -> Option<ObjectReader<'a>> {
        self.request_more(1);
        let (name, arriving, _) = self.pending.borrow_mut().pop_front()?;
        self.request_more(0);
        let download = ObjectReader::of(self.store, self.clock, name, arriving, self.received);
        Some(ObjectReader { ahead: Some(self), ..download })
    }

    /// Asks for as many as may wait, and for at least `least`.
    fn request_more(&self, least: usize) {
        let (mut names, mut arriving) = (self.names.borrow_mut(), self.pending.borrow_mut());
        let mut bytes: u64 = arriving.iter().map(|(_, _, size)| size).sum();
        while let Some((_, size)) = names.last() {
            bytes = bytes.saturating_add(*size);
            if arriving.len() >= least && (arriving.len() >= AHEAD_OBJECTS || bytes > AHEAD_BYTES) {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::restore::flaky_store::RealClock;
    use crate::store::dir::DirStore;

    #[test]
    fn large_objects_are_asked_for_in_their_turn_small_ones_ahead() {
        const MIB: u64 = 1 << 20;
        let (store, log) = (DirStore::new(Path::new("nowhere")), ReadLog::default());
        // How many wait in memory while each is read.
        let waiting = |sizes: &[u64]| {
            let names = sizes.iter().enumerate().map(|(at, size)| (at.to_string(), *size));
            let objects = Prefetcher::new(&store, &RealClock, names, &log);
            let wait = |_: &u64| objects.download().map(|_| objects.pending.borrow().len());
            sizes.iter().map(wait).collect::<Option<Vec<_>>>().expect("each is given")
        };
        assert_eq!(waiting(&[1, 1, 1]), [2, 1, 0]);
        assert_eq!(waiting(&[2 * MIB; 4]), [2, 2, 1, 0]);
        assert_eq!(waiting(&[1, 50 * MIB, 50 * MIB, 1, 1]), [0, 0, 2, 1, 0]);
        assert_eq!(waiting(&[1; 40])[..2], [32, 32]);
    }
}

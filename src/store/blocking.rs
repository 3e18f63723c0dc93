//! Waiting for a store, for commands that have nothing else to do meanwhile.

use std::io::Read;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::interrupt;
use crate::log;
use crate::store::traffic::Purpose;
use crate::store::{Entry, List, Put, PutState, Store};

/// How long a store may be away in the middle of what was begun, without one byte more of it: a server that restarts, a
/// cluster that chooses another leader.
pub const MAX_OUTAGE: Duration = Duration::from_secs(30);
/// Between two attempts at a store that is away.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// How long one sleep lasts at most while nothing arrives.
pub const MAX_SLEEP: Duration = Duration::from_millis(100);

/// Waits until the store is reached.
///
/// Errors: the store's, when it cannot be reached within its timeout; the end was asked for.
pub fn connect(store: &dyn Store, clock: &dyn Clock) -> Result<()> {
    while !store.connect(clock.now())? {
        interrupt::check()?;
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

/// Lists the whole prefix, and tells of each object whether all its parts are there ([`Store::list_whole`]).
pub fn list_whole(store: &dyn Store, clock: &dyn Clock) -> Result<Vec<Entry>> {
    poll_list(store, clock, store.list_whole(""))
}

/// Lists the whole prefix.
pub fn list(store: &dyn Store, clock: &dyn Clock, prefix: &str) -> Result<Vec<Entry>> {
    poll_list(store, clock, store.list(prefix))
}

fn poll_list(store: &dyn Store, clock: &dyn Clock, mut list: Box<dyn List>) -> Result<Vec<Entry>> {
    loop {
        if let Poll::Ready(entries) = list.poll(clock.now())? {
            return Ok(entries);
        }
        interrupt::check()?;
        store.wait(MAX_SLEEP);
    }
}

/// Bytes of an object that are offered at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Stores an object, read from `bytes`.
pub fn put(store: &dyn Store, clock: &dyn Clock, name: &str, purpose: Purpose, bytes: &mut dyn Read) -> Result<()> {
    let mut put = store.put(name);
    put.count_for(purpose);
    finish_put(store, clock, put, bytes)
}

/// Stores the object that `put` has begun, read from `bytes`.
pub fn finish_put(store: &dyn Store, clock: &dyn Clock, mut put: Box<dyn Put>, bytes: &mut dyn Read) -> Result<()> {
    let mut piece = vec![0; CHUNK_BYTES];
    loop {
        let count = bytes.read(&mut piece).map_err(Error::of_stream)?;
        let mut rest = piece.get(..count).unwrap_or_default();
        if rest.is_empty() {
            break;
        }
        while !rest.is_empty() {
            let taken = put.write(rest)?;
            rest = rest.get(taken..).unwrap_or_default();
            if taken == 0 {
                interrupt::check()?;
                put.poll(clock.now())?;
                store.wait(MAX_SLEEP);
            }
        }
    }
    put.finish();
    put.commit();
    while put.poll(clock.now())? != PutState::Done {
        interrupt::check()?;
        store.wait(MAX_SLEEP);
    }
    Ok(())
}

/// Deletes objects, in this order.
pub fn delete(store: &dyn Store, clock: &dyn Clock, names: Vec<String>) -> Result<()> {
    let mut delete = store.delete(names);
    while delete.poll(clock.now())?.is_pending() {
        interrupt::check()?;
        store.wait(MAX_SLEEP);
    }
    Ok(())
}

/// A store that is away in the middle of an operation.
#[derive(Default)]
pub struct Outage {
    since: Option<Instant>,
}

impl Outage {
    /// Waits until the store is there again, for as long as [`MAX_OUTAGE`] in all: what was asked is to be asked once more.
    ///
    /// Errors: `error`, if waiting does not help, or no longer.
    pub fn sit_out(&mut self, store: &dyn Store, clock: &dyn Clock, error: Error) -> Result<()> {
        if error.kind() != Kind::StoreUnreachable {
            return Err(error);
        }
        let since = match self.since {
            Some(since) => since,
            None => {
                log::warn("store unreachable, continuing when it is back").error(&error).emit();
                *self.since.insert(clock.now())
            }
        };
        let mut next = clock.now() + RETRY_DELAY;
        loop {
            interrupt::check()?;
            if clock.now().saturating_duration_since(since) >= MAX_OUTAGE {
                return Err(error.context(format!("unreachable for {}s", MAX_OUTAGE.as_secs())));
            }
            if clock.now() >= next {
                match store.connect(clock.now()) {
                    Ok(true) => return Ok(()),
                    Err(error) if error.kind() != Kind::StoreUnreachable => return Err(error),
                    _ => next = clock.now() + RETRY_DELAY,
                }
            }
            store.wait(MAX_SLEEP);
        }
    }
}

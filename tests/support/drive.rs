//! Runs one operation of a store to its end, as the poll loop would.

use std::task::Poll;
use std::time::{Duration, Instant};

use litestream::error::Result;
use litestream::store::{Chunk, Entry, PutState, Store};

/// A hang is a failure: no operation of a test may take longer.
const TOO_LONG: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_millis(50);

fn until<T>(store: &dyn Store, mut step: impl FnMut(Instant) -> Result<Poll<T>>) -> Result<T> {
    let end = Instant::now() + TOO_LONG;
    loop {
        let now = Instant::now();
        assert!(now < end, "the operation hangs");
        if let Poll::Ready(value) = step(now)? {
            return Ok(value);
        }
        store.wait(TICK);
    }
}

fn once(done: bool) -> Poll<()> {
    if done { Poll::Ready(()) } else { Poll::Pending }
}

pub fn connect(store: &dyn Store) -> Result<()> {
    until(store, |now| Ok(once(store.connect(now)?)))
}

/// Connects, however long the server stays away.
pub fn connect_patiently(store: &dyn Store) {
    until(store, |now| Ok(once(store.connect(now).is_ok_and(|up| up)))).expect("connect");
}

pub fn put(store: &dyn Store, name: &str, bytes: &[u8]) -> Result<()> {
    let mut put = store.put(name);
    put.commit();
    let mut rest = bytes;
    until(store, |now| {
        let n = if rest.is_empty() { 0 } else { put.write(rest)? };
        rest = rest.get(n..).unwrap_or_default();
        if rest.is_empty() {
            put.finish();
        }
        Ok(once(put.poll(now)? == PutState::Done))
    })
}

pub fn get(store: &dyn Store, name: &str) -> Result<Vec<u8>> {
    let mut get = store.get(name);
    let mut bytes = Vec::new();
    until(store, |now| {
        loop {
            match get.poll(now)? {
                Chunk::Bytes(more) => bytes.extend(more),
                Chunk::End => return Ok(Poll::Ready(())),
                Chunk::Pending => return Ok(Poll::Pending),
            }
        }
    })?;
    Ok(bytes)
}

pub fn list(store: &dyn Store, prefix: &str) -> Result<Vec<Entry>> {
    let mut list = store.list(prefix);
    until(store, |now| list.poll(now))
}

pub fn names(store: &dyn Store, prefix: &str) -> Result<Vec<String>> {
    Ok(list(store, prefix)?.into_iter().map(|entry| entry.name).collect())
}

/// Which of the objects are not there.
pub fn missing(store: &dyn Store, names: &[&str]) -> Result<Vec<String>> {
    let mut presence = store.presence(names.iter().map(|name| name.to_string()).collect());
    until(store, |now| presence.poll(now))
}

pub fn delete(store: &dyn Store, names: &[&str]) -> Result<()> {
    let mut delete = store.delete(names.iter().map(|name| name.to_string()).collect());
    until(store, |now| delete.poll(now))
}

/// Bytes that no compression and no repetition makes look right by chance.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(step).flatten().take(len).collect()
}

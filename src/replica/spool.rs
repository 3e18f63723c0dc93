//! Segments on the local disk while the store is away, up to a bound. While the store is there, nothing is written here.
//!
//! A spool is a directory store of its own, so a segment in it is whole and durable or not there at all. What a killed
//! process has left in it is taken up by the next one, if it continues what is stored.

use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::Instant;

use crate::error::{Error, Kind, Result, ResultExt};
use crate::fault;
use crate::format::key::{Key, SegmentKey};
use crate::store::dir::DirStore;
use crate::store::{Chunk, PutState, Store};

/// Where the segments of one database wait.
pub struct Spool {
    store: DirStore,
    path: PathBuf,
    limit: u64,
    bytes: u64,
}

impl Spool {
    /// A spool in `directory`, which is made when it is needed; at most `limit` bytes.
    pub fn new(directory: &Path, limit: u64) -> Spool {
        Spool { store: DirStore::new(directory), path: directory.to_path_buf(), limit, bytes: 0 }
    }

    /// Whether there is room for `size` more bytes.
    pub fn has_room(&self, size: u64) -> bool {
        self.bytes.saturating_add(size) <= self.limit
    }

    /// Keeps a segment.
    pub fn write(&mut self, key: &SegmentKey, bytes: &[u8], now: Instant) -> Result<()> {
        self.store_file(key, bytes, now).with_context(|| format!("spool {}", self.path.display()))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn store_file(&self, key: &SegmentKey, bytes: &[u8], now: Instant) -> Result<()> {
        fault::point("spool.write")?;
        let mut put = self.store.put(&key.to_string());
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = put.write(rest)?;
            rest = rest.get(taken..).unwrap_or_default();
        }
        put.finish();
        put.commit();
        match put.poll(now)? {
            PutState::Done => Ok(()),
            _ => Err(Error::new(Kind::Database, format!("{key}: expected a complete file, found an incomplete one"))),
        }
    }

    /// Reads a segment back.
    pub fn read(&self, key: &SegmentKey, now: Instant) -> Result<Vec<u8>> {
        let read = || -> Result<Vec<u8>> {
            let mut get = self.store.get(&key.to_string());
            let mut bytes = Vec::new();
            loop {
                match get.poll(now)? {
                    Chunk::Bytes(more) => bytes.extend_from_slice(&more),
                    Chunk::End => return Ok(bytes),
                    Chunk::Pending => return Err(Error::new(Kind::Database, format!("{key}: it cannot be read"))),
                }
            }
        };
        read().with_context(|| format!("spool {}", self.path.display()))
    }

    /// Lets go of a segment of `size` bytes that the store has.
    pub fn remove(&mut self, key: &SegmentKey, size: u64, now: Instant) {
        self.bytes = self.bytes.saturating_sub(size);
        // A file that stays is taken for what it is at the next start: stored already.
        let _ = self.store.delete(vec![key.to_string()]).poll(now);
    }

    /// What a process before this one has left, oldest first; counts as kept from now on.
    pub fn leftover_segments(&mut self, now: Instant) -> Result<Vec<(SegmentKey, u64)>> {
        let mut list = self.store.list("");
        let entries = loop {
            // A poll looks at so many files, and no more.
            if let Poll::Ready(entries) = list.poll(now)? {
                break entries;
            }
        };
        let segment = |name: &str| match Key::parse(name) {
            Some(Key::Segment(key)) => Some(key),
            _ => None,
        };
        let mut found: Vec<_> = entries.iter().filter_map(|e| Some((segment(&e.name)?, e.size))).collect();
        found.sort_by_key(|(key, _)| (key.generation, key.start, key.end));
        self.bytes = found.iter().map(|(_, size)| size).sum();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::segment_key;

    #[test]
    fn a_long_outage_leaves_more_segments_than_one_poll_lists() {
        let root = std::env::temp_dir().join(format!("litestream-leftover-{}", std::process::id()));
        let keys: Vec<SegmentKey> = (0..3000).map(|at| segment_key(at, at + 1)).collect();
        for key in &keys {
            let path = root.join(key.to_string());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "bytes").unwrap();
        }
        let mut spool = Spool::new(&root, 20_000);
        let left = spool.leftover_segments(Instant::now()).unwrap();
        let room = (spool.has_room(5000), spool.has_room(5001));
        std::fs::remove_dir_all(&root).unwrap();
        assert!(left.iter().map(|(key, _)| *key).eq(keys), "{} of 3000 segments", left.len());
        assert_eq!(room, (true, false), "they count as kept");
    }
}

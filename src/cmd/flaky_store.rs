//! For tests: a store that holds one snapshot, and from which objects go between a listing and their reading.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::error::{Error, Kind, Result};
use crate::format::generation_number::HighWaterMark;
use crate::format::time::Timestamp;
use crate::replica::snapshot_upload::{SnapshotBuffers, UploadProgress};
use crate::replica::standalone_snapshot::standalone_snapshot;
use crate::source;
use crate::source::snapshot::open_rollback_snapshot;
use crate::store::dir::DirStore;
use crate::store::{
    Chunk, Delete, FindWriters, Get, LeaseHolder, List, OrphanCleanup, Presence, Put, Scan, Store, WriterLease,
};

/// A store from which objects are gone as often as `failures_left` says when they are read.
pub struct FlakyStore {
    store: DirStore,
    pub failures_left: Cell<u32>,
}

impl FlakyStore {
    /// With a snapshot of a small database at `database`, which is made too.
    pub fn with_snapshot_of(database: &Path, directory: &Path) -> FlakyStore {
        fs::create_dir_all(directory).unwrap();
        rusqlite::Connection::open(database).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        let store = FlakyStore { store: DirStore::new(directory), failures_left: Cell::new(0) };
        let options = source::Options {
            busy_timeout: Duration::from_secs(10),
            enable_wal: false,
            allow_network: true,
            differences: false,
            checkpoint_frames: 1000,
            checkpoint_interval: None,
            truncate_frames: None,
        };
        let snapshot = open_rollback_snapshot(database, &options).unwrap().unwrap();
        let mut upload = standalone_snapshot(&store, snapshot, &HighWaterMark::default(), &SystemClock).unwrap();
        while upload.poll(&mut SnapshotBuffers::new(), true, SystemClock.now()).unwrap() != UploadProgress::Done {}
        store
    }
}

struct DeletedGet;

impl Get for DeletedGet {
    fn poll(&mut self, _: Instant) -> Result<Chunk> {
        Err(Error::new(Kind::NotFound, "gone"))
    }
}

impl Store for FlakyStore {
    fn url(&self) -> &str {
        self.store.url()
    }

    fn connect(&self, now: Instant) -> Result<bool> {
        self.store.connect(now)
    }

    fn put(&self, name: &str) -> Box<dyn Put> {
        self.store.put(name)
    }

    fn get(&self, name: &str) -> Box<dyn Get> {
        match self.failures_left.get().checked_sub(1) {
            Some(left) => {
                self.failures_left.set(left);
                Box::new(DeletedGet)
            }
            None => self.store.get(name),
        }
    }

    fn list(&self, prefix: &str) -> Box<dyn List> {
        self.store.list(prefix)
    }

    fn scan(&self) -> Box<dyn Scan> {
        self.store.scan()
    }

    fn delete(&self, names: Vec<String>) -> Box<dyn Delete> {
        self.store.delete(names)
    }

    fn presence(&self, names: Vec<String>) -> Box<dyn Presence> {
        self.store.presence(names)
    }

    fn acquire_lease(&self, holder: &LeaseHolder) -> Box<dyn WriterLease> {
        self.store.acquire_lease(holder)
    }

    fn find_writers(&self) -> Box<dyn FindWriters> {
        self.store.find_writers()
    }

    fn clean_orphans(&self, wall: Timestamp, young: Duration) -> Option<Box<dyn OrphanCleanup>> {
        self.store.clean_orphans(wall, young)
    }

    fn wait(&self, timeout: Duration) {
        self.store.wait(timeout);
    }
}

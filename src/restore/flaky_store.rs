//! For tests: a store that holds one snapshot, and from which objects go between a listing and their reading.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::format::crc32::Crc32;
use crate::format::deflate_blocks::{Block, BlockCompressor};
use crate::format::fixtures::{GENERATION, millis, point, size};
use crate::format::position::Generation;
use crate::format::snapshot::{SnapshotEncoder, SnapshotHeader};
use crate::format::time::Timestamp;
use crate::format::wal::{ByteOrder, Checksum, Salt};
use crate::store::dir::DirStore;
use crate::store::{
    Chunk, Delete, FindWriters, Get, LeaseHolder, List, OrphanCleanup, Presence, Put, PutState, Scan, Store, Watch,
    WatchEvent, WriterLease,
};

/// A store from which objects are gone as often as `failures_left` says when they are read.
pub struct FlakyStore {
    store: DirStore,
    pub failures_left: Cell<u32>,
    /// How each poll of a watch fails.
    pub watch_fails: Rc<Cell<Option<Kind>>>,
}

impl FlakyStore {
    /// With a snapshot of a small database at `database`, which is made too.
    pub fn with_snapshot_of(database: &Path, directory: &Path) -> FlakyStore {
        fs::create_dir_all(directory).unwrap();
        rusqlite::Connection::open(database).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        let store =
            FlakyStore { store: DirStore::new(directory), failures_left: Cell::new(0), watch_fails: Rc::default() };
        let pages = fs::read(database).unwrap();
        let (key, object) = snapshot_of(&pages);
        let mut put = store.store.put(&key);
        assert_eq!(put.write(&object).unwrap(), object.len());
        put.finish();
        put.commit();
        while put.poll(Instant::now()).unwrap() != PutState::Done {}
        store
    }
}

/// A database as it is stored: name and bytes of the object.
fn snapshot_of(database: &[u8]) -> (String, Vec<u8>) {
    let page_size = size(u16::from_be_bytes([database[16], database[17]]).into());
    let mut crc = Crc32::default();
    crc.update(database);
    let header = SnapshotHeader {
        generation: Generation::new(GENERATION),
        position: point(0, 0),
        page_size,
        order: ByteOrder::Little,
        wal_known: false,
        salt: Salt::default(),
        checksum: Checksum(crc.finish(), 0),
        pages: u32::try_from(database.len()).unwrap() / page_size.get(),
        time: millis(1000),
        database: None,
    };
    let (mut block, mut object) = (Block::default(), Vec::new());
    BlockCompressor::new(1).compress(database, &mut block);
    let mut encoder = SnapshotEncoder::new(&header, None);
    encoder.add(&block, &mut object);
    encoder.finish(&mut object).unwrap();
    (header.key().to_string(), object)
}

/// The clocks of the operating system.
pub struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn utc_now(&self) -> Timestamp {
        Timestamp::from_system_time(SystemTime::now())
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

struct DeletedGet;

impl Get for DeletedGet {
    fn poll(&mut self, _: Instant) -> Result<Chunk> {
        Err(Error::new(Kind::NotFound, "gone"))
    }
}

struct FlakyWatch(Rc<Cell<Option<Kind>>>);

impl Watch for FlakyWatch {
    fn poll(&mut self, _: Instant) -> Result<WatchEvent> {
        self.0.get().map_or(Ok(WatchEvent::Pending), |kind| Err(Error::new(kind, "no watch")))
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

    fn list_whole(&self, prefix: &str) -> Box<dyn List> {
        self.store.list_whole(prefix)
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

    fn watch(&self, _: Instant) -> Option<Box<dyn Watch>> {
        Some(Box::new(FlakyWatch(self.watch_fails.clone())))
    }

    fn wait(&self, timeout: Duration) {
        self.store.wait(timeout);
    }
}

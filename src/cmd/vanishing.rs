//! For tests: a store that holds one snapshot, and from which objects go between a listing and their reading.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::cmd::clock::System;
use crate::error::{Error, Kind, Result};
use crate::format::numbering::HighWaterMark;
use crate::format::time::Timestamp;
use crate::replica::alone::alone;
use crate::replica::snapshot::{Desk, Progress};
use crate::source;
use crate::source::snapshot::of_rollback_journal;
use crate::store::dir::DirStore;
use crate::store::{Chunk, Claim, Delete, Get, Holder, List, Presence, Put, Store, Sweep};

/// A store from which objects are gone as often as `left` says when they are read.
pub struct Vanishing {
    store: DirStore,
    pub left: Cell<u32>,
}

impl Vanishing {
    /// With a snapshot of a small database at `database`, which is made too.
    pub fn holding(database: &Path, directory: &Path) -> Vanishing {
        fs::create_dir_all(directory).unwrap();
        rusqlite::Connection::open(database).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        let store = Vanishing { store: DirStore::new(directory), left: Cell::new(0) };
        let options = source::Options {
            busy_timeout: Duration::from_secs(10),
            enable_wal: false,
            allow_network: true,
            checkpoint_frames: 1000,
            checkpoint_interval: None,
            truncate_frames: None,
        };
        let snapshot = of_rollback_journal(database, &options).unwrap().unwrap();
        let mut upload = alone(&store, snapshot, &HighWaterMark::default(), &System).unwrap();
        while upload.poll(&mut Desk::new(), System.now()).unwrap() != Progress::Done {}
        store
    }
}

struct Gone;

impl Get for Gone {
    fn poll(&mut self, _: Instant) -> Result<Chunk> {
        Err(Error::new(Kind::NotFound, "gone"))
    }
}

impl Store for Vanishing {
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
        match self.left.get().checked_sub(1) {
            Some(left) => {
                self.left.set(left);
                Box::new(Gone)
            }
            None => self.store.get(name),
        }
    }

    fn list(&self, prefix: &str) -> Box<dyn List> {
        self.store.list(prefix)
    }

    fn delete(&self, names: Vec<String>) -> Box<dyn Delete> {
        self.store.delete(names)
    }

    fn presence(&self, names: Vec<String>) -> Box<dyn Presence> {
        self.store.presence(names)
    }

    fn claim(&self, holder: &Holder) -> Box<dyn Claim> {
        self.store.claim(holder)
    }

    fn sweep(&self, wall: Timestamp, young: Duration) -> Option<Box<dyn Sweep>> {
        self.store.sweep(wall, young)
    }

    fn wait(&self, timeout: Duration) {
        self.store.wait(timeout);
    }
}

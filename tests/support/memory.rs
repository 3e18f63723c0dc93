//! A store in memory, and a clock that a test sets: years in seconds.

#![allow(dead_code, reason = "each test binary uses its own part of the harness")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use litestream::clock::Clock;
use litestream::error::{Error, Kind, Result};
use litestream::format::time::Timestamp;
use litestream::store::{Chunk, Claim, Delete, Entry, Get, Holder, List, Put, PutState, Store, Sweep};

/// The objects, for every operation on them.
type Objects = Rc<RefCell<BTreeMap<String, Vec<u8>>>>;

/// Objects by name, and how often they were listed.
#[derive(Default)]
pub struct Memory {
    pub objects: Objects,
    pub lists: Cell<usize>,
    /// Operations that may still commit or delete; none: as many as come.
    pub left: Rc<Cell<Option<usize>>>,
    /// What happens to each third object.
    pub third: Rc<Cell<Third>>,
    puts: Rc<Cell<usize>>,
}

/// What happens to each third object that is put.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Third {
    #[default]
    Stored,
    Refused,
    /// It is stored, and the answer is lost.
    Unanswered,
}

impl Memory {
    pub fn bytes(&self) -> usize {
        self.objects.borrow().values().map(Vec::len).sum()
    }

    pub fn names(&self) -> Vec<(String, u64)> {
        self.objects.borrow().iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect()
    }
}

/// Takes one operation from what is left.
fn spend(left: &Cell<Option<usize>>) -> Result<()> {
    match left.get() {
        Some(0) => Err(Error::new(Kind::Unreachable, "the test stops here")),
        Some(count) => {
            left.set(Some(count - 1));
            Ok(())
        }
        None => Ok(()),
    }
}

struct MemoryPut {
    objects: Objects,
    name: String,
    bytes: Vec<u8>,
    committed: bool,
    left: Rc<Cell<Option<usize>>>,
    third: Third,
}

impl Put for MemoryPut {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn finish(&mut self) {}

    fn commit(&mut self) {
        self.committed = true;
    }

    fn poll(&mut self, _: Instant) -> Result<PutState> {
        if !self.committed {
            return Ok(PutState::Staged);
        }
        spend(&self.left)?;
        if self.third != Third::Refused {
            self.objects.borrow_mut().insert(self.name.clone(), std::mem::take(&mut self.bytes));
        }
        match self.third {
            Third::Stored => Ok(PutState::Done),
            _ => Err(Error::new(Kind::Unreachable, "no answer")),
        }
    }
}

struct MemoryGet(Option<Vec<u8>>, bool);

impl Get for MemoryGet {
    fn poll(&mut self, _: Instant) -> Result<Chunk> {
        let bytes = self.0.as_mut().ok_or_else(|| Error::new(Kind::NotFound, "no such object"))?;
        if std::mem::replace(&mut self.1, true) { Ok(Chunk::End) } else { Ok(Chunk::Bytes(std::mem::take(bytes))) }
    }
}

struct MemoryList(Vec<Entry>);

impl List for MemoryList {
    fn poll(&mut self, _: Instant) -> Result<Option<Vec<Entry>>> {
        Ok(Some(std::mem::take(&mut self.0)))
    }
}

struct MemoryDelete(Objects, Vec<String>, Rc<Cell<Option<usize>>>);

impl Delete for MemoryDelete {
    fn poll(&mut self, _: Instant) -> Result<bool> {
        for name in std::mem::take(&mut self.1) {
            spend(&self.2)?;
            self.0.borrow_mut().remove(&name);
        }
        Ok(true)
    }
}

impl Store for Memory {
    fn url(&self) -> &str {
        "memory"
    }

    fn connect(&self, _: Instant) -> Result<bool> {
        Ok(true)
    }

    fn put(&self, name: &str) -> Box<dyn Put> {
        self.puts.set(self.puts.get() + 1);
        Box::new(MemoryPut {
            objects: self.objects.clone(),
            name: name.to_string(),
            bytes: Vec::new(),
            committed: false,
            left: self.left.clone(),
            third: if self.puts.get().is_multiple_of(3) { self.third.get() } else { Third::Stored },
        })
    }

    fn get(&self, name: &str) -> Box<dyn Get> {
        Box::new(MemoryGet(self.objects.borrow().get(name).cloned(), false))
    }

    fn list(&self, prefix: &str) -> Box<dyn List> {
        self.lists.set(self.lists.get() + 1);
        let objects = self.objects.borrow();
        let ours = objects.iter().filter(|(name, _)| name.starts_with(prefix));
        Box::new(MemoryList(ours.map(|(name, bytes)| Entry { name: name.clone(), size: bytes.len() as u64 }).collect()))
    }

    fn delete(&self, names: Vec<String>) -> Box<dyn Delete> {
        Box::new(MemoryDelete(self.objects.clone(), names, self.left.clone()))
    }

    fn claim(&self, _: &Holder) -> Box<dyn Claim> {
        Box::new(Alone)
    }

    fn sweep(&self, _: Timestamp, _: Duration) -> Option<Box<dyn Sweep>> {
        None
    }

    fn wait(&self, _: Duration) {}
}

/// Nobody else knows of this store.
struct Alone;

impl Claim for Alone {
    fn poll(&mut self, _: Instant) -> Result<Option<u64>> {
        Ok(Some(0))
    }
}

/// Both clocks stand still until they are told how late it is.
pub struct Fake {
    begun: Instant,
    passed: Cell<Duration>,
    /// The wall clock is wrong by this, in milliseconds.
    pub wrong: Cell<i64>,
}

/// When a fake clock starts.
const EPOCH: i64 = 1_700_000_000_000;

impl Default for Fake {
    fn default() -> Fake {
        Fake { begun: Instant::now(), passed: Cell::default(), wrong: Cell::default() }
    }
}

impl Fake {
    pub fn pass(&self, time: Duration) {
        self.passed.set(self.passed.get() + time);
    }
}

impl Clock for Fake {
    fn now(&self) -> Instant {
        self.begun + self.passed.get()
    }

    fn wall(&self) -> Timestamp {
        let passed = i64::try_from(self.passed.get().as_millis()).expect("a short test");
        Timestamp::from_millis(u64::try_from(EPOCH + passed + self.wrong.get()).expect("after 1970"))
    }
}

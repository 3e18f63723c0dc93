//! A store in memory that can be told to misbehave, and a clock that a test sets: years in seconds.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::random::Random;
use litestream::clock::Clock;
use litestream::error::{Error, Kind, Result};
use litestream::format::time::Timestamp;
use litestream::store::{
    Chunk, Delete, Entry, FindWriters, Get, LeaseHolder, List, OrphanCleanup, Presence, Put, PutState, Scan, ScanEvent,
    ScannedObject, Store, Writer, WriterLease,
};

/// The objects, for every operation on them.
type Objects = Rc<RefCell<BTreeMap<String, Vec<u8>>>>;
type Names = Rc<RefCell<BTreeSet<String>>>;

/// Objects by name, and how often they were listed.
#[derive(Default)]
pub struct Memory {
    pub objects: Objects,
    /// Objects of which a part is lost: they are listed, and cannot be read.
    pub incomplete: Names,
    pub lists: Cell<usize>,
    /// Objects that were asked for.
    pub gets: Cell<usize>,
    /// Operations that may still commit or delete; none: as many as come.
    pub left: Rc<Cell<Option<usize>>>,
    /// What happens to each third object.
    pub third: Rc<Cell<Third>>,
    puts: Rc<Cell<usize>>,
    pub link: Rc<Link>,
}

/// The connection to the store, as all operations see it.
#[derive(Default)]
pub struct Link {
    /// Nothing answers.
    away: Cell<bool>,
    /// Grows with each connection that was lost.
    connection: Cell<u64>,
    /// Each operation is answered only at the poll after so many.
    pub delay: Cell<u32>,
    /// So many of a hundred commits and deletes fail, and one in two of them has been carried out all the same.
    pub failing: Cell<u64>,
    /// splitmix64: whatever fails is decided by the test's seed.
    pub seed: Cell<u64>,
    /// Somebody keeps this store for itself.
    claimed: Cell<bool>,
    /// A standby says that it listens: in the first period of this length, and in every second one after it.
    pub standby: Cell<Option<Duration>>,
}

impl Link {
    pub fn goes(&self) {
        self.away.set(true);
        self.connection.set(self.connection.get() + 1);
    }

    pub fn returns(&self) {
        self.away.set(false);
    }

    pub fn is_away(&self) -> bool {
        self.away.get()
    }

    /// Whether somebody keeps this store for itself.
    pub fn is_claimed(&self) -> bool {
        self.claimed.get()
    }

    fn answers(&self) -> Result<()> {
        if self.away.get() { Err(Error::new(Kind::StoreUnreachable, "the store does not answer")) } else { Ok(()) }
    }

    /// What becomes of an operation that changes something.
    fn fate(&self) -> Fate {
        if self.failing.get() == 0 {
            return Fate::Done;
        }
        let mut random = Random(self.seed.get());
        let (fails, refused) = (random.chance(self.failing.get()), random.chance(50));
        self.seed.set(random.0);
        match (fails, refused) {
            (false, _) => Fate::Done,
            (true, true) => Fate::Refused,
            (true, false) => Fate::Unanswered,
        }
    }

    fn pause(&self) -> Pause {
        Pause(self.delay.get())
    }
}

/// Polls until an operation is answered.
struct Pause(u32);

impl Pause {
    fn is_over(&mut self) -> bool {
        let over = self.0 == 0;
        self.0 = self.0.saturating_sub(1);
        over
    }
}

enum Fate {
    Done,
    Refused,
    Unanswered,
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

    fn list_with(&self, prefix: &str, incomplete: Names) -> Box<dyn List> {
        self.lists.set(self.lists.get() + 1);
        let (objects, link) = (self.objects.clone(), self.link.clone());
        Box::new(MemoryList { objects, prefix: prefix.to_string(), incomplete, pause: link.pause(), link })
    }

    /// The same objects over a link of its own, which never fails.
    pub fn reader(&self) -> Memory {
        Memory { objects: self.objects.clone(), incomplete: self.incomplete.clone(), ..Memory::default() }
    }
}

/// Takes one operation from what is left.
fn spend(left: &Cell<Option<usize>>) -> Result<()> {
    match left.get() {
        Some(0) => Err(Error::new(Kind::StoreUnreachable, "the test stops here")),
        Some(count) => {
            left.set(Some(count - 1));
            Ok(())
        }
        None => Ok(()),
    }
}

struct MemoryPut {
    objects: Objects,
    incomplete: Names,
    name: String,
    bytes: Vec<u8>,
    committed: bool,
    left: Rc<Cell<Option<usize>>>,
    third: Third,
    link: Rc<Link>,
    pause: Pause,
}

impl Put for MemoryPut {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.link.answers()?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn finish(&mut self) {}

    fn commit(&mut self) {
        self.committed = true;
    }

    fn poll(&mut self, _: Instant) -> Result<PutState> {
        self.link.answers()?;
        if !self.committed {
            return Ok(PutState::Staged);
        }
        if !self.pause.is_over() {
            return Ok(PutState::Staged);
        }
        spend(&self.left)?;
        let fate = match self.third {
            Third::Stored => self.link.fate(),
            Third::Refused => Fate::Refused,
            Third::Unanswered => Fate::Unanswered,
        };
        if !matches!(fate, Fate::Refused) {
            self.incomplete.borrow_mut().remove(&self.name);
            self.objects.borrow_mut().insert(self.name.clone(), std::mem::take(&mut self.bytes));
        }
        match fate {
            Fate::Done => Ok(PutState::Done),
            _ => Err(Error::new(Kind::StoreUnreachable, "no answer")),
        }
    }
}

/// The object; whether it has all its parts; whether it was given.
struct MemoryGet(Option<Vec<u8>>, bool, bool, Rc<Link>, Pause);

impl Get for MemoryGet {
    fn poll(&mut self, _: Instant) -> Result<Chunk> {
        self.3.answers()?;
        if !self.4.is_over() {
            return Ok(Chunk::Pending);
        }
        let bytes = self.0.as_mut().ok_or_else(|| Error::new(Kind::NotFound, "no such object"))?;
        if !self.1 {
            return Err(Error::new(Kind::Corrupt, "a part is missing"));
        }
        if std::mem::replace(&mut self.2, true) { Ok(Chunk::End) } else { Ok(Chunk::Bytes(std::mem::take(bytes))) }
    }
}

/// Lists what is there when it is answered.
struct MemoryList {
    objects: Objects,
    prefix: String,
    /// Those are not whole.
    incomplete: Names,
    link: Rc<Link>,
    pause: Pause,
}

impl List for MemoryList {
    fn poll(&mut self, _: Instant) -> Result<Poll<Vec<Entry>>> {
        self.link.answers()?;
        if !self.pause.is_over() {
            return Ok(Poll::Pending);
        }
        let (objects, incomplete) = (self.objects.borrow(), self.incomplete.borrow());
        let ours = objects.iter().filter(|(name, _)| name.starts_with(&self.prefix));
        let entry = |(name, bytes): (&String, &Vec<u8>)| {
            let whole = !incomplete.contains(name);
            Entry { name: name.clone(), size: bytes.len() as u64, whole }
        };
        Ok(Poll::Ready(ours.map(entry).collect()))
    }
}

/// What was there when it began, the last name first.
struct MemoryScan {
    objects: Vec<(String, usize)>,
}

impl Scan for MemoryScan {
    fn poll(&mut self, _: Instant) -> Result<ScanEvent> {
        let next = self.objects.pop().map(|(name, size)| Entry { name, size: size as u64, whole: true });
        Ok(next.map_or(ScanEvent::End, |entry| ScanEvent::Object(ScannedObject { entry, description: None })))
    }
}

struct NobodyKnown(usize);

impl FindWriters for NobodyKnown {
    fn query(&mut self, _: &str) {
        self.0 += 1;
    }

    fn poll(&mut self, _: Instant) -> Result<bool> {
        Ok(true)
    }

    fn answers(&self) -> Vec<Writer> {
        vec![Writer::Unknown; self.0]
    }
}

struct MemoryDelete(Objects, Vec<String>, Rc<Cell<Option<usize>>>, Rc<Link>);

impl Delete for MemoryDelete {
    fn poll(&mut self, _: Instant) -> Result<Poll<()>> {
        self.3.answers()?;
        for name in std::mem::take(&mut self.1) {
            spend(&self.2)?;
            let fate = self.3.fate();
            if !matches!(fate, Fate::Refused) {
                self.0.borrow_mut().remove(&name);
            }
            if !matches!(fate, Fate::Done) {
                return Err(Error::new(Kind::StoreUnreachable, "no answer"));
            }
        }
        Ok(Poll::Ready(()))
    }
}

struct MemoryPresence(Objects, Vec<String>, Rc<Cell<Option<usize>>>, Rc<Link>);

impl Presence for MemoryPresence {
    fn poll(&mut self, _: Instant) -> Result<Poll<Vec<String>>> {
        self.3.answers()?;
        spend(&self.2)?;
        let objects = self.0.borrow();
        Ok(Poll::Ready(self.1.iter().filter(|name| !objects.contains_key(*name)).cloned().collect()))
    }
}

impl Store for Memory {
    fn url(&self) -> &str {
        "memory"
    }

    fn connect(&self, _: Instant) -> Result<bool> {
        self.link.answers().map(|()| true)
    }

    fn put(&self, name: &str) -> Box<dyn Put> {
        self.puts.set(self.puts.get() + 1);
        Box::new(MemoryPut {
            objects: self.objects.clone(),
            incomplete: self.incomplete.clone(),
            name: name.to_string(),
            bytes: Vec::new(),
            committed: false,
            left: self.left.clone(),
            third: if self.puts.get().is_multiple_of(3) { self.third.get() } else { Third::Stored },
            link: self.link.clone(),
            pause: self.link.pause(),
        })
    }

    fn get(&self, name: &str) -> Box<dyn Get> {
        self.gets.set(self.gets.get() + 1);
        let bytes = self.objects.borrow().get(name).cloned();
        let whole = !self.incomplete.borrow().contains(name);
        Box::new(MemoryGet(bytes, whole, false, self.link.clone(), self.link.pause()))
    }

    fn list(&self, prefix: &str) -> Box<dyn List> {
        self.list_with(prefix, Names::default())
    }

    fn list_whole(&self, prefix: &str) -> Box<dyn List> {
        self.list_with(prefix, self.incomplete.clone())
    }

    fn scan(&self) -> Box<dyn Scan> {
        Box::new(MemoryScan { objects: self.objects.borrow().iter().map(|(n, b)| (n.clone(), b.len())).collect() })
    }

    fn delete(&self, names: Vec<String>) -> Box<dyn Delete> {
        Box::new(MemoryDelete(self.objects.clone(), names, self.left.clone(), self.link.clone()))
    }

    fn presence(&self, names: Vec<String>) -> Box<dyn Presence> {
        Box::new(MemoryPresence(self.objects.clone(), names, self.left.clone(), self.link.clone()))
    }

    fn acquire_lease(&self, _: &LeaseHolder) -> Box<dyn WriterLease> {
        Box::new(MemoryClaim { link: self.link.clone(), held: false, polled: None })
    }

    fn find_writers(&self) -> Box<dyn FindWriters> {
        Box::new(NobodyKnown(0))
    }

    fn clean_orphans(&self, _: Timestamp, _: Duration) -> Option<Box<dyn OrphanCleanup>> {
        None
    }

    fn wait(&self, _: Duration) {}
}

/// One holder at a time; its number grows with each connection that was lost.
struct MemoryClaim {
    link: Rc<Link>,
    held: bool,
    /// First and last.
    polled: Option<(Instant, Instant)>,
}

impl WriterLease for MemoryClaim {
    fn poll(&mut self, now: Instant) -> Result<Option<u64>> {
        self.polled = Some((self.polled.map_or(now, |(first, _)| first), now));
        if !self.held {
            self.link.answers()?;
            if self.link.claimed.replace(true) {
                return Err(Error::new(Kind::Locked, "memory: is already replicated to"));
            }
            self.held = true;
        }
        Ok((!self.link.is_away()).then(|| self.link.connection.get()))
    }

    fn take_standby(&mut self) -> bool {
        let Some(((first, last), period)) = self.polled.zip(self.link.standby.get()) else { return false };
        !self.link.is_away() && ((last - first).as_millis() / period.as_millis()).is_multiple_of(2)
    }
}

impl Drop for MemoryClaim {
    fn drop(&mut self) {
        if self.held {
            self.link.claimed.set(false);
        }
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

    /// Since it was made.
    pub fn passed(&self) -> Duration {
        self.passed.get()
    }
}

impl Clock for Fake {
    fn now(&self) -> Instant {
        self.begun + self.passed.get()
    }

    fn utc_now(&self) -> Timestamp {
        let passed = i64::try_from(self.passed.get().as_millis()).expect("a short test");
        Timestamp::from_millis(u64::try_from(EPOCH + passed + self.wrong.get()).expect("after 1970"))
    }

    fn sleep(&self, duration: Duration) {
        self.pass(duration);
    }
}

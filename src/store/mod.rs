//! Named objects, in a NATS Object Store bucket or in a directory. Knows nothing of SQLite.

pub mod blocking;
pub mod dir;
pub mod encrypted;
mod name;
pub mod nats;
mod opening;
pub mod service;
pub mod traffic;

use std::task::Poll;
use std::time::{Duration, Instant};

use crate::age::sealed_note::SealedNote;
use crate::error::Result;
use crate::format::time::Timestamp;

pub use opening::{ConnectionPool, StoreTarget, open};

use service::{Endpoint, Question};
use traffic::Purpose;

/// Where objects are kept: one prefix of one bucket, or one directory.
///
/// The contract, which `tests/nats/store_contract.rs` holds every store to:
///
/// * Names are relative paths of printable characters, `a/b/c`, never empty, without `.` or `..` as a part.
/// * An object is visible to [`Store::list`] and [`Store::get`] only when it is whole and durable, and never before
///   [`Put::commit`]. Its content is then exactly the bytes that were written.
/// * A put over an existing name replaces it at the moment of the commit; readers see the old or the new one whole.
/// * What is committed is seen by the next list and the next get, from any process.
/// * A get ends with [`Chunk::End`] only after size and digest were right; else it ends with an error of kind
///   `Corrupt` (damaged) or `NotFound`.
/// * A delete leaves nothing behind; deleting what is not there is no error.
/// * Objects of others (other prefixes, other programs) are never listed, changed or deleted.
/// * Nothing here blocks: an operation makes progress in its `poll`, and [`Store::wait`] sleeps until a poll may help.
///   Each operation ends by itself when it made no progress for the store's timeout, with an error of kind
///   `StoreUnreachable`. An error ends the operation; polling on is not allowed.
/// * Dropping an operation abandons it. An abandoned put leaves nothing visible and is cleaned up, at the latest by a
///   later put or sweep.
pub trait Store {
    /// What the operator calls it: a URL without any secret.
    fn url(&self) -> &str;

    /// Makes progress with the connection. True once the store has been reached and its bucket or directory is there.
    ///
    /// Errors: of kind `StoreRefused` when waiting cannot help (login, certificate), `NotFound` if there is no such bucket,
    /// `ReconnectsExhausted` when the reconnects that are allowed are used up, `StoreUnreachable` otherwise; calling again tries again. A
    /// lost connection is told once.
    fn connect(&self, now: Instant) -> Result<bool>;

    /// Begins to store an object.
    fn put(&self, name: &str) -> Box<dyn Put>;

    /// Begins to read an object.
    fn get(&self, name: &str) -> Box<dyn Get>;

    /// Begins to list the objects whose names begin with `prefix`.
    fn list(&self, prefix: &str) -> Box<dyn List>;

    /// The same, where each entry tells whether the object has all its parts ([`Entry::whole`]): a store may have lost some.
    fn list_whole(&self, prefix: &str) -> Box<dyn List> {
        self.list(prefix)
    }

    /// Begins to read the names of all objects, of which nothing is kept: for more of them than should be in memory at once.
    fn scan(&self) -> Box<dyn Scan>;

    /// Begins to delete objects, in the order given.
    fn delete(&self, names: Vec<String>) -> Box<dyn Delete>;

    /// Begins to look which of these objects are there. It costs the same however many others there are, and however large
    /// they are.
    fn presence(&self, names: Vec<String>) -> Box<dyn Presence>;

    /// Begins to keep everything here for `holder` alone, which must be connected. Dropping the claim gives it up.
    fn acquire_lease(&self, holder: &LeaseHolder) -> Box<dyn WriterLease>;

    /// Begins to look who has a lease, without disturbing anybody.
    fn find_writers(&self) -> Box<dyn FindWriters>;

    /// Begins to remove what uploads that died have left and that was stored more than `too_young` before `wall`. None where
    /// there is nothing of the kind, or another store of this process has seen to it lately.
    fn clean_orphans(&self, now_utc: Timestamp, young: Duration) -> Option<Box<dyn OrphanCleanup>>;

    /// Over which connection of this process it is reached; none where there is no such thing.
    fn connection(&self) -> Option<&str> {
        None
    }

    /// Begins to ask the running program with this ID; none where nobody can be asked.
    fn query_service(&self, _id: &str, _endpoint: Endpoint, _payload: &str) -> Option<Box<dyn Question>> {
        None
    }

    /// Begins to tell of objects as they are stored. None where the store cannot.
    fn watch(&self, _now: Instant) -> Option<Box<dyn Watch>> {
        None
    }

    /// Sleeps until some operation may make progress, at most `timeout`.
    fn wait(&self, timeout: Duration);

    /// To how many recipients what is put is encrypted. 0: it is put in clear.
    fn recipients(&self) -> usize {
        0
    }

    /// A digest of those recipients, the same for each order of them; none where it is put in clear.
    fn recipients_digest(&self) -> Option<String> {
        None
    }

    /// Whether there is an identity for objects that are encrypted.
    fn can_decrypt(&self) -> bool {
        false
    }

    /// Begins to read what the writer of an object has noted for itself ([`Put::note`]). An object in clear is read itself
    /// then, which [`Get::recipients`] tells. With `whole` the note is given only if all of the object is there.
    ///
    /// None: notes are not needed here; [`Store::get`] reads the object.
    fn read_note(&self, _name: &str, _whole: bool) -> Option<Box<dyn Get>> {
        None
    }
}

/// How far a put has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutState {
    /// More is to come, or the store has not yet confirmed every byte.
    Sending,
    /// Every byte is durable but nothing is visible: the commit may follow.
    Staged,
    /// Committed: visible, whole and durable.
    Done,
}

/// An object on its way into the store: write, finish, wait for `Staged`, commit, wait for `Done`.
pub trait Put {
    /// Takes as many of `bytes` as there is room for now, and says how many. 0: poll, and offer them again.
    fn write(&mut self, bytes: &[u8]) -> Result<usize>;

    /// Words on the object, kept beside it where the store has a place for them: [`ScannedObject`] shows them. Before the
    /// first poll.
    fn describe(&mut self, _words: &str) {}

    /// What its writer must know of the object at its next start, even where it cannot read it. Before the first byte.
    fn note(&mut self, _note: &[u8]) {}

    /// The note of another object that this one takes the place of, in place of a note of its own. Before the first byte.
    fn copy_note(&mut self, _note: &SealedNote) {}

    /// What its bytes are counted for, if not for changes. Before the first byte.
    fn count_for(&mut self, _purpose: Purpose) {}

    /// No more bytes follow.
    fn finish(&mut self);

    /// Lets the object become visible as soon as it is staged. May be called at any time.
    fn commit(&mut self);

    /// Makes progress.
    ///
    /// Errors: after [`Put::commit`] an error leaves open whether the object is visible; a put of the same name and
    /// bytes settles it.
    fn poll(&mut self, now: Instant) -> Result<PutState>;
}

/// A piece of an object that is read.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Nothing now; poll again.
    Pending,
    Bytes(Vec<u8>),
    /// All bytes were given, and size and digest are right.
    End,
}

/// An object on its way out of the store.
pub trait Get {
    /// What its bytes are counted for, if not for listings. Before the first poll.
    fn count_for(&mut self, _purpose: Purpose) {}

    fn poll(&mut self, now: Instant) -> Result<Chunk>;

    /// To how many recipients the object is encrypted, once something of it was given. 0: it is in clear.
    fn recipients(&self) -> usize {
        0
    }

    /// What its writer has noted in it for itself ([`Put::note`]), once something of it was given; none if there is nothing.
    fn sealed_note(&self) -> Option<SealedNote> {
        None
    }
}

/// An object in a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Below the prefix of the store.
    pub name: String,
    /// In bytes, as stored.
    pub size: u64,
    /// All its parts are there, as far as was asked for. Of an object that is replaced meanwhile, it may say no.
    pub whole: bool,
}

/// A listing in the making.
pub trait List {
    /// The entries in order of their names, once all are known.
    fn poll(&mut self, now: Instant) -> Result<Poll<Vec<Entry>>>;
}

/// An object whose name was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScannedObject {
    pub entry: Entry,
    /// What its writer said of it ([`Put::describe`]).
    pub description: Option<String>,
}

/// What comes next of the names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScanEvent {
    /// Nothing now; poll again.
    Pending,
    Object(ScannedObject),
    /// What has come before is void: it begins again.
    Restarted,
    /// All names were given.
    End,
}

/// Names on their way out of the store, in no order. One that is written or deleted meanwhile may come or not, or twice.
pub trait Scan {
    fn poll(&mut self, now: Instant) -> Result<ScanEvent>;
}

/// What a watch has to tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchEvent {
    /// Nothing is told for now: it has not begun, or was cut off.
    Down,
    /// From now on everything is told; what was stored before may have been missed.
    Started,
    Stored(Entry),
    /// Nothing was stored.
    Pending,
}

/// Tells of objects as they are stored, in this order.
pub trait Watch {
    /// Makes progress.
    ///
    /// Errors: it cannot go on, and nothing more is told.
    fn poll(&mut self, now: Instant) -> Result<WatchEvent>;

    /// Tells the writer below `prefix`, the empty one being the store's own, that a standby listens for what it stores. May be
    /// called with each of its objects: it is told every few seconds at most.
    fn tell_writer(&mut self, _prefix: &str, _now: Instant) {}
}

/// Objects being deleted.
pub trait Delete {
    /// Ready once all are gone.
    fn poll(&mut self, now: Instant) -> Result<Poll<()>>;
}

/// A look for some objects.
pub trait Presence {
    /// The names of those that are not there, once all are known.
    fn poll(&mut self, now: Instant) -> Result<Poll<Vec<String>>>;
}

/// Who keeps a store for itself, as others are told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseHolder {
    /// The path of the database.
    pub database: String,
    /// When it began.
    pub since: Timestamp,
    /// Anyone who has it is told to give it away, where that can be done.
    pub takeover: bool,
    /// What is stored of it names neither its host nor its database.
    pub anonymous: bool,
}

/// A store that is kept for one holder.
pub trait WriterLease {
    /// Makes progress and tells others who ask; to be called at every tick. None: it is not known yet whether the store
    /// is ours. A number: it is. When the number changes we were cut off, and another may have written meanwhile.
    ///
    /// Errors: of kind `Locked`, if another process has it; of kind `TakenOver`, if another one has taken it over.
    fn poll(&mut self, now: Instant) -> Result<Option<u64>>;

    /// What those who ask are told from now on: the age of the oldest commit that is not stored; none where it is not known.
    fn set_lag(&mut self, _lag: Option<Duration>) {}

    /// Whether a standby has said since the last call that it listens for what is stored ([`Store::watch`]).
    fn take_standby(&mut self) -> bool {
        false
    }

    /// Whether another writer, which had the store before, may yet store something without knowing better: what is stored
    /// after its newest object had better not continue it.
    fn predecessor_may_write(&self) -> bool {
        false
    }

    /// Removes what the lease itself keeps in the store. Ready once it is gone; the lease is of no use any more.
    fn remove_record(&mut self, _now: Instant) -> Result<Poll<()>> {
        Ok(Poll::Ready(()))
    }
}

/// Who has the lease of a prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Writer {
    Nobody,
    /// One that is there, with what is known of it.
    Live(LiveWriter),
    /// It cannot be told: the login may not ask, or one was there and did not answer.
    Unknown,
}

/// Anyone who has a lease, as it says itself: each field may be unknown. None of it is to be trusted with a terminal.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LiveWriter {
    pub host: Option<String>,
    pub pid: Option<u32>,
    /// The path of the database.
    pub database: Option<String>,
    /// Of the program.
    pub version: Option<String>,
    /// The age of the oldest commit that is not stored.
    pub lag: Option<Duration>,
    /// Under which ID it can be asked ([`Store::ask`]).
    pub service: Option<String>,
}

/// A look for those who have leases.
pub trait FindWriters {
    /// Asks for the lease of a prefix, once. The empty one is the store's own.
    fn query(&mut self, prefix: &str);

    /// Makes progress. True once every question has its answer; more may be asked.
    fn poll(&mut self, now: Instant) -> Result<bool>;

    /// The answers, in the order of the questions.
    fn answers(&self) -> Vec<Writer>;
}

/// What a sweep came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CleanupResult {
    /// Uploads whose chunks were removed.
    pub removed: u64,
    /// Uploads without an object that are too young to be judged.
    pub too_young: u64,
    /// Objects whose description could not be read. If there are any, nothing was removed.
    pub unreadable: u64,
}

/// What uploads that died have left, being removed.
pub trait OrphanCleanup {
    /// Makes progress; the result once it is done.
    fn poll(&mut self, now: Instant) -> Result<Poll<CleanupResult>>;
}

/// An upload that has stored nothing for so long has ended, whatever its writer thinks.
pub const MIN_ORPHAN_AGE: Duration = Duration::from_secs(3600);

//! Of which database a stored snapshot is, and whether another may take its place.

use std::path::Path;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::format::key::SnapshotKey;
use crate::format::listing::Listing;
use crate::format::origin::{DatabaseFacts, DatabaseOrigin};
use crate::format::snapshot;
use crate::host::host_name;
use crate::source;
use crate::store::{Chunk, Get, Store};

/// Snapshots to ask, in this order, of which database they are: junk in the newest generation hides nothing.
pub type Witnesses = [Option<SnapshotKey>; 3];

/// The newest snapshots of the newest generations.
pub fn witnesses(listing: &Listing) -> Witnesses {
    let mut snapshots = listing.newest_snapshots();
    std::array::from_fn(|_| snapshots.next())
}

/// Asks snapshots of which database they are, until one says so.
pub struct OriginSearch {
    store: Rc<dyn Store>,
    left: Vec<SnapshotKey>,
    read: Option<OriginRead>,
    /// As far as snapshots were read.
    recipients: usize,
}

impl OriginSearch {
    pub fn new(store: Rc<dyn Store>, witnesses: &Witnesses) -> OriginSearch {
        OriginSearch { store, left: witnesses.iter().rev().copied().flatten().collect(), read: None, recipients: 0 }
    }

    /// To how many recipients what was read is encrypted; 0: it is in clear, or nothing was read.
    pub fn recipients(&self) -> usize {
        self.recipients
    }

    /// None: none of them says so.
    ///
    /// Errors: the store's; it may be polled again.
    pub fn poll(&mut self, now: Instant) -> Result<Poll<Option<StoredOrigin>>> {
        loop {
            let Some(key) = self.left.last().copied() else { return Ok(Poll::Ready(None)) };
            let read = self.read.get_or_insert_with(|| OriginRead::new(&*self.store, &key.to_string()));
            let polled = read.poll(now);
            self.recipients = self.recipients.max(read.recipients());
            match polled {
                Ok(Poll::Pending) => return Ok(Poll::Pending),
                Ok(Poll::Ready(Some(origin))) => return Ok(Poll::Ready(Some(StoredOrigin { key, origin }))),
                Ok(Poll::Ready(None)) => self.left.pop(),
                Err(error) if error.kind() == Kind::NoIdentity => {
                    (self.read, self.recipients) = (None, self.recipients.max(1));
                    return Err(unreadable_origin(self.store.url(), &key, &error));
                }
                Err(error) => {
                    self.read = None;
                    return Err(error);
                }
            };
            self.read = None;
        }
    }
}

/// What is stored may be of any database: it is replaced only if that was asked for.
fn unreadable_origin(url: &str, key: &SnapshotKey, error: &Error) -> Error {
    let what = format!(
        "{url}: expected backups that say of which database they are, found an encrypted one that cannot be read here \
         (snapshot {key}): {error}"
    );
    Error::new(Kind::AnotherDatabase, what).with_hint(
        "give each database a prefix of its own; if this is the same database, and its metadata directory was lost, start \
         once with -allow-other-database, or with an identity under age: identities",
    )
}

/// Of which database a snapshot is.
pub struct StoredOrigin {
    key: SnapshotKey,
    origin: DatabaseOrigin,
}

/// Reads of which database a stored snapshot is. No more of it is fetched than its header.
pub struct OriginRead {
    get: Box<dyn Get>,
    bytes: Vec<u8>,
}

impl OriginRead {
    /// `name` is that of the snapshot.
    pub fn new(store: &dyn Store, name: &str) -> OriginRead {
        let get = store.read_note(name, false).unwrap_or_else(|| store.get(name));
        OriginRead { get, bytes: Vec::new() }
    }

    /// To how many recipients the snapshot is encrypted, once something of it was read; 0: it is in clear.
    pub fn recipients(&self) -> usize {
        self.get.recipients()
    }

    /// None: it does not say so, it is damaged, or it is gone.
    ///
    /// Errors: the store's; of kind `NoIdentity` if it is encrypted, and nobody here can read it.
    pub fn poll(&mut self, now: Instant) -> Result<Poll<Option<DatabaseOrigin>>> {
        loop {
            let ended = match self.get.poll(now) {
                Ok(Chunk::Pending) => return Ok(Poll::Pending),
                Ok(Chunk::Bytes(bytes)) => {
                    self.bytes.extend_from_slice(&bytes);
                    false
                }
                Ok(Chunk::End) => true,
                Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::NotFound) => return Ok(Poll::Ready(None)),
                Err(error) => return Err(error),
            };
            match snapshot::header_of(&self.bytes) {
                Ok(None) if !ended => {}
                Ok(Some(_)) => return Ok(Poll::Ready(snapshot::origin_of(&self.bytes).unwrap_or_default())),
                _ => return Ok(Poll::Ready(None)),
            }
        }
    }
}

impl StoredOrigin {
    pub fn origin(&self) -> &DatabaseOrigin {
        &self.origin
    }

    /// Refuses to let `live` take the place of what is stored in `url`, if that is of a database that it cannot be.
    ///
    /// Errors: of kind `AnotherDatabase`, with both names and the flag that allows it.
    pub fn check(&self, url: &str, live: &DatabaseOrigin) -> Result<()> {
        let StoredOrigin { key, origin: stored } = self;
        if stored.may_be(live, source::is_another_file(stored, live)) {
            return Ok(());
        }
        let what =
            format!("{url}: expected backups of database {live}, found those of database {stored} (snapshot {key})");
        Err(Error::new(Kind::AnotherDatabase, what).with_hint(
            "give each database a prefix of its own; if this is the same database, moved or made anew, start once with \
         -allow-other-database",
        ))
    }
}

/// Refuses to restore for `database` what is stored of another one, which is still there beside it. Whatever else the
/// snapshot says is no reason to refuse: a database is restored to other machines and other paths.
///
/// Errors: of kind `AnotherDatabase`, with both names and the flag that allows it.
pub fn check_place(url: &str, key: &SnapshotKey, stored: &DatabaseOrigin, database: &Path) -> Result<()> {
    let real = database.canonicalize().unwrap_or_else(|_| database.to_path_buf());
    let here = DatabaseOrigin::new(&host_name(), &real, DatabaseFacts::default());
    if stored.path == here.path || !source::is_another_file(stored, &here) {
        return Ok(());
    }
    let what = format!("{url}: expected backups of database {here}, found those of database {stored} (snapshot {key})");
    Err(Error::new(Kind::AnotherDatabase, what)
        .with_hint("that database still exists: is this the right replica? -allow-other-database restores it anyway"))
}

/// Nothing in clear is stored after what is encrypted, unless that was asked for.
pub fn would_be_clear(url: &str) -> Error {
    let what = format!("{url}: expected recipients to encrypt to, as what is stored there is encrypted; found none");
    Error::new(Kind::AnotherDatabase, what).with_hint(
        "write the recipients under age: recipients in the configuration; to store in clear from now on, start once with \
         -allow-unencrypted",
    )
}

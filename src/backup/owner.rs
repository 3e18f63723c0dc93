//! The owner of a prefix: the record in the store, and the note beside a database that says which record it knows.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;
use std::task::Poll;
use std::time::Instant;

use crate::clock::Clock;
use crate::directory::Directory;
use crate::error::{Error, Kind, Result};
use crate::format::origin::{DatabaseFacts, DatabaseOrigin};
use crate::format::owner::{MAX_LEN, OwnerRecord, location, name};
use crate::host::host_name;
use crate::log;
use crate::store::blocking::MAX_SLEEP;
use crate::store::{Chunk, Get, Store};

/// The note, in the metadata directory of the database.
const NOTE: &str = "owner";
/// Bytes that a note may have.
const MAX_NOTE: u64 = 256;

/// How a database is called in records, here and now.
pub fn location_of(database: &Path) -> String {
    let real = database.canonicalize().unwrap_or_else(|_| database.to_path_buf());
    location(&DatabaseOrigin::new(&host_name(), &real, DatabaseFacts::default()))
}

/// A record on its way out of the store.
pub struct OwnerRead {
    number: u32,
    get: Box<dyn Get>,
    bytes: Vec<u8>,
}

impl OwnerRead {
    pub fn new(store: &dyn Store, number: u32) -> OwnerRead {
        let name = name(number);
        let get = store.read_note(&name, false).unwrap_or_else(|| store.get(&name));
        OwnerRead { number, get, bytes: Vec::new() }
    }

    /// None: it is damaged, gone, or encrypted and cannot be read here.
    ///
    /// Errors: the store's.
    pub fn poll(&mut self, now: Instant) -> Result<Poll<Option<OwnerRecord>>> {
        let decoded = loop {
            match self.get.poll(now) {
                Ok(Chunk::Pending) => return Ok(Poll::Pending),
                Ok(Chunk::Bytes(bytes)) if self.bytes.len() + bytes.len() <= MAX_LEN => {
                    self.bytes.extend_from_slice(&bytes)
                }
                Ok(Chunk::Bytes(_)) => {
                    let what = format!("object {}: expected at most {MAX_LEN} bytes, found more", name(self.number));
                    break Err(Error::new(Kind::Corrupt, what));
                }
                Ok(Chunk::End) => break OwnerRecord::decode(self.number, &self.bytes),
                Err(error) => break Err(error),
            }
        };
        match decoded {
            Ok(record) => Ok(Poll::Ready(Some(record))),
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::NotFound | Kind::NoIdentity) => {
                log::warn("owner of the prefix not known").error(&error).emit();
                Ok(Poll::Ready(None))
            }
            Err(error) => Err(error),
        }
    }
}

/// Reads a record, for a command that has nothing else to do meanwhile. None as of [`OwnerRead::poll`].
///
/// Errors: the store's.
pub fn read_owner(store: &dyn Store, number: u32, clock: &dyn Clock) -> Result<Option<OwnerRecord>> {
    let mut read = OwnerRead::new(store, number);
    loop {
        match read.poll(clock.now())? {
            Poll::Ready(owner) => return Ok(owner),
            Poll::Pending => store.wait(MAX_SLEEP),
        }
    }
}

/// The location of the database that has replaced the one at `database`, by the record `number`; none if none has.
///
/// Errors: the store's.
pub fn replaced_by(
    store: &dyn Store,
    number: Option<u32>,
    (database, meta): (&Path, &Path),
    clock: &dyn Clock,
) -> Result<Option<String>> {
    let record = number.map(|number| read_owner(store, number, clock)).transpose()?.flatten();
    let replaced = |record: &OwnerRecord| record.has_replaced(&location_of(database), noted(meta).as_deref());
    Ok(record.filter(replaced).map(|record| record.location))
}

/// Refuses to let the database at `here` take the place of the one that has replaced it.
///
/// Errors: of kind `TakenOver`, with both places and what can be done.
pub fn check(url: &str, record: &OwnerRecord, here: &str, known: Option<&str>) -> Result<()> {
    if !record.has_replaced(here, known) {
        return Ok(());
    }
    let what =
        format!("{url}: was taken over by database {}, and goes on there without what is in {here}", record.location);
    Err(Error::new(Kind::TakenOver, what).with_hint(
        "to follow the other database, move this one away and run restore -f; to let this one take its location, run replicate \
         once with -takeover",
    ))
}

/// The id of the record that the database has stored, or that was stored from its disk; none if there is none.
pub fn noted(meta: &Path) -> Option<String> {
    let text = Directory::open(meta).and_then(|own| own.read_text(OsStr::new(NOTE), MAX_NOTE));
    text.ok().map(|text| text.trim_end().to_string()).filter(|id| !id.is_empty())
}

/// Notes the id of a record beside the database, durably.
///
/// Errors: the directory cannot be written to.
pub fn note(meta: &Path, id: &str) -> Result<()> {
    let write = || -> io::Result<()> {
        let directory = Directory::open_or_create(meta, crate::directory::parent(meta).metadata().ok().as_ref())?;
        directory.replace(OsStr::new(NOTE), |file| writeln!(file, "{id}").map(|()| true))?;
        directory.sync()
    };
    write().map_err(|e| Error::io(Kind::Database, format!("write {}/{NOTE}", meta.display()), &e))
}

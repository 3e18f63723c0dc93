//! Becoming the owner of a prefix that another database, or this one at another place, was kept below: until the record of
//! that is stored, nothing else is written. Never blocks.
//!
//! The one before may be down meanwhile. When it comes back it finds the record, and does not take the place of what it has
//! never seen.

use std::path::PathBuf;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::backup::origin::{OriginSearch, Witnesses};
use crate::backup::owner::{OwnerRead, check, note, noted};
use crate::error::{Kind, Result};
use crate::format::owner::{OwnerRecord, location, name};
use crate::log;
use crate::random;
use crate::store::{Delete, Put, PutState, Store};

/// After an error.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The way to being the owner.
pub struct Claim {
    store: Rc<dyn Store>,
    /// Host and path of our database.
    here: String,
    /// The metadata directory of our database.
    meta: PathBuf,
    witnesses: Witnesses,
    /// What is found out first.
    from: PreviousOwner,
    step: ClaimStep,
    /// A database that was replaced is refused.
    unless_replaced: bool,
    /// What is stored, also in a second attempt.
    record: Option<OwnerRecord>,
    not_before: Option<Instant>,
}

/// From where it is known who the owner is.
enum PreviousOwner {
    Record(u32),
    Snapshots,
    /// It is known.
    Known(OwnerRecord),
}

enum ClaimStep {
    Begin,
    Reading(OwnerRead),
    Asking(OriginSearch),
    Storing(Box<Storing>),
    Deleting(Box<dyn Delete>),
    Done,
}

struct Storing {
    put: Box<dyn Put>,
    record: OwnerRecord,
    bytes: Vec<u8>,
    sent: usize,
}

impl Claim {
    /// Of a database that goes on with what is stored. `number` is that of the newest record, where there is one.
    pub fn of_continued(
        store: Rc<dyn Store>,
        number: Option<u32>,
        witnesses: Witnesses,
        here: String,
        meta: PathBuf,
    ) -> Claim {
        let from = number.map_or(PreviousOwner::Snapshots, PreviousOwner::Record);
        Claim::new(store, here, meta, witnesses, from)
    }

    fn new(store: Rc<dyn Store>, here: String, meta: PathBuf, witnesses: Witnesses, from: PreviousOwner) -> Claim {
        let (step, record, not_before) = (ClaimStep::Begin, None, None);
        Claim { store, here, meta, witnesses, from, step, unless_replaced: false, record, not_before }
    }

    /// The same, but not if another database has taken the place of ours since.
    pub fn unless_replaced(self) -> Claim {
        Claim { unless_replaced: true, ..self }
    }

    /// Of a database that takes the place of `before`.
    pub fn after(store: Rc<dyn Store>, before: OwnerRecord, here: String, meta: PathBuf) -> Claim {
        Claim::new(store, here, meta, Witnesses::default(), PreviousOwner::Known(before))
    }

    /// Ready once the prefix is ours.
    ///
    /// Errors: of kind `TakenOver`, if another database has taken the place of ours; else the store's, or of the note beside
    /// the database, and it begins again a moment later.
    pub fn poll(&mut self, now: Instant) -> Result<Poll<()>> {
        if self.not_before.is_some_and(|time| now < time) {
            return Ok(Poll::Pending);
        }
        let polled = self.advance(now);
        if polled.is_err() {
            (self.step, self.not_before) = (ClaimStep::Begin, Some(now + RETRY_DELAY));
        }
        polled
    }

    fn advance(&mut self, now: Instant) -> Result<Poll<()>> {
        loop {
            self.step = match &mut self.step {
                ClaimStep::Begin => match &self.from {
                    PreviousOwner::Record(number) => ClaimStep::Reading(OwnerRead::new(&*self.store, *number)),
                    PreviousOwner::Snapshots => {
                        ClaimStep::Asking(OriginSearch::new(self.store.clone(), &self.witnesses))
                    }
                    PreviousOwner::Known(owner) => self.store_after(&owner.clone()),
                },
                ClaimStep::Reading(read) => match (read.poll(now)?, &self.from) {
                    (Poll::Pending, _) => return Ok(Poll::Pending),
                    (Poll::Ready(Some(owner)), _) => {
                        if self.unless_replaced {
                            check(self.store.url(), &owner, &self.here, noted(&self.meta).as_deref())?;
                        }
                        self.store_after(&owner)
                    }
                    // One that cannot be read is followed by one that can.
                    (Poll::Ready(None), PreviousOwner::Record(number)) => {
                        let owner = OwnerRecord::unreadable(*number);
                        self.store_after(&owner)
                    }
                    (Poll::Ready(None), _) => ClaimStep::Done,
                },
                ClaimStep::Asking(search) => match search.poll(now) {
                    Ok(Poll::Pending) => return Ok(Poll::Pending),
                    Ok(Poll::Ready(Some(stored))) => {
                        self.store_after(&OwnerRecord::of_snapshot(location(stored.origin())))
                    }
                    // Nobody knows who the owner was.
                    Ok(Poll::Ready(None)) => ClaimStep::Done,
                    Err(error) if error.kind() == Kind::AnotherDatabase => ClaimStep::Done,
                    Err(error) => return Err(error),
                },
                ClaimStep::Storing(storing) => {
                    if storing.poll(now)?.is_pending() {
                        return Ok(Poll::Pending);
                    }
                    note(&self.meta, &storing.record.id)?;
                    log::info("owner of the prefix recorded")
                        .field("store", self.store.url())
                        .field("db", &storing.record.location)
                        .emit();
                    match storing.record.number.checked_sub(1) {
                        Some(before) if before > 0 => ClaimStep::Deleting(self.store.delete(vec![name(before)])),
                        _ => ClaimStep::Done,
                    }
                }
                ClaimStep::Deleting(delete) => match delete.poll(now) {
                    Ok(Poll::Pending) => return Ok(Poll::Pending),
                    // A login that may not delete leaves it there: the newest one counts.
                    Ok(Poll::Ready(())) | Err(_) => ClaimStep::Done,
                },
                ClaimStep::Done => return Ok(Poll::Ready(())),
            };
        }
    }

    /// Stores the record, unless we are the owner.
    fn store_after(&mut self, owner: &OwnerRecord) -> ClaimStep {
        if owner.location == self.here {
            return ClaimStep::Done;
        }
        let record = || owner.followed_by(&self.here, &random::token());
        let record = self.record.get_or_insert_with(record).clone();
        let bytes = record.encode();
        let mut put = self.store.put(&name(record.number));
        put.note(&bytes);
        ClaimStep::Storing(Box::new(Storing { put, record, bytes, sent: 0 }))
    }
}

impl Storing {
    fn poll(&mut self, now: Instant) -> Result<Poll<()>> {
        while let Some(rest) = self.bytes.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let taken = self.put.write(rest)?;
            self.sent += taken;
            if taken == 0 {
                self.put.poll(now)?;
                return Ok(Poll::Pending);
            }
            if self.sent == self.bytes.len() {
                self.put.finish();
                self.put.commit();
            }
        }
        Ok(if self.put.poll(now)? == PutState::Done { Poll::Ready(()) } else { Poll::Pending })
    }
}

//! Whether the store still has what it had acknowledged: a server may forget it (a crash before its fsync, a purge, a
//! bucket that was made again), and objects may be deleted by hand.
//!
//! * Every few minutes the newest snapshot and the newest object are asked for, which costs two small messages each way
//!   however long the history is. This notices a store that was emptied or went back to before the newest object. A hole in
//!   what is older is noticed by the next listing.
//! * A listing tells what a restore of the newest state would give: each hour, after each reconnect, on any doubt, and
//!   before the end of a run. All parts of what such a restore reads must be there. The content is not read: only `verify`
//!   does that.

use std::collections::HashSet;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::backup::listing::with_incomplete;
use crate::error::{Error, Kind, Result};
use crate::format::key::Key;
use crate::format::latest_restore::{LatestRestore, incomplete_object, latest_restore};
use crate::format::listing::Listing;
use crate::format::plan::listed_end;
use crate::format::position::Position;
use crate::store::{List, Presence, Store};

/// Between two looks for the newest objects: about 2 kB each time, half a megabyte a day.
const CHECK_INTERVAL: Duration = Duration::from_secs(300);
/// Between two listings: their cost grows with the history.
const LIST_INTERVAL: Duration = Duration::from_secs(3600);
/// After an error, or a listing that settled nothing.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What a listing means for what is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AuditVerdict {
    /// A restore gives all that was stored.
    Holds,
    /// Nothing is missing, but a transaction is not stored to its end yet.
    Unfinished,
    Lost,
}

/// What one look has shown.
#[derive(Debug)]
pub enum AuditResult {
    /// Nothing to be done now.
    Nothing,
    /// As soon as the store has something.
    Waiting,
    /// A restore would not give what was stored: what is there, and why.
    Lost(Listing, Error),
    /// The same, because parts of a listed object are missing: nothing that is stored helps, whatever a listing shows.
    Incomplete(Listing, Error),
}

/// The audit of one database.
pub struct Audit {
    store: Rc<dyn Store>,
    work: AuditOperation,
    next_check: Instant,
    next_list: Instant,
    /// After an error.
    not_before: Instant,
    /// Something may be missing: nothing counts as stored until a listing has shown otherwise.
    listing_required: bool,
    /// Up to here a listing has shown that a restore ends at it.
    proven: Option<Position>,
    /// A listed object that was not whole. It may have been replaced meanwhile: another listing tells.
    suspect: Option<Key>,
}

enum AuditOperation {
    None,
    CheckingNewest(Box<dyn Presence>),
    Listing(Box<dyn List>, Position),
}

impl Audit {
    pub fn new(store: Rc<dyn Store>, now: Instant) -> Audit {
        let (next_look, next_list) = (now + CHECK_INTERVAL, now + LIST_INTERVAL);
        Audit {
            store,
            work: AuditOperation::None,
            next_check: next_look,
            next_list,
            not_before: now,
            listing_required: false,
            proven: None,
            suspect: None,
        }
    }

    /// Something may be missing: a listing will tell.
    pub fn require_listing(&mut self) {
        (self.work, self.listing_required) = (AuditOperation::None, true);
    }

    /// What is stored is found again, by a listing: what was known before does not count.
    pub fn reset(&mut self, now: Instant) {
        *self = Audit::new(self.store.clone(), now);
    }

    /// What a listing has shown is of an earlier moment: from now on a newer one must.
    pub fn expire(&mut self) {
        (self.work, self.proven) = (AuditOperation::None, None);
    }

    pub fn is_busy(&self) -> bool {
        !matches!(self.work, AuditOperation::None)
    }

    /// Whether there is no doubt of what is stored. While a listing is on its way there is: it is due because what was
    /// known has become too old.
    pub fn is_trusted(&self) -> bool {
        !self.listing_required && !matches!(self.work, AuditOperation::Listing(..))
    }

    /// Where a restore ends, or further on, as a listing has shown.
    pub fn proven(&self) -> Option<Position> {
        self.proven.filter(|_| !self.listing_required)
    }

    /// Whether a listing has shown that a restore ends at `position`.
    pub fn has_proven(&self, position: Option<Position>) -> bool {
        position.is_some() && self.proven() == position
    }

    /// Makes progress. `stored` is the end of what was acknowledged, `newest` gives the names of the snapshot that a restore
    /// begins with, and of the object that was acknowledged last. `prove` asks for a listing that shows that a restore ends there.
    ///
    /// Errors: the store's; it is tried again.
    pub fn poll(
        &mut self,
        now: Instant,
        stored: Position,
        newest: impl FnOnce() -> Vec<String>,
        prove: bool,
    ) -> Result<AuditResult> {
        let polled = self.advance(now, stored, newest, prove);
        if polled.is_err() {
            // What is not known does not count as stored.
            self.require_listing();
            self.not_before = now + RETRY_DELAY;
        }
        polled
    }

    fn advance(
        &mut self,
        now: Instant,
        stored: Position,
        newest: impl FnOnce() -> Vec<String>,
        prove: bool,
    ) -> Result<AuditResult> {
        if let AuditOperation::None = self.work {
            self.start(now, stored, newest, prove);
        }
        match &mut self.work {
            AuditOperation::None => Ok(AuditResult::Nothing),
            AuditOperation::CheckingNewest(presence) => {
                let Poll::Ready(missing) = presence.poll(now)? else { return Ok(AuditResult::Waiting) };
                self.work = AuditOperation::None;
                if missing.is_empty() {
                    return Ok(AuditResult::Nothing);
                }
                // It may have been merged with others meanwhile.
                self.require_listing();
                Ok(AuditResult::Waiting)
            }
            AuditOperation::Listing(list, position) => {
                let Poll::Ready(entries) = list.poll(now)? else { return Ok(AuditResult::Waiting) };
                let position = *position;
                self.work = AuditOperation::None;
                Ok(self.evaluate(now, with_incomplete(entries), position))
            }
        }
    }

    fn start(&mut self, now: Instant, stored: Position, newest: impl FnOnce() -> Vec<String>, prove: bool) {
        if now < self.not_before {
            return;
        }
        if self.listing_required || now >= self.next_list || (prove && !self.has_proven(Some(stored))) {
            self.work = AuditOperation::Listing(self.store.list_whole(""), stored);
        } else if now >= self.next_check {
            self.next_check = now + CHECK_INTERVAL;
            self.work = AuditOperation::CheckingNewest(self.store.presence(newest()));
        }
    }

    /// `incomplete`: the listed objects that are not whole.
    fn evaluate(
        &mut self,
        now: Instant,
        (listing, incomplete): (Listing, HashSet<Key>),
        position: Position,
    ) -> AuditResult {
        let found = latest_restore(&listing, &position);
        match (verdict(&found), incomplete_object(&listing, &incomplete)) {
            (AuditVerdict::Holds, None) => {
                (self.listing_required, self.proven, self.suspect) = (false, Some(position), None);
                self.next_list = now + LIST_INTERVAL;
                AuditResult::Nothing
            }
            (AuditVerdict::Holds, Some(key)) if self.suspect.replace(key) != Some(key) => {
                self.require_listing();
                AuditResult::Waiting
            }
            (AuditVerdict::Holds, Some(key)) => {
                let error = loss(position, format!("{key} is listed, but a part of it is missing"));
                AuditResult::Incomplete(listing, error)
            }
            (AuditVerdict::Unfinished, _) => {
                self.not_before = now + RETRY_DELAY;
                AuditResult::Nothing
            }
            (AuditVerdict::Lost, _) => {
                let error = loss_error(&listing, &found, position);
                AuditResult::Lost(listing, error)
            }
        }
    }
}

/// What is said of a loss: what a restore gives now, and since when it no longer gives all.
fn loss_error(listing: &Listing, found: &LatestRestore, position: Position) -> Error {
    let until =
        listed_end(listing).ok().flatten().map(|end| format!(", and nothing after {} can be restored", end.time));
    loss(position, format!("{found}{}", until.unwrap_or_default()))
}

fn loss(position: Position, found: String) -> Error {
    Error::new(Kind::Corrupt, format!("expected a restore to end at {position}, which was stored; {found}")).with_hint(
        "the server has lost objects, or a program deleted them; litestream stores the missing commits again",
    )
}

/// More than we know of was acknowledged after the listing began, or arrived without an answer.
fn verdict(found: &LatestRestore) -> AuditVerdict {
    match found {
        LatestRestore::AtPosition | LatestRestore::EndsAfter { .. } => AuditVerdict::Holds,
        LatestRestore::TransactionUnfinished { .. } => AuditVerdict::Unfinished,
        LatestRestore::OtherGeneration { .. }
        | LatestRestore::NoSnapshot { .. }
        | LatestRestore::Gap { .. }
        | LatestRestore::EndsBefore { .. } => AuditVerdict::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::point;
    use crate::format::position::Generation;

    #[test]
    fn only_a_restore_that_gives_all_that_was_stored_holds() {
        let end = point(0, 10);
        let gap = LatestRestore::Gap { what: "x".into() };
        for (found, expected) in [
            (LatestRestore::AtPosition, AuditVerdict::Holds),
            (LatestRestore::EndsAfter { end }, AuditVerdict::Holds),
            (LatestRestore::TransactionUnfinished { end }, AuditVerdict::Unfinished),
            (LatestRestore::EndsBefore { end }, AuditVerdict::Lost),
            (LatestRestore::NoSnapshot { instead: None }, AuditVerdict::Lost),
            (LatestRestore::NoSnapshot { instead: Some(Generation::new(1)) }, AuditVerdict::Lost),
            (gap, AuditVerdict::Lost),
        ] {
            assert_eq!(verdict(&found), expected, "{found:?}");
        }
    }
}

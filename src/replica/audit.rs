//! Whether the store still has what it had acknowledged: a server may forget it (a crash before its fsync, a purge, a
//! bucket that was made again), and objects may be deleted by hand.
//!
//! * Every few minutes the newest snapshot and the newest object are asked for, which costs two small messages each way
//!   however long the history is. This notices a store that was emptied or went back to before the newest object. A hole in
//!   what is older is noticed by the next listing.
//! * A listing tells what a restore of the newest state would give: each hour, after each reconnect, on any doubt, and
//!   before the end of a run.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::format::listing::Listing;
use crate::format::plan::end_of;
use crate::format::position::Position;
use crate::format::restorable::{LatestRestore, latest_restore};
use crate::store::{List, Presence, Store};

/// Between two looks for the newest objects: about 2 kB each time, half a megabyte a day.
const EVERY: Duration = Duration::from_secs(300);
/// Between two listings: their cost grows with the history.
const LIST_EVERY: Duration = Duration::from_secs(3600);
/// After an error, or a listing that settled nothing.
const RETRY: Duration = Duration::from_secs(1);

/// What a listing means for what is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// A restore gives all that was stored.
    Holds,
    /// Nothing is missing, but a transaction is not stored to its end yet.
    Unfinished,
    Lost,
}

/// What one look has shown.
#[derive(Debug)]
pub enum Audited {
    /// Nothing to be done now.
    Nothing,
    /// As soon as the store has something.
    Waiting,
    /// A restore would not give what was stored. The error says why.
    Lost(Error),
}

/// The audit of one database.
pub struct Audit {
    store: Rc<dyn Store>,
    work: Work,
    next_look: Instant,
    next_list: Instant,
    /// After an error.
    not_before: Instant,
    /// Something may be missing: nothing counts as stored until a listing has shown otherwise.
    doubted: bool,
    /// Up to here a listing has shown that a restore ends at it.
    proven: Option<Position>,
}

enum Work {
    None,
    Looking(Box<dyn Presence>),
    Listing(Box<dyn List>, Position),
}

impl Audit {
    pub fn new(store: Rc<dyn Store>, now: Instant) -> Audit {
        let (next_look, next_list) = (now + EVERY, now + LIST_EVERY);
        Audit { store, work: Work::None, next_look, next_list, not_before: now, doubted: false, proven: None }
    }

    /// Something may be missing: a listing will tell.
    pub fn doubt(&mut self) {
        (self.work, self.doubted) = (Work::None, true);
    }

    /// What is stored is found anew, by a listing: what was known before does not count.
    pub fn start_anew(&mut self, now: Instant) {
        *self = Audit::new(self.store.clone(), now);
    }

    /// What a listing has shown is of an earlier moment: from now on a newer one must.
    pub fn expire(&mut self) {
        (self.work, self.proven) = (Work::None, None);
    }

    pub fn is_busy(&self) -> bool {
        !matches!(self.work, Work::None)
    }

    /// Whether there is no doubt of what is stored. While a listing is on its way there is: it is due because what was
    /// known has become too old.
    pub fn is_trusted(&self) -> bool {
        !self.doubted && !matches!(self.work, Work::Listing(..))
    }

    /// Whether a listing has shown that a restore ends at `position`.
    pub fn has_proven(&self, position: Option<Position>) -> bool {
        self.proven.is_some() && self.proven == position && !self.doubted
    }

    /// Makes progress. `stored` is the end of what was acknowledged, `newest` the
    /// snapshot that a restore begins with, and the object that was acknowledged last.
    /// `prove` asks for a listing that shows that a restore ends there.
    ///
    /// Errors: the store's; it is tried again.
    pub fn poll(&mut self, now: Instant, stored: Position, newest: Vec<String>, prove: bool) -> Result<Audited> {
        let polled = self.advance(now, stored, newest, prove);
        if polled.is_err() {
            // What is not known does not count as stored.
            self.doubt();
            self.not_before = now + RETRY;
        }
        polled
    }

    fn advance(&mut self, now: Instant, stored: Position, newest: Vec<String>, prove: bool) -> Result<Audited> {
        if let Work::None = self.work {
            self.begin(now, stored, newest, prove);
        }
        match &mut self.work {
            Work::None => Ok(Audited::Nothing),
            Work::Looking(presence) => {
                let Some(missing) = presence.poll(now)? else { return Ok(Audited::Waiting) };
                self.work = Work::None;
                if missing.is_empty() {
                    return Ok(Audited::Nothing);
                }
                // It may have been merged with others meanwhile.
                self.doubt();
                Ok(Audited::Waiting)
            }
            Work::Listing(list, position) => {
                let Some(entries) = list.poll(now)? else { return Ok(Audited::Waiting) };
                let position = *position;
                let listing = Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)));
                self.work = Work::None;
                Ok(self.judge(now, &listing, position))
            }
        }
    }

    fn begin(&mut self, now: Instant, stored: Position, newest: Vec<String>, prove: bool) {
        if now < self.not_before {
            return;
        }
        if self.doubted || now >= self.next_list || (prove && !self.has_proven(Some(stored))) {
            self.work = Work::Listing(self.store.list(""), stored);
        } else if now >= self.next_look {
            self.next_look = now + EVERY;
            self.work = Work::Looking(self.store.presence(newest));
        }
    }

    fn judge(&mut self, now: Instant, listing: &Listing, position: Position) -> Audited {
        let found = latest_restore(listing, &position);
        match verdict(&found) {
            Verdict::Holds => {
                (self.doubted, self.proven) = (false, Some(position));
                self.next_list = now + LIST_EVERY;
                Audited::Nothing
            }
            Verdict::Unfinished => {
                self.not_before = now + RETRY;
                Audited::Nothing
            }
            Verdict::Lost => Audited::Lost(lost(listing, &found, position)),
        }
    }
}

/// What is said of a loss: what a restore gives now, and since when it no longer gives all.
fn lost(listing: &Listing, found: &LatestRestore, position: Position) -> Error {
    let until = end_of(listing).ok().flatten().map(|end| format!(", and nothing after {} can be restored", end.time));
    let until = until.unwrap_or_default();
    Error::new(Kind::Corrupt, format!("expected a restore to end at {position}, which was stored; {found}{until}"))
        .with_hint("the server has lost objects, or somebody deleted them; what is missing is stored again")
}

/// More than we know of was acknowledged after the listing began, or arrived without an answer.
fn verdict(found: &LatestRestore) -> Verdict {
    match found {
        LatestRestore::AtPosition | LatestRestore::Further { .. } => Verdict::Holds,
        LatestRestore::Unfinished { .. } => Verdict::Unfinished,
        LatestRestore::OtherGeneration { .. }
        | LatestRestore::NoSnapshot { .. }
        | LatestRestore::Gap { .. }
        | LatestRestore::Short { .. } => Verdict::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::position::Generation;
    use crate::format::sample::point;

    #[test]
    fn only_a_restore_that_gives_all_that_was_stored_holds() {
        let end = point(0, 10);
        let gap = LatestRestore::Gap { what: "x".into() };
        for (found, expected) in [
            (LatestRestore::AtPosition, Verdict::Holds),
            (LatestRestore::Further { end }, Verdict::Holds),
            (LatestRestore::Unfinished { end }, Verdict::Unfinished),
            (LatestRestore::Short { end }, Verdict::Lost),
            (LatestRestore::NoSnapshot { instead: None }, Verdict::Lost),
            (LatestRestore::NoSnapshot { instead: Some(Generation::new(1)) }, Verdict::Lost),
            (gap, Verdict::Lost),
        ] {
            assert_eq!(verdict(&found), expected, "{found:?}");
        }
    }
}

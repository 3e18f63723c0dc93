//! Whether what is stored is ours alone to write: nobody else keeps the prefix, and after each time that we were cut off,
//! nobody has written there meanwhile. Until that is known nothing may be written.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::format::key::SegmentKey;
use crate::format::listing::Listing;
use crate::format::position::{Generation, Position};
use crate::format::time::Timestamp;
use crate::store::{Claim, Holder, List, Store};

/// After a listing that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What we have written, and what may have arrived without an answer.
pub struct Mine<'a> {
    /// The end of what is stored of the generation that is written now; none while there is none.
    pub stored: Option<Position>,
    /// A snapshot of that generation is stored, as far as we know.
    pub snapshot: bool,
    /// Whether this is one of the segments that are on their way.
    pub on_its_way: &'a dyn Fn(&SegmentKey) -> bool,
}

/// What a look at the store has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// What follows may be written.
    Ours,
    /// It is not known yet.
    NotYet,
    /// Ours, but what we had stored is no longer there.
    Emptied,
}

/// Keeps a store for one database.
pub struct Owner {
    store: Rc<dyn Store>,
    database: String,
    claim: Option<Box<dyn Claim>>,
    /// The generations that were there when we came, and those that we began.
    known: BTreeSet<Generation>,
    /// The connection after whose beginning it was last seen that nobody else had written.
    seen: Option<u64>,
    /// A listing, and the connection in which it began.
    look: Option<(u64, Box<dyn List>)>,
    not_before: Option<Instant>,
}

impl Owner {
    pub fn new(store: Rc<dyn Store>, database: &str) -> Owner {
        let database = database.to_string();
        Owner { store, database, claim: None, known: BTreeSet::new(), seen: None, look: None, not_before: None }
    }

    /// Before the first look at what is stored. True: nobody else keeps it.
    ///
    /// Errors: the store's, and of kind `Locked`.
    pub fn begin(&mut self, now: Instant, wall: Timestamp) -> Result<bool> {
        if !self.store.connect(now)? {
            return Ok(false);
        }
        let holder = || Holder { database: self.database.clone(), since: wall };
        let claim = self.claim.get_or_insert_with(|| self.store.claim(&holder()));
        self.seen = claim.poll(now)?;
        Ok(self.seen.is_some())
    }

    /// These generations are no surprise.
    pub fn knows(&mut self, generations: impl IntoIterator<Item = Generation>) {
        self.known.extend(generations);
    }

    /// The connection in which it was last seen that nobody else had written.
    pub fn connection(&self) -> Option<u64> {
        self.seen
    }

    /// Whether what follows may be written.
    ///
    /// Errors: of kind `Locked` if another has it now, or has written to it; else the store's, and it is tried again.
    pub fn poll(&mut self, now: Instant, mine: &Mine) -> Result<Seen> {
        let Some(claim) = &mut self.claim else { return Ok(Seen::NotYet) };
        let connection = claim.poll(now)?;
        if connection == self.seen {
            return Ok(Seen::Ours);
        }
        if self.not_before.is_some_and(|time| now < time) {
            return Ok(Seen::NotYet);
        }
        // A listing that began in an earlier connection says nothing of what was written since.
        let Some(current) = connection else { return Ok(Seen::NotYet) };
        self.look.take_if(|(began, _)| *began != current);
        let (_, look) = self.look.get_or_insert_with(|| (current, self.store.list("")));
        match look.poll(now) {
            Ok(None) => Ok(Seen::NotYet),
            Ok(Some(entries)) => {
                let listing = Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)));
                if let Some(what) = stranger(&listing, &self.known, mine) {
                    return Err(superseded(self.store.url(), &what));
                }
                (self.look, self.seen) = (None, connection);
                Ok(if emptied(&listing, mine) { Seen::Emptied } else { Seen::Ours })
            }
            Err(error) => {
                (self.look, self.not_before) = (None, Some(now + RETRY));
                Err(error)
            }
        }
    }
}

/// What somebody else has written, if anything.
fn stranger(listing: &Listing, known: &BTreeSet<Generation>, mine: &Mine) -> Option<String> {
    if let Some((generation, _)) = listing.generations().find(|(generation, _)| !known.contains(generation)) {
        return Some(format!("has begun generation {generation}"));
    }
    let stored = mine.stored?;
    let segments = &listing.generation(stored.generation)?.segments;
    let strange = |key: &SegmentKey| key.end > stored.point && !(mine.on_its_way)(key);
    let (key, _) = segments.iter().find(|(key, _)| strange(key))?;
    Some(format!("has continued generation {} to {}", key.generation, key.end))
}

/// A bucket that was deleted and made anew, a server that lost its disk: nothing could be restored from what follows.
fn emptied(listing: &Listing, mine: &Mine) -> bool {
    let Some(stored) = mine.stored.filter(|_| mine.snapshot) else { return false };
    listing.generation(stored.generation).is_none_or(|found| found.snapshots.is_empty())
}

fn superseded(url: &str, what: &str) -> Error {
    Error::new(Kind::Locked, format!("{url}: another replicator {what} while this one was cut off: it stops here"))
        .with_hint(
            "what this one has not stored is still in its database; decide which of the two databases is the right one",
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::sample::{GENERATION, ms, point};

    fn listing(names: &[SegmentKey]) -> Listing {
        Listing::new(names.iter().map(|key| (key.to_string(), 1)))
    }

    fn segment(generation: u64, start: u64, end: u64) -> SegmentKey {
        let (start, end) = (point(0, start), point(0, end));
        let generation = Generation::new(generation);
        SegmentKey { generation, start, end, first: ms(1), last: ms(1), part: false }
    }

    #[test]
    fn a_generation_whose_snapshots_are_gone_is_not_written_on() {
        let stored = Some(Position { generation: Generation::new(GENERATION), point: point(0, 20) });
        let listing = listing(&[segment(GENERATION, 0, 20)]);
        for (snapshot, expected) in [(true, true), (false, false)] {
            assert_eq!(emptied(&listing, &Mine { stored, snapshot, on_its_way: &|_| false }), expected);
        }
        assert!(!emptied(&listing, &Mine { stored: None, snapshot: true, on_its_way: &|_| false }));
    }

    #[test]
    fn what_is_not_ours_is_told_from_what_arrived_without_an_answer() {
        let known = BTreeSet::from([Generation::new(GENERATION)]);
        let stored = Some(Position { generation: Generation::new(GENERATION), point: point(0, 20) });
        let ours = [segment(GENERATION, 0, 20), segment(GENERATION, 20, 30)];
        let found = |keys: &[SegmentKey], stored| {
            stranger(&listing(keys), &known, &Mine { stored, snapshot: true, on_its_way: &|key| *key == ours[1] })
        };
        assert_eq!(found(&ours, stored), None);
        assert_eq!(found(&[], stored), None);
        let further = [ours[0], segment(GENERATION, 20, 40)];
        assert!(found(&further, stored).is_some_and(|what| what.starts_with("has continued generation ")));
        assert_eq!(found(&further, None), None);
        for other in [GENERATION - 1, GENERATION + 1] {
            let found = found(&[ours[0], segment(other, 0, 9)], stored);
            assert_eq!(found, Some(format!("has begun generation {}", Generation::new(other))));
        }
    }
}

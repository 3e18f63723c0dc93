//! Makes sure that this process is the only writer: it holds the lease, and after each reconnect it checks that nobody
//! else wrote in between. Until that is known nothing may be written.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::format::key::SegmentKey;
use crate::format::listing::Listing;
use crate::format::position::{Generation, Position};
use crate::format::time::Timestamp;
use crate::store::{LeaseHolder, List, Store, WriterLease};

/// After a listing that failed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What we have written, and what may have arrived without an answer.
pub struct OwnWrites<'a> {
    /// The end of what is stored of the generation that is written now; none while there is none.
    pub stored: Option<Position>,
    /// A snapshot of that generation is stored, as far as we know.
    pub snapshot: bool,
    /// Whether this is one of the segments that are on their way.
    pub in_flight: &'a dyn Fn(&SegmentKey) -> bool,
}

/// What a look at the store has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exclusivity {
    /// What follows may be written.
    Confirmed,
    /// It is not known yet.
    Pending,
    /// Ours, but what we had stored is no longer there.
    HistoryGone,
}

/// Keeps a store for one database.
pub struct ExclusiveWriter {
    store: Rc<dyn Store>,
    database: String,
    takeover: bool,
    lease: Option<Box<dyn WriterLease>>,
    /// The generations that were there when we came, and those that we began.
    known: BTreeSet<Generation>,
    /// The connection after whose beginning it was last seen that nobody else had written.
    confirmed_session: Option<u64>,
    /// A listing, and the connection in which it began.
    listing: Option<(u64, Box<dyn List>)>,
    not_before: Option<Instant>,
}

impl ExclusiveWriter {
    /// `takeover`: its holder is told to stop.
    pub fn new(store: Rc<dyn Store>, database: &str, takeover: bool) -> ExclusiveWriter {
        let database = database.to_string();
        ExclusiveWriter {
            store,
            database,
            takeover,
            lease: None,
            known: BTreeSet::new(),
            confirmed_session: None,
            listing: None,
            not_before: None,
        }
    }

    /// Before the first look at what is stored. True: nobody else keeps it.
    ///
    /// Errors: the store's, and of kind `Locked`.
    pub fn acquire(&mut self, now: Instant, wall: Timestamp) -> Result<bool> {
        if !self.store.connect(now)? {
            return Ok(false);
        }
        let holder =
            || LeaseHolder { database: self.database.clone(), since: wall, takeover: self.takeover, anonymous: false };
        let lease = self.lease.get_or_insert_with(|| self.store.acquire_lease(&holder()));
        self.confirmed_session = lease.poll(now)?;
        Ok(self.confirmed_session.is_some())
    }

    /// What others who ask are told from now on: the age of the oldest commit that is not stored.
    pub fn set_lag(&mut self, lag: Option<Duration>) {
        self.lease.iter_mut().for_each(|lease| lease.set_lag(lag));
    }

    /// Whether a standby has said since the last call that it listens for what is stored.
    pub fn take_standby(&mut self) -> bool {
        self.lease.as_mut().is_some_and(|lease| lease.take_standby())
    }

    /// These generations are no surprise.
    pub fn add_generations(&mut self, generations: impl IntoIterator<Item = Generation>) {
        self.known.extend(generations);
    }

    /// Whether what is stored had better not be continued: another writer may continue it yet.
    pub fn predecessor_may_write(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.predecessor_may_write())
    }

    /// Errors: of kind `TakenOver`, if another program has written what is listed.
    pub fn check_listing(&self, listing: &Listing, mine: &OwnWrites) -> Result<()> {
        match foreign_write(listing, &self.known, mine) {
            Some(what) => Err(superseded(self.store.url(), &what)),
            None => Ok(()),
        }
    }

    /// The connection in which it was last seen that nobody else had written.
    pub fn connection(&self) -> Option<u64> {
        self.confirmed_session
    }

    /// Whether what follows may be written.
    ///
    /// Errors: of kind `TakenOver` if another has it now, or has written to it; else the store's, and it is tried again.
    pub fn poll(&mut self, now: Instant, mine: &OwnWrites) -> Result<Exclusivity> {
        let Some(lease) = &mut self.lease else { return Ok(Exclusivity::Pending) };
        let connection = lease.poll(now)?;
        if connection == self.confirmed_session {
            return Ok(Exclusivity::Confirmed);
        }
        if self.not_before.is_some_and(|time| now < time) {
            return Ok(Exclusivity::Pending);
        }
        // A listing that began in an earlier connection says nothing of what was written since.
        let Some(current) = connection else { return Ok(Exclusivity::Pending) };
        self.listing.take_if(|(began, _)| *began != current);
        let (_, look) = self.listing.get_or_insert_with(|| (current, self.store.list("")));
        match look.poll(now) {
            Ok(Poll::Pending) => Ok(Exclusivity::Pending),
            Ok(Poll::Ready(entries)) => {
                let listing = Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)));
                self.check_listing(&listing, mine)?;
                (self.listing, self.confirmed_session) = (None, connection);
                Ok(if history_is_gone(&listing, mine) { Exclusivity::HistoryGone } else { Exclusivity::Confirmed })
            }
            Err(error) => {
                (self.listing, self.not_before) = (None, Some(now + RETRY_DELAY));
                Err(error)
            }
        }
    }
}

/// What another program has written, if anything.
fn foreign_write(listing: &Listing, known: &BTreeSet<Generation>, mine: &OwnWrites) -> Option<String> {
    if let Some((generation, _)) = listing.generations().find(|(generation, _)| !known.contains(generation)) {
        return Some(format!("has started generation {generation}"));
    }
    let stored = mine.stored?;
    let segments = &listing.generation(stored.generation)?.segments;
    let strange = |key: &SegmentKey| key.end > stored.wal_position && !(mine.in_flight)(key);
    let (key, _) = segments.iter().find(|(key, _)| strange(key))?;
    Some(format!("has continued generation {} to {}", key.generation, key.end))
}

/// A bucket that was deleted and made again, a server that lost its disk: nothing could be restored from what follows.
fn history_is_gone(listing: &Listing, mine: &OwnWrites) -> bool {
    let Some(stored) = mine.stored.filter(|_| mine.snapshot) else { return false };
    listing.generation(stored.generation).is_none_or(|found| found.snapshots.is_empty())
}

fn superseded(url: &str, what: &str) -> Error {
    Error::new(Kind::TakenOver, format!("{url}: another replicator {what}; this one stops"))
        .with_hint(
            "commits that this one has not stored are still in its database; decide which of the two databases is the right one",
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{GENERATION, millis, point};

    fn listing(names: &[SegmentKey]) -> Listing {
        Listing::new(names.iter().map(|key| (key.to_string(), 1)))
    }

    fn segment(generation: u64, start: u64, end: u64) -> SegmentKey {
        let (start, end) = (point(0, start), point(0, end));
        let generation = Generation::new(generation);
        SegmentKey { generation, start, end, first_seen: millis(1), last_seen: millis(1), part: false }
    }

    #[test]
    fn a_generation_whose_snapshots_are_gone_is_not_written_on() {
        let stored = Some(Position { generation: Generation::new(GENERATION), wal_position: point(0, 20) });
        let listing = listing(&[segment(GENERATION, 0, 20)]);
        for (snapshot, expected) in [(true, true), (false, false)] {
            assert_eq!(history_is_gone(&listing, &OwnWrites { stored, snapshot, in_flight: &|_| false }), expected);
        }
        assert!(!history_is_gone(&listing, &OwnWrites { stored: None, snapshot: true, in_flight: &|_| false }));
    }

    #[test]
    fn lost_acknowledgement_is_not_a_foreign_write() {
        let known = BTreeSet::from([Generation::new(GENERATION)]);
        let stored = Some(Position { generation: Generation::new(GENERATION), wal_position: point(0, 20) });
        let ours = [segment(GENERATION, 0, 20), segment(GENERATION, 20, 30)];
        let found = |keys: &[SegmentKey], stored| {
            foreign_write(
                &listing(keys),
                &known,
                &OwnWrites { stored, snapshot: true, in_flight: &|key| *key == ours[1] },
            )
        };
        assert_eq!(found(&ours, stored), None);
        assert_eq!(found(&[], stored), None);
        let further = [ours[0], segment(GENERATION, 20, 40)];
        assert!(found(&further, stored).is_some_and(|what| what.starts_with("has continued generation ")));
        assert_eq!(found(&further, None), None);
        for other in [GENERATION - 1, GENERATION + 1] {
            let found = found(&[ours[0], segment(other, 0, 9)], stored);
            assert_eq!(found, Some(format!("has started generation {}", Generation::new(other))));
        }
    }
}

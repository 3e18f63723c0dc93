//! `litestream restore -f`: a copy that follows what is stored, and can be read all the time.
//!
//! What is stored is applied to the file that the readers have open, a transaction at a time ([`copy`]).

mod copy;
mod news;
mod notes;
mod output;
mod record;

use std::path::Path;
use std::time::Duration;

use crate::backup::listing::load_listing_patiently;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::format::chain::continuation;
use crate::format::key::{Key, SegmentKey};
use crate::format::listing::Listing;
use crate::format::plan::Plan;
use crate::format::position::Position;
use crate::interrupt;
use crate::log;
use crate::log::problem_log::ProblemLog;
use crate::log::target_name::TargetName;
use crate::restore::apply::RestoreResult;
use crate::restore::output_file::refuse_existing;
use crate::restore::plan::plan_from;
use crate::restore::request::RestoreRequest;
use crate::restore::to_file;
use crate::store::{Entry, Store};

use copy::Copy;
use news::{News, Next};

/// Bytes of segments that are read without asking whether a snapshot is the shorter way.
const MAX_DETOUR_BYTES: u64 = 1 << 20;

/// Bytes of segments that are applied in one transaction, about.
const MAX_TRANSACTION_BYTES: u64 = 256 << 10;

/// Told of each state that the copy shows, and how long that took.
pub type OnPublished<'a> = &'a mut dyn FnMut(&RestoreResult, Duration) -> Result<()>;

/// What to follow, and where to.
pub struct Followed<'a> {
    pub store: &'a dyn Store,
    pub clock: &'a dyn Clock,
    pub url: &'a str,
    /// What a copy is one of: it goes on only with the same.
    pub source: &'a str,
    pub wanted: &'a RestoreRequest,
    pub output: &'a Path,
    /// Between two looks at what is stored.
    pub interval: Duration,
}

/// Applies everything that is stored now, reads the copy once to prove it by its checksum, and ends the following: from then
/// on it is a database like any other. None if there is no such copy.
///
/// Errors: of kind `Locked`, if it is followed right now. It is a copy still.
pub fn promote(followed: &Followed<'_>) -> Result<Option<RestoreResult>> {
    let Some(copy) = Copy::find(followed.output, followed.source)? else { return Ok(None) };
    let mut ignored = |_: &RestoreResult, _: Duration| Ok(());
    let mut standby = Standby { followed, on_published: &mut ignored, copy: Some(copy), failed: None };
    standby.catch_up()?;
    interrupt::check()?;
    standby.copy.take().map(Copy::promote).transpose()
}

struct Standby<'a> {
    followed: &'a Followed<'a>,
    on_published: OnPublished<'a>,
    copy: Option<Copy>,
    /// What could not be restored when the copy was to be made anew.
    failed: Option<Plan>,
}

/// Follows what is stored until the end is asked for.
///
/// Errors: those of the first restore. Later ones are logged, and what is there stays.
pub fn follow(followed: &Followed<'_>, on_published: OnPublished<'_>) -> Result<()> {
    let copy = Copy::find(followed.output, followed.source)?;
    if copy.is_none() {
        refuse_existing(followed.output, followed.wanted.overwrite)?;
    }
    let mut standby = Standby { followed, on_published, copy, failed: None };
    let mut trouble = ProblemLog::default();
    let name = TargetName::of_database(&followed.output.display().to_string());
    if let Some(shown) = standby.copy.as_ref().and_then(Copy::shown) {
        (standby.on_published)(&shown, Duration::ZERO)?;
    }
    let (mut news, mut next) = (News::new(followed.store, followed.clock, followed.interval), Next::Look);
    while interrupt::requested().is_none() {
        let done = match &next {
            Next::Look => standby.catch_up(),
            Next::Take(entries) => standby.take(entries),
        };
        let failed = done.is_err();
        match done {
            Ok(()) => trouble.clear(followed.clock.now(), &name),
            Err(error) if standby.copy.is_none() => return Err(error),
            Err(_) if interrupt::requested().is_some() => break,
            Err(error) => trouble.report(followed.clock.now(), &name, &error, None),
        }
        next = news.wait(failed);
    }
    // The file alone has everything then, if no reader is in the way.
    standby.copy.as_mut().map_or(Ok(()), Copy::checkpoint)
}

impl Standby<'_> {
    /// Applies what is stored beyond the copy. Where there is none, or what is stored does not lead on from it, it is made.
    fn catch_up(&mut self) -> Result<()> {
        let Followed { store, clock, url, wanted, .. } = *self.followed;
        let listing = load_listing_patiently(store, clock).map_err(|e| e.context(url))?;
        let plan = || plan_from(&listing, url, wanted);
        self.copy.as_mut().map_or(Ok(()), Copy::ensure_open)?;
        let at = self.copy.as_ref().and_then(Copy::at);
        let Some(segments) = at.and_then(|at| news(&listing, &at.position())) else { return self.make(&plan()?) };
        if bytes(&segments) > MAX_DETOUR_BYTES && plan()?.bytes() < bytes(&segments) {
            return self.make(&plan()?);
        }
        match self.apply(&segments) {
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::AnotherDatabase) => {
                self.begin_anew(error, plan()?)
            }
            applied => applied,
        }
    }

    /// Applies what was stored just now, if it is the next of what is to be applied; else looks at everything.
    fn take(&mut self, entries: &[Entry]) -> Result<()> {
        let at = self.copy.as_ref().and_then(Copy::at).map(|at| at.position());
        match at.and_then(|at| following(entries, at)) {
            // What fails here, a look tells why.
            Some(segments) => self.apply(&segments).or_else(|_| self.catch_up()),
            None => self.catch_up(),
        }
    }

    fn apply(&mut self, segments: &[(SegmentKey, u64)]) -> Result<()> {
        for together in transactions(segments, MAX_TRANSACTION_BYTES) {
            match self.apply_together(together) {
                // What is before a damaged one is applied all the same.
                Err(_) if transactions(together, 0).count() > 1 => {
                    transactions(together, 0).try_for_each(|one| self.apply_together(one))?;
                }
                applied => applied?,
            }
            if interrupt::requested().is_some() {
                break;
            }
        }
        Ok(())
    }

    /// All of these become visible at once.
    fn apply_together(&mut self, segments: &[(SegmentKey, u64)]) -> Result<()> {
        let Followed { store, clock, .. } = *self.followed;
        let Some(copy) = &mut self.copy else { return Ok(()) };
        let begun = clock.now();
        let restored = copy.apply(store, clock, segments)?;
        (self.on_published)(&restored, clock.now().saturating_duration_since(begun))
    }

    /// What did not fit may be the copy, or what is stored: then it may lead there by another way. One that has failed is not
    /// tried again.
    fn begin_anew(&mut self, error: Error, plan: Plan) -> Result<()> {
        let unharmed = self.copy.as_mut().map_or(Ok(true), Copy::is_unharmed)?;
        match unharmed {
            true if error.kind() != Kind::Corrupt || self.failed.as_ref() == Some(&plan) => return Err(error),
            true => log::warn("what is stored does not continue the copy, making it anew").error(&error).emit(),
            false => log::warn("copy differs from what is stored, making it anew").error(&error).emit(),
        }
        self.make(&plan).inspect_err(|_| self.failed = Some(plan))
    }

    /// Restores from a snapshot.
    fn make(&mut self, plan: &Plan) -> Result<()> {
        let Followed { store, clock, source, wanted, output, .. } = *self.followed;
        let begun = clock.now();
        let (fresh, restored, at) = to_file::beside(store, clock, plan, wanted, output, &|_| Box::new(|_| ()))?;
        match &mut self.copy {
            Some(copy) => copy.replace(fresh, at, source)?,
            none => *none = Some(Copy::publish(fresh, at, output, source, wanted.overwrite)?),
        }
        (self.on_published)(&restored, clock.now().saturating_duration_since(begun))
    }
}

/// What is stored behind the position; none if it does not lead on from there.
fn news(listing: &Listing, at: &Position) -> Option<Vec<(SegmentKey, u64)>> {
    let (newest, stored) = listing.generations().next_back()?;
    if newest != at.generation {
        return None;
    }
    continuation(stored, at.wal_position)
}

/// The objects of these that continue a copy at a position, which were stored in this order; none where they do not join.
fn following(entries: &[Entry], mut at: Position) -> Option<Vec<(SegmentKey, u64)>> {
    let mut segments = Vec::new();
    for entry in entries {
        match use_of(&entry.name, &at) {
            Use::Nothing => {}
            Use::Look => return None,
            Use::Apply(key) => {
                at.wal_position = key.end;
                segments.push((key, entry.size));
            }
        }
    }
    Some(segments)
}

/// Splits segments where a transaction of the copy ends: at the end of one of the database, once there are so many bytes.
fn transactions(segments: &[(SegmentKey, u64)], least: u64) -> impl Iterator<Item = &[(SegmentKey, u64)]> {
    let mut bytes = 0;
    segments.chunk_by(move |(key, size), _| {
        bytes += size;
        let joins = key.part || bytes < least;
        bytes = if joins { bytes } else { 0 };
        joins
    })
}

/// What an object is to a copy at a position.
#[derive(PartialEq, Eq, Debug)]
enum Use {
    /// It tells nothing new, or not all of a transaction.
    Nothing,
    /// It continues the copy.
    Apply(SegmentKey),
    /// It does not join.
    Look,
}

fn use_of(name: &str, at: &Position) -> Use {
    match Key::parse(name) {
        None => Use::Nothing,
        Some(Key::Snapshot(key)) if key.generation == at.generation => Use::Nothing,
        Some(Key::Segment(key)) if key.generation == at.generation => match key.start <= at.wal_position {
            _ if key.end <= at.wal_position || key.part => Use::Nothing,
            true => Use::Apply(key),
            false => Use::Look,
        },
        Some(_) => Use::Look,
    }
}

fn bytes(segments: &[(SegmentKey, u64)]) -> u64 {
    segments.iter().map(|(_, size)| size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{GENERATION, millis, point};
    use crate::format::key::SnapshotKey;
    use crate::format::position::Generation;

    #[test]
    fn an_object_is_applied_only_where_it_continues_the_copy() {
        let generation = Generation::new(GENERATION);
        let at = Position { generation, wal_position: point(1, 100) };
        let segment = |generation, start, end, part| {
            let (first_seen, last_seen) = (millis(1), millis(2));
            SegmentKey { generation, start: point(1, start), end: point(1, end), first_seen, last_seen, part }
        };
        let use_of = |key: SegmentKey| use_of(&key.to_string(), &at);
        for (start, end) in [(100, 200), (50, 200)] {
            let key = segment(generation, start, end, false);
            assert_eq!(use_of(key), Use::Apply(key));
        }
        assert_eq!(use_of(segment(generation, 50, 100, false)), Use::Nothing);
        assert_eq!(use_of(segment(generation, 100, 200, true)), Use::Nothing);
        assert_eq!(use_of(segment(generation, 150, 200, false)), Use::Look);
        let other = Generation::new(GENERATION + 1);
        assert_eq!(use_of(segment(other, 100, 200, false)), Use::Look);
        let snapshot = |generation| SnapshotKey { generation, position: point(1, 300), time: millis(3) }.to_string();
        assert_eq!(super::use_of(&snapshot(generation), &at), Use::Nothing);
        assert_eq!(super::use_of(&snapshot(other), &at), Use::Look);
        assert_eq!(super::use_of("something/else", &at), Use::Nothing);
        let entry = |key: SegmentKey| Entry { name: key.to_string(), size: 7 };
        let [first, second] = [(100, 200), (200, 300)].map(|(start, end)| segment(generation, start, end, false));
        assert_eq!(following(&[entry(first), entry(second)], at), Some(vec![(first, 7), (second, 7)]));
        assert_eq!(following(&[entry(second), entry(first)], at), None);
    }

    #[test]
    fn small_segments_are_applied_together_and_parts_are_not_split() {
        let generation = Generation::new(GENERATION);
        let segment = |(start, size, part)| {
            let (first_seen, last_seen) = (millis(1), millis(2));
            let key = SegmentKey {
                generation,
                start: point(1, start),
                end: point(1, start + 100),
                first_seen,
                last_seen,
                part,
            };
            (key, size)
        };
        let segments =
            [(0, 4, false), (100, 4, false), (200, 4, false), (300, 9, true), (400, 9, true), (500, 1, false)];
        let segments = segments.map(segment);
        let lengths = |least| transactions(&segments, least).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(0), [1, 1, 1, 3]);
        assert_eq!(lengths(8), [2, 4]);
        assert_eq!(lengths(1000), [6]);
    }
}

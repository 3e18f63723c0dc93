//! `litestream restore -f`: a copy that follows what is stored, and can be read all the time.
//!
//! What is stored is applied to the file that the readers have open, a transaction at a time ([`copy`]).

pub mod comparison_schedule;
mod copy;
pub mod news;
mod notes;
mod output;
mod record;
pub mod schedule;
pub mod seen;
mod segments;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crate::backup::listing::{load_listing, load_listing_patiently};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::format::key::SegmentKey;
use crate::format::listing::Listing;
use crate::format::plan::Plan;
use crate::format::time::Timestamp;
use crate::interrupt;
use crate::log;
use crate::restore::apply::RestoreResult;
use crate::restore::output_file::refuse_existing;
use crate::restore::plan::plan_from;
use crate::restore::request::RestoreRequest;
use crate::restore::to_file;
use crate::source::Comparison;
use crate::store::{Entry, Store};

use copy::Copy;
pub use segments::stored_after;
use segments::{bytes, following, news, transactions};

/// Bytes of segments that are read without asking whether a snapshot is the shorter way.
const MAX_DETOUR_BYTES: u64 = 1 << 20;

/// Bytes of segments that are applied in one transaction, about.
const MAX_TRANSACTION_BYTES: u64 = 256 << 10;

/// Told of each state that the copy shows, and how long that took.
pub type OnPublished<'a> = &'a mut dyn FnMut(&RestoreResult, Duration) -> Result<()>;

/// What to follow, and where to.
pub struct Followed<'a> {
    pub store: Rc<dyn Store>,
    pub clock: &'a dyn Clock,
    pub url: String,
    /// What a copy is one of: it goes on only with the same.
    pub source: String,
    pub wanted: RestoreRequest,
    pub output: PathBuf,
}

/// Applies everything that is stored now, reads the copy once to prove it by its checksum, and ends the following: from then
/// on it is a database like any other. None if there is no such copy.
///
/// Errors: of kind `Locked`, if it is followed right now. It is a copy still.
pub fn promote(followed: Followed<'_>) -> Result<Option<RestoreResult>> {
    let Some(copy) = Copy::find(&followed.output, &followed.source)? else { return Ok(None) };
    let mut follower = Follower::with_copy(followed, Some(copy));
    let listing = load_listing_patiently(&*follower.followed.store, follower.followed.clock);
    let listing = listing.map_err(|e| e.context(&follower.followed.url))?;
    follower.apply_listing(&listing, &mut |_, _| Ok(()))?;
    interrupt::check()?;
    follower.copy.take().map(Copy::promote).transpose()
}

/// A copy that is kept up to date.
pub struct Follower<'a> {
    followed: Rc<Followed<'a>>,
    copy: Option<Copy>,
    /// What could not be restored when the copy was to be restored again.
    failed: Option<Plan>,
    counters: StandbyCounters,
    /// What is known to be stored, and is not in the copy.
    behind: StandbyLag,
}

/// What a follower has done since it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StandbyCounters {
    /// Transactions of the copy that applied segments.
    pub applied: u64,
    /// How often the copy was made from a snapshot.
    pub made: u64,
    /// How often the file of the copy was another one than before: a program that has the old one open has to open it again.
    pub files: u64,
}

/// What is known to be stored, and is not in the copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StandbyLag {
    /// As stored.
    pub bytes: u64,
    /// When the newest of it was committed.
    pub newest: Option<Timestamp>,
}

impl<'a> Follower<'a> {
    /// Takes up the copy that an earlier run has left, if there is one.
    ///
    /// Errors: of kind `Locked`, if another process follows with it; what has its name is another file.
    pub fn new(followed: Followed<'a>) -> Result<Follower<'a>> {
        let copy = Copy::find(&followed.output, &followed.source)?;
        if copy.is_none() {
            refuse_existing(&followed.output, followed.wanted.overwrite)?;
        }
        Ok(Follower::with_copy(followed, copy))
    }

    fn with_copy(followed: Followed<'a>, copy: Option<Copy>) -> Follower<'a> {
        let (counters, behind) = (StandbyCounters::default(), StandbyLag::default());
        Follower { followed: Rc::new(followed), copy, failed: None, counters, behind }
    }

    /// What stands in the copy; none while there is none.
    pub fn shown(&self) -> Option<RestoreResult> {
        self.copy.as_ref().and_then(Copy::shown)
    }

    pub fn has_copy(&self) -> bool {
        self.copy.is_some()
    }

    pub fn counters(&self) -> StandbyCounters {
        self.counters
    }

    pub fn behind(&self) -> StandbyLag {
        self.behind
    }

    /// Everything is in the file alone then, if no reader is in the way.
    pub fn finish(&mut self) -> Result<()> {
        self.copy.as_mut().map_or(Ok(()), Copy::checkpoint)
    }

    /// Other processes see that its store answered at `time`.
    pub fn note_contact(&mut self, time: Timestamp) {
        self.copy.iter_mut().for_each(|copy| copy.note_contact(time));
    }

    /// Reads the next piece of the copy, about so many bytes, to compare all of it with the checksum of what was applied to it.
    /// One that differs is restored again.
    pub fn compare(&mut self, bytes: usize, published: OnPublished<'_>) -> Result<Comparison> {
        let Some(copy) = &mut self.copy else { return Ok(Comparison::Waiting) };
        let error = match copy.compare(bytes) {
            Ok(Comparison::Differs) => differs(&self.followed.output),
            Err(error) if error.kind() == Kind::AnotherDatabase => error,
            compared => return compared,
        };
        if copy.is_unharmed()? {
            return Err(error);
        }
        log::warn("copy differs from what is stored, making it anew").error(&error).emit();
        self.catch_up(published).map(|()| Comparison::Differs)
    }

    /// Applies what is stored beyond the copy. Where there is none, or what is stored does not lead on from it, it is made.
    pub fn catch_up(&mut self, published: OnPublished<'_>) -> Result<()> {
        let Followed { store, clock, url, .. } = &*self.followed.clone();
        let listing = load_listing(&**store, *clock).map_err(|e| e.context(url))?;
        self.apply_listing(&listing, published)
    }

    fn apply_listing(&mut self, listing: &Listing, published: OnPublished<'_>) -> Result<()> {
        let Followed { url, wanted, .. } = &*self.followed.clone();
        let plan = || plan_from(listing, url, wanted);
        self.copy.as_mut().map_or(Ok(()), Copy::ensure_open)?;
        let at = self.copy.as_ref().and_then(Copy::at);
        let Some(segments) = at.and_then(|at| news(listing, &at.position())) else {
            return self.make(&plan()?, published);
        };
        if let Some(shorter) = shorter_way(&segments, &plan)? {
            return self.make(&shorter, published);
        }
        match self.apply(&segments, published) {
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::AnotherDatabase) => {
                self.restart(error, plan()?, published)
            }
            applied => applied,
        }
    }

    /// Applies what was stored just now, if it is the next of what is to be applied; else looks at everything.
    pub fn take(&mut self, entries: &[Entry], published: OnPublished<'_>) -> Result<()> {
        let at = self.copy.as_ref().and_then(Copy::at).map(|at| at.position());
        match at.and_then(|at| following(entries, at)) {
            // What fails here, a look tells why.
            Some(segments) => self.apply(&segments, published).or_else(|_| self.catch_up(published)),
            None => self.catch_up(published),
        }
    }

    fn apply(&mut self, segments: &[(SegmentKey, u64)], published: OnPublished<'_>) -> Result<()> {
        self.behind = StandbyLag { bytes: bytes(segments), newest: segments.last().map(|(key, _)| key.last_seen) };
        for together in transactions(segments, MAX_TRANSACTION_BYTES) {
            match self.apply_together(together, published) {
                // What is before a damaged one is applied all the same.
                Err(_) if transactions(together, 0).count() > 1 => {
                    transactions(together, 0).try_for_each(|one| self.apply_together(one, published))?;
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
    fn apply_together(&mut self, segments: &[(SegmentKey, u64)], published: OnPublished<'_>) -> Result<()> {
        let Followed { store, clock, .. } = &*self.followed.clone();
        let Some(copy) = &mut self.copy else { return Ok(()) };
        let begun = clock.now();
        let restored = copy.apply(&**store, *clock, segments)?;
        self.counters.applied += 1;
        self.behind.bytes = self.behind.bytes.saturating_sub(bytes(segments));
        if self.behind.bytes == 0 {
            self.behind = StandbyLag::default();
        }
        published(&restored, clock.now().saturating_duration_since(begun))
    }

    /// What did not fit may be the copy, or what is stored: then it may lead there by another way. One that has failed is not
    /// tried again.
    fn restart(&mut self, error: Error, plan: Plan, published: OnPublished<'_>) -> Result<()> {
        let unharmed = self.copy.as_mut().map_or(Ok(true), Copy::is_unharmed)?;
        match unharmed {
            true if error.kind() != Kind::Corrupt || self.failed.as_ref() == Some(&plan) => return Err(error),
            true => log::warn("what is stored does not continue the copy, making it anew").error(&error).emit(),
            false => log::warn("copy differs from what is stored, making it anew").error(&error).emit(),
        }
        self.make(&plan, published).inspect_err(|_| self.failed = Some(plan))
    }

    /// Restores from a snapshot.
    fn make(&mut self, plan: &Plan, published: OnPublished<'_>) -> Result<()> {
        let Followed { store, clock, source, wanted, output, .. } = &*self.followed.clone();
        self.behind = StandbyLag { bytes: plan.bytes(), newest: Some(plan.snapshot.time) };
        let begun = clock.now();
        let (fresh, restored, at) = to_file::beside(&**store, *clock, plan, wanted, output, &|_| Box::new(|_| ()))?;
        let before = self.copy.as_ref().map(Copy::file);
        match &mut self.copy {
            Some(copy) => copy.replace(fresh, at, source)?,
            none => *none = Some(Copy::publish(fresh, at, output, source, wanted.overwrite)?),
        }
        self.counters.made += 1;
        self.counters.files += u64::from(self.copy.as_ref().map(Copy::file) != before);
        self.behind = StandbyLag::default();
        published(&restored, clock.now().saturating_duration_since(begun))
    }
}

fn differs(output: &Path) -> Error {
    let what = format!("copy {}: it is not what was applied to it", output.display());
    Error::new(Kind::Database, what).with_hint("its disk or memory is faulty, or another process wrote to it")
}

/// The plan of a restore that reads less than the segments; none where that is not worth it.
fn shorter_way(segments: &[(SegmentKey, u64)], plan: &dyn Fn() -> Result<Plan>) -> Result<Option<Plan>> {
    let instead = bytes(segments);
    if instead <= MAX_DETOUR_BYTES {
        return Ok(None);
    }
    let plan = plan()?;
    if plan.bytes() >= instead {
        return Ok(None);
    }
    log::info("copy is far behind, a snapshot is the shorter way")
        .field("from", plan.snapshot)
        .field("bytes", plan.bytes())
        .field("segments", instead)
        .emit();
    Ok(Some(plan))
}

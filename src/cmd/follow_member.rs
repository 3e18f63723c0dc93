//! One copy among those that a process keeps up to date: when it is looked at, and what is known of it.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::cmd::restore_items::Item;
use crate::cmd::signals;
use crate::error::{Error, Kind, Result};
use crate::format::position::Position;
use crate::format::time::Timestamp;
use crate::log;
use crate::log::problem_log::ProblemLog;
use crate::log::target_name::TargetName;
use crate::restore::request::RestoreRequest;
use crate::restore::standby::comparison_schedule::CopyComparisonSchedule;
use crate::restore::standby::schedule::{Next, Schedule};
use crate::restore::standby::{Followed, Follower, OnPublished, StandbyCounters};
use crate::source::Comparison;
use crate::store::{Entry, Store};

/// A copy that another process has, or whose name another file has, is tried again after this time.
const RETRY_DELAY: Duration = Duration::from_secs(60);
/// The time of the last contact is noted beside the copy so often.
const NOTE_INTERVAL: Duration = Duration::from_secs(60);
/// Without a word of the store for longer, nothing is said of what the copy lacks. A server that tells of new objects is
/// heard every ten seconds.
const CONTACT_LOST: Duration = Duration::from_secs(30);

/// What is known of a copy.
#[derive(Clone, Debug, Default)]
pub struct MemberStatus {
    pub position: Option<Position>,
    pub problem: Option<String>,
    /// None: there was none yet.
    pub contact: Option<Timestamp>,
    /// Bytes that are stored and not in the copy; none where that is not known.
    pub bytes_behind: Option<u64>,
    /// How much older the copy is than what is stored; none where that is not known.
    pub behind: Option<Duration>,
    pub counters: StandbyCounters,
}

/// A copy.
pub struct Member {
    name: Rc<str>,
    target: TargetName,
    interval: Duration,
    /// What makes the follower, while there is none.
    make: Box<dyn Fn() -> Followed<'static>>,
    store: Rc<dyn Store>,
    follower: Option<Follower<'static>>,
    not_before: Option<Instant>,
    schedule: Schedule,
    comparison: CopyComparisonSchedule,
    problems: ProblemLog,
    contact: Option<(Instant, Timestamp)>,
    noted: Option<Instant>,
}

impl Member {
    pub fn new(
        store: Rc<dyn Store>,
        item: Item,
        wanted: RestoreRequest,
        output: PathBuf,
        interval: Duration,
    ) -> Member {
        let name: Rc<str> = output.display().to_string().into();
        let target = TargetName::of_database(&name);
        let about = store.clone();
        let comparison = CopyComparisonSchedule::new(item.compare_interval, SystemClock.now());
        let make = move || item.followed(about.clone(), wanted.clone(), &output);
        Member {
            name,
            target,
            interval,
            make: Box::new(make),
            store,
            follower: None,
            not_before: None,
            schedule: Schedule::new(interval),
            comparison,
            problems: ProblemLog::default(),
            contact: None,
            noted: None,
        }
    }

    /// The path of the copy.
    pub fn name(&self) -> &Rc<str> {
        &self.name
    }

    pub fn has_copy(&self) -> bool {
        self.follower.as_ref().is_some_and(Follower::has_copy)
    }

    pub fn counters(&self) -> StandbyCounters {
        self.follower.as_ref().map(Follower::counters).unwrap_or_default()
    }

    /// This was stored for it just now.
    pub fn on_object(&mut self, entry: Entry) {
        self.schedule.on_object(entry);
    }

    /// Something may have been stored for it.
    pub fn request_listing(&mut self) {
        self.schedule.request_listing();
    }

    /// Takes up the copy that is there.
    ///
    /// Errors: as for [`Follower::new`].
    pub fn open(&mut self, published: OnPublished<'_>) -> Result<()> {
        let begin = || Follower::new((self.make)());
        let follower = begin().or_else(|error| match error.kind() {
            // A reader may have looked at it just now.
            Kind::Locked => {
                SystemClock.sleep(Duration::from_millis(100));
                begin()
            }
            _ => Err(error),
        })?;
        if let Some(shown) = follower.shown() {
            published(&shown, Duration::ZERO)?;
        }
        self.follower = Some(follower);
        Ok(())
    }

    /// Does what is to be done now; true if that was something. `told`: the store tells of what is new.
    ///
    /// Errors: those of a copy that is not there yet. It is tried again all the same.
    pub fn step(&mut self, told: bool, published: OnPublished<'_>) -> Result<bool> {
        let now = SystemClock.now();
        if told {
            self.on_contact(now);
        }
        if self.not_before.is_some_and(|time| now < time) {
            return Ok(false);
        }
        let next = self.schedule.next(now, told);
        if next == Next::Nothing {
            return Ok(false);
        }
        let done = self.work(&next, published);
        let now = SystemClock.now();
        match done {
            Ok(true) => {
                self.on_contact(now);
                self.schedule.done(now, false);
                self.problems.clear(now, &self.target);
                Ok(true)
            }
            Ok(false) => {
                self.schedule.request_listing();
                Ok(false)
            }
            Err(_) if self.has_copy() && signals::shutdown_signal().is_some() => Ok(false),
            Err(error) => {
                self.schedule.done(now, true);
                if self.follower.is_none() {
                    self.not_before = Some(now + RETRY_DELAY);
                }
                if !self.has_copy() {
                    return Err(error);
                }
                self.report(&error);
                Ok(true)
            }
        }
    }

    /// False: the store is not reached yet.
    fn work(&mut self, next: &Next, published: OnPublished<'_>) -> Result<bool> {
        if !self.store.connect(SystemClock.now())? {
            return Ok(false);
        }
        if self.follower.is_none() {
            self.open(published)?;
        }
        let Some(follower) = &mut self.follower else { return Ok(false) };
        match next {
            Next::Take(entries) => follower.take(entries, published)?,
            _ => follower.catch_up(published)?,
        }
        Ok(true)
    }

    /// Since when a piece of the copy is to be compared with what was applied to it; none if none is.
    pub fn comparison_due(&self, now: Instant) -> Option<Instant> {
        self.comparison.due(now).filter(|_| self.has_copy())
    }

    /// Compares a piece. A copy that differs is restored again.
    pub fn compare(&mut self, published: OnPublished<'_>) {
        let Some(follower) = &mut self.follower else { return };
        let piece = self.comparison.piece(SystemClock.now(), follower.counters().applied);
        let compared = follower.compare(piece, published);
        let now = SystemClock.now();
        match compared {
            Ok(Comparison::Going) => {}
            Ok(Comparison::Waiting) => self.comparison.postpone(now),
            Ok(Comparison::Differs) => _ = self.comparison.finish(now),
            Ok(Comparison::Equal) => {
                let took = self.comparison.finish(now);
                log::info("copy compared with what is stored")
                    .field("db", &self.name)
                    .field("seconds", took.as_secs())
                    .emit();
            }
            Err(error) => {
                self.comparison.finish(now);
                self.report(&error);
                // If it differs, and the store was not there to restore it again, that is retried.
                self.schedule.request_listing();
            }
        }
    }

    /// Logs what is wrong, and when it lasts, each minute.
    pub fn report(&mut self, error: &Error) {
        self.problems.report(SystemClock.now(), &self.target, error, None);
    }

    fn on_contact(&mut self, now: Instant) {
        let wall = SystemClock.utc_now();
        self.contact = Some((now, wall));
        if let Some(follower) = &mut self.follower
            && self.noted.is_none_or(|noted| now.saturating_duration_since(noted) >= NOTE_INTERVAL)
        {
            self.noted = Some(now);
            follower.note_contact(wall);
        }
    }

    /// Everything is in the file alone then, if no reader is in the way.
    pub fn finish(&mut self) -> Result<()> {
        self.follower.as_mut().map_or(Ok(()), Follower::finish)
    }

    /// Why it is not known to be what was stored within this time; none if it is.
    pub fn not_current(&self, within: Duration) -> Option<&'static str> {
        let now = SystemClock.now();
        let contact = self.contact.is_some_and(|(at, _)| now.saturating_duration_since(at) < within);
        match &self.follower {
            _ if !self.has_copy() => Some("no copy yet"),
            _ if !contact => Some("no contact"),
            Some(follower) if follower.behind().bytes > 0 => Some("behind"),
            _ if self.problems.text().is_some() => Some("problem"),
            _ => None,
        }
    }

    pub fn status(&self) -> MemberStatus {
        let now = SystemClock.now();
        let lost = CONTACT_LOST.max(2 * self.interval);
        let shown = self.follower.as_ref().and_then(Follower::shown);
        let known = self.contact.is_some_and(|(at, _)| now.saturating_duration_since(at) < lost) && shown.is_some();
        let behind = self.follower.as_ref().filter(|_| known).map(Follower::behind);
        let time = shown.map(|shown| shown.time).unwrap_or_default();
        MemberStatus {
            position: shown.map(|shown| shown.position),
            problem: self.problems.text().map(str::to_string),
            contact: self.contact.map(|(_, wall)| wall),
            bytes_behind: behind.map(|behind| behind.bytes),
            behind: behind.map(|behind| behind.newest.map_or(Duration::ZERO, |newest| newest.since(time))),
            counters: self.counters(),
        }
    }
}

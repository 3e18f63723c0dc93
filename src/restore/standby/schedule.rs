//! When a copy is to be brought up to date: as soon as something was stored for it, else once an interval. Pure.

use std::time::{Duration, Instant};

use crate::store::Entry;

/// Everything is looked at so often, although the store tells of what is new.
const MAX_TRUST: Duration = Duration::from_secs(300);
/// After several failures nothing is tried again sooner than in this time, or in the interval where that is longer.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// More that was stored than this is looked for in a listing: it takes less memory.
const MAX_HEARD: usize = 10_000;

/// What to do next.
#[derive(PartialEq, Eq, Debug)]
pub enum Next {
    Nothing,
    /// Look at everything that is stored.
    Look,
    /// These were stored just now, in this order.
    Take(Vec<Entry>),
}

/// What a copy has heard of, and when it was last looked at.
#[derive(Debug)]
pub struct Schedule {
    /// Between two looks, where nothing is told.
    interval: Duration,
    heard: Vec<Entry>,
    /// Something may have been missed.
    look: bool,
    looked: Option<Instant>,
    failures: u32,
}

impl Schedule {
    pub fn new(interval: Duration) -> Schedule {
        Schedule { interval, heard: Vec::new(), look: true, looked: None, failures: 0 }
    }

    /// This was stored just now.
    pub fn on_object(&mut self, entry: Entry) {
        match self.heard.len() < MAX_HEARD {
            true => self.heard.push(entry),
            false => self.request_listing(),
        }
    }

    /// Something may have been missed.
    pub fn request_listing(&mut self) {
        (self.heard, self.look) = (Vec::new(), true);
    }

    /// What to do now. `told`: the store tells of what is new.
    pub fn next(&mut self, now: Instant, told: bool) -> Next {
        let heard = std::mem::take(&mut self.heard);
        let due = self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= self.pause(told));
        if std::mem::take(&mut self.look) || due || (!heard.is_empty() && self.failures > 0) {
            self.looked = Some(now);
            return Next::Look;
        }
        if heard.is_empty() { Next::Nothing } else { Next::Take(heard) }
    }

    /// What was to be done is done, or has failed.
    pub fn done(&mut self, now: Instant, failed: bool) {
        self.failures = if failed { self.failures.saturating_add(1) } else { 0 };
        if failed {
            self.looked = Some(now);
        }
    }

    fn pause(&self, told: bool) -> Duration {
        match self.failures {
            0 if told => MAX_TRUST,
            0 => self.interval,
            more => self.interval.saturating_mul(1 << more.min(16)).min(MAX_PAUSE.max(self.interval)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn entry(name: &str) -> Entry {
        Entry { name: name.to_string(), size: 1, whole: true }
    }

    #[test]
    fn what_is_told_is_taken_and_all_is_looked_at_now_and_then() {
        let (begin, mut schedule) = (Instant::now(), Schedule::new(SECOND));
        assert_eq!(schedule.next(begin, false), Next::Look);
        schedule.done(begin, false);
        assert_eq!(schedule.next(begin + SECOND / 2, false), Next::Nothing);
        assert_eq!(schedule.next(begin + SECOND, false), Next::Look);
        schedule.done(begin + SECOND, false);
        // Told of what is new, it does not poll.
        assert_eq!(schedule.next(begin + 200 * SECOND, true), Next::Nothing);
        [entry("a"), entry("b")].into_iter().for_each(|entry| schedule.on_object(entry));
        assert_eq!(schedule.next(begin + 200 * SECOND, true), Next::Take(vec![entry("a"), entry("b")]));
        assert_eq!(schedule.next(begin + 200 * SECOND, true), Next::Nothing);
        assert_eq!(schedule.next(begin + 302 * SECOND, true), Next::Look);
        // What was missed is looked for, and what was heard before is in there.
        schedule.on_object(entry("c"));
        schedule.request_listing();
        assert_eq!(schedule.next(begin + 303 * SECOND, true), Next::Look);
        assert_eq!(schedule.next(begin + 303 * SECOND, true), Next::Nothing);
    }

    #[test]
    fn what_fails_is_tried_again_after_longer_and_longer_pauses() {
        let (begin, mut schedule) = (Instant::now(), Schedule::new(SECOND));
        let (mut now, mut pauses) = (begin, Vec::new());
        for _ in 0..6 {
            let failed = now;
            while schedule.next(now, true) == Next::Nothing {
                now += SECOND;
            }
            schedule.done(now, true);
            pauses.push(now.duration_since(failed).as_secs());
        }
        assert_eq!(pauses, [0, 2, 4, 8, 10, 10]);
        // Something new may be what it waits for.
        schedule.on_object(entry("a"));
        assert_eq!(schedule.next(now, true), Next::Look);
        schedule.done(now, false);
        assert_eq!(schedule.next(now + 20 * SECOND, true), Next::Nothing);
    }

    #[test]
    fn more_than_is_worth_to_remember_is_looked_for() {
        let mut schedule = Schedule::new(SECOND);
        let begin = Instant::now();
        schedule.next(begin, true);
        schedule.done(begin, false);
        (0..=MAX_HEARD).for_each(|_| schedule.on_object(entry("a")));
        assert_eq!(schedule.next(begin, true), Next::Look);
    }
}

//! What is kept of a history: every commit of the newest part, and of what is older the last commit of each hour, day, week or
//! month, for as long as each of them is wanted.
//!
//! Hours, days, weeks (from Monday on) and months are those of UTC. Ages are counted back from a reference: see
//! [`crate::format::thinning`].

use std::time::Duration;

use crate::format::time::Timestamp;

/// The names of the keys, from the finest to the coarsest.
pub const NAMES: [&str; 5] = ["all", "hourly", "daily", "weekly", "monthly"];

/// A policy. What is zero is not kept in that step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Keep {
    /// Every commit.
    pub all: Duration,
    /// The last one of each hour, day, week and month.
    pub hourly: Duration,
    pub daily: Duration,
    pub weekly: Duration,
    pub monthly: Duration,
}

/// A length of time of which one state is kept, from the finest to the coarsest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum KeepStep {
    Hour,
    Day,
    Week,
    Month,
}

impl Keep {
    /// What is kept for so long, each or none, in the order of [`NAMES`].
    ///
    /// Errors: the places of two durations of which the coarser one is shorter: what it keeps, the finer one keeps anyway.
    pub fn new(durations: [Option<Duration>; 5]) -> std::result::Result<Keep, (usize, usize)> {
        let mut before: Option<(usize, Duration)> = None;
        for (place, duration) in durations.into_iter().enumerate().filter_map(|(at, some)| Some((at, some?))) {
            if let Some((finer, _)) = before.filter(|(_, longer)| duration < *longer) {
                return Err((place, finer));
            }
            before = Some((place, duration));
        }
        let [all, hourly, daily, weekly, monthly] = durations.map(Option::unwrap_or_default);
        Ok(Keep { all, hourly, daily, weekly, monthly })
    }

    /// Nothing that is older is kept.
    pub fn longest(&self) -> Duration {
        self.steps().iter().map(|(_, duration)| *duration).fold(self.all, Duration::max)
    }

    fn steps(&self) -> [(KeepStep, Duration); 4] {
        [
            (KeepStep::Hour, self.hourly),
            (KeepStep::Day, self.daily),
            (KeepStep::Week, self.weekly),
            (KeepStep::Month, self.monthly),
        ]
    }

    /// Whether every commit of this moment is kept.
    pub fn keeps_all(&self, reference: Timestamp, time: Timestamp) -> bool {
        reference.since(time) <= self.all
    }

    /// Whether the commit of `time` is kept, after which the next one is of `next`.
    pub fn keeps(&self, reference: Timestamp, time: Timestamp, next: Timestamp) -> bool {
        let age = reference.since(time);
        let is_last = |step: KeepStep| step.window(time) < step.window(next);
        age <= self.all || self.steps().into_iter().any(|(step, kept)| age <= kept && is_last(step))
    }

    /// Whether some of the commits from `first` on may be kept that come before the one of `last`.
    pub fn keeps_between(&self, reference: Timestamp, first: Timestamp, last: Timestamp) -> bool {
        let age = reference.since(last);
        let has_border = |step: KeepStep| step.window(first) < step.window(last);
        age <= self.all || self.steps().into_iter().any(|(step, kept)| age <= kept && has_border(step))
    }

    /// Whether a merged segment of these moments would hide one that is to be kept alone later.
    pub fn allows_merge(&self, first: Timestamp, last: Timestamp) -> bool {
        let finest = self.steps().into_iter().find(|(_, kept)| !kept.is_zero());
        finest.is_none_or(|(step, _)| step.window(first) == step.window(last))
    }
}

impl KeepStep {
    const ALL: [KeepStep; 4] = [KeepStep::Hour, KeepStep::Day, KeepStep::Week, KeepStep::Month];

    /// As in [`NAMES`].
    pub fn name(self) -> &'static str {
        match self {
            KeepStep::Hour => "hourly",
            KeepStep::Day => "daily",
            KeepStep::Week => "weekly",
            KeepStep::Month => "monthly",
        }
    }

    /// The finest one in which two moments are in the same window or in neighbours; the coarsest, if there is none.
    pub fn between(first: Timestamp, next: Timestamp) -> KeepStep {
        let near = |step: &KeepStep| step.window(next) <= step.window(first) + 1;
        KeepStep::ALL.into_iter().find(near).unwrap_or(KeepStep::Month)
    }

    /// Whether there is no other commit in the window of the first one after it.
    pub fn ends_between(self, time: Timestamp, next: Timestamp) -> bool {
        self.window(time) < self.window(next)
    }

    /// The number of the hour, day, week or month.
    fn window(self, time: Timestamp) -> u64 {
        const DAY: u64 = 86_400_000;
        match self {
            KeepStep::Hour => time.millis() / 3_600_000,
            KeepStep::Day => time.millis() / DAY,
            // 1970 began on a Thursday.
            KeepStep::Week => (time.millis() / DAY + 3) / 7,
            KeepStep::Month => time.month(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn keep() -> Keep {
        Keep::new([Some(DAY), Some(7 * DAY), Some(90 * DAY), None, Some(3650 * DAY)]).unwrap()
    }

    #[test]
    fn a_coarser_step_that_is_shorter_is_refused() {
        assert_eq!(Keep::new([Some(DAY), None, Some(HOUR), None, None]), Err((2, 0)));
        assert_eq!(Keep::new([Some(DAY), Some(DAY), Some(2 * DAY), Some(DAY), None]), Err((3, 2)));
        let kept = Keep::new([Some(DAY), None, None, Some(9 * DAY), Some(9 * DAY)]).unwrap();
        assert_eq!((kept.all, kept.daily, kept.longest()), (DAY, Duration::ZERO, 9 * DAY));
        assert_eq!(Keep::new([Some(HOUR), None, None, None, None]).unwrap().longest(), HOUR);
    }

    #[test]
    fn windows_begin_where_the_clock_and_the_calendar_say() {
        let table = [
            (KeepStep::Hour, "2026-11-28T10:59:59.999Z", "2026-11-28T11:00:00.000Z"),
            (KeepStep::Day, "2026-11-28T23:59:59.999Z", "2026-11-29T00:00:00.000Z"),
            // Sunday and Monday.
            (KeepStep::Week, "2026-11-29T23:59:59.999Z", "2026-11-30T00:00:00.000Z"),
            (KeepStep::Month, "2024-02-29T23:59:59.999Z", "2024-03-01T00:00:00.000Z"),
            (KeepStep::Month, "2025-12-31T23:59:59.999Z", "2026-01-01T00:00:00.000Z"),
        ];
        for (step, last, first) in table {
            assert_eq!(step.window(at(last)) + 1, step.window(at(first)), "{step:?} at {first}");
            assert_eq!(step.window(at(last)), step.window(at(last).before(HOUR / 2)), "{step:?} before {last}");
        }
    }

    #[test]
    fn the_last_commit_of_a_window_is_kept_as_long_as_its_step() {
        let now = at("2026-11-28T12:00:00Z");
        let table = [
            // Within a day every commit; after it the last one of the hour.
            ("2026-11-27T12:00:00Z", "2026-11-27T12:00:01Z", true),
            ("2026-11-27T11:59:59Z", "2026-11-27T11:59:59.500Z", false),
            ("2026-11-27T11:59:59Z", "2026-11-27T12:00:00Z", true),
            // After a week, the last one of the day.
            ("2026-11-21T10:59:00Z", "2026-11-21T11:00:00Z", false),
            ("2026-11-20T23:00:00Z", "2026-11-23T11:00:00Z", true),
            // After 90 days, the last one of the month: not of the week.
            ("2026-08-09T23:00:00Z", "2026-08-10T00:00:00Z", false),
            ("2026-07-30T23:00:00Z", "2026-08-01T00:00:00Z", true),
            // Older than all.
            ("2016-10-31T23:00:00Z", "2016-11-01T00:00:00Z", false),
        ];
        for (time, next, kept) in table {
            assert_eq!(keep().keeps(now, at(time), at(next)), kept, "{time}, then {next}");
        }
    }

    #[test]
    fn what_may_be_kept_within_a_segment_keeps_it_whole() {
        let now = at("2026-11-28T12:00:00Z");
        let table = [
            ("2026-11-27T11:00:00Z", "2026-11-27T12:30:00Z", true),
            ("2026-11-25T11:00:00Z", "2026-11-25T11:30:00Z", false),
            ("2026-11-25T11:30:00Z", "2026-11-25T12:30:00Z", true),
            ("2026-11-15T11:30:00Z", "2026-11-15T22:30:00Z", false),
            ("2026-11-15T11:30:00Z", "2026-11-16T00:30:00Z", true),
            ("2026-06-15T11:30:00Z", "2026-06-16T00:30:00Z", false),
            ("2026-06-30T11:30:00Z", "2026-07-01T00:30:00Z", true),
        ];
        for (first, last, within) in table {
            assert_eq!(keep().keeps_between(now, at(first), at(last)), within, "{first} to {last}");
        }
        assert!(!keep().allows_merge(at("2026-11-25T11:30:00Z"), at("2026-11-25T12:00:00Z")));
        assert!(keep().allows_merge(at("2026-11-25T11:30:00Z"), at("2026-11-25T11:59:00Z")));
        assert!(
            Keep { all: DAY, ..Keep::default() }.allows_merge(at("2026-11-25T11:30:00Z"), at("2026-11-26T12:00:00Z"))
        );
    }
}

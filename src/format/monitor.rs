//! Whether a stored database is as it should be, seen from what is stored and from what its replicator says.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::retention::MAX_CLOCK_SKEW;
use crate::format::stored_databases::NewestState;
use crate::format::time::{Timestamp, age_text};

/// What is wrong with a database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// It is expected, and nothing is stored.
    Gone,
    /// Something is stored, and a restore of the newest state fails: why.
    Unprotected(String),
    /// What a restore gives is of too long ago.
    Late { newest: Timestamp, age: Duration },
    /// What a restore gives is of a moment that has not come: how old it is, nobody knows.
    InFuture { newest: Timestamp, ahead: Duration },
    /// Its replicator has a commit of too long ago that is not stored.
    Behind { lag: Duration },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Gone => write!(f, "gone: nothing is stored"),
            Problem::Unprotected(why) => write!(f, "unprotected: {why}"),
            Problem::Late { newest, age } => {
                write!(f, "late: the newest state is from {newest}, {} ago", age_text(*age))
            }
            Problem::InFuture { newest, ahead } => {
                let ahead = age_text(*ahead);
                write!(f, "unknown age: the newest moment, {newest}, is {ahead} in the future: a clock was wrong")
            }
            Problem::Behind { lag } => {
                write!(f, "late: its replicator has not stored a commit from {} ago", age_text(*lag))
            }
        }
    }
}

/// Judges one database. `stored` is none where it is expected and nothing is there. `lag` is what its replicator says, if
/// one lives: a database that nobody writes to is not late, however old its newest state is.
pub fn problem(
    stored: Option<&Result<NewestState>>,
    lag: Option<Duration>,
    max_age: Option<Duration>,
    now: Timestamp,
) -> Option<Problem> {
    let newest = match stored {
        None => return Some(Problem::Gone),
        Some(Err(error)) => return Some(Problem::Unprotected(reason(error))),
        Some(Ok(state)) => state.time,
    };
    match (lag, age(newest, now)) {
        (Some(lag), _) => (lag > max_age?).then_some(Problem::Behind { lag }),
        (None, Some(age)) => (age > max_age?).then_some(Problem::Late { newest, age }),
        (None, None) => Some(Problem::InFuture { newest, ahead: newest.since(now) }),
    }
}

/// How old the newest moment is; 0 where it is ahead by no more than clocks differ. None: it is further ahead than that, and
/// proves nothing.
pub fn age(newest: Timestamp, now: Timestamp) -> Option<Duration> {
    (newest.before(MAX_CLOCK_SKEW) <= now).then(|| now.since(newest))
}

fn reason(error: &Error) -> String {
    error.message().to_string()
}

/// How the database at the place itself is called in a list.
pub const ROOT_NAME: &str = ".";

/// The prefixes that a text names, one a line; [`ROOT_NAME`] is the empty one.
pub fn expected_prefixes(text: &str) -> BTreeSet<String> {
    let names = text.lines().map(|line| line.trim().trim_matches('/')).filter(|name| !name.is_empty());
    names.map(|name| if name == ROOT_NAME { "" } else { name }.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::format::fixtures::millis;

    #[test]
    fn database_is_late_by_its_replicator_or_else_by_its_backup() {
        let newest = |time| Ok(NewestState { time: millis(time), size: 1 });
        let (now, secs) = (millis(100_000), Duration::from_secs);
        let late = |time, age| Some(Problem::Late { newest: millis(time), age: secs(age) });
        let in_future =
            |time| Some(Problem::InFuture { newest: millis(time), ahead: Duration::from_millis(time - 100_000) });
        let table = [
            (newest(90_000), None, Some(10), None),
            (newest(89_000), None, Some(10), late(89_000, 11)),
            (newest(89_000), None, None, None),
            // Nobody has written to it for long.
            (newest(1_000), Some(0), Some(10), None),
            (newest(1_000), Some(10), Some(10), None),
            (newest(99_000), Some(11), Some(10), Some(Problem::Behind { lag: secs(11) })),
            // A clock that is ahead by no more than clocks differ,
            (newest(400_000), None, Some(10), None),
            // and one that was wrong. Its replicator knows better.
            (newest(400_001), None, Some(10), in_future(400_001)),
            (newest(400_001), None, None, in_future(400_001)),
            (newest(Timestamp::MAX.millis()), None, Some(10), in_future(Timestamp::MAX.millis())),
            (newest(400_001), Some(10), Some(10), None),
            (newest(400_001), Some(11), Some(10), Some(Problem::Behind { lag: secs(11) })),
        ];
        for (stored, lag, max_age, expected) in table {
            assert_eq!(problem(Some(&stored), lag.map(secs), max_age.map(secs), now), expected, "{stored:?} {lag:?}");
        }
    }

    #[test]
    fn unrestorable_backup_is_a_problem_despite_its_replicator() {
        let gap = Err(Error::new(Kind::Corrupt, "no segment begins at 1"));
        for max_age in [None, Some(Duration::MAX)] {
            let found = problem(Some(&gap), Some(Duration::ZERO), max_age, millis(1));
            assert_eq!(found, Some(Problem::Unprotected("no segment begins at 1".to_string())));
            assert_eq!(problem(None, Some(Duration::ZERO), max_age, millis(1)), Some(Problem::Gone));
        }
    }

    #[test]
    fn a_problem_is_one_line_that_begins_with_its_kind() {
        let table = [
            (Problem::Gone, "gone: nothing is stored"),
            (Problem::Unprotected("why".into()), "unprotected: why"),
            (
                Problem::Late { newest: millis(0), age: Duration::from_secs(7320) },
                "late: the newest state is from 1970-01-01T00:00:00.000Z, 2h 2m ago",
            ),
            (
                Problem::InFuture { newest: millis(86_400_000), ahead: Duration::from_secs(7320) },
                "unknown age: the newest moment, 1970-01-02T00:00:00.000Z, is 2h 2m in the future: a clock was wrong",
            ),
            (
                Problem::Behind { lag: Duration::from_secs(61) },
                "late: its replicator has not stored a commit from 1m 1s ago",
            ),
        ];
        for (problem, line) in table {
            assert_eq!(problem.to_string(), line);
        }
    }

    #[test]
    fn expected_prefixes_stand_one_a_line() {
        let found = expected_prefixes("app\n\n  tenants/t1.db/ \r\n/x y\n.\napp\n");
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["", "app", "tenants/t1.db", "x y"]);
        assert!(expected_prefixes(" \n/\n").is_empty());
    }
}

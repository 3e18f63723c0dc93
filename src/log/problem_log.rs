//! Saying what is wrong often enough, and not more often.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::log;
use crate::log::target_name::TargetName;

/// A trouble that stays is said again after this time.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);
/// What is looked at each second has been well for two looks at least.
const QUIET_TIME: Duration = Duration::from_secs(3);

/// What is wrong with one database right now, if anything.
#[derive(Default)]
pub struct ProblemLog {
    current: Option<ActiveProblem>,
}

struct ActiveProblem {
    text: String,
    since: Instant,
    /// When it was met last.
    last_seen: Instant,
    /// Which cause was said when: two that take turns are no news either.
    logged: Vec<(String, Instant)>,
}

/// A lag in the log: seconds, or `-` where it is not known.
pub fn lag_text(lag: Option<Duration>) -> String {
    lag.map_or_else(|| "-".to_string(), |lag| format!("{:.1}s", lag.as_secs_f64()))
}

/// The text without its numbers: each attempt at a snapshot has another time in its name.
fn without_digits(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// The same trouble met in another operation ends in the same words.
fn is_same(one: &str, other: &str) -> bool {
    one.ends_with(other) || other.ends_with(one)
}

/// So many causes may take turns.
const MAX_CAUSES: usize = 8;

impl ProblemLog {
    /// Something is wrong: logged on first sight, on change, and each minute. `lag` is none where it is not known.
    pub fn report(&mut self, now: Instant, target: &TargetName, error: &Error, lag: Option<Duration>) {
        let text = error.to_string();
        let current = self.current.get_or_insert_with(|| ActiveProblem {
            text: String::new(),
            since: now,
            last_seen: now,
            logged: Vec::new(),
        });
        current.last_seen = now;
        current.text.clone_from(&text);
        current.logged.retain(|(_, said)| now.duration_since(*said) < REPEAT_INTERVAL);
        let cause = without_digits(&text);
        if current.logged.iter().any(|(said, _)| is_same(said, &cause)) {
            return;
        }
        target.tag(log::warn("problem, retrying")).field("lag", lag_text(lag)).error(error).emit();
        if current.logged.len() >= MAX_CAUSES {
            current.logged.remove(0);
        }
        current.logged.push((cause, now));
    }

    /// Something is wrong, and has been said.
    pub fn set(&mut self, now: Instant, error: &Error) {
        let text = error.to_string();
        let logged = vec![(without_digits(&text), now)];
        let since = self.current.as_ref().map_or(now, |current| current.since);
        self.current = Some(ActiveProblem { text, since, last_seen: now, logged });
    }

    /// Nothing is wrong any more.
    pub fn clear(&mut self, now: Instant, target: &TargetName) {
        if let Some(current) = self.current.take() {
            let lasted = now.duration_since(current.since).as_secs();
            target.tag(log::info("problem resolved")).field("after", format!("{lasted}s")).emit();
        }
    }

    /// All is stored, and what was wrong has not been met for longer than any look at it takes: it has passed, though nothing
    /// had to be stored since.
    pub fn clear_if_quiet(&mut self, now: Instant, target: &TargetName) {
        if self.current.as_ref().is_some_and(|current| now.duration_since(current.last_seen) >= QUIET_TIME) {
            self.clear(now, target);
        }
    }

    /// What is wrong, in words.
    pub fn text(&self) -> Option<&str> {
        self.current.as_ref().map(|current| current.text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_that_is_not_met_again_has_passed() {
        let (mut trouble, begin) = (ProblemLog::default(), Instant::now());
        let a = TargetName::of_database("a.db");
        let error = Error::new(crate::error::Kind::StoreUnreachable, "no answer");
        trouble.report(begin, &a, &error, None);
        trouble.report(begin + Duration::from_secs(2), &a, &error, None);
        trouble.clear_if_quiet(begin + Duration::from_secs(4), &a);
        assert_eq!(trouble.text(), Some("no answer"));
        trouble.clear_if_quiet(begin + Duration::from_secs(5), &a);
        assert_eq!(trouble.text(), None);
    }

    #[test]
    fn one_cause_is_one_trouble_whatever_it_was_that_failed() {
        let cause = |text: &str| super::without_digits(text);
        let lost = cause("127.0.0.1:4222: connect: connection refused");
        assert!(is_same(&lost, &cause("put a/17.gz: 127.0.0.1:4222: connect: connection refused")));
        assert!(is_same(&cause("put a/17.gz: 127.0.0.1:4222: connect: connection refused"), &lost));
        assert!(!is_same(&lost, &cause("127.0.0.1:4222: login: Authorization Violation")));
    }
}

//! Saying what is wrong often enough, and not more often.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::log;

/// A trouble that stays is said again after this time.
const REPEAT: Duration = Duration::from_secs(60);

/// What is wrong with one database right now, if anything.
#[derive(Default)]
pub struct Trouble {
    current: Option<Current>,
}

struct Current {
    text: String,
    since: Instant,
    said: Instant,
}

impl Trouble {
    /// Something is wrong: logged on first sight, on change, and each minute. `lag` is in seconds.
    pub fn report(&mut self, now: Instant, database: &str, error: &Error, lag: u64) {
        let text = error.to_string();
        let since = self.current.as_ref().map_or(now, |current| current.since);
        let repeated = self.current.as_ref().is_some_and(|c| c.text == text && now.duration_since(c.said) < REPEAT);
        if repeated {
            return;
        }
        log::warn("not stored, trying again").field("db", database).field("lag", format!("{lag}s")).cause(error).emit();
        self.current = Some(Current { text, since, said: now });
    }

    /// Nothing is wrong any more.
    pub fn clear(&mut self, now: Instant, database: &str) {
        if let Some(current) = self.current.take() {
            let lasted = now.duration_since(current.since).as_secs();
            log::info("working again").field("db", database).field("after", format!("{lasted}s")).emit();
        }
    }

    /// What is wrong, in words.
    pub fn text(&self) -> Option<&str> {
        self.current.as_ref().map(|current| current.text.as_str())
    }
}

//! Log lines on standard error, in logfmt or as JSON: `time=… level=info msg="…" db=… position=…`.

pub mod problem_log;
pub mod target_name;
pub mod warn_once;

use std::fmt::{self, Display, Write as _};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::Error;
use crate::format::time::Timestamp;
use crate::printable::is_unprintable;

/// How much a line matters. Lines below the set level are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

static JSON: AtomicBool = AtomicBool::new(false);
static TIMESTAMPS: AtomicBool = AtomicBool::new(true);

/// One JSON object a line from now on, or logfmt.
pub fn set_json(json: bool) {
    JSON.store(json, Ordering::Relaxed);
}

/// Whether lines begin with the time; where they go may add its own.
pub fn set_timestamps(stamped: bool) {
    TIMESTAMPS.store(stamped, Ordering::Relaxed);
}

/// Sets the level for the whole process.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Drops every line from now on: for a test that provokes thousands of them.
pub fn silence() {
    LEVEL.store(u8::MAX, Ordering::Relaxed);
}

impl Level {
    /// Reads `trace`, `debug`, `info`, `warn` or `error`, in either case.
    pub fn parse(text: &str) -> Option<Level> {
        let all = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error];
        all.into_iter().find(|level| level.name().eq_ignore_ascii_case(text))
    }

    fn name(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }

    fn is_on(self) -> bool {
        self as u8 >= LEVEL.load(Ordering::Relaxed)
    }
}

/// One line in the making; nothing is formatted below the set level.
#[must_use = "a line is written by emit()"]
pub struct LogRecord {
    text: Option<String>,
    json: bool,
}

pub fn debug(message: &str) -> LogRecord {
    LogRecord::new(Level::Debug, message)
}

pub fn info(message: &str) -> LogRecord {
    LogRecord::new(Level::Info, message)
}

pub fn warn(message: &str) -> LogRecord {
    LogRecord::new(Level::Warn, message)
}

pub fn error(message: &str) -> LogRecord {
    LogRecord::new(Level::Error, message)
}

/// For a level that depends on something.
pub fn at(level: Level, message: &str) -> LogRecord {
    LogRecord::new(level, message)
}

impl LogRecord {
    fn new(level: Level, message: &str) -> LogRecord {
        let text = level.is_on().then(String::new);
        let json = JSON.load(Ordering::Relaxed);
        let line = LogRecord { text, json };
        let line = if TIMESTAMPS.load(Ordering::Relaxed) { line.field("time", now_utc()) } else { line };
        line.field("level", level.name()).field("msg", message)
    }

    /// Adds `key=value`, quoted where logfmt needs it.
    pub fn field(mut self, key: &str, value: impl Display) -> LogRecord {
        if let Some(text) = &mut self.text {
            match self.json {
                true => push_member(text, key, &value),
                false => push_field(text, key, &value),
            }
        }
        self
    }

    /// Adds what went wrong, and the hint if there is one.
    pub fn error(self, error: &Error) -> LogRecord {
        let line = self.field("error", error);
        match error.hint() {
            Some(hint) => line.field("hint", hint),
            None => line,
        }
    }

    /// Writes the line in one piece. A closed standard error is no reason to stop a backup.
    pub fn emit(self) {
        if let Some(mut text) = self.text {
            text.push_str(if self.json { "}\n" } else { "\n" });
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
        }
    }
}

fn push_member(text: &mut String, key: &str, value: &dyn Display) {
    let before = if text.is_empty() { '{' } else { ',' };
    let _ = write!(text, "{before}\"{key}\":{}", Quoted(&value.to_string()));
}

fn push_field(text: &mut String, key: &str, value: &dyn Display) {
    if !text.is_empty() {
        text.push(' ');
    }
    let value = value.to_string();
    let plain = |c: char| !is_unprintable(c) && !matches!(c, ' ' | '"' | '=' | '\\');
    if !value.is_empty() && value.chars().all(plain) {
        let _ = write!(text, "{key}={value}");
    } else {
        let _ = write!(text, "{key}={}", Quoted(&value));
    }
}

/// A string of logfmt and of JSON: quotes, backslashes and control characters escaped, so that one event is one line.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                c if is_unprintable(c) => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// The wall clock, for the stamp of a line only.
fn now_utc() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(value: &str) -> String {
        let mut text = String::new();
        push_field(&mut text, "k", &value);
        text
    }

    #[test]
    fn values_are_quoted_if_needed_and_never_break_the_line() {
        let table = [
            ("plain/1:2", "k=plain/1:2"),
            ("", "k=\"\""),
            ("two words", "k=\"two words\""),
            ("a=b", "k=\"a=b\""),
            ("say \"no\"\n\u{7}", "k=\"say \\\"no\\\"\\n\\u0007\""),
        ];
        for (value, expected) in table {
            assert_eq!(field(value), expected);
        }
    }

    #[test]
    fn in_json_every_value_is_a_string_and_never_breaks_the_line() {
        let mut text = String::new();
        push_member(&mut text, "level", &"info");
        push_member(&mut text, "msg", &"say \"no\"\n\\");
        assert_eq!(text, r#"{"level":"info","msg":"say \"no\"\n\\""#);
    }

    #[test]
    fn levels_read_in_either_case() {
        assert_eq!(Level::parse("WARN"), Some(Level::Warn));
        assert_eq!(Level::parse("loud"), None);
    }
}

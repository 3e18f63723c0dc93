//! The progress line of `snapshot` and `restore`: on a terminal only, and gone when the work is done.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::cmd::clock::SystemClock;
use crate::printable::human_size;

/// Between two updates of the line.
const DRAW_INTERVAL: Duration = Duration::from_millis(200);

/// Set by -q: no line is shown.
static SILENT: AtomicBool = AtomicBool::new(false);

/// From now on no progress is shown.
pub fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

/// One line on standard error that is written over and over.
pub struct ProgressLine {
    label: &'static str,
    total: u64,
    started: Instant,
    last_drawn: Option<Instant>,
    terminal: bool,
}

impl ProgressLine {
    /// Work on `total` bytes begins.
    pub fn new(what: &'static str, total: u64, now: Instant) -> ProgressLine {
        ProgressLine {
            label: what,
            total,
            started: now,
            last_drawn: None,
            terminal: !SILENT.load(Ordering::Relaxed) && std::io::stderr().is_terminal(),
        }
    }

    /// `done` bytes are done.
    pub fn update(&mut self, done: u64, now: Instant) {
        let recent = self.last_drawn.is_some_and(|shown| now.duration_since(shown) < DRAW_INTERVAL);
        if !self.terminal || recent {
            return;
        }
        self.last_drawn = Some(now);
        let line = line(self.label, done, self.total, now.duration_since(self.started));
        let _ = write!(std::io::stderr().lock(), "\r\x1b[K{line}");
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.last_drawn.is_some() {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

/// A line for each piece of work, gone when the piece is: for the layers below, which are told bytes alone.
pub fn progress_line(label: &'static str) -> impl Fn(u64) -> Box<dyn FnMut(u64)> {
    move |total| {
        let mut line = ProgressLine::new(label, total, SystemClock.now());
        Box::new(move |done| line.update(done, SystemClock.now()))
    }
}

/// `restore  123 MB of 456 MB  27 %  110 MB/s  0:03 left`
fn line(what: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let done = done.min(total);
    let percent = (done * 100).checked_div(total).unwrap_or(100);
    let seconds = elapsed.as_secs_f64();
    let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
    let left = match rate {
        rate if rate >= 1.0 => format_eta((total - done) as f64 / rate),
        _ => "-:--".to_string(),
    };
    format!(
        "{what}  {} of {}  {percent} %  {}/s  {left} left",
        human_size(done),
        human_size(total),
        human_size(rate as u64)
    )
}

fn format_eta(seconds: f64) -> String {
    let seconds = seconds.ceil() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_rate_and_remaining_time() {
        let shown = line("restore", 25_000_000, 100_000_000, Duration::from_secs(5));
        assert_eq!(shown, "restore  25 MB of 100 MB  25 %  5.0 MB/s  0:15 left");
        assert_eq!(line("restore", 0, 10, Duration::ZERO), "restore  0 B of 10 B  0 %  0 B/s  -:-- left");
        assert_eq!(line("restore", 0, 0, Duration::ZERO), "restore  0 B of 0 B  100 %  0 B/s  -:-- left");
    }

    #[test]
    fn long_waits_have_hours() {
        assert_eq!(format_eta(3.2), "0:04");
        assert_eq!(format_eta(3_725.0), "1:02:05");
    }
}

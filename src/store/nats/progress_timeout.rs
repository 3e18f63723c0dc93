//! How long an operation may go without progress.

use std::time::{Duration, Instant};

use super::inbox::Inbox;
use crate::error::Result;

/// An answer may take longer than the time-out on a slow link, where a message of 128 KiB or what stands before it takes as
/// long: so many time-outs in a row are waited out in which at least so many bytes of messages have moved.
const MAX_EXTENSIONS: u32 = 12;
const MIN_PROGRESS_BYTES: u64 = 4096;

/// How long an operation has gone without progress.
#[derive(Default)]
pub struct ProgressTimeout {
    since: Option<Instant>,
    /// What had moved then, and how often it was waited on since more had.
    moved: u64,
    extensions: u32,
}

impl ProgressTimeout {
    pub fn reset(&mut self) {
        *self = ProgressTimeout::default();
    }

    /// Errors: the server refused what was asked; or no answer came for the client's time-out, in which the link stood
    /// still.
    pub fn check(&mut self, now: Instant, inbox: &Inbox) -> Result<()> {
        inbox.check_denied()?;
        let client = &inbox.client;
        if self.is_expired(now, client.timeout(), client.bytes_moved()) { Err(client.timeout_error()) } else { Ok(()) }
    }

    fn is_expired(&mut self, now: Instant, timeout: Duration, moved: u64) -> bool {
        let Some(since) = self.since else {
            (self.since, self.moved) = (Some(now), moved);
            return false;
        };
        if now.saturating_duration_since(since) <= timeout.max(Duration::from_millis(1)) {
            return false;
        }
        let moves = moved.saturating_sub(self.moved) >= MIN_PROGRESS_BYTES && self.extensions < MAX_EXTENSIONS;
        (self.since, self.moved, self.extensions) = (Some(now), moved, self.extensions + 1);
        !moves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_is_extended_only_by_progress() {
        const SECOND: Duration = Duration::from_secs(1);
        // When it is over if so many bytes move in a tenth of a second.
        let over = |rate: u64| {
            let (mut patience, start) = (ProgressTimeout::default(), Instant::now());
            (0..1000).find(|tick| patience.is_expired(start + SECOND / 10 * *tick, SECOND, rate * u64::from(*tick)))
        };
        assert_eq!((over(0), over(300)), (Some(11), Some(11)));
        assert_eq!(over(1000), Some(11 * (MAX_EXTENSIONS + 1)));
    }
}

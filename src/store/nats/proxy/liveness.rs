//! Whether the server is still there: when it was last heard, what it owes, and how long it is waited for.

use std::time::{Duration, Instant};

use super::injected_lines::InjectedLines;
use super::stream::{Stream, WriteBuffer};
use crate::error::{Error, Kind, Result};

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub timeout: Duration,
    pub ping_interval: Duration,
    pub max_pings_out: u32,
}

/// Who was last heard, and what is owed.
pub struct Liveness {
    last_received: Instant,
    /// When the server was last asked something after it was last heard.
    last_request: Option<Instant>,
    /// When it last took bytes, while some were waiting.
    last_write: Instant,
    /// Bytes that it was to be sent.
    pub queued: u64,
    /// Bytes that were written to it, and so many of them have arrived.
    written: u64,
    arrived: u64,
    /// When the last of them did.
    last_progress: Instant,
    pub pings_out: u32,
    pinged: Instant,
}

impl Liveness {
    pub fn new(now: Instant) -> Liveness {
        Liveness {
            last_received: now,
            last_request: None,
            last_write: now,
            queued: 0,
            written: 0,
            arrived: 0,
            last_progress: now,
            pings_out: 0,
            pinged: now,
        }
    }

    /// Sees how much has arrived, and says how much of it has since the last look.
    pub fn on_bytes(&mut self, server: &Stream, now: Instant) -> u64 {
        if self.arrived == self.written {
            return 0;
        }
        let arrived = self.written.saturating_sub(server.unacknowledged()).max(self.arrived);
        let news = arrived.saturating_sub(self.arrived);
        if news > 0 {
            (self.arrived, self.last_progress, self.last_request) = (arrived, now, self.last_request.map(|_| now));
        }
        news
    }

    pub fn on_received(&mut self) {
        self.last_received = Instant::now();
        self.last_request = None;
        self.pings_out = 0;
    }

    /// Says to the server what waits for the end of a message. The time for an answer begins when it was asked.
    pub fn put_in(&mut self, lines: &mut InjectedLines, queue: &mut WriteBuffer, server: &mut Stream) -> Result<()> {
        let Some(taken) = lines.take(Instant::now()) else { return Ok(()) };
        if taken.pinged {
            self.pings_out += 1;
            self.last_request = self.last_request.map(|asked| asked + taken.waited);
        }
        self.on_sent(queue, &taken.bytes, server)
    }

    pub fn on_sent(&mut self, queue: &mut WriteBuffer, bytes: &[u8], server: &mut Stream) -> Result<()> {
        let now = Instant::now();
        if queue.is_empty() {
            self.last_write = now;
        }
        self.last_request.get_or_insert(now);
        let sent = queue.send(bytes, server).map_err(|e| Error::io(Kind::StoreUnreachable, "connection lost", &e))?;
        self.queued += bytes.len() as u64;
        self.written += sent as u64;
        Ok(())
    }

    /// So many bytes were written to the server.
    pub fn on_written(&mut self, bytes: u64, now: Instant) {
        self.last_write = now;
        self.written += bytes;
    }

    pub fn on_ping(&mut self, now: Instant) {
        self.pinged = now;
    }

    /// When something may be due. `waits`: something is still to be sent.
    pub fn next_check(&self, timeouts: &Timeouts, waits: bool) -> Duration {
        let pause = timeouts.ping_interval.min(timeouts.timeout / 4);
        let owes = self.last_request.is_some() || self.pings_out > 0;
        let idle = !owes && !waits && self.arrived == self.written;
        if idle { timeouts.ping_interval } else { pause }.max(Duration::from_millis(1))
    }

    /// Errors: the server takes nothing of what is queued.
    pub fn check_writes(&mut self, now: Instant, timeout: Duration, nothing_queued: bool) -> Result<()> {
        if nothing_queued {
            self.last_write = now;
        } else if now.duration_since(self.last_write) > timeout {
            return Err(Error::new(Kind::StoreUnreachable, format!("the server has taken no data for {timeout:?}")));
        }
        Ok(())
    }

    /// Whether to ask the server for a sign of life.
    ///
    /// Errors: it was asked, and gave none.
    pub fn ping_is_due(&self, now: Instant, timeouts: &Timeouts) -> Result<bool> {
        let Timeouts { timeout, ping_interval, max_pings_out } = *timeouts;
        let owed_for = self.last_request.map(|asked| now.duration_since(asked));
        if owed_for.is_some_and(|owed| owed > timeout) && self.pings_out > 0 {
            return Err(Error::new(Kind::StoreUnreachable, format!("the server has not answered for {timeout:?}")));
        }
        let silence = now.duration_since(self.last_received.max(self.last_progress));
        let due = silence.min(now.duration_since(self.pinged)) > ping_interval;
        if due && self.pings_out >= max_pings_out.max(1) {
            return Err(Error::new(Kind::StoreUnreachable, format!("the server has been silent for {silence:?}")));
        }
        Ok(due || (owed_for.is_some_and(|owed| owed > timeout / 2) && self.pings_out == 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TIMEOUTS: Timeouts =
        Timeouts { timeout: Duration::from_secs(10), ping_interval: Duration::from_secs(30), max_pings_out: 2 };

    #[test]
    fn a_silent_server_is_asked_and_then_given_up() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        assert!(!liveness.ping_is_due(start + 30 * SECOND, &TIMEOUTS).unwrap());
        for asked in 1..=2 {
            assert!(liveness.ping_is_due(start + asked * 31 * SECOND, &TIMEOUTS).unwrap());
            liveness.on_ping(start + asked * 31 * SECOND);
            liveness.pings_out = asked;
        }
        let error = liveness.ping_is_due(start + 93 * SECOND, &TIMEOUTS).unwrap_err();
        assert_eq!(error.message(), "the server has been silent for 93s");
    }

    #[test]
    fn an_answer_that_is_owed_is_asked_for_sooner() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        liveness.last_request = Some(start);
        assert!(!liveness.ping_is_due(start + 5 * SECOND, &TIMEOUTS).unwrap());
        assert!(liveness.ping_is_due(start + 6 * SECOND, &TIMEOUTS).unwrap());
        liveness.pings_out = 1;
        assert!(!liveness.ping_is_due(start + 10 * SECOND, &TIMEOUTS).unwrap());
        let error = liveness.ping_is_due(start + 11 * SECOND, &TIMEOUTS).unwrap_err();
        assert_eq!(error.message(), "the server has not answered for 10s");
        liveness.on_received();
        assert!(!liveness.ping_is_due(start + 11 * SECOND, &TIMEOUTS).unwrap());
    }

    #[test]
    fn a_server_that_takes_nothing_is_given_up() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        liveness.check_writes(start + 60 * SECOND, TIMEOUTS.timeout, true).unwrap();
        liveness.check_writes(start + 70 * SECOND, TIMEOUTS.timeout, false).unwrap();
        let error = liveness.check_writes(start + 71 * SECOND, TIMEOUTS.timeout, false).unwrap_err();
        assert_eq!(error.message(), "the server has taken no data for 10s");
    }
}

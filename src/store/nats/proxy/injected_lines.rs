//! The lines that the link itself puts into a stream of messages: PING and PONG. Each waits until no message is half sent,
//! for in the middle of one it would be read as a part of it.

use std::time::{Duration, Instant};

/// A PONG answers every PING before it for the server; the crate counts them, and sends one in two minutes.
const MAX_PONGS: u32 = 16;

/// What is to be put in where the next message ends.
#[derive(Default)]
pub struct InjectedLines {
    ping: bool,
    pongs: u32,
    /// Since when something waits.
    since: Option<Instant>,
}

/// What goes out now.
pub struct InjectedBytes {
    pub bytes: Vec<u8>,
    pub pinged: bool,
    /// How long the first of the lines has waited.
    pub waited: Duration,
}

impl InjectedLines {
    pub fn ping(&mut self, now: Instant) {
        self.ping = true;
        self.since.get_or_insert(now);
    }

    pub fn pong(&mut self, now: Instant) {
        self.pongs = self.pongs.saturating_add(1).min(MAX_PONGS);
        self.since.get_or_insert(now);
    }

    /// How long something has waited; none if nothing does.
    pub fn waiting(&self, now: Instant) -> Option<Duration> {
        self.since.map(|since| now.saturating_duration_since(since))
    }

    /// All that waits; none if nothing does. To be called only where a message has ended.
    pub fn take(&mut self, now: Instant) -> Option<InjectedBytes> {
        let waited = self.waiting(now)?;
        let InjectedLines { ping, pongs, .. } = std::mem::take(self);
        let mut bytes = b"PONG\r\n".repeat(usize::try_from(pongs).unwrap_or(1));
        if ping {
            bytes.extend_from_slice(b"PING\r\n");
        }
        Some(InjectedBytes { bytes, pinged: ping, waited })
    }
}

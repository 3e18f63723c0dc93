//! What is left to do after a put was abandoned: its chunks must go.
//!
//! They are purged only once every chunk has been answered, for one that is still on its way would land after the purge.

use std::time::{Duration, Instant};

use super::cleanups::Cleanup;
use super::exchange::{Exchange, ExchangeEvent};

/// After this an answer will not come; the sweep finds what is left.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);

pub struct AbandonedPut {
    exchange: Exchange,
    /// Chunks that were not yet answered.
    unanswered: usize,
    /// The purge: subject and payload; none once it is sent.
    purge: Option<(String, Vec<u8>)>,
    end: Instant,
}

const PURGED: u64 = u64::MAX;

impl AbandonedPut {
    /// `exchange` is the one of the put.
    pub fn new(exchange: Exchange, unanswered: usize, purge: (String, Vec<u8>), now: Instant) -> AbandonedPut {
        AbandonedPut { exchange, unanswered, purge: Some(purge), end: now + CLEANUP_TIMEOUT }
    }
}

impl Cleanup for AbandonedPut {
    fn poll(&mut self, now: Instant) -> bool {
        while let Some(event) = self.exchange.next() {
            match event {
                ExchangeEvent::NewSession => self.unanswered = 0,
                ExchangeEvent::Reply(reply) if reply.tag == PURGED => return true,
                ExchangeEvent::Reply(_) => self.unanswered = self.unanswered.saturating_sub(1),
            }
        }
        if self.unanswered == 0
            && self.exchange.is_connected()
            && let Some((subject, payload)) = self.purge.take()
            && self.exchange.request(PURGED, &subject, &payload).is_err()
        {
            self.purge = Some((subject, payload));
        }
        now >= self.end
    }
}

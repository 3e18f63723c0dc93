//! What is left to do after a put was abandoned: its chunks must go.
//!
//! They are purged only once every chunk has been answered, for one that is still on its way would land behind the purge.

use std::time::{Duration, Instant};

use super::client::Mailbox;

/// After this an answer will not come; the sweep finds what is left.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Chore {
    mailbox: Mailbox,
    /// Chunks that were not yet answered.
    unanswered: usize,
    /// The purge: subject and payload; none once it is sent.
    purge: Option<(String, Vec<u8>)>,
    epoch: Option<u64>,
    end: Instant,
}

const PURGED: u64 = u64::MAX;

impl Chore {
    pub fn new(mailbox: Mailbox, unanswered: usize, purge: (String, Vec<u8>), now: Instant) -> Chore {
        let epoch = mailbox.client.epoch();
        Chore { mailbox, unanswered, purge: Some(purge), epoch, end: now + PATIENCE }
    }

    /// True: done, or given up.
    pub fn step(&mut self, now: Instant) -> bool {
        if self.mailbox.client.epoch() != self.epoch {
            // Nothing of the old connection is answered any more.
            self.epoch = self.mailbox.client.epoch();
            self.unanswered = 0;
        }
        while let Some(mail) = self.mailbox.next() {
            if mail.tag == PURGED {
                return true;
            }
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        if self.unanswered == 0
            && self.epoch.is_some()
            && let Some((subject, payload)) = self.purge.take()
            && self.mailbox.ask(PURGED, &subject, &payload).is_err()
        {
            self.purge = Some((subject, payload));
        }
        now >= self.end
    }
}

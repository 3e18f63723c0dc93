//! What is left to do after a put was abandoned: its chunks must go.
//!
//! They are purged only once every chunk has been answered, for one that is still on its way would land behind the purge.

use std::time::{Duration, Instant};

use super::client::{Cleanup, Inbox};

/// After this an answer will not come; the sweep finds what is left.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);

pub struct AbandonedPut {
    inbox: Inbox,
    /// Chunks that were not yet answered.
    unanswered: usize,
    /// The purge: subject and payload; none once it is sent.
    purge: Option<(String, Vec<u8>)>,
    session: Option<u64>,
    end: Instant,
}

const PURGED: u64 = u64::MAX;

impl AbandonedPut {
    pub fn new(mailbox: Inbox, unanswered: usize, purge: (String, Vec<u8>), now: Instant) -> AbandonedPut {
        let epoch = mailbox.client.session();
        AbandonedPut { inbox: mailbox, unanswered, purge: Some(purge), session: epoch, end: now + CLEANUP_TIMEOUT }
    }
}

impl Cleanup for AbandonedPut {
    fn poll(&mut self, now: Instant) -> bool {
        if self.inbox.client.session() != self.session {
            // Nothing of the old connection is answered any more.
            self.session = self.inbox.client.session();
            self.unanswered = 0;
        }
        while let Some(mail) = self.inbox.next() {
            if mail.tag == PURGED {
                return true;
            }
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        if self.unanswered == 0
            && self.session.is_some()
            && let Some((subject, payload)) = self.purge.take()
            && self.inbox.request(PURGED, &subject, &payload).is_err()
        {
            self.purge = Some((subject, payload));
        }
        now >= self.end
    }
}

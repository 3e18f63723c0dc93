//! The chunks of one put that are on their way, and what to do when the server refuses some because its queue is full.
//!
//! Chunks must lie in the stream in their order. A refusal comes at once, an ack only when the chunk is stored; so once all
//! are answered, whatever was stored after the first refused chunk is removed again, and all from that one on are sent again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a server whose queue is full is left alone.
const QUEUE_FULL_DELAY: Duration = Duration::from_millis(50);

/// What to remove from the stream, and what to send then.
pub struct Resend {
    pub misplaced: Vec<u64>,
    pub chunks: BTreeMap<u64, Vec<u8>>,
}

/// Refused chunks that wait to be sent again.
pub struct ScheduledResend {
    from: Instant,
    /// Removals of misplaced chunks that are still unanswered.
    removals: usize,
    pub chunks: BTreeMap<u64, Vec<u8>>,
}

impl ScheduledResend {
    pub fn new(resend: Resend, now: Instant) -> ScheduledResend {
        ScheduledResend { from: now + QUEUE_FULL_DELAY, removals: resend.misplaced.len(), chunks: resend.chunks }
    }

    pub fn on_removed(&mut self) {
        self.removals = self.removals.saturating_sub(1);
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.removals == 0 && now >= self.from
    }
}

pub struct SentChunk {
    pub bytes: Vec<u8>,
    pub at: Instant,
}

#[derive(Default)]
pub struct InFlightChunks {
    waiting: BTreeMap<u64, SentChunk>,
    /// To be sent again: the refused ones, and what was stored after the first of them.
    rejected: BTreeMap<u64, Vec<u8>>,
    /// Where in the stream the latter are.
    misplaced: Vec<u64>,
    /// The last chunk that was stored in its order.
    stored: u64,
}

impl InFlightChunks {
    pub fn sent(&mut self, chunk: u64, bytes: Vec<u8>, at: Instant) {
        self.waiting.insert(chunk, SentChunk { bytes, at });
    }

    /// How many have no answer yet.
    pub fn unanswered(&self) -> usize {
        self.waiting.len()
    }

    pub fn bytes(&self) -> usize {
        self.waiting.values().map(|sent| sent.bytes.len()).sum()
    }

    /// Nothing is on its way, and nothing must be sent again.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.rejected.is_empty()
    }

    /// Something must be sent again; nothing new may go out before that.
    pub fn needs_resend(&self) -> bool {
        !self.rejected.is_empty()
    }

    /// Takes the chunk that an answer is for.
    pub fn is_answered(&mut self, chunk: u64) -> Option<SentChunk> {
        self.waiting.remove(&chunk)
    }

    /// It was stored at `seq`.
    pub fn on_ack(&mut self, chunk: u64, seq: u64, bytes: Vec<u8>) {
        if self.rejected.keys().next().is_some_and(|first| *first < chunk) {
            self.rejected.insert(chunk, bytes);
            self.misplaced.push(seq);
        } else {
            self.stored = self.stored.max(chunk);
        }
    }

    /// It was refused. False: one after it is known to be stored, so the order can no longer be mended.
    pub fn on_reject(&mut self, chunk: u64, bytes: Vec<u8>) -> bool {
        self.rejected.insert(chunk, bytes);
        chunk > self.stored
    }

    /// What to do once all answers are there; none as long as some are missing.
    pub fn take_resend(&mut self) -> Option<Resend> {
        let due = self.waiting.is_empty() && self.needs_resend();
        due.then(|| Resend {
            misplaced: std::mem::take(&mut self.misplaced),
            chunks: std::mem::take(&mut self.rejected),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(chunks: u64) -> InFlightChunks {
        let mut flight = InFlightChunks::default();
        for chunk in 1..=chunks {
            flight.sent(chunk, vec![chunk as u8], Instant::now());
        }
        flight
    }

    #[test]
    fn from_the_first_refused_chunk_on_all_are_sent_again_in_order() {
        let mut flight = flight(5);
        for chunk in [3, 5] {
            let sent = flight.is_answered(chunk).unwrap();
            assert!(flight.on_reject(chunk, sent.bytes));
        }
        for (chunk, seq) in [(1, 11), (2, 12), (4, 13)] {
            assert!(flight.take_resend().is_none());
            let sent = flight.is_answered(chunk).unwrap();
            flight.on_ack(chunk, seq, sent.bytes);
        }
        let Resend { misplaced: strays, chunks } = flight.take_resend().unwrap();
        assert_eq!(strays, [13]);
        assert_eq!(chunks.into_iter().collect::<Vec<_>>(), [(3, vec![3]), (4, vec![4]), (5, vec![5])]);
        assert!(flight.is_empty());
    }

    #[test]
    fn a_refusal_behind_which_something_was_stored_cannot_be_mended() {
        let mut flight = flight(2);
        let two = flight.is_answered(2).unwrap();
        flight.on_ack(2, 7, two.bytes);
        let one = flight.is_answered(1).unwrap();
        assert!(!flight.on_reject(1, one.bytes));
    }
}

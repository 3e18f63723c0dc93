//! The chunks of one put that are on their way, and what to do when the server refuses some because its queue is full.
//!
//! Chunks must lie in the stream in their order. A refusal comes at once, an ack only when the chunk is stored; so once all
//! are answered, whatever was stored behind the first refused chunk is removed again, and all from that one on are sent anew.

use std::collections::BTreeMap;
use std::time::Instant;

/// What to remove from the stream, and what to send then.
pub struct Repair {
    pub strays: Vec<u64>,
    pub chunks: BTreeMap<u64, Vec<u8>>,
}

pub struct Sent {
    pub bytes: Vec<u8>,
    pub at: Instant,
}

#[derive(Default)]
pub struct Flight {
    waiting: BTreeMap<u64, Sent>,
    /// To be sent anew: the refused ones, and what was stored behind the first of them.
    again: BTreeMap<u64, Vec<u8>>,
    /// Where in the stream the latter are.
    strays: Vec<u64>,
    /// The last chunk that was stored in its order.
    stored: u64,
}

impl Flight {
    pub fn sent(&mut self, chunk: u64, bytes: Vec<u8>, at: Instant) {
        self.waiting.insert(chunk, Sent { bytes, at });
    }

    /// How many have no answer yet.
    pub fn unanswered(&self) -> usize {
        self.waiting.len()
    }

    pub fn bytes(&self) -> usize {
        self.waiting.values().map(|sent| sent.bytes.len()).sum()
    }

    /// Nothing is on its way, and nothing must be sent anew.
    pub fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.again.is_empty()
    }

    /// Something must be sent anew; nothing new may go out before that.
    pub fn is_broken(&self) -> bool {
        !self.again.is_empty()
    }

    /// Takes the chunk that an answer is for.
    pub fn answered(&mut self, chunk: u64) -> Option<Sent> {
        self.waiting.remove(&chunk)
    }

    /// It was stored at `seq`.
    pub fn keep(&mut self, chunk: u64, seq: u64, bytes: Vec<u8>) {
        if self.again.keys().next().is_some_and(|first| *first < chunk) {
            self.again.insert(chunk, bytes);
            self.strays.push(seq);
        } else {
            self.stored = self.stored.max(chunk);
        }
    }

    /// It was refused. False: one behind it is known to be stored, so the order can no longer be mended.
    pub fn refuse(&mut self, chunk: u64, bytes: Vec<u8>) -> bool {
        self.again.insert(chunk, bytes);
        chunk > self.stored
    }

    /// What to do once all answers are there; none as long as some are missing.
    pub fn repair(&mut self) -> Option<Repair> {
        let due = self.waiting.is_empty() && self.is_broken();
        due.then(|| Repair { strays: std::mem::take(&mut self.strays), chunks: std::mem::take(&mut self.again) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(chunks: u64) -> Flight {
        let mut flight = Flight::default();
        for chunk in 1..=chunks {
            flight.sent(chunk, vec![chunk as u8], Instant::now());
        }
        flight
    }

    #[test]
    fn from_the_first_refused_chunk_on_all_are_sent_again_in_order() {
        let mut flight = flight(5);
        for chunk in [3, 5] {
            let sent = flight.answered(chunk).unwrap();
            assert!(flight.refuse(chunk, sent.bytes));
        }
        for (chunk, seq) in [(1, 11), (2, 12), (4, 13)] {
            assert!(flight.repair().is_none());
            let sent = flight.answered(chunk).unwrap();
            flight.keep(chunk, seq, sent.bytes);
        }
        let Repair { strays, chunks } = flight.repair().unwrap();
        assert_eq!(strays, [13]);
        assert_eq!(chunks.into_iter().collect::<Vec<_>>(), [(3, vec![3]), (4, vec![4]), (5, vec![5])]);
        assert!(flight.is_over());
    }

    #[test]
    fn a_refusal_behind_which_something_was_stored_cannot_be_mended() {
        let mut flight = flight(2);
        let two = flight.answered(2).unwrap();
        flight.keep(2, 7, two.bytes);
        let one = flight.answered(1).unwrap();
        assert!(!flight.refuse(1, one.bytes));
    }
}

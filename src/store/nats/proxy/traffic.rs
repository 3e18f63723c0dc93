//! Who a byte on the socket belongs to.
//!
//! What a socket carries is counted at the socket, below TLS. Of that, what belongs to a message of an operation is known from
//! the message's subjects; all else keeps the connection. So the sum is exactly what the socket carried.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::random;
use crate::store::traffic::{Purpose, PurposeBytes, Traffic};

/// One way.
#[derive(Default)]
pub struct ByteCounter {
    socket: AtomicU64,
    /// Of the messages of each purpose but [`Purpose::KeepAlive`].
    messages: [AtomicU64; Purpose::ALL.len()],
}

impl ByteCounter {
    pub fn add_socket(&self, bytes: usize) {
        self.socket.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn add_message(&self, purpose: Purpose, bytes: u64) {
        if let Some(sum) = self.messages.get(purpose as usize) {
            sum.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn read(&self) -> PurposeBytes {
        let mut bytes = PurposeBytes::default();
        for (purpose, sum) in Purpose::ALL.into_iter().zip(&self.messages) {
            if purpose != Purpose::KeepAlive {
                bytes.add(purpose, sum.load(Ordering::Relaxed));
            }
        }
        let rest = self.socket.load(Ordering::Relaxed).saturating_sub(bytes.total());
        bytes.add(Purpose::KeepAlive, rest);
        bytes
    }
}

/// Both ways, for both threads.
#[derive(Clone, Default)]
pub struct TrafficCounters {
    pub sent: Arc<ByteCounter>,
    pub received: Arc<ByteCounter>,
}

impl TrafficCounters {
    pub fn read(&self) -> Traffic {
        Traffic { sent: self.sent.read(), received: self.received.read() }
    }
}

/// What waits for the server, in order: it counts for its purpose only when it has gone.
#[derive(Default)]
pub struct QueuedBytes {
    runs: VecDeque<(Purpose, u64)>,
    len: u64,
}

impl QueuedBytes {
    pub fn push(&mut self, purpose: Purpose, bytes: u64) {
        if bytes > 0 {
            self.runs.push_back((purpose, bytes));
            self.len += bytes;
        }
    }

    /// All but `left` bytes have gone.
    pub fn settle(&mut self, left: u64, counter: &ByteCounter) {
        while self.len > left
            && let Some((purpose, bytes)) = self.runs.front_mut()
        {
            let gone = (*bytes).min(self.len - left);
            counter.add_message(*purpose, gone);
            self.len -= gone;
            *bytes -= gone;
            if *bytes == 0 {
                self.runs.pop_front();
            }
        }
    }
}

/// Whose a message is: the words of its line are verb, subject and so on, as `PUB <subject> [<reply>] <bytes>` of ours or
/// `MSG <subject> <sid> [<reply>] <bytes>` of the server.
pub fn purpose_of(words: &[&[u8]]) -> Purpose {
    let letter = words.iter().skip(1).find_map(|word| inbox_letter(word).or_else(|| consumer_letter(word)));
    letter.and_then(Purpose::from_letter).unwrap_or(Purpose::KeepAlive)
}

/// Of the token in `<prefix>.<id>.<letter><number>.<tag>`.
fn inbox_letter(subject: &[u8]) -> Option<u8> {
    let mut from_end = subject.rsplit(|byte| *byte == b'.');
    let (tag, token, id) = (from_end.next()?, from_end.next()?, from_end.next()?);
    let (letter, number) = token.split_first()?;
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let is_inbox = id.len() == random::TOKEN_LEN && id.iter().all(u8::is_ascii_alphanumeric);
    (is_inbox && is_number(number) && is_number(tag)).then_some(*letter)
}

/// Of the token in what a consumer says of a message that it delivers: `$JS.ACK.….<id>-<letter><number>.…`.
fn consumer_letter(subject: &[u8]) -> Option<u8> {
    let words: Vec<&[u8]> = subject.strip_prefix(b"$JS.ACK.")?.split(|byte| *byte == b'.').collect();
    let consumer = words.get(if words.len() > 7 { 3 } else { 1 })?;
    consumer.rsplit(|byte| *byte == b'-').next()?.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purpose(line: &str) -> Purpose {
        purpose_of(&line.as_bytes().split(|byte| *byte == b' ').collect::<Vec<_>>())
    }

    #[test]
    fn message_is_attributed_by_inbox_or_consumer() {
        for (line, expected) in [
            ("PUB $O.b.C.x _INBOX.0123456789abcdefghijKL.h12.1 300", Purpose::Changes),
            ("HPUB $O.b.M.x _INBOX.0123456789abcdefghijKL.s3.0 20 300", Purpose::Snapshots),
            ("MSG _INBOX.0123456789abcdefghijKL.c7.18446744073709551613 1 40", Purpose::Compaction),
            ("MSG $O.b.M.x 1 $JS.ACK.OBJ_h-s.id-l8.1.5.2.99.3 40", Purpose::Listing),
            ("MSG $O.b.M.x 1 $JS.ACK.dom.hash.OBJ_b.id-l8.1.5.2.99.3.rnd 40", Purpose::Listing),
            ("PUB litestream.alive.x _INBOX.0123456789abcdefghijKL.k9.1 40", Purpose::KeepAlive),
            ("PUB _INBOX.theirs.more 40", Purpose::KeepAlive),
            ("PUB $O.b.C.hhh 40", Purpose::KeepAlive),
            ("MSG mine.more.0123456789abcdefghijKL.l7.3 1 40", Purpose::Listing),
            ("MSG $O.b.C.x 1 $JS.ACK.OBJ_b 40", Purpose::KeepAlive),
            ("MSG _INBOX.0123456789abcdefghijKL 1 40", Purpose::KeepAlive),
        ] {
            assert_eq!(purpose(line), expected, "{line}");
        }
    }

    #[test]
    fn waiting_counts_for_nothing_and_the_rest_for_the_connection() {
        let (counters, mut queued) = (TrafficCounters::default(), QueuedBytes::default());
        queued.push(Purpose::KeepAlive, 10);
        queued.push(Purpose::Changes, 100);
        queued.push(Purpose::Listing, 5);
        counters.sent.add_socket(60);
        queued.settle(55, &counters.sent);
        let sent = |purpose| counters.read().sent.of(purpose);
        assert_eq!((sent(Purpose::Changes), sent(Purpose::Listing), sent(Purpose::KeepAlive)), (50, 0, 10));
        counters.sent.add_socket(80);
        queued.settle(0, &counters.sent);
        assert_eq!((sent(Purpose::Changes), sent(Purpose::Listing), sent(Purpose::KeepAlive)), (100, 5, 35));
        assert_eq!(counters.read().sent.total(), 140);
    }
}

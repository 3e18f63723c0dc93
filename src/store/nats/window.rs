//! How many bytes may be on their way to the server at once, all puts of a connection together.
//!
//! Small enough that the server's queue (128 MiB for all writers) never fills, that memory stays small, and that on a slow
//! link nobody waits longer than about a second behind a large object; large enough to keep a far link busy: twice what it
//! carries in one round trip.

use std::time::{Duration, Instant};

/// Before anything is known of the link, and on a slow one: two chunks.
const FIRST: usize = 256 * 1024;
/// Keeps a loopback or a local network busy.
const NEAR: usize = 2 * 1024 * 1024;
/// 100 ms away this is 160 MB/s.
const MOST: usize = 16 * 1024 * 1024;
/// Rates over less time than this are noise.
const ROUND: Duration = Duration::from_millis(20);

pub struct Window {
    limit: usize,
    used: usize,
    /// The quickest answer so far: the way there and back, without queues.
    round_trip: Option<Duration>,
    round_began: Option<Instant>,
    last_answer: Option<Instant>,
    round_bytes: usize,
    /// Somebody had to wait for room in this round.
    was_full: bool,
}

impl Window {
    pub fn new() -> Window {
        Window {
            limit: FIRST,
            used: 0,
            round_trip: None,
            round_began: None,
            last_answer: None,
            round_bytes: 0,
            was_full: false,
        }
    }

    /// Whether `bytes` more may be sent. One message may always be on its way.
    pub fn has_room(&mut self, bytes: usize) -> bool {
        let room = self.used == 0 || self.used.saturating_add(bytes) <= self.limit;
        self.was_full |= !room;
        room
    }

    pub fn take(&mut self, bytes: usize) {
        self.used = self.used.saturating_add(bytes);
    }

    /// `bytes` were given up: nobody waits for their answer.
    pub fn give_back(&mut self, bytes: usize) {
        self.used = self.used.saturating_sub(bytes);
    }

    /// `bytes` that were sent at `sent` have been stored.
    pub fn stored(&mut self, bytes: usize, sent: Instant, now: Instant) {
        self.give_back(bytes);
        self.skip_pause(sent, now);
        let took = now.saturating_duration_since(sent);
        let round_trip = self.round_trip.map_or(took, |known| known.min(took));
        self.round_trip = Some(round_trip);
        self.round_bytes = self.round_bytes.saturating_add(bytes);
        let began = *self.round_began.get_or_insert(sent);
        let round = now.saturating_duration_since(began);
        if round >= round_trip.max(ROUND) {
            self.adjust(round, round_trip);
            self.round_began = Some(now);
        }
    }

    /// Time in which nothing was sent says nothing of the link.
    fn skip_pause(&mut self, sent: Instant, now: Instant) {
        let last = self.last_answer.replace(now);
        if last.is_some_and(|last| sent.saturating_duration_since(last) > ROUND) {
            (self.round_began, self.round_bytes, self.was_full) = (None, 0, false);
        }
    }

    /// Twice the bytes that the link carries in one round trip, if the window was what held it back, but not more than it
    /// carries in a second.
    fn adjust(&mut self, round: Duration, round_trip: Duration) {
        let carried = |time: Duration| {
            let bytes = u128::try_from(self.round_bytes).unwrap_or(0).saturating_mul(time.as_micros());
            usize::try_from(bytes / round.as_micros().max(1)).unwrap_or(MOST)
        };
        let second = carried(Duration::from_secs(1));
        if self.was_full {
            let wanted = carried(round_trip).saturating_mul(2).max(NEAR).max(self.limit);
            self.limit = wanted.min(second).clamp(FIRST, MOST);
        }
        self.round_bytes = 0;
        self.was_full = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a link of `rate` bytes a millisecond and `round_trip` ms full for a while; the limit that results.
    fn settle(rate: usize, round_trip: u64) -> usize {
        const MESSAGE: usize = 128 * 1024;
        let mut window = Window::new();
        let (start, mut flight) = (Instant::now(), std::collections::VecDeque::new());
        let mut free_at = 0.0;
        for ms in 0..5_000u64 {
            let now = start + Duration::from_millis(ms);
            while flight.front().is_some_and(|(_, due)| *due <= ms as f64) {
                let (sent, _) = flight.pop_front().unwrap();
                window.stored(MESSAGE, sent, now);
            }
            while window.has_room(MESSAGE) {
                window.take(MESSAGE);
                free_at = f64::max(free_at, ms as f64) + MESSAGE as f64 / rate as f64;
                flight.push_back((now, free_at + round_trip as f64));
            }
        }
        window.limit
    }

    #[test]
    fn a_far_fast_link_gets_a_large_window_and_a_near_or_slow_one_does_not() {
        assert_eq!(settle(200_000, 100), MOST);
        assert_eq!(settle(300_000, 1), NEAR);
        assert!(settle(500, 30) <= 600_000, "about a second of 500 kB/s");
        assert_eq!(settle(50, 30), FIRST);
    }

    #[test]
    fn one_message_may_always_be_on_its_way() {
        let mut window = Window::new();
        assert!(window.has_room(MOST * 9));
        window.take(MOST * 9);
        assert!(!window.has_room(1));
        window.give_back(MOST * 9);
        assert!(window.has_room(1));
    }
}

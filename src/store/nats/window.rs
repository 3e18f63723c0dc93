//! How many bytes may be on their way to the server at once, all puts of a connection together.
//!
//! Small enough that the server's queue (128 MiB for all writers) never fills, that memory stays small, and that on a slow
//! link nobody waits longer than about a second behind a large object; large enough to keep a far link busy: twice what it
//! carries in one round trip. As long as answers come without delay, the link carries more than it was given: then each
//! answer makes room for as much again, which doubles the window in each round trip.

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
    /// The same in the round before.
    had_been_full: bool,
    /// An answer of this round came late: what it answers had to queue behind the rest.
    queued: bool,
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
            had_been_full: false,
            queued: false,
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
        let quick = took <= round_trip.saturating_add(round_trip / 4);
        if quick && self.limit >= NEAR && (self.was_full || self.had_been_full) {
            self.limit = self.limit.saturating_add(bytes).min(MOST);
        }
        self.queued |= !quick;
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
            (self.round_began, self.round_bytes) = (None, 0);
            (self.was_full, self.had_been_full, self.queued) = (false, false, false);
        }
    }

    /// Twice the bytes that the link carries in one round trip, if the window was what held it back, but not more than it
    /// carries in a second. Less than before only if something queued: a link that was not full shows less than it can.
    fn adjust(&mut self, round: Duration, round_trip: Duration) {
        let carried = |time: Duration| {
            let bytes = u128::try_from(self.round_bytes).unwrap_or(0).saturating_mul(time.as_micros());
            usize::try_from(bytes / round.as_micros().max(1)).unwrap_or(MOST)
        };
        let second = carried(Duration::from_secs(1));
        if self.was_full {
            let wanted = carried(round_trip).saturating_mul(2).max(NEAR).max(self.limit);
            let least = if self.queued { FIRST } else { self.limit };
            self.limit = wanted.min(second).max(least).min(MOST);
        }
        self.round_bytes = 0;
        self.had_been_full = std::mem::take(&mut self.was_full);
        self.queued = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a link of `rate` bytes a millisecond and `round_trip` ms full for a while; the limit that results, and the bytes
    /// that were answered.
    fn run(rate: usize, round_trip: u64, millis: u64) -> (usize, usize) {
        const MESSAGE: usize = 128 * 1024;
        let mut window = Window::new();
        let (start, mut flight) = (Instant::now(), std::collections::VecDeque::new());
        let (mut free_at, mut answered) = (0.0, 0);
        for ms in 0..millis {
            let now = start + Duration::from_millis(ms);
            while flight.front().is_some_and(|(_, due)| *due <= ms as f64) {
                let (sent, _) = flight.pop_front().unwrap();
                window.stored(MESSAGE, sent, now);
                answered += MESSAGE;
            }
            while window.has_room(MESSAGE) {
                window.take(MESSAGE);
                free_at = f64::max(free_at, ms as f64) + MESSAGE as f64 / rate as f64;
                flight.push_back((now, free_at + round_trip as f64));
            }
        }
        (window.limit, answered)
    }

    fn settle(rate: usize, round_trip: u64) -> usize {
        run(rate, round_trip, 5_000).0
    }

    #[test]
    fn a_far_window_doubles_in_each_round_trip_until_the_link_is_full() {
        // Two chunks, then 2, 4 and 8 MiB, then 16 MiB each time: 13 round trips carry over 135 MB.
        let (_, answered) = run(400_000, 100, 1_300);
        assert!(answered > 130_000_000, "{answered}");
    }

    #[test]
    fn a_far_fast_link_gets_a_large_window_and_a_near_or_slow_one_does_not() {
        assert_eq!(settle(200_000, 100), MOST);
        assert!((NEAR..NEAR * 5 / 4).contains(&settle(300_000, 1)));
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

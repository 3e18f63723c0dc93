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
/// A route may change. If no answer has been about as quick as the quickest one for so long, what is under way is let drain,
/// for one answer without a queue before it (as TCP BBR does).
const MEMORY: Duration = Duration::from_secs(20);

pub struct Window {
    limit: usize,
    used: usize,
    /// The quickest answer lately: the way there and back, without queues.
    round_trip: Option<Duration>,
    /// When an answer last was about as quick.
    quick_at: Option<Instant>,
    probe: Probe,
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

/// Measuring the way anew.
#[derive(Clone, Copy)]
enum Probe {
    None,
    /// Only a little may be under way until something is answered that was sent from then on.
    Running(Instant),
    /// Until something is answered that was sent from then on, answers say nothing of the rate.
    Over(Instant),
}

impl Window {
    pub fn new() -> Window {
        Window {
            limit: FIRST,
            used: 0,
            round_trip: None,
            quick_at: None,
            probe: Probe::None,
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
        let limit = if matches!(self.probe, Probe::Running(_)) { FIRST } else { self.limit };
        let room = self.used == 0 || self.used.saturating_add(bytes) <= limit;
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
        if self.probes(took, sent, now) {
            return;
        }
        let round_trip = self.quickest(took, now);
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

    /// Whether a probe is going on, for which this answer was.
    fn probes(&mut self, took: Duration, sent: Instant, now: Instant) -> bool {
        match self.probe {
            Probe::None => return false,
            Probe::Running(since) if sent >= since => {
                (self.round_trip, self.quick_at) = (Some(took), Some(now));
                self.probe = Probe::Over(now);
            }
            Probe::Over(since) if sent >= since => {
                self.probe = Probe::None;
                (self.round_began, self.round_bytes) = (Some(now), 0);
                (self.was_full, self.queued) = (false, false);
            }
            Probe::Running(_) | Probe::Over(_) => {}
        }
        true
    }

    fn quickest(&mut self, took: Duration, now: Instant) -> Duration {
        let known = self.round_trip.map_or(took, |known| known.min(took));
        self.round_trip = Some(known);
        let quick_at = *self.quick_at.get_or_insert(now);
        if took <= known + known / 4 {
            self.quick_at = Some(now);
        } else if now.saturating_duration_since(quick_at) >= MEMORY {
            self.probe = Probe::Running(now);
        }
        known
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

    /// Runs a link of `rate` bytes a millisecond full, with each round trip (ms) for so many milliseconds; the limit that
    /// results, and the bytes that were answered.
    fn run(rate: usize, routes: &[(u64, u64)]) -> (usize, usize) {
        const MESSAGE: usize = 128 * 1024;
        let mut window = Window::new();
        let (start, mut flight) = (Instant::now(), std::collections::VecDeque::new());
        let (mut free_at, mut ms, mut answered) = (0.0, 0, 0);
        for (time, round_trip) in routes {
            for _ in 0..*time {
                let now = start + Duration::from_millis(ms);
                while flight.front().is_some_and(|(_, due)| *due <= ms as f64) {
                    let (sent, _) = flight.pop_front().unwrap();
                    window.stored(MESSAGE, sent, now);
                    answered += MESSAGE;
                }
                while window.has_room(MESSAGE) {
                    window.take(MESSAGE);
                    free_at = f64::max(free_at, ms as f64) + MESSAGE as f64 / rate as f64;
                    flight.push_back((now, free_at + *round_trip as f64));
                }
                ms += 1;
            }
        }
        (window.limit, answered)
    }

    fn moved(rate: usize, routes: &[(u64, u64)]) -> usize {
        run(rate, routes).0
    }

    fn settle(rate: usize, round_trip: u64) -> usize {
        moved(rate, &[(5_000, round_trip)])
    }

    #[test]
    fn a_far_window_doubles_in_each_round_trip_until_the_link_is_full() {
        // Two chunks, then 2, 4 and 8 MiB, then 16 MiB each time: 13 round trips carry over 135 MB.
        let (_, answered) = run(400_000, &[(1_300, 100)]);
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
    fn a_route_that_becomes_longer_gets_its_window_after_some_seconds() {
        assert_eq!(moved(200_000, &[(5_000, 10), (30_000, 200)]), settle(200_000, 200));
    }

    #[test]
    fn a_window_that_is_measured_again_and_again_stays_what_the_link_needs() {
        assert!(moved(300_000, &[(120_000, 1)]) <= NEAR * 2);
        let (limit, answered) = run(150_000, &[(120_000, 100)]);
        assert_eq!(limit, MOST);
        assert!(answered > 150_000 * 120_000 / 100 * 90, "{answered}: measuring costs more than a tenth");
        assert_eq!(moved(50, &[(120_000, 30)]), FIRST);
        assert!(moved(500, &[(60_000, 30), (60_000, 10)]) <= 600_000, "about a second of 500 kB/s");
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

//! How many bytes may be on their way to the server at once, all puts of a connection together.
//!
//! Small enough that the server's queue (128 MiB for all writers) never fills, that memory stays small, and that on a slow
//! link nobody waits longer than about a second for a large object; large enough to keep a far link busy: twice what it
//! carries in one round trip. As long as answers come without delay, the link carries more than it was given: then each
//! answer makes room for as much again, which doubles the window in each round trip.

use std::time::{Duration, Instant};

/// Before anything is known of the link, and on a slow one: two chunks.
const INITIAL_WINDOW: usize = 256 * 1024;
/// Keeps a loopback or a local network busy.
const LAN_WINDOW: usize = 2 * 1024 * 1024;
/// 100 ms away this is 160 MB/s.
const MAX_WINDOW: usize = 16 * 1024 * 1024;
/// Rates over less time than this are noise.
const MIN_ROUND: Duration = Duration::from_millis(20);
/// A route may change. If no answer has been about as quick as the quickest one for so long, what is under way is let drain,
/// for one answer without a queue before it (as TCP BBR does).
const MIN_RTT_EXPIRY: Duration = Duration::from_secs(20);

pub struct CongestionWindow {
    limit: usize,
    used: usize,
    /// The quickest answer lately: the way there and back, without queues.
    rtt: Option<Duration>,
    /// When an answer last was about as quick.
    min_rtt_at: Option<Instant>,
    probe: RttProbe,
    round_began: Option<Instant>,
    last_answer: Option<Instant>,
    round_bytes: usize,
    /// An upload had to wait for room in this round.
    window_limited: bool,
    /// The same in the round before.
    was_window_limited: bool,
    /// An answer of this round came late: what it answers had to wait in a queue.
    queued: bool,
}

/// Measuring the way again.
#[derive(Clone, Copy)]
enum RttProbe {
    None,
    /// Only a little may be under way until something is answered that was sent from then on.
    Running(Instant),
    /// Until something is answered that was sent from then on, answers say nothing of the rate.
    Done(Instant),
}

impl CongestionWindow {
    pub fn new() -> CongestionWindow {
        CongestionWindow {
            limit: INITIAL_WINDOW,
            used: 0,
            rtt: None,
            min_rtt_at: None,
            probe: RttProbe::None,
            round_began: None,
            last_answer: None,
            round_bytes: 0,
            window_limited: false,
            was_window_limited: false,
            queued: false,
        }
    }

    /// Whether `bytes` more may be sent. One message may always be on its way.
    pub fn can_send(&mut self, bytes: usize) -> bool {
        let limit = if matches!(self.probe, RttProbe::Running(_)) { INITIAL_WINDOW } else { self.limit };
        let room = self.used == 0 || self.used.saturating_add(bytes) <= limit;
        self.window_limited |= !room;
        room
    }

    pub fn on_send(&mut self, bytes: usize) {
        self.used = self.used.saturating_add(bytes);
    }

    /// `bytes` were given up: nobody waits for their answer.
    pub fn on_abandon(&mut self, bytes: usize) {
        self.used = self.used.saturating_sub(bytes);
    }

    /// `bytes` that were sent at `sent` have been stored.
    pub fn on_ack(&mut self, bytes: usize, sent: Instant, now: Instant) {
        self.on_abandon(bytes);
        self.skip_idle_gap(sent, now);
        let took = now.saturating_duration_since(sent);
        if self.in_rtt_probe(took, sent, now) {
            return;
        }
        let round_trip = self.min_rtt(took, now);
        let quick = took <= round_trip.saturating_add(round_trip / 4);
        if quick && self.limit >= LAN_WINDOW && (self.window_limited || self.was_window_limited) {
            self.limit = self.limit.saturating_add(bytes).min(MAX_WINDOW);
        }
        self.queued |= !quick;
        self.round_bytes = self.round_bytes.saturating_add(bytes);
        let began = *self.round_began.get_or_insert(sent);
        let round = now.saturating_duration_since(began);
        if round >= round_trip.max(MIN_ROUND) {
            self.update_limit(round, round_trip);
            self.round_began = Some(now);
        }
    }

    /// Whether a probe is going on, for which this answer was.
    fn in_rtt_probe(&mut self, took: Duration, sent: Instant, now: Instant) -> bool {
        match self.probe {
            RttProbe::None => return false,
            RttProbe::Running(since) if sent >= since => {
                (self.rtt, self.min_rtt_at) = (Some(took), Some(now));
                self.probe = RttProbe::Done(now);
            }
            RttProbe::Done(since) if sent >= since => {
                self.probe = RttProbe::None;
                (self.round_began, self.round_bytes) = (Some(now), 0);
                (self.window_limited, self.queued) = (false, false);
            }
            RttProbe::Running(_) | RttProbe::Done(_) => {}
        }
        true
    }

    fn min_rtt(&mut self, took: Duration, now: Instant) -> Duration {
        let known = self.rtt.map_or(took, |known| known.min(took));
        self.rtt = Some(known);
        let quick_at = *self.min_rtt_at.get_or_insert(now);
        if took <= known + known / 4 {
            self.min_rtt_at = Some(now);
        } else if now.saturating_duration_since(quick_at) >= MIN_RTT_EXPIRY {
            self.probe = RttProbe::Running(now);
        }
        known
    }

    /// Time in which nothing was sent says nothing of the link.
    fn skip_idle_gap(&mut self, sent: Instant, now: Instant) {
        let last = self.last_answer.replace(now);
        if last.is_some_and(|last| sent.saturating_duration_since(last) > MIN_ROUND) {
            (self.round_began, self.round_bytes) = (None, 0);
            (self.window_limited, self.was_window_limited, self.queued) = (false, false, false);
        }
    }

    /// Twice the bytes that the link carries in one round trip, if the window was what held it back, but not more than it
    /// carries in a second. Less than before only if something queued: a link that was not full shows less than it can.
    fn update_limit(&mut self, round: Duration, round_trip: Duration) {
        let carried = |time: Duration| {
            let bytes = u128::try_from(self.round_bytes).unwrap_or(0).saturating_mul(time.as_micros());
            usize::try_from(bytes / round.as_micros().max(1)).unwrap_or(MAX_WINDOW)
        };
        let second = carried(Duration::from_secs(1));
        if self.window_limited {
            let wanted = carried(round_trip).saturating_mul(2).max(LAN_WINDOW).max(self.limit);
            let least = if self.queued { INITIAL_WINDOW } else { self.limit };
            self.limit = wanted.min(second).max(least).min(MAX_WINDOW);
        }
        self.round_bytes = 0;
        self.was_window_limited = std::mem::take(&mut self.window_limited);
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
        let mut window = CongestionWindow::new();
        let (start, mut flight) = (Instant::now(), std::collections::VecDeque::new());
        let (mut free_at, mut ms, mut answered) = (0.0, 0, 0);
        for (time, round_trip) in routes {
            for _ in 0..*time {
                let now = start + Duration::from_millis(ms);
                while flight.front().is_some_and(|(_, due)| *due <= ms as f64) {
                    let (sent, _) = flight.pop_front().unwrap();
                    window.on_ack(MESSAGE, sent, now);
                    answered += MESSAGE;
                }
                while window.can_send(MESSAGE) {
                    window.on_send(MESSAGE);
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
    fn far_window_doubles_per_round_trip_until_the_link_is_full() {
        // Two chunks, then 2, 4 and 8 MiB, then 16 MiB each time: 13 round trips carry over 135 MB.
        let (_, answered) = run(400_000, &[(1_300, 100)]);
        assert!(answered > 130_000_000, "{answered}");
    }

    #[test]
    fn only_a_far_fast_link_gets_a_large_window() {
        assert_eq!(settle(200_000, 100), MAX_WINDOW);
        assert!((LAN_WINDOW..LAN_WINDOW * 5 / 4).contains(&settle(300_000, 1)));
        assert!(settle(500, 30) <= 600_000, "about a second of 500 kB/s");
        assert_eq!(settle(50, 30), INITIAL_WINDOW);
    }

    #[test]
    fn longer_route_gets_its_window_after_some_seconds() {
        assert_eq!(moved(200_000, &[(5_000, 10), (30_000, 200)]), settle(200_000, 200));
    }

    #[test]
    fn repeated_measurements_keep_the_window() {
        assert!(moved(300_000, &[(120_000, 1)]) <= LAN_WINDOW * 2);
        let (limit, answered) = run(150_000, &[(120_000, 100)]);
        assert_eq!(limit, MAX_WINDOW);
        assert!(answered > 150_000 * 120_000 / 100 * 90, "{answered}: measuring costs more than a tenth");
        assert_eq!(moved(50, &[(120_000, 30)]), INITIAL_WINDOW);
        assert!(moved(500, &[(60_000, 30), (60_000, 10)]) <= 600_000, "about a second of 500 kB/s");
    }

    #[test]
    fn one_message_may_always_be_on_its_way() {
        let mut window = CongestionWindow::new();
        assert!(window.can_send(MAX_WINDOW * 9));
        window.on_send(MAX_WINDOW * 9);
        assert!(!window.can_send(1));
        window.on_abandon(MAX_WINDOW * 9);
        assert!(window.can_send(1));
    }
}

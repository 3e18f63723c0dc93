//! When the store is listed and what was put off is tried again, and how far a pass that was asked for has come.

use std::time::{Duration, Instant};

/// Between two listings. Litestream lists each second, and its memory and the server's load grow with the history.
const LIST_INTERVAL: Duration = Duration::from_secs(3600);
/// From the start to the first listing: a service that fails over and over does not list each time.
const FIRST_LIST_DELAY: Duration = Duration::from_secs(60);
/// After an error.
const RETRY_DELAY: Duration = Duration::from_secs(60);

pub struct MaintenanceSchedule {
    next_list: Instant,
    retry_at: Instant,
    /// One whole pass was asked for.
    requested: bool,
    listed: bool,
    /// The pass has found nothing more to do once.
    pass_over: bool,
}

impl MaintenanceSchedule {
    /// `single_pass` asks for one whole pass at once.
    pub fn new(single_pass: bool, now: Instant) -> MaintenanceSchedule {
        let next_list = if single_pass { now } else { now + FIRST_LIST_DELAY };
        MaintenanceSchedule { next_list, retry_at: now, requested: single_pass, listed: false, pass_over: false }
    }

    /// Asks for one whole pass at once.
    pub fn request_pass(&mut self, now: Instant) {
        *self = MaintenanceSchedule::new(true, now);
    }

    /// Whether a whole pass was asked for and is not over.
    pub fn is_in_pass(&self) -> bool {
        self.requested && !self.pass_over
    }

    /// Whether the pass that was asked for has listed what is stored.
    pub fn pass_has_listed(&self) -> bool {
        self.requested && self.listed
    }

    pub fn is_put_off(&self, now: Instant) -> bool {
        now < self.retry_at
    }

    pub fn is_listing_due(&self, now: Instant) -> bool {
        now >= self.next_list
    }

    pub fn on_listing(&mut self, now: Instant) {
        self.listed = true;
        self.next_list = now + LIST_INTERVAL;
    }

    pub fn on_nothing_to_do(&mut self) {
        self.pass_over |= self.listed;
    }

    pub fn on_error(&mut self, now: Instant) {
        self.retry_at = now + RETRY_DELAY;
    }

    /// The error is no reason to wait.
    pub fn retry_now(&mut self, now: Instant) {
        self.retry_at = now;
    }
}

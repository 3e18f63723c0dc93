//! When to look at what is stored: as soon as the store tells of it, else once an interval.

use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::Kind;
use crate::interrupt;
use crate::log;
use crate::store::{Entry, Store, Watch, WatchEvent};

/// A signal is noticed within this time.
const SIGNAL_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Everything is looked at so often, although the store tells of what is new.
const MAX_TRUST: Duration = Duration::from_secs(300);

/// What to do next.
pub enum Next {
    /// Look at everything that is stored, unless the end was asked for.
    Look,
    /// These were stored just now, in this order.
    Take(Vec<Entry>),
}

/// Waits for news.
pub struct News<'a> {
    store: &'a dyn Store,
    clock: &'a dyn Clock,
    /// Between two looks, where nothing is told.
    interval: Duration,
    watch: Option<Box<dyn Watch>>,
    /// The store was asked, and cannot tell.
    refused: bool,
    looked: Instant,
}

impl<'a> News<'a> {
    pub fn new(store: &'a dyn Store, clock: &'a dyn Clock, interval: Duration) -> News<'a> {
        News { store, clock, interval, watch: None, refused: false, looked: clock.now() }
    }

    /// Waits until there is something to do. What has failed is tried again after an interval.
    pub fn wait(&mut self, failed: bool) -> Next {
        let begun = self.clock.now();
        if self.watch.is_none() && !self.refused && !failed {
            self.watch = self.store.watch(begun);
            self.refused = self.watch.is_none();
        }
        while interrupt::requested().is_none() {
            let now = self.clock.now();
            let over = now.saturating_duration_since(begun) >= self.interval;
            let trusted = now.saturating_duration_since(self.looked) < MAX_TRUST;
            match self.poll(now) {
                WatchEvent::Stored(entry) => match self.take_all(entry, now) {
                    Next::Look => break,
                    taken => return taken,
                },
                WatchEvent::Started => break,
                WatchEvent::Pending if !failed && trusted => {}
                _ if over => break,
                _ => {}
            }
            let nap = SIGNAL_CHECK_INTERVAL.min(self.interval);
            match &self.watch {
                Some(_) => self.store.wait(nap),
                None => self.clock.sleep(nap),
            }
        }
        self.looked = self.clock.now();
        Next::Look
    }

    /// All that was stored since, too: what is far away is read together.
    fn take_all(&mut self, first: Entry, now: Instant) -> Next {
        let mut entries = vec![first];
        loop {
            match self.poll(now) {
                WatchEvent::Stored(entry) => entries.push(entry),
                WatchEvent::Pending => return Next::Take(entries),
                WatchEvent::Started | WatchEvent::Down => return Next::Look,
            }
        }
    }

    fn poll(&mut self, now: Instant) -> WatchEvent {
        let Some(watch) = &mut self.watch else { return WatchEvent::Down };
        watch.poll(now).unwrap_or_else(|error| {
            self.watch = None;
            // What is only away is back some time.
            self.refused = error.kind() != Kind::StoreUnreachable;
            if self.refused {
                log::warn("the store does not tell of new objects, polling").error(&error).emit();
            }
            WatchEvent::Down
        })
    }
}

//! What a store tells of new objects, for one copy or for all that are below a place.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::{Kind, Result};
use crate::log;
use crate::store::{Store, Watch, WatchEvent};

/// After the store was not reached.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// After it was reached, and refused to tell.
const REFUSED_DELAY: Duration = Duration::from_secs(300);

/// Waits for news.
pub struct News {
    store: Rc<dyn Store>,
    watch: Option<Box<dyn Watch>>,
    not_before: Option<Instant>,
    /// A store of this kind never tells.
    silent: bool,
    /// It was said that it does not tell now.
    warned: bool,
    told: bool,
}

impl News {
    pub fn new(store: Rc<dyn Store>) -> News {
        News { store, watch: None, not_before: None, silent: false, warned: false, told: false }
    }

    pub fn store(&self) -> &Rc<dyn Store> {
        &self.store
    }

    /// Whether everything that is stored is told.
    pub fn is_told(&self) -> bool {
        self.told
    }

    /// What the store tells now. Where it does not, or not any more, it is [`WatchEvent::Down`].
    pub fn poll(&mut self, now: Instant) -> WatchEvent {
        let event = self.advance(now).unwrap_or_else(|error| {
            let refused = error.kind() != Kind::StoreUnreachable;
            let delay = if refused { REFUSED_DELAY } else { RETRY_DELAY };
            (self.watch, self.not_before) = (None, Some(now + delay));
            if refused && !std::mem::replace(&mut self.warned, true) {
                log::warn("the store does not tell of new objects, polling").error(&error).emit();
            }
            WatchEvent::Down
        });
        self.told = event != WatchEvent::Down;
        self.warned &= !self.told;
        event
    }

    fn advance(&mut self, now: Instant) -> Result<WatchEvent> {
        if self.silent || self.not_before.is_some_and(|time| now < time) {
            return Ok(WatchEvent::Down);
        }
        // What a bucket is like, a copy of another one say, is known once the store was reached.
        if self.watch.is_none() && self.is_reached(now) {
            self.watch = self.store.watch(now);
            self.silent = self.watch.is_none();
        }
        self.watch.as_mut().map_or(Ok(WatchEvent::Down), |watch| watch.poll(now))
    }

    /// Whether there is a store to ask. Those who read from it say why not.
    fn is_reached(&mut self, now: Instant) -> bool {
        self.store.connect(now).unwrap_or_else(|_| {
            self.not_before = Some(now + RETRY_DELAY);
            false
        })
    }

    /// Tells the writer below `prefix` that what it stores is waited for.
    pub fn tell_writer(&mut self, prefix: &str, now: Instant) {
        self.watch.iter_mut().for_each(|watch| watch.tell_writer(prefix, now));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::restore::flaky_store::FlakyStore;

    #[test]
    fn a_store_that_refused_to_tell_is_asked_again_later() {
        let directory = std::env::temp_dir().join(format!("litestream-news-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let store = Rc::new(FlakyStore::with_snapshot_of(&directory.join("a.db"), &directory.join("store")));
        let (mut news, mut now) = (News::new(store.clone()), Instant::now());
        assert_eq!(news.poll(now), WatchEvent::Pending);
        assert!(news.is_told());
        for (kind, delay) in [(Kind::StoreUnreachable, RETRY_DELAY), (Kind::StoreRefused, REFUSED_DELAY)] {
            store.watch_fails.set(Some(kind));
            assert_eq!(news.poll(now), WatchEvent::Down);
            store.watch_fails.set(None);
            assert_eq!(news.poll(now + delay / 2), WatchEvent::Down);
            assert!(!news.is_told());
            now += delay;
            assert_eq!(news.poll(now), WatchEvent::Pending);
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}

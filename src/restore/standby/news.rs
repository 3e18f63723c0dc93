//! What a store tells of new objects, for one copy or for all that are below a place.

use std::rc::Rc;
use std::time::Instant;

use crate::error::Kind;
use crate::log;
use crate::store::{Store, Watch, WatchEvent};

/// Waits for news.
pub struct News {
    store: Rc<dyn Store>,
    watch: Option<Box<dyn Watch>>,
    /// The store was asked, and cannot tell.
    refused: bool,
    told: bool,
}

impl News {
    pub fn new(store: Rc<dyn Store>) -> News {
        News { store, watch: None, refused: false, told: false }
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
        if self.watch.is_none() && !self.refused {
            self.watch = self.store.watch(now);
            self.refused = self.watch.is_none();
        }
        let event = self.watch.as_mut().map_or(Ok(WatchEvent::Down), |watch| watch.poll(now));
        let event = event.unwrap_or_else(|error| {
            self.watch = None;
            // What is only away is back some time.
            self.refused = error.kind() != Kind::StoreUnreachable;
            if self.refused {
                log::warn("the store does not tell of new objects, polling").error(&error).emit();
            }
            WatchEvent::Down
        });
        self.told = event != WatchEvent::Down;
        event
    }
}

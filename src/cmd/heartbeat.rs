//! The heartbeat: a request to a service that raises an alarm when none comes. Sent only when everything is stored.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::config;
use crate::error::{Error, Kind, Result};
use crate::http;
use crate::log;

/// For the whole request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends the heartbeats of a run; each in a thread of its own, so that no backup waits for it.
pub struct HeartbeatSender {
    settings: config::Heartbeat,
    next: Instant,
    in_flight: Option<Receiver<Result<()>>>,
}

impl HeartbeatSender {
    pub fn new(settings: config::Heartbeat, now: Instant) -> HeartbeatSender {
        HeartbeatSender { settings, next: now, in_flight: None }
    }

    pub fn interval(&self) -> Duration {
        self.settings.interval
    }

    /// Sends one if it is due and `stored` says that everything was stored within the interval; if not, the next look
    /// decides.
    pub fn poll(&mut self, now: Instant, stored: impl FnOnce() -> bool) {
        if let Some(result) = self.in_flight.as_ref().and_then(|answer| answer.try_recv().ok()) {
            self.in_flight = None;
            if let Err(error) = result {
                log::warn("heartbeat failed").error(&error).emit();
            }
        }
        if now < self.next || self.in_flight.is_some() || !stored() {
            return;
        }
        self.next = now + self.settings.interval;
        let (sender, receiver) = channel();
        let url = self.settings.url.clone();
        let spawned = std::thread::Builder::new().name("heartbeat".to_string()).spawn(move || {
            let _ = sender.send(send_url(url.reveal()));
        });
        match spawned {
            Ok(_) => self.in_flight = Some(receiver),
            Err(error) => log::warn("heartbeat failed").field("error", error).emit(),
        }
    }
}

/// Sends one, and waits for the answer.
pub fn send(settings: &config::Heartbeat) {
    if let Err(error) = send_url(settings.url.reveal()) {
        log::warn("heartbeat failed").error(&error).emit();
    }
}

fn send_url(url: &str) -> Result<()> {
    match http::get(url, REQUEST_TIMEOUT)? {
        200..=299 => Ok(()),
        status => Err(Error::new(Kind::StoreUnreachable, format!("expected status 2xx, found {status}"))),
    }
}

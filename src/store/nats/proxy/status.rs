//! What the link knows, for those who ask: is it up, since when, and if not, why.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::Deserialize;

use super::traffic::TrafficCounters;
use crate::error::Error;
use crate::wakeup::Waker;

/// What a server says of itself when a client comes. Everything may be missing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServerInfo {
    pub version: String,
    pub max_payload: usize,
    pub headers: bool,
    pub tls_required: bool,
    pub tls_available: bool,
    pub nonce: String,
    /// Of its JetStream; empty without one.
    pub domain: String,
    /// It is going down, in "lame duck mode": it has ended JetStream, and its clients should go elsewhere.
    #[serde(rename = "ldm")]
    pub lame_duck: bool,
}

/// Refused permissions that are remembered.
const MAX_DENIED: usize = 16;

/// The state of a link.
#[derive(Clone, Debug, Default)]
pub struct ProxyStatus {
    /// Logged in and passing bytes.
    pub up: bool,
    /// How often it came up.
    pub sessions: u64,
    pub server: ServerInfo,
    /// Which server it is, or was last, connected to.
    pub address: String,
    /// What it is doing, as in "resolve nats.example.com".
    pub step: String,
    pub failure: Option<Error>,
    /// How many failures there were.
    pub failures: u64,
    /// The reconnects that were allowed are used up.
    pub gave_up: bool,
    /// How many permissions the server has refused, and what it said of the last ones in this connection.
    pub denials: u64,
    pub denied_permission: VecDeque<String>,
    /// What the server said when it refused a subject of the service in this connection.
    pub service_denied: Option<String>,
    /// The same of a subject on which a prefix is taken over.
    pub takeover_denied: Option<String>,
    /// The server refused a subject on which replicators find each other.
    pub lease_queries_denied: bool,
}

/// The state as both threads see it.
#[derive(Clone, Default)]
pub struct SharedStatus {
    status: Arc<Mutex<ProxyStatus>>,
    bytes_moved: Arc<AtomicU64>,
    pub traffic: TrafficCounters,
    /// Called when another program's request has come.
    pub request_waker: Option<Waker>,
}

impl SharedStatus {
    pub fn new(request_waker: Option<Waker>) -> SharedStatus {
        SharedStatus { request_waker, ..SharedStatus::default() }
    }

    /// A panic elsewhere leaves plain values behind, which are still right.
    pub fn lock(&self) -> MutexGuard<'_, ProxyStatus> {
        self.status.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn fail(&self, failure: Error) {
        let mut status = self.lock();
        status.up = false;
        status.failures += 1;
        status.failure = Some(failure);
    }

    /// Bytes of messages that a server has sent or taken, since the beginning.
    pub fn bytes_moved(&self) -> u64 {
        self.bytes_moved.load(Ordering::Relaxed)
    }

    pub fn add_progress(&self, bytes: u64) {
        self.bytes_moved.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn deny(&self, text: String) {
        let mut status = self.lock();
        status.denials += 1;
        status.denied_permission.push_back(text);
        if status.denied_permission.len() > MAX_DENIED {
            status.denied_permission.pop_front();
        }
    }

    pub fn set_step(&self, step: String) {
        self.lock().step = step;
    }
}

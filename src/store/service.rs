//! Requests of others to the running program, which come over its own connections to a store.

use std::collections::BTreeMap;
use std::task::Poll;
use std::time::Instant;

/// What may be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// Where each database stands.
    Status,
    /// Store what is committed now, and answer when it is stored.
    Sync,
}

impl Endpoint {
    pub const ALL: [Endpoint; 2] = [Endpoint::Status, Endpoint::Sync];

    pub fn name(self) -> &'static str {
        match self {
            Endpoint::Status => "status",
            Endpoint::Sync => "sync",
        }
    }
}

/// A request that waits for its answer.
#[derive(Clone, Debug)]
pub struct ServiceRequest {
    pub endpoint: Endpoint,
    pub payload: Vec<u8>,
    /// The connection over which it came: see [`crate::store::Store::connection`].
    pub connection: String,
    /// When it was read.
    pub since: Instant,
    /// Where the answer goes.
    pub(super) reply: String,
}

/// Why a request is refused, with the number that HTTP has for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestError {
    pub code: u16,
    pub text: String,
}

impl RequestError {
    pub fn new(code: u16, text: impl Into<String>) -> RequestError {
        RequestError { code, text: text.into() }
    }
}

/// What the program says of itself to those who look for it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServiceDescription {
    pub metadata: BTreeMap<String, String>,
    /// More of it, for those who ask about this one program.
    pub details: BTreeMap<String, String>,
    /// JSON.
    pub data: String,
}

/// A question to a running program on its way.
pub trait Question {
    /// Makes progress; the answer once it is there.
    ///
    /// Errors: of kind `StoreUnreachable` if nobody answers; `StoreRefused` if the question or its answer was refused.
    fn poll(&mut self, now: Instant) -> crate::error::Result<Poll<Vec<u8>>>;
}

//! What comes back from the server for one operation.

/// A message for one operation.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// What the operation named its question.
    pub tag: u64,
    pub status: Option<u16>,
    pub data: Vec<u8>,
    /// Set on what a consumer delivers: where in the stream it comes from.
    pub delivery: Option<DeliveryInfo>,
}

/// Nobody listens at the subject (ADR-2 of NATS).
const NO_RESPONDERS: u16 = 503;
/// A consumer with an open question is there, and has nothing.
const IDLE_HEARTBEAT: u16 = 100;

impl Reply {
    /// The server says that nobody listens at the subject of the question.
    pub fn has_no_responders(&self) -> bool {
        self.status == Some(NO_RESPONDERS)
    }

    pub fn is_heartbeat(&self) -> bool {
        self.status == Some(IDLE_HEARTBEAT)
    }
}

/// What a consumer says of a message that it delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryInfo {
    pub stream_seq: u64,
    pub consumer_seq: u64,
    /// Nanoseconds since 1970.
    pub stored_nanos: u64,
    /// How many follow.
    pub pending: u64,
}

/// Where the reply to a question is to go: `<inbox>.<token>.<tag>`.
pub struct ReplyTo<'a> {
    pub token: &'a str,
    pub tag: u64,
}

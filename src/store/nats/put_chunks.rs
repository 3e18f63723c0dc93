//! The chunks of an object on its way into the store: cut from what is written, sent as far as the window has room, each of
//! them acknowledged.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::api;
use super::client::Client;
use super::exchange::Exchange;
use super::in_flight::{InFlightChunks, ScheduledResend, SentChunk};
use super::object::{CHUNK_BYTES, ContentDigest, ObjectNames};
use super::reply::Reply;
use crate::error::Result;
use crate::fault;
use crate::random;

/// The tag of the removal of a misplaced chunk; chunks are counted from 1.
pub const MISPLACED: u64 = u64::MAX - 4;

pub struct PutChunks {
    names: Rc<ObjectNames>,
    /// The subject of the chunks ends with it.
    nuid: String,
    /// The last one, which is not sent yet.
    last: Vec<u8>,
    chunk_bytes: usize,
    digest: ContentDigest,
    in_flight: InFlightChunks,
    resend: Option<ScheduledResend>,
    /// When the first chunk went out.
    started: Option<Instant>,
}

impl PutChunks {
    pub fn new(names: &Rc<ObjectNames>) -> PutChunks {
        PutChunks {
            names: names.clone(),
            nuid: random::token(),
            last: Vec::new(),
            chunk_bytes: CHUNK_BYTES,
            digest: ContentDigest::new(),
            in_flight: InFlightChunks::default(),
            resend: None,
            started: None,
        }
    }

    pub fn nuid(&self) -> &str {
        &self.nuid
    }

    pub fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Of what was sent.
    pub fn digest(&self) -> &ContentDigest {
        &self.digest
    }

    pub fn subject(&self) -> String {
        self.names.chunk_subject(&self.nuid)
    }

    /// No chunk is larger than the server and the bucket allow.
    pub fn limit_size(&mut self, max_payload: usize) {
        let limits = [max_payload, self.names.max_message.get()];
        self.chunk_bytes = limits.into_iter().filter(|limit| *limit > 0).fold(CHUNK_BYTES, usize::min);
    }

    /// Takes as many of `bytes` as there is room for, and says how many.
    pub fn write(&mut self, exchange: &Exchange, bytes: &[u8]) -> Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = self.chunk_bytes.saturating_sub(self.last.len());
            let (now, later) = rest.split_at_checked(room).unwrap_or((rest, &[]));
            self.last.extend_from_slice(now);
            rest = later;
            if self.last.len() >= self.chunk_bytes && !self.send_last(exchange)? {
                break;
            }
        }
        Ok(bytes.len().saturating_sub(rest.len()))
    }

    /// Sends the last one if it is full, or if no more bytes follow.
    pub fn send_due(&mut self, exchange: &Exchange, finished: bool) -> Result<()> {
        if self.last.len() >= self.chunk_bytes || (finished && !self.last.is_empty()) {
            self.send_last(exchange)?;
        }
        Ok(())
    }

    /// False: the window is full.
    fn send_last(&mut self, exchange: &Exchange) -> Result<bool> {
        let resends = self.in_flight.needs_resend() || self.resend.is_some();
        if resends || !exchange.client().window.borrow_mut().can_send(self.last.len()) {
            return Ok(false);
        }
        fault::point("put.chunk")?;
        self.digest.add(&self.last);
        let bytes = std::mem::take(&mut self.last);
        self.publish(exchange, self.digest.chunks, bytes)?;
        Ok(true)
    }

    fn publish(&mut self, exchange: &Exchange, tag: u64, bytes: Vec<u8>) -> Result<()> {
        exchange.request(tag, &self.subject(), &bytes)?;
        exchange.client().window.borrow_mut().on_send(bytes.len());
        self.in_flight.sent(tag, bytes, Instant::now());
        self.started.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Sends again what a full queue of the server has rejected: see [`InFlightChunks`].
    pub fn resend_rejected(&mut self, exchange: &Exchange, now: Instant) -> Result<()> {
        if let Some(resend) = self.in_flight.take_resend() {
            for seq in &resend.misplaced {
                let question = api::delete_message_request(*seq);
                exchange.request(MISPLACED, &self.names.api("STREAM.MSG.DELETE"), &question)?;
            }
            self.resend = Some(ScheduledResend::new(resend, now));
        }
        if let Some(resend) = self.resend.take_if(|resend| resend.is_due(now)) {
            for (tag, bytes) in resend.chunks {
                self.publish(exchange, tag, bytes)?;
            }
        }
        Ok(())
    }

    /// The answer to the removal of a misplaced chunk.
    pub fn on_removed(&mut self, reply: &Reply) -> Result<()> {
        api::parse_success::<serde_json::Value>(reply)?;
        self.resend.iter_mut().for_each(ScheduledResend::on_removed);
        Ok(())
    }

    /// The answer to a chunk.
    pub fn on_reply(&mut self, client: &Client, reply: &Reply) -> Result<()> {
        let tag = reply.tag;
        let Some(SentChunk { bytes, at }) = self.in_flight.is_answered(tag) else {
            return client.duplicates.borrow_mut().check_repeated_ack(reply, &self.names);
        };
        let answer = client.duplicates.borrow_mut().read_ack(reply, &self.names);
        if matches!(answer, Ok(Ok(_))) {
            client.window.borrow_mut().on_ack(bytes.len(), at, Instant::now());
        } else {
            client.window.borrow_mut().on_abandon(bytes.len());
        }
        match answer? {
            Ok(seq) => self.in_flight.on_ack(tag, seq, bytes),
            Err(refusal) if refusal.err_code == api::TOO_MANY_REQUESTS && self.in_flight.on_reject(tag, bytes) => {}
            Err(refusal) => return Err(refusal.error()),
        }
        Ok(())
    }

    /// Whether an answer is awaited, or a chunk is to be sent again.
    pub fn is_waiting(&self) -> bool {
        !self.in_flight.is_empty() || self.resend.is_some()
    }

    /// Whether all that was written is stored.
    pub fn is_stored(&self) -> bool {
        self.last.is_empty() && !self.is_waiting()
    }

    /// For how long chunks have been on their way; none before the first one.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.started.map(|started| now.saturating_duration_since(started))
    }

    /// Gives the window back. How many chunks have no answer yet.
    pub fn abandon(&mut self, client: &Client) -> usize {
        let in_flight = std::mem::take(&mut self.in_flight);
        client.window.borrow_mut().on_abandon(in_flight.bytes());
        in_flight.unanswered()
    }
}

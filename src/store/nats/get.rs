//! Reading an object: its meta message from the stream's leader, then its chunks in order from a consumer that we pull from
//! (one chunk alone is asked for directly). Size, number of chunks and digest are checked.
//!
//! After a lost connection it goes on after the last chunk that was given out.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::api::{self, StartAt};
use super::client::Client;
use super::exchange::{Exchange, ExchangeEvent};
use super::object::{ContentDigest, Meta, ObjectNames};
use super::reply::Reply;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::fault;
use crate::store::traffic::Purpose;
use crate::store::{Chunk, Get};

/// Tags.
const META: u64 = 1;
const CREATED: u64 = 2;
const BATCH: u64 = 3;
const SINGLE_CHUNK: u64 = 4;
/// Before a replica that is behind, or another one, is asked again.
const LAG_RETRY_DELAY: Duration = Duration::from_millis(200);
/// Consumers that may break off in one read while the connection holds.
const MAX_RESTARTS: u32 = 20;
/// Bytes asked for ahead, near by and far away: what a reader that is slow must hold.
const MIN_PREFETCH: u64 = 2 * 1024 * 1024;
const MAX_PREFETCH: u64 = 16 * 1024 * 1024;
/// Messages asked for ahead, however small others have made them.
const MAX_PREFETCH_MESSAGES: u64 = 1024;
/// What a far link is meant to carry (bytes a second); times the round trip it is what must be asked for ahead.
const TARGET_RATE: u64 = 300_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum GetStage {
    /// Nothing is asked yet, or what was asked is void.
    Begin,
    Meta,
    SingleChunk,
    Create {
        asked: Instant,
    },
    Read,
    /// Chunks are missing: is it still the same object?
    RecheckMeta,
    /// The replica that was asked has not all of it yet.
    ReplicaLagging {
        until: Instant,
    },
    End,
}

pub struct NatsGet {
    names: Rc<ObjectNames>,
    name: String,
    exchange: Exchange,
    /// The connection in which it last asked.
    session: Option<u64>,
    stage: GetStage,
    meta: Option<Meta>,
    digest: ContentDigest,
    /// After this one it goes on after a lost connection.
    last_seq: u64,
    /// Of the consumer: how many it has given, and how many it owes.
    consumer_seq: u64,
    remaining: u64,
    /// Chunks that were asked for and have not been given out.
    requested: u64,
    prefetch_limit: u64,
    consumer: bool,
    restarts: u32,
    /// Since when replicas have been found that have not all of it.
    lag_retries: Option<Instant>,
}

impl NatsGet {
    pub fn new(client: &Rc<Client>, names: &Rc<ObjectNames>, name: &str) -> NatsGet {
        NatsGet {
            names: names.clone(),
            name: name.to_string(),
            exchange: Exchange::new(client, Purpose::Listing),
            session: None,
            stage: GetStage::Begin,
            meta: None,
            digest: ContentDigest::new(),
            last_seq: 0,
            consumer_seq: 0,
            remaining: 0,
            requested: 0,
            prefetch_limit: 1,
            consumer: false,
            restarts: 0,
            lag_retries: None,
        }
    }

    /// After a reconnect everything that was asked is void; what was given out stays.
    fn on_new_session(&mut self) {
        let before = std::mem::replace(&mut self.session, self.exchange.session());
        if let (Some(before), GetStage::Read | GetStage::SingleChunk) = (before, self.stage) {
            self.exchange.client().was_cut_while_reading(before);
        }
        self.restart();
    }

    fn restart(&mut self) {
        self.delete_consumer();
        self.exchange.renew();
        self.stage = GetStage::Begin;
    }

    /// Begins again after the last chunk, but not for ever.
    fn restart_limited(&mut self) -> Result<()> {
        self.restarts += 1;
        if self.restarts > MAX_RESTARTS {
            return Err(Error::new(
                Kind::StoreUnreachable,
                format!("the server aborted the read {MAX_RESTARTS} times"),
            ));
        }
        self.restart();
        Ok(())
    }

    fn delete_consumer(&mut self) {
        if std::mem::take(&mut self.consumer) {
            self.exchange.delete_consumer(&self.names);
        }
    }

    fn request(&mut self) -> Result<()> {
        fault::point("get.ask")?;
        match &self.meta {
            None => self.request_meta(GetStage::Meta),
            Some(meta) if meta.size == 0 => {
                self.stage = GetStage::End;
                self.digest.check(meta)
            }
            Some(meta) if meta.chunks == Some(1) && self.digest.chunks == 0 => {
                let question = api::last_message_request(&self.names.chunk_subject(&meta.nuid));
                self.stage = GetStage::SingleChunk;
                self.exchange.request(SINGLE_CHUNK, &self.names.api("STREAM.MSG.GET"), &question)
            }
            Some(meta) => {
                let begin = if self.last_seq == 0 { StartAt::All } else { StartAt::After(self.last_seq) };
                let filter = self.names.chunk_subject(&meta.nuid);
                let (subject, request) =
                    api::new_consumer_request(&self.names, &self.exchange.consumer(), &filter, begin);
                self.stage = GetStage::Create { asked: Instant::now() };
                self.consumer = true;
                self.exchange.request(CREATED, &subject, &request)
            }
        }
    }

    fn request_meta(&mut self, stage: GetStage) -> Result<()> {
        let full_name = self.names.full_name(&self.name)?;
        let question = api::last_message_request(&self.names.meta_subject(&full_name));
        self.stage = stage;
        self.exchange.request(META, &self.names.api("STREAM.MSG.GET"), &question)
    }

    fn on_reply(&mut self, reply: Reply) -> Result<Option<Vec<u8>>> {
        match (self.stage, reply.tag, reply.delivery) {
            (GetStage::Meta, META, _) => self.on_meta(&reply)?,
            (GetStage::RecheckMeta, META, _) => self.on_recheck(&reply)?,
            (GetStage::SingleChunk, SINGLE_CHUNK, _) => return self.on_single_chunk(&reply),
            (GetStage::Create { asked }, CREATED, _) => self.on_created(&reply, asked.elapsed())?,
            (GetStage::Read, _, Some(origin)) => {
                if origin.consumer_seq != self.consumer_seq + 1 {
                    // Something was lost on the way: once more from the end of what we have.
                    return self.restart_limited().map(|()| None);
                }
                self.consumer_seq = origin.consumer_seq;
                self.last_seq = origin.stream_seq;
                self.remaining = self.remaining.saturating_sub(1);
                self.requested = self.requested.saturating_sub(1);
                return self.deliver_chunk(reply.data).map(Some);
            }
            // The consumer has nothing more, or is gone: a new one tells how many chunks there are.
            (GetStage::Read, BATCH, None) if !reply.is_heartbeat() => self.restart_limited()?,
            _ => {}
        }
        Ok(None)
    }

    fn on_meta(&mut self, reply: &Reply) -> Result<()> {
        self.meta = Some(self.parse_meta(reply)?);
        self.request()
    }

    fn parse_meta(&self, reply: &Reply) -> Result<Meta> {
        let missing = || Error::new(Kind::NotFound, "no such object");
        let json = api::message_payload(reply)?.ok_or_else(missing)?;
        let meta = Meta::parse(&json);
        let meta = meta.ok_or_else(|| Error::new(Kind::Corrupt, "expected object metadata, found something else"))?;
        if meta.deleted {
            return Err(missing());
        }
        if meta.link {
            return Err(Error::new(Kind::Corrupt, "expected an object, found a link to another one"));
        }
        Ok(meta)
    }

    /// Chunks are missing. If it was replaced meanwhile, the new one can be read, from its beginning.
    fn on_recheck(&mut self, reply: &Reply) -> Result<()> {
        let now = self.parse_meta(reply)?;
        if self.meta.as_ref().is_some_and(|meta| meta.nuid == now.nuid) {
            if self.replica_may_lag() {
                self.stage = GetStage::ReplicaLagging { until: Instant::now() + LAG_RETRY_DELAY };
                return Ok(());
            }
            let expected = now.chunks.map_or_else(|| "more".to_string(), |chunks| chunks.to_string());
            let found = self.digest.chunks;
            return Err(Error::new(Kind::Corrupt, format!("expected {expected} chunks, found {found}")));
        }
        if self.digest.chunks > 0 {
            return Err(Error::new(Kind::StoreUnreachable, "the object was replaced while it was read"));
        }
        self.meta = Some(now);
        self.restart_limited()
    }

    /// A consumer reads from any of the replicas, and one that was away has to catch up: the leader knew better.
    fn replica_may_lag(&mut self) -> bool {
        let since = *self.lag_retries.get_or_insert_with(Instant::now);
        self.names.replicated.get() && since.elapsed() < self.exchange.client().timeout()
    }

    fn on_single_chunk(&mut self, reply: &Reply) -> Result<Option<Vec<u8>>> {
        match api::message_payload(reply)? {
            Some(bytes) => self.deliver_chunk(bytes).map(Some),
            None => self.request_meta(GetStage::RecheckMeta).map(|()| None),
        }
    }

    fn on_created(&mut self, reply: &Reply, round_trip: Duration) -> Result<()> {
        let consumer: api::Consumer = api::parse_success(reply)?;
        self.remaining = consumer.num_pending;
        (self.consumer_seq, self.requested) = (0, 0);
        let expected = self.meta.as_ref().and_then(|meta| meta.chunks);
        let found = self.digest.chunks.saturating_add(self.remaining);
        if self.remaining == 0 || expected.is_some_and(|expected| expected != found) {
            return self.request_meta(GetStage::RecheckMeta);
        }
        let most = prefetch_bytes(round_trip, self.meta.as_ref().map_or(0, |meta| meta.size), found);
        self.prefetch_limit = (most >> self.exchange.client().read_halvings()).max(1);
        self.stage = GetStage::Read;
        self.prefetch()
    }

    /// Asks for more once a quarter of what was asked for has been given out.
    fn prefetch(&mut self) -> Result<()> {
        let unasked = self.remaining.saturating_sub(self.requested);
        if unasked == 0 || self.requested > self.prefetch_limit / 4 * 3 {
            return Ok(());
        }
        let batch = unasked.min(self.prefetch_limit.saturating_sub(self.requested));
        let (subject, request) = api::next_request(&self.names, &self.exchange.consumer(), batch);
        self.requested += batch;
        self.exchange.request(BATCH, &subject, &request)
    }

    fn deliver_chunk(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        self.digest.add(&bytes);
        let Some(meta) = &self.meta else { return Ok(bytes) };
        if self.digest.size > meta.size {
            return self.digest.check(meta).map(|()| bytes);
        }
        if self.stage == GetStage::SingleChunk || self.remaining == 0 {
            self.digest.check(meta)?;
            self.stage = GetStage::End;
            self.delete_consumer();
        } else {
            self.prefetch()?;
        }
        Ok(bytes)
    }

    fn step(&mut self, now: Instant) -> Result<Chunk> {
        if self.stage == GetStage::End {
            return Ok(Chunk::End);
        }
        if let GetStage::ReplicaLagging { until } = self.stage
            && now >= until
        {
            self.restart();
        }
        while let Some(event) = self.exchange.next() {
            match event {
                ExchangeEvent::NewSession => self.on_new_session(),
                ExchangeEvent::Reply(reply) => {
                    if let Some(bytes) = self.on_reply(reply)? {
                        return Ok(Chunk::Bytes(bytes));
                    }
                }
            }
        }
        if self.stage == GetStage::Begin && self.exchange.is_connected() {
            self.request()?;
        }
        if self.stage == GetStage::End {
            return Ok(Chunk::End);
        }
        self.exchange.check_timeout(now)?;
        Ok(Chunk::Pending)
    }
}

/// How many chunks to ask for ahead, of an object of `size` bytes in `chunks`: who made them chose how large they are.
fn prefetch_bytes(round_trip: Duration, size: u64, chunks: u64) -> u64 {
    let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
    let bytes = micros.saturating_mul(TARGET_RATE / 1_000_000).clamp(MIN_PREFETCH, MAX_PREFETCH);
    let chunk = size.div_ceil(chunks.max(1)).max(1);
    (bytes / chunk).clamp(1, MAX_PREFETCH_MESSAGES)
}

impl Get for NatsGet {
    fn count_for(&mut self, purpose: Purpose) {
        self.exchange.count_for(purpose);
    }

    fn poll(&mut self, now: Instant) -> Result<Chunk> {
        self.step(now).with_context(|| format!("get {}", self.names.with_prefix(&self.name)))
    }
}

impl Drop for NatsGet {
    fn drop(&mut self) {
        self.delete_consumer();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefetch_is_bounded_in_bytes_for_every_chunk_size() {
        const MIB: u64 = 1024 * 1024;
        let (near, far) = (Duration::from_micros(300), Duration::from_millis(100));
        let table = [
            (near, MIB / 8, 16),
            (far, MIB / 8, 128),
            (near, MIB, 2),
            (far, MIB, 16),
            (far, 64 * MIB, 1),
            (far, 100, MAX_PREFETCH_MESSAGES),
            (Duration::MAX, MIB, 16),
        ];
        for (round_trip, chunk, expected) in table {
            assert_eq!(prefetch_bytes(round_trip, chunk * 1000, 1000), expected, "{round_trip:?}, {chunk}");
        }
        assert_eq!((prefetch_bytes(near, 0, 0), prefetch_bytes(far, u64::MAX, 1)), (MAX_PREFETCH_MESSAGES, 1));
        // The last chunk is smaller than the others.
        assert_eq!(prefetch_bytes(near, 5 * MIB + 1, 6), 2);
    }
}

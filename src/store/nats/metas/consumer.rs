//! All metas of a bucket from a consumer: quick, but it may read from a replica that is behind.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::MetaEvent;
use crate::error::Result;
use crate::fault;
use crate::store::nats::api::{self, StartAt};
use crate::store::nats::client::Client;
use crate::store::nats::exchange::{Exchange, ExchangeEvent};
use crate::store::nats::object::{Meta, ObjectNames};
use crate::store::nats::reply::Reply;
use crate::store::traffic::Purpose;

const CREATED: u64 = 1;
const BATCH: u64 = 2;
/// Metas asked for at once; two batches are on their way.
const BATCH_SIZE: u64 = 2_000;
/// A consumer that owes something answers sooner.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Metas from a consumer.
pub struct ConsumerReader {
    names: Rc<ObjectNames>,
    exchange: Exchange,
    consumer: bool,
    /// The last meta was given out.
    ended: bool,
    /// Metas that the consumer has and that have not come; so many of them were asked for.
    remaining: u64,
    requested: u64,
    /// It said that it has nothing, although it owes something.
    stalled: bool,
    /// When it was last heard.
    last_received: Option<Instant>,
}

impl ConsumerReader {
    pub fn new(client: &Rc<Client>, names: &Rc<ObjectNames>) -> ConsumerReader {
        ConsumerReader {
            names: names.clone(),
            exchange: Exchange::new(client, Purpose::Listing),
            consumer: false,
            ended: false,
            remaining: 0,
            requested: 0,
            stalled: false,
            last_received: None,
        }
    }

    /// None: the consumer is not to be believed.
    pub fn step(&mut self, now: Instant) -> Result<Option<MetaEvent>> {
        while !self.ended
            && let Some(event) = self.exchange.next()
        {
            match event {
                ExchangeEvent::NewSession => {
                    self.restart()?;
                    return Ok(Some(MetaEvent::Restarted));
                }
                ExchangeEvent::Reply(reply) => {
                    self.last_received = Some(now);
                    if let Some(event) = self.on_reply(&reply)? {
                        return Ok(Some(event));
                    }
                }
            }
        }
        if self.ended {
            return Ok(Some(MetaEvent::End));
        }
        let quiet = STALL_TIMEOUT.min(self.exchange.client().timeout() / 2);
        if self.stalled || self.last_received.is_some_and(|heard| now.saturating_duration_since(heard) > quiet) {
            return Ok(None);
        }
        self.exchange.check_timeout(now)?;
        Ok(Some(MetaEvent::Pending))
    }

    fn restart(&mut self) -> Result<()> {
        self.exchange.renew();
        self.last_received = None;
        (self.ended, self.stalled, self.consumer) = (false, false, self.exchange.is_connected());
        (self.remaining, self.requested) = (0, 0);
        if !self.exchange.is_connected() {
            return Ok(());
        }
        let filter = self.names.all_metas();
        let (subject, request) =
            api::new_consumer_request(&self.names, &self.exchange.consumer(), &filter, StartAt::All);
        self.exchange.request(CREATED, &subject, &request)
    }

    fn on_reply(&mut self, reply: &Reply) -> Result<Option<MetaEvent>> {
        match (reply.tag, reply.delivery) {
            (CREATED, None) => {
                let consumer: api::Consumer = api::parse_success(reply)?;
                self.remaining = consumer.num_pending;
                self.ended = self.remaining == 0;
                self.prefetch()?;
            }
            (_, Some(origin)) => {
                self.remaining = origin.pending;
                self.requested = self.requested.saturating_sub(1);
                self.ended = self.remaining == 0;
                self.prefetch()?;
                return Ok(Some(MetaEvent::Meta(Meta::parse(&reply.data))));
            }
            (BATCH, None) if !reply.is_heartbeat() => self.stalled = true,
            _ => {}
        }
        Ok(None)
    }

    fn prefetch(&mut self) -> Result<()> {
        let unasked = self.remaining.saturating_sub(self.requested);
        if self.ended || unasked == 0 || self.requested > BATCH_SIZE {
            return Ok(());
        }
        fault::point("list.ask")?;
        let batch = unasked.min(BATCH_SIZE);
        let (subject, request) = api::next_request(&self.names, &self.exchange.consumer(), batch);
        self.requested += batch;
        self.exchange.request(BATCH, &subject, &request)?;
        self.prefetch()
    }
}

impl Drop for ConsumerReader {
    fn drop(&mut self) {
        if self.consumer {
            self.exchange.delete_consumer(&self.names);
        }
    }
}

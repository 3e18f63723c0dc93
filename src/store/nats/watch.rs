//! Objects as they are stored, told by the server: a consumer of the metas, from now on, with a question that stays open.
//!
//! What the consumer delivers is numbered; where a number is missing, where it falls silent (it is gone, or its server is),
//! or where the connection was another one, it is made again, and anyone who watches has to look at everything once.
//! A writer is told that a standby listens, so that it stores each commit at once: the one of the watched prefix at the start,
//! and any below it at times while it stores something. So a thousand databases at rest cost no message.
//!
//! At rest a heartbeat comes each [`HEARTBEAT_INTERVAL`], and the question is asked again each [`OPEN_FOR`].

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::api::{self, StartAt};
use super::client::Client;
use super::exchange::{Exchange, ExchangeEvent};
use super::lease_subjects::LeaseSubjects;
use super::object::{Meta, ObjectNames};
use super::reply::Reply;
use super::writer_info::STANDBY_LISTENS;
use crate::error::{Result, ResultExt};
use crate::fault;
use crate::store::traffic::Purpose;
use crate::store::{Entry, Watch, WatchEvent, name};

const CREATED: u64 = 1;
const OPEN: u64 = 2;
/// The server says that a question is over.
const OVER: u16 = 408;
/// How long a question stays open, and how many objects it is answered with.
const OPEN_FOR: Duration = Duration::from_secs(60);
const OBJECTS_PER_QUESTION: u64 = 1_000;
/// Servers take no heartbeat that is longer than half the time for which a question is open.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// While there is news of a writer, it is told this often that a standby listens.
const TELL_INTERVAL: Duration = Duration::from_secs(5);
/// A consumer that has missed two heartbeats is gone.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(25);

pub struct NatsWatch {
    names: Rc<ObjectNames>,
    exchange: Exchange,
    /// Where the writers are told something.
    writers: LeaseSubjects,
    told: ToldWriters,
    /// It is there: whatever is stored from now on is told.
    created: bool,
    /// Messages that it has delivered.
    delivered: u64,
    /// Of the open question, how many are to come.
    owed: u64,
    heard: Instant,
}

impl NatsWatch {
    pub fn new(client: &Rc<Client>, names: &Rc<ObjectNames>, writers: LeaseSubjects, now: Instant) -> NatsWatch {
        NatsWatch {
            names: names.clone(),
            exchange: Exchange::new(client, Purpose::Listing),
            writers,
            told: ToldWriters::default(),
            created: false,
            delivered: 0,
            owed: 0,
            heard: now,
        }
    }

    fn step(&mut self, now: Instant) -> Result<WatchEvent> {
        if self.created && now.saturating_duration_since(self.heard) > SILENCE_TIMEOUT {
            self.restart(now)?;
        }
        self.exchange.client().receive_ready();
        while let Some(event) = self.exchange.next() {
            match event {
                ExchangeEvent::NewSession => self.restart(now)?,
                ExchangeEvent::Reply(reply) => {
                    self.heard = now;
                    if let Some(event) = self.on_reply(&reply, now)? {
                        return Ok(event);
                    }
                }
            }
        }
        if !self.exchange.is_connected() {
            return Ok(WatchEvent::Down);
        }
        if !self.created {
            self.exchange.check_timeout(now)?;
            return Ok(WatchEvent::Down);
        }
        self.exchange.check_denied()?;
        Ok(WatchEvent::Pending)
    }

    fn restart(&mut self, now: Instant) -> Result<()> {
        self.remove_consumer();
        self.exchange.renew();
        self.exchange.reset_timeout();
        (self.created, self.delivered, self.owed, self.heard) = (false, 0, 0, now);
        self.told = ToldWriters::default();
        if !self.exchange.is_connected() {
            return Ok(());
        }
        fault::point("watch.create")?;
        let filter = self.names.all_metas();
        let (subject, request) =
            api::new_consumer_request(&self.names, &self.exchange.consumer(), &filter, StartAt::New);
        self.exchange.request(CREATED, &subject, &request)
    }

    fn on_reply(&mut self, reply: &Reply, now: Instant) -> Result<Option<WatchEvent>> {
        match (reply.tag, reply.delivery) {
            (CREATED, None) => {
                api::parse_success::<api::Consumer>(reply)?;
                self.created = true;
                self.request_objects()?;
                self.tell_writer("", now);
                return Ok(Some(WatchEvent::Started));
            }
            (_, Some(delivery)) => {
                self.delivered += 1;
                self.owed = self.owed.saturating_sub(1);
                if delivery.consumer_seq != self.delivered {
                    self.restart(now)?;
                    return Ok(Some(WatchEvent::Down));
                }
                if self.owed == 0 {
                    self.request_objects()?;
                }
                return Ok(Meta::parse(&reply.data).and_then(|meta| self.stored(&meta)).map(WatchEvent::Stored));
            }
            (OPEN, None) if reply.is_heartbeat() => {}
            (OPEN, None) if reply.status == Some(OVER) => self.request_objects()?,
            // The consumer is not there any more.
            (OPEN, None) => {
                self.restart(now)?;
                return Ok(Some(WatchEvent::Down));
            }
            _ => {}
        }
        Ok(None)
    }

    fn request_objects(&mut self) -> Result<()> {
        let (subject, request) = api::open_request(
            &self.names,
            &self.exchange.consumer(),
            OBJECTS_PER_QUESTION,
            OPEN_FOR,
            HEARTBEAT_INTERVAL,
        );
        self.owed = OBJECTS_PER_QUESTION;
        self.exchange.request(OPEN, &subject, &request)
    }

    /// Whatever is not ours is passed over, and so is what was deleted.
    fn stored(&self, meta: &Meta) -> Option<Entry> {
        let name = self.names.strip_prefix(&meta.name).filter(|_| !meta.deleted && !meta.link)?;
        name::validate(name).ok()?;
        Some(Entry { name: name.to_string(), size: meta.size, whole: true })
    }

    fn remove_consumer(&self) {
        if self.created {
            self.exchange.delete_consumer(&self.names);
        }
    }
}

impl Watch for NatsWatch {
    fn poll(&mut self, now: Instant) -> Result<WatchEvent> {
        self.step(now).with_context(|| format!("watch {}", self.names.bucket))
    }

    /// If it does not arrive, commits come with the writer's sync interval.
    fn tell_writer(&mut self, prefix: &str, now: Instant) {
        if self.told.is_due(prefix, now) {
            self.exchange.client().publish_unanswered(&self.writers.below(prefix), STANDBY_LISTENS);
        }
    }
}

/// Which writers were told that a standby listens, and when.
#[derive(Default)]
struct ToldWriters(HashMap<String, Instant>);

impl ToldWriters {
    /// Whether the writer of a prefix is to be told now; it is then taken to have been.
    fn is_due(&mut self, prefix: &str, now: Instant) -> bool {
        match self.0.get_mut(prefix) {
            Some(told) if now.saturating_duration_since(*told) < TELL_INTERVAL => return false,
            Some(told) => *told = now,
            None => _ = self.0.insert(prefix.to_string(), now),
        }
        true
    }
}

impl Drop for NatsWatch {
    fn drop(&mut self) {
        self.remove_consumer();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_writer_is_told_now_and_then_and_not_with_each_object() {
        let (mut told, begun) = (ToldWriters::default(), Instant::now());
        let objects = (0..1_000u32).map(|at| (["a", "b/c", ""][at as usize % 3], begun + at * TELL_INTERVAL / 500));
        let due: Vec<&str> =
            objects.filter(|(prefix, now)| told.is_due(prefix, *now)).map(|(prefix, _)| prefix).collect();
        assert_eq!(due, ["a", "b/c", "", "a", "b/c", ""]);
    }
}

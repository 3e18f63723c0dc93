//! Whether some objects are there: their meta messages, asked of the stream's leader. One question and one answer each, so
//! that it costs the same however long the history and however large the objects are.

use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use super::api;
use super::client::Client;
use super::exchange::{Exchange, ExchangeEvent};
use super::object::{Meta, ObjectNames};
use super::reply::Reply;
use crate::error::{Result, ResultExt};
use crate::store::Presence;
use crate::store::traffic::Purpose;

pub struct NatsPresence {
    subjects: Rc<ObjectNames>,
    exchange: Exchange,
    names: Vec<String>,
    unanswered: usize,
    missing: Vec<String>,
}

impl NatsPresence {
    pub fn new(client: &Rc<Client>, subjects: &Rc<ObjectNames>, names: Vec<String>) -> NatsPresence {
        NatsPresence {
            subjects: subjects.clone(),
            exchange: Exchange::new(client, Purpose::Listing),
            names,
            unanswered: 0,
            missing: Vec::new(),
        }
    }

    fn restart(&mut self) -> Result<()> {
        self.exchange.renew();
        self.missing.clear();
        self.unanswered = self.names.len();
        if !self.exchange.is_connected() {
            return Ok(());
        }
        let api = self.subjects.api("STREAM.MSG.GET");
        for (tag, name) in (0..).zip(&self.names) {
            let subject = self.subjects.meta_subject(&self.subjects.full_name(name)?);
            self.exchange.request(tag, &api, &api::last_message_request(&subject))?;
        }
        Ok(())
    }

    fn on_reply(&mut self, reply: &Reply) -> Result<()> {
        self.unanswered = self.unanswered.saturating_sub(1);
        let meta = api::message_payload(reply)?.and_then(|json| Meta::parse(&json));
        if meta.is_none_or(|meta| meta.deleted) {
            let name = usize::try_from(reply.tag).ok().and_then(|at| self.names.get(at));
            self.missing.extend(name.cloned());
        }
        Ok(())
    }

    fn step(&mut self, now: Instant) -> Result<Poll<Vec<String>>> {
        while let Some(event) = self.exchange.next() {
            match event {
                ExchangeEvent::NewSession => self.restart()?,
                ExchangeEvent::Reply(reply) => self.on_reply(&reply)?,
            }
        }
        if self.exchange.is_connected() && self.unanswered == 0 {
            return Ok(Poll::Ready(std::mem::take(&mut self.missing)));
        }
        self.exchange.check_timeout(now)?;
        Ok(Poll::Pending)
    }
}

impl Presence for NatsPresence {
    fn poll(&mut self, now: Instant) -> Result<Poll<Vec<String>>> {
        self.step(now).with_context(|| format!("look for objects in {}", self.subjects.with_prefix("")))
    }
}

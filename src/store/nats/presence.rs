//! Whether some objects are there: their meta messages, asked of the stream's leader. One question and one answer each, so
//! that it costs the same however long the history and however large the objects are.
//!
//! A server that lost a block of its file store, and somebody who deletes messages by hand, can take chunks and leave the
//! meta. So whether an object is whole takes a second question: how many messages its chunk subject has.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use super::api;
use super::client::Client;
use super::exchange::{Exchange, ExchangeEvent};
use super::object::{Meta, ObjectNames};
use super::reply::Reply;
use super::stream_info::{StreamInfo, subjects_request};
use crate::error::{Result, ResultExt};
use crate::store::Presence;
use crate::store::traffic::Purpose;

pub struct NatsPresence {
    subjects: Rc<ObjectNames>,
    exchange: Exchange,
    names: Vec<String>,
    /// One of which chunks are missing is missing.
    whole: bool,
    /// The objects whose chunks are asked for: the number of the name, the subject, and how many there should be.
    chunks: Vec<(usize, String, u64)>,
    unanswered: usize,
    missing: Vec<String>,
}

impl NatsPresence {
    pub fn new(client: &Rc<Client>, subjects: &Rc<ObjectNames>, names: Vec<String>, whole: bool) -> NatsPresence {
        NatsPresence {
            subjects: subjects.clone(),
            exchange: Exchange::new(client, Purpose::Listing),
            names,
            whole,
            chunks: Vec::new(),
            unanswered: 0,
            missing: Vec::new(),
        }
    }

    fn restart(&mut self) -> Result<()> {
        self.exchange.renew();
        self.missing.clear();
        self.chunks.clear();
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

    /// Answers carry the number of the name, or, of the chunks, the number of their question after all names.
    fn on_reply(&mut self, reply: &Reply) -> Result<()> {
        self.unanswered = self.unanswered.saturating_sub(1);
        let Ok(tag) = usize::try_from(reply.tag) else { return Ok(()) };
        match tag.checked_sub(self.names.len()) {
            None => self.on_meta(tag, api::message_payload(reply)?.and_then(|json| Meta::parse(&json))),
            Some(question) => self.on_chunks(question, &api::parse_success(reply)?),
        }
    }

    fn on_meta(&mut self, at: usize, meta: Option<Meta>) -> Result<()> {
        let Some(meta) = meta.filter(|meta| !meta.deleted) else {
            self.missing.extend(self.names.get(at).cloned());
            return Ok(());
        };
        let Some(chunks) = meta.chunks.filter(|chunks| self.whole && *chunks > 0) else { return Ok(()) };
        let subject = self.subjects.chunk_subject(&meta.nuid);
        let question = u64::try_from(self.names.len() + self.chunks.len()).unwrap_or(u64::MAX);
        self.exchange.request(question, &self.subjects.api("STREAM.INFO"), &subjects_request(&subject, 0))?;
        self.chunks.push((at, subject, chunks));
        self.unanswered += 1;
        Ok(())
    }

    fn on_chunks(&mut self, question: usize, info: &StreamInfo<BTreeMap<String, u64>>) -> Result<()> {
        let Some((at, subject, expected)) = self.chunks.get(question) else { return Ok(()) };
        let found = info.state.subjects.as_ref().and_then(|subjects| subjects.get(subject));
        if found.copied().unwrap_or_default() < *expected {
            self.missing.extend(self.names.get(*at).cloned());
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

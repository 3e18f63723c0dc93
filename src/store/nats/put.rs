//! Storing an object: chunks, each of them acknowledged; then, once committed, the meta message that makes it visible; then
//! the chunks of the object that it replaced go.
//!
//! The meta message says which one it follows: none, where the name is new, or our own last one. Only where the server knows
//! better is it asked what is there, which costs a name that is used again by others one more round trip.
//!
//! Of a writer that has a record in the bucket, the meta message of a new name says instead that the record must be there: of
//! two writers, only the one that came later stores anything ([`Fence`]). A name whose meta message was sent before and not
//! answered is asked for first.
//!
//! A put that loses its connection ends: whether the last chunks arrived is unknown, and to send them again could store them
//! twice. Its own chunks are removed when it is dropped without being done.

use std::rc::Rc;
use std::time::Instant;

use super::abandoned_put::AbandonedPut;
use super::api;
use super::client::Client;
use super::exchange::{Exchange, ExchangeEvent};
use super::fence::Fence;
use super::object::{Meta, ObjectNames, write_meta};
use super::own_objects::{OwnObject, Replaced};
use super::put_chunks::{MISPLACED, PutChunks};
use super::reply::Reply;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::fault;
use crate::store::traffic::Purpose;
use crate::store::{Put, PutState};

/// The tags of what is not a chunk; chunks are counted from 1. The one of each put is short.
const META: u64 = 0;
const LOOKUP: u64 = u64::MAX - 1;
const PURGE: u64 = u64::MAX - 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PutStage {
    New,
    Chunks,
    Staged,
    /// The meta message is on its way.
    Meta,
    /// It followed another one than we thought. The question which is out.
    Lookup,
    /// The chunks of the replaced object are being removed.
    Purge,
    Done,
    Failed,
}

pub struct NatsPut {
    names: Rc<ObjectNames>,
    fence: Rc<Fence>,
    name: String,
    description: Option<String>,
    exchange: Exchange,
    chunks: PutChunks,
    /// What this one replaces.
    replaced: Replaced,
    /// Its meta message was sent before, and not answered.
    unsettled: bool,
    /// The meta message that is on its way depends on the record of the writer.
    fenced: bool,
    finished: bool,
    commit: bool,
    stage: PutStage,
}

impl NatsPut {
    pub fn new(client: &Rc<Client>, names: &Rc<ObjectNames>, fence: &Rc<Fence>, name: &str) -> NatsPut {
        NatsPut {
            names: names.clone(),
            fence: fence.clone(),
            name: name.to_string(),
            description: None,
            exchange: Exchange::new(client, Purpose::Changes),
            chunks: PutChunks::new(names),
            replaced: Replaced::Assumed(None),
            unsettled: false,
            fenced: false,
            finished: false,
            commit: false,
            stage: PutStage::New,
        }
    }

    fn client(&self) -> &Rc<Client> {
        self.exchange.client()
    }

    fn start(&mut self) -> Result<()> {
        self.names.require_own()?;
        if self.stage != PutStage::New {
            return Ok(());
        }
        self.client().duplicates.borrow().check(&self.names)?;
        let subject = self.meta_subject()?;
        if !self.exchange.join_session() {
            return Err(self.client().last_failure());
        }
        if !self.client().has_headers() {
            return Err(Error::new(
                Kind::StoreRefused,
                "expected a server with headers (2.2 or later), found one without",
            ));
        }
        self.chunks.limit_size(self.exchange.client().max_payload());
        let own = self.client().own_objects.borrow_mut().take(&subject);
        self.unsettled = own.is_none() && self.client().own_objects.borrow().is_unsettled(&subject);
        self.replaced = Replaced::Assumed(own);
        self.stage = PutStage::Chunks;
        Ok(())
    }

    fn meta_subject(&self) -> Result<String> {
        Ok(self.names.meta_subject(&self.names.full_name(&self.name)?))
    }

    fn check_session(&self) -> Result<()> {
        if self.exchange.is_interrupted() { self.on_new_session() } else { Ok(()) }
    }

    /// Once the object is visible, a lost connection leaves chunks of the one before it, and no more.
    fn on_new_session(&self) -> Result<()> {
        match self.stage {
            PutStage::Purge | PutStage::Done => Ok(()),
            _ => Err(self.client().last_failure().context("connection lost")),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<usize> {
        self.start()?;
        self.check_session()?;
        self.chunks.write(&self.exchange, bytes)
    }

    fn on_reply(&mut self, reply: &Reply) -> Result<()> {
        match reply.tag {
            LOOKUP => self.on_found(reply)?,
            META => self.on_meta(reply)?,
            // Best effort: the object itself is stored, and the sweep finds what stays.
            PURGE => self.stage = PutStage::Done,
            MISPLACED => self.chunks.on_removed(reply)?,
            _ => self.chunks.on_reply(self.exchange.client(), reply)?,
        }
        Ok(())
    }

    /// Whether no other stream can be seen to have our subjects.
    fn is_exclusive(&self, now: Instant) -> bool {
        let (client, names) = (self.client(), &self.names);
        self.chunks
            .age(now)
            .is_none_or(|waited| client.duplicates.borrow_mut().is_proven_exclusive(names, client.session(), waited))
    }

    fn on_meta(&mut self, reply: &Reply) -> Result<()> {
        if self.stage != PutStage::Meta {
            return self.client().duplicates.borrow_mut().check_repeated_ack(reply, &self.names);
        }
        let answer = self.client().duplicates.borrow_mut().read_ack(reply, &self.names);
        match answer? {
            Ok(seq) => self.on_stored(seq),
            // Another object of ours is being stored at the same moment.
            Err(refusal) if self.fenced && refusal.is_condition_in_use() => self.send_meta(),
            Err(refusal) if self.fenced && refusal.is_wrong_last_sequence() => {
                // Nothing is visible: the chunks can go.
                self.stage = PutStage::Staged;
                Err(self.fence.on_refused())
            }
            Err(refusal) if refusal.is_wrong_last_sequence() && self.replaced.expected_last().is_some() => {
                self.ask_what_is_replaced()
            }
            // Nothing was stored, and the message can simply be sent again.
            Err(refusal) if refusal.is_busy() => self.send_meta(),
            Err(refusal) => Err(refusal.error()),
        }
    }

    fn ask_what_is_replaced(&mut self) -> Result<()> {
        let question = api::last_message_request(&self.meta_subject()?);
        self.exchange.request(LOOKUP, &self.names.api("STREAM.MSG.GET"), &question)?;
        self.stage = PutStage::Lookup;
        Ok(())
    }

    fn on_found(&mut self, reply: &Reply) -> Result<()> {
        let meta = api::message_payload(reply)?.and_then(|json| Meta::parse(&json));
        self.replaced = Replaced::Known(meta.map(|meta| meta.nuid));
        self.send_meta()
    }

    fn send_meta(&mut self) -> Result<()> {
        fault::point("put.meta")?;
        let full_name = self.names.full_name(&self.name)?;
        let words = self.description.as_deref();
        let meta = write_meta(
            &self.names.bucket,
            &full_name,
            words,
            self.chunks.nuid(),
            self.chunks.digest(),
            self.chunks.chunk_bytes(),
        );
        let reply = self.exchange.reply_to(META);
        let subject = self.names.meta_subject(&full_name);
        self.client().own_objects.borrow_mut().set_unsettled(&subject);
        let condition = self.fence.condition().filter(|_| self.replaced.is_none());
        self.fenced = condition.is_some();
        match condition {
            Some((record, seq)) => self.client().publish_while(&subject, &reply, (&record, seq), &meta)?,
            None => {
                let expected_last = self.replaced.expected_last();
                let rolls_up = expected_last != Some(0) && self.names.rollup.get();
                self.client().publish_last(&subject, &reply, expected_last, rolls_up, &meta)?;
            }
        }
        self.stage = PutStage::Meta;
        Ok(())
    }

    /// The meta message is at `seq`: what it replaced goes.
    fn on_stored(&mut self, seq: u64) -> Result<()> {
        let own = OwnObject { nuid: self.chunks.nuid().to_string(), seq };
        self.client().own_objects.borrow_mut().insert(&self.meta_subject()?, own);
        self.fence.on_stored();
        let replaced = std::mem::replace(&mut self.replaced, Replaced::Known(None)).nuid();
        let Some(nuid) = replaced.filter(|nuid| !nuid.is_empty() && nuid != self.chunks.nuid()) else {
            self.stage = PutStage::Done;
            return Ok(());
        };
        let question = api::purge_request(&self.names.chunk_subject(&nuid));
        let asked = self.exchange.request(PURGE, &self.names.api("STREAM.PURGE"), &question);
        self.stage = if asked.is_ok() { PutStage::Purge } else { PutStage::Done };
        Ok(())
    }

    fn step(&mut self, now: Instant) -> Result<PutState> {
        self.start()?;
        self.check_session()?;
        while let Some(event) = self.exchange.next() {
            match event {
                ExchangeEvent::NewSession => self.on_new_session()?,
                ExchangeEvent::Reply(reply) => self.on_reply(&reply)?,
            }
        }
        self.chunks.resend_rejected(&self.exchange, now)?;
        if self.stage == PutStage::Chunks {
            self.chunks.send_due(&self.exchange, self.finished)?;
            if self.finished && self.chunks.is_stored() {
                self.stage = PutStage::Staged;
            }
        }
        if self.stage == PutStage::Staged && self.commit && self.is_exclusive(now) {
            self.client().duplicates.borrow().check(&self.names)?;
            if self.unsettled { self.ask_what_is_replaced()? } else { self.send_meta()? }
        }
        self.check_timeout(now)?;
        Ok(match self.stage {
            PutStage::Done => PutState::Done,
            PutStage::Staged => PutState::Staged,
            _ => PutState::Sending,
        })
    }

    fn check_timeout(&mut self, now: Instant) -> Result<()> {
        let waiting = match self.stage {
            PutStage::Chunks => self.chunks.is_waiting(),
            PutStage::Meta | PutStage::Lookup | PutStage::Purge => true,
            _ => false,
        };
        if !waiting {
            self.exchange.reset_timeout();
            return Ok(());
        }
        match self.exchange.check_timeout(now) {
            Err(_) if self.stage == PutStage::Purge => {
                self.stage = PutStage::Done;
                Ok(())
            }
            other => other,
        }
    }

    fn abandon_on_error<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.client().failed_puts.set(self.client().failed_puts.get() + 1);
            self.abandon();
        }
        result.with_context(|| format!("put {}", self.names.with_prefix(&self.name)))
    }

    /// Gives the window back and leaves the removal of our chunks to be done.
    fn abandon(&mut self) {
        let unanswered = self.chunks.abandon(self.exchange.client());
        // A meta message on its way may yet make the object visible: then its chunks must stay.
        let settled = matches!(self.stage, PutStage::Chunks | PutStage::Staged);
        self.stage = PutStage::Failed;
        if settled && self.chunks.digest().chunks > 0 {
            let purge = (self.names.api("STREAM.PURGE"), api::purge_request(&self.chunks.subject()));
            let client = self.client().clone();
            let exchange = std::mem::replace(&mut self.exchange, Exchange::new(&client, Purpose::Changes));
            let cleanup = AbandonedPut::new(exchange, unanswered, purge, Instant::now());
            client.cleanups.defer(Box::new(cleanup));
        }
    }
}

impl Put for NatsPut {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let taken = self.take(bytes);
        self.abandon_on_error(taken)
    }

    fn describe(&mut self, words: &str) {
        self.description = Some(words.to_string());
    }

    fn count_for(&mut self, purpose: Purpose) {
        self.exchange.count_for(purpose);
    }

    fn finish(&mut self) {
        self.finished = true;
    }

    fn commit(&mut self) {
        self.commit = true;
    }

    fn poll(&mut self, now: Instant) -> Result<PutState> {
        let state = self.step(now);
        self.abandon_on_error(state)
    }
}

impl Drop for NatsPut {
    fn drop(&mut self) {
        if self.stage == PutStage::Done {
            self.client().duplicates.borrow_mut().record_finished_put(self.exchange.token(), &self.names);
        } else {
            self.abandon();
        }
    }
}

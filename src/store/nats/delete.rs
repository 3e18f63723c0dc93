//! Deleting objects: the meta message goes first, so that an object is never seen without its chunks, then the chunks. No
//! marker stays.
//!
//! Names are taken in groups whose questions travel together. The server works off what one connection asks in order, so the
//! order of the names is kept; after a lost connection a group is done again. What this connection has stored itself is not
//! asked for. If such an object has been replaced by another program meanwhile, it is asked for and goes after its group.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use super::api::{self, Purged};
use super::client::Client;
use super::exchange::{Exchange, ExchangeEvent};
use super::object::{Meta, ObjectNames};
use super::reply::Reply;
use crate::error::{Result, ResultExt};
use crate::fault;
use crate::store::Delete;
use crate::store::traffic::Purpose;

/// Names whose questions travel together.
const NAMES_PER_GROUP: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum DeleteStage {
    Begin,
    Lookup,
    Metas,
    Chunks,
}

/// An object that is to go.
struct FoundObject {
    /// The name of its chunks; empty if it has none.
    nuid: String,
    /// Where its meta message must be, if it is our own.
    own_seq: Option<u64>,
}

pub struct NatsDelete {
    subjects: Rc<ObjectNames>,
    exchange: Exchange,
    /// Names still to be deleted, the next one first.
    names: std::vec::IntoIter<String>,
    group: Vec<String>,
    stage: DeleteStage,
    /// By place in the group: those that are there.
    found: BTreeMap<u64, FoundObject>,
    /// Names of objects that were our own.
    replaced: Vec<String>,
    unanswered: usize,
}

impl NatsDelete {
    pub fn new(client: &Rc<Client>, subjects: &Rc<ObjectNames>, names: Vec<String>) -> NatsDelete {
        NatsDelete {
            subjects: subjects.clone(),
            exchange: Exchange::new(client, Purpose::Compaction),
            names: names.into_iter(),
            group: Vec::new(),
            stage: DeleteStage::Begin,
            found: BTreeMap::new(),
            replaced: Vec::new(),
            unanswered: 0,
        }
    }

    fn begin(&mut self) -> Result<()> {
        self.subjects.require_own()?;
        self.exchange.renew();
        self.found.clear();
        self.replaced.clear();
        if self.group.is_empty() {
            self.group.extend(self.names.by_ref().take(NAMES_PER_GROUP));
        }
        self.stage = DeleteStage::Lookup;
        self.unanswered = 0;
        let api = self.subjects.api("STREAM.MSG.GET");
        for (tag, name) in (0..).zip(&self.group) {
            let subject = self.subjects.meta_subject(&self.subjects.full_name(name)?);
            if let Some(own) = self.exchange.client().own_objects.borrow_mut().take(&subject) {
                self.found.insert(tag, FoundObject { nuid: own.nuid, own_seq: Some(own.seq) });
            } else {
                self.exchange.request(tag, &api, &api::last_message_request(&subject))?;
                self.unanswered += 1;
            }
        }
        Ok(())
    }

    fn on_reply(&mut self, reply: &Reply) -> Result<()> {
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.stage == DeleteStage::Lookup {
            if let Some(json) = api::message_payload(reply)? {
                let meta = Meta::parse(&json).filter(|meta| !meta.link);
                self.found.insert(
                    reply.tag,
                    FoundObject { nuid: meta.map_or_else(String::new, |meta| meta.nuid), own_seq: None },
                );
            }
            return Ok(());
        }
        let Purged { purged } = api::parse_success(reply)?;
        if self.stage == DeleteStage::Metas && purged == 0 {
            self.on_nothing_purged(reply.tag);
        }
        Ok(())
    }

    /// The meta message of our own object is not where it was: another program has replaced or deleted the object.
    fn on_nothing_purged(&mut self, tag: u64) {
        if self.found.get(&tag).is_some_and(|found| found.own_seq.is_some()) {
            self.found.remove(&tag);
            let name = usize::try_from(tag).ok().and_then(|names| self.group.get(names));
            self.replaced.extend(name.cloned());
        }
    }

    fn purge_metas(&mut self) -> Result<()> {
        fault::point("delete.meta")?;
        self.stage = DeleteStage::Metas;
        let mut questions = Vec::new();
        for (tag, name) in (0..).zip(&self.group) {
            if let Some(found) = self.found.get(&tag) {
                let subject = self.subjects.meta_subject(&self.subjects.full_name(name)?);
                let question = match found.own_seq {
                    Some(seq) => api::purge_up_to_request(&subject, seq),
                    None => api::purge_request(&subject),
                };
                questions.push((tag, question));
            }
        }
        self.purge(&questions)
    }

    fn purge_chunks(&mut self) -> Result<()> {
        fault::point("delete.chunks")?;
        self.stage = DeleteStage::Chunks;
        let with_chunks = self.found.iter().filter(|(_, found)| !found.nuid.is_empty());
        let question = |found: &FoundObject| api::purge_request(&self.subjects.chunk_subject(&found.nuid));
        let questions: Vec<_> = with_chunks.map(|(tag, found)| (*tag, question(found))).collect();
        self.purge(&questions)
    }

    fn purge(&mut self, questions: &[(u64, Vec<u8>)]) -> Result<()> {
        self.unanswered = questions.len();
        let api = self.subjects.api("STREAM.PURGE");
        for (tag, question) in questions {
            self.exchange.request(*tag, &api, question)?;
        }
        Ok(())
    }

    /// Goes on as far as it can without another answer. Ready: all are gone.
    fn advance(&mut self) -> Result<Poll<()>> {
        while self.unanswered == 0 {
            match self.stage {
                DeleteStage::Begin if self.group.is_empty() && self.names.len() == 0 => return Ok(Poll::Ready(())),
                DeleteStage::Begin => self.begin()?,
                DeleteStage::Lookup => self.purge_metas()?,
                DeleteStage::Metas => self.purge_chunks()?,
                DeleteStage::Chunks => {
                    self.group = std::mem::take(&mut self.replaced);
                    self.stage = DeleteStage::Begin;
                }
            }
        }
        Ok(Poll::Pending)
    }

    fn restart(&mut self) {
        self.exchange.renew();
        self.unanswered = 0;
        // Chunks whose meta is gone already are known only here: that part is asked once more as it is.
        self.stage = if self.stage == DeleteStage::Chunks { DeleteStage::Metas } else { DeleteStage::Begin };
    }

    fn step(&mut self, now: Instant) -> Result<Poll<()>> {
        while let Some(event) = self.exchange.next() {
            match event {
                ExchangeEvent::NewSession => self.restart(),
                ExchangeEvent::Reply(reply) => self.on_reply(&reply)?,
            }
        }
        if self.exchange.is_connected() && self.advance()?.is_ready() {
            return Ok(Poll::Ready(()));
        }
        self.exchange.check_timeout(now)?;
        Ok(Poll::Pending)
    }
}

impl Delete for NatsDelete {
    fn poll(&mut self, now: Instant) -> Result<Poll<()>> {
        self.step(now).with_context(|| format!("delete from {}", self.subjects.with_prefix("")))
    }
}

//! Deleting objects: the meta message goes first, so that an object is never seen without its chunks, then the chunks. No
//! marker stays behind.
//!
//! Names are taken in groups whose questions travel together. The server works off what one connection asks in order, so the
//! order of the names is kept; after a lost connection a group is done again.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use serde_json::Value;

use super::api::{self, ProgressTimeout};
use super::client::{Client, Inbox, Reply};
use super::object::{Meta, ObjectNames};
use crate::error::{Result, ResultExt};
use crate::fault;
use crate::store::Delete;

/// Names whose questions travel together.
const GROUP: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    Begin,
    Lookup,
    Metas,
    Chunks,
}

pub struct NatsDelete {
    subjects: Rc<ObjectNames>,
    inbox: Inbox,
    session: Option<u64>,
    /// Names still to be deleted, the next one first.
    names: std::vec::IntoIter<String>,
    group: Vec<String>,
    stage: Stage,
    /// By place in the group: what is known of those that are there.
    found: BTreeMap<u64, Option<Meta>>,
    unanswered: usize,
    timeout: ProgressTimeout,
}

impl NatsDelete {
    pub fn new(client: &Rc<Client>, place: &Rc<ObjectNames>, names: Vec<String>) -> NatsDelete {
        NatsDelete {
            subjects: place.clone(),
            inbox: client.open_inbox(),
            session: None,
            names: names.into_iter(),
            group: Vec::new(),
            stage: Stage::Begin,
            found: BTreeMap::new(),
            unanswered: 0,
            timeout: ProgressTimeout::default(),
        }
    }

    fn begin(&mut self) -> Result<()> {
        self.inbox = self.inbox.client.open_inbox();
        self.found.clear();
        if self.group.is_empty() {
            self.group.extend(self.names.by_ref().take(GROUP));
        }
        self.stage = Stage::Lookup;
        self.unanswered = self.group.len();
        let api = self.subjects.api("STREAM.MSG.GET");
        for (tag, name) in (0..).zip(&self.group) {
            let subject = self.subjects.meta_subject(&self.subjects.full_name(name)?);
            self.inbox.request(tag, &api, &api::last_message_request(&subject))?;
        }
        Ok(())
    }

    fn on_reply(&mut self, mail: &Reply) -> Result<()> {
        self.timeout.reset();
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.stage == Stage::Lookup {
            if let Some(json) = api::stored_message(mail)? {
                self.found.insert(mail.tag, Meta::parse(&json));
            }
            return Ok(());
        }
        api::parse_success::<Value>(mail).map(drop)
    }

    fn purge_metas(&mut self) -> Result<()> {
        fault::point("delete.meta")?;
        self.stage = Stage::Metas;
        let mut subjects = Vec::new();
        for (tag, name) in (0..).zip(&self.group) {
            if self.found.contains_key(&tag) {
                subjects.push(self.subjects.meta_subject(&self.subjects.full_name(name)?));
            }
        }
        self.purge(&subjects)
    }

    fn purge_chunks(&mut self) -> Result<()> {
        fault::point("delete.chunks")?;
        self.stage = Stage::Chunks;
        let nuids = self.found.values().flatten().filter(|meta| !meta.nuid.is_empty() && !meta.link);
        let subjects: Vec<String> = nuids.map(|meta| self.subjects.chunk_subject(&meta.nuid)).collect();
        self.purge(&subjects)
    }

    fn purge(&mut self, subjects: &[String]) -> Result<()> {
        self.unanswered = subjects.len();
        let api = self.subjects.api("STREAM.PURGE");
        for (tag, subject) in (0..).zip(subjects) {
            self.inbox.request(tag, &api, &api::purge_request(subject))?;
        }
        Ok(())
    }

    /// Goes on as far as it can without another answer. True: all are gone.
    fn advance(&mut self) -> Result<bool> {
        while self.unanswered == 0 {
            match self.stage {
                Stage::Begin if self.group.is_empty() && self.names.len() == 0 => return Ok(true),
                Stage::Begin => self.begin()?,
                Stage::Lookup => self.purge_metas()?,
                Stage::Metas => self.purge_chunks()?,
                Stage::Chunks => {
                    self.group.clear();
                    self.stage = Stage::Begin;
                }
            }
        }
        Ok(false)
    }

    fn step(&mut self, now: Instant) -> Result<bool> {
        let epoch = self.inbox.client.session();
        if epoch != self.session {
            self.session = epoch;
            self.unanswered = 0;
            // Chunks whose meta is gone already are known only here: that part is asked once more as it is.
            self.stage = if self.stage == Stage::Chunks { Stage::Metas } else { Stage::Begin };
            self.inbox = self.inbox.client.open_inbox();
        }
        if self.session.is_some() {
            while let Some(mail) = self.inbox.next() {
                self.on_reply(&mail)?;
            }
            if self.advance()? {
                return Ok(true);
            }
        }
        self.timeout.check(now, &self.inbox)?;
        Ok(false)
    }
}

impl Delete for NatsDelete {
    fn poll(&mut self, now: Instant) -> Result<bool> {
        self.step(now).context(|| format!("delete from {}", self.subjects.with_prefix("")))
    }
}

//! Deleting objects: the meta message goes first, so that an object is never seen without its chunks, then the chunks. No
//! marker stays behind.
//!
//! Names are taken in groups whose questions travel together. The server works off what one connection asks in order, so the
//! order of the names is kept; after a lost connection a group is done again.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use serde_json::Value;

use super::api::{self, Patience};
use super::client::{Client, Mail, Mailbox};
use super::object::{Meta, Place};
use crate::error::{Context, Result};
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
    place: Rc<Place>,
    mailbox: Mailbox,
    epoch: Option<u64>,
    /// Names still to be deleted, the next one first.
    names: std::vec::IntoIter<String>,
    group: Vec<String>,
    stage: Stage,
    /// By place in the group: what is known of those that are there.
    found: BTreeMap<u64, Option<Meta>>,
    unanswered: usize,
    patience: Patience,
}

impl NatsDelete {
    pub fn new(client: &Rc<Client>, place: &Rc<Place>, names: Vec<String>) -> NatsDelete {
        NatsDelete {
            place: place.clone(),
            mailbox: client.open_box(),
            epoch: None,
            names: names.into_iter(),
            group: Vec::new(),
            stage: Stage::Begin,
            found: BTreeMap::new(),
            unanswered: 0,
            patience: Patience::default(),
        }
    }

    fn begin(&mut self) -> Result<()> {
        self.mailbox = self.mailbox.client.open_box();
        self.found.clear();
        if self.group.is_empty() {
            self.group.extend(self.names.by_ref().take(GROUP));
        }
        self.stage = Stage::Lookup;
        self.unanswered = self.group.len();
        let api = self.place.api("STREAM.MSG.GET");
        for (tag, name) in (0..).zip(&self.group) {
            let subject = self.place.meta_subject(&self.place.full_name(name)?);
            self.mailbox.ask(tag, &api, &api::last_message(&subject))?;
        }
        Ok(())
    }

    fn on_mail(&mut self, mail: &Mail) -> Result<()> {
        self.patience.progress();
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.stage == Stage::Lookup {
            if let Some(json) = api::stored_message(mail)? {
                self.found.insert(mail.tag, Meta::parse(&json));
            }
            return Ok(());
        }
        api::good::<Value>(mail).map(drop)
    }

    fn purge_metas(&mut self) -> Result<()> {
        fault::point("delete.meta")?;
        self.stage = Stage::Metas;
        let mut subjects = Vec::new();
        for (tag, name) in (0..).zip(&self.group) {
            if self.found.contains_key(&tag) {
                subjects.push(self.place.meta_subject(&self.place.full_name(name)?));
            }
        }
        self.purge(&subjects)
    }

    fn purge_chunks(&mut self) -> Result<()> {
        fault::point("delete.chunks")?;
        self.stage = Stage::Chunks;
        let nuids = self.found.values().flatten().filter(|meta| !meta.nuid.is_empty() && !meta.link);
        let subjects: Vec<String> = nuids.map(|meta| self.place.chunk_subject(&meta.nuid)).collect();
        self.purge(&subjects)
    }

    fn purge(&mut self, subjects: &[String]) -> Result<()> {
        self.unanswered = subjects.len();
        let api = self.place.api("STREAM.PURGE");
        for (tag, subject) in (0..).zip(subjects) {
            self.mailbox.ask(tag, &api, &api::purge(subject))?;
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
        let epoch = self.mailbox.client.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            self.unanswered = 0;
            // Chunks whose meta is gone already are known only here: that part is asked once more as it is.
            self.stage = if self.stage == Stage::Chunks { Stage::Metas } else { Stage::Begin };
            self.mailbox = self.mailbox.client.open_box();
        }
        if self.epoch.is_some() {
            while let Some(mail) = self.mailbox.next() {
                self.on_mail(&mail)?;
            }
            if self.advance()? {
                return Ok(true);
            }
        }
        self.patience.check(now, &self.mailbox)?;
        Ok(false)
    }
}

impl Delete for NatsDelete {
    fn poll(&mut self, now: Instant) -> Result<bool> {
        self.step(now).context(|| format!("delete from {}", self.place.with_prefix("")))
    }
}

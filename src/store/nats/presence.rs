//! Whether some objects are there: their meta messages, asked of the stream's leader. One question and one answer each, so
//! that it costs the same however long the history and however large the objects are.

use std::rc::Rc;
use std::time::Instant;

use super::api::{self, Patience};
use super::client::{Client, Mailbox};
use super::object::{Meta, Place};
use crate::error::{Context, Result};
use crate::store::Presence;

pub struct NatsPresence {
    place: Rc<Place>,
    mailbox: Mailbox,
    epoch: Option<u64>,
    names: Vec<String>,
    unanswered: usize,
    missing: Vec<String>,
    patience: Patience,
}

impl NatsPresence {
    pub fn new(client: &Rc<Client>, place: &Rc<Place>, names: Vec<String>) -> NatsPresence {
        NatsPresence {
            place: place.clone(),
            mailbox: client.open_box(),
            epoch: None,
            names,
            unanswered: 0,
            missing: Vec::new(),
            patience: Patience::default(),
        }
    }

    fn ask(&mut self) -> Result<()> {
        self.mailbox = self.mailbox.client.open_box();
        self.missing.clear();
        self.unanswered = self.names.len();
        let api = self.place.api("STREAM.MSG.GET");
        for (tag, name) in (0..).zip(&self.names) {
            let subject = self.place.meta_subject(&self.place.full_name(name)?);
            self.mailbox.ask(tag, &api, &api::last_message(&subject))?;
        }
        Ok(())
    }

    fn step(&mut self, now: Instant) -> Result<Option<Vec<String>>> {
        let epoch = self.mailbox.client.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            if epoch.is_some() {
                self.ask()?;
            }
        }
        while let Some(mail) = self.mailbox.next() {
            self.patience.progress();
            self.unanswered = self.unanswered.saturating_sub(1);
            let there =
                api::stored_message(&mail)?.and_then(|json| Meta::parse(&json)).is_some_and(|meta| !meta.deleted);
            let name = usize::try_from(mail.tag).ok().and_then(|at| self.names.get(at));
            self.missing.extend(name.filter(|_| !there).cloned());
        }
        if self.epoch.is_some() && self.unanswered == 0 {
            return Ok(Some(std::mem::take(&mut self.missing)));
        }
        self.patience.check(now, &self.mailbox)?;
        Ok(None)
    }
}

impl Presence for NatsPresence {
    fn poll(&mut self, now: Instant) -> Result<Option<Vec<String>>> {
        self.step(now).context(|| format!("look for objects in {}", self.place.with_prefix("")))
    }
}

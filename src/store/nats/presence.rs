//! Whether some objects are there: their meta messages, asked of the stream's leader. One question and one answer each, so
//! that it costs the same however long the history and however large the objects are.

use std::rc::Rc;
use std::time::Instant;

use super::api;
use super::client::{Client, Inbox};
use super::object::{Meta, ObjectNames};
use super::progress_timeout::ProgressTimeout;
use crate::error::{Result, ResultExt};
use crate::store::Presence;
use crate::store::traffic::Purpose;

pub struct NatsPresence {
    subjects: Rc<ObjectNames>,
    inbox: Inbox,
    session: Option<u64>,
    names: Vec<String>,
    unanswered: usize,
    missing: Vec<String>,
    timeout: ProgressTimeout,
}

impl NatsPresence {
    pub fn new(client: &Rc<Client>, place: &Rc<ObjectNames>, names: Vec<String>) -> NatsPresence {
        NatsPresence {
            subjects: place.clone(),
            inbox: client.open_inbox(Purpose::Listing),
            session: None,
            names,
            unanswered: 0,
            missing: Vec::new(),
            timeout: ProgressTimeout::default(),
        }
    }

    fn request(&mut self) -> Result<()> {
        self.inbox = self.inbox.fresh();
        self.missing.clear();
        self.unanswered = self.names.len();
        let api = self.subjects.api("STREAM.MSG.GET");
        for (tag, name) in (0..).zip(&self.names) {
            let subject = self.subjects.meta_subject(&self.subjects.full_name(name)?);
            self.inbox.request(tag, &api, &api::last_message_request(&subject))?;
        }
        Ok(())
    }

    fn step(&mut self, now: Instant) -> Result<Option<Vec<String>>> {
        let epoch = self.inbox.client.session();
        if epoch != self.session {
            self.session = epoch;
            if epoch.is_some() {
                self.request()?;
            }
        }
        while let Some(mail) = self.inbox.next() {
            self.timeout.reset();
            self.unanswered = self.unanswered.saturating_sub(1);
            let there =
                api::stored_message(&mail)?.and_then(|json| Meta::parse(&json)).is_some_and(|meta| !meta.deleted);
            let name = usize::try_from(mail.tag).ok().and_then(|at| self.names.get(at));
            self.missing.extend(name.filter(|_| !there).cloned());
        }
        if self.session.is_some() && self.unanswered == 0 {
            return Ok(Some(std::mem::take(&mut self.missing)));
        }
        self.timeout.check(now, &self.inbox)?;
        Ok(None)
    }
}

impl Presence for NatsPresence {
    fn poll(&mut self, now: Instant) -> Result<Option<Vec<String>>> {
        self.step(now).context(|| format!("look for objects in {}", self.subjects.with_prefix("")))
    }
}

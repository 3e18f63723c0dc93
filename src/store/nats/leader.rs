//! All metas of a bucket as the leader of its stream knows them: first their subjects, page by page, then one question for
//! each, many at a time. A consumer is quicker, but may read from a replica that is behind.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::api::{self, Patience};
use super::client::{Client, Mail, Mailbox};
use super::list::Step;
use super::object::{Meta, Place};
use crate::error::Result;

const SUBJECTS: u64 = 1;
const META: u64 = 2;
/// Questions on their way at once: far below what the server queues (10,000 for all of its clients).
const AT_ONCE: usize = 500;

#[derive(Deserialize)]
struct Info {
    state: State,
    #[serde(default)]
    total: u64,
}

#[derive(Deserialize)]
struct State {
    subjects: Option<HashMap<String, IgnoredAny>>,
}

pub struct Led {
    place: Rc<Place>,
    mailbox: Mailbox,
    epoch: Option<u64>,
    /// Metas that were not asked for yet.
    subjects: Vec<String>,
    /// Subjects that the server has told so far, and whether these are all.
    told: u64,
    all_told: bool,
    asked: usize,
    patience: Patience,
}

impl Led {
    pub fn new(client: &Rc<Client>, place: &Rc<Place>) -> Led {
        Led {
            place: place.clone(),
            mailbox: client.open_box(),
            epoch: None,
            subjects: Vec::new(),
            told: 0,
            all_told: false,
            asked: 0,
            patience: Patience::default(),
        }
    }

    pub fn step(&mut self, now: Instant) -> Result<Step> {
        let epoch = self.mailbox.client.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            self.restart()?;
            return Ok(Step::Again);
        }
        while let Some(mail) = self.mailbox.next() {
            self.patience.progress();
            if let Some(step) = self.on_mail(&mail)? {
                return Ok(step);
            }
        }
        if self.all_told && self.subjects.is_empty() && self.asked == 0 {
            return Ok(Step::End);
        }
        self.patience.check(now, &self.mailbox.client)?;
        Ok(Step::Pending)
    }

    fn restart(&mut self) -> Result<()> {
        self.mailbox = self.mailbox.client.open_box();
        self.subjects.clear();
        (self.told, self.all_told, self.asked) = (0, false, 0);
        if self.epoch.is_some() { self.ask_subjects() } else { Ok(()) }
    }

    fn ask_subjects(&self) -> Result<()> {
        let question = json!({ "subjects_filter": self.place.all_metas(), "offset": self.told });
        self.mailbox.ask(SUBJECTS, &self.place.api("STREAM.INFO"), question.to_string().as_bytes())
    }

    fn on_mail(&mut self, mail: &Mail) -> Result<Option<Step>> {
        if mail.tag == SUBJECTS {
            self.on_subjects(mail)?;
            return self.ask_metas().map(|()| None);
        }
        self.asked = self.asked.saturating_sub(1);
        self.ask_metas()?;
        // None: it was deleted meanwhile.
        Ok(api::stored_message(mail)?.map(|json| Step::Meta(Meta::parse(&json))))
    }

    fn on_subjects(&mut self, mail: &Mail) -> Result<()> {
        let info: Info = api::good(mail)?;
        let subjects = info.state.subjects.unwrap_or_default();
        let page = u64::try_from(subjects.len()).unwrap_or(0);
        self.subjects.extend(subjects.into_keys());
        self.told += page;
        self.all_told = page == 0 || self.told >= info.total;
        if self.all_told { Ok(()) } else { self.ask_subjects() }
    }

    fn ask_metas(&mut self) -> Result<()> {
        while self.asked < AT_ONCE
            && let Some(subject) = self.subjects.pop()
        {
            self.mailbox.ask(META, &self.place.api("STREAM.MSG.GET"), &api::last_message(&subject))?;
            self.asked += 1;
        }
        Ok(())
    }
}

//! Who keeps a prefix: asked and answered over NATS, with nothing stored.
//!
//! Whoever replicates into a prefix listens at a subject that is derived from the bucket and the prefix, and answers each
//! question there with its host, process and database.
//!
//! * First it asks. An answer means that the prefix is taken; that nobody listens is said by the server itself.
//! * Then it listens, and asks once more, for another may have begun in the same moment: the later one steps down.
//! * After each reconnect it asks again: who took the prefix over meanwhile stays, and who was cut off steps down.
//! * A login without permission for these subjects goes on without: that is said once.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nats::Subscription;
use serde::{Deserialize, Serialize};

use super::base64;
use super::client::{Client, Mailbox};
use super::link::ALIVE;
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::store::{Claim, Holder, random};

/// A replicator that lives answers within a tick of its loop and a round trip.
const PATIENCE: Duration = Duration::from_secs(5);
const QUESTION: u64 = 1;

/// What one says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Who {
    id: String,
    host: String,
    pid: u32,
    db: String,
    /// When it began, in milliseconds since 1970, by its own clock.
    since: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    /// Before anything is ours: whoever answers has it.
    First,
    /// Ours already, but another may have begun in the same moment: the earlier one has it.
    Again,
    /// After a reconnect: the later one has it.
    Back,
}

enum Stage {
    Begin,
    Asking { why: Asked, until: Instant, mailbox: Mailbox },
    Ours,
}

pub struct NatsClaim {
    client: Rc<Client>,
    /// Which bucket of this name it is.
    incarnation: Rc<Cell<u64>>,
    subject: String,
    url: String,
    me: Who,
    stage: Stage,
    questions: Option<Subscription>,
    /// The connection in which it was last asked.
    epoch: Option<u64>,
    ours: bool,
    told: bool,
}

impl NatsClaim {
    /// `place` is what tells this prefix from every other one, in buckets of the same name elsewhere, too.
    pub fn new(
        client: &Rc<Client>,
        incarnation: Rc<Cell<u64>>,
        bucket: &str,
        place: &str,
        url: &str,
        holder: &Holder,
    ) -> NatsClaim {
        let hash = ring::digest::digest(&ring::digest::SHA256, place.as_bytes());
        let hash: String = base64::encode_url(hash.as_ref()).chars().take(22).collect();
        let me = Who {
            id: random::token(),
            host: crate::host::host_name(),
            pid: std::process::id(),
            db: holder.database.clone(),
            since: holder.since.millis(),
        };
        NatsClaim {
            client: client.clone(),
            incarnation,
            subject: format!("{ALIVE}{bucket}.{hash}"),
            url: url.to_string(),
            me,
            stage: Stage::Begin,
            questions: None,
            epoch: None,
            ours: false,
            told: false,
        }
    }

    fn ask(&mut self, why: Asked, now: Instant) {
        let mailbox = self.client.open_box();
        let question = serde_json::to_vec(&Who { id: self.me.id.clone(), ..Who::default() }).unwrap_or_default();
        // Not sent: the connection is gone, and the next one asks again.
        let _ = mailbox.ask(QUESTION, &self.subject, &question);
        self.client.push();
        self.stage = Stage::Asking { why, until: now + PATIENCE, mailbox };
    }

    /// What the answers so far mean: none while it is open.
    fn hear(&mut self, now: Instant) -> Result<Option<Asked>> {
        self.client.fetch();
        let Stage::Asking { why, until, mailbox } = &self.stage else { return Ok(None) };
        let why = *why;
        while let Some(mail) = mailbox.next() {
            if mail.status == Some(503) {
                return Ok(Some(why));
            }
            let Ok(other) = serde_json::from_slice::<Who>(&mail.data) else { continue };
            if other.id != self.me.id && self.yields_to(&other, why) {
                return Err(taken(&self.url, &other, why));
            }
        }
        if self.client.may_not_ask() {
            self.tell("the login may not ask who else keeps this prefix: two at once are not noticed");
            return Ok(Some(why));
        }
        if now < *until {
            return Ok(None);
        }
        if why == Asked::First {
            self.tell("somebody who keeps this prefix does not answer; it may have died just now");
        }
        Ok(Some(why))
    }

    fn yields_to(&self, other: &Who, why: Asked) -> bool {
        let order = (other.since, &other.id).cmp(&(self.me.since, &self.me.id));
        match why {
            Asked::First => true,
            Asked::Again => order.is_lt(),
            Asked::Back => order.is_gt(),
        }
    }

    fn tell(&mut self, what: &str) {
        if !std::mem::replace(&mut self.told, true) {
            log::info(what).field("store", &self.url).field("subject", &self.subject).emit();
        }
    }

    fn settle(&mut self, why: Asked, now: Instant) {
        self.stage = Stage::Ours;
        if why == Asked::First {
            self.questions = self.client.listen(&self.subject);
            self.ours = true;
            if !self.client.may_not_ask() {
                self.ask(Asked::Again, now);
            }
        }
    }

    fn answer(&self) {
        let Some(questions) = &self.questions else { return };
        while let Some(question) = questions.try_next() {
            let from_us = serde_json::from_slice::<Who>(&question.data).is_ok_and(|who| who.id == self.me.id);
            if let (Some(reply), false) = (&question.reply, from_us) {
                self.client.respond(reply, &serde_json::to_vec(&self.me).unwrap_or_default());
            }
        }
    }
}

fn taken(url: &str, other: &Who, why: Asked) -> Error {
    let word = |text: &str| text.chars().filter(|c| !c.is_control()).take(300).collect::<String>();
    let Who { host, pid, db, .. } = other;
    let done = if why == Asked::Back { "was taken over while we were cut off" } else { "is already replicated to" };
    let what = format!("{url}: {done} by process {pid} on {} from {}", word(host), word(db));
    Error::new(Kind::Locked, what)
        .with_hint("one replicator a prefix: stop that one, or give this database a path of its own in the bucket")
}

impl Claim for NatsClaim {
    fn poll(&mut self, now: Instant) -> Result<Option<u64>> {
        let epoch = self.client.epoch();
        if epoch.is_some() && epoch != self.epoch {
            self.epoch = epoch;
            self.ask(if self.ours { Asked::Back } else { Asked::First }, now);
        }
        if let Some(why) = self.hear(now)? {
            self.settle(why, now);
        }
        self.answer();
        let number = self.epoch.map(|epoch| epoch.saturating_add(self.incarnation.get()));
        Ok(number.filter(|_| self.ours))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_is_refused_learns_who_has_it_and_nothing_more() {
        let other = Who { host: "b\u{1b}ox".into(), pid: 7, db: "/a.db".into(), ..Who::default() };
        let error = taken("nats://h:1/b", &other, Asked::First);
        assert_eq!(error.kind(), Kind::Locked);
        assert_eq!(error.message(), "nats://h:1/b: is already replicated to by process 7 on box from /a.db");
        assert!(taken("u", &other, Asked::Back).message().contains("taken over while we were cut off"));
    }
}

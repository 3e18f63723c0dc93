//! Storing an object: chunks, each of them acknowledged; then, once committed, the meta message that makes it visible; then
//! the chunks of the object that it replaced go.
//!
//! A put that loses its connection ends: whether the last chunks arrived is unknown, and to send them again could store them
//! twice. Its own chunks are removed when it is dropped without being done.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::api::{self, Patience};
use super::chore::Chore;
use super::client::{Client, Mail, Mailbox, Reply};
use super::flight::{Flight, Repair, Sent};
use super::object::{CHUNK, Meta, Place, Sum, write_meta};
use crate::error::{Context, Error, Kind, Result};
use crate::fault;
use crate::store::{Put, PutState, random};

/// The tags of what is not a chunk; chunks are counted from 1.
const LOOKUP: u64 = u64::MAX - 1;
const META: u64 = u64::MAX - 2;
const PURGE: u64 = u64::MAX - 3;
const STRAY: u64 = u64::MAX - 4;
/// How long a server whose queue is full is left alone.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// Where there are JetStream domains, the first object of a connection becomes visible no sooner than this: a stream of another
/// site that has the same subjects answers within it, as a rule.
const PROOF: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Fresh,
    Chunks,
    Staged,
    /// The meta message is on its way.
    Meta,
    /// The chunks of the replaced object are being removed.
    Purge,
    Done,
    Failed,
}

pub struct NatsPut {
    place: Rc<Place>,
    name: String,
    nuid: String,
    mailbox: Mailbox,
    epoch: Option<u64>,
    chunk: Vec<u8>,
    chunk_size: usize,
    sum: Sum,
    flight: Flight,
    /// Refused chunks that wait to be sent anew: from when on, and how many removals are still unanswered.
    again: Option<(Instant, usize, BTreeMap<u64, Vec<u8>>)>,
    /// The object that this one replaces; none while the answer is out.
    replaced: Option<Option<Meta>>,
    finished: bool,
    commit: bool,
    stage: Stage,
    /// When the first chunk went out.
    begun: Option<Instant>,
    patience: Patience,
}

impl NatsPut {
    pub fn new(client: &Rc<Client>, place: &Rc<Place>, name: &str) -> NatsPut {
        NatsPut {
            place: place.clone(),
            name: name.to_string(),
            nuid: random::token(),
            mailbox: client.open_box(),
            epoch: None,
            chunk: Vec::new(),
            chunk_size: CHUNK,
            sum: Sum::new(),
            flight: Flight::default(),
            again: None,
            replaced: None,
            finished: false,
            commit: false,
            stage: Stage::Fresh,
            begun: None,
            patience: Patience::default(),
        }
    }

    fn client(&self) -> &Rc<Client> {
        &self.mailbox.client
    }

    /// Asks what is replaced: that question travels together with the first chunk.
    fn start(&mut self) -> Result<()> {
        if self.stage != Stage::Fresh {
            return Ok(());
        }
        self.client().check_alone(&self.place)?;
        let full_name = self.place.full_name(&self.name)?;
        self.epoch = self.client().epoch();
        if self.epoch.is_none() {
            return Err(self.client().cause());
        }
        if !self.client().has_headers() {
            return Err(Error::new(Kind::Store, "expected a server with headers (2.2 or later), found one without"));
        }
        let limits = [self.client().max_payload(), self.place.max_message.get()];
        self.chunk_size = limits.into_iter().filter(|limit| *limit > 0).fold(CHUNK, usize::min);
        let question = api::last_message(&self.place.meta_subject(&full_name));
        self.mailbox.ask(LOOKUP, &self.place.api("STREAM.MSG.GET"), &question)?;
        self.stage = Stage::Chunks;
        Ok(())
    }

    fn same_connection(&self) -> Result<()> {
        if self.stage != Stage::Done && self.client().epoch() != self.epoch {
            return Err(self.client().cause().context("connection lost"));
        }
        Ok(())
    }

    /// False: the window is full.
    fn send_chunk(&mut self) -> Result<bool> {
        let mending = self.flight.is_broken() || self.again.is_some();
        if mending || !self.client().window.borrow_mut().has_room(self.chunk.len()) {
            return Ok(false);
        }
        fault::point("put.chunk")?;
        self.sum.add(&self.chunk);
        let bytes = std::mem::take(&mut self.chunk);
        self.publish_chunk(self.sum.chunks, bytes)?;
        Ok(true)
    }

    fn publish_chunk(&mut self, tag: u64, bytes: Vec<u8>) -> Result<()> {
        let reply = Reply { token: &self.mailbox.token, tag };
        let subject = self.place.chunk_subject(&self.nuid);
        self.client().publish(&subject, Some(&reply), false, &bytes)?;
        self.client().window.borrow_mut().take(bytes.len());
        self.flight.sent(tag, bytes, Instant::now());
        self.begun.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Mends what a full queue of the server has torn: see [`Flight`].
    fn mend(&mut self, now: Instant) -> Result<()> {
        if let Some(Repair { strays, chunks }) = self.flight.repair() {
            for seq in &strays {
                let question = api::delete_message(*seq);
                self.mailbox.ask(STRAY, &self.place.api("STREAM.MSG.DELETE"), &question)?;
            }
            self.again = Some((now + BUSY_PAUSE, strays.len(), chunks));
        }
        if self.again.as_ref().is_some_and(|(time, removals, _)| *removals == 0 && now >= *time)
            && let Some((_, _, chunks)) = self.again.take()
        {
            for (tag, bytes) in chunks {
                self.publish_chunk(tag, bytes)?;
            }
        }
        Ok(())
    }

    fn on_removed(&mut self, mail: &Mail) -> Result<()> {
        api::good::<serde_json::Value>(mail)?;
        if let Some((_, removals, _)) = &mut self.again {
            *removals = removals.saturating_sub(1);
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<usize> {
        self.start()?;
        self.same_connection()?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = self.chunk_size.saturating_sub(self.chunk.len());
            let (now, later) = rest.split_at_checked(room).unwrap_or((rest, &[]));
            self.chunk.extend_from_slice(now);
            rest = later;
            if self.chunk.len() >= self.chunk_size && !self.send_chunk()? {
                break;
            }
        }
        Ok(bytes.len().saturating_sub(rest.len()))
    }

    fn on_mail(&mut self, mail: &Mail) -> Result<()> {
        self.patience.progress();
        match mail.tag {
            LOOKUP => self.replaced = Some(api::stored_message(mail)?.and_then(|json| Meta::parse(&json))),
            META => self.on_meta(mail)?,
            // Best effort: the object itself is stored, and the sweep finds what stays.
            PURGE => self.stage = Stage::Done,
            STRAY => self.on_removed(mail)?,
            tag => self.on_chunk(tag, mail)?,
        }
        Ok(())
    }

    fn on_chunk(&mut self, tag: u64, mail: &Mail) -> Result<()> {
        let Some(Sent { bytes, at }) = self.flight.answered(tag) else { return self.on_second(mail) };
        let answer = self.ack(mail);
        let stored = matches!(answer, Ok(Ok(_)));
        let mut window = self.mailbox.client.window.borrow_mut();
        if stored {
            window.stored(bytes.len(), at, Instant::now())
        } else {
            window.give_back(bytes.len())
        }
        drop(window);
        match answer? {
            Ok(seq) => self.flight.keep(tag, seq, bytes),
            Err(refusal) if refusal.err_code == api::TOO_MANY_REQUESTS && self.flight.refuse(tag, bytes) => {}
            Err(refusal) => return Err(refusal.error()),
        }
        Ok(())
    }

    /// What was answered already is answered again: two streams have its subject.
    fn on_second(&self, mail: &Mail) -> Result<()> {
        match api::stray_ack(&mail.data) {
            Some(domain) => {
                self.client().found_second(&self.place, &domain);
                Err(api::second(&self.place, &domain))
            }
            None => Ok(()),
        }
    }

    /// An ack of another domain is remembered: no put may begin any more.
    fn ack(&self, mail: &Mail) -> Result<std::result::Result<u64, api::ApiError>> {
        let answer = api::ack(mail, &self.place);
        if answer.as_ref().is_err_and(|error| error.kind() == Kind::Locked)
            && let Some(domain) = api::stray_ack(&mail.data)
        {
            self.client().found_second(&self.place, &domain);
        }
        answer
    }

    /// Whether no other stream can be seen to have our subjects.
    fn is_alone(&self, now: Instant) -> bool {
        let domains = self.place.domain.borrow().as_ref().is_some_and(|domain| !domain.is_empty());
        let Some(begun) = self.begun.filter(|_| domains && !self.client().is_alone(&self.place)) else { return true };
        let proven = now.saturating_duration_since(begun) >= PROOF;
        if proven {
            self.client().found_alone(&self.place);
        }
        proven
    }

    fn on_meta(&mut self, mail: &Mail) -> Result<()> {
        if self.stage != Stage::Meta {
            return self.on_second(mail);
        }
        match self.ack(mail)? {
            Ok(_) => self.purge_replaced(),
            // Nothing was stored, and the message can simply be sent again.
            Err(refusal) if refusal.err_code == api::TOO_MANY_REQUESTS => self.send_meta(),
            Err(refusal) => Err(refusal.error()),
        }
    }

    fn send_meta(&mut self) -> Result<()> {
        fault::point("put.meta")?;
        let full_name = self.place.full_name(&self.name)?;
        let meta = write_meta(&self.place.bucket, &full_name, &self.nuid, &self.sum, self.chunk_size);
        let reply = Reply { token: &self.mailbox.token, tag: META };
        self.client().publish(&self.place.meta_subject(&full_name), Some(&reply), true, &meta)?;
        self.stage = Stage::Meta;
        Ok(())
    }

    fn purge_replaced(&mut self) -> Result<()> {
        let old =
            self.replaced.take().flatten().map(|meta| meta.nuid).filter(|nuid| !nuid.is_empty() && *nuid != self.nuid);
        let Some(nuid) = old else {
            self.stage = Stage::Done;
            return Ok(());
        };
        let question = api::purge(&self.place.chunk_subject(&nuid));
        let asked = self.mailbox.ask(PURGE, &self.place.api("STREAM.PURGE"), &question);
        self.stage = if asked.is_ok() { Stage::Purge } else { Stage::Done };
        Ok(())
    }

    fn step(&mut self, now: Instant) -> Result<PutState> {
        self.start()?;
        if self.stage != Stage::Purge {
            self.same_connection()?;
        }
        while let Some(mail) = self.mailbox.next() {
            self.on_mail(&mail)?;
        }
        self.mend(now)?;
        let due = self.chunk.len() >= self.chunk_size || (self.finished && !self.chunk.is_empty());
        if due && self.stage == Stage::Chunks {
            self.send_chunk()?;
        }
        let whole = self.finished && self.chunk.is_empty() && self.replaced.is_some();
        let whole = whole && self.flight.is_over() && self.again.is_none();
        if self.stage == Stage::Chunks && whole {
            self.stage = Stage::Staged;
        }
        if self.stage == Stage::Staged && self.commit && self.is_alone(now) {
            self.client().check_alone(&self.place)?;
            self.send_meta()?;
        }
        self.check_patience(now)?;
        Ok(match self.stage {
            Stage::Done => PutState::Done,
            Stage::Staged => PutState::Staged,
            _ => PutState::Sending,
        })
    }

    fn check_patience(&mut self, now: Instant) -> Result<()> {
        let waiting = match self.stage {
            Stage::Chunks => self.replaced.is_none() || !self.flight.is_over() || self.again.is_some(),
            Stage::Meta | Stage::Purge => true,
            _ => false,
        };
        if !waiting {
            self.patience.progress();
            return Ok(());
        }
        match self.patience.check(now, &self.mailbox) {
            Err(_) if self.stage == Stage::Purge => {
                self.stage = Stage::Done;
                Ok(())
            }
            other => other,
        }
    }

    fn failed<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.client().doubts.set(self.client().doubts.get() + 1);
            self.abandon();
        }
        result.context(|| format!("put {}", self.place.with_prefix(&self.name)))
    }

    /// Gives the window back and leaves the removal of our chunks to be done.
    fn abandon(&mut self) {
        let flight = std::mem::take(&mut self.flight);
        self.client().window.borrow_mut().give_back(flight.bytes());
        // A meta message on its way may yet make the object visible: then its chunks must stay.
        let settled = matches!(self.stage, Stage::Chunks | Stage::Staged);
        self.stage = Stage::Failed;
        if settled && self.sum.chunks > 0 {
            let purge = (self.place.api("STREAM.PURGE"), api::purge(&self.place.chunk_subject(&self.nuid)));
            let client = self.mailbox.client.clone();
            let mailbox = std::mem::replace(&mut self.mailbox, client.open_box());
            client.leave(Chore::new(mailbox, flight.unanswered(), purge, Instant::now()));
        }
    }
}

impl Put for NatsPut {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let taken = self.take(bytes);
        self.failed(taken)
    }

    fn finish(&mut self) {
        self.finished = true;
    }

    fn commit(&mut self) {
        self.commit = true;
    }

    fn poll(&mut self, now: Instant) -> Result<PutState> {
        let state = self.step(now);
        self.failed(state)
    }
}

impl Drop for NatsPut {
    fn drop(&mut self) {
        if self.stage == Stage::Done {
            self.client().finish(&self.mailbox.token, &self.place);
        } else {
            self.abandon();
        }
    }
}

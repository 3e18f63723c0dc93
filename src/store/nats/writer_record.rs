//! Who writes below a prefix, as a record in the bucket: the last message of a subject of its own, which each new writer
//! replaces on condition that it is still the one that it has read. Of two that come at the same moment the server takes one,
//! whether they hear each other or not.
//!
//! * Records are counted. One that counts as high as ours, or higher, is of a writer that came after us: the prefix is
//!   lost.
//! * None, or one that counts lower: the server has lost ours, or it was removed. Ours is written again in its place.
//! * Objects depend on it where the server can look ([`Fence`]). Where it cannot, the record is read again every half a
//!   minute in which something was stored.
//! * It stands among the chunks, and no object refers to it: a listing of objects shows nothing of it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::api;
use super::base64;
use super::client::Client;
use super::exchange::{Exchange, ExchangeEvent};
use super::fence::Fence;
use super::inbox::Inbox;
use super::object::ObjectNames;
use super::reply::Reply;
use super::writer_info::WriterInfo;
use crate::error::{Result, ResultExt};
use crate::store::traffic::Purpose;

/// What its name begins with, among the names of chunks.
const NAME_PREFIX: &str = "writer-";
/// Between two looks: about 1 kB each time.
const LOOK_INTERVAL: Duration = Duration::from_secs(300);
/// The same where the server does not look itself, and something was stored.
const LOOK_INTERVAL_UNFENCED: Duration = Duration::from_secs(30);
/// After an error.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// A record that cannot be read where it was written is given up.
const MAX_ATTEMPTS: u32 = 8;
const READ: u64 = 1;
const WRITE: u64 = 2;

/// Whether this is the name of a record, and of no chunk.
pub(super) fn is_record(nuid: &str) -> bool {
    nuid.starts_with(NAME_PREFIX)
}

/// The subject of the record of a prefix.
pub(super) fn record_subject(names: &ObjectNames) -> String {
    names.chunk_subject(&format!("{NAME_PREFIX}{}", short_hash(&names.with_prefix(""))))
}

/// What tells one host and database from another, and names neither.
pub(super) fn short_hash(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    base64::encode_url(digest.as_ref()).chars().take(22).collect()
}

/// Whether the prefix is ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Ours,
    /// It is not known now: nothing may be written.
    Unknown,
    Taken(Box<WriterInfo>),
    /// No record can be kept, for this reason. From then on there is none.
    Refused(String),
}

/// What is to be done about the record that is there.
#[derive(Debug, PartialEq, Eq)]
enum RecordVerdict {
    Ours,
    /// Ours, which counts so, takes its place.
    Write(u64),
    Taken,
}

/// `held`: how ours counts that was written, or sent.
fn verdict_on(id: &str, held: Option<u64>, found: Option<&WriterInfo>) -> RecordVerdict {
    match (held, found) {
        (Some(_), Some(found)) if found.id == id => RecordVerdict::Ours,
        (Some(held), Some(found)) if found.epoch >= held => RecordVerdict::Taken,
        (Some(held), _) => RecordVerdict::Write(held),
        (None, found) => RecordVerdict::Write(found.map_or(0, |found| found.epoch).saturating_add(1)),
    }
}

/// The record of one writer.
pub(super) struct WriterRecord {
    client: Rc<Client>,
    names: Rc<ObjectNames>,
    fence: Rc<Fence>,
    subject: String,
    /// What is stored of the writer, but for its count.
    own: WriterInfo,
    /// How ours counts; none until there is one.
    epoch: Option<u64>,
    look: Option<RecordQuery>,
    doubted: bool,
    /// The server has refused an object.
    object_refused: bool,
    last_look: Option<Instant>,
    not_before: Option<Instant>,
    given_up: bool,
    predecessor_stopped: bool,
    predecessor_may_write: bool,
}

impl WriterRecord {
    pub fn new(client: &Rc<Client>, names: &Rc<ObjectNames>, fence: &Rc<Fence>, own: WriterInfo) -> WriterRecord {
        let subject = record_subject(names);
        fence.set(&subject, None);
        WriterRecord {
            client: client.clone(),
            names: names.clone(),
            fence: fence.clone(),
            subject,
            own,
            epoch: None,
            look: None,
            doubted: true,
            object_refused: false,
            last_look: None,
            not_before: None,
            given_up: false,
            predecessor_stopped: false,
            predecessor_may_write: false,
        }
    }

    /// How it counts; 0: there is none.
    pub fn epoch(&self) -> u64 {
        self.epoch.filter(|_| !self.given_up).unwrap_or(0)
    }

    /// Another writer may have come meanwhile: it is looked at before anything else is stored.
    pub fn recheck(&mut self) {
        self.doubted = true;
    }

    /// The one that had the prefix before us has said that it stores nothing more.
    pub fn on_predecessor_stopped(&mut self) {
        self.predecessor_stopped = true;
    }

    /// Whether a writer at another place, which had the prefix before us, may yet store something.
    pub fn predecessor_may_write(&self) -> bool {
        self.predecessor_may_write
    }

    pub fn poll(&mut self, now: Instant) -> Result<Standing> {
        self.object_refused |= self.fence.take_refused();
        if self.given_up {
            return Ok(Standing::Ours);
        }
        self.doubted |= self.object_refused;
        let waits = self.not_before.is_some_and(|time| now < time);
        if self.look.is_none() && !waits && (self.doubted || self.is_due(now)) {
            self.look = Some(RecordQuery::new(&self.client));
        }
        let (subject, own, rollup) = (&self.subject, &self.own, self.names.rollup.get());
        let address = RecordAddress { names: &self.names, subject, rollup };
        let seen = match &mut self.look {
            Some(look) => look.poll(&address, own, self.epoch, now),
            None => Ok(None),
        };
        match seen {
            Ok(Some(seen)) => Ok(self.on_seen(seen, now)),
            Ok(None) if self.doubted => Ok(Standing::Unknown),
            Ok(None) => Ok(Standing::Ours),
            Err(error) => {
                (self.look, self.not_before) = (None, Some(now + RETRY_DELAY));
                Err(error).with_context(|| format!("look who writes below {}", self.names.with_prefix("")))
            }
        }
    }

    /// Begins to remove it. What comes to the inbox is the answer.
    pub fn remove(&self) -> Result<Inbox> {
        let inbox = Inbox::open(&self.client, Purpose::KeepAlive);
        inbox.request(READ, &self.names.api("STREAM.PURGE"), &api::purge_request(&self.subject))?;
        Ok(inbox)
    }

    fn is_due(&self, now: Instant) -> bool {
        let Some(last) = self.last_look else { return true };
        let passed = now.saturating_duration_since(last);
        let unfenced = self.fence.condition().is_none() && passed >= LOOK_INTERVAL_UNFENCED;
        passed >= LOOK_INTERVAL || (unfenced && self.fence.take_stored())
    }

    fn on_seen(&mut self, seen: RecordOutcome, now: Instant) -> Standing {
        (self.look, self.not_before, self.last_look) = (None, None, Some(now));
        match seen {
            RecordOutcome::Ours { epoch, seq, replaced } => {
                let unchanged = self.fence.condition().is_some_and(|(_, known)| known == seq);
                if std::mem::take(&mut self.object_refused) && unchanged {
                    // The server took the condition for another one.
                    self.names.conditional.set(false);
                }
                let fenced = self.names.conditional.get();
                self.fence.set(&self.subject, Some(seq).filter(|_| fenced));
                let elsewhere = replaced.is_some_and(|before| before.place != self.own.place);
                self.predecessor_may_write |= self.epoch.is_none() && elsewhere && !fenced && !self.predecessor_stopped;
                (self.epoch, self.doubted) = (Some(epoch), false);
                Standing::Ours
            }
            RecordOutcome::Taken(other) => Standing::Taken(Box::new(other)),
            RecordOutcome::Refused(why) => {
                self.fence.set(&self.subject, None);
                (self.given_up, self.doubted) = (true, false);
                Standing::Refused(why)
            }
        }
    }
}

impl Drop for WriterRecord {
    fn drop(&mut self) {
        self.fence.set(&self.subject, None);
    }
}

/// Where the record is.
struct RecordAddress<'a> {
    names: &'a ObjectNames,
    subject: &'a str,
    rollup: bool,
}

/// A question for the record, and perhaps a new one on its way.
struct RecordQuery {
    exchange: Exchange,
    /// How the one counts that was sent.
    sent: Option<u64>,
    attempts: u32,
    /// Whose place it takes.
    replaced: Option<WriterInfo>,
}

/// What a look has come to.
enum RecordOutcome {
    Ours { epoch: u64, seq: u64, replaced: Option<WriterInfo> },
    Taken(WriterInfo),
    Refused(String),
}

impl RecordQuery {
    fn new(client: &Rc<Client>) -> RecordQuery {
        RecordQuery { exchange: Exchange::new(client, Purpose::KeepAlive), sent: None, attempts: 0, replaced: None }
    }

    /// Errors: the store's; it is tried again.
    fn poll(
        &mut self,
        address: &RecordAddress,
        own: &WriterInfo,
        held: Option<u64>,
        now: Instant,
    ) -> Result<Option<RecordOutcome>> {
        while let Some(event) = self.exchange.next() {
            let seen = match event {
                ExchangeEvent::NewSession => {
                    self.exchange.renew();
                    self.read(address)?;
                    None
                }
                ExchangeEvent::Reply(reply) if reply.tag == READ => self.on_read(&reply, address, own, held)?,
                ExchangeEvent::Reply(reply) => self.on_written(&reply, address)?,
            };
            if seen.is_some() {
                return Ok(seen);
            }
        }
        if let Err(error) = self.exchange.check_denied() {
            return Ok(Some(RecordOutcome::Refused(error.message().to_string())));
        }
        self.exchange.check_timeout(now)?;
        Ok(None)
    }

    fn read(&self, address: &RecordAddress) -> Result<()> {
        if !self.exchange.is_connected() {
            return Ok(());
        }
        self.exchange.request(READ, &address.names.api("STREAM.MSG.GET"), &api::last_message_request(address.subject))
    }

    fn on_read(
        &mut self,
        reply: &Reply,
        address: &RecordAddress,
        own: &WriterInfo,
        held: Option<u64>,
    ) -> Result<Option<RecordOutcome>> {
        let stored = api::stored_message(reply)?;
        let seq = stored.as_ref().map_or(0, |message| message.seq);
        let json = stored.map(|message| message.payload()).transpose()?;
        let found = json.map(|json| serde_json::from_slice::<WriterInfo>(&json).unwrap_or_default());
        match verdict_on(&own.id, self.sent.or(held), found.as_ref()) {
            RecordVerdict::Ours => {
                let epoch = found.map_or(0, |found| found.epoch);
                Ok(Some(RecordOutcome::Ours { epoch, seq, replaced: self.replaced.take() }))
            }
            RecordVerdict::Taken => Ok(Some(RecordOutcome::Taken(found.unwrap_or_default()))),
            RecordVerdict::Write(_) if self.attempts >= MAX_ATTEMPTS => {
                Ok(Some(RecordOutcome::Refused("it is not found where it was written".to_string())))
            }
            RecordVerdict::Write(epoch) => {
                (self.sent, self.replaced) = (Some(epoch), found);
                self.attempts += 1;
                self.write(address, &WriterInfo { epoch, ..own.clone() }, seq)?;
                Ok(None)
            }
        }
    }

    /// In the place of the message at `seq`; 0: of none.
    fn write(&self, address: &RecordAddress, record: &WriterInfo, seq: u64) -> Result<()> {
        address.names.require_own()?;
        let reply = self.exchange.reply_to(WRITE);
        let rolls_up = seq > 0 && address.rollup;
        self.exchange.client().publish_last(address.subject, &reply, Some(seq), rolls_up, &record.to_json())
    }

    fn on_written(&mut self, reply: &Reply, address: &RecordAddress) -> Result<Option<RecordOutcome>> {
        match (api::ack(reply, address.names)?, self.sent) {
            (Ok(seq), Some(epoch)) => Ok(Some(RecordOutcome::Ours { epoch, seq, replaced: self.replaced.take() })),
            (Err(refusal), _) if refusal.is_wrong_last_sequence() || refusal.is_busy() => {
                self.read(address).map(|()| None)
            }
            (Err(refusal), _) => Ok(Some(RecordOutcome::Refused(refusal.error().message().to_string()))),
            (Ok(_), None) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, epoch: u64) -> WriterInfo {
        WriterInfo { id: id.into(), epoch, ..WriterInfo::default() }
    }

    #[test]
    fn a_record_that_counts_as_high_as_ours_is_of_a_successor() {
        let verdict = |held, found: Option<(&str, u64)>| {
            verdict_on("we", held, found.map(|(id, epoch)| record(id, epoch)).as_ref())
        };
        // A new one counts on, whatever is there.
        assert_eq!(verdict(None, None), RecordVerdict::Write(1));
        assert_eq!(verdict(None, Some(("other", 6))), RecordVerdict::Write(7));
        assert_eq!(verdict(None, Some(("", 0))), RecordVerdict::Write(1));
        assert_eq!(verdict(Some(7), Some(("we", 7))), RecordVerdict::Ours);
        // Of two that sent the same count, the one whose record is there has it.
        for epoch in [7, 8, 100] {
            assert_eq!(verdict(Some(7), Some(("other", epoch))), RecordVerdict::Taken);
        }
        // What the server has lost is written again.
        assert_eq!(verdict(Some(7), Some(("other", 6))), RecordVerdict::Write(7));
        assert_eq!(verdict(Some(7), None), RecordVerdict::Write(7));
    }

    #[test]
    fn the_record_of_a_prefix_is_no_chunk_and_has_one_name() {
        let subject = |prefix: &str| record_subject(&ObjectNames::new("b", prefix));
        let name = subject("p").strip_prefix("$O.b.C.").map(str::to_string).unwrap();
        assert!(is_record(&name) && super::super::object::is_nuid(&name) && name.len() == 29, "{name}");
        assert!(!is_record(&crate::random::token()));
        assert!(subject("p") != subject("q") && subject("") != subject("p"));
    }
}

//! Who keeps a prefix: asked and answered over NATS, with nothing stored.
//!
//! Anyone who replicates into a prefix listens at a subject that is derived from the bucket and the prefix, and answers each
//! question there with its host, process and database.
//!
//! * First it asks. An answer means that the prefix is taken; that nobody listens is said by the server itself.
//! * Then it listens, and asks once more, for another may have begun in the same moment: the later one steps down.
//! * After each reconnect, and after a time in which it stood still and answered nobody, it asks again: who took the prefix
//!   over meanwhile stays, and who was cut off steps down.
//! * Anyone who is to take over a prefix whose holder answers tells the holder so, on a subject of its own that not everyone who
//!   may ask may use. The holder stops writing, answers that it has, and ends. Its answer goes the way of what it wrote
//!   before, so that anyone who reads the answer finds all that.
//! * A login without permission for these subjects goes on without: that is said once.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nats::Subscription;
use serde::{Deserialize, Serialize};

use super::base64;
use super::client::Client;
use super::inbox::Inbox;
use super::pause::{PauseDetector, since_boot};
use super::proxy::{LEASE_QUERY_SUBJECTS, TAKEOVER_SUBJECTS};
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::printable::printable;
use crate::random;
use crate::store::traffic::Purpose;
use crate::store::{LeaseHolder, WriterLease};

/// A replicator that lives answers within a tick of its loop and a round trip.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
const QUERY_TAG: u64 = 1;
/// How long one that gave its prefix away stays, so that its answer arrives.
const FAREWELL: Duration = Duration::from_millis(300);

/// What one says of itself. A field that an older version does not send has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct WriterInfo {
    pub id: String,
    pub host: String,
    pub pid: u32,
    pub db: String,
    /// When it began, in milliseconds since 1970, by its own clock.
    pub since: u64,
    pub version: String,
    /// The age of the oldest commit that is not stored, in milliseconds.
    pub lag: Option<u64>,
    /// Under which ID its service is found; empty without one.
    pub service: String,
    /// It has just come back and steps down for anyone who took over.
    pub yields: bool,
    /// It has stopped writing, as it was told to.
    pub released: bool,
    /// It is no writer, but a standby that listens for what is stored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub listens: bool,
}

impl WriterInfo {
    /// Of one that only asks, and takes nothing.
    pub fn question(id: &str) -> Vec<u8> {
        serde_json::to_vec(&WriterInfo { id: id.to_string(), ..WriterInfo::default() }).unwrap_or_default()
    }
}

/// What a standby says to the writer of what it listens to. It expects no answer: an older writer gives none.
pub(super) const STANDBY_LISTENS: &[u8] = br#"{"listens":true}"#;

/// Where those answer who keep a prefix.
pub(super) struct LeaseSubjects {
    pub bucket: String,
    /// Buckets of one name in different domains or clusters may share their subjects, but not the moment they were made.
    pub created: String,
    pub prefix: String,
}

impl LeaseSubjects {
    /// For the prefix that is `name` below this one; the empty name is this one itself.
    pub fn below(&self, name: &str) -> String {
        let slash = if self.prefix.is_empty() || name.is_empty() { "" } else { "/" };
        let place = format!("{}/{}{slash}{name}", self.created, self.prefix);
        let hash = ring::digest::digest(&ring::digest::SHA256, place.as_bytes());
        let hash: String = base64::encode_url(hash.as_ref()).chars().take(22).collect();
        format!("{LEASE_QUERY_SUBJECTS}{}.{hash}", self.bucket)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum QueryReason {
    /// Before anything is ours: anyone who answers has it.
    Acquire,
    /// Ours already, but another may have begun in the same moment: the earlier one has it.
    Confirm,
    /// After a reconnect: the later one has it.
    Reconnect,
}

enum Stage {
    Begin,
    Querying {
        why: QueryReason,
        until: Instant,
        inbox: Inbox,
    },
    /// The holder was told to give the prefix away.
    TakingOver {
        holder: Box<WriterInfo>,
        until: Instant,
        inbox: Inbox,
    },
    Held,
    /// It was given away: nothing is written, and the end comes then.
    Released {
        to: Box<WriterInfo>,
        until: Instant,
    },
}

pub struct NatsLease {
    client: Rc<Client>,
    /// Which bucket of this name it is.
    bucket_incarnation: Rc<Cell<u64>>,
    subject: String,
    url: String,
    own: WriterInfo,
    stage: Stage,
    queries: Option<Subscription>,
    /// The connection in which it was last asked.
    session: Option<u64>,
    /// It was ours once.
    acquired: bool,
    last_logged: bool,
    /// To take over from a holder that answers; once.
    takeover: bool,
    takeovers: Option<Subscription>,
    pause: PauseDetector,
    /// How often it stood still.
    pauses: u64,
    /// A standby has said that it listens.
    standby: bool,
}

impl NatsLease {
    /// `subject` is what [`LeaseSubjects`] gives.
    pub fn new(
        client: &Rc<Client>,
        incarnation: Rc<Cell<u64>>,
        subject: String,
        url: &str,
        holder: &LeaseHolder,
    ) -> NatsLease {
        let me = WriterInfo {
            id: random::token(),
            host: crate::host::host_name(),
            pid: std::process::id(),
            db: holder.database.clone(),
            since: holder.since.millis(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            lag: None,
            service: client.service_id().unwrap_or_default().to_string(),
            ..WriterInfo::default()
        };
        NatsLease {
            client: client.clone(),
            bucket_incarnation: incarnation,
            subject,
            url: url.to_string(),
            own: me,
            stage: Stage::Begin,
            queries: None,
            session: None,
            acquired: false,
            last_logged: false,
            takeover: holder.takeover,
            takeovers: None,
            pause: PauseDetector::default(),
            pauses: 0,
            standby: false,
        }
    }

    fn query(&mut self, why: QueryReason, now: Instant) {
        let inbox = Inbox::open(&self.client, Purpose::KeepAlive);
        let question = WriterInfo::question(&self.own.id);
        // Not sent: the connection is gone, and the next one asks again.
        let _ = inbox.request(QUERY_TAG, &self.subject, &question);
        self.client.flush();
        self.stage = Stage::Querying { why, until: now + QUERY_TIMEOUT, inbox };
    }

    /// What the answers so far mean: none while it is open.
    fn read_replies(&mut self, now: Instant) -> Result<Option<QueryReason>> {
        self.client.receive_ready();
        let Stage::Querying { why, until, inbox } = &self.stage else { return Ok(None) };
        let why = *why;
        while let Some(reply) = inbox.next() {
            if reply.has_no_responders() {
                return Ok(Some(why));
            }
            let Ok(other) = serde_json::from_slice::<WriterInfo>(&reply.data) else { continue };
            if other.id != self.own.id && self.loses_to(&other, why) {
                if why == QueryReason::Acquire && std::mem::take(&mut self.takeover) {
                    self.take_over(other, now);
                    return Ok(None);
                }
                return Err(lease_taken_error(&self.url, &other, why));
            }
        }
        if self.client.lease_queries_denied() {
            self.log_once("no permission on litestream.alive.>");
            return Ok(Some(why));
        }
        if now < *until {
            return Ok(None);
        }
        if why == QueryReason::Acquire {
            self.log_once("a replicator registered for this prefix does not answer");
        }
        Ok(Some(why))
    }

    fn loses_to(&self, other: &WriterInfo, why: QueryReason) -> bool {
        let order = (other.since, &other.id).cmp(&(self.own.since, &self.own.id));
        match why {
            QueryReason::Acquire => true,
            QueryReason::Confirm => order.is_lt() && !other.yields,
            QueryReason::Reconnect => order.is_gt(),
        }
    }

    fn log_once(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.last_logged, true) {
            log::info("a second replicator may not be detected")
                .field("store", &self.url)
                .field("subject", &self.subject)
                .field("reason", reason)
                .emit();
        }
    }

    fn acquired(&mut self, why: QueryReason, now: Instant) {
        self.stage = Stage::Held;
        if why == QueryReason::Acquire {
            self.queries = self.client.listen(&self.subject, None);
            self.takeovers = self.client.listen(&self.takeover_subject(), None);
            self.acquired = true;
            if !self.client.lease_queries_denied() {
                self.query(QueryReason::Confirm, now);
            }
        }
    }

    fn takeover_subject(&self) -> String {
        self.subject.replacen(LEASE_QUERY_SUBJECTS, TAKEOVER_SUBJECTS, 1)
    }

    fn take_over(&mut self, holder: WriterInfo, now: Instant) {
        let inbox = Inbox::open(&self.client, Purpose::KeepAlive);
        let request = serde_json::to_vec(&self.own).unwrap_or_default();
        // Not sent: the connection is gone, and the next one starts again.
        let _ = inbox.request(QUERY_TAG, &self.takeover_subject(), &request);
        self.client.flush();
        self.stage = Stage::TakingOver { holder: Box::new(holder), until: now + QUERY_TIMEOUT, inbox };
    }

    /// Whether the holder has stopped writing.
    fn read_release(&mut self, now: Instant) -> Result<()> {
        let Stage::TakingOver { holder, until, inbox } = &self.stage else { return Ok(()) };
        while let Some(reply) = inbox.next() {
            if reply.has_no_responders() {
                let hint =
                    "it cannot be told to stop: it is of an older version, or its login may not listen; stop it there";
                return Err(lease_taken_error(&self.url, holder, QueryReason::Acquire).with_hint(hint));
            }
            if serde_json::from_slice::<WriterInfo>(&reply.data).is_ok_and(|other| other.released) {
                log::info("taken over")
                    .field("store", &self.url)
                    .field("host", printable(&holder.host))
                    .field("pid", holder.pid)
                    .emit();
                self.acquired(QueryReason::Acquire, now);
                return Ok(());
            }
        }
        if let Some(text) = self.client.takeover_denied() {
            return Err(Error::new(Kind::StoreRefused, format!("{}: take over: {text}", self.url))
                .with_hint("the login needs to publish to litestream.takeover.>"));
        }
        if now >= *until {
            // It may have ended since.
            self.query(QueryReason::Acquire, now);
        }
        Ok(())
    }

    /// Gives the prefix away, if another is to have it: nothing is written from now on.
    fn obey_takeover(&mut self, now: Instant) {
        while let Some(request) = self.takeovers.as_ref().and_then(Subscription::try_next) {
            let Ok(other) = serde_json::from_slice::<WriterInfo>(&request.data) else { continue };
            if other.id == self.own.id {
                continue;
            }
            if let Some(reply) = &request.reply {
                let answer = WriterInfo { released: true, ..self.own.clone() };
                self.client.respond(reply, &serde_json::to_vec(&answer).unwrap_or_default());
            }
            self.stage = Stage::Released { to: Box::new(other), until: now + FAREWELL };
            self.queries = None;
        }
    }

    fn reply_to_queries(&mut self) {
        self.own.yields = matches!(self.stage, Stage::Querying { why: QueryReason::Reconnect, .. });
        let Some(questions) = &self.queries else { return };
        while let Some(question) = questions.try_next() {
            let asks = serde_json::from_slice::<WriterInfo>(&question.data).unwrap_or_default();
            self.standby |= asks.listens;
            if let (Some(reply), false) = (&question.reply, asks.id == self.own.id) {
                self.client.respond(reply, &serde_json::to_vec(&self.own).unwrap_or_default());
            }
        }
    }
}

fn lease_taken_error(url: &str, other: &WriterInfo, why: QueryReason) -> Error {
    if why == QueryReason::Reconnect {
        return taken_over_error(url, "was taken over while this process was disconnected", other);
    }
    Error::new(Kind::Locked, format!("{url}: is already replicated to by {}", described(other)))
        .with_hint("only one replicator per prefix: stop that one, or give this database its own path in the bucket")
}

fn taken_over_error(url: &str, what: &str, other: &WriterInfo) -> Error {
    Error::new(Kind::TakenOver, format!("{url}: {what} by {}", described(other))).with_hint(
        "commits that this one has not stored are still in its database; decide which of the two databases is the right one",
    )
}

fn described(other: &WriterInfo) -> String {
    let word = |text: &str| text.chars().filter(|c| !c.is_control()).take(300).collect::<String>();
    let WriterInfo { host, pid, db, .. } = other;
    format!("process {pid} on {} from {}", word(host), word(db))
}

impl WriterLease for NatsLease {
    fn poll(&mut self, now: Instant) -> Result<Option<u64>> {
        if let Stage::Released { to, until } = &self.stage {
            return if now < *until { Ok(None) } else { Err(taken_over_error(&self.url, "was taken over", to)) };
        }
        let session = self.client.session();
        let paused = self.pause.was_paused(since_boot(), QUERY_TIMEOUT) && self.acquired;
        self.pauses += u64::from(paused);
        if session.is_some() && (session != self.session || paused) {
            self.session = session;
            self.query(if self.acquired { QueryReason::Reconnect } else { QueryReason::Acquire }, now);
        }
        if let Some(why) = self.read_replies(now)? {
            self.acquired(why, now);
        }
        self.read_release(now)?;
        self.reply_to_queries();
        self.obey_takeover(now);
        if let Stage::Released { .. } = self.stage {
            return Ok(None);
        }
        let more = self.bucket_incarnation.get().saturating_add(self.pauses);
        let number = self.session.map(|session| session.saturating_add(more));
        Ok(number.filter(|_| self.acquired))
    }

    fn set_lag(&mut self, lag: Option<Duration>) {
        self.own.lag = lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX));
    }

    fn take_standby(&mut self) -> bool {
        std::mem::take(&mut self.standby)
    }
}

#[cfg(test)]
mod tests;

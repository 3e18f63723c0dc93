//! Who keeps a prefix: asked and answered over NATS, and recorded in the bucket.
//!
//! The record ([`WriterRecord`]) decides, whether the writers hear each other or not. The questions tell a second one at once
//! who is there, without taking anything from it, and find those that have no record: older versions, and logins that may not
//! keep one.
//!
//! Anyone who replicates into a prefix listens at a subject that is derived from the bucket and the prefix, and answers each
//! question there with its host, process and database.
//!
//! * First it asks. An answer means that the prefix is taken; that nobody listens is said by the server itself.
//! * Then it listens, writes its record, and asks once more, for another may have begun in the same moment: of two without a
//!   record the later one steps down.
//! * After each reconnect, and after a time in which it stood still and answered nobody, it asks again and looks at its record:
//!   who took the prefix over meanwhile stays, and who was cut off steps down.
//! * Anyone who is to take over a prefix whose holder answers tells the holder so, on a subject of its own that not everyone who
//!   may ask may use. The holder stops writing, answers that it has, and ends. Its answer goes the way of what it wrote
//!   before, so that anyone who reads the answer finds all that.
//! * A login without permission for these subjects goes on without: that is said once.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use nats::Subscription;

use super::api;
use super::client::Client;
use super::inbox::Inbox;
use super::pause::{PauseDetector, since_boot};
use super::proxy::{LEASE_QUERY_SUBJECTS, TAKEOVER_SUBJECTS};
use super::writer_info::{WriterInfo, lease_taken_error, taken_over_error};
use super::writer_record::{Standing, WriterRecord, short_hash};
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
const RELEASE_GRACE_PERIOD: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum QueryReason {
    /// Before anything is ours: anyone who answers has it.
    Acquire,
    /// Ours already, but another may have begun in the same moment: the earlier one has it.
    Confirm,
    /// After a reconnect: the later one has it.
    Reconnect,
}

enum LeaseStage {
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
    stage: LeaseStage,
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
    record: WriterRecord,
    /// What was told last.
    number: Option<u64>,
    /// It was another number before.
    was_cut_off: bool,
    /// Where the answer comes to, and how long it is waited for.
    removal: Option<(Inbox, Instant)>,
}

/// What others who ask are told of `holder`.
pub(super) fn own_info(client: &Client, holder: &LeaseHolder) -> WriterInfo {
    let host = crate::host::host_name();
    WriterInfo {
        id: random::token(),
        pid: std::process::id(),
        db: holder.database.clone(),
        since: holder.since.millis(),
        version: env!("CARGO_PKG_VERSION").to_string(),
        service: client.service_id().unwrap_or_default().to_string(),
        place: short_hash(&format!("{host}\0{}", holder.database)),
        host,
        ..WriterInfo::default()
    }
}

/// What stands in the bucket of it.
pub(super) fn stored_info(own: &WriterInfo, holder: &LeaseHolder) -> WriterInfo {
    match holder.anonymous {
        true => WriterInfo { host: String::new(), db: String::new(), pid: 0, ..own.clone() },
        false => own.clone(),
    }
}

impl NatsLease {
    /// `subject` is what [`LeaseSubjects`] gives; `own` what others are told, and whether a holder that answers is told to go.
    pub fn new(
        client: &Rc<Client>,
        incarnation: Rc<Cell<u64>>,
        subject: String,
        url: &str,
        (own, takeover): (WriterInfo, bool),
        record: WriterRecord,
    ) -> NatsLease {
        NatsLease {
            client: client.clone(),
            bucket_incarnation: incarnation,
            subject,
            url: url.to_string(),
            own,
            stage: LeaseStage::Begin,
            queries: None,
            session: None,
            acquired: false,
            last_logged: false,
            takeover,
            takeovers: None,
            pause: PauseDetector::default(),
            pauses: 0,
            standby: false,
            record,
            number: None,
            was_cut_off: false,
            removal: None,
        }
    }

    fn query(&mut self, why: QueryReason, now: Instant) {
        let inbox = Inbox::open(&self.client, Purpose::KeepAlive);
        let question = WriterInfo::question(&self.own.id);
        // Not sent: the connection is gone, and the next one asks again.
        let _ = inbox.request(QUERY_TAG, &self.subject, &question);
        self.client.flush();
        self.stage = LeaseStage::Querying { why, until: now + QUERY_TIMEOUT, inbox };
    }

    /// What the answers so far mean: none while it is open.
    fn read_replies(&mut self, now: Instant) -> Result<Option<QueryReason>> {
        self.client.receive_ready();
        let LeaseStage::Querying { why, until, inbox } = &self.stage else { return Ok(None) };
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
                return Err(self.loss_error(&other, why == QueryReason::Reconnect));
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

    fn loss_error(&self, other: &WriterInfo, ours_before: bool) -> Error {
        match ours_before {
            true => taken_over_error(&self.url, "was taken over while this process was disconnected", other),
            false => lease_taken_error(&self.url, other),
        }
    }

    fn loses_to(&self, other: &WriterInfo, why: QueryReason) -> bool {
        let order = (other.since, &other.id).cmp(&(self.own.since, &self.own.id));
        match why {
            QueryReason::Acquire => true,
            // Where each of them has a record, the bucket knows better.
            _ if other.epoch > 0 && self.record.epoch() > 0 => false,
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
        self.stage = LeaseStage::Held;
        if why == QueryReason::Acquire {
            self.queries = self.client.listen(&self.subject, None);
            self.takeovers = self.client.listen(&self.takeover_subject(), None);
            self.acquired = true;
            if !self.client.lease_queries_denied() {
                self.query(QueryReason::Confirm, now);
            }
        }
    }

    /// Whether the record says that the prefix is ours, or there can be none.
    fn has_record(&mut self, now: Instant) -> Result<bool> {
        let ours_before = self.record.epoch() > 0;
        let standing = self.record.poll(now)?;
        self.own.epoch = self.record.epoch();
        match standing {
            Standing::Ours => Ok(true),
            Standing::Unknown => Ok(false),
            Standing::Taken(other) if ours_before && !self.was_cut_off => {
                Err(taken_over_error(&self.url, "was taken over", &other))
            }
            Standing::Taken(other) => Err(self.loss_error(&other, ours_before)),
            Standing::Refused(why) => {
                self.log_once(&format!("cannot record who writes: {why}"));
                Ok(true)
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
        self.stage = LeaseStage::TakingOver { holder: Box::new(holder), until: now + QUERY_TIMEOUT, inbox };
    }

    /// Whether the holder has stopped writing.
    fn read_release(&mut self, now: Instant) -> Result<()> {
        let LeaseStage::TakingOver { holder, until, inbox } = &self.stage else { return Ok(()) };
        while let Some(reply) = inbox.next() {
            if reply.has_no_responders() {
                let hint =
                    "it cannot be told to stop: it is of an older version, or its login may not listen; stop it there";
                return Err(lease_taken_error(&self.url, holder).with_hint(hint));
            }
            if serde_json::from_slice::<WriterInfo>(&reply.data).is_ok_and(|other| other.released) {
                log::info("taken over")
                    .field("store", &self.url)
                    .field("host", printable(&holder.host))
                    .field("pid", holder.pid)
                    .emit();
                self.record.on_predecessor_stopped();
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
            self.stage = LeaseStage::Released { to: Box::new(other), until: now + RELEASE_GRACE_PERIOD };
            self.queries = None;
        }
    }

    fn reply_to_queries(&mut self) {
        self.own.yields = matches!(self.stage, LeaseStage::Querying { why: QueryReason::Reconnect, .. });
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

impl WriterLease for NatsLease {
    fn poll(&mut self, now: Instant) -> Result<Option<u64>> {
        if let LeaseStage::Released { to, until } = &self.stage {
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
        if let LeaseStage::Released { .. } = self.stage {
            return Ok(None);
        }
        let more = self.bucket_incarnation.get().saturating_add(self.pauses);
        let number = self.session.map(|session| session.saturating_add(more));
        let before = std::mem::replace(&mut self.number, number);
        if before != number {
            self.was_cut_off |= before.is_some();
            self.record.recheck();
        }
        Ok(if self.acquired && self.has_record(now)? { number } else { None })
    }

    fn predecessor_may_write(&self) -> bool {
        self.record.predecessor_may_write()
    }

    fn remove_record(&mut self, now: Instant) -> Result<Poll<()>> {
        let Some((inbox, until)) = &self.removal else {
            self.removal = Some((self.record.remove()?, now + QUERY_TIMEOUT));
            return Ok(Poll::Pending);
        };
        inbox.check_denied()?;
        let answer = inbox.next().map(|reply| api::parse_success::<api::Purged>(&reply)).transpose()?;
        Ok(if answer.is_some() || now >= *until { Poll::Ready(()) } else { Poll::Pending })
    }

    fn set_lag(&mut self, lag: Option<Duration>) {
        self.own.lag = lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX));
    }

    fn take_standby(&mut self) -> bool {
        std::mem::take(&mut self.standby)
    }
}

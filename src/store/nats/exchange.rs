//! The questions of one operation and their answers: in which connection it asks, and how long it waits.
//!
//! What was asked in one connection is not answered in the next. So each operation takes the events in order, and begins
//! again, or ends, at [`ExchangeEvent::NewSession`].

use std::rc::Rc;
use std::time::Instant;

use super::api;
use super::client::Client;
use super::inbox::Inbox;
use super::object::ObjectNames;
use super::progress_timeout::ProgressTimeout;
use super::reply::{Reply, ReplyTo};
use crate::error::Result;
use crate::store::traffic::Purpose;

/// The tag of an answer that nobody reads.
const CONSUMER_DELETED: u64 = u64::MAX;

pub enum ExchangeEvent {
    /// The connection is another one, or there is none: see [`Exchange::is_connected`].
    NewSession,
    Reply(Reply),
}

pub struct Exchange {
    inbox: Inbox,
    /// The connection that the events are of; none while there is none.
    session: Option<u64>,
    timeout: ProgressTimeout,
}

impl Exchange {
    pub fn new(client: &Rc<Client>, purpose: Purpose) -> Exchange {
        Exchange { inbox: Inbox::open(client, purpose), session: None, timeout: ProgressTimeout::default() }
    }

    pub fn client(&self) -> &Rc<Client> {
        &self.inbox.client
    }

    /// What has happened since; none if nothing has.
    pub fn next(&mut self) -> Option<ExchangeEvent> {
        if self.is_interrupted() {
            self.session = self.client().session();
            return Some(ExchangeEvent::NewSession);
        }
        let reply = self.inbox.next()?;
        self.timeout.reset();
        Some(ExchangeEvent::Reply(reply))
    }

    /// For what ends with its connection: from now on the events are of the one that is there. False: there is none.
    pub fn join_session(&mut self) -> bool {
        self.session = self.client().session();
        self.is_connected()
    }

    /// As of the last event.
    pub fn session(&self) -> Option<u64> {
        self.session
    }

    /// As of the last event.
    pub fn is_connected(&self) -> bool {
        self.session.is_some()
    }

    /// Whether the connection is not the one of the last event any more.
    pub fn is_interrupted(&self) -> bool {
        self.client().session() != self.session
    }

    /// Asks from now on so that nothing which was asked before is answered.
    pub fn renew(&mut self) {
        self.inbox = self.inbox.fresh();
    }

    /// What is asked from now on is for something else: for the figures of what goes over the link.
    pub fn count_for(&mut self, purpose: Purpose) {
        self.inbox = Inbox::open(&self.inbox.client, purpose);
    }

    /// Asks a question whose answer will carry `tag`.
    pub fn request(&self, tag: u64, subject: &str, payload: &[u8]) -> Result<()> {
        self.inbox.request(tag, subject, payload)
    }

    pub fn reply_to(&self, tag: u64) -> ReplyTo<'_> {
        self.inbox.reply_to(tag)
    }

    /// The consumer that delivers to it.
    pub fn consumer(&self) -> String {
        self.inbox.consumer()
    }

    /// Best effort: the server removes a consumer that is not used by itself, later.
    pub fn delete_consumer(&self, names: &ObjectNames) {
        let _ = self.request(CONSUMER_DELETED, &api::delete_consumer_request(names, &self.consumer()), b"");
    }

    pub fn token(&self) -> &str {
        self.inbox.token()
    }

    /// Waits from now on: nothing was owed until now.
    pub fn reset_timeout(&mut self) {
        self.timeout.reset();
    }

    /// Errors: the server refused what was asked; no answer will come.
    pub fn check_denied(&self) -> Result<()> {
        self.inbox.check_denied()
    }

    /// Errors: the server refused what was asked, or an answer is overdue.
    pub fn check_timeout(&mut self, now: Instant) -> Result<()> {
        self.timeout.check(now, &self.inbox)
    }
}

//! One connection to the servers, shared by all stores that log in to them the same way.
//!
//! What belongs to a subject of its own stands in a file of its own: the connection (connection.rs), which reply is whose
//! (routing.rs), which refused permission is whose (refusals.rs), streams that share our subjects (duplicate_streams.rs).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use nats::{HeaderMap, Message, Subscription};

use super::auth;
use super::cleanups::Cleanups;
use super::congestion::CongestionWindow;
use super::connection::{OpenConnection, ServerConnection};
use super::duplicate_streams::DuplicateStreams;
use super::options::NatsOptions;
use super::own_objects::OwnObjects;
use super::proxy::{FLUSH_SUBJECT, Proxy, TrafficCounters};
use super::read_cuts::ReadCuts;
use super::refusals::{SubjectsInUse, permission_error};
use super::reply::{Reply, ReplyTo};
use super::routing::{ReplyQueues, route};
use super::subject;
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::random;
use crate::wakeup::Waker;

/// As large as the crate's write buffer: a payload of this size pushes everything before it onto the socket.
static FLUSH_PADDING: [u8; 32 * 1024] = [0; 32 * 1024];
/// Messages that one wait hands out before the operations have their turn.
const MESSAGES_PER_TURN: usize = 4096;
/// A connect in the making is seen to at least this often.
const CONNECT_POLL_INTERVAL: Duration = Duration::from_millis(5);

pub struct Client {
    proxy: Proxy,
    options: NatsOptions,
    connection: RefCell<ServerConnection>,
    pub replies: ReplyQueues,
    /// Something may sit in the crate's write buffer.
    unflushed: Cell<bool>,
    pub window: RefCell<CongestionWindow>,
    pub cleanups: Cleanups,
    /// Puts that failed: their bucket may be gone.
    pub failed_puts: Cell<u64>,
    pub own_objects: RefCell<OwnObjects>,
    pub duplicates: RefCell<DuplicateStreams>,
    subjects: RefCell<SubjectsInUse>,
    read_cuts: Cell<ReadCuts>,
    /// Part of the names of its consumers, which nobody else may have.
    id: String,
    /// Others may ask for the program at this connection.
    is_service: bool,
}

impl Client {
    /// `waker` is called when a request arrives; with none, no requests are taken.
    pub fn new(options: &NatsOptions, waker: Option<Waker>) -> Result<Rc<Client>> {
        auth::options(&options.login)?;
        let is_service = waker.is_some();
        Ok(Rc::new(Client {
            proxy: Proxy::start(options, waker)?,
            options: options.clone(),
            connection: RefCell::default(),
            replies: ReplyQueues::default(),
            unflushed: Cell::new(false),
            window: RefCell::new(CongestionWindow::new()),
            cleanups: Cleanups::default(),
            failed_puts: Cell::new(0),
            own_objects: RefCell::default(),
            duplicates: RefCell::default(),
            subjects: RefCell::default(),
            read_cuts: Cell::default(),
            id: random::token(),
            is_service,
        }))
    }

    pub fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// Bytes of messages that have gone over the link, either way.
    pub fn bytes_moved(&self) -> u64 {
        self.proxy.status.bytes_moved()
    }

    /// Where it is counted what goes over the connection.
    pub fn traffic_counters(&self) -> TrafficCounters {
        self.proxy.status.traffic.clone()
    }

    /// Brings the connection up, step by step. True: it is up. `told` is the caller's count of failures that it was told.
    pub fn connect(&self, now: Instant, told: &Cell<u64>) -> Result<bool> {
        let up = self.connection.borrow_mut().advance(&self.proxy, &self.options, now)?;
        let failures = self.proxy.status.lock().failures;
        let news = failures > told.replace(failures);
        if up || !news {
            return Ok(up);
        }
        let status = self.proxy.status.lock().clone();
        if status.gave_up {
            let error = self.last_failure();
            return Err(Error::new(
                Kind::ReconnectsExhausted,
                format!("gave up reconnecting (max-reconnects): {error}"),
            ));
        }
        match status.failure {
            Some(failure) if status.sessions == 0 => Err(failure),
            _ => Err(self.last_failure()),
        }
    }

    /// Which connection this is, counted from 1; none while there is none.
    pub fn session(&self) -> Option<u64> {
        self.connection.borrow_mut().session(&self.proxy, &self.options)
    }

    /// Why the store cannot be reached. Once it was, any cause may pass.
    pub fn last_failure(&self) -> Error {
        let failure = self.proxy.status.lock().failure.clone();
        match failure {
            Some(failure) => failure.with_kind(Kind::StoreUnreachable),
            None => Error::new(Kind::StoreUnreachable, "not connected"),
        }
    }

    /// No answer came in time. What the server refused meanwhile is the likely reason.
    pub fn timeout_error(&self) -> Error {
        let status = self.proxy.status.lock().clone();
        let subjects = self.subjects.borrow();
        if let Some(text) = status.denied_permission.iter().rev().find(|text| !subjects.is_of_answer(text)) {
            return permission_error(text).context(format!("no answer within {:?}", self.options.timeout));
        }
        if !status.up {
            return self.last_failure();
        }
        let text = format!("{}: no answer within {:?}", status.address, self.options.timeout);
        Error::new(Kind::StoreUnreachable, text)
    }

    /// The connection `session` was lost while an object was read.
    pub fn was_cut_while_reading(&self, session: u64) {
        let mut cuts = self.read_cuts.get();
        if cuts.record(session) {
            log::warn("connection lost during a read, requesting less at once")
                .field("server", &self.proxy.status.lock().address)
                .emit();
        }
        self.read_cuts.set(cuts);
    }

    /// How many times to halve what is asked for at once.
    pub fn read_halvings(&self) -> u32 {
        self.read_cuts.get().halvings()
    }

    /// What the server said of itself.
    pub fn max_payload(&self) -> usize {
        self.proxy.status.lock().server.max_payload
    }

    /// The server's JetStream domain; empty without one.
    pub fn domain(&self) -> String {
        self.proxy.status.lock().server.domain.clone()
    }

    pub fn has_headers(&self) -> bool {
        self.proxy.status.lock().server.headers
    }

    /// Publishes without waiting for anything. An error means that nothing was sent.
    pub fn publish(&self, subject: &str, reply: &ReplyTo, payload: &[u8]) -> Result<()> {
        self.publish_message(subject, reply, None, payload)
    }

    /// Publishes the last message of `subject`. With `expected_last`, nothing is stored unless that is the sequence of the one
    /// before it (0: there is none). With `rolls_up`, those before it are dropped.
    pub fn publish_last(
        &self,
        subject: &str,
        reply: &ReplyTo,
        expected_last: Option<u64>,
        rolls_up: bool,
        payload: &[u8],
    ) -> Result<()> {
        let mut headers = HeaderMap::new();
        if rolls_up {
            headers.insert("Nats-Rollup", "sub");
        }
        if let Some(seq) = expected_last {
            headers.insert("Nats-Expected-Last-Subject-Sequence", seq.to_string());
        }
        self.publish_message(subject, reply, Some(&headers), payload)
    }

    /// Publishes a message that is stored only while the last one of another subject is the one at this sequence.
    pub fn publish_while(
        &self,
        subject: &str,
        reply: &ReplyTo,
        (other, seq): (&str, u64),
        payload: &[u8],
    ) -> Result<()> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", seq.to_string());
        headers.insert("Nats-Expected-Last-Subject-Sequence-Subject", other.to_string());
        self.publish_message(subject, reply, Some(&headers), payload)
    }

    fn publish_message(
        &self,
        subject: &str,
        reply: &ReplyTo,
        headers: Option<&HeaderMap>,
        payload: &[u8],
    ) -> Result<()> {
        let connection = self.connection.borrow();
        let Some(open) = connection.open() else { return Err(self.last_failure()) };
        subject::check(subject)?;
        self.subjects.borrow_mut().record_question(subject, reply.token);
        let reply = format!("{}.{}.{}", open.inbox, reply.token, reply.tag);
        self.unflushed.set(true);
        open.connection
            .publish_with_reply_or_headers(subject, Some(&reply), headers, payload)
            .map_err(|_| self.last_failure())
    }

    /// How many permissions the server has refused so far.
    pub fn denials(&self) -> u64 {
        self.proxy.status.lock().denials
    }

    /// The refusal of a permission since the first `known` ones that an operation with `token` has met, by its subject or
    /// by ours.
    pub fn denial(&self, token: &str, known: u64) -> Option<Error> {
        let status = self.proxy.status.lock();
        // Without an inbox nobody gets any answer.
        let inbox = format!("Subscription to \"{}.", self.options.inbox_prefix);
        let inbox = status.denied_permission.iter().find(|text| text.contains(&inbox));
        if inbox.is_some() || status.denials == known {
            return inbox.map(|text| permission_error(text));
        }
        let subjects = self.subjects.borrow();
        let ours = status.denied_permission.iter().rev().find(|text| subjects.is_of_operation(text, token));
        ours.map(|text| permission_error(text))
    }

    /// Listens at a subject of its own, also after reconnects.
    pub fn listen(&self, subject: &str, queue: Option<&str>) -> Option<Subscription> {
        let connection = self.connection.borrow();
        let open = connection.open()?;
        match queue {
            None => open.connection.subscribe(subject).ok(),
            Some(queue) => open.connection.queue_subscribe(subject, queue).ok(),
        }
    }

    /// Publishes a message that has no answer, with the next [`Client::wait`]. It may be lost.
    pub fn publish_unanswered(&self, subject: &str, payload: &[u8]) {
        if let Some(open) = self.connection.borrow().open() {
            self.unflushed.set(true);
            let _ = open.connection.publish(subject, payload);
        }
    }

    /// Answers a question of another program. If the answer is lost, that program asks again or gives up.
    pub fn respond(&self, reply: &str, payload: &[u8]) {
        self.respond_with(reply, None, payload);
    }

    /// The same, as the refusal of a service (ADR-32 of NATS).
    pub fn respond_error(&self, reply: &str, code: u16, text: &str, payload: &str) {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Service-Error", text.chars().filter(|c| !c.is_control()).collect::<String>());
        headers.insert("Nats-Service-Error-Code", code.to_string());
        self.respond_with(reply, Some(&headers).filter(|_| self.has_headers()), payload.as_bytes());
    }

    fn respond_with(&self, reply: &str, headers: Option<&HeaderMap>, payload: &[u8]) {
        self.subjects.borrow_mut().record_answer(reply);
        if let Some(open) = self.connection.borrow().open() {
            self.unflushed.set(true);
            let _ = open.connection.publish_with_reply_or_headers(reply, None, headers, payload);
        }
        self.flush();
    }

    /// What the server said of an answer that it did not let through.
    pub fn answer_denied(&self) -> Option<String> {
        let (status, subjects) = (self.proxy.status.lock(), self.subjects.borrow());
        status.denied_permission.iter().find(|text| subjects.is_of_answer(text)).cloned()
    }

    /// What the server said of a subject of the service that the login may not use.
    pub fn service_denied(&self) -> Option<String> {
        self.proxy.status.lock().service_denied.clone()
    }

    /// What the server said of a subject for taking over that the login may not use.
    pub fn takeover_denied(&self) -> Option<String> {
        self.proxy.status.lock().takeover_denied.clone()
    }

    /// Whether the server forbids asking who else is there.
    pub fn lease_queries_denied(&self) -> bool {
        self.proxy.status.lock().lease_queries_denied
    }

    /// Which server it is, or was last, connected to.
    pub fn server_address(&self) -> String {
        self.proxy.status.lock().address.clone()
    }

    /// What nobody else is called.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Under which ID others may ask for the program at this connection; none if they may not.
    pub fn service_id(&self) -> Option<&str> {
        self.is_service.then_some(&*self.id)
    }

    /// Pushes what the crate still holds, then sleeps until a message is there or `timeout` is over.
    pub fn wait(&self, timeout: Duration) {
        self.cleanups.poll(Instant::now());
        self.flush();
        let sleep = if self.replies.has_untaken() { Duration::ZERO } else { timeout };
        let connection = self.connection.borrow();
        match connection.open() {
            // Nothing is asked, so nothing can come. The crate's receive spins before it sleeps, which at an idle loop's
            // tick costs ten times what the rest does.
            _ if self.replies.is_empty() && connection.is_connecting() => {
                thread::sleep(sleep.min(CONNECT_POLL_INTERVAL));
            }
            Some(open) if !self.replies.is_empty() => self.receive(open, sleep),
            _ => thread::sleep(sleep),
        }
    }

    /// The crate flushes at most every 5 ms. Its own flush waits for an answer, which may not come if the connection
    /// is lost just then; a payload as large as its buffer makes it write, and the link drops it.
    pub fn flush(&self) {
        if self.unflushed.replace(false)
            && let Some(open) = self.connection.borrow().open()
        {
            let _ = open.connection.publish(FLUSH_SUBJECT, FLUSH_PADDING);
        }
    }

    fn receive(&self, open: &OpenConnection, timeout: Duration) {
        let mut next = open.subscription.next_timeout(timeout).ok();
        for _ in 0..MESSAGES_PER_TURN {
            let Some(message) = next else { return };
            self.dispatch(&open.inbox, message);
            next = open.subscription.try_next();
        }
        if let Some(message) = next {
            self.dispatch(&open.inbox, message);
        }
    }

    /// Takes what has come, without waiting.
    pub fn receive_ready(&self) {
        if let Some(open) = self.connection.borrow().open() {
            for _ in 0..MESSAGES_PER_TURN {
                let Some(message) = open.subscription.try_next() else { return };
                self.dispatch(&open.inbox, message);
            }
        }
    }

    fn dispatch(&self, inbox: &str, message: Message) {
        let Some((token, tag, delivery)) = route(inbox, &message.subject, message.reply.as_deref()) else { return };
        let status = message.headers.as_ref().and_then(|headers| headers.get("Status")?.parse().ok());
        if let Err(late) = self.replies.deliver(token, Reply { tag, status, data: message.data, delivery }) {
            self.duplicates.borrow_mut().on_late_reply(token, &late.data);
        }
    }
}

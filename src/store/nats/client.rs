//! One connection to the servers, shared by all stores that log in to them the same way.
//!
//! Invariants:
//! * One subscription, `<inbox>.>`, receives everything; a message goes to the mailbox whose token is in its subject, or,
//!   for what a consumer delivers, in the consumer's name.
//! * After a reconnect the inbox is a new one: what was asked before is never answered into what is asked now.
//! * The crate's publish fails at once while disconnected, and nothing is ever kept and sent later.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nats::{Connection, HeaderMap, Message, Subscription};

use super::api;
use super::auth;
use super::congestion::CongestionWindow;
use super::object::ObjectNames;
use super::options::Options;
use super::own_objects::OwnObjects;
use super::proxy::{FLUSH_SUBJECT, Proxy};
use super::reply::{DeliveryInfo, Reply};
use crate::error::{Error, Kind, Result};
use crate::format::time::Timestamp;
use crate::log;
use crate::random;
use crate::store::traffic::{Purpose, Traffic};
use crate::wakeup::Waker;

/// As large as the crate's write buffer: a payload of this size pushes everything before it onto the socket.
static FLUSH_PADDING: [u8; 32 * 1024] = [0; 32 * 1024];
/// Messages that one wait hands out before the operations have their turn.
const MESSAGES_PER_TURN: usize = 4096;
/// The crate's thread tries again this soon; the link does the real waiting.
const RECONNECT_DELAY: Duration = Duration::from_millis(20);
/// A file of certificates that holds none. In an empty root directory it may be missing, as the system's certificates are.
const NO_CERTIFICATES: &str = "/dev/null";
/// Stores of one bucket share a sweep that is younger.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(6 * 3600);
/// Puts that are remembered when they are done.
const MAX_FINISHED_PUTS: usize = 256;
/// Halvings of what is asked for at once: 16 MiB become a quarter of one.
const MOST_CUTS: u32 = 6;
/// Questions that are remembered.
const ASKED: usize = 128;
/// Answers that are remembered.
const ANSWERED: usize = 64;
/// What the link may take longer than its own deadlines.
const CONNECT_GRACE: Duration = Duration::from_secs(5);

/// Work that is left to be done for an operation that is over, while others wait.
pub trait Cleanup {
    /// Makes progress. True: done, or given up.
    fn poll(&mut self, now: Instant) -> bool;
}

type InboxQueue = Rc<RefCell<VecDeque<Reply>>>;

pub struct Client {
    proxy: Proxy,
    options: Options,
    state: RefCell<State>,
    inboxes: RefCell<HashMap<String, InboxQueue>>,
    /// Mail that no operation has taken yet.
    undelivered: Cell<usize>,
    /// Something may sit in the crate's write buffer.
    unflushed: Cell<bool>,
    pub window: RefCell<CongestionWindow>,
    flags: ConnectionFlags,
    /// What abandoned puts left to be removed.
    abandoned_puts: RefCell<Vec<Box<dyn Cleanup>>>,
    /// When which bucket was last swept.
    last_cleanup: RefCell<HashMap<String, Timestamp>>,
    /// Puts that failed: their bucket may be gone.
    pub failed_puts: Cell<u64>,
    pub own_objects: RefCell<OwnObjects>,
    /// Part of the names of its consumers, which nobody else may have.
    id: String,
    /// Tokens are counted: each is sent with every question and comes back with every answer.
    last_token: Cell<u64>,
    /// Puts that are done, of each the token and the place: whatever is stored for one of them now is stored twice.
    finished_puts: RefCell<VecDeque<(String, Rc<ObjectNames>)>>,
    /// In which other domain, by the stream that shares its subjects with one there.
    foreign_streams: RefCell<HashMap<String, String>>,
    /// In which connection a stream was last seen to be alone.
    exclusive_streams: RefCell<HashMap<String, u64>>,
    /// Connections that were lost while an object was read, and the last of them.
    cuts: Cell<(u32, u64)>,
    /// The last questions, each with whose it was: a refused permission names the subject alone.
    asked: RefCell<VecDeque<(String, String)>>,
    /// Where the last answers to others went: that one was refused is nobody's trouble here.
    answered: RefCell<VecDeque<String>>,
    /// Others may ask for the program at this connection.
    is_service: bool,
}

/// What the crate's callbacks tell.
#[derive(Clone, Default)]
struct ConnectionFlags {
    up: Arc<AtomicBool>,
    /// How often it came up.
    session: Arc<AtomicU64>,
}

enum State {
    Idle { not_before: Option<Instant> },
    Connecting { since: Instant, answer: Receiver<std::io::Result<Connection>>, failures: u64, late: bool },
    Open(OpenConnection),
}

struct OpenConnection {
    connection: Connection,
    subscription: Subscription,
    inbox: String,
    session: u64,
}

impl Client {
    /// `waker` is called when somebody asks something of us; with none, nobody may.
    pub fn new(options: &Options, waker: Option<Waker>) -> Result<Rc<Client>> {
        auth::options(&options.login)?;
        let is_service = waker.is_some();
        Ok(Rc::new(Client {
            proxy: Proxy::start(options, waker)?,
            options: options.clone(),
            state: RefCell::new(State::Idle { not_before: None }),
            inboxes: RefCell::default(),
            undelivered: Cell::new(0),
            unflushed: Cell::new(false),
            window: RefCell::new(CongestionWindow::new()),
            flags: ConnectionFlags::default(),
            abandoned_puts: RefCell::default(),
            last_cleanup: RefCell::default(),
            failed_puts: Cell::new(0),
            own_objects: RefCell::default(),
            id: random::token(),
            last_token: Cell::new(0),
            finished_puts: RefCell::default(),
            foreign_streams: RefCell::default(),
            exclusive_streams: RefCell::default(),
            cuts: Cell::new((0, 0)),
            asked: RefCell::default(),
            answered: RefCell::default(),
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

    /// What has gone over the connection so far.
    pub fn traffic(&self) -> Traffic {
        self.proxy.status.traffic.read()
    }

    /// Brings the connection up, step by step. True: it is up. `told` is the caller's count of failures that it was told.
    pub fn connect(&self, now: Instant, told: &Cell<u64>) -> Result<bool> {
        let up = self.advance(now)?;
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
            Some(failure) if status.sessions == 0 => Err(failure.error()),
            _ => Err(self.last_failure()),
        }
    }

    fn advance(&self, now: Instant) -> Result<bool> {
        let state = &mut *self.state.borrow_mut();
        match state {
            State::Idle { not_before: Some(time) } if now < *time => Ok(false),
            State::Idle { .. } => {
                let failures = self.proxy.status.lock().failures;
                let answer = self.start_connect()?;
                *state = State::Connecting { since: now, answer, failures, late: false };
                Ok(false)
            }
            State::Connecting { answer, failures, .. } => {
                let before = *failures;
                match answer.try_recv() {
                    Ok(result) => self.on_connected(state, result, before, now),
                    Err(TryRecvError::Empty) => self.check_overdue(state, now),
                    Err(TryRecvError::Disconnected) => {
                        self.on_connected(state, Err(std::io::Error::other("no answer")), before, now)
                    }
                }
            }
            State::Open(open) => Ok(self.check_reconnected(open)),
        }
    }

    /// Starts the crate's connect in a thread of its own, since it has no deadline. It ends with the connect.
    fn start_connect(&self) -> Result<Receiver<std::io::Result<Connection>>> {
        let options = self.crate_options()?;
        let url = format!("nats://{}", self.proxy.address);
        let (answer, receiver) = channel();
        self.proxy.crate_thread_ended.store(false, Ordering::SeqCst);
        let dial = move || {
            let _ = answer.send(options.connect(url));
        };
        let thread = thread::Builder::new().name("connect".into()).spawn(dial);
        thread.map_err(|e| Error::io(Kind::StoreUnreachable, "start a thread to connect", &e))?;
        Ok(receiver)
    }

    /// Every callback is set, for the crate's defaults write to standard error, give up for ever, or keep what was
    /// published while disconnected. None of them may touch the connection: they run under its locks.
    fn crate_options(&self) -> Result<nats::Options> {
        let (down, up, gone) = (self.flags.clone(), self.flags.clone(), self.proxy.crate_thread_ended.clone());
        let options = auth::options(&self.options.login)?
            .with_name(&self.proxy.secret)
            .max_reconnects(None)
            .reconnect_buffer_size(0)
            .reconnect_delay_callback(|attempts| if attempts == 0 { Duration::ZERO } else { RECONNECT_DELAY })
            .disconnect_callback(move || down.up.store(false, Ordering::SeqCst))
            .reconnect_callback(move || up.mark_connected())
            .close_callback(move || gone.store(true, Ordering::SeqCst))
            .lame_duck_callback(|| {})
            .error_callback(|_| {});
        // Plain connections would else read the system's certificates, and fail when those are unreadable.
        Ok(if Path::new(NO_CERTIFICATES).exists() { options.add_root_certificate(NO_CERTIFICATES) } else { options })
    }

    fn on_connected(
        &self,
        state: &mut State,
        result: std::io::Result<Connection>,
        failures: u64,
        now: Instant,
    ) -> Result<bool> {
        *state = State::Idle { not_before: Some(now + self.options.reconnect_wait) };
        match result {
            Ok(connection) => {
                self.flags.mark_connected();
                let (inbox, subscription) = subscribe(&connection, &self.options.inbox_prefix)?;
                let epoch = self.flags.session.load(Ordering::SeqCst);
                *state = State::Open(OpenConnection { connection, subscription, inbox, session: epoch });
                Ok(true)
            }
            // The link knows the cause, unless the crate itself could not go on.
            Err(e) if self.proxy.status.lock().failures == failures => {
                self.proxy.status.fail(Error::io(Kind::StoreRefused, "connect", &e).into());
                Ok(false)
            }
            Err(_) => Ok(false),
        }
    }

    /// Only a resolver that hangs takes longer than the link's own deadlines.
    fn check_overdue(&self, state: &mut State, now: Instant) -> Result<bool> {
        let State::Connecting { since, late, .. } = state else { return Ok(false) };
        let servers = u32::try_from(self.options.servers.len()).unwrap_or(1);
        let limit = self.options.timeout.saturating_mul(servers.saturating_mul(2)).saturating_add(CONNECT_GRACE);
        if *late || now.duration_since(*since) < limit {
            return Ok(false);
        }
        *late = true;
        let step = self.proxy.status.lock().step.clone();
        Err(Error::new(Kind::StoreUnreachable, format!("connect: not finished after {limit:?}: {step}")))
    }

    /// Whether the connection is up now; after a reconnect it has a new inbox.
    fn check_reconnected(&self, open: &mut OpenConnection) -> bool {
        let epoch = self.flags.session.load(Ordering::SeqCst);
        if !self.flags.up.load(Ordering::SeqCst) || !self.proxy.status.lock().up {
            return false;
        }
        if epoch != open.session {
            let Ok((inbox, subscription)) = subscribe(&open.connection, &self.options.inbox_prefix) else {
                return false;
            };
            (open.inbox, open.subscription, open.session) = (inbox, subscription, epoch);
        }
        true
    }

    /// Which connection this is, counted from 1; none while there is none.
    pub fn session(&self) -> Option<u64> {
        match &mut *self.state.borrow_mut() {
            State::Open(open) => self.check_reconnected(open).then_some(open.session),
            _ => None,
        }
    }

    /// Why the store cannot be reached. Once it was, any cause may pass.
    pub fn last_failure(&self) -> Error {
        let failure = self.proxy.status.lock().failure.clone();
        match failure {
            Some(mut failure) => {
                failure.kind = Kind::StoreUnreachable;
                failure.error()
            }
            None => Error::new(Kind::StoreUnreachable, "not connected"),
        }
    }

    /// No answer came in time. What the server refused meanwhile is the likely reason.
    pub fn timeout_error(&self) -> Error {
        let status = self.proxy.status.lock().clone();
        if let Some(text) = status.denied_permission.iter().rev().find(|text| !self.is_of_an_answer(text)) {
            return denied(text).context(format!("no answer within {:?}", self.options.timeout));
        }
        if !status.up {
            return self.last_failure();
        }
        let text = format!("{}: no answer within {:?}", status.address, self.options.timeout);
        Error::new(Kind::StoreUnreachable, text)
    }

    /// The connection `session` was lost while an object was read: perhaps the server had more for us than it lets wait
    /// (max_pending, by default 64 MiB). From now on half as much is asked for at once.
    pub fn was_cut_while_reading(&self, epoch: u64) {
        let (cuts, last) = self.cuts.get();
        if last == epoch {
            return;
        }
        self.cuts.set(((cuts + 1).min(MOST_CUTS), epoch));
        if cuts > 0 {
            log::warn("connection lost during a read, requesting less at once")
                .field("server", &self.proxy.status.lock().address)
                .emit();
        }
    }

    /// How many times to halve what is asked for at once.
    pub fn cuts_while_reading(&self) -> u32 {
        self.cuts.get().0
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

    fn publish_message(
        &self,
        subject: &str,
        reply: &ReplyTo,
        headers: Option<&HeaderMap>,
        payload: &[u8],
    ) -> Result<()> {
        let State::Open(open) = &*self.state.borrow() else { return Err(self.last_failure()) };
        self.remember(subject, reply.token);
        let reply = format!("{}.{}.{}", open.inbox, reply.token, reply.tag);
        self.unflushed.set(true);
        open.connection
            .publish_with_reply_or_headers(subject, Some(&reply), headers, payload)
            .map_err(|_| self.last_failure())
    }

    fn remember(&self, subject: &str, token: &str) {
        let mut asked = self.asked.borrow_mut();
        if asked.back().is_some_and(|(last, whose)| last == subject && whose == token) {
            return;
        }
        if asked.len() >= ASKED {
            asked.pop_front();
        }
        asked.push_back((subject.to_string(), token.to_string()));
    }

    /// How many permissions the server has refused so far.
    fn denials(&self) -> u64 {
        self.proxy.status.lock().denials
    }

    /// The refusal of a permission since the first `known` ones that an operation with `token` has met, by its subject or
    /// by ours.
    fn denial(&self, token: &str, known: u64) -> Option<Error> {
        let status = self.proxy.status.lock();
        // Without an inbox nobody gets any answer.
        let inbox = format!("Subscription to \"{}.", self.options.inbox_prefix);
        let inbox = status.denied_permission.iter().find(|text| text.contains(&inbox));
        if inbox.is_some() || status.denials == known {
            return inbox.map(|text| denied(text));
        }
        let asked = self.asked.borrow();
        let quotes = |text: &str, subject: &str| text.contains(&format!("\"{subject}\""));
        let ours = |text: &&String| asked.iter().any(|(subject, whose)| whose == token && quotes(text, subject));
        status.denied_permission.iter().rev().find(ours).map(|text| denied(text))
    }

    /// Listens at a subject of its own, also after reconnects.
    pub fn listen(&self, subject: &str, queue: Option<&str>) -> Option<Subscription> {
        match (&*self.state.borrow(), queue) {
            (State::Open(open), None) => open.connection.subscribe(subject).ok(),
            (State::Open(open), Some(queue)) => open.connection.queue_subscribe(subject, queue).ok(),
            _ => None,
        }
    }

    /// Answers a question of somebody else. If it does not arrive, the question is as good as not asked.
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
        let mut answered = self.answered.borrow_mut();
        if answered.len() >= ANSWERED {
            answered.pop_front();
        }
        answered.push_back(reply.to_string());
        if let State::Open(open) = &*self.state.borrow() {
            self.unflushed.set(true);
            let _ = open.connection.publish_with_reply_or_headers(reply, None, headers, payload);
        }
        self.flush();
    }

    fn is_of_an_answer(&self, refusal: &str) -> bool {
        self.answered.borrow().iter().any(|reply| refusal.contains(&format!("\"{reply}\"")))
    }

    /// What the server said of an answer that it did not let through.
    pub fn answer_denied(&self) -> Option<String> {
        let status = self.proxy.status.lock();
        status.denied_permission.iter().find(|text| self.is_of_an_answer(text)).cloned()
    }

    /// What the server said of a subject of the service that the login may not use.
    pub fn service_denied(&self) -> Option<String> {
        self.proxy.status.lock().service_denied.clone()
    }

    /// What the server said of a subject for taking over that the login may not use.
    pub fn takeover_denied(&self) -> Option<String> {
        self.proxy.status.lock().takeover_denied.clone()
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

    /// Whether the server forbids asking who else is there.
    pub fn lease_queries_denied(&self) -> bool {
        self.proxy.status.lock().lease_queries_denied
    }

    /// Whether `bucket` should be swept by whoever asks; the next one is told no.
    pub fn cleanup_is_due(&self, bucket: &str, wall: Timestamp) -> bool {
        let mut swept = self.last_cleanup.borrow_mut();
        let due = swept.get(bucket).is_none_or(|last| wall.since(*last) > CLEANUP_INTERVAL);
        if due {
            swept.insert(bucket.to_string(), wall);
        }
        due
    }

    /// Errors: of kind `Locked`, if a message for `place` was seen to be stored in another stream too.
    pub fn check_exclusive(&self, place: &ObjectNames) -> Result<()> {
        self.foreign_streams.borrow().get(&place.stream()).map_or(Ok(()), |other| Err(api::duplicate_of(place, other)))
    }

    /// A message for `place` was stored in another stream too, which is in the domain `other`.
    pub fn record_foreign_stream(&self, place: &ObjectNames, other: &str) {
        self.foreign_streams.borrow_mut().entry(place.stream()).or_insert_with(|| other.to_string());
    }

    /// Whether another stream had its time to answer in this connection.
    pub fn is_exclusive(&self, place: &ObjectNames) -> bool {
        self.session().is_some_and(|epoch| self.exclusive_streams.borrow().get(&place.stream()) == Some(&epoch))
    }

    pub fn record_exclusive(&self, place: &ObjectNames) {
        if let Some(epoch) = self.session() {
            self.exclusive_streams.borrow_mut().insert(place.stream(), epoch);
        }
    }

    /// Each message of the put that had `token` is acknowledged.
    pub fn finish(&self, token: &str, place: &Rc<ObjectNames>) {
        let mut finished = self.finished_puts.borrow_mut();
        finished.push_back((token.to_string(), place.clone()));
        if finished.len() > MAX_FINISHED_PUTS {
            finished.pop_front();
        }
    }

    /// Mail for an operation that is over.
    fn dispatch_late(&self, token: &str, data: &[u8]) {
        let finished = self.finished_puts.borrow();
        if let Some((_, place)) = finished.iter().find(|(finished, _)| finished == token)
            && let Some(domain) = api::misplaced_ack(data)
        {
            self.record_foreign_stream(place, &domain);
        }
    }

    /// Where an operation gets its answers. The first letter of the token says what for: see `proxy::traffic`.
    pub fn open_inbox(self: &Rc<Client>, purpose: Purpose) -> Inbox {
        let number = self.last_token.get() + 1;
        self.last_token.set(number);
        let (token, queue) = (format!("{}{number}", purpose.letter()), InboxQueue::default());
        self.inboxes.borrow_mut().insert(token.clone(), queue.clone());
        Inbox { denials: self.denials(), client: self.clone(), token, queue, purpose }
    }

    /// Pushes what the crate still holds, then sleeps until a message is there or `timeout` is over.
    pub fn wait(&self, timeout: Duration) {
        self.run_cleanups();
        self.flush();
        let sleep = if self.undelivered.get() > 0 { Duration::ZERO } else { timeout };
        if self.inboxes.borrow().is_empty() {
            // Nothing is asked, so nothing can come. The crate's receive spins before it sleeps, which at an idle loop's
            // tick costs ten times what the rest does.
            return thread::sleep(self.idle_sleep(sleep));
        }
        match &mut *self.state.borrow_mut() {
            State::Open(open) => self.receive(open, sleep),
            _ => thread::sleep(sleep),
        }
    }

    /// A connect in the making is seen to at least this often.
    fn idle_sleep(&self, sleep: Duration) -> Duration {
        match &*self.state.borrow() {
            State::Connecting { .. } => sleep.min(Duration::from_millis(5)),
            _ => sleep,
        }
    }

    /// Leaves a chore to be done in later waits.
    pub fn defer_cleanup(&self, chore: Box<dyn Cleanup>) {
        self.abandoned_puts.borrow_mut().push(chore);
    }

    fn run_cleanups(&self) {
        let mut chores = self.abandoned_puts.take();
        chores.retain_mut(|chore| !chore.poll(Instant::now()));
        self.abandoned_puts.borrow_mut().append(&mut chores);
    }

    /// The crate flushes at most every 5 ms. Its own flush waits for an answer, which may not come if the connection
    /// is lost just then; a payload as large as its buffer makes it write, and the link drops it.
    pub fn flush(&self) {
        if self.unflushed.replace(false)
            && let State::Open(open) = &*self.state.borrow()
        {
            let _ = open.connection.publish(FLUSH_SUBJECT, FLUSH_PADDING);
        }
    }

    fn receive(&self, open: &mut OpenConnection, timeout: Duration) {
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
        if let State::Open(open) = &*self.state.borrow() {
            for _ in 0..MESSAGES_PER_TURN {
                let Some(message) = open.subscription.try_next() else { return };
                self.dispatch(&open.inbox, message);
            }
        }
    }

    fn dispatch(&self, inbox: &str, message: Message) {
        let Some((token, tag, origin)) = route(inbox, &message.subject, message.reply.as_deref()) else { return };
        let status = message.headers.as_ref().and_then(|headers| headers.get("Status")?.parse().ok());
        if let Some(queue) = self.inboxes.borrow().get(token) {
            queue.borrow_mut().push_back(Reply { tag, status, data: message.data, delivery: origin });
            self.undelivered.set(self.undelivered.get() + 1);
        } else {
            self.dispatch_late(token, &message.data);
        }
    }
}

impl ConnectionFlags {
    fn mark_connected(&self) {
        self.session.fetch_add(1, Ordering::SeqCst);
        self.up.store(true, Ordering::SeqCst);
    }
}

fn subscribe(connection: &Connection, prefix: &str) -> Result<(String, Subscription)> {
    let inbox = format!("{prefix}.{}", random::token());
    let subscription = connection
        .subscribe(&format!("{inbox}.>"))
        .map_err(|e| Error::io(Kind::StoreUnreachable, "subscribe to an inbox", &e))?;
    Ok((inbox, subscription))
}

/// Whose a message is: `<inbox>.<token>.<tag>`, or the consumer `<id>-<token>` in its reply subject.
fn route<'a>(inbox: &str, subject: &'a str, reply: Option<&'a str>) -> Option<(&'a str, u64, Option<DeliveryInfo>)> {
    if let Some(rest) = subject.strip_prefix(inbox) {
        let (token, tag) = rest.strip_prefix('.')?.split_once('.')?;
        return Some((token, tag.parse().ok()?, None));
    }
    let (consumer, origin) = origin(reply?)?;
    let (_, token) = consumer.rsplit_once('-')?;
    Some((token, 0, Some(origin)))
}

/// `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>[.<random>]`
fn origin(reply: &str) -> Option<(&str, DeliveryInfo)> {
    let words: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let words = if words.len() > 7 { words.get(2..)? } else { words.as_slice() };
    let [_, consumer, _, stream_seq, consumer_seq, stored, pending, ..] = words else { return None };
    let origin = DeliveryInfo {
        stream_seq: stream_seq.parse().ok()?,
        consumer_seq: consumer_seq.parse().ok()?,
        stored_nanos: stored.parse().ok()?,
        pending: pending.parse().ok()?,
    };
    Some((consumer, origin))
}

/// Where an answer is to go.
pub struct ReplyTo<'a> {
    pub token: &'a str,
    pub tag: u64,
}

fn denied(text: &str) -> Error {
    Error::new(Kind::StoreRefused, text)
        .with_hint("the user needs to publish to $JS.API.> and $O.>, and to subscribe to _INBOX.>")
}

/// Where the answers for one operation arrive.
pub struct Inbox {
    pub client: Rc<Client>,
    pub token: String,
    queue: InboxQueue,
    purpose: Purpose,
    /// Permissions that had been refused before it was opened.
    denials: u64,
}

impl Inbox {
    pub fn next(&self) -> Option<Reply> {
        let mail = self.queue.borrow_mut().pop_front()?;
        self.client.undelivered.set(self.client.undelivered.get().saturating_sub(1));
        Some(mail)
    }

    /// Another one for the same operation, to which nothing of what was asked before is answered.
    pub fn fresh(&self) -> Inbox {
        self.client.open_inbox(self.purpose)
    }

    /// The consumer that delivers to it.
    pub fn consumer(&self) -> String {
        format!("{}-{}", self.client.id, self.token)
    }

    /// Publishes a question whose answer will carry `tag`.
    pub fn request(&self, tag: u64, subject: &str, payload: &[u8]) -> Result<()> {
        self.client.publish(subject, &ReplyTo { token: &self.token, tag }, payload)
    }

    /// Errors: the server refused what was asked; no answer will come.
    pub fn check_denied(&self) -> Result<()> {
        self.client.denial(&self.token, self.denials).map_or(Ok(()), Err)
    }

    /// Forgets what came.
    pub fn clear(&self) {
        while self.next().is_some() {}
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.clear();
        self.client.inboxes.borrow_mut().remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_finds_its_mailbox_by_subject_or_by_consumer() {
        assert_eq!(route("_INBOX.a", "_INBOX.a.tok.7", None), Some(("tok", 7, None)));
        let origin = DeliveryInfo { stream_seq: 5, consumer_seq: 2, stored_nanos: 99, pending: 3 };
        for reply in ["$JS.ACK.OBJ_b.id-tok.1.5.2.99.3", "$JS.ACK.dom.hash.OBJ_b.id-tok.1.5.2.99.3.rnd"] {
            assert_eq!(route("_INBOX.a", "$O.b.C.x", Some(reply)), Some(("tok", 0, Some(origin))));
        }
    }

    #[test]
    fn a_stray_message_is_nobodys() {
        for (subject, reply) in [
            ("_INBOX.a.tok", None),
            ("_INBOX.a.tok.x", None),
            ("_INBOX.b.tok.1", None),
            ("x", Some("$JS.ACK.OBJ_b.id-tok.1.5.2.99")),
            ("x", Some("$JS.ACK.OBJ_b.id-tok.1.5.2.99.many")),
        ] {
            assert_eq!(route("_INBOX.a", subject, reply), None, "{subject}");
        }
    }
}

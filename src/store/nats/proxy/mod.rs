//! The proxy: one thread that joins the crate's connection, a loopback socket, to a real server.
//!
//! ```text
//! nats crate ── 127.0.0.1 ──> listener   relay   stream ── TCP or TLS ──> server
//!                             (secret)           (deadlines)
//! ```
//!
//! # Why it exists
//!
//! The crate's own way to a server has defects that cannot be mended from outside. tests/TRAPS.md numbers them; the tests
//! of each stand there too.
//!
//! | The crate | trap | here |
//! |---|---|---|
//! | loses wake-ups and the end of the data in its TLS | 2 | `tls` and `stream`: the platform's TLS, whose queue waits |
//! | has no time-out on a connect, and spins on a name that does not resolve | 8, 9 | `connect`: a deadline on each step |
//! | cannot be told to try once, and dies after 60 attempts | 6, 7 | [`ProxyThread`] counts the attempts |
//! | holds its lock while a write blocks | 11 | `relay` takes whatever the crate writes |
//! | notices a dead link after six minutes | 12 | `relay`: pings, and a bound on silence |
//! | flushes each 5 ms, or waits for a PONG | 4, 10 | `protocol` swallows [`FLUSH_SUBJECT`]; PINGs are answered here |
//! | tells a refused permission to a callback only | 14 | `relay` keeps it in [`SharedStatus`] |
//! | goes to servers that it discovers, by names that fail TLS | 20 | `listener`: the INFO that it gets names none |
//! | ends the connection over headers and subjects that are no text | 31, 33 | `protocol` passes none of them on |
//! | cannot read an INFO above 4 KiB | 32 | `protocol` keeps it here |
//! | says "connection refused" whatever the cause | - | `status`: the exact failure, for each server that was tried |
//!
//! # The two state machines
//!
//! [`ProxyThread`] makes sessions, and a session is a [`Relay`]:
//!
//! ```text
//! wait_for_client ──crate connects──> connect_any ──server reached──> wait_for_handshake ──secret shown──> log_in
//!       ^  ^                            │   ^                              │                                 │
//!       │  └──each server failed once───┘   └──pause, next server──┐       │ a stranger, or none             │ +OK
//!       │                                                          │       v                                 v
//!       └────────────────── the crate's socket is closed ──────────┴───────────────────────────────── relay until its end
//! told to stop: drain_until_crate_exits holds the port until the crate's thread has ended, so that nobody else can take it
//! and be sent a login.
//!
//! relay, once a turn:   poll ──> bytes of the crate ──> Parser ──> to_server ──┐
//!                        ^  └──> bytes of the server ─> Parser ──> to_crate ───┤
//!                        └── own lines where a message ends, pings, time-outs <┘
//! ```
//!
//! # Bytes of its own
//!
//! * PING and PONG, to either side, and only where a message of that direction has ended ([`injected_lines`]): in the
//!   middle of one they would be read as a part of it. The crate writes the payload of a message before its end, so in an
//!   upload a message is half sent nearly always.
//! * To the crate: an INFO of its own with the server's nonce, and messages whose headers hold nothing but a status.
//! * To the server: the crate's CONNECT without the secret. Nothing else is added, and of what the crate publishes only
//!   the flush is left out.
//!
//! # What a repaired crate would make unnecessary
//!
//! With deadlines on connect, write and silence, TLS that is sound, and a flush that does not wait, all of it could go but
//! `tls` (whose certificates are the platform's), the list of servers with its failures, and the filter of headers. Keys in
//! PKCS#1 and SEC1 are converted here because native-tls does not take them.

mod connect;
mod injected_lines;
mod listener;
mod liveness;
mod login;
mod pem;
mod poll;
mod protocol;
mod relay;
mod server_lines;
mod status;
mod stream;
mod tls;
mod traffic;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub use connect::address;
use listener::{ClientConnection, ProxyListener};
use liveness::Timeouts;
use poll::{Interest, poll, time_left};
pub use protocol::FLUSH_SUBJECT;
use relay::{Relay, SessionEnd};
pub use status::SharedStatus;
use stream::Stream;
pub use traffic::TrafficCounters;

use super::auth;
use super::options::{Credentials, NatsOptions, Server, Tls};
use crate::error::{Error, Kind, Result};
use crate::random;
use crate::wakeup::{self, WakeReceiver, Waker};

/// What the subjects begin with on which replicators find each other.
pub const LEASE_QUERY_SUBJECTS: &str = "litestream.alive.";
/// What the subjects begin with on which a replicator is told to give its prefix to another one.
pub const TAKEOVER_SUBJECTS: &str = "litestream.takeover.";
/// What the subjects of the service begin with (micro.rs).
pub const SERVICE_SUBJECTS: [&str; 3] = ["$SRV.", "litestream.status.", "litestream.sync."];
/// How often it is seen whether the crate's thread has ended.
const SHUTDOWN_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The handle of a link. Dropping it ends the thread, after the crate's.
pub struct Proxy {
    pub address: SocketAddr,
    /// What the crate must carry as its name.
    pub secret: String,
    pub status: SharedStatus,
    waker: Waker,
    /// Set when the crate's thread has ended, and before it is started.
    pub crate_thread_ended: Arc<AtomicBool>,
}

impl Proxy {
    /// Opens the near end and starts the thread; no server is contacted before the crate connects.
    /// `request_waker` is called when another program's request has come.
    pub fn start(options: &NatsOptions, request_waker: Option<Waker>) -> Result<Proxy> {
        let failed = |e: std::io::Error| Error::io(Kind::StoreRefused, "open a loopback port for the link", &e);
        let secret = random::token() + &random::token();
        let (listener, address) = ProxyListener::open(secret.clone()).map_err(failed)?;
        let (waker, wake_receiver) = wakeup::waker().map_err(failed)?;
        let (shared, crate_gone) = (SharedStatus::new(request_waker), Arc::new(AtomicBool::new(true)));
        let runner = ProxyThread {
            listener,
            wake_receiver,
            servers: options.servers.clone(),
            next: usize::try_from(random::random_below(u64::try_from(options.servers.len()).unwrap_or(1))).unwrap_or(0),
            tls: options.tls.clone(),
            timeouts: Timeouts {
                timeout: options.timeout,
                ping_interval: options.ping_interval,
                max_pings_out: options.max_pings_out,
            },
            max_reconnects: options.max_reconnects,
            reconnect_wait: options.reconnect_wait,
            reconnect_jitter: options.reconnect_jitter,
            login: options.login.clone(),
            failed: 0,
            failed_rounds: 0,
            status: shared.clone(),
            crate_thread_ended: crate_gone.clone(),
            stopping: false,
        };
        thread::Builder::new().name("link".into()).spawn(move || runner.run()).map_err(failed)?;
        Ok(Proxy { address, secret, status: shared, waker, crate_thread_ended: crate_gone })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.waker.wake();
    }
}

struct ProxyThread {
    listener: ProxyListener,
    wake_receiver: WakeReceiver,
    servers: Vec<Server>,
    /// Which server is tried next.
    next: usize,
    tls: Tls,
    timeouts: Timeouts,
    max_reconnects: Option<u32>,
    reconnect_wait: Duration,
    reconnect_jitter: Duration,
    login: Credentials,
    /// Servers that failed one after another since the last pause.
    failed: usize,
    /// How often in a row all of them have.
    failed_rounds: u32,
    status: SharedStatus,
    crate_thread_ended: Arc<AtomicBool>,
    stopping: bool,
}

impl ProxyThread {
    fn run(mut self) {
        while self.wait_for_client() {
            self.serve_one();
        }
        self.drain_until_crate_exits();
    }

    /// Sleeps until someone knocks. False: told to stop.
    fn wait_for_client(&mut self) -> bool {
        while !self.stopping {
            self.listener.accept_all();
            self.listener.drop_closed();
            if self.listener.has_pending() {
                return true;
            }
            self.sleep(Duration::from_secs(3600), true);
        }
        false
    }

    /// Sleeps; wakes early when told to stop, and for a client if `listen`.
    fn sleep(&mut self, time: Duration, listen: bool) {
        let (mut all, mut time) = (vec![Interest::read(self.wake_receiver.fd())], time);
        if listen {
            all.extend(self.listener.interests());
            time = time.min(self.listener.accept_backoff().unwrap_or(time));
        }
        if poll(&all, time).is_ok_and(|ready| ready.first() == Some(&true)) {
            self.stopping = true;
        }
    }

    fn serve_one(&mut self) {
        if let Some((reached, address)) = self.connect_any() {
            self.login_and_relay(reached, &address);
            self.status.lock().up = false;
        }
        self.listener.close_pending();
    }

    /// Before the first session each server is tried once; later, until one answers or the attempts are used up. Once all
    /// have failed, at whatever step, there is a pause.
    fn connect_any(&mut self) -> Option<(ServerStream, String)> {
        let first = self.status.lock().sessions == 0;
        if first {
            // Anyone who asks makes the pause.
            self.failed = 0;
        }
        let mut failures: Vec<Error> = Vec::new();
        while !self.stopping {
            if self.failed < self.servers.len() {
                match self.connect_next() {
                    Ok(found) => return Some(found),
                    Err(failure) => failures.push(failure),
                }
                self.failed += 1;
                continue;
            }
            self.failed = 0;
            self.failed_rounds = self.failed_rounds.saturating_add(1);
            let gave_up = !first && self.max_reconnects.is_some_and(|most| self.failed_rounds >= most);
            self.status.lock().gave_up = gave_up;
            if !failures.is_empty() {
                self.status.fail(combine_failures(&failures));
                failures.clear();
            }
            if first {
                return None;
            }
            self.wait_before_next();
            if gave_up {
                return None;
            }
        }
        None
    }

    fn connect_next(&mut self) -> std::result::Result<(ServerStream, String), Error> {
        let turn = self.next.checked_rem(self.servers.len()).unwrap_or(0);
        self.next = turn + 1;
        let none = || Error::new(Kind::StoreRefused, "expected a server, found an empty list");
        let server = self.servers.get(turn).ok_or_else(none)?;
        let (stream, info) = connect::connect(server, &self.tls, self.timeouts.timeout, &self.status)?;
        let address = connect::address(server);
        let nonce = info.nonce.clone();
        let mut status = self.status.lock();
        status.server = info;
        status.address = address.clone();
        drop(status);
        Ok((ServerStream { stream, nonce }, address))
    }

    fn wait_before_next(&mut self) {
        let jitter = u64::try_from(self.reconnect_jitter.as_millis()).unwrap_or(0);
        let end = Instant::now()
            + self.reconnect_wait
            + Duration::from_millis(random::random_below(jitter.saturating_add(1)));
        self.status.set_step("wait for the next attempt".into());
        while !self.stopping && !time_left(end).is_zero() {
            self.sleep(time_left(end), false);
        }
    }

    /// Logs the crate in and passes bytes until the session ends. A failure is written down before the crate's socket is
    /// closed, so that anyone who sees the one finds the other.
    fn login_and_relay(&mut self, reached: ServerStream, address: &str) {
        let ServerStream { mut stream, nonce } = reached;
        let begun = Instant::now();
        self.failed += 1;
        self.status.set_step(format!("log in to {address}"));
        let Some(ClientConnection { tcp, connect, unread: rest }) = self.wait_for_handshake(&nonce) else {
            return self.no_client();
        };
        match login::log_in(&mut stream, connect, self.timeouts.timeout) {
            Err(failure) => self.status.fail(failure.context(address)),
            Ok(server_said) => {
                self.mark_connected();
                let shared = self.status.clone();
                let mut pump = Relay::new(tcp, stream, self.timeouts, &shared);
                match pump.run(&rest, &server_said, &self.wake_receiver, &self.listener) {
                    SessionEnd::Server(failure) => self.status.fail(failure.context(address)),
                    SessionEnd::Local => self.sleep(Duration::ZERO, false),
                }
                if begun.elapsed() >= self.reconnect_wait {
                    self.failed = 0;
                }
            }
        }
    }

    /// A connection that is not the client's was made; or the client made it, and then found that it cannot log in.
    fn no_client(&self) {
        if let (false, Err(e)) = (self.stopping, auth::options(&self.login))
            && self.status.lock().sessions > 0
        {
            self.status.fail(e);
        }
    }

    fn mark_connected(&mut self) {
        self.failed_rounds = 0;
        let mut status = self.status.lock();
        status.up = true;
        status.sessions += 1;
        status.gave_up = false;
        status.denied_permission.clear();
        status.lease_queries_denied = false;
        status.service_denied = None;
        status.takeover_denied = None;
        status.step = "connected".into();
    }

    /// Waits until one of the connections shows the secret. None: all have gone, or were strangers; the crate then knows
    /// why (a credentials file that it cannot read).
    fn wait_for_handshake(&mut self, nonce: &str) -> Option<ClientConnection> {
        let end = Instant::now() + self.timeouts.timeout;
        while !self.stopping && !time_left(end).is_zero() {
            let accepted = self.listener.poll_handshakes(nonce);
            if accepted.is_some() || !self.listener.has_pending() {
                return accepted;
            }
            self.sleep(time_left(end), true);
        }
        None
    }

    /// Keeps the port until the crate's thread, told to end, has seen that it should.
    fn drain_until_crate_exits(mut self) {
        self.wake_receiver.drain();
        self.listener.close_pending();
        while !self.crate_thread_ended.load(Ordering::SeqCst) {
            self.wake_receiver.drain();
            if let Some(mut client) = self.listener.poll_handshakes("") {
                // A connection that works makes it look at what it was told.
                let _ = std::io::Write::write_all(&mut client.tcp, b"PONG\r\n");
                thread::sleep(SHUTDOWN_POLL_INTERVAL);
            }
            let _ = poll(&self.listener.interests(), SHUTDOWN_POLL_INTERVAL);
        }
    }
}

struct ServerStream {
    stream: Stream,
    nonce: String,
}

/// Waiting cannot help only if it cannot for any of the servers.
fn combine_failures(failures: &[Error]) -> Error {
    let kind = failures.iter().map(Error::kind).find(|kind| kind.is_transient()).unwrap_or(Kind::StoreRefused);
    let what = failures.iter().map(Error::message).collect::<Vec<_>>().join("; ");
    let error = Error::new(kind, what);
    match failures.iter().find_map(Error::hint) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

//! The `nats` crate's connection: made in a thread of its own, restored by the crate, and with a new inbox each time.
//!
//! The crate's publish fails at once while disconnected, and nothing is ever kept and sent later.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nats::{Connection, Subscription};

use super::auth;
use super::options::NatsOptions;
use super::proxy::Proxy;
use crate::error::{Error, Kind, Result};
use crate::random;

/// The crate's thread tries again this soon; the link does the real waiting.
const RECONNECT_DELAY: Duration = Duration::from_millis(20);
/// A file of certificates that holds none. In an empty root directory it may be missing, as the system's certificates are.
const NO_CERTIFICATES: &str = "/dev/null";
/// What the link may take longer than its own deadlines.
const CONNECT_GRACE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct ServerConnection {
    flags: ConnectionFlags,
    state: ConnectionState,
}

/// What the crate's callbacks tell.
#[derive(Clone, Default)]
struct ConnectionFlags {
    up: Arc<AtomicBool>,
    /// How often it came up.
    session: Arc<AtomicU64>,
}

enum ConnectionState {
    Idle { not_before: Option<Instant> },
    Connecting { since: Instant, answer: Receiver<std::io::Result<Connection>>, failures: u64, late: bool },
    Open(OpenConnection),
}

impl Default for ConnectionState {
    fn default() -> ConnectionState {
        ConnectionState::Idle { not_before: None }
    }
}

pub struct OpenConnection {
    pub connection: Connection,
    pub subscription: Subscription,
    /// One subscription, `<inbox>.>`, receives everything.
    pub inbox: String,
    session: u64,
}

impl ServerConnection {
    /// Brings the connection up, step by step. True: it is up.
    pub fn advance(&mut self, proxy: &Proxy, options: &NatsOptions, now: Instant) -> Result<bool> {
        match &mut self.state {
            ConnectionState::Idle { not_before: Some(time) } if now < *time => Ok(false),
            ConnectionState::Idle { .. } => {
                let failures = proxy.status.lock().failures;
                let answer = self.start_connect(proxy, options)?;
                self.state = ConnectionState::Connecting { since: now, answer, failures, late: false };
                Ok(false)
            }
            ConnectionState::Connecting { answer, failures, .. } => {
                let before = *failures;
                match answer.try_recv() {
                    Ok(result) => self.on_connected(result, proxy, options, before, now),
                    Err(TryRecvError::Empty) => self.check_overdue(proxy, options, now),
                    Err(TryRecvError::Disconnected) => {
                        self.on_connected(Err(std::io::Error::other("no answer")), proxy, options, before, now)
                    }
                }
            }
            ConnectionState::Open(_) => Ok(self.session(proxy, options).is_some()),
        }
    }

    /// Starts the crate's connect in a thread of its own, since it has no deadline. It ends with the connect.
    fn start_connect(&self, proxy: &Proxy, options: &NatsOptions) -> Result<Receiver<std::io::Result<Connection>>> {
        let options = self.crate_options(proxy, options)?;
        let url = format!("nats://{}", proxy.address);
        let (answer, receiver) = channel();
        proxy.crate_thread_ended.store(false, Ordering::SeqCst);
        let dial = move || {
            let _ = answer.send(options.connect(url));
        };
        let thread = thread::Builder::new().name("connect".into()).spawn(dial);
        thread.map_err(|e| Error::io(Kind::StoreUnreachable, "start a thread to connect", &e))?;
        Ok(receiver)
    }

    /// Every callback is set, for the crate's defaults write to standard error, give up for ever, or keep what was
    /// published while disconnected. None of them may touch the connection: they run under its locks.
    fn crate_options(&self, proxy: &Proxy, options: &NatsOptions) -> Result<nats::Options> {
        let (down, up, gone) = (self.flags.clone(), self.flags.clone(), proxy.crate_thread_ended.clone());
        let options = auth::options(&options.login)?
            .with_name(&proxy.secret)
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
        &mut self,
        result: std::io::Result<Connection>,
        proxy: &Proxy,
        options: &NatsOptions,
        failures: u64,
        now: Instant,
    ) -> Result<bool> {
        self.state = ConnectionState::Idle { not_before: Some(now + options.reconnect_wait) };
        match result {
            Ok(connection) => {
                self.flags.mark_connected();
                let (inbox, subscription) = subscribe(&connection, &options.inbox_prefix)?;
                let session = self.flags.session.load(Ordering::SeqCst);
                self.state = ConnectionState::Open(OpenConnection { connection, subscription, inbox, session });
                Ok(true)
            }
            // The link knows the cause, unless the crate itself could not go on.
            Err(e) if proxy.status.lock().failures == failures => {
                proxy.status.fail(Error::io(Kind::StoreRefused, "connect", &e));
                Ok(false)
            }
            Err(_) => Ok(false),
        }
    }

    /// Only a resolver that hangs takes longer than the link's own deadlines.
    fn check_overdue(&mut self, proxy: &Proxy, options: &NatsOptions, now: Instant) -> Result<bool> {
        let ConnectionState::Connecting { since, late, .. } = &mut self.state else { return Ok(false) };
        let servers = u32::try_from(options.servers.len()).unwrap_or(1);
        let limit = options.timeout.saturating_mul(servers.saturating_mul(2)).saturating_add(CONNECT_GRACE);
        if *late || now.duration_since(*since) < limit {
            return Ok(false);
        }
        *late = true;
        let step = proxy.status.lock().step.clone();
        Err(Error::new(Kind::StoreUnreachable, format!("connect: not finished after {limit:?}: {step}")))
    }

    /// Which connection this is, counted from 1; none while there is none. After a reconnect the inbox is a new one: what
    /// was asked before is never answered into what is asked now.
    pub fn session(&mut self, proxy: &Proxy, options: &NatsOptions) -> Option<u64> {
        let ConnectionState::Open(open) = &mut self.state else { return None };
        let session = self.flags.session.load(Ordering::SeqCst);
        if !self.flags.up.load(Ordering::SeqCst) || !proxy.status.lock().up {
            return None;
        }
        if session != open.session {
            let (inbox, subscription) = subscribe(&open.connection, &options.inbox_prefix).ok()?;
            (open.inbox, open.subscription, open.session) = (inbox, subscription, session);
        }
        Some(session)
    }

    /// Once it has been up: it may be lost, and then the crate restores it.
    pub fn open(&self) -> Option<&OpenConnection> {
        match &self.state {
            ConnectionState::Open(open) => Some(open),
            _ => None,
        }
    }

    pub fn is_connecting(&self) -> bool {
        matches!(self.state, ConnectionState::Connecting { .. })
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

//! The near end: the loopback socket that the crate connects to, and nobody else.
//!
//! Any process of this machine can connect to it. It gets the INFO below, which says nothing of the server but the nonce
//! (random bytes that the crate needs to sign before it can show who it is), and is closed unless its CONNECT carries
//! the secret that only this process knows.

use std::cell::Cell;
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::poll::{Interest, time_left};
use super::stream::{ReadOutcome, read_some};

/// A CONNECT with a long JWT.
const MAX_CONNECT: usize = 64 * 1024;
/// Connections that have not shown the secret and are kept open at a time.
const MAX_WAITING: usize = 16;
/// The crate answers an INFO at once.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// If a connection cannot be accepted, for want of descriptors or memory, the next attempt waits this long: the client stays
/// in the queue, so poll(2) would return at once, for ever.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(200);

/// Someone who connected.
pub struct PendingClient {
    tcp: TcpStream,
    since: Instant,
    info_sent: bool,
    received: Vec<u8>,
}

/// The crate, known by its secret.
pub struct ClientConnection {
    pub tcp: TcpStream,
    /// Its CONNECT, with the secret in it.
    pub connect: Value,
    /// What it has said since.
    pub unread: Vec<u8>,
}

pub struct ProxyListener {
    listener: TcpListener,
    secret: String,
    pending: Vec<PendingClient>,
    backoff_until: Cell<Option<Instant>>,
}

/// What a pending client has sent so far.
enum Handshake {
    Incomplete,
    Rejected,
    Accepted(Value, Vec<u8>),
}

impl ProxyListener {
    pub fn open(secret: String) -> std::io::Result<(ProxyListener, SocketAddr)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((ProxyListener { listener, secret, pending: Vec::new(), backoff_until: Cell::new(None) }, address))
    }

    pub fn interests(&self) -> Vec<Interest> {
        let clients = self.pending.iter().map(|client| client.tcp.as_raw_fd());
        let listener = self.accept_backoff().is_none().then(|| self.listener.as_raw_fd());
        listener.into_iter().chain(clients).map(Interest::read).collect()
    }

    /// How much longer nobody is let in; none if a client is let in.
    pub fn accept_backoff(&self) -> Option<Duration> {
        self.backoff_until.get().map(time_left).filter(|rest| !rest.is_zero())
    }

    fn accept(&self) -> Option<TcpStream> {
        if self.accept_backoff().is_some() {
            return None;
        }
        match self.listener.accept() {
            Ok((tcp, _)) => Some(tcp),
            Err(e) => {
                let passing = [ErrorKind::WouldBlock, ErrorKind::Interrupted, ErrorKind::ConnectionAborted];
                let rests_until = (!passing.contains(&e.kind())).then(|| Instant::now() + ACCEPT_BACKOFF);
                self.backoff_until.set(rests_until);
                None
            }
        }
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Lets in who is knocking; nobody is answered yet.
    pub fn accept_all(&mut self) {
        while let Some(tcp) = self.accept() {
            let usable = tcp.set_nonblocking(true).is_ok() && tcp.set_nodelay(true).is_ok();
            if usable && self.pending.len() < MAX_WAITING {
                self.pending.push(PendingClient { tcp, since: Instant::now(), info_sent: false, received: Vec::new() });
            }
        }
    }

    /// Forgets who went away again, so that an idle wait does not wake for ever.
    pub fn drop_closed(&mut self) {
        self.pending.retain(|client| match client.tcp.peek(&mut [0]) {
            Ok(n) => n > 0 && client.info_sent,
            Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
        });
    }

    /// Closes all that are waiting: the crate takes it as a connection that failed.
    pub fn close_pending(&mut self) {
        self.pending.clear();
    }

    /// Greets and hears everybody. Who shows the secret comes in, and all others are closed.
    pub fn poll_handshakes(&mut self, nonce: &str) -> Option<ClientConnection> {
        self.accept_all();
        let mut accepted = None;
        let waiting = std::mem::take(&mut self.pending);
        for mut client in waiting {
            match client.poll_handshake(nonce, &self.secret) {
                Handshake::Incomplete => self.pending.push(client),
                Handshake::Rejected => {}
                Handshake::Accepted(connect, rest) => {
                    accepted = Some(ClientConnection { tcp: client.tcp, connect, unread: rest })
                }
            }
        }
        if accepted.is_some() {
            self.pending.clear();
        }
        accepted
    }

    /// While a client is accepted, every other connection is refused.
    pub fn reject_new(&self) {
        while self.accept().is_some() {}
    }
}

impl PendingClient {
    fn poll_handshake(&mut self, nonce: &str, secret: &str) -> Handshake {
        if !self.info_sent {
            self.info_sent = true;
            self.since = Instant::now();
            if self.tcp.write_all(info_line(nonce).as_bytes()).is_err() {
                return Handshake::Rejected;
            }
        }
        let mut bytes = [0; 4096];
        loop {
            match read_some(&mut self.tcp, &mut bytes) {
                Ok(ReadOutcome::Bytes(n)) => self.received.extend_from_slice(bytes.get(..n).unwrap_or_default()),
                Ok(ReadOutcome::WouldBlock) => break,
                Ok(ReadOutcome::Closed) | Err(_) => return Handshake::Rejected,
            }
            if self.received.len() > MAX_CONNECT {
                return Handshake::Rejected;
            }
        }
        self.check_connect(secret)
    }

    fn check_connect(&self, secret: &str) -> Handshake {
        let Some(end) = self.received.iter().position(|byte| *byte == b'\n') else {
            return if self.since.elapsed() > HANDSHAKE_TIMEOUT { Handshake::Rejected } else { Handshake::Incomplete };
        };
        let (line, rest) = self.received.split_at_checked(end + 1).unwrap_or((&self.received, &[]));
        let json = line.strip_prefix(b"CONNECT ").unwrap_or_default();
        match serde_json::from_slice::<Value>(json) {
            Ok(connect) if connect.get("name").and_then(Value::as_str) == Some(secret) => {
                Handshake::Accepted(connect, rest.to_vec())
            }
            _ => Handshake::Rejected,
        }
    }
}

/// Enough for the crate, and nothing of the server: who it is, where, what it can do and asks for.
fn info_line(nonce: &str) -> String {
    let info = json!({
        "server_id": "link", "version": "2.9.0", "go": "", "host": "127.0.0.1", "port": 0, "proto": 1,
        "headers": true, "max_payload": 1_048_576, "client_id": 1, "nonce": nonce,
    });
    format!("INFO {info}\r\n")
}

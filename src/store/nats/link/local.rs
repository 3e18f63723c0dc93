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

use super::poll::{Interest, left};
use super::stream::{Taken, read_some};

/// A CONNECT with a long JWT.
const MAX_CONNECT: usize = 64 * 1024;
/// Strangers that are heard at the same time.
const MAX_WAITING: usize = 16;
/// The crate answers an INFO at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where nobody can be let in, for want of descriptors or memory, it is tried again this much later: who knocks goes on
/// knocking, and would wake us at once, for ever.
const REST: Duration = Duration::from_millis(200);

/// Someone who connected.
pub struct Visitor {
    tcp: TcpStream,
    since: Instant,
    greeted: bool,
    heard: Vec<u8>,
}

/// The crate, known by its secret.
pub struct Guest {
    pub tcp: TcpStream,
    /// Its CONNECT, with the secret in it.
    pub connect: Value,
    /// What it has said since.
    pub rest: Vec<u8>,
}

pub struct Door {
    listener: TcpListener,
    secret: String,
    waiting: Vec<Visitor>,
    rests_until: Cell<Option<Instant>>,
}

/// What came of hearing a visitor.
enum Heard {
    More,
    Stranger,
    Guest(Value, Vec<u8>),
}

impl Door {
    pub fn open(secret: String) -> std::io::Result<(Door, SocketAddr)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((Door { listener, secret, waiting: Vec::new(), rests_until: Cell::new(None) }, address))
    }

    pub fn interests(&self) -> Vec<Interest> {
        let visitors = self.waiting.iter().map(|visitor| visitor.tcp.as_raw_fd());
        let listener = self.rest().is_none().then(|| self.listener.as_raw_fd());
        listener.into_iter().chain(visitors).map(Interest::read).collect()
    }

    /// How much longer nobody is let in; none if whoever comes is.
    pub fn rest(&self) -> Option<Duration> {
        self.rests_until.get().map(left).filter(|rest| !rest.is_zero())
    }

    fn accept(&self) -> Option<TcpStream> {
        if self.rest().is_some() {
            return None;
        }
        match self.listener.accept() {
            Ok((tcp, _)) => Some(tcp),
            Err(e) => {
                let passing = [ErrorKind::WouldBlock, ErrorKind::Interrupted, ErrorKind::ConnectionAborted];
                let rests_until = (!passing.contains(&e.kind())).then(|| Instant::now() + REST);
                self.rests_until.set(rests_until);
                None
            }
        }
    }

    pub fn has_visitors(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Lets in who is knocking; nobody is answered yet.
    pub fn admit(&mut self) {
        while let Some(tcp) = self.accept() {
            let usable = tcp.set_nonblocking(true).is_ok() && tcp.set_nodelay(true).is_ok();
            if usable && self.waiting.len() < MAX_WAITING {
                self.waiting.push(Visitor { tcp, since: Instant::now(), greeted: false, heard: Vec::new() });
            }
        }
    }

    /// Forgets who went away again, so that an idle wait does not wake for ever.
    pub fn drop_the_gone(&mut self) {
        self.waiting.retain(|visitor| match visitor.tcp.peek(&mut [0]) {
            Ok(n) => n > 0 && visitor.greeted,
            Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
        });
    }

    /// Closes all that are waiting: the crate takes it as a connection that failed.
    pub fn dismiss(&mut self) {
        self.waiting.clear();
    }

    /// Greets and hears everybody. Who shows the secret comes in, and all others are closed.
    pub fn hear(&mut self, nonce: &str) -> Option<Guest> {
        self.admit();
        let mut guest = None;
        let waiting = std::mem::take(&mut self.waiting);
        for mut visitor in waiting {
            match visitor.hear(nonce, &self.secret) {
                Heard::More => self.waiting.push(visitor),
                Heard::Stranger => {}
                Heard::Guest(connect, rest) => guest = Some(Guest { tcp: visitor.tcp, connect, rest }),
            }
        }
        if guest.is_some() {
            self.waiting.clear();
        }
        guest
    }

    /// While the guest is here, everybody else is a stranger.
    pub fn turn_away(&self) {
        while self.accept().is_some() {}
    }
}

impl Visitor {
    fn hear(&mut self, nonce: &str, secret: &str) -> Heard {
        if !self.greeted {
            self.greeted = true;
            self.since = Instant::now();
            if self.tcp.write_all(greeting(nonce).as_bytes()).is_err() {
                return Heard::Stranger;
            }
        }
        let mut bytes = [0; 4096];
        loop {
            match read_some(&mut self.tcp, &mut bytes) {
                Ok(Taken::Bytes(n)) => self.heard.extend_from_slice(bytes.get(..n).unwrap_or_default()),
                Ok(Taken::Nothing) => break,
                Ok(Taken::Closed) | Err(_) => return Heard::Stranger,
            }
            if self.heard.len() > MAX_CONNECT {
                return Heard::Stranger;
            }
        }
        self.judge(secret)
    }

    fn judge(&self, secret: &str) -> Heard {
        let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') else {
            return if self.since.elapsed() > PATIENCE { Heard::Stranger } else { Heard::More };
        };
        let (line, rest) = self.heard.split_at_checked(end + 1).unwrap_or((&self.heard, &[]));
        let json = line.strip_prefix(b"CONNECT ").unwrap_or_default();
        match serde_json::from_slice::<Value>(json) {
            Ok(connect) if connect.get("name").and_then(Value::as_str) == Some(secret) => {
                Heard::Guest(connect, rest.to_vec())
            }
            _ => Heard::Stranger,
        }
    }
}

/// Enough for the crate, and nothing of the server: who it is, where, what it can do and asks for.
fn greeting(nonce: &str) -> String {
    let info = json!({
        "server_id": "link", "version": "2.9.0", "go": "", "host": "127.0.0.1", "port": 0, "proto": 1,
        "headers": true, "max_payload": 1_048_576, "client_id": 1, "nonce": nonce,
    });
    format!("INFO {info}\r\n")
}

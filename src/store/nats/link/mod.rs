//! The link: one thread that joins the crate's connection, a loopback socket, to a real server.
//!
//! It does what the crate cannot: deadlines on every step, TLS by the platform's library, stall detection, a rotating
//! list of servers, and the exact cause of a failure. The crate's own connection then lives as long as the process.
//!
//! A session is: the crate knocks; a server is reached; the crate shows its secret and its login; the server accepts;
//! bytes pass until one side ends it. The crate then knocks again by itself.
//!
//! The listening port is held until the crate's thread has ended: nobody else can ever take it and be sent a login.

mod local;
mod login;
mod own_lines;
mod pem;
mod poll;
mod protocol;
mod pump;
mod reach;
mod status;
mod stream;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use local::{Door, Guest};
use poll::{Bell, Ear, left, poll};
pub use protocol::FLUSH_SUBJECT;
use pump::{End, Pump, Rhythm};
pub use reach::address;
use status::Failure;
pub use status::Shared;
use stream::Stream;

use super::auth;
use super::options::{Login, Options, Server, Tls};
use crate::error::{Error, Kind, Result};
use crate::store::random;

/// What the subjects begin with on which replicators find each other.
pub const ALIVE: &str = "litestream.alive.";
/// How often it is seen whether the crate's thread has ended.
const FAREWELL_STEP: Duration = Duration::from_millis(100);

/// The handle of a link. Dropping it ends the thread, after the crate's.
pub struct Link {
    pub address: SocketAddr,
    /// What the crate must carry as its name.
    pub secret: String,
    pub shared: Shared,
    bell: Bell,
    /// Set by whoever knows that the crate's thread has ended, or was never started.
    pub crate_gone: Arc<AtomicBool>,
}

impl Link {
    /// Opens the near end and starts the thread; no server is contacted before the crate connects.
    pub fn start(options: &Options) -> Result<Link> {
        let failed = |e: std::io::Error| Error::io(Kind::Store, "open a loopback port for the link", &e);
        let secret = random::token() + &random::token();
        let (door, address) = Door::open(secret.clone()).map_err(failed)?;
        let (bell, ear) = poll::bell().map_err(failed)?;
        let (shared, crate_gone) = (Shared::default(), Arc::new(AtomicBool::new(true)));
        let runner = Runner {
            door,
            ear,
            servers: options.servers.clone(),
            next: usize::try_from(random::below(u64::try_from(options.servers.len()).unwrap_or(1))).unwrap_or(0),
            tls: options.tls.clone(),
            rhythm: Rhythm {
                timeout: options.timeout,
                ping_interval: options.ping_interval,
                max_pings_out: options.max_pings_out,
            },
            max_reconnects: options.max_reconnects,
            reconnect_wait: options.reconnect_wait,
            reconnect_jitter: options.reconnect_jitter,
            login: options.login.clone(),
            failed: 0,
            rounds: 0,
            shared: shared.clone(),
            crate_gone: crate_gone.clone(),
            stopping: false,
        };
        thread::Builder::new().name("link".into()).spawn(move || runner.run()).map_err(failed)?;
        Ok(Link { address, secret, shared, bell, crate_gone })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.bell.ring();
    }
}

struct Runner {
    door: Door,
    ear: Ear,
    servers: Vec<Server>,
    /// Which server is tried next.
    next: usize,
    tls: Tls,
    rhythm: Rhythm,
    max_reconnects: Option<u32>,
    reconnect_wait: Duration,
    reconnect_jitter: Duration,
    login: Login,
    /// Servers that failed one after another since the last pause.
    failed: usize,
    /// How often in a row all of them have.
    rounds: u32,
    shared: Shared,
    crate_gone: Arc<AtomicBool>,
    stopping: bool,
}

impl Runner {
    fn run(mut self) {
        while self.await_visitor() {
            self.session();
        }
        self.farewell();
    }

    /// Sleeps until someone knocks. False: told to stop.
    fn await_visitor(&mut self) -> bool {
        while !self.stopping {
            self.door.admit();
            self.door.drop_the_gone();
            if self.door.has_visitors() {
                return true;
            }
            self.pause(Duration::from_secs(3600), true);
        }
        false
    }

    /// Sleeps; wakes early when told to stop, and for a visitor if `listen`.
    fn pause(&mut self, time: Duration, listen: bool) {
        let (mut all, mut time) = (vec![self.ear.interest()], time);
        if listen {
            all.extend(self.door.interests());
            time = time.min(self.door.rest().unwrap_or(time));
        }
        if poll(&all, time).is_ok_and(|ready| ready.first() == Some(&true)) {
            self.stopping = true;
        }
    }

    fn session(&mut self) {
        if let Some((reached, address)) = self.reach_one() {
            self.join(reached, &address);
            self.shared.lock().up = false;
        }
        self.door.dismiss();
    }

    /// Before the first session each server is tried once; later, until one answers or the attempts are used up. Once all
    /// have failed, at whatever step, there is a pause.
    fn reach_one(&mut self) -> Option<(Reached, String)> {
        let first = self.shared.lock().sessions == 0;
        if first {
            // Whoever asks makes the pause.
            self.failed = 0;
        }
        let mut failures: Vec<Failure> = Vec::new();
        while !self.stopping {
            if self.failed < self.servers.len() {
                match self.reach_next() {
                    Ok(found) => return Some(found),
                    Err(failure) => failures.push(failure),
                }
                self.failed += 1;
                continue;
            }
            self.failed = 0;
            self.rounds = self.rounds.saturating_add(1);
            let gave_up = !first && self.max_reconnects.is_some_and(|most| self.rounds >= most);
            self.shared.lock().gave_up = gave_up;
            if !failures.is_empty() {
                self.shared.fail(summary(&failures));
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

    fn reach_next(&mut self) -> std::result::Result<(Reached, String), Failure> {
        let turn = self.next.checked_rem(self.servers.len()).unwrap_or(0);
        self.next = turn + 1;
        let none = || Failure::new(Kind::Store, "expected a server, found an empty list");
        let server = self.servers.get(turn).ok_or_else(none)?;
        let (stream, info) = reach::reach(server, &self.tls, self.rhythm.timeout, &self.shared)?;
        let address = reach::address(server);
        let nonce = info.nonce.clone();
        let mut status = self.shared.lock();
        status.server = info;
        status.address = address.clone();
        drop(status);
        Ok((Reached { stream, nonce }, address))
    }

    fn wait_before_next(&mut self) {
        let jitter = u64::try_from(self.reconnect_jitter.as_millis()).unwrap_or(0);
        let end = Instant::now() + self.reconnect_wait + Duration::from_millis(random::below(jitter.saturating_add(1)));
        self.shared.step("wait for the next attempt".into());
        while !self.stopping && !left(end).is_zero() {
            self.pause(left(end), false);
        }
    }

    /// Logs the crate in and passes bytes until the session ends. A failure is written down before the crate's socket is
    /// closed, so that whoever sees the one finds the other.
    fn join(&mut self, reached: Reached, address: &str) {
        let Reached { mut stream, nonce } = reached;
        let begun = Instant::now();
        self.failed += 1;
        self.shared.step(format!("log in to {address}"));
        let Some(Guest { tcp, connect, rest }) = self.await_guest(&nonce) else { return self.nobody_came() };
        match login::log_in(&mut stream, connect, self.rhythm.timeout) {
            Err(failure) => self.shared.fail(failure.at(address)),
            Ok(server_said) => {
                self.come_up();
                let shared = self.shared.clone();
                let mut pump = Pump::new(tcp, stream, self.rhythm, &shared);
                match pump.run(&rest, &server_said, &self.ear, &self.door) {
                    End::Server(failure) => self.shared.fail(failure.at(address)),
                    End::Ours => self.pause(Duration::ZERO, false),
                }
                if begun.elapsed() >= self.reconnect_wait {
                    self.failed = 0;
                }
            }
        }
    }

    /// A stranger knocked; or the crate did, and then found that it cannot log in.
    fn nobody_came(&self) {
        if let (false, Err(e)) = (self.stopping, auth::options(&self.login))
            && self.shared.lock().sessions > 0
        {
            self.shared.fail(e.into());
        }
    }

    fn come_up(&mut self) {
        self.rounds = 0;
        let mut status = self.shared.lock();
        status.up = true;
        status.sessions += 1;
        status.gave_up = false;
        status.denied.clear();
        status.may_not_ask = false;
        status.step = "connected".into();
    }

    /// Waits until one of those that knock shows the secret. None: all have gone, or were strangers; the crate then knows
    /// why (a credentials file that it cannot read).
    fn await_guest(&mut self, nonce: &str) -> Option<Guest> {
        let end = Instant::now() + self.rhythm.timeout;
        while !self.stopping && !left(end).is_zero() {
            let guest = self.door.hear(nonce);
            if guest.is_some() || !self.door.has_visitors() {
                return guest;
            }
            self.pause(left(end), true);
        }
        None
    }

    /// Keeps the port until the crate's thread, told to end, has seen that it should.
    fn farewell(mut self) {
        self.ear.hush();
        self.door.dismiss();
        while !self.crate_gone.load(Ordering::SeqCst) {
            self.ear.hush();
            if let Some(mut guest) = self.door.hear("") {
                // A connection that works makes it look at what it was told.
                let _ = std::io::Write::write_all(&mut guest.tcp, b"PONG\r\n");
                thread::sleep(FAREWELL_STEP);
            }
            let _ = poll(&self.door.interests(), FAREWELL_STEP);
        }
    }
}

struct Reached {
    stream: Stream,
    nonce: String,
}

/// Waiting cannot help only if it cannot for any of the servers.
fn summary(failures: &[Failure]) -> Failure {
    let kind = failures.iter().map(|f| f.kind).find(|kind| kind.may_pass()).unwrap_or(Kind::Store);
    let what = failures.iter().map(|f| f.what.as_str()).collect::<Vec<_>>().join("; ");
    Failure { kind, what, hint: failures.iter().find_map(|f| f.hint.clone()) }
}

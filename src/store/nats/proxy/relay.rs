//! One session: bytes go both ways until either side ends it, and a silent server is noticed.
//!
//! Invariants:
//! * What the crate writes is always taken, so that its writes never block; how much is in flight is bounded by the
//!   window of the puts (and by [`MAX_QUEUED`], should that fail).
//! * What the link itself says, to either side, stands between two messages of the other: see [`InjectedLines`]. The crate writes
//!   the payload of a message before its end, so in an upload one is half sent nearly always.
//! * The crate's PING is answered here: its flush is a loopback round trip, whatever the server does.
//! * A server that takes nothing, or says nothing although something was asked, for the time-out is given up. As long as what
//!   we wrote still arrives there, it is not yet asked: on a slow link one message may take longer than the time-out.

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::injected_lines::InjectedLines;
use super::listener::ProxyListener;
use super::liveness::{Liveness, Timeouts};
use super::login::parse_err;
use super::poll::{Interest, poll};
use super::protocol::{Direction, Event, Parser};
use super::server_lines::{last_server_error, on_info, on_server_error};
use super::status::SharedStatus;
use super::stream::{ReadOutcome, Stream, WriteBuffer, read_some};
use super::traffic::QueuedBytes;
use crate::error::{Error, Kind, Result};
use crate::store::traffic::Purpose;
use crate::wakeup::{WakeReceiver, Waker};

/// Bytes that wait for the server before the link gives up on our own side's discipline.
const MAX_QUEUED: usize = 128 * 1024 * 1024;
/// Bytes that wait for the crate before the server is read no further.
const MAX_CLIENT_BACKLOG: usize = 4 * 1024 * 1024;
const SCRATCH_BYTES: usize = 128 * 1024;
/// Pieces read from one side before the other side has its turn.
const READS_PER_TURN: usize = 8;

/// Why a session ended.
pub enum SessionEnd {
    /// We were told to stop, or the crate went away.
    Local,
    Server(Error),
}

pub struct Relay<'a> {
    crate_side: TcpStream,
    server: Stream,
    to_server: WriteBuffer,
    /// Who waits in it, up to so many of all bytes that were queued.
    queued: QueuedBytes,
    counted: u64,
    to_crate: WriteBuffer,
    from_crate: Parser,
    from_server: Parser,
    /// What the link says to the server where a message of the crate ends, and to the crate where one of the server does.
    own_to_server: InjectedLines,
    own_to_crate: InjectedLines,
    liveness: Liveness,
    timeouts: Timeouts,
    status: &'a SharedStatus,
    scratch: Vec<u8>,
    /// The server's turn ended before all was read: a TLS library may hold bytes that poll does not see.
    client_backlog: bool,
    /// The last -ERR that ends a connection.
    server_error: Option<String>,
}

impl<'a> Relay<'a> {
    pub fn new(crate_side: TcpStream, server: Stream, rhythm: Timeouts, shared: &'a SharedStatus) -> Relay<'a> {
        let now = Instant::now();
        Relay {
            crate_side,
            server,
            to_server: WriteBuffer::default(),
            queued: QueuedBytes::default(),
            counted: 0,
            to_crate: WriteBuffer::default(),
            from_crate: Parser::new(Direction::Client),
            from_server: Parser::new(Direction::Server),
            own_to_server: InjectedLines::default(),
            own_to_crate: InjectedLines::default(),
            liveness: Liveness::new(now),
            timeouts: rhythm,
            status: shared,
            scratch: vec![0; SCRATCH_BYTES],
            client_backlog: false,
            server_error: None,
        }
    }

    /// Runs until the session ends. `crate_said` and `server_said` were read too early.
    pub fn run(
        &mut self,
        crate_said: &[u8],
        server_said: &[u8],
        wake_receiver: &WakeReceiver,
        listener: &ProxyListener,
    ) -> SessionEnd {
        let started = self.on_crate_bytes(crate_said).and_then(|()| self.on_server_bytes(server_said));
        if let Err(e) = started {
            return SessionEnd::Server(self.with_server_reason(e));
        }
        loop {
            let step = self.step(wake_receiver, listener);
            self.count_sent();
            match step {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(e) => return SessionEnd::Server(self.with_server_reason(e)),
            }
        }
    }

    /// What has gone to the server counts for whom it was.
    fn count_sent(&mut self) {
        let read = self.from_crate.take_read();
        let messages = || Purpose::ALL.into_iter().filter(|purpose| *purpose != Purpose::KeepAlive);
        let all = self.liveness.queued.saturating_sub(self.counted);
        let rest = all.saturating_sub(messages().map(|purpose| read.of(purpose)).sum());
        self.queued.push(Purpose::KeepAlive, rest);
        messages().for_each(|purpose| self.queued.push(purpose, read.of(purpose)));
        self.counted = self.liveness.queued;
        self.queued.settle(self.to_server.len() as u64, &self.status.traffic.sent);
    }

    /// A write may fail before the server's reason is read: that tells more than a broken pipe.
    fn with_server_reason(&mut self, error: Error) -> Error {
        let mut scratch = vec![0; SCRATCH_BYTES];
        for _ in 0..READS_PER_TURN {
            let Ok(ReadOutcome::Bytes(n)) = read_some(&mut self.server, &mut scratch) else { break };
            if self.on_server_bytes(scratch.get(..n).unwrap_or_default()).is_err() {
                break;
            }
        }
        self.server_error.as_deref().map_or(error, last_server_error)
    }

    fn step(&mut self, wake_receiver: &WakeReceiver, listener: &ProxyListener) -> Result<Option<SessionEnd>> {
        let crate_side = Interest { fd: self.crate_side.as_raw_fd(), read: true, write: !self.to_crate.is_empty() };
        let room = self.to_crate.len() < MAX_CLIENT_BACKLOG;
        let server = Interest { fd: self.server.fd(), read: room, write: !self.to_server.is_empty() };
        let mut all = vec![Interest::read(wake_receiver.fd()), crate_side, server];
        all.extend(listener.interests());
        let pause = if self.client_backlog && room { Duration::ZERO } else { self.next_check() };
        let ready = poll(&all, pause).map_err(|e| Error::io(Kind::StoreUnreachable, "poll", &e))?;
        if ready.first() == Some(&true) {
            return Ok(Some(SessionEnd::Local));
        }
        if ready.iter().skip(3).any(|ready| *ready) {
            listener.reject_new();
        }
        if ready.get(1) == Some(&true) && !self.pump_client()? {
            return Ok(Some(SessionEnd::Local));
        }
        if ready.get(2) == Some(&true) || (self.client_backlog && room) {
            self.pump_server()?;
        }
        self.check(Instant::now())?;
        Ok(None)
    }

    /// False: the crate has gone.
    fn pump_client(&mut self) -> Result<bool> {
        if self.to_crate.drain(&mut self.crate_side).is_err() {
            return Ok(false);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut here = true;
        for _ in 0..READS_PER_TURN {
            match read_some(&mut self.crate_side, &mut scratch) {
                Ok(ReadOutcome::Bytes(n)) => self.on_crate_bytes(scratch.get(..n).unwrap_or_default())?,
                Ok(ReadOutcome::WouldBlock) => break,
                Ok(ReadOutcome::Closed) | Err(_) => {
                    here = false;
                    break;
                }
            }
        }
        self.scratch = scratch;
        Ok(here)
    }

    fn pump_server(&mut self) -> Result<()> {
        let taken = self.to_server.drain(&mut self.server).map_err(|e| self.lost(&e))?;
        if taken > 0 {
            self.liveness.on_written(taken as u64, Instant::now());
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        self.client_backlog = true;
        for _ in 0..READS_PER_TURN {
            match read_some(&mut self.server, &mut scratch).map_err(|e| self.lost(&e))? {
                ReadOutcome::Bytes(n) => self.on_server_bytes(scratch.get(..n).unwrap_or_default())?,
                ReadOutcome::WouldBlock => {
                    self.client_backlog = false;
                    break;
                }
                ReadOutcome::Closed => return Err(self.closed_error()),
            }
        }
        self.scratch = scratch;
        Ok(())
    }

    fn on_crate_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let (to_server, server, watch) = (&mut self.to_server, &mut self.server, &mut self.liveness);
        let (own_to_server, own_to_crate) = (&mut self.own_to_server, &mut self.own_to_crate);
        self.from_crate.scan(bytes, &mut |event| {
            match event {
                Event::Forward(bytes) => watch.on_sent(to_server, bytes, server)?,
                Event::Boundary => watch.put_in(own_to_server, to_server, server)?,
                Event::Line(b"PING") => own_to_crate.pong(Instant::now()),
                Event::Line(_) => {}
            }
            Ok(())
        })?;
        if self.from_server.is_between() {
            put_in(&mut self.own_to_crate, &mut self.to_crate, &mut self.crate_side);
        }
        if self.to_server.len() > MAX_QUEUED {
            return Err(Error::new(
                Kind::StoreUnreachable,
                format!("more than {MAX_QUEUED} bytes wait for the server"),
            ));
        }
        Ok(())
    }

    fn on_server_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.liveness.on_received();
        let (to_crate, crate_side) = (&mut self.to_crate, &mut self.crate_side);
        let (own_to_server, own_to_crate) = (&mut self.own_to_server, &mut self.own_to_crate);
        let (shared, complaint) = (self.status, &mut self.server_error);
        self.from_server.scan(bytes, &mut |event| {
            match event {
                Event::Forward(bytes) => {
                    shared.add_progress(bytes.len() as u64);
                    let _ = to_crate.send(bytes, crate_side);
                }
                Event::Boundary => put_in(own_to_crate, to_crate, crate_side),
                Event::Line(b"PING") => own_to_server.pong(Instant::now()),
                Event::Line(line) if line.starts_with(b"-ERR") => on_server_error(shared, complaint, parse_err(line)),
                Event::Line(line) if line.starts_with(b"INFO") => on_info(shared, line)?,
                Event::Line(_) => {}
            }
            Ok(())
        })?;
        if self.from_server.take_request() {
            self.status.request_waker.iter().for_each(Waker::wake);
        }
        let read = self.from_server.take_read();
        Purpose::ALL
            .into_iter()
            .for_each(|purpose| self.status.traffic.received.add_message(purpose, read.of(purpose)));
        self.speak_to_server()
    }

    /// Says what waits to be said to the server, unless a message is half sent.
    fn speak_to_server(&mut self) -> Result<()> {
        if !self.from_crate.is_between() {
            return Ok(());
        }
        self.liveness.put_in(&mut self.own_to_server, &mut self.to_server, &mut self.server)
    }

    /// When something may be due.
    fn next_check(&self) -> Duration {
        let waits = self.own_to_server.waiting(Instant::now()).is_some() || !self.to_server.is_empty();
        self.liveness.next_check(&self.timeouts, waits)
    }

    fn check(&mut self, now: Instant) -> Result<()> {
        let timeout = self.timeouts.timeout;
        self.status.add_progress(self.liveness.on_bytes(&self.server, now));
        self.liveness.check_writes(now, timeout, self.to_server.is_empty())?;
        // The crate ends each message within milliseconds, by its flusher if by nothing else.
        if self.own_to_server.waiting(now).is_some_and(|waited| waited > timeout) {
            return Err(Error::new(
                Kind::StoreUnreachable,
                format!("a message has been only partly sent for {timeout:?}"),
            ));
        }
        if self.liveness.ping_is_due(now, &self.timeouts)? { self.ping(now) } else { Ok(()) }
    }

    fn ping(&mut self, now: Instant) -> Result<()> {
        self.liveness.on_ping(now);
        self.own_to_server.ping(now);
        self.speak_to_server()
    }

    fn lost(&self, error: &std::io::Error) -> Error {
        let lost = || Error::io(Kind::StoreUnreachable, "connection lost", error);
        self.server_error.as_deref().map_or_else(lost, last_server_error)
    }

    fn closed_error(&self) -> Error {
        let closed = || Error::new(Kind::StoreUnreachable, "the server closed the connection");
        self.server_error.as_deref().map_or_else(closed, last_server_error)
    }
}

/// Says to the crate what waits for the end of a message. If the crate is gone, the next read says so.
fn put_in(lines: &mut InjectedLines, queue: &mut WriteBuffer, crate_side: &mut TcpStream) {
    if let Some(taken) = lines.take(Instant::now()) {
        let _ = queue.send(&taken.bytes, crate_side);
    }
}

#[cfg(test)]
mod tests;

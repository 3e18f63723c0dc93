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

use super::connect::parse_info;
use super::injected_lines::InjectedLines;
use super::listener::ProxyListener;
use super::login::parse_err;
use super::poll::{Interest, poll};
use super::protocol::{Direction, Event, Parser};
use super::status::{Failure, SharedStatus};
use super::stream::{ReadOutcome, Stream, WriteBuffer, read_some};
use super::traffic::QueuedBytes;
use super::{LEASE_QUERY_SUBJECTS, SERVICE_SUBJECTS, TAKEOVER_SUBJECTS};
use crate::error::{Error, Kind, Result};
use crate::store::traffic::Purpose;
use crate::wakeup::{WakeReceiver, Waker};

/// Bytes that wait for the server before the link gives up on our own side's discipline.
const MAX_QUEUED: usize = 128 * 1024 * 1024;
/// Bytes that wait for the crate before the server is read no further.
const MAX_CLIENT_BACKLOG: usize = 4 * 1024 * 1024;
const SCRATCH: usize = 128 * 1024;
/// Pieces read from one side before the other side has its turn.
const READS_PER_TURN: usize = 8;

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub timeout: Duration,
    pub ping_interval: Duration,
    pub max_pings_out: u32,
}

/// Why a session ended.
pub enum SessionEnd {
    /// We were told to stop, or the crate went away.
    Local,
    Server(Failure),
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

/// Who was last heard, and what is owed.
struct Liveness {
    last_received: Instant,
    /// When the server was last asked something after it was last heard.
    last_request: Option<Instant>,
    /// When it last took bytes, while some were waiting.
    last_write: Instant,
    /// Bytes that it was to be sent.
    queued: u64,
    /// Bytes that were written to it, and so many of them have arrived.
    written: u64,
    arrived: u64,
    /// When the last of them did.
    last_progress: Instant,
    pings_out: u32,
    pinged: Instant,
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
            scratch: vec![0; SCRATCH],
            client_backlog: false,
            server_error: None,
        }
    }

    /// Runs until the session ends. `crate_said` and `server_said` were read too early.
    pub fn run(
        &mut self,
        crate_said: &[u8],
        server_said: &[u8],
        ear: &WakeReceiver,
        door: &ProxyListener,
    ) -> SessionEnd {
        let started = self.on_crate_bytes(crate_said).and_then(|()| self.on_server_bytes(server_said));
        if let Err(e) = started {
            return SessionEnd::Server(self.with_server_reason(e).into());
        }
        loop {
            let step = self.step(ear, door);
            self.count_sent();
            match step {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(e) => return SessionEnd::Server(self.with_server_reason(e).into()),
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
        let mut scratch = vec![0; SCRATCH];
        for _ in 0..READS_PER_TURN {
            let Ok(ReadOutcome::Bytes(n)) = read_some(&mut self.server, &mut scratch) else { break };
            if self.on_server_bytes(scratch.get(..n).unwrap_or_default()).is_err() {
                break;
            }
        }
        self.server_error.as_deref().map_or(error, last_server_error)
    }

    fn step(&mut self, ear: &WakeReceiver, door: &ProxyListener) -> Result<Option<SessionEnd>> {
        let crate_side = Interest { fd: self.crate_side.as_raw_fd(), read: true, write: !self.to_crate.is_empty() };
        let room = self.to_crate.len() < MAX_CLIENT_BACKLOG;
        let server = Interest { fd: self.server.fd(), read: room, write: !self.to_server.is_empty() };
        let mut all = vec![Interest::read(ear.fd()), crate_side, server];
        all.extend(door.interests());
        let pause = if self.client_backlog && room { Duration::ZERO } else { self.next_check() };
        let ready = poll(&all, pause).map_err(|e| Error::io(Kind::StoreUnreachable, "poll", &e))?;
        if ready.first() == Some(&true) {
            return Ok(Some(SessionEnd::Local));
        }
        if ready.iter().skip(3).any(|knock| *knock) {
            door.reject_new();
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
            self.liveness.last_write = Instant::now();
            self.liveness.written += taken as u64;
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
                Event::Line(line) if line.starts_with(b"INFO") => update(shared, line)?,
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
        let pause = self.timeouts.ping_interval.min(self.timeouts.timeout / 4);
        let owes = self.liveness.last_request.is_some() || self.liveness.pings_out > 0;
        let owes = owes || self.own_to_server.waiting(Instant::now()).is_some();
        let idle = !owes && self.to_server.is_empty() && self.liveness.arrived == self.liveness.written;
        if idle { self.timeouts.ping_interval } else { pause }.max(Duration::from_millis(1))
    }

    fn check(&mut self, now: Instant) -> Result<()> {
        let Timeouts { timeout, ping_interval, max_pings_out } = self.timeouts;
        self.status.add_progress(self.liveness.on_bytes(&self.server, now));
        if self.to_server.is_empty() {
            self.liveness.last_write = now;
        } else if now.duration_since(self.liveness.last_write) > timeout {
            return Err(Error::new(Kind::StoreUnreachable, format!("the server has taken no data for {timeout:?}")));
        }
        // The crate ends each message within milliseconds, by its flusher if by nothing else.
        if self.own_to_server.waiting(now).is_some_and(|waited| waited > timeout) {
            return Err(Error::new(
                Kind::StoreUnreachable,
                format!("a message has been only partly sent for {timeout:?}"),
            ));
        }
        let silence = now.duration_since(self.liveness.last_received.max(self.liveness.last_progress));
        if self.liveness.last_request.is_some_and(|asked| now.duration_since(asked) > timeout)
            && self.liveness.pings_out > 0
        {
            return Err(Error::new(Kind::StoreUnreachable, format!("the server has not answered for {timeout:?}")));
        }
        let owed = self.liveness.last_request.is_some_and(|asked| now.duration_since(asked) > timeout / 2);
        let due = silence.min(now.duration_since(self.liveness.pinged)) > ping_interval;
        if due && self.liveness.pings_out >= max_pings_out.max(1) {
            return Err(Error::new(Kind::StoreUnreachable, format!("the server has been silent for {silence:?}")));
        }
        if due || (owed && self.liveness.pings_out == 0) {
            self.ping(now)?;
        }
        Ok(())
    }

    fn ping(&mut self, now: Instant) -> Result<()> {
        self.liveness.pinged = now;
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

/// What the server said before it closed the connection.
fn last_server_error(text: &str) -> Error {
    let error = Error::new(Kind::StoreUnreachable, format!("the server closed the connection: {text}"));
    if text.to_ascii_lowercase().contains("authentication expired") {
        return error.with_hint("the credentials have expired: replace them");
    }
    error
}

impl Liveness {
    fn new(now: Instant) -> Liveness {
        let (heard, asked, took, moved, pinged) = (now, None, now, now, now);
        Liveness {
            last_received: heard,
            last_request: asked,
            last_write: took,
            queued: 0,
            written: 0,
            arrived: 0,
            last_progress: moved,
            pings_out: 0,
            pinged,
        }
    }

    /// Sees how much has arrived, and says how much of it has since the last look.
    fn on_bytes(&mut self, server: &Stream, now: Instant) -> u64 {
        if self.arrived == self.written {
            return 0;
        }
        let arrived = self.written.saturating_sub(server.unacknowledged()).max(self.arrived);
        let news = arrived.saturating_sub(self.arrived);
        if news > 0 {
            (self.arrived, self.last_progress, self.last_request) = (arrived, now, self.last_request.map(|_| now));
        }
        news
    }

    fn on_received(&mut self) {
        self.last_received = Instant::now();
        self.last_request = None;
        self.pings_out = 0;
    }

    /// Says to the server what waits for the end of a message. The time for an answer begins when it was asked.
    fn put_in(&mut self, lines: &mut InjectedLines, queue: &mut WriteBuffer, server: &mut Stream) -> Result<()> {
        let Some(taken) = lines.take(Instant::now()) else { return Ok(()) };
        if taken.pinged {
            self.pings_out += 1;
            self.last_request = self.last_request.map(|asked| asked + taken.waited);
        }
        self.on_sent(queue, &taken.bytes, server)
    }

    fn on_sent(&mut self, queue: &mut WriteBuffer, bytes: &[u8], server: &mut Stream) -> Result<()> {
        let now = Instant::now();
        if queue.is_empty() {
            self.last_write = now;
        }
        self.last_request.get_or_insert(now);
        let sent = queue.send(bytes, server).map_err(|e| Error::io(Kind::StoreUnreachable, "connection lost", &e))?;
        self.queued += bytes.len() as u64;
        self.written += sent as u64;
        Ok(())
    }
}

/// Says to the crate what waits for the end of a message. If the crate is gone, the next read says so.
fn put_in(lines: &mut InjectedLines, queue: &mut WriteBuffer, crate_side: &mut TcpStream) {
    if let Some(taken) = lines.take(Instant::now()) {
        let _ = queue.send(&taken.bytes, crate_side);
    }
}

/// A refused permission leaves the connection as it is; anything else is the server's last word.
fn on_server_error(shared: &SharedStatus, complaint: &mut Option<String>, text: String) {
    if text.contains(LEASE_QUERY_SUBJECTS) {
        shared.lock().lease_queries_denied = true;
    } else if text.contains(TAKEOVER_SUBJECTS) {
        shared.lock().takeover_denied.get_or_insert(text);
    } else if SERVICE_SUBJECTS.iter().any(|subject| text.contains(&format!("\"{subject}"))) {
        shared.lock().service_denied.get_or_insert(text);
    } else if text.to_ascii_lowercase().starts_with("permissions violation") {
        shared.deny(text);
    } else {
        *complaint = Some(text);
    }
}

/// A server may change its limits while we are connected, or tell its clients to leave: it takes no new ones then, so that
/// the next attempt comes to another server, or to this one after its restart.
fn update(shared: &SharedStatus, line: &[u8]) -> Result<()> {
    let Ok(info) = parse_info(line) else { return Ok(()) };
    if info.lame_duck {
        return Err(Error::new(Kind::StoreUnreachable, "the server is going down (lame duck mode)"));
    }
    shared.lock().server = info;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::stream::Socket;
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    const RHYTHM: Timeouts =
        Timeouts { timeout: Duration::from_secs(10), ping_interval: Duration::from_secs(30), max_pings_out: 2 };

    /// Both ends of a connection; the first one does not block.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (near, far)
    }

    /// What arrives until as many bytes as `expected` has.
    fn arrives(stream: &mut TcpStream, expected: &str) {
        let mut bytes = vec![0; expected.len()];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
    }

    fn counted(tcp: TcpStream, shared: &SharedStatus) -> Stream {
        Stream::Plain(Socket { tcp, traffic: shared.traffic.clone() })
    }

    #[test]
    fn own_line_waits_for_the_end_of_a_message() {
        let shared = SharedStatus::default();
        let ((crate_side, mut the_crate), (server, mut the_server)) = (pair(), pair());
        let mut pump = Relay::new(crate_side, counted(server, &shared), RHYTHM, &shared);
        pump.on_crate_bytes(b"PUB a 4\r\nab").unwrap();
        pump.on_server_bytes(b"PING\r\nMSG b 1 4\r\nef").unwrap();
        pump.ping(Instant::now()).unwrap();
        assert_eq!(pump.liveness.pings_out, 0, "nothing was asked yet");
        pump.on_crate_bytes(b"cd\r\nPING\r\nPUB a 2\r\nx").unwrap();
        arrives(&mut the_server, "PUB a 4\r\nabcd\r\nPONG\r\nPING\r\nPUB a 2\r\nx");
        assert_eq!(pump.liveness.pings_out, 1);
        pump.on_server_bytes(b"gh\r").unwrap();
        pump.on_server_bytes(b"\nMSG b 1 0\r\n\r\n").unwrap();
        arrives(&mut the_crate, "MSG b 1 4\r\nefgh\r\nPONG\r\nMSG b 1 0\r\n\r\n");
    }

    #[test]
    fn between_messages_a_line_of_the_link_goes_out_at_once() {
        let shared = SharedStatus::default();
        let ((crate_side, mut the_crate), (server, mut the_server)) = (pair(), pair());
        let mut pump = Relay::new(crate_side, counted(server, &shared), RHYTHM, &shared);
        pump.on_server_bytes(b"PING\r\n").unwrap();
        pump.on_crate_bytes(b"PING\r\nPUB").unwrap();
        pump.ping(Instant::now()).unwrap();
        arrives(&mut the_server, "PONG\r\nPING\r\n");
        arrives(&mut the_crate, "PONG\r\n");
    }

    #[test]
    fn a_message_that_stays_half_sent_ends_the_session() {
        let shared = SharedStatus::default();
        let ((crate_side, _the_crate), (server, _the_server)) = (pair(), pair());
        let mut pump = Relay::new(crate_side, counted(server, &shared), RHYTHM, &shared);
        pump.on_crate_bytes(b"PUB a 4\r\nab").unwrap();
        pump.on_server_bytes(b"PING\r\n").unwrap();
        pump.check(Instant::now() + Duration::from_secs(9)).unwrap();
        let error = pump.check(Instant::now() + Duration::from_secs(11)).unwrap_err();
        assert_eq!(error.message(), "a message has been only partly sent for 10s");
    }
}

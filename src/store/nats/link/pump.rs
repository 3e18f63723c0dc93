//! One session: bytes go both ways until either side ends it, and a silent server is noticed.
//!
//! Invariants:
//! * What the crate writes is always taken, so that its writes never block; how much is in flight is bounded by the
//!   window of the puts (and by [`MOST_QUEUED`], should that fail).
//! * What the link itself says, to either side, stands between two messages of the other: see [`OwnLines`]. The crate writes
//!   the payload of a message before its end, so in an upload one is half sent nearly always.
//! * The crate's PING is answered here: its flush is a loopback round trip, whatever the server does.
//! * A server that takes nothing, or says nothing although something was asked, for the time-out is given up. As long as what
//!   we wrote still arrives there, it is not yet asked: on a slow link one message may take longer than the time-out.

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::ALIVE;
use super::local::Door;
use super::login::err_text;
use super::own_lines::OwnLines;
use super::poll::{Ear, Interest, poll};
use super::protocol::{Event, Scanner, Speaker};
use super::reach::parse_info;
use super::status::{Failure, Shared};
use super::stream::{Queue, Stream, Taken, read_some};
use crate::error::{Error, Kind, Result};

/// Bytes that wait for the server before the link gives up on our own side's discipline.
const MOST_QUEUED: usize = 128 * 1024 * 1024;
/// Bytes that wait for the crate before the server is read no further.
const ENOUGH_FOR_CRATE: usize = 4 * 1024 * 1024;
const SCRATCH: usize = 128 * 1024;
/// Pieces read from one side before the other side has its turn.
const PIECES_A_TURN: usize = 8;

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    pub timeout: Duration,
    pub ping_interval: Duration,
    pub max_pings_out: u32,
}

/// Why a session ended.
pub enum End {
    /// We were told to stop, or the crate went away.
    Ours,
    Server(Failure),
}

pub struct Pump<'a> {
    crate_side: TcpStream,
    server: Stream,
    to_server: Queue,
    to_crate: Queue,
    from_crate: Scanner,
    from_server: Scanner,
    /// What the link says to the server where a message of the crate ends, and to the crate where one of the server does.
    own_to_server: OwnLines,
    own_to_crate: OwnLines,
    watch: Watch,
    rhythm: Rhythm,
    shared: &'a Shared,
    scratch: Vec<u8>,
    /// The server's turn ended before all was read: a TLS library may hold bytes that poll does not see.
    unread: bool,
    /// The last -ERR that ends a connection.
    complaint: Option<String>,
}

/// Who was last heard, and what is owed.
struct Watch {
    heard: Instant,
    /// When the server was last asked something after it was last heard.
    asked: Option<Instant>,
    /// When it last took bytes, while some were waiting.
    took: Instant,
    /// Bytes that were written to it, and so many of them have arrived.
    written: u64,
    arrived: u64,
    /// When the last of them did.
    moved: Instant,
    pings_out: u32,
    pinged: Instant,
}

impl<'a> Pump<'a> {
    pub fn new(crate_side: TcpStream, server: Stream, rhythm: Rhythm, shared: &'a Shared) -> Pump<'a> {
        let now = Instant::now();
        Pump {
            crate_side,
            server,
            to_server: Queue::default(),
            to_crate: Queue::default(),
            from_crate: Scanner::new(Speaker::Client),
            from_server: Scanner::new(Speaker::Server),
            own_to_server: OwnLines::default(),
            own_to_crate: OwnLines::default(),
            watch: Watch::new(now),
            rhythm,
            shared,
            scratch: vec![0; SCRATCH],
            unread: false,
            complaint: None,
        }
    }

    /// Runs until the session ends. `crate_said` and `server_said` were read too early.
    pub fn run(&mut self, crate_said: &[u8], server_said: &[u8], ear: &Ear, door: &Door) -> End {
        let started = self.on_crate_bytes(crate_said).and_then(|()| self.on_server_bytes(server_said));
        if let Err(e) = started {
            return End::Server(self.explained(e).into());
        }
        loop {
            match self.turn(ear, door) {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(e) => return End::Server(self.explained(e).into()),
            }
        }
    }

    /// A write may fail before the server's reason is read: that tells more than a broken pipe.
    fn explained(&mut self, error: Error) -> Error {
        let mut scratch = vec![0; SCRATCH];
        for _ in 0..PIECES_A_TURN {
            let Ok(Taken::Bytes(n)) = read_some(&mut self.server, &mut scratch) else { break };
            if self.on_server_bytes(scratch.get(..n).unwrap_or_default()).is_err() {
                break;
            }
        }
        self.complaint.as_deref().map_or(error, last_word)
    }

    fn turn(&mut self, ear: &Ear, door: &Door) -> Result<Option<End>> {
        let crate_side = Interest { fd: self.crate_side.as_raw_fd(), read: true, write: !self.to_crate.is_empty() };
        let room = self.to_crate.len() < ENOUGH_FOR_CRATE;
        let server = Interest { fd: self.server.fd(), read: room, write: !self.to_server.is_empty() };
        let mut all = vec![ear.interest(), crate_side, server];
        all.extend(door.interests());
        let pause = if self.unread && room { Duration::ZERO } else { self.next_check() };
        let ready = poll(&all, pause).map_err(|e| Error::io(Kind::Unreachable, "poll", &e))?;
        if ready.first() == Some(&true) {
            return Ok(Some(End::Ours));
        }
        if ready.iter().skip(3).any(|knock| *knock) {
            door.turn_away();
        }
        if ready.get(1) == Some(&true) && !self.serve_crate()? {
            return Ok(Some(End::Ours));
        }
        if ready.get(2) == Some(&true) || (self.unread && room) {
            self.serve_server()?;
        }
        self.check(Instant::now())?;
        Ok(None)
    }

    /// False: the crate has gone.
    fn serve_crate(&mut self) -> Result<bool> {
        if self.to_crate.drain(&mut self.crate_side).is_err() {
            return Ok(false);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut here = true;
        for _ in 0..PIECES_A_TURN {
            match read_some(&mut self.crate_side, &mut scratch) {
                Ok(Taken::Bytes(n)) => self.on_crate_bytes(scratch.get(..n).unwrap_or_default())?,
                Ok(Taken::Nothing) => break,
                Ok(Taken::Closed) | Err(_) => {
                    here = false;
                    break;
                }
            }
        }
        self.scratch = scratch;
        Ok(here)
    }

    fn serve_server(&mut self) -> Result<()> {
        let taken = self.to_server.drain(&mut self.server).map_err(|e| self.lost(&e))?;
        if taken > 0 {
            self.watch.took = Instant::now();
            self.watch.written += taken as u64;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        self.unread = true;
        for _ in 0..PIECES_A_TURN {
            match read_some(&mut self.server, &mut scratch).map_err(|e| self.lost(&e))? {
                Taken::Bytes(n) => self.on_server_bytes(scratch.get(..n).unwrap_or_default())?,
                Taken::Nothing => {
                    self.unread = false;
                    break;
                }
                Taken::Closed => return Err(self.closed()),
            }
        }
        self.scratch = scratch;
        Ok(())
    }

    fn on_crate_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let (to_server, server, watch) = (&mut self.to_server, &mut self.server, &mut self.watch);
        let (own_to_server, own_to_crate) = (&mut self.own_to_server, &mut self.own_to_crate);
        self.from_crate.scan(bytes, &mut |event| {
            match event {
                Event::Forward(bytes) => watch.sent(to_server, bytes, server)?,
                Event::Boundary => watch.put_in(own_to_server, to_server, server)?,
                Event::Line(b"PING") => own_to_crate.pong(Instant::now()),
                Event::Line(_) => {}
            }
            Ok(())
        })?;
        if self.from_server.is_between() {
            put_in(&mut self.own_to_crate, &mut self.to_crate, &mut self.crate_side);
        }
        if self.to_server.len() > MOST_QUEUED {
            return Err(Error::new(Kind::Unreachable, format!("more than {MOST_QUEUED} bytes wait for the server")));
        }
        Ok(())
    }

    fn on_server_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.watch.hear();
        let (to_crate, crate_side) = (&mut self.to_crate, &mut self.crate_side);
        let (own_to_server, own_to_crate) = (&mut self.own_to_server, &mut self.own_to_crate);
        let (shared, complaint) = (self.shared, &mut self.complaint);
        self.from_server.scan(bytes, &mut |event| {
            match event {
                Event::Forward(bytes) => {
                    shared.move_on(bytes.len() as u64);
                    let _ = to_crate.send(bytes, crate_side);
                }
                Event::Boundary => put_in(own_to_crate, to_crate, crate_side),
                Event::Line(b"PING") => own_to_server.pong(Instant::now()),
                Event::Line(line) if line.starts_with(b"-ERR") => complain(shared, complaint, err_text(line)),
                Event::Line(line) if line.starts_with(b"INFO") => update(shared, line)?,
                Event::Line(_) => {}
            }
            Ok(())
        })?;
        self.speak_to_server()
    }

    /// Says what waits to be said to the server, unless a message is half sent.
    fn speak_to_server(&mut self) -> Result<()> {
        if !self.from_crate.is_between() {
            return Ok(());
        }
        self.watch.put_in(&mut self.own_to_server, &mut self.to_server, &mut self.server)
    }

    /// When something may be due.
    fn next_check(&self) -> Duration {
        let pause = self.rhythm.ping_interval.min(self.rhythm.timeout / 4);
        let owes = self.watch.asked.is_some() || self.watch.pings_out > 0;
        let owes = owes || self.own_to_server.waiting(Instant::now()).is_some();
        let idle = !owes && self.to_server.is_empty() && self.watch.arrived == self.watch.written;
        if idle { self.rhythm.ping_interval } else { pause }.max(Duration::from_millis(1))
    }

    fn check(&mut self, now: Instant) -> Result<()> {
        let Rhythm { timeout, ping_interval, max_pings_out } = self.rhythm;
        self.shared.move_on(self.watch.arrive(&self.server, now));
        if self.to_server.is_empty() {
            self.watch.took = now;
        } else if now.duration_since(self.watch.took) > timeout {
            return Err(Error::new(Kind::Unreachable, format!("the server has taken no data for {timeout:?}")));
        }
        // The crate ends each message within milliseconds, by its flusher if by nothing else.
        if self.own_to_server.waiting(now).is_some_and(|waited| waited > timeout) {
            return Err(Error::new(Kind::Unreachable, format!("a message has been half sent for {timeout:?}")));
        }
        let silence = now.duration_since(self.watch.heard.max(self.watch.moved));
        if self.watch.asked.is_some_and(|asked| now.duration_since(asked) > timeout) && self.watch.pings_out > 0 {
            return Err(Error::new(Kind::Unreachable, format!("the server has not answered for {timeout:?}")));
        }
        let owed = self.watch.asked.is_some_and(|asked| now.duration_since(asked) > timeout / 2);
        let due = silence.min(now.duration_since(self.watch.pinged)) > ping_interval;
        if due && self.watch.pings_out >= max_pings_out.max(1) {
            return Err(Error::new(Kind::Unreachable, format!("the server has been silent for {silence:?}")));
        }
        if due || (owed && self.watch.pings_out == 0) {
            self.ping(now)?;
        }
        Ok(())
    }

    fn ping(&mut self, now: Instant) -> Result<()> {
        self.watch.pinged = now;
        self.own_to_server.ping(now);
        self.speak_to_server()
    }

    fn lost(&self, error: &std::io::Error) -> Error {
        let lost = || Error::io(Kind::Unreachable, "connection lost", error);
        self.complaint.as_deref().map_or_else(lost, last_word)
    }

    fn closed(&self) -> Error {
        let closed = || Error::new(Kind::Unreachable, "the server closed the connection");
        self.complaint.as_deref().map_or_else(closed, last_word)
    }
}

/// What the server said before it closed the connection.
fn last_word(text: &str) -> Error {
    let error = Error::new(Kind::Unreachable, format!("the server closed the connection: {text}"));
    if text.to_ascii_lowercase().contains("authentication expired") {
        return error.with_hint("the credentials have expired: put new ones in their place");
    }
    error
}

impl Watch {
    fn new(now: Instant) -> Watch {
        let (heard, asked, took, moved, pinged) = (now, None, now, now, now);
        Watch { heard, asked, took, written: 0, arrived: 0, moved, pings_out: 0, pinged }
    }

    /// Sees how much has arrived, and says how much of it has since the last look.
    fn arrive(&mut self, server: &Stream, now: Instant) -> u64 {
        if self.arrived == self.written {
            return 0;
        }
        let arrived = self.written.saturating_sub(server.unacknowledged()).max(self.arrived);
        let news = arrived.saturating_sub(self.arrived);
        if news > 0 {
            (self.arrived, self.moved, self.asked) = (arrived, now, self.asked.map(|_| now));
        }
        news
    }

    fn hear(&mut self) {
        self.heard = Instant::now();
        self.asked = None;
        self.pings_out = 0;
    }

    /// Says to the server what waits for the end of a message. The time for an answer begins when it was asked.
    fn put_in(&mut self, lines: &mut OwnLines, queue: &mut Queue, server: &mut Stream) -> Result<()> {
        let Some(taken) = lines.take(Instant::now()) else { return Ok(()) };
        if taken.pinged {
            self.pings_out += 1;
            self.asked = self.asked.map(|asked| asked + taken.waited);
        }
        self.sent(queue, &taken.bytes, server)
    }

    fn sent(&mut self, queue: &mut Queue, bytes: &[u8], server: &mut Stream) -> Result<()> {
        let now = Instant::now();
        if queue.is_empty() {
            self.took = now;
        }
        self.asked.get_or_insert(now);
        let sent = queue.send(bytes, server).map_err(|e| Error::io(Kind::Unreachable, "connection lost", &e))?;
        self.written += sent as u64;
        Ok(())
    }
}

/// Says to the crate what waits for the end of a message. If the crate is gone, the next read says so.
fn put_in(lines: &mut OwnLines, queue: &mut Queue, crate_side: &mut TcpStream) {
    if let Some(taken) = lines.take(Instant::now()) {
        let _ = queue.send(&taken.bytes, crate_side);
    }
}

/// A refused permission leaves the connection as it is; anything else is the server's last word.
fn complain(shared: &Shared, complaint: &mut Option<String>, text: String) {
    if text.contains(ALIVE) {
        shared.lock().may_not_ask = true;
    } else if text.to_ascii_lowercase().starts_with("permissions violation") {
        shared.deny(text);
    } else {
        *complaint = Some(text);
    }
}

/// A server may change its limits while we are connected, or tell its clients to leave: it takes no new ones then, so that
/// the next attempt comes to another server, or to this one after its restart.
fn update(shared: &Shared, line: &[u8]) -> Result<()> {
    let Ok(info) = parse_info(line) else { return Ok(()) };
    if info.lame_duck {
        return Err(Error::new(Kind::Unreachable, "the server is going down (lame duck mode)"));
    }
    shared.lock().server = info;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    const RHYTHM: Rhythm =
        Rhythm { timeout: Duration::from_secs(10), ping_interval: Duration::from_secs(30), max_pings_out: 2 };

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

    #[test]
    fn a_line_of_the_link_waits_for_the_end_of_a_message_in_both_directions() {
        let shared = Shared::default();
        let ((crate_side, mut the_crate), (server, mut the_server)) = (pair(), pair());
        let mut pump = Pump::new(crate_side, Stream::Plain(server), RHYTHM, &shared);
        pump.on_crate_bytes(b"PUB a 4\r\nab").unwrap();
        pump.on_server_bytes(b"PING\r\nMSG b 1 4\r\nef").unwrap();
        pump.ping(Instant::now()).unwrap();
        assert_eq!(pump.watch.pings_out, 0, "nothing was asked yet");
        pump.on_crate_bytes(b"cd\r\nPING\r\nPUB a 2\r\nx").unwrap();
        arrives(&mut the_server, "PUB a 4\r\nabcd\r\nPONG\r\nPING\r\nPUB a 2\r\nx");
        assert_eq!(pump.watch.pings_out, 1);
        pump.on_server_bytes(b"gh\r").unwrap();
        pump.on_server_bytes(b"\nMSG b 1 0\r\n\r\n").unwrap();
        arrives(&mut the_crate, "MSG b 1 4\r\nefgh\r\nPONG\r\nMSG b 1 0\r\n\r\n");
    }

    #[test]
    fn between_messages_a_line_of_the_link_goes_out_at_once() {
        let shared = Shared::default();
        let ((crate_side, mut the_crate), (server, mut the_server)) = (pair(), pair());
        let mut pump = Pump::new(crate_side, Stream::Plain(server), RHYTHM, &shared);
        pump.on_server_bytes(b"PING\r\n").unwrap();
        pump.on_crate_bytes(b"PING\r\nPUB").unwrap();
        pump.ping(Instant::now()).unwrap();
        arrives(&mut the_server, "PONG\r\nPING\r\n");
        arrives(&mut the_crate, "PONG\r\n");
    }

    #[test]
    fn a_message_that_stays_half_sent_ends_the_session() {
        let shared = Shared::default();
        let ((crate_side, _the_crate), (server, _the_server)) = (pair(), pair());
        let mut pump = Pump::new(crate_side, Stream::Plain(server), RHYTHM, &shared);
        pump.on_crate_bytes(b"PUB a 4\r\nab").unwrap();
        pump.on_server_bytes(b"PING\r\n").unwrap();
        pump.check(Instant::now() + Duration::from_secs(9)).unwrap();
        let error = pump.check(Instant::now() + Duration::from_secs(11)).unwrap_err();
        assert_eq!(error.message(), "a message has been half sent for 10s");
    }
}

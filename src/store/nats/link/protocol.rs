//! The NATS client protocol, read just far enough to know where a message ends. Bytes in, events out.
//!
//! Payloads are never copied here: what goes on to the other side comes out as slices of what came in.

use crate::error::{Error, Kind, Result};

/// Where the client publishes to push everything before it out of the crate's buffer; it ends at the link.
pub const FLUSH_SUBJECT: &str = "_LINK.FLUSH";
/// No server sends, and the crate cannot read, a longer line that is passed on.
const MAX_LINE: usize = 4096;
/// An INFO names every server of a cluster.
const MAX_INFO: usize = 1024 * 1024;
const LINE_END: usize = 2;

/// Who speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaker {
    Client,
    Server,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// To be passed on as it is.
    Forward(&'a [u8]),
    /// A line for the link itself, without its end.
    Line(&'a [u8]),
}

enum State {
    Line,
    /// So many bytes of payload and line end are still to be passed on.
    Forward(usize),
    /// The same, but to be dropped.
    Skip(usize),
}

/// Splits one direction of a connection, however the bytes are cut.
pub struct Scanner {
    speaker: Speaker,
    state: State,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
}

impl Scanner {
    pub fn new(speaker: Speaker) -> Scanner {
        Scanner { speaker, state: State::Line, partial: Vec::new() }
    }

    /// Reads `input` whole and hands out what is in it, in order.
    pub fn scan(&mut self, mut input: &[u8], out: &mut impl FnMut(Event<'_>) -> Result<()>) -> Result<()> {
        while !input.is_empty() {
            input = match self.state {
                State::Forward(left) => {
                    let (now, rest) = split(input, left);
                    self.state = after(left, now.len(), State::Forward);
                    out(Event::Forward(now))?;
                    rest
                }
                State::Skip(left) => {
                    let (now, rest) = split(input, left);
                    self.state = after(left, now.len(), State::Skip);
                    rest
                }
                State::Line => self.line(input, out)?,
            };
        }
        Ok(())
    }

    /// Reads at most one line; the rest of the input is given back.
    fn line<'a>(&mut self, input: &'a [u8], out: &mut impl FnMut(Event<'_>) -> Result<()>) -> Result<&'a [u8]> {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
            self.partial.extend_from_slice(input);
            return if self.partial.len() > MAX_INFO { Err(too_long(self.partial.len())) } else { Ok(&[]) };
        };
        let (now, rest) = split(input, end + 1);
        let before = std::mem::take(&mut self.partial);
        if before.is_empty() {
            self.whole(now, out)?;
        } else {
            self.whole(&[before.as_slice(), now].concat(), out)?;
        }
        Ok(rest)
    }

    fn whole(&mut self, line: &[u8], out: &mut impl FnMut(Event<'_>) -> Result<()>) -> Result<()> {
        let text = line.trim_ascii_end();
        let Some(payload) = self.payload(text)? else { return out(Event::Line(text)) };
        if line.len() >= MAX_LINE {
            return Err(too_long(line.len()));
        }
        let payload = payload.map(|len| len.saturating_add(LINE_END)).unwrap_or(0);
        if self.speaker == Speaker::Client && is_flush(text) {
            self.state = State::Skip(payload);
            return Ok(());
        }
        self.state = after(payload, 0, State::Forward);
        out(Event::Forward(line))
    }

    /// None: a line for the link. Some(None): passed on, nothing follows. Some(Some(n)): n bytes and a line end follow.
    fn payload(&self, text: &[u8]) -> Result<Option<Option<usize>>> {
        let mut words = text.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
        let verb = words.next().unwrap_or_default().to_ascii_uppercase();
        match (self.speaker, verb.as_slice()) {
            (Speaker::Client, b"PUB" | b"HPUB") | (Speaker::Server, b"MSG" | b"HMSG") => {
                let len = words.next_back().and_then(number).ok_or_else(|| garbled(text))?;
                Ok(Some(Some(len)))
            }
            (Speaker::Client, b"SUB" | b"UNSUB") => Ok(Some(None)),
            _ => Ok(None),
        }
    }
}

fn is_flush(text: &[u8]) -> bool {
    text.strip_prefix(b"PUB ").is_some_and(|rest| rest.starts_with(FLUSH_SUBJECT.as_bytes()))
}

fn after(left: usize, taken: usize, more: impl Fn(usize) -> State) -> State {
    match left.saturating_sub(taken) {
        0 => State::Line,
        rest => more(rest),
    }
}

fn split(input: &[u8], at: usize) -> (&[u8], &[u8]) {
    input.split_at_checked(at).unwrap_or((input, &[]))
}

fn number(word: &[u8]) -> Option<usize> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn garbled(line: &[u8]) -> Error {
    Error::new(Kind::Unreachable, format!("expected a length at the end of the line, found {}", printable(line)))
}

fn too_long(len: usize) -> Error {
    Error::new(Kind::Unreachable, format!("expected a line of at most {MAX_LINE} bytes, found {len}"))
}

/// The beginning of foreign bytes, fit for a message.
pub fn printable(bytes: &[u8]) -> String {
    const SHOWN: usize = 60;
    let text: String = String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out when the input comes in pieces of `step` bytes: what is passed on, and the link's own lines.
    fn run(speaker: Speaker, input: &[u8], step: usize) -> Result<(String, Vec<String>)> {
        let (mut forward, mut lines) = (Vec::new(), Vec::new());
        let mut scanner = Scanner::new(speaker);
        for piece in input.chunks(step) {
            scanner.scan(piece, &mut |event| {
                match event {
                    Event::Forward(bytes) => forward.extend_from_slice(bytes),
                    Event::Line(line) => lines.push(String::from_utf8_lossy(line).into_owned()),
                }
                Ok(())
            })?;
        }
        Ok((String::from_utf8_lossy(&forward).into_owned(), lines))
    }

    #[test]
    fn however_it_is_cut_each_side_gets_its_own() {
        let client = b"PING\r\nSUB a.> 1\r\nPUB a r 6\r\nPING\r\n\r\nPONG\r\nHPUB b 2 4\r\nhhpp\r\nPUB _LINK.FLUSH 3\r\nxyz\r\nUNSUB 1\r\n";
        let server = b"INFO {}\r\nMSG a 1 4\r\n+OK\n\r\nPING\r\nHMSG a 1 r 2 3\r\nabc\r\n-ERR 'x'\r\n";
        for step in 1..40 {
            let (forward, lines) = run(Speaker::Client, client, step).unwrap();
            assert_eq!(forward, "SUB a.> 1\r\nPUB a r 6\r\nPING\r\n\r\nHPUB b 2 4\r\nhhpp\r\nUNSUB 1\r\n");
            assert_eq!(lines, ["PING", "PONG"]);
            let (forward, lines) = run(Speaker::Server, server, step).unwrap();
            assert_eq!(forward, "MSG a 1 4\r\n+OK\n\r\nHMSG a 1 r 2 3\r\nabc\r\n");
            assert_eq!(lines, ["INFO {}", "PING", "-ERR 'x'"]);
        }
    }

    #[test]
    fn an_empty_payload_still_has_its_line_end() {
        let (forward, lines) = run(Speaker::Server, b"MSG a 1 0\r\n\r\nPING\r\n", 7).unwrap();
        assert_eq!((forward.as_str(), lines.len()), ("MSG a 1 0\r\n\r\n", 1));
    }

    #[test]
    fn a_line_that_the_crate_could_not_read_ends_the_connection() {
        let long = format!("MSG {} 1 0\r\n\r\n", "x".repeat(5000));
        assert!(run(Speaker::Server, long.as_bytes(), 999).is_err());
        assert!(run(Speaker::Server, b"MSG a 1 many\r\n", 99).is_err());
        let endless = vec![b'x'; MAX_INFO + 2];
        assert!(run(Speaker::Server, &endless, 65536).is_err());
    }
}

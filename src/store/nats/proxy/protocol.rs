//! The NATS client protocol, read just far enough to know where a message ends. Bytes in, events out.
//!
//! Payloads are never copied here: what goes on to the other side comes out as slices of what came in.
//!
//! What other programs put into headers and subjects may be anything, and the crate ends the connection over what it cannot
//! read (not UTF-8, no colon, a line over 4096 bytes): one such message in a bucket would end every listing of it. So of a
//! header block only its status is passed on, and a subject or reply that the crate might not read is not passed on at all.

use super::SERVICE_SUBJECTS;
use super::traffic::purpose_of;
use crate::error::{Error, Kind, Result};
use crate::store::traffic::{Purpose, PurposeBytes};

/// Where the client publishes to push everything before it out of the crate's buffer; it ends at the link.
pub const FLUSH_SUBJECT: &str = "_LINK.FLUSH";
/// An INFO names every server of a cluster.
pub const MAX_INFO_BYTES: usize = 1024 * 1024;
const LINE_END: usize = 2;
/// Subjects and replies that are ours are shorter.
const MAX_SUBJECT: usize = 1000;
/// Stands for a subject that the crate could not read. Nothing of ours is told apart by its subject but what is in our inbox.
const UNPARSEABLE_SUBJECT: &[u8] = b"_LINK.ODD";
/// The line that a header block begins with, and where the status stands in it, if there is one.
const VERSION: &[u8] = b"NATS/1.0 ";
const STATUS_DIGITS: usize = 3;

/// Who speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
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
    /// What was passed on so far ends with a whole message: the link may put in a line of its own here.
    Boundary,
}

enum ParserState {
    Line,
    /// The beginning of a header block, up to where its status ends.
    Headers(HmsgLine),
    /// So many bytes are to be dropped, and then so many to be passed on.
    Skip {
        left: usize,
        then: usize,
    },
    /// So many bytes of payload and line end are still to be passed on.
    Forward(usize),
}

/// A message with headers whose line has been read.
struct HmsgLine {
    /// Subject, subscription and reply, with a space after each.
    routing: Vec<u8>,
    bytes_read: Vec<u8>,
    header: usize,
    payload: usize,
}

/// Splits one direction of a connection, however the bytes are cut.
pub struct Parser {
    direction: Direction,
    state: ParserState,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    /// Of the message that is read.
    purpose: Purpose,
    /// What was read of messages since it was last taken.
    read: PurposeBytes,
    /// The line of another program's request was read.
    request: bool,
}

impl Parser {
    pub fn new(speaker: Direction) -> Parser {
        Parser {
            direction: speaker,
            state: ParserState::Line,
            partial: Vec::new(),
            purpose: Purpose::KeepAlive,
            read: PurposeBytes::default(),
            request: false,
        }
    }

    /// Whether what was passed on so far ends with a whole message. The line of a message is passed on only when it is whole,
    /// so what has come of the next line does not matter, nor does a header block of which nothing was passed on yet.
    pub fn is_between(&self) -> bool {
        matches!(self.state, ParserState::Line | ParserState::Headers(_) | ParserState::Skip { then: 0, .. })
    }

    /// What was read of messages, by what they are for, since the last time. The lines of the connection are not counted.
    pub fn take_read(&mut self) -> PurposeBytes {
        std::mem::take(&mut self.read)
    }

    /// Whether another program's request to us was passed on since the last time. Not before all of it was.
    pub fn take_request(&mut self) -> bool {
        self.is_between() && std::mem::take(&mut self.request)
    }

    /// Reads `input` whole and hands out what is in it, in order.
    pub fn scan(&mut self, mut input: &[u8], out: &mut impl FnMut(Event<'_>) -> Result<()>) -> Result<()> {
        while !input.is_empty() {
            let (before, in_line) = (input.len(), matches!(self.state, ParserState::Line));
            input = match self.state {
                ParserState::Forward(left) => {
                    let (now, rest) = split(input, left);
                    self.state = forward(left.saturating_sub(now.len()));
                    out(Event::Forward(now))?;
                    if self.is_between() {
                        out(Event::Boundary)?;
                    }
                    rest
                }
                ParserState::Skip { left, then } => {
                    let (now, rest) = split(input, left);
                    self.state = skip(left.saturating_sub(now.len()), then);
                    rest
                }
                ParserState::Headers(_) => self.header(input, out)?,
                ParserState::Line => self.line(input, out)?,
            };
            if !in_line {
                self.read.add(self.purpose, before.saturating_sub(input.len()) as u64);
            }
        }
        Ok(())
    }

    /// Reads at most one line; the rest of the input is given back.
    fn line<'a>(&mut self, input: &'a [u8], out: &mut impl FnMut(Event<'_>) -> Result<()>) -> Result<&'a [u8]> {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
            self.partial.extend_from_slice(input);
            return if self.partial.len() > MAX_INFO_BYTES { Err(too_long(self.partial.len())) } else { Ok(&[]) };
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
        let words: Vec<&[u8]> =
            text.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty()).collect();
        let verb = words.first().copied().unwrap_or_default().to_ascii_uppercase();
        let is_message = matches!(verb.as_slice(), b"PUB" | b"HPUB" | b"MSG" | b"HMSG");
        self.purpose = if is_message { purpose_of(&words) } else { Purpose::KeepAlive };
        self.read.add(self.purpose, line.len() as u64);
        match (self.direction, verb.as_slice()) {
            (Direction::Client, b"SUB" | b"UNSUB") => {
                out(Event::Forward(line))?;
                out(Event::Boundary)
            }
            (Direction::Client, b"PUB" | b"HPUB") => {
                let payload = size(words.last(), text)?.saturating_add(LINE_END);
                if is_flush(text) {
                    self.state = skip(payload, 0);
                    return Ok(());
                }
                self.state = forward(payload);
                out(Event::Forward(line))
            }
            (Direction::Server, b"MSG") => {
                self.request |= is_request(&words);
                let to = route(words.get(1..words.len().saturating_sub(1)), text)?;
                let payload = size(words.last(), text)?;
                self.state = forward(payload.saturating_add(LINE_END));
                out(Event::Forward(&[b"MSG ", to.as_slice(), format!("{payload}\r\n").as_bytes()].concat()))
            }
            (Direction::Server, b"HMSG") => {
                self.request |= is_request(&words);
                let to = route(words.get(1..words.len().saturating_sub(2)), text)?;
                let header = size(words.iter().nth_back(1), text)?;
                let payload = size(words.last(), text)?.checked_sub(header).ok_or_else(|| malformed(text))?;
                self.state = ParserState::Headers(HmsgLine { routing: to, bytes_read: Vec::new(), header, payload });
                Ok(())
            }
            _ => out(Event::Line(text)),
        }
    }

    /// Reads up to the status; the rest of the input is given back.
    fn header<'a>(&mut self, input: &'a [u8], out: &mut impl FnMut(Event<'_>) -> Result<()>) -> Result<&'a [u8]> {
        let ParserState::Headers(mut found) = std::mem::replace(&mut self.state, ParserState::Line) else {
            return Ok(input);
        };
        let wanted = found.header.min(VERSION.len() + STATUS_DIGITS);
        let (now, rest) = split(input, wanted.saturating_sub(found.bytes_read.len()));
        found.bytes_read.extend_from_slice(now);
        if found.bytes_read.len() < wanted {
            self.state = ParserState::Headers(found);
            return Ok(rest);
        }
        out(Event::Forward(&found.without_headers()))?;
        self.state = skip(found.header.saturating_sub(wanted), found.payload.saturating_add(LINE_END));
        Ok(rest)
    }
}

impl HmsgLine {
    /// The line of the message, and if the server gave it a status, a header block of that alone.
    fn without_headers(&self) -> Vec<u8> {
        let status = self.bytes_read.strip_prefix(VERSION).filter(|status| status.iter().all(u8::is_ascii_digit));
        let Some(status) = status.filter(|status| status.len() == STATUS_DIGITS) else {
            return [b"MSG ", self.routing.as_slice(), format!("{}\r\n", self.payload).as_bytes()].concat();
        };
        let block = [VERSION, status, b"\r\n\r\n"].concat();
        let sizes = format!("{} {}\r\n", block.len(), block.len().saturating_add(self.payload));
        [b"HMSG ", self.routing.as_slice(), sizes.as_bytes(), &block].concat()
    }
}

/// Subject, subscription and reply, as far as the crate can read them.
fn route(words: Option<&[&[u8]]>, text: &[u8]) -> Result<Vec<u8>> {
    let plain = |word: &[u8]| word.len() <= MAX_SUBJECT && word.iter().all(u8::is_ascii_graphic);
    let (subject, sid, reply) = match words {
        Some([subject, sid]) => (*subject, *sid, None),
        Some([subject, sid, reply]) => (*subject, *sid, Some(*reply)),
        _ => return Err(malformed(text)),
    };
    let subject = if plain(subject) { subject } else { UNPARSEABLE_SUBJECT };
    let mut to = Vec::with_capacity(text.len());
    for word in [subject, sid].into_iter().chain(reply.filter(|reply| plain(reply))) {
        to.extend_from_slice(word);
        to.push(b' ');
    }
    Ok(to)
}

/// Whether the words are those of a message that another program sends to the service.
fn is_request(words: &[&[u8]]) -> bool {
    let subject = words.get(1).copied().unwrap_or_default();
    SERVICE_SUBJECTS.iter().any(|beginning| subject.starts_with(beginning.as_bytes()))
}

fn is_flush(text: &[u8]) -> bool {
    text.strip_prefix(b"PUB ").is_some_and(|rest| rest.starts_with(FLUSH_SUBJECT.as_bytes()))
}

fn forward(left: usize) -> ParserState {
    if left == 0 { ParserState::Line } else { ParserState::Forward(left) }
}

fn skip(left: usize, then: usize) -> ParserState {
    if left == 0 { forward(then) } else { ParserState::Skip { left, then } }
}

fn split(input: &[u8], at: usize) -> (&[u8], &[u8]) {
    input.split_at_checked(at).unwrap_or((input, &[]))
}

fn size(word: Option<&&[u8]>, text: &[u8]) -> Result<usize> {
    let number = || std::str::from_utf8(word?).ok()?.parse().ok();
    number().ok_or_else(|| malformed(text))
}

fn malformed(line: &[u8]) -> Error {
    Error::new(Kind::StoreUnreachable, format!("expected a message of NATS, found {}", printable(line)))
}

fn too_long(len: usize) -> Error {
    Error::new(Kind::StoreUnreachable, format!("expected a line of at most {MAX_INFO_BYTES} bytes, found {len}"))
}

/// The beginning of foreign bytes, fit for a message.
pub fn printable(bytes: &[u8]) -> String {
    const SHOWN: usize = 60;
    let text: String = String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    format!("{text:?}")
}

#[cfg(test)]
mod tests;

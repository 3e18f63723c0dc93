//! The crate's CONNECT on its way to the server, and the server's answer.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::poll::{Interest, poll, time_left};
use super::protocol::printable;
use super::stream::{ReadOutcome, Stream, WriteBuffer, read_some};
use super::tls;
use crate::error::{Error, Kind};

/// An answer to CONNECT is a few lines.
const MAX_REPLY: usize = 1024 * 1024;

/// Sends the CONNECT under our name and waits until the server accepts it. Gives back what the server said after that.
pub fn log_in(stream: &mut Stream, mut connect: Value, timeout: Duration) -> Result<Vec<u8>, Error> {
    let tls = matches!(stream, Stream::Tls(_));
    if let Some(fields) = connect.as_object_mut() {
        fields.insert("name".into(), json!(client_name()));
        fields.insert("tls_required".into(), json!(tls));
        // Nothing comes back to us that we publish: no subscription of ours is that wide.
        fields.insert("lang".into(), json!("rust"));
    }
    let mut queue = WriteBuffer::default();
    queue.push(format!("CONNECT {connect}\r\nPING\r\n").as_bytes());
    let answered = read_reply(stream, &mut queue, timeout);
    // A server that does not take our certificate may reset the connection before its alert is read.
    let hint = "the server may refuse the client certificate, or require one: client-cert and client-key";
    let bare = |failure: &Error| tls && failure.hint().is_none();
    answered.map_err(|failure| if bare(&failure) { failure.with_hint(hint) } else { failure })
}

/// What the server's operator sees in its list of connections.
fn client_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("litestream/{} {} {}", env!("CARGO_PKG_VERSION"), host.trim(), std::process::id())
}

fn read_reply(stream: &mut Stream, queue: &mut WriteBuffer, timeout: Duration) -> Result<Vec<u8>, Error> {
    let end = Instant::now() + timeout;
    let (mut heard, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        if let Err(e) = queue.drain(stream) {
            // What the server said last tells more than that it no longer listens.
            return Err(read_some(stream, &mut bytes)
                .err()
                .map_or_else(|| connection_lost(&e), |said| connection_lost(&said)));
        }
        match read_some(stream, &mut bytes).map_err(|e| connection_lost(&e))? {
            ReadOutcome::Bytes(n) => heard.extend_from_slice(bytes.get(..n).unwrap_or_default()),
            ReadOutcome::Closed => {
                return Err(Error::new(Kind::StoreUnreachable, "login: the server closed the connection"));
            }
            ReadOutcome::WouldBlock => {
                if time_left(end).is_zero() {
                    return Err(Error::new(Kind::StoreUnreachable, format!("login: no answer within {timeout:?}")));
                }
                let interest = Interest { fd: stream.fd(), read: true, write: !queue.is_empty() };
                poll(&[interest], time_left(end)).map_err(|e| connection_lost(&e))?;
            }
        }
        if let Some(rest) = parse_reply(&mut heard, queue)? {
            return Ok(rest);
        }
    }
}

/// Reads whole lines up to the PONG; gives back what follows it.
fn parse_reply(heard: &mut Vec<u8>, queue: &mut WriteBuffer) -> Result<Option<Vec<u8>>, Error> {
    while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
        let rest = heard.split_off(end + 1);
        let line = std::mem::replace(heard, rest);
        match line.trim_ascii_end() {
            b"PONG" => return Ok(Some(std::mem::take(heard))),
            b"PING" => queue.push(b"PONG\r\n"),
            line if line.starts_with(b"-ERR") => return Err(refusal(line)),
            line if line.starts_with(b"INFO") || line.starts_with(b"+OK") => {}
            line => {
                return Err(Error::new(Kind::StoreRefused, format!("login: expected PONG, found {}", printable(line))));
            }
        }
    }
    if heard.len() > MAX_REPLY {
        return Err(Error::new(Kind::StoreRefused, "login: expected PONG, found an endless line"));
    }
    Ok(None)
}

/// What the server says between the quotes of an -ERR.
pub fn parse_err(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line.strip_prefix(b"-ERR").unwrap_or(line)).into_owned();
    text.trim().trim_matches('\'').chars().filter(|c| !c.is_control()).take(300).collect()
}

/// What a server says that is full for now, and the limit that makes it so (server/errors.go of nats-server).
const FULL: [(&str, &str); 3] = [
    ("maximum connections", "max_connections of the server"),
    ("maximum account active connections", "the number of connections that the account allows (conn in its limits)"),
    ("connection throttling", "the number of connections that the server allows at the same time"),
];
/// What a server says that is going down, or was too slow.
const PASSING: [&str; 3] = ["server shutdown", "timeout", "lame duck"];

/// A refused login stays refused; a server that is full or going down does not.
fn refusal(line: &[u8]) -> Error {
    let text = parse_err(line);
    let lower = text.to_ascii_lowercase();
    if let Some((_, limit)) = FULL.iter().find(|(sign, _)| lower.contains(sign)) {
        return Error::new(Kind::StoreUnreachable, format!("login: {text}"))
            .with_hint(format!("litestream retries until there is room; the limit is {limit}"));
    }
    if PASSING.iter().any(|sign| lower.contains(sign)) {
        return Error::new(Kind::StoreUnreachable, format!("login: {text}"));
    }
    Error::new(Kind::StoreRefused, format!("login: {text}"))
        .with_hint("check username and password, token, creds or jwt (expired?), nkey, or the client certificate")
}

/// In TLS 1.3 the server judges the client's certificate after the handshake, so its alert arrives here.
fn connection_lost(error: &std::io::Error) -> Error {
    let text = error.to_string();
    if text.contains("alert") {
        return tls::refused(&text);
    }
    Error::io(Kind::StoreUnreachable, "login", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_replies(text: &str) -> Result<Option<Vec<u8>>, Error> {
        parse_reply(&mut text.as_bytes().to_vec(), &mut WriteBuffer::default())
    }

    #[test]
    fn only_a_pong_lets_us_in() {
        assert_eq!(read_replies("INFO {}\r\nPING\r\nPONG\r\nMSG").unwrap(), Some(b"MSG".to_vec()));
        assert_eq!(read_replies("INFO {}\r\nPO").unwrap(), None);
        let refused = read_replies("-ERR 'Authorization Violation'\r\n").unwrap_err();
        assert_eq!((refused.kind(), refused.message()), (Kind::StoreRefused, "login: Authorization Violation"));
        assert_eq!(read_replies("-ERR 'maximum connections exceeded'\r\n").unwrap_err().kind(), Kind::StoreUnreachable);
        let full = read_replies("-ERR 'maximum account active connections exceeded'\r\n").unwrap_err();
        assert_eq!(full.kind(), Kind::StoreUnreachable);
        assert!(full.hint().is_some_and(|hint| hint.contains("connections that the account allows")));
        assert_eq!(read_replies("HELLO\r\n").unwrap_err().kind(), Kind::StoreRefused);
    }
}

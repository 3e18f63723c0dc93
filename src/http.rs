//! One HTTP GET, for heartbeats: no proxy, no redirect, no body, one deadline for all of it.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use native_tls::{HandshakeError, TlsConnector};

use crate::error::{Error, Kind, Result};

/// Bytes of an answer that are read: its first line tells all.
const MAX_STATUS_LINE: usize = 1024;

/// What a URL names.
#[derive(Debug, PartialEq, Eq)]
struct ParsedUrl<'a> {
    tls: bool,
    /// As it stands in the `Host` line.
    authority: &'a str,
    host: &'a str,
    port: u16,
    path: &'a str,
}

/// Asks for `url`; the status of the answer. Blocks until `within` is over at the latest, but for the name's lookup.
///
/// Errors: [`Kind::Usage`] for a URL that is none, [`Kind::StoreUnreachable`] for the rest. None shows the URL.
pub fn get(url: &str, within: Duration) -> Result<u16> {
    let parsed =
        parse(url).ok_or_else(|| Error::new(Kind::Usage, "expected http://HOST[:PORT][/PATH] or https://…"))?;
    let deadline = Instant::now() + within;
    let stream = DeadlineStream { stream: connect(&parsed, deadline)?, deadline };
    if !parsed.tls {
        return exchange(stream, &parsed);
    }
    let connector = TlsConnector::new().map_err(|e| io_error("set up TLS", &e))?;
    let host = parsed.host.trim_matches(['[', ']']);
    match connector.connect(host, stream) {
        Ok(stream) => exchange(stream, &parsed),
        Err(HandshakeError::Failure(error)) if Instant::now() < deadline => Err(io_error("TLS handshake", &error)),
        Err(_) => Err(timeout_error()),
    }
}

fn parse(url: &str) -> Option<ParsedUrl<'_>> {
    let (scheme, rest) = url.split_once("://")?;
    let tls = match scheme {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let port_at = authority.rfind(':').filter(|at| !authority.get(*at..).unwrap_or_default().contains(']'));
    let (host, port) = authority.split_at(port_at.unwrap_or(authority.len()));
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok()?,
        None => {
            if tls {
                443
            } else {
                80
            }
        }
    };
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let named = !host.is_empty() && !authority.contains('@') && plain(authority) && plain(path);
    named.then_some(ParsedUrl { tls, authority, host, port, path })
}

fn connect(parsed: &ParsedUrl<'_>, deadline: Instant) -> Result<TcpStream> {
    let host = parsed.host.trim_matches(['[', ']']);
    let addresses = (host, parsed.port).to_socket_addrs().map_err(|e| io_error("look up the host", &e))?;
    let mut last = Error::new(Kind::StoreUnreachable, "the host has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, time_left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = io_error("connect", &error),
        }
    }
    Err(last)
}

/// A stream whose operations together end by the deadline, however little each of them brings.
#[derive(Debug)]
struct DeadlineStream {
    stream: TcpStream,
    deadline: Instant,
}

impl DeadlineStream {
    fn left(&self) -> io::Result<Option<Duration>> {
        time_left(self.deadline).map(Some).map_err(|_| io::ErrorKind::TimedOut.into())
    }
}

impl Read for DeadlineStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for DeadlineStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn exchange(mut stream: impl Read + Write, parsed: &ParsedUrl<'_>) -> Result<u16> {
    let path = if parsed.path.starts_with('/') { parsed.path.to_string() } else { format!("/{}", parsed.path) };
    let agent = concat!("litestream/", env!("CARGO_PKG_VERSION"));
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n",
        parsed.authority
    );
    stream.write_all(request.as_bytes()).and_then(|()| stream.flush()).map_err(|e| protocol_error("ask", &e))?;
    let mut answer = Vec::new();
    let mut piece = [0; 256];
    while !answer.contains(&b'\n') && answer.len() < MAX_STATUS_LINE {
        match stream.read(&mut piece).map_err(|e| protocol_error("read the answer", &e))? {
            0 => break,
            count => answer.extend_from_slice(piece.get(..count).unwrap_or_default()),
        }
    }
    status(&answer).ok_or_else(|| Error::new(Kind::StoreUnreachable, "the answer is not HTTP"))
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(answer.split(|byte| *byte == b'\n').next()?).ok()?;
    let (version, rest) = line.split_once(' ')?;
    let code = rest.trim_start().get(..3)?.parse().ok()?;
    version.starts_with("HTTP/").then_some(code)
}

fn time_left(deadline: Instant) -> Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(timeout_error()) } else { Ok(left) }
}

fn timeout_error() -> Error {
    Error::new(Kind::StoreUnreachable, "no answer in time")
}

fn io_error(operation: &str, error: &impl std::fmt::Display) -> Error {
    Error::new(Kind::StoreUnreachable, format!("{operation}: {error}"))
}

/// The same of an exchange, where silence is no more than that.
fn protocol_error(operation: &str, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => timeout_error(),
        _ => io_error(operation, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_url_is_taken_apart() {
        let table = [
            ("http://a.b", Some((false, "a.b", 80, ""))),
            ("https://a.b/x?y#z", Some((true, "a.b", 443, "/x?y"))),
            ("https://a:8443?y", Some((true, "a", 8443, "?y"))),
            ("http://[::1]:80/", Some((false, "[::1]", 80, "/"))),
            ("http://[::1]/", Some((false, "[::1]", 80, "/"))),
            ("http://u:p@a/", None),
            ("http://", None),
            ("http://a:99999/", None),
            ("http://a/\r\nX: y", None),
            ("ftp://a/", None),
        ];
        for (url, expected) in table {
            let found = parse(url).map(|parsed| (parsed.tls, parsed.host, parsed.port, parsed.path));
            assert_eq!(found, expected, "{url}");
        }
    }

    /// Answers one request; what it was.
    fn serve(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/ping?id=1", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 1000];
            let count = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        (url, served)
    }

    #[test]
    fn a_request_is_complete_and_its_status_comes_back() {
        let (url, served) = serve("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(get(&url, Duration::from_secs(60)).unwrap(), 204);
        let request = served.join().unwrap();
        assert!(request.starts_with("GET /ping?id=1 HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
        assert!(request.ends_with("\r\nConnection: close\r\n\r\n"), "{request}");
    }

    #[test]
    fn what_is_no_answer_is_an_error_without_the_url() {
        let (url, _served) = serve("SSH-2.0\r\n");
        assert_eq!(get(&url, Duration::from_secs(60)).unwrap_err().message(), "the answer is not HTTP");
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/secret", silent.local_addr().unwrap());
        let error = get(&url, Duration::from_millis(50)).unwrap_err();
        assert!(error.kind() == Kind::StoreUnreachable && !error.message().contains("secret"), "{error}");
        assert_eq!(error.message(), "no answer in time");
    }

    /// A byte now and then, none of which ends a line or a handshake: each comes in time, and all together do not.
    #[test]
    fn a_host_that_drips_is_held_to_the_same_deadline() {
        for scheme in ["http", "https"] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("{scheme}://{}/", listener.local_addr().unwrap());
            let dripping = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                // The header of a TLS record of 16 kB, and then its content.
                let mut drops = vec![0x16, 3, 3, 0x40, 0];
                drops.resize(2000, b'2');
                let drip = |drop: u8| {
                    std::thread::sleep(Duration::from_millis(10));
                    stream.write_all(&[drop])
                };
                let _ = drops.into_iter().try_for_each(drip);
            });
            let begin = Instant::now();
            let error = get(&url, Duration::from_millis(300)).unwrap_err();
            assert_eq!(error.message(), "no answer in time", "{scheme}");
            assert!(begin.elapsed() < Duration::from_secs(10), "{scheme}");
            drop(dripping);
        }
    }
}

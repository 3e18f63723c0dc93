//! The way to one server: name, TCP, INFO, TLS, each with a deadline.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::poll::{Interest, poll, time_left};
use super::protocol::{MAX_INFO_BYTES, printable};
use super::status::{ServerInfo, SharedStatus};
use super::stream::{ReadOutcome, Socket, Stream, read_some};
use super::tls;
use crate::error::{Error, Kind};
use crate::store::nats::options::{Server, Tls};

/// Connects to one server and reads its INFO.
pub fn connect(
    server: &Server,
    tls: &Tls,
    timeout: Duration,
    shared: &SharedStatus,
) -> Result<(Stream, ServerInfo), Error> {
    let place = address(server);
    let attempt = || {
        shared.set_step(format!("resolve {}", server.host));
        let addresses = resolve(server)?;
        // The resolver has its own deadlines; ours begins where we can keep it.
        let end = Instant::now() + timeout;
        shared.set_step(format!("connect to {place}"));
        let tcp = dial(&addresses, timeout, end)?;
        handshake(Socket { tcp, traffic: shared.traffic.clone() }, server, tls, timeout, end)
    };
    attempt().map_err(|failure: Error| failure.context(&place))
}

/// As in a URL.
pub fn address(server: &Server) -> String {
    if server.host.contains(':') {
        format!("[{}]:{}", server.host, server.port)
    } else {
        format!("{}:{}", server.host, server.port)
    }
}

fn resolve(server: &Server) -> Result<Vec<SocketAddr>, Error> {
    let found = (server.host.as_str(), server.port).to_socket_addrs();
    let addresses: Vec<SocketAddr> = found.map_err(|e| unreachable("resolve", &e))?.collect();
    if addresses.is_empty() {
        return Err(Error::new(Kind::StoreUnreachable, "resolve: the name has no address"));
    }
    Ok(addresses)
}

/// Tries each address in turn; each may take its share of the time.
fn dial(addresses: &[SocketAddr], timeout: Duration, end: Instant) -> Result<TcpStream, Error> {
    let share = timeout / u32::try_from(addresses.len()).unwrap_or(1).max(1);
    let mut last = Error::new(Kind::StoreUnreachable, "connect: no address");
    for address in addresses {
        let patience = share.min(time_left(end)).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(address, patience).and_then(configure_socket) {
            Ok(tcp) => return Ok(tcp),
            Err(e) => last = unreachable("connect", &e),
        }
    }
    Err(last)
}

fn configure_socket(tcp: TcpStream) -> std::io::Result<TcpStream> {
    tcp.set_nodelay(true)?;
    tcp.set_nonblocking(true)?;
    Ok(tcp)
}

/// INFO and TLS, in the order that the options ask for.
fn handshake(
    socket: Socket,
    server: &Server,
    tls: &Tls,
    timeout: Duration,
    end: Instant,
) -> Result<(Stream, ServerInfo), Error> {
    let silent = || Error::new(Kind::StoreUnreachable, format!("expected INFO, found nothing within {timeout:?}"));
    if tls.handshake_first {
        let mut stream = Stream::Tls(Box::new(tls::handshake(socket, &server.host, tls, end)?));
        let info = read_info(&mut stream, end, &silent)?;
        return Ok((stream, info));
    }
    let mut plain = Stream::Plain(socket);
    let info = read_info(&mut plain, end, &silent)?;
    let offered = info.tls_required || info.tls_available;
    if tls.required && !offered {
        let failure = Error::new(Kind::StoreRefused, "expected TLS, found a server that does not offer it");
        return Err(failure.with_hint("remove the TLS options, or give the server a certificate"));
    }
    match plain {
        Stream::Plain(socket) if tls.required || info.tls_required => {
            let stream = tls::handshake(socket, &server.host, tls, end)?;
            Ok((Stream::Tls(Box::new(stream)), info))
        }
        stream => Ok((stream, info)),
    }
}

/// Reads one line, byte by byte at its end: what follows belongs to the TLS library.
fn read_info(stream: &mut Stream, end: Instant, silent: &dyn Fn() -> Error) -> Result<ServerInfo, Error> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match read_some(stream, &mut byte).map_err(|e| unreachable("read INFO", &e))? {
            ReadOutcome::Bytes(_) if byte == *b"\n" => return parse_info(line.trim_ascii_end()),
            ReadOutcome::Bytes(_) if line.len() >= MAX_INFO_BYTES => return Err(not_nats(&line)),
            ReadOutcome::Bytes(_) => line.extend_from_slice(&byte),
            ReadOutcome::Closed if line.is_empty() => {
                return Err(Error::new(Kind::StoreUnreachable, "the server closed the connection before its INFO"));
            }
            ReadOutcome::Closed => return Err(not_nats(&line)),
            ReadOutcome::WouldBlock if time_left(end).is_zero() => return Err(silent()),
            ReadOutcome::WouldBlock => {
                poll(&[Interest::read(stream.fd())], time_left(end)).map_err(|e| unreachable("read INFO", &e))?;
            }
        }
    }
}

pub fn parse_info(line: &[u8]) -> Result<ServerInfo, Error> {
    let json = line.strip_prefix(b"INFO").ok_or_else(|| not_nats(line))?;
    serde_json::from_slice(json).map_err(|_| not_nats(line))
}

fn not_nats(line: &[u8]) -> Error {
    Error::new(Kind::StoreRefused, format!("expected INFO, found {}", printable(line)))
        .with_hint("is this the port of a NATS server? if it starts with TLS, set tls-first")
}

fn unreachable(operation: &str, error: &std::io::Error) -> Error {
    Error::io(Kind::StoreUnreachable, operation, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_info_may_lack_anything_but_must_be_one() {
        let info = parse_info(br#"INFO {"max_payload":1024,"nonce":"x","unknown":[1]}"#).unwrap();
        assert_eq!((info.max_payload, info.nonce.as_str(), info.tls_required), (1024, "x", false));
        let failure = parse_info(b"HTTP/1.1 400 Bad Request").unwrap_err();
        assert_eq!(failure.message(), "expected INFO, found \"HTTP/1.1 400 Bad Request\"");
        assert!(parse_info(b"INFO [").is_err());
    }
}

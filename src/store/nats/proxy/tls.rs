//! TLS by the platform's library, with a deadline on the handshake.

use std::fs;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Instant;

use native_tls::{Certificate, HandshakeError, Identity, Protocol, TlsConnector, TlsStream};

use super::poll::{Interest, poll, time_left};
use super::stream::Socket;
use crate::error::{Error, Kind};
use crate::store::nats::options::Tls;

/// Reads the certificate files again at each connect, so that they can be rotated.
fn connector(tls: &Tls) -> Result<TlsConnector, Error> {
    let mut builder = TlsConnector::builder();
    builder.min_protocol_version(Some(Protocol::Tlsv12));
    // Anyone who names authorities trusts these alone.
    builder.disable_built_in_roots(!tls.root_cas.is_empty());
    for path in &tls.root_cas {
        let certificates = Certificate::stack_from_pem(&read(path)?).map_err(|e| bad_file(path, &e.to_string()))?;
        if certificates.is_empty() {
            return Err(bad_file(path, "expected a certificate in PEM, found none"));
        }
        for certificate in certificates {
            builder.add_root_certificate(certificate);
        }
    }
    if let Some((certificate, key)) = &tls.identity {
        builder.identity(identity(certificate, key)?);
    }
    builder.build().map_err(|e| match &tls.identity {
        Some((certificate, key)) if e.to_string().contains("key values mismatch") => {
            bad_file(key, &format!("expected the key of {}, found another one", certificate.display()))
                .with_hint("client-cert and client-key must be a pair")
        }
        _ => Error::new(Kind::StoreRefused, format!("set up TLS: {}", short_tls_error(&e.to_string()))),
    })
}

fn identity(certificate: &Path, key: &Path) -> Result<Identity, Error> {
    let key_pem = super::pem::to_pkcs8(&read(key)?).map_err(|e| bad_file(key, e))?;
    Identity::from_pkcs8(&read(certificate)?, &key_pem)
        .map_err(|e| bad_file(certificate, &short_tls_error(&e.to_string())))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|e| Error::io(Kind::StoreRefused, format!("read {}", path.display()), &e))
}

fn bad_file(path: &Path, what: &str) -> Error {
    Error::new(Kind::StoreRefused, format!("read {}: {what}", path.display()))
}

/// Shakes hands over a non-blocking socket.
pub fn handshake(socket: Socket, host: &str, tls: &Tls, end: Instant) -> Result<TlsStream<Socket>, Error> {
    let mut step = connector(tls)?.connect(host, socket);
    loop {
        let unfinished = match step {
            Ok(stream) => return Ok(stream),
            Err(HandshakeError::Failure(e)) => return Err(refused(&e.to_string())),
            Err(HandshakeError::WouldBlock(unfinished)) => unfinished,
        };
        if time_left(end).is_zero() {
            return Err(Error::new(Kind::StoreUnreachable, "TLS handshake: the server does not answer"));
        }
        wait_for_socket(&unfinished.get_ref().tcp, end)?;
        step = unfinished.handshake();
    }
}

/// The library does not say which way it waits. While it wants to write, the socket is nearly always writable at once;
/// so only reading is waited for, in short steps that also cover the rare other case.
fn wait_for_socket(tcp: &TcpStream, end: Instant) -> Result<(), Error> {
    let step = time_left(end).min(std::time::Duration::from_millis(50));
    match poll(&[Interest::read(tcp.as_raw_fd())], step) {
        Ok(_) => Ok(()),
        Err(e) => Err(Error::io(Kind::StoreUnreachable, "TLS handshake", &e)),
    }
}

/// A certificate that is not accepted stays so; a connection that broke may come back.
pub fn refused(text: &str) -> Error {
    let text = short_tls_error(text);
    let found = |needle: &str| text.contains(needle);
    let failure = |kind| Error::new(kind, format!("TLS handshake: {text}"));
    if found("expired") {
        failure(Kind::StoreRefused).with_hint("renew the certificate, or check the clock of this machine")
    } else if found("ostname mismatch") || found("IP address mismatch") {
        failure(Kind::StoreRefused).with_hint("connect with a name that is in the server's certificate")
    } else if found("certificate verify failed") || found("unable to get local issuer") || found("self-signed") {
        failure(Kind::StoreRefused).with_hint("root-cas must name the authority that signed the server's certificate")
    } else if found("wrong version number") || found("packet length too long") || found("record layer") {
        failure(Kind::StoreRefused).with_hint("the server does not speak TLS at this point; check tls and tls-first")
    } else if found("alert") {
        failure(Kind::StoreRefused).with_hint("the server may require a client certificate: client-cert and client-key")
    } else {
        failure(Kind::StoreUnreachable)
    }
}

/// The library's text without source files and line numbers.
fn short_tls_error(text: &str) -> String {
    let known = [
        ("certificate has expired", "certificate has expired"),
        ("ostname mismatch", "certificate verify failed: hostname mismatch"),
        ("IP address mismatch", "certificate verify failed: IP address mismatch"),
        ("unable to get local issuer", "certificate verify failed: unable to get local issuer certificate"),
        ("self-signed certificate", "certificate verify failed: self-signed certificate"),
        ("self signed certificate", "certificate verify failed: self-signed certificate"),
        ("wrong version number", "wrong version number"),
        ("certificate required", "alert: certificate required"),
        ("unknown ca", "alert: unknown ca"),
        ("bad certificate", "alert: bad certificate"),
    ];
    let found = known.iter().find(|(needle, _)| text.contains(needle));
    found.map_or_else(|| text.replace(['\n', '\r'], " "), |(_, short)| short.to_string())
}

//! A non-blocking connection to a server, in clear text or in TLS.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};

use native_tls::TlsStream;

use super::traffic::TrafficCounters;

/// A socket that counts what it carries.
pub struct Socket {
    pub tcp: TcpStream,
    pub traffic: TrafficCounters,
}

impl Read for Socket {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.tcp.read(bytes)?;
        self.traffic.received.add_socket(read);
        Ok(read)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.tcp.write(bytes)?;
        self.traffic.sent.add_socket(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

pub enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    pub fn fd(&self) -> RawFd {
        match self {
            Stream::Plain(socket) => socket.tcp.as_raw_fd(),
            Stream::Tls(tls) => tls.get_ref().tcp.as_raw_fd(),
        }
    }
}

impl Stream {
    /// Bytes that were written and that the other side's kernel has not yet said to have.
    pub fn unacknowledged(&self) -> u64 {
        let mut bytes: libc::c_int = 0;
        // SAFETY: TIOCOUTQ of an open socket writes one int (tcp(7), SIOCOUTQ).
        let done = unsafe { libc::ioctl(self.fd(), libc::TIOCOUTQ, &raw mut bytes) };
        if done == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(bytes),
            Stream::Tls(tls) => tls.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

/// Bytes on their way to a peer that may not take them now.
#[derive(Default)]
pub struct WriteBuffer {
    bytes: Vec<u8>,
    /// So many of them are gone.
    written: usize,
}

/// What one write offers. A TLS library wants the same bytes again after "try later", and a part never shrinks.
const MAX_WRITE: usize = 256 * 1024;
/// An empty queue gives memory back above this.
const SHRINK_TO: usize = 64 * 1024;

impl WriteBuffer {
    pub fn len(&self) -> usize {
        self.bytes.len().saturating_sub(self.written)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes `bytes` after what is queued; what the peer does not take now is queued.
    pub fn send(&mut self, bytes: &[u8], peer: &mut impl Write) -> io::Result<usize> {
        if !self.is_empty() {
            self.push(bytes);
            return Ok(0);
        }
        let now = bytes.get(..MAX_WRITE).unwrap_or(bytes);
        let taken = write_some(now, peer)?;
        self.push(bytes.get(taken..).unwrap_or_default());
        Ok(taken)
    }

    /// Writes until all is gone or the peer takes no more. How many bytes it took.
    pub fn drain(&mut self, peer: &mut impl Write) -> io::Result<usize> {
        let mut total = 0;
        while !self.is_empty() {
            let rest = self.bytes.get(self.written..).unwrap_or_default();
            let taken = write_some(rest.get(..MAX_WRITE).unwrap_or(rest), peer)?;
            if taken == 0 {
                break;
            }
            self.written = self.written.saturating_add(taken);
            total += taken;
        }
        self.compact();
        Ok(total)
    }

    /// Moves the rest to the front once more than half is gone, so that each byte moves once on average.
    fn compact(&mut self) {
        if self.is_empty() {
            self.bytes.clear();
            self.written = 0;
            self.bytes.shrink_to(SHRINK_TO);
        } else if self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}

/// 0: not now.
fn write_some(bytes: &[u8], peer: &mut impl Write) -> io::Result<usize> {
    if bytes.is_empty() {
        return Ok(0);
    }
    match peer.write(bytes) {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
        other => other,
    }
}

/// How a read ended.
pub enum ReadOutcome {
    Bytes(usize),
    WouldBlock,
    Closed,
}

pub fn read_some(peer: &mut impl Read, bytes: &mut [u8]) -> io::Result<ReadOutcome> {
    match peer.read(bytes) {
        Ok(0) => Ok(ReadOutcome::Closed),
        Ok(n) => Ok(ReadOutcome::Bytes(n)),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(ReadOutcome::WouldBlock)
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes at a time, and every other time none.
    struct Slow(Vec<u8>, bool);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let n = bytes.len().min(7);
            self.0.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_queue_loses_and_repeats_nothing_with_a_slow_peer() {
        let (mut queue, mut peer, mut expected) = (WriteBuffer::default(), Slow(Vec::new(), false), Vec::new());
        for n in 0..200u8 {
            let piece = vec![n; usize::from(n) % 13];
            expected.extend_from_slice(&piece);
            queue.send(&piece, &mut peer).unwrap();
            queue.drain(&mut peer).unwrap();
        }
        while !queue.is_empty() {
            queue.drain(&mut peer).unwrap();
        }
        assert_eq!(peer.0, expected);
    }
}

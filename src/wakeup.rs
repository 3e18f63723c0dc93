//! A pipe by which one thread ends the poll(2) of another.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Wakes the thread that polls the other end.
#[derive(Clone)]
pub struct Waker(Arc<UnixStream>);

/// The end that is polled.
pub struct WakeReceiver(UnixStream);

pub fn waker() -> io::Result<(Waker, WakeReceiver)> {
    let (sender, receiver) = UnixStream::pair()?;
    sender.set_nonblocking(true)?;
    receiver.set_nonblocking(true)?;
    Ok((Waker(Arc::new(sender)), WakeReceiver(receiver)))
}

impl Waker {
    pub fn wake(&self) {
        let _ = (&*self.0).write(b"!");
    }
}

impl WakeReceiver {
    /// What becomes readable.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Forgets the calls so far. True if there were any.
    pub fn drain(&self) -> bool {
        let (mut bytes, mut any) = ([0; 64], false);
        while matches!((&self.0).read(&mut bytes), Ok(n) if n > 0) {
            any = true;
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_heard_once_however_often_it_was_made() {
        let (waker, receiver) = waker().unwrap();
        assert!(!receiver.drain());
        (0..100_000).for_each(|_| waker.clone().wake());
        assert!(receiver.drain() && !receiver.drain());
    }
}

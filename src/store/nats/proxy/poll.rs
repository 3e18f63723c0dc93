//! poll(2).

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// One descriptor to wait for, and what for.
#[derive(Clone, Copy)]
pub struct Interest {
    pub fd: RawFd,
    pub read: bool,
    pub write: bool,
}

impl Interest {
    pub fn read(fd: RawFd) -> Interest {
        Interest { fd, read: true, write: false }
    }
}

/// Sleeps until one of `interests` is ready or `timeout` is over. The answer says for each whether anything happened.
pub fn poll(interests: &[Interest], timeout: Duration) -> io::Result<Vec<bool>> {
    let mut fds: Vec<libc::pollfd> = interests.iter().map(pollfd).collect();
    let count = libc::nfds_t::try_from(fds.len()).unwrap_or(0);
    // Rounded up: a deadline 0.4 ms away must not become a busy loop.
    let millis = i32::try_from(timeout.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
    // SAFETY: `fds` is a live array of `count` pollfd.
    let n = unsafe { libc::poll(fds.as_mut_ptr(), count, millis) };
    if n < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok(vec![false; fds.len()]);
    }
    Ok(fds.iter().map(|fd| fd.revents != 0).collect())
}

fn pollfd(interest: &Interest) -> libc::pollfd {
    let mut events = 0;
    if interest.read {
        events |= libc::POLLIN;
    }
    if interest.write {
        events |= libc::POLLOUT;
    }
    // A negative descriptor is passed over: else a closed peer that nobody wants to read would wake us for ever.
    let fd = if events == 0 { -1 } else { interest.fd };
    libc::pollfd { fd, events, revents: 0 }
}

/// Time that is left until `end`.
pub fn time_left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

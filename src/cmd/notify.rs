//! Messages to systemd: ready, what goes on, still alive, stopping. Silent where nobody asked for them.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use crate::config::LookupVar;

/// Between two looks at all databases together, for the status and the heartbeat.
pub const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// The socket that systemd listens on, if there is one.
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// How often to say that we are alive: twice as often as is asked for.
    alive_every: Option<Duration>,
    alive_at: Option<Instant>,
}

impl Notifier {
    pub fn new(env: LookupVar<'_>) -> Notifier {
        let to = env("NOTIFY_SOCKET").and_then(|name| Some((socket()?, address(&name)?)));
        let micros = env("WATCHDOG_USEC").and_then(|text| text.parse::<u64>().ok()).filter(|micros| *micros > 1);
        let ours = env("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let alive_every = micros.filter(|_| ours).map(|micros| Duration::from_micros(micros / 2));
        Notifier { to, alive_every, alive_at: None }
    }

    pub fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.to {
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }

    /// To be called on each turn of the loop: a loop that hangs says nothing, and systemd restarts it.
    pub fn alive(&mut self, now: Instant) {
        if let Some(every) = self.alive_every
            && self.alive_at.is_none_or(|at| now >= at)
        {
            self.alive_at = Some(now + every);
            self.send("WATCHDOG=1");
        }
    }

    /// When [`Notifier::alive`] must be called next.
    pub fn next(&self) -> Option<Instant> {
        self.alive_at
    }
}

/// One that drops a message rather than wait for a reader: the backup goes on.
fn socket() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

/// A path, or with an `@` a name that is in no file system.
fn address(name: &str) -> Option<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name).ok(),
        None => SocketAddr::from_pathname(name).ok(),
    }
}

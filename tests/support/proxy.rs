//! A network of our own between a client and a server: far, cut, silent or refusing, as the test says.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

/// A link that stalls is looked at this often.
const STEP: Duration = Duration::from_millis(2);

/// Passes bytes to a server. Ends with the test.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// One way, in microseconds.
    delay: AtomicU64,
    jitter: AtomicU64,
    /// Bytes a second each way; 0: as many as come.
    rate: AtomicU64,
    /// New connections are closed at once.
    refuses: AtomicBool,
    /// Connections stay open, and nothing passes any more.
    stalls: AtomicBool,
    ended: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
    /// Bytes that came from clients, and connections that were made.
    sent: AtomicU64,
    /// Every connection breaks once so many bytes have come from clients; 0: none does.
    cut_at: AtomicU64,
    /// Bytes that came from the server.
    received: AtomicU64,
    connections: AtomicU64,
    /// What clients wrote, if it is kept.
    keeps: AtomicBool,
    heard: Mutex<Vec<u8>>,
}

impl Shared {
    fn cut(&self) {
        for stream in self.open.lock().expect("the connections").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Counts what came from a client. True if it is the end of every connection.
    fn reaches_cut(&self, bytes: u64) -> bool {
        let sent = self.sent.fetch_add(bytes, Ordering::SeqCst) + bytes;
        let cut_at = self.cut_at.load(Ordering::SeqCst);
        let reached = cut_at > 0 && sent >= cut_at;
        reached && self.cut_at.compare_exchange(cut_at, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

impl Proxy {
    /// In front of 127.0.0.1:`port`.
    pub fn new(port: u16) -> Proxy {
        Proxy::narrow(port, 0)
    }

    /// The same, where so many bytes pass in a second, each way, and few wait here.
    pub fn narrow(port: u16, rate: u64) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a proxy");
        let own = listener.local_addr().expect("its address").port();
        let shared = Arc::new(Shared { rate: AtomicU64::new(rate), ..Shared::default() });
        if rate > 0 {
            // Packets of a network, since a buffer must hold some of them.
            set(&listener, libc::IPPROTO_TCP, libc::TCP_MAXSEG, 1400);
            set(&listener, libc::SOL_SOCKET, libc::SO_RCVBUF, 8192);
        }
        let ours = shared.clone();
        spawn(move || {
            for client in listener.incoming().flatten() {
                if ours.ended.load(Ordering::SeqCst) {
                    return;
                }
                if !ours.refuses.load(Ordering::SeqCst) {
                    join(client, port, &ours);
                }
            }
        });
        Proxy { port: own, shared }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Each way takes `delay`, and up to `jitter` more.
    pub fn far(&self, delay: Duration, jitter: Duration) {
        self.shared.delay.store(delay.as_micros() as u64, Ordering::SeqCst);
        self.shared.jitter.store(jitter.as_micros() as u64, Ordering::SeqCst);
    }

    /// Every connection breaks.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Every connection breaks, in the middle of whatever is being sent, once clients have sent so many more bytes.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.cut_at.store(self.sent() + bytes.max(1), Ordering::SeqCst);
    }

    /// The same, and no new one is let through until [`Proxy::join`].
    pub fn part(&self) {
        self.shared.refuses.store(true, Ordering::SeqCst);
        self.cut();
    }

    pub fn join(&self) {
        self.shared.refuses.store(false, Ordering::SeqCst);
        self.shared.stalls.store(false, Ordering::SeqCst);
    }

    /// Nothing passes, and nobody is told.
    pub fn stall(&self) {
        self.shared.stalls.store(true, Ordering::SeqCst);
    }

    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Bytes that have gone through, either way.
    pub fn moved(&self) -> u64 {
        self.sent() + self.received()
    }

    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// From now on, remembers what clients write.
    pub fn overhear(&self) {
        self.shared.keeps.store(true, Ordering::SeqCst);
    }

    pub fn heard(&self) -> Vec<u8> {
        self.shared.heard.lock().expect("what was heard").clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn join(client: TcpStream, port: u16, shared: &Arc<Shared>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
    shared.connections.fetch_add(1, Ordering::SeqCst);
    let copy = |stream: &TcpStream| stream.try_clone().expect("a handle");
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
        shared.open.lock().expect("the connections").push(copy(stream));
    }
    one_way(copy(&client), copy(&server), shared, true);
    one_way(server, client, shared, false);
}

fn set(socket: &TcpListener, level: i32, name: i32, value: i32) {
    let size = libc::socklen_t::try_from(size_of::<i32>()).expect("a size");
    // SAFETY: setsockopt(2) of an open socket, from a live number.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    assert_eq!(done, 0, "set an option of a socket");
}

fn one_way(mut from: TcpStream, mut to: TcpStream, shared: &Arc<Shared>, up: bool) {
    let (sender, receiver): (Sender<(Instant, Vec<u8>)>, Receiver<_>) = channel();
    let ours = shared.clone();
    spawn(move || {
        let (mut bytes, mut last, mut dice) = (vec![0; 256 * 1024], Instant::now(), 88_172_645_463_325_252u64);
        loop {
            // In fifty pieces a second, if there is a rate.
            let rate = ours.rate.load(Ordering::SeqCst);
            let most = if rate == 0 { bytes.len() } else { (rate / 50).max(1) as usize };
            let Ok(n @ 1..) = from.read(&mut bytes[..most]) else { break };
            if rate > 0 {
                // The pace of a slow link.
                sleep(Duration::from_millis(20));
            }
            if up {
                if ours.reaches_cut(n as u64) {
                    ours.cut();
                    break;
                }
                if ours.keeps.load(Ordering::SeqCst) {
                    ours.heard.lock().expect("what was heard").extend_from_slice(&bytes[..n]);
                }
            }
            if !up {
                ours.received.fetch_add(n as u64, Ordering::SeqCst);
            }
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let jitter = dice % (ours.jitter.load(Ordering::SeqCst) + 1);
            let delay = Duration::from_micros(ours.delay.load(Ordering::SeqCst) + jitter);
            last = last.max(Instant::now() + delay);
            if sender.send((last, bytes[..n].to_vec())).is_err() {
                break;
            }
        }
    });
    let ours = shared.clone();
    spawn(move || {
        for (due, bytes) in receiver {
            // The delay of a far link.
            sleep(due.saturating_duration_since(Instant::now()));
            while ours.stalls.load(Ordering::SeqCst) && !ours.ended.load(Ordering::SeqCst) {
                sleep(STEP);
            }
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

//! A real nats-server for a test: own port, own store, killed when the test ends.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Generous: the machine may run several suites at once.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A directory of this test alone, removed at the end.
pub struct Scratch(PathBuf);

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("litestream-{name}-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).expect("make the scratch directory");
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for inspection: {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Runs a Python script that uses nats-py. False, and a line that says so, where nats-py is not installed.
pub fn python(script: &str, words: &[&str]) -> bool {
    if !Command::new("python3").args(["-c", "import nats"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success()) {
        println!("skipped: python3 has no nats-py (pip install nats-py)");
        return false;
    }
    let status = Command::new("python3").arg("-c").arg(script).args(words).status().expect("run python3");
    assert!(status.success(), "the script failed");
    true
}

/// What `tests/support/find-nats-server` says to `words`; none if it finds nothing.
pub fn find(words: &[&str]) -> Option<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/find-nats-server");
    let output =
        Command::new("python3").arg(script).args(words).stderr(Stdio::inherit()).output().expect("run python3");
    let path = String::from_utf8(output.stdout).expect("a path in UTF-8").trim().to_string();
    (output.status.success() && !path.is_empty()).then(|| PathBuf::from(path))
}

/// The release that every test runs on.
pub fn pinned() -> PathBuf {
    find(&["--pinned"]).expect("find-nats-server --pinned")
}

/// The one that the machine has, which may be much older.
pub fn system() -> Option<PathBuf> {
    find(&["--system"])
}

/// Runs a test on the server that the machine has, and says so where it has none.
pub fn on_system(test: impl FnOnce(&Path)) {
    match system() {
        Some(binary) => test(&binary),
        None => println!("skipped: this machine has no nats-server of its own"),
    }
}

/// Ports below those that the kernel hands out by itself (net.ipv4.ip_local_port_range, from 32768).
const PORTS: (u32, u32) = (10_240, 22_000);

/// A port that nobody listens on now, and that nobody is given while its server is away: each is handed out once, and the
/// kernel gives none of them to a connection or to a listener on port 0.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (first, count) = PORTS;
    loop {
        let next = NEXT.fetch_add(1, Ordering::SeqCst);
        assert!(next < count, "no free port");
        let port = (first + (std::process::id().wrapping_mul(61).wrapping_add(next)) % count) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A running (or stopped, or frozen) nats-server with JetStream.
pub struct Server {
    pub port: u16,
    pub scratch: Scratch,
    binary: PathBuf,
    child: Option<Child>,
    starts: u32,
}

impl Server {
    /// Starts `binary` with `config` added to a port and a store directory; returns when it is ready.
    pub fn start(binary: &Path, config: &str) -> Server {
        Server::start_tuned(binary, "", config)
    }

    /// The same with `limits` in the jetstream block.
    pub fn start_tuned(binary: &Path, limits: &str, config: &str) -> Server {
        let mut server = Server::new(binary, limits, config);
        server.restart();
        server
    }

    /// Does not wait until it is ready: one of a cluster waits for the others.
    pub fn start_unready(binary: &Path, config: &str) -> Server {
        let mut server = Server::new(binary, "", config);
        server.launch();
        server
    }

    fn new(binary: &Path, limits: &str, config: &str) -> Server {
        let scratch = Scratch::new("nats");
        let port = free_port();
        let store = scratch.join("jetstream");
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}\"\n{limits}\n}}\n{config}\n",
            store.display()
        );
        fs::write(scratch.join("nats.conf"), text).expect("write nats.conf");
        Server { port, scratch, binary: binary.to_path_buf(), child: None, starts: 0 }
    }

    /// The pinned release, with nothing special.
    pub fn plain() -> Server {
        Server::start(&pinned(), "")
    }

    /// Starts it again on the same port with the same store.
    pub fn restart(&mut self) {
        self.launch();
        self.await_ready();
    }

    fn launch(&mut self) {
        self.kill();
        self.starts += 1;
        let log = File::create(self.log_path()).expect("create the server's log");
        let mut command = Command::new(&self.binary);
        command.arg("-c").arg(self.scratch.join("nats.conf")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("spawn nats-server"));
    }

    /// Also while it stands still.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// kill -9: no chance to finish anything.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A clean stop.
    pub fn stop(&mut self) {
        self.signal(libc::SIGTERM);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// Stops it in its tracks; its sockets stay open.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Tells it to go down in "lame duck mode": it ends JetStream, takes no new clients, and asks those it has to leave.
    pub fn lame(&self) {
        self.signal(libc::SIGUSR2);
    }

    /// Host and port, as they stand in a URL.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The same for a store's options.
    pub fn in_options(&self) -> litestream::store::nats::options::Server {
        litestream::store::nats::options::Server { host: "127.0.0.1".into(), port: self.port }
    }

    /// What the server has written since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.join(&format!("server-{}.log", self.starts))
    }

    fn signal(&self, signal: i32) {
        if let Some(child) = &self.child {
            let pid = libc::pid_t::try_from(child.id()).expect("a pid");
            // SAFETY: kill(2) of a child that was not yet waited for.
            unsafe { libc::kill(pid, signal) };
        }
    }

    fn await_ready(&mut self) {
        let end = Instant::now() + READY_WITHIN;
        while !self.log().contains("Server is ready") {
            let gone = self.child.as_mut().is_some_and(|child| child.try_wait().ok().flatten().is_some());
            assert!(!gone && Instant::now() < end, "nats-server does not come up:\n{}", self.log());
            // Looked at again until the deadline above.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.thaw();
        self.kill();
        if std::thread::panicking() {
            eprintln!("log of nats-server:\n{}", self.log());
        }
    }
}

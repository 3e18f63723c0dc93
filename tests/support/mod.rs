//! The harness of the black-box tests: the program and an application as processes, a store of each kind, a judge.
//!
//! Nothing here waits a fixed time for something to happen: it looks until it has, or until [`SOON`] is over.

#![allow(dead_code, unused_macros, unused_imports, reason = "each test binary uses its own part of the harness")]

pub mod alone;
pub mod application;
pub mod bucket;
pub mod certificates;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod drive;
pub mod encryption;
pub mod jwt;
pub mod memory;
pub mod nats;
pub mod proxy;
pub mod random;
pub mod raw;
pub mod sites;
pub mod world;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use encryption::Key;
use nats::{Scratch, Server};

/// How long anything may take on a machine that is busy with other things.
pub const SOON: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
pub const BUCKET: &str = "backup";

/// Runs each test body on a directory and on a nats-server.
macro_rules! on_both_stores {
    ($($name:ident)*) => {
        mod on_a_directory {
            $(#[test] fn $name() { super::$name(&$crate::support::Bed::directory(stringify!($name))) })*
        }
        mod on_nats {
            $(#[test] fn $name() { super::$name(&$crate::support::Bed::nats(stringify!($name))) })*
        }
    };
}

/// Runs each test body on a directory.
macro_rules! on_a_directory_only {
    ($($name:ident)*) => {
        mod on_a_directory_only {
            $(#[test] fn $name() { super::$name(&$crate::support::Bed::directory(stringify!($name))) })*
        }
    };
}

pub(crate) use {on_a_directory_only, on_both_stores};

/// A test's own directory and store. Both are gone when it has passed.
pub struct Bed {
    scratch: Scratch,
    server: Option<Server>,
    /// What `replicate` connects to instead of the server.
    front: Option<String>,
    /// Whom the backup is encrypted to, if it is.
    key: Option<Key>,
    /// Numbers the files that the test makes.
    count: Cell<u32>,
}

impl Bed {
    pub fn directory(name: &str) -> Bed {
        Bed { scratch: Scratch::new(name), server: None, front: None, key: None, count: Cell::new(0) }
    }

    pub fn nats(name: &str) -> Bed {
        Bed { server: Some(Server::plain()), ..Bed::directory(name) }
    }

    /// With a server that runs already.
    pub fn on_server(name: &str, server: Server) -> Bed {
        Bed { server: Some(server), ..Bed::directory(name) }
    }

    /// From now on, [`Bed::replicate`] reaches the server by this address.
    pub fn reach_by(&mut self, address: String) {
        self.front = Some(address);
    }

    /// From now on, what is stored is encrypted: commands that store get the recipient alone, those that read the identity.
    pub fn encrypt(&mut self) {
        self.key = Some(Key::new(self));
    }

    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// The words by which a command knows the database and its replica.
    pub fn subject(&self, database: &Path, url: &str) -> Vec<OsString> {
        let Some(key) = &self.key else { return vec![database.into(), url.into()] };
        vec!["-config".into(), key.configuration(self, database, url).into()]
    }

    /// The words by which a command reads what is stored, where it needs any.
    pub fn identity(&self) -> Vec<OsString> {
        self.key.as_ref().map_or(Vec::new(), |key| vec!["-identity".into(), key.file().into()])
    }

    /// A server with more in its configuration, such as who may log in.
    pub fn nats_with(name: &str, config: &str) -> Bed {
        Bed { server: Some(Server::start(&nats::pinned(), config)), ..Bed::directory(name) }
    }

    /// Another server program, with `limits` in its jetstream block.
    pub fn nats_on(name: &str, binary: &Path, limits: &str) -> Bed {
        Bed { server: Some(Server::start_tuned(binary, limits, "")), ..Bed::directory(name) }
    }

    /// The server, to stop and start it.
    pub fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("a bed with a server")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// A path that nothing has used.
    pub fn fresh(&self, name: &str) -> PathBuf {
        self.count.set(self.count.get() + 1);
        self.path(&format!("{name}-{}", self.count.get()))
    }

    /// A database in WAL mode with a few commits, which nobody has open.
    pub fn database(&self) -> PathBuf {
        let database = self.path("a.db");
        self.write(&database, &["--commits", "3"]);
        database
    }

    /// Where a test without wishes keeps its backup.
    pub fn url(&self) -> String {
        match &self.server {
            Some(server) => format!("nats://{}/{BUCKET}", server.address()),
            None => format!("file://{}", self.path("store").display()),
        }
    }

    pub fn url_below(&self, prefix: &str) -> String {
        format!("{}/{prefix}", self.url())
    }

    /// What the store holds, in so far as that any upload or delete changes it.
    pub fn stored(&self) -> String {
        match &self.server {
            Some(server) => stored_messages(server),
            None => tree(&self.path("store")).join("\n"),
        }
    }

    /// The names of the stored snapshots (`snapshots`) or segments (`wal`), on a directory only.
    pub fn objects(&self, room: &str) -> Vec<String> {
        assert!(self.server.is_none(), "only a directory can be listed from outside");
        let room = format!("/{room}/");
        tree(&self.path("store")).into_iter().filter(|name| name.contains(&room)).collect()
    }

    /// The generations in the store, on a directory only.
    pub fn generations(&self) -> BTreeSet<String> {
        let generation = |name: &String| name.split('/').nth(1).map(str::to_string);
        self.objects("snapshots").iter().filter_map(generation).collect()
    }

    /// `replicate DATABASE URL` in the foreground of another process.
    pub fn replicate(&self, database: &Path) -> Process {
        self.replicate_to(database, &self.front_url())
    }

    /// One that compares the database with what is stored all the time.
    pub fn replicate_comparing(&self, database: &Path) -> Process {
        let config = self.fresh("comparing.yml");
        let age = self.key.as_ref().map_or(String::new(), Key::setting);
        let replica = format!("url: \"{}\"{age}", self.front_url());
        let entry = format!("path: {}, compare-interval: 1s, replica: {{{replica}}}", database.display());
        fs::write(&config, format!("dbs: [{{{entry}}}]\n")).expect("write a configuration");
        let mut command = litestream();
        command.arg("-config").arg(config).arg("replicate").args(self.server.as_ref().map(|_| "-create-bucket"));
        Process::spawn("replicate", &mut command, self.fresh("replicate"))
    }

    fn front_url(&self) -> String {
        self.front.as_ref().map_or(self.url(), |address| format!("nats://{address}/{BUCKET}"))
    }

    pub fn replicate_to(&self, database: &Path, url: &str) -> Process {
        let mut command = self.replicate_command(database, url);
        Process::spawn("replicate", &mut command, self.fresh("replicate"))
    }

    /// The program with these words, in the foreground of another process.
    pub fn start(&self, words: &[&str]) -> Process {
        Process::spawn("litestream", litestream().args(words), self.fresh("replicate"))
    }

    /// `replicate -once`; it must succeed.
    pub fn replicate_once(&self, database: &Path) -> Ran {
        let mut command = self.replicate_command(database, &self.url());
        self.run_command(command.arg("-once")).succeeded()
    }

    /// Starts a command of the program, to go on while the test does.
    pub fn spawn(&self, command: &mut Command) -> Process {
        Process::spawn("litestream", command, self.fresh("spawned"))
    }

    /// The command that follows a database, to be changed and run by the test.
    pub fn replicate_command(&self, database: &Path, url: &str) -> Command {
        let mut command = litestream();
        command.arg("replicate").args(self.server.as_ref().map(|_| "-create-bucket"));
        command.args(self.subject(database, url));
        command
    }

    /// Runs the program to its end, whatever that is.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Ran {
        self.run_command(litestream().args(words))
    }

    /// Starts the program, or something that runs it.
    pub fn start_command(&self, command: &mut Command) -> Process {
        Process::spawn("litestream", command, self.fresh("run"))
    }

    pub fn run_command(&self, command: &mut Command) -> Ran {
        let mut process = self.start_command(command);
        let status = process.wait();
        Ran { status, stdout: process.output(), stderr: process.log() }
    }

    /// `restore` to a path that nothing has used; it must succeed.
    pub fn restored(&self) -> PathBuf {
        self.restored_from(&self.url())
    }

    pub fn restored_from(&self, url: &str) -> PathBuf {
        let output = self.fresh("restored.db");
        self.restore(url, &output).succeeded();
        output
    }

    pub fn restore(&self, url: &str, output: &Path) -> Ran {
        self.run_command(restore_command(url, output).args(self.identity()))
    }

    /// A restore while a replicator may have only begun: none before there is a snapshot.
    pub fn restored_if_any(&self) -> Option<PathBuf> {
        let output = self.fresh("restored.db");
        let ran = self.restore(&self.url(), &output);
        match ran.status {
            NOTHING => None,
            STORE if ran.stderr.contains(BUCKET) && !self.path("bucket").exists() => None,
            _ => {
                ran.succeeded();
                // From now on the bucket is there, and its absence is an error.
                fs::write(self.path("bucket"), "").expect("note that the bucket is there");
                Some(output)
            }
        }
    }

    /// Restores until the result equals the live database, which nobody writes.
    pub fn converges(&self, database: &Path) {
        until("the restore equals the live database", || {
            let restored = self.restored_if_any().ok_or("nothing to restore")?;
            let verdict = equal(database, &restored);
            fs::remove_file(&restored).expect("remove a restored file");
            verdict
        });
    }

    /// Starts an application that writes to the database (workload.py).
    pub fn application(&self, database: &Path, options: &[&str]) -> Process {
        Process::spawn("workload", &mut application_command(database, options), self.fresh("workload"))
    }

    /// Runs an application to its end; returns what it says.
    pub fn write(&self, database: &Path, options: &[&str]) -> String {
        let mut application = self.application(database, options);
        application.exits(0);
        application.output()
    }

    /// Runs SQL statements; returns the rows.
    pub fn sql(&self, database: &Path, statements: &[&str]) -> String {
        self.try_sql(database, statements).succeeded().stdout
    }

    pub fn try_sql(&self, database: &Path, statements: &[&str]) -> Ran {
        let mut command = python("judge.py");
        self.run_command(command.arg("sql").arg(database).args(statements))
    }

    /// An application that does what the test says, statement by statement, on one connection.
    pub fn session(&self, database: &Path) -> Session {
        let mut command = python("judge.py");
        self.session_of(command.arg("session").arg(database))
    }

    pub fn session_of(&self, command: &mut Command) -> Session {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("spawn a session");
        let answers = BufReader::new(child.stdout.take().expect("its output"));
        let mut session = Session { child, answers };
        session.sql("SELECT count(*) FROM sqlite_schema");
        session
    }

    /// The store goes away: the server is killed or stands still, the directory is replaced by a file.
    pub fn store_goes(&mut self, stands_still: bool) {
        match &mut self.server {
            Some(server) if stands_still => server.freeze(),
            Some(server) => server.kill(),
            None => {
                let _ = fs::rename(self.path("store"), self.path("store-away"));
                fs::write(self.path("store"), "").expect("put a file where the store was");
            }
        }
    }

    pub fn store_returns(&mut self) {
        match &mut self.server {
            Some(server) if server.is_running() => server.thaw(),
            Some(server) => server.restart(),
            None => {
                fs::remove_file(self.path("store")).expect("remove the file where the store was");
                let _ = fs::rename(self.path("store-away"), self.path("store"));
            }
        }
    }
}

pub const USAGE: i32 = 2;
pub const DATABASE: i32 = 3;
pub const STORE: i32 = 4;
pub const CORRUPT: i32 = 5;
pub const NOTHING: i32 = 6;
pub const LOCKED: i32 = 7;
pub const TAKEN_OVER: i32 = 8;

/// The program, with nothing of the caller's environment that it would heed. `TEST_BINARY` names another build of it,
/// such as the static one.
pub fn litestream() -> Command {
    let binary = std::env::var_os("TEST_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_litestream").into());
    let mut command = Command::new(binary);
    let ours = |name: &str| name.starts_with("NATS_") || name.starts_with("LITESTREAM_");
    for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    command
}

/// A script of this directory, with what `make test` has installed for it.
pub fn python(script: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("python3");
    command.arg(root.join("tests/support").join(script));
    command.env("PYTHONPATH", root.join("target/py")).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

pub fn restore_command(url: &str, output: &Path) -> Command {
    let mut command = litestream();
    command.arg("restore").arg("-o").arg(output).arg(url);
    command
}

pub fn application_command(database: &Path, options: &[&str]) -> Command {
    let mut command = python("workload.py");
    command.arg(database).arg(log_of(database)).args(options);
    command
}

/// The same command under strace, which interferes as `inject` says (such as `fdatasync:signal=KILL:when=3`). None, and
/// that is said, where strace is missing or not allowed to trace.
pub fn meddled(command: &Command, inject: &str) -> Option<Command> {
    let works = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if !works.is_ok_and(|status| status.success()) {
        eprintln!("skipped: strace does not work here");
        return None;
    }
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={inject}")]);
    traced.arg(command.get_program());
    Some(like(command, traced))
}

/// `program`, with the words and the environment of `command`.
pub fn like(command: &Command, mut program: Command) -> Command {
    program.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => program.env(name, value),
            None => program.env_remove(name),
        };
    }
    program
}

/// Where the application writes its commits down.
fn log_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".commits");
    name.into()
}

/// A database at one of its commits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct State {
    pub seq: u64,
    pub sum: u64,
}

/// The commits that the application has written down as done.
pub fn committed(database: &Path) -> BTreeSet<State> {
    noted(database).lines().filter(|line| !line.starts_with(INTENT)).map(state_in).collect()
}

/// The commit that the application has written down last.
pub fn newest_committed(database: &Path) -> Option<State> {
    noted(database).lines().rfind(|line| !line.starts_with(INTENT)).map(state_in)
}

/// What the application was about to commit.
fn intended(database: &Path) -> BTreeSet<State> {
    noted(database).lines().filter_map(|line| line.strip_prefix(INTENT)).map(state_in).collect()
}

const INTENT: &str = "? ";

/// The whole lines of the application's log.
fn noted(database: &Path) -> String {
    let mut text = fs::read_to_string(log_of(database)).unwrap_or_default();
    text.truncate(text.rfind('\n').unwrap_or_default());
    text
}

/// Asserts that a restored file is sound and its rows are those of one commit; says which.
pub fn judged(restored: &Path) -> State {
    all_judged(&[restored.to_path_buf()])[0]
}

/// The same for many, in their order.
pub fn all_judged(restored: &[PathBuf]) -> Vec<State> {
    let output = python("judge.py").arg("state").args(restored).output().expect("run python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(state_in).collect()
}

/// A commit that the application has written down, with the moments before and after it.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    pub state: State,
    pub begun: SystemTime,
    pub done: SystemTime,
}

pub fn commits(database: &Path) -> Vec<Commit> {
    let moment = |field: &str| UNIX_EPOCH + Duration::from_secs_f64(field.parse().expect("a moment"));
    let commit = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        Commit { state: state_in(line), begun: moment(fields[2]), done: moment(fields[3]) }
    };
    noted(database).lines().filter(|line| !line.starts_with(INTENT)).map(commit).collect()
}

/// Asserts that every one of these states is one that was committed (or the empty one before the first). A writer that
/// was killed may have committed without writing it down: that holds unless another commit has taken its number.
pub fn all_committed(states: &[State], database: &Path) {
    let (committed, intended) = (committed(database), intended(database));
    let taken: BTreeSet<u64> = committed.iter().map(|state| state.seq).collect();
    for state in states {
        let unsaid = intended.contains(state) && !taken.contains(&state.seq);
        assert!(state.seq == 0 || unsaid || committed.contains(state), "{state:?} was never committed");
    }
}

/// Asserts that no restore is older than the one before it.
pub fn assert_never_back(states: &[State]) {
    for pair in states.windows(2) {
        assert!(pair[0].seq <= pair[1].seq, "restored {:?} after {:?}", pair[1], pair[0]);
    }
}

fn state_in(line: &str) -> State {
    let mut fields = line.split_whitespace().map(|field| field.parse().ok());
    let mut next = || fields.next().flatten();
    let (Some(seq), Some(sum)) = (next(), next()) else { panic!("not a state: {line}") };
    State { seq, sum }
}

/// Whether two databases are the same, row for row; if not, where they differ.
pub fn equal(one: &Path, other: &Path) -> Result<(), String> {
    let output = python("judge.py").arg("equal").arg(one).arg(other).output().expect("run python3");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

pub fn assert_equal(one: &Path, other: &Path) {
    equal(one, other).unwrap();
}

/// Looks until it is so.
pub fn until<T, E: std::fmt::Display>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + SOON;
    loop {
        match look() {
            Ok(found) => return found,
            Err(problem) => assert!(Instant::now() < end, "{what}: not within {SOON:?}: {problem}"),
        }
        sleep(LOOK);
    }
}

/// A run that has ended.
#[derive(Debug)]
pub struct Ran {
    /// The exit status, or 128 and the signal.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn succeeded(self) -> Ran {
        assert_eq!(self.status, 0, "{}", self.stderr);
        self
    }

    /// Asserts the exit status, and that each of `parts` is in what it said.
    pub fn refused(self, status: i32, parts: &[&str]) -> Ran {
        assert_eq!(self.status, status, "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in: {}", self.stderr);
        }
        assert_eq!(self.stdout, "", "a refusal prints no result");
        self
    }
}

/// Another process. Killed when the test is over.
pub struct Process {
    name: &'static str,
    child: Child,
    base: PathBuf,
}

impl Process {
    /// Any command, whose output goes to files that begin with `base`.
    pub fn start(name: &'static str, command: &mut Command, base: PathBuf) -> Process {
        Process::spawn(name, command, base)
    }

    fn spawn(name: &'static str, command: &mut Command, base: PathBuf) -> Process {
        let file = |kind: &str| File::create(base.with_extension(kind)).expect("create a log file");
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        let child = command.spawn().unwrap_or_else(|error| panic!("spawn {name}: {error}"));
        Process { name, child, base }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output.
    pub fn output(&self) -> String {
        fs::read_to_string(self.base.with_extension("out")).unwrap_or_default()
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.base.with_extension("err")).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Looks until its log has this text.
    pub fn says(&mut self, text: &str) {
        until(&format!("{} says {text:?}", self.name), || match self.log() {
            log if log.contains(text) => Ok(()),
            log => {
                assert!(self.is_running(), "{} ended without saying {text:?}:\n{log}", self.name);
                Err(log)
            }
        });
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// A clean stop: SIGTERM, and exit status 0.
    pub fn stop(mut self) {
        self.terminate();
        self.exits(0);
    }

    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    pub fn hang_up(&self) {
        self.signal(libc::SIGHUP);
    }

    pub fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.pid()).expect("a pid");
        // SAFETY: kill(2) of a child that was not yet waited for.
        unsafe { libc::kill(pid, signal) };
    }

    pub fn exits(&mut self, expected: i32) {
        let status = self.wait();
        assert_eq!(status, expected, "{}:\n{}", self.name, self.log());
    }

    /// Waits for the end; the exit status, or 128 and the signal.
    pub fn wait(&mut self) -> i32 {
        let end = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status.code().or(status.signal().map(|signal| 128 + signal)).expect("a status");
            }
            assert!(Instant::now() < end, "{} does not end:\n{}", self.name, self.log());
            // Looked at again until the deadline above.
            sleep(LOOK / 10);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What it runs under strace would outlive it.
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let _ = Command::new("kill").arg("-KILL").args(children.split_whitespace()).stderr(Stdio::null()).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} wrote:\n{}", self.name, self.log());
        }
    }
}

/// An application with one connection. Its end closes nothing.
pub struct Session {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Session {
    /// Runs one statement, which must succeed; the rows.
    pub fn sql(&mut self, statement: &str) -> String {
        self.try_sql(statement).unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// The error is SQLite's, or says that the application is no more.
    pub fn try_sql(&mut self, statement: &str) -> Result<String, String> {
        let gone = |_| "the application is gone".to_string();
        let stdin = self.child.stdin.as_mut().expect("its input");
        writeln!(stdin, "{statement}").map_err(gone)?;
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(gone)?;
        match line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "")) {
            ("ok", rows) => Ok(rows.to_string()),
            ("error", text) => Err(text.to_string()),
            _ => Err("the application is gone".to_string()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A host that heartbeats may be sent to; and a word for each that came.
pub fn heartbeats() -> (String, std::sync::mpsc::Receiver<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = std::io::Read::read(&mut stream, &mut [0; 1000]);
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            let _ = sender.send(());
        }
    });
    (url, receiver)
}

/// Every file below a directory, with its size, in order.
pub fn tree(top: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![top.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(data) if data.is_dir() => folders.push(entry.path()),
                Ok(data) => {
                    let path = entry.path();
                    let name = path.strip_prefix(top).unwrap_or(&path);
                    found.push(format!("{} {}", name.display(), data.len()));
                }
                Err(_) => {}
            }
        }
    }
    found.sort();
    found
}

/// The subjects that have messages, and the newest description of an object. The record of who writes is left out.
fn stored_messages(server: &Server) -> String {
    let ask = |verb: &str, question: serde_json::Value| {
        raw::ask(&server.address(), &format!("$JS.API.STREAM.{verb}.OBJ_{BUCKET}"), &question)
    };
    let filter = serde_json::json!({ "subjects_filter": format!("$O.{BUCKET}.>") });
    let info = ask("INFO", filter);
    let subjects = info["state"]["subjects"].as_object().into_iter().flat_map(|subjects| subjects.keys());
    let mut found: Vec<&str> = subjects.map(String::as_str).filter(|one| !one.contains(".C.writer-")).collect();
    found.sort_unstable();
    let last = serde_json::json!({ "last_by_subj": format!("$O.{BUCKET}.M.>") });
    format!("{} {}", found.join(" "), ask("MSG.GET", last)["message"]["seq"])
}

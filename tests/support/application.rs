//! An application on a real SQLite database, in the thread of the test: it knows what it has committed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::random::Random;

/// Every row, and the number of the commit.
const STATE: &str = "SELECT (SELECT seq FROM step) || '/' || count(*) || ' ' \
    || coalesce(group_concat(n || ':' || length(x) || ':' || substr(x, 1, 8), ' '), '') FROM (SELECT * FROM t ORDER BY n)";

/// A commit, as a restore must find it.
#[derive(Clone)]
pub struct Commit {
    pub state: String,
    pub at: Instant,
}

/// One database with its connections.
pub struct Application {
    pub path: PathBuf,
    setup: String,
    writer: Option<Connection>,
    /// In a read transaction.
    reader: Option<Connection>,
    /// The writer is in a transaction that has written.
    pub in_transaction: bool,
    pub commits: Vec<Commit>,
    sequence: u64,
    /// A second name of the database file: closing a descriptor of it would drop the locks of this whole process.
    file: Option<File>,
}

impl Application {
    pub fn new(path: &Path, random: &mut Random, first: u64, now: Instant) -> Application {
        let page = random.one_of(&["512", "512", "1024", "4096"]);
        let auto = random.one_of(&["0", "0", "7", "1000"]);
        let setup = format!(
            "PRAGMA page_size = {page}; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; \
             PRAGMA wal_autocheckpoint = {auto}; PRAGMA cache_size = 5;"
        );
        let mut application = Application {
            path: path.to_path_buf(),
            setup,
            writer: None,
            reader: None,
            in_transaction: false,
            commits: Vec::new(),
            sequence: first,
            file: None,
        };
        application.open();
        let tables = "CREATE TABLE step(seq); CREATE TABLE t(n INTEGER PRIMARY KEY, x TEXT); CREATE INDEX i ON t(x); \
            INSERT INTO step VALUES (0)";
        application.writer().execute_batch(tables).expect("make the tables");
        application.commit(random, now);
        application
    }

    /// What goes on at another machine, whose database at `path` was restored to this commit. Nobody has it open yet.
    pub fn on_another_machine(&self, path: &Path, number: usize) -> Application {
        Application {
            path: path.to_path_buf(),
            setup: self.setup.clone(),
            writer: None,
            reader: None,
            in_transaction: false,
            commits: self.commits[..=number].to_vec(),
            // No commit of it is one of ours.
            sequence: self.sequence + (1 << 20),
            file: None,
        }
    }

    /// Pages that do not change, but for VACUUM: so what changes is a small part.
    pub fn weigh_down(&mut self) {
        let rows = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<150) \
            INSERT INTO ballast SELECT randomblob(400) FROM n";
        self.writer().execute_batch(&format!("CREATE TABLE ballast(x); {rows}")).expect("weigh it down");
    }

    pub fn open(&mut self) {
        if self.writer.is_some() {
            return;
        }
        let connection = connect(&self.path);
        connection.execute_batch(&self.setup).expect("prepare a connection");
        self.writer = Some(connection);
    }

    pub fn is_open(&self) -> bool {
        self.writer.is_some()
    }

    /// Closes everything, and rolls back what was not committed.
    pub fn close(&mut self) {
        self.in_transaction = false;
        (self.reader, self.writer) = (None, None);
    }

    fn writer(&mut self) -> &Connection {
        self.open();
        self.writer.as_ref().expect("it is open")
    }

    /// Writes in a new transaction, which stays open.
    pub fn begin(&mut self, random: &mut Random) {
        if self.in_transaction {
            return;
        }
        self.sequence += 1;
        let step = format!("UPDATE step SET seq = {}", self.sequence);
        let work: Vec<String> = (0..1 + random.below(3)).map(|_| statement(random)).collect();
        let writer = self.writer();
        writer.execute_batch("BEGIN IMMEDIATE").expect("no writer waits for the replicator");
        writer.execute_batch(&step).expect("write");
        work.iter().for_each(|statement| writer.execute_batch(statement).expect("write"));
        self.in_transaction = true;
    }

    pub fn commit(&mut self, random: &mut Random, now: Instant) {
        self.begin(random);
        let writer = self.writer();
        let state = state_of(writer).expect("read what is to be committed");
        writer.execute_batch("COMMIT").expect("commit");
        self.in_transaction = false;
        self.commits.push(Commit { state, at: now });
    }

    pub fn roll_back(&mut self, random: &mut Random) {
        self.begin(random);
        self.writer().execute_batch("ROLLBACK").expect("roll back");
        self.in_transaction = false;
    }

    pub fn vacuum(&mut self) {
        if !self.in_transaction {
            let vacuumed = self.writer().execute_batch("VACUUM");
            assert!(vacuumed.as_ref().is_ok() || vacuumed.as_ref().is_err_and(is_busy), "{vacuumed:?}");
        }
    }

    /// By a connection that is opened for it, as a tool does.
    pub fn checkpoint(&mut self, mode: &str) -> String {
        let connection = connect(&self.path);
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        let ran = connection.query_row(&sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
        assert!(ran.as_ref().is_ok() || ran.as_ref().is_err_and(is_busy), "{ran:?}");
        format!("{ran:?}")
    }

    /// Begins to read, or ends that.
    pub fn read(&mut self) {
        if self.reader.take().is_none() {
            let reader = connect(&self.path);
            reader.execute_batch("BEGIN; SELECT count(*) FROM t").expect("read");
            self.reader = Some(reader);
        }
    }

    pub fn end_reading(&mut self) {
        self.reader = None;
    }

    pub fn is_read(&self) -> bool {
        self.reader.is_some()
    }

    /// The newest commit.
    pub fn live(&self) -> &str {
        &self.commits.last().expect("it has begun with one").state
    }

    /// Which commit this is.
    pub fn number(&self, state: &str) -> Option<usize> {
        self.commits.iter().rposition(|commit| commit.state == state)
    }

    /// The newest commit that is not younger than `now` less `age`.
    pub fn newest_at(&self, now: Instant, age: Duration) -> Option<usize> {
        self.commits.iter().rposition(|commit| commit.at + age <= now)
    }

    /// What is in the database now is what another has put there.
    pub fn adopt(&mut self, state: String, now: Instant) {
        self.commits.push(Commit { state, at: now });
    }

    /// Overwrites the database file as cp(1) does: the same inode, past SQLite and its locks.
    pub fn copy_over(&mut self, bytes: &[u8]) {
        let path = &self.path;
        let open = || File::options().read(true).write(true).open(path).expect("open the database file");
        let file = self.file.get_or_insert_with(open);
        file.set_len(0).expect("truncate the database file");
        file.write_all_at(bytes, 0).expect("write the database file");
    }
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("open the database");
    connection.busy_timeout(Duration::ZERO).expect("set the patience");
    connection.execute_batch("PRAGMA wal_autocheckpoint = 0").expect("set up a connection");
    connection
}

fn is_busy(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn statement(random: &mut Random) -> String {
    let number = random.below(1 << 30);
    match random.below(10) {
        0..5 => format!(
            "INSERT INTO t(x) VALUES (printf('%08x', {number}) || hex(zeroblob({})))",
            random.one_of(&["0", "20", "200", "900"])
        ),
        5..8 => format!("UPDATE t SET x = printf('%08x', {number}) || substr(x, 9) WHERE n % 5 = {}", number % 5),
        8 => format!("DELETE FROM t WHERE n % 7 = {}", number % 7),
        _ => "DELETE FROM t WHERE n > (SELECT max(n) / 2 FROM t)".to_string(),
    }
}

fn state_of(connection: &Connection) -> rusqlite::Result<String> {
    connection.prepare_cached(STATE)?.query_row([], |row| row.get(0))
}

/// What a database file holds that nobody uses; an error if it is no sound database.
pub fn state_of_file(path: &Path) -> Result<String, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let look = || -> rusqlite::Result<(String, String)> {
        let connection = Connection::open_with_flags(format!("file:{}?immutable=1", path.display()), flags)?;
        let sound = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        Ok((sound, state_of(&connection)?))
    };
    match look() {
        Ok((sound, state)) if sound == "ok" => Ok(state),
        Ok((sound, _)) => Err(sound),
        Err(error) => Err(error.to_string()),
    }
}

/// A small database in a file, without a WAL: what `.backup` and VACUUM INTO make.
pub fn image_of(path: &Path, random: &mut Random, sequence: u64) -> (Vec<u8>, String) {
    let _ = fs::remove_file(path);
    let mut other = Application {
        path: path.to_path_buf(),
        setup: "PRAGMA page_size = 512".into(),
        writer: None,
        reader: None,
        in_transaction: false,
        commits: Vec::new(),
        sequence,
        file: None,
    };
    let tables = "CREATE TABLE step(seq); CREATE TABLE t(n INTEGER PRIMARY KEY, x TEXT); CREATE INDEX i ON t(x); \
        INSERT INTO step VALUES (0)";
    other.writer().execute_batch(tables).expect("make the tables");
    other.commit(random, Instant::now());
    let state = other.live().to_string();
    other.close();
    (fs::read(path).expect("read a database file"), state)
}

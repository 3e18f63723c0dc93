//! How a command asks the process that keeps a database for a snapshot, and hears what came of it: by files in the meta
//! path, beside the lock that tells who keeps it.
//!
//! * `ask-snapshot-<id>` and `ask-retention-<id>` are requests. Whoever asks holds a lock on the file while it waits, so a
//!   request whose asker has died is told from others, and is dropped.
//! * `read_reply-<id>` is how it goes: one line, replaced as a whole, and removed together with its request.
//!
//! Either side makes files of its own and looks at names of the other's, so the two may run as different users; what root
//! makes is the owner's. A
//! snapshot answers the requests that were seen before it was begun: it holds all that was committed before they came.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::directory::{Directory, parent};
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::position::Position;
use crate::log;
use crate::source::try_lock;
use crate::store::random;

const SNAPSHOT: &str = "ask-snapshot-";
const RETENTION: &str = "ask-retention-";
const ANSWER: &str = "answer-";
/// An answer that is being written.
const TEMP_ANSWER: &str = ".answer-";

/// In bytes.
const MAX_ANSWER: u64 = 64 << 10;

/// How it goes with a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// It was seen. What is in the way of it, if anything is.
    Waiting(String),
    /// Bytes of the database read, of how many, and bytes stored.
    Reading { read: u64, total: u64, stored: u64 },
    /// The snapshot is stored, and retention is at work: a number that changes whenever something moves.
    Retention(u64),
    /// It is done: where the snapshot is, and in which store.
    Stored { position: Position, url: String },
    /// The snapshot is stored, and what was to follow it is not done.
    Failed(String),
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Waiting(text) => write!(f, "waiting {}", text.replace('\n', " ")),
            Reply::Reading { read, total, stored } => write!(f, "reading {read} {total} {stored}"),
            Reply::Retention(operations) => write!(f, "keeping {operations}"),
            Reply::Stored { position, url } => write!(f, "stored {position} {url}"),
            Reply::Failed(text) => write!(f, "failed {}", text.replace('\n', " ")),
        }
    }
}

impl Reply {
    fn parse(line: &str) -> Option<Reply> {
        let (word, rest) = line.trim_end_matches('\n').split_once(' ')?;
        match word {
            "waiting" => Some(Reply::Waiting(rest.to_string())),
            "failed" => Some(Reply::Failed(rest.to_string())),
            "reading" => {
                let mut numbers = rest.split(' ').map(|number| number.parse().ok());
                let mut next = || numbers.next().flatten();
                Some(Reply::Reading { read: next()?, total: next()?, stored: next()? })
            }
            "keeping" => Some(Reply::Retention(rest.parse().ok()?)),
            "stored" => {
                let (position, url) = rest.split_once(' ')?;
                Some(Reply::Stored { position: position.parse().ok()?, url: url.to_string() })
            }
            _ => None,
        }
    }
}

/// A request that was made. Taken back when dropped.
pub struct SnapshotRequest {
    path: PathBuf,
    answer: PathBuf,
    /// Its lock says that the asker lives.
    _file: File,
}

impl SnapshotRequest {
    /// Asks whoever holds the lock in `directory` for a snapshot, and for a pass of retention behind it.
    ///
    /// Errors: there is no place for the request.
    pub fn create(directory: &Path, retention: bool) -> Result<SnapshotRequest> {
        fault::point("request.place")?;
        let id = format!("{:016x}", random::random_below(u64::MAX));
        let path = directory.join(file_name(&id, retention));
        let answer = directory.join(format!("{ANSWER}{id}"));
        let place = || {
            let file = Directory::open(directory)?.create(path.file_name().unwrap_or_default())?;
            try_lock(&file).map(|_| file)
        };
        match place() {
            Ok(file) => Ok(SnapshotRequest { path, answer, _file: file }),
            Err(e) => Err(Error::io(Kind::Database, format!("ask for a snapshot: write {}", path.display()), &e)
                .with_hint("run `snapshot` as the user that `replicate` runs as")),
        }
    }

    /// Whether it still lies there: it is taken for that of a dead asker if it was not locked for a second.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// The last answer, if there is one.
    pub fn read_reply(&self) -> Result<Option<Reply>> {
        match read(&self.answer) {
            Ok(line) => Ok(Reply::parse(&line)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(Kind::Database, format!("read {}", self.answer.display()), &e)),
        }
    }
}

impl Drop for SnapshotRequest {
    fn drop(&mut self) {
        // What stays is removed by whoever keeps the database.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(&self.answer);
    }
}

/// The requests that lie before the one who keeps the database.
pub struct RequestInbox {
    directory: PathBuf,
    open: BTreeMap<String, OpenRequest>,
    /// What was wrong with a file when it was last said.
    last_warning: Option<String>,
}

struct OpenRequest {
    retention: bool,
    stage: Stage,
    /// It was not locked when it was last looked at.
    abandoned: bool,
    last_reply: Option<Reply>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Stage {
    Waiting,
    /// The snapshot that will answer it was begun.
    Started,
    /// That snapshot is stored here, and retention is at work.
    Retention(Position),
    Done(Reply),
}

impl RequestInbox {
    pub fn new(directory: &Path) -> RequestInbox {
        RequestInbox { directory: directory.to_path_buf(), open: BTreeMap::new(), last_warning: None }
    }

    /// Looks for requests that have come and gone. To be called by the holder of the lock alone.
    pub fn scan(&mut self) {
        let looked = self.names().and_then(|names| self.reconcile(&names));
        self.warn_once(looked);
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn reconcile(&mut self, names: &[String]) -> io::Result<()> {
        let asked = |name: &str| {
            let snapshot = name.strip_prefix(SNAPSHOT).map(|id| (id.to_string(), false));
            snapshot.or_else(|| name.strip_prefix(RETENTION).map(|id| (id.to_string(), true)))
        };
        let mut found = BTreeMap::new();
        for (name, (id, retention)) in names.iter().filter_map(|name| Some((name, asked(name)?))) {
            let before = self.open.remove(&id);
            let path = self.directory.join(name);
            let unlocked = is_abandoned(&path);
            if unlocked && before.as_ref().is_some_and(|open| open.abandoned) {
                remove(&path)?;
                continue;
            }
            let new = || OpenRequest { retention, stage: Stage::Waiting, abandoned: unlocked, last_reply: None };
            found.insert(id, OpenRequest { abandoned: unlocked, ..before.unwrap_or_else(new) });
        }
        self.open = found;
        let answers = names.iter().filter(|name| match name.strip_prefix(ANSWER) {
            Some(id) => !self.open.contains_key(id),
            None => name.starts_with(TEMP_ANSWER),
        });
        answers.into_iter().try_for_each(|name| remove(&self.directory.join(name)))
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether a snapshot is asked for that was not yet begun.
    pub fn wants_snapshot(&self) -> bool {
        self.open.values().any(|open| open.stage == Stage::Waiting)
    }

    /// A snapshot was begun.
    pub fn snapshot_started(&mut self) {
        self.open.values_mut().filter(|open| open.stage == Stage::Waiting).for_each(|open| open.stage = Stage::Started);
    }

    /// It came to nothing.
    pub fn snapshot_failed(&mut self) {
        self.open.values_mut().filter(|open| open.stage == Stage::Started).for_each(|open| open.stage = Stage::Waiting);
    }

    /// It is stored. True if retention is asked for now.
    pub fn snapshot_stored(&mut self, position: Position, url: &str) -> bool {
        let mut retention = false;
        for open in self.open.values_mut().filter(|open| open.stage == Stage::Started) {
            retention |= open.retention;
            open.stage = match open.retention {
                true => Stage::Retention(position),
                false => Stage::Done(Reply::Stored { position, url: url.to_string() }),
            };
        }
        retention
    }

    /// Whether a pass of retention is waited for.
    pub fn wants_retention(&self) -> bool {
        self.open.values().any(|open| matches!(open.stage, Stage::Retention(_)))
    }

    /// The pass of retention has ended, with an error or without.
    pub fn retention_done(&mut self, error: Option<&Error>, url: &str) {
        for open in self.open.values_mut() {
            let Stage::Retention(position) = open.stage else { continue };
            open.stage = Stage::Done(match error {
                None => Reply::Stored { position, url: url.to_string() },
                Some(error) => Reply::Failed(format!("merging and retention: {error}")),
            });
        }
    }

    /// Tells those who wait how it goes: with the snapshot, and with retention behind it.
    pub fn reply_all(&mut self, snapshot: &Reply, retention: &Reply) {
        let mut told = Ok(());
        for (id, open) in &mut self.open {
            let answer = match &open.stage {
                Stage::Waiting | Stage::Started => snapshot,
                Stage::Retention(_) => retention,
                Stage::Done(answer) => answer,
            };
            if open.last_reply.as_ref() == Some(answer) {
                continue;
            }
            match write(&self.directory, id, open.retention, answer) {
                Ok(()) => open.last_reply = Some(answer.clone()),
                Err(error) => told = Err(error),
            }
        }
        self.warn_once(told);
    }

    /// Once for each new text.
    fn warn_once(&mut self, result: io::Result<()>) {
        let Err(error) = result else { return };
        let error = Error::io(Kind::Database, format!("answer a request in {}", self.directory.display()), &error);
        if self.last_warning.as_deref() != Some(error.message()) {
            log::warn("a snapshot that was asked for cannot be answered").error(&error).emit();
            self.last_warning = Some(error.message().to_string());
        }
    }
}

/// Whether nobody waits for it any more. One that cannot be read is taken for one that is waited for.
fn is_abandoned(path: &Path) -> bool {
    let file = Directory::open(parent(path)).and_then(|open| open.read(path.file_name().unwrap_or_default()));
    file.and_then(|file| try_lock(&file)).unwrap_or(false)
}

fn write(directory: &Path, id: &str, retention: bool, answer: &Reply) -> io::Result<()> {
    let (draft, name) = (format!("{TEMP_ANSWER}{id}"), format!("{ANSWER}{id}"));
    let (draft, open) = (OsStr::new(&draft), Directory::open(directory)?);
    // A new file each time: another user than ours may own the directory, and what lies in it.
    open.remove_if_exists(draft)?;
    let mut file = open.create(draft)?;
    writeln!(file, "{answer}")?;
    open.rename(draft, &open, OsStr::new(&name))?;
    // Who asked removes the request first, and then what answer there is: one that came too late nobody else removes.
    match directory.join(file_name(id, retention)).exists() {
        true => Ok(()),
        false => open.remove_if_exists(OsStr::new(&name)),
    }
}

/// An answer is a line: of more than that nothing is read.
fn read(path: &Path) -> io::Result<String> {
    let mut line = String::new();
    let file = Directory::open(parent(path))?.read_own(path.file_name().unwrap_or_default())?;
    file.take(MAX_ANSWER).read_to_string(&mut line)?;
    Ok(line)
}

fn file_name(id: &str, retention: bool) -> String {
    format!("{}{id}", if retention { RETENTION } else { SNAPSHOT })
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::point;
    use crate::format::position::Generation;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("litestream-request-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    fn position() -> Position {
        Position { generation: Generation::new(7), wal_position: point(1, 20) }
    }

    fn stored() -> Reply {
        Reply::Stored { position: position(), url: "nats://h/b/p q".into() }
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let reading = Reply::Reading { read: 1, total: 2, stored: 3 };
        let table =
            [Reply::Waiting(String::new()), Reply::Waiting("x y".into()), reading, Reply::Retention(4), stored()];
        for answer in table.into_iter().chain([Reply::Failed("no: why".into())]) {
            assert_eq!(Reply::parse(&format!("{answer}\n")), Some(answer));
        }
        for line in ["", "waiting", "reading 1 2", "reading a b c", "stored x y", "else 1"] {
            assert_eq!(Reply::parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_snapshot_answers_the_requests_that_were_seen_before_it_began() {
        let folder = folder("order");
        let mut desk = RequestInbox::new(&folder);
        let first = SnapshotRequest::create(&folder, false).unwrap();
        desk.scan();
        assert!(desk.wants_snapshot());
        desk.snapshot_started();
        let second = SnapshotRequest::create(&folder, false).unwrap();
        desk.scan();
        desk.snapshot_stored(position(), "nats://h/b/p q");
        desk.reply_all(&Reply::Waiting("still".into()), &Reply::Retention(0));
        assert_eq!(first.read_reply().unwrap(), Some(stored()));
        assert_eq!(second.read_reply().unwrap(), Some(Reply::Waiting("still".into())));
        assert!(desk.wants_snapshot(), "for the second one");
        drop((first, second));
        desk.scan();
        assert!(desk.is_empty());
        assert_eq!(files(&folder), 0);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_answer_to_who_has_gone_is_not_left_behind() {
        let folder = folder("gone");
        let mut desk = RequestInbox::new(&folder);
        for retention in [false, true] {
            let request = SnapshotRequest::create(&folder, retention).unwrap();
            desk.scan();
            drop(request);
            desk.reply_all(&Reply::Waiting("still".into()), &Reply::Retention(0));
            assert_eq!(files(&folder), 0);
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_snapshot_that_came_to_nothing_is_still_asked_for() {
        let folder = folder("again");
        let mut desk = RequestInbox::new(&folder);
        let _request = SnapshotRequest::create(&folder, false).unwrap();
        desk.scan();
        desk.snapshot_started();
        assert!(!desk.wants_snapshot());
        desk.snapshot_failed();
        assert!(desk.wants_snapshot());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn retention_that_was_asked_for_is_waited_for() {
        let folder = folder("retention");
        let mut desk = RequestInbox::new(&folder);
        let requests = [(); 2].map(|()| SnapshotRequest::create(&folder, true).unwrap());
        desk.scan();
        desk.snapshot_started();
        assert!(desk.snapshot_stored(position(), "u"));
        desk.reply_all(&Reply::Waiting(String::new()), &Reply::Retention(3));
        assert_eq!(requests[0].read_reply().unwrap(), Some(Reply::Retention(3)));
        assert!(desk.wants_retention());
        desk.retention_done(Some(&Error::new(Kind::StoreRefused, "no")), "u");
        desk.reply_all(&Reply::Waiting(String::new()), &Reply::Retention(4));
        assert_eq!(requests[1].read_reply().unwrap(), Some(Reply::Failed("merging and retention: no".into())));
        assert!(!desk.wants_retention());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn where_there_is_no_place_for_a_request_is_said() {
        let error = SnapshotRequest::create(Path::new("/nowhere/at/all"), false).err().expect("no such directory");
        assert!(error.message().starts_with("ask for a snapshot: write /nowhere/at/all/ask-snapshot-"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.ends_with("as the user that `replicate` runs as")));
    }

    #[test]
    fn what_the_dead_have_left_is_removed() {
        let folder = folder("dead");
        for name in ["ask-snapshot-1", "ask-retention-2", "answer-1", "answer-3", ".answer-4", "lock"] {
            fs::write(folder.join(name), "").unwrap();
        }
        let mut desk = RequestInbox::new(&folder);
        desk.scan();
        desk.scan();
        assert!(desk.is_empty());
        desk.scan();
        assert_eq!(files(&folder), 1, "the lock stays");
        fs::remove_dir_all(&folder).unwrap();
    }
}

//! How a command asks the process that keeps a database for a snapshot, and hears what came of it: by files in the meta
//! path, beside the lock that tells who keeps it.
//!
//! * `ask-snapshot-<id>` and `ask-retention-<id>` are requests. Whoever asks holds a lock on the file while it waits, so a
//!   request whose asker has died is told from others, and is dropped.
//! * `answer-<id>` is how it goes: one line, replaced as a whole, and removed together with its request.
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
const DRAFT: &str = ".answer-";

/// In bytes.
const MAX_ANSWER: u64 = 64 << 10;

/// How it goes with a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It was seen. What is in the way of it, if anything is.
    Waiting(String),
    /// Bytes of the database read, of how many, and bytes stored.
    Reading { read: u64, total: u64, stored: u64 },
    /// The snapshot is stored, and retention is at work: a number that changes whenever something moves.
    Keeping(u64),
    /// It is done: where the snapshot is, and in which store.
    Stored { position: Position, url: String },
    /// The snapshot is stored, and what was to follow it is not done.
    Failed(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Waiting(text) => write!(f, "waiting {}", text.replace('\n', " ")),
            Answer::Reading { read, total, stored } => write!(f, "reading {read} {total} {stored}"),
            Answer::Keeping(operations) => write!(f, "keeping {operations}"),
            Answer::Stored { position, url } => write!(f, "stored {position} {url}"),
            Answer::Failed(text) => write!(f, "failed {}", text.replace('\n', " ")),
        }
    }
}

impl Answer {
    fn parse(line: &str) -> Option<Answer> {
        let (word, rest) = line.trim_end_matches('\n').split_once(' ')?;
        match word {
            "waiting" => Some(Answer::Waiting(rest.to_string())),
            "failed" => Some(Answer::Failed(rest.to_string())),
            "reading" => {
                let mut numbers = rest.split(' ').map(|number| number.parse().ok());
                let mut next = || numbers.next().flatten();
                Some(Answer::Reading { read: next()?, total: next()?, stored: next()? })
            }
            "keeping" => Some(Answer::Keeping(rest.parse().ok()?)),
            "stored" => {
                let (position, url) = rest.split_once(' ')?;
                Some(Answer::Stored { position: position.parse().ok()?, url: url.to_string() })
            }
            _ => None,
        }
    }
}

/// A request that was made. Taken back when dropped.
pub struct Request {
    path: PathBuf,
    answer: PathBuf,
    /// Its lock says that the asker lives.
    _file: File,
}

impl Request {
    /// Asks whoever holds the lock in `directory` for a snapshot, and for a pass of retention behind it.
    ///
    /// Errors: there is no place for the request.
    pub fn place(directory: &Path, retention: bool) -> Result<Request> {
        fault::point("request.place")?;
        let id = format!("{:016x}", random::below(u64::MAX));
        let path = directory.join(name_of(&id, retention));
        let answer = directory.join(format!("{ANSWER}{id}"));
        let place = || {
            let file = Directory::open(directory)?.create(path.file_name().unwrap_or_default())?;
            try_lock(&file).map(|_| file)
        };
        match place() {
            Ok(file) => Ok(Request { path, answer, _file: file }),
            Err(e) => Err(Error::io(Kind::Database, format!("ask for a snapshot: write {}", path.display()), &e)
                .with_hint("run `snapshot` as the user that `replicate` runs as")),
        }
    }

    /// Whether it still lies there: it is taken for that of a dead asker if it was not locked for a second.
    pub fn is_placed(&self) -> bool {
        self.path.exists()
    }

    /// The last answer, if there is one.
    pub fn answer(&self) -> Result<Option<Answer>> {
        match read(&self.answer) {
            Ok(line) => Ok(Answer::parse(&line)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(Kind::Database, format!("read {}", self.answer.display()), &e)),
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // What stays is removed by whoever keeps the database.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(&self.answer);
    }
}

/// The requests that lie before the one who keeps the database.
pub struct Desk {
    directory: PathBuf,
    open: BTreeMap<String, Open>,
    /// What was wrong with a file when it was last said.
    complaint: Option<String>,
}

struct Open {
    retention: bool,
    stage: Stage,
    /// It was not locked when it was last looked at.
    unlocked: bool,
    told: Option<Answer>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Stage {
    Waiting,
    /// The snapshot that will answer it was begun.
    Begun,
    /// That snapshot is stored here, and retention is at work.
    Keeping(Position),
    Over(Answer),
}

impl Desk {
    pub fn new(directory: &Path) -> Desk {
        Desk { directory: directory.to_path_buf(), open: BTreeMap::new(), complaint: None }
    }

    /// Looks for requests that have come and gone. To be called by the holder of the lock alone.
    pub fn look(&mut self) {
        let looked = self.names().and_then(|names| self.sort_out(&names));
        self.complain(looked);
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn sort_out(&mut self, names: &[String]) -> io::Result<()> {
        let asked = |name: &str| {
            let snapshot = name.strip_prefix(SNAPSHOT).map(|id| (id.to_string(), false));
            snapshot.or_else(|| name.strip_prefix(RETENTION).map(|id| (id.to_string(), true)))
        };
        let mut found = BTreeMap::new();
        for (name, (id, retention)) in names.iter().filter_map(|name| Some((name, asked(name)?))) {
            let before = self.open.remove(&id);
            let path = self.directory.join(name);
            let unlocked = is_unlocked(&path);
            if unlocked && before.as_ref().is_some_and(|open| open.unlocked) {
                remove(&path)?;
                continue;
            }
            let new = || Open { retention, stage: Stage::Waiting, unlocked, told: None };
            found.insert(id, Open { unlocked, ..before.unwrap_or_else(new) });
        }
        self.open = found;
        let answers = names.iter().filter(|name| match name.strip_prefix(ANSWER) {
            Some(id) => !self.open.contains_key(id),
            None => name.starts_with(DRAFT),
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
    pub fn begun(&mut self) {
        self.open.values_mut().filter(|open| open.stage == Stage::Waiting).for_each(|open| open.stage = Stage::Begun);
    }

    /// It came to nothing.
    pub fn given_up(&mut self) {
        self.open.values_mut().filter(|open| open.stage == Stage::Begun).for_each(|open| open.stage = Stage::Waiting);
    }

    /// It is stored. True if retention is asked for now.
    pub fn stored(&mut self, position: Position, url: &str) -> bool {
        let mut retention = false;
        for open in self.open.values_mut().filter(|open| open.stage == Stage::Begun) {
            retention |= open.retention;
            open.stage = match open.retention {
                true => Stage::Keeping(position),
                false => Stage::Over(Answer::Stored { position, url: url.to_string() }),
            };
        }
        retention
    }

    /// Whether a pass of retention is waited for.
    pub fn wants_retention(&self) -> bool {
        self.open.values().any(|open| matches!(open.stage, Stage::Keeping(_)))
    }

    /// The pass of retention has ended, with an error or without.
    pub fn kept(&mut self, error: Option<&Error>, url: &str) {
        for open in self.open.values_mut() {
            let Stage::Keeping(position) = open.stage else { continue };
            open.stage = Stage::Over(match error {
                None => Answer::Stored { position, url: url.to_string() },
                Some(error) => Answer::Failed(format!("merging and retention: {error}")),
            });
        }
    }

    /// Tells those who wait how it goes: with the snapshot, and with retention behind it.
    pub fn tell(&mut self, snapshot: &Answer, retention: &Answer) {
        let mut told = Ok(());
        for (id, open) in &mut self.open {
            let answer = match &open.stage {
                Stage::Waiting | Stage::Begun => snapshot,
                Stage::Keeping(_) => retention,
                Stage::Over(answer) => answer,
            };
            if open.told.as_ref() == Some(answer) {
                continue;
            }
            match write(&self.directory, id, open.retention, answer) {
                Ok(()) => open.told = Some(answer.clone()),
                Err(error) => told = Err(error),
            }
        }
        self.complain(told);
    }

    /// Once for each new text.
    fn complain(&mut self, result: io::Result<()>) {
        let Err(error) = result else { return };
        let error = Error::io(Kind::Database, format!("answer a request in {}", self.directory.display()), &error);
        if self.complaint.as_deref() != Some(error.message()) {
            log::warn("a snapshot that was asked for cannot be answered").cause(&error).emit();
            self.complaint = Some(error.message().to_string());
        }
    }
}

/// Whether nobody waits for it any more. One that cannot be read is taken for one that is waited for.
fn is_unlocked(path: &Path) -> bool {
    let file = Directory::open(parent(path)).and_then(|open| open.read(path.file_name().unwrap_or_default()));
    file.and_then(|file| try_lock(&file)).unwrap_or(false)
}

fn write(directory: &Path, id: &str, retention: bool, answer: &Answer) -> io::Result<()> {
    let (draft, name) = (format!("{DRAFT}{id}"), format!("{ANSWER}{id}"));
    let (draft, open) = (OsStr::new(&draft), Directory::open(directory)?);
    // A new file each time: another user than ours may own the directory, and what lies in it.
    open.remove_if_there(draft)?;
    let mut file = open.create(draft)?;
    writeln!(file, "{answer}")?;
    open.rename(draft, &open, OsStr::new(&name))?;
    // Who asked removes the request first, and then what answer there is: one that came too late nobody else removes.
    match directory.join(name_of(id, retention)).exists() {
        true => Ok(()),
        false => open.remove_if_there(OsStr::new(&name)),
    }
}

/// An answer is a line: of more than that nothing is read.
fn read(path: &Path) -> io::Result<String> {
    let mut line = String::new();
    let file = Directory::open(parent(path))?.read_own(path.file_name().unwrap_or_default())?;
    file.take(MAX_ANSWER).read_to_string(&mut line)?;
    Ok(line)
}

fn name_of(id: &str, retention: bool) -> String {
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
    use crate::format::position::Generation;
    use crate::format::sample::point;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("litestream-request-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    fn position() -> Position {
        Position { generation: Generation::new(7), point: point(1, 20) }
    }

    fn stored() -> Answer {
        Answer::Stored { position: position(), url: "nats://h/b/p q".into() }
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let reading = Answer::Reading { read: 1, total: 2, stored: 3 };
        let table =
            [Answer::Waiting(String::new()), Answer::Waiting("x y".into()), reading, Answer::Keeping(4), stored()];
        for answer in table.into_iter().chain([Answer::Failed("no: why".into())]) {
            assert_eq!(Answer::parse(&format!("{answer}\n")), Some(answer));
        }
        for line in ["", "waiting", "reading 1 2", "reading a b c", "stored x y", "else 1"] {
            assert_eq!(Answer::parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_snapshot_answers_the_requests_that_were_seen_before_it_began() {
        let folder = folder("order");
        let mut desk = Desk::new(&folder);
        let first = Request::place(&folder, false).unwrap();
        desk.look();
        assert!(desk.wants_snapshot());
        desk.begun();
        let second = Request::place(&folder, false).unwrap();
        desk.look();
        desk.stored(position(), "nats://h/b/p q");
        desk.tell(&Answer::Waiting("still".into()), &Answer::Keeping(0));
        assert_eq!(first.answer().unwrap(), Some(stored()));
        assert_eq!(second.answer().unwrap(), Some(Answer::Waiting("still".into())));
        assert!(desk.wants_snapshot(), "for the second one");
        drop((first, second));
        desk.look();
        assert!(desk.is_empty());
        assert_eq!(files(&folder), 0);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_answer_to_who_has_gone_is_not_left_behind() {
        let folder = folder("gone");
        let mut desk = Desk::new(&folder);
        for retention in [false, true] {
            let request = Request::place(&folder, retention).unwrap();
            desk.look();
            drop(request);
            desk.tell(&Answer::Waiting("still".into()), &Answer::Keeping(0));
            assert_eq!(files(&folder), 0);
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_snapshot_that_came_to_nothing_is_still_asked_for() {
        let folder = folder("again");
        let mut desk = Desk::new(&folder);
        let _request = Request::place(&folder, false).unwrap();
        desk.look();
        desk.begun();
        assert!(!desk.wants_snapshot());
        desk.given_up();
        assert!(desk.wants_snapshot());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn retention_that_was_asked_for_is_waited_for() {
        let folder = folder("retention");
        let mut desk = Desk::new(&folder);
        let requests = [(); 2].map(|()| Request::place(&folder, true).unwrap());
        desk.look();
        desk.begun();
        assert!(desk.stored(position(), "u"));
        desk.tell(&Answer::Waiting(String::new()), &Answer::Keeping(3));
        assert_eq!(requests[0].answer().unwrap(), Some(Answer::Keeping(3)));
        assert!(desk.wants_retention());
        desk.kept(Some(&Error::new(Kind::Store, "no")), "u");
        desk.tell(&Answer::Waiting(String::new()), &Answer::Keeping(4));
        assert_eq!(requests[1].answer().unwrap(), Some(Answer::Failed("merging and retention: no".into())));
        assert!(!desk.wants_retention());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn where_there_is_no_place_for_a_request_is_said() {
        let error = Request::place(Path::new("/nowhere/at/all"), false).err().expect("no such directory");
        assert!(error.message().starts_with("ask for a snapshot: write /nowhere/at/all/ask-snapshot-"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.ends_with("as the user that `replicate` runs as")));
    }

    #[test]
    fn what_the_dead_have_left_is_removed() {
        let folder = folder("dead");
        for name in ["ask-snapshot-1", "ask-retention-2", "answer-1", "answer-3", ".answer-4", "lock"] {
            fs::write(folder.join(name), "").unwrap();
        }
        let mut desk = Desk::new(&folder);
        desk.look();
        desk.look();
        assert!(desk.is_empty());
        desk.look();
        assert_eq!(files(&folder), 1, "the lock stays");
        fs::remove_dir_all(&folder).unwrap();
    }
}

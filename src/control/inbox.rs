//! The side that answers: the process that replicates the database.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::control::files::{ANSWER_PREFIX, RETENTION, SNAPSHOT, TEMP_ANSWER, request_name};
use crate::control::reply::SnapshotReply;
use crate::directory::{Directory, parent};
use crate::error::{Error, Kind};
use crate::format::position::Position;
use crate::log;
use crate::log::warn_once::WarnOnce;
use crate::settled::{DirectoryStamp, Settled};

/// The requests that lie before the one who keeps the database.
pub struct RequestInbox {
    directory: PathBuf,
    open: BTreeMap<String, OpenRequest>,
    settled: Settled<DirectoryStamp>,
    warning: WarnOnce,
}

struct OpenRequest {
    retention: bool,
    stage: RequestStage,
    /// It was not locked when it was last looked at.
    abandoned: bool,
    last_reply: Option<SnapshotReply>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum RequestStage {
    Waiting,
    /// The snapshot that will answer it was begun.
    Started,
    /// That snapshot is stored here, and retention is at work.
    Retention(Position),
    Done(SnapshotReply),
}

impl RequestInbox {
    pub fn new(directory: &Path) -> RequestInbox {
        RequestInbox {
            directory: directory.to_path_buf(),
            open: BTreeMap::new(),
            settled: Settled::default(),
            warning: WarnOnce::default(),
        }
    }

    /// Looks for requests that have come and gone. To be called by the holder of the lock alone.
    pub fn scan(&mut self, now: Instant) {
        // The lock of a request that is open may go without a change of the directory.
        if !self.settled.must_read(DirectoryStamp::of(&self.directory), now) && self.is_empty() {
            return;
        }
        let looked = self.names().and_then(|names| self.reconcile(&names));
        if looked.is_err() {
            self.settled = Settled::default();
        }
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
            let new = || OpenRequest { retention, stage: RequestStage::Waiting, abandoned: unlocked, last_reply: None };
            found.insert(id, OpenRequest { abandoned: unlocked, ..before.unwrap_or_else(new) });
        }
        self.open = found;
        let answers = names.iter().filter(|name| match name.strip_prefix(ANSWER_PREFIX) {
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
        self.open.values().any(|open| open.stage == RequestStage::Waiting)
    }

    /// A snapshot was begun.
    pub fn snapshot_started(&mut self) {
        self.open
            .values_mut()
            .filter(|open| open.stage == RequestStage::Waiting)
            .for_each(|open| open.stage = RequestStage::Started);
    }

    /// It came to nothing.
    pub fn snapshot_failed(&mut self) {
        self.open
            .values_mut()
            .filter(|open| open.stage == RequestStage::Started)
            .for_each(|open| open.stage = RequestStage::Waiting);
    }

    /// It is stored. True if retention is asked for now.
    pub fn snapshot_stored(&mut self, position: Position, url: &str) -> bool {
        let mut retention = false;
        for open in self.open.values_mut().filter(|open| open.stage == RequestStage::Started) {
            retention |= open.retention;
            open.stage = match open.retention {
                true => RequestStage::Retention(position),
                false => RequestStage::Done(SnapshotReply::Stored { position, url: url.to_string() }),
            };
        }
        retention
    }

    /// Whether a pass of retention is waited for.
    pub fn wants_retention(&self) -> bool {
        self.open.values().any(|open| matches!(open.stage, RequestStage::Retention(_)))
    }

    /// The pass of retention has ended, with an error or without.
    pub fn retention_done(&mut self, error: Option<&Error>, url: &str) {
        for open in self.open.values_mut() {
            let RequestStage::Retention(position) = open.stage else { continue };
            open.stage = RequestStage::Done(match error {
                None => SnapshotReply::Stored { position, url: url.to_string() },
                Some(error) => SnapshotReply::Failed(format!("compaction and retention: {error}")),
            });
        }
    }

    /// Tells those who wait how it goes: with the snapshot, and with retention after it.
    pub fn reply_all(&mut self, snapshot: &SnapshotReply, retention: &SnapshotReply) {
        let mut told = Ok(());
        for (id, open) in &mut self.open {
            let answer = match &open.stage {
                RequestStage::Waiting | RequestStage::Started => snapshot,
                RequestStage::Retention(_) => retention,
                RequestStage::Done(answer) => answer,
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

    fn warn_once(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            let what = format!("answer a request in {}", self.directory.display());
            let error = Error::io(Kind::Database, what, &error);
            self.warning.log(|| log::warn("cannot answer a request for a snapshot"), &error);
        }
    }
}

/// Whether nobody waits for it any more. One that cannot be read is taken for one that is waited for.
fn is_abandoned(path: &Path) -> bool {
    let file = Directory::open(parent(path)).and_then(|open| open.read(path.file_name().unwrap_or_default()));
    file.is_ok_and(|file| file.try_lock().is_ok())
}

fn write(directory: &Path, id: &str, retention: bool, answer: &SnapshotReply) -> io::Result<()> {
    let (draft, name) = (format!("{TEMP_ANSWER}{id}"), format!("{ANSWER_PREFIX}{id}"));
    let (draft, open) = (OsStr::new(&draft), Directory::open(directory)?);
    // A new file each time: another user than ours may own the directory, and what lies in it.
    open.remove_if_exists(draft)?;
    let mut file = open.create(draft)?;
    writeln!(file, "{answer}")?;
    open.rename(draft, &open, OsStr::new(&name))?;
    // Who asked removes the request first, and then what answer there is: one that came too late nobody else removes.
    match directory.join(request_name(id, retention)).exists() {
        true => Ok(()),
        false => open.remove_if_exists(OsStr::new(&name)),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::request::SnapshotRequest;
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

    fn stored() -> SnapshotReply {
        SnapshotReply::Stored { position: position(), url: "nats://h/b/p q".into() }
    }

    #[test]
    fn snapshot_answers_the_requests_seen_before_its_start() {
        let folder = folder("order");
        let mut inbox = RequestInbox::new(&folder);
        let first = SnapshotRequest::create(&folder, false).unwrap();
        inbox.scan(Instant::now());
        assert!(inbox.wants_snapshot());
        inbox.snapshot_started();
        let second = SnapshotRequest::create(&folder, false).unwrap();
        inbox.scan(Instant::now());
        inbox.snapshot_stored(position(), "nats://h/b/p q");
        inbox.reply_all(&SnapshotReply::Waiting("still".into()), &SnapshotReply::Retention(0));
        assert_eq!(first.read_reply().unwrap(), Some(stored()));
        assert_eq!(second.read_reply().unwrap(), Some(SnapshotReply::Waiting("still".into())));
        assert!(inbox.wants_snapshot(), "for the second one");
        drop((first, second));
        inbox.scan(Instant::now());
        assert!(inbox.is_empty());
        assert_eq!(files(&folder), 0);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_answer_to_who_has_gone_is_not_left_behind() {
        let folder = folder("gone");
        let mut inbox = RequestInbox::new(&folder);
        for retention in [false, true] {
            let request = SnapshotRequest::create(&folder, retention).unwrap();
            inbox.scan(Instant::now());
            drop(request);
            inbox.reply_all(&SnapshotReply::Waiting("still".into()), &SnapshotReply::Retention(0));
            assert_eq!(files(&folder), 0);
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_snapshot_that_came_to_nothing_is_still_asked_for() {
        let folder = folder("again");
        let mut inbox = RequestInbox::new(&folder);
        let _request = SnapshotRequest::create(&folder, false).unwrap();
        inbox.scan(Instant::now());
        inbox.snapshot_started();
        assert!(!inbox.wants_snapshot());
        inbox.snapshot_failed();
        assert!(inbox.wants_snapshot());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn retention_that_was_asked_for_is_waited_for() {
        let folder = folder("retention");
        let mut inbox = RequestInbox::new(&folder);
        let requests = [(); 2].map(|()| SnapshotRequest::create(&folder, true).unwrap());
        inbox.scan(Instant::now());
        inbox.snapshot_started();
        assert!(inbox.snapshot_stored(position(), "u"));
        inbox.reply_all(&SnapshotReply::Waiting(String::new()), &SnapshotReply::Retention(3));
        assert_eq!(requests[0].read_reply().unwrap(), Some(SnapshotReply::Retention(3)));
        assert!(inbox.wants_retention());
        inbox.retention_done(Some(&Error::new(Kind::StoreRefused, "no")), "u");
        inbox.reply_all(&SnapshotReply::Waiting(String::new()), &SnapshotReply::Retention(4));
        assert_eq!(
            requests[1].read_reply().unwrap(),
            Some(SnapshotReply::Failed("compaction and retention: no".into()))
        );
        assert!(!inbox.wants_retention());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn request_before_a_directory_at_rest_is_seen() {
        let folder = folder("rest");
        let (mut inbox, begun) = (RequestInbox::new(&folder), Instant::now());
        let later = |seconds| begun + Duration::from_secs(seconds);
        (0..10).for_each(|second| inbox.scan(later(second)));
        // The clock of the file system ticks.
        std::thread::sleep(Duration::from_millis(50));
        let request = SnapshotRequest::create(&folder, false).unwrap();
        inbox.scan(later(10));
        assert!(inbox.wants_snapshot());
        // It is looked at as long as it is there: its asker may die, and the directory stays as it is.
        (11..20).for_each(|second| inbox.scan(later(second)));
        assert!(inbox.wants_snapshot());
        drop(request);
        inbox.scan(later(20));
        assert!(inbox.is_empty());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_the_dead_have_left_is_removed() {
        let folder = folder("dead");
        for name in ["ask-snapshot-1", "ask-retention-2", "answer-1", "answer-3", ".answer-4", "lock"] {
            fs::write(folder.join(name), "").unwrap();
        }
        let mut inbox = RequestInbox::new(&folder);
        inbox.scan(Instant::now());
        inbox.scan(Instant::now());
        assert!(inbox.is_empty());
        inbox.scan(Instant::now());
        assert_eq!(files(&folder), 1, "the lock stays");
        fs::remove_dir_all(&folder).unwrap();
    }
}

//! Whether the database is still the one that was opened: no other file has its names, and nobody but SQLite writes to it.

use std::time::Instant;

use crate::directory;
use crate::error::{Kind, Result};
use crate::fault;
use crate::settled::DirectoryStamps;
use crate::source::file_stamp::FileStamp;
use crate::source::file_state::{FileState, IndexState};
use crate::source::identity::{self, FileIdentity};
use crate::source::{GenerationEnd, Source};

impl Source {
    /// Whether another file has taken one of the names, or the content of the database file was replaced by something
    /// other than a checkpoint. `sure`: there is no time for a second look.
    pub fn replaced_file(&mut self, sure: bool) -> Result<Option<GenerationEnd>> {
        self.look(sure, None)
    }

    /// The same, each second: a stat(2) of the database, and one of its directory for all databases in it. As long as the
    /// directory has the same stamp, none of its names means another file; as long as the database has, its header is the
    /// same. (Another file that is mounted over a name changes no directory: of the database that is seen.)
    pub fn changed_file(&mut self, directories: &mut DirectoryStamps, now: Instant) -> Result<Option<GenerationEnd>> {
        // What the file system tells of times cannot be trusted there.
        let trusted = !self.options.allow_network;
        self.look(false, Some((directories, now)).filter(|_| trusted))
    }

    fn look(&mut self, sure: bool, stamps: Option<(&mut DirectoryStamps, Instant)>) -> Result<Option<GenerationEnd>> {
        fault::point("source.look")?;
        let before = IndexState::read(&self.files.index);
        let (names, now) = match stamps {
            // Before the names are read, so that what changes meanwhile is seen the next time.
            Some((directories, now)) => {
                let stamp = directories.of(directory::parent(&self.files.path), now);
                (self.file_watch.names.must_read(stamp, now), Some(now))
            }
            None => (true, None),
        };
        let found = match identity::stat(&self.files.path) {
            Ok(found) => found,
            Err(error) if error.kind() == Kind::DatabaseNotReady => {
                return Ok(Some(GenerationEnd::Replaced("database file deleted")));
            }
            Err(error) => return Err(error),
        };
        let identity = match names {
            true => FileIdentity::beside(&self.files.path, &found),
            false => self.files.identity.with_database(&found),
        };
        if let Some(what) = self.files.identity.changed(&identity) {
            return Ok(Some(GenerationEnd::Replaced(what)));
        }
        // A -wal that began after the start.
        self.files.identity = identity;
        if self.was_written() {
            self.checkpoints.forget_wal_length();
        }
        let known = now.and_then(|now| self.file_watch.known_header(FileStamp::new(&found), now));
        let state = match known {
            Some(header) => FileState::new(before?, &found, header),
            None => FileState::read(before?, &found, self.pins.idle_connection())?,
        };
        Ok(self.watch_file(state, sure))
    }

    fn watch_file(&mut self, now: FileState, sure: bool) -> Option<GenerationEnd> {
        let behind = self.files.index.progress();
        self.file_watch.check(now, behind, !self.options.allow_network, sure)
    }

    fn overwritten(&mut self, sure: bool) -> Result<Option<GenerationEnd>> {
        let Some(now) = self.file_state()? else { return Ok(None) };
        Ok(self.watch_file(now, sure))
    }

    /// Whether the database file is what it was, but for checkpoints: ours hide no other change.
    pub(super) fn may_checkpoint(&mut self) -> bool {
        matches!(self.overwritten(false), Ok(None)) && !self.file_watch.is_suspect()
    }

    pub(super) fn has_checkpointed(&mut self) {
        let now = self.file_state().ok().flatten();
        self.file_watch.rebase(now);
    }

    pub(super) fn file_state(&self) -> Result<Option<FileState>> {
        let before = IndexState::read(&self.files.index)?;
        let Ok(found) = identity::stat(&self.files.path) else { return Ok(None) };
        FileState::read(before, &found, self.pins.idle_connection()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::Live;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::time::Duration;

    fn with_end(path: &Path, end: &str) -> PathBuf {
        PathBuf::from(format!("{}{end}", path.display()))
    }

    /// Another file takes this name. The one that had it is not opened: closing it would drop SQLite's locks.
    fn replace(path: &Path) {
        let other = with_end(path, "-other");
        fs::write(&other, [0; 32]).unwrap();
        fs::rename(other, path).unwrap();
    }

    /// Until what is written next has a later time than all in `folder`.
    fn clock_of_files_ticks(folder: &Path) {
        let probe = with_end(folder, "-probe");
        let modified = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
        let newest = || fs::read_dir(folder).unwrap().map(|entry| modified(&entry.unwrap().path())).max().unwrap();
        let last = newest().max(modified(folder));
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            fs::write(&probe, "").unwrap();
            if modified(&probe) > last {
                return fs::remove_file(probe).unwrap();
            }
            assert!(Instant::now() < end);
        }
    }

    /// Looks are cheap by then: nothing is read that the stamps speak for.
    #[test]
    fn what_changes_after_a_long_rest_is_seen_by_the_next_looks() {
        type Change = fn(&Path);
        let table: [(&str, Change, &str); 7] = [
            ("database", replace, "database file replaced"),
            ("-wal", |path| replace(&with_end(path, "-wal")), "-wal file replaced"),
            ("-shm", |path| replace(&with_end(path, "-shm")), "-shm file replaced"),
            ("no-shm", |path| fs::remove_file(with_end(path, "-shm")).unwrap(), "-shm file replaced"),
            ("deleted", |path| fs::remove_file(path).unwrap(), "database file deleted"),
            (
                "folder",
                |path| fs::rename(directory::parent(path), with_end(directory::parent(path), "-moved")).unwrap(),
                "database file deleted",
            ),
            (
                "copied-over",
                |path| {
                    let other = with_end(path, "-other");
                    fs::write(&other, [0; 4096]).unwrap();
                    // Another process: ours keeps its locks.
                    assert!(Command::new("cp").arg(other).arg(path).status().unwrap().success());
                },
                "",
            ),
        ];
        for (name, change, expected) in table {
            let folder = std::env::temp_dir().join(format!("litestream-look-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            let live = Live::at(folder.join("a.db"));
            let mut source = live.follow();
            let (begun, mut stamps) = (Instant::now(), DirectoryStamps::default());
            let mut look = |seconds| source.changed_file(&mut stamps, begun + Duration::from_secs(seconds)).unwrap();
            for second in [0, 1, 3, 4, 100] {
                assert_eq!(look(second), None, "{name} at {second}");
            }
            clock_of_files_ticks(&folder);
            change(&live.path);
            let found = look(101).or_else(|| look(102));
            let seen = match &found {
                Some(GenerationEnd::Replaced(what)) => *what == expected,
                Some(GenerationEnd::Overwritten) => expected.is_empty(),
                _ => false,
            };
            assert!(seen, "{name}: {found:?}");
            drop((source, live));
            let _ = fs::remove_dir_all(&folder);
            let _ = fs::remove_dir_all(with_end(&folder, "-moved"));
        }
    }

    /// What the stamps speak for is not read again, and what is committed in the meantime changes nothing of that.
    #[test]
    fn header_is_read_again_only_after_a_change() {
        let live = Live::new("known");
        let source = &mut live.follow();
        let begun = Instant::now();
        let mut known = |seconds| {
            let stamp = source.stamp().unwrap();
            source.file_watch.known_header(stamp, begun + Duration::from_secs(seconds)).is_some()
        };
        assert_eq!([0, 1, 3, 4, 5].map(&mut known), [false, false, false, true, true]);
        assert!(Command::new("touch").arg(&live.path).status().unwrap().success());
        assert!(!known(6));
    }
}

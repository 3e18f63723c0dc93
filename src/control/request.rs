//! The side that asks.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::control::files::{ANSWER_PREFIX, request_name};
use crate::control::reply::SnapshotReply;
use crate::directory::{Directory, parent};
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::random;

/// In bytes.
const MAX_ANSWER: u64 = 64 << 10;

/// A request that was made. Taken back when dropped.
pub struct SnapshotRequest {
    path: PathBuf,
    answer: PathBuf,
    /// Its lock says that the asker lives.
    _file: File,
}

impl SnapshotRequest {
    /// Asks the holder of the lock in `directory` for a snapshot, and for a pass of retention after it.
    ///
    /// Errors: there is no place for the request.
    pub fn create(directory: &Path, retention: bool) -> Result<SnapshotRequest> {
        fault::point("request.place")?;
        let id = format!("{:016x}", random::random_below(u64::MAX));
        let path = directory.join(request_name(&id, retention));
        let answer = directory.join(format!("{ANSWER_PREFIX}{id}"));
        let place = || {
            let file = Directory::open(directory)?.create(path.file_name().unwrap_or_default())?;
            match file.try_lock() {
                Err(TryLockError::Error(e)) => Err(e),
                _ => Ok(file),
            }
        };
        match place() {
            Ok(file) => Ok(SnapshotRequest { path, answer, _file: file }),
            Err(e) => Err(Error::io(Kind::Database, format!("request a snapshot: write {}", path.display()), &e)
                .with_hint("run `snapshot` as the user that `replicate` runs as")),
        }
    }

    /// Whether it still lies there: it is taken for that of a dead asker if it was not locked for a second.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// The last answer, if there is one.
    pub fn read_reply(&self) -> Result<Option<SnapshotReply>> {
        match read(&self.answer) {
            Ok(line) => Ok(SnapshotReply::parse(&line)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(Kind::Database, format!("read {}", self.answer.display()), &e)),
        }
    }
}

impl Drop for SnapshotRequest {
    fn drop(&mut self) {
        // What stays is removed by the process that replicates the database.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(&self.answer);
    }
}

/// An answer is a line: of more than that nothing is read.
fn read(path: &Path) -> io::Result<String> {
    Directory::open(parent(path))?.read_text(path.file_name().unwrap_or_default(), MAX_ANSWER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_place_for_a_request_is_said() {
        let error = SnapshotRequest::create(Path::new("/nowhere/at/all"), false).err().expect("no such directory");
        assert!(error.message().starts_with("request a snapshot: write /nowhere/at/all/ask-snapshot-"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.ends_with("as the user that `replicate` runs as")));
    }
}

//! Whether the database is still the one that was opened: no other file has its names, and nobody but SQLite writes to it.

use crate::error::{Kind, Result};
use crate::fault;
use crate::source::file_state::{FileState, IndexState};
use crate::source::identity::{self, FileIdentity};
use crate::source::{GenerationEnd, Source};

impl Source {
    /// Whether another file has taken one of the names, or the content of the database file was replaced by something
    /// other than a checkpoint. Worth a look each second: a few calls of stat(2). `sure`: there is no time for a second
    /// look.
    pub fn replaced_file(&mut self, sure: bool) -> Result<Option<GenerationEnd>> {
        fault::point("source.look")?;
        let before = IndexState::read(&self.files.index);
        let found = match identity::stat(&self.files.path) {
            Ok(found) => found,
            Err(error) if error.kind() == Kind::DatabaseNotReady => {
                return Ok(Some(GenerationEnd::Replaced("database file deleted")));
            }
            Err(error) => return Err(error),
        };
        let now = FileIdentity::beside(&self.files.path, &found);
        if let Some(what) = self.files.identity.changed(&now) {
            return Ok(Some(GenerationEnd::Replaced(what)));
        }
        // A -wal that began after the start.
        self.files.identity = now;
        let now = FileState::read(before?, &found, self.pins.idle_connection())?;
        Ok(self.watch_file(now, sure))
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

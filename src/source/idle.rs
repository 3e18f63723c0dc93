//! Skips the polling of an idle database until inotify reports a write.
//!
//! Every commit writes frames to the WAL before it is published in the wal-index, and every checkpoint that could wait
//! for our pin writes pages to the database file first: inotify reports either no later than what must be seen. (What a
//! RESTART or TRUNCATE waits for besides is a pin on READ1 to READ4 while nothing is left to write back; a database whose
//! file has everything is idle only after the pin has moved to READ0, which neither of them waits for.)

use crate::error::Result;
use crate::log;
use crate::source::inotify::{FileWatch, Inotify};
use crate::source::repinning::IDLE_REPINS;
use crate::source::{Source, wal_file};

/// After this many commits without an event inotify is not used any more. One can happen: its
/// frames were written before the watch began, and published long after (a slow disk).
const MAX_MISSED: u8 = 2;

/// The watches on one database.
#[derive(Default)]
pub(super) struct IdleWatches {
    active: Option<Vec<FileWatch>>,
    missed_events: u8,
}

impl Source {
    /// Asks for word of the next write. False if it cannot be had, or if there is something to do now.
    pub fn watch_for_writes(&mut self, watch: &mut Inotify) -> Result<bool> {
        self.idle_watches.active = None;
        if self.idle_watches.missed_events >= MAX_MISSED || !self.is_idle()? {
            return Ok(false);
        }
        if let (Some(database), Some(wal)) =
            (watch.watch_once(&self.files.path), watch.watch_once(&wal_file::wal_path(&self.files.path)))
        {
            self.idle_watches.active = Some(vec![database, wal]);
        }
        Ok(self.idle_watches.active.is_some())
    }

    /// Asks for word of the next commit alone, whatever else there is to do. False if it cannot be had.
    pub fn watch_for_commits(&mut self, watch: &mut Inotify) -> bool {
        self.idle_watches.active = None;
        if self.idle_watches.missed_events < MAX_MISSED {
            let wal = watch.watch_once(&wal_file::wal_path(&self.files.path));
            self.idle_watches.active = wal.map(|wal| vec![wal]);
        }
        self.idle_watches.active.is_some()
    }

    /// Whether there is a commit that was not given out, or one may come of which there is no word any more: its frames were
    /// written before [`Source::watch_for_commits`], and it is not published yet.
    pub fn expects_commit(&mut self) -> Result<bool> {
        let writing = self.foreign_locks.has_writer(self.files.identity.index);
        let header = self.header()?;
        Ok(writing || !self.is_copied(&header))
    }

    /// Whether there was word of a write since [`Source::watch_for_writes`] or [`Source::watch_for_commits`].
    pub fn was_written(&self) -> bool {
        self.idle_watches.active.as_ref().is_none_or(|wires| wires.iter().any(FileWatch::was_written))
    }

    /// A commit has come and there was no word of it.
    pub fn record_missed_event(&mut self) {
        self.idle_watches.missed_events = self.idle_watches.missed_events.saturating_add(1);
        if self.idle_watches.missed_events == MAX_MISSED {
            log::debug("no inotify events here, polling at every tick").field("db", self.files.path.display()).emit();
        }
    }

    /// It is at rest: what is not needed to look at it is given back.
    pub fn release_memory(&self) {
        self.files.index.release_memory();
        self.pins.release_memory();
    }

    /// Everything is given out, and the pin is where it makes nobody wait.
    fn is_idle(&mut self) -> Result<bool> {
        let header = self.header()?;
        let given_out = header == self.pin.header && self.is_copied(&header) && !self.checkpoints.is_blocking();
        Ok(given_out && (!header.is_backfilled() || self.pin.idle_repins >= IDLE_REPINS))
    }
}

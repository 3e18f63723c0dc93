//! A private copy of the database that is led from one stored state to the next, to prove what is stored.

use std::fs::File;
use std::io::{self, Read, Seek};

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::key::{SegmentKey, SnapshotKey};
use crate::format::plan::{Plan, StopAt};
use crate::format::position::WalPosition;
use crate::restore::apply::{RestoredEnd, ResumableRestore, apply_object, apply_until, restore_resumable};
use crate::restore::scratch::scratch;
use crate::store::Store;

/// The copy, and where it is.
pub struct Replay<'a> {
    store: &'a dyn Store,
    clock: &'a dyn Clock,
    file: File,
    /// None only while it is led on, and after an error.
    held: Option<ResumableRestore>,
    position: WalPosition,
}

impl<'a> Replay<'a> {
    /// Begins with a snapshot of so many bytes.
    ///
    /// Errors: as for a restore.
    pub fn of(store: &'a dyn Store, clock: &'a dyn Clock, (snapshot, size): (SnapshotKey, u64)) -> Result<Replay<'a>> {
        let plan = Plan {
            snapshot,
            snapshot_size: size,
            segments: Vec::new(),
            stop: StopAt::End,
            warnings: Vec::new(),
            fallback_hint: String::new(),
        };
        let file = scratch()?;
        let (_, held) = restore_resumable(store, clock, &plan, &file, &mut |_| ())?;
        Ok(Replay { store, clock, file, held: Some(held), position: snapshot.position })
    }

    /// Another copy that is where this one is.
    pub fn fork(&self) -> Result<Replay<'a>> {
        let file = scratch()?;
        let failed = |error: std::io::Error| Error::io(Kind::Database, "copy a temporary file", &error);
        (&self.file).rewind().map_err(failed)?;
        io::copy(&mut &self.file, &mut &file).map_err(failed)?;
        Ok(Replay { file, ..*self })
    }

    /// The copy itself, and what is known of it; none after an error.
    pub fn database(&self) -> Option<(&File, RestoredEnd)> {
        self.held.as_ref().map(|held| (&self.file, held.end()))
    }

    /// Where it is.
    pub fn position(&self) -> WalPosition {
        self.position
    }

    /// The checksum of the whole database there; none after an error.
    pub fn checksum(&self) -> Option<DatabaseChecksum> {
        self.held.as_ref().map(|held| held.end().checksum)
    }

    /// Leads it to `stop`, along the segments of `chain` that lie between.
    ///
    /// Errors: as for a restore. It is worth nothing then.
    pub fn lead(&mut self, chain: &[(SegmentKey, u64)], stop: WalPosition) -> Result<()> {
        if stop <= self.position {
            return Ok(());
        }
        let between = chain.iter().filter(|(key, _)| key.end > self.position && key.start < stop);
        let between: Vec<(SegmentKey, u64)> = between.copied().collect();
        if let Some(held) = self.held.take() {
            let (_, held) = apply_until(self.store, self.clock, held, (&between, stop), &self.file)?;
            (self.held, self.position) = (Some(held), stop);
        }
        Ok(())
    }

    /// Applies one object that need not be stored: `bytes` is what it holds.
    ///
    /// Errors: as for a restore. It is worth nothing then.
    pub fn apply<R: Read>(&mut self, key: &SegmentKey, bytes: R) -> Result<()> {
        if let Some(held) = self.held.take() {
            let held = apply_object(self.store, self.clock, held, (key, bytes), &self.file)?;
            (self.held, self.position) = (Some(held), key.end);
        }
        Ok(())
    }
}

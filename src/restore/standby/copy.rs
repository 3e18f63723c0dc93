//! The copy that a standby keeps: a database in WAL mode beside its notes. See [`crate::source::page_writer`] for what
//! readers see.
//!
//! A position is noted before the transaction that leads there is committed. Whatever happens then, the copy is at a noted
//! position or at none, and its checksum says at which. At none it is restored again.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::clock::Clock;
use crate::directory::parent;
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::key::SegmentKey;
use crate::format::time::Timestamp;
use crate::log;
use crate::restore::apply::{self, RestoreResult, ResumableRestore};
use crate::restore::output_file::{Overwrite, TemporaryFile};
use crate::restore::standby::notes::Notes;
use crate::restore::standby::output::{TransactionOutput, from_wal_mode, to_wal_mode};
use crate::restore::standby::record::{CopyIdentity, CopyRecord};
use crate::source::Comparison;
use crate::source::page_writer::PageWriter;
use crate::store::Store;

/// The WAL of a copy is emptied when it has so many frames more than what a reader kept there, as SQLite itself would.
const CHECKPOINT_FRAMES: u32 = 1000;
/// A database has at least so many bytes.
const HEADER_BYTES: usize = 100;

/// A copy that is there.
pub struct Copy {
    output: PathBuf,
    notes: Notes,
    /// None while another process writes to it.
    writer: Option<PageWriter>,
    /// The file is no database that can be written to, and must be replaced.
    broken: bool,
    /// Where it is; none if it is at no position that is known.
    at: Option<ResumableRestore>,
    versions: [u8; 2],
    /// The length of the WAL at which it is emptied.
    checkpoint_at: u32,
}

impl Copy {
    /// The copy that an earlier run has left; none if there is none, or if what has its name is another file, or a copy of
    /// something else.
    ///
    /// Errors: of kind `Locked`, if another process follows with it; of kind `DatabaseNotReady`, if one writes to it.
    pub fn find(output: &Path, source: &str) -> Result<Option<Copy>> {
        let Some(notes) = Notes::find(output)? else { return Ok(None) };
        let file = output.symlink_metadata().ok().filter(fs::Metadata::is_file);
        if !file.is_some_and(|file| notes.identity().is(file.ino(), source)) {
            return Ok(None);
        }
        let mut copy = Copy {
            output: output.to_path_buf(),
            notes,
            writer: None,
            broken: false,
            at: None,
            versions: [2, 2],
            checkpoint_at: CHECKPOINT_FRAMES,
        };
        copy.open()?;
        Ok(Some(copy))
    }

    /// Where it is; none if that is not known.
    pub fn at(&self) -> Option<ResumableRestore> {
        self.at
    }

    /// Which file it is.
    pub fn file(&self) -> u64 {
        self.notes.identity().inode
    }

    /// Another process sees this time in the notes as that of the last contact.
    pub fn note_contact(&self, time: Timestamp) {
        self.notes.touch(time);
    }

    /// What stands in the file, as if it had just been restored.
    pub fn shown(&self) -> Option<RestoreResult> {
        let at = self.at?;
        let end = at.end();
        let bytes = u64::from(end.pages) * u64::from(end.chain_end.page_size.get());
        let recipients = usize::from(end.encrypted);
        Some(RestoreResult { position: at.position(), time: end.time, bytes, read: 0, recipients })
    }

    /// Opens the database where it is not.
    ///
    /// Errors: of kind `Database`, if it has lost its name; of kind `DatabaseNotReady`, if another process writes to it.
    pub fn ensure_open(&mut self) -> Result<()> {
        self.require_name()?;
        if self.writer.is_none() && !self.broken { self.open() } else { Ok(()) }
    }

    /// Opens the database and finds by its checksum at which of the noted positions it is: reads all of it.
    fn open(&mut self) -> Result<()> {
        self.require_name()?;
        (self.writer, self.at) = (None, None);
        let writer = match PageWriter::open(&self.output) {
            Err(error) if error.kind() == Kind::Database => {
                log::warn("copy cannot be opened, making it anew").error(&error).emit();
                self.broken = true;
                return Ok(());
            }
            opened => opened?,
        };
        let mut candidates: Vec<CopyRecord> = self.notes.records().to_vec();
        candidates
            .retain(|noted| noted.end.pages == writer.pages() && noted.end.chain_end.page_size == writer.page_size());
        // As a rule all of them have the same versions: the database is read once.
        while let (None, Some(versions)) = (self.at, candidates.last().map(|noted| noted.versions)) {
            let sum = writer.checksum(writer.pages(), &|first| from_wal_mode(first, versions))?.sum();
            let equal = candidates.iter().rev().find(|noted| noted.versions == versions && noted.end.checksum == sum);
            if let Some(noted) = equal {
                (self.at, self.versions) = (Some(ResumableRestore::at(&noted.end)), versions);
            }
            candidates.retain(|noted| noted.versions != versions);
        }
        if self.at.is_none() {
            log::warn("copy is at no known position, making it anew").field("path", self.output.display()).emit();
        }
        self.writer = Some(writer);
        Ok(())
    }

    /// Another program's file is neither written to nor replaced.
    ///
    /// Errors: of kind `Database`, if another file has the name by now, or none.
    fn require_name(&mut self) -> Result<()> {
        let identity = self.notes.identity();
        let found = self.output.symlink_metadata();
        if found.is_ok_and(|file| identity.is(file.ino(), &identity.source)) {
            return Ok(());
        }
        // What has the name now must not meet a WAL that is not its own.
        if let Some(mut writer) = self.writer.take() {
            let _ = writer.checkpoint();
        }
        Err(Error::new(Kind::Database, format!("copy {}: it has lost its name", self.output.display()))
            .with_hint("another file was put in its place, or it was removed: start restore -f again"))
    }

    /// Looks again where it is, after an error. True if it is still where it was taken to be.
    pub fn is_unharmed(&mut self) -> Result<bool> {
        let before = self.at.map(|at| at.end());
        self.open()?;
        Ok(before.is_some() && before == self.at.map(|at| at.end()))
    }

    /// Makes a copy of what was restored into `fresh`, in place of whatever has its name.
    pub fn publish(
        fresh: TemporaryFile,
        at: ResumableRestore,
        output: &Path,
        source: &str,
        overwrite: Overwrite,
    ) -> Result<Copy> {
        let versions = set_wal_mode(&fresh)?;
        let identity = CopyIdentity::new(inode(&fresh)?, source);
        let notes = Notes::create(output, identity, CopyRecord { end: at.end(), versions })?;
        if let Err(error) = fresh.publish(output, overwrite) {
            let _ = notes.remove();
            return Err(error);
        }
        let (writer, at) = (Some(PageWriter::open(output)?), Some(at));
        let (output, broken) = (output.to_path_buf(), false);
        Ok(Copy { output, notes, writer, broken, at, versions, checkpoint_at: CHECKPOINT_FRAMES })
    }

    /// Makes it what was restored into `fresh`: in one transaction, so that those who have it open go on; where that cannot
    /// be (another page size, a file that is no database any more), in another file under the same name.
    pub fn replace(&mut self, fresh: TemporaryFile, at: ResumableRestore, source: &str) -> Result<()> {
        self.require_name()?;
        match &mut self.writer {
            Some(writer) if writer.page_size() == at.end().chain_end.page_size => self.overwrite(fresh, at),
            _ => self.replace_file(fresh, at, source),
        }
    }

    fn replace_file(&mut self, fresh: TemporaryFile, at: ResumableRestore, source: &str) -> Result<()> {
        // What is only in the WAL would be gone with it, if we died before the new file has the name.
        if let Some(writer) = &mut self.writer
            && !writer.checkpoint()?
        {
            let what = format!("copy {}: a reader keeps it from being replaced", self.output.display());
            return Err(Error::new(Kind::DatabaseNotReady, what));
        }
        (self.writer, self.at) = (None, None);
        let versions = set_wal_mode(&fresh)?;
        let identity = CopyIdentity::new(inode(&fresh)?, source);
        let before = self.notes.identity().inode;
        let record = CopyRecord { end: at.end(), versions };
        self.notes.begin(CopyIdentity { before: Some(before), ..identity.clone() }, record)?;
        fresh.publish(&self.output, Overwrite::Always)?;
        self.notes.begin(identity, record)?;
        self.writer = Some(PageWriter::open(&self.output)?);
        (self.at, self.versions, self.broken) = (Some(at), versions, false);
        Ok(())
    }

    fn overwrite(&mut self, fresh: TemporaryFile, at: ResumableRestore) -> Result<()> {
        let versions = set_wal_mode(&fresh)?;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let end = at.end();
        let size = u64::from(writer.page_size().get());
        let failed = |e: std::io::Error| Error::io(Kind::Database, format!("read {}", fresh.path.display()), &e);
        let (mut new, mut old) =
            (vec![0; writer.page_size().get() as usize], vec![0; writer.page_size().get() as usize]);
        let mut transaction = writer.begin()?;
        for number in 1..=end.pages {
            fresh.file.read_exact_at(&mut new, u64::from(number - 1) * size).map_err(failed)?;
            transaction.read(number, &mut old)?;
            if old != new {
                transaction.write(number, &new)?;
            }
        }
        self.notes.add(CopyRecord { end, versions })?;
        transaction.commit(end.pages)?;
        (self.at, self.versions) = (Some(at), versions);
        self.checkpoint_if_due()
    }

    /// Applies segments that end a transaction and continue what is there: all of them become visible at once.
    ///
    /// Errors: as for [`apply::apply_more`]; the copy is then what it was.
    pub fn apply(
        &mut self,
        store: &dyn Store,
        clock: &dyn Clock,
        segments: &[(SegmentKey, u64)],
    ) -> Result<RestoreResult> {
        self.require_name()?;
        let unknown =
            || Error::new(Kind::Database, format!("copy {}: its position is not known", self.output.display()));
        let (Some(writer), Some(at)) = (&mut self.writer, self.at) else { return Err(unknown()) };
        let (page_size, versions) = (writer.page_size(), Cell::new(self.versions));
        let mut transaction = writer.begin()?;
        let directory = parent(&self.output);
        let output = TransactionOutput { transaction: &mut transaction, page_size, directory, versions: &versions };
        let (restored, further) = apply::apply_more(store, clock, at, segments, output)?;
        let end = further.end();
        self.notes.add(CopyRecord { end, versions: versions.get() })?;
        transaction.commit(end.pages)?;
        (self.at, self.versions) = (Some(further), versions.get());
        fault::point("standby.applied")?;
        self.checkpoint_if_due()?;
        Ok(restored)
    }

    /// Reads its next pages, about so many bytes, to compare all of it with the checksum of its position.
    ///
    /// Errors: of kind `AnotherDatabase`, if another process has written to it.
    pub fn compare(&mut self, bytes: usize) -> Result<Comparison> {
        self.require_name()?;
        let (Some(writer), Some(at)) = (&mut self.writer, self.at) else { return Ok(Comparison::Waiting) };
        let versions = self.versions;
        writer.compare(bytes, at.end().checksum, &|first| from_wal_mode(first, versions))
    }

    /// Proves it once more, and makes it a database like any other.
    ///
    /// Errors: of kind `DatabaseNotReady`, if a reader keeps the WAL from being emptied. It is a copy still.
    pub fn promote(mut self) -> Result<RestoreResult> {
        let output = self.output.display().to_string();
        if !self.is_unharmed()? {
            return Err(Error::new(Kind::Database, format!("copy {output}: it is not what was applied to it"))
                .with_hint("its disk or memory is faulty, or another process wrote to it; promote it again"));
        }
        let emptied = self.writer.as_mut().map_or(Ok(false), PageWriter::checkpoint)?;
        let (true, Some(shown)) = (emptied, self.shown()) else {
            let what = format!("copy {output}: a reader keeps its WAL from being emptied");
            return Err(Error::new(Kind::DatabaseNotReady, what)
                .with_hint("end the read transactions that are open, and promote it again"));
        };
        self.writer = None;
        self.notes.remove()?;
        Ok(shown)
    }

    fn checkpoint_if_due(&mut self) -> Result<()> {
        match &self.writer {
            Some(writer) if writer.wal_frames() >= self.checkpoint_at => self.checkpoint(),
            _ => Ok(()),
        }
    }

    /// Empties the WAL, if no reader needs it. Everything is durable then.
    pub fn checkpoint(&mut self) -> Result<()> {
        let (Some(writer), Some(at)) = (&mut self.writer, self.at) else { return Ok(()) };
        let done = writer.checkpoint()?;
        self.checkpoint_at = writer.wal_frames().saturating_add(CHECKPOINT_FRAMES);
        match done {
            true => self.notes.keep_only(CopyRecord { end: at.end(), versions: self.versions }),
            false => Ok(()),
        }
    }
}

/// Puts a file that has no name yet into WAL mode; what it said before.
fn set_wal_mode(fresh: &TemporaryFile) -> Result<[u8; 2]> {
    fault::point("standby.mode")?;
    let failed = |e: std::io::Error| Error::io(Kind::Database, format!("write {}", fresh.path.display()), &e);
    let mut header = [0; HEADER_BYTES];
    match fresh.file.read_exact_at(&mut header, 0) {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(Error::new(Kind::NothingToRestore, "the stored database has no page yet"));
        }
        read => read.map_err(failed)?,
    }
    let before = to_wal_mode(&mut header).unwrap_or_default();
    fresh.file.write_all_at(&header, 0).map_err(failed)?;
    Ok(before)
}

fn inode(fresh: &TemporaryFile) -> Result<u64> {
    let failed = |e: std::io::Error| Error::io(Kind::Database, format!("stat {}", fresh.path.display()), &e);
    Ok(fresh.file.metadata().map_err(failed)?.ino())
}

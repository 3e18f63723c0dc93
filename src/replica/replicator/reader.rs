//! The one reader of a database: its lock, the way to its first pin, and the note that it leaves.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::backup::checkpoint_note::{CheckpointNote, NoteKeeper};
use crate::backup::stored_end::{ResumeCheck, StoredEnd};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::format::position::Position;
use crate::log;
use crate::replica::replicator::RETRY_DELAY;
use crate::replica::replicator::incremental::{IncrementalAt, IncrementalRead};
use crate::replica::replicator::open_database::{OpenDatabase, TIME_SLICE};
use crate::replica::replicator::page_sums_keeper::PageSumsKeeper;
use crate::replica::replicator::settings::{Settings, SharedBuffers};
use crate::source::{self, CHECKPOINT_PATIENCE, CHECKPOINT_PAUSE, GenerationEnd, Lock, LockWait, Source};

/// How long the first pin stays while a database is compared with what is stored, no matter who waits for it.
const COMPARE_PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct DatabaseReader {
    settings: Rc<Settings>,
    name: String,
    // Dropped before the database, whose connections must be the last ones.
    page_sums: Option<PageSumsKeeper>,
    pub(super) stage: ReaderStage,
    /// What differs from what sides have stored, at the place where the database was opened.
    pub(super) incremental: Option<IncrementalAt>,
    lock: Option<Lock>,
    /// Another process has the lock, which ends by itself: nothing is done before that.
    waits_for_lock: bool,
    pub(super) retry_at: Instant,
    /// It has followed its database.
    pub(super) begun: bool,
    /// A checkpoint of the application waited for our first pin: until then, that pin is not kept.
    lets_checkpoint_pass_until: Option<Instant>,
    /// None where no note is kept.
    note: Option<NoteKeeper>,
}

pub(super) enum ReaderStage {
    Closed,
    /// The database file is read to tell whether it is the one that is stored.
    Comparing(Box<ComparingFile>),
    /// It is read to find what differs from what is stored.
    Incremental(Box<IncrementalRead>),
    Open(Box<OpenDatabase>),
}

/// A database that is compared with the end of what one side has stored.
pub(super) struct ComparingFile {
    source: Source,
    /// The side that may go on there.
    pub(super) side: usize,
    pub(super) end: StoredEnd,
    note: CheckpointNote,
    check: ResumeCheck,
    begun: Instant,
}

impl ComparingFile {
    /// The positions that the note of the last run has of the file as it is.
    pub(super) fn noted_positions(&self) -> Vec<Position> {
        self.note.positions(&self.source)
    }
}

/// What a comparison has come to.
pub(super) enum Compared {
    /// Others have their turn first.
    More(Box<ComparingFile>),
    /// The source is at the end, or it says why it cannot be.
    Done(Box<Source>, std::result::Result<(), GenerationEnd>),
}

impl DatabaseReader {
    pub(super) fn new(settings: Rc<Settings>, now: Instant) -> DatabaseReader {
        DatabaseReader {
            name: settings.path.display().to_string(),
            page_sums: settings.keep_page_sums.then(|| PageSumsKeeper::new(settings.meta(), now)),
            stage: ReaderStage::Closed,
            incremental: None,
            lock: None,
            waits_for_lock: false,
            retry_at: now,
            begun: false,
            lets_checkpoint_pass_until: None,
            note: settings.keep_note.then(|| NoteKeeper::new(settings.meta())),
            settings,
        }
    }

    pub(super) fn open_database(&self) -> Option<&OpenDatabase> {
        match &self.stage {
            ReaderStage::Open(database) => Some(database),
            _ => None,
        }
    }

    pub(super) fn open_database_mut(&mut self) -> Option<&mut OpenDatabase> {
        match &mut self.stage {
            ReaderStage::Open(database) => Some(database),
            _ => None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open_database().is_some()
    }

    /// Whether all that is committed was read, as far as the last round saw.
    pub(super) fn is_caught_up(&self) -> bool {
        self.open_database().is_some_and(|database| database.caught_up)
    }

    pub(super) fn has_lock(&self) -> bool {
        self.lock.is_some()
    }

    /// Takes the lock, if the database can be followed at all; one that never can be is refused before anything else.
    /// A process that has the lock and ends by itself is waited for, by the polls that follow.
    ///
    /// Errors: as [`source::check`], and [`Kind::Locked`].
    pub(super) fn check_database(&mut self) -> Result<()> {
        source::check(&self.settings.path, &self.settings.source)?;
        match self.take_lock() {
            Err(error) if error.kind() == Kind::DatabaseNotReady => {
                log::info("waiting for the lock").field("db", &self.name).error(&error).emit();
                self.waits_for_lock = true;
                Ok(())
            }
            taken => taken,
        }
    }

    /// Takes the lock, so that nobody else follows the database.
    ///
    /// Errors: of kind `Locked` if another process has it, `DatabaseNotReady` if that one can be waited for.
    pub(super) fn take_lock(&mut self) -> Result<()> {
        if self.lock.is_none() {
            let stay = if self.settings.wait_for_database { LockWait::UntilStopped } else { LockWait::UntilDone };
            self.lock = Some(Lock::take(&self.settings.meta(), &self.settings.path, stay)?);
        }
        Ok(())
    }

    /// Tries again where the lock is waited for: its holder keeps the store for itself, too. True if it is ours, or not
    /// waited for.
    pub(super) fn wait_for_lock(&mut self, now: Instant) -> Result<bool> {
        if self.waits_for_lock {
            if now < self.retry_at {
                return Ok(false);
            }
            match self.take_lock() {
                Err(error) if error.kind() == Kind::DatabaseNotReady => {
                    self.retry_at = now + RETRY_DELAY;
                    return Ok(false);
                }
                taken => taken?,
            }
            log::info("the lock is free").field("db", &self.name).emit();
            self.waits_for_lock = false;
        }
        Ok(true)
    }

    /// Opens the database, which pins it. None where a checkpoint of the application waits for that pin, to try again.
    pub(super) fn open_source(&mut self, now: Instant) -> Result<Option<Source>> {
        let mut source = Source::open(&self.settings.path, &self.settings.source)?;
        if source.has_waiting_checkpoint() && self.yields_to_checkpoint(now) {
            return Ok(None);
        }
        self.lets_checkpoint_pass_until = None;
        Ok(Some(source))
    }

    /// Whether to try again in a moment, because a checkpoint of the application waits for our first pin. Not for ever: it may
    /// wait for another process.
    fn yields_to_checkpoint(&mut self, now: Instant) -> bool {
        let until = *self.lets_checkpoint_pass_until.get_or_insert(now + CHECKPOINT_PATIENCE);
        self.retry_at = now + CHECKPOINT_PAUSE;
        now < until
    }

    /// Begins to compare the database with what is stored.
    pub(super) fn comparing(&self, source: Source, side: usize, end: StoredEnd, now: Instant) -> Box<ComparingFile> {
        let note = CheckpointNote::read(&self.settings.meta());
        Box::new(ComparingFile { source, side, end, note, check: ResumeCheck::Begin, begun: now })
    }

    /// The source goes on at the end of what is stored, if that is possible. A large file is read for longer than a turn:
    /// other databases have theirs in between.
    pub(super) fn compare(
        &self,
        mut comparing: Box<ComparingFile>,
        buffer: &mut [u8],
        clock: &dyn Clock,
    ) -> Result<Compared> {
        let turn = clock.now() + TIME_SLICE;
        loop {
            let ComparingFile { source, end, note, check, .. } = &mut *comparing;
            let step = match end.resume_step(source, note, check, buffer) {
                Err(error) if check.is_only_proof() => {
                    self.warn_not_compared(&error);
                    Some(check.give_up())
                }
                step => step?,
            };
            match step {
                Some(resumed) => return Ok(Compared::Done(Box::new(comparing.source), resumed)),
                None if clock.now() >= turn => {
                    let late = clock.now() - comparing.begun >= COMPARE_PATIENCE;
                    if late && comparing.source.has_waiting_checkpoint() {
                        return Ok(self.give_up_comparing(*comparing));
                    }
                    return Ok(Compared::More(comparing));
                }
                None => {}
            }
        }
    }

    /// A page that cannot be read keeps no commit from being stored: the WAL has told where the copy continues.
    fn warn_not_compared(&self, error: &Error) {
        log::warn("database not compared with what is stored").field("db", &self.name).error(error).emit();
    }

    /// The pin does not move before the database is read, and an application's checkpoint waits for it.
    fn give_up_comparing(&self, comparing: ComparingFile) -> Compared {
        log::warn("database not compared with its backup, a checkpoint of the application was waiting")
            .field("db", &self.name)
            .emit();
        Compared::Done(Box::new(comparing.source), comparing.check.give_up())
    }

    /// Lets go of the database.
    pub(super) fn close(&mut self, reason: Option<&GenerationEnd>) {
        self.page_sums.iter_mut().for_each(PageSumsKeeper::close);
        self.incremental = None;
        let stage = std::mem::replace(&mut self.stage, ReaderStage::Closed);
        let replaced = matches!(reason, Some(GenerationEnd::Replaced(_) | GenerationEnd::Overwritten));
        match stage {
            ReaderStage::Open(database) if replaced => database.source.close(),
            stage => drop(stage),
        }
    }

    /// Whether the end of the run may come, as far as what is left for the next start matters.
    pub(super) fn notes_are_over(&self) -> bool {
        self.note.as_ref().is_none_or(NoteKeeper::is_over)
            && self.page_sums.as_ref().is_none_or(PageSumsKeeper::is_over)
    }

    /// Whether the database is read for the checksums of its pages.
    pub(super) fn is_keeping_page_sums(&self) -> bool {
        self.page_sums.as_ref().is_some_and(PageSumsKeeper::is_reading)
    }

    /// Leaves the checksums of all pages for the next start. With `positions` all is stored up to there.
    pub(super) fn keep_page_sums(
        &mut self,
        positions: Option<&[Position]>,
        closing: bool,
        tools: &mut SharedBuffers,
        clock: &dyn Clock,
    ) {
        let (Some(sums), ReaderStage::Open(database)) = (&mut self.page_sums, &mut self.stage) else { return };
        let source = &mut database.source;
        let kept = match (closing, positions) {
            (false, _) => sums.poll(source, positions, (&mut tools.buffer, &tools.page_sums_turn), clock),
            (true, Some(positions)) => sums.poll_end(source, positions, &mut tools.buffer, clock),
            (true, None) => Ok(()),
        };
        if let Err(error) = kept {
            log::debug("cannot keep the page checksums").field("db", &self.name).error(&error).emit();
        }
    }

    /// Leaves word of the database file for the next start: it is at `positions`, if nothing is missing in it.
    pub(super) fn keep_note(&mut self, positions: &[Position], closing: bool, now: Instant) {
        let (Some(note), ReaderStage::Open(database)) = (&mut self.note, &mut self.stage) else { return };
        if let Err(error) = note.poll(&mut database.source, positions, closing, now) {
            log::debug("cannot note the state of the database file").field("db", &self.name).error(&error).emit();
        }
    }
}

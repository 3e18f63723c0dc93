//! What ends: a generation that cannot go on, the copy of a database that is another one, and the program if an error leaves
//! nothing to do.

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::replica::replicator::settings::WakeOn;
use crate::replica::replicator::side::{Side, ends_program};
use crate::replica::replicator::{RETRY_DELAY, Replicator};
use crate::source::GenerationEnd;

impl Replicator {
    /// Others have room: those that have none do not keep them waiting.
    pub(super) fn end_where_full(&mut self, clock: &dyn Clock) -> Result<()> {
        self.end_where(clock, |side| side.is_full().then_some(GenerationEnd::Backlog)).map(|_| ())
    }

    /// Ends the generations for which there is a reason. True if there was one.
    pub(super) fn end_where(
        &mut self,
        clock: &dyn Clock,
        reason: impl Fn(&Side) -> Option<GenerationEnd>,
    ) -> Result<bool> {
        let writing = self.sides.iter().enumerate().filter(|(_, side)| side.is_writing());
        let ended: Vec<_> = writing.filter_map(|(at, side)| Some((at, reason(side)?))).collect();
        for (at, reason) in &ended {
            self.end_one(*at, reason.clone(), clock)?;
        }
        Ok(!ended.is_empty())
    }

    pub(super) fn end_one(&mut self, at: usize, reason: GenerationEnd, clock: &dyn Clock) -> Result<()> {
        match self.sides.get_mut(at).map(|side| side.end_generation(reason, clock.now())) {
            Some(Err(error)) => self.handle_side_error(at, error, clock),
            _ => Ok(()),
        }
    }

    /// The database is the reason: no generation can go on.
    pub(super) fn end_generations(&mut self, reason: &GenerationEnd, clock: &dyn Clock) -> Result<WakeOn> {
        self.end_where(clock, |_| Some(reason.clone()))?;
        self.answered_at = None;
        self.reader.close(Some(reason));
        Ok(WakeOn::Immediately)
    }

    /// Decides whether an error of the database ends the program.
    pub(super) fn handle_reader_error(&mut self, error: Error, clock: &dyn Clock) -> Result<WakeOn> {
        if ends_program(&error, !self.reader.begun, &self.settings) {
            return Err(error);
        }
        self.sides.iter_mut().for_each(|side| side.report(&error, clock));
        if let Some(reason) = self.replaced(error.kind()) {
            return self.end_generations(&reason, clock);
        }
        if error.kind() != Kind::DatabaseNotReady {
            // Everything is closed, and the WAL must show that it can be continued.
            self.sides.iter_mut().for_each(|side| side.wait_for_reader(clock.now()));
            self.reader.close(None);
        }
        if !self.reader.is_open() {
            self.reader.retry_at = clock.now() + RETRY_DELAY;
        }
        Ok(WakeOn::NextTick)
    }

    /// Whether the error comes of a file that is another one now.
    fn replaced(&mut self, kind: Kind) -> Option<GenerationEnd> {
        let database = self.reader.open_database_mut()?;
        if !matches!(kind, Kind::Database | Kind::DatabaseNotReady) {
            return None;
        }
        database.source.replaced_file(kind == Kind::Database).ok().flatten()
    }

    /// What is wrong in one store ends the program only if there is no other to write to.
    ///
    /// Errors: those that end the program.
    pub(super) fn handle_side_error(&mut self, at: usize, error: Error, clock: &dyn Clock) -> Result<()> {
        let Some(side) = self.sides.get_mut(at) else { return Ok(()) };
        let Err(error) = side.handle_error(error, clock) else { return Ok(()) };
        let others = self.sides.iter().enumerate().any(|(other, side)| other != at && side.failure().is_none());
        match self.sides.get_mut(at) {
            Some(side) if others => side.fail(error, clock),
            _ => return Err(error),
        }
        Ok(())
    }
}

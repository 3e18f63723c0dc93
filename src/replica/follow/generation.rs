//! New generations: their numbers, and the clock that may be wrong.

use crate::clock::Clock;
use crate::error::{Context, Result};
use crate::format::numbering::HighWaterMark;
use crate::format::time::Timestamp;
use crate::log;
use crate::replica::follow::live::Following;
use crate::replica::follow::{Follower, Stage};
use crate::replica::tail::End;
use crate::replica::writer::Writer;
use crate::source::{Reason, Source};
use crate::store::random;

impl Follower {
    /// Begins a generation at the commit that `source` has pinned.
    ///
    /// Errors: of kind `Corrupt` if no greater number is left.
    pub(super) fn begin_generation(&mut self, source: Source, reason: &Reason, clock: &dyn Clock) -> Result<Following> {
        let next = self.known.newest.next(clock.wall(), random::below(u64::MAX));
        let (generation, time) = next.context(|| self.store.url().to_string())?;
        self.known.newest = HighWaterMark { generation: Some(generation), moment: time };
        self.owner.knows([generation]);
        self.generation_begun = Some(clock.now());
        self.tally.generation(reason);
        log::info("new generation")
            .field("db", &self.name)
            .field("generation", generation)
            .field("reason", reason)
            .emit();
        let end = End::begin(generation, &source.start(), time);
        self.force_snapshot = false;
        Ok(Following::new(source, Writer::new(end), clock.now(), Some(clock.now())))
    }

    /// Says once that the clock is behind what is stored.
    pub(super) fn check_clock(&mut self, wall: Timestamp) {
        let copied = match &self.stage {
            Stage::Following(following) => following.writer.end().time,
            _ => Timestamp::default(),
        };
        let newest = HighWaterMark { moment: self.known.newest.moment.max(copied), ..self.known.newest };
        let refuted = newest.refutes(wall);
        if refuted && !self.clock_refuted {
            warn_clock(&self.name, &newest, wall);
        }
        self.clock_refuted = refuted;
    }
}

/// Logs that a clock is not believed.
pub fn warn_clock(database: &str, newest: &HighWaterMark, wall: Timestamp) {
    log::warn("clock is behind what is stored, new commits get the newest stored time until it catches up")
        .field("db", database)
        .field("clock", wall)
        .field("newest_stored", newest.moment)
        .emit();
}

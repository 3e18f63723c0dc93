//! New generations: their numbers, and the clock that may be wrong.

use crate::backup::stored_end::StoredEnd;
use crate::clock::Clock;
use crate::error::{Result, ResultExt};
use crate::format::generation_number::HighWaterMark;
use crate::format::time::Timestamp;
use crate::log;
use crate::random;
use crate::replica::replicator::active::ActiveDatabase;
use crate::replica::replicator::{Replicator, Stage};
use crate::replica::segment_builder::SegmentBuilder;
use crate::source::{GenerationEnd, Source};

impl Replicator {
    /// Begins a generation at the commit that `source` has pinned.
    ///
    /// Errors: of kind `Corrupt` if no greater number is left.
    pub(super) fn start_generation(
        &mut self,
        source: Source,
        reason: &GenerationEnd,
        clock: &dyn Clock,
    ) -> Result<ActiveDatabase> {
        let next = self.store_summary.newest.next_generation(clock.utc_now(), random::random_below(u64::MAX));
        let (generation, time) = next.context(|| self.store.url().to_string())?;
        self.store_summary.newest = HighWaterMark { generation: Some(generation), moment: time };
        self.writer.add_generations([generation]);
        self.generation_started = Some(clock.now());
        self.counters.generation(reason);
        log::info("new generation")
            .field("db", &self.name)
            .field("generation", generation)
            .field("reason", reason)
            .emit();
        let end = StoredEnd::at_snapshot(generation, &source.start(), time);
        self.force_snapshot = false;
        let level = self.settings.compression_level;
        Ok(ActiveDatabase::new(source, SegmentBuilder::new(end), level, clock.now(), Some(clock.now())))
    }

    /// Says once that the clock is behind what is stored.
    pub(super) fn check_clock(&mut self, wall: Timestamp) {
        let copied = match &self.stage {
            Stage::Active(following) => following.writer.end().time,
            _ => Timestamp::default(),
        };
        let newest =
            HighWaterMark { moment: self.store_summary.newest.moment.max(copied), ..self.store_summary.newest };
        let refuted = newest.is_clock_behind(wall);
        if refuted && !self.clock_warned {
            warn_clock(&self.name, &newest, wall);
        }
        self.clock_warned = refuted;
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

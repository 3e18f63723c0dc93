//! Generations: where one goes on, how one begins and ends, and the clock that may be wrong.

use std::time::{Duration, Instant};

use crate::backup::stored_end::StoredEnd;
use crate::clock::Clock;
use crate::error::{Result, ResultExt};
use crate::format::generation_number::HighWaterMark;
use crate::format::position::Position;
use crate::format::time::Timestamp;
use crate::log;
use crate::random;
use crate::replica::replicator::RETRY_DELAY;
use crate::replica::replicator::side::{Side, SideStage, Writing, spool};
use crate::replica::segment_builder::SegmentBuilder;
use crate::replica::upload_queue::UploadQueue;
use crate::source::{GenerationEnd, WalMark};

/// A generation that ends this soon after its start is a sign of trouble: the next one waits.
const MIN_GENERATION_AGE: Duration = Duration::from_secs(10);

impl Side {
    /// Goes on behind `end`: where the reader is, or `behind` that.
    pub(in crate::replica::replicator) fn continue_generation(
        &mut self,
        end: StoredEnd,
        behind: bool,
        clock: &dyn Clock,
    ) {
        let position = end.position();
        self.name.tag(log::info("continuing")).field("position", position).emit();
        self.stored = self.stored.or(Some(position));
        self.force_snapshot |= self.settings.snapshot_if_long && self.store_summary.chain.is_long_with(0);
        self.write_behind(end, position, behind, clock);
    }

    /// Writes what follows `end`. `snapshot_at`: what is committed after that may need a snapshot.
    pub(super) fn write_behind(&mut self, end: StoredEnd, snapshot_at: Position, behind: bool, clock: &dyn Clock) {
        let age = self.store_summary.last_snapshot.map(|last| clock.utc_now().since(last));
        let snapshot_due = match (age, self.settings.snapshot_interval) {
            (Some(age), Some(interval)) => Some(clock.now() + interval.saturating_sub(age)),
            _ => None,
        };
        let mut writing = Writing::new(SegmentBuilder::new(end), clock.now(), snapshot_due);
        (writing.snapshot_at, writing.behind) = (Some(snapshot_at), behind);
        self.write(writing);
    }

    /// Begins a generation at the commit where the reader is.
    ///
    /// Errors: of kind `Corrupt` if no greater number is left.
    pub(in crate::replica::replicator) fn start_generation(
        &mut self,
        place: &WalMark,
        reason: &GenerationEnd,
        clock: &dyn Clock,
    ) -> Result<()> {
        let next = self.store_summary.newest.next_generation(clock.utc_now(), random::random_below(u64::MAX));
        let next = next.context(|| self.store.url().to_string()).inspect_err(|_| {
            // What is in the way is looked for anew: the operator may have removed it.
            self.stage = SideStage::starting(&self.store);
        });
        let (generation, time) = next?;
        self.store_summary.newest = HighWaterMark { generation: Some(generation), moment: time };
        self.writer.add_generations([generation]);
        self.generation_started = Some(clock.now());
        self.counters.generation(reason);
        self.name.tag(log::info("new generation")).field("generation", generation).field("reason", reason).emit();
        let end = StoredEnd::at_snapshot(generation, place, time);
        self.force_snapshot = false;
        let mut builder = SegmentBuilder::new(end);
        builder.set_differences(false);
        self.write(Writing::new(builder, clock.now(), Some(clock.now())));
        Ok(())
    }

    fn write(&mut self, writing: Writing) {
        (self.identified, self.begun) = (true, true);
        self.missed_end = None;
        self.stage = SideStage::Writing(Box::new(writing));
    }

    /// The generation ends. What was copied of it is stored all the same; then a new one begins with a snapshot.
    pub(in crate::replica::replicator) fn end_generation(&mut self, reason: GenerationEnd, now: Instant) -> Result<()> {
        let stage = std::mem::replace(&mut self.stage, SideStage::Ready(Err(reason.clone())));
        if let SideStage::Writing(mut writing) = stage {
            if let Some(segment) = writing.builder.finish() {
                self.uploads.push(segment, now);
            }
            self.store_summary.newest.moment = self.store_summary.newest.moment.max(writing.builder.end().time);
        }
        if matches!(reason, GenerationEnd::StoredHistoryIsGone | GenerationEnd::SpoolLost) {
            self.uploads = UploadQueue::new(self.store.clone(), spool(&self.settings, &self.target));
        }
        self.name.tag(log::warn("generation ended")).field("reason", &reason).emit();
        if self.generation_started.is_some_and(|begun| now.duration_since(begun) < MIN_GENERATION_AGE) {
            self.retry_at = now + RETRY_DELAY;
        }
        if self.uploads.is_empty() {
            // Nothing in the spool continues anything any more.
            self.uploads.adopt_spool(None, now)?;
        }
        Ok(())
    }

    /// The reader has lost its database: it goes on behind what it was given, if the WAL shows that it can.
    pub(in crate::replica::replicator) fn wait_for_reader(&mut self, now: Instant) {
        let Some(writing) = self.writing_mut() else { return };
        let (last, end) = (writing.builder.finish(), *writing.builder.end());
        if let Some(segment) = last {
            self.uploads.push(segment, now);
        }
        self.stage = SideStage::Ready(Ok(end));
    }

    /// As at a start: it goes on where the stored history ends, if the WAL still holds what follows, or begins a new
    /// generation with a snapshot.
    pub(super) fn restart_from_store(&mut self, clock: &dyn Clock) {
        let now = clock.now();
        self.store_summary.newest.moment = self.newest_time();
        self.stage = SideStage::starting(&self.store);
        self.uploads = UploadQueue::new(self.store.clone(), spool(&self.settings, &self.target));
        (self.stored, self.newest_object) = (None, None);
        self.audit.reset(now);
        if let Err(error) = self.uploads.adopt_spool(None, now) {
            self.report(&error, clock);
        }
    }

    /// Says once that the clock is behind what is stored.
    pub(in crate::replica::replicator) fn check_clock(&mut self, wall: Timestamp) {
        let newest = HighWaterMark { moment: self.newest_time(), ..self.store_summary.newest };
        let refuted = newest.is_clock_behind(wall);
        if refuted && !self.clock_warned {
            warn_clock(self.name.database(), &newest, wall);
        }
        self.clock_warned = refuted;
    }
}

/// Logs that a clock is not believed.
pub fn warn_clock(database: &str, newest: &HighWaterMark, wall: Timestamp) {
    log::warn("clock behind the newest stored commit, using its time")
        .field("db", database)
        .field("clock", wall)
        .field("newest_stored", newest.moment)
        .emit();
}

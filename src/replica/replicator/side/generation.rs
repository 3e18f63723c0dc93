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
use crate::replica::replicator::side::incremental::StoredChanges;
use crate::replica::replicator::side::{Side, SideStage, Writing};
use crate::replica::segment_builder::SegmentBuilder;
use crate::source::{GenerationEnd, WalMark};

/// A generation that ends this soon after its start is a sign of trouble: the next one waits.
const MIN_GENERATION_AGE: Duration = Duration::from_secs(10);

/// How the generations of this replica have gone so far.
pub(super) struct GenerationHistory {
    /// It has been given what is committed: until then, nothing is stored.
    pub(super) begun: bool,
    /// When the last new one began.
    pub(super) last_start: Option<Instant>,
    /// Nothing is tried before this.
    pub(super) retry_at: Instant,
    /// The stored end that the database does not continue, though only commits are missing between.
    pub(super) missed_end: Option<StoredEnd>,
    /// What of its pages changed since an earlier run has kept their checksums.
    pub(super) changes: StoredChanges,
    pub(super) spool_adopted: bool,
}

impl GenerationHistory {
    pub(super) fn new(now: Instant) -> GenerationHistory {
        GenerationHistory {
            begun: false,
            last_start: None,
            retry_at: now,
            missed_end: None,
            changes: StoredChanges::NotAsked,
            spool_adopted: false,
        }
    }
}

impl Side {
    /// Goes on after `end`: where the reader is, or `behind` that.
    pub(in crate::replica::replicator) fn continue_generation(
        &mut self,
        end: StoredEnd,
        behind: bool,
        clock: &dyn Clock,
    ) {
        let position = end.position();
        self.replica.name.tag(log::info("continuing")).field("position", position).emit();
        self.acknowledged.continue_from(position);
        self.requests.force_snapshot |=
            self.replica.settings.snapshot_if_long && self.store_summary.chain.is_long_with(0);
        self.write_behind(end, position, behind, clock);
    }

    /// Writes what follows `end`. `snapshot_at`: what is committed after that may need a snapshot.
    pub(super) fn write_behind(&mut self, end: StoredEnd, snapshot_at: Position, behind: bool, clock: &dyn Clock) {
        let age = self.store_summary.last_snapshot.map(|last| clock.utc_now().since(last));
        let snapshot_due = match (age, self.replica.settings.snapshot_interval) {
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
        let next = next.with_context(|| self.replica.store.url().to_string()).inspect_err(|_| {
            // The store is listed again for what is in the way: the operator may have removed it.
            self.stage = SideStage::starting(&self.replica.store);
        });
        let (generation, time) = next?;
        self.store_summary.newest = HighWaterMark { generation: Some(generation), moment: time };
        self.access.writer.add_generations([generation]);
        self.generations.last_start = Some(clock.now());
        self.health.counters.generation(reason);
        self.replica
            .name
            .tag(log::info("new generation"))
            .field("generation", generation)
            .field("reason", reason)
            .emit();
        let end = StoredEnd::at_snapshot(generation, place, time);
        self.requests.force_snapshot = false;
        let mut builder = SegmentBuilder::new(end);
        builder.set_differences(false);
        self.write(Writing::new(builder, clock.now(), Some(clock.now())));
        Ok(())
    }

    fn write(&mut self, writing: Writing) {
        (self.ownership.identified, self.generations.begun) = (true, true);
        self.forget_missed_end();
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
            self.uploads = self.replica.upload_queue();
        }
        self.replica.name.tag(log::warn("generation ended")).field("reason", &reason).emit();
        if self.generations.last_start.is_some_and(|begun| now.duration_since(begun) < MIN_GENERATION_AGE) {
            self.generations.retry_at = now + RETRY_DELAY;
        }
        if self.uploads.is_empty() {
            // Nothing in the spool continues anything any more.
            self.uploads.adopt_spool(None, now)?;
        }
        Ok(())
    }

    /// The reader has lost its database: it goes on after what it was given, if the WAL shows that it can.
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
        self.stage = SideStage::starting(&self.replica.store);
        self.uploads = self.replica.upload_queue();
        self.acknowledged.forget_end();
        self.audit.reset(now);
        if let Err(error) = self.uploads.adopt_spool(None, now) {
            self.report(&error, clock);
        }
    }

    /// Says once that the clock is behind what is stored.
    pub(in crate::replica::replicator) fn check_clock(&mut self, wall: Timestamp) {
        let newest = HighWaterMark { moment: self.newest_time(), ..self.store_summary.newest };
        let refuted = newest.is_clock_behind(wall);
        if refuted && !self.health.clock_warned {
            warn_clock(self.replica.name.database(), &newest, wall);
        }
        self.health.clock_warned = refuted;
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

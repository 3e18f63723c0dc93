//! A start that has missed commits: it goes on by what differs from the newest stored one, where that can be told, and else
//! with a new generation.

use std::task::Poll;
use std::time::Instant;

use crate::backup::stored_end::StoredEnd;
use crate::clock::Clock;
use crate::error::Result;
use crate::format::chain::ChainBytes;
use crate::log;
use crate::replica::replicator::Replicator;
use crate::replica::replicator::incremental::{IncrementalProgress, IncrementalRead, IncrementalStart};
use crate::replica::replicator::open_database::TIME_SLICE;
use crate::replica::replicator::reader::ReaderStage;
use crate::replica::replicator::settings::{SharedBuffers, WakeOn};
use crate::replica::replicator::side::Side;
use crate::source::Source;

impl Replicator {
    /// A side that may go on by what differs from its end.
    pub(super) fn missed_end(&self, now: Instant) -> Option<(usize, StoredEnd)> {
        let waiting = self.sides.iter().enumerate().filter(|(_, side)| side.wants_database(now));
        waiting.filter_map(|(at, side)| Some((at, side.missed_end()?))).max_by_key(|(_, end)| end.time)
    }

    /// Whether a store is being asked which pages it has changed since the page checksums were kept. No pin is held meanwhile.
    pub(super) fn waits_for_changes(&mut self, clock: &dyn Clock) -> Result<bool> {
        let now = clock.now();
        let missed = if self.newest_end(now).is_none() { self.missed_end(now) } else { None };
        let Some((at, _)) = missed else { return Ok(false) };
        match self.sides.get_mut(at).map(|side| side.poll_changes(now)) {
            Some(Ok(Poll::Pending)) => Ok(true),
            Some(Err(error)) => self.handle_side_error(at, error, clock).map(|()| true),
            Some(Ok(Poll::Ready(()))) | None => Ok(false),
        }
    }

    pub(super) fn begin_incremental(
        &mut self,
        source: Source,
        (at, end): (usize, StoredEnd),
        tools: &mut SharedBuffers,
        clock: &dyn Clock,
    ) -> Result<WakeOn> {
        let side = self.sides.get(at);
        let stored = (side.map_or_else(ChainBytes::default, Side::chain_bytes), side.and_then(Side::changes_since));
        let begun = IncrementalRead::begin(source, &end, stored, &self.settings.meta(), clock.now());
        match begun.inspect_err(|_| self.forget_missed_ends())? {
            IncrementalStart::Reading(reading) => self.read_incremental(reading, tools, clock),
            IncrementalStart::No(source) => {
                self.forget_missed_ends();
                self.opened(*source, None, None, clock)
            }
            IncrementalStart::Again => Ok(WakeOn::NextTick),
        }
    }

    pub(super) fn continue_incremental(&mut self, tools: &mut SharedBuffers, clock: &dyn Clock) -> Result<WakeOn> {
        match std::mem::replace(&mut self.reader.stage, ReaderStage::Closed) {
            ReaderStage::Incremental(reading) => self.read_incremental(reading, tools, clock),
            _ => Ok(WakeOn::Immediately),
        }
    }

    fn read_incremental(
        &mut self,
        mut reading: Box<IncrementalRead>,
        tools: &mut SharedBuffers,
        clock: &dyn Clock,
    ) -> Result<WakeOn> {
        let turn = clock.now() + TIME_SLICE;
        loop {
            match reading.step(&mut tools.buffer).inspect_err(|_| self.forget_missed_ends())? {
                IncrementalProgress::Done => {
                    let (source, found) = reading.finish();
                    self.reader.incremental = Some(found);
                    return self.opened(source, None, None, clock);
                }
                IncrementalProgress::Full(why) => return self.give_up_incremental(*reading, why.text(), clock),
                IncrementalProgress::More if clock.now() < turn => {}
                IncrementalProgress::More if reading.must_give_way(clock.now()) => {
                    return self.give_up_incremental(*reading, "a checkpoint of the application was waiting", clock);
                }
                IncrementalProgress::More => {
                    self.reader.stage = ReaderStage::Incremental(reading);
                    return Ok(WakeOn::Immediately);
                }
            }
        }
    }

    fn give_up_incremental(&mut self, reading: IncrementalRead, why: &str, clock: &dyn Clock) -> Result<WakeOn> {
        log::info("full snapshot instead of an incremental one").field("db", &self.name).field("reason", why).emit();
        self.forget_missed_ends();
        self.opened(reading.give_up(), None, None, clock)
    }

    /// They begin new generations.
    fn forget_missed_ends(&mut self) {
        self.sides.iter_mut().for_each(Side::forget_missed_end);
    }
}

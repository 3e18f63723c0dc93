//! A database that is open: copied round by round, and read whole for a snapshot.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::Result;
use crate::format::position::Position;
use crate::replica::follow::settings::Tools;
use crate::replica::follow::{LOOK, RETRY, ROUNDS};
use crate::replica::outbox::Outbox;
use crate::replica::snapshot::SnapshotUpload;
use crate::replica::writer::Writer;
use crate::source::{Copied, Reason, Source};
use crate::store::Store;

/// Between two looks for a commit whose frames are being written.
const EAGER: Duration = Duration::from_millis(2);
/// A copy of much goes on after other databases have had their turn.
pub(super) const TURN: Duration = Duration::from_millis(20);
/// A commit whose frames were written before there was word of writes is published within this time.
const DOZE: Duration = Duration::from_secs(2);

pub(super) struct Following {
    // Dropped in this order: the snapshot's connection, then the source's.
    pub(super) snapshot: Option<SnapshotUpload>,
    pub(super) source: Source,
    pub(super) writer: Writer,
    pub(super) next_tick: Instant,
    pub(super) next_look: Instant,
    pub(super) last_close: Option<Instant>,
    pub(super) snapshot_due: Option<Instant>,
    /// After an attempt that failed: not sooner than this, and how long the next pause is.
    pub(super) snapshot_not_before: Instant,
    pub(super) snapshot_pause: Duration,
    /// The point of the last snapshot that was begun: an idle database needs no second one.
    pub(super) snapshot_at: Option<Position>,
    /// Nothing committed is left uncopied, as far as the last round saw.
    pub(super) drained: bool,
    pub(super) rest: Rest,
    /// There was word of a write and no commit yet: until then it is looked for more often.
    pub(super) eager_until: Option<Instant>,
}

/// Whether it is enough to wait for word of the next write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rest {
    None,
    /// Word will come. Looked at each tick all the same until then: a commit may be on its way that was written before.
    Armed(Instant),
    Asleep,
}

/// How far a copy came.
enum Drain {
    Ended,
    /// Others have their turn now.
    More,
    Lost(Reason),
}

/// How a round ended.
pub(super) enum Round {
    Done,
    Again,
    Lost(Reason),
}

impl Following {
    pub(super) fn new(source: Source, writer: Writer, now: Instant, snapshot_due: Option<Instant>) -> Following {
        Following {
            snapshot: None,
            source,
            writer,
            next_tick: now,
            next_look: now + LOOK,
            last_close: None,
            snapshot_due,
            snapshot_not_before: now,
            snapshot_pause: RETRY,
            snapshot_at: None,
            drained: false,
            rest: Rest::None,
            eager_until: None,
        }
    }

    /// Copies what is committed, and moves the pin behind it.
    pub(super) fn round(&mut self, tools: &mut Tools, clock: &dyn Clock, outbox: &mut Outbox) -> Result<Round> {
        self.rounds(tools, clock, outbox).inspect_err(|_| self.source.let_writers_go())
    }

    fn rounds(&mut self, tools: &mut Tools, clock: &dyn Clock, outbox: &mut Outbox) -> Result<Round> {
        let mut rounds = 0;
        // Whoever holds writers off goes on, however long it took already.
        while rounds < ROUNDS || self.source.holds_writers() {
            rounds += 1;
            if !self.source.changed(clock.now())? && self.drained {
                return Ok(Round::Done);
            }
            self.drained = false;
            self.eager_until = None;
            match self.drain(tools, clock, outbox)? {
                Drain::Ended => {}
                Drain::More => return Ok(Round::Again),
                Drain::Lost(reason) => return Ok(Round::Lost(reason)),
            }
            if !self.source.advance(clock.now())? {
                return Ok(Round::Done);
            }
        }
        Ok(Round::Again)
    }

    /// Copies until nothing is left or the outbox is full, but not for longer than a turn: unless writers are held off,
    /// other databases matter as much.
    fn drain(&mut self, tools: &mut Tools, clock: &dyn Clock, outbox: &mut Outbox) -> Result<Drain> {
        let end = clock.now() + TURN;
        while !outbox.is_full() {
            match self.source.read(&mut tools.buffer, &mut tools.composer)? {
                Copied::Nothing => {
                    self.drained = true;
                    return Ok(Drain::Ended);
                }
                Copied::Lost(reason) => return Ok(Drain::Lost(reason)),
                Copied::Batch(batch) => {
                    if self.rest == Rest::Asleep {
                        tools.watch.fetch();
                        if !self.source.is_touched() {
                            self.source.was_not_told();
                        }
                    }
                    self.rest = Rest::None;
                    // The wall clock is read behind the wal-index, so that no commit is stamped before it happened.
                    for segment in self.writer.push((&mut tools.encoder, &tools.composer), &batch, clock.wall()) {
                        outbox.push(segment, clock.now());
                    }
                }
            }
            if clock.now() >= end && !self.source.holds_writers() {
                return Ok(Drain::More);
            }
        }
        Ok(Drain::Ended)
    }

    /// Hears whether there was word of a write. True if there is nothing to look at.
    pub(super) fn sleeps_on(&mut self, tools: &Tools, now: Instant, tick: Duration) -> bool {
        if self.rest == Rest::None {
            return false;
        }
        if !self.source.is_touched() {
            return self.rest == Rest::Asleep && !tools.everyone;
        }
        self.rest = Rest::None;
        (self.next_tick, self.eager_until) = (now, Some(now + tick));
        // It may be word of a name that is gone, too.
        self.next_look = now;
        false
    }

    /// The time to the next look.
    pub(super) fn pace(&mut self, now: Instant, tick: Duration) -> Duration {
        self.eager_until = self.eager_until.filter(|until| now < *until);
        if self.eager_until.is_some() { EAGER.min(tick) } else { tick }
    }

    /// Goes to rest where `calm` says that nothing else is to be done. Stays where it is if it cannot.
    pub(super) fn settle(&mut self, calm: bool, tools: &mut Tools, now: Instant) -> Result<bool> {
        self.rest = match self.rest {
            Rest::None if calm && self.source.arm(&mut tools.watch)? => Rest::Armed(now + DOZE),
            Rest::Armed(until) if calm && now >= until => Rest::Asleep,
            rest if calm => rest,
            _ => Rest::None,
        };
        Ok(self.rest == Rest::Asleep)
    }

    /// A change after a quiet spell is stored at once; under steady writes, one segment each interval.
    pub(super) fn close_segment(&mut self, now: Instant, interval: Duration, closing: bool, outbox: &mut Outbox) {
        let waited = self.last_close.is_none_or(|last| now.duration_since(last) >= interval);
        if !waited && !closing {
            return;
        }
        if let Some(segment) = self.writer.close() {
            outbox.push(segment, now);
            self.last_close = Some(now);
        }
    }

    pub(super) fn wants_snapshot(&self, now: Instant, forced: bool) -> bool {
        let end = self.writer.end();
        let here = Position { generation: end.tail.generation, point: end.point() };
        if now < self.snapshot_not_before {
            return false;
        }
        match self.snapshot_at {
            None => self.snapshot_due.is_none_or(|due| now >= due),
            Some(_) if forced => true,
            Some(at) => at != here && self.snapshot_due.is_some_and(|due| now >= due),
        }
    }

    pub(super) fn begin_snapshot(&mut self, store: &dyn Store, meta: &Path, clock: &dyn Clock) -> Result<()> {
        if !self.drained {
            return Ok(());
        }
        let Some(snapshot) = self.source.snapshot(meta)? else { return Ok(()) };
        let end = *self.writer.end();
        // A WAL of which nothing was copied yet is not the one that the end is in.
        let mark = snapshot.mark();
        let place = self.source.start();
        let here = (mark.salt, mark.frame) == (place.salt, place.frame);
        let mark = if here { end.mark().unwrap_or(mark) } else { mark };
        let Some(at) = end.point_of(&mark) else { return Ok(()) };
        let time = clock.wall().max(end.time);
        self.snapshot = Some(SnapshotUpload::new(store, snapshot, mark, end.tail.generation, at, time));
        Ok(())
    }
}

/// Bytes of the WAL.
pub(super) fn backlog(following: &Following) -> u64 {
    let frames = following.source.wal_frames().map_or(0, |(frames, _)| frames);
    u64::from(frames) * following.source.page_size().frame() as u64
}

//! What goes on in the store: segments and snapshots on their way, retention, and whether it is ours alone to write.

use std::time::Instant;

use crate::clock::Clock;
use crate::error::{Kind, Result};
use crate::format::position::{Offset, Point, Position};
use crate::log;
use crate::replica::follow::settings::{Next, Tools};
use crate::replica::follow::{Follower, LOOK, RETRY, SNAPSHOT_RETRY, Stage};
use crate::replica::owner::{Mine, Seen};
use crate::replica::request::Desk;
use crate::replica::retention::Kept;
use crate::replica::snapshot::Progress;
use crate::source::Reason;

impl Follower {
    /// Merges and deletes, once what is stored can be restored; at the end only if that was asked for.
    ///
    /// Errors: only where it was asked for: else it is put off, and said.
    pub(super) fn keep(&mut self, clock: &dyn Clock) -> Result<Next> {
        let restorable = matches!(&self.stage, Stage::Following(following) if following.snapshot_at.is_some());
        if !self.ours || !restorable || (self.closing && !self.settings.enforce_retention) {
            return Ok(Next::Tick);
        }
        match self.keeper.poll(clock) {
            Ok(Kept::Working) => Ok(Next::Now),
            Ok(Kept::Waiting) => Ok(Next::Store),
            Ok(Kept::Nothing) => {
                self.answer_retention(None, clock);
                Ok(Next::Tick)
            }
            Err(error) => {
                self.answer_retention(Some(&error), clock);
                if self.settings.enforce_retention { Err(error) } else { Ok(Next::Tick) }
            }
        }
    }

    /// Whether the store is still ours alone to write. Another's word that it is not ends the program.
    pub(super) fn poll_owner(&mut self, clock: &dyn Clock) -> Result<()> {
        let now = clock.now();
        if !self.contacted {
            self.ours = self.owner.begin(now, clock.wall())?;
            return Ok(());
        }
        self.look_at_store(clock)?;
        let none = Point { index: 0, offset: Offset::ZERO };
        // The generation that is written, and what is stored of it where nothing has been acknowledged yet.
        let writing = match &self.stage {
            Stage::Following(following) => Some((following.writer.end().tail.generation, none)),
            Stage::Opening(Ok(end)) => Some((end.tail.generation, end.point())),
            _ => None,
        };
        let stored = writing.map(|(generation, point)| match self.stored {
            Some(stored) if stored.generation == generation => stored,
            _ => Position { generation, point },
        });
        let snapshot = matches!(&self.stage, Stage::Following(following) if following.snapshot_at.is_some());
        let outbox = &self.outbox;
        let connection = self.owner.connection();
        match self.owner.poll(now, &Mine { stored, snapshot, on_its_way: &|key| outbox.holds(key) }) {
            Ok(Seen::Emptied) => {
                self.ours = true;
                self.lost(Reason::StoredHistoryIsGone, now)?;
            }
            Ok(seen) => {
                self.ours = seen == Seen::Ours;
                if self.owner.connection() != connection {
                    self.audit.doubt();
                    self.retry_now(now);
                }
            }
            Err(error) if error.kind() == Kind::Locked => return Err(error),
            Err(error) => {
                self.ours = false;
                self.report(&error, clock);
            }
        }
        if self.ours {
            self.sweeping.poll(now, clock.wall());
        }
        Ok(())
    }

    /// The store is back: nothing waits out the pause of an attempt that failed before.
    fn retry_now(&mut self, now: Instant) {
        self.outbox.retry_now();
        if let Stage::Following(following) = &mut self.stage {
            (following.snapshot_not_before, following.snapshot_pause) = (now, RETRY);
        }
    }

    /// An outage is told also while there is nothing to store.
    pub(super) fn look_at_store(&mut self, clock: &dyn Clock) -> Result<()> {
        let now = clock.now();
        if now < self.next_contact {
            return Ok(());
        }
        self.next_contact = now + LOOK;
        match self.store.connect(now) {
            Err(error) if matches!(error.kind(), Kind::GaveUp | Kind::Locked) => return Err(error),
            Err(error) => {
                self.away = true;
                self.report(&error, clock);
            }
            Ok(true) if std::mem::take(&mut self.away) && self.outbox.is_empty() => {
                self.trouble.clear(now, &self.name);
            }
            Ok(_) => {}
        }
        Ok(())
    }

    pub(super) fn follow_snapshot(&mut self, tools: &mut Tools, clock: &dyn Clock) -> Result<Next> {
        let Stage::Following(following) = &mut self.stage else { return Ok(Next::Tick) };
        if !self.ours {
            return Ok(Next::Store);
        }
        let now = clock.now();
        if self.settings.snapshot_interval.is_some() && self.keeper.wants_snapshot() && following.snapshot.is_none() {
            following.snapshot_due = following.snapshot_due.map(|due| due.min(now));
        }
        let asked = self.desk.as_ref().is_some_and(Desk::wants_snapshot);
        if following.snapshot.is_none() && following.wants_snapshot(now, self.force_snapshot || asked) {
            following.begin_snapshot(&*self.store, &self.settings.meta(), clock)?;
            if following.snapshot.is_none() {
                return Ok(Next::Tick);
            }
            self.desk.iter_mut().for_each(Desk::begun);
        }
        let Some(upload) = &mut following.snapshot else { return Ok(Next::Tick) };
        let polled = upload.poll(&mut tools.desk, now);
        if upload.header().database.is_some_and(|sum| !following.source.agrees_with_snapshot(sum)) {
            return self.lost(Reason::DatabaseDiffers, now);
        }
        if let (Some(sum), None) = (upload.header().database, following.snapshot_at) {
            // No restore of this generation can begin with an earlier one.
            following.source.trust_snapshot(sum);
        }
        match polled {
            Ok(Progress::Working) => Ok(Next::Now),
            Ok(Progress::Waiting) => Ok(Next::Store),
            Ok(Progress::Done) => {
                self.snapshot_done(now);
                self.answer_snapshot(clock);
                Ok(Next::Tick)
            }
            Err(error) => {
                following.snapshot = None;
                self.desk.iter_mut().for_each(Desk::given_up);
                // Each attempt reads the whole database.
                following.snapshot_due = Some(now);
                following.snapshot_not_before = now + following.snapshot_pause;
                following.snapshot_pause = (following.snapshot_pause * 2).min(SNAPSHOT_RETRY);
                match error.kind() {
                    Kind::Store | Kind::Unreachable | Kind::NotFound => self.report(&error, clock),
                    _ => return Err(error),
                }
                Ok(Next::Tick)
            }
        }
    }

    pub(super) fn snapshot_done(&mut self, now: Instant) {
        let Stage::Following(following) = &mut self.stage else { return };
        let Some(upload) = following.snapshot.take() else { return };
        let header = upload.header();
        let position = Position { generation: header.generation, point: header.at };
        log::info("snapshot stored")
            .field("db", &self.name)
            .field("position", position)
            .field("bytes", upload.read())
            .field("stored", upload.stored())
            .emit();
        if let Some(sum) = header.database {
            following.source.trust_snapshot(sum);
        }
        following.snapshot_at = Some(position);
        following.snapshot_pause = RETRY;
        self.snapshot_stored = Some(position);
        self.newest = Some(header.key().to_string());
        self.known.snapshot = Some(header.key());
        following.snapshot_due = self.settings.snapshot_interval.map(|interval| now + interval);
        self.force_snapshot = false;
        self.known.last_snapshot = Some(header.time);
        self.keeper.snapshot_stored(upload.stored());
        self.objects += 1;
        self.bytes += upload.stored();
        let newer =
            self.stored.is_none_or(|stored| stored.generation != position.generation || stored.point < position.point);
        if newer {
            self.stored = Some(position);
        }
        self.trouble.clear(now, &self.name);
    }

    pub(super) fn poll_outbox(&mut self, clock: &dyn Clock) -> Next {
        let now = clock.now();
        self.outbox.relieve(now);
        if !self.ours {
            return Next::Store;
        }
        let polled = self.outbox.poll(now);
        for stored in &polled.stored {
            self.objects += 1;
            self.bytes += stored.size;
            self.keeper.stored(stored.key, stored.size);
            self.stored = Some(Position { generation: stored.key.generation, point: stored.key.end });
            self.newest = Some(stored.key.to_string());
            log::debug("segment stored").field("db", &self.name).field("name", stored.key).emit();
        }
        if let Some(error) = polled.error {
            self.report(&error, clock);
        } else if !polled.stored.is_empty() && self.audit.is_trusted() && self.has_snapshot() {
            self.trouble.clear(now, &self.name);
        }
        if self.outbox.is_busy() || self.sweeping.is_busy() { Next::Store } else { Next::Tick }
    }
}

//! What a store has acknowledged: how far it reaches, and how much of it this run has sent.

use crate::format::key::{SegmentKey, SnapshotKey};
use crate::format::position::Position;
use crate::format::time::Timestamp;

#[derive(Default)]
pub(super) struct Acknowledged {
    /// Everything up to here is stored.
    pub(super) position: Option<Position>,
    /// The last snapshot of this run.
    pub(super) snapshot: Option<Position>,
    /// The object that was acknowledged last.
    pub(super) newest_object: Option<String>,
    pub(super) objects: u64,
    pub(super) bytes: u64,
    /// When everything that was committed was last seen to be stored.
    pub(super) all_stored_at: Option<Timestamp>,
}

impl Acknowledged {
    pub(super) fn on_segment(&mut self, key: &SegmentKey, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
        // What was still on its way of a generation that has ended comes after the snapshot of the next one.
        if self.position.is_none_or(|stored| stored.generation <= key.generation) {
            self.position = Some(Position { generation: key.generation, wal_position: key.end });
            self.newest_object = Some(key.to_string());
        }
    }

    pub(super) fn on_snapshot(&mut self, key: &SnapshotKey, bytes: u64) {
        let position = Position { generation: key.generation, wal_position: key.position };
        self.objects += 1;
        self.bytes += bytes;
        self.snapshot = Some(position);
        self.newest_object = Some(key.to_string());
        let newer = self.position.is_none_or(|stored| {
            stored.generation != position.generation || stored.wal_position < position.wal_position
        });
        if newer {
            self.position = Some(position);
        }
    }

    /// What was stored before this run reaches here.
    pub(super) fn continue_from(&mut self, position: Position) {
        self.position = self.position.or(Some(position));
    }

    /// The store has lost something: how far it reaches is not known.
    pub(super) fn forget_end(&mut self) {
        (self.position, self.newest_object) = (None, None);
    }

    /// What this run has sent, without how far the store reaches.
    pub(super) fn totals(self) -> Acknowledged {
        let Acknowledged { objects, bytes, all_stored_at, .. } = self;
        Acknowledged { objects, bytes, all_stored_at, ..Acknowledged::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{millis, point, segment_key};
    use crate::format::position::Generation;

    fn snapshot_key(generation: u64, at: u64) -> SnapshotKey {
        SnapshotKey { generation: Generation::new(generation), position: point(0, at), time: millis(1) }
    }

    fn segment(generation: u64, from: u64, to: u64) -> SegmentKey {
        SegmentKey { generation: Generation::new(generation), ..segment_key(from, to) }
    }

    fn at(generation: u64, at: u64) -> Option<Position> {
        Some(Position { generation: Generation::new(generation), wal_position: point(0, at) })
    }

    #[test]
    fn the_end_moves_only_forward_whatever_is_acknowledged_late() {
        let mut stored = Acknowledged::default();
        stored.on_segment(&segment(1, 0, 5), 10);
        stored.on_snapshot(&snapshot_key(1, 3), 100);
        assert_eq!((stored.position, stored.snapshot), (at(1, 5), at(1, 3)));
        stored.on_snapshot(&snapshot_key(2, 0), 100);
        assert_eq!(stored.position, at(2, 0));
        // It was on its way when its generation ended.
        stored.on_segment(&segment(1, 5, 6), 10);
        assert_eq!(stored.position, at(2, 0));
        assert_eq!(stored.newest_object, Some(snapshot_key(2, 0).to_string()));
        assert_eq!((stored.objects, stored.bytes), (4, 220));
        stored.continue_from(at(1, 1).unwrap());
        assert_eq!(stored.position, at(2, 0));
        stored.forget_end();
        stored.continue_from(at(1, 1).unwrap());
        assert_eq!(stored.position, at(1, 1));
    }
}

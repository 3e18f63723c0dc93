//! Whether a restore would have to read so much that a new snapshot is worth its bytes.

use crate::format::listing::Listing;
use crate::format::position::Generation;
use crate::format::retention::restore_path;

/// Segments of so many times the last snapshot's bytes ask for a new one,
const SNAPSHOT_RATIO: u64 = 4;
/// but not below this, in bytes. So a restore reads at most 5 times the snapshot, or the snapshot and 64 MiB.
const SNAPSHOT_MIN_BYTES: u64 = 64 << 20;

/// The bytes that a restore of the newest state reads.
#[derive(Default)]
pub struct RestoreCost {
    /// None if none is known of the generation that is written.
    snapshot: Option<u64>,
    segments_since: u64,
    /// A listing has told that nobody else has made a snapshot, while so much has come since the last one.
    looked_for_snapshot: bool,
}

impl RestoreCost {
    /// A segment was stored.
    pub fn on_segment(&mut self, bytes: u64) {
        self.segments_since += bytes;
    }

    /// A snapshot of the newest generation was stored.
    pub fn on_snapshot(&mut self, bytes: u64) {
        *self = RestoreCost { snapshot: Some(bytes), ..RestoreCost::default() };
    }

    /// Takes the newest snapshot and what has come since from a listing, if they are of `generation`, which is written.
    pub fn on_listing(&mut self, listing: &Listing, generation: Option<Generation>) {
        let newest = listing.generations().next_back().filter(|(newest, _)| generation.is_none_or(|at| at == *newest));
        if let Some((_, stored)) = newest
            && let Some((snapshot, bytes)) = stored.snapshots.last()
        {
            let path = restore_path(stored);
            self.snapshot = Some(*bytes);
            self.segments_since =
                path.iter().filter(|(key, _)| key.start >= snapshot.position).map(|(_, size)| size).sum();
        }
        self.looked_for_snapshot = self.is_high();
    }

    /// Whether a restore would have to read too many segments: `compact` has not made a snapshot of them either.
    pub fn wants_snapshot(&self) -> bool {
        self.is_high() && self.looked_for_snapshot
    }

    /// A whole database is not stored before the store was asked whether that is needed.
    pub fn must_look_for_snapshot(&self) -> bool {
        self.is_high() && !self.looked_for_snapshot
    }

    fn is_high(&self) -> bool {
        let most = |bytes: u64| bytes.saturating_mul(SNAPSHOT_RATIO).max(SNAPSHOT_MIN_BYTES);
        self.snapshot.is_some_and(|bytes| self.segments_since > most(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_wanted_after_a_listing_has_shown_none() {
        let mut cost = RestoreCost::default();
        cost.on_segment(u64::MAX / 2);
        assert!(!cost.must_look_for_snapshot(), "the first snapshot of a generation is not its business");
        cost.on_snapshot(100 << 20);
        cost.on_segment(400 << 20);
        assert!(!cost.must_look_for_snapshot());
        cost.on_segment(1);
        assert!(cost.must_look_for_snapshot() && !cost.wants_snapshot());
        cost.on_listing(&Listing::new([]), None);
        assert!(cost.wants_snapshot() && !cost.must_look_for_snapshot());
        cost.on_snapshot(1);
        cost.on_segment(SNAPSHOT_MIN_BYTES);
        assert!(!cost.must_look_for_snapshot() && !cost.wants_snapshot(), "a little is cheap to read");
    }
}

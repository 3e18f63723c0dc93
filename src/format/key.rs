//! Object names: a listing alone tells what is stored, from where to where, and when.
//!
//! ```text
//! generations/<generation>/snapshots/<at>-<time>.gz
//! generations/<generation>/wal/<start>-<end>-<first>-<last>.gz
//! generations/<generation>/wal/<start>-<end>-<first>-<last>.part.gz
//! ```
//!
//! A point is `index.offset` (8 and 12 hex digits), a time `20261123T060812.345Z`; names sort as the commits were.
//! A segment starts where the one before it ended, even if it begins a new index: so a missing one shows in the listing.

use std::fmt;

use crate::format::position::{Generation, Offset, WalPosition, parse_hex_exact};
use crate::format::time::Timestamp;

/// The name of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SnapshotKey {
    pub generation: Generation,
    /// The database holds exactly the commits up to here.
    pub position: WalPosition,
    /// When that was so.
    pub time: Timestamp,
}

/// The name of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SegmentKey {
    pub generation: Generation,
    /// Where the segment before this one ended, or the point of the snapshot.
    pub start: WalPosition,
    /// After the last frame in it.
    pub end: WalPosition,
    /// When its first batch of commits was seen.
    pub first_seen: Timestamp,
    /// When its last batch of commits was seen.
    pub last_seen: Timestamp,
    /// Its last frame is inside a transaction that a later segment ends: no restore may stop at its end.
    pub part: bool,
}

impl SegmentKey {
    /// What stands for `first_seen` in the name of a rollup.
    pub const ROLLUP: Timestamp = Timestamp::EPOCH;

    /// Only its end can be restored, and only from its start: see [`crate::format::rollup`].
    pub fn is_rollup(&self) -> bool {
        self.first_seen == SegmentKey::ROLLUP
    }

    /// The first moment that can be restored with it.
    pub fn first_moment(&self) -> Timestamp {
        if self.is_rollup() { self.last_seen } else { self.first_seen }
    }

    /// It leads on from this point: from its start, or from within.
    pub fn leads_on_from(&self, point: WalPosition) -> bool {
        self.start == point || (self.start < point && point < self.end && !self.is_rollup())
    }

    /// The order in which a chain takes segments of one generation. Of two that differ in nothing but `part`, the whole one
    /// comes first, so that the order of a listing decides nothing.
    pub fn rank(&self) -> impl Ord + use<> {
        (self.start, self.end, self.first_seen, self.last_seen, self.part)
    }
}

/// The name of anything that we store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Key {
    Snapshot(SnapshotKey),
    Segment(SegmentKey),
}

/// What every name begins with, below the prefix of the replica.
pub const ROOT: &str = "generations/";

impl Key {
    /// Reads a name (below the prefix); none if it is not exactly what [`fmt::Display`] writes.
    pub fn parse(name: &str) -> Option<Key> {
        let (generation, rest) = name.strip_prefix(ROOT)?.split_once('/')?;
        let generation = Generation::new(parse_hex_exact(generation, 16)?);
        let (room, file) = rest.split_once('/')?;
        let stem = file.strip_suffix(".gz")?;
        let key = match room {
            "snapshots" => Key::Snapshot(parse_snapshot(generation, stem)?),
            "wal" => Key::Segment(parse_segment(generation, stem)?),
            _ => return None,
        };
        (key.to_string() == name).then_some(key)
    }

    pub fn generation(&self) -> Generation {
        match self {
            Key::Snapshot(key) => key.generation,
            Key::Segment(key) => key.generation,
        }
    }
}

fn parse_snapshot(generation: Generation, stem: &str) -> Option<SnapshotKey> {
    let (at, time) = stem.split_once('-')?;
    Some(SnapshotKey { generation, position: parse_wal_position(at)?, time: Timestamp::from_key(time)? })
}

fn parse_segment(generation: Generation, stem: &str) -> Option<SegmentKey> {
    let (stem, part) = match stem.strip_suffix(".part") {
        Some(stem) => (stem, true),
        None => (stem, false),
    };
    let mut fields = stem.split('-');
    let (start, end) = (parse_wal_position(fields.next()?)?, parse_wal_position(fields.next()?)?);
    let first = Timestamp::from_key(fields.next()?)?;
    let last = Timestamp::from_key(fields.next()?)?;
    if fields.next().is_some() || start >= end || first > last {
        return None;
    }
    Some(SegmentKey { generation, start, end, first_seen: first, last_seen: last, part })
}

fn parse_wal_position(text: &str) -> Option<WalPosition> {
    let (index, offset) = text.split_once('.')?;
    let index = u32::try_from(parse_hex_exact(index, 8)?).ok()?;
    Some(WalPosition { index, offset: Offset::new(parse_hex_exact(offset, 12)?).ok()? })
}

/// A point as it stands in a name: without the colon, which some file systems refuse.
struct KeyPosition(WalPosition);

impl fmt::Display for KeyPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.{}", self.0.index, self.0.offset)
    }
}

impl fmt::Display for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ROOT}{}/snapshots/{}-{}.gz", self.generation, KeyPosition(self.position), self.time.to_key())
    }
}

impl fmt::Display for SegmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.first_seen.to_key(), self.last_seen.to_key());
        let part = if self.part { ".part" } else { "" };
        let (start, end) = (KeyPosition(self.start), KeyPosition(self.end));
        write!(f, "{ROOT}{}/wal/{start}-{end}-{first}-{last}{part}.gz", self.generation)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Snapshot(key) => key.fmt(f),
            Key::Segment(key) => key.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: &str = "generations/019aaf3c5d10a1b2/wal/00000000.000000001068-00000001.0000000020d0-20261123T060812.345Z-20261123T060813.345Z.gz";
    const SNAPSHOT: &str = "generations/019aaf3c5d10a1b2/snapshots/00000000.000000001068-20261123T060812.345Z.gz";

    #[test]
    fn names_read_back_and_sort_as_the_commits_were() {
        let part = SEGMENT.replace(".gz", ".part.gz");
        for name in [SEGMENT, SNAPSHOT, part.as_str()] {
            assert_eq!(Key::parse(name).unwrap().to_string(), name);
        }
        let later = SEGMENT.replace("wal/00000000.", "wal/00000001.").replace("-00000001.", "-00000002.");
        assert!(Key::parse(&later).is_some() && later.as_str() > SEGMENT);
    }

    #[test]
    fn a_foreign_name_is_not_a_key() {
        for (from, to) in [
            ("generations", "generation"),
            ("019aaf3c5d10a1b2", "019AAF3C5D10A1B2"),
            ("019aaf3c5d10a1b2", "019aaf3c5d10a1b"),
            ("/wal/", "/ltx/"),
            (".gz", ".lz4"),
            (".gz", ""),
            ("00000001.0000000020d0", "00000000.000000001068"),
            ("060813.345Z", "060811.345Z"),
            ("060813.345Z", "060813.345Z-1"),
            ("20261123T060813", "20261323T060813"),
        ] {
            let name = SEGMENT.replace(from, to);
            assert_eq!(Key::parse(&name), None, "{name}");
        }
        for name in ["", "ltx/0/0000000000000001-0000000000000001.ltx", "generations/", "generations/x/wal/y.gz"] {
            assert_eq!(Key::parse(name), None, "{name}");
        }
    }
}

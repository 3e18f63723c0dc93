//! Which states of a history can be restored, as the names tell it: every commit of its newest part, and of what was thinned out
//! one state an hour, a day, a week or a month.

use std::fmt;

use crate::format::chain::SegmentChain;
use crate::format::keep::KeepStep;
use crate::format::listing::GenerationObjects;
use crate::format::time::Timestamp;

/// A stretch of history that reaches to the next one, or to the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// At least one state of each; none: every commit.
    pub step: Option<KeepStep>,
    pub from: Timestamp,
    /// So many; where every commit is stored, the names do not tell how many those are.
    pub states: usize,
}

/// The stretches of a generation up to its end or its first gap, the oldest and coarsest first.
pub fn resolution(stored: &GenerationObjects) -> Vec<Stretch> {
    let Some(oldest) = stored.snapshots.first() else { return Vec::new() };
    let chain = SegmentChain::of(stored, *oldest);
    let mut before = oldest.0.time;
    let mut steps = Vec::new();
    for (key, _) in chain.segments.iter().filter(|(key, _)| !key.part) {
        steps.push((before, key.is_rollup().then(|| KeepStep::between(before, key.last_seen))));
        before = key.last_seen;
    }
    let mut stretches: Vec<Stretch> = Vec::new();
    for (from, step) in steps.into_iter().rev() {
        match stretches.last_mut() {
            Some(last) if step <= last.step => (last.from, last.states) = (from, last.states + 1),
            _ => stretches.push(Stretch { step, from, states: 1 }),
        }
    }
    stretches.reverse();
    match stretches.first_mut() {
        Some(first) => first.states += 1,
        None => stretches.push(Stretch { step: None, from: oldest.0.time, states: 1 }),
    }
    stretches
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Some(step) => write!(f, "{} from {} ({})", step.name(), self.from, self.states),
            None => write!(f, "all from {}", self.from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{GENERATION, millis, point};
    use crate::format::key::{SegmentKey, SnapshotKey};
    use crate::format::position::Generation;

    const HOUR: u64 = 3_600_000;

    /// From a snapshot at hour 1, segments that end at these hours; `true`: a rollup.
    fn found(ends: &[(u64, bool)]) -> Vec<Stretch> {
        let generation = Generation::new(GENERATION);
        let snapshot = SnapshotKey { generation, position: point(0, 1), time: millis(HOUR) };
        let mut stored = GenerationObjects { snapshots: vec![(snapshot, 1)], segments: Vec::new() };
        let mut start = 1;
        for (end, rollup) in ends {
            let last_seen = millis(end * HOUR);
            let first_seen = if *rollup { SegmentKey::ROLLUP } else { last_seen };
            let (from, to) = (point(0, start), point(0, *end));
            let key = SegmentKey { generation, start: from, end: to, first_seen, last_seen, part: false };
            stored.segments.push((key, 1));
            start = *end;
        }
        resolution(&stored)
    }

    #[test]
    fn each_stretch_is_as_fine_as_its_coarsest_step() {
        let stretch = |step, hour: u64, states| Stretch { step, from: millis(hour * HOUR), states };
        assert_eq!(found(&[]), [stretch(None, 1, 1)]);
        assert_eq!(found(&[(2, false), (9, false)]), [stretch(None, 1, 3)]);
        let thinned = [(700, true), (744, true), (750, true), (751, true), (752, true), (752 + 9, false)];
        assert_eq!(
            found(&thinned),
            [
                stretch(Some(KeepStep::Month), 1, 2),
                stretch(Some(KeepStep::Week), 700, 1),
                stretch(Some(KeepStep::Day), 744, 1),
                stretch(Some(KeepStep::Hour), 750, 2),
                stretch(None, 752, 1),
            ]
        );
        // A coarse one among finer ones counts for all that is before it.
        assert_eq!(
            found(&[(2, true), (3, true), (25, true), (26, false)]),
            [stretch(Some(KeepStep::Day), 1, 4), stretch(None, 25, 1)]
        );
        assert_eq!(found(&thinned)[3].to_string(), "hourly from 1970-02-01T06:00:00.000Z (2)");
        assert_eq!(found(&thinned)[4].to_string(), "all from 1970-02-01T08:00:00.000Z");
    }
}

//! How much may cross the link to merge segments, measured by what had to cross it anyway.
//!
//! A change should cross a device's link once, and objects should stay few. So each segment may be merged once, which is a
//! fifteenth of the objects for at most as many bytes again. What is mostly merged already is merged again only while merging
//! has sent at most half of what the segments themselves cost. And at most a twentieth of that is fetched. What this leaves
//! undone is done by `litestream compact`, near the store.

use std::collections::HashSet;
use std::ops::Range;

use crate::format::compaction::next_group_where;
use crate::format::key::SegmentKey;

/// What an object costs beyond its bytes: the meta message, subjects, questions and answers. Measured on NATS.
const OBJECT_COST_BYTES: u64 = 1000;
/// A run may send and fetch so much before it has stored anything: what the run before it has left is little.
const INITIAL_BYTES: u64 = 128 << 10;
const SEND_SHARE: u64 = 2;
const FETCH_SHARE: u64 = 20;

/// What one run has transferred for one database, in bytes.
#[derive(Debug, Default)]
pub struct TransferBudget {
    stored: u64,
    sent: u64,
    fetched: u64,
    /// What merging has made, as far as it was not merged again.
    products: HashSet<SegmentKey>,
}

impl TransferBudget {
    /// A segment of so many bytes was stored for the first time.
    pub fn stored(&mut self, bytes: u64) {
        self.stored += bytes + OBJECT_COST_BYTES;
    }

    /// Merging `group` has made `key`. So many bytes were sent and fetched.
    pub fn merged(&mut self, group: &[(SegmentKey, u64)], key: SegmentKey, sent: u64, fetched: u64) {
        self.sent += sent + OBJECT_COST_BYTES;
        self.fetched += fetched;
        for (part, _) in group {
            self.products.remove(part);
        }
        self.products.insert(key);
    }

    /// Forgets what is not stored any more, or not of the generation that is merged.
    pub fn retain(&mut self, is_stored: impl Fn(&SegmentKey) -> bool) {
        self.products.retain(is_stored);
    }

    fn may_send(&self, group: &[(SegmentKey, u64)]) -> bool {
        let bytes: u64 = group.iter().map(|(_, size)| size).sum();
        let merged: u64 = group.iter().filter(|(key, _)| self.products.contains(key)).map(|(_, size)| size).sum();
        merged <= bytes / 2 || self.sent + bytes + OBJECT_COST_BYTES <= INITIAL_BYTES + self.stored / SEND_SHARE
    }

    fn may_fetch(&self) -> u64 {
        (INITIAL_BYTES + self.stored / FETCH_SHARE).saturating_sub(self.fetched)
    }

    /// The places of the segments that should become one now. `in_memory` tells which need not be fetched.
    ///
    /// Old segments that cost too much to fetch are left out: those after them can be merged all the same. `from_start` and
    /// `may_merge` as for [`next_group_where`].
    pub fn next_group(
        &self,
        segments: &[(SegmentKey, u64)],
        from_start: bool,
        in_memory: impl Fn(&SegmentKey) -> bool,
        may_merge: impl Fn(&[(SegmentKey, u64)]) -> bool,
    ) -> Option<Range<usize>> {
        let mut to_fetch = 0;
        let affordable = segments.iter().rev().take_while(|(key, size)| {
            to_fetch += if in_memory(key) { 0 } else { *size };
            to_fetch <= self.may_fetch()
        });
        let first = segments.len() - affordable.count();
        let affordable = segments.get(first..)?;
        let group =
            next_group_where(affordable, from_start && first == 0, |group| self.may_send(group) && may_merge(group))?;
        Some(group.start + first..group.end + first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::compaction::{WINDOWS, merged_key};
    use crate::format::fixtures::{point, segment_key as key};

    const SECONDS: u64 = 10_000;

    /// One segment a second: what was merged, and the objects that stay.
    fn replicated(size: u64, memory: u64) -> (TransferBudget, u64) {
        let mut budget = TransferBudget::default();
        let mut chain: Vec<(SegmentKey, u64)> = Vec::new();
        for at in 0..SECONDS {
            chain.push((key(at, at + 1), size));
            budget.stored(size);
            // The newest of all that was stored is what memory holds.
            let mut held = 0;
            let first = chain.iter().rev().take_while(|(_, size)| {
                held += size;
                held <= memory
            });
            let oldest = chain.len() - first.count();
            let Some(from) = chain.get(oldest).map(|(key, _)| key.start) else { continue };
            if let Some(range) = budget.next_group(&chain, true, |key| key.start >= from, |_| true) {
                let group = chain[range.clone()].to_vec();
                let bytes = group.iter().map(|(_, size)| size).sum();
                let fetched = group.iter().filter(|(key, _)| key.start < from);
                let whole = merged_key(&group).unwrap();
                budget.merged(&group, whole, bytes, fetched.map(|(_, size)| size).sum());
                chain.splice(range, [(whole, bytes)]);
            }
        }
        (budget, chain.len() as u64)
    }

    #[test]
    fn objects_stay_few_and_merging_costs_at_most_half() {
        for size in [200, 2_000, 20_000] {
            let (budget, objects) = replicated(size, 2 << 20);
            let once = SECONDS * size + SECONDS / WINDOWS[0] * OBJECT_COST_BYTES;
            assert!(budget.sent <= once.max(budget.stored / 2 + INITIAL_BYTES), "{size}: {budget:?}");
            assert!(budget.fetched <= budget.stored / 20 + INITIAL_BYTES, "{size}: {budget:?}");
            assert!(objects < SECONDS / WINDOWS[0] + 100, "{size}: {objects} objects");
        }
        let (budget, objects) = replicated(200, 2 << 20);
        assert!(budget.sent < budget.stored * 6 / 10 && budget.fetched == 0, "{budget:?}");
        assert!(objects < 100, "{objects} objects");
    }

    #[test]
    fn old_segments_that_are_too_dear_are_left_out() {
        let mut chain: Vec<(SegmentKey, u64)> = (0..20).map(|at| (key(at, at + 1), INITIAL_BYTES)).collect();
        chain.extend((20..50).map(|at| (key(at, at + 1), 10)));
        let budget = TransferBudget::default();
        // The first window that is merged begins after a segment that is known.
        assert_eq!(budget.next_group(&chain, true, |key| key.start >= point(0, 20), |_| true), Some(30..45));
        assert_eq!(budget.next_group(&chain, false, |_| false, |_| true), Some(30..45));
        let mut spent = TransferBudget::default();
        spent.merged(&[], key(900, 901), INITIAL_BYTES, 0);
        assert_eq!(spent.next_group(&chain, false, |_| true, |_| true), Some(15..30));
        (15..45).for_each(|at| spent.merged(&[], key(at, at + 1), 0, 0));
        assert_eq!(spent.next_group(&chain, false, |_| true, |_| true), None);
        let mut fetched = TransferBudget::default();
        fetched.merged(&[], key(900, 901), 0, INITIAL_BYTES);
        assert_eq!(fetched.next_group(&chain, false, |_| false, |_| true), None);
        assert_eq!(fetched.next_group(&chain, true, |key| key.start >= point(0, 20), |_| true), Some(30..45));
    }
}

//! Which segments to merge next, decided from those that are known to be stored.

use std::collections::HashSet;

use crate::format::compaction;
use crate::format::keep::Keep;
use crate::format::key::{Key, SegmentKey};
use crate::format::listing::Listing;
use crate::format::position::{Generation, WalPosition};
use crate::format::retention::restore_path;
use crate::replica::transfer_budget::TransferBudget;

/// A segment and its bytes.
pub type SizedSegment = (SegmentKey, u64);

/// How a merge that is planned may read its segments.
pub struct MergeInputs<'a> {
    /// Those need not be fetched.
    pub in_memory: &'a dyn Fn(&SegmentKey) -> bool,
    /// False: without an identity none that was fetched can be read.
    pub can_fetch: bool,
    /// A whole pass was asked for: it spares no bytes.
    pub whole_pass: bool,
}

pub struct MergePlanner {
    /// Segments that are to be thinned out later are not merged with those that are not.
    keep: Option<Keep>,
    budget: TransferBudget,
    /// The newest one that is known.
    generation: Option<Generation>,
    /// The segments that are known of the generation that is merged, neighbours all.
    chain: Vec<SizedSegment>,
    /// Those of older generations, if all of them are merged.
    older_chains: Vec<Vec<SizedSegment>>,
    /// No restore of that generation reads a segment before those.
    from_start: bool,
    /// Something was stored since the last look for a merge.
    changed: bool,
}

impl MergePlanner {
    pub fn new(keep: Option<Keep>) -> MergePlanner {
        MergePlanner {
            keep,
            budget: TransferBudget::default(),
            generation: None,
            chain: Vec::new(),
            older_chains: Vec::new(),
            from_start: false,
            changed: false,
        }
    }

    pub fn generation(&self) -> Option<Generation> {
        self.generation
    }

    /// How many segments of the generation that is merged are known.
    pub fn known_segments(&self) -> usize {
        self.chain.len()
    }

    /// Whether another merge may be possible.
    pub fn has_changed(&self) -> bool {
        self.changed
    }

    pub fn set_changed(&mut self, changed: bool) {
        self.changed = changed;
    }

    /// A segment was stored; `merged`: segments are merged. True if it begins another generation.
    pub fn on_stored(&mut self, key: SegmentKey, size: u64, merged: bool) -> bool {
        self.budget.stored(size);
        let begins = self.generation.replace(key.generation).is_some_and(|before| before != key.generation);
        if begins {
            self.chain.clear();
            self.budget.retain(|_| false);
            self.from_start = true;
        }
        if merged {
            self.chain.push((key, size));
            self.changed = true;
        } else {
            // Nothing would ever shorten the chain. A pass that is asked for begins with a listing.
            self.chain.clear();
            self.from_start = false;
        }
        begins
    }

    /// What the listing tells of the newest generation, and after it what was stored meanwhile.
    pub fn on_listing(&mut self, listing: &Listing) {
        let Some((generation, stored)) = listing.generations().next_back() else { return };
        if self.chain.last().is_some_and(|(key, _)| key.generation > generation) {
            return;
        }
        let Some((snapshot, _)) = stored.snapshots.last() else { return };
        let mut chain = restore_path(stored);
        for (key, size) in &self.chain {
            let end = chain.last().map_or(snapshot.position, |(last, _)| last.end);
            if key.generation == generation && key.start == end {
                chain.push((*key, *size));
            }
        }
        let known: HashSet<SegmentKey> = chain.iter().map(|(key, _)| *key).collect();
        self.budget.retain(|key| known.contains(key));
        self.generation = Some(generation);
        self.chain = chain;
        self.from_start = true;
        self.changed = true;
    }

    /// Older generations are merged too, after the newest one.
    pub fn add_older_generations(&mut self, listing: &Listing) {
        let older = listing.generations().rev().skip(1).filter(|(_, stored)| !stored.snapshots.is_empty());
        self.older_chains = older.map(|(_, stored)| restore_path(stored)).collect();
    }

    /// Goes on with an older generation. False if none is left.
    pub fn take_older_generation(&mut self) -> bool {
        let Some(chain) = self.older_chains.pop() else { return false };
        (self.chain, self.from_start, self.changed) = (chain, true, true);
        true
    }

    /// The segments that should become one now.
    pub fn next_group(&self, inputs: &MergeInputs) -> Option<&[SizedSegment]> {
        let readable = self.readable(inputs);
        let from_start = self.from_start && readable.len() == self.chain.len();
        let may_merge = |group: &[SizedSegment]| match (self.keep, group) {
            (Some(keep), [(first, _), .., (last, _)]) => keep.allows_merge(first.last_seen, last.last_seen),
            _ => true,
        };
        let range = if inputs.whole_pass {
            compaction::next_group_where(readable, from_start, may_merge)?
        } else {
            self.budget.next_group(readable, from_start, inputs.in_memory, may_merge)?
        };
        readable.get(range)
    }

    /// What may be merged: if nothing can be fetched, no more than what is still in memory.
    fn readable(&self, inputs: &MergeInputs) -> &[SizedSegment] {
        if inputs.can_fetch {
            return &self.chain;
        }
        let last_unread = self.chain.iter().rposition(|(key, _)| !(inputs.in_memory)(key));
        self.chain.get(last_unread.map_or(0, |at| at + 1)..).unwrap_or_default()
    }

    /// `group` has become `merged`. So many bytes of it were fetched.
    pub fn on_merged(&mut self, group: &[SizedSegment], merged: SizedSegment, fetched: u64) {
        self.budget.merged(group, merged.0, merged.1, fetched);
        let begin = self.chain.iter().position(|segment| Some(segment) == group.first());
        if let Some(begin) = begin.filter(|begin| self.chain.get(*begin..begin + group.len()) == Some(group)) {
            self.chain.splice(begin..begin + group.len(), [merged]);
        }
    }

    /// Those are deleted.
    pub fn on_deleted(&mut self, gone: &HashSet<Key>) {
        let stays = |key: &SegmentKey| !gone.contains(&Key::Segment(*key));
        self.chain.retain(|(key, _)| stays(key));
        self.budget.retain(stays);
    }

    /// A segment before `end` is damaged. What comes after can still be merged; the next listing brings the damaged one
    /// back, and with it the warning.
    pub fn on_damage(&mut self, end: WalPosition) {
        self.chain.retain(|(key, _)| key.start >= end);
        self.from_start = false;
    }

    /// Nothing that is stored can be read. The next listing brings it back, and with it the warning.
    pub fn on_unreadable(&mut self) {
        self.chain.clear();
        self.older_chains.clear();
    }
}

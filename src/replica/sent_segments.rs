//! The bytes of the segments that were stored last, so that merging them needs no download.
//!
//! All databases of a process share one bound: the oldest segment of all is dropped first.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use crate::format::key::SegmentKey;

/// Bytes that are kept at most.
pub const MAX_SENT_BYTES: usize = 2 << 20;

/// Whose segment, and which.
type Owned = (u64, SegmentKey);

/// The bytes of a segment: those of a merged one are the bytes of its parts, which are not copied.
pub type Parts = Vec<Rc<[u8]>>;

#[derive(Default)]
pub struct SentSegments {
    bytes: usize,
    /// The oldest first. What was removed may still stand here.
    order: VecDeque<Owned>,
    parts: HashMap<Owned, Parts>,
}

impl SentSegments {
    /// Keeps what was stored for this database, and drops the oldest of all beyond [`MAX_SENT_BYTES`].
    pub fn insert(&mut self, database: u64, key: SegmentKey, parts: Parts) {
        let size = size(&parts);
        if size > MAX_SENT_BYTES {
            return;
        }
        self.remove(database, &key);
        while self.bytes + size > MAX_SENT_BYTES
            && let Some((database, key)) = self.order.pop_front()
        {
            self.remove(database, &key);
        }
        self.bytes += size;
        self.order.push_back((database, key));
        self.parts.insert((database, key), parts);
        self.forget_removed();
    }

    pub fn get(&self, database: u64, key: &SegmentKey) -> Option<&Parts> {
        self.parts.get(&(database, *key))
    }

    pub fn remove(&mut self, database: u64, key: &SegmentKey) {
        if let Some(parts) = self.parts.remove(&(database, *key)) {
            self.bytes -= size(&parts);
        }
    }

    /// Removed segments leave their place in the order; it never has more than twice the segments that are kept.
    fn forget_removed(&mut self) {
        if self.order.len() > 2 * self.parts.len() {
            let parts = &self.parts;
            self.order.retain(|owned| parts.contains_key(owned));
        }
    }
}

fn size(parts: &Parts) -> usize {
    parts.iter().map(|part| part.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::{Random, segment_key};

    fn key(at: u64) -> SegmentKey {
        segment_key(at, at + 1)
    }

    fn parts(sizes: &[usize]) -> Parts {
        sizes.iter().map(|size| Rc::from(vec![7; *size])).collect()
    }

    #[test]
    fn the_oldest_gives_way_whosever_it_is() {
        let mut sent = SentSegments::default();
        let half = MAX_SENT_BYTES / 2;
        sent.insert(1, key(0), parts(&[half]));
        sent.insert(2, key(0), parts(&[half]));
        sent.insert(2, key(1), parts(&[1]));
        assert!(sent.get(1, &key(0)).is_none());
        assert!(sent.get(2, &key(0)).is_some() && sent.get(2, &key(1)).is_some());
        // What can never have room displaces nothing.
        sent.insert(2, key(2), parts(&[MAX_SENT_BYTES, 1]));
        assert!(sent.get(2, &key(2)).is_none() && sent.get(2, &key(0)).is_some());
    }

    #[test]
    fn the_bound_holds_whatever_comes_and_goes() {
        let mut sent = SentSegments::default();
        let mut random = Random(5);
        for _ in 0..20_000 {
            let (database, at) = (random.below(3), random.below(60));
            match random.below(3) {
                0 => sent.remove(database, &key(at)),
                _ => sent.insert(database, key(at), parts(&[random.below(200_000) as usize, 3])),
            }
            let kept: usize = sent.parts.values().map(size).sum();
            assert_eq!(kept, sent.bytes);
            assert!(sent.bytes <= MAX_SENT_BYTES);
            assert!(sent.order.len() <= 2 * sent.parts.len() + 1, "{} {}", sent.order.len(), sent.parts.len());
        }
    }
}

use super::*;
use crate::error::Kind;
use crate::format::chain_end::ChainEnd;
use crate::format::fixtures::{GENERATION, Random, Wal, millis, point, size};
use crate::format::incremental::{Incremental, IncrementalEncoder, StoredPages};
use crate::format::page_sums::PageSums;
use crate::format::position::Generation;
use crate::format::rollup;
use crate::format::segment::SegmentEncoder;
use crate::format::wal::{ByteOrder, Checksum, Salt};

type Pages = Vec<Vec<u8>>;

fn sums_of(pages: &Pages) -> PageSums {
    let (mut sums, none) = (PageSums::new(size(512)), PageSums::new(size(512)));
    pages.iter().for_each(|page| {
        sums.push(page, &none);
    });
    sums
}

fn told(pages: &Pages) -> DatabaseFingerprint {
    DatabaseFingerprint { pages: pages.len() as u32, checksum: sums_of(pages).checksum() }
}

fn encoded(stored: StoredPages, now: &Pages) -> Incremental {
    let mut encoder = IncrementalEncoder::new(stored, now.len() as u32);
    now.iter().for_each(|page| encoder.page(page));
    encoder.finish()
}

/// The rollup that leads from one state to the next, which are numbered.
fn rollup(states: &[Pages], from: usize, to: usize) -> (SegmentKey, Vec<u8>) {
    let made = encoded(StoredPages::all(sums_of(&states[from])), &states[to]);
    let end = ChainEnd {
        generation: Generation::new(GENERATION),
        end: point(to as u32, 0),
        page_size: size(512),
        order: ByteOrder::Little,
        salt: Salt(1, 2),
        checksum: Some(Checksum(3, 4)),
        crc: None,
    };
    let header = made.header(point(from as u32, 0), &end, millis(9_000));
    (rollup::key_of(&header), made.object(&header))
}

fn states(random: &mut Random, count: usize) -> Vec<Pages> {
    let noise = |random: &mut Random| -> Vec<u8> { (0..512).map(|_| random.below(256) as u8).collect() };
    let mut now: Pages = (0..20).map(|_| noise(random)).collect();
    let mut next = || {
        if random.below(3) == 0 {
            now.truncate(5 + random.below(20) as usize);
        }
        (0..random.below(4)).for_each(|_| now.push(noise(random)));
        for _ in 0..random.below(4) {
            let at = random.below(now.len() as u64) as usize;
            now[at] = noise(random);
        }
        now.clone()
    };
    (0..count).map(|_| next()).collect()
}

/// Along the rollups after state `from`, of which the first is the one that ends there.
fn collected(states: &[Pages], from: usize, to: usize) -> Option<ChangedPages> {
    let mut collector = ChangeCollector::new(point(from as u32, 0), told(&states[from]));
    for at in from..=to {
        let (key, bytes) = rollup(states, at - 1, at);
        assert!(collector.add(&key, &bytes).unwrap());
    }
    collector.finish(point(to as u32, 0), told(&states[to]))
}

#[test]
fn earlier_page_checksums_lead_on_from_the_end() {
    let mut random = Random(5);
    for round in 0..200 {
        let states = states(&mut random, 6);
        let (from, to) = (1 + round % 3, 4);
        let changed = collected(&states, from, to).unwrap();
        let stored = StoredPages { state: told(&states[to]), sums: sums_of(&states[from]), changed };
        let now = &states[5];
        let made = encoded(stored, now);
        // Applied to the end, it gives the state now.
        let header = made.header(point(4, 0), &ChainEnd { end: point(5, 0), ..chain_end() }, millis(1));
        let mut pages = states[to].clone();
        pages.resize(pages.len().min(header.rollup.unwrap().least as usize), vec![0; 512]);
        pages.resize(now.len(), vec![0; 512]);
        let object = made.object(&header);
        let mut reader = SegmentReader::named(&rollup::key_of(&header), object.as_slice());
        let found = reader.next_member().unwrap().unwrap();
        let mut deltas = PayloadDeltas::new(&mut reader, &found);
        while let Some(frame) = deltas.next_delta().unwrap() {
            frame.delta.apply(&[9; 512], &mut pages[frame.page as usize - 1]).unwrap();
        }
        assert!(pages == *now, "round {round}");
        assert_eq!(made.from, told(&states[to]));
    }
}

fn chain_end() -> ChainEnd {
    ChainEnd {
        generation: Generation::new(GENERATION),
        end: point(0, 0),
        page_size: size(512),
        order: ByteOrder::Little,
        salt: Salt(1, 2),
        checksum: None,
        crc: None,
    }
}

#[test]
fn a_state_that_nothing_stored_tells_proves_nothing() {
    let states = states(&mut Random(8), 5);
    let (place, next) = (point(2, 0), rollup(&states, 2, 3));
    let end = (point(3, 0), told(&states[3]));
    let with = |state: &Pages| ChangeCollector::new(place, told(state));
    // Nothing tells it.
    assert!(!with(&states[2]).add(&next.0, &next.1).unwrap());
    // Another database was there, or the checksums are of another place.
    for wrong in [&states[1], &states[3]] {
        let (mut collector, before) = (with(wrong), rollup(&states, 1, 2));
        assert!(collector.add(&before.0, &before.1).unwrap());
        assert!(!collector.add(&next.0, &next.1).unwrap());
        assert_eq!(collector.finish(end.0, end.1), None);
    }
    // A snapshot tells it.
    let mut collector = with(&states[2]);
    collector.told(told(&states[2]));
    assert!(collector.add(&next.0, &next.1).unwrap());
    assert!(collector.finish(end.0, end.1).is_some());
    // What leads over the place does not know it, and what follows must join and end where it should.
    let over = rollup(&states, 1, 3);
    let proven = || {
        let mut collector = with(&states[2]);
        collector.told(told(&states[2]));
        collector
    };
    assert!(!proven().add(&over.0, &over.1).unwrap());
    let later = rollup(&states, 3, 4);
    assert!(!proven().add(&later.0, &later.1).unwrap());
    let mut short = proven();
    assert!(short.add(&next.0, &next.1).unwrap());
    assert_eq!(short.finish(point(4, 0), told(&states[4])), None);
    assert_eq!(proven().finish(place, told(&states[2])), None, "nothing was missed");
}

#[test]
fn a_damaged_segment_is_refused() {
    let states = states(&mut Random(9), 3);
    let (key, bytes) = rollup(&states, 1, 2);
    for at in (0..bytes.len()).step_by(7) {
        let mut bad = bytes.clone();
        bad[at] ^= 16;
        let mut collector = ChangeCollector::new(point(1, 0), told(&states[1]));
        collector.told(told(&states[1]));
        match collector.add(&key, &bad) {
            Err(error) => assert_eq!(error.kind(), Kind::Corrupt),
            // The time in the header of gzip says nothing.
            Ok(joined) => assert!(!joined || at < 10, "byte {at}"),
        }
    }
}

/// A batch of whole frames has them in clear, and tells no checksum.
#[test]
fn whole_frames_are_changes_too() {
    let mut wal = Wal::new(ByteOrder::Little, 512, Salt(7, 8));
    wal.frame(3, 0).frame(9, 12).frame(3, 8);
    let header = wal.batch(0, 0, 3, 5_000);
    let mut bytes = Vec::new();
    SegmentEncoder::new(1).member(&header, &[&wal.bytes], &mut bytes);
    let key = crate::format::segment::key_of(&header, &header);
    let mut collector = ChangeCollector::new(header.start, DatabaseFingerprint { pages: 12, ..told(&Vec::new()) });
    collector.told(DatabaseFingerprint { pages: 12, ..told(&Vec::new()) });
    assert!(collector.add(&key, &bytes).unwrap());
    let changed = collector.changed;
    let found: Vec<u32> = (1..=12).filter(|page| changed.contains(*page)).collect();
    assert_eq!(found, [3, 9, 10, 11, 12]);
}

use super::*;
use crate::format::fixtures::{GENERATION, Random, millis, point, size};
use crate::format::payload_deltas::PayloadDeltas;
use crate::format::position::Generation;
use crate::format::running_checksum::RunningChecksum;
use crate::format::segment::SegmentReader;
use crate::format::wal::{ByteOrder, Salt};

type Pages = Vec<Vec<u8>>;

fn noise(random: &mut Random) -> Vec<u8> {
    (0..512).map(|_| random.below(256) as u8).collect()
}

fn sums_of(pages: &Pages) -> PageSums {
    let (mut sums, none) = (PageSums::new(size(512)), PageSums::new(size(512)));
    pages.iter().for_each(|page| {
        sums.push(page, &none);
    });
    sums
}

fn between(before: &Pages, now: &Pages) -> Incremental {
    let mut encoder = IncrementalEncoder::new(StoredPages::all(sums_of(before)), now.len() as u32);
    now.iter().for_each(|page| encoder.page(page));
    encoder.finish()
}

fn chain_end() -> ChainEnd {
    ChainEnd {
        generation: Generation::new(GENERATION),
        end: point(4, 0),
        page_size: size(512),
        order: ByteOrder::Little,
        salt: Salt(1, 2),
        checksum: Some(Checksum(3, 4)),
        crc: None,
    }
}

/// As a restore applies a rollup.
fn applied(mut pages: Pages, made: &Incremental) -> Pages {
    let header = made.header(point(3, 1_072), &chain_end(), millis(9_000));
    let object = made.object(&header);
    let mut reader = SegmentReader::named(&rollup::key_of(&header), object.as_slice());
    let found = reader.next_member().unwrap().unwrap();
    assert_eq!(found, header);
    pages.resize((found.rollup.unwrap().least as usize).min(pages.len()), vec![0; 512]);
    let mut deltas = PayloadDeltas::new(&mut reader, &found);
    let mut count = 0;
    while let Some(step) = deltas.next_delta().unwrap() {
        assert!(step.delta.is_whole());
        let at = step.page as usize - 1;
        if pages.len() <= at {
            pages.resize(at + 1, vec![0; 512]);
        }
        let mut new = vec![0; 512];
        step.delta.apply(&[9; 512], &mut new).unwrap();
        pages[at] = new;
        count += 1;
    }
    assert_eq!(count, made.changed);
    pages.resize(found.pages as usize, vec![0; 512]);
    let mut running = RunningChecksum::new(size(512));
    pages.iter().for_each(|page| running.push(page));
    assert_eq!(found.differences.unwrap().checksum, running.sum());
    pages
}

#[test]
fn incremental_snapshot_leads_from_any_state_to_any_other() {
    let mut random = Random(11);
    let mut before: Pages = Vec::new();
    for round in 0..400 {
        let mut now = before.clone();
        let length = 1 + random.below(60) as usize;
        now.resize_with(if round % 3 == 0 { length } else { now.len().max(1) }, || noise(&mut Random(round)));
        for _ in 0..random.below(8) {
            let at = random.below(now.len() as u64) as usize;
            now[at] = if random.below(4) == 0 { vec![0; 512] } else { noise(&mut random) };
        }
        let made = between(&before, &now);
        let changed = now.iter().enumerate().filter(|(at, page)| before.get(*at) != Some(page)).count();
        assert_eq!(made.changed as usize, changed);
        assert!(applied(before.clone(), &made) == now, "round {round}");
        before = now;
    }
}

#[test]
fn full_snapshot_is_taken_where_that_is_better() {
    let mut random = Random(3);
    let before: Pages = (0..100).map(|_| noise(&mut random)).collect();
    let chain = ChainBytes { snapshot: 40 << 20, segments: 0 };
    let why = |changed: usize, chain: &ChainBytes| {
        let mut now = before.clone();
        now.iter_mut().take(changed).for_each(|page| page[7] ^= 1);
        let mut encoder = IncrementalEncoder::new(StoredPages::all(sums_of(&before)), 100);
        now.iter().for_each(|page| encoder.page(page));
        encoder.why_full(chain)
    };
    assert_eq!((why(0, &chain), why(50, &chain)), (None, None));
    assert_eq!(why(51, &chain), Some(WhyFull::MostPagesDiffer));
    assert_eq!(why(9, &ChainBytes { segments: 41 << 20, ..chain }), Some(WhyFull::LongChain));
    assert_eq!(why(9, &ChainBytes { snapshot: 400, segments: 1 << 19 }), None, "short enough, whatever it follows");
}

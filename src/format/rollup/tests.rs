use super::*;
use crate::error::Kind;
use crate::format::chain_end::check_key;
use crate::format::fixtures::{ChunkedReader, Random, harmless_bits, point, size, wal};
use crate::format::page_diff::PageDiffer;
use crate::format::payload_deltas::{DeltaFrame, PayloadDeltas};
use crate::format::segment::SegmentReader;

/// A rollup from 2:32 to the end of the sample WAL, of a database with so many pages.
fn header(pages: u32) -> MemberHeader {
    let last = wal().batch(3, 3, 6, 700);
    let differences =
        Some(Differences { checksum: DatabaseChecksum::new(u64::MAX - 5), checkpoint: 0, tells_wal: false });
    header_from(point(2, 32), &MemberHeader { pages, differences, ..last }, 1, None).unwrap()
}

fn stored(header: &MemberHeader, pages: &[(u32, PageDelta)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = RollupEncoder::new(header, 6, &mut out);
    pages.iter().for_each(|(number, delta)| encoder.page(*number, delta, &mut out));
    encoder.finish(&mut out);
    out
}

fn read(key: &SegmentKey, stored: &[u8], step: usize) -> Result<(MemberHeader, Vec<(u32, PageDelta)>)> {
    let mut reader = SegmentReader::named(key, ChunkedReader(stored, step));
    let header = reader.next_member()?.unwrap();
    check_key(key, &header)?;
    let (mut deltas, mut pages) = (PayloadDeltas::new(&mut reader, &header), Vec::new());
    while let Some(DeltaFrame { page, commit, delta }) = deltas.next_delta()? {
        assert_eq!(commit, 0);
        pages.push((page, delta));
    }
    assert_eq!(reader.next_member()?, None);
    Ok((header, pages))
}

/// Differences of pages, of which some are whole.
fn some_pages(random: &mut Random, count: u32) -> Vec<(u32, PageDelta)> {
    let mut differ = PageDiffer::default();
    let mut number = 0;
    let pages = (0..count).map(|_| {
        number += 1 + random.below(3) as u32;
        let old: Vec<u8> = (0..512).map(|_| random.below(256) as u8).collect();
        let mut new = old.clone();
        match random.below(3) {
            0 => new.iter_mut().for_each(|byte| *byte = random.below(256) as u8),
            1 => new[random.below(512) as usize] ^= 1,
            _ => new.copy_within(0..random.below(400) as usize, random.below(100) as usize),
        }
        (number, differ.diff(&old, &new).clone())
    });
    pages.collect()
}

#[test]
fn the_fields_tile_the_header() {
    let ends = FIELDS.iter().scan(0, |end, field| Some(std::mem::replace(end, field.at + field.size)));
    assert!(FIELDS.iter().map(|field| field.at).eq(ends));
    assert_eq!(FIELDS_LEN, 62);
}

#[test]
fn rollups_read_back_whatever_their_size() {
    let mut random = Random(5);
    for count in [0, 1, 2, 60, 700] {
        let (header, pages) = (header(3_000), some_pages(&mut random, count));
        let bytes = stored(&header, &pages);
        for step in [1, 7, usize::MAX].into_iter().skip(usize::from(count > 100)) {
            let (found, read_back) = read(&key_of(&header), &bytes, step).unwrap();
            assert_eq!(found, header);
            assert!(read_back == pages, "{count} pages, {step} bytes at a time");
        }
    }
}

#[test]
fn the_name_of_a_rollup_tells_that_it_is_one() {
    let header = header(4);
    let key = key_of(&header);
    assert!(key.is_rollup() && key.to_string().contains("-19700101T000000.000Z-19700101T000000.700Z"), "{key}");
    assert_eq!((key.first_moment(), key.start, key.end), (key.last_seen, point(2, 32), header.end_point()));
    let within = WalPosition { index: 3, ..point(3, 32) };
    assert!(key.leads_on_from(key.start) && !key.leads_on_from(within) && !key.leads_on_from(key.end));
    let segment = SegmentKey { first_seen: key.last_seen, ..key };
    assert!(segment.leads_on_from(key.start) && segment.leads_on_from(within) && !segment.leads_on_from(key.end));
    // One under the name of a segment would be stopped in, or entered, where it cannot be.
    let error = read(&segment, &stored(&header, &[]), 9).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
}

#[test]
fn what_does_not_prove_its_end_makes_no_rollup() {
    let last = wal().batch(3, 3, 6, 700);
    assert_eq!(header_from(point(2, 32), &last, 1, None), None);
    let known =
        header_from(point(2, 32), &last, 1, Some(DatabaseChecksum::new(7))).and_then(|header| header.differences);
    assert_eq!(known.map(|told| told.checksum), Some(DatabaseChecksum::new(7)), "format 1, and it was found out");
    let differences = Some(Differences { checksum: DatabaseChecksum::new(1), checkpoint: 0, tells_wal: true });
    assert_eq!(header_from(point(2, 32), &MemberHeader { differences, part: true, ..last }, 1, None), None);
}

#[test]
fn a_rollup_that_cannot_be_true_is_refused() {
    let good = header(4);
    let whole = |byte| PageDelta::whole(&[byte; 512]);
    let refused = |header: &MemberHeader, pages: &[(u32, PageDelta)]| {
        let error = read(&key_of(header), &stored(header, pages), 100).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        error.to_string()
    };
    for (pages, last) in [(vec![5], 5), (vec![2, 2], 2), (vec![3, 1], 1)] {
        let pages: Vec<_> = pages.into_iter().map(|number| (number, whole(1))).collect();
        assert!(refused(&good, &pages).ends_with(&format!("in a rollup, found {last}")));
    }
    let late = MemberHeader { start: point(4, 0), ..good };
    let wide = MemberHeader { rollup: Some(Rollup { least: 5 }), ..good };
    let none = MemberHeader { pages: 0, rollup: Some(Rollup { least: 0 }), ..good };
    for header in [late, wide, none] {
        assert!(refused(&header, &[]).contains("cannot lead to"));
    }
}

#[test]
fn a_flipped_bit_anywhere_is_seen_or_means_nothing() {
    let header = header(4);
    let bytes = stored(&header, &[(2, PageDelta::whole(&[7; 512]))]);
    // Deflate fills its last byte with bits that mean nothing.
    harmless_bits(&bytes, |bytes| read(&key_of(&header), bytes, 4096));
}

#[test]
fn pages_are_bounded_by_the_header() {
    assert_eq!(most_bytes(&header(4)), 4 * (4 * 512 + 32) + 32);
    assert_eq!(size(512).get(), 512);
}

//! Frames go into a member as differences and come out of it as they were.

use std::collections::HashMap;

use super::*;
use crate::error::Kind;
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::differences::Composer;
use crate::format::fixtures::{Random, Wal, wal};
use crate::format::key::SegmentKey;
use crate::format::segment::{Differences, SegmentEncoder, key_of, last_member};
use crate::format::wal::{ByteOrder, Salt};

/// Pages by number; all others are zeros.
#[derive(Clone, Default)]
struct Pages(HashMap<u32, Vec<u8>>);

impl BasePages for Pages {
    fn base(&mut self, number: u32, page: &mut [u8]) -> Result<()> {
        match self.0.get(&number) {
            Some(old) => page.copy_from_slice(old),
            None => page.fill(0),
        }
        Ok(())
    }
}

fn noise(random: &mut Random, len: usize) -> Vec<u8> {
    (0..len).map(|_| random.below(256) as u8).collect()
}

fn changed(random: &mut Random, page: &[u8]) -> Vec<u8> {
    let (mut new, len) = (page.to_vec(), page.len() as u64);
    match random.below(6) {
        0 => new = noise(random, page.len()),
        1 => new.fill(0),
        2 => {}
        _ => {
            let (at, to) = (random.below(len / 2) as usize, random.below(len / 2) as usize);
            let count = random.below(len / 2) as usize;
            new.copy_within(at..at + count, to);
            new[at] ^= 1;
        }
    }
    new
}

/// A WAL of `frames` frames that change `pages`, which are left as they are after it.
fn history(random: &mut Random, pages: &mut Pages, frames: u32) -> Wal {
    let size = 512 << random.below(8);
    let order = if random.below(2) == 0 { ByteOrder::Little } else { ByteOrder::Big };
    let mut wal = Wal::new(order, size, Salt(random.next() as u32, 8));
    for frame in 1..=frames {
        let most = if random.below(9) == 0 { u32::MAX.into() } else { 5 };
        let number = 1 + random.below(most) as u32;
        let mut old = vec![0; size as usize];
        pages.base(number, &mut old).unwrap();
        let new = changed(random, &old);
        let commit = if frame == frames || random.below(3) == 0 { 1 + random.next() as u32 / 2 } else { 0 };
        wal.page(number, commit, &new);
        pages.0.insert(number, new);
    }
    wal
}

/// A member as it is stored, with its name.
fn member(wal: &Wal, header: &MemberHeader, pages: &mut Pages) -> (SegmentKey, Vec<u8>) {
    let mut composer = Composer::default();
    let checksum = DatabaseChecksum::new(5);
    let header =
        MemberHeader { differences: Some(Differences { checksum, checkpoint: 0, tells_wal: true }), ..*header };
    composer.begin(header.pages);
    for frame in frames_of(wal, &header) {
        let mut old = vec![0; header.page_size.get() as usize];
        let number = FrameHeader::first(frame).unwrap().page;
        pages.base(number, &mut old).unwrap();
        composer.frame(frame, &old);
        pages.0.insert(number, frame[FRAME_HEADER..].to_vec());
    }
    assert!(composer.finish());
    let mut out = Vec::new();
    SegmentEncoder::new(1).differences(&header, &composer, &mut out);
    (key_of(&header, &header), out)
}

fn frames_of<'a>(wal: &'a Wal, header: &MemberHeader) -> impl Iterator<Item = &'a [u8]> {
    let first = header.payload_offset.get().max(32) as usize;
    wal.bytes[first..header.end.get() as usize].chunks_exact(header.page_size.frame())
}

/// All frames of an object, one after another, and its last header.
fn read(key: &SegmentKey, stored: &[u8], before: Checksum, pages: &mut Pages) -> Result<(Vec<u8>, MemberHeader)> {
    let mut reader = SegmentReader::named(key, stored);
    let header = reader.next_member()?.unwrap();
    let before = if header.payload_offset.get() == 0 { header.checksum_before } else { before };
    let mut frames = DifferenceFrames::new(&mut reader, &header, before);
    let (mut all, mut frame) = (Vec::new(), Vec::new());
    while let Some(found) = frames.next_frame(pages, &mut frame)? {
        pages.0.insert(found.page, frame[FRAME_HEADER..].to_vec());
        all.extend_from_slice(&frame);
    }
    assert_eq!(frames.next_frame(pages, &mut frame)?, None);
    Ok((all, header))
}

#[test]
fn frames_come_back_bit_by_bit_whatever_the_pages_are() {
    for seed in 0..120 {
        let mut random = Random(seed);
        let mut pages = Pages::default();
        let wal = history(&mut random, &mut pages, 1 + seed as u32 % 12);
        let count = wal.bytes.len() / wal.header.page_size.frame();
        let (mut written, mut read_back) = (Pages::default(), Pages::default());
        let cut = random.below(count as u64) as u32;
        for (after, upto) in [(0, cut), (cut, count as u32)].into_iter().filter(|(after, upto)| after < upto) {
            let header = wal.batch(0, after, upto, 100);
            let (key, stored) = member(&wal, &header, &mut written);
            let (found, last) = read(&key, &stored, header.checksum_before, &mut read_back).unwrap();
            assert!(found == frames_of(&wal, &header).flatten().copied().collect::<Vec<_>>(), "{seed}");
            assert_eq!((last.end, last.pages, last.part), (header.end, header.pages, header.part));
            assert_eq!(last.differences.unwrap().checksum.get(), 5);
        }
        assert!(read_back.0 == pages.0, "{seed}");
    }
}

#[test]
fn a_page_that_is_not_the_base_is_noticed() {
    let mut random = Random(3);
    let old = noise(&mut random, 512);
    let mut new = old.clone();
    new[7] ^= 1;
    let wal = {
        let mut wal = Wal::new(ByteOrder::Little, 512, Salt(1, 2));
        wal.page(1, 1, &new);
        wal
    };
    let (key, stored) = member(&wal, &wal.batch(0, 0, 1, 1), &mut Pages(HashMap::from([(1, old.clone())])));
    assert!(read(&key, &stored, Checksum::default(), &mut Pages(HashMap::from([(1, old.clone())]))).is_ok());
    for bit in 0..512 * 8 {
        let mut wrong = old.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        // What the literals replace does not matter.
        let found = read(&key, &stored, Checksum::default(), &mut Pages(HashMap::from([(1, wrong)])));
        assert!(found.is_ok() == (bit / 8 == 7), "{bit}");
        if let Err(error) = found {
            assert!(error.message().starts_with("differences: expected frames that end in "), "{error}");
            assert_eq!(error.hint(), Some("it was made from other pages, or it is damaged"));
        }
    }
}

#[test]
fn a_small_change_is_a_small_member() {
    let mut random = Random(4);
    let old = noise(&mut random, 4096);
    let mut wal = Wal::new(ByteOrder::Little, 4096, Salt(1, 2));
    let mut new = old.clone();
    new[100..104].copy_from_slice(b"word");
    wal.page(1, 1, &new);
    let (_, stored) = member(&wal, &wal.batch(0, 0, 1, 1), &mut Pages(HashMap::from([(1, old)])));
    assert!(stored.len() <= 16 + 54 + 8 + 20, "{} bytes", stored.len());
}

#[test]
fn the_last_member_is_found_with_what_it_inherits() {
    let (wal, mut pages, mut out) = (wal(), Pages::default(), Vec::new());
    let mut encoder = SegmentEncoder::new(1);
    let mut headers = [wal.batch(0, 0, 2, 100), wal.batch(0, 2, 3, 200), wal.batch(0, 3, 6, 300)];
    encoder.member(&headers[0], &[wal.payload(&headers[0])], &mut out);
    let mut composer = Composer::default();
    for header in &mut headers[1..] {
        let checksum = DatabaseChecksum::new(header.visible_by.millis());
        header.differences = Some(Differences { checksum, checkpoint: 0, tells_wal: false });
        composer.begin(header.pages);
        for frame in frames_of(&wal, header) {
            let (number, mut old) = (FrameHeader::first(frame).unwrap().page, vec![0; 512]);
            pages.base(number, &mut old).unwrap();
            composer.frame(frame, &old);
        }
        assert!(composer.finish());
        encoder.differences(header, &composer, &mut out);
    }
    let key = key_of(&headers[0], &headers[2]);
    let (last, _) = last_member(&key, &out).unwrap();
    assert_eq!(last, MemberHeader { visible_after: headers[1].visible_by, ..headers[2] });
    let unnamed = SegmentReader::new(&out[out.len() - 1..]).next_member();
    assert_eq!(unnamed.unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn a_member_without_its_name_says_too_little() {
    let wal = wal();
    let (_, stored) = member(&wal, &wal.batch(0, 0, 2, 1), &mut Pages::default());
    let error = SegmentReader::new(stored.as_slice()).next_member().unwrap_err();
    assert_eq!(error.message(), "segment header: expected the name of the segment, which says the rest");
}

#[test]
fn damaged_members_are_refused_in_bounds() {
    let mut random = Random(9);
    let (mut wal, mut pages) = (Wal::new(ByteOrder::Little, 512, Salt(1, 2)), Pages::default());
    for number in [1, 2, 3, 2, 1] {
        wal.page(number, 3, &noise(&mut random, 512));
    }
    let header = wal.batch(0, 0, 5, 1);
    let (key, stored) = member(&wal, &header, &mut pages);
    for bit in 0..stored.len() * 8 {
        let mut bad = stored.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        match read(&key, &bad, Checksum::default(), &mut Pages::default()) {
            Err(error) => assert_eq!(error.kind(), Kind::Corrupt, "bit {bit}"),
            Ok((found, _)) => assert!(found == wal.bytes[32..], "bit {bit}"),
        }
    }
}

/// Members with a good crc32 whose payload is anything.
#[test]
fn payloads_of_any_bytes_are_refused_without_a_panic() {
    let wal = wal();
    let (mut frame, mut refused) = (Vec::new(), 0);
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let header = wal.batch(0, 0, 1 + random.below(6) as u32, 1);
        let differences = Differences { checksum: DatabaseChecksum::new(1), checkpoint: 0, tells_wal: true };
        let header = MemberHeader { differences: Some(differences), ..header };
        let (length, count) = (random.below(60) as u8, random.below(2000) as usize);
        let (steps, literals) = (noise(&mut random, length.into()), noise(&mut random, count));
        let mut composer = Composer::default();
        (composer.length, composer.steps, composer.literals) = (vec![length], steps, literals);
        let mut stored = Vec::new();
        SegmentEncoder::new(1).differences(&header, &composer, &mut stored);
        let key = key_of(&header, &header);
        let mut reader = SegmentReader::named(&key, stored.as_slice());
        let Ok(Some(header)) = reader.next_member() else { continue };
        let mut frames = DifferenceFrames::new(&mut reader, &header, header.checksum_before);
        let mut pages = Pages::default();
        while let Ok(Some(_)) = frames.next_frame(&mut pages, &mut frame) {}
        refused += u32::from(frames.next_frame(&mut pages, &mut frame).is_err());
    }
    assert!(refused > 10_000, "{refused}");
}

//! Bytes that nobody wrote on purpose: what is read from outside never panics, never loops, never takes memory without
//! bound, whatever it holds. Real objects, changed at random from a fixed seed; a failure prints the round.
//! `MUTATION_ROUNDS=n` changes that many age files.

use std::io::Read;

use litestream::age::CHUNK_BYTES;
use litestream::age::decryptor::Decryptor;
use litestream::age::encryptor::Encryptor;
use litestream::age::fault::Fault;
use litestream::age::header::HeaderBuilder;
use litestream::age::identity::Identity;
use litestream::age::sealed_note;
use litestream::config;
use litestream::error::Result;
use litestream::format::database_checksum::DatabaseChecksum;
use litestream::format::deflate_blocks::{Block, BlockCompressor};
use litestream::format::difference_frames::{BasePages, DifferenceFrames};
use litestream::format::differences::Composer;
use litestream::format::frames::MemberFrames;
use litestream::format::key::{Key, SegmentKey, SnapshotKey};
use litestream::format::listing::Listing;
use litestream::format::plan::{PlanTarget, listed_end, plan};
use litestream::format::position::{Generation, Offset, PageSize, Position, WalPosition};
use litestream::format::segment::{self, Differences, MemberHeader, SegmentEncoder, SegmentReader};
use litestream::format::snapshot::{self, SnapshotEncoder, SnapshotHeader, SnapshotReader};
use litestream::format::time::Timestamp;
use litestream::format::wal::{ByteOrder, Checksum, FRAME_HEADER, FrameChecksum, FrameHeader, Salt, WalHeader};

const ROUNDS: u64 = 3000;
const PAGE: usize = 512;

/// xorshift64*: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// A few changes of the kinds that damage makes: flipped, overwritten, cut off, doubled, put elsewhere.
    fn damage(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut changed = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(changed.len());
            let length = self.below(64).min(changed.len() - at);
            match self.below(5) {
                0 => changed[at] ^= 1 << self.below(8),
                1 => changed[at..at + length].iter_mut().for_each(|byte| *byte = self.next() as u8),
                2 => changed.truncate(at.max(1)),
                3 => changed = [&changed[..at + length], &changed[at..]].concat(),
                _ => changed.rotate_left(length),
            }
        }
        changed
    }
}

fn point(index: u32, frame: u32) -> WalPosition {
    WalPosition { index, offset: Offset::end_of_frame(frame, PageSize::MIN) }
}

/// A WAL as SQLite writes it, with a commit in each second frame.
fn wal(frames: u32) -> (WalHeader, Vec<u8>, Checksum) {
    let header = WalHeader {
        order: ByteOrder::Little,
        page_size: PageSize::MIN,
        checkpoint: 0,
        salt: Salt(1, 2),
        checksum: Checksum::default(),
    };
    let mut bytes = header.encode().to_vec();
    let header = WalHeader::parse(bytes[..32].try_into().unwrap()).unwrap();
    let mut sum = header.checksum;
    for number in 1..=frames {
        let mut frame = vec![number as u8; FRAME_HEADER + PAGE];
        frame[..4].copy_from_slice(&number.to_be_bytes());
        let commit = if number % 2 == 0 { number } else { 0 };
        frame[4..8].copy_from_slice(&commit.to_be_bytes());
        sum = sum.over_frame(ByteOrder::Little, &frame);
        for (at, word) in [1, 2, sum.0, sum.1].into_iter().enumerate() {
            frame[8 + at * 4..12 + at * 4].copy_from_slice(&word.to_be_bytes());
        }
        bytes.extend(frame);
    }
    (header, bytes, sum)
}

fn stored_segment() -> Vec<u8> {
    let (member, bytes) = batch();
    let mut object = Vec::new();
    SegmentEncoder::new(1).member(&member, &[&bytes], &mut object);
    object.clone().into_iter().chain(object).collect()
}

/// The same twice as differences of pages, each against one that holds only zeros.
fn stored_differences() -> Vec<u8> {
    let (member, bytes) = batch();
    let mut composer = Composer::default();
    composer.begin(member.pages);
    bytes[32..].chunks_exact(FRAME_HEADER + PAGE).for_each(|frame| composer.frame(frame, &[0; PAGE]));
    assert!(composer.finish());
    let differences = Differences { checksum: DatabaseChecksum::new(7), checkpoint: 0, tells_wal: true };
    let (member, mut object) = (MemberHeader { differences: Some(differences), ..member }, Vec::new());
    SegmentEncoder::new(1).differences(&member, &composer, &mut object);
    object.clone().into_iter().chain(object).collect()
}

fn key() -> SegmentKey {
    let (member, _) = batch();
    segment::key_of(&member, &member)
}

fn batch() -> (MemberHeader, Vec<u8>) {
    let (header, bytes, sum) = wal(6);
    let member = MemberHeader {
        generation: Generation::new(7),
        start: point(0, 0),
        index: 0,
        payload_offset: Offset::ZERO,
        end: Offset::end_of_frame(6, PageSize::MIN),
        page_size: PageSize::MIN,
        order: ByteOrder::Little,
        part: false,
        unchecksummed: false,
        salt: header.salt,
        checksum_before: header.checksum,
        checksum_after: sum,
        pages: 6,
        visible_after: Timestamp::from_millis(1),
        visible_by: Timestamp::from_millis(2),
        previous_crc: 0,
        differences: None,
        rollup: None,
    };
    (member, bytes)
}

fn stored_snapshot() -> Vec<u8> {
    let header = SnapshotHeader {
        generation: Generation::new(7),
        position: point(0, 3),
        page_size: PageSize::MIN,
        order: ByteOrder::Little,
        wal_known: true,
        salt: Salt(1, 2),
        checksum: Checksum(3, 4),
        pages: 5,
        time: Timestamp::from_millis(9),
        database: None,
    };
    let mut object = Vec::new();
    let (mut encoder, mut piece) = (SnapshotEncoder::new(&header, None), Block::default());
    BlockCompressor::new(1).compress(&[9; 5 * PAGE], &mut piece);
    encoder.add(&piece, &mut object);
    encoder.finish(&mut object).unwrap();
    object
}

/// Says what is wrong in words and numbers, and not as Rust prints its values.
fn in_words<T>(result: Result<T>) {
    let Err(error) = result else { return };
    let text = error.message();
    let printed =
        ["Some(", "None", "Ok(", "Err(", "(true", "(false", "Checksum", "Salt", "Offset", "PageSize", "[", "{", "::"];
    assert!(!printed.iter().any(|part| text.contains(part)), "{text}");
    let numbers =
        |inside: &str| inside.contains(", ") && inside.chars().all(|c| c.is_ascii_digit() || ", ".contains(c));
    let mut tuples = text.split('(').skip(1).filter_map(|rest| rest.split(')').next());
    assert!(!tuples.any(numbers), "{text}");
}

/// Reads a segment as a restore does; how many bytes of pages came out.
fn read_segment(object: &[u8]) -> usize {
    let key = key();
    let mut reader = SegmentReader::named(&key, object);
    let (mut frame, mut total) = (Vec::new(), 0);
    loop {
        let header = match reader.next_member() {
            Ok(Some(header)) => header,
            ended => {
                in_words(ended);
                break;
            }
        };
        if header.differences.is_some() {
            total += read_differences(&mut reader, &header);
            continue;
        }
        let Ok(mut frames) = MemberFrames::new(&mut reader, &header) else { break };
        loop {
            let found = frames.next_frame(&mut frame);
            if !matches!(found, Ok(Some(_))) {
                in_words(found);
                break;
            }
            total += frame.len();
            assert!(total < 64 << 20, "a few kilobytes became {total} bytes");
        }
    }
    total
}

struct Zeros;

impl BasePages for Zeros {
    fn base(&mut self, _number: u32, page: &mut [u8]) -> Result<()> {
        page.fill(0);
        Ok(())
    }
}

fn read_differences(reader: &mut SegmentReader<&[u8]>, header: &MemberHeader) -> usize {
    let mut frames = DifferenceFrames::new(reader, header, header.checksum_before);
    let (mut frame, mut total) = (Vec::new(), 0);
    while let Ok(Some(_)) = frames.next_frame(&mut Zeros, &mut frame) {
        total += frame.len();
        assert!(total < 64 << 20, "a few hundred bytes became {total} bytes");
    }
    total
}

fn read_snapshot(object: &[u8]) -> usize {
    let _ = snapshot::header_of(object);
    let Ok(mut reader) = SnapshotReader::open(object) else { return 0 };
    let (mut piece, mut total) = (vec![0; 4096], 0);
    while let Ok(count @ 1..) = reader.read(&mut piece) {
        total += count;
        assert!(total < 64 << 20, "a few kilobytes became {total} bytes");
    }
    total
}

/// What is read of an age file that comes in pieces of this size.
fn decrypted(file: &[u8], piece: usize, identities: &[Identity]) -> (std::result::Result<(), Fault>, Vec<u8>) {
    let (mut decryptor, mut plain) = (Decryptor::new(), Vec::new());
    let pushed = file.chunks(piece).try_for_each(|bytes| decryptor.push(bytes, identities, &mut plain));
    (pushed.and_then(|()| decryptor.finish(identities, &mut plain)), plain)
}

#[test]
fn a_damaged_age_file_gives_nothing_that_was_not_written() {
    let mut random = Random(31);
    let identities = [Identity::generate()];
    let mut files = Vec::new();
    for length in [0, 300, CHUNK_BYTES, 2 * CHUNK_BYTES + 5000] {
        let mut plain = vec![0; length];
        plain.iter_mut().for_each(|byte| *byte = random.next() as u8);
        let recipients = [*identities[0].recipient(), *Identity::generate().recipient()];
        let (mut header, mut file) = (HeaderBuilder::new(&recipients).unwrap(), Vec::new());
        sealed_note::add(&mut header, b"a name", None);
        let mut encryptor = Encryptor::begin(header, &mut file);
        encryptor.write(&plain, &mut file);
        encryptor.finish(&mut file);
        assert_eq!(decrypted(&file, 999, &identities), (Ok(()), plain.clone()));
        files.push((file, plain));
    }
    let more = std::env::var("MUTATION_ROUNDS").ok().map(|text| text.parse().expect("MUTATION_ROUNDS: a number"));
    for round in 0..more.unwrap_or(ROUNDS) {
        let (file, plain) = &files[random.below(files.len())];
        // The header is short, and all of it matters.
        let head = if random.below(2) == 0 { file.len() } else { file.len().min(500) };
        let damaged = [&random.damage(&file[..head])[..], &file[head..]].concat();
        let (whole, read) = decrypted(&damaged, damaged.len().max(1), &identities);
        assert_eq!(whole.is_ok(), damaged == *file, "round {round}: {whole:?}");
        assert!(plain.starts_with(&read), "round {round}: something else was given");
        let most = if random.below(2) == 0 { 80 } else { CHUNK_BYTES };
        let piece = 1 + random.below(most);
        assert_eq!(decrypted(&damaged, piece, &identities), (whole, read), "round {round}: in pieces of {piece}");
    }
}

#[test]
fn damaged_segments_and_snapshots_are_refused_or_read_in_bounds() {
    let (segment, snapshot) = (stored_segment(), stored_snapshot());
    assert_eq!((read_segment(&segment), read_snapshot(&snapshot)), (2 * 6 * (FRAME_HEADER + PAGE), 5 * PAGE));
    let differences = stored_differences();
    assert_eq!(read_segment(&differences), 2 * 6 * (FRAME_HEADER + PAGE));
    let mut random = Random(0x5eed);
    for _ in 0..ROUNDS {
        read_segment(&random.damage(&segment));
        read_snapshot(&random.damage(&snapshot));
        in_words(segment::last_member(&key(), &random.damage(&segment)));
        read_segment(&random.damage(&differences));
        in_words(segment::last_member(&key(), &random.damage(&differences)));
        in_words(snapshot::header_of(&random.damage(&snapshot)));
        // One in the other's place.
        read_segment(&random.damage(&snapshot));
        read_snapshot(&random.damage(&segment));
    }
}

#[test]
fn a_damaged_wal_is_never_taken_for_another_history() {
    let (header, bytes, _) = wal(6);
    let mut random = Random(0xda7a);
    for round in 0..ROUNDS {
        let damaged = random.damage(&bytes);
        let _ = damaged.first_chunk().map(WalHeader::parse);
        let mut chain = FrameChecksum::new(header.order, header.salt, header.checksum);
        for (at, frame) in damaged[32.min(damaged.len())..].chunks_exact(FRAME_HEADER + PAGE).enumerate() {
            let Ok(found) = chain.push(frame) else { break };
            let original = &bytes[32 + at * frame.len()..][..frame.len()];
            let unsealed = FrameHeader::first(frame).is_some_and(|header| header.is_unchecksummed());
            assert!(unsealed || frame == original, "round {round}: frame {at} changed to {found:?} and was believed");
        }
    }
}

#[test]
fn names_positions_and_moments_are_read_or_refused() {
    let generation = Generation::new(0x019a_af3c_5d10_a1b2);
    let (first, last) = (Timestamp::from_millis(1_000), Timestamp::from_millis(2_000));
    let segment =
        SegmentKey { generation, start: point(0, 1), end: point(1, 2), first_seen: first, last_seen: last, part: true };
    let names = [
        segment.to_string(),
        SnapshotKey { generation, position: point(0, 1), time: first }.to_string(),
        Position { generation, wal_position: point(3, 4) }.to_string(),
        first.to_string(),
        first.to_key(),
    ];
    let mut random = Random(0x7e47);
    for _ in 0..ROUNDS {
        for name in &names {
            let text = String::from_utf8_lossy(&random.damage(name.as_bytes())).into_owned();
            if let Some(key) = Key::parse(&text) {
                assert_eq!(key.to_string(), text, "a name has one spelling");
            }
            let _ = (text.parse::<Position>(), text.parse::<Generation>());
            let _ = (Timestamp::parse(&text), Timestamp::from_key(&text));
        }
    }
}

/// Listings of a few points in every order, with holes, overlaps and strangers.
#[test]
fn a_plan_for_any_listing_is_a_way_or_a_refusal() {
    let mut random = Random(0x91a4);
    for round in 0..ROUNDS {
        let mut names = vec!["ltx/0/1.ltx".to_string()];
        for _ in 0..random.below(12) {
            let generation = Generation::new(random.below(3) as u64);
            let (a, b) = (random.below(6) as u32, random.below(6) as u32);
            let (start, end) = (point(a / 3, a % 3), point(b / 3, b % 3));
            let time = Timestamp::from_millis(random.below(9) as u64);
            let part = random.below(5) == 0;
            match random.below(3) {
                0 => names.push(SnapshotKey { generation, position: start, time }.to_string()),
                _ => names
                    .push(SegmentKey { generation, start, end, first_seen: time, last_seen: time, part }.to_string()),
            }
        }
        let listing = Listing::new(names.into_iter().map(|name| (name, 1)));
        let _ = listed_end(&listing);
        let moment = PlanTarget::Time(Timestamp::from_millis(random.below(9) as u64));
        let generation = Generation::new(random.below(3) as u64);
        let place = PlanTarget::Position(Position { generation, wal_position: point(0, random.below(3) as u32) });
        for target in [PlanTarget::Latest, moment, place] {
            let Ok(plan) = plan(&listing, None, &target) else { continue };
            let mut at = plan.snapshot.position;
            for (key, _) in &plan.segments {
                assert!(key.start <= at && key.end > at, "round {round}: {key} does not continue {at}");
                at = key.end;
            }
        }
    }
}

#[test]
fn a_damaged_configuration_is_an_error_with_a_message() {
    let mut sample = String::new();
    std::fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/man/litestream.yml"))
        .and_then(|mut file| file.read_to_string(&mut sample))
        .unwrap();
    let none = |_: &str| None;
    let around = config::check_files::real_environment(&none).unwrap();
    let mut random = Random(0xc0f1);
    for _ in 0..ROUNDS / 10 {
        let text = String::from_utf8_lossy(&random.damage(sample.as_bytes())).into_owned();
        if let Err(error) = config::parse(&text, &around, false) {
            assert!(!error.message().is_empty());
        }
    }
}

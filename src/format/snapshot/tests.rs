use std::path::Path;

use super::*;
use crate::error::{Error, Kind};
use crate::format::deflate_blocks::BlockCompressor;
use crate::format::fixtures::{
    ChunkedReader, FailingReader, GENERATION as ID, Random, harmless_bits, millis, point, size,
};
use crate::format::origin::{DatabaseFacts, SchemaSample};

fn header(pages: u32) -> SnapshotHeader {
    SnapshotHeader {
        generation: Generation::new(ID),
        position: point(3, 32 + 2 * 536),
        page_size: size(512),
        order: ByteOrder::Big,
        wal_known: true,
        salt: Salt(1, 2),
        checksum: Checksum(3, 4),
        pages,
        time: millis(1_795_413_292_345),
        database: None,
    }
}

fn database(pages: u32) -> Vec<u8> {
    let mut random = Random(1);
    (0..pages * 512).map(|_| random.below(7) as u8).collect()
}

fn packed(pages: &[u8]) -> Block {
    let mut piece = Block::default();
    BlockCompressor::new(LEVEL).compress(pages, &mut piece);
    piece
}

fn stored(header: &SnapshotHeader, database: &[u8]) -> Vec<u8> {
    stored_of(header, None, database)
}

fn origin() -> DatabaseOrigin {
    let schema = Some(SchemaSample::new([("table", "a"), ("index", "b")].into_iter()));
    DatabaseOrigin::new("pi", Path::new("/var/lib/a.db"), DatabaseFacts { mode: 0o640, schema, ..Default::default() })
}

fn stored_of(header: &SnapshotHeader, origin: Option<&DatabaseOrigin>, database: &[u8]) -> Vec<u8> {
    let (mut encoder, mut out) = (SnapshotEncoder::new(header, origin), Vec::new());
    for piece in database.chunks(1000) {
        encoder.add(&packed(piece), &mut out);
    }
    encoder.finish(&mut out).unwrap();
    out
}

fn drain(input: impl Read) -> Result<(SnapshotHeader, Vec<u8>)> {
    let mut reader = SnapshotReader::open(input)?;
    let (mut payload, mut buf) = (Vec::new(), [0; 700]);
    loop {
        match reader.read(&mut buf)? {
            0 => return Ok((*reader.header(), payload)),
            count => payload.extend_from_slice(&buf[..count]),
        }
    }
}

#[test]
fn the_fields_tile_the_header() {
    let mut end = 0;
    for field in FIELDS {
        assert_eq!(field.at, end, "{}", field.name);
        end += field.size;
    }
    assert_eq!(end, FIELDS_LEN);
}

#[test]
fn snapshot_is_readable_by_us_and_by_any_gunzip() {
    for pages in [0, 1, 100] {
        let (header, database) = (header(pages), database(pages));
        let stored = stored(&header, &database);
        for step in [1, 333, usize::MAX] {
            assert_eq!(drain(ChunkedReader(&stored, step)).unwrap(), (header, database.clone()));
        }
        let mut payload = Vec::new();
        flate2::read::MultiGzDecoder::new(stored.as_slice()).read_to_end(&mut payload).unwrap();
        assert_eq!(payload, database);
    }
}

#[test]
fn every_number_of_a_header_reads_back() {
    let known = SnapshotHeader { order: ByteOrder::Little, pages: u32::MAX, time: Timestamp::MAX, ..header(1) };
    let unknown =
        SnapshotHeader { wal_known: false, position: point(u32::MAX, 0), page_size: size(65_536), ..header(1) };
    for header in [known, unknown] {
        assert_eq!(SnapshotHeader::decode(&header.encode(), None).unwrap(), header);
    }
}

#[test]
fn header_is_read_as_soon_as_its_bytes_are_there() {
    let stored = stored(&header(9), &database(9));
    for length in 0..200 {
        let found = header_of(&stored[..length]).unwrap();
        assert_eq!(found, (length >= 16 + FIELDS_LEN).then_some(header(9)), "{length}");
    }
    assert_eq!(header_of(b"SQLite").unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn a_header_that_cannot_be_true_is_refused() {
    let unknown = SnapshotHeader { wal_known: false, ..header(1) };
    let torn = SnapshotHeader { position: point(0, 33), ..header(1) };
    let table = [
        (unknown, "snapshot header: expected a known WAL at 00000003:000000000450"),
        (torn, "snapshot header: expected the end of a frame at 00000000:000000000021"),
    ];
    for (header, text) in table {
        let error = drain(stored(&header, &database(1)).as_slice()).unwrap_err();
        assert_eq!((error.kind(), error.message()), (Kind::Corrupt, text));
    }
}

#[test]
fn a_snapshot_says_of_which_database_it_is() {
    let stored = stored_of(&header(9), Some(&origin()), &database(9));
    for step in [1, usize::MAX] {
        assert_eq!(SnapshotReader::open(ChunkedReader(&stored, step)).unwrap().origin(), Some(&origin()));
        assert_eq!(drain(ChunkedReader(&stored, step)).unwrap(), (header(9), database(9)));
    }
    let length = (0..stored.len()).find(|length| header_of(&stored[..*length]).unwrap().is_some()).unwrap();
    assert_eq!(length, 16 + FIELDS_LEN + origin().encode().len());
    assert_eq!(origin_of(&stored[..length]).unwrap(), Some(origin()));
    assert_eq!(origin_of(&stored[..length - 1]).unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(origin_of(&super::tests::stored(&header(9), &database(9))).unwrap(), None);
    let mut payload = Vec::new();
    flate2::read::MultiGzDecoder::new(stored.as_slice()).read_to_end(&mut payload).unwrap();
    assert_eq!(payload, database(9));
}

#[test]
fn a_flipped_bit_is_an_error_or_changes_nothing() {
    flip_each_bit(&stored(&header(2), &database(2)));
    flip_each_bit(&stored_of(&header(2), Some(&origin()), &database(2)));
    flip_each_bit(&stored_of(&with_checksum(), Some(&origin()), &database(2)));
    flip_each_bit(&stored(&with_checksum(), &database(2)));
}

fn with_checksum() -> SnapshotHeader {
    SnapshotHeader { database: Some(DatabaseChecksum::new(0x0102_0304_0506_0708)), ..header(2) }
}

#[test]
fn a_snapshot_says_what_its_database_checksum_is() {
    for origin in [None, Some(origin())] {
        let stored = stored_of(&with_checksum(), origin.as_ref(), &database(2));
        assert_eq!(drain(stored.as_slice()).unwrap(), (with_checksum(), database(2)));
        assert_eq!(header_of(&stored).unwrap(), Some(with_checksum()));
        assert_eq!(origin_of(&stored).unwrap(), origin);
    }
}

fn flip_each_bit(stored: &[u8]) {
    let harmless = harmless_bits(stored, |bytes| drain(bytes));
    // Deflate can spell the same bytes in other ways, and has spare bits after its end.
    assert!(harmless * 100 < stored.len() * 8, "{harmless}");
}

#[test]
fn a_snapshot_that_is_cut_or_continued_is_an_error() {
    let stored = stored(&header(2), &database(2));
    for length in 0..stored.len() {
        assert_eq!(drain(&stored[..length]).unwrap_err().kind(), Kind::Corrupt, "{length}");
    }
    for more in [&b"\0"[..], &stored] {
        let error = drain([&stored, more].concat().as_slice()).unwrap_err();
        assert_eq!(error.message(), "expected nothing after the gzip member, found more bytes");
    }
}

#[test]
fn a_database_of_another_length_than_promised_is_not_stored() {
    for (pages, text) in [
        (1, "snapshot: expected 512 bytes of database, found 1024"),
        (3, "snapshot: expected 1536 bytes of database, found 1024"),
    ] {
        let (mut encoder, mut out) = (SnapshotEncoder::new(&header(pages), None), Vec::new());
        encoder.add(&packed(&database(2)), &mut out);
        assert_eq!(encoder.finish(&mut out).unwrap_err().message(), text);
        assert_eq!(drain(out.as_slice()).unwrap_err().kind(), Kind::Corrupt);
    }
}

#[test]
fn the_error_of_the_stream_comes_out_as_it_was() {
    let stored = stored(&header(2), &database(2));
    for length in [0, 30, stored.len() - 1, stored.len()] {
        let ours = Error::new(Kind::NotFound, "no such object");
        let error = drain(FailingReader(&stored[..length], Some(std::io::Error::other(ours)))).unwrap_err();
        assert_eq!((error.kind(), error.message()), (Kind::NotFound, "no such object"));
    }
}

#[test]
fn snapshot_name_and_chain_end_come_from_its_header() {
    let known = header(1);
    assert_eq!(known.key(), SnapshotKey { generation: known.generation, position: known.position, time: known.time });
    assert_eq!(
        (known.chain_end().end, known.chain_end().checksum, known.chain_end().crc),
        (known.position, Some(Checksum(3, 4)), None)
    );
    let broken = SnapshotHeader { checksum: Checksum::default(), ..known };
    let unknown = SnapshotHeader { wal_known: false, position: point(0, 0), ..known };
    assert_eq!((broken.chain_end().checksum, unknown.chain_end().checksum), (None, None));
}

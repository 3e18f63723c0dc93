//! A segment reads back as it was written, and nothing else is believed.

use super::*;
use crate::error::{Error, Kind};
use crate::format::fixtures::{ChunkedReader, FailingReader, GENERATION as ID, Wal, harmless_bits, millis, point, wal};
use crate::format::member_header::{Field, HeaderFields};
use crate::format::position::{Generation, Offset};
use crate::format::segment_header::{
    END, INDEX, PAGE_SIZE, PAGES, PAYLOAD_OFFSET, START_INDEX, START_OFFSET, VISIBLE_AFTER,
};
use crate::format::time::Timestamp;
use crate::format::wal::{ByteOrder, Checksum};

/// The three transactions of the sample as three members.
fn three() -> (Wal, Vec<MemberHeader>, Vec<u8>) {
    let wal = wal();
    let mut headers = vec![wal.batch(0, 0, 2, 100), wal.batch(0, 2, 3, 200), wal.batch(0, 3, 6, 300)];
    let (mut encoder, mut out, mut crc) = (SegmentEncoder::new(LEVEL), Vec::new(), 0);
    for header in &mut headers {
        header.previous_crc = crc;
        crc = encoder.member(header, &[wal.payload(header)], &mut out);
    }
    (wal, headers, out)
}

fn key(headers: &[MemberHeader]) -> SegmentKey {
    key_of(&headers[0], &headers[headers.len() - 1])
}

fn drain(input: impl Read) -> Result<(Vec<MemberHeader>, Vec<u8>)> {
    let mut reader = SegmentReader::new(input);
    let (mut headers, mut payload, mut buf) = (Vec::new(), Vec::new(), [0; 100]);
    while let Some(header) = reader.next_member()? {
        headers.push(header);
        loop {
            match reader.read(&mut buf)? {
                0 => break,
                count => payload.extend_from_slice(&buf[..count]),
            }
        }
    }
    Ok((headers, payload))
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
fn members_read_back_and_concatenate_to_the_wal() {
    let (wal, headers, stored) = three();
    for step in [1, 7, 1000, usize::MAX] {
        let (found, payload) = drain(ChunkedReader(&stored, step)).unwrap();
        assert_eq!(found, headers);
        assert_eq!(payload, wal.bytes);
    }
}

#[test]
fn any_gunzip_reads_a_segment() {
    let (wal, _, stored) = three();
    let mut payload = Vec::new();
    flate2::read::MultiGzDecoder::new(stored.as_slice()).read_to_end(&mut payload).unwrap();
    assert_eq!(payload, wal.bytes);
}

#[test]
fn a_payload_in_pieces_makes_the_same_member() {
    let wal = wal();
    let header = wal.batch(0, 0, 6, 1);
    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    let mut encoder = SegmentEncoder::new(LEVEL);
    let crc = encoder.member(&header, &[wal.payload(&header)], &mut whole);
    let (head, tail) = wal.payload(&header).split_at(700);
    assert_eq!(encoder.member(&header, &[head, &[], tail], &mut pieces), crc);
    assert_eq!(whole, pieces);
}

#[test]
fn every_number_of_a_header_reads_back() {
    let mut header = wal().batch(0, 0, 2, 100);
    header.start = point(u32::MAX - 1, Offset::MAX);
    (header.index, header.order, header.part, header.unchecksummed) = (u32::MAX, ByteOrder::Big, true, true);
    (header.checksum_before, header.checksum_after) = (Checksum(1, u32::MAX), Checksum(u32::MAX, 2));
    (header.pages, header.previous_crc) = (u32::MAX, u32::MAX);
    (header.visible_after, header.visible_by) = (millis(1), Timestamp::MAX);
    assert_eq!(MemberHeader::decode(&header.encode()).unwrap(), header);
}

#[test]
fn a_header_that_cannot_be_true_is_refused() {
    let table: [(Field, u64, &str); 10] = [
        (PAGE_SIZE, 500, "page size 500"),
        (END, 1 << 48, "WAL offset 281474976710656"),
        (END, 0, "expected whole frames from 000000000000 to 000000000000"),
        (END, 33, "expected whole frames from 000000000000 to 000000000021"),
        (PAYLOAD_OFFSET, 32, "expected whole frames from 000000000020"),
        (INDEX, 2, "a batch that starts at 00000000:000000000000 cannot continue at 00000002:000000000000"),
        (START_INDEX, 9, "a batch that starts at 00000009:000000000000 cannot continue at 00000000:000000000000"),
        (START_OFFSET, 568, "a batch that starts at 00000000:000000000238 cannot continue"),
        (VISIBLE_AFTER, 101, "expected a commit and its time, found neither"),
        (PAGES, 0, "expected a commit and its time, found neither"),
    ];
    for (field, value, text) in table {
        let mut fields = wal().batch(0, 0, 2, 100).encode();
        fields.set(field, value);
        let error = MemberHeader::decode(&fields).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.message().starts_with(text), "{error}");
    }
}

#[test]
fn a_flipped_bit_is_an_error_or_changes_nothing() {
    let (_, _, stored) = three();
    let harmless = harmless_bits(&stored, |bytes| drain(bytes));
    // Deflate can spell the same bytes in other ways, and has spare bits after its end.
    assert!(harmless * 100 < stored.len() * 8, "{harmless}");
}

#[test]
fn a_segment_that_is_cut_is_an_error_except_between_members() {
    let (wal, headers, stored) = three();
    let ends: Vec<_> = headers
        .iter()
        .scan(0, |end, header| {
            *end += wal.member(header).len();
            Some(*end)
        })
        .collect();
    for length in 0..=stored.len() {
        let whole = length == 0 || ends.contains(&length);
        assert_eq!(drain(&stored[..length]).is_ok(), whole, "{length} of {}", stored.len());
    }
}

#[test]
fn what_is_behind_a_member_must_be_a_member() {
    let (_, _, stored) = three();
    for garbage in [&b"\0"[..], b"x", b"\x1f\x8b\x08\x00abcdefghijklmnop", &stored[..20]] {
        let bad = [&stored, garbage].concat();
        assert_eq!(drain(bad.as_slice()).unwrap_err().kind(), Kind::Corrupt, "{garbage:?}");
    }
}

#[test]
fn payload_of_another_length_than_the_header_is_an_error() {
    let wal = wal();
    let header = wal.batch(0, 2, 3, 1);
    let payload = wal.payload(&header);
    let longer = [payload, b"x"].concat();
    let table: [(&[u8], &str); 3] = [
        (&longer, "payload: expected 536 bytes, found more"),
        (&payload[1..], "payload: expected 536 bytes, found 535"),
        (&[], "payload: expected 536 bytes, found 0"),
    ];
    for (payload, text) in table {
        let (mut deflater, mut out) = (MemberWriter::new(LEVEL), Vec::new());
        deflater.begin(&header.encode(), 0, &mut out);
        deflater.write(payload, &mut out);
        deflater.finish(&mut out);
        assert_eq!(drain(out.as_slice()).unwrap_err().message(), text);
    }
}

#[test]
fn a_member_that_is_passed_over_is_verified() {
    let (_, headers, stored) = three();
    let mut reader = SegmentReader::new(stored.as_slice());
    for header in &headers {
        assert_eq!(reader.next_member().unwrap().as_ref(), Some(header));
    }
    let mut bad = stored;
    let end_of_first = wal().member(&headers[0]).len();
    bad[end_of_first - 5] ^= 1;
    let mut reader = SegmentReader::new(bad.as_slice());
    reader.next_member().unwrap();
    assert!(reader.next_member().unwrap_err().message().starts_with("payload: expected crc32"));
}

#[test]
fn the_last_member_is_found_with_its_crc() {
    let (wal, headers, stored) = three();
    let (last, crc) = last_member(&key(&headers), &stored).unwrap();
    assert_eq!((last, crc), (headers[2], crc32fast::hash(wal.payload(&headers[2]))));
    assert_eq!(
        last_member(&key(&headers), &[]).unwrap_err().message(),
        "segment: expected a gzip member, found 0 bytes"
    );
}

#[test]
fn a_snapshot_is_no_segment() {
    let fields = HeaderFields::<60>::new(MemberKind::Snapshot);
    let mut out = Vec::new();
    fields.write(0, &mut out);
    assert_eq!(last_member(&key(&three().1), &out).unwrap_err().message(), "expected a segment, found a snapshot");
}

#[test]
fn the_error_of_the_stream_comes_out_as_it_was() {
    let (_, _, stored) = three();
    for length in [0, 10, 200, stored.len() - 1] {
        let ours = Error::new(Kind::StoreUnreachable, "store is away").with_hint("wait");
        let error = drain(FailingReader(&stored[..length], Some(std::io::Error::other(ours)))).unwrap_err();
        assert_eq!((error.kind(), error.message()), (Kind::StoreUnreachable, "store is away"));
        assert_eq!(error.hint(), Some("wait"));
    }
    let foreign = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    let error = drain(FailingReader(&[], Some(foreign))).unwrap_err();
    assert_eq!((error.kind(), error.message()), (Kind::StoreRefused, "read: broken pipe"));
    let again = std::io::Error::from(std::io::ErrorKind::Interrupted);
    assert!(drain(FailingReader(&[], Some(again))).unwrap().0.is_empty());
}

#[test]
fn an_object_is_named_after_its_first_and_last_member() {
    let wal = wal();
    let (first, last) = (wal.batch(4, 0, 2, 100), wal.batch(4, 2, 4, 200));
    let expected = SegmentKey {
        generation: Generation::new(ID),
        start: point(4, 0),
        end: point(4, 32 + 4 * 536),
        first_seen: millis(100),
        last_seen: millis(200),
        part: true,
    };
    assert_eq!(key_of(&first, &last), expected);
}

//! A segment, read as a restore reads it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litestream::error::Result;
use litestream::format::difference_frames::{BasePages, DifferenceFrames};
use litestream::format::frames::MemberFrames;
use litestream::format::key::{Key, SegmentKey};
use litestream::format::segment::{SegmentReader, last_member};

const NAME: &str = "generations/019aaf3c5d10a1b2/wal/00000000.000000000000-00000000.000000000450-\
                    20261123T060812.345Z-20261123T060812.345Z.gz";

fn key() -> SegmentKey {
    match Key::parse(NAME) {
        Some(Key::Segment(key)) => key,
        other => panic!("{other:?}"),
    }
}

/// Pages that hold only zeros.
struct Zeros;

impl BasePages for Zeros {
    fn base(&mut self, _number: u32, page: &mut [u8]) -> Result<()> {
        page.fill(0);
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let key = key();
    let _ = last_member(&key, data);
    let mut reader = SegmentReader::named(&key, data);
    let mut frame = Vec::new();
    while let Ok(Some(header)) = reader.next_member() {
        if header.differences.is_some() {
            let before = header.checksum_before;
            let mut frames = DifferenceFrames::new(&mut reader, &header, before);
            while let Ok(Some(_)) = frames.next_frame(&mut Zeros, &mut frame) {}
            continue;
        }
        let Ok(mut frames) = MemberFrames::new(&mut reader, &header) else { return };
        while let Ok(Some(_)) = frames.next_frame(&mut frame) {}
    }
});

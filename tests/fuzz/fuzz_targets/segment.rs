//! A segment, read as a restore reads it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litestream::format::frames::MemberFrames;
use litestream::format::segment::{Reader, last_member};

fuzz_target!(|data: &[u8]| {
    let _ = last_member(data);
    let mut reader = Reader::new(data);
    let mut frame = Vec::new();
    while let Ok(Some(header)) = reader.next_member() {
        let Ok(mut frames) = MemberFrames::new(&mut reader, &header) else { return };
        while let Ok(Some(_)) = frames.next_frame(&mut frame) {}
    }
});

//! A snapshot, from its header to its end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litestream::format::snapshot::{SnapshotReader, header_of};

fuzz_target!(|data: &[u8]| {
    let _ = header_of(data);
    let Ok(mut reader) = SnapshotReader::open(data) else { return };
    let mut piece = [0; 4096];
    while let Ok(1..) = reader.read(&mut piece) {}
});

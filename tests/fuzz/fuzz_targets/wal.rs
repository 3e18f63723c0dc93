//! A WAL: header, then frames along the chain of checksums.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litestream::format::wal::{Chain, FRAME_HEADER, WAL_HEADER, WalHeader};

fuzz_target!(|data: &[u8]| {
    let Some(header) = data.first_chunk().and_then(|bytes| WalHeader::parse(bytes).ok()) else { return };
    let mut chain = Chain::new(header.order, header.salt, header.checksum);
    for frame in data[WAL_HEADER..].chunks_exact(FRAME_HEADER + header.page_size.get() as usize) {
        if chain.push(frame).is_err() {
            break;
        }
    }
});

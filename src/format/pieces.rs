//! A deflate stream in pieces that are compressed apart, by anyone and in any order, and then simply follow each other.
//!
//! A piece refers to nothing before it, and ends at a whole byte with an empty stored block (RFC 1951, 3.2.4; zlib's
//! Z_SYNC_FLUSH). To whoever reads it, the whole is one ordinary stream.

use flate2::{Compress, Compression, FlushCompress};

/// Free room in the output that deflate is called with, at least, in bytes.
const ROOM: usize = 16 << 10;
/// Bytes that are compressed as one. Deflate holds 64 KiB of its input and, for what goes beyond, moves half of that and all of
/// its table along (zlib-rs, fill_window: strstart >= w_size + max_dist): a fifth of its time. What is less never goes there,
/// and costs 1.5 % more bytes than a piece of 256 KiB.
const PART: usize = 60 << 10;

/// The last block of a stream, which has nothing in it: final, of the fixed code, and its end-of-block symbol.
pub(super) const END: [u8; 2] = [3, 0];

/// Compresses pieces. Its state is allocated once and used for all of them.
pub struct Packer(Compress);

/// A compressed piece.
#[derive(Default)]
pub struct Piece {
    pub(super) bytes: Vec<u8>,
    pub(super) crc: crc32fast::Hasher,
    /// Bytes of the payload.
    pub(super) size: u64,
}

impl Packer {
    /// `level` is gzip's, 0 to 9.
    pub fn new(level: u32) -> Packer {
        Packer(Compress::new(Compression::new(level.min(9)), false))
    }

    /// Compresses `payload` into `piece`, whatever was in it before.
    pub fn pack(&mut self, payload: &[u8], piece: &mut Piece) {
        piece.bytes.clear();
        piece.crc.reset();
        piece.crc.update(payload);
        piece.size = payload.len() as u64;
        for part in payload.chunks(PART) {
            self.pack_part(part, &mut piece.bytes);
        }
    }

    fn pack_part(&mut self, part: &[u8], out: &mut Vec<u8>) {
        self.0.reset();
        while self.0.total_in() < part.len() as u64 {
            let rest = &part[self.0.total_in() as usize..];
            self.step(rest, FlushCompress::None, out);
        }
        // The flush is complete when it leaves room in the output (zlib.h, deflate).
        loop {
            self.step(&[], FlushCompress::Sync, out);
            if out.len() < out.capacity() {
                return;
            }
        }
    }

    fn step(&mut self, bytes: &[u8], flush: FlushCompress, out: &mut Vec<u8>) {
        out.reserve(ROOM);
        self.0.compress_vec(bytes, out, flush).expect("deflate takes any bytes and has room");
    }
}

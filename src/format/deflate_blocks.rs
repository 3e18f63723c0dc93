//! A deflate stream in pieces that are compressed apart, by anyone and in any order, and then simply follow each other.
//!
//! A piece refers to nothing before it, and ends at a whole byte. To anyone who reads it, the whole is one ordinary stream.

use crate::format::deflate::Deflate;

/// The last block of a stream, which has nothing in it: final, of the fixed code, and its end-of-block symbol.
pub(super) const FINAL_BLOCK: [u8; 2] = [3, 0];

/// Compresses pieces. Its state is allocated once and used for all of them.
pub struct BlockCompressor(Deflate);

/// A compressed piece.
#[derive(Default)]
pub struct Block {
    pub(super) bytes: Vec<u8>,
    pub(super) crc: crc32fast::Hasher,
    /// Bytes of the payload.
    pub(super) size: u64,
}

impl BlockCompressor {
    /// `level` is gzip's, 0 to 9.
    pub fn new(level: u32) -> BlockCompressor {
        BlockCompressor(Deflate::new(level))
    }

    /// Sets the level of the pieces that follow.
    pub fn set_level(&mut self, level: u32) {
        self.0.set_level(level);
    }

    /// Compresses `payload` into `piece`, whatever was in it before.
    pub fn compress(&mut self, payload: &[u8], piece: &mut Block) {
        piece.bytes.clear();
        piece.crc.reset();
        piece.crc.update(payload);
        piece.size = payload.len() as u64;
        self.0.reset();
        self.0.write_through(payload, &mut piece.bytes);
    }
}

//! The nonce of a chunk: its number, and whether it is the last one.

/// Counts the chunks of one file.
#[derive(Default)]
pub struct StreamNonce {
    /// 2^64 chunks are more than any file has.
    chunk: u64,
}

impl StreamNonce {
    /// Of the chunk that is next.
    pub fn get(&self, last: bool) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.chunk.to_be_bytes());
        nonce[11] = u8::from(last);
        nonce
    }

    pub fn advance(&mut self) {
        self.chunk = self.chunk.checked_add(1).expect("a file has fewer chunks");
    }

    pub fn is_first(&self) -> bool {
        self.chunk == 0
    }
}

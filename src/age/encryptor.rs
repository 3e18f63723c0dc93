//! Plain text in, an age file out, piece by piece.

use super::CHUNK_BYTES;
use super::header::HeaderBuilder;
use super::primitives::Aead;
use super::stream_nonce::StreamNonce;
use crate::random;

/// A file that is being encrypted. Holds one chunk of plain text.
pub struct Encryptor {
    aead: Aead,
    nonce: StreamNonce,
    /// At most a chunk: whether it is the last one shows only when more comes.
    plain: Vec<u8>,
}

impl Encryptor {
    /// Appends the header to `output`, and the nonce of what follows.
    pub fn begin(header: HeaderBuilder, output: &mut Vec<u8>) -> Encryptor {
        let key = header.write(output);
        let nonce: [u8; 16] = random::secret_bytes();
        output.extend_from_slice(&nonce);
        Encryptor { aead: Aead::new(&key.payload_key(&nonce)), nonce: StreamNonce::default(), plain: Vec::new() }
    }

    /// Encrypts `bytes`; what is complete of it is appended to `output`.
    pub fn write(&mut self, mut bytes: &[u8], output: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.plain.len() == CHUNK_BYTES {
                self.seal(false, output);
            }
            let (now, rest) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.plain.len()));
            self.plain.extend_from_slice(now);
            bytes = rest;
        }
    }

    /// Nothing follows: appends the last chunk to `output`.
    pub fn finish(mut self, output: &mut Vec<u8>) {
        self.seal(true, output);
    }

    fn seal(&mut self, last: bool, output: &mut Vec<u8>) {
        self.aead.seal(self.nonce.get(last), &self.plain, output);
        self.nonce.advance();
        self.plain.clear();
    }
}

//! The age file format (age-encryption.org/v1), to X25519 recipients. Pure but for random numbers: bytes to values and back.
//!
//! The specification is <https://c2sp.org/age>. The primitives are those of ring and OpenSSL, which are linked already; the
//! `age` crate would bring 90 crates more. Every official test vector (tests/data/age-testkit) is a test: those of X25519 must
//! be read as they say, those of other recipients and of armor must be refused.
//!
//! What must hold:
//! * A file key, and what is derived from it, is used for one file.
//! * Plain text leaves a [`decryptor::Decryptor`] only after its chunk was authenticated. Only [`decryptor::Decryptor::finish`]
//!   tells that the file was whole.
//! * No key is ever printed.

mod base64;
mod bech32;
pub mod decryptor;
pub mod encryptor;
pub mod fault;
pub mod header;
pub mod identity;
pub mod key_files;
mod primitives;
pub mod recipient;
pub mod sealed_note;
mod stream_nonce;
#[cfg(test)]
mod testkit;

/// Bytes of plain text in a chunk; only the last one is shorter.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Bytes that a chunk grows by.
pub const TAG_BYTES: usize = 16;

//! The primitives of age: X25519 of OpenSSL, HKDF, HMAC and ChaCha20-Poly1305 of ring.

use openssl::derive::Deriver;
use openssl::pkey::{Id, PKey};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use zeroize::Zeroizing;

/// Of X25519, HKDF and ChaCha20-Poly1305.
pub type SecretKey = Zeroizing<[u8; 32]>;

/// The public key that belongs to a secret one.
pub fn public_key(secret: &[u8; 32]) -> Option<[u8; 32]> {
    let key = PKey::private_key_from_raw_bytes(secret, Id::X25519).ok()?;
    key.raw_public_key().ok()?.try_into().ok()
}

/// What the owner of `secret` shares with that of `public`; none for a point of low order, which gives zeros.
pub fn shared_secret(secret: &[u8; 32], public: &[u8; 32]) -> Option<SecretKey> {
    let own = PKey::private_key_from_raw_bytes(secret, Id::X25519).ok()?;
    let other = PKey::public_key_from_raw_bytes(public, Id::X25519).ok()?;
    let mut deriver = Deriver::new(&own).ok()?;
    deriver.set_peer(&other).ok()?;
    let mut shared = Zeroizing::new([0; 32]);
    let len = deriver.derive(shared.as_mut()).ok()?;
    (len == shared.len() && shared.iter().any(|byte| *byte != 0)).then_some(shared)
}

/// HKDF-SHA-256.
pub fn derive(secret: &[u8], salt: &[u8], info: &[u8]) -> SecretKey {
    let mut key = Zeroizing::new([0; 32]);
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    let info = [info];
    // It fails only for a longer output than HKDF has.
    let expanded = extracted.expand(&info, hkdf::HKDF_SHA256).and_then(|output| output.fill(key.as_mut()));
    expanded.expect("32 bytes are one block of HKDF");
    key
}

/// HMAC-SHA-256.
pub fn mac(key: &SecretKey, bytes: &[u8]) -> [u8; 32] {
    let mut found = [0; 32];
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()), bytes);
    found.copy_from_slice(tag.as_ref());
    found
}

/// Whether that is the HMAC-SHA-256 of `bytes`, in constant time.
pub fn mac_is(key: &SecretKey, bytes: &[u8], expected: &[u8]) -> bool {
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()), bytes, expected).is_ok()
}

/// ChaCha20-Poly1305 with one key.
pub struct Aead(LessSafeKey);

impl Aead {
    pub fn new(key: &SecretKey) -> Aead {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key.as_ref());
        Aead(LessSafeKey::new(key.expect("a key of ChaCha20 has 32 bytes")))
    }

    /// Appends `plain` to `output`, sealed.
    pub fn seal(&self, nonce: [u8; 12], plain: &[u8], output: &mut Vec<u8>) {
        let begin = output.len();
        output.extend_from_slice(plain);
        let bytes = output.get_mut(begin..).unwrap_or_default();
        let tag = self.0.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), bytes);
        output.extend_from_slice(tag.expect("a chunk is shorter than ChaCha20 can be").as_ref());
    }

    /// Appends what was sealed to `output`. False, and nothing is appended, if it was not sealed so.
    pub fn open(&self, nonce: [u8; 12], sealed: &[u8], output: &mut Vec<u8>) -> bool {
        let begin = output.len();
        output.extend_from_slice(sealed);
        let bytes = output.get_mut(begin..).unwrap_or_default();
        let opened = self.0.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), bytes);
        let len = opened.map(|plain| plain.len());
        output.truncate(begin + len.as_ref().copied().unwrap_or(0));
        len.is_ok()
    }
}

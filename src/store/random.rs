//! Names that nobody else has, and jitter.

use ring::rand::{SecureRandom, SystemRandom};

/// NATS calls a name made of these a NUID.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 62^22 is 131 bits: as many letters as the other clients use.
const TOKEN_LEN: usize = 22;

/// 22 letters and digits that cannot be guessed.
pub fn token() -> String {
    let mut token = String::with_capacity(TOKEN_LEN);
    while token.len() < TOKEN_LEN {
        // 248 is the largest multiple of 62 in a byte; the rest would favour the first letters.
        let fair = bytes().into_iter().filter(|byte| *byte < 248);
        let letters = fair.filter_map(|byte| DIGITS.get(usize::from(byte % 62)));
        token.extend(letters.map(|letter| char::from(*letter)).take(TOKEN_LEN - token.len()));
    }
    token
}

/// A number below `limit` (0 for 0).
pub fn below(limit: u64) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h]).checked_rem(limit).unwrap_or(0)
}

fn bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    // Without randomness no secret is safe, and there is nothing sensible to go on with.
    SystemRandom::new().fill(&mut bytes).expect("the system has no random numbers");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_plain_letters_and_never_the_same() {
        let (a, b) = (token(), token());
        assert!(a != b && a.len() == 22 && a.bytes().all(|c| c.is_ascii_alphanumeric()));
        assert_eq!(below(0), 0);
        assert!(below(7) < 7);
    }
}

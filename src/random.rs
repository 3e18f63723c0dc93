//! Names that nobody else has, and jitter.

use std::cell::Cell;

use ring::rand::{SecureRandom, SystemRandom};

/// NATS calls a name made of these a NUID.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 62^22 is 131 bits: as many letters as the other clients use.
pub const TOKEN_LEN: usize = 22;

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

thread_local! {
    static REPEATED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on [`random_below`] gives this thread the numbers that `seed` decides, so that a test can be replayed. Secrets are
/// made by [`token`], which is not touched.
pub fn repeat(seed: u64) {
    REPEATED.set(Some(seed));
}

/// A number below `limit` (0 for 0).
pub fn random_below(limit: u64) -> u64 {
    repeated().unwrap_or_else(fresh).checked_rem(limit).unwrap_or(0)
}

fn fresh() -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// The next number of the seed, by splitmix64.
fn repeated() -> Option<u64> {
    let state = REPEATED.get()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
    REPEATED.set(Some(state));
    let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    Some(z ^ z >> 31)
}

fn bytes() -> [u8; 32] {
    secret_bytes()
}

/// For keys: numbers that cannot be guessed, also where numbers are repeated.
pub fn secret_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
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
        assert_eq!(random_below(0), 0);
        assert!(random_below(7) < 7);
    }

    #[test]
    fn a_seed_gives_the_same_numbers_again_and_leaves_tokens_alone() {
        let numbers = || {
            repeat(7);
            [(); 4].map(|()| random_below(1 << 40))
        };
        assert_eq!(numbers(), numbers());
        repeat(7);
        let first = token();
        repeat(7);
        assert_ne!(first, token());
    }
}

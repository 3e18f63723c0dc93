//! Base64 as age has it: the usual alphabet, no padding, and one spelling only for each value.

use data_encoding::BASE64_NOPAD;

pub fn encode(bytes: &[u8]) -> String {
    BASE64_NOPAD.encode(bytes)
}

/// None for any other letter, and for a last letter with bits that say nothing.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    BASE64_NOPAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_every_length_read_back() {
        let all: Vec<u8> = (0..=255).rev().collect();
        for len in 0..all.len() {
            assert_eq!(decode(encode(&all[..len]).as_bytes()).as_deref(), Some(&all[..len]));
        }
        assert_eq!(encode(b"fo"), "Zm8");
    }

    #[test]
    fn another_spelling_of_the_same_bytes_is_refused() {
        for text in ["Zm8=", "Zm9", "Z", "Zm 8", "Zm-_", "Zm8\n"] {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
    }
}

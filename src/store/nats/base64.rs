//! Base64 in the alphabet of subjects and digests; the usual one is read, too.

use data_encoding::BASE64URL;

/// For subjects and digests: `-` and `_`, padded.
pub fn encode_url(bytes: &[u8]) -> String {
    BASE64URL.encode(bytes)
}

/// Reads either alphabet, with or without padding; white space is skipped. None if anything else is in it.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_ascii_end().trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut bits, mut held) = (0u32, 0u32);
    for letter in text.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
        bits = bits << 6 | sextet(letter)?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held).to_le_bytes()[0]);
            bits &= (1 << held) - 1;
        }
    }
    (held < 6).then_some(bytes)
}

fn sextet(letter: u8) -> Option<u32> {
    let value = match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'-' | b'+' => 62,
        b'_' | b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_every_length_read_back() {
        let all: Vec<u8> = (0..=255).rev().collect();
        for len in 0..all.len() {
            let bytes = &all[..len];
            assert_eq!(decode(&encode_url(bytes)).as_deref(), Some(bytes));
            assert_eq!(decode(encode_url(bytes).trim_end_matches('=')).as_deref(), Some(bytes));
        }
        assert_eq!(encode_url(&[0xfb, 0xff]), "-_8=");
        assert_eq!(decode("+/8=").as_deref(), Some(&[0xfb, 0xff][..]));
        assert_eq!(encode_url(b"hello"), "aGVsbG8=");
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for text in ["a", "a*b=", "aGVsbG8=x", "äö"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}

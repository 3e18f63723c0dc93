//! Base64 in the alphabet of subjects and digests; the usual one is read, too.

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// For subjects and digests: `-` and `_`, padded.
pub fn encode_url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let sextet = (bits >> (18 - 6 * place)) & 63;
            text.push(if place > group.len() { '=' } else { letter(sextet) });
        }
    }
    text
}

fn letter(sextet: u32) -> char {
    let at = usize::try_from(sextet).unwrap_or(0);
    char::from(LETTERS.get(at).copied().unwrap_or(b'='))
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

//! Base64 as age has it: the usual alphabet, no padding, and one spelling only for each value.

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..=group.len() {
            let sextet = usize::try_from((bits >> (18 - 6 * place)) & 63).unwrap_or(0);
            text.push(LETTERS.get(sextet).copied().map_or('A', char::from));
        }
    }
    text
}

/// None for any other letter, and for a last letter with bits that say nothing.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut held) = (0u32, 0u32);
    for letter in text {
        bits = bits << 6 | sextet(*letter)?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 255).ok()?);
            bits &= (1 << held) - 1;
        }
    }
    (held < 6 && bits == 0).then_some(bytes)
}

fn sextet(letter: u8) -> Option<u32> {
    let value = match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
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

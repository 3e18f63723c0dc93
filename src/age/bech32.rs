//! Bech32 (BIP 173) of 32 bytes, in which age writes its keys.

const LETTERS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const CHECKSUM_LEN: usize = 6;

/// In lower case, with the prefix in lower case.
pub fn encode(prefix: &str, bytes: &[u8; 32]) -> String {
    let prefix = prefix.to_ascii_lowercase();
    let mut values = to_quintets(bytes);
    let mut summed = expanded(prefix.as_bytes());
    summed.extend_from_slice(&values);
    summed.extend_from_slice(&[0; CHECKSUM_LEN]);
    let sum = polymod(&summed) ^ 1;
    values.extend((0..CHECKSUM_LEN).map(|at| (sum >> (5 * (5 - at)) & 31) as u8));
    let letters = values.iter().map(|value| LETTERS.get(usize::from(*value)).copied().map_or('q', char::from));
    format!("{prefix}1{}", letters.collect::<String>())
}

/// The prefix and the bytes. None for a wrong checksum, mixed case, or anything but 32 bytes.
pub fn decode(text: &str) -> Option<(String, [u8; 32])> {
    let (lower, upper) = (text.to_ascii_lowercase(), text.to_ascii_uppercase());
    if (text != lower && text != upper) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let (prefix, data) = lower.rsplit_once('1')?;
    let letter = |byte: u8| LETTERS.iter().position(|letter| *letter == byte).and_then(|at| u8::try_from(at).ok());
    let values: Vec<u8> = data.bytes().map(letter).collect::<Option<_>>()?;
    let mut summed = expanded(prefix.as_bytes());
    summed.extend_from_slice(&values);
    let content = values.len().checked_sub(CHECKSUM_LEN)?;
    if prefix.is_empty() || polymod(&summed) != 1 {
        return None;
    }
    let bytes = from_quintets(values.get(..content)?)?;
    Some((text.get(..prefix.len())?.to_string(), bytes))
}

fn to_quintets(bytes: &[u8]) -> Vec<u8> {
    let (mut values, mut bits, mut held) = (Vec::new(), 0u32, 0u32);
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            values.push((bits >> held & 31) as u8);
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        values.push((bits << (5 - held) & 31) as u8);
    }
    values
}

/// None unless it is 32 bytes, and what is left over is zero.
fn from_quintets(values: &[u8]) -> Option<[u8; 32]> {
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(32), 0u32, 0u32);
    for value in values {
        bits = bits << 5 | u32::from(*value);
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 255) as u8);
        }
        bits &= (1 << held) - 1;
    }
    let rest = held < 5 && bits == 0;
    bytes.try_into().ok().filter(|_| rest)
}

fn expanded(prefix: &[u8]) -> Vec<u8> {
    let high = prefix.iter().map(|byte| byte >> 5);
    high.chain([0]).chain(prefix.iter().map(|byte| byte & 31)).collect()
}

fn polymod(values: &[u8]) -> u32 {
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    let mut sum = 1u32;
    for value in values {
        let top = sum >> 25;
        sum = (sum & 0x01ff_ffff) << 5 ^ u32::from(*value);
        for (at, term) in GENERATOR.iter().enumerate() {
            if top >> at & 1 == 1 {
                sum ^= term;
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the specification of age.
    const RECIPIENT: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";

    #[test]
    fn a_key_reads_back() {
        let (prefix, bytes) = decode(RECIPIENT).unwrap();
        assert_eq!(prefix, "age");
        assert_eq!(encode("age", &bytes), RECIPIENT);
        assert_eq!(decode(&RECIPIENT.to_ascii_uppercase()), Some(("AGE".to_string(), bytes)));
    }

    #[test]
    fn a_changed_letter_and_mixed_case_are_refused() {
        for at in 4..RECIPIENT.len() {
            let mut text = RECIPIENT.to_string();
            let other = if &text[at..=at] == "q" { "p" } else { "q" };
            text.replace_range(at..=at, other);
            assert_eq!(decode(&text), None, "{text}");
        }
        let mixed = RECIPIENT.replacen("zvk", "ZVK", 1);
        for text in [mixed.as_str(), "", "1", "age1", "age", "1qqqqqqqq", &RECIPIENT[..50]] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}

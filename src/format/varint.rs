//! Small numbers in few bytes: LEB128, seven bits a byte, the lowest first.

use crate::error::{Error, Kind, Result};

/// Bytes of the longest `u32`.
const MAX_BYTES: usize = 5;

/// Appends `value` to `out`: one byte below 128, two below 16,384.
pub fn write(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number off the front of `bytes`.
///
/// Errors: [`Kind::Corrupt`] if they end before it does, or for a number that [`write`] would not write so.
pub fn read(bytes: &mut &[u8]) -> Result<u32> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().take(MAX_BYTES).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let padded = at > 0 && *byte == 0;
            let number = u32::try_from(value).ok().filter(|_| !padded);
            *bytes = bytes.get(at + 1..).unwrap_or_default();
            return number.ok_or_else(|| corrupt("expected the shortest form of a 32-bit number, found another"));
        }
    }
    Err(corrupt("a number is cut short"))
}

/// Bytes that [`write`] appends.
pub fn len(value: u32) -> usize {
    (32 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Signed numbers near 0 become small: 0, -1, 1, -2 are 0, 1, 2, 3.
pub fn zigzag(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

/// The other way.
pub fn unzigzag(value: u32) -> i32 {
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

fn corrupt(what: &str) -> Error {
    Error::new(Kind::Corrupt, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_read_back_and_has_one_form() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 1 << 21, u32::MAX - 1, u32::MAX] {
            let mut bytes = Vec::new();
            write(value, &mut bytes);
            assert_eq!(bytes.len(), len(value), "{value}");
            bytes.push(9);
            let mut rest = bytes.as_slice();
            assert_eq!((read(&mut rest).unwrap(), rest), (value, &[9][..]));
        }
        for bytes in [&[][..], &[0x80], &[0x80, 0], &[0xff, 0xff, 0xff, 0xff, 0x1f], &[0xff; 6]] {
            assert_eq!(read(&mut &*bytes).unwrap_err().kind(), Kind::Corrupt, "{bytes:?}");
        }
    }

    #[test]
    fn signed_numbers_near_zero_are_small() {
        for (value, code) in [(0, 0), (-1, 1), (1, 2), (-2, 3), (i32::MAX, u32::MAX - 1), (i32::MIN, u32::MAX)] {
            assert_eq!((zigzag(value), unzigzag(code)), (code, value));
        }
    }
}

//! Private keys as they come out of the usual tools, brought into the one form that the TLS library takes (PKCS#8).

use crate::store::nats::base64;

/// 1.2.840.113549.1.1.1 and its empty parameters.
const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// 1.2.840.10045.2.1
const EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const SEQUENCE: u8 = 0x30;
const OCTETS: u8 = 0x04;
const VERSION_0: &[u8] = &[0x02, 0x01, 0x00];
/// `[0]` of an EC key: its curve.
const EC_CURVE: u8 = 0xa0;

/// The key in `pem` as PKCS#8; what is wrong if there is none.
pub fn to_pkcs8(pem: &[u8]) -> Result<Vec<u8>, &'static str> {
    let text = std::str::from_utf8(pem).map_err(|_| "expected a key in PEM, found binary")?;
    if text.contains("ENCRYPTED") {
        return Err("expected a key without a passphrase");
    }
    if let Some(key) = block(text, "PRIVATE KEY") {
        return Ok(to_pem(&key));
    }
    if let Some(key) = block(text, "RSA PRIVATE KEY") {
        return Ok(to_pem(&pkcs8(RSA, &key)));
    }
    if let Some(key) = block(text, "EC PRIVATE KEY") {
        let curve = curve(&key).ok_or("expected an EC key that names its curve")?;
        return Ok(to_pem(&pkcs8(&[EC, curve].concat(), &key)));
    }
    Err("expected a private key in PEM, found none")
}

fn block(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    base64::decode(body)
}

fn to_pem(key: &[u8]) -> Vec<u8> {
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", base64::encode_std(key)).into_bytes()
}

fn pkcs8(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let body = [VERSION_0, &der_encode(SEQUENCE, algorithm), &der_encode(OCTETS, key)].concat();
    der_encode(SEQUENCE, &body)
}

fn der_encode(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = body.len().to_be_bytes();
    let digits: Vec<u8> = len.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut out = vec![tag];
    match (digits.as_slice(), u8::try_from(digits.len())) {
        ([], _) => out.push(0),
        ([short], _) if *short < 0x80 => out.push(*short),
        (_, count) => out.push(0x80 | count.unwrap_or(0)),
    }
    if out.get(1).is_some_and(|first| *first >= 0x80) {
        out.extend_from_slice(&digits);
    }
    out.extend_from_slice(body);
    out
}

/// The curve of a SEC1 key: its `[0]` field.
fn curve(key: &[u8]) -> Option<&[u8]> {
    let (_, mut fields, _) = der_next(key)?;
    while let Some((tag, body, rest)) = der_next(fields) {
        if tag == EC_CURVE {
            return Some(body);
        }
        fields = rest;
    }
    None
}

/// Tag and body of the first element, and what follows it.
fn der_next(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |n, digit| n << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (body, rest) = rest.split_at_checked(len)?;
    Some((*tag, body, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_named() {
        for (pem, expected) in [
            ("", "expected a private key in PEM, found none"),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "expected a key without a passphrase"),
            (
                "-----BEGIN EC PRIVATE KEY-----\nMAMCAQE=\n-----END EC PRIVATE KEY-----",
                "expected an EC key that names its curve",
            ),
        ] {
            assert_eq!(to_pkcs8(pem.as_bytes()), Err(expected));
        }
    }

    #[test]
    fn lengths_of_every_form_read_back() {
        for len in [0, 1, 127, 128, 255, 256, 70_000] {
            let body = vec![7; len];
            let out = der_encode(OCTETS, &body);
            assert_eq!(der_next(&out), Some((OCTETS, body.as_slice(), &[][..])), "{len}");
        }
    }
}

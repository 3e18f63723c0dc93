//! Private keys as they come out of the usual tools (PKCS#1, SEC1), in the one form that native-tls takes (PKCS#8).

use openssl::pkey::PKey;

/// The key in `pem` as PKCS#8; what is wrong if there is none.
pub fn to_pkcs8(pem: &[u8]) -> Result<Vec<u8>, &'static str> {
    let text = std::str::from_utf8(pem).map_err(|_| "expected a key in PEM, found binary")?;
    if text.contains("ENCRYPTED") {
        return Err("expected a key without a passphrase");
    }
    if !text.contains("PRIVATE KEY-----") {
        return Err("expected a private key in PEM, found none");
    }
    // A passphrase is not asked for on the terminal.
    let key = PKey::private_key_from_pem_callback(pem, |_| Ok(0));
    key.and_then(|key| key.private_key_to_pem_pkcs8())
        .map_err(|_| "expected a private key in PEM, found one that cannot be read")
}

#[cfg(test)]
mod tests {
    use openssl::ec::{EcGroup, EcKey};
    use openssl::nid::Nid;
    use openssl::rsa::Rsa;

    use super::*;

    #[test]
    fn what_is_no_key_is_named() {
        for (pem, expected) in [
            ("", "expected a private key in PEM, found none"),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "expected a key without a passphrase"),
            (
                "-----BEGIN EC PRIVATE KEY-----\nMAMCAQE=\n-----END EC PRIVATE KEY-----",
                "expected a private key in PEM, found one that cannot be read",
            ),
        ] {
            assert_eq!(to_pkcs8(pem.as_bytes()), Err(expected));
        }
        assert_eq!(to_pkcs8(&[0x30, 0x82, 0xff]), Err("expected a key in PEM, found binary"));
    }

    #[test]
    fn a_key_of_any_usual_form_stays_the_same_key() {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let (rsa, ec) = (Rsa::generate(2048).unwrap(), EcKey::generate(&group).unwrap());
        let forms = [
            (rsa.private_key_to_pem().unwrap(), PKey::from_rsa(rsa).unwrap()),
            (ec.private_key_to_pem().unwrap(), PKey::from_ec_key(ec).unwrap()),
        ];
        for (pem, key) in forms {
            for given in [pem, key.private_key_to_pem_pkcs8().unwrap()] {
                let found = to_pkcs8(&given).unwrap();
                assert!(found.starts_with(b"-----BEGIN PRIVATE KEY-----"));
                assert!(PKey::private_key_from_pem(&found).unwrap().public_eq(&key));
            }
        }
    }
}

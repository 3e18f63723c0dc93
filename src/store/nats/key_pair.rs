//! Whether a private key belongs to a certificate, whatever kinds of keys they have.

use openssl::pkey::PKey;
use openssl::x509::X509;

/// Errors: what is wrong, as in "expected the key of the certificate (RSA), found another one (EC)".
pub fn check(certificate: &[u8], key: &[u8]) -> Result<(), String> {
    let certificate =
        X509::from_pem(certificate).map_err(|_| "expected a certificate beside it, found none".to_string())?;
    let public = certificate.public_key().map_err(|_| "expected a certificate with a public key".to_string())?;
    // An encrypted key is not asked for on the terminal.
    let private = PKey::private_key_from_pem_callback(key, |_| Ok(0))
        .map_err(|_| "expected a private key in PEM form, found one that cannot be read".to_string())?;
    if private.public_eq(&public) {
        return Ok(());
    }
    let kind = |id: openssl::pkey::Id| match id {
        openssl::pkey::Id::RSA => "RSA",
        openssl::pkey::Id::EC => "EC",
        openssl::pkey::Id::ED25519 => "Ed25519",
        _ => "of another kind",
    };
    let (expected, found) = (kind(public.id()), kind(private.id()));
    Err(format!("expected the key of the certificate ({expected}), found another one ({found})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::Private;
    use openssl::rsa::Rsa;

    fn keys() -> Vec<PKey<Private>> {
        let ec =
            |curve| PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(curve).unwrap()).unwrap()).unwrap();
        let rsa = || PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        vec![
            rsa(),
            rsa(),
            ec(Nid::X9_62_PRIME256V1),
            ec(Nid::X9_62_PRIME256V1),
            ec(Nid::SECP384R1),
            PKey::generate_ed25519().unwrap(),
            PKey::generate_ed25519().unwrap(),
        ]
    }

    fn certificate(key: &PKey<Private>) -> Vec<u8> {
        let mut builder = X509::builder().unwrap();
        builder.set_pubkey(key).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        let ed25519 = key.id() == openssl::pkey::Id::ED25519;
        builder.sign(key, if ed25519 { MessageDigest::null() } else { MessageDigest::sha256() }).unwrap();
        builder.build().to_pem().unwrap()
    }

    #[test]
    fn each_key_belongs_to_its_own_certificate_and_to_no_other() {
        let keys = keys();
        for (n, one) in keys.iter().enumerate() {
            let certificate = certificate(one);
            for (m, other) in keys.iter().enumerate() {
                let pem = other.private_key_to_pem_pkcs8().unwrap();
                assert_eq!(check(&certificate, &pem).is_ok(), n == m, "{n} {m}");
            }
        }
        let told = check(&certificate(&keys[2]), &keys[0].private_key_to_pem_pkcs8().unwrap());
        assert_eq!(told.unwrap_err(), "expected the key of the certificate (EC), found another one (RSA)");
        assert!(check(b"", b"").is_err());
    }
}

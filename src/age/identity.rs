//! Who can decrypt a file: the secret half.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use super::bech32;
use super::primitives::{SecretKey, public_key};
use super::recipient::Recipient;
use crate::random;

const PREFIX: &str = "AGE-SECRET-KEY-";

/// An X25519 identity. It is printed as its recipient, and leaves memory with its last copy.
#[derive(Clone)]
pub struct Identity {
    secret: SecretKey,
    recipient: Recipient,
}

impl Identity {
    /// A new one, which nobody else has.
    pub fn generate() -> Identity {
        let secret = Zeroizing::new(random::secret_bytes());
        Identity::new(secret).expect("every number is a key of X25519")
    }

    pub(super) fn new(secret: SecretKey) -> Option<Identity> {
        let recipient = Recipient::new(public_key(&secret)?);
        Some(Identity { secret, recipient })
    }

    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    pub(super) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The secret itself, for the one place that writes a key file.
    pub fn reveal(&self) -> Zeroizing<String> {
        let lower = Zeroizing::new(bech32::encode(PREFIX, &self.secret));
        Zeroizing::new(lower.to_ascii_uppercase())
    }
}

/// Two are the same if they decrypt the same.
impl PartialEq for Identity {
    fn eq(&self, other: &Identity) -> bool {
        self.recipient == other.recipient
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity of {}", self.recipient)
    }
}

impl FromStr for Identity {
    type Err = String;

    /// Errors: what was expected and found; nothing of the text.
    fn from_str(text: &str) -> Result<Identity, String> {
        let expected = "expected an age identity of the type X25519 (AGE-SECRET-KEY-1…)";
        if text.starts_with("AGE-SECRET-KEY-PQ-") {
            return Err(format!("{expected}, found a post-quantum one (AGE-SECRET-KEY-PQ-…)"));
        }
        if text.starts_with("AGE-PLUGIN-") {
            return Err(format!("{expected}, found that of a plugin"));
        }
        if text.starts_with("age1") {
            return Err(format!("{expected}, found a recipient"));
        }
        if text.starts_with("-----BEGIN") || text.starts_with("age-encryption.org/") {
            return Err(format!("{expected}, found a file that is itself encrypted, or an SSH key"));
        }
        match bech32::decode(text) {
            Some((prefix, secret)) if prefix == PREFIX => Identity::new(Zeroizing::new(secret)),
            _ => None,
        }
        .ok_or_else(|| format!("{expected}, found a text that is none"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_and_is_never_printed() {
        let one = Identity::generate();
        let text = one.reveal();
        assert!(text.starts_with("AGE-SECRET-KEY-1"));
        let again: Identity = text.parse().unwrap();
        assert!(again == one && again != Identity::generate());
        let shown = format!("{one:?}");
        assert!(!shown.contains(&text[16..]) && shown.contains(&one.recipient().to_string()), "{shown}");
    }

    #[test]
    fn the_recipient_is_that_of_the_specification() {
        let text = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
        let identity: Identity = text.parse().unwrap();
        assert_eq!(identity.recipient().to_string(), "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj");
    }

    #[test]
    fn other_identities_are_refused_without_a_word_of_them() {
        for text in [
            "AGE-SECRET-KEY-PQ-1QQQQ",
            "AGE-PLUGIN-YUBIKEY-1QQQQ",
            "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj",
            "age-secret-key-1gfpyysjzgfpyysjzgfpyysjzgfpyysjzgfpyysjzgfpyysjzgfpq4egaex",
            "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEY",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
        ] {
            let error = text.parse::<Identity>().unwrap_err();
            assert!(error.starts_with("expected an age identity") && !error.contains("GFPYY"), "{error}");
        }
    }
}

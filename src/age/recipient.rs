//! To whom a file is encrypted: the public half of an identity.

use std::fmt;
use std::str::FromStr;

use super::bech32;

const PREFIX: &str = "age";

/// An X25519 recipient, `age1…`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recipient([u8; 32]);

impl Recipient {
    pub(super) fn new(public: [u8; 32]) -> Recipient {
        Recipient(public)
    }

    pub(super) fn public(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bech32::encode(PREFIX, &self.0))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Recipient {
    type Err = String;

    /// Errors: what was expected and found. An identity that stands here by mistake is not repeated.
    fn from_str(text: &str) -> Result<Recipient, String> {
        if let Some(found) = other_kind(text) {
            return Err(format!("expected an age recipient of the type X25519 (age1…), found {found}"));
        }
        match bech32::decode(text) {
            Some((prefix, public)) if prefix == PREFIX => Ok(Recipient(public)),
            _ => {
                Err("expected an age recipient of the type X25519 (age1…), found a text that is none: a letter of it \
                      is wrong or missing"
                    .to_string())
            }
        }
    }
}

/// What is known by its beginning, and is not X25519.
fn other_kind(text: &str) -> Option<String> {
    let upper = text.to_ascii_uppercase();
    if upper.starts_with("AGE-SECRET-KEY-") {
        return Some("an identity, which is secret".to_string());
    }
    if upper.starts_with("AGE-PLUGIN-") {
        return Some("the identity of a plugin".to_string());
    }
    if text.starts_with("ssh-") {
        return Some("an SSH key".to_string());
    }
    // The keys of plugins have a second prefix: age1yubikey1…; age1pq1… is the hybrid one.
    let (name, _) = text.strip_prefix("age1")?.split_once('1')?;
    let is_name = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-._".contains(&c));
    is_name.then(|| match name {
        "pq" => "a post-quantum recipient (age1pq1…)".to_string(),
        name => format!("a recipient of the plugin {name}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_recipients_are_refused_by_their_name() {
        let text = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
        assert_eq!(text.parse::<Recipient>().unwrap().to_string(), text);
        for (text, expected) in [
            ("age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t", "the plugin yubikey"),
            ("age1pq1xyz", "post-quantum"),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5", "an SSH key"),
            ("AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX", "secret"),
            ("AGE-PLUGIN-YUBIKEY-1Q", "plugin"),
            ("AGE1ZVKYG2LQZRAA2LNJVQEJ32NKUU0UES2S82HZRYE869XEEXVN73EQUNUJWJ", "a text that is none"),
            ("age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujw", "a text that is none"),
            ("hunter2", "a text that is none"),
        ] {
            let error = text.parse::<Recipient>().unwrap_err();
            assert!(error.contains(expected) && !error.contains("GFPYY"), "{text}: {error}");
        }
    }
}

//! Why a file could not be decrypted.

use std::fmt;

use crate::error::{Error, Kind};

/// A stanza of ours, which is no recipient.
const NOTE: &str = "litestream";
/// The types that need no mention.
const OWN: [&str; 2] = ["X25519", NOTE];

/// What is wrong with a file, or with the keys that are at hand for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The header is not one of age.
    Header(&'static str),
    /// A header in an armor, or of another version: nothing is damaged, but it is not ours to read.
    Unsupported(&'static str),
    /// None of the identities is one of its recipients; the types of its stanzas.
    NoMatch(Vec<String>),
    /// The header was changed after it was written.
    Mac,
    /// A chunk was changed, moved or cut off, or something follows the last one.
    Payload(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Header(what) => write!(f, "age header: {what}"),
            Fault::Unsupported(what) => write!(f, "expected an age file of X25519 recipients, found {what}"),
            Fault::NoMatch(kinds) => {
                let count = kinds.iter().filter(|kind| *kind != NOTE).count();
                write!(f, "encrypted, and no identity here is one of its {count} recipients")?;
                let other: Vec<&str> = kinds.iter().map(String::as_str).filter(|kind| !OWN.contains(kind)).collect();
                if other.is_empty() { Ok(()) } else { write!(f, " (of other types: {})", other.join(", ")) }
            }
            Fault::Mac => f.write_str("age header: its MAC is wrong, it was changed after it was written"),
            Fault::Payload(what) => write!(f, "age payload: {what}"),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        match &fault {
            Fault::NoMatch(_) => Error::new(Kind::NoIdentity, fault.to_string())
                .with_hint("name the file of the right age identity with -identity FILE, or under age: identities"),
            _ => Error::new(Kind::Corrupt, fault.to_string()),
        }
    }
}

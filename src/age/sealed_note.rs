//! What the writer of a file leaves in its header for itself, so that it can go on without an identity: readable for whoever
//! has the note key, and for nobody else.
//!
//! The key of each note is derived from the note key and the share of the file's first recipient, which no other file has:
//! so a note is of one file, and a note key may be used as often as anybody likes.

use zeroize::Zeroizing;

use super::base64;
use super::header::{AgeHeader, HeaderBuilder, Stanza, X25519};
use super::primitives::{Aead, SecretKey, derive};

/// The stanza that holds it.
pub const KIND: &str = "litestream";
const INFO: &[u8] = b"litestream/note/v1";

/// What the notes of one database are sealed with.
#[derive(Clone)]
pub struct NoteKey(SecretKey);

impl NoteKey {
    pub fn new(bytes: [u8; 32]) -> NoteKey {
        NoteKey(Zeroizing::new(bytes))
    }

    fn aead(&self, unique: &str) -> Aead {
        Aead::new(&derive(self.0.as_ref(), unique.as_bytes(), INFO))
    }
}

/// Adds what the object is bound to, in clear, and a note for anyone who has the key. A stanza is authenticated with the
/// header.
pub fn add(header: &mut HeaderBuilder, binding: &[u8], note: Option<(&NoteKey, &[u8])>) {
    let mut body = Vec::new();
    if let Some((key, note)) = note {
        key.aead(header.unique()).seal([0; 12], note, &mut body);
    }
    header.add(Stanza { kind: KIND.to_string(), arguments: vec![base64::encode(binding)], body });
}

/// What the file is bound to; none if it is none of ours.
pub fn binding(header: &AgeHeader) -> Option<Vec<u8>> {
    let [binding] = stanza(header)?.arguments.as_slice() else { return None };
    base64::decode(binding.as_bytes())
}

/// The note; none if there is none, or it is sealed with another key.
pub fn open(header: &AgeHeader, key: &NoteKey) -> Option<Vec<u8>> {
    let first = header.stanzas().iter().find(|stanza| stanza.kind == X25519)?;
    let mut note = Vec::new();
    let opened = key.aead(first.arguments.first()?).open([0; 12], &stanza(header)?.body, &mut note);
    opened.then_some(note)
}

/// The only one of this type.
fn stanza(header: &AgeHeader) -> Option<&Stanza> {
    let mut ours = header.stanzas().iter().filter(|stanza| stanza.kind == KIND);
    ours.next().filter(|_| ours.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::age::identity::Identity;

    fn header(binding: &[u8], note: Option<(&NoteKey, &[u8])>) -> AgeHeader {
        let mut builder = HeaderBuilder::new(&[*Identity::generate().recipient()]).unwrap();
        add(&mut builder, binding, note);
        let mut bytes = Vec::new();
        builder.write(&mut bytes);
        AgeHeader::parse(&bytes).unwrap().unwrap().0
    }

    #[test]
    fn a_note_is_read_with_its_key_alone_and_only_in_its_file() {
        let (key, other) = (NoteKey::new([1; 32]), NoteKey::new([2; 32]));
        let one = header(b"name", Some((&key, b"the end")));
        assert_eq!(open(&one, &key).as_deref(), Some(&b"the end"[..]));
        assert_eq!(binding(&one).as_deref(), Some(&b"name"[..]));
        assert_eq!(open(&one, &other), None);
        assert_eq!(open(&header(b"name", None), &key), None);
        // Moved into the header of another file.
        let mut builder = HeaderBuilder::new(&[*Identity::generate().recipient()]).unwrap();
        builder.add(stanza(&one).unwrap().clone());
        let mut bytes = Vec::new();
        builder.write(&mut bytes);
        assert_eq!(open(&AgeHeader::parse(&bytes).unwrap().unwrap().0, &key), None);
    }
}

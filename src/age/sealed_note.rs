//! What the writer of a file leaves in its header for itself, so that it can go on without an identity: readable for whoever
//! has the note key, and for nobody else.
//!
//! The key of each note is derived from the note key and the share of the file's first recipient, which no other file has:
//! so a note is of one file, and a note key may be used as often as anybody likes. Someone without the note key may copy a
//! note, still sealed, into a file that takes the place of the first one; then its share stands beside it.

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

/// A note that is copied from one file to another without being opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedNote {
    /// That of the first recipient of the file that it was made for.
    share: String,
    sealed: Vec<u8>,
}

impl SealedNote {
    /// The one in a header; none if there is none.
    pub fn of(header: &AgeHeader) -> Option<SealedNote> {
        let stanza = stanza(header)?;
        let first = header.stanzas().iter().find(|stanza| stanza.kind == X25519)?;
        let share = stanza.arguments.get(1).or(first.arguments.first())?.clone();
        Some(SealedNote { share, sealed: stanza.body.clone() }).filter(|note| !note.sealed.is_empty())
    }

    fn open(&self, key: &NoteKey) -> Option<Vec<u8>> {
        let mut note = Vec::new();
        key.aead(&self.share).open([0; 12], &self.sealed, &mut note).then_some(note)
    }

    /// Adds it to another file, and what that object is bound to.
    pub fn add(&self, header: &mut HeaderBuilder, binding: &[u8]) {
        let arguments = vec![base64::encode(binding), self.share.clone()];
        header.add(Stanza { kind: KIND.to_string(), arguments, body: self.sealed.clone() });
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
    let ([binding] | [binding, _]) = stanza(header)?.arguments.as_slice() else { return None };
    base64::decode(binding.as_bytes())
}

/// The note; none if there is none, or it is sealed with another key.
pub fn open(header: &AgeHeader, key: &NoteKey) -> Option<Vec<u8>> {
    SealedNote::of(header)?.open(key)
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
        made(|builder| add(builder, binding, note))
    }

    fn made(add: impl FnOnce(&mut HeaderBuilder)) -> AgeHeader {
        let mut builder = HeaderBuilder::new(&[*Identity::generate().recipient()]).unwrap();
        add(&mut builder);
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
        let moved = made(|builder| builder.add(stanza(&one).unwrap().clone()));
        assert_eq!(open(&moved, &key), None);
    }

    #[test]
    fn a_note_is_copied_unopened_from_file_to_file() {
        let (key, other) = (NoteKey::new([1; 32]), NoteKey::new([2; 32]));
        assert_eq!(SealedNote::of(&header(b"name", None)), None);
        let mut file = header(b"name", Some((&key, b"the database")));
        for name in [&b"second"[..], b"third"] {
            file = made(|builder| SealedNote::of(&file).unwrap().add(builder, name));
            assert_eq!(binding(&file).as_deref(), Some(name));
            assert_eq!((open(&file, &key).as_deref(), open(&file, &other)), (Some(&b"the database"[..]), None));
        }
    }
}

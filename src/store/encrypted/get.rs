//! An object that is decrypted on its way out of the store, if it is encrypted.

use std::rc::Rc;
use std::time::Instant;

use super::{BINDING_LEN, EncryptionKeys};
use crate::age::decryptor::Decryptor;
use crate::age::header::{self, AgeHeader};
use crate::age::sealed_note::{self, SealedNote};
use crate::error::{Error, Kind, Result};
use crate::store::traffic::Purpose;
use crate::store::{Chunk, Get};

pub struct DecryptingGet {
    inner: Box<dyn Get>,
    keys: Rc<EncryptionKeys>,
    binding: [u8; BINDING_LEN],
    stage: ContentStage,
    /// None: it is not known yet, or it is in clear.
    header: Option<AgeHeader>,
    /// The store has given all.
    ended: bool,
}

enum ContentStage {
    /// What has come does not tell yet.
    Unknown(Vec<u8>),
    Clear,
    Encrypted(Box<Decryptor>),
    Over,
}

impl DecryptingGet {
    pub fn new(inner: Box<dyn Get>, keys: Rc<EncryptionKeys>, binding: [u8; BINDING_LEN]) -> DecryptingGet {
        DecryptingGet { inner, keys, binding, stage: ContentStage::Unknown(Vec::new()), header: None, ended: false }
    }

    /// What is given out of the bytes that have come; none if there is nothing yet.
    fn take(&mut self, bytes: Vec<u8>) -> Result<Option<Vec<u8>>> {
        match &mut self.stage {
            ContentStage::Clear => Ok(Some(bytes)),
            ContentStage::Encrypted(_) => self.decrypt(&bytes),
            ContentStage::Over => Ok(None),
            ContentStage::Unknown(held) => {
                held.extend_from_slice(&bytes);
                if !header::is_prefix(held) {
                    let held = std::mem::take(held);
                    self.stage = ContentStage::Clear;
                    return Ok(Some(held));
                }
                if !header::begins(held) {
                    return Ok(None);
                }
                let held = std::mem::take(held);
                self.stage = ContentStage::Encrypted(Box::new(Decryptor::new()));
                self.decrypt(&held)
            }
        }
    }

    fn decrypt(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
        let ContentStage::Encrypted(decryptor) = &mut self.stage else { return Ok(None) };
        if let Some(header) = decryptor.header(bytes)?.filter(|_| self.header.is_none()) {
            self.header = Some(header.clone());
        }
        let mut plain = Vec::new();
        decryptor.push(&[], &self.keys.encryption.identities, &mut plain)?;
        self.deliver(plain)
    }

    /// Nothing is given out of an object that belongs elsewhere. By now the header is known to be as it was written.
    fn deliver(&self, plain: Vec<u8>) -> Result<Option<Vec<u8>>> {
        if plain.is_empty() {
            return Ok(None);
        }
        self.check_binding()?;
        Ok(Some(plain))
    }

    fn check_binding(&self) -> Result<()> {
        let what = match self.header.as_ref().and_then(sealed_note::binding) {
            Some(found) if found == self.binding => return Ok(()),
            Some(_) => "it was stored under another name or prefix, and moved or copied here",
            None => "it was encrypted by another program: its header does not say under which name it was stored",
        };
        Err(Error::new(Kind::Corrupt, what))
    }

    /// The rest of an object that the store has given all of.
    fn finish(&mut self) -> Result<Option<Vec<u8>>> {
        self.ended = true;
        match std::mem::replace(&mut self.stage, ContentStage::Over) {
            ContentStage::Unknown(held) => Ok(Some(held).filter(|held| !held.is_empty())),
            ContentStage::Clear | ContentStage::Over => Ok(None),
            ContentStage::Encrypted(decryptor) => {
                let mut plain = Vec::new();
                decryptor.finish(&self.keys.encryption.identities, &mut plain)?;
                self.check_binding()?;
                self.deliver(plain)
            }
        }
    }
}

impl Get for DecryptingGet {
    fn count_for(&mut self, purpose: Purpose) {
        self.inner.count_for(purpose);
    }

    fn recipients(&self) -> usize {
        self.header.as_ref().map_or(0, AgeHeader::recipients)
    }

    fn sealed_note(&self) -> Option<SealedNote> {
        self.header.as_ref().and_then(SealedNote::of)
    }

    fn poll(&mut self, now: Instant) -> Result<Chunk> {
        while !self.ended {
            let given = match self.inner.poll(now)? {
                Chunk::Pending => return Ok(Chunk::Pending),
                Chunk::Bytes(bytes) => self.take(bytes)?,
                Chunk::End => self.finish()?,
            };
            if let Some(bytes) = given {
                return Ok(Chunk::Bytes(bytes));
            }
        }
        Ok(Chunk::End)
    }
}

/// What the writer has noted in the header of an object; the bytes themselves of an object in clear.
pub struct NoteGet {
    object: DecryptingGet,
    /// All of the object is read, so that it is known to be whole.
    whole: bool,
    decryptor: Decryptor,
    note: Option<Vec<u8>>,
    given: bool,
}

impl NoteGet {
    pub fn new(object: DecryptingGet, whole: bool) -> NoteGet {
        NoteGet { object, whole, decryptor: Decryptor::new(), note: None, given: false }
    }

    /// Takes what has come of an encrypted object: its header, and what follows it unread.
    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        if self.note.is_some() {
            return Ok(());
        }
        let Some(header) = self.decryptor.header(bytes)? else { return Ok(()) };
        self.object.header = Some(header.clone());
        self.object.check_binding()?;
        let key = self.object.keys.note_key.as_ref().map(super::NoteKeyFile::read).transpose()?.flatten();
        let note = key.and_then(|key| sealed_note::open(header, &key));
        let sealed = || {
            let what = "encrypted, and this device has no key for the note in it";
            Error::new(Kind::NoIdentity, what)
                .with_hint("name the file of an age identity under age: identities, or with -identity FILE")
        };
        self.note = Some(note.ok_or_else(sealed)?);
        Ok(())
    }

    /// The note, once; then the end.
    fn deliver(&mut self) -> Result<Chunk> {
        match self.note.take() {
            Some(note) if !std::mem::replace(&mut self.given, true) => Ok(Chunk::Bytes(note)),
            _ if self.given => Ok(Chunk::End),
            _ => Err(Error::new(Kind::Corrupt, "age header: it is cut off")),
        }
    }
}

impl Get for NoteGet {
    fn count_for(&mut self, purpose: Purpose) {
        self.object.count_for(purpose);
    }

    fn recipients(&self) -> usize {
        self.object.recipients()
    }

    fn poll(&mut self, now: Instant) -> Result<Chunk> {
        loop {
            if self.given || (self.note.is_some() && (!self.whole || self.object.ended)) {
                return self.deliver();
            }
            let held = match &mut self.object.stage {
                ContentStage::Clear | ContentStage::Over => return self.object.poll(now),
                ContentStage::Encrypted(_) => None,
                ContentStage::Unknown(held) => Some(held),
            };
            let bytes = match self.object.inner.poll(now)? {
                Chunk::Pending => return Ok(Chunk::Pending),
                Chunk::Bytes(bytes) => bytes,
                Chunk::End if held.is_some() => {
                    return self.object.finish().map(|held| match held {
                        Some(held) => Chunk::Bytes(held),
                        None => Chunk::End,
                    });
                }
                Chunk::End => {
                    self.object.ended = true;
                    match self.note {
                        Some(_) => continue,
                        None => return self.deliver(),
                    }
                }
            };
            let Some(held) = held else {
                self.take(&bytes)?;
                continue;
            };
            held.extend_from_slice(&bytes);
            if header::begins(held) {
                let held = std::mem::take(held);
                self.object.stage = ContentStage::Encrypted(Box::new(Decryptor::new()));
                self.take(&held)?;
            } else if !header::is_prefix(held) {
                let held = std::mem::take(held);
                self.object.stage = ContentStage::Clear;
                return Ok(Chunk::Bytes(held));
            }
        }
    }
}

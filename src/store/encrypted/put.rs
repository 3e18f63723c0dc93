//! An object that is encrypted on its way into the store.

use std::rc::Rc;
use std::time::Instant;

use super::{BINDING_LEN, EncryptionKeys, describe};
use crate::age::CHUNK_BYTES;
use crate::age::encryptor::Encryptor;
use crate::age::header::HeaderBuilder;
use crate::age::recipient::Recipient;
use crate::age::sealed_note::{self, SealedNote};
use crate::error::Result;
use crate::store::traffic::Purpose;
use crate::store::{Put, PutState};

pub struct EncryptingPut {
    inner: Box<dyn Put>,
    keys: Rc<EncryptionKeys>,
    binding: [u8; BINDING_LEN],
    /// As they were when it was begun.
    recipients: Vec<Recipient>,
    note: Option<Vec<u8>>,
    copied_note: Option<SealedNote>,
    /// None before the first byte, and after the last one.
    encryptor: Option<Encryptor>,
    begun: bool,
    /// Encrypted, and not taken by the store yet: at most a header and two chunks.
    ready: Vec<u8>,
    sent: usize,
    finished: bool,
    inner_finished: bool,
}

impl EncryptingPut {
    pub fn new(inner: Box<dyn Put>, keys: Rc<EncryptionKeys>, binding: [u8; BINDING_LEN]) -> EncryptingPut {
        EncryptingPut {
            inner,
            recipients: keys.encryption.recipients.all(),
            keys,
            binding,
            note: None,
            copied_note: None,
            encryptor: None,
            begun: false,
            ready: Vec::new(),
            sent: 0,
            finished: false,
            inner_finished: false,
        }
    }

    fn begin(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        let mut header = HeaderBuilder::new(&self.recipients)?;
        let key = match (&self.note, &self.keys.note_key) {
            (Some(_), Some(file)) => Some(file.read_or_create()?),
            _ => None,
        };
        match &self.copied_note {
            Some(note) => note.add(&mut header, &self.binding),
            None => sealed_note::add(&mut header, &self.binding, key.as_ref().zip(self.note.as_deref())),
        }
        self.encryptor = Some(Encryptor::begin(header, &mut self.ready));
        Ok(())
    }

    /// Gives the store what is ready. True if it took some.
    fn flush(&mut self) -> Result<bool> {
        let before = self.sent;
        while let Some(rest) = self.ready.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.inner.write(rest)? {
                0 => break,
                taken => self.sent += taken,
            }
        }
        let moved = self.sent > before;
        if self.is_flushed() {
            self.ready.clear();
            self.sent = 0;
        }
        Ok(moved)
    }

    fn is_flushed(&self) -> bool {
        self.sent == self.ready.len()
    }

    /// Encrypts the last chunk, once, and tells the store when all is there.
    fn finish_inner(&mut self) -> Result<()> {
        if !self.finished {
            return Ok(());
        }
        self.begin()?;
        if let Some(encryptor) = self.encryptor.take() {
            encryptor.finish(&mut self.ready);
        }
        self.flush()?;
        if self.is_flushed() && !std::mem::replace(&mut self.inner_finished, true) {
            self.inner.finish();
        }
        Ok(())
    }
}

impl Put for EncryptingPut {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.begin()?;
        self.flush()?;
        let Some(encryptor) = self.encryptor.as_mut().filter(|_| self.sent == self.ready.len()) else { return Ok(0) };
        let now = bytes.get(..bytes.len().min(CHUNK_BYTES)).unwrap_or_default();
        encryptor.write(now, &mut self.ready);
        self.flush()?;
        Ok(now.len())
    }

    /// The words are of the host and the path: they are not for anyone who reads the bucket.
    fn describe(&mut self, _words: &str) {
        self.inner.describe(&describe(self.recipients.len()));
    }

    fn note(&mut self, note: &[u8]) {
        self.note = Some(note.to_vec());
    }

    fn copy_note(&mut self, note: &SealedNote) {
        self.copied_note = Some(note.clone());
    }

    fn count_for(&mut self, purpose: Purpose) {
        self.inner.count_for(purpose);
    }

    fn finish(&mut self) {
        self.finished = true;
    }

    fn commit(&mut self) {
        self.inner.commit();
    }

    fn poll(&mut self, now: Instant) -> Result<PutState> {
        loop {
            self.flush()?;
            self.finish_inner()?;
            let state = self.inner.poll(now)?;
            // The answers that have come may have made room for more.
            if self.is_flushed() && (self.inner_finished || !self.finished) || !self.flush()? {
                return Ok(state);
            }
        }
    }
}

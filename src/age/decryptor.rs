//! An age file in, plain text out, piece by piece.

use super::fault::Fault;
use super::header::AgeHeader;
use super::identity::Identity;
use super::primitives::Aead;
use super::stream_nonce::StreamNonce;
use super::{CHUNK_BYTES, TAG_BYTES};

/// A file that is being decrypted. Holds at most the header, or a chunk, and what was given to it at once.
pub struct Decryptor {
    stage: DecryptorStage,
    /// What has come and is not read yet.
    held: Vec<u8>,
}

enum DecryptorStage {
    Header,
    Nonce(Box<AgeHeader>),
    Payload(Box<Payload>),
}

struct Payload {
    aead: Aead,
    nonce: StreamNonce,
    /// The last chunk was read.
    ended: bool,
}

impl Decryptor {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Decryptor {
        Decryptor { stage: DecryptorStage::Header, held: Vec::new() }
    }

    /// The header, once it has come.
    pub fn header(&mut self, bytes: &[u8]) -> Result<Option<&AgeHeader>, Fault> {
        self.held.extend_from_slice(bytes);
        if let DecryptorStage::Header = self.stage
            && let Some((header, used)) = AgeHeader::parse(&self.held)?
        {
            self.held.drain(..used);
            self.stage = DecryptorStage::Nonce(Box::new(header));
        }
        match &self.stage {
            DecryptorStage::Nonce(header) => Ok(Some(header)),
            DecryptorStage::Header | DecryptorStage::Payload(_) => Ok(None),
        }
    }

    /// Decrypts what has come; the plain text that is authenticated is appended to `output`.
    ///
    /// Errors: the file is not for these identities, or not as it was written. It must not be called again then.
    pub fn push(&mut self, bytes: &[u8], identities: &[Identity], output: &mut Vec<u8>) -> Result<(), Fault> {
        self.header(bytes)?;
        if let DecryptorStage::Nonce(header) = &self.stage {
            let Some(nonce) = self.held.first_chunk::<16>() else { return Ok(()) };
            let aead = Aead::new(&header.unwrap(identities)?.payload_key(nonce));
            self.held.drain(..nonce.len());
            self.stage =
                DecryptorStage::Payload(Box::new(Payload { aead, nonce: StreamNonce::default(), ended: false }));
        }
        let DecryptorStage::Payload(payload) = &mut self.stage else { return Ok(()) };
        let mut rest = self.held.as_slice();
        // A chunk that something follows is not the last one, unless it says so.
        while let Some((chunk, more)) =
            rest.split_at_checked(CHUNK_BYTES + TAG_BYTES).filter(|(_, more)| !more.is_empty())
        {
            payload.open(chunk, output)?;
            rest = more;
        }
        let used = self.held.len() - rest.len();
        self.held.drain(..used);
        Ok(())
    }

    /// Nothing follows.
    ///
    /// Errors: the file is cut off, or not as it was written.
    pub fn finish(self, identities: &[Identity], output: &mut Vec<u8>) -> Result<(), Fault> {
        match self.stage {
            DecryptorStage::Header => Err(Fault::Header("it is cut off")),
            DecryptorStage::Nonce(header) => {
                header.unwrap(identities)?;
                Err(Fault::Header("it is cut off after the header"))
            }
            DecryptorStage::Payload(mut payload) => payload.open_last(&self.held, output),
        }
    }
}

impl Payload {
    /// Opens a chunk that something follows.
    fn open(&mut self, chunk: &[u8], output: &mut Vec<u8>) -> Result<(), Fault> {
        if self.ended {
            return Err(Fault::Payload("something follows the last chunk"));
        }
        if !self.aead.open(self.nonce.get(false), chunk, output) {
            // What follows it is refused then; what was before is as it was written.
            let last = self.aead.open(self.nonce.get(true), chunk, output);
            self.ended = last;
            return if last { Ok(()) } else { Err(CHANGED) };
        }
        self.nonce.advance();
        Ok(())
    }

    fn open_last(&mut self, chunk: &[u8], output: &mut Vec<u8>) -> Result<(), Fault> {
        if self.ended {
            return Err(Fault::Payload("something follows the last chunk"));
        }
        let before = output.len();
        if !self.aead.open(self.nonce.get(true), chunk, output) {
            let more = chunk.len() == CHUNK_BYTES + TAG_BYTES && self.aead.open(self.nonce.get(false), chunk, output);
            return Err(if more { Fault::Payload("the last chunk is missing") } else { CHANGED });
        }
        if output.len() == before && !self.nonce.is_first() {
            return Err(Fault::Payload("the last chunk is empty"));
        }
        Ok(())
    }
}

const CHANGED: Fault = Fault::Payload("a chunk was changed, moved or cut off");

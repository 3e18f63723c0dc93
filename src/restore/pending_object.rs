//! An object that was asked for: what has come of it, and what of it has been given out, so that it can be asked for once
//! more and continued there.

use std::collections::VecDeque;
use std::time::Instant;

use crate::age::sealed_note::SealedNote;
use crate::error::{Error, Kind, Result};
use crate::format::crc32;
use crate::store::{Chunk, Get};

/// An object that was asked for, and what has come of it.
pub struct PendingObject {
    get: Box<dyn Get>,
    received: VecDeque<Result<Chunk>>,
    /// Its end, or an error, has come: it must not be polled again.
    ended: bool,
}

impl PendingObject {
    pub fn new(get: Box<dyn Get>) -> PendingObject {
        PendingObject { get, received: VecDeque::new(), ended: false }
    }

    /// To how many recipients it is encrypted, once something of it was given; 0: it is in clear.
    pub fn recipients(&self) -> usize {
        self.get.recipients()
    }

    /// What its writer has noted in it for itself, once something of it was given.
    pub fn sealed_note(&self) -> Option<SealedNote> {
        self.get.sealed_note()
    }

    /// Takes in what is there now.
    pub fn poll(&mut self, now: Instant) {
        while !self.ended {
            match self.get.poll(now) {
                Ok(Chunk::Pending) => return,
                Ok(Chunk::Bytes(bytes)) => self.received.push_back(Ok(Chunk::Bytes(bytes))),
                last => {
                    self.ended = true;
                    self.received.push_back(last);
                }
            }
        }
    }

    /// The next of what has come.
    pub fn next(&mut self, now: Instant) -> Result<Chunk> {
        match self.received.pop_front() {
            Some(came) => came,
            None if self.ended => Ok(Chunk::End),
            None => self.get.poll(now).inspect_err(|_| self.ended = true),
        }
    }
}

/// What of an object has been given out, so that it can be asked for once more and continued there.
#[derive(Default)]
pub struct DeliveredBytes {
    bytes: u64,
    crc: crc32::Crc32,
    /// Of the object that was asked for again: what has been passed over so far.
    passed: u64,
    passed_crc: crc32::Crc32,
}

impl DeliveredBytes {
    /// The part of `bytes` that is new.
    ///
    /// Errors: of kind `NotFound` if what has been given out before was of another object.
    pub fn take(&mut self, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
        let old = usize::try_from(self.bytes - self.passed).unwrap_or(usize::MAX).min(bytes.len());
        self.passed_crc.update(&bytes[..old]);
        self.passed += old as u64;
        if old > 0 && self.passed == self.bytes && self.passed_crc.clone().finish() != self.crc.clone().finish() {
            return Err(Error::new(Kind::NotFound, "the object was replaced while it was read"));
        }
        bytes.drain(..old);
        self.crc.update(&bytes);
        // There is something new only once all that was old has been passed over.
        self.bytes += bytes.len() as u64;
        self.passed += bytes.len() as u64;
        Ok(bytes)
    }

    /// Not all that was given out before has come again.
    pub fn is_behind(&self) -> bool {
        self.passed < self.bytes
    }

    pub fn begin_again(&mut self) {
        (self.passed, self.passed_crc) = (0, crc32::Crc32::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `object` in pieces of these sizes, up to `end`; what is given out.
    fn fed(given: &mut DeliveredBytes, object: &[u8], sizes: &[usize], end: usize) -> Result<Vec<u8>> {
        let (mut at, mut out) = (0, Vec::new());
        for size in sizes.iter().cycle() {
            let next = (at + size).min(end);
            out.extend(given.take(object[at..next].to_vec())?);
            at = next;
            if at == end {
                return Ok(out);
            }
        }
        unreachable!("the sizes come again and again")
    }

    #[test]
    fn repeated_read_continues_at_the_same_byte() {
        let object: Vec<u8> = (0..1000u32).map(|byte| (byte * 7 % 251) as u8).collect();
        for sizes in [&[1][..], &[64], &[64, 3, 200], &[1000]] {
            for breaks in [&[500][..], &[1, 999], &[300, 100, 700], &[640, 640, 64]] {
                let (mut given, mut out) = (DeliveredBytes::default(), Vec::new());
                for end in breaks {
                    out.extend(fed(&mut given, &object, sizes, *end).unwrap());
                    given.begin_again();
                }
                out.extend(fed(&mut given, &object, &[17, 80], 1000).unwrap());
                assert!(out == object, "{sizes:?} {breaks:?}");
                assert_eq!((given.passed, given.bytes), (1000, 1000));
            }
        }
    }

    #[test]
    fn an_object_that_is_another_one_by_then_is_told() {
        let mut given = DeliveredBytes::default();
        fed(&mut given, &[1; 100], &[7], 50).unwrap();
        given.begin_again();
        let error = fed(&mut given, &[2; 100], &[7], 100).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        // One that ends too soon is told by what was passed over.
        given.begin_again();
        fed(&mut given, &[1; 100], &[7], 30).unwrap();
        assert!(given.passed < given.bytes);
    }
}

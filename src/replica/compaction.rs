//! Several stored segments become one: read, verified and sent one by one, in the memory that the largest needs. What was
//! stored lately is still in memory, and is not fetched.
//!
//! What was merged stays until the merged segment is committed, and after that for a while; see `retention`. A damaged
//! segment is never copied.

use std::rc::Rc;
use std::time::Instant;

use crate::error::{Error, Kind, Result, ResultExt};
use crate::fault;
use crate::format::chain_end::check_key;
use crate::format::key::SegmentKey;
use crate::format::segment::{ChainEnd, MemberHeader, SegmentReader, check_continues};
use crate::replica::sent_segments::Parts;
use crate::replica::snapshot_upload::UploadProgress;
use crate::store::traffic::Purpose;
use crate::store::{Chunk, Get, Put, PutState, Store};

/// A segment that is merged.
pub struct Input {
    pub key: SegmentKey,
    /// In bytes.
    pub size: u64,
    /// Its bytes; none: they are fetched.
    pub parts: Option<Parts>,
}

/// A merge under way.
pub struct Compaction {
    store: Rc<dyn Store>,
    group: Vec<Input>,
    key: SegmentKey,
    put: Box<dyn Put>,
    get: Option<Box<dyn Get>>,
    /// How many of the group have been begun.
    started: usize,
    /// The current one, whole once `get` is none.
    bytes: Vec<u8>,
    sent: usize,
    chain_end: Option<ChainEnd>,
    stored: u64,
    finished: bool,
}

impl Compaction {
    /// Begins to make `key` of `group`.
    pub fn new(store: Rc<dyn Store>, key: SegmentKey, group: Vec<Input>) -> Compaction {
        let mut put = store.put(&key.to_string());
        put.count_for(Purpose::Compaction);
        Compaction {
            store,
            group,
            key,
            put,
            get: None,
            started: 0,
            bytes: Vec::new(),
            sent: 0,
            chain_end: None,
            stored: 0,
            finished: false,
        }
    }

    pub fn key(&self) -> &SegmentKey {
        &self.key
    }

    /// What it is made of.
    pub fn group(&self) -> &[Input] {
        &self.group
    }

    /// Bytes that are fetched for it.
    pub fn fetched(&self) -> u64 {
        self.group.iter().filter(|input| input.parts.is_none()).map(|input| input.size).sum()
    }

    /// The bytes of the merged segment, if none of them was fetched.
    pub fn parts(&self) -> Option<Parts> {
        let parts: Option<Vec<&Parts>> = self.group.iter().map(|input| input.parts.as_ref()).collect();
        Some(parts?.into_iter().flatten().cloned().collect())
    }

    /// Bytes of the merged segment so far.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Makes progress by at most one segment.
    ///
    /// Errors: the store's; [`Kind::Corrupt`] for a segment that is damaged or does not continue the one before it.
    pub fn poll(&mut self, now: Instant) -> Result<UploadProgress> {
        if self.get.is_some() {
            let name = self.next_input().map(|key| key.to_string()).unwrap_or_default();
            return self.read(now).with_context(|| format!("object {name}"));
        }
        if !self.send()? {
            return self.put.poll(now).map(|_| UploadProgress::Waiting);
        }
        if let Some(input) = self.group.get(self.started) {
            fault::point("merge.get")?;
            self.started += 1;
            (self.bytes, self.sent) = (Vec::new(), 0);
            match &input.parts {
                Some(parts) => {
                    self.bytes = parts.concat();
                    self.verify()?;
                }
                None => {
                    let mut get = self.store.get(&input.key.to_string());
                    get.count_for(Purpose::Compaction);
                    self.get = Some(get);
                }
            }
            return Ok(UploadProgress::Working);
        }
        self.commit(now)
    }

    fn next_input(&self) -> Option<SegmentKey> {
        self.group.get(self.started.checked_sub(1)?).map(|input| input.key)
    }

    fn read(&mut self, now: Instant) -> Result<UploadProgress> {
        while let Some(get) = &mut self.get {
            match get.poll(now)? {
                Chunk::Pending => return Ok(UploadProgress::Waiting),
                Chunk::Bytes(bytes) => {
                    check_same_encryption(get.recipients(), self.store.recipients())?;
                    self.bytes.extend_from_slice(&bytes);
                }
                Chunk::End => {
                    self.get = None;
                    self.verify()?;
                }
            }
        }
        Ok(UploadProgress::Working)
    }

    /// Every member is whole, and follows the one before it, also over the edge between two segments.
    fn verify(&mut self) -> Result<()> {
        let Some(key) = self.next_input() else { return Ok(()) };
        let mut reader = SegmentReader::named(&key, self.bytes.as_slice());
        let mut last: Option<MemberHeader> = None;
        let mut tail = self.chain_end;
        while let Some(header) = reader.next_member()? {
            match last {
                None => check_key(&key, &header)?,
                // Only now, after its end, is the crc of the member before known.
                Some(before) => tail = Some(ChainEnd::after_member(&before, reader.crc())),
            }
            if let Some(tail) = &tail {
                check_continues(tail, &header)?;
            }
            last = Some(header);
        }
        let Some(last) = last.filter(|last| last.end_point() == key.end) else {
            return Err(Error::new(Kind::Corrupt, format!("expected batches up to {} by its name", key.end)));
        };
        self.chain_end = Some(ChainEnd::after_member(&last, reader.crc()));
        Ok(())
    }

    /// True once all bytes at hand are the store's.
    fn send(&mut self) -> Result<bool> {
        while let Some(rest) = self.bytes.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let taken = self.put.write(rest)?;
            if taken == 0 {
                return Ok(false);
            }
            self.sent += taken;
            self.stored += taken as u64;
        }
        Ok(true)
    }

    fn commit(&mut self, now: Instant) -> Result<UploadProgress> {
        if !self.finished {
            fault::point("merge.commit")?;
            self.put.finish();
            self.put.commit();
            self.finished = true;
        }
        match self.put.poll(now)? {
            PutState::Done => Ok(UploadProgress::Done),
            _ => Ok(UploadProgress::Waiting),
        }
    }
}

/// Neither is what was encrypted stored in clear, nor what another program may have put here in clear passed on as if it
/// was ours.
pub fn check_same_encryption(found: usize, wanted: usize) -> Result<()> {
    match (found, wanted) {
        (0, 0) | (1.., 1..) => Ok(()),
        (0, _) => Err(Error::new(Kind::NoIdentity, "in clear: it is not merged into an encrypted segment")),
        (_, 0) => Err(Error::new(Kind::NoIdentity, "encrypted: it is not merged into a segment in clear")
            .with_hint("compact with a configuration that names the recipients under age: recipients")),
    }
}

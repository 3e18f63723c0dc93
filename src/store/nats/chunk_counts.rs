//! Which objects lack chunks: each meta says how many there are, and the stream how many messages each chunk subject has.
//!
//! A server that lost a block of its file store, and somebody who deletes messages by hand, can take chunks and leave the
//! meta. The chunks are counted after the metas were read: what was stored in between is whole, for its meta comes last. An
//! object that was deleted or replaced in between may count as one that lacks chunks.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use serde::{Deserialize, Deserializer};

use super::api;
use super::client::Client;
use super::exchange::{Exchange, ExchangeEvent};
use super::object::{Meta, ObjectNames};
use super::reply::Reply;
use super::stream_info::{self, StreamInfo, TakeSubject, subjects_request};
use crate::error::Result;
use crate::store::traffic::Purpose;

/// What is deleted between two pages moves the rest up: each page begins so many subjects before the end of the last one, and
/// must share one with it.
const OVERLAP: u64 = 1000;

/// The name of an upload, shortened: a bucket may have a hundred thousand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UploadHash(u64);

impl UploadHash {
    pub fn of(nuid: &str) -> UploadHash {
        let mut hasher = DefaultHasher::new();
        nuid.hash(&mut hasher);
        UploadHash(hasher.finish())
    }
}

/// How many messages each upload has: those of a page, or of all pages.
#[derive(Default)]
struct MessageCounts(HashMap<UploadHash, u64>);

impl TakeSubject for MessageCounts {
    fn take(&mut self, subject: &str, messages: u64) {
        self.0.insert(UploadHash::of(subject.rsplit('.').next().unwrap_or_default()), messages);
    }
}

impl<'de> Deserialize<'de> for MessageCounts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<MessageCounts, D::Error> {
        stream_info::subjects(from)
    }
}

/// Expected counts, and those that the server tells, page by page.
#[derive(Default)]
struct Counts {
    expected: HashMap<UploadHash, u64>,
    found: MessageCounts,
    /// Where the next page begins.
    offset: u64,
}

impl Counts {
    /// Takes a page of a list of `total`. Ready: it was the last one. None if something may stand between it and the one
    /// before: all that they should share was deleted.
    fn add_page(&mut self, page: MessageCounts, total: u64) -> Option<Poll<()>> {
        if self.offset > 0 && !page.0.keys().any(|upload| self.found.0.contains_key(upload)) {
            return None;
        }
        let count = u64::try_from(page.0.len()).unwrap_or(u64::MAX);
        let end = self.offset.saturating_add(count);
        self.offset = end.saturating_sub(OVERLAP.min(count / 2));
        self.found.0.extend(page.0);
        Some(if count == 0 || end >= total { Poll::Ready(()) } else { Poll::Pending })
    }

    fn incomplete(&self) -> HashSet<UploadHash> {
        let lacks = |upload: &UploadHash, expected: u64| self.found.0.get(upload).is_none_or(|found| *found < expected);
        self.expected.iter().filter(|(upload, expected)| lacks(upload, **expected)).map(|(upload, _)| *upload).collect()
    }
}

/// Counts the chunks of a bucket.
pub struct ChunkCounts {
    names: Rc<ObjectNames>,
    exchange: Exchange,
    counts: Counts,
}

impl ChunkCounts {
    pub fn new(client: &Rc<Client>, names: &Rc<ObjectNames>) -> ChunkCounts {
        ChunkCounts {
            names: names.clone(),
            exchange: Exchange::new(client, Purpose::Listing),
            counts: Counts::default(),
        }
    }

    /// This object is to have all its chunks. One whose writer did not say how many there are has them.
    pub fn expect(&mut self, meta: &Meta) {
        if let Some(chunks) = meta.chunks.filter(|chunks| *chunks > 0 && !meta.deleted && !meta.link) {
            self.counts.expected.insert(UploadHash::of(&meta.nuid), chunks);
        }
    }

    /// Nothing is expected any more.
    pub fn clear(&mut self) {
        self.counts = Counts::default();
    }

    /// Ready: the uploads that lack chunks.
    pub fn poll(&mut self, now: Instant) -> Result<Poll<HashSet<UploadHash>>> {
        if self.counts.expected.is_empty() {
            return Ok(Poll::Ready(HashSet::new()));
        }
        while let Some(event) = self.exchange.next() {
            match event {
                ExchangeEvent::NewSession => self.restart()?,
                ExchangeEvent::Reply(reply) => {
                    if self.on_page(&reply)?.is_ready() {
                        return Ok(Poll::Ready(self.counts.incomplete()));
                    }
                }
            }
        }
        self.exchange.check_timeout(now)?;
        Ok(Poll::Pending)
    }

    fn on_page(&mut self, reply: &Reply) -> Result<Poll<()>> {
        let info: StreamInfo<MessageCounts> = api::parse_success(reply)?;
        match self.counts.add_page(info.state.subjects.unwrap_or_default(), info.total) {
            Some(Poll::Ready(())) => return Ok(Poll::Ready(())),
            Some(Poll::Pending) => self.request_page()?,
            None => self.restart()?,
        }
        Ok(Poll::Pending)
    }

    fn restart(&mut self) -> Result<()> {
        self.exchange.renew();
        (self.counts.found, self.counts.offset) = (MessageCounts::default(), 0);
        if self.exchange.is_connected() { self.request_page() } else { Ok(()) }
    }

    fn request_page(&self) -> Result<()> {
        let question = subjects_request(&self.names.all_chunks(), self.counts.offset);
        self.exchange.request(0, &self.names.api("STREAM.INFO"), &question)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(n: u64) -> UploadHash {
        UploadHash::of(&format!("upload{n:08}"))
    }

    /// Counts `total` uploads of three chunks each in pages of `size`, while `deleted` of the first go between two pages.
    fn count(total: u64, size: usize, deleted: usize, chunks: impl Fn(u64) -> u64) -> Option<HashSet<UploadHash>> {
        let expected = (0..total).map(|n| (upload(n), 3)).collect();
        let mut counts = Counts { expected, ..Counts::default() };
        let mut list: Vec<u64> = (0..total).filter(|n| chunks(*n) > 0).collect();
        loop {
            let from = usize::try_from(counts.offset).unwrap().min(list.len());
            let page = list[from..list.len().min(from + size)].iter().map(|n| (upload(*n), chunks(*n))).collect();
            if counts.add_page(MessageCounts(page), list.len() as u64)?.is_ready() {
                return Some(counts.incomplete());
            }
            list.drain(..deleted);
        }
    }

    #[test]
    fn an_upload_with_fewer_messages_than_chunks_lacks_some() {
        for total in [1, 4999, 5000, 5001, 23_456] {
            let lost = |n| match n {
                0 => 0,
                7 => 2,
                // More than its meta says are no loss.
                9 => 4,
                _ => 3,
            };
            let expected: HashSet<UploadHash> = [0, 7].into_iter().filter(|n| *n < total).map(upload).collect();
            assert_eq!(count(total, 5000, 0, lost), Some(expected), "{total}");
        }
    }

    #[test]
    fn what_is_deleted_between_two_pages_hides_no_other() {
        assert_eq!(count(23_456, 5000, 900, |_| 3), Some(HashSet::new()));
        assert_eq!(count(23_456, 5000, 1000, |_| 3), None);
    }
}

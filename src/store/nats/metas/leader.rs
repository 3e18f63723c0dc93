//! All metas of a bucket as the leader of its stream knows them: first their subjects, page by page, then one question for
//! each, many at a time. A consumer is quicker, but may read from a replica that is behind.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Instant;

use super::MetaEvent;
use crate::error::Result;
use crate::store::nats::api;
use crate::store::nats::client::Client;
use crate::store::nats::exchange::{Exchange, ExchangeEvent};
use crate::store::nats::object::{Meta, ObjectNames};
use crate::store::nats::reply::Reply;
use crate::store::nats::stream_info::{self, StreamInfo, SubjectList};
use crate::store::traffic::Purpose;

const SUBJECTS: u64 = 1;
const META: u64 = 2;
/// The server tells 100,000 subjects at a time, sorted, from a number on (stream.go, JSMaxSubjectDetails). What is deleted between
/// two questions moves the rest up: each page begins this many before the end of the last one, so that it shows.
const OVERLAP: u64 = 1000;
/// Questions on their way at once: far below what the server queues (10,000 for all of its clients).
const MAX_REQUESTS: usize = 500;

pub struct LeaderReader {
    names: Rc<ObjectNames>,
    exchange: Exchange,
    /// Metas that were not asked for yet.
    subjects: Vec<String>,
    pages: SubjectPages,
    all_listed: bool,
    in_flight: usize,
}

impl LeaderReader {
    pub fn new(client: &Rc<Client>, names: &Rc<ObjectNames>) -> LeaderReader {
        LeaderReader {
            names: names.clone(),
            exchange: Exchange::new(client, Purpose::Listing),
            subjects: Vec::new(),
            pages: SubjectPages::default(),
            all_listed: false,
            in_flight: 0,
        }
    }

    pub fn step(&mut self, now: Instant) -> Result<MetaEvent> {
        while let Some(event) = self.exchange.next() {
            match event {
                ExchangeEvent::NewSession => {
                    self.restart()?;
                    return Ok(MetaEvent::Restarted);
                }
                ExchangeEvent::Reply(reply) => {
                    if let Some(event) = self.on_reply(&reply)? {
                        return Ok(event);
                    }
                }
            }
        }
        if self.all_listed && self.subjects.is_empty() && self.in_flight == 0 {
            return Ok(MetaEvent::End);
        }
        self.exchange.check_timeout(now)?;
        Ok(MetaEvent::Pending)
    }

    fn restart(&mut self) -> Result<()> {
        self.exchange.renew();
        self.subjects.clear();
        (self.pages, self.all_listed, self.in_flight) = (SubjectPages::default(), false, 0);
        if self.exchange.is_connected() { self.request_subjects() } else { Ok(()) }
    }

    fn request_subjects(&self) -> Result<()> {
        let question = stream_info::subjects_request(&self.names.all_metas(), self.pages.offset);
        self.exchange.request(SUBJECTS, &self.names.api("STREAM.INFO"), &question)
    }

    fn on_reply(&mut self, reply: &Reply) -> Result<Option<MetaEvent>> {
        if reply.tag == SUBJECTS {
            if !self.on_subjects(reply)? {
                self.restart()?;
                return Ok(Some(MetaEvent::Restarted));
            }
            return self.request_metas().map(|()| None);
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        self.request_metas()?;
        // None: it was deleted meanwhile.
        Ok(api::message_payload(reply)?.map(|json| MetaEvent::Meta(Meta::parse(&json))))
    }

    /// False: the page does not join the one before.
    fn on_subjects(&mut self, reply: &Reply) -> Result<bool> {
        let info: StreamInfo<SubjectList> = api::parse_success(reply)?;
        let subjects = info.state.subjects.unwrap_or_default().0;
        let Some((fresh, last)) = self.pages.add_page(subjects, info.total) else { return Ok(false) };
        self.subjects.extend(fresh);
        self.all_listed = last;
        if !last {
            self.request_subjects()?;
        }
        Ok(true)
    }

    fn request_metas(&mut self) -> Result<()> {
        while self.in_flight < MAX_REQUESTS
            && let Some(subject) = self.subjects.pop()
        {
            self.exchange.request(META, &self.names.api("STREAM.MSG.GET"), &api::last_message_request(&subject))?;
            self.in_flight += 1;
        }
        Ok(())
    }
}

/// Pages of a sorted list that may change between two of them.
#[derive(Default)]
struct SubjectPages {
    /// Where the next page begins.
    offset: u64,
    /// The page before it.
    before: HashSet<String>,
}

impl SubjectPages {
    /// What a page of a list of `total` has that the one before did not, and whether it is the last one. None if something
    /// may stand between the two: all that they should share was deleted.
    fn add_page(&mut self, page: Vec<String>, total: u64) -> Option<(Vec<String>, bool)> {
        if self.offset > 0 && !page.iter().any(|subject| self.before.contains(subject)) {
            return None;
        }
        let count = u64::try_from(page.len()).unwrap_or(0);
        let end = self.offset.saturating_add(count);
        let last = page.is_empty() || end >= total;
        let fresh: Vec<String> = page.iter().filter(|subject| !self.before.contains(*subject)).cloned().collect();
        self.offset = end.saturating_sub(OVERLAP.min(count / 2));
        self.before = if last { HashSet::new() } else { page.into_iter().collect() };
        Some((fresh, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a list in pages of `size`, while `deleted` of its first subjects go between two pages.
    fn read(count: usize, size: usize, deleted: usize) -> Option<Vec<String>> {
        let mut list: Vec<String> = (0..count).map(|n| format!("{n:08}")).collect();
        let (mut pages, mut all) = (SubjectPages::default(), Vec::new());
        loop {
            let from = usize::try_from(pages.offset).unwrap().min(list.len());
            let page = list[from..list.len().min(from + size)].to_vec();
            let (fresh, last) = pages.add_page(page, list.len() as u64)?;
            all.extend(fresh);
            if last {
                return Some(all);
            }
            list.drain(..deleted);
        }
    }

    #[test]
    fn pages_give_each_subject_once() {
        for count in [0, 1, 4999, 5000, 5001, 23_456] {
            assert_eq!(read(count, 5000, 0).unwrap().len(), count);
        }
    }

    #[test]
    fn what_is_deleted_between_two_pages_hides_no_other() {
        let all = read(23_456, 5000, 900).expect("the pages still overlap");
        assert_eq!(all.len(), 23_456);
    }

    #[test]
    fn pages_that_no_longer_overlap_are_refused() {
        assert_eq!(read(23_456, 5000, 1000), None);
    }
}

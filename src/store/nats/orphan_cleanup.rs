//! Removing orphan chunks: those that no object of the whole bucket refers to, left by writers that died.
//!
//! Chunks carry no prefix, so a sweep touches what other programs left, too. It is therefore careful:
//! * The chunks are listed before the metas: what is stored meanwhile is either not looked at or seen to be referred to.
//! * If one meta cannot be read, nothing is removed: it may refer to anything.
//! * A chunk is removed only if the newest of its nuid is old, for an upload that is going on has no meta yet; and only
//!   up to the message that was looked at.
//! * Before each removal the metas are read that were stored since the chunks were listed: an object that was given another
//!   name keeps its chunks, and where metas are asked for one by one, neither its old nor its new one may have been seen.
//! * What is no name of an upload is left alone: in the question that removes it, it might mean others, too. So is the record
//!   of who writes below a prefix.
//! * Anyone who loses the connection begins again.

use std::collections::HashSet;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::api;
use super::client::Client;
use super::exchange::{Exchange, ExchangeEvent};
use super::metas::{MetaEvent, MetaReader};
use super::object::{Meta, ObjectNames, is_nuid};
use super::reply::Reply;
use super::stream_info::{self, LastTokens, StreamInfo};
use super::writer_record::is_record;
use crate::error::{Result, ResultExt};
use crate::format::time::Timestamp;
use crate::store::traffic::Purpose;
use crate::store::{CleanupResult, OrphanCleanup};

const SUBJECTS: u64 = 1;
const NEWEST: u64 = 2;
const PURGED: u64 = 3;
const NEXT_META: u64 = 4;

enum CleanupStage {
    Begin,
    /// Which uploads have chunks; the server tells them page by page.
    Subjects,
    /// Which of them an object refers to.
    Metas(MetaReader),
    /// The rest, one after another: how old is it?
    Newest(String),
    /// It is old: does an object that came meanwhile refer to it?
    RecheckMetas(OrphanCandidate),
    Purge,
    /// Records of who wrote below a prefix, but the last one.
    PurgeRecords,
}

/// An upload that is old, and the message after its newest chunk.
struct OrphanCandidate {
    nuid: String,
    up_to: u64,
}

pub struct NatsCleanup {
    names: Rc<ObjectNames>,
    exchange: Exchange,
    now_utc: Timestamp,
    min_age: Duration,
    stage: CleanupStage,
    /// Uploads that no object is known to refer to.
    candidates: HashSet<String>,
    /// Subjects that the server has told so far.
    subjects_read: u64,
    /// All metas up to this message were seen.
    metas_seen_to: Option<u64>,
    result: CleanupResult,
}

impl NatsCleanup {
    /// `now_utc` is the time now; what was stored less than `min_age` before it stays.
    pub fn new(client: &Rc<Client>, names: &Rc<ObjectNames>, now_utc: Timestamp, young: Duration) -> NatsCleanup {
        NatsCleanup {
            names: names.clone(),
            exchange: Exchange::new(client, Purpose::Compaction),
            now_utc,
            min_age: young,
            stage: CleanupStage::Begin,
            candidates: HashSet::new(),
            subjects_read: 0,
            metas_seen_to: None,
            result: CleanupResult::default(),
        }
    }

    fn step(&mut self, now: Instant) -> Result<Poll<CleanupResult>> {
        self.names.require_own()?;
        while let Some(event) = self.exchange.next() {
            match event {
                ExchangeEvent::NewSession => self.restart()?,
                ExchangeEvent::Reply(reply) => {
                    if let Poll::Ready(swept) = self.on_reply(&reply)? {
                        return Ok(Poll::Ready(swept));
                    }
                }
            }
        }
        if let CleanupStage::Metas(_) = &self.stage {
            return self.read_metas(now);
        }
        self.exchange.check_timeout(now)?;
        Ok(Poll::Pending)
    }

    fn restart(&mut self) -> Result<()> {
        self.exchange.renew();
        self.stage = CleanupStage::Begin;
        self.candidates.clear();
        (self.subjects_read, self.metas_seen_to, self.result.too_young) = (0, None, 0);
        if self.exchange.is_connected() { self.request_subjects() } else { Ok(()) }
    }

    fn request_subjects(&mut self) -> Result<()> {
        self.stage = CleanupStage::Subjects;
        let question = stream_info::subjects_request(&self.names.all_chunks(), self.subjects_read);
        self.exchange.request(SUBJECTS, &self.names.api("STREAM.INFO"), &question)
    }

    fn on_reply(&mut self, reply: &Reply) -> Result<Poll<CleanupResult>> {
        match (&self.stage, reply.tag) {
            (CleanupStage::Subjects, SUBJECTS) => self.on_subjects(reply).map(|()| Poll::Pending),
            (CleanupStage::Newest(_), NEWEST) => self.on_newest(reply),
            (CleanupStage::RecheckMetas(_), NEXT_META) => self.on_next_meta(reply),
            (CleanupStage::Purge, PURGED) => {
                api::parse_success::<Value>(reply)?;
                self.result.removed += 1;
                self.next_candidate()
            }
            (CleanupStage::PurgeRecords, PURGED) => {
                api::parse_success::<Value>(reply)?;
                self.next_candidate()
            }
            _ => Ok(Poll::Pending),
        }
    }

    fn on_subjects(&mut self, reply: &Reply) -> Result<()> {
        let info: StreamInfo<LastTokens> = api::parse_success(reply)?;
        // Of two clocks that differ, the one that makes everything younger holds.
        let server = info.ts.and_then(|ts| Timestamp::parse(&ts).ok());
        self.now_utc = server.map_or(self.now_utc, |server| server.min(self.now_utc));
        self.metas_seen_to.get_or_insert(info.state.last_seq);
        let subjects = info.state.subjects.unwrap_or_default();
        let page = u64::try_from(subjects.iter().count()).unwrap_or(0);
        let pile_up = self.records_pile_up();
        // A name of more tokens than one is no chunk: nothing is found of it below.
        let nuids = subjects.iter();
        self.candidates.extend(nuids.filter(|nuid| is_nuid(nuid) && (pile_up || !is_record(nuid))).map(str::to_string));
        self.subjects_read += page;
        if page > 0 && self.subjects_read < info.total {
            return self.request_subjects();
        }
        self.stage = CleanupStage::Metas(MetaReader::new(self.exchange.client(), &self.names));
        Ok(())
    }

    /// Whether a record does not replace the one before it: then only the last one stays.
    fn records_pile_up(&self) -> bool {
        !self.names.rollup.get()
    }

    fn read_metas(&mut self, now: Instant) -> Result<Poll<CleanupResult>> {
        while let CleanupStage::Metas(metas) = &mut self.stage {
            match metas.step(now)? {
                MetaEvent::Meta(Some(meta)) => {
                    self.candidates.remove(&meta.nuid);
                }
                MetaEvent::Meta(None) => self.result.unreadable += 1,
                MetaEvent::Restarted => self.result.unreadable = 0,
                MetaEvent::Pending => return Ok(Poll::Pending),
                MetaEvent::End if self.result.unreadable > 0 => return Ok(Poll::Ready(self.result)),
                MetaEvent::End => return self.next_candidate(),
            }
        }
        Ok(Poll::Pending)
    }

    fn next_candidate(&mut self) -> Result<Poll<CleanupResult>> {
        let Some(nuid) = self.candidates.iter().next().cloned() else { return Ok(Poll::Ready(self.result)) };
        self.candidates.remove(&nuid);
        if is_record(&nuid) {
            let question = json!({ "filter": self.names.chunk_subject(&nuid), "keep": 1 });
            self.stage = CleanupStage::PurgeRecords;
            self.exchange.request(PURGED, &self.names.api("STREAM.PURGE"), question.to_string().as_bytes())?;
            return Ok(Poll::Pending);
        }
        let question = api::last_message_request(&self.names.chunk_subject(&nuid));
        self.stage = CleanupStage::Newest(nuid);
        self.exchange.request(NEWEST, &self.names.api("STREAM.MSG.GET"), &question)?;
        Ok(Poll::Pending)
    }

    fn on_newest(&mut self, reply: &Reply) -> Result<Poll<CleanupResult>> {
        let CleanupStage::Newest(nuid) = &self.stage else { return Ok(Poll::Pending) };
        let Some(newest) = api::stored_message(reply)? else { return self.next_candidate() };
        // A time that cannot be read is as good as now.
        let age = Timestamp::parse(&newest.time).map_or(Duration::ZERO, |time| self.now_utc.since(time));
        if age < self.min_age {
            self.result.too_young += 1;
            return self.next_candidate();
        }
        let up_to = newest.seq.saturating_add(1);
        self.stage = CleanupStage::RecheckMetas(OrphanCandidate { nuid: nuid.clone(), up_to });
        self.request_next_meta()
    }

    fn request_next_meta(&mut self) -> Result<Poll<CleanupResult>> {
        let from = self.metas_seen_to.unwrap_or(0).saturating_add(1);
        let question = json!({ "seq": from, "next_by_subj": self.names.all_metas() });
        self.exchange.request(NEXT_META, &self.names.api("STREAM.MSG.GET"), question.to_string().as_bytes())?;
        Ok(Poll::Pending)
    }

    fn on_next_meta(&mut self, reply: &Reply) -> Result<Poll<CleanupResult>> {
        let Some(message) = api::stored_message(reply)? else { return self.purge() };
        self.metas_seen_to = Some(message.seq);
        let json = message.payload().unwrap_or_default();
        let Some(meta) = Meta::parse(&json) else {
            self.result.unreadable += 1;
            return Ok(Poll::Ready(self.result));
        };
        self.candidates.remove(&meta.nuid);
        match &self.stage {
            CleanupStage::RecheckMetas(loose) if loose.nuid == meta.nuid => self.next_candidate(),
            _ => self.request_next_meta(),
        }
    }

    fn purge(&mut self) -> Result<Poll<CleanupResult>> {
        let CleanupStage::RecheckMetas(OrphanCandidate { nuid, up_to }) = &self.stage else { return Ok(Poll::Pending) };
        let question = json!({ "filter": self.names.chunk_subject(nuid), "seq": up_to });
        self.stage = CleanupStage::Purge;
        self.exchange.request(PURGED, &self.names.api("STREAM.PURGE"), question.to_string().as_bytes())?;
        Ok(Poll::Pending)
    }
}

impl OrphanCleanup for NatsCleanup {
    fn poll(&mut self, now: Instant) -> Result<Poll<CleanupResult>> {
        self.step(now).with_context(|| format!("sweep bucket {}", self.names.bucket))
    }
}

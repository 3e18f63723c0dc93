//! Removing orphan chunks: those that no object of the whole bucket refers to, left by writers that died.
//!
//! Chunks carry no prefix, so a sweep touches what other programs left, too. It is therefore careful:
//! * The chunks are listed before the metas: what is stored meanwhile is either not looked at or seen to be referred to.
//! * If one meta cannot be read, nothing is removed: it may refer to anything.
//! * A chunk is removed only if the newest of its nuid is old, for an upload that is going on has no meta yet; and only
//!   up to the message that was looked at.
//! * Before each removal the metas are read that were stored since the chunks were listed: an object that was given another
//!   name keeps its chunks, and where metas are asked for one by one, neither its old nor its new one may have been seen.
//! * What is no name of an upload is left alone: in the question that removes it, it might mean others, too.
//! * Whoever loses the connection begins again.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::api::{self, Patience};
use super::base64;
use super::client::{Client, Mail, Mailbox};
use super::list::{Metas, Step};
use super::object::{Meta, Place, is_nuid};
use crate::error::{Context, Result};
use crate::format::time::Timestamp;
use crate::store::{Sweep, Swept};

const SUBJECTS: u64 = 1;
const NEWEST: u64 = 2;
const PURGED: u64 = 3;
const NEXT_META: u64 = 4;

enum Stage {
    Begin,
    /// Which uploads have chunks; the server tells them page by page.
    Subjects,
    /// Which of them an object refers to.
    Metas(Metas),
    /// The rest, one after another: how old is it?
    Newest(String),
    /// It is old: does an object that came meanwhile refer to it?
    Since(Loose),
    Purge,
}

/// An upload that is old, and the message behind its newest chunk.
struct Loose {
    nuid: String,
    up_to: u64,
}

pub struct NatsSweep {
    place: Rc<Place>,
    mailbox: Mailbox,
    epoch: Option<u64>,
    wall: Timestamp,
    young: Duration,
    stage: Stage,
    /// Uploads that no object is known to refer to.
    loose: HashSet<String>,
    /// Subjects that the server has told so far.
    told: u64,
    /// All metas up to this message were seen.
    seen: Option<u64>,
    swept: Swept,
    patience: Patience,
}

#[derive(Deserialize)]
struct Info {
    state: State,
    #[serde(default)]
    total: u64,
    /// The server's clock; servers before 2.10 do not tell it.
    ts: Option<String>,
}

#[derive(Deserialize)]
struct State {
    last_seq: u64,
    subjects: Option<HashMap<String, IgnoredAny>>,
}

#[derive(Deserialize)]
struct Stored {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    seq: u64,
    time: String,
    #[serde(default)]
    data: String,
}

impl NatsSweep {
    /// `wall` is the time now; what was stored less than `young` before it stays.
    pub fn new(client: &Rc<Client>, place: &Rc<Place>, wall: Timestamp, young: Duration) -> NatsSweep {
        NatsSweep {
            place: place.clone(),
            mailbox: client.open_box(),
            epoch: None,
            wall,
            young,
            stage: Stage::Begin,
            loose: HashSet::new(),
            told: 0,
            seen: None,
            swept: Swept::default(),
            patience: Patience::default(),
        }
    }

    fn step(&mut self, now: Instant) -> Result<Option<Swept>> {
        let epoch = self.mailbox.client.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            self.restart();
        }
        if self.epoch.is_some() && matches!(self.stage, Stage::Begin) {
            self.ask_subjects()?;
        }
        while let Some(mail) = self.mailbox.next() {
            self.patience.progress();
            if let Some(swept) = self.on_mail(&mail)? {
                return Ok(Some(swept));
            }
        }
        if let Stage::Metas(_) = &self.stage {
            return self.read_metas(now);
        }
        self.patience.check(now, &self.mailbox)?;
        Ok(None)
    }

    fn restart(&mut self) {
        self.mailbox = self.mailbox.client.open_box();
        self.stage = Stage::Begin;
        self.loose.clear();
        (self.told, self.seen, self.swept.young) = (0, None, 0);
    }

    fn ask_subjects(&mut self) -> Result<()> {
        self.stage = Stage::Subjects;
        let question = json!({ "subjects_filter": self.place.all_chunks(), "offset": self.told });
        self.mailbox.ask(SUBJECTS, &self.place.api("STREAM.INFO"), question.to_string().as_bytes())
    }

    fn on_mail(&mut self, mail: &Mail) -> Result<Option<Swept>> {
        match (&self.stage, mail.tag) {
            (Stage::Subjects, SUBJECTS) => self.on_subjects(mail).map(|()| None),
            (Stage::Newest(_), NEWEST) => self.on_newest(mail),
            (Stage::Since(_), NEXT_META) => self.on_next_meta(mail),
            (Stage::Purge, PURGED) => {
                api::good::<Value>(mail)?;
                self.swept.removed += 1;
                self.next_loose()
            }
            _ => Ok(None),
        }
    }

    fn on_subjects(&mut self, mail: &Mail) -> Result<()> {
        let info: Info = api::good(mail)?;
        // Of two clocks that differ, the one that makes everything younger holds.
        let server = info.ts.and_then(|ts| Timestamp::parse(&ts).ok());
        self.wall = server.map_or(self.wall, |server| server.min(self.wall));
        self.seen.get_or_insert(info.state.last_seq);
        let subjects = info.state.subjects.unwrap_or_default();
        let page = u64::try_from(subjects.len()).unwrap_or(0);
        let chunks = self.place.chunk_subject("");
        let nuids = subjects.keys().filter_map(|subject| subject.strip_prefix(&chunks));
        self.loose.extend(nuids.filter(|nuid| is_nuid(nuid)).map(str::to_string));
        self.told += page;
        if page > 0 && self.told < info.total {
            return self.ask_subjects();
        }
        self.stage = Stage::Metas(Metas::new(&self.mailbox.client, &self.place));
        Ok(())
    }

    fn read_metas(&mut self, now: Instant) -> Result<Option<Swept>> {
        while let Stage::Metas(metas) = &mut self.stage {
            match metas.step(now)? {
                Step::Meta(Some(meta)) => {
                    self.loose.remove(&meta.nuid);
                }
                Step::Meta(None) => self.swept.unreadable += 1,
                Step::Again => self.swept.unreadable = 0,
                Step::Pending => return Ok(None),
                Step::End if self.swept.unreadable > 0 => return Ok(Some(self.swept)),
                Step::End => return self.next_loose(),
            }
        }
        Ok(None)
    }

    fn next_loose(&mut self) -> Result<Option<Swept>> {
        let Some(nuid) = self.loose.iter().next().cloned() else { return Ok(Some(self.swept)) };
        self.loose.remove(&nuid);
        let question = api::last_message(&self.place.chunk_subject(&nuid));
        self.stage = Stage::Newest(nuid);
        self.mailbox.ask(NEWEST, &self.place.api("STREAM.MSG.GET"), &question)?;
        Ok(None)
    }

    fn on_newest(&mut self, mail: &Mail) -> Result<Option<Swept>> {
        let Stage::Newest(nuid) = &self.stage else { return Ok(None) };
        let stored: Stored = match api::answer(mail)? {
            Ok(stored) => stored,
            Err(refusal) if refusal.err_code == api::NO_MESSAGE => return self.next_loose(),
            Err(refusal) => return Err(refusal.error()),
        };
        // A time that cannot be read is as good as now.
        let age = Timestamp::parse(&stored.message.time).map_or(Duration::ZERO, |time| self.wall.since(time));
        if age < self.young {
            self.swept.young += 1;
            return self.next_loose();
        }
        let up_to = stored.message.seq.saturating_add(1);
        self.stage = Stage::Since(Loose { nuid: nuid.clone(), up_to });
        self.ask_next_meta()
    }

    fn ask_next_meta(&mut self) -> Result<Option<Swept>> {
        let from = self.seen.unwrap_or(0).saturating_add(1);
        let question = json!({ "seq": from, "next_by_subj": self.place.all_metas() });
        self.mailbox.ask(NEXT_META, &self.place.api("STREAM.MSG.GET"), question.to_string().as_bytes())?;
        Ok(None)
    }

    fn on_next_meta(&mut self, mail: &Mail) -> Result<Option<Swept>> {
        let stored: Stored = match api::answer(mail)? {
            Ok(stored) => stored,
            Err(refusal) if refusal.err_code == api::NO_MESSAGE => return self.purge(),
            Err(refusal) => return Err(refusal.error()),
        };
        self.seen = Some(stored.message.seq);
        let json = base64::decode(&stored.message.data).unwrap_or_default();
        let Some(meta) = Meta::parse(&json) else {
            self.swept.unreadable += 1;
            return Ok(Some(self.swept));
        };
        self.loose.remove(&meta.nuid);
        match &self.stage {
            Stage::Since(loose) if loose.nuid == meta.nuid => self.next_loose(),
            _ => self.ask_next_meta(),
        }
    }

    fn purge(&mut self) -> Result<Option<Swept>> {
        let Stage::Since(Loose { nuid, up_to }) = &self.stage else { return Ok(None) };
        let question = json!({ "filter": self.place.chunk_subject(nuid), "seq": up_to });
        self.stage = Stage::Purge;
        self.mailbox.ask(PURGED, &self.place.api("STREAM.PURGE"), question.to_string().as_bytes())?;
        Ok(None)
    }
}

impl Sweep for NatsSweep {
    fn poll(&mut self, now: Instant) -> Result<Option<Swept>> {
        self.step(now).context(|| format!("sweep bucket {}", self.place.bucket))
    }
}

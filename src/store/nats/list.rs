//! Listing a prefix: the meta messages of all objects, from a consumer that we pull from.
//!
//! Where the bucket has replicas, the stream's leader is asked instead (leader.rs): another one may be behind.
//! Names are base64 in the subjects, so the server cannot filter by prefix: a listing reads the metas of the whole bucket.
//! After a lost connection it begins again.
//!
//! Others may write meanwhile. A meta that is replaced before it was delivered comes later, behind what is new: so a listing
//! ends only when the consumer says that nothing is left, not after as many metas as there were at its beginning. A consumer
//! that falls silent or has nothing to give, although it owes something, is not believed: metas that are deleted before they
//! were delivered may make it so for good (servers 2.9), or only for now (with `last_per_subject`, all that we know of). Then
//! the stream's leader is asked.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::api::{self, ProgressTimeout, StartAt};
use super::client::{Client, Inbox, Reply};
use super::leader::LeaderReader;
use super::object::{Meta, ObjectNames};
use crate::error::{Result, ResultExt};
use crate::fault;
use crate::format::listing::{LTX_WARNING, is_ltx_name};
use crate::log;
use crate::store::traffic::Purpose;
use crate::store::{Entry, List, Scan, ScanEvent, ScannedObject, name};

const CREATED: u64 = 1;
const BATCH: u64 = 2;
const GONE: u64 = 3;
const HEARTBEAT: u16 = 100;
/// Metas asked for at once; two batches are on their way.
const BATCH_SIZE: u64 = 2_000;
/// A consumer that owes something answers sooner.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads all metas of a bucket, one after another.
pub struct MetaReader {
    client: Rc<Client>,
    names: Rc<ObjectNames>,
    way: MetaSource,
}

enum MetaSource {
    /// As a consumer delivers them: quick, but from any replica.
    Consumer(ConsumerReader),
    /// As the stream's leader knows them.
    Leader(LeaderReader),
}

impl MetaReader {
    /// A replica that was away may not have the newest ones yet; so where there are replicas, the leader is asked.
    pub fn new(client: &Rc<Client>, place: &Rc<ObjectNames>) -> MetaReader {
        let way = if place.replicated.get() {
            MetaSource::Leader(LeaderReader::new(client, place))
        } else {
            MetaSource::Consumer(ConsumerReader::new(client, place))
        };
        MetaReader { client: client.clone(), names: place.clone(), way }
    }

    pub fn step(&mut self, now: Instant) -> Result<MetaEvent> {
        match &mut self.way {
            MetaSource::Leader(metas) => metas.step(now),
            MetaSource::Consumer(metas) => match metas.step(now)? {
                Some(step) => Ok(step),
                None => {
                    self.way = MetaSource::Leader(LeaderReader::new(&self.client, &self.names));
                    Ok(MetaEvent::Restarted)
                }
            },
        }
    }
}

/// Metas from a consumer.
struct ConsumerReader {
    names: Rc<ObjectNames>,
    inbox: Inbox,
    session: Option<u64>,
    consumer: bool,
    /// The last meta was given out.
    ended: bool,
    /// Metas that the consumer has and that have not come; so many of them were asked for.
    remaining: u64,
    requested: u64,
    /// It said that it has nothing, although it owes something.
    stalled: bool,
    /// When it was last heard.
    last_received: Option<Instant>,
    timeout: ProgressTimeout,
}

/// What comes next of the metas.
pub enum MetaEvent {
    /// A message under the metas' subjects; none if it is no meta.
    Meta(Option<Meta>),
    /// The connection was lost: all that came before is void.
    Restarted,
    Pending,
    End,
}

impl ConsumerReader {
    fn new(client: &Rc<Client>, place: &Rc<ObjectNames>) -> ConsumerReader {
        ConsumerReader {
            names: place.clone(),
            inbox: client.open_inbox(Purpose::Listing),
            session: None,
            consumer: false,
            ended: false,
            remaining: 0,
            requested: 0,
            stalled: false,
            last_received: None,
            timeout: ProgressTimeout::default(),
        }
    }

    /// None: the consumer is not to be believed.
    fn step(&mut self, now: Instant) -> Result<Option<MetaEvent>> {
        let epoch = self.inbox.client.session();
        if epoch != self.session {
            self.session = epoch;
            self.restart()?;
            return Ok(Some(MetaEvent::Restarted));
        }
        while !self.ended
            && let Some(mail) = self.inbox.next()
        {
            self.timeout.reset();
            self.last_received = Some(now);
            if let Some(step) = self.on_reply(&mail)? {
                return Ok(Some(step));
            }
        }
        if self.ended {
            return Ok(Some(MetaEvent::End));
        }
        let quiet = STALL_TIMEOUT.min(self.inbox.client.timeout() / 2);
        if self.stalled || self.last_received.is_some_and(|heard| now.saturating_duration_since(heard) > quiet) {
            return Ok(None);
        }
        self.timeout.check(now, &self.inbox)?;
        Ok(Some(MetaEvent::Pending))
    }

    fn restart(&mut self) -> Result<()> {
        self.inbox = self.inbox.fresh();
        self.last_received = None;
        (self.ended, self.stalled, self.consumer) = (false, false, self.session.is_some());
        (self.remaining, self.requested) = (0, 0);
        if self.session.is_none() {
            return Ok(());
        }
        let filter = self.names.all_metas();
        let (subject, request) = api::new_consumer_request(&self.names, &self.inbox.consumer(), &filter, StartAt::All);
        self.inbox.request(CREATED, &subject, &request)
    }

    fn on_reply(&mut self, mail: &Reply) -> Result<Option<MetaEvent>> {
        match (mail.tag, mail.delivery) {
            (CREATED, None) => {
                let consumer: api::Consumer = api::parse_success(mail)?;
                self.remaining = consumer.num_pending;
                self.ended = self.remaining == 0;
                self.prefetch()?;
            }
            (_, Some(origin)) => {
                self.remaining = origin.pending;
                self.requested = self.requested.saturating_sub(1);
                self.ended = self.remaining == 0;
                self.prefetch()?;
                return Ok(Some(MetaEvent::Meta(Meta::parse(&mail.data))));
            }
            (BATCH, None) if mail.status != Some(HEARTBEAT) => self.stalled = true,
            _ => {}
        }
        Ok(None)
    }

    fn prefetch(&mut self) -> Result<()> {
        let unasked = self.remaining.saturating_sub(self.requested);
        if self.ended || unasked == 0 || self.requested > BATCH_SIZE {
            return Ok(());
        }
        fault::point("list.ask")?;
        let batch = unasked.min(BATCH_SIZE);
        let (subject, request) = api::next_request(&self.names, &self.inbox.consumer(), batch);
        self.requested += batch;
        self.inbox.request(BATCH, &subject, &request)?;
        self.prefetch()
    }
}

impl Drop for ConsumerReader {
    fn drop(&mut self) {
        if self.consumer {
            // Best effort: the server removes it by itself, later.
            let _ = self.inbox.request(GONE, &api::delete_consumer_request(&self.names, &self.inbox.consumer()), b"");
        }
    }
}

/// What a meta says of a name.
struct ListedObject {
    entry: Entry,
    /// It is an object, not a mark that there was one, or a link.
    object: bool,
    description: Option<String>,
}

/// What comes next of the names below a prefix.
enum ListEvent {
    Listed(ListedObject),
    Restarted,
    Pending,
    End,
}

/// The names below a prefix, one after another.
pub struct NatsScan {
    names: Rc<ObjectNames>,
    prefix: String,
    metas: MetaReader,
    ltx: Rc<Cell<bool>>,
}

impl NatsScan {
    /// `ltx` is set once it was said that the bucket holds files of the peer.
    pub fn new(client: &Rc<Client>, place: &Rc<ObjectNames>, prefix: &str, ltx: &Rc<Cell<bool>>) -> NatsScan {
        let metas = MetaReader::new(client, place);
        NatsScan { names: place.clone(), prefix: prefix.to_string(), metas, ltx: ltx.clone() }
    }

    fn next(&mut self, now: Instant) -> Result<ListEvent> {
        loop {
            match self.metas.step(now)? {
                MetaEvent::Meta(meta) => {
                    if let Some(listed) = meta.and_then(|meta| self.on_meta(meta)) {
                        return Ok(ListEvent::Listed(listed));
                    }
                }
                MetaEvent::Restarted => return Ok(ListEvent::Restarted),
                MetaEvent::Pending => return Ok(ListEvent::Pending),
                MetaEvent::End => return Ok(ListEvent::End),
            }
        }
    }

    /// Whatever is not ours is passed over.
    fn on_meta(&mut self, meta: Meta) -> Option<ListedObject> {
        let object = !meta.deleted && !meta.link;
        if object && is_ltx_name(&meta.name) && !self.ltx.replace(true) {
            log::warn("objects of another program ignored")
                .field("bucket", &self.names.bucket)
                .field("such_as", &meta.name)
                .field("detail", LTX_WARNING)
                .emit();
        }
        let name = self.names.strip_prefix(&meta.name).filter(|name| name.starts_with(&self.prefix))?;
        let ours = name::validate(name).is_ok();
        let entry = Entry { name: name.to_string(), size: meta.size };
        ours.then_some(ListedObject { entry, object, description: meta.description })
    }

    fn error_context(&self) -> String {
        format!("list {}/{}", self.names.bucket, self.names.with_prefix(&self.prefix))
    }
}

impl Scan for NatsScan {
    fn poll(&mut self, now: Instant) -> Result<ScanEvent> {
        loop {
            match self.next(now).context(|| self.error_context())? {
                ListEvent::Listed(ListedObject { entry, object: true, description }) => {
                    return Ok(ScanEvent::Object(ScannedObject { entry, description }));
                }
                // It was deleted; what came of it before, if it was deleted just now, stays given.
                ListEvent::Listed(_) => {}
                ListEvent::Restarted => return Ok(ScanEvent::Restarted),
                ListEvent::Pending => return Ok(ScanEvent::Pending),
                ListEvent::End => return Ok(ScanEvent::End),
            }
        }
    }
}

pub struct NatsList {
    scan: NatsScan,
    found: Vec<ListedObject>,
}

impl NatsList {
    pub fn new(scan: NatsScan) -> NatsList {
        NatsList { scan, found: Vec::new() }
    }

    fn step(&mut self, now: Instant) -> Result<Option<Vec<Entry>>> {
        loop {
            match self.scan.next(now)? {
                ListEvent::Listed(listed) => self.found.push(ListedObject { description: None, ..listed }),
                ListEvent::Restarted => self.found.clear(),
                ListEvent::Pending => return Ok(None),
                ListEvent::End => return Ok(Some(self.sorted())),
            }
        }
    }

    /// One that was replaced while we listed may have come twice: the later one holds.
    fn sorted(&mut self) -> Vec<Entry> {
        let mut found = std::mem::take(&mut self.found);
        found.reverse();
        found.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
        found.dedup_by(|b, a| a.entry.name == b.entry.name);
        found.into_iter().filter(|found| found.object).map(|found| found.entry).collect()
    }
}

impl List for NatsList {
    fn poll(&mut self, now: Instant) -> Result<Option<Vec<Entry>>> {
        self.step(now).context(|| self.scan.error_context())
    }
}

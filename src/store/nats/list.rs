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

use super::api::{self, Begin, Patience};
use super::client::{Client, Mail, Mailbox};
use super::leader::Led;
use super::object::{Meta, Place};
use crate::error::{Context, Result};
use crate::fault;
use crate::format::listing::{LTX, is_ltx};
use crate::log;
use crate::store::{Entry, List, name};

const CREATED: u64 = 1;
const BATCH: u64 = 2;
const GONE: u64 = 3;
const HEARTBEAT: u16 = 100;
/// Metas asked for at once; two batches are on their way.
const A_BATCH: u64 = 2_000;
/// A consumer that owes something answers sooner.
const QUIET: Duration = Duration::from_secs(2);

/// Reads all metas of a bucket, one after another.
pub struct Metas {
    client: Rc<Client>,
    place: Rc<Place>,
    way: Way,
}

enum Way {
    /// As a consumer delivers them: quick, but from any replica.
    Delivered(Delivered),
    /// As the stream's leader knows them.
    Led(Led),
}

impl Metas {
    /// A replica that was away may not have the newest ones yet; so where there are replicas, the leader is asked.
    pub fn new(client: &Rc<Client>, place: &Rc<Place>) -> Metas {
        let way = if place.replicated.get() {
            Way::Led(Led::new(client, place))
        } else {
            Way::Delivered(Delivered::new(client, place))
        };
        Metas { client: client.clone(), place: place.clone(), way }
    }

    pub fn step(&mut self, now: Instant) -> Result<Step> {
        match &mut self.way {
            Way::Led(metas) => metas.step(now),
            Way::Delivered(metas) => match metas.step(now)? {
                Some(step) => Ok(step),
                None => {
                    self.way = Way::Led(Led::new(&self.client, &self.place));
                    Ok(Step::Again)
                }
            },
        }
    }
}

/// Metas from a consumer.
struct Delivered {
    place: Rc<Place>,
    mailbox: Mailbox,
    epoch: Option<u64>,
    consumer: bool,
    /// The last meta was given out.
    ended: bool,
    /// Metas that the consumer has and that have not come; so many of them were asked for.
    left: u64,
    ahead: u64,
    /// It said that it has nothing, although it owes something.
    doubtful: bool,
    /// When it was last heard.
    heard: Option<Instant>,
    patience: Patience,
}

/// What comes next of the metas.
pub enum Step {
    /// A message under the metas' subjects; none if it is no meta.
    Meta(Option<Meta>),
    /// The connection was lost: all that came before is void.
    Again,
    Pending,
    End,
}

impl Delivered {
    fn new(client: &Rc<Client>, place: &Rc<Place>) -> Delivered {
        Delivered {
            place: place.clone(),
            mailbox: client.open_box(),
            epoch: None,
            consumer: false,
            ended: false,
            left: 0,
            ahead: 0,
            doubtful: false,
            heard: None,
            patience: Patience::default(),
        }
    }

    /// None: the consumer is not to be believed.
    fn step(&mut self, now: Instant) -> Result<Option<Step>> {
        let epoch = self.mailbox.client.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            self.restart()?;
            return Ok(Some(Step::Again));
        }
        while !self.ended
            && let Some(mail) = self.mailbox.next()
        {
            self.patience.progress();
            self.heard = Some(now);
            if let Some(step) = self.on_mail(&mail)? {
                return Ok(Some(step));
            }
        }
        if self.ended {
            return Ok(Some(Step::End));
        }
        let quiet = QUIET.min(self.mailbox.client.timeout() / 2);
        if self.doubtful || self.heard.is_some_and(|heard| now.saturating_duration_since(heard) > quiet) {
            return Ok(None);
        }
        self.patience.check(now, &self.mailbox)?;
        Ok(Some(Step::Pending))
    }

    fn restart(&mut self) -> Result<()> {
        self.mailbox = self.mailbox.client.open_box();
        self.heard = None;
        (self.ended, self.doubtful, self.consumer) = (false, false, self.epoch.is_some());
        (self.left, self.ahead) = (0, 0);
        if self.epoch.is_none() {
            return Ok(());
        }
        let filter = self.place.all_metas();
        let (subject, request) = api::new_consumer(&self.place, &self.mailbox.token, &filter, Begin::All);
        self.mailbox.ask(CREATED, &subject, &request)
    }

    fn on_mail(&mut self, mail: &Mail) -> Result<Option<Step>> {
        match (mail.tag, mail.origin) {
            (CREATED, None) => {
                let consumer: api::Consumer = api::good(mail)?;
                self.left = consumer.num_pending;
                self.ended = self.left == 0;
                self.ask_ahead()?;
            }
            (_, Some(origin)) => {
                self.left = origin.pending;
                self.ahead = self.ahead.saturating_sub(1);
                self.ended = self.left == 0;
                self.ask_ahead()?;
                return Ok(Some(Step::Meta(Meta::parse(&mail.data))));
            }
            (BATCH, None) if mail.status != Some(HEARTBEAT) => self.doubtful = true,
            _ => {}
        }
        Ok(None)
    }

    fn ask_ahead(&mut self) -> Result<()> {
        let unasked = self.left.saturating_sub(self.ahead);
        if self.ended || unasked == 0 || self.ahead > A_BATCH {
            return Ok(());
        }
        fault::point("list.ask")?;
        let batch = unasked.min(A_BATCH);
        let (subject, request) = api::next(&self.place, &self.mailbox.token, batch);
        self.ahead += batch;
        self.mailbox.ask(BATCH, &subject, &request)?;
        self.ask_ahead()
    }
}

impl Drop for Delivered {
    fn drop(&mut self) {
        if self.consumer {
            // Best effort: the server removes it by itself, later.
            let _ = self.mailbox.ask(GONE, &api::delete_consumer(&self.place, &self.mailbox.token), b"");
        }
    }
}

/// What a meta says of a name.
struct Found {
    entry: Entry,
    /// It is an object, not a mark that there was one, or a link.
    object: bool,
}

pub struct NatsList {
    place: Rc<Place>,
    prefix: String,
    metas: Metas,
    found: Vec<Found>,
    ltx: Rc<Cell<bool>>,
}

impl NatsList {
    /// `ltx` is set once it was said that the bucket holds files of the peer.
    pub fn new(client: &Rc<Client>, place: &Rc<Place>, prefix: &str, ltx: &Rc<Cell<bool>>) -> NatsList {
        let metas = Metas::new(client, place);
        NatsList { place: place.clone(), prefix: prefix.to_string(), metas, found: Vec::new(), ltx: ltx.clone() }
    }

    /// Whatever is not ours is passed over.
    fn keep(&mut self, meta: &Meta) {
        let object = !meta.deleted && !meta.link;
        if object && is_ltx(&meta.name) && !self.ltx.replace(true) {
            log::warn(LTX).field("bucket", &self.place.bucket).field("such_as", &meta.name).emit();
        }
        if let Some(name) = self.place.own_name(&meta.name)
            && name.starts_with(&self.prefix)
            && name::check(name).is_ok()
        {
            self.found.push(Found { entry: Entry { name: name.to_string(), size: meta.size }, object });
        }
    }

    fn step(&mut self, now: Instant) -> Result<Option<Vec<Entry>>> {
        loop {
            match self.metas.step(now)? {
                Step::Meta(meta) => meta.iter().for_each(|meta| self.keep(meta)),
                Step::Again => self.found.clear(),
                Step::Pending => return Ok(None),
                Step::End => return Ok(Some(self.sorted())),
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
        self.step(now).context(|| format!("list {}/{}", self.place.bucket, self.place.with_prefix(&self.prefix)))
    }
}

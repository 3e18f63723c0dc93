//! A prefix of a JetStream Object Store bucket. The only user of the `nats` crate.
//!
//! ```text
//! put get list delete ──> client ──> nats crate ──> loopback ──> link ──> server
//!  ADR-20, api             mailboxes   login, protocol             TLS, deadlines, reconnect
//! ```
//!
//! The crate is used for its login, its protocol and its subscription. What it does in TLS, time-outs, acknowledgements
//! and its own object store is done here instead, for there it hangs or reports failures as success.

#![allow(deprecated, reason = "the crate is fixed by the brief, and says of every item that it is deprecated")]

mod api;
mod auth;
mod base64;
mod bucket;
mod chore;
mod claim;
mod client;
mod delete;
mod flight;
mod get;
pub mod key_pair;
mod leader;
mod link;
mod list;
pub mod nkey;
mod object;
pub mod options;
mod presence;
mod put;
mod sweep;
mod window;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bucket::Check;
use client::Client;
use object::Place;
use options::Options;
use sweep::NatsSweep;

use super::{Claim, Delete, Get, Holder, List, Presence, Put, Store, Sweep};
use crate::error::{Context, Error, Kind, Result};
use crate::format::time::Timestamp;
use crate::log;

/// The connections of this process, each with what it was opened for.
#[derive(Default)]
pub struct Clients(Vec<(Options, Weak<Client>)>);

impl Clients {
    /// The connection for `options`: one that is there already, if it differs only in bucket and prefix.
    fn get(&mut self, options: &Options) -> Result<Rc<Client>> {
        let key = Options { bucket: String::new(), prefix: String::new(), must_keep: None, ..options.clone() };
        self.0.retain(|(_, client)| client.strong_count() > 0);
        let known = self.0.iter().find(|(known, _)| *known == key).and_then(|(_, client)| client.upgrade());
        if let Some(client) = known {
            return Ok(client);
        }
        let client = Client::new(&key)?;
        self.0.push((key, Rc::downgrade(&client)));
        Ok(client)
    }
}

/// Bytes of the longest prefix. A server takes lines of 4096 bytes (max_control_line, server/const.go of nats-server); in one
/// of them are the subject of an object, which is its full name in base64, and an inbox.
const MAX_PREFIX: usize = 2560;

fn check_prefix(prefix: &str) -> Result<()> {
    if prefix.len() <= MAX_PREFIX {
        return Ok(());
    }
    let what = format!("expected a prefix of at most {MAX_PREFIX} bytes, found {}", prefix.len());
    Err(Error::new(Kind::Usage, what).with_hint("the subjects of its objects would be longer than a server takes"))
}

/// One prefix of one bucket.
pub struct NatsStore {
    client: Rc<Client>,
    place: Rc<Place>,
    options: Options,
    url: String,
    bucket: RefCell<BucketState>,
    looked: Cell<Looked>,
    /// When the bucket was made, and how many of them there have been.
    created: RefCell<String>,
    incarnation: Rc<Cell<u64>>,
    /// Failures of the connection that were told already.
    told: Cell<u64>,
    /// It was said that there are LTX files in the bucket.
    ltx: Rc<Cell<bool>>,
}

enum BucketState {
    Unknown,
    Checking(Check),
    There(bucket::Found),
}

/// When the bucket was last looked at.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Looked {
    epoch: Option<u64>,
    doubts: u64,
}

impl NatsStore {
    /// Opens a store; nothing is contacted before [`Store::connect`].
    ///
    /// Errors: of kind `Store`, if the login cannot be used.
    pub fn open(options: &Options, clients: &mut Clients) -> Result<NatsStore> {
        let url = url(options);
        check_prefix(&options.prefix).context(|| format!("open {url}"))?;
        let client = clients.get(options).context(|| format!("open {url}"))?;
        let place = Rc::new(Place::new(&options.bucket, &options.prefix));
        let (bucket, told, ltx) = (RefCell::new(BucketState::Unknown), Cell::new(0), Rc::default());
        let (looked, created, incarnation) = (Cell::default(), RefCell::default(), Rc::default());
        let options = options.clone();
        Ok(NatsStore { client, place, options, url, bucket, looked, created, incarnation, told, ltx })
    }

    /// What the operator should know of the bucket, once connected.
    pub fn warnings(&self) -> Vec<String> {
        match &*self.bucket.borrow() {
            BucketState::There(found) => found.warnings.clone(),
            _ => Vec::new(),
        }
    }

    /// Begins to remove the chunks that no object of the bucket refers to and that are older than `young` at `wall`.
    pub fn sweep(&self, wall: Timestamp, young: Duration) -> NatsSweep {
        NatsSweep::new(&self.client, &self.place, wall, young)
    }

    /// Looks again after each reconnect and each failed put, for it may have been deleted and made anew.
    fn check_bucket(&self, now: Instant) -> Result<bool> {
        let state = &mut *self.bucket.borrow_mut();
        let looked = Looked { epoch: self.client.epoch(), doubts: self.client.doubts.get() };
        if matches!(state, BucketState::There(_)) && looked != self.looked.get() {
            *state = BucketState::Unknown;
        }
        if matches!(state, BucketState::Unknown) {
            self.looked.set(looked);
            *state = BucketState::Checking(Check::new(&self.client, &self.place, &self.options));
        }
        let BucketState::Checking(check) = state else { return Ok(true) };
        match check.poll(now) {
            Ok(None) => Ok(false),
            Ok(Some(found)) => {
                if *self.created.borrow() != found.created {
                    self.greet(&found);
                }
                *state = BucketState::There(found);
                Ok(true)
            }
            Err(e) => {
                *state = BucketState::Unknown;
                Err(e)
            }
        }
    }
}

impl NatsStore {
    /// A bucket that was not there before.
    fn greet(&self, found: &bucket::Found) {
        for warning in &found.warnings {
            log::warn(warning).field("store", &self.url).emit();
        }
        self.created.replace(found.created.clone());
        self.incarnation.set(self.incarnation.get() + 1);
    }
}

/// `nats://host:port,…/bucket/prefix`: no login in it.
fn url(options: &Options) -> String {
    let scheme = if options.tls.wanted { "tls" } else { "nats" };
    let servers: Vec<String> = options.servers.iter().map(link::address).collect();
    let slash = if options.prefix.is_empty() { "" } else { "/" };
    format!("{scheme}://{}/{}{slash}{}", servers.join(","), options.bucket, options.prefix)
}

impl Store for NatsStore {
    fn url(&self) -> &str {
        &self.url
    }

    fn connect(&self, now: Instant) -> Result<bool> {
        self.client.check_alone(&self.place).context(|| self.url.clone())?;
        Ok(self.client.connect(now, &self.told)? && self.check_bucket(now)?)
    }

    fn put(&self, name: &str) -> Box<dyn Put> {
        Box::new(put::NatsPut::new(&self.client, &self.place, name))
    }

    fn get(&self, name: &str) -> Box<dyn Get> {
        Box::new(get::NatsGet::new(&self.client, &self.place, name))
    }

    fn list(&self, prefix: &str) -> Box<dyn List> {
        Box::new(list::NatsList::new(&self.client, &self.place, prefix, &self.ltx))
    }

    fn delete(&self, names: Vec<String>) -> Box<dyn Delete> {
        Box::new(delete::NatsDelete::new(&self.client, &self.place, names))
    }

    fn presence(&self, names: Vec<String>) -> Box<dyn Presence> {
        Box::new(presence::NatsPresence::new(&self.client, &self.place, names))
    }

    fn claim(&self, holder: &Holder) -> Box<dyn Claim> {
        // Buckets of one name in different domains or clusters may share their subjects, but not the moment they were made.
        let place = format!("{}/{}", self.created.borrow(), self.options.prefix);
        let incarnation = self.incarnation.clone();
        Box::new(claim::NatsClaim::new(&self.client, incarnation, &self.options.bucket, &place, &self.url, holder))
    }

    fn sweep(&self, wall: Timestamp, young: Duration) -> Option<Box<dyn Sweep>> {
        let due = self.client.sweep_is_due(&self.options.bucket, wall);
        due.then(|| Box::new(NatsStore::sweep(self, wall, young)) as Box<dyn Sweep>)
    }

    fn wait(&self, timeout: Duration) {
        self.client.wait(timeout);
    }
}

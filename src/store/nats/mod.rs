//! A prefix of a JetStream Object Store bucket. The only user of the `nats` crate.
//!
//! ```text
//! put get list delete ──> client ──> nats crate ──> loopback ──> link ──> server
//!  ADR-20, api             replies     login, protocol             TLS, deadlines, reconnect
//! ```
//!
//! The crate is used for its login, its protocol and its subscription. What it does in TLS, time-outs, acknowledgements
//! and its own object store is done here instead, for there it hangs or reports failures as success.

#![allow(deprecated, reason = "the crate is fixed by the brief, and says of every item that it is deprecated")]

mod abandoned_put;
mod api;
mod auth;
mod base64;
mod bucket;
mod chunk_counts;
mod cleanups;
mod client;
mod congestion;
mod connection;
mod delete;
mod duplicate_streams;
mod exchange;
mod fence;
mod get;
mod in_flight;
mod inbox;
pub mod key_pair;
mod lease_subjects;
mod list;
mod metas;
mod micro;
pub mod nkey;
mod object;
pub mod options;
mod orphan_cleanup;
mod own_objects;
mod pause;
mod presence;
mod progress_timeout;
mod proxy;
mod put;
mod put_chunks;
mod read_cuts;
mod refusals;
mod reply;
mod routing;
mod service;
mod service_query;
mod shared_listing;
mod stream_info;
mod subject;
mod watch;
mod writer_info;
mod writer_lease;
mod writer_query;
mod writer_record;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bucket::BucketCheck;
use client::Client;
use fence::Fence;
use lease_subjects::LeaseSubjects;
use object::ObjectNames;
use options::NatsOptions;
use orphan_cleanup::NatsCleanup;
use proxy::TrafficCounters;
use service::{Describe, ServiceListener};
use shared_listing::SharedListing;
use writer_lease::NatsLease;
use writer_record::WriterRecord;

use super::{
    Delete, FindWriters, Get, LeaseHolder, List, OrphanCleanup, Presence, Put, Scan, Store, Watch, WriterLease,
};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::time::Timestamp;
use crate::log;
use crate::store::service::{Endpoint, Question, RequestError, ServiceRequest};
use crate::store::traffic::Traffic;
use crate::wakeup::Waker;

/// The connections of this process, each with what it was opened for.
#[derive(Default)]
pub struct ClientCache {
    clients: Vec<CachedClient>,
    /// What those have carried that are closed, by the servers that they were to.
    closed: BTreeMap<String, Traffic>,
    /// The listings of each bucket, by the connection and the stream.
    listings: BTreeMap<(String, String), Weak<RefCell<SharedListing>>>,
    /// What hears requests of others; none while nobody listens.
    service: Option<ServiceListeners>,
}

struct CachedClient {
    options: NatsOptions,
    client: Weak<Client>,
    traffic: TrafficCounters,
}

/// The program as a service, on each of its connections.
struct ServiceListeners {
    waker: Waker,
    started: Timestamp,
    listeners: Vec<ServiceListener>,
}

impl ClientCache {
    /// What all connections have carried, by the servers that they are or were to.
    pub fn traffic(&self) -> BTreeMap<String, Traffic> {
        let mut links = self.closed.clone();
        self.clients.iter().for_each(|client| add_traffic(&mut links, client));
        links
    }

    /// The connection for `options`: one that is there already, if it differs only in bucket and prefix.
    fn get(&mut self, options: &NatsOptions) -> Result<Rc<Client>> {
        let key = NatsOptions { bucket: String::new(), prefix: String::new(), must_keep: None, ..options.clone() };
        let (open, closed) = self.clients.drain(..).partition(|cached| cached.client.strong_count() > 0);
        self.clients = open;
        let closed: Vec<CachedClient> = closed;
        closed.iter().for_each(|client| add_traffic(&mut self.closed, client));
        let known = self.clients.iter().find(|known| known.options == key).and_then(|known| known.client.upgrade());
        if let Some(client) = known {
            return Ok(client);
        }
        let client = Client::new(&key, self.service.as_ref().map(|service| service.waker.clone()))?;
        let traffic = client.traffic_counters();
        self.clients.push(CachedClient { options: key, client: Rc::downgrade(&client), traffic });
        if let Some(ServiceListeners { started, listeners, .. }) = &mut self.service {
            listeners.retain(ServiceListener::is_alive);
            listeners.push(ServiceListener::new(&client, *started));
        }
        Ok(client)
    }

    /// The listings of a bucket, which read its metas together.
    fn shared_listing(&mut self, client: &Client, names: &ObjectNames) -> Rc<RefCell<SharedListing>> {
        self.listings.retain(|_, listing| listing.strong_count() > 0);
        let key = (client.id().to_string(), names.api("STREAM.INFO"));
        let known = self.listings.get(&key).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let listing = Rc::default();
            self.listings.insert(key, Rc::downgrade(&listing));
            listing
        })
    }

    pub fn listen(&mut self, waker: Waker, started: Timestamp) {
        self.service = Some(ServiceListeners { waker, started, listeners: Vec::new() });
    }

    pub fn stop_listening(&mut self) {
        self.service = None;
    }

    pub fn requests(&mut self, now: Instant, describe: Describe<'_>) -> Vec<ServiceRequest> {
        let listeners = self.service.iter_mut().flat_map(|service| &mut service.listeners);
        listeners.flat_map(|listener| listener.poll(now, describe)).collect()
    }

    pub fn answer(
        &mut self,
        now: Instant,
        request: &ServiceRequest,
        answer: std::result::Result<String, RequestError>,
    ) {
        let mut listeners = self.service.iter_mut().flat_map(|service| &mut service.listeners);
        if let Some(listener) = listeners.find(|listener| listener.id() == request.connection) {
            listener.answer(now, request, answer);
        }
    }
}

fn add_traffic(links: &mut BTreeMap<String, Traffic>, client: &CachedClient) {
    let traffic = links.entry(servers(&client.options)).or_default();
    *traffic = traffic.and(client.traffic.read());
}

/// Bytes of the longest prefix. A server takes lines of 4096 bytes (max_control_line, server/const.go of nats-server); in one
/// of them are the subject of an object, which is its full name in base64, and an inbox.
const MAX_PREFIX: usize = 2560;

/// Errors: of kind `Usage`, if it is longer than a server takes.
pub fn check_prefix(prefix: &str) -> Result<()> {
    if prefix.len() <= MAX_PREFIX {
        return Ok(());
    }
    let what = format!("expected a prefix of at most {MAX_PREFIX} bytes, found {}", prefix.len());
    Err(Error::new(Kind::Usage, what).with_hint("the subjects of its objects would be longer than a server allows"))
}

/// One prefix of one bucket.
pub struct NatsStore {
    client: Rc<Client>,
    names: Rc<ObjectNames>,
    fence: Rc<Fence>,
    listing: Rc<RefCell<SharedListing>>,
    options: NatsOptions,
    url: String,
    bucket: RefCell<BucketState>,
    checked_at: Cell<CheckedAt>,
    /// When the bucket was made, and how many of them there have been.
    created: RefCell<String>,
    bucket_incarnation: Rc<Cell<u64>>,
    /// Failures of the connection that were told already.
    last_logged: Cell<u64>,
    /// It was said that there are LTX files in the bucket.
    ltx: Rc<Cell<bool>>,
}

enum BucketState {
    Unknown,
    Checking(BucketCheck),
    Ready(bucket::BucketInfo),
}

/// When the bucket was last looked at.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct CheckedAt {
    session: Option<u64>,
    failed_puts: u64,
}

impl NatsStore {
    /// Opens a store; nothing is contacted before [`Store::connect`].
    ///
    /// Errors: of kind `StoreRefused`, if the login cannot be used.
    pub fn open(options: &NatsOptions, clients: &mut ClientCache) -> Result<NatsStore> {
        let url = url(options);
        check_prefix(&options.prefix).with_context(|| format!("open {url}"))?;
        let client = clients.get(options).with_context(|| format!("open {url}"))?;
        let names = ObjectNames::new(&options.bucket, &options.prefix).with_api_prefix(&options.api_prefix);
        let names = Rc::new(names);
        let listing = clients.shared_listing(&client, &names);
        let (bucket, told, ltx) = (RefCell::new(BucketState::Unknown), Cell::new(0), Rc::default());
        let (looked, created, incarnation) = (Cell::default(), RefCell::default(), Rc::default());
        let options = options.clone();
        Ok(NatsStore {
            client,
            names,
            fence: Rc::default(),
            listing,
            options,
            url,
            bucket,
            checked_at: looked,
            created,
            bucket_incarnation: incarnation,
            last_logged: told,
            ltx,
        })
    }

    /// What the operator should know of the bucket, once connected.
    pub fn warnings(&self) -> Vec<String> {
        match &*self.bucket.borrow() {
            BucketState::Ready(found) => found.warnings.clone(),
            _ => Vec::new(),
        }
    }

    /// Begins to remove the chunks that no object of the bucket refers to and that are older than `young` at `wall`.
    pub fn start_cleanup(&self, now_utc: Timestamp, young: Duration) -> NatsCleanup {
        NatsCleanup::new(&self.client, &self.names, now_utc, young)
    }

    /// Looks again after each reconnect and each failed put, for it may have been deleted and made again.
    fn check_bucket(&self, now: Instant) -> Result<bool> {
        let state = &mut *self.bucket.borrow_mut();
        let looked = CheckedAt { session: self.client.session(), failed_puts: self.client.failed_puts.get() };
        if matches!(state, BucketState::Ready(_)) && looked != self.checked_at.get() {
            *state = BucketState::Unknown;
        }
        if matches!(state, BucketState::Unknown) {
            self.checked_at.set(looked);
            *state = BucketState::Checking(BucketCheck::new(&self.client, &self.names, &self.options));
        }
        let BucketState::Checking(check) = state else { return Ok(true) };
        match check.poll(now) {
            Ok(None) => Ok(false),
            Ok(Some(found)) => {
                if *self.created.borrow() != found.created {
                    self.on_new_bucket(&found);
                }
                *state = BucketState::Ready(found);
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
    /// As of the bucket that is there now.
    fn lease_subjects(&self) -> LeaseSubjects {
        let NatsOptions { bucket, prefix, .. } = &self.options;
        LeaseSubjects { bucket: bucket.clone(), created: self.created.borrow().clone(), prefix: prefix.clone() }
    }

    /// A bucket that was not there before.
    fn on_new_bucket(&self, found: &bucket::BucketInfo) {
        for warning in &found.warnings {
            log::warn("bucket settings").field("store", &self.url).field("detail", warning).emit();
        }
        self.created.replace(found.created.clone());
        self.client.own_objects.borrow_mut().clear();
        self.bucket_incarnation.set(self.bucket_incarnation.get() + 1);
    }
}

/// `nats://host:port,…/bucket/prefix`: no login in it.
fn url(options: &NatsOptions) -> String {
    let scheme = if options.tls.required { "tls" } else { "nats" };
    let slash = if options.prefix.is_empty() { "" } else { "/" };
    let query = options.url_query();
    format!("{scheme}://{}/{}{slash}{}{query}", servers(options), options.bucket, options.prefix)
}

fn servers(options: &NatsOptions) -> String {
    options.servers.iter().map(proxy::address).collect::<Vec<_>>().join(",")
}

impl Store for NatsStore {
    fn url(&self) -> &str {
        &self.url
    }

    fn connect(&self, now: Instant) -> Result<bool> {
        self.client.duplicates.borrow().check(&self.names).with_context(|| self.url.clone())?;
        Ok(self.client.connect(now, &self.last_logged)? && self.check_bucket(now)?)
    }

    fn put(&self, name: &str) -> Box<dyn Put> {
        Box::new(put::NatsPut::new(&self.client, &self.names, &self.fence, name))
    }

    fn get(&self, name: &str) -> Box<dyn Get> {
        Box::new(get::NatsGet::new(&self.client, &self.names, name))
    }

    fn list(&self, prefix: &str) -> Box<dyn List> {
        Box::new(list::NatsList::new((&self.client, &self.listing), &self.names, (prefix, false), &self.ltx))
    }

    fn list_whole(&self, prefix: &str) -> Box<dyn List> {
        Box::new(list::NatsList::new((&self.client, &self.listing), &self.names, (prefix, true), &self.ltx))
    }

    fn scan(&self) -> Box<dyn Scan> {
        Box::new(list::NatsScan::new(&self.client, &self.names, &self.ltx))
    }

    fn delete(&self, names: Vec<String>) -> Box<dyn Delete> {
        Box::new(delete::NatsDelete::new(&self.client, &self.names, names))
    }

    fn presence(&self, names: Vec<String>) -> Box<dyn Presence> {
        Box::new(presence::NatsPresence::new(&self.client, &self.names, names))
    }

    fn acquire_lease(&self, holder: &LeaseHolder) -> Box<dyn WriterLease> {
        let incarnation = self.bucket_incarnation.clone();
        let subject = self.lease_subjects().below("");
        let own = writer_lease::own_info(&self.client, holder);
        let stored = writer_lease::stored_info(&own, holder);
        let record = WriterRecord::new(&self.client, &self.names, &self.fence, stored);
        Box::new(NatsLease::new(&self.client, incarnation, subject, &self.url, (own, holder.takeover), record))
    }

    fn find_writers(&self) -> Box<dyn FindWriters> {
        Box::new(writer_query::WriterQuery::new(&self.client, &self.url, self.lease_subjects()))
    }

    fn clean_orphans(&self, now_utc: Timestamp, young: Duration) -> Option<Box<dyn OrphanCleanup>> {
        let due = self.client.cleanups.sweep_is_due(&self.options.bucket, now_utc);
        due.then(|| Box::new(NatsStore::start_cleanup(self, now_utc, young)) as Box<dyn OrphanCleanup>)
    }

    fn connection(&self) -> Option<&str> {
        Some(self.client.id())
    }

    fn query_service(&self, id: &str, endpoint: Endpoint, payload: &str) -> Option<Box<dyn Question>> {
        Some(Box::new(service_query::ServiceQuery::new(&self.client, id, endpoint, payload)))
    }

    fn watch(&self, now: Instant) -> Option<Box<dyn Watch>> {
        Some(Box::new(watch::NatsWatch::new(&self.client, &self.names, self.lease_subjects(), now)))
    }

    fn wait(&self, timeout: Duration) {
        self.client.wait(timeout);
    }
}

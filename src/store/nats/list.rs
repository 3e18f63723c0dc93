//! Listing the objects below a prefix, out of the metas of the whole bucket. Listings share their reading (shared_listing.rs); a
//! scan, of which nothing is kept, reads for itself.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use super::chunk_counts::UploadHash;
use super::client::Client;
use super::metas::{MetaEvent, MetaReader};
use super::object::{Meta, ObjectNames};
use super::shared_listing::{Membership, MetaSink, SharedListing};
use crate::error::{Result, ResultExt};
use crate::format::listing::{LTX_WARNING, is_ltx_name};
use crate::log;
use crate::store::{Entry, List, Scan, ScanEvent, ScannedObject, name};

/// What a meta says of a name.
struct ListedObject {
    entry: Entry,
    /// It is an object, not a mark that there was one, or a link.
    object: bool,
    description: Option<String>,
    upload: UploadHash,
}

/// What comes next of the names below a prefix.
enum ListEvent {
    Listed(ListedObject),
    Restarted,
    Pending,
    End,
}

/// Which names are meant, and what is said of others.
#[derive(Clone)]
struct NameFilter {
    names: Rc<ObjectNames>,
    prefix: String,
    ltx: Rc<Cell<bool>>,
}

impl NameFilter {
    /// Whatever is not ours is passed over.
    fn listed(&self, meta: &Meta) -> Option<ListedObject> {
        let name = self.names.strip_prefix(&meta.name).filter(|name| name.starts_with(&self.prefix))?;
        let ours = name::validate(name).is_ok();
        let entry = Entry { name: name.to_string(), size: meta.size, whole: true };
        let object = !meta.deleted && !meta.link;
        ours.then(|| ListedObject {
            entry,
            object,
            description: meta.description.clone(),
            upload: UploadHash::of(&meta.nuid),
        })
    }

    fn warn_of_ltx(&self, name: &str) {
        if !self.ltx.replace(true) {
            log::warn("objects of another program ignored")
                .field("bucket", &self.names.bucket)
                .field("such_as", name)
                .field("detail", LTX_WARNING)
                .emit();
        }
    }

    fn error_context(&self) -> String {
        format!("list {}/{}", self.names.bucket, self.names.with_prefix(&self.prefix))
    }
}

/// The names below a prefix, one after another.
pub struct NatsScan {
    filter: NameFilter,
    metas: MetaReader,
}

impl NatsScan {
    /// `ltx` is set once it was said that the bucket holds files of Litestream.
    pub fn new(client: &Rc<Client>, names: &Rc<ObjectNames>, ltx: &Rc<Cell<bool>>) -> NatsScan {
        let filter = NameFilter { names: names.clone(), prefix: String::new(), ltx: ltx.clone() };
        NatsScan { filter, metas: MetaReader::new(client, names) }
    }

    fn next(&mut self, now: Instant) -> Result<ListEvent> {
        loop {
            match self.metas.step(now)? {
                MetaEvent::Meta(meta) => {
                    let Some(meta) = meta else { continue };
                    if !meta.deleted && !meta.link && is_ltx_name(&meta.name) {
                        self.filter.warn_of_ltx(&meta.name);
                    }
                    if let Some(listed) = self.filter.listed(&meta) {
                        return Ok(ListEvent::Listed(listed));
                    }
                }
                MetaEvent::Restarted => return Ok(ListEvent::Restarted),
                MetaEvent::Pending => return Ok(ListEvent::Pending),
                MetaEvent::End => return Ok(ListEvent::End),
            }
        }
    }
}

impl Scan for NatsScan {
    fn poll(&mut self, now: Instant) -> Result<ScanEvent> {
        loop {
            match self.next(now).with_context(|| self.filter.error_context())? {
                ListEvent::Listed(ListedObject { entry, object: true, description, .. }) => {
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

/// What objects that lack chunks mean.
const LACKS_CHUNKS: &str = "the server has lost messages of them, or a program deleted them; they cannot be read";

/// What a listing has found so far.
struct ListingSink {
    filter: NameFilter,
    objects: Rc<RefCell<Vec<ListedObject>>>,
}

impl MetaSink for ListingSink {
    fn on_meta(&mut self, meta: &Meta) {
        let listed = self.filter.listed(meta).map(|listed| ListedObject { description: None, ..listed });
        self.objects.borrow_mut().extend(listed);
    }

    fn on_ltx_file(&mut self, name: &str) {
        self.filter.warn_of_ltx(name);
    }

    fn on_restart(&mut self) {
        self.objects.borrow_mut().clear();
    }
}

pub struct NatsList {
    client: Rc<Client>,
    shared: Rc<RefCell<SharedListing>>,
    filter: NameFilter,
    found: Rc<RefCell<Vec<ListedObject>>>,
    /// Chunks are counted, too.
    whole: bool,
    /// From the first poll on.
    membership: Option<Membership>,
}

impl NatsList {
    /// `ltx` is set once it was said that the bucket holds files of Litestream.
    pub fn new(
        (client, shared): (&Rc<Client>, &Rc<RefCell<SharedListing>>),
        names: &Rc<ObjectNames>,
        (prefix, whole): (&str, bool),
        ltx: &Rc<Cell<bool>>,
    ) -> NatsList {
        let filter = NameFilter { names: names.clone(), prefix: prefix.to_string(), ltx: ltx.clone() };
        NatsList {
            client: client.clone(),
            shared: shared.clone(),
            filter,
            found: Rc::default(),
            whole,
            membership: None,
        }
    }

    fn step(&mut self, now: Instant) -> Result<Poll<Vec<Entry>>> {
        let membership = self.membership.get_or_insert_with(|| {
            let sink = ListingSink { filter: self.filter.clone(), objects: self.found.clone() };
            Membership::new(&self.client, &self.shared, &self.filter.names, (Box::new(sink), self.whole))
        });
        let Poll::Ready(incomplete) = membership.poll(now)? else { return Ok(Poll::Pending) };
        Ok(Poll::Ready(self.sorted(&incomplete)))
    }

    /// One that was replaced while we listed may have come twice: the later one holds.
    fn sorted(&mut self, incomplete: &HashSet<UploadHash>) -> Vec<Entry> {
        let mut found = self.found.take();
        found.reverse();
        found.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
        found.dedup_by(|b, a| a.entry.name == b.entry.name);
        let whole = |found: &ListedObject| !incomplete.contains(&found.upload);
        let objects = found.into_iter().filter(|found| found.object);
        let entries: Vec<Entry> = objects.map(|found| Entry { whole: whole(&found), ..found.entry }).collect();
        self.warn_of_incomplete(&entries);
        entries
    }

    fn warn_of_incomplete(&self, entries: &[Entry]) {
        let incomplete = || entries.iter().filter(|entry| !entry.whole);
        if let Some(example) = incomplete().next() {
            log::warn("stored objects lack a part")
                .field("bucket", &self.filter.names.bucket)
                .field("such_as", self.filter.names.with_prefix(&example.name))
                .field("count", incomplete().count())
                .field("detail", LACKS_CHUNKS)
                .emit();
        }
    }
}

impl List for NatsList {
    fn poll(&mut self, now: Instant) -> Result<Poll<Vec<Entry>>> {
        self.step(now).with_context(|| self.filter.error_context())
    }
}

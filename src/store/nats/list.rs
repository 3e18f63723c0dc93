//! Listing the objects below a prefix, out of the metas of the whole bucket.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use super::client::Client;
use super::metas::{MetaEvent, MetaReader};
use super::object::{Meta, ObjectNames};
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

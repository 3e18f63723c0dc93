//! One pass over the metas of a bucket for all listings of it that were asked for before the pass began. A process with a
//! thousand databases in one bucket reads its metas twice at its start, not a thousand times.
//!
//! A listing that is asked for during a pass waits for the next one: it must see all that was stored before it was asked for.
//! Any of them that is polled moves the pass on for all.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Instant;

use super::chunk_counts::{ChunkCounts, UploadHash};
use super::client::Client;
use super::metas::{MetaEvent, MetaReader};
use super::object::{Meta, ObjectNames};
use crate::error::{Error, Result};
use crate::format::listing::is_ltx_name;

/// What one listing takes of the metas.
pub trait MetaSink {
    /// A meta below the prefix of the listing.
    fn on_meta(&mut self, meta: &Meta);

    /// A file of Litestream, anywhere in the bucket.
    fn on_ltx_file(&mut self, _name: &str) {}

    /// All that came before is void.
    fn on_restart(&mut self);
}

/// The listings of one bucket over one connection.
#[derive(Default)]
pub struct SharedListing {
    pass: Option<ListingPass>,
    /// Those that the pass is for.
    current: Members,
    /// Those that wait for the next one.
    waiting: Vec<Weak<ListingMember>>,
}

/// One pass: first the metas, then the chunks, if a member asks whether its objects are whole.
struct ListingPass {
    /// None: all metas were read.
    metas: Option<MetaReader>,
    chunks: Option<ChunkCounts>,
}

/// The uploads of listed objects that lack chunks; empty for a member that did not ask.
type Incomplete = Rc<HashSet<UploadHash>>;

struct ListingMember {
    prefix: String,
    /// Asks whether each object has all its chunks.
    whole: bool,
    sink: RefCell<Box<dyn MetaSink>>,
    /// How its pass has ended.
    end: RefCell<Option<std::result::Result<Incomplete, Error>>>,
}

/// The part of one listing. When it is dropped, nothing is read for it any more.
pub struct Membership {
    client: Rc<Client>,
    names: Rc<ObjectNames>,
    shared: Rc<RefCell<SharedListing>>,
    member: Rc<ListingMember>,
}

impl Membership {
    /// Joins the next pass: `sink` is given what is below the prefix of `names`. `whole`: chunks are counted, too.
    pub fn new(
        client: &Rc<Client>,
        shared: &Rc<RefCell<SharedListing>>,
        names: &Rc<ObjectNames>,
        (sink, whole): (Box<dyn MetaSink>, bool),
    ) -> Membership {
        let prefix = names.prefix().to_string();
        let member = Rc::new(ListingMember { prefix, whole, sink: RefCell::new(sink), end: RefCell::default() });
        shared.borrow_mut().waiting.push(Rc::downgrade(&member));
        Membership { client: client.clone(), names: names.clone(), shared: shared.clone(), member }
    }

    /// Ready once everything was given to the sink: the uploads that lack chunks.
    pub fn poll(&self, now: Instant) -> Result<Poll<Incomplete>> {
        if self.member.end.borrow().is_none() {
            self.shared.borrow_mut().advance(&self.client, &self.names, now);
        }
        match self.member.end.take() {
            None => Ok(Poll::Pending),
            Some(end) => end.map(Poll::Ready),
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.shared.borrow_mut().remove_member(&self.member);
    }
}

impl SharedListing {
    /// A pass that nobody is left for ends, and lets go of the connection.
    fn remove_member(&mut self, member: &Rc<ListingMember>) {
        if let Some(members) = self.current.get_mut(&member.prefix) {
            members.retain(|one| !std::ptr::eq(one.as_ptr(), Rc::as_ptr(member)));
        }
        self.current.retain(|_, members| !members.is_empty());
        if self.current.is_empty() {
            self.pass = None;
        }
    }

    fn advance(&mut self, client: &Rc<Client>, names: &Rc<ObjectNames>, now: Instant) {
        let pass = self.pass.get_or_insert_with(|| {
            for member in self.waiting.drain(..) {
                if let Some(prefix) = member.upgrade().map(|member| member.prefix.clone()) {
                    self.current.entry(prefix).or_default().push(member);
                }
            }
            let whole = self.current.values().flatten().filter_map(Weak::upgrade).any(|member| member.whole);
            let chunks = whole.then(|| ChunkCounts::new(client, names));
            ListingPass { metas: Some(MetaReader::new(client, names)), chunks }
        });
        let end = match pass.poll(&self.current, now) {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(incomplete)) => Ok(Rc::new(incomplete)),
            Err(error) => Err(error),
        };
        for member in self.current.drain().flat_map(|(_, members)| members).filter_map(|member| member.upgrade()) {
            let end = end.clone().map(|incomplete| if member.whole { incomplete } else { Incomplete::default() });
            member.end.replace(Some(end));
        }
        self.pass = None;
    }
}

/// The listings that a pass is for, by the prefix of each.
type Members = HashMap<String, Vec<Weak<ListingMember>>>;

impl ListingPass {
    /// Ready at its end: the uploads that lack chunks.
    fn poll(&mut self, members: &Members, now: Instant) -> Result<Poll<HashSet<UploadHash>>> {
        while let Some(metas) = &mut self.metas {
            match metas.step(now)? {
                MetaEvent::Meta(Some(meta)) => {
                    let asks_for_chunks = deliver(members, &meta);
                    if let Some(chunks) = self.chunks.as_mut().filter(|_| asks_for_chunks) {
                        chunks.expect(&meta);
                    }
                }
                MetaEvent::Meta(None) => {}
                MetaEvent::Restarted => {
                    self.chunks.iter_mut().for_each(ChunkCounts::clear);
                    members.values().flatten().filter_map(Weak::upgrade).for_each(|member| {
                        member.sink.borrow_mut().on_restart();
                    });
                }
                MetaEvent::Pending => return Ok(Poll::Pending),
                MetaEvent::End => self.metas = None,
            }
        }
        match &mut self.chunks {
            Some(chunks) => chunks.poll(now),
            None => Ok(Poll::Ready(HashSet::new())),
        }
    }
}

/// Whether a member that was given it asks for its chunks.
fn deliver(members: &Members, meta: &Meta) -> bool {
    if !meta.deleted && !meta.link && is_ltx_name(&meta.name) {
        let all = members.values().flatten().filter_map(Weak::upgrade);
        all.for_each(|member| member.sink.borrow_mut().on_ltx_file(&meta.name));
    }
    let mut whole = false;
    for prefix in prefixes(&meta.name) {
        for member in members.get(prefix).into_iter().flatten().filter_map(Weak::upgrade) {
            member.sink.borrow_mut().on_meta(meta);
            whole |= member.whole;
        }
    }
    whole
}

/// The prefixes below which a name may be: the empty one, and each that ends before a slash.
fn prefixes(name: &str) -> impl Iterator<Item = &str> {
    std::iter::once("")
        .chain(name.match_indices('/').filter_map(|(at, _)| name.get(..at)).filter(|prefix| !prefix.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_below_each_of_its_parents() {
        assert_eq!(prefixes("a/b/c").collect::<Vec<_>>(), ["", "a", "a/b"]);
        assert_eq!(prefixes("a").collect::<Vec<_>>(), [""]);
        assert_eq!(prefixes("/a").collect::<Vec<_>>(), [""]);
    }

    #[derive(Default)]
    struct Names(Rc<RefCell<Vec<String>>>);

    impl MetaSink for Names {
        fn on_meta(&mut self, meta: &Meta) {
            self.0.borrow_mut().push(meta.name.clone());
        }

        fn on_restart(&mut self) {
            self.0.borrow_mut().clear();
        }
    }

    #[test]
    fn each_member_is_given_what_is_below_its_prefix() {
        let seen: Vec<Rc<RefCell<Vec<String>>>> = (0..3).map(|_| Rc::default()).collect();
        let members: Vec<Rc<ListingMember>> = ["", "a", "a/b"]
            .iter()
            .zip(&seen)
            .map(|(prefix, seen)| {
                let sink = RefCell::new(Box::new(Names(seen.clone())) as Box<dyn MetaSink>);
                Rc::new(ListingMember {
                    prefix: (*prefix).to_string(),
                    whole: *prefix == "a",
                    sink,
                    end: RefCell::default(),
                })
            })
            .collect();
        let mut current = Members::new();
        members.iter().for_each(|member| current.entry(member.prefix.clone()).or_default().push(Rc::downgrade(member)));
        for name in ["a/b/c", "a/bc", "ab/c", "d"] {
            let json = format!(r#"{{"name":"{name}","nuid":"N"}}"#);
            let whole = deliver(&current, &Meta::parse(json.as_bytes()).unwrap());
            assert_eq!(whole, name.starts_with("a/"), "{name}");
        }
        let seen: Vec<Vec<String>> = seen.iter().map(|seen| seen.borrow().clone()).collect();
        assert_eq!(seen[0], ["a/b/c", "a/bc", "ab/c", "d"]);
        assert_eq!(seen[1], ["a/b/c", "a/bc"]);
        assert_eq!(seen[2], ["a/b/c"]);
    }
}

//! The names of what is stored.

use std::collections::HashSet;

use crate::clock::Clock;
use crate::error::Result;
use crate::format::key::Key;
use crate::format::listing::Listing;
use crate::store::blocking::{list, list_patiently};
use crate::store::{Entry, Store};

/// Lists what is stored.
pub fn load_listing(store: &dyn Store, clock: &dyn Clock) -> Result<Listing> {
    list(store, clock, "").map(listing_of)
}

/// The same in the middle of an operation: a store that is away is waited for.
pub fn load_listing_patiently(store: &dyn Store, clock: &dyn Clock) -> Result<Listing> {
    list_patiently(store, clock, "").map(listing_of)
}

/// A listing that told whether each object is whole: which of them are not.
pub fn with_incomplete(entries: Vec<Entry>) -> (Listing, HashSet<Key>) {
    let incomplete = entries.iter().filter(|entry| !entry.whole).filter_map(|entry| Key::parse(&entry.name)).collect();
    (listing_of(entries), incomplete)
}

/// The objects that are whole: nothing may be deleted in favour of another one.
pub fn whole_only(entries: Vec<Entry>) -> Listing {
    listing_of(entries.into_iter().filter(|entry| entry.whole).collect())
}

fn listing_of(entries: Vec<Entry>) -> Listing {
    Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)))
}

//! The names of what is stored.

use crate::clock::Clock;
use crate::error::Result;
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

fn listing_of(entries: Vec<Entry>) -> Listing {
    Listing::new(entries.into_iter().map(|entry| (entry.name, entry.size)))
}

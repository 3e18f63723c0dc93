//! What the work on one generation is done with, and how far it is.

use crate::clock::Clock;
use crate::format::listing::Listing;
use crate::store::Store;

/// Told how many bytes are to be read, gives what is told how many have been.
pub type Progress<'a> = dyn Fn(u64) -> Box<dyn FnMut(u64)> + 'a;

/// Tells nobody.
pub fn no_progress(_: u64) -> Box<dyn FnMut(u64)> {
    Box::new(|_| ())
}

pub struct Work<'a> {
    pub store: &'a dyn Store,
    pub clock: &'a dyn Clock,
    pub listing: &'a Listing,
    pub progress: &'a Progress<'a>,
}

/// How many bytes have been read.
pub struct ReadSoFar {
    bytes: u64,
    tell: Box<dyn FnMut(u64)>,
}

impl Work<'_> {
    /// So many bytes are to be read.
    pub fn begin(&self, total: u64) -> ReadSoFar {
        ReadSoFar { bytes: 0, tell: (self.progress)(total) }
    }
}

impl ReadSoFar {
    pub fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        (self.tell)(self.bytes);
    }
}

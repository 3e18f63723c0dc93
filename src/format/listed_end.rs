//! Where replication left off, as far as the names of the objects tell.

use crate::error::{Error, Kind, Result};
use crate::format::chain::{ChainBytes, SegmentChain};
use crate::format::key::{Key, SnapshotKey};
use crate::format::listing::Listing;
use crate::format::position::{Generation, WalPosition};
use crate::format::time::Timestamp;

/// The end of the newest generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedEnd {
    pub generation: Generation,
    /// The newest snapshot.
    pub snapshot: SnapshotKey,
    /// The object that ends there: a segment if there is one.
    pub last: Key,
    /// Where the next segment must start.
    pub end: WalPosition,
    /// The latest moment in the chain.
    pub time: Timestamp,
    /// What a restore of it reads.
    pub bytes: ChainBytes,
}

/// Where the newest generation ends; none if nothing is stored.
///
/// Errors: [`Kind::Corrupt`] with the reason why it cannot be continued: a gap, or no snapshot.
pub fn listed_end(listing: &Listing) -> Result<Option<ListedEnd>> {
    let Some((generation, stored)) = listing.generations().next_back() else { return Ok(None) };
    let Some(chain) = SegmentChain::newest(stored) else {
        return Err(Error::new(Kind::Corrupt, format!("generation {generation} has segments, but no snapshot")));
    };
    chain.require_no_gap()?;
    // A snapshot does not know the crc32 of the batch before it, but a segment that ends at the same point does.
    let end = chain.end();
    let ending = stored.segments.iter().rev().find(|(key, _)| key.end == end);
    Ok(Some(ListedEnd {
        generation,
        snapshot: chain.snapshot.0,
        last: ending.map_or(chain.last_key(), |(key, _)| Key::Segment(*key)),
        end,
        time: chain.latest_time(),
        bytes: chain.bytes(),
    }))
}

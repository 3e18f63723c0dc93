//! Bytes to values and back: WAL, positions, object names, segments, snapshots, and the plans made from a listing.
//!
//! Pure: no file, socket, clock or environment is touched here, so every surprise is a row in a unit test.

mod as_of;
pub mod brief_header;
pub mod chain;
pub mod chain_end;
pub mod changed_pages;
pub mod compaction;
pub mod compose;
pub mod compression_level;
pub mod crc32;
pub mod database_checksum;
mod deflate;
pub mod deflate_blocks;
pub mod difference_frames;
pub mod differences;
mod fallback;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod frames;
pub mod generation_number;
mod gzip;
pub mod incremental;
pub mod keep;
pub mod key;
pub mod latest_restore;
mod listed_end;
pub mod listing;
pub mod member_header;
pub mod moment;
pub mod monitor;
pub mod net_change;
pub mod origin;
pub mod owner;
pub mod page_delta;
pub mod page_diff;
pub mod page_sums;
pub mod payload_deltas;
pub mod plan;
mod plan_objects;
pub mod position;
pub mod prefixes;
pub mod preview;
pub mod resolution;
pub mod retention;
pub mod rollup;
pub mod running_checksum;
pub mod segment;
pub mod segment_header;
pub mod sidecar;
pub mod snapshot;
pub mod stored_databases;
pub mod thinning;
pub mod time;
pub mod varint;
pub mod wal;
mod wal_layout;

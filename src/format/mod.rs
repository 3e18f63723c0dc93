//! Bytes to values and back: WAL, positions, object names, segments, snapshots, and the plans made from a listing.
//!
//! Pure: no file, socket, clock or environment is touched here, so every surprise is a row in a unit test.

mod as_of;
pub mod brief_header;
pub mod chain;
pub mod crc;
pub mod database_checksum;
mod deflate;
pub mod differences;
pub mod extra;
pub mod frames;
mod gzip;
mod instead;
pub mod key;
pub mod listing;
pub mod merge;
pub mod moment;
pub mod numbering;
pub mod origin;
pub mod page_delta;
pub mod page_diff;
pub mod pieces;
pub mod plan;
pub mod position;
pub mod prefixes;
pub mod restorable;
pub mod retention;
pub mod running_checksum;
#[cfg(test)]
pub(crate) mod sample;
pub mod segment;
pub mod snapshot;
pub mod tail;
pub mod time;
pub mod varint;
pub mod wal;

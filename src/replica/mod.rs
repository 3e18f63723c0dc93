//! Replication: from a live database to a store. What is kept there, in which order it is written, and what is deleted again.
//!
//! What must hold:
//!
//! 1. Segments become visible in order. A later one may be on its way, but is committed only after the one before it.
//! 2. The newest stored object is the only state: a start reads it and continues from there, or begins a new generation.
//! 3. A generation without a stored snapshot is never restored from.
//! 4. Times in names never run backwards, whatever the clock does.
//! 5. What was stored is deleted only by `retention`: last, after a proof, and never while the clock is in doubt.

pub mod audit;
mod claim;
pub mod clock_jump;
pub mod compaction;
mod compression_pool;
pub mod counters;
pub mod exclusive_writer;
pub mod maintenance;
pub mod orphan_schedule;
pub mod replicator;
pub mod segment_builder;
pub mod sent_segments;
pub mod snapshot_upload;
pub mod spool;
pub mod standalone_snapshot;
pub mod survey;
pub mod transfer_budget;
pub mod upload_queue;

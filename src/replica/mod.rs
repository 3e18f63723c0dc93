//! One database's stored side: what is kept, in which order it is written, and how it is read back.
//!
//! What must hold:
//!
//! 1. Segments become visible in order. A later one may be on its way, but is committed only after the one before it.
//! 2. The newest stored object is the only state: a start reads it and continues from there, or begins a new generation.
//! 3. A generation without a stored snapshot is never restored from.
//! 4. Times in names never run backwards, whatever the clock does.
//! 5. What was stored is deleted only by `retention`: last, after a proof, and never while the clock is in doubt.

pub mod alone;
pub mod audit;
pub mod checkpoint_note;
pub mod compare;
mod crew;
pub mod download;
pub mod follow;
pub mod jump;
pub mod merge;
pub mod origin;
pub mod outbox;
pub mod owner;
pub mod request;
pub mod restore;
pub mod retention;
pub mod snapshot;
pub mod spool;
pub mod start;
pub mod sweeping;
pub mod tail;
pub mod tally;
pub mod trouble;
pub mod writer;

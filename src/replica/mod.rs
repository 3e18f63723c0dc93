//! One database's stored side: what is kept, in which order it is written, and how it is read back.
//!
//! What must hold:
//!
//! 1. Segments become visible in order. A later one may be on its way, but is committed only after the one before it.
//! 2. The newest stored object is the only state: a start reads it and continues from there, or begins a new generation.
//! 3. A generation without a stored snapshot is never restored from.
//! 4. Times in names never run backwards, whatever the clock does.

pub mod beside;
pub mod download;
pub mod follow;
pub mod outbox;
pub mod owner;
pub mod restore;
pub mod snapshot;
pub mod start;
pub mod sweeping;
pub mod tail;
pub mod trouble;
pub mod writer;
